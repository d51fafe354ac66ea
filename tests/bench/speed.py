"""How fast: sparse against dense, 1 thread against 2, end to end against the networks alone, few planes against many.

    python tests/bench/speed.py [--side 2048] [--repeat 5] [--engine torch] [--parts sparse threads whole planes]

Ratios are taken between runs in turns, and are medians. `--clock cpu` counts processor seconds in place of those of the
clock: for a machine on which others work too; threads then tell nothing.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from cellxlate.enhancement.flow import enhanced_bands
from cellxlate.enhancement.plan import make_plan
from cellxlate.enhancement.plane import PlaneJob, enhance_plane
from cellxlate.enhancement.tiling import bands_of
from cellxlate.model.bundle import Bundle, load_model
from cellxlate.model.engines.engine import open_engine
from cellxlate.model.engines.malloc import keep_freed_memory
from cellxlate.settings import EnhanceSettings
from cellxlate.stacks.intensity.range import IntensityRange
from cellxlate.stacks.intensity.stack_range import stack_ranges
from cellxlate.stacks.read.open import open_stack
from cellxlate.stacks.samples.nuclei import SampleSettings, simulate
from cellxlate.stacks.stack import Stack

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
CASES = [
    *((layout, fraction) for layout in ("clustered", "scattered") for fraction in (0.02, 0.05, 0.2, 0.6)),
    ("everywhere", 1.0),
]


class Timed:
    """A translator that counts its seconds."""

    def __init__(self, translator: Any, clock: Callable[[], float]) -> None:
        self._translator, self._clock = translator, clock
        self.attention_s = self.generator_s = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._translator, name)

    def attention(self, images: Any) -> Any:
        started = self._clock()
        found = self._translator.attention(images)
        self.attention_s += self._clock() - started
        return found

    def proposal(self, images: Any) -> Any:
        started = self._clock()
        found = self._translator.proposal(images)
        self.generator_s += self._clock() - started
        return found


class Everywhere:
    """A translator whose attention is 1 in every pixel, once it has been computed."""

    def __init__(self, translator: Any) -> None:
        self._translator = translator

    def __getattr__(self, name: str) -> Any:
        return getattr(self._translator, name)

    def attention(self, images: Any) -> Any:
        return np.ones_like(self._translator.attention(images))


def field(layout: str, fraction: float, side: int, seed: int = 3) -> tuple[Any, IntensityRange]:
    """A plane and its levels."""
    scattered = "scattered" if layout == "everywhere" else layout
    settings = SampleSettings((1, 1, 1, side, side), min(fraction, 0.6), scattered, seed)  # type: ignore[arg-type]
    stack = simulate(settings).stack
    return stack.read(next(iter(stack.plane_indices()))), stack_ranges(stack, [0])[0]


def enhance(
    plane: Any, intensity: IntensityRange, translator: Any, clock: Callable[[], float], **settings: Any
) -> tuple[float, Timed, Any, Any]:
    """Return seconds, those of the networks, pixels and attention."""
    timed = Timed(translator, clock)
    job = PlaneJob(timed, {0: intensity}, settings=EnhanceSettings(**settings))
    started = clock()
    bands = list(enhance_plane(job.input(Stack.from_array(plane, "YX"), ()), bands_of(plane.shape, job.tile_px), job))
    seconds = clock() - started
    return (
        seconds,
        timed,
        *(np.concatenate([getattr(one, name) for one in bands]) for name in ("enhanced", "attention")),
    )


def sparse_part(bundle: Bundle, options: argparse.Namespace) -> None:
    """Sparse against dense, on the same plane in turns."""
    clock, translator = CLOCKS[options.clock], open_engine(bundle, engine=options.engine)
    print(f"\n{translator.name}\n")
    print(
        "| layout | cells | selected | reachable | dense (s) | sparse (s) | sparse / dense | goal | differing pixels |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for layout, fraction in CASES:
        plane, intensity = field(layout, fraction, options.side)
        run_on = Everywhere(translator) if layout == "everywhere" else translator
        enhance(plane, intensity, run_on, clock)
        pairs = [
            [enhance(plane, intensity, run_on, clock, dense=dense) for dense in (False, True)]
            for _ in range(options.repeat)
        ]
        sparse, dense = (statistics.median(pair[side][0] for pair in pairs) for side in (0, 1))
        ratio = statistics.median(pair[0][0] / pair[1][0] for pair in pairs)
        share = statistics.median(pair[1][1].attention_s / pair[1][0] for pair in pairs)
        selected = pairs[0][0][3] > 0
        reach = float(ndimage.maximum_filter(selected, 2 * translator.generator_halo_px + 1).mean())
        differ = int((pairs[0][0][2] != pairs[0][1][2]).sum() + (pairs[0][0][3] != pairs[0][1][3]).sum())
        print(
            f"| {layout} | {fraction:.0%} | {selected.mean():.1%} | {reach:.1%} | {dense:.2f} | {sparse:.2f} | "
            f"{ratio:.2f} | {min(1.1, 1.15 * (reach + share)):.2f} | {differ} |",
            flush=True,
        )


def threads_part(bundle: Bundle, options: argparse.Namespace) -> None:
    """One thread against two; the pixels are compared too."""
    plane, intensity = field("scattered", 0.15, options.side)
    before, runs = torch.get_num_threads(), {}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        translator = open_engine(load_model(options.model), engine=options.engine)
        enhance(plane, intensity, translator, time.perf_counter)
        done = [enhance(plane, intensity, translator, time.perf_counter) for _ in range(options.repeat)]
        runs[threads] = statistics.median(one[0] for one in done), done[0]
    torch.set_num_threads(before)
    apart = np.abs(runs[1][1][2].astype(np.int64) - runs[2][1][2])
    print("\n| threads | seconds | megapixel/s |\n|---|---|---|")
    for threads, (seconds, _) in runs.items():
        print(f"| {threads} | {seconds:.2f} | {plane.size / 1e6 / seconds:.2f} |")
    print(f"\npixels that differ between 1 and 2 threads: {int((apart > 0).sum())}, by at most {int(apart.max())}")


def command(*arguments: str | Path) -> dict[str, Any]:
    """Run a command of cellxlate in a process of its own and return its JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "cellxlate", *map(str, arguments), "--json"], capture_output=True, text=True, check=True
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def run_file(stack: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Enhance a file as a user does, report included."""
    output = stack.with_name("out.ome.tif")
    return command("enhance", stack, "-m", options.model, "--engine", options.engine, "-o", output, "--overwrite")


def networks_alone_s(stack: Path, options: argparse.Namespace) -> float:
    """Return the seconds of the networks on a stack, in a process of its own, as the run is that is compared."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(networks_s, stack, options).result()


def networks_s(stack: Path, options: argparse.Namespace) -> float:
    """Return the seconds of the networks on a stack, one band after another, each with all threads."""
    keep_freed_memory()  # as a run does
    with open_stack(stack) as opened:
        plan = make_plan(opened, options.model, channels=None, settings=None, engine=options.engine, device="auto",
                         streams=1)  # fmt: skip
        for _ in enhanced_bands(plan, started=time.perf_counter()):
            pass
        return plan.work.attention_s + plan.work.generator_s


def whole_part(options: argparse.Namespace) -> None:
    """End to end against the networks alone, on compressed stacks of 8 planes.

    The networks alone run one band after another with all threads; a run has several bands at once.
    """
    print(
        "\n| cells | networks alone (s) | networks in the run (s) | end to end (s) | against alone | against those in "
        "the run | megapixel/s end to end |\n|---|---|---|---|---|---|---|"
    )
    for fraction in ("0.05", "0.15", "0.6"):
        with tempfile.TemporaryDirectory() as folder:
            stack = Path(folder) / "stack.ome.tif"
            command("sample", stack, "--shape", f"1,1,8,{options.side},{options.side}", "--cell-fraction", fraction)
            pairs = [
                (networks_alone_s(stack, options), run_file(stack, options)["seconds"]) for _ in range(options.repeat)
            ]
        rows = np.array([(alone, run["attention"] + run["generator"], run["total"]) for alone, run in pairs])
        alone, inside, total = np.median(rows, axis=0)
        ratios = np.median(rows[:, 2:] / rows[:, :2], axis=0)
        speed = 8 * options.side**2 / 1e6 / total
        print(f"| {float(fraction):.0%} | {alone:.1f} | {inside:.1f} | {total:.1f} | {ratios[0]:.2f} | {ratios[1]:.2f} "
              f"| {speed:.2f} |", flush=True)  # fmt: skip


def planes_part(options: argparse.Namespace) -> None:
    """Memory and time per plane of stacks of one width and many lengths, which are run in turns.

    A machine's speed drifts, so each length is compared with the mean of its turn.
    """
    side, counts = str(options.side), (4, 8, 16, 32, 64)
    turns = []
    with tempfile.TemporaryDirectory() as folder:
        stacks = [Path(folder) / f"{planes}.ome.tif" for planes in counts]
        for planes, stack in zip(counts, stacks, strict=True):
            command("sample", stack, "--shape", f"{planes},1,1,{side},{side}", "--cell-fraction", options.cells)
        for _ in range(options.repeat):
            answers = [run_file(stack, options) for stack in stacks]
            turns.append([(answer["seconds"]["total"], answer["peak_rss_mb"]) for answer in answers])
            each = [f"{answer['seconds']['total'] / n:.3f}" for n, answer in zip(counts, answers, strict=True)]
            print("turn:", *each, file=sys.stderr, flush=True)
    seconds, peaks = np.moveaxis(np.array(turns), -1, 0)  # (turns, lengths)
    per_plane = seconds / counts
    against_mean = np.median(per_plane / per_plane.mean(axis=1, keepdims=True), axis=0) - 1
    print(f"\n{side} x {side} px, {float(options.cells):.0%} cells\n")
    print("| planes | seconds per plane | against the mean of its turn | peak memory (MB) |\n|---|---|---|---|")
    for row in zip(counts, np.median(per_plane, axis=0), against_mean, np.median(peaks, axis=0), strict=True):
        print("| {} | {:.3f} | {:+.1%} | {:.0f} |".format(*row))
    slope_s, start_s = np.polyfit(counts, np.median(seconds, axis=0), 1)
    slope_mb, _ = np.polyfit(counts, np.median(peaks, axis=0), 1)
    print(f"\nfit: {start_s:.2f} s + {slope_s:.3f} s per plane; memory {slope_mb:+.2f} MB per plane")


def main() -> None:
    """Run the parts that are asked for and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--cells", default="0.15", help="share of the planes that cells cover, for --parts planes")
    parser.add_argument("--model", default="nuclei-lowexp")
    parser.add_argument("--engine", default="torch")
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall")
    parser.add_argument("--parts", nargs="+", default=["sparse", "threads", "whole", "planes"])
    options = parser.parse_args()
    if options.clock == "cpu":
        torch.set_num_threads(1)
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, "
          f"{torch.get_num_threads()} threads, {options.side} x {options.side} px, {options.clock} seconds, "
          f"median of {options.repeat}")  # fmt: skip
    bundle = load_model(options.model)
    if "sparse" in options.parts:
        sparse_part(bundle, options)
    if "threads" in options.parts:
        threads_part(bundle, options)
    if "whole" in options.parts:
        whole_part(options)
    if "planes" in options.parts:
        planes_part(options)


if __name__ == "__main__":
    main()
