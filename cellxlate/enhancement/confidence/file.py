"""The confidence of a finished run, written beside its attention. Read `write_confidence` from top to bottom."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from cellxlate.enhancement.confidence.views import (
    SMOOTHING_PX,
    VIEWS,
    Output,
    Unit,
    as_it_is,
    confidence_map,
    deviation,
)
from cellxlate.enhancement.gates.steady import steady_attention, without_beside
from cellxlate.enhancement.input import PlaneInput
from cellxlate.enhancement.outputs.names import Outputs, may_replace
from cellxlate.enhancement.plan import Plan
from cellxlate.enhancement.plane import OwnAttention, Translator
from cellxlate.enhancement.tiling import bands_of, tiles_of, window
from cellxlate.errors import OptionError, OutputError
from cellxlate.locations import Location
from cellxlate.model.attention import change, gate, quantise
from cellxlate.options import CONFIDENCE, NO_ATTENTION, TO_REPLACE_OR_RENAME
from cellxlate.stacks.read.open import open_stack
from cellxlate.stacks.stack import PlaneIndex, Stack
from cellxlate.stacks.write.writer import open_writer

TILE_PX = 512


def confidence_path(outputs: Outputs, *, is_free: bool) -> Location:
    """Return where confidence goes: beside attention, which must be kept, `_confidence` for `_attention`.

    Raises
    ------
    OptionError
        Attention is not kept.
    OutputError
        The file exists, and is neither replaced nor resumed (`is_free`).
    """
    if not outputs.keep_attention:
        raise OptionError(CONFIDENCE, " is read together with attention", remedy=("leave out ", NO_ATTENTION))
    head, _, ending = outputs.attention.name.rpartition("_attention")
    path = outputs.attention.with_name(f"{head}_confidence{ending}")
    if path.exists() and not is_free:
        raise OutputError(f"{path} exists already", remedy=TO_REPLACE_OR_RENAME)
    return path


def write_confidence(
    plan: Plan,
    attention: str | Location,
    output: str | Location,
    *,
    views: int = VIEWS,
    overwrite: bool = False,
    resume: bool = False,
    progress: Callable[[float, int], object] = lambda _done, _total: None,
) -> None:
    """Ask the networks again for several views of every tile in which attention selected, and write how they agree.

    Parameters
    ----------
    plan : Plan
        Of the run.
    attention : path
        What the run wrote.
    output : path
        Of the confidence, `NAME_confidence.ome.tif` or `.ome.zarr`: uint8, 0 where the pixel was kept, 255 sure, 1 not.
    views : int
        How many; each costs as much as the run itself.
    overwrite, resume : bool
        Replace an existing output, and what an interrupted run has left of it; that of an earlier run where resumed.
    progress : callable
        Called with planes done and their number.

    Raises
    ------
    InputError, OutputError
        A file cannot be read or written.
    """
    stack = plan.stack
    with open_stack(attention) as selected, open_writer(
        output, like=stack, dtype=np.dtype(np.uint8), reduction="max", fingerprint={**plan.identity, "views": views},
        provenance={**plan.provenance, "views": views}, overwrite=overwrite, resume=resume,
    ) as writer:  # fmt: skip
        for before, indices in plan.groups():
            for first_row, channels in confidence_bands(plan, selected, indices, views=views):
                for index, rows in zip(indices, channels, strict=True):
                    writer.write(index, first_row, rows)
                done = (first_row + channels.shape[1]) / stack.plane_shape[0]
                progress(before + len(indices) * done, stack.plane_count)
        writer.finish()
        writer.publish(replaces=may_replace(writer.path, overwrite=overwrite, resume=resume))


def confidence_bands(
    plan: Plan, selected: Stack, indices: Sequence[PlaneIndex], *, views: int = VIEWS
) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """Yield first row and confidence (G, rows, X) of the bands of planes that are enhanced together; 0 of copies."""
    job = plan.job_of(indices[0])
    plane = job.input(plan.stack, indices[0]) if job else None
    for band in bands_of(plan.stack.plane_shape, TILE_PX):
        chosen = np.stack([selected.read(index, slice(band.top, band.bottom)) > 0 for index in indices])
        confidence = np.zeros(chosen.shape, np.uint8)
        if job and plane and chosen.any():
            halo_px = job.translator.generator_halo_px + job.translator.attention_halo_px + int(4 * SMOOTHING_PX)
            rows = plane.rows(band, halo_px + job.translator.stride)
            read = slice(rows.first_row, rows.first_row + rows.counts.shape[1])
            gates = None
            if not isinstance(job.gates, OwnAttention):
                gates = np.stack([selected.read(index, read) for index in indices]) / np.float32(255)
            for tile in tiles_of(band, TILE_PX):
                inside = (..., *tile.slices(band.top))
                if not chosen[inside].any():
                    continue
                around = tile.grown(halo_px, job.translator.stride)
                seen = rows
                if gates is None and rows.gate:
                    seen = rows.gate
                    output, gated = steady_output(job.translator, job.settings.threshold, plane), as_it_is
                elif gates is None:
                    output, gated = gated_output(job.translator, job.settings.threshold, plane.own), as_it_is
                else:
                    output = proposed_output(job.translator, plane.own)
                    gated = partial(through, window(gates, rows.first_row, plane.shape, around))
                spread = deviation(
                    seen.window(around), output, noise=seen.plane.noise, views=views, seed=tile.top, gated=gated
                )
                confidence[inside] = confidence_map(spread[..., *tile.slices(around.top, around.left)], chosen[inside])
        yield band.top, confidence


def gated_output(translator: Translator, threshold: float, own: slice = slice(None)) -> Output:
    """Return what turns a batch (B, C, Y, X) in unit range into s + g (F(s) - s), (B, G, Y, X); a margin may stay.

    `own` are the G of the C planes that the change is added to.
    """

    def output(images: Unit) -> Unit:
        opened, proposal = gate(quantise(translator.attention(images)), threshold), translator.proposal(images)
        return _gated(images[:, own], opened, proposal)

    return output


def steady_output(translator: Translator, threshold: float, plane: PlaneInput) -> Output:
    """Return what `gated_output` does, of the planes that a steady gate is computed on: attention of all has a say."""
    groups = len(plane.planes[plane.own])

    def output(images: Unit) -> Unit:
        opened, seen = gate(steady_attention(images, groups, translator), threshold), without_beside(images, groups)
        return _gated(seen[:, plane.own], opened, translator.proposal(seen))

    return output


def _gated(own: Unit, opened: Unit, proposal: Unit) -> Unit:
    """Return s + g (F(s) - s) where both networks have looked, and s around."""
    made, shape = own.copy(), min(opened.shape[2:], proposal.shape[2:])
    unit = _middle(made, shape)  # a view
    unit += change(_middle(opened, shape), _middle(proposal, shape), unit)
    return made


def proposed_output(translator: Translator, own: slice) -> Output:
    """Return what turns a batch (B, C, Y, X) in unit range into s and F(s), one behind the other, (B, 2 G, Y, X)."""

    def output(images: Unit) -> Unit:
        made, proposal = images[:, own].copy(), translator.proposal(images)
        _middle(made, proposal.shape[2:])[:] = proposal
        return np.concatenate([images[:, own], made], axis=1)

    return output


def through(gates: Unit, made: Unit) -> Unit:
    """Return s + g (F(s) - s), (G, Y, X), of a gate that is given and of s and F(s), (2 G, Y, X)."""
    unit, proposal = np.split(made, 2)
    return np.asarray(unit + change(gates, proposal, unit), np.float32)


def _middle(images: Unit, shape: tuple[int, ...]) -> Unit:
    margin = (images.shape[2] - shape[0]) // 2
    return images[..., margin : images.shape[2] - margin, margin : images.shape[3] - margin]
