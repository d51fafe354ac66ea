"""A mask is the gate: 1 inside, 0 outside, and no ramp between. No network is asked where cells are."""

from dataclasses import dataclass

import numpy as np

from cellxlate.enhancement.input import InputRows
from cellxlate.enhancement.plane import Attention, Translator
from cellxlate.enhancement.tiling import Tile
from cellxlate.model.attention import ATTENTION_STEPS
from cellxlate.stacks.masks.fit import FittedMask
from cellxlate.stacks.stack import PlaneIndex


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
