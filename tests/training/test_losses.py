"""The objective's terms against numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch

from cellxlate.training.losses import (
    HistoryPool,
    attended_cycle,
    best_fit,
    binary_mask,
    compose,
    cycle,
    follow_guide,
    generated_as_real,
    largest_within,
    ramp,
    real_from_generated,
    relative_cycle,
)


def grid(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).reshape(1, 1, 1, -1)


def test_a_tenth_of_what_is_left_counts_the_same_in_weak_and_in_strong_noise():
    clear = torch.zeros(1, 1, 1, 4, dtype=torch.float64)
    guide = torch.ones_like(clear)
    for strength in (0.05, 0.5):
        noise = strength * grid(1, -1, 1, -1)
        half, quarter = (relative_cycle(share * noise, clear, noise, guide) for share in (0.5, 0.25))
        # log((s/2)^2 + 0.01 s^2) - log((s/4)^2 + 0.01 s^2) = log(0.26 / 0.0725)
        assert half - quarter == pytest.approx(math.log(0.26 / 0.0725))


def test_what_is_left_far_from_the_guide_counts_less():
    clear, noise = torch.zeros(1, 1, 1, 9, dtype=torch.float64), torch.ones(1, 1, 1, 9, dtype=torch.float64)
    guide = grid(1, 0, 0, 0, 0, 0, 0, 0, 0)
    near, far = (
        relative_cycle(grid(*left), clear, noise, guide) for left in ((0, 0, 1, *[0] * 6), (*[0] * 3, 1, *[0] * 5))
    )
    assert near == pytest.approx(math.log(1 / 9 + 0.01))
    assert far == pytest.approx(math.log(0.3 / 9 + 0.01))


def test_composition_is_equation_one():
    # s' = A F(s) + (1 - A) s
    composed = compose(grid(0, 0.25, 1), grid(8, 8, 8), grid(4, 4, 4))
    assert composed.flatten().tolist() == [4, 5, 8]


def test_the_cycle_is_the_mean_absolute_difference():
    assert float(cycle(grid(1, 2, 3), grid(0, 4, 3))) == pytest.approx((1 + 2 + 0) / 3)


def test_the_generator_wants_ones_and_the_discriminator_ones_and_zeros_at_half_weight():
    # least squares: Mao et al. 2017, equation 9 with a = 0, b = c = 1
    assert float(generated_as_real(grid(1, 0, 3))) == pytest.approx((0 + 1 + 4) / 3)
    assert float(real_from_generated(grid(1, 3), grid(0, 2))) == pytest.approx(0.5 * (0 + 4) / 2 + 0.5 * (0 + 4) / 2)
    assert float(real_from_generated(grid(1), grid(0))) == 0


def test_the_mask_is_binary_strict_and_passes_no_gradient():
    attention = grid(0.05, 0.1, 0.1000001, 0.9).requires_grad_()
    mask = binary_mask(attention, 0.1)
    assert mask.flatten().tolist() == [0, 0, 1, 1]
    assert not mask.requires_grad


def test_the_ramp_is_the_gate_of_enhancing():
    from cellxlate.model.attention import ATTENTION_STEPS, gate

    steps = np.arange(ATTENTION_STEPS + 1, dtype=np.uint16)
    expected = gate(steps, 0.1)
    found = ramp(torch.from_numpy(steps / ATTENTION_STEPS), 0.1).numpy()
    assert np.abs(found - expected).max() < 1e-7
    assert np.array_equal(found == 0, expected == 0)


def test_the_guide_is_followed_by_cross_entropy():
    logits, guide = grid(0.0, 2.0, -1.0), grid(1.0, 1.0, 0.0)
    expected = (math.log(2) + math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-1))) / 3
    assert float(follow_guide(logits, guide)) == pytest.approx(expected)


def test_where_no_image_has_a_guide_there_is_no_term():
    logits = torch.zeros(0, 1, 4, 4, requires_grad=True)
    term = follow_guide(logits, torch.zeros(0, 1, 4, 4))
    assert float(term.detach()) == 0
    term.backward()


def test_the_attended_cycle_counts_cells_and_little_of_the_background():
    # an offset of 3 is fitted away but for the 3 % that keep the scale
    restored, images = torch.full((1, 1, 1, 9), 3.0), torch.zeros(1, 1, 1, 9)
    guide = torch.zeros(1, 1, 1, 9)
    guide[..., 4] = 1
    assert float(attended_cycle(restored, images, guide)) == pytest.approx(0.03 * 3**2 / 0.1 * (5 * 1 + 4 * 0.05) / 9)


def test_gain_and_offset_of_each_image_are_fitted_away_by_weighted_least_squares():
    rng = np.random.default_rng(0)
    restored, noise = rng.normal(size=(2, 3, 1, 20, 20))
    images = np.array([1.3, 0.7, 1.0])[:, None, None, None] * restored + 0.2 + 0.1 * noise
    weight = rng.uniform(0.05, 1, restored.shape)
    fitted = best_fit(*map(torch.from_numpy, (restored, images, weight))).numpy()
    for one, image, pixel_weight, found in zip(restored, images, weight, fitted, strict=True):
        line = np.polynomial.Polynomial.fit(one.ravel(), image.ravel(), 1, w=np.sqrt(pixel_weight.ravel()))
        np.testing.assert_allclose(found, line(one), atol=1e-9)


def test_an_image_without_contrast_is_fitted_by_its_mean():
    images = torch.rand(1, 1, 8, 8)
    fitted = best_fit(torch.zeros(1, 1, 8, 8), images, torch.ones(1, 1, 8, 8))
    torch.testing.assert_close(fitted, images.mean().expand_as(fitted))


def test_no_gradient_passes_through_the_fit():
    restored = torch.rand(1, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    images, weight = torch.rand(2, 1, 1, 8, 8, dtype=torch.float64)
    fitted = best_fit(restored, images, weight)
    (gradient,) = torch.autograd.grad(fitted.sum(), restored)
    assert gradient.unique().numel() == 1
    assert 0.6 <= float(gradient[0, 0, 0, 0]) <= 1.6


# the history pool


def numbered(value: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A pair that can be told apart: an image of `value` and a mask of `value + 0.5`."""
    return torch.full((1, 1, 2, 2), float(value)), torch.full((1, 1, 2, 2), value + 0.5)


def test_the_pool_passes_on_what_it_has_room_for():
    pool = HistoryPool(2)
    rng = torch.Generator().manual_seed(0)
    for value in range(2):
        image, mask = pool.exchange(*numbered(value), rng)
        assert float(image[0, 0, 0, 0]) == value
        assert float(mask[0, 0, 0, 0]) == value + 0.5
    assert len(pool.pairs) == 2


def test_a_full_pool_shows_older_images_half_the_time_and_never_parts_image_and_mask():
    pool = HistoryPool(5)
    rng = torch.Generator().manual_seed(0)
    older = 0
    for value in range(1000):
        image, mask = pool.exchange(*numbered(value), rng)
        shown = float(image[0, 0, 0, 0])
        assert float(mask[0, 0, 0, 0]) == shown + 0.5
        assert shown <= value
        older += shown < value
        assert len(pool.pairs) == min(value + 1, 5)
    assert 450 < older < 550


def test_a_pool_of_nothing_passes_everything_through():
    pool = HistoryPool(0)
    for value in range(20):
        image, _ = pool.exchange(*numbered(value), torch.Generator().manual_seed(value))
        assert float(image[0, 0, 0, 0]) == value
    assert pool.pairs == []


def test_the_pool_keeps_no_gradient():
    image, mask = numbered(1)
    shown, _ = HistoryPool(3).exchange(image.requires_grad_(), mask, torch.Generator())
    assert not shown.requires_grad


def test_the_largest_within_a_reach_is_that_of_a_pool_to_the_bit():
    maps = torch.rand(2, 1, 9, 11, generator=torch.Generator().manual_seed(0)) - 0.5
    for reach_px in (1, 2):
        pooled = torch.nn.functional.max_pool2d(maps, 2 * reach_px + 1, 1, reach_px)
        assert torch.equal(largest_within(maps, reach_px), pooled)
