"""Volumes and movies: what neighbouring planes are worth, whether selection flickers, and whether links are kept.

    python tests/bench/volumes.py [DATA] [--model M] [--context none auto z t] [--part scores flicker links]
                                  [--only NAME ...] [--noise 1 2 3 4] [--planes N] [--crop PX] [--json FILE]

DATA/volumes holds `NAME_AXES_noisyN.ome.tif`, `..._truth.ome.tif` and, for some, `..._masks.ome.tif`;
DATA/MANIFEST_2.csv says how noise was drawn. Everything runs through `cellxlate.enhance`, so a number is what a user
gets, gate and rounding included. One thread.

scores   dB of each volume inside cells, after one gain and offset for the whole volume; the range is from the 0.1 to
         the 99.9 percentile of its truth. Cells are those of the masks; where there are none, what lies above Otsu's
         threshold in the truth of the volume, and 2 px around. "all" is over every pixel, the kept ones too.
flicker  one frame of a truth, noise drawn again eight times, as a movie: pixels that are selected in some frames and
         not in all, in percent of those that ever are; overlap with the mask; noise left where all select.
links    objects found in the frames of a movie and linked (links.py): from input, truth and result.
"""

import argparse
import csv
import inspect
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from links import THRESHOLDS, Image, Labels, links_kept, segment
from pairs import Pair, psnr_affine
from scipy import ndimage
from skimage.filters import threshold_otsu

import cellxlate
from cellxlate.evaluation.still import steadiness
from cellxlate.stacks.stack import Stack

Found = dict[str, Any]

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
PARTS = "scores", "flicker", "links"
JUDGED = "noisy2", "noisy4"
"""What a mean is taken of: little light."""
STILL, FRAMES, STILL_SEED = "hela_h2b_TYX", 8, 20_000
AROUND_PX = 2
LINKED = {"hela_h2b_TYX": (8, 15), "cho_nuclei_TZYX": (20, 25)}
"""Name -> how far centres of objects are apart, and how far they move at most, in pixels. Z is averaged away."""


@dataclass(frozen=True)
class Volume:
    """A noisy stack in memory, as its file describes it, its truth and its cells.

    Attributes
    ----------
    name, noise : str
        For example "hela_h2b_TYX" and "noisy2".
    stack : Stack
        The noisy pixels.
    truth : ndarray
        In counts, of the same shape.
    masks : ndarray of int or None
        Labels, of the same shape.
    """

    name: str
    noise: str
    stack: Stack
    truth: Image
    masks: Labels | None

    @property
    def pair(self) -> Pair:
        """What scores are taken of."""
        cells = structure(self.truth) if self.masks is None else self.masks > 0
        return Pair(self.name, self.noise, np.asarray(self.stack), self.truth, cells)


def structure(truth: Image) -> npt.NDArray[np.bool_]:
    """Return where a truth (..., Y, X) shows structure: above Otsu's threshold of the volume, and 2 px around."""
    smooth = ndimage.gaussian_filter(truth.astype(np.float64), [0] * (truth.ndim - 2) + [1, 1])
    around = np.ones((1,) * (truth.ndim - 2) + (2 * AROUND_PX + 1,) * 2, bool)
    return np.asarray(ndimage.binary_dilation(smooth > threshold_otsu(smooth), around))


def part_of(axes: str, shape: Sequence[int], *, planes: int, crop_px: int) -> tuple[slice, ...]:
    """Return the first planes along the longer of Z and T, and the middle of each of them; 0 takes all."""
    sizes = dict(zip(axes, shape, strict=True))
    along = max((axis for axis in axes if axis in "ZT"), key=lambda axis: sizes[axis])
    middle = {axis: max((sizes[axis] - crop_px) // 2, 0) for axis in "YX"}
    parts = {axis: slice(start, start + crop_px) for axis, start in middle.items()} if crop_px else {}
    return tuple((parts | ({along: slice(planes)} if planes else {})).get(axis, slice(None)) for axis in axes)


def read_volumes(
    folder: Path, *, only: Sequence[str] = (), noises: Sequence[str] = (), planes: int = 0, crop_px: int = 0
) -> Iterator[Volume]:
    """Yield the volumes of a folder, or the part of each that was asked for; `only` are beginnings of names."""
    for truth_file in sorted(folder.glob("*_truth.ome.tif")):
        name = truth_file.name.removesuffix("_truth.ome.tif")
        if only and not name.startswith(tuple(only)):
            continue
        with cellxlate.open_stack(truth_file) as opened:
            part = part_of(opened.axes, opened.shape, planes=planes, crop_px=crop_px)
            truth = np.asarray(opened)[part]
        masks, masks_file = None, folder / f"{name}_masks.ome.tif"
        if masks_file.exists():
            with cellxlate.open_stack(masks_file) as opened:
                masks = np.asarray(opened)[part]
        for path in sorted(folder.glob(f"{name}_noisy*.ome.tif")):
            noise = path.name.removesuffix(".ome.tif").rpartition("_")[2]
            if noises and noise not in noises:
                continue
            with cellxlate.open_stack(path) as opened:
                stack = replace(opened, pixels=np.asarray(opened)[part], path=None, kind="array", files=())
            yield Volume(name, noise, stack, truth, masks)


def enhanced(stack: Stack, model: str, context: str) -> Any:
    """Return what `cellxlate.enhance` makes of a stack; before it knew of context, all was "none"."""
    knows = "context" in inspect.signature(cellxlate.enhance).parameters
    if context != "none" and not knows:
        raise SystemExit(f"this version knows no context, {context!r} was asked for; give --context none")
    return cellxlate.enhance(stack, model, **({"context": context} if knows else {}))


def chosen_axis(report: Any) -> str:
    """Return the axis along which neighbours were used, "-" for none."""
    stated = report.as_full_dict().get("context") or {}
    return str(stated.get("axis") or "-")


def present(contexts: Sequence[str], stack: Stack) -> list[str]:
    """Return the contexts that a stack has planes for."""
    return [one for one in contexts if one not in ("z", "t") or stack.size(one.upper()) > 1]


def score_rows(volumes: Iterator[Volume], model: str, contexts: Sequence[str]) -> Iterator[Found]:
    """Yield the scores of the input and of each context, volume by volume."""
    for volume in volumes:
        pair = volume.pair
        everywhere = replace(pair, cells=np.ones(pair.cells.shape, bool))
        row = {"name": volume.name, "noise": volume.noise}
        yield {
            **row,
            "context": "input",
            "db": psnr_affine(pair.noisy, pair),
            "all_db": psnr_affine(pair.noisy, everywhere),
        }
        for context in present(contexts, volume.stack):
            started = time.process_time()
            made = enhanced(volume.stack, model, context)
            seconds = time.process_time() - started
            yield {
                **row, "context": context, "axis": chosen_axis(made.report), "model": made.report.model_name,
                "db": psnr_affine(made.image, pair), "all_db": psnr_affine(made.image, everywhere),
                "selected_percent": 100 * float((made.attention > 0)[pair.cells].mean()),
                "iou": overlap(made.attention > 0, pair.cells),
                "flicker_percent": made.report.as_full_dict().get("flicker_percent"),
                "violations": made.report.kept_violations, "cpu_seconds": round(seconds, 2),
            }  # fmt: skip


def overlap(selected: npt.NDArray[np.bool_], cells: npt.NDArray[np.bool_]) -> float:
    """Return intersection over union."""
    return float((selected & cells).sum() / max((selected | cells).sum(), 1))


def drawn_again(truth: Image, imaging: Mapping[str, str], seed: int) -> npt.NDArray[np.uint16]:
    """Return a truth (..., Y, X) as the camera of a row of the manifest records it, with noise of a seed.

    Poisson and read noise; where the noise is correlated, both are smoothed and brought back to their strength.
    """
    draw = np.random.default_rng(seed)
    exposure, gain, read, offset, width = (
        float(imaging[key] or 0) for key in ("exposure", "e_per_adu", "read_noise", "offset", "noise_sigma_px")
    )
    signal = np.maximum(truth.astype(np.float64) - offset, 0) * exposure
    noise = draw.poisson(signal * gain) / gain - signal + draw.normal(0, read, signal.shape)
    if width:
        impulse = np.zeros((33, 33))
        impulse[16, 16] = 1
        kept = np.sqrt((ndimage.gaussian_filter(impulse, width) ** 2).sum())
        noise = ndimage.gaussian_filter(noise, [0] * (truth.ndim - 2) + [width] * 2) / kept
    return np.clip(np.rint(offset + signal + noise), 0, 65535).astype(np.uint16)


def flicker_rows(
    data: Path, model: str, contexts: Sequence[str], noises: Sequence[str], *, frames: int = FRAMES, crop_px: int = 0
) -> Iterator[Found]:
    """Yield how steady the selection is when noise is drawn again, for each noise and context."""
    with (data / "MANIFEST_2.csv").open(newline="") as manifest:
        imaging = {row["file"].rpartition("/")[2].removesuffix(".ome.tif"): row for row in csv.DictReader(manifest)}
    for volume in read_volumes(data / "volumes", only=[STILL], noises=noises, planes=1, crop_px=crop_px):
        assert volume.masks is not None
        seed = STILL_SEED + int(volume.noise.removeprefix("noisy"))
        still = np.repeat(volume.truth, frames, axis=0)
        movie = replace(volume.stack, pixels=drawn_again(still, imaging[f"{volume.name}_{volume.noise}"], seed))
        raw, cells = np.asarray(movie), np.repeat(volume.masks > 0, frames, axis=0)
        pair = Pair(volume.name, volume.noise, raw, still, cells)
        for context in contexts:
            made = enhanced(movie, model, context)
            selected = made.attention > 0
            found = steadiness(zip(raw, made.image, selected, strict=True))
            yield {
                "name": volume.name, "noise": volume.noise, "context": context, "axis": chosen_axis(made.report),
                "model": made.report.model_name, **found.as_dict(), "iou": overlap(selected, cells),
                "iou_of_half": overlap(made.attention >= 128, cells), "db": psnr_affine(made.image, pair),
                "flicker_percent": made.report.as_full_dict().get("flicker_percent"),
                "violations": made.report.kept_violations,
            }  # fmt: skip


def frames_of(image: Image, axes: str) -> list[Image]:
    """Return the time points of a stack, (Y, X) each; Z is averaged away."""
    flat = image.astype(np.float64).mean(axis=axes.index("Z")) if "Z" in axes else image
    return list(flat)


def link_rows(volumes: Iterator[Volume], model: str, contexts: Sequence[str]) -> Iterator[Found]:
    """Yield what becomes of the links of the masks, from truth, input and results, at either threshold."""
    done = set()
    for volume in volumes:
        if volume.name not in LINKED or volume.masks is None:
            continue
        if volume.name not in done:
            done.add(volume.name)
            yield from linked(volume, volume.truth, {"name": volume.name, "noise": "", "context": "truth"})
        row = {"name": volume.name, "noise": volume.noise}
        yield from linked(volume, np.asarray(volume.stack), {**row, "context": "input"})
        for context in contexts:
            yield from linked(volume, enhanced(volume.stack, model, context).image, {**row, "context": context})


def linked(volume: Volume, image: Image, row: Found) -> Iterator[Found]:
    """Yield a row for each threshold: links of the masks that are kept in an image of the volume's shape."""
    assert volume.masks is not None
    apart_px, reach_px = LINKED[volume.name]
    axes, masks = volume.stack.axes, volume.masks.astype(np.int64)
    frames = list(masks.max(axis=axes.index("Z")) if "Z" in axes else masks)
    for threshold in THRESHOLDS:
        found = [segment(one, apart_px=apart_px, threshold=threshold) for one in frames_of(image, axes)]
        kept = links_kept(found, frames, reach_px=reach_px)
        yield {**row, "threshold": threshold, **asdict(kept), "percent": kept.percent}


def gains(rows: Sequence[Found]) -> dict[str, dict[str, float]]:
    """Return by name and context the mean gain over "none" in dB, of the noises that are judged and were scored."""
    known = {(row["name"], row["noise"], row["context"]): row["db"] for row in rows}
    found: dict[str, dict[str, list[float]]] = {}
    for (name, noise, context), db in known.items():
        base = known.get((name, noise, "none"))
        if noise in JUDGED and context not in ("none", "input") and base is not None:
            found.setdefault(name, {}).setdefault(context, []).append(db - base)
    return {name: {context: float(np.mean(of)) for context, of in one.items()} for name, one in found.items()}


COLUMNS = {
    "scores": ("name", "noise", "context", "axis", "db", "all_db", "selected_percent", "iou", "flicker_percent",
               "violations", "cpu_seconds"),
    "flicker": ("name", "noise", "context", "axis", "percent", "iou", "iou_of_half", "db", "noise_left",
                "flicker_percent", "violations"),
    "links": ("name", "noise", "context", "threshold", "percent", "links_kept", "links", "links_wrong",
              "objects_found", "objects", "extra"),
}  # fmt: skip
"""What the tables show."""


def markdown(rows: Sequence[Found], columns: Sequence[str]) -> str:
    """Return rows as a table."""

    def told(value: Any) -> str:
        return "-" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)

    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(told(row.get(column)) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def main() -> None:
    """Run the parts and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", default=DATA)
    parser.add_argument("--model", default="cells")
    parser.add_argument("--context", nargs="+", default=["none"], choices=("auto", "none", "z", "t"))
    parser.add_argument("--part", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="volumes whose names begin so")
    parser.add_argument("--noise", nargs="+", default=["1", "2", "3", "4"], choices=("1", "2", "3", "4"))
    parser.add_argument("--planes", type=int, default=0, help="the first planes of each volume alone")
    parser.add_argument("--crop", type=int, default=0, metavar="PX", help="the middle of each plane alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all rows")
    options = parser.parse_args()
    torch.set_num_threads(1)
    noises = [f"noisy{number}" for number in options.noise]
    asked = {"only": options.only, "noises": noises, "planes": options.planes, "crop_px": options.crop}

    def volumes() -> Iterator[Volume]:
        return read_volumes(options.data / "volumes", **asked)

    parts = {
        "scores": lambda: score_rows(volumes(), options.model, options.context),
        "flicker": lambda: flicker_rows(options.data, options.model, options.context, noises, crop_px=options.crop),
        "links": lambda: link_rows(volumes(), options.model, options.context),
    }
    answer: dict[str, Any] = {}
    for part in options.part:
        rows = answer[part] = []
        for row in parts[part]():
            rows.append(row)
            print(json.dumps({"part": part, **row}), file=sys.stderr, flush=True)
        print(f"\n{part}\n\n{markdown(rows, COLUMNS[part])}", flush=True)
    if "scores" in answer and (gained := gains(answer["scores"])):
        answer["gains"] = gained
        print(f"\ngain over none, dB, mean of {' and '.join(JUDGED)}\n")
        contexts = list(dict.fromkeys(context for one in gained.values() for context in one))
        print(markdown([{"name": name, **one} for name, one in gained.items()], ["name", *contexts]))
    if options.json:
        options.json.write_text(json.dumps(answer, indent=1))


if __name__ == "__main__":
    main()
