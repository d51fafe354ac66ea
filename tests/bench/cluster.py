"""A job on workers: how fast, the same pixels, how well predicted, what 100,000 bands hold in memory, how it scales.

    python tests/bench/cluster.py speed STACK [--pairs 3]     one worker against two, one thread each, in turns
    python tests/bench/cluster.py predict [STACK ...]         --dry-run against the run that follows; brings three
    python tests/bench/cluster.py small [--planes 2000]       many planes of 64 x 64 px, bands together or one by one
    python tests/bench/cluster.py many [--bands 100000]       a mosaic that exists only on paper, begun
    python tests/bench/cluster.py simulate [--times FILE]     10 to 1,000 workers from measured times

`speed --times FILE` keeps what each band has cost, for `simulate`. Set OMP_NUM_THREADS=1 where cores are shared.
"""

import argparse
import heapq
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import zarr
from distributed import Client, LocalCluster

import cellxlate
from cellxlate.enhancement.cluster import cluster as cluster_room
from cellxlate.enhancement.cluster.cluster import Cluster, open_cluster
from cellxlate.enhancement.estimate import Prediction, predict
from cellxlate.enhancement.flow import open_writers
from cellxlate.enhancement.job import steps_to_files
from cellxlate.enhancement.outputs.names import name_outputs
from cellxlate.enhancement.plan import make_plan
from cellxlate.settings import EnhanceSettings
from cellxlate.stacks.read.open import is_zarr, open_stack
from cellxlate.stacks.samples.nuclei import SampleSettings
from cellxlate.stacks.samples.nuclei import simulate as simulated
from cellxlate.stacks.write.copy import write_stacks
from cellxlate.stacks.write.writer import Writer

SHARED_SERIES = (1, 2, 10, 30, 100, 300, 1000)


def pixels_of(report: Any) -> list[Any]:
    """Return image and attention as they were written."""
    found = []
    for name in ("enhanced", "attention"):
        with cellxlate.open_stack(report.outputs[name]) as written:
            found.append(np.asarray(written).copy())
    return found


def run(stack: Path, folder: Path, model: str, cluster: Cluster) -> tuple[dict[str, float], Any]:
    """Enhance a stack on a cluster; return the seconds of the bands, of all, and the report."""
    took: dict[str, float] = {}

    def timed(*arguments: Any) -> Iterator[Any]:
        started = time.perf_counter()
        yield from cluster.write_bands(*arguments)
        took["bands"] = time.perf_counter() - started

    started = time.perf_counter()
    report = cellxlate.enhance_file(
        stack, model, output=folder / "out.ome.zarr", overwrite=True, where=replace(cluster.executor, write_bands=timed)
    )
    took["all"] = time.perf_counter() - started
    return took, report


def speed(options: argparse.Namespace) -> None:
    """One worker against two, in turns."""
    with tempfile.TemporaryDirectory() as place, open_cluster(workers=1) as one, open_cluster(workers=2) as two:
        folder, rows, same = Path(place), [], True
        one.records = []
        run(options.stacks[0], folder, options.model, two)  # models are sent, engines made
        run(options.stacks[0], folder, options.model, one)
        expected = pixels_of(cellxlate.enhance_file(options.stacks[0], options.model, output=folder / "alone.ome.zarr"))
        for _ in range(options.pairs):
            alone, report = run(options.stacks[0], folder, options.model, one)
            both, report = run(options.stacks[0], folder, options.model, two)
            same &= all(np.array_equal(a, b) for a, b in zip(pixels_of(report), expected, strict=True))
            rows.append((alone, both))
            print(f"  bands {alone['bands']:.1f} / {both['bands']:.1f} s, all {alone['all']:.1f} / {both['all']:.1f} s")
        for part in ("bands", "all"):
            ratios = [alone[part] / both[part] for alone, both in rows]
            print(f"{part}: speed-up of two workers {statistics.median(ratios):.2f} (from {min(ratios):.2f} to "
                  f"{max(ratios):.2f}, {options.pairs} pairs)")  # fmt: skip
        print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; the pixels of one process: {same}")
        if options.times:
            times = [{"megapixels": one.pixels / 1e6, "read_s": one.read_s, "compute_s": one.compute_s,
                      "write_s": one.write_s} for one in one.records]  # fmt: skip
            options.times.write_text(json.dumps(times, indent=1))


def cpu_s() -> float:
    """Return the processor time of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def three_stacks(folder: Path) -> list[Path]:
    """Return three stacks that differ in kind: real nuclei (TIFF), simulated planes as Zarr and as TIFF."""
    nuclei = Path(__file__).resolve().parents[3] / "shared/data/stacks/nuclei_TZYX.tif"
    kinds: dict[str, tuple[tuple[int, ...], float, Literal["scattered", "clustered"]]] = {
        "scattered.ome.zarr": ((1, 1, 8, 1024, 1024), 0.3, "scattered"),
        "clustered.ome.tif": ((1, 1, 6, 2048, 2048), 0.08, "clustered"),
    }
    if not nuclei.is_file():
        kinds["nuclei.ome.tif"] = ((2, 1, 3, 1040, 1392), 0.2, "scattered")
    for name, (shape, cells, layout) in kinds.items():
        settings = SampleSettings(shape=shape, cell_fraction=cells, layout=layout, seed=len(name))
        write_stacks([(simulated(settings).stack, folder / name)])
    return [*sorted(folder.iterdir()), *([nuclei] if nuclei.is_file() else [])]


def predicted(options: argparse.Namespace) -> None:
    """Predict each stack, run it, and compare: on the clock, and in processor time, which neighbours do not stretch."""
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {torch.get_num_threads()} threads; "
          f"median of {options.pairs} pairs of a prediction and the run that follows it\n")  # fmt: skip
    print(
        "| stack | megapixels | cells | predicted (s) | took (s) | predicted / took | of each pair | processor time |"
    )
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        for path in options.stacks or three_stacks(Path(place)):
            pairs = [_predicted(path, options.model) for _ in range(options.pairs)]
            expected_s, took_s, expected_busy_s, busy_s = np.array([pair[1] for pair in pairs]).T
            ratios, first = expected_s / took_s, pairs[0][0]
            print(f"| {path.name} | {first.megapixels:.1f} | {first.cell_fraction:.0%} | {np.median(expected_s):.1f} | "
                  f"{np.median(took_s):.1f} | {np.median(ratios):.2f} | {', '.join(f'{one:.2f}' for one in ratios)} | "
                  f"{np.median(expected_busy_s / busy_s):.2f} |", flush=True)  # fmt: skip


def _predicted(path: Path, model: str) -> tuple[Prediction, tuple[float, float, float, float]]:
    """Return a prediction, and the seconds it and the run have: on the clock and of the processor."""
    with tempfile.TemporaryDirectory() as place, open_stack(path) as stack:
        outputs = name_outputs(path, is_zarr=is_zarr(path), output_dir=Path(place))
        plan_options: dict[str, Any] = {"channels": None, "settings": None, "engine": "auto", "device": "auto"}
        make_plan(stack, model, **plan_options)  # imports
        marks = [(time.perf_counter(), cpu_s())]
        plan = make_plan(stack, model, **plan_options)
        marks.append((time.perf_counter(), cpu_s()))
        expected = predict(plan, outputs, plan_s=marks[1][0] - marks[0][0])
        marks.append((time.perf_counter(), cpu_s()))
        plan = make_plan(stack, model, **plan_options)
        with closing(steps_to_files(plan, outputs)) as steps:
            for _ in steps:
                pass
        marks.append((time.perf_counter(), cpu_s()))
        share = (marks[2][1] - marks[1][1]) / (marks[2][0] - marks[1][0])  # of a core, while the sample ran
        took_s, busy_s = marks[3][0] - marks[2][0], marks[3][1] - marks[2][1]
        return expected, (expected.total_s, took_s, expected.total_s * share, busy_s)


def small(options: argparse.Namespace) -> None:
    """Many planes of 64 x 64 px on two workers, in turns: each band a task of its own, and bands together."""
    with tempfile.TemporaryDirectory() as place, open_cluster(workers=2) as cluster:
        planes = Path(place) / "planes.zarr"
        shape = (options.planes, 64, 64)
        array = zarr.create_array(
            planes, shape=shape, chunks=(100, 64, 64), dtype="uint16", dimension_names=["t", "y", "x"]
        )
        array[:] = np.random.default_rng(0).normal(120, 10, shape).astype(np.uint16)

        def bands_s(task_px: int) -> float:
            cluster_room.TASK_PX = task_px
            with open_stack(planes) as stack:
                plan = make_plan(stack, options.model, channels=None, settings=None, engine="torch", device="cpu")
                outputs = name_outputs(planes, is_zarr=True, output_dir=Path(place))
                writers: tuple[Writer, Writer] = open_writers(plan, outputs, overwrite=True, resume=False)
                with writers[0], writers[1]:
                    started = time.perf_counter()
                    for _ in cluster.write_bands(plan, *writers, started):
                        pass
                    took_s = time.perf_counter() - started
                    for writer in writers:
                        writer.discard()
            return took_s

        together_px = cluster_room.TASK_PX
        bands_s(together_px)  # models are sent, engines made
        pairs = [(bands_s(1), bands_s(together_px)) for _ in range(options.pairs)]
        for alone, together in pairs:
            print(f"  one by one {alone:.1f} s, together {together:.1f} s")
        gain = statistics.median(alone / together for alone, together in pairs)
        print(f"{options.planes} planes: together {gain:.1f} times as fast (median of {options.pairs} pairs; load "
              f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores)")  # fmt: skip


def many(options: argparse.Namespace) -> None:
    """Begin a virtual mosaic, and look at the memory of this process, which holds client and scheduler."""
    print("| bands | planned in (s) | first band after (s) | memory before, planned, at the end (MB) | known to the "
          "scheduler at most |\n|---|---|---|---|---|")  # fmt: skip
    for bands in (options.bands // 100, options.bands):
        with tempfile.TemporaryDirectory() as place, open_cluster(workers=1) as cluster:
            mosaic = Path(place) / "mosaic.zarr"
            zarr.create_array(
                mosaic, shape=(bands // 50, 50 * 512, 64), chunks=(1, 512, 64), dtype="uint8", fill_value=7,
                dimension_names=["t", "y", "x"],
            )  # fmt: skip
            before, started = resident_mb(), time.perf_counter()
            most, begun, first = 0, 0, 0.0
            with open_stack(mosaic) as stack:
                plan = make_plan(
                    stack, options.model, channels=None, settings=EnhanceSettings(tile_px=512), engine="torch",
                    device="cpu",
                )  # fmt: skip
                outputs = name_outputs(mosaic, is_zarr=True, output_dir=Path(place))
                writers: tuple[Writer, Writer] = open_writers(plan, outputs, overwrite=False, resume=False)
                planned_s, planned = time.perf_counter() - started, resident_mb()
                with writers[0], writers[1], closing(cluster.write_bands(plan, *writers, started)) as steps:
                    for news in steps:
                        first = first or news.seconds
                        begun += 1
                        most = max(most, len(cluster.client.cluster.scheduler.tasks))
                        if begun == options.begin:
                            break
            held = f"{before:.0f}, {planned:.0f}, {resident_mb():.0f}"
            print(f"| {bands:,} | {planned_s:.1f} | {first:.1f} | {held} | {most} |", flush=True)


def resident_mb() -> float:
    """Return the memory this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def nothing(number: int) -> int:
    """Stand for a band that costs nothing."""
    return number


def scheduler_s(tasks: int = 500) -> float:
    """Measure what client and scheduler spend on a task, with a window as `Cluster.write_bands` keeps it."""
    options: dict[str, Any] = {"processes": False, "dashboard_address": None}
    with LocalCluster(n_workers=2, threads_per_worker=1, **options) as local, Client(local) as client:
        waiting: list[Any] = []
        client.submit(nothing, -1, pure=False).result()
        started = time.perf_counter()
        for number in range(tasks):
            waiting.append(client.submit(nothing, number, pure=False, retries=2))
            if len(waiting) > 4:
                waiting.pop(0).result()
        client.gather(waiting)
        return (time.perf_counter() - started) / tasks


def simulated_s(
    workers: int, costs: Any, *, bands: int, task_s: float, storage_mb_s: float, band_mb: float, seed: int = 0
) -> float:
    """Return when the last of some bands is written: one client hands them out, all share one storage."""
    draws = np.random.default_rng(seed).integers(0, len(costs), bands)
    free = [0.0] * workers
    heapq.heapify(free)
    client = storage = last = 0.0
    for draw in draws:
        client = max(client, heapq.heappop(free)) + task_s
        storage = max(storage, client) + band_mb / storage_mb_s
        ready = max(client + costs[draw], storage)
        heapq.heappush(free, ready)
        last = max(last, ready)
    return last


def simulate(options: argparse.Namespace) -> None:
    """Say how long a stack takes with 1 to 1,000 workers, and what holds it up."""
    times = json.loads(options.times.read_text()) if options.times else []
    per_megapixel = [(one["read_s"] + one["compute_s"] + one["write_s"]) / one["megapixels"] for one in times] or [0.75]
    task_s = options.task_ms / 1e3 if options.task_ms else scheduler_s()
    band_megapixels = 512 * options.columns / 1e6
    costs = np.array(per_megapixel) * band_megapixels
    band_mb = band_megapixels * 2 * 2 * 0.6  # uint16 read and written, compressed to 0.6
    total = options.bands * band_megapixels
    print(f"{options.bands:,} bands of 512 x {options.columns} px, {total / 1e3:.0f} gigapixels; a band takes "
          f"{costs.mean():.2f} s; client and scheduler {1e3 * task_s:.1f} ms per band; storage "
          f"{options.storage_mb_s:.0f} MB/s; putting an OME-TIFF together {options.serial_s:.3f} s per megapixel"
          "\n")  # fmt: skip
    print("| workers | bands (h) | speed-up of the bands | with OME-TIFF (h) | speed-up | held up by |")
    print("|---|---|---|---|---|---|")
    limits = {"workers": 0.0, "client and scheduler": options.bands * task_s,
              "storage": options.bands * band_mb / options.storage_mb_s}  # fmt: skip
    serial = options.serial_s * total
    first = 0.0
    for workers in SHARED_SERIES:
        took = simulated_s(workers, costs, bands=options.bands, task_s=task_s, storage_mb_s=options.storage_mb_s,
                           band_mb=band_mb)  # fmt: skip
        first = first or took
        limits["workers"] = options.bands * costs.mean() / workers
        worst = max(limits, key=lambda name: limits[name])
        worst = "putting the file together" if serial > took else worst
        print(f"| {workers} | {took / 3600:.2f} | {first / took:.1f} | {(took + serial) / 3600:.2f} | "
              f"{(first + serial) / (took + serial):.1f} | {worst} |")  # fmt: skip


def main() -> None:
    """Run one of the benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "predict", "small", "many", "simulate"))
    parser.add_argument("stacks", nargs="*", type=Path)
    parser.add_argument("--model", default="nuclei-lowexp")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--bands", type=int, default=100_000)
    parser.add_argument("--planes", type=int, default=2000, help="of 64 x 64 px")
    parser.add_argument("--begin", type=int, default=100, help="bands to do of a virtual mosaic")
    parser.add_argument("--times", type=Path, help="measured times: written by speed, read by simulate")
    parser.add_argument("--columns", type=int, default=2048)
    parser.add_argument("--storage-mb-s", type=float, default=500.0)
    parser.add_argument("--serial-s", type=float, default=0.005, help="of putting an OME-TIFF together, per megapixel")
    parser.add_argument("--task-ms", type=float, help="of client and scheduler per band; measured by default")
    options = parser.parse_args()
    {"speed": speed, "predict": predicted, "small": small, "many": many, "simulate": simulate}[options.what](options)


if __name__ == "__main__":
    main()
