"""Recordings by any camera: what they keep, what they vary."""

import numpy as np
import pytest
import torch

from cellxlate.training.imaging import cameras
from cellxlate.training.imaging.cameras import (
    by_any_camera,
    correlated,
    demosaiced,
    pulsed,
    recorded,
    releveled,
    resampled,
    without_cells,
)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def discs(count: int = 16, side: int = 96) -> torch.Tensor:
    rows = torch.arange(side)[:, None] - side / 2
    columns = torch.arange(side)[None] - side / 2
    return ((rows**2 + columns**2).sqrt() < side / 5).float().expand(count, 1, side, side).clone()


def test_the_same_draw_makes_the_same_recording_and_another_does_not() -> None:
    first, again, other = (by_any_camera(discs(), rng(seed))[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_recording_is_its_light_and_noise_about_it() -> None:
    faint, clear = by_any_camera(discs(64), rng())
    assert faint.shape == clear.shape == (64, 1, 96, 96)
    assert torch.isfinite(faint).all()
    inside, outside = discs(64) > 0, discs(64) == 0
    bright, dark = (clear[part].reshape(64, -1).mean(1) for part in (inside, outside))
    assert (bright > dark).float().mean() > 0.95  # a steep gradient may outshine a disc
    noise = (faint - clear).std(dim=(1, 2, 3))
    assert noise.min() < 0.05
    assert noise.max() > 0.15  # weak and strong: levels put it at a sixth of the range at most


def test_noise_grows_with_the_light() -> None:
    light = torch.ones(400, 1, 64, 64)
    light[..., :32] = 0.02
    noise = recorded(light, rng())[0] - light
    bright, dim = (noise[..., part].std(dim=(1, 2, 3)) for part in (slice(36, None), slice(28)))
    assert (bright / dim).median() > 1.5


def test_correlation_is_shared_between_neighbours_at_the_same_strength() -> None:
    noise = torch.randn(300, 1, 64, 64, generator=rng())
    shared = correlated(noise, rng(1))
    correlation = neighbour_correlation(shared)
    assert 0.5 < (correlation.abs() < 0.05).float().mean() < 0.7  # of some images it stays white
    assert correlation.max() == pytest.approx(0.93, abs=0.06)
    deviation = shared.std(dim=(1, 2, 3))
    assert deviation.max() < 1.3
    assert deviation.median() == pytest.approx(0.97, abs=0.08)
    assert deviation.min() > 0.4


def neighbour_correlation(noise: torch.Tensor, axis: int = 3) -> torch.Tensor:
    size = noise.shape[axis] - 1
    one, next_one = noise.narrow(axis, 0, size), noise.narrow(axis, 1, size)
    return (one * next_one).mean(dim=(1, 2, 3)) / noise.var(dim=(1, 2, 3))


@pytest.mark.parametrize("mean", [0.5, 3, 40])
def test_pulses_of_random_height_keep_the_mean_and_add_their_variance(mean: float) -> None:
    photons = torch.poisson(torch.full((3, 1, 256, 256), float(mean)), generator=rng())
    pulses = torch.tensor([0, 0.3, 1.0])
    summed = pulsed(photons, pulses[:, None, None, None], rng(1))
    assert torch.equal(summed[0], photons[0])
    assert summed.mean(dim=(1, 2, 3)).tolist() == pytest.approx([mean] * 3, rel=0.02)
    assert summed.var(dim=(1, 2, 3)).tolist() == pytest.approx((mean * (1 + pulses)).tolist(), rel=0.06)


def test_a_steep_filter_passes_a_diamond_a_disc_or_a_square(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("CORRELATED_SHARE", 1.0), ("STEEP_SHARE", 1.0), ("STEEPNESS", (20.0, 20.1))):
        monkeypatch.setattr(cameras, name, value)
    monkeypatch.setattr(cameras, "CORRELATION_PX", (0.8, 0.8001))
    monkeypatch.setattr(cameras, "WIDER_SHARE", 0.0)
    power = torch.fft.rfft2(correlated(torch.randn(60, 1, 128, 128, generator=rng()), rng(1))).abs() ** 2
    edge = round(128 / (2 * np.pi * 0.8))  # in steps of frequency
    inside, diagonal = power[..., 2 : edge - 3, 0].mean(dim=(1, 2)), power[:, 0, edge - 4, edge - 4]
    beyond = power[..., edge + 4 : 64, 0].mean(dim=(1, 2))
    assert (beyond / inside).median() < 0.1  # what was mixed in again
    square = (power[:, 0, edge - 5 : edge - 2, edge - 5 : edge - 2].mean(dim=(1, 2)) / inside) > 0.2
    assert 0.15 < square.float().mean() < 0.55  # one of three shapes passes the corner
    assert diagonal.isfinite().all()


def test_a_filled_in_colour_keeps_its_pixels_and_lies_between_them_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cameras, "DEMOSAICED_SHARE", 1.0)
    noise = torch.randn(40, 1, 64, 64, generator=rng())
    filled = demosaiced(noise, rng(1))
    kept = (filled == noise).float().mean(dim=(1, 2, 3))
    assert set(kept.mul(4).round().tolist()) == {1.0, 2.0}  # a quarter of red and blue, half of green
    for axis in (2, 3):
        green, other = (neighbour_correlation(filled[kept.mul(4).round() == share], axis) for share in (2, 1))
        assert 0.25 < green.min() < green.max() < 0.5
        assert 0.5 < other.min() < other.max() < 0.75


def test_some_images_are_filled_in_and_the_others_stay() -> None:
    noise = torch.randn(300, 1, 32, 32, generator=rng())
    same = (demosaiced(noise, rng(1)) == noise).flatten(1).all(1).float().mean()
    assert same == pytest.approx(1 - cameras.DEMOSAICED_SHARE, abs=0.06)


def test_enlarged_noise_is_shared_along_both_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cameras, "RESAMPLED_SHARE", 1.0)
    enlarged = resampled(torch.randn(40, 1, 96, 96, generator=rng()), rng(1))
    assert enlarged.shape == (40, 1, 96, 96)
    for axis in (2, 3):
        correlation = neighbour_correlation(enlarged, axis)
        assert 0.1 < correlation.min() < correlation.max() < 0.9


def test_a_recording_and_its_light_share_one_scale() -> None:
    light = discs(8)
    faint = light + 0.1 * torch.randn(light.shape, generator=rng())
    seen, aim = releveled(faint, light, torch.full((8, 1, 1, 1), 0.1), rng(2))
    for number in range(8):
        gain, offset = np.polyfit(light[number].flatten(), aim[number].flatten(), 1)
        assert torch.allclose(seen[number], gain * faint[number] + offset, atol=1e-4)


def test_fields_without_cells_show_noise_of_at_most_a_sixth_of_the_range() -> None:
    empty = without_cells(torch.Size((200, 1, 64, 64)), rng())
    fine = (empty - torch.nn.functional.avg_pool2d(empty, 9, 1, 4)).std(dim=(1, 2, 3))
    assert fine.median() < 1 / 6
    assert fine.max() < 0.5
