"""Where a model looks: attention against masks at several magnifications, holes, blocks, pure noise, large cells.

    python tests/bench/attention.py [MODEL ...] [--data ../shared/data] [--parts masks noise discs] [--json]

- masks: clear fields of `nuclei_lowexp` and `natural_dsb` are resized 0.5 to 4 times and made noisy after that;
  `train_S` fields, noisy as they are, once more at magnification 1.
- noise: five kinds of pure noise; what is changed there is invented.
- discs: drawn cells of 100, 250 and 400 px with texture.

Attention is what `cellxlate.enhance` returns: 0 where a pixel is kept. IoU is of attention >= 128 with the mask.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
import torch
from degraded import Noise, degrade
from pairs import Pair, Row, model_rows
from scipy import ndimage
from skimage.transform import rescale

from cellxlate.evaluation import measures

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
CLEAR = (
    ("nuclei_lowexp", "train_T", "train_T_masks"),
    ("nuclei_lowexp", "test_S_truth", "test_masks"),
    ("natural_dsb", "train_T", "train_T_masks"),
)
NOISY = (("nuclei_lowexp", "train_S", "train_S_masks"), ("natural_dsb", "train_S", "train_S_masks"))
MAGNIFICATIONS = (0.5, 1.0, 2.0, 4.0)
FIELD_NOISE = {"peak 60 e": Noise(60, 2), "peak 20 e, 8 bit": Noise(20, 2, bits=8)}
LARGEST_PX = 1024
HOLE_PX = 10
CHANCE_PX = {4: (3, 5, 7), 16: (13, 15, 17, 19)}
"""Grids that a coarse level of a network may show, and others that tell what chance gives."""
DISCS_PX = (100, 250, 400)

Attention = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


def holes(attention: Attention, cells: Mask, *, least_px: int = HOLE_PX) -> int:
    """Count the holes of more than `least_px` pixels inside selected cells.

    A hole is a region that is kept, that selected pixels enclose on all sides, and that lies mostly in the mask.
    """
    selected = attention > 0
    labels, count = ndimage.label(ndimage.binary_fill_holes(selected) & ~selected)
    if not count:
        return 0
    sizes = np.bincount(labels.ravel())[1:]
    inside = np.bincount(labels.ravel(), cells.ravel())[1:]
    return int(((sizes > least_px) & (inside > sizes / 2)).sum())


def block_edges(attention: Attention, grid_px: int) -> float:
    """Return how much more attention steps across the lines of a grid than chance allows; about 1, or less, is no grid.

    Steps between neighbouring columns (and rows), less the mean of the steps beside them, as in `quality.seams`: a
    slope has none. For each distance from the grid their mean size is taken; the largest of these over the mean of
    the others finds a shifted grid, too. Chance is the same number for grids that no network has (`CHANCE_PX`).
    NaN where attention is flat.
    """
    ratios = [
        steps_by_phase(values, grid_px) / max(steps_by_phase(values, other) for other in CHANCE_PX[grid_px])
        for values in (attention.astype(np.float64), attention.T.astype(np.float64))
        if np.diff(values, axis=1).any()
    ]
    return max(ratios, default=float("nan"))


def steps_by_phase(values: npt.NDArray[np.float64], grid_px: int) -> float:
    """Return the mean step at the distance from a grid of columns where it is largest, over the mean at the others."""
    steps = np.diff(values, axis=1)  # (Y, X - 1), between x and x + 1
    bent = np.abs(steps[:, 1:-1] - (steps[:, :-2] + steps[:, 2:]) / 2).mean(axis=0)  # (X - 3,)
    phase = (np.arange(len(bent)) + 2) % grid_px
    by_phase = np.bincount(phase, bent, grid_px) / np.bincount(phase, minlength=grid_px)
    others = (by_phase.sum() - by_phase) / (grid_px - 1)
    return float((by_phase / np.maximum(others, 1e-12)).max())


def judge(attention: Attention, cells: Mask) -> dict[str, float]:
    """Return IoU at one half and above 0, holes in cells, and the steps across grids."""
    selected = attention > 0
    return {
        "iou": measures.attention_scores(attention / 255, cells).iou,
        "iou_selected": float((selected & cells).sum() / max((selected | cells).sum(), 1)),
        "inside_selected_percent": 100 * float(selected[cells].mean()),
        "outside_selected_percent": 100 * float(selected[~cells].mean()),
        "holes": holes(attention, cells),
        **{f"blocks_{grid}": block_edges(attention, grid) for grid in CHANCE_PX},
    }


def fields(data: Path, images: str, masks: str, count: int) -> Iterator[tuple[str, npt.NDArray[Any], Mask]]:
    """Yield name, image and mask of `count` fields that are spread over a folder."""
    paths = sorted((data / images).glob("*.tif"))
    for path in paths[:: max(len(paths) // count, 1)][:count]:
        yield path.stem, tifffile.imread(path), tifffile.imread(data / masks / path.name) > 0


def magnified(clear: npt.NDArray[Any], cells: Mask, factor: float) -> tuple[npt.NDArray[np.float64], Mask]:
    """Resize a field (linear, smoothed before it is made smaller) and its mask, cropped to what stays computable."""
    side = int(LARGEST_PX / factor)
    clear, cells = clear[:side, :side].astype(np.float64), cells[:side, :side]
    larger = rescale(clear, factor, order=1, anti_aliasing=factor < 1)
    return larger, rescale(cells.astype(np.float64), factor, order=1, anti_aliasing=factor < 1) >= 0.5


def attention_of(row: Row, image: npt.NDArray[Any]) -> Attention:
    """Return the attention that the row's model gives an image."""
    result = row(Pair("", "", image, image, np.ones(image.shape, bool)))
    assert result.attention is not None  # the rows here are models
    return result.attention


def on_masks(row: Row, data: Path, count: int) -> dict[str, dict[str, float]]:
    """Return the judgement of every set at every magnification and noise: means, and the sum of holes."""
    found = {}
    for folder, images, masks in CLEAR:
        for factor in MAGNIFICATIONS:
            for kind, noise in FIELD_NOISE.items():
                judged = []
                for number, (_, clear, cells) in enumerate(fields(data / folder, images, masks, count)):
                    larger, mask = magnified(clear, cells, factor)
                    if mask.any():
                        noisy, _ = degrade(larger, noise, seed=number)
                        judged.append(judge(attention_of(row, noisy), mask))
                found[f"{folder}/{images} x{factor:g}, {kind}"] = together(judged)
    for folder, images, masks in NOISY:
        judged = [
            judge(attention_of(row, noisy), cells)
            for _, noisy, cells in fields(data / folder, images, masks, count)
            if cells.any()
        ]
        found[f"{folder}/{images} as recorded"] = together(judged)
    return found


def together(judged: list[dict[str, float]]) -> dict[str, float]:
    """Return means over fields, but the sum of holes."""
    means = {key: float(np.nanmean([one[key] for one in judged])) for key in judged[0]}
    return {**means, "holes": sum(one["holes"] for one in judged), "fields": len(judged)}


def pure_noise(side_px: int = 512, seed: int = 0) -> dict[str, npt.NDArray[np.uint16]]:
    """Return five kinds of pure noise (Y, X)."""
    rng = np.random.default_rng(seed)
    shape = (side_px, side_px)

    def shared(width_px: float) -> npt.NDArray[np.float64]:
        smooth = ndimage.gaussian_filter(rng.normal(size=shape), width_px, mode="wrap")
        return np.asarray(smooth / smooth.std())

    light = np.linspace(2, 12, side_px)[:, None] * np.linspace(0.5, 1, side_px)
    made = {
        "white, weak": 100 + 3 * rng.normal(size=shape),
        "white, strong": 2000 + 300 * rng.normal(size=shape),
        "shared, 0.7 px": 200 + 20 * shared(0.7),
        "shared, 1.3 px": 200 + 20 * shared(1.3),
        "Poisson, gradient": 100 + 10 * rng.poisson(light) + rng.normal(0, 5, shape),
    }
    return {name: np.clip(np.rint(image), 0, 65535).astype(np.uint16) for name, image in made.items()}


def on_noise(row: Row, seeds: int = 2) -> dict[str, float]:
    """Return the percentage of pixels that are changed in each kind of pure noise, the worst of the seeds."""
    found: dict[str, float] = {}
    for seed in range(seeds):
        for name, image in pure_noise(seed=seed).items():
            result = row(Pair("", "", image, image, np.ones(image.shape, bool)))
            found[name] = max(found.get(name, 0), 100 * float((result.image != image).mean()))
    return found


def disc(diameter_px: int, *, side_px: int = 640, seed: int = 0) -> tuple[npt.NDArray[np.float64], Mask]:
    """Return a clear field (Y, X) with one textured cell and its mask."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side_px, :side_px] - (side_px - 1) / 2
    cell = np.hypot(rows, columns) <= diameter_px / 2
    coarse, fine = (ndimage.gaussian_filter(rng.normal(size=cell.shape), width) for width in (12, 2.5))
    texture = 1 + 0.2 * coarse / coarse.std() + 0.15 * fine / fine.std()
    return ndimage.gaussian_filter(np.where(cell, np.clip(texture, 0.3, 2), 0), 1.5), cell


def on_discs(row: Row) -> dict[str, dict[str, float]]:
    """Return the judgement of each drawn cell in each noise."""
    found = {}
    for diameter in DISCS_PX:
        clear, cells = disc(diameter)
        for kind, noise in FIELD_NOISE.items():
            noisy, _ = degrade(clear, noise, seed=diameter)
            found[f"{diameter} px, {kind}"] = judge(attention_of(row, noisy), cells)
    return found


PARTS = ("masks", "noise", "discs")


def show(model: str, found: dict[str, Any]) -> None:
    """Print the findings of one model as Markdown tables."""
    print(f"\n### {model}\n")
    for part in ("masks", "discs"):
        if part in found:
            heads = list(next(iter(found[part].values())))
            print("| " + " | ".join([part, *heads]) + " |\n|" + "---|" * (len(heads) + 1))
            for name, values in found[part].items():
                print("| " + " | ".join([name, *(f"{values[head]:.3g}" for head in heads)]) + " |")
            print()
    if "noise" in found:
        print("| pure noise | changed (%) |\n|---|---|")
        for name, percent in found["noise"].items():
            print(f"| {name} | {percent:.3f} |")


def main() -> None:
    """Judge the models and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="shipped names, folders or auto; all shipped and auto by default")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--fields", type=int, default=8, help="of each set; 8 by default")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, dict[str, Any]] = {}
    for model, row in model_rows(options.models).items():
        found = results[model] = {}
        if "noise" in options.parts:
            found["noise"] = on_noise(row)
        if "discs" in options.parts:
            found["discs"] = on_discs(row)
        if "masks" in options.parts:
            found["masks"] = on_masks(row, options.data, options.fields)
        if not options.json:
            show(model, found)
    if options.json:
        print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
