"""How the C library serves the memory that networks take and free, window after window. No effect on pixels.

Measured in docs/evidence/bands-at-once.md. Nothing heavy is imported: it must come before the work.
"""

import os
import sys
from collections.abc import Container
from contextlib import suppress

SETTINGS = {
    "MALLOC_ARENA_MAX": (-8, 1),
    "MALLOC_MMAP_THRESHOLD_": (-3, 32 << 20),
    "MALLOC_TRIM_THRESHOLD_": (-1, 256 << 20),
}
"""Name in the environment, number in glibc's malloc.h, and value: of arenas, then bytes."""


def keep_freed_memory(leave: Container[str] = os.environ) -> None:
    """Let all threads of this process take memory from one place, and keep what a window frees for the next one.

    Otherwise each thread gets a place of its own, and what a window has freed goes back to the system, which clears it
    before it is used again. Settings in `leave` stay as they are. Without glibc nothing happens.
    """
    if sys.platform != "linux":
        return
    import ctypes

    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        for name, (number, value) in SETTINGS.items():
            if name not in leave:
                mallopt(number, value)
