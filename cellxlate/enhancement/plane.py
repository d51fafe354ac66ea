"""One plane: attention first, the generator only where attention selects, the change added to the stored pixels.

A plane is a generator of finished bands, so memory is bounded by a band and a caller can stop after each.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from cellxlate.enhancement.fitting import batches, fitted_tiles
from cellxlate.enhancement.input import (
    ALONE,
    ANEW,
    Context,
    InputRows,
    OpenPlane,
    PlaneInput,
    SeenPlanes,
    planes_of_channels,
    planes_of_colors,
)
from cellxlate.enhancement.proposals.windows import Proposer, in_counts
from cellxlate.enhancement.tiling import BLOCK_PX, Tile, tile_side, tiles_of
from cellxlate.model.attention import (
    ATTENTION_STEPS,
    Floats,
    apply_change,
    attention_image,
    change_in_counts,
    gate,
    quantise,
)
from cellxlate.settings import EnhanceSettings
from cellxlate.stacks.intensity.range import IntensityRange
from cellxlate.stacks.luminance import change_in_color, known_from, luminance_of
from cellxlate.stacks.stack import PlaneIndex, Stack
from cellxlate.stacks.write.origins import Beside, Origin, RowsHeld, made_sums, row_sums


class Translator(Protocol):
    """What runs the networks: functions of windows (B, C, Y, X) float32 in unit range.

    C are the planes of `PlaneInput`, G of them the channels that are enhanced. The sides of windows are multiples of
    `stride`; what comes back may be smaller by an equal margin, at most the halo, at every side.
    """

    @property
    def stride(self) -> int:
        """Windows begin at multiples of it, in pixels."""

    @property
    def generator_halo_px(self) -> int:
        """How far around a pixel its proposal looks."""

    @property
    def attention_halo_px(self) -> int:
        """How far around a pixel its attention looks."""

    @property
    def activation_bytes_per_px(self) -> float:
        """Memory that a proposal takes per pixel of its window."""

    def attention(self, images: Floats, /) -> Floats:
        """Return attention in [0, 1], (B, 1, Y, X) for all channels or (B, G, Y, X) for each."""

    def proposal(self, images: Floats, /) -> Floats:
        """Return F(s) in unit range, (B, G, Y, X)."""


class GateSource(Protocol):
    """Where attention comes from: computed on the very planes (`OwnAttention`), on others, or given."""

    def input(
        self, stack: Stack, index: PlaneIndex, context: Context, open_plane: OpenPlane | None,
        seen: Callable[[Context], PlaneInput], /,
    ) -> PlaneInput | None:  # fmt: skip
        """Return what attention is computed on, where it is not what the networks see of the channels themselves.

        `seen` gives that in any context.
        """

    def planes_beside(
        self, stack: Stack, index: PlaneIndex, context: Context, read: Callable[[Context], Sequence[PlaneIndex]], /
    ) -> Sequence[PlaneIndex]:
        """Return the planes of the stack that are read for the gate of a plane, beside those that are read for it.

        `read` gives the planes that are read in any context.
        """

    def attention(self, rows: InputRows, area: Tile, translator: Translator, /) -> "Attention":
        """Return the attention of an area, which begins at multiples of 512 px."""


@dataclass(frozen=True)
class Attention:
    """Attention of an area: `steps` of 1/1024, (1 or G, Y, X) of uint16, and further rows that had a part in it."""

    steps: npt.NDArray[np.uint16]
    beside: Beside = ()


@dataclass(frozen=True)
class OwnAttention:
    """Each group of channels is gated by what the networks make of it."""

    def input(self, *_: Any) -> PlaneInput | None:
        """No other plane is looked at."""
        return None

    def planes_beside(self, *_: Any) -> Sequence[PlaneIndex]:
        """No other plane is read."""
        return ()

    def attention(self, rows: InputRows, area: Tile, translator: Translator) -> Attention:
        """Return the attention of the networks on fixed blocks of 512 px."""
        return Attention(network_attention(rows, area, translator))


@dataclass
class Work:
    """What was spent: tiles of the plane, those whose generator run was not needed, seconds in the two networks.

    `generator_px` counts the pixels of the windows that the generator ran on, halos included.
    """

    tiles_total: int = 0
    tiles_skipped: int = 0
    generator_px: int = 0
    attention_s: float = 0.0
    generator_s: float = 0.0

    def include(self, other: "Work", *, at_once: int = 1) -> None:
        """Add the work of one of so many that are done at once; seconds are then shared."""
        self.tiles_total += other.tiles_total
        self.tiles_skipped += other.tiles_skipped
        self.generator_px += other.generator_px
        self.attention_s += other.attention_s / at_once
        self.generator_s += other.generator_s / at_once


@dataclass(frozen=True)
class Band:
    """Finished rows of a plane.

    Attributes
    ----------
    first_row : int
        Of the plane.
    raw, enhanced : ndarray (rows, X)
        In the dtype of the file.
    attention : ndarray (rows, X) of uint8
        0 exactly where the pixel was kept, 1-255 in proportion to the gate elsewhere.
    read : RowsHeld
        What it was made from: these rows and those around them, as they were read.
    beside : tuple of (plane, RowsHeld)
        What else had a part in it.
    """

    first_row: int
    raw: npt.NDArray[Any]
    enhanced: npt.NDArray[Any]
    attention: npt.NDArray[np.uint8]
    read: RowsHeld
    beside: Beside = ()

    @classmethod
    def copied(cls, raw: npt.NDArray[Any], first_row: int) -> "Band":
        """Return rows that stay as they are."""
        return cls(first_row, raw, raw, np.zeros(raw.shape, np.uint8), RowsHeld.of(row_sums(raw), first_row))

    def origin(self, index: PlaneIndex) -> Origin:
        """Return what the band was made from, and checksums of what it is."""
        made = RowsHeld.of(made_sums(self.enhanced, self.attention), self.first_row)
        return Origin(index, self.read, made, self.beside)


@dataclass(frozen=True)
class PlaneJob:
    """How the planes of a group of channels are enhanced: together, each seeing the others.

    Attributes
    ----------
    translator : Translator
        Runs the networks.
    intensities : mapping of int to IntensityRange
        The channels of the group in their order, and the counts that become 0 and 1 in each.
    target : IntensityRange or None
        Where given, cells move to this scale; otherwise they stay on the input's.
    settings : EnhanceSettings
        Threshold, tile size, dense or sparse.
    work : Work
        Counted up while planes are enhanced.
    context : Context
        Which planes the networks see beside each.
    gates : GateSource
        Where attention comes from.
    beside : mapping of int to IntensityRange
        Of the channels that the networks see beside those of the group, in the order in which they take them.
    luminance : IntensityRange or None
        Where the group is red, green and blue: networks see their luminance alone, one attention and one change of it
        are for all three, and each keeps its ratio to the others.
    proposer : Proposer or None
        What proposes in place of the translator's generator.
    """

    translator: Translator
    intensities: Mapping[int, IntensityRange]
    target: IntensityRange | None = None
    settings: EnhanceSettings = field(default_factory=EnhanceSettings)
    work: Work = field(default_factory=Work)
    context: Context = ALONE
    gates: GateSource = OwnAttention()
    luminance: IntensityRange | None = None
    beside: Mapping[int, IntensityRange] = field(default_factory=dict)
    proposer: Proposer | None = None

    @property
    def channels(self) -> tuple[int, ...]:
        """The channels of the group."""
        return tuple(self.intensities)

    @property
    def margin_px(self) -> int:
        """How far around an area the rows reach that both networks need for it."""
        translator, proposer = self.translator, self.proposer
        proposal_px = proposer.geometry.rows_px if proposer else translator.generator_halo_px + translator.stride
        return max(translator.attention_halo_px + translator.stride, proposal_px)

    @property
    def tile_px(self) -> int:
        """Side of a tile's core."""
        if self.proposer:
            return self.proposer.geometry.tile_px(self.settings.tile_px)
        return tile_side(
            self.settings.tile_px,
            halo_px=self.translator.generator_halo_px,
            stride=self.translator.stride,
            activation_bytes_per_px=self.translator.activation_bytes_per_px,
        )

    def tiles(self, selected: npt.NDArray[np.bool_], area: Tile, shape: tuple[int, int]) -> list[tuple[Tile, Tile]]:
        """Return the tiles that hold the selected pixels of an area of a plane, each with the window that it needs."""
        halo_px, side_px = self.translator.generator_halo_px, self.tile_px
        dense = self.settings.dense
        if self.proposer:
            return self.proposer.geometry.tiles(np.ones_like(selected) if dense else selected, area, side_px, shape)
        fitted = tiles_of(area, side_px) if dense else fitted_tiles(selected, area, side_px=side_px, halo_px=halo_px)
        return [(tile, tile.grown(halo_px, self.translator.stride)) for tile in fitted]

    def propose(self, rows: InputRows, windows: Sequence[Tile]) -> Floats:
        """Return F(s) of windows of one size, (B, G, Y, X), in unit range; the windows are kept no longer."""
        images, plane = rows.windows(windows), rows.plane  # (B, C, Y, X)
        self.work.generator_px += images[:, 0].size
        if self.proposer is None:
            return self.translator.proposal(images)
        ranges = [intensity for _, intensity in plane.planes]
        made = in_counts(self.proposer, images, [one.black for one in ranges], [one.span for one in ranges])
        return made[:, plane.own]

    def input(
        self, stack: Stack, index: PlaneIndex, open_plane: OpenPlane | None = None, see: SeenPlanes = ANEW
    ) -> PlaneInput:
        """Return what the networks see at the position of a plane, as `PlaneInput.of` does."""
        see_around = partial(self._seen, stack, index, open_plane, see)
        gate = self.gates.input(stack, index, self.context, open_plane, see_around)
        own = see_around(self.context)
        return replace(own, gate=replace(gate, see=see)) if gate else own

    def _seen(
        self, stack: Stack, index: PlaneIndex, open_plane: OpenPlane | None, see: SeenPlanes, context: Context
    ) -> PlaneInput:
        """Return what the networks see in a context at the position of a plane."""
        begin = partial(PlaneInput.of, beside=self.beside)
        if self.luminance is not None:
            begin = partial(PlaneInput.in_color, luminance=self.luminance)
        return begin(stack, index, self.intensities, context=context, open_plane=open_plane, see=see)

    def together(self, stack: Stack, index: PlaneIndex) -> tuple[PlaneIndex, ...]:
        """Return the planes that are enhanced together at the position of a plane, in their order."""
        planes, block = planes_of_colors if self.luminance else planes_of_channels, self.context.block(stack, index)
        return tuple(one for position in block for one in planes(stack, position, self.channels))

    def planes_seen(self, stack: Stack, index: PlaneIndex) -> list[PlaneIndex]:
        """Return the planes of a stack that are read for one, each once."""

        def around(context: Context) -> list[PlaneIndex]:
            return [one for own in self.together(stack, index) for one in context.around(stack, own)]

        beside = planes_of_channels(stack, index, self.beside) if self.beside else ()
        gate = self.gates.planes_beside(stack, index, self.context, around)
        return list(dict.fromkeys((*around(self.context), *beside, *gate)))


def job_of(jobs: Iterable[PlaneJob], stack: Stack, index: PlaneIndex) -> PlaneJob | None:
    """Return the job of a plane; None where it is copied: of a channel that was not chosen, or opacity."""
    channel = None if stack.is_alpha(index) else stack.channel_of(index)
    return next((job for job in jobs if channel in job.channels), None)


def enhance_plane(plane: PlaneInput, areas: Iterable[Tile], job: PlaneJob) -> Iterator[Band]:
    """Enhance bands of a plane, as `job.input` gives it, of a group of channels.

    `areas` are bands as `tiling.bands_of` cuts them; a resumed run leaves out what is done. In their order one band of
    every channel is yielded for each. Pixels are the same for any tile size: exactly where attention keeps them, and up
    to the rounding of float32 convolutions elsewhere.
    """
    gates = gate(np.arange(ATTENTION_STEPS + 1, dtype=np.uint16), job.settings.threshold)
    shown = attention_image(gates)
    for area in areas:
        rows = plane.rows(area, job.margin_px)
        attention = band_attention(rows, area, job)
        steps, read = attention.steps, rows.held()
        enhanced = enhanced_band(rows, area, steps, gates, job)
        for index, counts, made, own in zip(rows.own, rows.counts, enhanced, steps, strict=True):
            raw = counts[area.top - rows.first_row : area.bottom - rows.first_row]
            beside = tuple((other, held) for other, held in read.items() if other != index) + attention.beside
            yield Band(area.top, raw, made, shown.take(own), read[index], beside)


def band_attention(rows: InputRows, area: Tile, job: PlaneJob) -> Attention:
    """Return attention of a band for each of its channels; pixels that nobody may change have none."""
    started = time.perf_counter()
    found = job.gates.attention(rows, area, job.translator)
    steps = without_kept(rows, area, for_each(found.steps, len(rows.kept)))
    job.work.attention_s += time.perf_counter() - started
    return replace(found, steps=for_each(steps, len(rows.counts)))


def for_each(steps: npt.NDArray[np.uint16], count: int) -> npt.NDArray[np.uint16]:
    """Return attention (N, Y, X) for so many planes: one is for all of them, and of several for one the largest."""
    if len(steps) > count:
        return np.asarray(steps.max(axis=0, keepdims=True))
    return np.repeat(steps, count, axis=0) if len(steps) < count else steps


def network_attention(rows: InputRows, area: Tile, translator: Translator) -> npt.NDArray[np.uint16]:
    """Return attention of an area, (G, Y, X) in steps of 1/1024, computed on fixed blocks of 512 px; in colour one."""
    steps = np.empty((len(rows.kept), *area.shape), np.uint16)
    for block in tiles_of(area, BLOCK_PX):
        around = block.grown(translator.attention_halo_px, translator.stride)
        found = _core(translator.attention(rows.windows([around]))[0], block, around)
        steps[..., *block.slices(area.top, area.left)] = quantise(found)
    return without_kept(rows, area, steps)


def without_kept(rows: InputRows, area: Tile, steps: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
    """Set attention (G, Y, X) to 0 where pixels are kept whatever it says."""
    for own, kept in zip(steps, rows.kept, strict=True):
        if kept is not None:
            own[kept[area.slices(rows.first_row)]] = 0
    return steps


def enhanced_band(
    rows: InputRows, area: Tile, steps: npt.NDArray[np.uint16], gates: Floats, job: PlaneJob
) -> npt.NDArray[Any]:
    """Return a band (G, rows, X) in the dtype of the file: the input's own pixels, changed where the gate is not 0.

    `steps` are attention (G, rows, X); `gates` (1025,) hold the gate at each step of it, and do not fall.
    """
    started = time.perf_counter()
    side_px = job.tile_px
    enhanced = rows.inside(area)[0].copy()
    selected = steps.max(axis=0) >= np.count_nonzero(gates == 0)
    tiles = list(tiles_of(area, side_px))
    job.work.tiles_total += len(tiles)
    if not job.settings.dense:
        job.work.tiles_skipped += sum(not selected[tile.slices(area.top, area.left)].any() for tile in tiles)
    windows = job.tiles(selected, area, rows.plane.shape)
    for batch in batches(windows, most_px=side_px**2):
        for (tile, around), proposal in zip(batch, job.propose(rows, [around for _, around in batch]), strict=True):
            here = (..., *tile.slices(area.top, area.left))
            gated, (raw, unit) = gates[steps[here]], rows.inside(tile)
            made = _core(proposal, tile, around)
            changed = tile_change(gated, made, unit, raw, rows.plane, job)
            enhanced[here] = apply_change(raw, changed, gated)
    job.work.generator_s += time.perf_counter() - started
    return enhanced


def _core(outcome: Floats, tile: Tile, around: Tile) -> Floats:
    """Cut a tile from what a network made of the window around it, (..., Y, X), less a margin."""
    margin = (around.shape[0] - outcome.shape[-2]) // 2
    return outcome[..., *tile.slices(around.top + margin, around.left + margin)]


def tile_change(
    gated: Floats, proposal: Floats, unit: Floats, counts: npt.NDArray[Any], plane: PlaneInput, job: PlaneJob
) -> npt.NDArray[np.float64]:
    """Return what to add to the counts (G, Y, X) of a tile; where luminance is seen, that of it in each colour."""
    if job.luminance is None:
        return change_in_counts(gated, proposal, unit, counts, spans=plane.spans, target=job.target)
    light = luminance_of(counts)[None]
    changed = change_in_counts(gated[:1], proposal, unit, light, spans=plane.spans, target=job.target)
    return change_in_color(changed, counts, plane.blacks, known=known_from(job.luminance.noise, job.luminance.span))
