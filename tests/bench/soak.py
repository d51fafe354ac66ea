"""Many jobs in one process: `python tests/bench/soak.py [jobs]`, 200 by default. Prints one JSON object.

Memory must be flat within 2 % from the first tenth of the jobs to the last, and no file may stay open.
"""

import gc
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import tifffile

import cellxlate


def resident_bytes() -> int:
    fields = Path("/proc/self/statm").read_text(encoding="ascii").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def soak(jobs: int, side_px: int = 256) -> dict[str, float]:
    """Run jobs from file to files; return resident memory after the first and the last tenth, and open files."""
    model = cellxlate.load_model()
    random = np.random.default_rng(0)
    memory, handles = [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cells.tif"
        for _ in range(jobs):
            tifffile.imwrite(path, random.integers(100, 300, (side_px, side_px)).astype(np.uint16))
            cellxlate.enhance_file(path, model, overwrite=True)
            gc.collect()
            memory.append(resident_bytes())
            handles.append(open_files())
    tenth = max(jobs // 10, 1)
    first, last = (float(np.median(part)) for part in (memory[tenth : 2 * tenth], memory[-tenth:]))
    return {
        "jobs": jobs, "resident_mb_first": first / 1e6, "resident_mb_last": last / 1e6,
        "growth_percent": 100 * (last / first - 1), "files_open_first": handles[0], "files_open_last": handles[-1],
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(soak(int(sys.argv[1]) if len(sys.argv) > 1 else 200)))
