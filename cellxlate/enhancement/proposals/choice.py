"""Which windows a foreign network gets: what its graph says is checked on the stack itself.

Tiles of planes of the stack are proposed in their own windows and in much larger ones, and what differs is counted.
Where they differ, the network is not local, whatever its graph says: then it gets whole planes, or the largest windows
that memory allows.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from cellxlate.enhancement.input import Context, planes_seen
from cellxlate.enhancement.proposals.locality import MOST_COUNTS, MOST_SHARE, Locality
from cellxlate.enhancement.proposals.windows import Geometry, Proposer
from cellxlate.enhancement.tiling import Tile, window
from cellxlate.errors import ModelError
from cellxlate.model.attention import Floats
from cellxlate.model.engines.memory import memory_bytes
from cellxlate.stacks.stack import PlaneIndex, Stack

PROBE_TILE_PX, MOST_SAMPLES, SAMPLE_PX = 48, 3, 384
"""What is looked at: tiles of this side, in as many planes, of which parts of this side are read; more where a halo is
wide."""
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


@dataclass(frozen=True)
class PlaneSample:
    """Planes of a stack that a proposer sees together, in counts.

    Attributes
    ----------
    channels : tuple of int
        Which it enhances together.
    planes : ndarray (C, Y, X) of float32
        The middle of them.
    own : slice
        Which of the C it proposes for.
    """

    channels: tuple[int, ...]
    planes: Floats
    own: slice

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.planes.shape[-2], self.planes.shape[-1]

    def proposed(self, propose: Proposer, tile: Tile, around: Tile) -> Floats:
        """Return what is proposed for a tile (C, Y, X) in a window."""
        made = propose(np.ascontiguousarray(window(self.planes, 0, self.shape, around))[None])[0]
        margin = (around.shape[0] - made.shape[-2]) // 2
        proposed: Floats = made[self.own][..., *tile.slices(around.top + margin, around.left + margin)]
        return proposed


@dataclass(frozen=True)
class PlaneSamples:
    """A bounded look at a stack: groups of channels, and which planes are seen at the position of one."""

    stack: Stack
    groups: Sequence[tuple[int, ...]]
    context: Context

    def take(self, side_px: int, most: int) -> Iterator[PlaneSample]:
        """Yield the middle of planes: of the first, the middle, the last of the stack; of each group at least one."""
        stack, indices = self.stack, self._indices()
        firsts = [max(length - side_px, 0) // 2 for length in stack.plane_shape]
        rows, columns = (slice(first, first + side_px) for first in firsts)
        for number in range(max(len(self.groups), min(most, len(indices)))):
            group = self.groups[number % len(self.groups)]
            index = self._of_channel(indices[number % len(indices)], group[0])
            seen = planes_seen(stack, index, group, self.context)
            read = {one: stack.read(one, rows, columns) for one in dict.fromkeys(seen)}
            planes = np.stack([read[one] for one in seen]).astype(np.float32)
            own = self.context.own(stack, index, len(group))
            yield PlaneSample(group, np.nan_to_num(planes, posinf=0.0, neginf=0.0), own)

    def _indices(self) -> list[PlaneIndex]:
        """Return the positions of the first, the middle and the last plane."""
        sizes = tuple(self.stack.size(axis) for axis in self.stack.plane_axes)
        first, middle, last = (0,) * len(sizes), tuple(size // 2 for size in sizes), tuple(size - 1 for size in sizes)
        return list(dict.fromkeys((first, middle, last)))

    def _of_channel(self, index: PlaneIndex, channel: int) -> PlaneIndex:
        """Return the position of the plane of a channel at the place of another."""
        axes = self.stack.plane_axes
        own = next((axis for axis in "CS" if axis in axes), "")
        return tuple(channel if axis == own else place for axis, place in zip(axes, index, strict=True))


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

    def look(at: Geometry, side_px: int, most: int) -> Locality:
        taken = samples.take(side_px, most)
        is_float = samples.stack.dtype.kind == "f"
        return compared(name, ((open_with(at, one.channels), one) for one in taken), is_float=is_float)

    halo_px = geometry.halo_px
    if halo_px is not None and geometry.largest_tile_px < LEAST_TILE_PX:
        not_local = f"it looks {halo_px} px around each pixel, so nothing is left of its {geometry.fixed_px} px"
    elif halo_px is not None:
        found = look(geometry, max(SAMPLE_PX, 4 * halo_px + 2 * PROBE_TILE_PX), MOST_SAMPLES)
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
        part = replace(geometry, halo_px=max(SAMPLE_PX // 8, geometry.margin_px))
        found = look(part, SAMPLE_PX, 1) if geometry.fixed_px is None else Locality(0.0, MOST_COUNTS, 0)
        return Windows(whole, found, not_local)
    largest = _largest_windows(name, geometry, bytes_of, not_local)
    return Windows(largest, look(largest, 2 * int(largest.fixed_px or 0), 1), not_local)


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


def compared(name: str, pairs: Iterable[tuple[Proposer, PlaneSample]], *, is_float: bool) -> Locality:
    """Return how tiles of samples differ between their own windows and others.

    Raises
    ------
    ModelError
        What is proposed are no numbers.
    """
    worst, pixels, against, contrast = 0.0, 0, "larger windows", 0.0
    for propose, sample in pairs:
        contrast = max(contrast, float(np.ptp(sample.planes)))
        for tile, own, other, what in windows_compared(propose.geometry, sample.shape):
            against = what
            made, again = (sample.proposed(propose, tile, one) for one in (own, other))
            if not (np.isfinite(made).all() and np.isfinite(again).all()):
                raise ModelError(f"{name} makes what are no numbers (NaN) of some pixels; look at what it was made for")
            worst, pixels = max(worst, float(np.abs(made - again).max())), pixels + made.size
    return Locality(worst, MOST_SHARE * contrast if is_float else MOST_COUNTS, pixels, against)


def windows_compared(geometry: Geometry, shape: tuple[int, int]) -> Iterator[tuple[Tile, Tile, Tile, str]]:
    """Yield tiles of a plane: in its middle, at two corners; the window of each, another, and what that is, in words.

    The other is the whole plane; where windows have one size, the one that lies farthest away and holds the halo.
    """
    side = max(min(PROBE_TILE_PX, geometry.largest_tile_px), 1)
    whole = replace(geometry, halo_px=None).window(Tile(0, shape[0], 0, shape[1]), shape)
    middle, last = ([max(length - side, 0) // part for length in shape] for part in (2, 1))
    for top, left in dict.fromkeys([(middle[0], middle[1]), (0, 0), (last[0], last[1])]):
        tile = Tile(top, min(top + side, shape[0]), left, min(left + side, shape[1]))
        own, other, against = geometry.window(tile, shape), whole, f"windows of {max(whole.shape)} px"
        if geometry.fixed_px is not None:
            other, against = _farthest(tile, own, geometry, shape), "windows that lie otherwise"
        if other != own:
            yield tile, own, other, against


def _farthest(tile: Tile, own: Tile, geometry: Geometry, shape: tuple[int, int]) -> Tile:
    """Return the window of the same size that lies farthest from a tile's own and holds the tile and its halo."""
    far = []
    for axis, (first, last, start) in enumerate(((tile.top, tile.bottom, own.top), (tile.left, tile.right, own.left))):
        length, stride, halo = shape[axis], geometry.stride, geometry.halo_px or 0
        size, begin = own.shape[axis], -geometry.margin_px
        end = begin + size + max(-(-(length + 2 * geometry.margin_px - size) // stride), 0) * stride
        lowest = begin + max(-(-(min(last + halo, end) - size - begin) // stride), 0) * stride
        highest = begin + max(min(first - halo, end - size) - begin, 0) // stride * stride
        far.append(lowest if start - lowest >= highest - start else highest)
    return Tile(far[0], far[0] + own.shape[0], far[1], far[1] + own.shape[1])
