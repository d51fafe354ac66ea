"""Workers: started on this machine, or reached on a cluster that runs; and whether they are still there."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cellxlate.errors import ClusterError, OptionError

try:
    import dask
    from distributed import Client, KilledWorker, LocalCluster, WorkerPlugin
except ImportError as fault:
    raise OptionError('--workers and --scheduler need another package; pip install "cellxlate[distributed]"') from fault

__all__ = ["ATTEMPTS", "KilledWorker", "Watch", "WorkerPlugin", "connected_client"]

ATTEMPTS = 3
LOOK_S = 2.0
WAIT_FOR_WORKERS_S = 600.0
CONNECT_S = 30.0


class Watch:
    """Looks now and then whether scheduler and workers are there.

    Attributes
    ----------
    threads : int
        Of all workers, when they were last looked at; at least 1.
    """

    def __init__(self, client: Any, name: str) -> None:
        self.threads = 1
        self._client, self._name = client, name
        self._alone_since, self._looked = time.perf_counter(), -LOOK_S

    def look(self) -> int:
        """Count the workers' threads, if that is some seconds ago.

        Raises
        ------
        ClusterError
            The scheduler is gone, or there has been no worker for 10 minutes.
        """
        now = time.perf_counter()
        if now - self._looked < LOOK_S:
            return self.threads
        self._looked = now
        if self._client.status != "running":
            raise ClusterError(self.lost)
        try:
            found = sum(self._client.nthreads().values())
        except (OSError, TimeoutError) as fault:
            raise ClusterError(self.lost) from fault
        if found:
            self._alone_since = now
        elif now - self._alone_since > WAIT_FOR_WORKERS_S:
            raise ClusterError(f"{self._name}: all workers are gone; start some, and give --resume")
        self.threads = max(found, 1)
        return self.threads

    @property
    def lost(self) -> str:
        """What is said when the scheduler is gone."""
        return f"{self._name}: the scheduler is lost; what is done is kept, start it again and give --resume"


@contextmanager
def connected_client(*, workers: int | None, scheduler: str | Path | None, threads: int) -> Iterator[Any]:
    """Give a client of workers that are started here and end with the context, or of a cluster that runs.

    Raises
    ------
    OptionError
        Not exactly one of both is given, or no scheduler answers.
    """
    if (workers is None) == (scheduler is None):
        raise OptionError("--workers and --scheduler exclude each other; give one of them")
    with _local(workers, threads) if workers is not None else _connected(str(scheduler)) as client:
        yield client


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
