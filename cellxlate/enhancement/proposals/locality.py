"""Whether a proposer is as local as it says: windows of the stack itself against larger ones."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from cellxlate.enhancement.proposals.windows import Proposer
from cellxlate.enhancement.tiling import Tile, window
from cellxlate.model.attention import Floats
from cellxlate.stacks.intensity.stack_range import sample_places
from cellxlate.stacks.stack import PlaneIndex, Stack

CORE_PX, FARTHER_PX = 48, 37
"""Side of what is compared; the larger window reaches so much farther than twice the halo, at each side. The latter is
odd, so that what depends on where a window begins shows too."""
MOST_PLACES, MOST_WHOLE_PX = 2, 2**18
"""Where is looked, at most; planes of up to so many pixels are taken whole as the larger window."""
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


def measured_locality(propose: Proposer, stack: Stack, channel: int) -> Locality:
    """Compare what a proposer makes of windows of a channel with what it makes of larger ones, in counts."""
    geometry, difference, compared, contrast = propose.geometry, 0.0, 0, 0.0
    if geometry.halo_px is None:
        return Locality(0.0, MOST_COUNTS, 0)
    for index, core in _places(stack, channel, geometry.halo_px):
        small = geometry.window(core, stack.plane_shape)
        large = _larger(core, geometry.halo_px, stack.plane_shape)
        if small.shape == large.shape:
            continue
        made = []
        for around in (small, large):
            counts = _counts(stack, index, around)
            contrast = max(contrast, float(np.ptp(counts)))
            made.append(propose(counts[None, None])[0, 0][core.slices(around.top, around.left)])
        difference = max(difference, float(np.abs(made[0].astype(np.float64) - made[1]).max()))
        compared += made[0].size
    most = MOST_SHARE * contrast if stack.dtype.kind == "f" else MOST_COUNTS
    return Locality(difference, most, compared)


def _larger(core: Tile, halo_px: int, shape: tuple[int, int]) -> Tile:
    """Return a larger window around a square of a plane: the whole plane, where that is small."""
    if prod(shape) <= MOST_WHOLE_PX:
        return Tile(0, shape[0], 0, shape[1])
    reach = 2 * halo_px + FARTHER_PX
    return Tile(
        max(core.top - reach, 0), min(core.bottom + reach, shape[0]),
        max(core.left - reach, 0), min(core.right + reach, shape[1]),
    )  # fmt: skip


def _places(stack: Stack, channel: int, halo_px: int) -> Iterator[tuple[PlaneIndex, Tile]]:
    """Yield squares around what is bright, where attention is likely to select, in some planes of a channel."""
    places = list(sample_places(stack, channel))
    for number in range(min(MOST_PLACES, len(places))):
        index, rows, columns = places[(2 * number + 1) * len(places) // (2 * min(MOST_PLACES, len(places)))]
        counts = _finite(stack.read(index, rows, columns))
        bright = ndimage.uniform_filter(counts, min(CORE_PX, *counts.shape))
        inner = min(halo_px + FARTHER_PX, *((size - 1) // 2 for size in bright.shape))
        middle = bright[inner : bright.shape[0] - inner, inner : bright.shape[1] - inner]
        row, column = np.unravel_index(int(middle.argmax()), middle.shape)
        top = max(rows.start + inner + int(row) - CORE_PX // 2, 0)
        left = max(columns.start + inner + int(column) - CORE_PX // 2, 0)
        height, width = stack.plane_shape
        yield index, Tile(top, min(top + CORE_PX, height), left, min(left + CORE_PX, width))


def _counts(stack: Stack, index: PlaneIndex, around: Tile) -> Floats:
    """Read a window, which may reach beyond the plane and is mirrored there."""
    height, width = stack.plane_shape
    inside = Tile(around.top, min(around.bottom, height), around.left, min(around.right, width))
    if inside == around:
        return _finite(stack.read(index, *around.slices()))
    needed = slice(max(min(around.top, 2 * height - around.bottom - 1), 0), height)
    return np.ascontiguousarray(window(_finite(stack.read(index, needed)), needed.start, stack.plane_shape, around))


def _finite(counts: npt.NDArray[np.generic]) -> Floats:
    """Return counts as float32, those that are not finite as the middle of the others."""
    plain = np.asarray(counts, np.float32)
    if not (finite := np.isfinite(plain)).all():
        plain = np.where(finite, plain, np.float32(np.median(plain[finite]) if finite.any() else 0))
    return plain
