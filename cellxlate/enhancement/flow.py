"""Planes in, finished bands out and into files: while the networks run, the next plane is read and the last is written.

One thread reads, one writes, as many run the networks as there are streams. At most one plane is read ahead and two
bands wait to be written, so memory does not grow with the stack.
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, groupby
from math import prod
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from cellxlate.enhancement.input import ANEW, OpenPlane, SeenPlanes
from cellxlate.enhancement.neighbours.held import HeldPlanes
from cellxlate.enhancement.outputs.names import Outputs
from cellxlate.enhancement.plan import Plan
from cellxlate.enhancement.plane import Band, PlaneJob, Work, enhance_plane
from cellxlate.enhancement.tiling import Tile, bands_of
from cellxlate.errors import OutputError
from cellxlate.locations import Location
from cellxlate.model.engines.threads import in_streams
from cellxlate.prefetch import ahead
from cellxlate.stacks.stack import PLANE_KEPT_PX, PlaneIndex, Stack, plane_reader
from cellxlate.stacks.write.origins import Origin
from cellxlate.stacks.write.pyramid import Share
from cellxlate.stacks.write.writer import BAND_PX, Writer, open_writer

WAITING_BANDS = 2
HELD_BYTES = 32 << 20
"""Of planes that are seen at once, as they are stored: 7 of 1500 x 1500 px in 16 bits."""

IsDone = Callable[[PlaneIndex, Tile], bool]
WriteBands = Callable[[Plan, Writer, Writer, float], "Iterator[EnhanceProgress]"]
"""Writes every band that is not there yet: in this process (`write_bands`), or on a cluster."""


Phase = Literal[
    "adapting", "levels", "checking", "enhancing", "writing", "verifying", "report", "publishing", "confidence"
]
"""What a run does: a model learns from the stack (`done` and `total` are seconds then), it measures levels, looks at
what an earlier run has done, enhances, puts the files together, reads them back, writes the report, gives the files
their names, and asks the networks how sure they are."""


@dataclass(frozen=True)
class EnhanceProgress:
    """How far an enhancement has come: what it does now, planes that are done with it, and seconds so far."""

    name: str
    done: float
    total: int
    seconds: float
    phase: Phase = "enhancing"

    def __str__(self) -> str:
        if self.phase == "adapting":
            return f"{self.name}: {self.phase}, {self.done:.0f} of {self.total} s"
        if self.phase != "enhancing":
            return f"{self.name}: {self.phase}, {self.done:.1f} of {self.total} planes  {self.seconds:.0f} s"
        left_s = self.seconds / self.done * (self.total - self.done) if self.done else 0.0
        return f"{self.name}: {self.done:.1f} of {self.total} planes  {self.seconds:.0f} s  about {left_s:.0f} s left"


Progress = Callable[[EnhanceProgress], object]
Result = TypeVar("Result")
Tell = Callable[[Phase, float], object]
"""Is told what a run does now, and with how many planes it is done."""


def no_news(phase: Phase, planes: float) -> None:
    """Nobody wants to know."""


def phase_teller(stack: Stack, started: float, progress: Progress | None) -> Tell:
    """Return what passes on how far a phase is."""

    def tell(phase: Phase, planes: float) -> None:
        if progress:
            progress(EnhanceProgress(stack.name, planes, stack.plane_count, time.perf_counter() - started, phase))

    return tell


class Steps(Generic[Result]):
    """The steps of a run, to go through once, and after the last one what they lead to (`result`)."""

    result: Result

    def __init__(self, steps: Generator[EnhanceProgress | None, None, Result]) -> None:
        self._steps = steps

    def __iter__(self) -> Iterator[EnhanceProgress | None]:
        """Yield the news of each step."""
        self.result = yield from self._steps


def follow(steps: Generator[EnhanceProgress | None, None, Result], progress: Progress | None = None) -> Result:
    """Go through all steps and return what they lead to; what `progress` raises ends them at that step."""
    with closing(steps):
        for news in (run := Steps(steps)):
            if progress and news:
                progress(news)
    return run.result


@dataclass(frozen=True)
class PlaneToDo:
    """Planes that are enhanced together, how many come before them, and their bands that are not done.

    Where planes are done in parts, the bands of one place in all that follow each other, `number` counts so that what
    is done is `number` and the share of these that lies above the end of a band.
    """

    number: float
    indices: tuple[PlaneIndex, ...]
    wanted: list[Tile]


MakeBands = Callable[[PlaneToDo, Tile, OpenPlane], tuple[list[Band], Work]]
"""Makes the bands of planes that are enhanced together, in one area, and says what was spent on them."""


def open_writers(plan: Plan, outputs: Outputs, *, overwrite: bool, resume: bool) -> tuple[Writer, Writer]:
    """Open the writers of the enhanced stack and of its attention, which has the same axes in uint8."""
    identity, provenance = plan.identity, plan.provenance
    image_writer = open_writer(
        outputs.enhanced, like=plan.stack, format=outputs.format, fingerprint=identity, provenance=provenance,
        overwrite=overwrite, resume=resume,
    )  # fmt: skip
    try:
        attention_writer = open_writer(
            outputs.attention, like=plan.stack, dtype=np.dtype(np.uint8), format=outputs.format, reduction="max",
            fingerprint=identity, provenance=provenance, overwrite=overwrite, resume=resume,
        )  # fmt: skip
    except BaseException:
        with image_writer:  # releases it
            raise
    return image_writer, attention_writer


def write_bands(
    plan: Plan, image_writer: Writer, attention_writer: Writer, started: float, make: MakeBands | None = None
) -> Iterator[EnhanceProgress]:
    """Write every band that is not there yet; one whose image, attention and origin are all written is done.

    Bands that were handed on when this is closed are still written; those in the networks are not.
    """

    def write(index: PlaneIndex, band: Band) -> None:
        origin = band.origin(index)
        image_writer.write(index, band.first_row, band.enhanced)
        attention_writer.write(index, band.first_row, band.attention)
        image_writer.origins.add(origin)

    waiting: deque[Future[None]] = deque()
    with ThreadPoolExecutor(1, "cellxlate-write") as pool:
        is_done = both_written(plan, image_writer, attention_writer)
        for index, band, news in enhanced_bands(plan, is_done, started=started, make=make):
            waiting.append(pool.submit(write, index, band))
            if len(waiting) > WAITING_BANDS:
                waiting.popleft().result()
            yield news
        for writing in waiting:
            writing.result()


def files_written(
    plan: Plan,
    image_writer: Writer,
    attention_writer: Writer,
    started: float,
    tell: Tell,
    write: WriteBands,
    share: Share,
) -> Generator[EnhanceProgress, None, tuple[Location, Location]]:  # fmt: skip
    """Write all bands and build the two files; bands that turn out to be damaged on disk are written again, once."""
    writers = image_writer, attention_writer

    def finish() -> tuple[Location, Location]:
        count = plan.stack.plane_count
        image = image_writer.finish(share, lambda planes: tell("writing", planes / 2))
        return image, attention_writer.finish(share, lambda planes: tell("writing", (count + planes) / 2))

    yield from write(plan, image_writer, attention_writer, started)
    tell("writing", 0)
    try:
        return finish()
    except OutputError:
        if not any(level.missing() for writer in writers for level in writer.pyramid.all_resolutions):
            raise
    yield from write(plan, image_writer, attention_writer, started)
    return finish()


def both_written(plan: Plan, image_writer: Writer, attention_writer: Writer) -> IsDone:
    """Return what tells whether a band's image and attention are both written, and what they were made from.

    The origin of a band that is lost is forgotten first: it is written last, so no other band can pass for the old one.
    """
    written = image_writer.bands.found(), attention_writer.bands.found()
    areas = {area.top: area for area in bands_of(plan.stack.plane_shape, plan.tile_px)}
    noted: dict[tuple[PlaneIndex, int], list[Origin]] = {}
    for origin in chain.from_iterable(image_writer.origins.found().values()):
        noted.setdefault((origin.index, origin.top), []).append(origin)

    def is_there(index: PlaneIndex, area: Tile) -> bool:
        return all(
            is_written(index, band)
            for is_written in written
            for band in range(area.top // BAND_PX, -(-area.bottom // BAND_PX))
        )

    lost = [(index, top) for index, top in noted if top not in areas or not is_there(index, areas[top])]
    image_writer.origins.remove(chain.from_iterable([noted.pop(band) for band in lost]))
    return lambda index, area: (index, area.top) in noted


def enhanced_bands(
    plan: Plan, is_done: IsDone = lambda _index, _area: False, *, started: float, make: MakeBands | None = None
) -> Iterator[tuple[PlaneIndex, Band, EnhanceProgress]]:
    """Yield the bands of all planes that are not done, with news; channels that were not chosen are copied."""
    stack, make = plan.stack, make or maker_of(plan)

    def enhanced(part: tuple[PlaneToDo, OpenPlane, Tile]) -> tuple[PlaneToDo, list[Band], Work]:
        plane, open_plane, area = part
        return plane, *make(plane, area, open_plane)

    parts = (
        (plane, open_plane, area)
        for plane, open_plane in read_ahead(plan, planes_to_do(plan, is_done))
        for area in plane.wanted
    )
    for plane, bands, work in in_streams(enhanced, parts, streams=plan.streams):
        job = plan.job_of(plane.indices[0])
        if job:
            job.work.include(work, at_once=plan.streams)
        for index, band in zip(plane.indices, bands, strict=True):
            rows = (band.first_row + len(band.raw)) / stack.plane_shape[0]
            done = plane.number + len(bands) * rows
            news = EnhanceProgress(stack.name, done, stack.plane_count, time.perf_counter() - started)
            yield index, band, news


def maker_of(plan: Plan) -> MakeBands:
    """Return what makes the bands of a plan's own stack."""
    see = seen_planes(plan)

    def make(plane: PlaneToDo, area: Tile, open_plane: OpenPlane) -> tuple[list[Band], Work]:
        index, work = plane.indices[0], Work()
        job = plan.job_of(index)
        if job is None:
            return [Band.copied(open_plane(index)(slice(area.top, area.bottom)), area.top)], work
        bands = enhance_plane(job.input(plan.stack, index, open_plane, see), [area], replace(job, work=work))
        return list(bands), work

    return make


def planes_to_do(plan: Plan, is_done: IsDone) -> Iterator[PlaneToDo]:
    """Yield the planes of which a band is not done; it is made again in all that are enhanced together.

    Of planes that see neighbours and are too large to be kept, bands of one place follow each other.
    """
    areas = list(bands_of(plan.stack.plane_shape, plan.tile_px))

    def to_do(number: float, indices: tuple[PlaneIndex, ...], areas: Sequence[Tile]) -> Iterator[PlaneToDo]:
        if wanted := [area for area in areas if not all(is_done(index, area) for index in indices)]:
            yield PlaneToDo(number, indices, wanted)

    if not plan.context.along or are_kept(plan):
        for number, indices in plan.groups():
            yield from to_do(number, indices, areas)
        return
    height = plan.stack.plane_shape[0]
    for run in runs_of_neighbours(plan):
        before, planes = run[0][0], sum(len(indices) for _, indices in run)
        for area in areas:
            done = before + planes * area.top / height
            for _, indices in run:
                done += len(indices) * (area.bottom - area.top) / height
                yield from to_do(done - len(indices) * area.bottom / height, indices, [area])


def runs_of_neighbours(plan: Plan) -> Iterator[list[tuple[int, tuple[PlaneIndex, ...]]]]:
    """Yield what `plan.groups` does in lists of planes that lie in a row along the axis of neighbours."""
    axis = plan.stack.plane_axes.find(plan.context.axis)

    def place(group: tuple[int, tuple[PlaneIndex, ...]]) -> PlaneIndex:
        index = group[1][0]
        return index[:axis] + index[axis + 1 :] if axis >= 0 else index

    for _, run in groupby(plan.groups(), place):
        yield list(run)


def are_kept(plan: Plan) -> bool:
    """Return whether planes are read whole: unless they are too large, or too many that large are seen at once."""
    pixels, seen = prod(plan.stack.plane_shape), planes_at_once(plan.stack, plan.jobs)
    held_bytes = seen * pixels * plan.stack.dtype.itemsize if seen > 1 else 0
    return pixels <= PLANE_KEPT_PX and held_bytes <= HELD_BYTES


def planes_at_once(stack: Stack, jobs: Sequence[PlaneJob]) -> int:
    """Return how many planes are seen for one, at most."""
    middle = tuple(stack.size(axis) // 2 for axis in stack.plane_axes)
    return max(len(job.planes_seen(stack, job.together(stack, middle)[0])) for job in jobs)


def seen_planes(plan: Plan) -> SeenPlanes:
    """Return what gives planes as networks see them: those that are seen for several others are kept for these."""
    if not plan.context.along:
        return ANEW
    further = (plan.streams - 1) * max(len(job.channels) for job in plan.jobs)
    return HeldPlanes(planes_at_once(plan.stack, plan.jobs) + further, are_whole=are_kept(plan))


def read_ahead(plan: Plan, planes: Iterator[PlaneToDo]) -> Iterator[tuple[PlaneToDo, OpenPlane]]:
    """Yield planes with what reads them and those that are seen with them; while they are worked on, the next are read.

    Planes of more than 16 megapixels are read band by band, when their rows are needed, and so are those of which
    neighbours are seen from 32 MB on.
    """
    stack = plan.stack
    if not are_kept(plan):
        for plane in planes:
            yield plane, partial(plane_reader, stack, most_px=0)
        return
    read: dict[PlaneIndex, npt.NDArray[Any]] = {}

    def open_read(plane: PlaneToDo) -> tuple[PlaneToDo, OpenPlane]:
        nonlocal read  # neighbours are often those of the plane before
        job, index = plan.job_of(plane.indices[0]), plane.indices[0]
        seen = job.planes_seen(stack, index) if job else plane.indices
        kept = read = {one: read[one] if one in read else stack.read(one) for one in seen}
        return plane, lambda index: kept[index].__getitem__

    yield from ahead(open_read, planes)
