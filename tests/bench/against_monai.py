"""Against MONAI's sliding_window_inference around the very same generator: time, peak memory, exactness.

    python tests/bench/against_monai.py [--side 2048] [--repeat 5] [--clock cpu]

MONAI must be importable (`pip install --no-deps --target FOLDER monai`, then PYTHONPATH=FOLDER). It gets the trained
generator, on the same threads, on windows of 256 px at overlap 0.25, and no attention, as it has none to skip by.
cellxlate runs attention too, and writes counts. The reference for exactness is the generator on the whole plane.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cellxlate.enhancement.plane import PlaneJob, enhance_plane
from cellxlate.enhancement.tiling import bands_of
from cellxlate.model.bundle import load_model
from cellxlate.model.engines.engine import open_engine
from cellxlate.settings import EnhanceSettings
from cellxlate.stacks.intensity.stack_range import stack_ranges
from cellxlate.stacks.samples.nuclei import SampleSettings, simulate
from cellxlate.stacks.stack import Stack

CASES = {"5 % clustered": (0.05, "clustered"), "full of cells": (0.6, "scattered")}
WAYS = ("cellxlate", "monai constant", "monai gaussian")
EDGE_PX = 32
"""MONAI pads what it has no window for with zeros, cellxlate continues the plane: edges are not compared."""


def prepared(case: str, side: int) -> tuple[Any, Any]:
    """A plane and its levels."""
    fraction, layout = CASES[case]
    stack = simulate(SampleSettings((1, 1, 1, side, side), fraction, layout, 3)).stack  # type: ignore[arg-type]
    return stack.read(next(iter(stack.plane_indices()))), stack_ranges(stack, [0])[0]


def runner(way: str, plane: Any, intensity: Any, engine: str) -> Callable[[], Any]:
    """Return what runs a plane once and returns the generator's output, or the enhanced plane."""
    bundle = load_model()
    if way == "cellxlate":
        job = PlaneJob(open_engine(bundle, engine=engine), {0: intensity}, settings=EnhanceSettings())  # type: ignore[arg-type]
        areas = list(bands_of(plane.shape, job.tile_px))
        seen = job.input(Stack.from_array(plane, "YX"), ())
        return lambda: [band.enhanced for band in enhance_plane(seen, areas, job)]
    from monai.inferers import sliding_window_inference

    generator = bundle.translator.generator

    def run() -> Any:
        with torch.inference_mode():
            unit = torch.from_numpy(intensity.to_unit(plane))[None, None]
            return sliding_window_inference(unit, 256, 1, generator, overlap=0.25, mode=way.split()[1])[0, 0].numpy()

    return run


def error_of(way: str, plane: Any, intensity: Any) -> float:
    """Return max |tiled - whole| in unit range, over the generator's output away from the edges."""
    generator = load_model().translator.generator
    unit = intensity.to_unit(plane)
    with torch.inference_mode():
        whole = generator(torch.from_numpy(unit)[None, None])[0, 0].numpy()
    if way == "cellxlate":
        found = unit.copy()

        class Keeping:
            """The engine, with attention 1 everywhere, so that every pixel shows the generator."""

            def __init__(self) -> None:
                self._inner = open_engine(load_model(), engine="torch")

            def __getattr__(self, name: str) -> Any:
                return getattr(self._inner, name)

            def attention(self, images: Any) -> Any:
                return np.ones_like(images)

        job = PlaneJob(Keeping(), {0: intensity}, settings=EnhanceSettings(tile_px=256))
        seen = job.input(Stack.from_array(plane.astype(np.float64), "YX"), ())
        for band in enhance_plane(seen, bands_of(plane.shape, 256), job):
            found[band.first_row : band.first_row + len(band.raw)] = intensity.to_unit(band.enhanced)
    else:
        found = runner(way, plane, intensity, "torch")()
    middle = (slice(EDGE_PX, -EDGE_PX), slice(EDGE_PX, -EDGE_PX))
    return float(np.abs(found[middle] - whole[middle]).max())


def peak_mb(way: str, plane: Any, intensity: Any, engine: str) -> float:
    """Return the peak memory of a process that imports what it needs, loads plane and model, and runs once."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import against_monai as bench, numpy as np\n"
        "from cellxlate.stacks.intensity.range import IntensityRange\n"
        "import torch; torch.set_num_threads(2)\n"
        "plane, intensity = np.load(sys.argv[3]), IntensityRange(float(sys.argv[4]), float(sys.argv[5]))\n"
        "run = bench.runner(sys.argv[2], plane, intensity, sys.argv[6])\n"
        "from cellxlate.enhancement.verify import peak_rss_mb; run(); print(peak_rss_mb())"
    )
    with tempfile.TemporaryDirectory() as folder:
        stored = Path(folder) / "plane.npy"
        np.save(stored, plane)
        words = [Path(__file__).parent, way, stored, intensity.black, intensity.white, engine]
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", script, *map(str, words)], capture_output=True, text=True, check=True
        )
    return float(done.stdout)


def main() -> None:
    """Print a row for every case and way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--engine", default="torch")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    if options.clock == "cpu":
        torch.set_num_threads(1)
    print("| plane | way | seconds | against cellxlate | peak memory of the process (MB) | max abs(tiled - whole) |")
    print("|---|---|---|---|---|---|")
    for case in CASES:
        plane, intensity = prepared(case, options.side)
        runs = {way: runner(way, plane, intensity, options.engine) for way in WAYS}
        for run in runs.values():
            run()
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(options.repeat):
            for way, run in runs.items():
                started = clock()
                run()
                seconds[way].append(clock() - started)
        for way in WAYS:
            ratio = statistics.median(
                there / here for here, there in zip(seconds["cellxlate"], seconds[way], strict=True)
            )
            print(
                f"| {case} | {way} | {statistics.median(seconds[way]):.2f} | {ratio:.2f} | "
                f"{peak_mb(way, plane, intensity, options.engine):.0f} | {error_of(way, plane, intensity):.1e} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
