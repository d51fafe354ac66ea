"""Attention that comes with what is proposed: a network's own second output."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from cellxlate.enhancement.input import InputRows
from cellxlate.enhancement.plane import Attention, GateSource, OwnAttention, PlaneJob, Translator, without_kept
from cellxlate.enhancement.proposals.windows import Proposer, counts_of
from cellxlate.enhancement.tiling import BLOCK_PX, Tile, tiles_of
from cellxlate.model.attention import Floats, quantise
from cellxlate.stacks.intensity.range import IntensityRange


@runtime_checkable
class GatingProposer(Proposer, Protocol):
    """Proposes, and says where that may be."""

    def attention(self, windows: Floats, /) -> Floats:
        """Return attention in [0, 1] of windows (B, C, Y, X) float32 in counts, (B, C, Y, X), less a margin."""


@dataclass(frozen=True)
class ProposedAttention(OwnAttention):
    """A proposer's own attention, computed on fixed blocks of at most 512 px, or on the whole plane."""

    proposer: GatingProposer

    def attention(self, rows: InputRows, area: Tile, translator: Translator) -> Attention:  # noqa: ARG002
        """Return the attention of an area."""
        geometry, plane = self.proposer.geometry, rows.plane
        steps = np.empty((len(rows.kept), *area.shape), np.uint16)
        blocks = [area]
        if geometry.halo_px is not None:
            side = min(geometry.tile_px(None), BLOCK_PX)
            blocks = [part for block in tiles_of(area, BLOCK_PX) for part in tiles_of(block, side)]
        ranges = [intensity for _, intensity in plane.planes]
        for block in blocks:
            around = geometry.window(block, plane.shape)
            counts = counts_of(rows.windows([around]), [one.black for one in ranges], [one.span for one in ranges])
            made = self.proposer.attention(counts)[0, plane.own]
            margin = (around.shape[0] - made.shape[-2]) // 2
            inside = made[..., *block.slices(around.top + margin, around.left + margin)]
            steps[..., *block.slices(area.top, area.left)] = quantise(np.clip(np.nan_to_num(inside), 0, 1))
        return Attention(without_kept(rows, area, steps))


def gate_of(kind: str, proposer: Proposer | None, gates: GateSource) -> GateSource:
    """Return the gate of a group of channels: that of what proposes for it, where attention comes from there."""
    if kind == "proposal" and isinstance(proposer, GatingProposer):
        return ProposedAttention(proposer)
    return gates


def jobs_of(
    begin: Callable[..., PlaneJob], groups: Sequence[Sequence[int]], proposers: Sequence[Proposer | None], *,
    intensities: Mapping[int, IntensityRange], luminances: Mapping[int, IntensityRange], kind: str, gates: GateSource,
) -> tuple[PlaneJob, ...]:  # fmt: skip
    """Return the job of each group of channels, begun with all that they share: what proposes for it, and its gate."""
    return tuple(
        begin({one: intensities[one] for one in own}, luminance=luminances.get(own[0]), proposer=proposer,
              gates=gate_of(kind, proposer, gates)) for own, proposer in zip(groups, proposers, strict=True)
    )  # fmt: skip
