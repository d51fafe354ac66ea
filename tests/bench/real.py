"""Real pairs of low and high exposure: classical filters, a self-supervised network and our models, side by side.

    python tests/bench/real.py [MODEL ...] [--data ../shared/data/real_pairs] [--last | --quick] [--json]
                               [--rows NAME ...] [--work FOLDER] [--pictures FOLDER]

Each folder of DATA is a configuration: `frame_1.tif` and so on, `truth.tif`, `mask.tif`. Models run through
`cellxlate.enhance`, so a row is what a user gets, gate and rounding to the file's data type included. "best Gaussian"
takes its width, and "BM3D" its noise, from the truth: upper bounds that nobody reaches without it. BM3D appears where
the package `bm3d` is installed. "N2V" and "N2V blind 3x3" train on each frame, a minute or more each: see n2v.py.
"""

import argparse
import importlib.util
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tifffile
import torch
from n2v import n2v
from pairs import (
    Pair,
    Result,
    Row,
    add_options,
    best_gaussian,
    bm3d_row,
    input_row,
    model_rows,
    non_local_means,
    run,
    show,
)
from PIL import Image as Pictures
from PIL import ImageDraw

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "real_pairs"
REFERENCE = "best Gaussian"
TITLE_PX = 18
DETAIL_PX = 160


LEARNED: dict[str, Row] = {
    "N2V": lambda pair: Result(n2v(pair.noisy)),
    "N2V blind 3x3": lambda pair: Result(n2v(pair.noisy, blind_px=1)),
}


def read_pairs(data: Path, *, last_only: bool = False) -> list[Pair]:
    """Return a pair per frame of each configuration, by name."""
    pairs = []
    for folder in sorted(path for path in data.iterdir() if path.is_dir()):
        truth, cells = tifffile.imread(folder / "truth.tif"), tifffile.imread(folder / "mask.tif") > 0
        frames = sorted(folder.glob("frame_*.tif"))
        for path in frames[-1:] if last_only else frames:
            pairs.append(Pair(folder.name, path.stem, tifffile.imread(path), truth, cells))
    return pairs


def all_rows(models: list[str], *, quick: bool) -> dict[str, Row]:
    """Return every row that can be computed here."""
    rows: dict[str, Row] = {"input": input_row, REFERENCE: best_gaussian, "non-local means": non_local_means}
    if importlib.util.find_spec("bm3d"):
        rows["BM3D"] = bm3d_row
    if not quick:
        rows |= LEARNED
    return {**rows, **model_rows(models)}


def strip(pair: Pair, rows: dict[str, Row]) -> Pictures.Image:
    """Return input, rows and truth side by side in one scaling: whole, a detail, and attention (the truth's: its mask).

    Brightness is the root of the counts, so that faint structure shows.
    """
    low, high = np.percentile(pair.truth, [0.1, 99.9])
    results = {"input": Result(pair.noisy), **{name: row(pair) for name, row in rows.items()}}
    panels = {**results, "truth": Result(pair.truth, pair.cells.astype(np.uint8) * 255)}
    height, width = pair.truth.shape
    detail = detail_window(pair.truth, DETAIL_PX)
    canvas = Pictures.new("L", (width * len(panels), 3 * height + TITLE_PX))
    draw = ImageDraw.Draw(canvas)

    def grey(values: npt.NDArray[np.float64]) -> Pictures.Image:
        return Pictures.fromarray((255 * np.sqrt(np.clip(values, 0, 1))).astype(np.uint8))

    for place, (name, result) in enumerate(panels.items()):
        left = place * width
        draw.text((left + 4, 3), f"{pair.group}: {name} {result.note}", fill=255)
        unit = (result.image.astype(np.float64) - low) / (high - low)
        canvas.paste(grey(unit), (left, TITLE_PX))
        canvas.paste(grey(unit[detail]).resize((width, height), Pictures.Resampling.NEAREST), (left, TITLE_PX + height))
        if result.attention is not None:
            canvas.paste(Pictures.fromarray(result.attention), (left, TITLE_PX + 2 * height))
    return canvas


def detail_window(truth: npt.NDArray[np.generic], side_px: int) -> tuple[slice, slice]:
    """Return the window of the truth with the largest standard deviation, on a grid of half its side."""
    starts = [range(0, max(size - side_px, 0) + 1, side_px // 2) for size in truth.shape]
    windows = [(slice(r, r + side_px), slice(c, c + side_px)) for r in starts[0] for c in starts[1]]
    return max(windows, key=lambda window: float(truth[window].std()))


def main() -> None:
    """Score the rows and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--last", action="store_true", help="the last frame of each configuration alone")
    parser.add_argument("--quick", action="store_true", help="as --last, and no N2V")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="one PNG per configuration, of its last frame")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pairs = read_pairs(options.data, last_only=options.quick or options.last)
    rows = all_rows(options.models, quick=options.quick)
    chosen = {name: rows[name] for name in options.rows or rows}
    results = run(pairs, chosen, work=options.work, progress=lambda line: print(line, file=sys.stderr))
    show(results, options, REFERENCE)
    if options.pictures:
        options.pictures.mkdir(parents=True, exist_ok=True)
        drawn = {name: row for name, row in rows.items() if name not in ("input", "non-local means", "BM3D", *LEARNED)}
        for pair in {pair.group: pair for pair in pairs}.values():  # the last frame of each
            strip(pair, drawn).save(options.pictures / f"{pair.group}.png")


if __name__ == "__main__":
    main()
