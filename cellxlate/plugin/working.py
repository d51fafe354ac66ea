"""Work that goes on in a thread while napari stays awake."""

import threading
import time
from collections.abc import Callable, Generator
from typing import Any, TypeVar

from cellxlate.errors import speaking
from cellxlate.plugin.requests import Refusal, StopRequest

Wanted = TypeVar("Wanted")
News = TypeVar("News")
Result = TypeVar("Result")


def begin(
    steps: Callable[[Wanted], Generator[Any, None, Any]],
    request: Wanted,
    *,
    news: Callable[[Any], object],
    ended: Callable[[Any], object],
) -> Any:
    """Run steps in a worker thread; `news` and `ended` are called in the main thread.

    Parameters
    ----------
    steps : callable
        A generator function; what it imports, it imports in the worker.
    request : object
        Its argument.
    news : callable
        Takes what the steps yield.
    ended : callable
        Takes what they return, or a Refusal where they fail.

    Returns
    -------
    worker
        Started; keep it, and give it to `await_end` before the application ends.
    """
    from napari.qt.threading import thread_worker

    def speak(wanted: Wanted) -> Generator[Any, None, Any]:
        with speaking("panel"):
            return (yield from steps(wanted))

    worker = thread_worker(speak, ignore_errors=True)(request)
    worker.yielded.connect(news)
    worker.returned.connect(ended)
    worker.errored.connect(lambda fault: ended(Refusal(f"{type(fault).__name__}: {fault}")))
    worker.start()
    return worker


def await_end(worker: Any, longest_s: float = 3.0) -> None:
    """Wait for a worker that has been asked to stop: its signals must not outlive the application."""
    end = time.monotonic() + longest_s
    while worker is not None and worker.is_running and time.monotonic() < end:
        time.sleep(0.01)


def in_thread(
    work: Callable[[], Result], stop: StopRequest, *, tick: Callable[[], News], every_s: float = 0.25
) -> Generator[News, None, Result]:
    """Turn a function that takes long into steps, as `begin` takes them.

    Parameters
    ----------
    work : callable
        Runs in a thread of its own. What it raises is raised here.
    stop : StopRequest
        Asked where the steps are closed before the end; the thread is waited for.
    tick : callable
        Returns the news, again and again.
    every_s : float
        How often.
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
            runner.join(every_s)
    finally:
        if runner.is_alive():
            stop.ask()
        runner.join()
    (result,) = ended
    if isinstance(result, BaseException):
        raise result
    return result
