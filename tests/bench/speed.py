"""How fast, and in how much memory: end to end, sparse against dense, few planes against many.

    python tests/bench/speed.py [--side 2048] [--repeat 5] [--model nuclei-lowexp]

Each case runs in a process of its own; times are medians, ratios are taken between runs in turns.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

CASES = {
    "5 % clustered": ("0.05", "clustered"),
    "5 % scattered": ("0.05", "scattered"),
    "15 % scattered": ("0.15", "scattered"),
    "60 % scattered": ("0.6", "scattered"),
}


def run(*arguments: str | Path) -> dict[str, Any]:
    """Run a command of cellxlate and return its JSON."""
    command = [sys.executable, "-m", "cellxlate", *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def enhance(stack: Path, model: str, *options: str) -> dict[str, Any]:
    """Enhance a stack as a user does, report included."""
    return run("enhance", stack, "-m", model, "-o", stack.with_name("out.ome.tif"), "--overwrite", *options)


def main() -> None:
    """Run all cases and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--model", default="nuclei-lowexp")
    parser.add_argument("--planes", type=int, nargs=2, default=(4, 32))
    options = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, "
          f"{options.side} x {options.side} px, median of {options.repeat}\n")  # fmt: skip
    heads = ("cells", "sparse (s)", "dense (s)", "dense / sparse", "megapixel/s, networks alone", "end to end")
    print("| " + " | ".join(heads) + " |", "|" + "---|" * len(heads), sep="\n")
    with tempfile.TemporaryDirectory() as folder:
        for name, (fraction, layout) in CASES.items():
            stack = Path(folder) / "stack.ome.tif"
            run("sample", stack, "--shape", f"1,1,1,{options.side},{options.side}", "--cell-fraction", fraction,
                "--layout", layout, "--overwrite")  # fmt: skip
            pairs = [
                (enhance(stack, options.model), enhance(stack, options.model, "--dense")) for _ in range(options.repeat)
            ]
            times = [
                [answer["seconds"]["attention"] + answer["seconds"]["generator"] for answer in side]
                for side in zip(*pairs, strict=True)
            ]
            sparse, dense = (statistics.median(side) for side in times)
            ratio = statistics.median(there / here for here, there in zip(*times, strict=True))
            total = statistics.median(answer["seconds"]["total"] for answer, _ in pairs)
            pixels = options.side**2 / 1e6
            print(
                f"| {name} | {sparse:.2f} | {dense:.2f} | {ratio:.2f} | {pixels / sparse:.2f} | {pixels / total:.2f} |"
            )
        print("\n| planes | peak memory (MB) | seconds per plane |\n|---|---|---|")
        for planes in options.planes:
            stack = Path(folder) / "stack.ome.tif"
            run("sample", stack, "--shape", f"{planes},1,1,{options.side},{options.side}", "--overwrite")
            answer = enhance(stack, options.model)
            print(f"| {planes} | {answer['peak_rss_mb']:.0f} | {answer['seconds']['total'] / planes:.2f} |")


if __name__ == "__main__":
    main()
