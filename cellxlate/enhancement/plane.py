"""One plane: attention first, the generator only where attention selects, the change added to the stored pixels.

A plane is a generator of finished bands, so memory is bounded by a band and a caller can stop after each.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from cellxlate.enhancement.fitting import batches, fitted_tiles
from cellxlate.enhancement.input import ALONE, Context, InputRows, OpenPlane, PlaneInput, planes_together
from cellxlate.enhancement.tiling import BLOCK_PX, Tile, tile_side, tiles_of
from cellxlate.model.attention import ATTENTION_STEPS, Floats, apply_change, attention_image, change, gate, quantise
from cellxlate.settings import EnhanceSettings
from cellxlate.stacks.intensity.luminance import change_in_color, known_from, luminance_of
from cellxlate.stacks.intensity.range import IntensityRange
from cellxlate.stacks.stack import PlaneIndex, Stack
from cellxlate.stacks.write.origins import Origin, RowsHeld, made_sums, row_sums


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
    """

    first_row: int
    raw: npt.NDArray[Any]
    enhanced: npt.NDArray[Any]
    attention: npt.NDArray[np.uint8]
    read: RowsHeld

    @classmethod
    def copied(cls, raw: npt.NDArray[Any], first_row: int) -> "Band":
        """Return rows that stay as they are."""
        return cls(first_row, raw, raw, np.zeros(raw.shape, np.uint8), RowsHeld.of(row_sums(raw), first_row))

    def origin(self, index: PlaneIndex) -> Origin:
        """Return what the band was made from, and checksums of what it is."""
        return Origin(index, self.read, RowsHeld.of(made_sums(self.enhanced, self.attention), self.first_row))


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
    luminance : IntensityRange or None
        Where the group is red, green and blue: networks see their luminance alone, one attention and one change of it
        are for all three, and each keeps its ratio to the others.
    """

    translator: Translator
    intensities: Mapping[int, IntensityRange]
    target: IntensityRange | None = None
    settings: EnhanceSettings = field(default_factory=EnhanceSettings)
    work: Work = field(default_factory=Work)
    context: Context = ALONE
    luminance: IntensityRange | None = None

    @property
    def channels(self) -> tuple[int, ...]:
        """The channels of the group."""
        return tuple(self.intensities)

    @property
    def tile_px(self) -> int:
        """Side of a tile's core."""
        return tile_side(
            self.settings.tile_px,
            halo_px=self.translator.generator_halo_px,
            stride=self.translator.stride,
            activation_bytes_per_px=self.translator.activation_bytes_per_px,
        )

    def input(self, stack: Stack, index: PlaneIndex, open_plane: OpenPlane | None = None) -> PlaneInput:
        """Return what the networks see at the position of a plane, as `PlaneInput.of` does."""
        return PlaneInput.of(
            stack, index, self.intensities, context=self.context, luminance=self.luminance, open_plane=open_plane
        )

    def together(self, stack: Stack, index: PlaneIndex) -> tuple[PlaneIndex, ...]:
        """Return the planes that are enhanced together at the position of a plane, in their order."""
        return planes_together(stack, index, self.channels, in_color=self.luminance is not None)


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
    margin = max(job.translator.generator_halo_px, job.translator.attention_halo_px) + job.translator.stride
    gates = gate(np.arange(ATTENTION_STEPS + 1, dtype=np.uint16), job.settings.threshold)
    shown = attention_image(gates)
    for area in areas:
        rows = plane.rows(area, margin)
        steps = band_attention(rows, area, job)
        enhanced = enhanced_band(rows, area, steps, gates, job)
        for counts, made, own in zip(rows.counts, enhanced, steps, strict=True):
            raw = counts[area.top - rows.first_row : area.bottom - rows.first_row]
            yield Band(area.top, raw, made, shown.take(own), RowsHeld.of(row_sums(counts), rows.first_row))


def band_attention(rows: InputRows, area: Tile, job: PlaneJob) -> npt.NDArray[np.uint16]:
    """Return attention of a band, (G, rows, X) in steps of 1/1024, computed on fixed blocks of 512 px."""
    started = time.perf_counter()
    steps = np.empty((len(rows.counts), *area.shape), np.uint16)
    for block in tiles_of(area, BLOCK_PX):
        steps[..., *block.slices(area.top, area.left)] = block_attention(rows, block, job.translator)
    job.work.attention_s += time.perf_counter() - started
    return steps


def block_attention(rows: InputRows, block: Tile, translator: Translator) -> npt.NDArray[np.uint16]:
    """Return attention on one block, (G, Y, X) in steps of 1/1024, from rows of the plane that hold its halo."""
    around = block.grown(translator.attention_halo_px, translator.stride)
    steps = quantise(_core(translator.attention(rows.window(around)[None])[0], block, around))
    steps = np.repeat(steps, len(rows.kept), axis=0) if len(steps) < len(rows.kept) else steps
    for own, kept in zip(steps, rows.kept, strict=True):
        if kept is not None:
            own[kept[block.slices(rows.first_row)]] = 0
    return np.repeat(steps, len(rows.counts), axis=0) if len(steps) < len(rows.counts) else steps


def enhanced_band(
    rows: InputRows, area: Tile, steps: npt.NDArray[np.uint16], gates: Floats, job: PlaneJob
) -> npt.NDArray[Any]:
    """Return a band (G, rows, X) in the dtype of the file: the input's own pixels, changed where the gate is not 0.

    `steps` are attention (G, rows, X); `gates` (1025,) hold the gate at each step of it, and do not fall.
    """
    started = time.perf_counter()
    translator, side_px = job.translator, job.tile_px
    enhanced = rows.inside(area)[0].copy()
    selected = steps.max(axis=0) >= np.count_nonzero(gates == 0)
    tiles = list(tiles_of(area, side_px))
    job.work.tiles_total += len(tiles)
    if not job.settings.dense:
        job.work.tiles_skipped += sum(not selected[tile.slices(area.top, area.left)].any() for tile in tiles)
        tiles = fitted_tiles(selected, area, side_px=side_px, halo_px=translator.generator_halo_px)
    windows = [(tile, tile.grown(translator.generator_halo_px, translator.stride)) for tile in tiles]
    for batch in batches(windows, most_px=side_px**2):
        images = np.stack([rows.window(around) for _, around in batch])  # (B, C, Y, X)
        job.work.generator_px += images[:, 0].size
        for (tile, around), proposal in zip(batch, translator.proposal(images), strict=True):
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
        return change_counts(gated, proposal, unit, counts, spans=plane.spans, target=job.target)
    light = luminance_of(counts)[None]
    changed = change_counts(gated[:1], proposal, unit, light, spans=plane.spans, target=job.target)
    return change_in_color(changed, counts, plane.blacks, known=known_from(job.luminance))


def change_counts(
    gated: Floats, proposal: Floats, unit: Floats, counts: npt.NDArray[Any], *, spans: npt.NDArray[np.float64],
    target: IntensityRange | None,
) -> npt.NDArray[np.float64]:  # fmt: skip
    """Return g (F(s) - s) in counts, on the input's scale or towards the target's; all arrays are (G, Y, X)."""
    if target is None:
        return np.asarray(change(gated, proposal, unit).astype(np.float64) * spans)
    wanted = target.black + proposal.astype(np.float64) * target.span
    return np.asarray(change(gated, wanted, counts.astype(np.float64)), dtype=np.float64)
