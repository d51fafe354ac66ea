"""What comes next is read in threads while the caller works on what came before; what several want is found by one."""

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Hashable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

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


class FoundOnce(Generic[Result]):
    """What several threads want is found by one of them while the others wait; what was asked for last is kept.

    Parameters
    ----------
    most : int
        Sum of the sizes of what is kept; the newest is kept whatever its size.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._found: OrderedDict[Hashable, tuple[Future[Result], int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._found)

    def __call__(self, key: Hashable, find: Callable[[], Result], size: int = 1) -> Result:
        """Return what `find` returns for a key; what it raises is raised to all who wait, and tried anew later."""
        with self._lock:
            known = self._found.pop(key, None)
            found = known[0] if known else Future[Result]()
            self._found[key] = found, size
            while len(self._found) > 1 and sum(one for _, one in self._found.values()) > self._most:
                self._found.popitem(last=False)
        if known is None:
            try:
                found.set_result(find())
            except BaseException as fault:  # whatever it is, others wait for it
                with self._lock:
                    self._found.pop(key, None)
                found.set_exception(fault)
                raise
        return found.result()
