"""How often the checks of a report are right: brightness order and phantoms on real fields.

    python tests/bench/checks.py FOLDER

FOLDER holds images `train_S` and masks `train_S_masks` of the same names. Prints two tables in Markdown.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
from scipy import ndimage

from cellxlate.evaluation.measures import phantoms
from cellxlate.quality.checks import LOWEST_ORDER
from cellxlate.quality.tally import Tally

Floats = npt.NDArray[np.float64]
SMOOTHING_PX = 1.5


def per_cell(plane: Floats, cells: npt.NDArray[np.bool_], wanted: Callable[[Floats], Floats]) -> Floats:
    """Return the plane with the mean signal of each cell replaced by what `wanted` makes of all of them."""
    labels, count = ndimage.label(cells)
    ground = np.median(plane[~cells])
    means = ndimage.mean(plane, labels, range(1, count + 1)) - ground
    gains = np.concatenate([[1.0], wanted(means) / means])
    return np.asarray(ground + (plane - ground) * gains[labels])


def order(raw: npt.NDArray[np.uint16], made: Floats, cells: npt.NDArray[np.bool_]) -> float:
    """Return the brightness order that a report would state."""
    tally = Tally()
    enhanced = np.where(cells, np.clip(np.rint(made), 0, 65535), raw).astype(raw.dtype)
    tally.add((), 0, raw=raw, enhanced=enhanced, attention=cells.astype(np.uint8))
    return tally.brightness_order()[0]


def order_rows(fields: list[tuple[npt.NDArray[np.uint16], npt.NDArray[np.bool_]]]) -> list[str]:
    """Return rows of what should, and what should not, be warned of."""
    draw = np.random.default_rng(0)
    found: dict[str, list[float]] = {}
    for raw, cells in fields:
        plane = raw.astype(float)
        for noise_counts in (0.0, 10.0, 20.0):
            noisy = np.clip(np.rint(plane + draw.normal(0, noise_counts, plane.shape)), 0, 65535)
            smooth = ndimage.gaussian_filter(noisy, SMOOTHING_PX)
            name = f"smoothed, {noise_counts:.0f} counts of noise added"
            found.setdefault(name, []).append(order(noisy.astype(np.uint16), smooth, cells))
        smooth = ndimage.gaussian_filter(plane, SMOOTHING_PX)
        ground, middle = np.median(plane[~cells]), np.median(smooth[cells])
        made = {
            "sharpened": smooth + 2 * (smooth - ndimage.gaussian_filter(plane, 4)),
            "square root": ground + 20 * np.sqrt(np.clip(smooth - ground, 0, None)),
            "cells all equally bright": per_cell(smooth, cells, lambda means: np.full_like(means, means.mean())),
            "brightness of cells permuted": per_cell(smooth, cells, draw.permutation),
            "local contrast only": middle + 5 * (smooth - ndimage.gaussian_filter(plane, 4)),
            "inverted": 2 * middle - smooth,
            "flat with noise": middle + draw.normal(0, 3, plane.shape),
        }
        for name, pixels in made.items():
            found.setdefault(name, []).append(order(raw, pixels, cells))
    return [
        f"| {name} | {min(values):.2f} | {np.median(values):.2f} | {max(values):.2f} | "
        f"{np.mean(np.array(values) < LOWEST_ORDER):.0%} |"
        for name, values in found.items()
    ]


def phantom_rows(fields: list[tuple[npt.NDArray[np.uint16], npt.NDArray[np.bool_]]]) -> list[str]:
    """Return rows of objects counted as added or lost where none was, and of invented cells that are found."""
    draw = np.random.default_rng(1)
    false_alarms: dict[str, list[int]] = {}
    hits: dict[str, list[bool]] = {}
    for raw, cells in fields:
        plane = raw.astype(float)
        smooth, soft = (ndimage.gaussian_filter(plane, width_px) for width_px in (SMOOTHING_PX, 2.0))
        again = [draw.poisson(np.clip(soft, 0, None)) + draw.normal(0, 3, soft.shape) for _ in range(2)]
        for name, pair in {
            "smoothed in cells": (np.where(cells, smooth, plane), plane),
            "noise drawn again": again,
        }.items():
            counted = phantoms(*pair)
            row = false_alarms.setdefault(name, [0, 0, 0])
            for place, value in enumerate((counted.added, counted.lost, counted.objects)):
                row[place] += value
        where = ndimage.distance_transform_edt(~ndimage.binary_dilation(cells, iterations=4))
        row_px, column_px = np.unravel_index(where.argmax(), where.shape)
        if where.max() < 14:
            continue
        rows, columns = np.indices(plane.shape)
        disc = np.hypot(rows - row_px, columns - column_px) <= 9
        signal = np.median(plane[cells]) - np.median(plane[~cells])
        for share in (0.3, 0.5, 0.7, 1.0):
            invented = plane + share * signal * ndimage.gaussian_filter(disc.astype(float), 1.5)
            hits.setdefault(f"invented, {share:.0%} of the usual signal", []).append(
                phantoms(invented, plane).added == 1
            )
    rows = [
        f"| {name} | {added} added, {lost} lost of {count} |" for name, (added, lost, count) in false_alarms.items()
    ]
    return rows + [f"| {name} | found in {np.mean(values):.0%} of {len(values)} |" for name, values in hits.items()]


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    fields: list[Any] = []
    for path in sorted((folder / "train_S").glob("*.tif")):
        cells = tifffile.imread(folder / "train_S_masks" / path.name) > 0
        if cells.mean() > 0.02:
            fields.append((tifffile.imread(path), cells))
    print(f"{len(fields)} fields\n\n| output | lowest | median | highest | warned of |\n|---|---|---|---|---|")
    print("\n".join(order_rows(fields)), "\n\n| output | phantoms |\n|---|---|")
    print("\n".join(phantom_rows(fields)))


if __name__ == "__main__":
    main()
