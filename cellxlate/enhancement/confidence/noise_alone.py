"""What a run would change where there is nothing but the camera's noise: drawn, and enhanced as the stack is."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from cellxlate.enhancement.plan import Plan
from cellxlate.enhancement.plane import PlaneJob, Work, enhance_plane
from cellxlate.enhancement.tiling import bands_of
from cellxlate.stacks.intensity.noise_model import CameraNoise, unit_covariance
from cellxlate.stacks.intensity.range import IntensityRange
from cellxlate.stacks.stack import Stack

SIDE_PX, PLANES, LEAST_PX = 512, 5, 40


def noise_alone(plan: Plan, noises: Mapping[int, CameraNoise]) -> dict[str, Any]:
    """Enhance a drawn field of nothing but the stack's own noise at its background, on the stack's own levels.

    Parameters
    ----------
    plan : Plan
        Of the run; neither its work nor its stack is touched.
    noises : mapping of int to CameraNoise
        Of the channels that are enhanced, as far as it is known.

    Returns
    -------
    dict
        "changed_percent" of the pixels of 512 x 512 px in each channel, and "objects", the selected regions of at least
        40 px there. Empty where attention is given or another channel's, where colours are enhanced by their luminance,
        where something else than a model of ours proposes, or where no noise is known.
    """
    if plan.source.kind != "network" or plan.proposal or plan.in_color:
        return {}
    jobs = [job for job in plan.jobs if all(_known(noises.get(channel)) for channel in job.channels)]
    if not jobs:
        return {}
    pixels = changed = objects = 0
    for job in map(_without_drift, jobs):
        stack = drawn_noise(plan.stack, {**_beside(job.beside), **noises}, job)
        differ, regions, looked_at = _enhanced(stack, job)
        pixels, changed, objects = pixels + looked_at, changed + differ, objects + regions
    return {"changed_percent": 100 * changed / pixels, "objects": objects}


def _without_drift(job: PlaneJob) -> PlaneJob:
    """Return a job on the levels that noise was measured on, with a count of work of its own."""
    steady = {channel: replace(one, drift=()) for channel, one in job.intensities.items()}
    beside = {channel: replace(one, drift=()) for channel, one in job.beside.items()}
    settings = replace(job.settings, dense=False)
    return replace(job, intensities=steady, beside=beside, work=Work(), settings=settings)


def _known(noise: CameraNoise | None) -> bool:
    return noise is not None and noise.reliable and noise.sd_counts > 0


def _beside(ranges: Mapping[int, IntensityRange]) -> dict[int, CameraNoise]:
    """Return the noise of channels that are seen beside, as far as their levels tell."""
    return {
        channel: CameraNoise(one.noise, (one.noise, one.noise), 0.0, unit_covariance(), black_counts=one.black)
        for channel, one in ranges.items()
    }


def drawn_noise(like: Stack, noises: Mapping[int, CameraNoise], job: PlaneJob) -> Stack:
    """Return a stack in memory of the axes, channels and dtype of another, that holds noise where a job looks.

    Planes are 512 x 512 px, and there are at most five along every other axis. Those that the job sees at the middle
    hold noise as far as it is known; all others are 0.
    """
    sizes = {axis: like.size(axis) if axis in "CS" else min(like.size(axis), PLANES) for axis in like.axes}
    sizes |= {"Y": SIDE_PX, "X": SIDE_PX}
    axes = "".join(axis for axis in like.axes if axis not in "YX") + "YX"
    stack = Stack.from_array(np.zeros([sizes[axis] for axis in axes], like.dtype), axes, name="noise")
    draw = np.random.default_rng(0)
    into: Any = stack.pixels
    for index in job.planes_seen(stack, middle_of(stack, job)):
        if noise := noises.get(stack.channel_of(index)):
            into[index] = stored(_field(noise, draw), like.dtype)
    return stack


def middle_of(stack: Stack, job: PlaneJob) -> tuple[int, ...]:
    """Return the plane in the middle of a stack, of the first channel of a job."""
    return tuple(job.channels[0] if axis in "CS" else stack.size(axis) // 2 for axis in stack.plane_axes)


def _field(noise: CameraNoise, draw: np.random.Generator) -> npt.NDArray[np.float64]:
    white = draw.normal(size=(SIDE_PX, SIDE_PX))
    shared = ndimage.convolve(white, noise.kernel(), mode="wrap")
    return np.asarray(noise.black_counts + noise.sd_counts * shared)


def stored(counts: npt.NDArray[np.float64], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return counts as a file of some dtype holds them: integers rounded, and cut where its values end."""
    if dtype.kind == "f":
        return counts.astype(dtype)
    limits = np.iinfo(dtype)
    return np.clip(np.rint(counts), limits.min, limits.max).astype(dtype)


def _enhanced(stack: Stack, job: PlaneJob) -> tuple[int, int, int]:
    """Enhance the middle planes of a job; return how many pixels changed, selected regions, and pixels."""
    selected: dict[int, list[npt.NDArray[np.bool_]]] = {}
    changed = pixels = regions = 0
    plane = job.input(stack, middle_of(stack, job))
    for band in enhance_plane(plane, bands_of(plane.shape, job.tile_px), job):
        changed += int(np.count_nonzero(band.enhanced != band.raw))
        pixels += band.raw.size
        selected.setdefault(band.first_row, []).append(band.attention > 0)
    for bands in zip(*selected.values(), strict=True):
        labels, _ = ndimage.label(np.concatenate(bands))
        regions += int((np.bincount(labels.ravel())[1:] >= LEAST_PX).sum())
    return changed, regions, pixels
