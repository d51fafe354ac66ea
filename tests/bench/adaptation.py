"""What `cellxlate enhance --adapt` gains over the same command without it, on images whose truth is known.

    python tests/bench/adaptation.py [real] [degraded] [--seconds 90] [--data ../shared/data] [--last] [--json]

Each image is written as a TIFF and the installed command is run on it twice. The truth scores, and decides nothing.
`real`: every frame of real_pairs (`--last`: the last of each configuration). `degraded`: clear fields made noisy, of
natural_dsb, holo2bright and three folders of clean_structures that no model was trained on.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from degraded import HELD_OUT, LARGEST_PX, NOISES, degrade, structure
from pairs import Pair, best_gaussian, psnr_affine
from real import read_pairs

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
FOLDERS = ("mitochondria", "nuclei_large", "tissue")
KINDS = ("weak", "shared-0.7")
FIELDS = 2


@dataclass(frozen=True)
class Found:
    """Affine PSNR (dB) in the mask, of a Gaussian chosen with the truth, without and with adapting; what was said."""

    pair: Pair
    gaussian: float
    alone: float
    adapted: float
    violations: int
    said: dict[str, Any]
    seconds: float


def degraded_pairs(data: Path) -> list[Pair]:
    """Return clear fields of five kinds, each in two kinds of noise."""
    held_out = [data / name for name in HELD_OUT if Path(name).parent.name in FOLDERS]
    others = [
        path
        for folder in ("natural_dsb/train_T", "holo2bright/train_T")
        for path in sorted((data / folder).glob("*.tif"))[:: len(list((data / folder).glob("*.tif"))) // FIELDS][
            :FIELDS
        ]
    ]
    pairs = []
    for kind, path in ((kind, path) for kind in KINDS for path in held_out + others):
        clear = tifffile.imread(path)
        clear = (clear if clear.ndim == 2 else clear.mean(axis=-1))[:LARGEST_PX, :LARGEST_PX]
        group = path.parents[1].name if path in others else path.parent.name
        cells = np.ones(clear.shape, bool) if group == "holo2bright" else structure(clear)
        noisy, truth = degrade(clear, NOISES[kind], seed=zlib.crc32(f"{path.name} {kind}".encode()))
        pairs.append(Pair(group, f"{path.stem} {kind}", noisy, truth, cells))
    return pairs


def enhanced(path: Path, folder: Path, *options: str) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Run the command; return image, attention and its JSON."""
    command = ["cellxlate", "enhance", str(path), "--output-dir", str(folder), "--json", "--quiet", *options]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    image, attention = (tifffile.imread(answer["outputs"][name]) for name in ("enhanced", "attention"))
    return image, attention, answer


def tried(pair: Pair, seconds: float) -> Found:
    """Enhance an image both ways and score it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "stack.tif"
        tifffile.imwrite(path, pair.noisy)
        for part in ("alone", "adapted"):
            (folder / part).mkdir()
        alone, _, _ = enhanced(path, folder / "alone")
        started = time.monotonic()
        adapted, attention, answer = enhanced(path, folder / "adapted", "--adapt", f"{seconds:g}")
        took_s = time.monotonic() - started
    return Found(
        pair,
        psnr_affine(best_gaussian(pair).image, pair),
        psnr_affine(alone, pair),
        psnr_affine(adapted, pair),
        int(((adapted != pair.noisy) & (attention == 0)).sum()),
        answer["adaptation"],
        took_s,
    )


def line(name: str, rows: list[Found]) -> str:
    """Return a line of the table: against the Gaussian, gain, worst gain, kept, violations, seconds."""
    gains = [row.adapted - row.alone for row in rows]
    return (
        f"| {name} | {len(rows)} | {np.mean([r.alone - r.gaussian for r in rows]):+.2f} "
        f"| {np.mean([r.adapted - r.gaussian for r in rows]):+.2f} | {np.mean(gains):+.2f} | {min(gains):+.2f} "
        f"| {sum(r.said['kept'] for r in rows)} | {sum(r.violations for r in rows)} "
        f"| {np.mean([r.seconds for r in rows]):.0f} |"
    )


def main() -> None:
    """Run the parts that are asked for and print a table for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["real", "degraded"], metavar="real | degraded")
    parser.add_argument("--seconds", type=float, default=90)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--last", action="store_true", help="the last frame of each configuration alone")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    makers = {
        "real": lambda: read_pairs(options.data / "real_pairs", last_only=options.last),
        "degraded": lambda: degraded_pairs(options.data),
    }
    for part in options.parts:
        rows = []
        for pair in makers[part]():
            rows.append(tried(pair, options.seconds))
            one = rows[-1]
            print(
                f"{pair.group} {pair.name}: Gaussian {one.gaussian:.2f}, {one.alone:.2f} -> {one.adapted:.2f}, "
                f"{one.said['steps']} steps, {one.seconds:.0f} s, {one.said['reason']}",
                file=sys.stderr,
                flush=True,
            )
        if options.json:
            print(json.dumps([vars(replace(row, pair=None)) | {"name": row.pair.name} for row in rows]))  # type: ignore[arg-type]
            continue
        print("| images | | auto - Gaussian | adapted - Gaussian | gain | least | kept | violations | s |")
        print("|---|---|---|---|---|---|---|---|---|")
        for group in dict.fromkeys(row.pair.group for row in rows):
            print(line(group, [row for row in rows if row.pair.group == group]))
        print(line("all", rows))


if __name__ == "__main__":
    main()
