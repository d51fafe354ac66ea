"""Pairs of a noisy image and its truth: what benchmarks on them have in common (scores, baselines, models, tables).

Scores are those of `cellxlate.evaluation.measures.foreground`: inside the mask, after the best gain and offset; the
range is from the 0.1 to the 99.9 percentile of the truth.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.restoration import denoise_nl_means

import cellxlate
from cellxlate.evaluation import measures

Image = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

WIDTHS_PX = tuple(0.5 + 0.25 * step for step in range(15))
"""Of the Gaussians that are tried with the truth at hand, 0.5 to 4."""
MARGIN_PX = 5
"""What changes farther from the mask than this is counted as a changed background."""


@dataclass(frozen=True)
class Pair:
    """A noisy image, its truth and where to score.

    Attributes
    ----------
    group, name : str
        Configuration or structure that is averaged over, and what tells images in it apart.
    noisy, truth : ndarray (Y, X)
        In counts.
    cells : ndarray of bool (Y, X)
        Where scores are taken.
    """

    group: str
    name: str
    noisy: Image
    truth: Image
    cells: Mask


@dataclass(frozen=True)
class Result:
    """What a row made of an image; attention is None for a filter, which selects everything."""

    image: Image
    attention: npt.NDArray[np.uint8] | None = None
    note: str = ""


Row = Callable[[Pair], Result]


def score(pair: Pair, result: Result) -> dict[str, Any]:
    """Return the scores of one result as plain numbers, ready for JSON."""
    found = measures.foreground(result.image, pair.truth, pair.cells)
    row: dict[str, Any] = {"psnr_affine": found.psnr_affine, "ssim_affine": found.ssim_affine, "note": result.note}
    if result.attention is not None:
        changed = result.image != pair.noisy
        row["selected_percent"] = 100 * float((result.attention > 0)[pair.cells].mean())
        outside = measures.background(pair.noisy, result.image, pair.cells, margin_px=MARGIN_PX).changed_percent
        row["outside_percent"] = None if math.isnan(outside) else outside
        row["violations"] = int((changed & (result.attention == 0)).sum())
    return row


def psnr_affine(image: Image, pair: Pair) -> float:
    """Return the affine PSNR alone (dB), without the SSIM that takes most of the time of `measures.foreground`."""
    truth = pair.truth.astype(np.float64)
    low, high = np.percentile(truth, [measures.DARK_PERCENTILE, measures.BRIGHT_PERCENTILE])
    fitted = measures.affine(image.astype(np.float64), truth, pair.cells)
    return float(10 * np.log10((high - low) ** 2 / np.mean((fitted - truth)[pair.cells] ** 2)))


def input_row(pair: Pair) -> Result:
    """The image as it was recorded."""
    return Result(pair.noisy)


def best_gaussian(pair: Pair) -> Result:
    """The Gaussian filter whose width scores best against the truth: an upper bound, as nobody has the truth."""
    noisy = pair.noisy.astype(np.float64)
    tried = {width: ndimage.gaussian_filter(noisy, width) for width in WIDTHS_PX}
    width = max(tried, key=lambda one: psnr_affine(tried[one], pair))
    return Result(tried[width], note=f"{width:g} px")


def non_local_means(pair: Pair) -> Result:
    """scikit-image's non-local means; the noise as its `estimate_sigma` finds it, which would need PyWavelets."""
    noisy = pair.noisy.astype(np.float64)
    diagonal = (noisy[1:, 1:] - noisy[:-1, 1:] - noisy[1:, :-1] + noisy[:-1, :-1]) / 2
    sd = max(float(np.median(np.abs(diagonal))) / 0.6745, 1e-3)
    return Result(denoise_nl_means(noisy, patch_size=5, patch_distance=6, h=0.8 * sd, sigma=sd), note=f"sd {sd:.1f}")


def bm3d_row(pair: Pair) -> Result:
    """BM3D after the generalised Anscombe transform, gain and read noise fitted with the truth: an upper bound."""
    import bm3d

    noisy, truth = pair.noisy.astype(np.float64), pair.truth.astype(np.float64)
    gain, read_variance = noise_with_truth(noisy, truth)
    stable = 2 / gain * np.sqrt(np.maximum(gain * noisy + 0.375 * gain**2 + read_variance, 0))
    clean = np.maximum(np.asarray(bm3d.bm3d(stable, sigma_psd=1.0)), 0)
    return Result(gain * (clean / 2) ** 2 - 0.375 * gain - read_variance / gain)


def noise_with_truth(noisy: Image, truth: Image) -> tuple[float, float]:
    """Return gain and read variance of the noise variance `gain * truth + read`, by least squares over 20 levels."""
    squared = (noisy - noisy.mean() - truth + truth.mean()) ** 2
    edges = np.quantile(truth, np.linspace(0, 1, 21))
    level = np.clip(np.searchsorted(edges, truth, side="right") - 1, 0, 19)
    pixels = np.bincount(level.ravel(), minlength=20)
    seen = pixels > 100
    mean = np.bincount(level.ravel(), truth.ravel(), 20)[seen] / pixels[seen]
    variance = np.bincount(level.ravel(), squared.ravel(), 20)[seen] / pixels[seen]
    weight = np.sqrt(pixels[seen]) / variance  # a variance from n pixels is known to variance * sqrt(2 / n)
    gain, read = np.linalg.lstsq(np.stack([mean, np.ones_like(mean)], 1) * weight[:, None], variance * weight)[0]
    return max(float(gain), 1e-3), float(read)


def model_row(model: str) -> Row:
    """Return the row of a shipped model, a model folder or "auto": what `cellxlate.enhance` gives, gate included."""
    asked: Any = model if model == "auto" else cellxlate.load_model(model)

    def enhance(pair: Pair) -> Result:
        made = cellxlate.enhance(pair.noisy, asked)
        return Result(made.image, made.attention, note=made.report.model_name if model == "auto" else "")

    return enhance


def model_rows(asked: Sequence[str]) -> dict[str, Row]:
    """Return the rows of the models that were asked for; by default all that are shipped, and "auto" where it works."""
    names = list(asked) or [*shipped_models(), "auto"]
    rows = {}
    for name in names:
        title = Path(name).name if Path(name).is_dir() else name
        rows[title] = model_row(name)
    if not asked:
        try:
            rows["auto"](Pair("", "", np.zeros((64, 64), np.uint16), np.zeros((64, 64)), np.ones((64, 64), bool)))
        except cellxlate.ModelError:
            del rows["auto"]
    return rows


def shipped_models() -> list[str]:
    """Return the names of the shipped models."""
    folder = Path(cellxlate.__file__).parent / "models"
    return sorted(path.name for path in folder.iterdir() if (path / "card.json").exists())


def run(
    pairs: Sequence[Pair],
    rows: Mapping[str, Row],
    *,
    work: Path | None = None,
    progress: Callable[[str], object] = print,
) -> dict[str, list[dict[str, Any]]]:
    """Score every row on every pair.

    Parameters
    ----------
    work : Path, optional
        Folder that keeps each score as JSON, so that a run may be interrupted, repeated and extended. Delete the files
        of a model that was trained again.
    """
    results: dict[str, list[dict[str, Any]]] = {}
    for name, row in rows.items():
        for pair in pairs:
            stored = work and work / f"{name}__{pair.group}__{pair.name}.json".replace(" ", "-").replace("/", "-")
            if stored and stored.exists():
                found = json.loads(stored.read_text())
            else:
                started, processor = time.perf_counter(), time.process_time()
                result = row(pair)
                took = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - processor}
                found = {"group": pair.group, "name": pair.name, **score(pair, result), **took}
                if stored:
                    stored.parent.mkdir(parents=True, exist_ok=True)
                    stored.write_text(json.dumps(found))
            results.setdefault(name, []).append(found)
            progress(f"{name}, {pair.group}, {pair.name}: {found['psnr_affine']:.2f} dB {found['note']}")
    return results


def group_means(found: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return for each group the mean of every number; violations are added up."""
    groups: dict[str, dict[str, float]] = {}
    for group in dict.fromkeys(one["group"] for one in found):
        members = [one for one in found if one["group"] == group]
        numbers = [key for key, value in members[0].items() if isinstance(value, int | float)]
        groups[group] = {key: float(np.mean([one[key] for one in members])) for key in numbers}
        if "violations" in numbers:
            groups[group]["violations"] = sum(one["violations"] for one in members)
    return groups


def summaries(results: Mapping[str, Sequence[Mapping[str, Any]]], reference: str) -> dict[str, dict[str, Any]]:
    """Compare each row with a reference over the groups that both have, on the images that both have.

    Returns
    -------
    dict
        By row: "mean_db" and "mean_ssim" (differences, mean over groups), "worst_group", "worst_db", "groups", and for
        models "least_selected_percent" and "violations".
    """
    compared = {}
    for name, found in results.items():
        if name == reference or reference not in results:
            continue
        images = {(one["group"], one["name"]) for one in found}
        ours = group_means(found)
        theirs = group_means([one for one in results[reference] if (one["group"], one["name"]) in images])
        decibels = {group: ours[group]["psnr_affine"] - theirs[group]["psnr_affine"] for group in ours}
        worst = min(decibels, key=lambda group: decibels[group])
        compared[name] = {
            "mean_db": float(np.mean(list(decibels.values()))), "worst_group": worst, "worst_db": decibels[worst],
            "mean_ssim": float(np.mean([ours[g]["ssim_affine"] - theirs[g]["ssim_affine"] for g in ours])),
            "groups": len(ours),
        }  # fmt: skip
        if "selected_percent" in next(iter(ours.values())):
            compared[name]["least_selected_percent"] = min(one["selected_percent"] for one in ours.values())
            compared[name]["violations"] = sum(one["violations"] for one in ours.values())
    return compared


def summary_line(name: str, compared: Mapping[str, Any], reference: str) -> str:
    """Return one line that says how a row compares with the reference."""
    line = (
        f"{name} - {reference}: {compared['mean_db']:+.2f} dB and {compared['mean_ssim']:+.3f} SSIM, "
        f"mean of {compared['groups']}; worst {compared['worst_group']} {compared['worst_db']:+.2f} dB"
    )
    if "least_selected_percent" in compared:
        line += f"; least of a mask selected {compared['least_selected_percent']:.0f} %"
        line += f"; violations {compared['violations']:.0f}"
    return line


def markdown(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Return a table: a line per row, a column per group (dB / SSIM), then what models select, change, and take.

    Time is the processor's, all threads together: on a busy machine it is what a quiet one takes with one thread.
    """
    means = {name: group_means(found) for name, found in results.items()}
    groups = list(dict.fromkeys(group for one in means.values() for group in one))
    heads = ["dB / SSIM", *groups, "mask selected (%)", f"changed beyond {MARGIN_PX} px (%)", "violations", "CPU s"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for name, by_group in means.items():
        cells = []
        for group in groups:
            one = by_group.get(group)
            cells.append("-" if one is None else f"{one['psnr_affine']:.1f} / {one['ssim_affine']:.2f}")
        values = list(by_group.values())
        if "selected_percent" in values[0]:
            cells.append(" ".join(f"{one['selected_percent']:.0f}" for one in values))
            outside = [one.get("outside_percent") for one in values]
            cells.append(" ".join("-" if share is None else f"{share:.1f}" for share in outside))
            cells.append(str(int(sum(one["violations"] for one in values))))
        else:
            cells += ["-"] * 3
        cells.append(f"{np.mean([one['cpu_seconds'] for one in values]):.1f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that benchmarks on pairs share."""
    parser.add_argument("models", nargs="*", help="shipped names, folders or auto; all shipped and auto by default")
    parser.add_argument("--rows", nargs="+", help="names of rows; what is there by default")
    parser.add_argument("--work", type=Path, help="folder that keeps the scores, to continue or extend a run")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--markdown", action="store_true", help="the table in Markdown")


def show(results: Mapping[str, Sequence[Mapping[str, Any]]], options: argparse.Namespace, reference: str) -> None:
    """Print the results as was asked for."""
    compared = summaries(results, reference)
    if options.json:
        means = {name: group_means(found) for name, found in results.items()}
        print(json.dumps({"groups": means, "summary": compared, "images": results}, indent=1))
        return
    print(markdown(results))
    print()
    for name, one in compared.items():
        print(summary_line(name, one, reference))
