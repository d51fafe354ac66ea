"""A mask is the gate: 1 inside, 0 outside, and no ramp between. No network is asked where cells are."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cellxlate.enhancement.input import InputRows
from cellxlate.enhancement.plane import Attention, Translator
from cellxlate.enhancement.tiling import Tile
from cellxlate.model.attention import ATTENTION_STEPS
from cellxlate.stacks.masks.fit import FittedMask
from cellxlate.stacks.stack import PlaneIndex, Stack


@dataclass(frozen=True)
class MaskAttention:
    """Attention is 1 where a mask is above 0, and 0 elsewhere."""

    mask: FittedMask

    def input(self, *_: object) -> None:
        """No other plane is looked at."""

    def planes_beside(self, *_: object) -> tuple[PlaneIndex, ...]:
        """No other plane is read."""
        return ()

    def attention(self, rows: InputRows, area: Tile, _: Translator) -> Attention:
        """Return the mask of each channel as attention."""
        inside = np.stack([self.mask.read(index, *area.slices()) for index in rows.own])
        return Attention(inside * np.uint16(ATTENTION_STEPS))

    def of_windows(self, windows: Sequence[tuple[Sequence[PlaneIndex], slice, slice]], axes: str) -> "MaskAttention":
        """Return the mask of a sample, whose planes are windows of a stack: the planes of each, its rows, its columns.

        `axes` are those of the sample: one of its windows, one of the planes of each (or neither), Y and X.
        """
        cut = np.stack([np.stack([self.mask.read(one, rows, columns) for one in of]) for of, rows, columns in windows])
        cut = cut.reshape([size for size, axis in zip(cut.shape, axes.rjust(4), strict=True) if axis != " "])
        return MaskAttention(FittedMask(Stack.from_array(cut, axes), tuple(range(len(axes) - 2))))
