"""Whether a proposer is as local as it says: tiles of the stack itself, in their own windows and in others."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import groupby

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from cellxlate.enhancement.input import ALONE, Context, planes_seen
from cellxlate.enhancement.proposals.windows import Geometry, Proposer
from cellxlate.enhancement.tiling import Tile, window
from cellxlate.errors import ModelError
from cellxlate.model.attention import Floats
from cellxlate.stacks.intensity.stack_range import sample_places
from cellxlate.stacks.stack import Stack

TILE_PX, REACH_PX, MOST_PLANES = 48, 168, 3
"""What is looked at: tiles of this side with so much around them, more where windows are wide, in so many planes."""
MOST_COUNTS, MOST_SHARE = 1.0, 1e-3
"""Of integers, and of the contrast of floats: windows that differ by no more count as equal."""


@dataclass(frozen=True)
class Locality:
    """How far tiles differ from what the whole plane would give, as measured on windows of the stack.

    Attributes
    ----------
    difference_counts, most_counts : float
        The largest, and how much is allowed.
    compared_px : int
        How many pixels were compared; none where every plane lies within one window.
    against : str
        With what, in words.
    """

    difference_counts: float
    most_counts: float
    compared_px: int
    against: str = "larger ones around them"

    @property
    def is_local(self) -> bool:
        """Whether tiles may be used."""
        return self.difference_counts <= self.most_counts

    @property
    def words(self) -> str:
        """What was found, in words."""
        if not self.compared_px:
            return "planes are no larger than a window, and are taken whole"
        differ = f"differ by {self.difference_counts:.2g} counts at most" if self.difference_counts else "are equal"
        return f"windows of this stack and {self.against} {differ} ({self.compared_px:,} px compared)"


@dataclass(frozen=True)
class PlaneSample:
    """Parts of planes that a proposer sees together, looked at as if they were whole planes, and what to compare there.

    Attributes
    ----------
    planes : ndarray (C, Y, X) of float32
        In counts, all finite.
    own : slice
        Which of the C it proposes for.
    compared : sequence of (Tile, Tile, Tile)
        Tiles; of each its own window, and another one.
    """

    planes: Floats
    own: slice
    compared: Sequence[tuple[Tile, Tile, Tile]]

    def proposed(self, propose: Proposer, around: Tile) -> Floats:
        """Return what is proposed in a window (C, Y, X), less a margin."""
        seen = np.ascontiguousarray(window(self.planes, 0, self.planes.shape[-2:], around))
        made: Floats = propose(seen[None])[0][self.own]
        return made


@dataclass(frozen=True)
class PlaneSamples:
    """A bounded look at a stack: groups of channels, and which planes are seen at the position of one."""

    stack: Stack
    groups: Sequence[tuple[int, ...]]
    context: Context = ALONE

    def of_group(self, number: int, geometry: Geometry, most: int) -> Iterator[PlaneSample]:
        """Yield what to compare in planes of one of the groups; of all together so many planes, of each one at least.

        Tiles lie around what is bright, where attention is likely to select, in the middle, and in two corners.
        """
        stack, group, among = self.stack, self.groups[number], len(self.groups)
        places = list(sample_places(stack, group[0]))
        count = max(among, min(most, len(places)))
        for one in range(number, count, among):
            index, rows, columns = places[(one + 1) * len(places) // (count + 1)]
            row, column = _brightest(_finite(stack.read(index, rows, columns)))
            tiles = _tiles(geometry, stack.plane_shape, (rows.start + row, columns.start + column))
            seen = planes_seen(stack, index, group, self.context)
            for part, inside in groupby(tiles, partial(_part, geometry, stack.plane_shape)):
                windows = [_windows(geometry, part, tile) for tile in inside]
                if compared := [(tile, own, other) for tile, own, other in windows if own != other]:
                    read = {plane: _finite(stack.read(plane, *part.slices())) for plane in dict.fromkeys(seen)}
                    planes = np.stack([read[plane] for plane in seen])
                    yield PlaneSample(planes, self.context.own(stack, index, len(group)), compared)


def measured_locality(
    name: str, open_for: Callable[[Sequence[int]], Proposer], samples: PlaneSamples, most: int = MOST_PLANES
) -> Locality:
    """Compare what a proposer that needs no whole planes makes of tiles in their own windows and in others, in counts.

    Parameters
    ----------
    name : str
        What it is called, in errors.
    open_for : callable
        From the channels of a group to what proposes for them.
    samples : PlaneSamples
        What is looked at.
    most : int
        In so many planes; in more where there are more groups.

    Raises
    ------
    ModelError
        What is proposed are no numbers.
    """
    found = []
    for number, group in enumerate(samples.groups):
        propose = open_for(group)
        taken = samples.of_group(number, propose.geometry, most)
        found.append(_compared(name, propose, taken, is_float=samples.stack.dtype.kind == "f"))
    worst = max(found, key=lambda one: (not one.is_local, one.difference_counts))
    return replace(worst, compared_px=sum(one.compared_px for one in found))


def _compared(name: str, propose: Proposer, samples: Iterable[PlaneSample], *, is_float: bool) -> Locality:
    """Return how tiles of samples of one group differ between their own windows and others."""
    worst, pixels, contrast = 0.0, 0, 0.0
    for sample in samples:
        contrast = max(contrast, float(np.ptp(sample.planes)))
        proposed = lru_cache(2)(partial(sample.proposed, propose))  # that of the whole sample is made once
        for tile, *windows in sample.compared:
            made = []
            for around in windows:
                margin = (around.shape[0] - (whole := proposed(around)).shape[-2]) // 2
                made.append(whole[..., *tile.slices(around.top + margin, around.left + margin)])
            if not all(np.isfinite(one).all() for one in made):
                raise ModelError(f"{name} makes what are no numbers (NaN) of some pixels; look at what it was made for")
            worst, pixels = max(worst, float(np.abs(made[0] - made[1]).max())), pixels + made[0].size
    against = Locality.against if propose.geometry.fixed_px is None else "windows that lie otherwise"
    return Locality(worst, MOST_SHARE * contrast if is_float else MOST_COUNTS, pixels, against)


def _tiles(geometry: Geometry, shape: tuple[int, int], bright: tuple[int, int]) -> list[Tile]:
    """Return tiles of a plane: around what is bright, in the middle, at two corners."""
    side, halo_px = max(min(TILE_PX, geometry.largest_tile_px), 1), geometry.halo_px or 0
    last = [max(length - side, 0) for length in shape]
    firsts = [[min(max(at - side // 2, 0), end), end // 2, 0, end] for at, end in zip(bright, last, strict=True)]
    for along in firsts:  # parts begin at even numbers and these windows at odd ones: if it matters where, that shows
        along[:2] = [max(first - (first - halo_px + 1) % 2, 0) for first in along[:2]]
    places = dict.fromkeys(zip(*firsts, strict=True))
    return [Tile(top, min(top + side, shape[0]), left, min(left + side, shape[1])) for top, left in places]


def _part(geometry: Geometry, shape: tuple[int, int], tile: Tile) -> Tile:
    """Return what is read around a tile of a plane: much more than its window."""
    reach_px = max(REACH_PX, 2 * (geometry.halo_px or 0) + TILE_PX, (geometry.fixed_px or 0) * 3 // 4)
    top, left = (max(first - reach_px, 0) // 2 * 2 for first in (tile.top, tile.left))
    return Tile(top, min(tile.bottom + reach_px, shape[0]), left, min(tile.right + reach_px, shape[1]))


def _windows(geometry: Geometry, part: Tile, tile: Tile) -> tuple[Tile, Tile, Tile]:
    """Return a tile, its own window, and another, all as they lie in a part of a plane.

    The other is the whole part; where windows have one size, the one that lies farthest and holds the tile's halo.
    """
    shape, far = part.shape, []
    tile = Tile(tile.top - part.top, tile.bottom - part.top, tile.left - part.left, tile.right - part.left)
    own = geometry.window(tile, shape)
    if geometry.fixed_px is None:
        return tile, own, replace(geometry, halo_px=None).window(Tile(0, shape[0], 0, shape[1]), shape)
    for axis, (first, last, start) in enumerate(((tile.top, tile.bottom, own.top), (tile.left, tile.right, own.left))):
        length, stride, halo = shape[axis], geometry.stride, geometry.halo_px or 0
        size, begin = own.shape[axis], -geometry.margin_px
        end = begin + size + max(-(-(length + 2 * geometry.margin_px - size) // stride), 0) * stride
        lowest = begin + max(-(-(min(last + halo, end) - size - begin) // stride), 0) * stride
        highest = begin + max(min(first - halo, end - size) - begin, 0) // stride * stride
        far.append(lowest if start - lowest >= highest - start else highest)
    return tile, own, Tile(far[0], far[0] + own.shape[0], far[1], far[1] + own.shape[1])


def _brightest(counts: Floats) -> tuple[int, int]:
    """Return row and column of the middle of the tile that is brightest in a plane, and lies in it as far as it can."""
    light = ndimage.uniform_filter(counts, TILE_PX, mode="constant", cval=float(counts.min()))
    row, column = np.unravel_index(int(light.argmax()), light.shape)
    return int(row), int(column)


def _finite(counts: npt.NDArray[np.generic]) -> Floats:
    """Return counts as float32, those that are not finite as the middle of the others."""
    plain = np.asarray(counts, np.float32)
    if not (finite := np.isfinite(plain)).all():
        plain = np.where(finite, plain, np.float32(np.median(plain[finite]) if finite.any() else 0))
    return plain
