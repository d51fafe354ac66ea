"""Memory for the networks: whether it is there, and how engines say that it is not."""

import mmap
import os
from contextlib import suppress
from pathlib import Path

OVERHEAD, LEAST_BYTES = 2, 16_000_000
"""Engines need at most so many times the activations of a window (OpenVINO: 1.6 to 1.8), and so much beside (up to
6 MB, for what they prepare for a new shape); ONNX Runtime up to twice that for small windows."""

CONTAINER = Path("/sys/fs/cgroup/memory.max")

SIGNS = (
    "out of memory", "not enough memory", "allocate", "can't alloc", "bad_alloc", "create a primitive",
    "STATUS_ALLOC_FAILED", "valid cuDNN algorithm", "find an engine to execute", "bfc_arena",
)  # fmt: skip
"""Each engine words it its own way; some raise plain exceptions for it. The sixth is oneDNN's, which keeps no reason;
then those of CUDA's libraries, to which torch left too little of the card's memory, and the bound of ONNX Runtime."""


def is_out_of_memory(fault: Exception) -> bool:
    """Return whether an engine says that a device, or the computer, has no memory left."""
    return any(sign in str(fault) for sign in SIGNS)


def ask_for_memory(pixels: int, activation_bytes_per_px: float) -> None:
    """See whether this process may have the memory for a window, without taking it.

    Engines fare badly where memory ends while they compute: OpenVINO's later results are wrong or the process dies,
    oneDNN fails for that shape ever after.

    Raises
    ------
    MemoryError
        It may not: a limit is set on the process, or the system promises no more.
    """
    amount_bytes = int(OVERHEAD * pixels * activation_bytes_per_px) + LEAST_BYTES
    try:
        mmap.mmap(-1, amount_bytes).close()
    except OSError as fault:
        raise MemoryError(f"{amount_bytes / 1e6:.0f} MB are not to be had") from fault


def memory_bytes() -> int:
    """Return how much memory what needs much of it may take: half of what this computer, or its container, has."""
    has = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 8_000_000_000
    with suppress(OSError, ValueError):  # "max" where there is no bound
        has = min(has, int(CONTAINER.read_text(encoding="ascii")))
    return has // 2
