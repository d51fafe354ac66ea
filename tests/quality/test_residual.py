"""What was taken away is told from noise, whatever the noise and the scale of the result."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from cellxlate.quality.trust.examine import Trust, noise_and_residual
from cellxlate.quality.trust.residual import Taken, taken_away
from cellxlate.stacks.intensity.noise_model import CameraNoise, unit_covariance

SHAPE = (256, 256)
Plane = npt.NDArray[np.float64]


def cells(seed: int = 0) -> Plane:
    """Spots of 3 px on a smooth ground, in counts above black."""
    rng = np.random.default_rng(seed)
    spots = np.zeros(SHAPE)
    spots[rng.integers(0, 256, 400), rng.integers(0, 256, 400)] = 1.0
    spots = ndimage.gaussian_filter(spots, 3.0)
    return 200 * spots / spots.max()


def camera(sigma_px: float = 0.0, *, sd: float = 4.0, gain: float = 0.0) -> CameraNoise:
    covariance = unit_covariance()
    if sigma_px:
        offsets = np.arange(-4, 5)
        covariance = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (4 * sigma_px**2))
    return CameraNoise(sd, (sd, sd), gain, covariance, reliable=True, black_counts=100.0)


def recorded(signal: Plane, *, sigma_px: float = 0.0, gain: float = 0.0, seed: int = 1) -> Plane:
    noise = np.random.default_rng(seed).normal(size=SHAPE)
    if sigma_px:
        noise = ndimage.gaussian_filter(noise, sigma_px)
        noise /= noise.std()
    return 100 + signal + noise * np.sqrt(16 + gain * signal)


EVERYTHING = np.full(SHAPE, 255, np.uint8)


@pytest.mark.parametrize(("sigma_px", "gain"), [(0.0, 0.0), (0.8, 0.0), (0.0, 2.0)])
@pytest.mark.parametrize("scale", [(1.0, 0.0), (3.0, -50.0)])
def test_the_noise_itself_looks_like_noise(sigma_px: float, gain: float, scale: tuple[float, float]) -> None:
    signal = cells()
    raw = recorded(signal, sigma_px=sigma_px, gain=gain)
    made = scale[0] * (100 + signal) + scale[1]
    found = taken_away(raw, made, EVERYTHING, camera(sigma_px, gain=gain))
    said = found.as_dict()
    assert found.pixels == raw.size
    assert said["neighbour_correlation"] == pytest.approx(said["expected"], abs=0.03)
    assert said["suspicious_percent"] < 0.05


@pytest.mark.parametrize("scale", [(1.0, 0.0), (10.0, 400.0)])
def test_a_soft_gate_onto_another_scale_is_judged_alike(scale: tuple[float, float]) -> None:
    signal = cells()
    raw = recorded(signal)
    attention = np.clip(np.rint(ndimage.gaussian_filter(signal, 4.0) * 12), 0, 255).astype(np.uint8)
    made = np.rint(raw + attention / 255 * (scale[0] * (100 + signal) + scale[1] - raw))
    found = taken_away(raw, made, attention, camera())
    assert 0.1 < (attention == 255).mean() < (attention > 0).mean() < 1
    assert found.suspicious_share < 0.001


def test_structure_that_went_with_the_noise_is_seen_where_it_was() -> None:
    signal = cells()
    raw = recorded(signal)
    blurred = ndimage.gaussian_filter(raw, 5.0)
    said = taken_away(raw, blurred, EVERYTHING, camera()).as_dict()
    assert said["suspicious_percent"] > 10
    assert said["neighbour_correlation"] > said["expected"] + 0.1
    lost = 100 + signal
    lost[100:130, 100:130] = 100.0
    one = taken_away(raw, lost, EVERYTHING, camera())
    assert 0.001 < one.suspicious_share < 0.03


def test_a_filter_that_leaves_slow_noise_gives_less_than_the_noise_has() -> None:
    raw = recorded(np.zeros(SHAPE))
    said = taken_away(raw, ndimage.gaussian_filter(raw, 1.0), EVERYTHING, camera()).as_dict()
    assert said["neighbour_correlation"] < -0.1
    assert said["suspicious_percent"] == 0


def test_only_selected_finite_pixels_are_looked_at() -> None:
    raw, attention = recorded(np.zeros(SHAPE)), np.zeros(SHAPE, np.uint8)
    attention[:100, :100] = 9
    made = np.where(attention > 0, 100.0, 10_000.0)
    raw[5, 5] = np.nan
    found = taken_away(raw, made, attention, camera())
    assert found.pixels == 100 * 100 - 1
    assert found.suspicious_share < 0.001


@pytest.mark.parametrize(
    ("selected", "noise"),
    [
        (199, camera()),
        (SHAPE[0] * SHAPE[1], CameraNoise(4.0, (2.0, 8.0), 0.0, unit_covariance())),
        (SHAPE[0] * SHAPE[1], CameraNoise(0.0, (0.0, 0.0), 0.0, unit_covariance(), reliable=True)),
    ],
    ids=["too few", "noise not reliable", "no noise"],
)
def test_where_nothing_can_be_said_nothing_is(selected: int, noise: CameraNoise) -> None:
    attention = (np.arange(SHAPE[0] * SHAPE[1]).reshape(SHAPE) < selected).astype(np.uint8)
    found = taken_away(recorded(cells()), 100 + cells(), attention, noise)
    assert found == Taken()
    assert all(math.isnan(value) for value in found.as_dict().values())


def test_a_report_states_noise_and_residual_of_each_channel_and_of_all() -> None:
    one, other = Taken(100, 10, 2.0, 10.0, 1.0), Taken(300, 2, 0.0, 30.0, 9.0)
    stated: dict[str, Any] = noise_and_residual(
        [("DAPI", Trust(taken=one, noise=camera())), ("FITC", Trust(taken=other))]
    )
    assert stated["residual"]["suspicious_percent"] == 3
    assert stated["residual"]["neighbour_correlation"] == pytest.approx(2 / 40)
    assert stated["residual"]["expected"] == pytest.approx(10 / 40)
    assert [row["suspicious_percent"] for row in stated["residual"]["channels"]] == [10, pytest.approx(2 / 3)]
    assert [row["channel"] for row in stated["noise"]] == ["DAPI"]
    assert stated["noise"][0]["sd_counts"] == 4
