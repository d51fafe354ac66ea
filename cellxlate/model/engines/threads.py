"""How many threads networks run on, and work beside them, in threads that have a share of torch's own.

Torch is asked where something has loaded it; nothing here loads it.
"""

import os
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from cellxlate.prefetch import ahead

Item = TypeVar("Item")
Result = TypeVar("Result")

CORES = Path("/sys/devices/system/cpu")

_asked: list[int] = []
"""What `use_threads` was last called with while torch was not loaded."""


def loaded_torch() -> Any | None:
    """Return torch, where something else has loaded it; None otherwise: it takes longer to load than a small image."""
    torch = sys.modules.get("torch")
    return torch if hasattr(torch, "get_num_threads") else None


def thread_count() -> int:
    """Return how many threads an engine takes: as many as torch does, or would if it were loaded."""
    torch = loaded_torch()
    if torch:
        return int(torch.get_num_threads())
    return _asked[-1] if _asked else min(_core_count(), _environment_count())


def use_threads(count: int) -> None:
    """Let networks run on so many threads, in this thread and in those that begin later."""
    torch = loaded_torch()
    if torch:
        torch.set_num_threads(count)
    else:
        _asked[:] = [count]


def pass_on_to_torch() -> None:
    """Let torch, which has just been loaded, take what was asked for before."""
    if _asked:
        use_threads(_asked.pop())


def _core_count() -> int:
    """Return how many cores this process may use, where the system tells: a core that runs two threads is one."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    allowed = os.sched_getaffinity(0)
    siblings: set[str] = set()
    for number in allowed:
        with suppress(OSError):
            siblings.add((CORES / f"cpu{number}/topology/thread_siblings_list").read_text())
    return len(siblings) or len(allowed)


def _environment_count() -> int:
    """Return what the environment allows, as OpenMP and MKL read it; the latter comes first."""
    for name in ("MKL_NUM_THREADS", "OMP_NUM_THREADS"):
        first = os.environ.get(name, "").split(",")[0].strip()
        if first.isdecimal() and int(first) > 0:
            return int(first)
    return sys.maxsize


def ahead_with_share(
    function: Callable[[Item], Result], items: Iterable[Item], *, threads: int, share: int
) -> Generator[Result, None, None]:
    """Do what `ahead` does, in threads that let torch, where it is loaded, use `share` of its own each.

    The caller's own number of threads is what it was once this is closed.
    """
    torch = loaded_torch()
    if not torch:
        yield from ahead(function, items, threads=threads)
        return
    before = torch.get_num_threads()
    try:
        yield from ahead(function, items, threads=threads, at_start=partial(torch.set_num_threads, share))
    finally:
        torch.set_num_threads(before)  # new threads of this process begin with what was set last


def in_streams(function: Callable[[Item], Result], items: Iterable[Item], *, streams: int) -> Iterator[Result]:
    """Do what `map` does, in so many threads at once, which share torch's threads among them.

    The caller's own number of threads is what it was once this is closed.
    """
    if streams == 1:
        yield from map(function, items)
        return
    yield from ahead_with_share(function, items, threads=streams, share=max(thread_count() // streams, 1))
