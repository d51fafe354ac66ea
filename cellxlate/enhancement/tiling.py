"""Where a plane is cut: bands of rows, tiles inside a band, and the window of input that a tile needs.

The plane is thought of as continued by its mirror image without end, so every window is whole, a border is nothing
special, and a tile equals the same pixels of the whole plane as soon as its window holds the network's halo.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy.typing as npt

from cellxlate.errors import OptionError
from cellxlate.model.engines.threads import thread_count
from cellxlate.options import TILE
from cellxlate.stacks.windows import mirrored

BLOCK_PX = 512
"""Attention is computed on blocks of this side at fixed places, whatever the tile size, so that the same pixel is
always computed from the same window and no rounding can differ: the gate does not depend on the tiling. Bands are
whole rows of blocks."""

LEAST_WINDOW_PX = 64
"""Windows are at least this high and wide. Torch convolves very small ones with another algorithm on a CPU, which
rounds differently; from 56 px on every size was found to give the same bits."""

LARGEST_TILE_PX = 1024
ACTIVATION_BUDGET_BYTES = 512_000_000
MOST_STREAMS = 4
"""Bands that are enhanced at once, each in a thread of its own with its share of the processor: what stands around the
networks keeps one core busy, not several (docs/decisions/0011-several-bands-at-once.md)."""
BAND_BYTES_PER_PX = 24
"""A band's counts before and after, its unit range, attention, and the windows cut from it."""
SEEN_BYTES_PER_PX = 8
"""The same rows of a plane that is seen beside, as they are held, its attention, and the windows cut from them."""


class Sliced(Protocol):
    """An array, or what gives slices of the rows and columns of one."""

    def __getitem__(self, key: tuple[Any, ...], /) -> npt.NDArray[Any]:
        """Return the part at slices of rows and columns."""


@dataclass(frozen=True)
class Tile:
    """A rectangle of a plane, in pixels: rows top to bottom, columns left to right, ends excluded."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.bottom - self.top, self.right - self.left

    def slices(self, top: int = 0, left: int = 0) -> tuple[slice, slice]:
        """Return the tile as slices of an array that starts at (top, left) of the plane."""
        return slice(self.top - top, self.bottom - top), slice(self.left - left, self.right - left)

    def grown(self, margin_px: int, stride: int) -> "Tile":
        """Return the tile with a margin, cornered at multiples of `stride`, and at least as large as a window must be.

        Tile origins off the stride would shift the phase of strided and transposed convolutions.
        """
        top, left = _down(self.top - margin_px, stride), _down(self.left - margin_px, stride)
        bottom, right = (
            max(end + margin_px, start + LEAST_WINDOW_PX) for start, end in ((top, self.bottom), (left, self.right))
        )
        return Tile(top, _up(bottom, stride), left, _up(right, stride))


def tiles_of(area: Tile, side_px: int) -> Iterator[Tile]:
    """Cut an area into tiles of at most `side_px` squared, row by row."""
    for top in range(area.top, area.bottom, side_px):
        for left in range(area.left, area.right, side_px):
            yield Tile(top, min(top + side_px, area.bottom), left, min(left + side_px, area.right))


def bands_of(shape: tuple[int, int], side_px: int) -> Iterator[Tile]:
    """Cut a plane of (rows, columns) into bands of full width: whole rows of blocks, at least as high as a tile."""
    rows, columns = shape
    height = _up(side_px, BLOCK_PX)
    for top in range(0, rows, height):
        yield Tile(top, min(top + height, rows), 0, columns)


def tile_side(tile_px: int | None, *, halo_px: int, stride: int, activation_bytes_per_px: float) -> int:
    """Return the side of a tile's written core in pixels.

    Parameters
    ----------
    tile_px : int or None
        What the user asked for, rounded up to the stride; None takes the largest multiple of 512 up to 1024 whose
        window, halo included, keeps the network's activations within 512 MB.

    Raises
    ------
    OptionError
        The side is less than 1.
    """
    if tile_px is not None:
        if tile_px < 1:
            raise OptionError(
                TILE.of(tile_px), " is less than 1 px", remedy="leave it out to let the memory budget decide"
            )
        return _up(tile_px, stride)
    side = LARGEST_TILE_PX
    while side > BLOCK_PX and (side + 2 * halo_px) ** 2 * activation_bytes_per_px > ACTIVATION_BUDGET_BYTES:
        side //= 2
    return side


def stream_count(*, tile_px: int, band_px: int, activation_bytes_per_px: float) -> int:
    """Return how many bands to enhance at once: at most 4, as many as torch has threads, and within 512 MB.

    Windows of tiles have sides of `tile_px`, bands have `band_px` pixels, of each of which networks hold so many bytes.
    """
    needed = tile_px**2 * activation_bytes_per_px + band_px * BAND_BYTES_PER_PX
    return max(min(MOST_STREAMS, thread_count(), int(ACTIVATION_BUDGET_BYTES // needed)), 1)


def window(rows: Sliced, first_row: int, plane_shape: tuple[int, int], tile: Tile) -> npt.NDArray[Any]:
    """Take a window, which may reach beyond the plane, from rows first_row.. (..., rows, X) of one or several planes.

    These are at least the rows that the window mirrors to.
    """
    if min(tile.top, tile.left) >= 0 and tile.bottom <= plane_shape[0] and tile.right <= plane_shape[1]:
        return rows[..., *tile.slices(first_row)]
    down, across = mirrored(tile.top, tile.bottom, plane_shape[0]), mirrored(tile.left, tile.right, plane_shape[1])
    top, left = int(down.min()), int(across.min())
    there = rows[..., top - first_row : int(down.max()) + 1 - first_row, left : int(across.max()) + 1]
    return there.take(down - top, axis=-2).take(across - left, axis=-1)


def _down(position: int, stride: int) -> int:
    return position // stride * stride


def _up(position: int, stride: int) -> int:
    return -(-position // stride) * stride
