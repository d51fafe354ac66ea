"""What a graphics card does with cellxlate, in at most eight minutes, as one JSON.

    tests/bench/gpu.sh [-o gpu.json] [--device cuda|cpu] [--seconds 120] [--minutes 8] [--parts NAME ...]

Needs no network, no data and no installation: a Python with torch and what cellxlate depends on is enough, `PYTHON`
names another than python3. Where packages are missing, one line names them, and what can run without them runs. Each
part is a process of its own (`gpu_parts.py`): one that fails, dies or hangs takes no other with it, and the file is
written whole after each. `--device cpu --seconds 5` lets the CPU stand in for the card, to try the script: two minutes.

| part | what is measured |
|---|---|
| `machine` | card, driver, versions, settings of torch that decide bits |
| `speed` | megapixel/s of every shipped model and precision, on card and CPU: networks alone, whole planes |
| `pixels` | how many counts differ between CPU and card; whether pixels that attention kept are the input's own |
| `memory` | the card's memory is filled until tiles must shrink: whether the pixels are the same as without |
| `resume` | training from a checkpoint of the CPU on the card, and the other way round, to the end |
| `tests` | the tests that are marked `cuda` |
| `cells`, `paper` | training with the presets `general` and `paper`, `--seconds` each: steps/s, loss, both halves |

The JSON (all times in seconds, memory in MB of 10^6 bytes, planes and windows in pixels):

    {"schema": 1, "command": [...], "version": "...", "started": "2026-01-31T12:00:00+00:00", "device": "cuda",
     "seconds": 412.3, "limit_s": 480, "complete": true,      # false: a part did not end well, or was cut
     "missing_packages": ["imagecodecs"],
     "parts": {"speed": {
         "status": "done" | "wrong" | "cut" | "failed" | "not run",
         "note": "...",              # one line: why, for all but "done"
         "wrong": ["..."],           # what was found that must not be, in sentences
         "seconds": 61.2, "limit_s": 70,
         "peak_gpu_mb": 2310.5,      # most that torch held of the card; `memory` fills it; null: CPU
         "peak_rss_mb": 1022.0,
         "results": {...}}}}         # of the part; what was found before it was cut or failed is kept

Rows in `results`:

- `speed`: "networks" [{model, device, precision, engine, network, window_px, megapixel_per_s, repeats}] and "planes"
  [{model, device, precision, engine, cells, side_px, megapixel_per_s, repeats}]; medians.
- `pixels`: "rows" [{model, precision, tf32, selected, differ, at_most_counts, attention_differs, kept_violations,
  kept_on_both_differ}], pixels that differ from the CPU's in float32; `tf32`: convolutions may round to ten bits.
- `memory`: "rows" [{model, what, needed_mb, room_mb, shrunk, differ, at_most, kept_violations, warning}], where
  `differ` counts pixels, and "gave_up" [{model, room_mb, message}], where even the smallest tiles were too large.
- `resume`: "rows" [{preset, from, to, precision, steps, apart, moved, note}]: `apart` is how far the weights are from
  those of an unbroken run on the CPU, `moved` how far the resumed steps moved them (root mean squares; null for
  `paper`, whose normalisation is folded into the weights in the end).
- `cells`, `paper`: {"steps", "trained_s", "steps_per_s", "precision", "first_step_s", "loss", "attention_area",
  "draw_ms", "step_ms": {precision: ms}}: steps per second in the second half of the time; drawing the patches of a step
  takes a thread of the CPU `draw_ms`, the step itself `step_ms`.

Exit code 0: all was done or cut, and nothing is wrong; 1: something failed or is wrong; 2: there is no such device.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

TOP = Path(__file__).resolve().parents[2]
QUICK_S = 60.0
"""With shorter trainings the images are small too."""
QUICK_LIMIT_S = 114.0
STARTING_S, LEAST_S, SPARE_S = 20.0, 3.0, 4.0
"""To start a training; below which no part is begun; between asking a part to end and ending it."""

NEEDED = {
    "dask": "dask", "google_crc32c": "google-crc32c", "imagecodecs": "imagecodecs", "jinja2": "jinja2",
    "numpy": "numpy", "roifile": "roifile", "safetensors": "safetensors", "skimage": "scikit-image", "scipy": "scipy",
    "tifffile": "tifffile", "torch": "torch", "tqdm": "tqdm", "yaml": "pyyaml", "yaozarrs": "yaozarrs",
    "zarr": "zarr",
}  # fmt: skip
"""Names to import, and packages that have them: all that cellxlate depends on."""


@dataclass(frozen=True)
class Part:
    """A process: how long it may take, and how much of that is kept for it; None for a training, which is told."""

    name: str
    most_s: float | None = None
    kept_s: float = 0.0


PARTS = (
    Part("machine", 25, 15), Part("speed", 90, 55), Part("pixels", 45, 25), Part("memory", 60, 35),
    Part("resume", 60, 35), Part("tests", 70, 35), Part("cells"), Part("paper"),
)  # fmt: skip


def limit_of(parts: Sequence[Part], left_s: float, training_s: float) -> float:
    """Return how long the first of the parts may take, so that there is time for those behind it."""
    first, *later = parts
    own_s = training_s + STARTING_S
    room_s = left_s - own_s * sum(part.most_s is None for part in later)
    waiting_s = sum(part.kept_s for part in later)
    if first.most_s is None:
        return min(own_s, max(room_s - waiting_s, left_s / len(parts)))
    return min(first.most_s, room_s - waiting_s * min(1.0, room_s / (first.kept_s + waiting_s)))


def run_part(name: str, command: Sequence[str | Path], outcome: Path, limit_s: float) -> dict[str, Any]:
    """Run a part, which writes what it found to a file again and again, and end it where it takes too long."""
    started = time.monotonic()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [*map(str, command)], stdout=said, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=TOP,
            start_new_session=True,
        )  # fmt: skip
        is_late = False
        try:
            process.wait(limit_s)
        except subprocess.TimeoutExpired:
            is_late = True
        finally:  # also what it has started
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        said.seek(0)
        lines = said.read().decode(errors="replace").strip().splitlines()
    found: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        found = json.loads(outcome.read_text(encoding="utf-8"))
    status, note = _status(found, process.returncode, limit_s if is_late else None, lines)
    result = {
        "status": status, "note": note, "wrong": found.get("wrong", []),
        "seconds": round(time.monotonic() - started, 1), "limit_s": round(limit_s, 1),
        "peak_gpu_mb": found.get("peak_gpu_mb"), "peak_rss_mb": found.get("peak_rss_mb"),
        "results": found.get("results", {}),
    }  # fmt: skip
    if status == "failed":
        result["said"] = lines[-30:]
    return result


def _status(found: Mapping[str, Any], code: int, late_s: float | None, lines: Sequence[str]) -> tuple[str, str]:
    """Return how a part ended, and one line about it."""
    if found.get("missing"):
        package, is_begun = NEEDED.get(found["missing"], found["missing"]), bool(found.get("results"))
        return ("cut", f"the rest needs the Python package {package}") if is_begun else (
            "not run", f"needs the Python package {package}")  # fmt: skip
    if late_s is not None:
        note, status = f"it was ended after {late_s:.0f} s; what it had found is kept", "cut"
    elif found.get("error"):
        return "failed", found["error"]
    elif code:
        ending = f"signal {-code}" if code < 0 else f"exit code {code}"
        return "failed", f"{ending}: {lines[-1] if lines else 'it said nothing'}"
    else:
        note, status = found.get("cut", ""), "cut" if found.get("cut") else "done"
    wrong = found.get("wrong", [])
    return ("wrong", "; ".join([*wrong, *([note] if note else [])])) if wrong else (status, note)


def not_run(note: str) -> dict[str, Any]:
    """Return what stands for a part that was not run."""
    return {
        "status": "not run", "note": note, "wrong": [], "seconds": 0.0, "limit_s": 0.0, "peak_gpu_mb": None,
        "peak_rss_mb": None, "results": {},
    }  # fmt: skip


def write_whole(path: Path, results: Mapping[str, Any]) -> None:
    """Write the results so that a crash leaves those of before or of now."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def run_all(
    parts: Sequence[Part],
    results: dict[str, Any],
    path: Path,
    *,
    training_s: float,
    command_of: Callable[[str, Path, float], Sequence[str | Path]],
) -> None:
    """Run parts one after another and write the results after each; `command_of` takes name, outcome and limit."""
    began = time.monotonic()
    done: dict[str, Any] = results["parts"]
    unable = ""
    done.update({part.name: not_run("not yet") for part in parts})
    try:
        with tempfile.TemporaryDirectory() as folder:
            for number, part in enumerate(parts):
                limit_s = limit_of(parts[number:], results["limit_s"] - (time.monotonic() - began), training_s)
                if unable or limit_s < LEAST_S:
                    done[part.name] = not_run(unable or "no time was left")
                else:
                    outcome = Path(folder) / f"{part.name}.json"
                    done[part.name] = run_part(part.name, command_of(part.name, outcome, limit_s), outcome, limit_s)
                one = done[part.name]
                if part.name == "machine" and one["status"] not in ("done", "cut"):
                    unable = one["note"]
                print(f"{part.name}: {one['status']}, {one['seconds']:.0f} s. {one['note']}".rstrip(), file=sys.stderr,
                      flush=True)  # fmt: skip
                _sum_up(results, began)
                write_whole(path, results)
    except KeyboardInterrupt:
        for part in parts:
            if done[part.name]["note"] == "not yet":
                done[part.name] = not_run("interrupted")
        raise
    finally:
        _sum_up(results, began)
        write_whole(path, results)


def _sum_up(results: dict[str, Any], began: float) -> None:
    results["seconds"] = round(time.monotonic() - began, 1)
    results["complete"] = all(part["status"] == "done" for part in results["parts"].values())


def _rows(table: Any) -> list[dict[str, Any]]:
    return [row for row in table if isinstance(row, dict)] if isinstance(table, list) else []


def summary(results: Mapping[str, Any]) -> str:
    """Return the results in some lines for people."""
    lines = []
    for name, part in results["parts"].items():
        found = part["results"]
        for row in [row for table in found.values() for row in _rows(table)]:
            lines.append(f"{name}: " + ", ".join(f"{key} {value}" for key, value in row.items() if value is not None))
        if found.get("steps_per_s"):
            lines.append(f"{name}: {found['steps_per_s']} steps/s ({found.get('precision')}), "
                         f"drawing {found.get('draw_ms')} ms, step {found.get('step_ms')} ms")  # fmt: skip
        lines += [f"{name}: WRONG: {sentence}" for sentence in part["wrong"]]
    lines += [f"{name}: {part['status']} {part['note']}".rstrip() for name, part in results["parts"].items()]
    return "\n".join(lines)


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    names = [part.name for part in PARTS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("gpu.json"))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--seconds", type=float, default=120.0, help="of each training; below 60 images are small too")
    parser.add_argument("--minutes", type=float, help="for everything; 8, or 1.9 where the trainings are short")
    parser.add_argument("--parts", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    options = parser.parse_args(arguments)
    if not 1 <= options.seconds <= 3600:
        parser.error(f"--seconds {options.seconds} is not between 1 and 3600")
    is_quick = options.seconds < QUICK_S
    options.limit_s = 60 * options.minutes if options.minutes else QUICK_LIMIT_S if is_quick else 480.0
    options.side = 256 if is_quick else 2048
    if not options.output.resolve().parent.is_dir():
        parser.error(f"{options.output.parent} is no folder, so {options.output.name} cannot be written there")
    return options


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for, write the JSON, and print a summary."""
    options = options_of(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    path = options.output.resolve()
    missing = [package for name, package in NEEDED.items() if find_spec(name) is None]
    if missing:
        print(
            f"missing Python packages: {', '.join(missing)}; what needs them is left out", file=sys.stderr, flush=True
        )
    version = (TOP / "cellxlate" / "__init__.py").read_text(encoding="utf-8").partition('__version__ = "')[2]
    results: dict[str, Any] = {
        "schema": 1, "command": sys.argv if arguments is None else ["gpu.py", *arguments],
        "version": version.partition('"')[0], "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": options.device, "seconds": 0.0, "limit_s": options.limit_s, "complete": False,
        "missing_packages": missing, "parts": {},
    }  # fmt: skip

    def command_of(name: str, outcome: Path, limit_s: float) -> Sequence[str | Path]:
        soft_s = max(limit_s - SPARE_S, 0.7 * limit_s)
        return [sys.executable, Path(__file__).with_name("gpu_parts.py"), name, outcome, options.device,
                str(options.side), str(options.seconds), f"{soft_s:.1f}"]  # fmt: skip

    parts = [part for part in PARTS if part.name in options.parts]
    try:
        run_all(parts, results, path, training_s=options.seconds, command_of=command_of)
    except KeyboardInterrupt:
        print(f"interrupted; what was found is in {path}", file=sys.stderr)
        return 130
    print(summary(results))
    print(f"{results['seconds']:.0f} s; everything is in {path}")
    machine = results["parts"].get("machine", {"results": {}})
    if machine["results"].get("available") is False:
        return 2
    statuses = {part["status"] for part in results["parts"].values()}
    return int(bool(statuses & {"failed", "wrong"}) or statuses == {"not run"})


if __name__ == "__main__":
    sys.exit(main())
