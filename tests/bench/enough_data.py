"""How much of a stack is enough to adapt to: the same field, learned from on parts of it, and scored on all of it.

    python tests/bench/enough_data.py [--data ../shared/data] [--sides 64 128 256 384] [--steps 80] [--model cells]

Fields of HELD_OUT are degraded as in degraded.py. The middle of each, of so many pixels on a side, is adapted to for
the same number of steps; then the whole field is enhanced. The table tells by how many dB (affine PSNR inside the
structures) what was learned is better than the model as it was, kept or not, and what the judge said. One thread.
"""

import argparse
import tempfile
import time
import zlib
from pathlib import Path

import tifffile
import torch
from degraded import DATA, NOISES, degrade, structure
from pairs import Pair, psnr_affine

import cellxlate
from cellxlate.enhancement.adaptation import adapt as adaptation
from cellxlate.stacks.stack import Stack

FIELDS = (
    ("clean_structures/actin/cpe_01_POS076_F_y40_x40.tif", "shared-1.0"),
    ("clean_structures/microtubules/neu_xyc_8bit__dapi_tublin_c1_y200_x484.tif", "shared-0.7"),
    ("clean_structures/tissue/isl_isl_nfh_y512_x0.tif", "weak"),
)
LARGEST_PX = 384


def main() -> None:
    """Print one row per field and side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--sides", nargs="+", type=int, default=[64, 128, 256, 384])
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--model", default="cells")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = cellxlate.load_model(options.model)
    verdict = adaptation.verdict
    # to score what is not kept, too
    adaptation.verdict = lambda ranking, **told: (True, "{}: {}".format(*verdict(ranking, **told)))
    print("| field | side (px) | input (dB) | model as it was (dB) | what was learned, over it (dB) | kept: why | s |")
    print("|---|---|---|---|---|---|---|")
    for name, kind in FIELDS:
        clear = tifffile.imread(options.data / name)[:LARGEST_PX, :LARGEST_PX]
        noisy, truth = degrade(clear, NOISES[kind], seed=zlib.crc32(f"{name} {kind}".encode()))
        pair = Pair("", name, noisy, truth, structure(clear))
        before = psnr_affine(cellxlate.enhance(noisy, model, axes="YX").image, pair)
        for side in options.sides:
            top, left = ((size - side) // 2 for size in noisy.shape)
            part = Stack(noisy[top : top + side, left : left + side], "YX", "part")
            began = time.monotonic()
            with tempfile.TemporaryDirectory() as folder:
                found = adaptation.adapt_stack(part, model, steps=options.steps, output=Path(folder) / "adapted")
                took_s = time.monotonic() - began
                after = psnr_affine(cellxlate.enhance(noisy, found.model, axes="YX").image, pair)
            scores = f"{psnr_affine(noisy, pair):.2f} | {before:.2f} | {after - before:+.2f}"
            print(f"| {Path(name).stem} {kind} | {side} | {scores} | {found.reason} | {took_s:.0f} |", flush=True)


if __name__ == "__main__":
    main()
