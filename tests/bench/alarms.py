"""How often a run warns: of images that are like the training images, of others, and of planted faults.

    python tests/bench/alarms.py DATA [--model MODEL]

DATA holds `nuclei_lowexp`, `natural_dsb` and `holo2bright`. Everything is enhanced as a user would; nothing here was
used to calibrate a limit (of the other sets, every second image was). Prints two tables in Markdown.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
from scipy import ndimage

import cellxlate
from cellxlate.quality.checks import LOWEST_AGREEMENT, LOWEST_SALIENT, NEARLY_NONE
from cellxlate.quality.seams import Seams
from cellxlate.quality.support import supported
from cellxlate.quality.tally import Tally

Plane = npt.NDArray[Any]
NOISE_COUNTS, OFFSET_COUNTS = 4.0, 104.0
"""Of nuclei_lowexp."""
PLANTED_RADIUS_PX, TILE_PX = 9, 128


def kinds(data: Path) -> dict[str, list[Plane]]:
    """Return images by kind."""

    def read(folder: str) -> list[Plane]:
        return [tifffile.imread(path) for path in sorted((data / folder).glob("*.tif"))]

    fields, draw = read("nuclei_lowexp/test_S"), np.random.default_rng(0)

    def counts(plane: Plane) -> Plane:
        return np.clip(np.rint(plane), 0, 65535).astype(np.uint16)

    return {
        "**like the training images**: test_S": fields,
        "**like the training images**: large_S": read("nuclei_lowexp/large_S"),
        "natural_dsb": read("natural_dsb/train_S")[1::2],
        "holo2bright": read("holo2bright/train_S")[1::2],
        "inverted": [counts(int(plane.max()) + int(plane.min()) - plane.astype(int)) for plane in fields],
        "twice as large (interpolated)": [counts(ndimage.zoom(plane.astype(float), 2, order=1)) for plane in fields],
        "half as large (averaged)": [counts(plane.reshape(260, 2, 348, 2).mean(axis=(1, 3))) for plane in fields],
        "half as large (every second pixel)": [plane[::2, ::2].copy() for plane in fields],
        "four times noisier": [counts(plane + draw.normal(0, 15**0.5 * NOISE_COUNTS, plane.shape)) for plane in fields],
        "empty": [
            *read("nuclei_lowexp/no_cells_S"),
            *(counts(draw.normal(OFFSET_COUNTS, NOISE_COUNTS, fields[0].shape)) for _ in range(8)),
        ],
    }


def verdicts(tally: Tally) -> dict[str, bool]:
    """Return which checks speak."""
    trust = tally.trust[0]
    seen = trust.support
    return {
        "other images": trust.departure is not None and trust.departure.distance > 1,
        "nearly nothing selected": tally.total.selected_fraction < NEARLY_NONE,
        "attention at odds": seen.mean_agreement < LOWEST_AGREEMENT or seen.salient_share < LOWEST_SALIENT,
        "added": seen.added > 0,
        "lost": seen.lost > 0,
        "seam": bool(tally.seams.found()),
    }


def kind_rows(images: dict[str, list[Plane]], model: Any, results: list[Any]) -> list[str]:
    """Return a row per kind: how many are warned of, in percent, by any check and by each."""
    rows = []
    for name, planes in images.items():
        found, spoke = [], []
        for plane in planes:
            result = cellxlate.enhance(plane, model)
            found.append(verdicts(result.report.tally))
            spoke.append(bool(result.report.warnings))
            if name.startswith("**"):
                results.append((plane, result.image, result.attention))
        shares = [f"{100 * np.mean([one[check] for one in found]):.0f}" for check in found[0]]
        rows.append(f"| {name} | {len(planes)} | **{100 * np.mean(spoke):.0f}** | {' | '.join(shares)} |")
    return rows


def disc(shape: tuple[int, ...], row: int, column: int) -> npt.NDArray[np.float64]:
    """Return a soft disc."""
    rows, columns = np.indices(shape)
    return ndimage.gaussian_filter((np.hypot(rows - row, columns - column) <= PLANTED_RADIUS_PX).astype(float), 1.5)


def planted(results: list[tuple[Plane, Plane, Plane]], draw: np.random.Generator) -> dict[str, list[bool]]:
    """Return whether each planted fault is found."""
    found: dict[str, list[bool]] = {}

    def note(name: str, was_found: bool) -> None:
        found.setdefault(name, []).append(was_found)

    for whole in results:
        raw, enhanced, attention = (plane[:256, :256] for plane in whole)
        selected = attention > 0
        if selected.mean() < 0.02:
            continue
        signal = float(np.median(enhanced[selected]) - np.median(enhanced[~selected]))
        outside, inside = (ndimage.distance_transform_edt(part) for part in (~selected, selected))
        for where, allowed in (("far from cells", outside > 14), ("touching a cell", (outside > 10) & (outside < 12))):
            allowed[:12] = allowed[-12:] = allowed[:, :12] = allowed[:, -12:] = False
            if not allowed.any():
                continue
            cell = disc(raw.shape, *draw.choice(np.argwhere(allowed)))
            for share in (0.1, 0.2, 0.3, 0.6, 1.0):
                drawn = np.where(cell > 0.02, np.rint(enhanced + share * signal * cell), enhanced).astype(raw.dtype)
                shown = np.where(cell > 0.02, 255, attention).astype(np.uint8)
                note(f"invented cell {where}, {share:.0%} of the usual signal", supported(raw, drawn, shown).added > 0)
        labels, _ = ndimage.label(selected)
        large = np.flatnonzero(np.bincount(labels.ravel())[1:] > 200) + 1
        gone = np.where(labels == draw.choice(large), np.median(raw[~selected]), enhanced).astype(raw.dtype)
        note("cell removed", supported(raw, gone, attention).lost > 0)
        other = {
            "attention inverted": np.where(selected, 0, 200),
            "attention moved by 64 px": np.roll(attention, (64, 64), (0, 1)),
            "attention of another field": results[0][2][:256, 256:512][::-1],
            "attention on half of the cells": np.where(labels % 2 == 0, 0, attention),
        }
        for name, wrong in other.items():
            seen = supported(raw, raw, wrong.astype(np.uint8))
            note(name, seen.mean_agreement < LOWEST_AGREEMENT or seen.salient_share < LOWEST_SALIENT)
        del inside
    return found


def seam_found(plane: Plane, attention: Plane, offset: float, draw: np.random.Generator) -> bool | None:
    """Return whether a tile with an offset is found; None where fewer than 16 selected pixels lie on its borders."""
    selected = attention > 0
    top, left = (int(draw.integers(size // TILE_PX)) * TILE_PX for size in plane.shape)
    tile = (slice(top, top + TILE_PX), slice(left, left + TILE_PX))
    broken = plane.astype(float)
    broken[tile] += np.where(selected[tile], offset, 0)
    seams = Seams(TILE_PX)
    seams.add((), 0, enhanced=np.rint(broken).astype(plane.dtype), selected=selected)
    around = {
        ("row", top, left // TILE_PX), ("row", top + TILE_PX, left // TILE_PX),
        ("column", left, top // TILE_PX), ("column", left + TILE_PX, top // TILE_PX),
    }  # fmt: skip
    if not any(border[1:] in around for border in seams.scores()):
        return None
    return bool(seams.found())


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="nuclei-lowexp")
    options = parser.parse_args()
    model, results = cellxlate.load_model(options.model), []
    rows = kind_rows(kinds(options.data), model, results)
    print("| images | number | any warning, % | other images | nothing selected | attention | added | lost | seam |")
    print("|---|---|---|---|---|---|---|---|---|")
    print("\n".join(rows))
    draw = np.random.default_rng(1)
    print("\n| planted in the results of test_S and large_S | found, % | of |\n|---|---|---|")
    for name, found in planted(results, draw).items():
        print(f"| {name} | {100 * np.mean(found):.0f} | {len(found)} |")
    score: Callable[[float], list[bool]] = lambda share: [  # noqa: E731
        one
        for raw, image, attention in results
        for _ in range(4)
        if (one := seam_found(
            image, attention, share * float(np.median(image[attention > 0]) - np.median(raw[attention == 0])), draw
        )) is not None
    ]  # fmt: skip
    for share in (0.0, 0.02, 0.05, 0.1, 0.2):
        found = score(share)
        name = f"tile of {TILE_PX} px with an offset of {share:.0%} of the usual signal"
        print(f"| {name} | {100 * np.mean(found):.0f} | {len(found)} |")


if __name__ == "__main__":
    main()
