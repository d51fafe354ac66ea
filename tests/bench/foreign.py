"""A foreign network on a stack of 2 GB, against our own: `python tests/bench/foreign.py [planes] [folder] [model ...]`.

Each run is a process of its own, so that its peak memory is its own. Prints one JSON object: planes, and of each model
seconds, peak memory, changed share, kept pixels that changed. 256 planes of 2048 x 2048 px and all models
by default.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tifffile

sys.path.insert(0, str(Path(__file__).parents[1] / "writers"))
from foreign_networks import unet

from cellxlate.stacks.samples.nuclei import SampleSettings, simulate


def write_stack(path: Path, planes: int) -> None:
    """Write planes of nuclei, each another part of one simulated plane, one after another."""
    plane = simulate(SampleSettings((1, 1, 1, 2048, 2048), 0.1)).stack.read((0, 0, 0))
    made = (np.roll(plane, 97 * number, axis=number % 2) for number in range(planes))
    tifffile.imwrite(path, made, shape=(planes, 2048, 2048), dtype=plane.dtype, bigtiff=True, metadata={"axes": "ZYX"})


def run(stack: Path, model: str, folder: Path) -> dict[str, float]:
    """Enhance a stack in a process of its own."""
    command = [sys.executable, "-m", "cellxlate", "enhance", str(stack), "-m", model, "--context", "none", "--json",
               "-o", str(folder / "out.ome.tif"), "--overwrite"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    answer = json.loads(done.stdout)
    return {
        "seconds": answer["seconds"]["total"], "peak_rss_mb": answer["peak_rss_mb"],
        "changed_fraction": answer["changed_fraction"], "kept_violations": answer["kept_violations"],
    }  # fmt: skip


def main(planes: int, where: str | None, names: list[str]) -> None:
    """Compare the models."""
    with tempfile.TemporaryDirectory(dir=where) as place:
        folder = Path(place)
        stack = folder / "stack.tif"
        write_stack(stack, planes)
        networks = {
            "cells": "cells", "local": str(unet(folder / "local.onnx")),
            "not-local": str(unet(folder / "norm.onnx", norm=True)),
        }  # fmt: skip
        found = {name: run(stack, model, folder) for name, model in networks.items() if name in (names or networks)}
        print(json.dumps({"planes": planes, "bytes": stack.stat().st_size, **found}))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 256, sys.argv[2] if len(sys.argv) > 2 else None, sys.argv[3:])
