"""The noise that is put into drawn fields is found again, whatever else the fields show."""

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from cellxlate.errors import InputError
from cellxlate.stacks.intensity.camera_noise import measure_noise
from cellxlate.stacks.intensity.noise_model import CameraNoise, unit_covariance
from cellxlate.stacks.intensity.stack_noise import stack_noise
from cellxlate.stacks.stack import Stack

SIDE = 384
Plane = npt.NDArray[np.float64]


def drawn_noise(seed: int, width_px: float = 0.0, shape: tuple[int, int] = (SIDE, SIDE)) -> Plane:
    """Noise of variance 1, correlated by a Gaussian of `width_px`."""
    noise = np.random.default_rng(seed).normal(size=shape)
    if not width_px:
        return noise
    point = np.zeros((41, 41))
    point[20, 20] = 1
    left = np.sqrt((ndimage.gaussian_filter(point, width_px) ** 2).sum())
    return np.asarray(ndimage.gaussian_filter(noise, width_px, mode="wrap") / left)


def cells(seed: int = 0, count: int = 25) -> Plane:
    """Textured discs of 1 on 0; 25 of them leave most of the field flat."""
    random = np.random.default_rng(seed)
    rows, columns = np.indices((SIDE, SIDE))
    field = np.zeros((SIDE, SIDE))
    for row, column in random.uniform(0, SIDE, (count, 2)):
        field[np.hypot(rows - row, columns - column) < random.uniform(9, 16)] = random.uniform(0.4, 1)
    return np.asarray(ndimage.gaussian_filter(field, 1.5))


def slope() -> Plane:
    rows, columns = np.indices((SIDE, SIDE)) / SIDE
    return np.asarray(rows + 0.4 * columns)


def haze() -> Plane:
    rows, columns = np.indices((SIDE, SIDE)) / SIDE
    return np.asarray(0.5 + 0.5 * np.sin(9 * rows) * np.cos(7 * columns))


FIELDS = {"flat": np.zeros((SIDE, SIDE)), "slope": 60 * slope(), "haze": 60 * haze(), "cells": 200 * cells()}
CORRELATION = {0.0: 0.0, 0.5: 0.26, 0.7: 0.58, 1.0: 0.78, 1.3: 0.86}


@pytest.mark.parametrize("width_px", CORRELATION)
@pytest.mark.parametrize("name", FIELDS)
def test_noise_is_found_beside_whatever_a_field_shows(name: str, width_px: float) -> None:
    noise = measure_noise([100 + FIELDS[name] + 8 * drawn_noise(1, width_px)])
    assert noise.sd_counts == pytest.approx(8, rel=0.08)
    assert noise.neighbour_correlation == pytest.approx(CORRELATION[width_px], abs=0.04)
    assert noise.sd_interval[0] <= 8 <= noise.sd_interval[1]
    assert noise.reliable


def test_white_noise_is_white() -> None:
    noise = measure_noise([50 + 3 * drawn_noise(2)])
    assert abs(noise.neighbour_correlation) < 0.05
    np.testing.assert_allclose(noise.covariance, unit_covariance(), atol=0.05)
    assert noise.flat_share > 0.75


@pytest.mark.parametrize("width_px", [0.0, 0.8])
def test_gain_and_offset_scale_the_noise_and_nothing_else(width_px: float) -> None:
    counts = 100 + 200 * cells() + 5 * drawn_noise(3, width_px)
    plain, scaled = measure_noise([counts]), measure_noise([7 * counts + 1200])
    assert scaled.sd_counts == pytest.approx(7 * plain.sd_counts, rel=1e-3)
    assert scaled.gain == pytest.approx(7 * plain.gain, rel=1e-2, abs=1e-3)
    assert scaled.black_counts == pytest.approx(7 * plain.black_counts + 1200, rel=1e-4)
    np.testing.assert_allclose(scaled.covariance, plain.covariance, atol=1e-3)
    assert (scaled.reliable, scaled.flat_share) == (plain.reliable, pytest.approx(plain.flat_share, abs=0.01))


def test_anisotropic_noise_keeps_its_direction() -> None:
    rows = ndimage.convolve1d(drawn_noise(4), [0.25, 0.5, 0.25], axis=1, mode="wrap") / np.sqrt(0.375)
    noise = measure_noise([100 + 200 * cells() + 6 * rows])
    assert noise.covariance[4, 5] == pytest.approx(2 / 3, abs=0.04)
    assert noise.covariance[5, 4] == pytest.approx(0, abs=0.04)
    np.testing.assert_allclose(noise.covariance, noise.covariance[::-1, ::-1], atol=1e-9)


@pytest.mark.parametrize("gain", [0.5, 2.0])
def test_noise_that_grows_with_the_signal_has_a_gain(gain: float) -> None:
    signal = 300 * cells()
    counts = 100 + signal + np.sqrt(4**2 + gain * signal) * drawn_noise(5)
    noise = measure_noise([counts])
    assert noise.sd_counts == pytest.approx(4, rel=0.1)
    assert noise.gain == pytest.approx(gain, rel=0.3)
    variance = noise.sd_counts**2 + noise.gain * (300 - noise.black_counts)
    assert np.sqrt(variance) == pytest.approx(np.sqrt(16 + gain * 200), rel=0.15)


def test_noise_without_gain_has_none() -> None:
    noise = measure_noise([100 + 300 * cells() + 10 * drawn_noise(6)])
    assert noise.gain < 0.05


@pytest.mark.parametrize("step", [1, 3])
def test_grey_steps_are_found(step: int) -> None:
    counts = np.rint((40 + 100 * cells() + 5 * drawn_noise(7)) / step) * step
    noise = measure_noise([counts.astype(np.uint8)])
    assert noise.quantisation_counts == step
    assert noise.sd_counts == pytest.approx(np.sqrt(25 + step**2 / 12), rel=0.08)
    assert measure_noise([counts + drawn_noise(8) / 100]).quantisation_counts == 0


def test_a_background_cut_at_zero_is_measured_as_recorded() -> None:
    counts = np.clip(np.rint(2 + 120 * cells() + 6 * drawn_noise(9)), 0, 255).astype(np.uint8)
    recorded = np.clip(np.rint(2 + 6 * drawn_noise(10)), 0, 255)
    noise = measure_noise([counts])
    assert (counts == 0).mean() > 0.25
    assert noise.sd_counts == pytest.approx(recorded.std(), rel=0.1)


def test_saturation_is_found_and_leaves_the_background_alone() -> None:
    counts = np.clip(np.rint(30 + 400 * cells() + 5 * drawn_noise(11)), 0, 255).astype(np.uint8)
    noise = measure_noise([counts])
    assert noise.saturation_counts == 255
    assert noise.sd_counts == pytest.approx(5, rel=0.1)
    assert measure_noise([np.rint(30 + 5 * drawn_noise(11)).astype(np.uint8)]).saturation_counts is None


def test_a_field_without_flat_places_says_so() -> None:
    texture = ndimage.gaussian_filter(drawn_noise(12), 3.0, mode="wrap")
    noise = measure_noise([100 + 40 * texture / texture.std() + 5 * drawn_noise(13)])
    assert not noise.reliable
    low, high = noise.sd_interval
    assert low <= 5 <= high
    assert high / low > 1.5


@pytest.mark.parametrize("width_px", [0.0, 0.6, 1.2])
def test_what_smoothing_leaves_follows_from_the_covariance(width_px: float) -> None:
    plane = drawn_noise(14, width_px, (1024, 1024))
    noise = measure_noise([plane])
    for sigma_px in (1.0, 2.0, 4.0):
        left = ndimage.gaussian_filter(plane, sigma_px, mode="wrap").std()
        assert noise.after_smoothing(sigma_px) == pytest.approx(left, rel=0.12)


@pytest.mark.parametrize("width_px", [0.0, 0.6, 1.2])
def test_noise_drawn_with_the_kernel_has_the_covariance(width_px: float) -> None:
    noise = measure_noise([drawn_noise(15, width_px, (512, 512))])
    again = measure_noise([ndimage.convolve(drawn_noise(16, shape=(512, 512)), noise.kernel(), mode="wrap")])
    assert again.sd_counts == pytest.approx(1, rel=0.06)
    assert again.neighbour_correlation == pytest.approx(noise.neighbour_correlation, abs=0.05)


def test_windows_of_one_value_or_too_small_are_measured_without_a_claim() -> None:
    for windows in ([], [np.full((64, 64), 7)], [np.zeros((1, 5))], [np.full((40, 40), np.nan)]):
        noise = measure_noise(windows)
        assert noise.sd_counts == 0
        assert not noise.reliable
    small = measure_noise([50 + 4 * drawn_noise(17, shape=(24, 24))])
    assert small.sd_counts == pytest.approx(4, rel=0.3)
    assert not small.reliable


def test_pixels_that_are_not_finite_are_left_out() -> None:
    counts = 100 + 5 * drawn_noise(18)
    counts[::40, ::40] = np.nan
    counts[100:110, 100:110] = np.inf
    assert measure_noise([counts]).sd_counts == pytest.approx(5, rel=0.08)


def dense(seed: int) -> Plane:
    """A field with structure as fine as correlated noise, everywhere."""
    texture = ndimage.gaussian_filter(drawn_noise(seed), 1.6, mode="wrap")
    return np.asarray(40 * texture / texture.std())


def test_frame_differences_tell_noise_from_still_structure() -> None:
    frames = [(100 + dense(20)) * (1 - 0.05 * t) + 5 * drawn_noise(30 + t, 0.7) for t in range(4)]
    noise = stack_noise(Stack.from_array(np.stack(frames).astype(np.float32), "TYX"), 0)
    assert noise.sd_counts == pytest.approx(5, rel=0.08)
    assert noise.neighbour_correlation == pytest.approx(0.58, abs=0.05)
    assert noise.reliable


def test_the_noise_of_a_stack_is_that_of_its_channel() -> None:
    planes = np.stack([100 + 200 * cells() + sd * drawn_noise(21) for sd in (4, 16)]).astype(np.float32)
    stack = Stack.from_array(planes, "CYX")
    assert [round(stack_noise(stack, channel).sd_counts) for channel in (0, 1)] == [4, 16]
    with pytest.raises(InputError, match="channel 2 does not exist, the stack has 2"):
        stack_noise(stack, 2)


def test_noise_is_a_value() -> None:
    noise = CameraNoise(2.0, (1.9, 2.1), 0.5, unit_covariance())
    with pytest.raises(dataclasses.FrozenInstanceError):
        noise.gain = 1.0  # type: ignore[misc]
    assert noise.neighbour_correlation == 0
    assert noise.left_by_smoothing(0) == 1
    assert noise.after_smoothing(2.0) == pytest.approx(2 / (2 * np.sqrt(np.pi) * 2), rel=1e-3)
