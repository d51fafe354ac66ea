"""What a proposer needs, and the windows that it is given: cut at the borders of the plane.

The translator's own networks see a plane that is mirrored at its borders; whatever else proposes sees the border
itself, as it would in a whole plane, and continues it as it always does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt, prod
from typing import Protocol

import numpy as np
import numpy.typing as npt

from cellxlate.enhancement.fitting import fitted_tiles
from cellxlate.enhancement.input import Blocks
from cellxlate.enhancement.tiling import ACTIVATION_BUDGET_BYTES, Tile, bands_of, stream_count, tile_side
from cellxlate.model.attention import Floats

WHOLE_PX = 2**20
"""Side of a tile that holds any plane."""
LEAST_TILE_PX = 64
"""Memory makes tiles no smaller than this, nor than the halo."""


@dataclass(frozen=True)
class Geometry:
    """Which windows a proposer takes, and how far it looks.

    The whole plane is thought of as one window: from `margin_px` before it to the least size that is allowed behind it,
    mirrored there. Windows of tiles lie inside that one, at multiples of `stride` from its beginning, so what is
    proposed for a tile is what the whole plane, run at once, would have there.

    Attributes
    ----------
    halo_px : int or None
        How far around a pixel its proposal looks; None where that is the whole plane.
    stride : int
        Windows begin at multiples of it, so that strided layers stand where they stand in the whole plane.
    least_px, step_px : int
        Sides of windows are `least_px` and any number of steps more; a step is a multiple of the stride.
    fixed_px : int or None
        Where windows have one size alone.
    bytes_per_px : float
        Memory that a proposal takes per pixel of its window.
    margin_px : int
        By how much what is proposed is smaller than its window at every side; at most the halo.
    """

    halo_px: int | None
    stride: int = 1
    least_px: int = 1
    step_px: int = 1
    fixed_px: int | None = None
    bytes_per_px: float = 64.0
    margin_px: int = 0

    @property
    def rows_px(self) -> int:
        """Return how far around an area the rows reach that windows need."""
        if self.halo_px is None:
            return WHOLE_PX
        around_px = self.fixed_px or self.halo_px + self.step_px + self.least_px
        return around_px + self.stride + self.margin_px

    @property
    def largest_tile_px(self) -> int:
        """Side of the largest tile whose window there is; it may be less than 1."""
        if self.halo_px is None or self.fixed_px is None:
            return WHOLE_PX
        return self.fixed_px - 2 * self.halo_px - self.stride + 1

    def tile_px(self, asked: int | None) -> int:
        """Return the side of a tile: what is asked for, or what memory allows; any plane where the whole is needed."""
        if self.halo_px is None:
            return WHOLE_PX
        side = tile_side(asked, halo_px=self.halo_px, stride=self.stride, activation_bytes_per_px=self.bytes_per_px)
        if asked is None:
            while side > max(self.halo_px, LEAST_TILE_PX) and self._bytes(side) > ACTIVATION_BUDGET_BYTES:
                side //= 2
        return min(side, self.largest_tile_px)

    def _bytes(self, tile_px: int) -> float:
        return (tile_px + 2 * (self.halo_px or 0)) ** 2 * self.bytes_per_px

    def streams(self, asked: int | None, shape: tuple[int, int]) -> int:
        """Return how many bands of planes of (rows, columns) are enhanced at once; `asked` is the side of a tile."""
        side, window_px = self.tile_px(asked), self.fixed_px or isqrt(prod(shape))
        if self.halo_px is not None and self.fixed_px is None:
            window_px = side + 2 * self.halo_px
        band = next(bands_of(shape, side))
        return stream_count(
            tile_px=window_px, band_px=band.bottom * band.right, activation_bytes_per_px=self.bytes_per_px
        )

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
        """Return the window of a tile in a plane of (rows, columns)."""
        top, bottom = self.span(tile.top, tile.bottom, shape[0])
        left, right = self.span(tile.left, tile.right, shape[1])
        return Tile(top, bottom, left, right)

    def span(self, first: int, last: int, length: int) -> tuple[int, int]:
        """Return where a window begins and ends along one side of a plane, or along z."""
        margin = self.margin_px
        whole = self._whole(length + 2 * margin)
        if self.halo_px is None:
            return -margin, whole - margin
        start = max(first + margin - self.halo_px, 0) // self.stride * self.stride
        end = min(last + margin + self.halo_px, whole)
        size = self.fixed_px or self._allowed(end - start)
        start = min(start, whole - size)  # moved inwards, by whole steps
        return start - margin, start + size - margin

    def _whole(self, length: int) -> int:
        """Return the side of the window that holds a whole side of a plane."""
        if self.fixed_px is None:
            return self._allowed(length)
        return self.fixed_px + max(-(-(length - self.fixed_px) // self.stride), 0) * self.stride

    def _allowed(self, size: int) -> int:
        """Return the least side that is allowed and not less than a size."""
        return self.least_px + max(-(-(size - self.least_px) // self.step_px), 0) * self.step_px


@dataclass(frozen=True)
class Needs:
    """What something that proposes needs of a run. By default it takes planes one by one, and others' attention gates.

    Attributes
    ----------
    together, volumes : bool
        Whether it takes all channels that are enhanced at once; and planes along z.
    blocks : Blocks or None
        Which planes along z together, where it takes such and was fitted to a stack.
    windows : Geometry or None
        Whose memory decides how many bands are enhanced at once; None where that of our own networks does.
    gate : bool
        Whether it needs a gate; none where its own attention comes with what it proposes.
    flags : tuple of str
        What a command needs beside the model to have it again.
    """

    together: bool = False
    volumes: bool = False
    blocks: Blocks | None = None
    windows: Geometry | None = None
    gate: bool = True
    flags: tuple[str, ...] = ()

    @property
    def is_alone(self) -> bool:
        """Whether it takes single planes of single channels."""
        return not (self.together or self.volumes)

    def groups(self, channels: Sequence[int], *, is_one: bool = False) -> list[tuple[int, ...]]:
        """Return which channels are enhanced together: each alone, or all where they are one or are taken so."""
        return [tuple(channels)] if is_one or self.together else [(one,) for one in channels]


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
    made = propose(counts_of(images, blacks, spans))
    return np.asarray((made - black) / span, dtype=np.float32)


def counts_of(images: Floats, blacks: Sequence[float], spans: Sequence[float]) -> Floats:
    """Return images (B, C, Y, X) in unit range in counts."""
    black, span = (np.asarray(one, np.float32)[:, None, None] for one in (blacks, spans))
    return images * span + black
