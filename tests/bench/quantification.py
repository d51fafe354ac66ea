"""What may be measured on enhanced images: count, area, integrated intensity and position against the truth.

    python tests/bench/quantification.py FOLDER [--model MODEL]

FOLDER holds images `test_S`, `test_S_truth` and `test_masks` of the same names. Prints two tables in Markdown. Nuclei
are segmented in input, output and truth by one rule; the nuclei of the masks are the reference.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.segmentation import watershed

import cellxlate

Floats = npt.NDArray[np.float64]
SMOOTHING_PX, LEAST_PX, SEED_APART_PX = 1.5, 60, 7
MATCH_IOU = 0.5
DIM_SHARE = 0.5
"""Nuclei of less than half the mean brightness of their field's median nucleus are called dim."""


def segmented(plane: Floats) -> npt.NDArray[np.int32]:
    """Return numbered nuclei: Otsu on the smoothed image, touching nuclei cut along their narrowest places."""
    smooth = ndimage.gaussian_filter(plane, SMOOTHING_PX)
    inside = ndimage.binary_fill_holes(smooth > threshold_otsu(smooth))
    return split(inside)


def split(inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    """Number the nuclei of a mask, cutting touching ones."""
    depth = ndimage.gaussian_filter(ndimage.distance_transform_edt(inside), 1.5)
    peaks = (depth == ndimage.maximum_filter(depth, 2 * SEED_APART_PX + 1)) & inside & (depth > 2)
    labels = watershed(-depth, ndimage.label(peaks)[0], mask=inside)
    sizes = np.bincount(labels.ravel())
    keep = sizes >= LEAST_PX
    keep[0] = False
    return np.asarray((np.cumsum(keep) * keep)[labels], dtype=np.int32)


def matched(labels: npt.NDArray[np.int32], reference: npt.NDArray[np.int32]) -> list[tuple[int, int]]:
    """Return pairs of nuclei that overlap by an IoU of at least 0.5."""
    shared = np.zeros((labels.max() + 1, reference.max() + 1), int)
    np.add.at(shared, (labels.ravel(), reference.ravel()), 1)
    sizes, theirs = np.bincount(labels.ravel()), np.bincount(reference.ravel())
    union = sizes[:, None] + theirs[None] - shared
    overlap = (shared / np.maximum(union, 1))[1:, 1:]
    return [(int(ours) + 1, int(other) + 1) for ours, other in np.argwhere(overlap >= MATCH_IOU)]


def measured(plane: Floats, labels: npt.NDArray[np.int32]) -> dict[str, Any]:
    """Return area in px, intensity above background summed in counts, and centre of each nucleus."""
    numbers = np.arange(1, labels.max() + 1)
    ground = float(np.median(plane[labels == 0]))
    return {
        "area": np.bincount(labels.ravel(), minlength=len(numbers) + 1)[1:].astype(float),
        "sum": ndimage.sum(plane - ground, labels, numbers),
        "mean": ndimage.mean(plane - ground, labels, numbers),
        "texture": ndimage.standard_deviation(plane, labels, numbers)
        / np.maximum(ndimage.mean(plane - ground, labels, numbers), 1e-9),
        "centre": np.array(ndimage.center_of_mass(labels > 0, labels, numbers)).reshape(-1, 2),
    }


def within_field(pairs: list[tuple[Floats, Floats]]) -> Floats:
    """Return ratios ours/theirs of each nucleus after the median ratio of its field is divided out."""
    ratios = [ours / theirs for ours, theirs in pairs if len(ours)]
    return np.concatenate([ratio / np.median(ratio) for ratio in ratios])


def ranks(values: Floats) -> Floats:
    """Return ranks of values."""
    return np.argsort(np.argsort(values)).astype(float)


def study(fields: list[dict[str, Any]], name: str) -> tuple[str, str]:
    """Return a row on finding and outlining, and one on intensities, of one kind of image."""
    counts, references, found, drawn = [], [], 0, 0
    areas, shifts, sums, means, textures, orders = [], [], [], [], [], []
    gains, dim_found = [], []
    for field in fields:
        reference = split(field["mask"])
        labels = segmented(field[name])
        ours, theirs = measured(field[name], labels), measured(field["truth"], reference)
        pairs = np.array(matched(labels, reference), int).reshape(-1, 2) - 1
        counts.append(labels.max())
        references.append(reference.max())
        found, drawn = found + len(pairs), drawn + labels.max()
        areas.append(ours["area"][pairs[:, 0]] / theirs["area"][pairs[:, 1]])
        shifts.append(np.hypot(*(ours["centre"][pairs[:, 0]] - theirs["centre"][pairs[:, 1]]).T))
        # Intensities on the reference's own outlines, so that they do not depend on the segmentation.
        same = measured(field[name], reference)
        sums.append((same["sum"], theirs["sum"]))
        means.append((same["mean"], theirs["mean"]))
        gains.append(np.median(same["mean"] / measured(field["input"], reference)["mean"]))
        dim = np.flatnonzero(theirs["mean"] < DIM_SHARE * np.median(theirs["mean"]))
        dim_found += np.isin(dim, pairs[:, 1]).tolist()
        textures.append(same["texture"] / theirs["texture"])
        orders.append(np.corrcoef(ranks(same["mean"]), ranks(theirs["mean"]))[0, 1])
    area, shift, texture = (np.concatenate(values) for values in (areas, shifts, textures))
    total, mean = within_field(sums), within_field(means)
    error = np.mean(np.abs(np.array(counts) / np.array(references) - 1))
    first = (
        f"| {name} | {sum(counts)} of {sum(references)} | {error:.1%} | {found / sum(references):.1%} | "
        f"{1 - found / drawn:.1%} | {np.median(area):.3f} | {np.std(area):.3f} | {np.median(shift):.2f} |"
    )
    second = (
        f"| {name} | {min(gains):.2f} to {max(gains):.2f} | {np.mean(dim_found):.1%} of {len(dim_found)} | "
        f"{np.std(total):.3f} | {np.std(mean):.3f} | {np.mean(orders):.3f} | {np.median(texture):.2f} |"
    )
    return first, second


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="nuclei-lowexp")
    options = parser.parse_args()
    model = cellxlate.load_model(options.model)
    fields = []
    for path in sorted((options.folder / "test_S").glob("*.tif")):
        raw = tifffile.imread(path)
        fields.append(
            {
                "input": raw.astype(float),
                "enhanced": cellxlate.enhance(raw, model).image.astype(float),
                "truth": tifffile.imread(options.folder / "test_S_truth" / path.name).astype(float),
                "mask": tifffile.imread(options.folder / "test_masks" / path.name) > 0,
            }
        )
    print(f"{len(fields)} fields, model {model.name} ({model.digest[:12]})\n")
    rows = [study(fields, name) for name in ("input", "enhanced", "truth")]
    head = "count error per field | found | false among drawn | area ratio | its spread | centre off, px"
    print(f"| image | nuclei | {head} |")
    print("|---|---|---|---|---|---|---|---|")
    print("\n".join(first for first, _ in rows))
    print("\n| image | mean, input = 1 | dim nuclei found | sum, spread | mean, spread | rank order | texture ratio |")
    print("|---|---|---|---|---|---|---|")
    print("\n".join(second for _, second in rows))


if __name__ == "__main__":
    main()
