"""Planes that are enhanced together by what proposes in place of the networks: each has the attention of itself."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from cellxlate.enhancement.input import ALONE, Context, InputRows, OpenPlane, PlaneInput
from cellxlate.enhancement.plane import Attention, GateSource, Translator
from cellxlate.enhancement.tiling import Tile
from cellxlate.stacks.stack import PlaneIndex, Stack


@dataclass(frozen=True)
class EachAttention:
    """The attention that each plane of a group would have if it were enhanced alone."""

    inner: GateSource

    def input(
        self, stack: Stack, _index: PlaneIndex, context: Context, open_plane: OpenPlane | None,
        seen: Callable[[Context], PlaneInput],
    ) -> PlaneInput | None:  # fmt: skip
        """Return what attention of the planes is computed on, one for each; None where it is the planes themselves."""
        group = seen(context)
        alone = [_part(group, number) for number in positions(group)]
        given = [self.inner.input(stack, one.seen[0], ALONE, open_plane, partial(_seen, one)) for one in alone]
        if not any(given):
            return None
        several = [gate or one for gate, one in zip(given, alone, strict=True)]
        seen_at = tuple(index for gate in several for index in gate.seen)
        return replace(
            several[0], planes=tuple(one for gate in several for one in gate.planes), own=slice(0, None), seen=seen_at
        )

    def planes_beside(
        self, stack: Stack, _index: PlaneIndex, _context: Context, read: Callable[[Context], Sequence[PlaneIndex]]
    ) -> Sequence[PlaneIndex]:
        """Return the planes that are read for the gate of each."""
        return [
            beside
            for one in dict.fromkeys(read(ALONE))
            for beside in self.inner.planes_beside(stack, one, ALONE, partial(_around, stack, one))
        ]

    def attention(self, rows: InputRows, area: Tile, translator: Translator) -> Attention:
        """Return the attention of each plane, one after another."""
        found = [
            self.inner.attention(_rows(rows, number, position), area, translator)
            for number, position in enumerate(positions(rows.plane))
        ]
        return Attention(
            np.concatenate([one.steps for one in found]), tuple(held for one in found for held in one.beside)
        )


def _seen(plane: PlaneInput, _: Context) -> PlaneInput:
    return plane


def _around(stack: Stack, index: PlaneIndex, context: Context) -> Sequence[PlaneIndex]:
    return context.around(stack, index)


def positions(plane: PlaneInput) -> range:
    """Return which of the planes that are seen are enhanced."""
    return range(*plane.own.indices(len(plane.planes)))


def _part(plane: PlaneInput, position: int) -> PlaneInput:
    """Return one of the planes that are seen, alone."""
    seen = plane.seen[position : position + 1]
    return replace(plane, planes=plane.planes[position : position + 1], own=slice(0, 1), seen=seen, gate=None)


def _rows(rows: InputRows, number: int, position: int) -> InputRows:
    """Return the rows of one plane alone, by its number among those that are enhanced and its position among all."""
    gate = rows.gate and _rows_of(rows.gate, number, number)
    return replace(_rows_of(rows, number, position), gate=gate)


def _rows_of(rows: InputRows, number: int, position: int) -> InputRows:
    return replace(
        rows, plane=_part(rows.plane, position), counts=rows.counts[number : number + 1],
        unit=rows.unit[position : position + 1], kept=rows.kept[number : number + 1], gate=None,
    )  # fmt: skip
