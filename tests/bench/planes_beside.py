"""Time and memory of large planes that see those beside them, and of the same planes alone.

    python tests/bench/planes_beside.py FOLDER [PLANES ...]

Draws a stack of so many planes of 2048 x 2048 px (8 by default) in FOLDER, 400 spots that wander by a row from plane to
plane, and enhances each with `cells` along z and alone, in a process of its own. Prints one JSON object a run.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import tifffile
from scipy import ndimage

SIDE_PX = 2048


def draw(path: Path, planes: int) -> None:
    """Write a stack, plane by plane."""
    random = np.random.default_rng(0)
    spots = np.zeros((SIDE_PX, SIDE_PX), np.float32)
    spots[tuple(random.integers(0, SIDE_PX, (2, 400)))] = 1
    spots = ndimage.gaussian_filter(spots, 12)
    spots *= 400 / spots.max()
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for z in range(planes):
            counts = 100 + random.poisson(np.roll(spots, z, axis=0)) + random.normal(0, 5, spots.shape)
            writer.write(
                counts.clip(0).astype(np.uint16), contiguous=True, photometric="minisblack",
                metadata=None if z else {"axes": "ZYX"},
            )  # fmt: skip


def measured(path: Path, context: str) -> dict[str, object]:
    """Enhance a stack in a process of its own."""
    command = [sys.executable, "-m", "cellxlate", "enhance", str(path), "-m", "cells", "--axes", "ZYX", "--overwrite"]
    command += ["--context", context, "--output-dir", str(path.parent / context), "--json"]
    before = os.times()
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    after = os.times()
    spent_s = after.children_user + after.children_system - before.children_user - before.children_system
    facts = {name: told[name] for name in ("engine", "peak_rss_mb", "kept_violations")}
    return {
        "context": context,
        "processor_s": round(spent_s, 1),
        **facts,
        "changed_percent": round(100 * told["changed_fraction"], 1),
    }


if __name__ == "__main__":
    for number in [int(one) for one in sys.argv[2:]] or [8]:
        stack = Path(sys.argv[1]) / f"planes{number}.tif"
        draw(stack, number)
        for along in ("none", "z"):
            print(json.dumps({"planes": number, **measured(stack, along)}), flush=True)
