"""Recordings by any camera: what they keep, what they vary."""

import numpy as np
import pytest
import torch

from cellxlate.training.cameras import by_any_camera, correlated, recorded, releveled, without_cells


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
    left, right = shared[..., :-1], shared[..., 1:]
    correlation = (left * right).mean(dim=(1, 2, 3)) / shared.var(dim=(1, 2, 3))
    assert 0.35 < (correlation.abs() < 0.05).float().mean() < 0.6  # of some images it stays white
    assert correlation.max() == pytest.approx(0.85, abs=0.1)
    deviation = shared.std(dim=(1, 2, 3))
    assert deviation.max() < 1.3
    assert deviation.median() == pytest.approx(0.97, abs=0.08)
    assert deviation.min() > 0.4


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
