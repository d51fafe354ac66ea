"""Engines on one plane full of windows: megapixel/s of each network, and how far each is from torch in float32.

python tests/bench/engines.py [--side 1024] [--repeat 5] [--clock cpu]
"""

import argparse
import statistics
import time
from typing import Any

import numpy as np
import torch

from cellxlate.errors import OptionError
from cellxlate.model.bundle import load_model
from cellxlate.model.engines.engine import open_engine, probe_error

WAYS: list[tuple[Any, Any]] = [
    ("torch", "float32"), ("openvino", "float32"), ("onnxruntime", "float32"), ("torch", "bfloat16"),
    ("openvino", "bfloat16"),
]  # fmt: skip
WINDOWS = {"generator": (1, 1, 562, 562), "generator, small": (16, 1, 92, 92), "attention": (1, 1, 552, 552)}


def main() -> None:
    """Print a row for every engine and precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nuclei-lowexp")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    options = parser.parse_args()
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    if options.clock == "cpu":
        torch.set_num_threads(1)
    bundle = load_model(options.model)
    names = ", megapixel/s | ".join(WINDOWS)
    print(f"| engine | to open (s) | {names}, megapixel/s | from torch float32, at most |")
    print("|---|" + "---|" * (len(WINDOWS) + 2))
    for engine, precision in WAYS:
        started = clock()
        try:
            opened = open_engine(bundle, engine=engine, device="cpu", precision=precision)
        except OptionError as fault:
            print(f"| {engine} {precision} | {fault} |" + " |" * (len(WINDOWS) + 1))
            continue
        opening_s = clock() - started
        speeds = []
        for name, shape in WINDOWS.items():
            run = opened.attention if name == "attention" else opened.proposal
            images = np.random.default_rng(0).uniform(0, 1, shape).astype(np.float32)
            run(images)
            seconds = []
            for _ in range(options.repeat):
                started = clock()
                run(images)
                seconds.append(clock() - started)
            speeds.append(f"{images.size / 1e6 / statistics.median(seconds):.2f}")
        print(
            f"| {opened.name} | {opening_s:.2f} | {' | '.join(speeds)} | {probe_error(opened, bundle):.1e} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
