"""How many clear fields are enough to fine-tune: the same steps on 2, 4 and 8 of them, scored on others.

    python tests/bench/few_fields.py [--model nuclei-lowexp] [--fields 2 4 8] [--steps 200] [--data ../shared/data]

Clear fields of one folder that are not of HELD_OUT are degraded as in degraded.py; those are the source, the clear ones
the target. Scored are the held-out fields of the folder (affine PSNR inside the structures). One thread.
"""

import argparse
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np
import tifffile
import torch
from degraded import DATA, HELD_OUT, LARGEST_PX, NOISES, degrade, structure
from pairs import Pair, psnr_affine

import cellxlate


def main() -> None:
    """Print one row per number of fields, the mean over the held-out ones and what was gained on each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--folder", default="cytoplasm")
    parser.add_argument("--noise", choices=NOISES, default="weak")
    parser.add_argument("--model", default="nuclei-lowexp")
    parser.add_argument("--fields", nargs="+", type=int, default=[2, 4, 8])
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    held_out = [options.data / name for name in HELD_OUT if f"/{options.folder}/" in name]
    others = sorted(set((options.data / "clean_structures" / options.folder).glob("*.tif")) - set(held_out))
    others = [others[place] for place in np.random.default_rng(0).permutation(len(others))]
    tests = [pair_of(path, options.noise) for path in held_out]
    before = scores(cellxlate.load_model(options.model), tests)
    print("| fields | dB | gain on each (dB) | s |\n|---|---|---|---|")
    print(f"| input | {np.mean([psnr_affine(pair.noisy, pair) for pair in tests]):.2f} | | |")
    print(f"| 0: {options.model} | {before.mean():.2f} | | |", flush=True)
    for count in options.fields:
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "source", Path(folder) / "target"
            source.mkdir()
            target.mkdir()
            for path in others[:count]:
                pair = pair_of(path, options.noise)
                tifffile.imwrite(source / path.name, pair.noisy)
                tifffile.imwrite(target / path.name, np.rint(pair.truth).astype(np.uint16))
            began = time.monotonic()
            model = cellxlate.train(
                source, target, output=Path(folder) / "model", base=options.model, steps=options.steps,
                tensorboard=False,
            )  # fmt: skip
            took_s = time.monotonic() - began
            after = scores(model, tests)
        gains = ", ".join(f"{gain:+.2f}" for gain in after - before)
        print(f"| {count} | {after.mean():.2f} | {gains} | {took_s:.0f} |", flush=True)


def pair_of(path: Path, noise: str) -> Pair:
    """Return a clear field made noisy."""
    clear = tifffile.imread(path)[:LARGEST_PX, :LARGEST_PX]
    noisy, truth = degrade(clear, NOISES[noise], seed=zlib.crc32(path.name.encode()))
    return Pair(path.parent.name, path.stem, noisy, truth, structure(clear))


def scores(model: cellxlate.Bundle, tests: list[Pair]) -> np.ndarray:
    """Return the affine PSNR of each pair under a model."""
    return np.array([psnr_affine(cellxlate.enhance(pair.noisy, model, axes="YX").image, pair) for pair in tests])


if __name__ == "__main__":
    main()
