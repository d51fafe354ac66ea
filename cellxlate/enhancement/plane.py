"""One plane: attention first, the generator only where attention selects, the change added to the stored pixels.

A plane is a generator of finished bands, so memory is bounded by a band and a caller can stop after each.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from cellxlate.enhancement.fitting import batches, fitted_tiles
from cellxlate.enhancement.tiling import BLOCK_PX, LEAST_WINDOW_PX, Tile, mirrored, tile_side, tiles_of, window
from cellxlate.model.attention import ATTENTION_STEPS, apply_change, attention_image, change, gate, quantise
from cellxlate.settings import EnhanceSettings
from cellxlate.stacks.intensity.network_input import REACH_PX, network_input
from cellxlate.stacks.intensity.range import IntensityRange
from cellxlate.stacks.stack import PlaneIndex
from cellxlate.stacks.write.origins import Origin, RowsHeld, made_sums, row_sums

Floats = npt.NDArray[np.float32]
ReadRows = Callable[[slice], npt.NDArray[Any]]
"""Reads whole rows of the plane: (rows, X) in the file's dtype."""


class Translator(Protocol):
    """What runs the networks. Arrays are (B, 1, Y, X) float32 in unit range; sides are multiples of `stride`.

    What comes back may be smaller by an equal margin, at most the halo, at every side.
    """

    stride: int
    generator_halo_px: int
    attention_halo_px: int
    activation_bytes_per_px: float

    def attention(self, images: Floats) -> Floats:
        """Return attention in [0, 1], (B, 1, Y, X)."""
        ...

    def proposal(self, images: Floats) -> Floats:
        """Return F(s) in unit range, (B, 1, Y, X)."""
        ...


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
class Rows:
    """Rows of a plane that hold a band and the halo around it.

    Attributes
    ----------
    counts : ndarray (rows, X)
        As stored.
    unit : ndarray (rows, X) of float32
        What networks see of it, in unit range.
    first_row : int
        Of the plane.
    plane_shape : (int, int)
        Rows and columns of the plane.
    kept : ndarray (rows, X) of bool, or None
        Pixels that are kept whatever attention says.
    """

    counts: npt.NDArray[Any]
    unit: Floats
    first_row: int
    plane_shape: tuple[int, int]
    kept: npt.NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class PlaneJob:
    """How the planes of one channel are enhanced.

    Attributes
    ----------
    translator : Translator
        Runs the networks.
    intensity : IntensityRange
        Counts that become 0 and 1 in this channel.
    target : IntensityRange or None
        Where given, cells move to this scale; otherwise they stay on the input's.
    settings : EnhanceSettings
        Threshold, tile size, dense or sparse.
    work : Work
        Counted up while planes are enhanced.
    """

    translator: Translator
    intensity: IntensityRange
    target: IntensityRange | None = None
    settings: EnhanceSettings = field(default_factory=EnhanceSettings)
    work: Work = field(default_factory=Work)

    @property
    def tile_px(self) -> int:
        """Side of a tile's core."""
        return tile_side(
            self.settings.tile_px,
            halo_px=self.translator.generator_halo_px,
            stride=self.translator.stride,
            activation_bytes_per_px=self.translator.activation_bytes_per_px,
        )


def enhance_plane(read_rows: ReadRows, areas: Iterable[Tile], shape: tuple[int, int], job: PlaneJob) -> Iterator[Band]:
    """Enhance bands of a plane.

    Parameters
    ----------
    read_rows : callable
        Reads rows of the plane.
    areas : iterable of Tile
        The bands, as `tiling.bands_of` cuts them; a resumed run leaves out what is done.
    shape : (int, int)
        Rows and columns of the plane, each at least 1.
    job : PlaneJob
        Translator, levels and settings.

    Yields
    ------
    Band
        In the order of `areas`. The same pixels for any tile size: exactly where attention keeps the pixel, and up to
        the rounding of float32 convolutions elsewhere.
    """
    margin = max(job.translator.generator_halo_px, job.translator.attention_halo_px) + job.translator.stride
    gates = gate(np.arange(ATTENTION_STEPS + 1, dtype=np.uint16), job.settings.threshold)
    shown = attention_image(gates)
    for area in areas:
        counts, first_row = rows_around(read_rows, area, margin, shape)
        seen = network_input(counts, job.intensity)
        rows = Rows(counts, seen.unit, first_row, shape, seen.kept)
        steps = band_attention(rows, area, job)
        enhanced = enhanced_band(rows, area, steps, gates, job)
        raw = counts[area.top - first_row : area.bottom - first_row]
        yield Band(area.top, raw, enhanced, shown.take(steps), RowsHeld.of(row_sums(counts), first_row))


def rows_around(
    read_rows: ReadRows, area: Tile, margin_px: int, shape: tuple[int, int]
) -> tuple[npt.NDArray[Any], int]:
    """Read the rows that windows in an area need, mirrored ones too; return them and the number of the first.

    They hold `network_input.REACH_PX` more, which decide what networks see of the others.
    """
    margin_px += REACH_PX
    needed = mirrored(area.top - margin_px, area.bottom + margin_px + LEAST_WINDOW_PX, shape[0])
    first_row = int(needed.min())
    return read_rows(slice(first_row, int(needed.max()) + 1)), first_row


def band_attention(rows: Rows, area: Tile, job: PlaneJob) -> npt.NDArray[np.uint16]:
    """Return attention of a band, (rows, X) in steps of 1/1024, computed on fixed blocks of 512 px."""
    started = time.perf_counter()
    steps = np.empty(area.shape, np.uint16)
    for block in tiles_of(area, BLOCK_PX):
        steps[block.slices(area.top, area.left)] = block_attention(rows, block, job.translator)
    job.work.attention_s += time.perf_counter() - started
    return steps


def block_attention(rows: Rows, block: Tile, translator: Translator) -> npt.NDArray[np.uint16]:
    """Return attention on one block in steps of 1/1024, from rows of the plane that hold its halo."""
    around = block.grown(translator.attention_halo_px, translator.stride)
    images = window(rows.unit, rows.first_row, rows.plane_shape, around)[None, None]
    steps = quantise(_core(translator.attention(images)[0, 0], block, around))
    if rows.kept is not None:
        steps[rows.kept[block.slices(rows.first_row)]] = 0
    return steps


def enhanced_band(
    rows: Rows, area: Tile, steps: npt.NDArray[np.uint16], gates: Floats, job: PlaneJob
) -> npt.NDArray[Any]:
    """Return a band (rows, X) in the dtype of the file: the input's own pixels, changed where the gate is not 0.

    Parameters
    ----------
    steps : ndarray (rows, X) of uint16
        Attention.
    gates : ndarray (1025,)
        The gate at each step of attention; it does not fall.
    """
    started = time.perf_counter()
    translator, side_px = job.translator, job.tile_px
    enhanced = rows.counts[area.slices(rows.first_row)].copy()
    selected = steps >= np.count_nonzero(gates == 0)
    tiles = list(tiles_of(area, side_px))
    job.work.tiles_total += len(tiles)
    if not job.settings.dense:
        job.work.tiles_skipped += sum(not selected[tile.slices(area.top, area.left)].any() for tile in tiles)
        tiles = fitted_tiles(selected, area, side_px=side_px, halo_px=translator.generator_halo_px)
    windows = [(tile, tile.grown(translator.generator_halo_px, translator.stride)) for tile in tiles]
    for batch in batches(windows, most_px=side_px**2):
        images = np.stack([window(rows.unit, rows.first_row, rows.plane_shape, around) for _, around in batch])[:, None]
        job.work.generator_px += images.size
        for (tile, around), proposal in zip(batch, translator.proposal(images), strict=True):
            here, there = tile.slices(area.top, area.left), tile.slices(rows.first_row)
            gated, raw = gates[steps[here]], rows.counts[there]
            changed = change_counts(gated, _core(proposal[0], tile, around), rows.unit[there], raw, job)
            enhanced[here] = apply_change(raw, changed, gated)
    job.work.generator_s += time.perf_counter() - started
    return enhanced


def _core(outcome: Floats, tile: Tile, around: Tile) -> Floats:
    """Cut a tile from what a network made of the window around it, less a margin."""
    margin = (around.shape[0] - outcome.shape[0]) // 2
    return outcome[tile.slices(around.top + margin, around.left + margin)]


def change_counts(
    gated: Floats, proposal: Floats, unit: Floats, counts: npt.NDArray[Any], job: PlaneJob
) -> npt.NDArray[np.float64]:
    """Return g (F(s) - s) in counts, on the input's scale or towards the target's."""
    if job.target is None:
        return change(gated, proposal, unit).astype(np.float64) * job.intensity.span
    wanted = job.target.black + proposal.astype(np.float64) * job.target.span
    return np.asarray(change(gated, wanted, counts.astype(np.float64)), dtype=np.float64)
