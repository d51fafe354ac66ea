"""Windows of a stack with the same places of the planes beside them, and what networks make of their own plane."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from cellxlate.enhancement.input import Context, PlaneInput, planes_seen
from cellxlate.enhancement.plane import PlaneJob, enhance_plane, enhanced_band, network_attention
from cellxlate.enhancement.tiling import Tile, bands_of
from cellxlate.model.attention import ATTENTION_STEPS, gate
from cellxlate.quality.error_sums import Candidate, Plane
from cellxlate.stacks.intensity.contrast import contrast_windows
from cellxlate.stacks.intensity.range import IntensityRange
from cellxlate.stacks.stack import PlaneIndex, Stack


@dataclass(frozen=True)
class Sight:
    """A window of a plane as networks see it: with the same place of other planes, on levels that all windows share.

    Attributes
    ----------
    channel : int
        Of the window.
    counts : ndarray (Y, X), float32
        Of its own plane.
    seen : mapping of Context to tuple of (ndarray (Y, X) of float32, or None)
        The planes that networks see in each context, in their order; None stands for the own one, which at the ends of
        a stack is its own neighbour as well.
    own : IntensityRange
        The levels it was recorded with.
    """

    channel: int
    counts: Plane
    seen: Mapping[Context, tuple[Plane | None, ...]]
    own: IntensityRange


def sights_of(
    stack: Stack, intensities: Mapping[int, IntensityRange], channel: int, contexts: Sequence[Context], *,
    levels: IntensityRange, side_px: int, count: int,
) -> list[Sight]:  # fmt: skip
    """Read at most so many windows of a channel where there is contrast, and the planes beside them.

    Parameters
    ----------
    intensities : mapping of int to IntensityRange
        Of the channels that are seen together, the channel's own among them.
    contexts : sequence of Context
        In which they will be seen.
    levels : IntensityRange
        On which all are brought.
    side_px, count : int
        Of the windows.
    """
    sights = []
    windows = contrast_windows(stack, channel, intensities[channel], side_px=side_px, count=count)
    for (index, rows, columns), counts, own in windows:
        seen = {one: planes_seen(stack, index, intensities, one) for one in contexts}
        planes: dict[PlaneIndex, Plane | None] = {
            one: levels.levelled(
                stack.read(one, rows, columns), intensities[stack.channel_of(one)].at(stack.time_of(one))
            )
            for one in dict.fromkeys(one for several in seen.values() for one in several)
            if one != index
        }
        in_contexts = {context: tuple(planes.get(one) for one in several) for context, several in seen.items()}
        sights.append(Sight(channel, levels.levelled(counts, own), in_contexts, own))
    return sights


def attended(sight: Sight, job: PlaneJob) -> npt.NDArray[np.uint16]:
    """Return what the networks attend to in a window, (G, Y, X) in steps of 1/1024."""
    whole = _whole(sight)
    return network_attention(_input(sight, job, sight.counts).rows(whole, job.margin_px), whole, job.translator)


def proposed(sight: Sight, job: PlaneJob, steps: npt.NDArray[np.uint16]) -> Candidate:
    """Return what makes of the window's own plane what a job would, where attention is as given, (G, Y, X).

    What it is given stands for the plane wherever that is seen: at the ends of a stack it is its own neighbour.
    """
    gates = gate(np.arange(ATTENTION_STEPS + 1, dtype=np.uint16), job.settings.threshold)
    whole, number = _whole(sight), _number(sight, job)

    def made(plane: Plane) -> npt.NDArray[Any]:
        rows = _input(sight, job, plane).rows(whole, job.margin_px)
        return np.asarray(enhanced_band(rows, whole, steps, gates, job)[number])

    return made


def selected(sight: Sight, job: PlaneJob, steps: npt.NDArray[np.uint16]) -> npt.NDArray[np.bool_]:
    """Return where attention lets something change, (Y, X)."""
    return np.asarray(gate(steps[_number(sight, job)], job.settings.threshold) > 0)


def enhanced(sight: Sight, job: PlaneJob) -> Candidate:
    """Return what makes of the window's own plane what a job would, attention included."""

    def made(plane: Plane) -> npt.NDArray[Any]:
        bands = enhance_plane(_input(sight, job, plane), bands_of(plane.shape, job.tile_px), job)
        return np.concatenate([band.enhanced for band in islice(bands, _number(sight, job), None, len(job.channels))])

    return made


def _input(sight: Sight, job: PlaneJob, plane: Plane) -> PlaneInput:
    """Return what networks see where its own plane is another one."""
    levels, seen, offsets = job.intensities[sight.channel], sight.seen[job.context], job.context.offsets
    readers = tuple((partial(_rows, plane if one is None else one), levels) for one in seen)
    where = tuple((0,) if one is None else (number,) for number, one in enumerate(seen, start=1))
    return PlaneInput(plane.shape, readers, slice(offsets.index(0), None, len(offsets)), where)


def _rows(plane: Plane, rows: slice) -> Plane:
    return plane[rows]


def _whole(sight: Sight) -> Tile:
    rows, columns = sight.counts.shape
    return Tile(0, rows, 0, columns)


def _number(sight: Sight, job: PlaneJob) -> int:
    """Return which of the job's channels the window is of."""
    return job.channels.index(sight.channel)
