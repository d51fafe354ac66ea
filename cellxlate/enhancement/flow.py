"""Planes in, finished bands out and into files: while the networks run, the next plane is read and the last is written.

One thread reads, one writes, as many run the networks as there are streams. At most one plane is read ahead and two
bands wait to be written, so memory does not grow with the stack.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from typing import Literal

from cellxlate.enhancement.plan import Plan
from cellxlate.enhancement.plane import Band, ReadRows, Work, enhance_plane
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
    """A plane, counted from 0, and its bands that are not done."""

    number: int
    index: PlaneIndex
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
    found = image_writer.bands.found(), attention_writer.bands.found()
    areas = {area.top: area for area in bands_of(plan.stack.plane_shape, plan.tile_px)}
    noted: dict[tuple[PlaneIndex, int], list[Origin]] = {}
    for origin in chain.from_iterable(image_writer.origins.found().values()):
        noted.setdefault((origin.index, origin.top), []).append(origin)

    def is_there(index: PlaneIndex, area: Tile) -> bool:
        return all(
            is_found(index, band)
            for is_found in found
            for band in range(area.top // BAND_PX, -(-area.bottom // BAND_PX))
        )

    lost = [place for place in noted if place[1] not in areas or not is_there(place[0], areas[place[1]])]
    image_writer.origins.remove(chain.from_iterable([noted.pop(place) for place in lost]))
    return lambda index, area: (index, area.top) in noted


def enhanced_bands(
    plan: Plan, is_done: IsDone = lambda _index, _area: False, *, started: float
) -> Iterator[tuple[PlaneIndex, Band, EnhanceProgress]]:
    """Yield the bands of all planes that are not done, with news; channels that were not chosen are copied."""
    stack = plan.stack

    def enhanced(part: tuple[PlaneToDo, ReadRows, Tile]) -> tuple[PlaneToDo, Band, Work]:
        plane, read_rows, area = part
        job, work = plan.job_of(plane.index), Work()
        if job is None:
            return plane, Band.copied(read_rows(slice(area.top, area.bottom)), area.top), work
        job = replace(job, work=work, intensity=job.intensity.at(stack.time_of(plane.index)))
        [band] = enhance_plane(read_rows, [area], stack.plane_shape, job)
        return plane, band, work

    parts = (
        (plane, read_rows, area)
        for plane, read_rows in read_ahead(plan, planes_to_do(plan, is_done))
        for area in plane.wanted
    )
    for plane, band, work in in_streams(enhanced, parts, streams=plan.streams):
        job = plan.job_of(plane.index)
        if job:
            job.work.include(work, at_once=plan.streams)
        done = plane.number + (band.first_row + len(band.raw)) / stack.plane_shape[0]
        news = EnhanceProgress(stack.name, done, stack.plane_count, time.perf_counter() - started)
        yield plane.index, band, news


def planes_to_do(plan: Plan, is_done: IsDone) -> Iterator[PlaneToDo]:
    """Yield the planes of which a band is not done."""
    stack = plan.stack
    for number, index in enumerate(stack.plane_indices()):
        wanted = [area for area in bands_of(stack.plane_shape, plan.tile_px) if not is_done(index, area)]
        if wanted:
            yield PlaneToDo(number, index, wanted)


def read_ahead(plan: Plan, planes: Iterator[PlaneToDo]) -> Iterator[tuple[PlaneToDo, ReadRows]]:
    """Yield planes with what reads their rows; while one is worked on, the next is read.

    Planes of more than 16 megapixels are read band by band, when their rows are needed.
    """
    stack = plan.stack
    rows, columns = stack.plane_shape
    if rows * columns > PLANE_KEPT_PX:
        for plane in planes:
            yield plane, plane_reader(stack, plane.index)
        return
    for plane, kept in ahead(lambda plane: (plane, stack.read(plane.index)), planes):
        yield plane, kept.__getitem__
