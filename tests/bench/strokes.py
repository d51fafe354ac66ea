"""Attention from strokes on three cells and three background places: IoU before and after, and the time it takes.

    python tests/bench/strokes.py --data ../shared/data [--phase DIR] [--images 3] [--seeds 1] [--model cells]

Strokes are drawn from a seed inside the masks: lines 3 px wide and at most 40 px long, through cells of the larger
70 %, and through background, two that begin 3 to 8 px from a cell and one anywhere. IoU is that of the selected pixels
(attention above the threshold, 0.1), strokes included. `natural_dsb` has masks of its own. Bright field has none: of
`holo2bright` (focussed: bright cells) and `clean_structures/brightfield` (rods, worms) the reference is a threshold on
the image, in this file, and says how well strokes find what a threshold made for that image finds. DIR holds phase
contrast images with `masks/NAME_cp_masks.tif`, as docs/test_files of github.com/kevinjohncutler/omnipose does (masks by
that program).
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
import torch
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.measure import label
from skimage.morphology import remove_small_objects

import cellxlate
from cellxlate.training.strokes import STEPS

CELLS = PLACES = 3
WIDTH_PX, LENGTH_PX = 3, 40
Case = tuple[str, np.ndarray, np.ndarray]


def dsb(data: Path, part: str) -> Iterator[Case]:
    """Fields with at least six nuclei that fill at most 60 %."""
    for path in sorted((data / "natural_dsb" / part).glob("*.tif"))[1::2]:
        cells = label(tifffile.imread(data / "natural_dsb" / f"{part}_masks" / path.name) > 0)
        if cells.max() >= 6 and (cells > 0).mean() < 0.6:
            yield path.stem, tifffile.imread(path), cells


def focussed(data: Path) -> Iterator[Case]:
    """Bright field of marine plankton: spots that stand out of their surroundings."""
    for path in sorted((data / "holo2bright/train_T").glob("*.tif"))[4:]:
        image = tifffile.imread(path)
        flat = image - ndimage.gaussian_filter(image.astype(float), 20)
        smooth = ndimage.gaussian_filter(flat, 1)
        noise = 1.4826 * np.median(np.abs(smooth - np.median(smooth)))
        found = smooth > max(8 * noise, 0.25 * np.percentile(smooth, 99.5))
        yield path.stem, image, label(remove_small_objects(found, max_size=8))


def dark(data: Path, names: str, width_px: float, share: float, least_px: int) -> Iterator[Case]:
    """Bright field with dark cells: Otsu's threshold, moved towards the background by a share."""
    for path in sorted((data / "clean_structures/brightfield").glob(names)):
        image = tifffile.imread(path)
        smooth = ndimage.gaussian_filter(image.astype(float), width_px)
        middle = np.median(smooth)
        threshold = threshold_otsu(np.minimum(smooth, middle))
        found = ndimage.binary_fill_holes(smooth < threshold + share * (middle - threshold))
        yield path.stem, image, label(remove_small_objects(found, max_size=least_px))


def phase(folder: Path) -> Iterator[Case]:
    """Phase contrast with label images; the middle of large ones."""
    for path in sorted((folder / "masks").glob("*_cp_masks.tif")):
        name = path.name.removesuffix("_cp_masks.tif")
        found = [one for one in sorted(folder.glob(f"{name}.*")) if one.suffix in (".png", ".tif")]
        if not found:
            continue
        image, cells = imagecodecs.imread(found[0]), tifffile.imread(path)
        image = image if image.ndim == 2 else image[..., 0]
        if image.shape != cells.shape:
            continue
        if max(image.shape) > 600:
            image, cells = image[240:752, 60:572], cells[240:752, 60:572]
        yield name, image, label(cells)


def drawn_strokes(cells: np.ndarray, seed: int) -> np.ndarray:
    """Return strokes: 1 in the background, 2 in cells."""
    rng = np.random.default_rng(seed)
    area = np.bincount(cells.ravel())[1:]
    largest = np.argsort(-area, kind="stable")[: max(int(0.7 * len(area)), CELLS)] + 1
    strokes = np.zeros(cells.shape, np.uint8)
    for number in rng.permutation(largest)[:CELLS]:
        inside = cells == number
        depth = ndimage.distance_transform_edt(inside)
        deep = np.argwhere(depth >= min(2.0, 0.8 * depth.max()))
        begin = deep[rng.integers(len(deep))]
        away = deep[np.argsort(-((deep - begin) ** 2).sum(axis=1), kind="stable")[: max(len(deep) // 4, 1)]]
        _draw(strokes, _line(begin, away[rng.integers(len(away))], inside), inside, 2)
    distance = ndimage.distance_transform_edt(cells == 0)
    for number in range(PLACES):
        places = np.argwhere((distance >= 3) & (distance <= 8)) if number < 2 else np.argwhere(distance >= 3)
        begin = places[rng.integers(len(places))]
        for _ in range(20):
            angle = rng.uniform(0, 2 * np.pi)
            line = _line(begin, begin + LENGTH_PX * np.array([np.sin(angle), np.cos(angle)]), distance >= 2)
            if len(line) >= 12:
                break
        _draw(strokes, line, distance >= 2, 1)
    return strokes


def _line(begin: np.ndarray, end: np.ndarray, allowed: np.ndarray) -> list[np.ndarray]:
    """Return the pixels from one place towards another, until what is allowed ends."""
    length = max(float(np.hypot(*(end - begin))), 1.0)
    points = []
    for step in range(int(min(length, LENGTH_PX)) + 1):
        at = np.round(begin + step * (end - begin) / length).astype(int)
        if (at < 0).any() or (at >= allowed.shape).any() or not allowed[tuple(at)]:
            break
        points.append(at)
    return points


def _draw(strokes: np.ndarray, line: list[np.ndarray], allowed: np.ndarray, kind: int) -> None:
    for row, column in line:
        half = WIDTH_PX // 2
        part = np.s_[max(row - half, 0) : row + half + 1, max(column - half, 0) : column + half + 1]
        strokes[part] = np.where(allowed[part], kind, strokes[part])


def overlap(image: np.ndarray, model: cellxlate.Bundle, cells: np.ndarray) -> float:
    """Return the IoU of what a model selects with the cells."""
    selected = cellxlate.enhance(image, model, engine="torch").attention > 0
    return float((selected & (cells > 0)).sum() / max((selected | (cells > 0)).sum(), 1))


def main() -> None:
    """Print a line for each image and one for each kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--phase", type=Path)
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--model", default="cells")
    options = parser.parse_args()
    base = cellxlate.load_model(options.model)
    kinds = {
        "natural_dsb faint": dsb(options.data, "train_S"),
        "natural_dsb clear": dsb(options.data, "train_T"),
        "holo2bright focussed": focussed(options.data),
        "bright field rods": dark(options.data, "coli*", 1.0, 0.0, 15),
        "bright field worms": dark(options.data, "cpe*", 1.5, 0.3, 150),
        "phase contrast": phase(options.phase) if options.phase else iter(()),
    }
    print(f"{torch.get_num_threads()} threads, {options.steps} steps")
    for kind, cases in kinds.items():
        found = []
        for _, (name, image, cells) in zip(range(options.images), cases, strict=False):
            before = overlap(image, base, cells)
            for seed in range(options.seeds):
                strokes = drawn_strokes(cells, seed)
                begun, spent = time.perf_counter(), time.process_time()
                taught = cellxlate.teach(image, strokes, base, steps=options.steps)
                seconds, of_cores = time.perf_counter() - begun, time.process_time() - spent
                found.append((before, overlap(image, taught, cells), seconds, of_cores))
                line = f"{name} {before:.2f} -> {found[-1][1]:.2f}, {seconds:.1f} s, {of_cores:.1f} s of cores"
                print(f"  {kind}: {line}", flush=True)
        if found:
            table = np.array(found)
            middle = np.median(table, axis=0)
            print(f"{kind}: {len(found)} runs, mean IoU {table[:, 0].mean():.2f} -> {table[:, 1].mean():.2f} (median "
                  f"{middle[1]:.2f}, {np.mean(table[:, 1] >= 0.85):.0%} at .85 or more), median {middle[2]:.1f} s, "
                  f"{middle[3]:.1f} s of cores", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
