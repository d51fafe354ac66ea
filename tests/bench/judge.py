"""How well errors estimated without a truth rank filters and models: `quality.risk` against the true ranking.

    python tests/bench/judge.py [--parts real drawn compare] [--data ../shared/data] [--fields 20] [--json]

- real: every frame of `real_pairs`. drawn: fields drawn, or taken from clear images, and made noisy.
- compare: on those fields other estimates as well: recorruption without its opposite draw, blind spots, thinning.

Candidates are the classical filters and each shipped model, its generator alone and as it is composed with the input.
The judge sees the noisy image and the noise measured on it; the truth ranks by the affine PSNR in the mask, as every
score does. "lost" is how many dB the candidate that the judge names is below the best one.
"""

import argparse
import json
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
import torch
from degraded import EVERYWHERE, HELD_OUT, Noise, degrade, structure
from pairs import Pair, psnr_affine, shipped_models
from real import read_pairs
from scipy import ndimage, signal, stats

import cellxlate
from cellxlate.enhancement.confidence_file import gated_output
from cellxlate.enhancement.tiling import Tile, window
from cellxlate.model.engines import open_engine
from cellxlate.quality.risk import CLASSICAL, Candidate, Ranking, estimate_risks
from cellxlate.stacks.camera import CameraNoise, measure_noise
from cellxlate.stacks.intensity import measure_levels
from cellxlate.stacks.network_input import network_input
from cellxlate.stacks.structures import STRUCTURES, draw_structure

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
SIDE_PX, WINDOW_PX, MOST_WINDOWS = 320, 256, 4
NOISES = {
    "white": Noise(60, 2),
    "weak": Noise(15, 2, bits=8),
    "bright": Noise(300, 3),
    "read": Noise(60, 10),
    "shared-0.5": Noise(40, 2, width_px=0.5, bits=8),
    "shared-0.7": Noise(15, 2, width_px=0.7),
    "shared-1.0": Noise(60, 5, width_px=1.0),
}
Image = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]


def drawn_pairs(count: int, *, seed: int, data: Path = DATA) -> list[Pair]:
    """Return so many fields: in turn drawn, a clear image that is held out of training, and nuclei of long exposure."""
    rng, pairs = np.random.default_rng(seed), []
    nuclei = sorted((data / "nuclei_lowexp" / "train_T").glob("*.tif"))
    for number in range(count):
        kind = str(rng.choice(STRUCTURES))
        clear_path = data / str(rng.choice(HELD_OUT)) if number % 4 else nuclei[int(rng.integers(len(nuclei)))]
        if number % 2:
            clear: Image = draw_structure(kind, (SIDE_PX, SIDE_PX), rng, scale=float(np.exp(rng.uniform(-0.7, 1)))).image
            group = kind
        else:
            clear, group = tifffile.imread(clear_path)[:SIDE_PX, :SIDE_PX], clear_path.parent.name
        cells = np.ones(clear.shape, bool) if group in EVERYWHERE else structure(clear)
        name = list(NOISES)[number % len(NOISES)]
        noisy, truth = degrade(clear, NOISES[name], seed=zlib.crc32(f"{seed} {number}".encode()))
        pairs.append(Pair(group, f"{number} {name}", noisy, truth, cells))
    return pairs


def model_candidates(noisy: Image, models: Sequence[str]) -> dict[str, Candidate]:
    """Return the generator and the composed output of each model; levels are those of the noisy image."""
    levels, found = measure_levels([noisy]), {}
    for name in models:
        translator = open_engine(cellxlate.load_model(name))

        def run(plane: npt.NDArray[np.float32], output: Callable[[Any], Any], halo_px: int, stride: int) -> Floats:
            rows, columns = plane.shape
            unit = network_input(plane, levels).unit
            around = Tile(0, rows, 0, columns).grown(halo_px, stride)
            made = output(np.ascontiguousarray(window(unit, 0, plane.shape, around))[None, None])[0, 0]
            margin = (around.bottom - around.top - made.shape[0]) // 2
            top, left = -around.top - margin, -around.left - margin
            return np.asarray(plane + (made[top : top + rows, left : left + columns] - unit) * levels.span)

        stride = translator.stride
        found[f"{name} generator"] = lambda plane, one=translator, stride=stride, run=run: run(
            plane, one.proposal, one.generator_halo_px, stride
        )
        found[name] = lambda plane, one=translator, stride=stride, run=run: run(
            plane, gated_output(one, 0.1), one.generator_halo_px + one.attention_halo_px, stride
        )
    return found
