"""How often a run warns: of images that are like the training images, of others, and of planted faults.

    python tests/bench/alarms.py DATA [--model MODEL] [--others FOLDER] [--clear FOLDER]

DATA holds `nuclei_lowexp`, `natural_dsb` and `holo2bright`. Everything is enhanced as a user would; nothing here was
used to calibrate a limit (of the other sets, every second image was). Prints two tables in Markdown.

With --others instead: a row for each sub-folder of FOLDER, which holds images of one kind that a model was not trained
on (whatever the program opens; of each the plane in the middle): as they are, with their brightness stretched to that
of the training images, and with as much noise added; each time the images that nothing was said of. Then fields that
something was done to.

With --clear instead: the same two tables of fields that are made in the way of `nuclei_lowexp` from the clear images in
FOLDER, three of each: blurred, with fewer photons, and with the noise of a camera.
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
from cellxlate.quality.seams import FEWEST_PX, Seams
from cellxlate.quality.tally import Tally
from cellxlate.quality.trust.support import supported
from cellxlate.stacks.intensity.range import pixel_noise

Plane = npt.NDArray[Any]
NOISE_COUNTS, OFFSET_COUNTS = 4.0, 104.0
"""Of nuclei_lowexp."""
BLUR_PX, EXPOSURES, ELECTRONS_PER_COUNT, READ_NOISE_COUNTS = (1.2, 2.35), (0.05, 0.15), 0.6, 2.5
PLANTED_RADIUS_PX, TILE_PX = 9, 128
HEAD = (
    "| images | number | any warning, % | other images | nothing selected | attention | added | lost | seam |\n"
    + "|---" * 9
    + "|"
)


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


def others(folder: Path) -> dict[str, dict[str, Plane]]:
    """Return images by kind and name: one plane of every file of every sub-folder."""
    found: dict[str, dict[str, Plane]] = {}
    for path in sorted(folder.glob("*/*")):
        with cellxlate.open_stack(path) as stack:
            indices = list(stack.plane_indices())
            found.setdefault(path.parent.name, {})[path.name] = stack.read(indices[len(indices) // 2])
    return found


def wrong_uses(data: Path, model: Any) -> dict[str, dict[str, Plane]]:
    """Return what else is done to fields of the kind a model was trained on, before and instead of enhancing them."""
    fields, clear = (
        {path.name: tifffile.imread(path) for path in sorted((data / "nuclei_lowexp" / folder).glob("*.tif"))}
        for folder in ("test_S", "test_S_truth")
    )

    def each(change: Callable[[Plane], Plane], dtype: type = np.uint16) -> dict[str, Plane]:
        return {
            name: np.clip(np.rint(change(plane.astype(float))), 0, 65535).astype(dtype)
            for name, plane in fields.items()
        }

    return {
        "clear already (the truth)": clear,
        "stretched to 8 bits": each(lambda plane: 255 * (plane - plane.min()) / (plane.max() - plane.min()), np.uint8),
        "background taken off": each(lambda plane: plane - np.median(plane)),
        "median of 3 x 3 px": each(lambda plane: ndimage.median_filter(plane, 3)),
        "enhanced already": {name: cellxlate.enhance(plane, model).image for name, plane in fields.items()},
    }


def made_faint(folder: Path, draws: int = 3) -> dict[str, Plane]:
    """Return fields made of clear images, which lie 100 counts above black as those of BBBC039 do, by name.

    Blur, exposure, gain, read noise and offset are in the ranges that the table of `nuclei_lowexp` states.
    """
    draw, found = np.random.default_rng(4), {}
    for path in sorted(folder.glob("*.tif")):
        clear = tifffile.imread(path).astype(float)
        for number in range(draws):
            blurred = ndimage.gaussian_filter(clear, draw.uniform(*BLUR_PX))
            exposure = np.exp(draw.uniform(*np.log(EXPOSURES)))
            electrons = draw.poisson(np.maximum(blurred - 100, 0) * exposure * ELECTRONS_PER_COUNT)
            counts = 100 + electrons / ELECTRONS_PER_COUNT + draw.normal(0, READ_NOISE_COUNTS, clear.shape)
            found[f"{path.stem} {number}"] = np.clip(np.rint(counts), 0, 65535).astype(np.uint16)
    return found


def stretched(plane: Plane, source: Any, draw: np.random.Generator | None = None) -> Plane:
    """Return a plane with background and range of the training images, in whole counts; with `draw` as noisy, too."""
    wanted = {name: float(source[f"{stated}_counts"]) for name, stated in
              (("black", "black"), ("range", "span"), ("noise", "noise"))}  # fmt: skip
    smooth = ndimage.gaussian_filter(plane.astype(float), 1.0)
    black, white = np.percentile(smooth, [10, 99.5])
    counts = wanted["black"] + (plane - black) * wanted["range"] / max(float(white - black), 1e-9)
    if draw is not None:
        missing = max(wanted["noise"] ** 2 - pixel_noise(counts) ** 2, 0.0)
        counts += draw.normal(0, missing**0.5, plane.shape)
    return np.clip(np.rint(counts), 0, 65535).astype(np.uint16)


def print_others(data: Path, folder: Path, model: Any) -> None:
    """Print the rows of other images, of the same with other brightness and noise, and of wrong uses."""
    images, source = others(folder), model.card["intensity"]["source"]
    print("As they are:\n")
    print_kinds(images, model)
    for words, draw in (("", None), (" and noise", np.random.default_rng(2))):
        print(f"With the brightness{words} of the training images:\n")
        alike = {
            kind: {name: stretched(plane, source, draw) for name, plane in planes.items()}
            for kind, planes in images.items()
        }
        print_kinds(alike, model)
    print("Fields that something was done to:\n")
    print_kinds(wrong_uses(data, model), model)


def print_kinds(images: dict[str, dict[str, Plane]], model: Any) -> None:
    """Print a row per kind, one of all, and the images that nothing was said of."""
    print(HEAD)
    silent, number = [], 0
    for kind, planes in images.items():
        row, spoke = kind_row(kind, list(planes.values()), model, [])
        print(row, flush=True)
        silent += [f"{kind}: {name}" for name, heard in zip(planes, spoke, strict=True) if not heard]
        number += len(planes)
    print(f"\n{number - len(silent)} of {number} warned of. Silent: {'; '.join(silent) or 'none'}\n")


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
        "seam": bool(tally.seams.visible()),
    }


def kind_row(name: str, planes: list[Plane], model: Any, results: list[Any]) -> tuple[str, list[bool]]:
    """Return a row of how many are warned of, in percent, by any check and by each; and which are. Results are kept."""
    found, spoke = [], []
    for plane in planes:
        result = cellxlate.enhance(plane, model)
        found.append(verdicts(result.report.tally))
        spoke.append(bool(result.report.warnings))
        results.append((plane, result.image, result.attention))
    shares = [f"{100 * np.mean([one[check] for one in found]):.0f}" for check in found[0]]
    return f"| {name} | {len(planes)} | **{100 * np.mean(spoke):.0f}** | {' | '.join(shares)} |", spoke


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
    """Return whether a tile with an offset is found; None where none of its sides has 24 selected pixels."""
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
    if not any(sums[-1] >= FEWEST_PX for border, sums in seams.sums.items() if border[1:] in around):
        return None
    return bool(seams.visible())


def print_planted(results: list[tuple[Plane, Plane, Plane]]) -> None:
    """Print how many faults are found that are planted in these results."""
    draw = np.random.default_rng(1)
    print("\n| planted in the results of fields like the training images | found, % | of |\n|---|---|---|")
    for name, found in planted(results, draw).items():
        print(f"| {name} | {100 * np.mean(found):.0f} | {len(found)} |")
    for share in (0.0, 0.02, 0.05, 0.1, 0.2):
        judged = []
        for raw, image, attention in results:
            signal = float(np.median(image[attention > 0]) - np.median(raw[attention == 0]))
            judged += [seam_found(image, attention, share * signal, draw) for _ in range(4)]
        found = [one for one in judged if one is not None]
        name = f"tile of {TILE_PX} px with an offset of {share:.0%} of the usual signal"
        print(f"| {name} | {100 * np.mean(found):.0f} | {len(found)} |")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="nuclei-lowexp")
    parser.add_argument("--others", type=Path)
    parser.add_argument("--clear", type=Path)
    options = parser.parse_args()
    model, results = cellxlate.load_model(options.model), []
    if options.others:
        print_others(options.data, options.others, model)
        return
    if options.clear:
        images = {"**like the training images**: made anew": list(made_faint(options.clear).values())}
    else:
        images = kinds(options.data)
    print(HEAD)
    for name, planes in images.items():
        print(kind_row(name, planes, model, results if name.startswith("**") else [])[0], flush=True)
    print_planted(results)


if __name__ == "__main__":
    main()
