"""Work beside the networks, in threads that have a share of torch's own."""

from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from typing import TypeVar

import torch

from cellxlate.prefetch import ahead

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead_with_share(
    function: Callable[[Item], Result], items: Iterable[Item], *, threads: int, share: int
) -> Generator[Result, None, None]:
    """Do what `ahead` does, in threads that let torch use `share` of its own each.

    The caller's own number of threads is what it was once this is closed.
    """
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
    yield from ahead_with_share(function, items, threads=streams, share=max(torch.get_num_threads() // streams, 1))
