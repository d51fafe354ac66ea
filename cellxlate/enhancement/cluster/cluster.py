"""The same job on a dask cluster: bands go out as workers get free, and what comes back is only how they fared.

`Cluster.executor` stands in for this process where bands are computed, pyramids halved and results read back; plan,
report and publishing stay here. Workers write bands into the partial themselves, so no pixel passes through scheduler
or client, and at most two bands per thread are known to the scheduler, however many there are.
"""

import queue
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

from cellxlate.enhancement.cluster import client as connecting
from cellxlate.enhancement.cluster.client import ATTEMPTS, KilledWorker, WorkerPlugin, WorkerWatch, connected_client
from cellxlate.enhancement.cluster.worker import (
    BandDone,
    BandJob,
    CompareJob,
    InputFile,
    QueuedBand,
    Throughput,
    band_job,
    compare_parts,
    enhance_bands,
    fault_of_worker,
    forget_job,
    forget_model,
    keep_model,
    sum_parts,
)  # fmt: skip
from cellxlate.enhancement.flow import EnhanceProgress, both_written, planes_to_do
from cellxlate.enhancement.job import Executor
from cellxlate.enhancement.plan import Plan
from cellxlate.enhancement.proposals.source import Proposal, key_of
from cellxlate.enhancement.tiling import bands_of
from cellxlate.errors import ClusterError, said, who_speaks
from cellxlate.model.bundle import Bundle
from cellxlate.model.engines.malloc import keep_freed_memory
from cellxlate.options import RESUME
from cellxlate.quality.checks import parts_of, plane_label
from cellxlate.quality.tally import Tally
from cellxlate.stacks.stack import PlaneIndex, Stack
from cellxlate.stacks.write.origins import SeeRows
from cellxlate.stacks.write.writer import Writer

BANDS_PER_THREAD = 2
"""One that is computed and one that waits, so that no worker waits for the scheduler."""

TASK_PX, TASKS_PER_THREAD = 2**20, 8
"""Small bands go out together: up to so many pixels, as long as each thread gets so many tasks."""

MOST_FAILED = 20
"""So many bands may fail without one that succeeds in between; then something else is wrong."""

LEAST_PART_PX, MOST_PART_PX = 2**22, 2**28
"""Pixels that a worker reads back at a time."""

MOST_NAMED = 5
Task = list[QueuedBand]
"""Bands that a worker does one after another."""


class ModelOnWorkers(WorkerPlugin):  # type: ignore[misc]
    """Brings a model, and what proposes in its place, to every worker once, also to those that come later."""

    def __init__(self, bundle: Bundle, proposal: Proposal | None = None) -> None:
        self.bundle, self.proposal = bundle, proposal
        self.name = f"cellxlate-{bundle.digest}{key_of(proposal)}"

    def setup(self, worker: Any) -> None:
        """Keep the model, and let the networks use as many threads as the worker has."""
        keep_freed_memory(leave=())  # dask sets MALLOC_TRIM_THRESHOLD_ to 64 KB for each of its workers
        keep_model(self.bundle, worker.state.nthreads, self.proposal)

    def teardown(self, worker: Any) -> None:  # noqa: ARG002
        """Release the model."""
        forget_model(self.bundle.digest, key_of(self.proposal))


@dataclass
class Cluster:
    """A dask cluster that bands are sent to.

    Attributes
    ----------
    client : distributed.Client
        Connected.
    workers : dict of str to Throughput
        What each worker has done so far, by its address.
    records : list of BandDone or None
        What each band has cost, where a list is given (for measurements).
    """

    client: Any
    workers: dict[str, Throughput] = field(default_factory=dict)
    records: list[BandDone] | None = None
    _sent: set[str] = field(default_factory=set)

    @property
    def dashboard(self) -> str:
        """Link to dask's dashboard; it needs the package bokeh where the scheduler runs."""
        return str(self.client.dashboard_link)

    def summary(self) -> list[dict[str, Any]]:
        """Return per worker what it has done, as plain values."""
        return [{"worker": name, **done.as_dict()} for name, done in sorted(self.workers.items())]

    def write_bands(
        self, plan: Plan, image_writer: Writer, attention_writer: Writer, started: float
    ) -> Iterator[EnhanceProgress]:
        """Let the workers write every band that is not there yet.

        A band whose worker dies goes to another. One that fails three times is left out; the others are finished.

        Raises
        ------
        ClusterError
            Bands have failed three times, no worker can do the job, or the scheduler was lost.
        """
        token = uuid.uuid4().hex
        job = band_job(
            plan, token, image=image_writer.pyramid, attention=attention_writer.pyramid, origins=image_writer.origins
        )
        plugin = ModelOnWorkers(plan.bundle, plan.proposal)
        if plugin.name not in self._sent:
            connecting.require_sendable(plan.proposal, plan.model_name)
            self.client.register_plugin(plugin)
            self._sent.add(plugin.name)
        self._check_workers(job)
        threads, units = sum(self.client.nthreads().values()), units_to_do(plan, image_writer, attention_writer)
        flight = Flight(self, plan, job, tasks_of(units, plan, threads))
        try:
            yield from flight.news(started)
        finally:
            flight.cancel()
        if flight.failed:
            raise ClusterError(_failures(plan, flight.failed))

    @property
    def executor(self) -> Executor:
        """What `enhance_file` takes as `where`."""
        return Executor(self.write_bands, self.compare, self.share, self.read_again)

    def compare(
        self, plan: Plan, image: Stack, selected: Stack, channels: Sequence[int], tile_px: int, see: SeeRows
    ) -> Tally:
        """Let the workers read a result back, and add up what they count, in the order of the stack."""
        stack = plan.stack
        tally = Tally.of(stack, tile_px=tile_px)
        source, enhanced, attention = (InputFile.of(one) for one in (stack, image, selected))
        job = CompareJob(source, enhanced.path, attention.path, tile_px)
        threads = max(sum(self.client.nthreads().values()), 1)
        part_px = min(max(prod(stack.shape) // (4 * threads), LEAST_PART_PX), MOST_PART_PX)
        parts = parts_of(stack, channels, tile_px=tile_px, part_px=part_px)
        for counted, seen in self.share(partial(compare_parts, job), parts):
            tally.include(counted)
            for one in seen:
                see(*one)
        return tally

    def read_again(self, plan: Plan, planes: Sequence[PlaneIndex], see: SeeRows) -> None:
        """Let the workers read planes of the input again, and tell the checksums of their rows."""
        stack, wanted = plan.stack, set(planes)
        parts = (
            [(index, rows) for index, rows in part if index in wanted]
            for part in parts_of(stack, range(stack.channel_count), tile_px=0, part_px=LEAST_PART_PX)
        )
        for seen in self.share(partial(sum_parts, InputFile.of(stack)), (part for part in parts if part)):
            for one in seen:
                see(*one)

    def share(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """Do what `map` does on the workers: results in order, at most two items per thread in flight.

        Raises
        ------
        ClusterError
            The scheduler was lost, workers die of an item, or there has been no worker for 10 minutes.
        """
        watch, waiting = WorkerWatch(self.client, "the cluster"), deque[Any]()
        try:
            for item in items:
                waiting.append(self.client.submit(function, item, pure=False, retries=ATTEMPTS - 1))
                if len(waiting) >= BANDS_PER_THREAD * watch.look():
                    yield _result(waiting.popleft(), watch)
            while waiting:
                yield _result(waiting.popleft(), watch)
        finally:
            with suppress(Exception):  # the cluster may be gone
                self.client.cancel(list(waiting), force=True)

    def release(self) -> None:
        """Take the models off the workers, which stay for others."""
        for name in self._sent:
            with suppress(Exception):  # the cluster may be gone
                self.client.unregister_worker_plugin(name)
        self._sent.clear()

    def _check_workers(self, job: BandJob) -> None:
        """Wait for a worker, and raise ClusterError if none of those that are there can do the job."""
        with suppress(TimeoutError):
            self.client.wait_for_workers(1, timeout=connecting.WAIT_FOR_WORKERS_S)
        answers = self.client.run(fault_of_worker, job, who_speaks(), on_error="return")
        faults = {worker: said(fault) for worker, fault in answers.items() if fault}
        if not answers:
            raise ClusterError(
                f"no worker came within {connecting.WAIT_FOR_WORKERS_S:.0f} s", remedy=("start some, and give ", RESUME)
            )
        if len(faults) == len(answers):
            worker, fault = next(iter(faults.items()))
            raise ClusterError(f"none of {len(answers)} workers can do the job; {worker}: {fault}")

    def count(self, done: BandDone, plan: Plan, unit: QueuedBand) -> None:
        """Add what a band has cost to the worker that did it and to the plan.

        Seconds of the networks are divided by the number of workers, so that they compare with those on the clock.
        """
        worker = self.workers.setdefault(done.worker, Throughput())
        worker.bands += 1
        worker.pixels += done.pixels
        worker.busy_s += done.seconds
        if self.records is not None:
            self.records.append(done)
        job = plan.job_of(unit.index)
        if job:
            job.work.include(done.work, at_once=len(self.workers))


class Flight:
    """The tasks of one stack that are with the workers now, and the bands that failed."""

    def __init__(self, cluster: Cluster, plan: Plan, job: BandJob, todo: Iterator[Task]) -> None:
        self.cluster, self.plan, self.job, self.todo = cluster, plan, job, todo
        self.failed: list[tuple[QueuedBand, str]] = []
        self._alone: deque[Task] = deque()
        self._waiting: dict[Any, Task] = {}
        self._finished: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._failed_in_a_row = 0
        self._watch = WorkerWatch(cluster.client, plan.stack.name)

    def news(self, started: float) -> Iterator[EnhanceProgress]:
        """Send tasks as others finish, until all are done or have failed; yield after each."""
        stack, passed = self.plan.stack, 0.0
        per_plane = sum(1 for _ in bands_of(stack.plane_shape, self.plan.tile_px))
        while True:
            threads = self._watch.look()
            while len(self._waiting) < BANDS_PER_THREAD * threads and (
                task := self._alone.popleft() if self._alone else next(self.todo, None)
            ):
                self._send(task)
                passed = max(passed, task[-1].passed)
            if not self._waiting:
                return
            for future in self._next_finished():
                self._take(future, self._waiting.pop(future))
                left = sum(map(len, (*self._waiting.values(), *self._alone)))
                done, seconds = (passed - left) / per_plane, time.perf_counter() - started
                yield EnhanceProgress(stack.name, done, stack.plane_count, seconds)

    def cancel(self) -> None:
        """Take back what is not done yet, and let workers close the stack; what they compute now they finish."""
        with suppress(Exception):  # the cluster may be gone, and whatever ends the job is reported by itself
            if self._waiting:
                self.cluster.client.cancel(list(self._waiting), force=True)
            self.cluster.client.run(forget_job, self.job.token, on_error="ignore")
        self._waiting.clear()

    def _send(self, task: Task) -> None:
        where = "-".join(map(str, (*task[0].index, task[0].area.top, len(task))))
        future = self.cluster.client.submit(
            enhance_bands, self.job, [(unit.index, unit.area) for unit in task],
            key=f"cellxlate-band-{self.job.token[:12]}-{where}",
            retries=ATTEMPTS - 1 if len(task) == 1 else 0, pure=False,
        )  # fmt: skip
        self._waiting[future] = task
        future.add_done_callback(self._finished.put)

    def _next_finished(self) -> list[Any]:
        """Return what has finished by now; nothing after some seconds without news."""
        finished: list[Any] = []
        with suppress(queue.Empty):
            finished.append(self._finished.get(timeout=connecting.LOOK_S))
            while True:
                finished.append(self._finished.get_nowait())
        return [future for future in finished if future in self._waiting]

    def _take(self, future: Any, task: Task) -> None:
        """Count bands that are done; send those of a task that failed one by one; note why a single one failed."""
        if future.status == "finished":
            try:
                bands = future.result()
            except (CancelledError, OSError, TimeoutError) as fault:  # done, but no longer to be had
                raise self._watch.lost from fault
            for unit, done in zip(task, bands, strict=True):
                self.cluster.count(done, self.plan, unit)
            self._failed_in_a_row = 0
            return
        if future.status != "error":
            raise self._watch.lost
        if len(task) > 1:
            self._alone += [[unit] for unit in task]
            return
        self.failed.append((task[0], " ".join(said(future.exception()).split())[:300]))
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= MOST_FAILED:
            raise _failures(self.plan, self.failed)


def _result(future: Any, watch: WorkerWatch) -> Any:
    """Wait for a result as long as there is somebody to make it."""
    while True:
        try:
            return future.result(timeout=connecting.LOOK_S)
        except KilledWorker as fault:
            raise ClusterError(f"workers end while they do a part of the job ({fault}); see their logs") from fault
        except (CancelledError, OSError, TimeoutError) as fault:
            if future.status == "error":  # of the function itself
                raise
            if future.status != "pending":
                raise watch.lost from fault
            watch.look()


def units_to_do(plan: Plan, image_writer: Writer, attention_writer: Writer) -> Iterator[QueuedBand]:
    """Yield the bands that are not done, one after another: nothing is listed beforehand."""
    numbers = {area.top: number for number, area in enumerate(bands_of(plan.stack.plane_shape, plan.tile_px), 1)}
    for plane in planes_to_do(plan, both_written(plan, image_writer, attention_writer)):
        for area in plane.wanted:
            passed = plane.number * len(numbers) + len(plane.indices) * numbers[area.top]
            yield QueuedBand(plane.indices[0], area, passed)


def tasks_of(units: Iterable[QueuedBand], plan: Plan, threads: int) -> Iterator[Task]:
    """Put bands that are small together: a task costs client and scheduler some milliseconds, whatever it holds.

    A task holds at most a megapixel, and so few bands that each of the workers' threads gets about 8 tasks, where all
    bands of the stack are counted, done or not; one band at least.
    """
    rows, columns = plan.stack.plane_shape
    areas = list(bands_of((rows, columns), plan.tile_px))
    most_px = max(area.bottom - area.top for area in areas) * columns
    share = len(areas) * plan.stack.plane_count // (TASKS_PER_THREAD * max(threads, 1))
    size = max(min(TASK_PX // most_px, share), 1)
    waiting = iter(units)
    while task := list(islice(waiting, size)):
        yield task


def _failures(plan: Plan, failed: list[tuple[QueuedBand, str]]) -> ClusterError:
    """Return what to raise, which names the bands that failed."""
    named = [
        f"{plane_label(unit.index, plan.stack.plane_axes)} rows {unit.area.top} to {unit.area.bottom - 1} ({fault})"
        for unit, fault in failed[:MOST_NAMED]
    ]
    further = f"; and {len(failed) - MOST_NAMED} more" if len(failed) > MOST_NAMED else ""
    return ClusterError(
        f"{plan.stack.name}: {len(failed)} bands failed {ATTEMPTS} times: {'; '.join(named)}{further}",
        remedy=("what is done is kept, give ", RESUME, " to try these again"),
    )


@contextmanager
def open_cluster(
    *, workers: int | None = None, scheduler: str | Path | None = None, threads: int = 1
) -> Iterator[Cluster]:
    """Start worker processes on this machine, or connect to a cluster that runs.

    Parameters
    ----------
    workers : int, optional
        Processes to start here; they end with the context.
    scheduler : str or Path, optional
        Address ("tcp://host:8786") of a scheduler, or the file it has written (`--scheduler-file`).
    threads : int
        For the networks, per process that is started here.

    Raises
    ------
    OptionError
        Not exactly one of both is given, or no scheduler answers.

    Notes
    -----
    In a script, call it below `if __name__ == "__main__":`, since worker processes import the script.
    """
    with connected_client(workers=workers, scheduler=scheduler, threads=threads) as client:
        cluster = Cluster(client)
        try:
            yield cluster
        finally:
            cluster.release()
