"""One plane of a stack on its own, with the pixels that it has in the whole: levels of its time, gates, neighbours."""

from dataclasses import replace

from cellxlate.enhancement.flow import MakeBands, PlaneToDo, seen_planes
from cellxlate.enhancement.gates.sample import gates_of_plane
from cellxlate.enhancement.input import OpenPlane
from cellxlate.enhancement.plan import Plan
from cellxlate.enhancement.plane import Band, GateSource, Work, enhance_plane
from cellxlate.enhancement.tiling import Tile
from cellxlate.plugin.layers import channel_of_plane, plane_stack
from cellxlate.stacks.stack import PlaneIndex, Stack


def made_in_whole(whole: Plan, plane: PlaneIndex) -> MakeBands:
    """Return what makes the bands of a plane where it lies, for the plan that `plan_of_plane` has made of it."""
    see = seen_planes(whole)

    def make(planes: PlaneToDo, area: Tile, open_plane: OpenPlane) -> tuple[list[Band], Work]:
        there, work = [_in_whole(whole.stack, plane, index) for index in planes.indices], Work()
        job = whole.job_of(there[0])
        if job is None:
            return [Band.copied(open_plane(planes.indices[0])(slice(area.top, area.bottom)), area.top)], work
        bands = enhance_plane(job.input(whole.stack, there[0], see=see), [area], replace(job, work=work))
        made = dict(zip(job.channels, bands, strict=True))
        own = (made[whole.stack.channel_of(index)] for index in there)
        return [replace(band, beside=()) for band in own], work  # what lies beside is no part of the plane's stack

    return make


def _in_whole(stack: Stack, plane: PlaneIndex, index: PlaneIndex) -> PlaneIndex:
    """Return where a plane of the narrowed stack, which has no axes but samples, lies in the whole."""
    positions, samples = iter(plane), iter(index)
    return tuple(next(samples if axis == "S" else positions) for axis in stack.plane_axes)


def plan_of_plane(plan: Plan, plane: PlaneIndex, part: Tile | None = None) -> Plan:
    """Narrow a plan to one plane of its stack, or to a part of it, with the levels of the whole at its time."""
    whole = plan.stack
    time = whole.time_of(_in_whole(whole, plane, (0,)))
    gates = _gates_of_plane(plan, plane, part, time)
    own: dict[int, tuple[int, ...]] = {each: (each,) for each in plan.channels}
    if "C" in whole.axes:  # without it, samples are channels
        own = {channel_of_plane(whole.axes, plane): tuple(range(whole.size("S")))}
    jobs = []
    for job in plan.jobs:
        ranges = {at: one.at(time) for channel, one in job.intensities.items() for at in own.get(channel, ())}
        light = job.luminance and job.luminance.at(time)
        jobs += [replace(job, intensities=ranges, gates=gates, luminance=light)] if ranges else []
    return replace(plan, stack=plane_stack(whole, plane, part), jobs=tuple(jobs))


def _gates_of_plane(plan: Plan, plane: PlaneIndex, part: Tile | None, time: int) -> GateSource:
    """Return the gate of a plane, or of a part of it, apart from the other planes of its stack."""
    whole, source = plan.stack, plan.source
    rows, columns = part.slices() if part else (slice(None), slice(None))
    positions = dict(zip((axis for axis in whole.axes if axis in "TCZ"), plane, strict=True))
    index, channel = _in_whole(whole, plane, (0,)), None
    if source.channel is not None and "C" in whole.axes:
        beside = tuple(source.channel if axis == "C" else at for axis, at in positions.items())
        channel = plane_stack(whole, beside, part)
    return gates_of_plane(plan.jobs[0].gates, index, rows, columns, channel, time=time)
