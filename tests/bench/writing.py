"""Time, size and peak memory of writing a stack: `python tests/bench/writing.py [planes] [ending] [enhance]`.

Planes of 2048 x 2048, uint16, Poisson noise; 256 of them are 2.1 GB. With `enhance`, planes with the same simulated
cells are written and then enhanced whole, networks and report included, by the shipped model. Prints one JSON object;
run it in a fresh process per case.
"""

import json
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from cellxlate.enhancement.verify import peak_rss_mb
from cellxlate.stacks.read.open import open_stack
from cellxlate.stacks.stack import Stack
from cellxlate.stacks.write.writer import BAND_PX, open_writer


class NoisyPlanes:
    """One noisy plane, a count brighter in each further plane, so that the stack itself needs no memory."""

    dtype = np.dtype(np.uint16)

    def __init__(self, planes: int) -> None:
        self.shape = (planes, 2048, 2048)
        self._plane = (100 + 3 * np.random.default_rng(0).poisson(40, self.shape[1:])).astype(np.uint16)

    def __getitem__(self, key: Any) -> Any:
        return self._plane[key[1:]] + np.uint16(key[0])


def main(planes: int, ending: str) -> dict[str, Any]:
    source = Stack(NoisyPlanes(planes), "ZYX")
    bands = [slice(start, start + 2 * BAND_PX) for start in range(0, 2048, 2 * BAND_PX)]  # as a job writes them
    with tempfile.TemporaryDirectory() as folder, open_writer(Path(folder) / f"a{ending}", like=source) as writer:
        before_mb, clock = peak_rss_mb(), [time.perf_counter()]
        for index in source.plane_indices():
            for rows in bands:
                writer.write(index, rows.start, source.read(index, rows))
        clock.append(time.perf_counter())
        writer.finish()
        clock.append(time.perf_counter())
        path = writer.publish()
        clock.append(time.perf_counter())
        with open_stack(path) as stack:
            equal = all(
                np.array_equal(stack.read(index, rows), source.read(index, rows))
                for index in source.plane_indices()
                for rows in bands
            )
        clock.append(time.perf_counter())
        files = [path] if path.is_file() else [item for item in path.rglob("*") if item.is_file()]
        size = sum(file.stat().st_size for file in files)
    seconds = dict(zip(("bands", "finish", "publish", "read_back"), np.diff(clock).round(2).tolist(), strict=True))
    return {
        "planes": planes, "ending": ending, "seconds": seconds, "equal": equal, "python": platform.python_version(),
        "stored_fraction": round(size / (planes * 2048 * 2048 * 2), 3),
        "peak_mb_above_start": round(peak_rss_mb() - before_mb, 1),
    }  # fmt: skip


def enhanced(planes: int, ending: str) -> dict[str, Any]:
    """Peak memory of a whole enhancement; that of writing its input is smaller."""
    from cellxlate.enhancement.job import enhance_file
    from cellxlate.stacks.samples.nuclei import SampleSettings, simulate
    from cellxlate.stacks.write.copy import write_stacks

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / f"a{ending}"
        cells = simulate(SampleSettings((1, 1, 1, 2048, 2048), cell_fraction=0.1, layout="clustered")).stack
        plane = np.asarray(cells).reshape(2048, 2048)
        write_stacks([(Stack(np.broadcast_to(plane, (planes, 2048, 2048)), "ZYX"), source)])
        started = time.perf_counter()
        report = enhance_file(source, output=Path(folder) / f"b{ending}")
        seconds = time.perf_counter() - started
    return {"planes": planes, "ending": ending, "engine": report.engine, "seconds": round(seconds, 1),
            "changed_fraction": report.changed_fraction, "peak_mb": round(peak_rss_mb(), 1)}  # fmt: skip


if __name__ == "__main__":
    arguments = dict(enumerate(sys.argv[1:]))
    run = enhanced if arguments.get(2) == "enhance" else main
    print(json.dumps(run(int(arguments.get(0, "32")), arguments.get(1, ".ome.tif"))))
