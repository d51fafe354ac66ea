"""Laws of the judge without truth: its estimates are what the truth says, whatever the units, and it says when not."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage, signal

from cellxlate.errors import OptionError
from cellxlate.quality.risk import CLASSICAL, INPUT, Ranking, Risk, estimate_risks
from cellxlate.stacks.intensity.noise_model import CameraNoise, unit_covariance
from cellxlate.stacks.samples.structures import draw_structure

SIDE_PX, SEEDS = 96, 24
Floats = npt.NDArray[np.float64]


def shared(width_px: float) -> Floats:
    """Return the covariance (9, 9) of white noise after a Gaussian filter."""
    if not width_px:
        return unit_covariance()
    distance = np.hypot(*np.mgrid[-4:5, -4:5])
    return np.asarray(np.exp(-(distance**2) / (4 * width_px**2)))


def camera(sd: float = 40.0, *, gain: float = 0.0, width_px: float = 0.0, **changes: Any) -> CameraNoise:
    known = CameraNoise(sd, (0.97 * sd, 1.03 * sd), gain, shared(width_px), reliable=True, black_counts=200.0)
    return replace(known, **changes)


@pytest.fixture(scope="module")
def clear() -> Floats:
    return 200 + 400 * draw_structure("filaments", (SIDE_PX, SIDE_PX), np.random.default_rng(3)).image.astype(float)


def recorded(clear: Floats, noise: CameraNoise, seed: int) -> Floats:
    white = np.random.default_rng([7, seed]).standard_normal([size + 8 for size in clear.shape])
    spread = np.sqrt(noise.sd_counts**2 + noise.gain * (clear - noise.black_counts))
    return np.asarray(clear + spread * signal.fftconvolve(white, noise.kernel(), "valid"))


def true_error(output: npt.NDArray[Any], clear: Floats) -> float:
    gain, offset = np.polyfit(output.ravel(), clear.ravel(), 1)
    return float(np.mean((gain * output + offset - clear) ** 2))


def z_score(differences: list[float]) -> float:
    return float(np.mean(differences) / (np.std(differences, ddof=1) / np.sqrt(len(differences))))


@pytest.mark.parametrize(
    "noise", [camera(), camera(width_px=0.7), camera(gain=4.0), camera(gain=4.0, width_px=1.0)],
    ids=["white", "correlated", "brighter is noisier", "both"],
)  # fmt: skip
def test_estimates_are_the_true_errors(clear: Floats, noise: CameraNoise) -> None:
    """Over draws of the noise; the filters are linear, but for the median. 4.5 standard errors in 40 comparisons."""
    off: dict[str, list[float]] = {name: [] for name in CLASSICAL}
    sizes: dict[str, list[float]] = {name: [] for name in CLASSICAL}
    for seed in range(SEEDS):
        noisy = recorded(clear, noise, seed)
        everywhere = [np.ones(clear.shape, bool)]
        found = estimate_risks([noisy], [noise], {}, inside=everywhere, seed=seed, strength=0.05, known=True)
        for risk in found.risks:
            truth = true_error(CLASSICAL[risk.name](noisy.astype(np.float32)), clear)
            off[risk.name].append(risk.mse - truth)
            sizes[risk.name].append(truth)
    for name, differences in off.items():
        slack = 0.02 * float(np.mean(sizes[name]))  # the level at which noise is drawn is a smoothed plane
        assert abs(z_score(differences)) < 4.5 or abs(np.mean(differences)) < slack, name


def test_noise_that_is_not_told_to_be_correlated_misleads(clear: Floats) -> None:
    """The covariance matters: where noise is taken for white, what filters leave of it counts as structure."""
    noise = camera(width_px=1.0)
    noisy = recorded(clear, noise, 0)
    right = estimate_risks([noisy], [noise], {})
    wrong = estimate_risks([noisy], [replace(noise, covariance=unit_covariance())], {})
    for width in ("gaussian 1", "gaussian 1.5"):
        assert wrong.better(width, INPUT)[0] > right.better(width, INPUT)[0] + 1


@pytest.mark.parametrize(("gain", "offset"), [(7.0, 1200.0), (1e-3, -0.4), (1.0, 1e5)])
def test_the_ranking_does_not_depend_on_gain_and_offset(clear: Floats, gain: float, offset: float) -> None:
    noise = camera(gain=2.0)
    noisy = recorded(clear, noise, 1).astype(np.float32)
    scaled = replace(
        noise, sd_counts=gain * noise.sd_counts, sd_interval=(gain * noise.sd_interval[0], gain * noise.sd_interval[1]),
        gain=gain * noise.gain, black_counts=gain * noise.black_counts + offset,
    )  # fmt: skip
    one = estimate_risks([noisy], [noise], {})
    other = estimate_risks([(gain * noisy.astype(np.float64) + offset)], [scaled], {})
    assert [risk.name for risk in one.risks] == [risk.name for risk in other.risks]
    np.testing.assert_allclose([r.gain_db for r in one.risks], [r.gain_db for r in other.risks], atol=0.02)
    assert one.trusted == other.trusted


def test_the_same_seed_gives_the_same_ranking_whatever_the_order(clear: Floats) -> None:
    noise = camera()
    noisy = recorded(clear, noise, 2)
    extra = {"wide": smooth(4.0), "narrow": smooth(0.6)}
    one = estimate_risks([noisy], [noise], extra, seed=5)
    other = estimate_risks([noisy], [noise], dict(reversed(extra.items())), seed=5)
    assert one == other
    assert one != estimate_risks([noisy], [noise], extra, seed=6)


def smooth(sigma_px: float) -> Callable[[npt.NDArray[np.float32]], npt.NDArray[Any]]:
    return lambda plane: np.asarray(ndimage.gaussian_filter(plane, sigma_px))


def test_a_brighter_or_shifted_output_is_as_good(clear: Floats) -> None:
    noise = camera()
    noisy = recorded(clear, noise, 2)
    same = {"same": lambda plane: 3.0 * ndimage.gaussian_filter(plane, 1.0) + 50}
    gain, error = estimate_risks([noisy], [noise], same).better("same", "gaussian 1")
    assert abs(gain) < 0.01
    assert error < 0.06


def test_better_is_antisymmetric_and_refuses_names_it_does_not_know(clear: Floats) -> None:
    found = estimate_risks([recorded(clear, camera(), 3)], [camera()], {})
    gain, error = found.better("gaussian 1", "gaussian 3")
    assert found.better("gaussian 3", "gaussian 1") == (-gain, error)
    assert found.better("gaussian 3", "gaussian 3") == (0.0, 0.0)
    with pytest.raises(OptionError, match="no candidate is called 'cells'"):
        found.better("cells", INPUT)


def test_a_wider_interval_of_the_noise_makes_the_error_larger(clear: Floats) -> None:
    noisy = recorded(clear, camera(), 4)
    errors = [
        estimate_risks([noisy], [camera(sd_interval=interval, reliable=False)], {}).better("gaussian 1", INPUT)[1]
        for interval in ((40.0, 40.0), (36.0, 44.0), (28.0, 56.0))
    ]
    assert errors[0] < errors[1] < errors[2]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"reliable": False}, "no place without structure"),
        ({"saturation_counts": 300.0}, "saturated"),
    ],
)
def test_nothing_is_decided_where_the_noise_is_not_known(clear: Floats, changes: Mapping[str, Any], why: str) -> None:
    assert estimate_risks([recorded(clear, camera(), 5)] * 2, [camera()] * 2, {}).trusted
    found = estimate_risks([recorded(clear, camera(), 5)] * 2, [camera(), camera(**changes)], {})
    assert not found.trusted
    assert why in found.doubt
    assert why in found.words()


@pytest.mark.parametrize("measured", [0.2, 1.0, 5.0])
def test_a_gain_that_was_measured_wrong_is_mended(clear: Floats, measured: float) -> None:
    """Where little is bright the gain is measured badly, and it decides what is right there."""
    noise = camera(20.0, gain=8.0)
    noisy = [recorded(clear, noise, seed) for seed in (1, 2)]
    right = estimate_risks(noisy, [noise] * 2, {})
    mended = estimate_risks(noisy, [replace(noise, gain=measured * noise.gain)] * 2, {})
    for risk in right.risks:
        assert abs(mended.better(risk.name, INPUT)[0] - risk.gain_db) < 0.6


def test_noise_taken_for_much_too_strong_is_noticed(clear: Floats) -> None:
    found = estimate_risks([recorded(clear, camera(), 6)] * 2, [camera(80.0)] * 2, {}, known=True)
    assert not found.trusted
    assert "stronger" in found.doubt


@pytest.mark.parametrize("shape", [(64, 64), (1, 1), (1, 200), (3, 5)])
@pytest.mark.parametrize("sd", [0.0, 4.0])
def test_constant_and_tiny_planes_are_judged_without_harm(shape: tuple[int, int], sd: float) -> None:
    found = estimate_risks([np.full(shape, 100, np.uint16)], [camera(sd)], {})
    assert not found.trusted
    assert all(np.isfinite([risk.mse, risk.gain_db, risk.error]).all() for risk in found.risks)
    if sd == 0:
        assert {risk.gain_db for risk in found.risks} == {0.0}
        assert found.doubt == "no noise was found to judge by"


def test_pixels_that_are_not_finite_do_not_count(clear: Floats) -> None:
    noise = camera()
    noisy = recorded(clear, noise, 8).astype(np.float32)
    broken = noisy.copy()
    broken[10:14, 20:30] = np.nan
    broken[50, 50] = np.inf
    one, other = (estimate_risks([plane], [noise], {}) for plane in (noisy, broken))
    for risk in other.risks:
        assert abs(risk.gain_db - next(r.gain_db for r in one.risks if r.name == risk.name)) < 0.3
    nothing = estimate_risks([np.full((40, 40), np.nan, np.float32)], [noise], {})
    assert not nothing.trusted


def test_what_does_not_fit_together_is_refused(clear: Floats) -> None:
    noise = camera()
    for planes, noises, inside in (([], [], None), ([clear], [], None), ([clear], [noise], [])):
        with pytest.raises(OptionError, match="one of each"):
            estimate_risks(planes, noises, {}, inside=inside)
    with pytest.raises(OptionError, match="'half' gave an output of"):
        estimate_risks([clear], [noise], {"half": lambda plane: plane[::2]})


def ranking(**changes: Any) -> Ranking:
    names, gains = ("adapted", "cells", "gaussian 1.5", "median 3", INPUT), (6.4, 5.8, 5.3, 4.0, 0.0)
    errors = tuple(tuple(0.1 if one != other else 0.0 for one in names) for other in names)
    risks = tuple(Risk(name, 1.0, gain, 0.1) for name, gain in zip(names, gains, strict=True))
    return replace(Ranking(risks, True, "", errors), **changes)


def test_the_sentence_says_what_is_known() -> None:
    assert ranking().words() == (
        "Without a truth: “adapted” is estimated 0.6 dB better than “cells” and 1.1 dB better than the best filter "
        "(gaussian 1.5 px)."
    )
    assert "0.6 dB worse than “adapted”" in ranking().words("cells")
    unsure = tuple(tuple(0.4 for _ in range(5)) for _ in range(5))
    assert "as good as “cells”, as far as can be told (+0.6 ± 0.4 dB)" in ranking(errors_db=unsure).words()
    assert ranking(trusted=False, doubt="why").words() == "Without a truth it cannot be told which is best: why."


def test_a_ranking_is_stated_in_plain_values() -> None:
    stated = json.loads(json.dumps(ranking().stated()))
    assert stated["trusted"] is True
    assert stated["candidates"][1] == {"name": "cells", "gain_db": 5.8, "error_db": 0.1}
    again = Ranking.from_stated(stated)
    assert again is not None
    assert (again.words(), again.stated()) == (ranking().words(), ranking().stated())


@pytest.mark.parametrize(
    "stated",
    [None, [], {"candidates": []}, {"candidates": [{"name": "a", "gain_db": "x", "error_db": 0}], "errors_db": [[0]]},
     {"candidates": [{"name": "a", "gain_db": 1, "error_db": 0}], "errors_db": [], "trusted": True, "doubt": ""},
     {"candidates": [{"name": "a", "gain_db": 1e9, "error_db": 0}], "errors_db": [[0]], "trusted": True, "doubt": ""}],
)  # fmt: skip
def test_what_states_no_ranking_gives_none(stated: object) -> None:
    assert Ranking.from_stated(stated) is None
