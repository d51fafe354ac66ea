"""What a proposer needs of a plane, and the windows that it is given: cut at the borders of the plane.

The translator's own networks see a plane that is mirrored at its borders; whatever else proposes sees the border
itself, as it would in a whole plane, and continues it as it always does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from cellxlate.enhancement.fitting import fitted_tiles
from cellxlate.enhancement.tiling import Tile, tile_side
from cellxlate.model.attention import Floats

WHOLE_PX = 2**20
"""Side of a tile that holds any plane."""


@dataclass(frozen=True)
class Geometry:
    """Which windows a proposer takes, and how far it looks.

    Attributes
    ----------
    halo_px : int or None
        How far around a pixel its proposal looks; None where that is the whole plane.
    stride : int
        Windows begin at multiples of it, so that strided layers stand where they stand in the whole plane.
    least_px, step_px : int
        Sides of windows are `least_px` and any number of steps more.
    fixed_px : int or None
        Where windows have one size alone.
    bytes_per_px : float
        Memory that a proposal takes per pixel of its window.
    """

    halo_px: int | None
    stride: int = 1
    least_px: int = 1
    step_px: int = 1
    fixed_px: int | None = None
    bytes_per_px: float = 64.0

    @property
    def rows_px(self) -> int:
        """Return how far around an area the rows reach that windows need."""
        if self.halo_px is None:
            return WHOLE_PX
        return self.fixed_px or self.halo_px + self.stride + self.step_px + self.least_px

    def tile_px(self, asked: int | None) -> int:
        """Return the side of a tile, as `tiling.tile_side` does; that of any plane where the whole of it is needed."""
        if self.halo_px is None:
            return WHOLE_PX
        if self.fixed_px is not None:
            return self.fixed_px - 2 * self.halo_px - self.stride
        return tile_side(asked, halo_px=self.halo_px, stride=self.stride, activation_bytes_per_px=self.bytes_per_px)

    def tiles(
        self, selected: npt.NDArray[np.bool_], area: Tile, side_px: int, shape: tuple[int, int]
    ) -> list[tuple[Tile, Tile]]:
        """Return tiles that hold the selected pixels (rows, columns) of an area of a plane, and the window of each."""
        if not selected.any():
            return []
        fitted = [area]
        if self.halo_px is not None:
            fitted = fitted_tiles(selected, area, side_px=side_px, halo_px=self.halo_px)
        return [(tile, self.window(tile, shape)) for tile in fitted]

    def window(self, tile: Tile, shape: tuple[int, int]) -> Tile:
        """Return the window of a tile in a plane of (rows, columns).

        It ends where the plane ends; where its size must be another, it is moved inwards, and mirrored below and to the
        right of a plane that is smaller.
        """
        top, bottom = self._span(tile.top, tile.bottom, shape[0])
        left, right = self._span(tile.left, tile.right, shape[1])
        return Tile(top, bottom, left, right)

    def _span(self, first: int, last: int, length: int) -> tuple[int, int]:
        """Return where a window begins and ends along one side of a plane."""
        if self.halo_px is None:
            return 0, self._allowed(length)
        first = max(first - self.halo_px, 0) // self.stride * self.stride
        last = min(last + self.halo_px, length)
        size = self._allowed(last - first)
        if first + size > length and first:  # move it inwards, where there is room
            first = max(length - size, 0) // self.stride * self.stride
            size = self._allowed(last - first)
        return first, first + size

    def _allowed(self, size: int) -> int:
        """Return the least side that is allowed and not less than a size."""
        if self.fixed_px is not None:
            return self.fixed_px
        return self.least_px + max(-(-(size - self.least_px) // self.step_px), 0) * self.step_px


class Proposer(Protocol):
    """Proposes F(s) in place of the translator's generator."""

    @property
    def geometry(self) -> Geometry:
        """Which windows it takes."""

    def __call__(self, windows: Floats, /) -> Floats:
        """Return F(s) of windows (B, C, Y, X) float32 in counts, in the same shape and unit.

        C are the channels that are enhanced together. Several threads may call it at once.
        """


def in_counts(propose: Proposer, images: Floats, blacks: Sequence[float], spans: Sequence[float]) -> Floats:
    """Return the proposal of images (B, C, Y, X) in unit range, in unit range, of what proposes in counts.

    `blacks` and `spans` are those of the C intensity ranges, in counts.
    """
    black, span = (np.asarray(one, np.float32)[:, None, None] for one in (blacks, spans))
    made = propose(images * span + black)
    return np.asarray((made - black) / span, dtype=np.float32)
