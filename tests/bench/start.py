"""A small image from the shell: seconds for the whole command, for each engine, and for the panel to be imported.

python tests/bench/start.py [--other FOLDER] [--repeat 7] [--side 256] [--models cells auto] [--engines auto torch]

With --other, the sources of another version take turns with these, command by command, so that other work on the
machine falls on both alike. Seconds of the processor (user and system, one thread) are given beside those that passed.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]
ENGINES = ("auto", "openvino", "onnxruntime", "torch")
PANEL = ("-c", "import cellxlate.plugin.enhance.widget")


def main() -> None:
    """Print a row for every command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", type=Path, default=None, help="folder of another version's sources")
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--side", type=int, default=256, help="of the image, in pixels")
    parser.add_argument("--models", nargs="+", default=["cells", "auto"])
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    options = parser.parse_args()
    sources = {"here": HERE} | ({"other": options.other.resolve()} if options.other else {})
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {options.side} x {options.side} px, medians of "
          f"{options.repeat}")  # fmt: skip
    print("| command | " + " | ".join(f"{name}: processor (s) | passed (s)" for name in sources) + " |")
    print("|---|" + "---|" * 2 * len(sources))
    with tempfile.TemporaryDirectory() as folder:
        stack = Path(folder) / "small.ome.tif"
        shape = f"1,1,1,{options.side},{options.side}"
        run(HERE, "-m", "cellxlate", "sample", str(stack), "--shape", shape, "--cell-fraction", "0.05", "--seed", "1")
        for model in options.models:
            for engine in options.engines:
                command = ("-m", "cellxlate", "enhance", str(stack), "-m", model, "--engine", engine, "--overwrite",
                           "--quiet")  # fmt: skip
                row(f"--engine {engine} -m {model}", sources, command, options.repeat)
        row("panel", sources, PANEL, options.repeat)


def row(name: str, sources: dict[str, Path], command: tuple[str, ...], repeat: int) -> None:
    """Run a command with all sources in turns, once before it counts, and print the medians."""
    seconds: dict[str, list[tuple[float, float]]] = {each: [] for each in sources}
    for _ in range(repeat + 1):
        for each, folder in sources.items():
            seconds[each].append(run(folder, *command))
    cells = [
        f"{statistics.median(one[part] for one in taken[1:]):.2f}" for taken in seconds.values() for part in (0, 1)
    ]
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


def run(folder: Path, *command: str) -> tuple[float, float]:
    """Run Python with the sources in a folder; return seconds of the processor, and those that passed."""
    one_thread = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")}
    environment = {**os.environ, **one_thread, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": ""}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *command], cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    passed_s, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, passed_s


if __name__ == "__main__":
    main()
