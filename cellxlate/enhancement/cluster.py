"""The same job on a dask cluster: bands go out as workers get free, and what comes back is only how they fared.

`Cluster.place` takes the place of this process where bands are computed, pyramids halved and results read back; plan,
report and publishing stay here. Workers write bands into the partial themselves, so no pixel passes through scheduler
or client, and at most two bands per thread are known to the scheduler, however many there are.
"""

import logging
import queue
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

from cellxlate.enhancement.flow import EnhanceProgress, both_written, planes_to_do
from cellxlate.enhancement.job import Place
from cellxlate.enhancement.plan import Plan
from cellxlate.enhancement.tiling import bands_of
from cellxlate.enhancement.worker import (
    BandDone,
    BandJob,
    CompareJob,
    Throughput,
    Unit,
    band_job,
    compare_parts,
    enhance_band,
    fault_of_worker,
    forget_job,
    forget_model,
    keep_model,
)  # fmt: skip
from cellxlate.errors import ClusterError, InputError, OptionError
from cellxlate.model.bundle import Bundle
from cellxlate.quality.checks import Tally, parts_of, plane_label
from cellxlate.stacks.stack import Stack
from cellxlate.stacks.writing import Writer

try:
    import dask
    from distributed import Client, Future, LocalCluster, WorkerPlugin
except ImportError as fault:
    raise OptionError('--workers and --scheduler need another package; pip install "cellxlate[distributed]"') from fault

ATTEMPTS = 3
BANDS_PER_THREAD = 2
"""One that is computed and one that waits, so that no worker waits for the scheduler."""

MOST_FAILED = 20
"""So many bands may fail without one that succeeds in between; then something else is wrong."""

LEAST_PART_PX, MOST_PART_PX = 2**22, 2**28
"""Pixels that a worker reads back at a time."""

LOOK_S = 2.0
WAIT_FOR_WORKERS_S = 600.0
CONNECT_S = 30.0
MOST_NAMED = 5


class ModelOnWorkers(WorkerPlugin):  # type: ignore[misc]
    """Brings a model to every worker once, also to those that come later or start again."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.name = f"cellxlate-{bundle.digest}"

    def setup(self, worker: Any) -> None:
        """Keep the model, and let the networks use as many threads as the worker has."""
        keep_model(self.bundle, worker.state.nthreads)

    def teardown(self, worker: Any) -> None:  # noqa: ARG002
        """Release the model."""
        forget_model(self.bundle.digest)


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
        job = band_job(plan, token, image=image_writer.bands, attention=attention_writer.bands)
        self._send_model(plan.bundle)
        self._check_workers(job)
        flight = Flight(self, plan, job, units_to_do(plan, image_writer, attention_writer))
        try:
            yield from flight.news(started)
        finally:
            flight.cancel()
        if flight.failed:
            raise ClusterError(_failures(plan, flight.failed))

    @property
    def place(self) -> Place:
        """What `enhance_file` takes as `where`."""
        return Place(self.write_bands, self.compare, self.share)

    def compare(self, plan: Plan, image: Stack, selected: Stack, channels: Sequence[int], tile_px: int) -> Tally:
        """Let the workers read a result back, and add up what they count, in the order of the stack."""
        stack = plan.stack
        tally = Tally(plane_axes=stack.plane_axes, tile_px=tile_px)
        if stack.path is None or image.path is None or selected.path is None:
            raise InputError(f"{stack.name} lies in memory, workers read from files; write it to a file first")
        job = CompareJob(
            stack.path.absolute(), stack.axes, stack.image, image.path.absolute(), selected.path.absolute(), tile_px
        )
        threads = max(sum(self.client.nthreads().values()), 1)
        part_px = min(max(prod(stack.shape) // (4 * threads), LEAST_PART_PX), MOST_PART_PX)
        parts = parts_of(stack, channels, tile_px=tile_px, part_px=part_px)
        for counted in self.share(partial(compare_parts, job), parts):
            tally.include(counted)
        return tally

    def share(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """Do what `map` does on the workers: results in order, at most two items per thread in flight.

        Raises
        ------
        ClusterError
            The scheduler was lost.
        """
        waiting: deque[Any] = deque()
        threads = max(sum(self.client.nthreads().values()), 1)
        try:
            for item in items:
                waiting.append(self.client.submit(function, item, pure=False, retries=ATTEMPTS - 1))
                if len(waiting) >= BANDS_PER_THREAD * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except (CancelledError, OSError, TimeoutError) as fault:
            raise ClusterError(
                "the scheduler is lost; what is done is kept, start it again and give --resume"
            ) from fault
        finally:
            with suppress(Exception):  # the cluster may be gone
                self.client.cancel(list(waiting), force=True)

    def release(self) -> None:
        """Take the models off the workers, which stay for others."""
        for name in self._sent:
            with suppress(Exception):  # the cluster may be gone
                self.client.unregister_worker_plugin(name)
        self._sent.clear()

    def _send_model(self, bundle: Bundle) -> None:
        plugin = ModelOnWorkers(bundle)
        if plugin.name not in self._sent:
            self.client.register_plugin(plugin)
            self._sent.add(plugin.name)

    def _check_workers(self, job: BandJob) -> None:
        """Wait for a worker, and raise ClusterError if none of those that are there can do the job."""
        with suppress(TimeoutError):
            self.client.wait_for_workers(1, timeout=WAIT_FOR_WORKERS_S)
        found = self.client.run(fault_of_worker, job, on_error="return")
        faults = {worker: str(fault) for worker, fault in found.items() if fault}
        if not found:
            raise ClusterError(f"no worker came within {WAIT_FOR_WORKERS_S:.0f} s; start some, and give --resume")
        if len(faults) == len(found):
            worker, fault = next(iter(faults.items()))
            raise ClusterError(f"none of {len(found)} workers can do the job; {worker}: {fault}")

    def count(self, done: BandDone, plan: Plan, unit: Unit) -> None:
        """Add what a band has cost to the worker that did it and to the plan.

        Seconds of the networks are divided by the number of workers, so that they compare with those on the clock.
        """
        worker = self.workers.setdefault(done.worker, Throughput())
        worker.bands += 1
        worker.pixels += done.pixels
        worker.busy_s += done.seconds
        if self.records is not None:
            self.records.append(done)
        job = plan.jobs.get(plan.stack.channel_of(unit.index))
        if job:
            job.work.tiles_total += done.work.tiles_total
            job.work.tiles_skipped += done.work.tiles_skipped
            job.work.generator_px += done.work.generator_px
            job.work.attention_s += done.work.attention_s / len(self.workers)
            job.work.generator_s += done.work.generator_s / len(self.workers)


class Flight:
    """The bands of one stack that are with the workers now, and those that failed."""

    def __init__(self, cluster: Cluster, plan: Plan, job: BandJob, todo: Iterator[Unit]) -> None:
        self.cluster, self.plan, self.job, self.todo = cluster, plan, job, todo
        self.failed: list[tuple[Unit, str]] = []
        self._waiting: dict[Any, Unit] = {}
        self._finished: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._failed_in_a_row = 0
        self._threads, self._alone_since, self._looked = 1, time.perf_counter(), -LOOK_S

    def news(self, started: float) -> Iterator[EnhanceProgress]:
        """Send bands as others finish, until all are done or have failed; yield after each."""
        stack, passed = self.plan.stack, 0
        per_plane = sum(1 for _ in bands_of(stack.plane_shape, self.plan.tile_px))
        while True:
            self._look()
            while len(self._waiting) < BANDS_PER_THREAD * self._threads and (unit := next(self.todo, None)):
                self._send(unit)
                passed = unit.passed
            if not self._waiting:
                return
            for future in self._next_finished():
                self._take(future, self._waiting.pop(future))
                done = (passed - len(self._waiting)) / per_plane
                yield EnhanceProgress(stack.name, done, stack.plane_count, time.perf_counter() - started)

    def cancel(self) -> None:
        """Take back what is not done yet, and let workers close the stack; what they compute now they finish."""
        with suppress(Exception):  # the cluster may be gone, and whatever ends the job is reported by itself
            if self._waiting:
                self.cluster.client.cancel(list(self._waiting), force=True)
            self.cluster.client.run(forget_job, self.job.token, on_error="ignore")
        self._waiting.clear()

    def _send(self, unit: Unit) -> None:
        where = "-".join(map(str, (*unit.index, unit.area.top)))
        future = self.cluster.client.submit(
            enhance_band, self.job, unit.index, unit.area, key=f"cellxlate-band-{self.job.token[:12]}-{where}",
            retries=ATTEMPTS - 1, pure=False,
        )  # fmt: skip
        self._waiting[future] = unit
        future.add_done_callback(self._finished.put)

    def _next_finished(self) -> list[Any]:
        """Return what has finished by now; nothing after some seconds without news."""
        found: list[Any] = []
        with suppress(queue.Empty):
            found.append(self._finished.get(timeout=LOOK_S))
            while True:
                found.append(self._finished.get_nowait())
        return [future for future in found if future in self._waiting]

    def _take(self, future: "Future", unit: Unit) -> None:
        """Count a band that is done, or note why it failed."""
        if future.status == "finished":
            self.cluster.count(future.result(), self.plan, unit)
            self._failed_in_a_row = 0
            return
        if future.status != "error":
            raise ClusterError(_lost(self.plan))
        self.failed.append((unit, " ".join(str(future.exception()).split())[:300]))
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= MOST_FAILED:
            raise ClusterError(_failures(self.plan, self.failed))

    def _look(self) -> None:
        """Count the workers' threads now and then; raise ClusterError where scheduler or workers are gone."""
        now = time.perf_counter()
        if now - self._looked < LOOK_S:
            return
        self._looked, client = now, self.cluster.client
        if client.status != "running":
            raise ClusterError(_lost(self.plan))
        try:
            self._threads = sum(client.nthreads().values())
        except (OSError, TimeoutError) as fault:
            raise ClusterError(_lost(self.plan)) from fault
        if self._threads:
            self._alone_since = now
        elif now - self._alone_since > WAIT_FOR_WORKERS_S:
            raise ClusterError(f"{self.plan.stack.name}: all workers are gone; start some, and give --resume")
        self._threads = max(self._threads, 1)


def units_to_do(plan: Plan, image_writer: Writer, attention_writer: Writer) -> Iterator[Unit]:
    """Yield the bands that are not done, one after another: nothing is listed beforehand."""
    tops = [area.top for area in bands_of(plan.stack.plane_shape, plan.tile_px)]
    places = {top: place for place, top in enumerate(tops, 1)}
    for plane in planes_to_do(plan, both_written(image_writer, attention_writer)):
        for area in plane.wanted:
            yield Unit(plane.index, area, plane.number * len(tops) + places[area.top])


def _lost(plan: Plan) -> str:
    return f"{plan.stack.name}: the scheduler is lost; what is done is kept, start it again and give --resume"


def _failures(plan: Plan, failed: list[tuple[Unit, str]]) -> str:
    """Name the bands that failed."""
    named = [
        f"{plane_label(unit.index, plan.stack.plane_axes)} rows {unit.area.top} to {unit.area.bottom - 1} ({fault})"
        for unit, fault in failed[:MOST_NAMED]
    ]
    further = f"; and {len(failed) - MOST_NAMED} more" if len(failed) > MOST_NAMED else ""
    return (
        f"{plan.stack.name}: {len(failed)} bands failed {ATTEMPTS} times: {'; '.join(named)}{further}; what is done "
        "is kept, give --resume to try these again"
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
    if (workers is None) == (scheduler is None):
        raise OptionError("--workers and --scheduler exclude each other; give one of them")
    with _local(workers, threads) if workers is not None else _connected(str(scheduler)) as client:
        cluster = Cluster(client)
        try:
            yield cluster
        finally:
            cluster.release()


@contextmanager
def _local(workers: int, threads: int) -> Iterator[Any]:
    if workers < 1 or threads < 1:
        raise OptionError(f"--workers {workers} with {threads} threads cannot work; give at least 1")
    environment = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads)
    settings = {
        "distributed.nanny.pre-spawn-environ": environment,
        "distributed.scheduler.allowed-failures": ATTEMPTS - 1,
    }
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=workers, threads_per_worker=threads, processes=True, host="127.0.0.1", memory_limit=None,
            dashboard_address="127.0.0.1:0", silence_logs=logging.CRITICAL,
        ) as local,
        Client(local, set_as_default=False) as client,
    ):  # fmt: skip
        yield client


@contextmanager
def _connected(scheduler: str) -> Iterator[Any]:
    is_file = Path(scheduler).is_file()
    if not is_file and ":" not in scheduler:
        raise OptionError(f"--scheduler {scheduler} is neither a file nor an address such as tcp://host:8786")
    where = {"scheduler_file": scheduler} if is_file else {"address": scheduler}
    try:
        client = Client(**where, timeout=CONNECT_S, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as fault:
        raise OptionError(
            f"no scheduler answers at {scheduler} ({' '.join(str(fault).split())[:200]}); start one, or check the name"
        ) from fault
    log = logging.getLogger("distributed.client")
    level = log.level
    log.setLevel(logging.CRITICAL)  # what it says is raised as ClusterError
    try:
        yield client
    finally:
        client.close(timeout=CONNECT_S)
        log.setLevel(level)
