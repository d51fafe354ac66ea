"""The imaging process and its estimates: what is put into simulated fields is found again."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from cellxlate.settings import ImagingSettings
from cellxlate.stacks.intensity.range import IntensityRange
from cellxlate.training.imaging.process import (
    ImagingProcess,
    fit_blur,
    fit_noise,
    gaussian_blur,
    grow_guide,
    patch_range,
    texture_distance,
)


def cells(seed: int, side: int = 160) -> np.ndarray:
    """Return textured discs on black, (side, side), near unit range."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side]
    field = np.zeros((side, side))
    for row, column in rng.uniform(15, side - 15, (12, 2)):
        field[np.hypot(rows - row, columns - column) < rng.uniform(8, 13)] = rng.uniform(0.5, 1)
    return field * (1 + 0.5 * ndimage.gaussian_filter(rng.normal(size=field.shape), 1.0))


def faint(seed: int, sigma_px: float, noise: float) -> np.ndarray:
    blurred = ndimage.gaussian_filter(cells(seed), sigma_px)
    return (blurred + np.random.default_rng(seed).normal(0, noise, blurred.shape)).astype(np.float32)


@pytest.mark.parametrize("sigma_px", [1.0, 1.5, 2.0])
def test_the_blur_is_found_without_pairs(sigma_px: float) -> None:
    clear = [faint(100 + seed, 0.3, 0.005) for seed in range(16)]
    found = fit_blur([faint(seed, sigma_px, 0.02) for seed in range(16)], clear)
    assert found is not None
    assert found[0] <= found[1]
    assert np.mean(found) == pytest.approx(sigma_px, abs=0.25)


def test_a_domain_is_not_blurred_against_itself() -> None:
    fields = [faint(seed, 0.3, 0.01) for seed in range(12)]
    found = fit_blur(fields, fields)
    assert found is not None
    assert found[1] < 0.8


def test_the_blur_of_noise_alone_is_not_estimated() -> None:
    rng = np.random.default_rng(0)
    noise = [rng.normal(size=(96, 96)).astype(np.float32) for _ in range(8)]
    assert fit_blur(noise, [faint(seed, 0.3, 0.005) for seed in range(8)]) is None


def test_the_noise_of_a_camera_is_found() -> None:
    read, gain, planes, guides = 2.5, 1.7, [], []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        guide = cells(seed) > 0
        signal = 100.0 * ndimage.gaussian_filter(guide.astype(float), 2.0)
        guides.append(ndimage.binary_erosion(guide, iterations=3).astype(np.float32))
        planes.append(50 + gain * rng.poisson(signal / gain) + rng.normal(0, read, signal.shape))
    model = fit_noise(planes, [IntensityRange(50.0, 150.0, read)] * 8, guides)
    assert model.read_variance == pytest.approx(read**2, rel=1e-6)
    assert model.gain == pytest.approx(gain, rel=0.2)
    at_black, per_unit = model.unit_variance(IntensityRange(50.0, 150.0))
    assert (at_black, per_unit) == pytest.approx((read**2 / 100**2, model.gain / 100))


def test_the_process_adds_the_noise_it_was_told() -> None:
    process = ImagingProcess(ImagingSettings(blur_px=(1.0, 1.0), exposure_jitter=1.0), np.array([[0.01, 0.04]]))
    levels = torch.tensor([0.0, 1.0]).repeat(64).expand(1, 1, 128, 128).clone()
    levels[..., :64] = 0.0
    levels[..., 64:] = 1.0
    made = torch.cat([process(levels, torch.Generator().manual_seed(seed)) for seed in range(8)])
    dark, bright = made[..., 8:56], made[..., 72:120]
    step = float(bright.mean() - dark.mean())  # releveling divides noise and signal alike
    assert float(dark.std()) / step == pytest.approx(0.1, rel=0.03)
    assert float(bright.std()) / step == pytest.approx(0.05**0.5, rel=0.03)


def test_a_faint_field_has_the_levels_of_the_clear_one() -> None:
    process = ImagingProcess(ImagingSettings(blur_px=(2.8, 2.8)), np.array([[0.04, 0.01]]))
    clear = torch.from_numpy(cells(4)).float()[None, None]
    made = process(clear, torch.Generator().manual_seed(0))
    for before, after in zip(patch_range(clear), patch_range(made), strict=True):
        assert float(after) == pytest.approx(float(before), abs=0.015)


def test_the_same_draw_makes_the_same_field() -> None:
    process = ImagingProcess(ImagingSettings(), np.array([[0.01, 0.01], [0.02, 0.02]]))
    clear = torch.from_numpy(cells(0)).float()[None, None]
    first, again, other = (process(clear, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_each_image_is_blurred_by_its_own_sigma() -> None:
    field = cells(1).astype(np.float32)
    blurred = gaussian_blur(torch.from_numpy(np.stack([field, field]))[:, None], torch.tensor([1.0, 2.0]))
    for image, sigma_px in zip(blurred[:, 0].numpy(), (1.0, 2.0), strict=True):
        wanted = ndimage.gaussian_filter(field, sigma_px, mode="mirror", radius=9)
        np.testing.assert_allclose(image, wanted, atol=1e-5)


def test_a_constant_field_stays_constant_under_blur() -> None:
    images = torch.full((2, 1, 40, 40), 0.7)
    torch.testing.assert_close(gaussian_blur(images, torch.tensor([1.0, 2.2])), images)


def test_a_blur_of_zero_changes_nothing() -> None:
    field = torch.from_numpy(cells(3)).float()[None, None]
    assert torch.equal(gaussian_blur(field, torch.tensor([0.0])), field)


def test_guides_fade_over_two_pixels() -> None:
    guide = torch.zeros(1, 1, 9, 9)
    guide[..., 4, 4] = 1
    expected = torch.tensor([0, 0, 0.2, 0.45, 1, 0.45, 0.2, 0, 0])
    assert torch.equal(grow_guide(guide)[0, 0, 4], expected)
    assert torch.equal(grow_guide(torch.zeros_like(guide)), torch.zeros_like(guide))


def test_texture_is_compared_without_brightness_and_without_order() -> None:
    clear = torch.from_numpy(cells(2)).float()[None, None]
    guides = (clear > 0).float()

    def distance(image: torch.Tensor) -> float:
        return float(texture_distance(image, clear, guides, torch.Generator().manual_seed(0)))

    assert distance(clear) == 0
    assert distance(clear + 0.3) == pytest.approx(0, abs=1e-9)
    smoothed = gaussian_blur(clear, torch.tensor([1.5]))
    assert distance(smoothed) > 100 * distance(clear + 1e-3 * torch.randn(clear.shape))
    assert distance(gaussian_blur(clear, torch.tensor([2.2]))) > distance(smoothed)


def test_textures_of_one_kind_agree_wherever_their_patches_lie() -> None:
    one, other = (1 + 0.1 * torch.randn(2, 1, 1, 64, 64, generator=torch.Generator().manual_seed(5))).unbind()
    everywhere = torch.ones_like(one)
    paired = float(((one - other) ** 2).mean())
    assert float(texture_distance(one, other, everywhere, torch.Generator().manual_seed(0))) < paired / 100


def test_texture_of_a_field_without_cells_is_no_loss() -> None:
    restored = torch.randn(1, 1, 32, 32, requires_grad=True)
    loss = texture_distance(
        restored, torch.zeros(1, 1, 32, 32), torch.zeros(1, 1, 32, 32), torch.Generator().manual_seed(0)
    )
    loss.backward()
    assert float(loss.detach()) == 0
    assert restored.grad is not None
    assert not restored.grad.any()


def test_noise_that_neighbours_share_is_found_and_drawn_again() -> None:
    point = np.zeros((9, 9))
    point[4, 4] = 1
    kernel = ndimage.gaussian_filter(point, 0.8)
    kernel /= np.sqrt((kernel**2).sum())
    planes = [
        50 + 100 * ndimage.gaussian_filter(cells(seed, 256), 2.0)
        + 6 * ndimage.convolve(np.random.default_rng(seed).normal(size=(256, 256)), kernel, mode="wrap")
        for seed in range(4)
    ]  # fmt: skip
    model = fit_noise(planes, [IntensityRange(50.0, 150.0, 6.0)] * 4, [np.zeros((256, 256), np.float32)] * 4)
    assert model.kernel is not None
    assert np.abs(model.kernel - kernel).max() < 0.05
    process = ImagingProcess(
        ImagingSettings(blur_px=(1.0, 1.0), exposure_jitter=1.0), np.array([[0.01, 0.0]]), model.kernel[None]
    )
    made = process(torch.zeros(4, 1, 128, 128), torch.Generator().manual_seed(0)).numpy()[:, 0]
    shared = np.mean([np.corrcoef(one[:, 1:].ravel(), one[:, :-1].ravel())[0, 1] for one in made])
    assert shared == pytest.approx((kernel[:, 1:] * kernel[:, :-1]).sum(), abs=0.05)


def test_white_noise_has_no_kernel() -> None:
    planes = [50 + 6 * np.random.default_rng(seed).normal(size=(256, 256)) for seed in range(3)]
    assert (
        fit_noise(planes, [IntensityRange(50.0, 150.0, 6.0)] * 3, [np.zeros((256, 256), np.float32)] * 3).kernel is None
    )
