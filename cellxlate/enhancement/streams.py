"""Several bands at once: each is enhanced in a thread of its own, which has its share of the processor.

What stands around the networks, and the small windows that few cells need, keep one core busy, not several. What two
bands at once gain on two cores, and the memory they cost: docs/decisions/0011-several-bands-at-once.md.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch

from cellxlate.enhancement.tiling import ACTIVATION_BUDGET_BYTES
from cellxlate.model.engines.threads import ahead_with_share

MOST_STREAMS = 4
BAND_BYTES_PER_PX = 24
"""A band's counts before and after, its unit range, attention, and the windows cut from it."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def stream_count(*, tile_px: int, band_px: int, activation_bytes_per_px: float) -> int:
    """Return how many bands to enhance at once: at most 4, as many as torch has threads, and within 512 MB.

    Parameters
    ----------
    tile_px : int
        Side of a tile's window.
    band_px : int
        Pixels of a band.
    activation_bytes_per_px : float
        What the network holds for a pixel of its window.
    """
    needed = tile_px**2 * activation_bytes_per_px + band_px * BAND_BYTES_PER_PX
    return max(min(MOST_STREAMS, torch.get_num_threads(), int(ACTIVATION_BUDGET_BYTES // needed)), 1)


def in_streams(function: Callable[[Item], Result], items: Iterable[Item], *, streams: int) -> Iterator[Result]:
    """Do what `map` does, in so many threads at once, which share torch's threads among them.

    The caller's own number of threads is what it was once this is closed.
    """
    if streams == 1:
        yield from map(function, items)
        return
    yield from ahead_with_share(function, items, threads=streams, share=max(torch.get_num_threads() // streams, 1))
