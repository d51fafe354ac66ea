"""Planes in, finished bands out and into files: while the networks run, the next plane is read and the last is written.

One thread reads, one writes, as many run the networks as there are streams. At most one plane is read ahead and two
bands wait to be written, so memory does not grow with the stack.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any, Literal

import numpy.typing as npt

from cellxlate.enhancement.input import OpenPlane, planes_seen
from cellxlate.enhancement.plan import Plan
from cellxlate.enhancement.plane import Band, Work, enhance_plane
from cellxlate.enhancement.tiling import Tile, bands_of
from cellxlate.model.engines.threads import in_streams
from cellxlate.prefetch import ahead
from cellxlate.stacks.stack import PLANE_KEPT_PX, PlaneIndex, plane_reader
from cellxlate.stacks.write.origins import Origin
from cellxlate.stacks.write.writer import BAND_PX, Writer

WAITING_BANDS = 2

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


@dataclass(frozen=True)
class PlaneToDo:
    """Planes that are enhanced together, how many come before them, and their bands that are not done."""

    number: int
    indices: tuple[PlaneIndex, ...]
    wanted: list[Tile]


def write_bands(
    plan: Plan, image_writer: Writer, attention_writer: Writer, started: float
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
        for index, band, news in enhanced_bands(plan, is_done, started=started):
            waiting.append(pool.submit(write, index, band))
            if len(waiting) > WAITING_BANDS:
                waiting.popleft().result()
            yield news
        for writing in waiting:
            writing.result()


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
    plan: Plan, is_done: IsDone = lambda _index, _area: False, *, started: float
) -> Iterator[tuple[PlaneIndex, Band, EnhanceProgress]]:
    """Yield the bands of all planes that are not done, with news; channels that were not chosen are copied."""
    stack = plan.stack

    def enhanced(part: tuple[PlaneToDo, OpenPlane, Tile]) -> tuple[PlaneToDo, list[Band], Work]:
        plane, open_plane, area = part
        index, work = plane.indices[0], Work()
        job = plan.job_of(index)
        if job is None:
            return plane, [Band.copied(open_plane(index)(slice(area.top, area.bottom)), area.top)], work
        bands = enhance_plane(job.input(stack, index, open_plane), [area], replace(job, work=work))
        return plane, list(bands), work

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


def planes_to_do(plan: Plan, is_done: IsDone) -> Iterator[PlaneToDo]:
    """Yield the planes of which a band is not done; it is made again in all that are enhanced together."""
    areas = list(bands_of(plan.stack.plane_shape, plan.tile_px))
    for number, indices in plan.groups():
        wanted = [area for area in areas if not all(is_done(index, area) for index in indices)]
        if wanted:
            yield PlaneToDo(number, indices, wanted)


def read_ahead(plan: Plan, planes: Iterator[PlaneToDo]) -> Iterator[tuple[PlaneToDo, OpenPlane]]:
    """Yield planes with what reads them and those that are seen with them; while they are worked on, the next are read.

    Planes of more than 16 megapixels are read band by band, when their rows are needed.
    """
    stack = plan.stack
    rows, columns = stack.plane_shape
    if rows * columns > PLANE_KEPT_PX:
        for plane in planes:
            yield plane, partial(plane_reader, stack)
        return
    read: dict[PlaneIndex, npt.NDArray[Any]] = {}

    def open_read(plane: PlaneToDo) -> tuple[PlaneToDo, OpenPlane]:
        nonlocal read  # neighbours are often those of the plane before
        job, index = plan.job_of(plane.indices[0]), plane.indices[0]
        seen = planes_seen(stack, index, job.channels, job.context) if job else plane.indices
        kept = read = {one: read[one] if one in read else stack.read(one) for one in dict.fromkeys(seen)}
        return plane, lambda index: kept[index].__getitem__

    yield from ahead(open_read, planes)
