"""What comes next is read in threads while the caller works on what came before."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    threads: int = 1,
    at_start: Callable[[], object] | None = None,
) -> Generator[Result, None, None]:
    """Do what `map` does, in threads that are ahead of the caller, by one item each.

    Parameters
    ----------
    function : callable
        Called in those threads.
    items : iterable
        Taken in the caller's thread.
    threads : int
        How many calls may run at once.
    at_start : callable, optional
        Called once in each thread, before all else.

    Yields
    ------
    object
        What `function` returns, in the order of the items. What it raises is raised at its place. Closing this waits
        for the calls that run.
    """
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads, "cellxlate-ahead", initializer=at_start) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
