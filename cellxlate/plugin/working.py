"""Work that goes on in a thread while napari stays awake."""

import threading
import time
from collections.abc import Callable, Generator
from typing import Any, TypeVar

from cellxlate.errors import CellxlateError, said, speaking
from cellxlate.plugin.requests import CancelledError, Refusal, StopRequest

TICK_S, LONGEST_END_S = 0.25, 3.0

Wanted = TypeVar("Wanted")
News = TypeVar("News")
Result = TypeVar("Result")


def begin(
    steps: Callable[[Wanted], Generator[Any, None, Any]],
    request: Wanted,
    *,
    news: Callable[[Wanted, Any], object] = lambda *_: None,
    ended: Callable[[Wanted, Any], object] = lambda *_: None,
) -> Any:
    """Run steps in a worker thread; `news` and `ended` are called in the main thread.

    Parameters
    ----------
    steps : callable
        A generator function; what it imports, it imports in the worker. It may raise CellxlateError and CancelledError.
    request : object
        Its argument.
    news : callable
        Takes the request and what the steps yield.
    ended : callable
        Takes the request and what they return; a Refusal where they fail, None where they were asked to end.

    Returns
    -------
    worker
        Started; keep it, and give it to `await_end` before the application ends.
    """
    from napari.qt.threading import thread_worker

    def speak(wanted: Wanted) -> Generator[Any, None, Any]:
        with speaking("panel"):
            try:
                return (yield from steps(wanted))
            except CancelledError:
                return None
            except CellxlateError as fault:
                return Refusal(said(fault))

    worker = thread_worker(speak, ignore_errors=True)(request)
    worker.yielded.connect(lambda told: news(request, told))
    worker.returned.connect(lambda outcome: ended(request, outcome))
    worker.errored.connect(lambda fault: ended(request, Refusal(f"{type(fault).__name__}: {fault}")))
    worker.start()
    return worker


def await_end(worker: Any) -> None:
    """Wait for a worker that has been asked to stop: its signals must not outlive the application."""
    end = time.monotonic() + LONGEST_END_S
    while worker is not None and worker.is_running and time.monotonic() < end:
        time.sleep(0.01)


def in_thread(
    work: Callable[[], Result], stop: StopRequest, *, tick: Callable[[], News]
) -> Generator[News, None, Result]:
    """Turn a function that takes long into steps, as `begin` takes them.

    Parameters
    ----------
    work : callable
        Runs in a thread of its own. What it raises is raised here.
    stop : StopRequest
        Asked where the steps are closed before the end; the thread is waited for.
    tick : callable
        Returns the news, four times a second.
    """
    ended: list[Result | BaseException] = []

    def run() -> None:
        try:
            with speaking("panel"):
                ended.append(work())
        except BaseException as fault:  # noqa: BLE001  raised below, in the thread of the steps
            ended.append(fault)

    runner = threading.Thread(target=run, name="cellxlate work", daemon=True)
    runner.start()
    try:
        while runner.is_alive():
            yield tick()
            runner.join(TICK_S)
    finally:
        if runner.is_alive():
            stop.ask()
        runner.join()
    (result,) = ended
    if isinstance(result, BaseException):
        raise result
    return result
