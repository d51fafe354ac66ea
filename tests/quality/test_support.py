"""Planted faults are found: an invented cell, a swallowed cell, attention that looks elsewhere. Honest work is not."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from cellxlate.quality.trust.support import Support, probability_above, supported

SHAPE = (160, 200)
CELLS = [(40, 40), (40, 120), (110, 60), (115, 150)]


def disc(row: int, column: int, radius_px: float = 11) -> npt.NDArray[np.float64]:
    rows, columns = np.indices(SHAPE)
    return ndimage.gaussian_filter((np.hypot(rows - row, columns - column) <= radius_px).astype(float), 1.0)


@dataclass
class Run:
    raw: npt.NDArray[Any]
    enhanced: npt.NDArray[Any]
    attention: npt.NDArray[np.uint8]

    def judged(self) -> Support:
        return supported(self.raw, self.enhanced, self.attention)

    def shown(self, row: int, column: int, counts: float) -> "Run":
        """The run with a cell of some brightness drawn into output and attention."""
        cell = disc(row, column, 9)
        return Run(
            self.raw,
            np.where(cell > 0.02, np.rint(self.enhanced + counts * cell), self.enhanced).astype(self.raw.dtype),
            np.where(cell > 0.02, 255, self.attention).astype(np.uint8),
        )


def honest(seed: int = 0, *, dtype: Any = np.uint16, gain: float = 1.0) -> Run:
    """Noisy cells on a slope, denoised where they are selected."""
    truth = 100 + np.linspace(0, 2, SHAPE[1]) + 60 * sum(disc(*place) for place in CELLS)
    raw = np.rint(truth + np.random.default_rng(seed).normal(0, 4, SHAPE))
    attention = np.where(sum(disc(*place, radius_px=14) for place in CELLS) > 0.05, 255, 0).astype(np.uint8)
    enhanced = np.where(attention > 0, np.rint(100 + gain * (truth - 100)), raw)
    return Run(raw.astype(dtype), enhanced.astype(dtype), attention)


@pytest.mark.parametrize("gain", [1.0, 10.0])
def test_honest_work_is_not_suspected(gain: float) -> None:
    for seed in range(5):
        found = honest(seed, gain=gain).judged()
        assert (found.added, found.lost, found.windows) == (0, 0, 1)
        assert found.mean_agreement > 0.8
        assert found.salient_share > 0.8


@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_an_invented_cell_is_found_even_if_dim(share: float) -> None:
    for seed in range(5):
        assert honest(seed).shown(75, 95, 60 * share).judged().added == 1


def test_an_invented_cell_that_touches_another_is_found() -> None:
    assert honest().shown(40, 61, 40).judged().added == 1


def test_a_swallowed_cell_is_found() -> None:
    run = honest()
    where = disc(40, 120, 14) > 0.05
    run.enhanced[where] = 104
    assert (run.judged().added, run.judged().lost) == (0, 1)


def test_gain_and_offset_change_nothing() -> None:
    run = honest().shown(75, 95, 30)
    again = Run(run.raw * 7 + 50, run.enhanced * 7 + 50, run.attention)
    assert again.judged().added == run.judged().added == 1
    assert again.judged().mean_agreement == pytest.approx(run.judged().mean_agreement)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_any_dtype_and_holes_are_judged_alike(dtype: Any) -> None:
    run = honest(dtype=dtype).shown(75, 95, 30)
    if np.issubdtype(dtype, np.floating):
        run.raw[5, 5] = run.enhanced[5, 5] = np.nan
    assert run.judged().added == 1


def test_attention_that_looks_elsewhere_is_seen() -> None:
    run = honest()
    assert Run(run.raw, run.raw, np.where(run.attention > 0, 0, 200).astype(np.uint8)).judged().mean_agreement < 0.1
    shifted = np.roll(run.attention, (40, 40), (0, 1))
    assert Run(run.raw, run.raw, shifted).judged().mean_agreement < 0.7


def test_cells_left_out_are_seen() -> None:
    run = honest()
    half = run.attention.copy()
    half[:80] = 0
    assert Run(run.raw, run.raw, half).judged().salient_share == pytest.approx(0.5, abs=0.1)


def test_nothing_is_said_of_what_cannot_be_judged() -> None:
    blank = np.full(SHAPE, 7, np.uint8)
    nothing = np.zeros(SHAPE, np.uint8)
    assert supported(blank, blank, nothing) == Support()
    assert supported(blank[:20], blank[:20], nothing[:20]) == Support()
    run = honest()
    kept = Run(run.raw, run.raw, nothing).judged()
    assert (kept.added, kept.lost, kept.judged) == (0, 0, 0)
    assert math.isnan(kept.mean_agreement)
    assert kept.salient_share == 0


def test_windows_add_up() -> None:
    whole, one = Support(), honest().shown(75, 95, 30).judged()
    whole.include(one)
    whole.include(honest(1).judged())
    assert (whole.windows, whole.added, whole.judged) == (2, 1, 2)
    assert whole.mean_agreement == pytest.approx((one.mean_agreement + honest(1).judged().mean_agreement) / 2)


def test_probability_above_is_that_of_all_pairs() -> None:
    draw = np.random.default_rng(0)
    ours, theirs = draw.integers(0, 9, 50).astype(float), draw.integers(0, 9, 70).astype(float)
    pairs = (ours[:, None] > theirs).mean() + 0.5 * (ours[:, None] == theirs).mean()
    assert probability_above(ours, theirs) == pytest.approx(pairs)
