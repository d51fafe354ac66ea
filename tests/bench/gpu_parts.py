"""The parts of `gpu.py`, each run in a process of its own; not called by hand.

python tests/bench/gpu_parts.py NAME OUTCOME.json cuda|cpu SIDE_PX TRAINING_S LIMIT_S
"""

import contextlib
import json
import math
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

STARTED = time.monotonic()
TOP = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP), str(Path(__file__).parent)]

MOST_REPEATS, MOST_DRAWN = 5, 200
LONG_S = 3.0
"""Runs are not repeated for longer."""
PRECISIONS = ("float32", "bfloat16")
CELLS = 0.15
SMALLEST_PX, SMALL_PX, LARGE_PX = 192, 512, 2048
SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.35, 0.2, 0.1)
"""Of the memory that a window needs: so much is left, less and less, until it must shrink."""


@dataclass
class Record:
    """What a part has found, on disk after every entry, and how much time it has.

    `device` is "cuda", or "cpu" where the CPU stands in for the card; `side_px` that of large planes.
    """

    path: Path
    device: str
    side_px: int
    training_s: float
    limit_s: float
    results: dict[str, Any] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    cut: str = ""
    error: str = ""
    missing: str = ""

    @property
    def is_quick(self) -> bool:
        """Whether small images and networks must do."""
        return self.side_px < LARGE_PX

    @property
    def left_s(self) -> float:
        """Seconds until the part should have ended."""
        return self.limit_s - (time.monotonic() - STARTED)

    def has_time(self, next_name: str, needed_s: float = 0.0) -> bool:
        """Return whether there is time for what comes next; where there is none, note that it was left out."""
        if self.left_s > needed_s:
            return True
        self.cut = self.cut or f"no time was left from {next_name} on"
        return False

    def put(self, **facts: Any) -> None:
        """Keep facts."""
        self.results |= facts
        self.write()

    def row(self, table: str, **facts: Any) -> None:
        """Add a row to a table."""
        self.results.setdefault(table, []).append(facts)
        self.write()

    def write(self) -> None:
        """Write what there is, so that the file is never half."""
        facts = {
            "results": plain(self.results), "wrong": self.wrong, "cut": self.cut, "error": self.error,
            "missing": self.missing, "peak_gpu_mb": peak_gpu_mb(self.device), "peak_rss_mb": peak_rss_mb(),
        }  # fmt: skip
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(facts), encoding="utf-8")
        partial.replace(self.path)


def plain(value: Any) -> Any:
    """Return a value as JSON has it: numbers of five digits, None for those that are no number."""
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, bool | int | str) or value is None:
        return value
    number = float(value)
    return float(f"{number:.5g}") if math.isfinite(number) else None


def peak_gpu_mb(device: str) -> float | None:
    """Return the most that torch held of the card's memory in this process."""
    torch = sys.modules.get("torch")
    if device != "cuda" or torch is None or not torch.cuda.is_available():
        return None
    return round(torch.cuda.max_memory_reserved() / 1e6, 1)


def peak_rss_mb() -> float:
    """Return the most memory that this process had."""
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)


def wait_for_card(device: str) -> None:
    """Wait until the card has done what it was told."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def shipped() -> list[str]:
    """Return the names of the shipped models, the smallest first."""
    files = (TOP / "cellxlate" / "models").glob("*/weights.safetensors")
    return [path.parent.name for path in sorted(files, key=lambda path: path.stat().st_size)]


# the machine


def machine(record: Record) -> None:
    """Note card, driver, versions and what decides bits; fail where the card is not there."""
    names = ("torch", "numpy", "scipy", "scikit-image", "safetensors", "openvino", "zarr", "dask", "tifffile", "pytest")
    versions = {}
    for name in names:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    record.put(
        system=platform.platform(), python=sys.version.split()[0], cpu=cpu_name(), cores=os.cpu_count(),
        versions=versions, driver=driver(),
    )  # fmt: skip
    import torch

    is_there = torch.cuda.is_available()
    record.put(
        cuda=torch.version.cuda, available=record.device == "cpu" or is_there, threads=torch.get_num_threads(),
        cudnn_tf32=torch.backends.cudnn.allow_tf32, matmul_tf32=torch.backends.cuda.matmul.allow_tf32,
        cudnn_benchmark=torch.backends.cudnn.benchmark,
    )  # fmt: skip
    if is_there:
        card = torch.cuda.get_device_properties(0)
        record.put(
            card=card.name, capability=f"{card.major}.{card.minor}", multiprocessors=card.multi_processor_count,
            memory_mb=card.total_memory / 1e6, free_mb=torch.cuda.mem_get_info()[0] / 1e6,
            cudnn=torch.backends.cudnn.version(), bfloat16=torch.cuda.is_bf16_supported(),
        )  # fmt: skip
    elif record.device == "cuda":
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        raise RuntimeError(
            f"there is no CUDA device: torch {torch.__version__}, {built}, finds none; --device cpu tries this script"
        )


def cpu_name() -> str:
    """Return what the CPU is called."""
    with contextlib.suppress(OSError):
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
        if found:
            return found[1]
    return platform.processor() or platform.machine()


def driver() -> str | None:
    """Return what nvidia-smi says of driver and card, and who uses it already."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=driver_version,name,memory.total,memory.used", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, timeout=10, check=False).stdout.strip()
    except (OSError, subprocess.TimeoutExpired) as fault:
        return f"nvidia-smi: {fault}"


# tests that are marked `cuda`


class Counted:
    """Pytest's outcomes, kept as they come."""

    def __init__(self, record: Record) -> None:
        self.record, self.counts = record, {"passed": 0, "failed": 0, "skipped": 0}

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Count a test once: by its call, or by what kept it from being called."""
        if report.when == "call" or report.outcome != "passed":
            self.counts[report.outcome] += 1
            self.record.put(**self.counts)
            if report.outcome == "failed":
                last = (report.longreprtext.strip().splitlines() or ["it failed"])[-1]
                self.record.wrong.append(f"{report.nodeid}: {last}")
                self.record.write()

    def pytest_collectreport(self, report: Any) -> None:
        """Note a file that could not be loaded, for want of a package for instance."""
        if report.outcome == "failed":
            last = (report.longreprtext.strip().splitlines() or ["it cannot be loaded"])[-1]
            self.record.results.setdefault("not_loaded", []).append(f"{report.nodeid}: {last}")
            self.record.cut = "some files of tests could not be loaded"
            self.record.write()


def marked_files() -> list[Path]:
    """Return the files that hold tests marked `cuda`."""
    return [
        path for path in sorted((TOP / "tests").rglob("test_*.py")) if "pytest.mark.cuda" in path.read_text("utf-8")
    ]


def tests(record: Record) -> None:
    """Run the tests marked `cuda`, in this process, without what the project's own settings need beside pytest."""
    import pytest

    if not marked_files():
        raise RuntimeError("no test is marked cuda")
    os.environ["CELLXLATE_CARD"] = record.device
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "pytest.ini"
        settings.write_text(f"[pytest]\naddopts = --import-mode=importlib\npythonpath = {TOP} {TOP}/tests/writers\n"
                            "markers =\n    cuda: needs a graphics card\n    display: needs a screen\n")  # fmt: skip
        counted = Counted(record)
        record.put(**counted.counts, files=[str(path.relative_to(TOP)) for path in marked_files()])
        code = pytest.main(
            ["-q", "-m", "cuda", "--continue-on-collection-errors", "-p", "no:cacheprovider", "-c", str(settings),
             f"--rootdir={TOP}", *map(str, marked_files())], plugins=[counted],
        )  # fmt: skip
    if code not in (0, 1) and not record.cut:
        raise RuntimeError(f"pytest ended with exit code {int(code)}")


# how fast


def rate_of(run: Callable[[], Any], megapixels: float, record: Record) -> tuple[float, int]:
    """Return megapixel/s, the median of up to five runs after one to warm up, and how many there were."""
    run()
    seconds: list[float] = []
    while not seconds or (len(seconds) < MOST_REPEATS and sum(seconds) < LONG_S and record.left_s > 3 * seconds[-1]):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return megapixels / statistics.median(seconds), len(seconds)


def speed(record: Record) -> None:
    """Time every shipped model in every precision, on the card first: networks alone, then whole planes."""
    ways = [(record.device, "torch", precision) for precision in PRECISIONS]
    ways += [("cpu", "torch", precision) for precision in PRECISIONS if record.device != "cpu"]
    ways += [("cpu", "auto", "float32")]
    for part in (network_rows, plane_rows):
        for device, engine, precision in ways:
            for model in shipped():
                if record.has_time(f"{part.__name__}, {model}, {device} {precision}"):
                    part(record, model, device, engine, precision)


def network_rows(record: Record, model: str, device: str, engine: Any, precision: Any) -> None:
    """Time both networks of a model alone, on a window of the usual size and, on a card, on a large one."""
    import numpy as np

    from cellxlate.model.bundle import load_model
    from cellxlate.model.engines.engine import open_engine

    opened = open_engine(load_model(model), engine=engine, device=device, precision=precision)
    networks = (("generator", opened.proposal, opened.generator_halo_px),
                ("attention", opened.attention, opened.attention_halo_px))  # fmt: skip
    for core_px in [64] if record.is_quick else [SMALL_PX] if device == "cpu" else [SMALL_PX, LARGE_PX]:
        for name, run, halo_px in networks:
            side = -(-(core_px + 2 * halo_px) // opened.stride) * opened.stride
            images = np.random.default_rng(0).uniform(0, 1, (1, 1, side, side)).astype(np.float32)
            if record.has_time(f"{name} of {model}, {device} {precision}"):
                rate, repeats = rate_of(lambda run=run, images=images: run(images), images.size / 1e6, record)
                record.row("networks", model=model, device=device, precision=precision, engine=opened.name,
                           network=name, window_px=side, megapixel_per_s=rate, repeats=repeats)  # fmt: skip


@cache
def plane_of(layout: str, cells: float, side: int) -> tuple[Any, Any]:
    """Return a simulated plane and its levels."""
    from speed import field as simulated

    return simulated(layout, cells, side)


def plane_rows(record: Record, model: str, device: str, engine: Any, precision: Any) -> None:
    """Time a plane from counts to counts: with 15 % cells, and with cells everywhere."""
    from speed import Everywhere, enhance

    from cellxlate.model.bundle import load_model
    from cellxlate.model.engines.engine import open_engine

    opened = open_engine(load_model(model), engine=engine, device=device, precision=precision)
    side = record.side_px // 2 if device == "cpu" else record.side_px
    for layout, cells in (("scattered", CELLS), ("everywhere", 1.0)):
        if not record.has_time(f"planes of {model}, {device} {precision}"):
            return
        plane, levels = plane_of(layout, cells, side)
        translator = Everywhere(opened) if layout == "everywhere" else opened
        rate, repeats = rate_of(
            lambda plane=plane, levels=levels, translator=translator: enhance(
                plane, levels, translator, time.perf_counter
            ),
            plane.size / 1e6,
            record,
        )
        record.row("planes", model=model, device=device, precision=precision, engine=opened.name, cells=cells,
                   side_px=side, megapixel_per_s=rate, repeats=repeats)  # fmt: skip


# the same pixels


def pixels(record: Record) -> None:
    """Compare a plane of the card with that of the CPU in float32."""
    import torch
    from speed import enhance

    from cellxlate.model.bundle import load_model
    from cellxlate.model.engines.engine import open_engine

    plane, levels = plane_of("scattered", CELLS, record.side_px // 2)
    for model in shipped():
        if not record.has_time(f"model {model}"):
            return
        bundle = load_model(model)
        expected = enhance(plane, levels, open_engine(bundle, engine="torch", device="cpu"), time.perf_counter)[2:]
        for precision, tf32 in (("float32", True), ("float32", False), ("bfloat16", True)):
            if not record.has_time(f"{model} in {precision}"):
                return
            before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, tf32
            opened = open_engine(bundle, engine="torch", device=record.device, precision=precision)
            found = enhance(plane, levels, opened, time.perf_counter)[2:]
            torch.backends.cudnn.allow_tf32 = before
            facts = compared(plane, expected, found)
            record.row("rows", model=model, precision=precision, tf32=tf32, **facts)
            if facts["kept_violations"] or facts["kept_on_both_differ"]:
                record.wrong.append(f"{model} in {precision}: pixels that attention kept are not the input's own")
                record.write()


def compared(plane: Any, expected: tuple[Any, Any], found: tuple[Any, Any]) -> dict[str, int]:
    """Count what differs between two results (image, attention) of a plane."""
    import numpy as np

    apart = np.abs(found[0].astype(np.int64) - expected[0])
    kept = (expected[1] == 0) & (found[1] == 0)
    return {
        "selected": int((found[1] > 0).sum()),
        "differ": int((apart > 0).sum()),
        "at_most_counts": int(apart.max()),
        "attention_differs": int((found[1] != expected[1]).sum()),
        "kept_violations": int(((found[0] != plane) & (found[1] == 0)).sum()),
        "kept_on_both_differ": int(apart[kept].astype(bool).sum()),
    }


# memory that ends


@contextmanager
def room_of(device: str, room_bytes: int) -> Iterator[None]:
    """Leave so much memory: a card is filled with one plain allocation; a process on the CPU has a limit set."""
    import torch

    if device == "cuda":
        torch.cuda.empty_cache()
        free_bytes, _ = torch.cuda.mem_get_info()
        ballast = torch.empty(max(free_bytes - room_bytes, 1), dtype=torch.uint8, device="cuda")
        try:
            yield
        finally:
            del ballast
            torch.cuda.empty_cache()
        return
    import resource

    from cellxlate.model.engines.memory import LEAST_BYTES

    before = resource.getrlimit(resource.RLIMIT_AS)
    has_bytes = 1024 * int(Path("/proc/self/status").read_text(encoding="utf-8").partition("VmSize:")[2].split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (has_bytes + room_bytes + LEAST_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


class Short:
    """A translator in a process that may have so much more memory while its networks run, as on a small device."""

    def __init__(self, translator: Any, room_bytes: int) -> None:
        self._translator, self._room_bytes = translator, room_bytes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._translator, name)

    def attention(self, images: Any) -> Any:
        """Return attention."""
        with room_of("cpu", self._room_bytes):
            return self._translator.attention(images)

    def proposal(self, images: Any) -> Any:
        """Return a proposal."""
        with room_of("cpu", self._room_bytes):
            return self._translator.proposal(images)


def run_in(room_bytes: int, run: Callable[..., Any], translator: Any, device: str) -> Any:
    """Call `run` with a translator while there is so much memory for its networks."""
    if device != "cuda":
        return run(Short(translator, room_bytes))
    with room_of(device, room_bytes):
        return run(translator)


def memory(record: Record) -> None:
    """Fill the memory until windows, then tiles of a plane, must shrink, and compare the pixels."""
    for compare in (shrunk_window, shrunk_plane):
        for model in shipped():
            if record.has_time(f"{compare.__name__}, {model}"):
                compare(record, model)


def needed_by(run: Callable[[], Any], device: str, guess_bytes: float) -> tuple[Any, int]:
    """Return what a call returns, and how much memory it took: as measured on a card, as guessed on the CPU."""
    import torch

    if device != "cuda":
        return run(), int(guess_bytes)
    run()  # which prepares what stays
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    torch.cuda.reset_peak_memory_stats()
    made = run()
    return made, torch.cuda.max_memory_reserved() - before


def shrunk_window(record: Record, model: str) -> None:
    """Let the generator run on a large window in less and less memory, until it is cut."""
    import numpy as np

    side = max(record.side_px, 4 * reach_px(record, model))
    images = np.random.default_rng(0).uniform(-0.2, 1.5, (1, 1, side, side)).astype(np.float32)
    small = np.ascontiguousarray(images[..., :SMALLEST_PX, :SMALLEST_PX])

    def run(opened: Any, *, prepare: bool = False) -> Any:
        return opened.proposal(small if prepare else images)

    first, tried = shrunk(record, model, run, images.size)
    halo_px = first.generator_halo_px
    inside = (..., slice(halo_px, -halo_px), slice(halo_px, -halo_px))
    apart = np.abs(tried["found"] - tried["expected"])[inside]
    add_row(record, model, "window, unit range", tried, differ=int((apart > 2e-6).sum()), at_most=float(apart.max()),
            kept_violations=None)  # fmt: skip


def reach_px(record: Record, model: str) -> int:
    """Return how far the networks of a model look, in whole strides; windows are cut down to twice of it."""
    from cellxlate.model.bundle import load_model
    from cellxlate.model.engines.engine import open_engine

    opened = open_engine(load_model(model), engine="torch", device=record.device)
    return -(-max(opened.generator_halo_px, opened.attention_halo_px) // opened.stride) * opened.stride


def shrunk_plane(record: Record, model: str) -> None:
    """Enhance a plane with many cells in less and less memory, until its tiles are cut."""
    from speed import enhance

    plane, levels = plane_of("scattered", 0.6, max(record.side_px // 2, SMALL_PX))

    def run(opened: Any, *, prepare: bool = False) -> Any:
        return enhance(plane[:64, :64] if prepare else plane, levels, opened, time.perf_counter)[2:]

    tried = shrunk(record, model, run, None)[1]
    facts = compared(plane, tried["expected"], tried["found"])
    add_row(record, model, "plane, counts", tried, differ=facts["differ"], at_most=facts["at_most_counts"],
            attention_differs=facts["attention_differs"], kept_violations=facts["kept_violations"])  # fmt: skip
    if facts["kept_violations"]:
        record.wrong.append(f"{model}: with little memory, pixels that attention kept are not the input's own")
    if facts["at_most_counts"] > 1:
        record.wrong.append(
            f"{model}: with little memory {facts['differ']} pixels differ, by up to {facts['at_most_counts']} counts, "
            "though the warning says that they are the same"
        )
    record.write()


def shrunk(record: Record, model: str, run: Callable[..., Any], window_px: int | None) -> tuple[Any, dict[str, Any]]:
    """Run with all memory, then with less and less, until a warning says that tiles were cut.

    Returns the translator of the first run, and {"expected", "found", "needed", "room", "warning"}. On the CPU a window
    of so many pixels is what needs memory; None is that of a tile.
    """
    from cellxlate.enhancement.tiling import tile_side
    from cellxlate.model.bundle import load_model
    from cellxlate.model.engines.engine import open_engine
    from cellxlate.model.engines.memory import OVERHEAD

    def opened_again() -> Any:
        opened = open_engine(load_model(model), engine="torch", device=record.device)
        run(opened, prepare=True)  # what stays is prepared while there is memory
        return opened

    first = opened_again()
    halo_px, per_px = first.generator_halo_px, first.activation_bytes_per_px
    if window_px is None:
        tile_px = min(tile_side(None, halo_px=halo_px, stride=first.stride, activation_bytes_per_px=per_px), SMALL_PX)
        window_px = (tile_px + 2 * halo_px) ** 2
    expected, needed = needed_by(lambda: run(first), record.device, OVERHEAD * window_px * per_px)
    tried: dict[str, Any] = {"expected": expected, "needed": needed, "found": expected, "warning": ""}
    for share in SHARES:
        opened = opened_again()
        tried["room"] = share * needed
        try:
            found = run_in(int(share * needed), run, opened, record.device)
        except MemoryError as fault:  # the smallest tiles were too large
            record.row("gave_up", model=model, room_mb=share * needed / 1e6, message=str(fault))
            break
        tried |= {"found": found, "warning": " ".join(opened.warnings)}
        if opened.warnings:
            break
    return first, tried


def add_row(record: Record, model: str, what: str, tried: dict[str, Any], **facts: Any) -> None:
    """Keep how a window or a plane fared with little memory."""
    record.row("rows", model=model, what=what, needed_mb=tried["needed"] / 1e6, room_mb=tried["room"] / 1e6,
               shrunk=bool(tried["warning"]), **facts, warning=tried["warning"])  # fmt: skip
    if not tried["warning"]:
        record.wrong.append(f"{model}: the {what.partition(',')[0]} never had to shrink, so nothing was tried")
        record.write()


# training


class EnoughError(Exception):
    """A training was stopped on purpose; it has saved its checkpoint."""


def write_images(folder: Path, count: int, side: int) -> tuple[Path, Path]:
    """Simulate faint nuclei and clear ones of other fields, write them, and return both folders."""
    import tifffile

    from cellxlate.stacks.samples.nuclei import SampleSettings, simulate

    source, target = folder / "source", folder / "target"
    for number, path in enumerate((source, target)):
        path.mkdir()
        for seed in range(count):
            made = simulate(SampleSettings((1, 1, 1, side, side), 0.2, seed=2 * seed + number))
            stack = made.truth if number else made.stack
            tifffile.imwrite(path / f"{seed}.tif", stack.read((0, 0, 0)))
    return source, target


def settings_of(preset: str, record: Record) -> Any:
    """Return the settings of a preset, with a guide and few drawn fields, which take long and change no speed."""
    from cellxlate.settings import PRESETS

    settings = PRESETS[preset]
    if preset == "general":
        few = 4 if record.is_quick else 48
        settings = replace(settings, generalist=replace(settings.generalist, drawn_fields=few, source_fields=few))
    else:
        settings = replace(settings, guide="saliency")
    return smaller(settings, 64) if record.is_quick else settings


def smaller(settings: Any, side: int) -> Any:
    """Return settings for a few steps on small patches; below 128 px of networks of few channels too."""
    networks, part = settings.networks, settings.generalist
    if side < 128:
        networks = replace(
            networks, generator=replace(networks.generator, width=8), attention=replace(networks.attention, width=8),
            discriminator=replace(networks.discriminator, width=8),
        )  # fmt: skip
    return replace(
        settings, networks=networks, patch_px=side, load_px=None if settings.load_px is None else side + 16,
        batch=min(settings.batch, 2),
        generalist=replace(part, generator_px=min(part.generator_px, side), drawn_fields=4, source_fields=4),
    )  # fmt: skip


def resume(record: Record) -> None:
    """Train two steps here and two there, to the end, and compare with an unbroken run on the CPU."""
    import torch

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        paths, last_s = write_images(Path(folder), 3, 256), 0.0
        for preset in ("paper", "general"):
            given = paths if preset == "paper" else (None, None)
            settings = replace(smaller(settings_of(preset, record), 64 if record.is_quick else 128), steps=4)
            if not record.has_time(preset, last_s):
                return
            whole = train_to_end(Path(folder) / f"{preset}-whole", given, settings, ["cpu"])[0]
            for first, then in (("cpu", record.device), (record.device, "cpu")):
                if not record.has_time(f"{preset} from {first} to {then}", last_s):
                    return
                started = time.monotonic()
                made, middle, notes = train_to_end(
                    Path(folder) / f"{preset}-{len(record.results.get('rows', ()))}", given, settings, [first, then]
                )
                row = {
                    "preset": preset, "from": first, "to": then,
                    "precision": made.card["training"]["precision"], "steps": made.card["training"]["steps"],
                    "apart": distance(made, whole),
                    "moved": None if preset == "paper" else distance(made, middle), "note": "; ".join(notes),
                }  # fmt: skip
                record.row("rows", **row)
                last_s = time.monotonic() - started
                if not all(bool(torch.isfinite(one).all()) for one in made.translator.state_dict().values()):
                    record.wrong.append(f"{preset} from {first} to {then}: the model has weights that are no number")
                    record.write()
            shutil.rmtree(Path(folder) / f"{preset}-whole", ignore_errors=True)


def train_to_end(output: Path, given: Any, settings: Any, devices: list[str]) -> tuple[Any, Any, list[str]]:
    """Train an equal share of the steps on each device; return the model, the weights after the first, and notes."""
    from cellxlate.training.loop import train

    notes: list[str] = []
    middle: dict[str, Any] = {}
    made: Any = None
    for number, device in enumerate(devices):
        share = settings.steps * (number + 1) // len(devices)

        def stop(step: int, share: int = share) -> None:
            if step >= share and step < settings.steps:
                raise EnoughError

        def keep(progress: Any) -> None:
            if progress.note:
                notes.append(progress.note)

        try:
            made = train(
                *given, output=output, settings=settings, device=device, resume=number > 0, tensorboard=False,
                after_step=stop, progress=keep,
            )  # fmt: skip
        except EnoughError:
            middle = averaged(output)
    return made, middle, notes


def averaged(output: Path) -> dict[str, Any]:
    """Return the averaged weights in the checkpoint of an unfinished model."""
    from safetensors.torch import load_file

    from cellxlate.stacks.naming import partial_of
    from cellxlate.training.checkpoint import CHECKPOINT

    start = "module/average/"
    found = load_file(partial_of(output) / CHECKPOINT)
    return {name.removeprefix(start): value for name, value in found.items() if name.startswith(start)}


def weights_of(one: Any) -> dict[str, Any]:
    """Return the weights of a model, or the weights themselves."""
    weights: dict[str, Any] = one if isinstance(one, dict) else one.translator.state_dict()
    return weights


def distance(one: Any, other: Any) -> float:
    """Return the root mean square between the weights that two have both, in the same shape."""
    import torch

    first, second = weights_of(one), weights_of(other)
    shared = [name for name in first if name in second and first[name].shape == second[name].shape]
    apart = torch.cat([(first[name].float() - second[name].float()).flatten() for name in shared])
    return float(apart.square().mean().sqrt())


def training(record: Record, preset: str) -> None:
    """Train with a preset for some time, then time its halves alone: drawing patches, and moving the networks."""
    import torch

    from cellxlate.training import loop
    from cellxlate.training.checkpoint import read_notes

    loop.require_no_collapse = lambda *_: None  # how fast it is counts here, not what becomes of attention
    settings = replace(settings_of(preset, record), steps=1_000_000)
    watch = StepWatch(record)
    with tempfile.TemporaryDirectory() as folder:
        given: Any = (None, None)
        if preset != "general":
            given = write_images(Path(folder), *((3, 256) if record.is_quick else (16, 520)))
        output = Path(folder) / "model"
        record.put(prepared_s=time.monotonic() - STARTED)
        try:
            loop.train(*given, output=output, settings=settings, device=record.device, tensorboard=False,
                       after_step=watch.step, progress=watch.look)  # fmt: skip
        except EnoughError:
            partial = next(Path(folder).glob("*.partial"))
            record.put(precision=read_notes(partial)["precision"])
        watch.write()
        if watch.trained_s < record.training_s:
            record.cut = f"{watch.trained_s:.0f} of {record.training_s:.0f} s: there was no time for more"
        if record.has_time("its halves", 2):
            halves(record, given, settings, torch.device(record.device))


class StepWatch:
    """Counts the steps of a training and stops it in time.

    Steps per second are those of the second half of the time: at first much is prepared, and guides are computed.
    """

    def __init__(self, record: Record) -> None:
        self.record, self.created, self.until, self.written = record, time.monotonic(), 0.0, 0.0
        self.ends: list[float] = []
        self.loss: list[float] = []
        self.area = 0.0

    @property
    def trained_s(self) -> float:
        """Seconds from the end of the first step to that of the last."""
        return self.ends[-1] - self.ends[0] if self.ends else 0.0

    def step(self, done: int) -> None:
        """Note a step; every few seconds write what there is, and raise EnoughError in the end."""
        if done == 1:
            wait_for_card(self.record.device)
            now, kept_s = time.monotonic(), 8 if self.record.left_s > 30 else 3  # for the halves
            self.until = now + min(self.record.training_s, self.record.left_s - kept_s)
            self.record.put(first_step_s=now - self.created)
        is_last = time.monotonic() >= self.until
        if is_last:
            wait_for_card(self.record.device)
        self.ends.append(time.monotonic())
        if is_last:
            raise EnoughError
        if self.ends[-1] > self.written + 5:
            self.written = self.ends[-1]
            self.write()

    def look(self, progress: Any) -> None:
        """Note a loss, and how much attention selects."""
        terms = progress.terms
        self.loss.append(terms["total"] if "total" in terms else sum(terms.values()))
        self.area = progress.attention.area

    def write(self) -> None:
        """Write how fast it is."""
        half = [end for end in self.ends if end >= self.ends[-1] - self.trained_s / 2]
        seconds = half[-1] - half[0] if half else 0.0
        self.record.put(
            steps=len(self.ends), trained_s=self.trained_s,
            steps_per_s=(len(half) - 1) / seconds if seconds > 0 else None,
            loss=self.loss[:: max(len(self.loss) // 20, 1)], attention_area=self.area,
        )  # fmt: skip


def halves(record: Record, given: Any, settings: Any, device: Any) -> None:
    """Time drawing the patches of a step, and moving the networks by the same patches, in milliseconds."""
    from cellxlate.training.domains import open_domains
    from cellxlate.training.run import begin, one_step, patches_of

    paths: Any = ([], []) if settings.preset == "general" else tuple([path] for path in given)
    few = replace(settings.generalist, drawn_fields=4, source_fields=4)
    settings = replace(settings, generalist=few)
    with ExitStack() as files:
        domains = open_domains(paths, settings, None, [], files)
        step_ms: dict[str, float] = {}
        for precision in PRECISIONS:
            run = begin(settings, domains, device, precision)
            if "draw_ms" not in record.results:
                drawn: list[float] = []
                while len(drawn) < 2 or (sum(drawn) < 3 and record.left_s > 6 * drawn[-1] and len(drawn) < MOST_DRAWN):
                    started = time.perf_counter()
                    patches = patches_of(run, domains, len(drawn))
                    drawn.append(time.perf_counter() - started)
                record.put(draw_ms=1000 * statistics.median(drawn[len(drawn) // 2 :]))  # guides are known by then
            one_step(run, patches, device)
            wait_for_card(record.device)
            times: list[float] = []
            while len(times) < 4 * MOST_REPEATS and (not times or record.left_s > 4 * times[-1]):
                started = time.perf_counter()
                one_step(run, patches, device)
                wait_for_card(record.device)
                times.append(time.perf_counter() - started)
            step_ms[precision] = 1000 * statistics.median(times)
            record.put(step_ms=step_ms)
            if not record.has_time(f"a step in another precision than {precision}", 5 * times[-1]):
                return


PARTS: dict[str, Callable[[Record], None]] = {
    "machine": machine, "tests": tests, "speed": speed, "pixels": pixels, "memory": memory, "resume": resume,
    "cells": lambda record: training(record, "general"), "paper": lambda record: training(record, "paper"),
}  # fmt: skip


def main() -> int:
    """Run one part and keep what it finds; what it fails of is one line there, and a traceback on standard error."""
    name, path, device, side, training_s, limit_s = sys.argv[1:]
    record = Record(Path(path), device, int(side), float(training_s), float(limit_s))
    try:
        PARTS[name](record)
    except ModuleNotFoundError as fault:
        record.missing = (fault.name or str(fault)).partition(".")[0]
        record.write()
        return 1
    except Exception as fault:
        record.error = f"{type(fault).__name__}: {' '.join(str(fault).split())}"[:500]
        record.write()
        raise
    record.write()
    return 0


if __name__ == "__main__":
    sys.exit(main())
