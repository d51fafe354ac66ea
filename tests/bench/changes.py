"""Change an input at 100 random moments of a run: each must end with the new input's result, or be refused.

    python tests/bench/changes.py [--tries 100] [--seed 0]

TIFF and Zarr in turn, with a new time and with the time set back, in planes that are done and in planes to come, in a
run of its own and in one that is interrupted and resumed: then the change comes between the two, or at any moment of
the second. The networks are small and untrained; the file's identity is made as blind as that of a large file.
"""

import argparse
import importlib
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr

import cellxlate
from cellxlate.errors import CellxlateError, PromiseError
from cellxlate.settings import EnhanceSettings
from cellxlate.stacks.read.open import open_stack
from tests.conftest import tiny_model

SHAPE = (5, 1030, 96)
SETTINGS = EnhanceSettings(tile_px=64)
KINDS, TIMES, PARTS, WAYS = ("tif", "zarr"), ("new time", "time kept"), ("done", "to come"), ("unbroken", "resumed")
OUTCOMES = ("new input's result", "result, changed after it was verified", "refused", "refused on resume")


class StopError(Exception):
    """What interrupts a run."""


@dataclass
class Try:
    """One run whose input changes."""

    stack: Path
    keep_time: bool
    part: str
    random: random.Random
    done: float = 0.0
    edited_s: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def edit(self) -> None:
        """Change a pixel, or a block of them, in a plane that is done or in one to come."""
        with self.lock:
            if self.edited_s:
                return
            now = int(self.done)
            planes = range(now) if self.part == "done" else range(now, SHAPE[0])
            plane = self.random.choice(planes or range(SHAPE[0]))
            row, column, side = self.random.randrange(1000), self.random.randrange(90), self.random.choice([1, 1, 20])
            where = plane, slice(row, row + side), slice(column, column + side)
            files = [item for item in [self.stack, *self.stack.rglob("*")] if item.is_file()]
            times = {item: item.stat() for item in files}
            self.edited_s = time.perf_counter()
            if self.stack.suffix == ".zarr":
                zarr.open_array(self.stack, mode="r+")[where] += np.uint16(9)
            else:
                pixels = tifffile.memmap(self.stack, mode="r+")
                pixels[where] += np.uint16(9)
                pixels.flush()
            for item, state in times.items() if self.keep_time else ():
                os.utime(item, ns=(state.st_atime_ns, state.st_mtime_ns))
            self.edited_s = time.perf_counter()


def write_input(stack: Path) -> None:
    """Write a noisy ramp, of which the networks keep the dark side."""
    cells = np.random.default_rng(0).normal(0, 8, SHAPE) + np.linspace(80, 240, SHAPE[-1])
    if stack.suffix == ".zarr":
        zarr.create_array(store=stack, shape=SHAPE, dtype="uint16", chunks=(1, 256, 96))[:] = cells.astype(np.uint16)
    else:
        tifffile.imwrite(stack, cells.astype(np.uint16), photometric="minisblack")


def enhance(stack: Path, model: Path, folder: Path, **options: Any) -> Any:
    """One run."""
    return cellxlate.enhance_file(
        stack, model, axes="ZYX", output_dir=folder, report=False, settings=SETTINGS, engine="torch", **options
    )


def pixels(folder: Path) -> list[np.ndarray]:
    """Image and attention."""
    found = []
    for path in sorted(item for item in folder.glob("cells_*") if not item.name.endswith(".partial")):
        with open_stack(path) as stack:
            found.append(np.asarray(stack).copy())
    return found


def timed(attempt: Try, after_s: float, run: Callable[[], Any]) -> Any:
    """Run, with the change after so many seconds."""
    clock = threading.Timer(after_s, attempt.edit)
    clock.start()
    try:
        return run()
    finally:
        clock.join()


def one_try(attempt: Try, way: str, model: Path, folder: Path, whole_s: float) -> str:
    """Do one run, or two of which the first is interrupted, and say how it ended; ValueError for a mixture."""
    stack, draws = attempt.stack, attempt.random
    verified: list[float] = []
    account = importlib.import_module("cellxlate.quality.report.account")
    honest = account.examine
    account.examine = lambda *arguments, **named: (verified.append(time.perf_counter()), honest(*arguments, **named))[1]

    def follow(news: Any) -> None:
        attempt.done = news.done if getattr(news, "phase", "enhancing") == "enhancing" else SHAPE[0]

    try:
        if way == "resumed":
            stop_at = draws.uniform(0.5, SHAPE[0])

            def stop(news: Any) -> None:
                follow(news)
                if news.done >= stop_at:
                    raise StopError

            with suppress(StopError):
                enhance(stack, model, folder, progress=stop)
            if draws.random() < 0.5:
                attempt.edit()
        run = lambda: enhance(stack, model, folder, resume=way == "resumed", progress=follow)  # noqa: E731
        timed(attempt, draws.uniform(0, whole_s), run)
    except PromiseError:
        raise
    except CellxlateError as fault:
        if not any(word in str(fault) for word in ("changed", "begun with other", "finished, but from other")):
            raise
        if pixels(folder):
            raise ValueError(f"refused ({fault}), but there is a result") from fault
        return "refused" if way == "unbroken" else "refused on resume"
    finally:
        account.examine = honest
    fresh = folder / "fresh"
    enhance(stack, model, fresh)
    written, wanted = pixels(folder), pixels(fresh)
    if len(written) == 2 and all(np.array_equal(one, other) for one, other in zip(written, wanted, strict=True)):
        return OUTCOMES[0]
    if verified and attempt.edited_s > verified[-1]:
        return OUTCOMES[1]
    raise ValueError("the result is not that of the input")


def main() -> int:
    """Try, and print how often which end came."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    importlib.import_module("cellxlate.enhancement.outputs.identity").SAMPLED_BYTES = 256
    draws, counts, wrong = random.Random(options.seed), Counter[tuple[str, str]](), 0
    cases = list(product(KINDS, TIMES, PARTS, WAYS))
    with tempfile.TemporaryDirectory() as place:
        model = tiny_model.__wrapped__(Factory(Path(place)))  # type: ignore[attr-defined]
        whole_s = dict[str, float]()
        for kind in KINDS:
            for _ in range(5):  # the first loads the libraries
                folder = Path(place) / f"whole_{kind}_{_}"
                folder.mkdir()
                write_input(folder / f"cells.{kind}")
                started = time.perf_counter()
                enhance(folder / f"cells.{kind}", model, folder)
                whole_s[kind] = min(time.perf_counter() - started, whole_s.get(kind, 99.0))
        print({kind: f"{seconds:.2f} s" for kind, seconds in whole_s.items()}, flush=True)
        for number in range(options.tries):
            kind, when, part, way = cases[number % len(cases)]
            folder = Path(place) / f"try_{number}"
            (folder / "in").mkdir(parents=True)
            stack = folder / "in" / f"cells.{kind}"
            write_input(stack)
            attempt = Try(stack, when == "time kept", part, random.Random(draws.random()))
            try:
                outcome = one_try(attempt, way, model, folder, whole_s[kind])
            except Exception as fault:  # noqa: BLE001
                outcome, wrong = f"WRONG {type(fault).__name__}: {fault}", wrong + 1
                print(number, kind, when, part, way, outcome, flush=True)
            counts[f"{kind}, {when}, {part}, {way}", outcome] += 1
            shutil.rmtree(folder)
    for (case, outcome), count in sorted(counts.items()):
        print(f"{case:36} {outcome:40} {count:3}")
    total = Counter[str]()
    for (_, outcome), count in counts.items():
        total[outcome] += count
    print(dict(total), "wrong:", wrong)
    return int(wrong > 0)


class Factory:
    """Stands for pytest's `tmp_path_factory`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def mktemp(self, name: str) -> Path:
        """Make a folder."""
        made = self._folder / name
        made.mkdir()
        return made


if __name__ == "__main__":
    sys.exit(main())
