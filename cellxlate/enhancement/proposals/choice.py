"""Which windows a foreign network gets: what its graph says is checked on the stack itself.

Where tiles differ from what larger windows give, the network is not local, whatever its graph says: then it gets whole
planes, or the largest windows that memory allows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod

from cellxlate.enhancement.proposals.locality import (
    MOST_COUNTS,
    MOST_PLANES,
    TILE_PX,
    Locality,
    PlaneSamples,
    measured_locality,
)
from cellxlate.enhancement.proposals.windows import Geometry, Proposer
from cellxlate.enhancement.tiling import Tile
from cellxlate.errors import ModelError
from cellxlate.model.engines.memory import memory_bytes

LEAST_WINDOW_PX, LARGEST_WINDOW_PX = 64, 8192
"""Of a network that looks at everything."""
LEAST_TILE_PX = 8
"""Rectangles of selected pixels are cut on a grid of this pitch (`fitting.CELL_PX`)."""


@dataclass(frozen=True)
class Windows:
    """Which windows a proposer gets.

    Attributes
    ----------
    geometry : Geometry
        Of these.
    locality : Locality
        What was measured with them.
    not_local : str
        Why it is not local, in words; empty where it is.
    """

    geometry: Geometry
    locality: Locality
    not_local: str = ""


def choose_windows(
    name: str, open_with: Callable[[Geometry, Sequence[int]], Proposer], samples: PlaneSamples, geometry: Geometry,
    *, not_local: str, bytes_of: Callable[[float], float],
) -> Windows:  # fmt: skip
    """Return which windows a proposer gets, after looking at a bounded sample of a stack.

    Parameters
    ----------
    name : str
        What it is called, in errors.
    open_with : callable
        From windows and the channels of a group to the proposer.
    samples : PlaneSamples
        What is looked at.
    geometry : Geometry
        What is said of it; without a halo where that is the whole plane, or not known.
    not_local : str
        Why it has none, in words.
    bytes_of : callable
        From pixels of a window to the memory that it takes.

    Raises
    ------
    ModelError
        It proposes no numbers; or its windows would need more memory than there is.
    """
    shape = samples.stack.plane_shape

    def look(at: Geometry, most: int = 1) -> Locality:
        return measured_locality(name, partial(open_with, at), samples, most)

    halo_px = geometry.halo_px
    if halo_px is not None and geometry.largest_tile_px < LEAST_TILE_PX:
        not_local = f"it looks {halo_px} px around each pixel, so nothing is left of its {geometry.fixed_px} px"
    elif halo_px is not None:
        found = look(geometry, MOST_PLANES)
        if found.is_local:
            return Windows(geometry, found)
        not_local = (
            f"its graph says that it looks {halo_px} px around each pixel, but windows differ from {found.against} by "
            f"up to {found.difference_counts:.3g} counts"
        )
    whole = replace(geometry, halo_px=None)
    window_px = prod(whole.window(Tile(0, shape[0], 0, shape[1]), shape).shape)
    fits_one = geometry.fixed_px is None or max(shape) <= geometry.fixed_px
    if fits_one and bytes_of(window_px) <= memory_bytes():
        part = replace(geometry, halo_px=max(TILE_PX, geometry.margin_px))
        found = look(part) if geometry.fixed_px is None else Locality(0.0, MOST_COUNTS, 0)
        return Windows(whole, found, not_local)
    largest = _largest_windows(name, geometry, bytes_of, not_local)
    return Windows(largest, look(largest), not_local)


def _largest_windows(name: str, geometry: Geometry, bytes_of: Callable[[float], float], not_local: str) -> Geometry:
    """Return the largest windows that memory allows, all of one size, a quarter of which is halo at either side."""
    if geometry.fixed_px is not None and geometry.fixed_px < LEAST_WINDOW_PX // 2:
        only = f"it takes windows of {geometry.fixed_px} px and no other, too small to stand for whole planes"
        raise ModelError(f"{name}: {only} ({not_local}); export it for larger ones")
    side = geometry.fixed_px or LARGEST_WINDOW_PX
    while geometry.fixed_px is None and side >= LEAST_WINDOW_PX and bytes_of(side**2) > memory_bytes():
        side //= 2
    if geometry.fixed_px is None:
        side = max(side - geometry.least_px, 0) // geometry.step_px * geometry.step_px + geometry.least_px
    if bytes_of(side**2) > memory_bytes() or side < LEAST_WINDOW_PX // 2:
        raise ModelError(
            f"{name} looks at the whole image, and a window of {side} px takes more memory than there is; use a "
            "computer with more, or another model"
        )
    return replace(in_one_size(geometry, side), bytes_per_px=bytes_of(side**2) / side**2)


def in_one_size(geometry: Geometry, side_px: int) -> Geometry:
    """Return windows of one size, a quarter of which is halo at either side."""
    room_px = max(side_px - geometry.stride, 0) // 2
    return replace(geometry, halo_px=max(min(side_px // 4, room_px), geometry.margin_px), fixed_px=side_px)


def first_windows(geometry: Geometry) -> Geometry:
    """Return windows with which a proposer can be run before they are chosen: what has one size may not see planes."""
    if geometry.fixed_px is None or (geometry.halo_px is not None and geometry.largest_tile_px >= LEAST_TILE_PX):
        return geometry
    return in_one_size(geometry, geometry.fixed_px)
