"""Run both networks with less memory than they need, then with enough; print how many gave up and how many were wrong.

python run_short_of_memory.py ENGINE
"""

import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np

from cellxlate.model.bundle import load_model
from cellxlate.model.engines.engine import open_engine

ROOM_BYTES = (0, 4_000_000, 16_000_000, 40_000_000, 80_000_000, 120_000_000, 160_000_000, 300_000_000)


def memory_bytes() -> int:
    """Return the address space of this process."""
    return 1024 * int(Path("/proc/self/status").read_text().partition("VmSize:")[2].split()[0])


def main(engine: Any) -> None:
    """Give every limit windows that are larger than all before: what a process holds already is not asked for again."""
    opened, unlimited = (open_engine(load_model(), engine=engine, device="cpu") for _ in range(2))
    noise, gave_up, wrong = np.random.default_rng(0), 0, 0
    for name in ("_generator", "_attention"):
        getattr(opened, name)(np.zeros((1, 1, 160, 160), np.float32))  # threads start here
    for step, room_bytes in enumerate(ROOM_BYTES):
        for name in ("_generator", "_attention"):
            images = noise.uniform(-0.2, 1.5, (1 + step % 2, 1, 200 + 56 * step, 240 + 56 * step)).astype(np.float32)
            before = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (memory_bytes() + room_bytes, before[1]))
            found = None
            try:
                found = getattr(opened, name)(images)
            except MemoryError:
                gave_up += 1
            finally:
                resource.setrlimit(resource.RLIMIT_AS, before)
            expected, afterwards = (getattr(one, name)(images) for one in (unlimited, opened))
            wrong += not all(np.array_equal(one, expected) for one in (found, afterwards) if one is not None)
    print(f"{gave_up} of {2 * len(ROOM_BYTES)} gave up, {wrong} were wrong")


if __name__ == "__main__":
    main(sys.argv[1])
