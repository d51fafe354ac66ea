"""Workers: started on this machine, or reached on a cluster that runs; and whether they are still there."""

import json
import logging
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from cellxlate.errors import ClusterError, OptionError
from cellxlate.options import RESUME, SCHEDULER, WORKERS
from cellxlate.regular_files import read_small_file

try:
    import dask
    from distributed import Client, KilledWorker, LocalCluster, WorkerPlugin
    from distributed.protocol import pickle
except ImportError as fault:
    raise OptionError(
        WORKERS, " and ", SCHEDULER, " need another package", remedy='pip install "cellxlate[distributed]"'
    ) from fault

__all__ = ["ATTEMPTS", "KilledWorker", "WorkerPlugin", "WorkerWatch", "connected_client", "require_sendable"]

ATTEMPTS = 3
LOOK_S = 2.0
WAIT_FOR_WORKERS_S = 600.0
CONNECT_S = 12.0
"""A scheduler that has not answered within this time is none."""

QUIET_TRACKER = "ignore::UserWarning:multiprocessing.resource_tracker"

GREETING, MOST_GREETING_BYTES = (b"compression", b"pickle-protocol"), 2**16
"""Words in the first message of a scheduler, which is some hundred bytes long."""


class WorkerWatch:
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
            raise self.lost
        try:
            threads = sum(self._client.nthreads().values())
        except (OSError, TimeoutError) as fault:
            raise self.lost from fault
        if threads:
            self._alone_since = now
        elif now - self._alone_since > WAIT_FOR_WORKERS_S:
            raise ClusterError(f"{self._name}: all workers are gone", remedy=("start some, and give ", RESUME))
        self.threads = max(threads, 1)
        return self.threads

    @property
    def lost(self) -> ClusterError:
        """What is raised when the scheduler is gone."""
        remedy = ("what is done is kept, start it again and give ", RESUME)
        return ClusterError(f"{self._name}: the scheduler is lost", remedy=remedy)


@contextmanager
def connected_client(*, workers: int | None, scheduler: str | Path | None, threads: int) -> Iterator[Any]:
    """Give a client of workers that are started here and end with the context, or of a cluster that runs.

    Raises
    ------
    OptionError
        Not exactly one of both is given, or no scheduler answers.
    """
    if (workers is None) == (scheduler is None):
        raise OptionError(WORKERS, " and ", SCHEDULER, " exclude each other", remedy="give one of them")
    with _local(workers, threads) if workers is not None else _connected(str(scheduler)) as client:
        yield client


@contextmanager
def _local(workers: int, threads: int) -> Iterator[Any]:
    if workers < 1 or threads < 1:
        raise OptionError(WORKERS.of(workers), f" with {threads} threads cannot work", remedy="give at least 1")
    environment = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads)
    settings = {
        "distributed.nanny.pre-spawn-environ": environment,
        "distributed.scheduler.allowed-failures": ATTEMPTS - 1,
    }
    _start_silent_tracker()
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=workers, threads_per_worker=threads, processes=True, host="127.0.0.1", memory_limit=None,
            dashboard_address="127.0.0.1:0", silence_logs=logging.CRITICAL,
        ) as local,
        Client(local, set_as_default=False) as client,
    ):  # fmt: skip
        yield client


def require_sendable(value: object, name: str) -> None:
    """Raise OptionError where dask cannot bring something that is called `name` to workers."""
    try:
        pickle.dumps(value)
    except Exception as fault:  # whatever it is, it does not travel
        what = " ".join(f"{type(fault).__name__}: {fault}".split())[:200]
        raise OptionError(
            f"{name} cannot be sent to workers ({what})",
            remedy=("make what it holds inside the function itself, or leave out ", WORKERS, " and ", SCHEDULER),
        ) from fault


def _start_silent_tracker() -> None:
    """Start Python's tracker of what processes share, which would warn of all that a killed worker has left."""
    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = ",".join([*([before] if before else []), QUIET_TRACKER])
    try:
        resource_tracker.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONWARNINGS"]
        else:
            os.environ["PYTHONWARNINGS"] = before


@contextmanager
def _connected(scheduler: str) -> Iterator[Any]:
    client, heard_again = _client(scheduler, time.monotonic() + CONNECT_S)
    try:
        yield client
    finally:
        client.close(timeout=CONNECT_S)
        heard_again()


def _silenced() -> Callable[[], None]:
    """Keep dask's log off the terminal, since what it says is raised; return what lets it be heard again."""
    known = [name for name in logging.root.manager.loggerDict if name.partition(".")[0] in ("distributed", "tornado")]
    before = {name: logging.getLogger(name).level for name in known}
    for name in known:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)

    def again() -> None:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)

    return again


def _client(scheduler: str, deadline_s: float) -> tuple[Any, Callable[[], None]]:
    """Return a client of a scheduler that has answered it, and what lets dask's log be heard again.

    Whatever is at the address may be silent, or answer anything; dask waits for it without end. So a look at its first
    words comes first, and the client is made by a thread that need not come back.

    Raises
    ------
    OptionError
        There is none at the address, or none that answers in time.
    """
    address, made = _address(scheduler), queue.SimpleQueue[Any]()
    given_up = threading.Event()
    heard_again = _silenced()

    def make() -> None:
        try:
            client = Client(address, timeout=max(deadline_s - time.monotonic(), 0.1), set_as_default=False)
            client.nthreads()  # it answers still
            made.put(client)
        except Exception as fault:  # noqa: BLE001 (whatever it is, the one who waits is told)
            made.put(fault)
        if given_up.is_set():
            heard_again()

    try:
        _look_at(address, deadline_s)
        threading.Thread(target=make, daemon=True).start()
        outcome = made.get(timeout=max(deadline_s - time.monotonic(), 0.1))
    except queue.Empty:
        given_up.set()
        outcome = TimeoutError(f"nothing came of it in {CONNECT_S:.0f} s")
    except OSError as fault:
        outcome = fault
    if isinstance(outcome, Exception):
        if not given_up.is_set():
            heard_again()
        what = " ".join(str(outcome).split())[:200] or type(outcome).__name__
        raise OptionError(f"no scheduler answers at {scheduler} ({what}); start one, or check the name") from outcome
    return outcome, heard_again


def _address(scheduler: str) -> str:
    """Return the address that is given, or that a scheduler has written into a file."""
    if not Path(scheduler).is_file():
        if ":" not in scheduler:
            raise OptionError(SCHEDULER.of(scheduler), " is neither a file nor an address such as tcp://host:8786")
        return scheduler
    try:
        stated = json.loads(read_small_file(Path(scheduler)))
    except PermissionError as fault:
        raise OptionError(SCHEDULER.of(scheduler), f" cannot be read ({fault.strerror})") from fault
    except (OSError, ValueError, RecursionError):
        stated = None
    address = stated.get("address") if isinstance(stated, dict) else None
    if not isinstance(address, str) or ":" not in address:
        raise OptionError(
            SCHEDULER.of(scheduler), " is no file that a dask scheduler has written", remedy="give its address"
        )
    return address


def _look_at(address: str, deadline_s: float) -> None:
    """Raise OSError unless what listens at a TCP address begins to speak as a scheduler of dask does."""
    scheme, _, host_and_port = address.rpartition("://")
    if scheme not in ("", "tcp"):
        return
    host, _, number = host_and_port.rpartition(":")
    try:
        port = int(number.strip("/"))
    except ValueError:
        raise OSError(f"{host_and_port!r} is no host with a port") from None

    def left_s() -> float:
        left = min(deadline_s - time.monotonic(), CONNECT_S / 2)
        if left <= 0:
            raise TimeoutError("it is silent")
        return left

    with socket.create_connection((host.strip("[]"), port), left_s()) as opened:
        heard = b""
        while len(heard) < 8 or len(heard) < min(8 + int.from_bytes(heard[:8], "little"), MOST_GREETING_BYTES):
            opened.settimeout(left_s())
            try:
                part = opened.recv(2**16)
            except TimeoutError:
                raise TimeoutError("it is silent") from None
            if not part:
                break
            heard += part
    if not all(word in heard[:MOST_GREETING_BYTES] for word in GREETING):
        raise OSError("what listens there is no dask scheduler")
