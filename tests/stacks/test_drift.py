"""A background that moves over time is followed and named; one that differs over the field is named."""

import json

import numpy as np
import pytest

from cellxlate.quality.report.remarks import intensity_notices
from cellxlate.stacks.intensity.drift import background_over_time
from cellxlate.stacks.intensity.range import IntensityRange, measure_range
from cellxlate.stacks.intensity.stack_range import stack_ranges
from cellxlate.stacks.stack import Stack


def movie(offsets: np.ndarray, shape: tuple[int, int] = (128, 128), gain: float = 1.0) -> np.ndarray:
    """Four cells of 80 counts on a background of 100 and what is given per time point: uint16 (T, Y, X)."""
    rows, columns = np.indices(shape)
    cells = sum(
        80.0 * ((rows - shape[0] * down) ** 2 + (columns - shape[1] * across) ** 2 < 13**2)
        for down in (0.3, 0.7)
        for across in (0.3, 0.7)
    )
    still = (100 + cells) * gain + offsets[:, None, None]
    return np.random.default_rng(0).normal(still, 3).round().astype(np.uint16)


def remarks(intensity: IntensityRange, name: str) -> list[str]:
    return [notice.text for notice in intensity_notices({0: intensity}, {0: name})]


@pytest.mark.parametrize("offsets", [np.linspace(0, 60, 12), np.linspace(90, 0, 12), np.repeat([0.0, 70.0], 6)])
def test_levels_follow_a_background_that_drifts(offsets: np.ndarray) -> None:
    still = stack_ranges(Stack(movie(np.zeros(12)), "TYX"), [0])[0]
    intensity = stack_ranges(Stack(movie(offsets), "TYX"), [0])[0]
    assert still.drift == ()
    assert intensity.span == pytest.approx(still.span, rel=0.03)
    for time in range(12):
        assert intensity.at(time).black == pytest.approx(still.black + offsets[time], abs=1)
        assert intensity.at(time).span == pytest.approx(intensity.span)
        assert intensity.at(time).drift == ()
    [line] = remarks(intensity, "GFP")
    assert line.startswith(f"the background of GFP drifts over time, from {intensity.at(0).black:.4g} to ")
    assert f"{np.ptp(offsets) / intensity.span:.0%} of the intensity range" in line or "9" in line


def test_a_small_drift_changes_nothing() -> None:
    stack = Stack(movie(np.linspace(0, 5, 12)), "TYX")
    intensity = stack_ranges(stack, [0])[0]
    assert intensity == measure_range(stack.read(index) for index in stack.plane_indices())
    assert list(remarks(intensity, "GFP")) == []


def test_time_points_without_light_are_passed_over() -> None:
    frames = movie(np.linspace(0, 60, 12))
    frames[[3, 11]] = 0
    times, background = background_over_time(Stack(frames, "TYX"), 0)
    assert times.tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9, 10]
    assert np.ptp(background) == pytest.approx(60 / 11 * 10, abs=1)
    intensity = stack_ranges(Stack(frames, "TYX"), [0])[0]
    assert intensity.at(3).black == pytest.approx((intensity.at(2).black + intensity.at(4).black) / 2)
    assert intensity.at(11) == intensity.at(10)


def test_long_movies_are_sampled_and_channels_and_depths_kept_apart() -> None:
    offsets = np.linspace(0, 70, 130)
    frames = np.stack([movie(np.zeros(130), (32, 32)), movie(offsets, (32, 32))], axis=1)  # (T, C, Y, X)
    stack = Stack(np.stack([frames] * 3, axis=3), "TCYZX")
    assert len(background_over_time(stack, 1)[0]) == 64
    intensity = stack_ranges(stack, [0, 1])
    assert intensity[0].drift == ()
    assert intensity[1].at(65).black - intensity[1].at(0).black == pytest.approx(offsets[65], abs=2)


def test_levels_are_stated_to_the_last_bit() -> None:
    plain, drifting = (
        IntensityRange(1 / 3, 2 / 3, 0.1),
        stack_ranges(Stack(movie(np.linspace(0, 60, 12)), "TYX"), [0])[0],
    )
    assert plain.stated() == {"black": 1 / 3, "white": 2 / 3, "noise": 0.1}
    padded = np.vstack([np.zeros((90, 300)), np.random.default_rng(0).normal(100, 5, (300, 300))])
    padded[100] = np.nan
    for intensity in (plain, drifting, measure_range([padded]), IntensityRange(0, 1, uneven=(0.1, 0.7))):
        assert IntensityRange.from_stated(json.loads(json.dumps(intensity.stated()))) == intensity


# --- over the field


def lit(light: np.ndarray) -> Stack:
    return Stack(np.random.default_rng(1).normal(movie(np.zeros(1), light.shape)[0] * light, 1).astype(np.uint16), "YX")


@pytest.mark.parametrize("size", [300, 2100])
def test_tiles_of_different_exposure_and_gradients_are_named(size: int) -> None:
    tiles = np.kron([[1.0, 0.8], [1.2, 1.6]], np.ones((size // 2, size // 2)))
    for light, low, high in ((tiles, 80, 160), (np.ones((size, 1)) * np.linspace(1, 1.8, size), 103, 173)):
        intensity = stack_ranges(lit(light), [0])[0]
        assert intensity.uneven == pytest.approx((low, high), rel=0.08)
        [line] = remarks(intensity, "GFP")
        assert "uneven over the field" in line


def test_an_even_field_is_not_named() -> None:
    intensity = stack_ranges(lit(np.ones((300, 1)) * np.linspace(1, 1.1, 300)), [0])[0]
    assert intensity.uneven is None
