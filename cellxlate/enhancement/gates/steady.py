"""A gate that does not flicker: a pixel that may be a cell is one where the plane before or the next says so.

Hysteresis along z or t: attention rises to that of the planes beside, to at most five times its own. Where the networks
see nothing at all in a plane, nothing is selected in it, whatever the planes beside show: a cell that has moved on
leaves no trail. Attention of the planes beside is computed as theirs is, from the planes around each of them, on the
same blocks: every tiling, worker and resumed run computes the same bits, and one process computes each only once.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt

from cellxlate.enhancement.input import ANEW, Context, InputRows, OpenPlane, PlaneInput
from cellxlate.enhancement.plane import Attention, OwnAttention, Translator, network_attention, without_kept
from cellxlate.enhancement.tiling import BLOCK_PX, Tile, tiles_of
from cellxlate.model.attention import ATTENTION_STEPS, Floats, quantise
from cellxlate.prefetch import FoundOnce
from cellxlate.stacks.stack import PlaneIndex, Stack

Steps = npt.NDArray[np.uint16]

MOST_RISE = 5
"""How many times its own attention may become; more would select what is surely not a cell."""
BESIDE = 1
"""Planes on either side that have a say."""
KEPT_BYTES, BLOCK_BYTES = 2**25, 2 * BLOCK_PX**2
"""Attention of planes up to 2048 px a side is computed once; of larger ones three times."""


class SteadyAttention(OwnAttention):
    """Attention of the networks, steadied by that of the planes beside where these are seen at all."""

    def __init__(self) -> None:
        self._kept: FoundOnce[Steps] = FoundOnce(KEPT_BYTES)

    def __reduce__(self) -> tuple[type["SteadyAttention"], tuple[()]]:
        return SteadyAttention, ()

    def input(
        self, _stack: Stack, _index: PlaneIndex, context: Context, _open_plane: OpenPlane | None,
        seen: Callable[[Context], PlaneInput],
    ) -> PlaneInput | None:  # fmt: skip
        """Return what attention of a plane and of those beside is computed on; None where neighbours are not seen."""
        return seen(wider(context)) if context.along else None

    def planes_beside(
        self, _stack: Stack, _index: PlaneIndex, context: Context, read: Callable[[Context], Sequence[PlaneIndex]]
    ) -> Sequence[PlaneIndex]:
        """Return all planes that attention of the planes beside is computed on."""
        return read(wider(context)) if context.along else ()

    def attention(self, rows: InputRows, area: Tile, translator: Translator) -> Attention:
        """Return the attention of an area, steadied."""
        if rows.gate is None:
            return super().attention(rows, area, translator)
        around = [self._of_plane(rows.gate, at, area, translator) for at in range(2 * BESIDE + 1)]
        return Attention(without_kept(rows, area, steadied(around[BESIDE], np.maximum(around[0], around[-1]))))

    def _of_plane(self, gate: InputRows, at: int, area: Tile, translator: Translator) -> Steps:
        """Return attention (G, Y, X) of the plane at a position of those that the gate is computed on."""
        taken = seen_for(at, len(gate.unit), len(gate.kept))
        part = replace(gate, unit=tuple(gate.unit[one] for one in taken), kept=(None,) * len(gate.kept))
        where = tuple(gate.plane.seen[one] for one in taken)
        steps = np.empty((len(gate.kept), *area.shape), np.uint16)
        for block in tiles_of(area, BLOCK_PX):
            find = partial(network_attention, part, block, translator)
            if gate.plane.see is ANEW:  # of windows of a sample, which may lie at the same place of another stack
                found = find()
            else:  # a gate serves one run, and so one translator
                found = self._kept((gate.plane.see, id(translator), where, block), find, BLOCK_BYTES)
            steps[..., *block.slices(area.top, area.left)] = found
        return steps


def steady_attention(images: Floats, groups: int, translator: Translator) -> Steps:
    """Return attention (B, G, Y, X) of windows (B, C, Y, X) of the planes that the gate of so many is computed on."""
    each = (seen_for(at, images.shape[1], groups) for at in range(2 * BESIDE + 1))
    before, own, after = (quantise(translator.attention(np.ascontiguousarray(images[:, taken]))) for taken in each)
    return steadied(own, np.maximum(before, after))


def without_beside(images: Floats, groups: int) -> Floats:
    """Return of those windows the planes that the networks see for the plane itself."""
    return np.ascontiguousarray(images[:, seen_for(BESIDE, images.shape[1], groups)])


def seen_for(at: int, planes: int, groups: int) -> list[int]:
    """Return which of the planes that the gate is computed on are seen for the one at a position: 1 for its own."""
    each = planes // groups
    seen = each - 2 * BESIDE
    return [first + number for first in range(at, planes, each) for number in range(seen)]


def wider(context: Context) -> Context:
    """Return the context that holds those of the planes beside."""
    return Context.beside(context.axis, context.planes + BESIDE)


def steadied(own: Steps, beside: Steps) -> Steps:
    """Return attention that rises to that of the planes beside, to at most five times its own, in steps of 1/1024."""
    most = np.minimum(own.astype(np.uint32) * MOST_RISE, ATTENTION_STEPS).astype(np.uint16)
    return np.maximum(own, np.minimum(most, beside))
