"""How good: classical filters, CycleGAN, the paper's game and ours on the 17 test fields, in one Markdown table.

    python tests/bench/quality.py ../shared/data/nuclei_lowexp WORK [--steps 1500] [--rows fast-0 cyclegan ...]

Every row is kept in WORK as JSON, so the command may be interrupted, repeated and extended. All learned rows train the
networks of `fast` for the same number of steps on the same images.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
from scipy import ndimage
from skimage import restoration

import cellxlate
from cellxlate.errors import TrainingError
from cellxlate.settings import PRESETS, Guide, TrainSettings
from cellxlate.stacks.intensity.range import pixel_noise

Filter = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]

FAST = PRESETS["fast"]
LEARNED = replace(
    FAST, backward="learned", switch_epoch=30, lambda_adversarial=1.0, adam_beta1=0.5, learning_rate=2e-4, batch=1,
    gate_in_loop=False,
)  # fmt: skip
"""Both directions learned on the paper's schedule, with the networks of `fast`."""

GUIDES: tuple[Guide, ...] = ("none", "saliency", "masks")

SIMULATED_BLUR_PX = (1.2, 2.35)
"""What the test fields were blurred by: with it `fast` learns from pairs made as the test fields were (the ceiling)."""


def wiener_like(image: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Richardson-Lucy with the Gaussian of the optics, 10 iterations, after removing the offset."""
    offset = np.percentile(image, 1)
    reach = np.arange(-8, 9)
    line = np.exp(-0.5 * (reach / 1.7) ** 2)
    kernel = np.outer(line, line) / np.outer(line, line).sum()
    span = image.max() - offset
    return restoration.richardson_lucy(np.clip(image - offset, 0, None) / span, kernel, num_iter=10, clip=False) * span


FILTERS: dict[str, Filter] = {
    "input": lambda image: image,
    "gaussian 1.5 px": lambda image: ndimage.gaussian_filter(image, 1.5),
    "total variation": lambda image: restoration.denoise_tv_chambolle(image / 500, weight=0.03) * 500,
    "non-local means": lambda image: restoration.denoise_nl_means(
        image, patch_size=5, patch_distance=7, h=0.8 * pixel_noise(image), sigma=pixel_noise(image)
    ),
    "Richardson-Lucy": wiener_like,
}


def trained_rows(steps: int) -> dict[str, TrainSettings]:
    """Return the settings of every learned row."""
    rows = {f"fast, saliency, seed {seed}": replace(FAST, seed=seed) for seed in range(5)}
    rows["fast, masks of 8 fields"] = replace(FAST, guide="masks")
    rows["fast, blur of the simulation"] = replace(FAST, imaging=replace(FAST.imaging, blur_px=SIMULATED_BLUR_PX))
    rows["CycleGAN"] = replace(LEARNED, baseline="cyclegan", guide="none")
    for seed in range(3):
        for guide in GUIDES:
            rows[f"learned both ways, guide {guide}, seed {seed}"] = replace(LEARNED, guide=guide, seed=seed)
    return {name: replace(settings, steps=steps) for name, settings in rows.items()}


def score(data: Path, **what: Any) -> dict[str, Any]:
    """Evaluate on the test fields."""
    return cellxlate.evaluate(
        source=data / "test_S", truth=data / "test_S_truth", masks=data / "test_masks", no_cells=data / "no_cells_S",
        **what,
    )  # fmt: skip


def filtered(data: Path, work: Path, name: str) -> dict[str, Any]:
    """Score a classical filter."""
    folder = work / name.replace(" ", "-")
    folder.mkdir(exist_ok=True)
    for path in [*(data / "test_S").glob("*.tif"), *(data / "no_cells_S").glob("*.tif")]:
        image = FILTERS[name](tifffile.imread(path).astype(np.float64))
        tifffile.imwrite(folder / f"{path.stem}_enhanced.tif", image.astype(np.float32))
    return score(data, enhanced=folder)


def trained(data: Path, work: Path, name: str, settings: TrainSettings) -> dict[str, Any]:
    """Train a row and score it."""
    folder = work / name.replace(" ", "-").replace(",", "")
    masks = None
    if settings.guide == "masks":
        masks = work / "masks-of-8"
        masks.mkdir(exist_ok=True)
        for path in sorted((data / "train_S_masks").glob("*.tif"))[::16][:8]:
            (masks / path.name).write_bytes(path.read_bytes())
    started = time.monotonic()
    try:
        if not folder.exists():
            cellxlate.train(data / "train_S", data / "train_T", output=folder, settings=settings, masks=masks,
                            resume=folder.with_name(folder.name + ".partial").exists(), progress=print)  # fmt: skip
    except TrainingError as fault:
        return {"collapsed": str(fault)}
    return {**score(data, model=folder), "minutes": (time.monotonic() - started) / 60}


def table(results: dict[str, dict[str, Any]]) -> str:
    """Return the rows as Markdown."""
    heads = ["", "PSNR affine (dB)", "SSIM affine", "PSNR (dB)", "background changed (%)", "field without cells (%)",
             "attention IoU", "patch distance", "objects added, lost", "minutes"]  # fmt: skip
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for name, found in results.items():
        if "collapsed" in found:
            lines.append(f"| {name} | {found['collapsed']} |" + " |" * (len(heads) - 2))
            continue
        foreground = found["foreground"]
        values = [
            foreground["psnr_affine"], foreground["ssim_affine"], foreground["psnr"],
            found["background"]["changed_percent"], found["no_cells"]["changed_percent"],
            (found["attention"] or {}).get("iou"), found["patch_distance"],
        ]  # fmt: skip
        digits = (2, 3, 2, 2, 3, 2, 3)
        cells = ["-" if value is None else f"{value:.{digit}f}" for value, digit in zip(values, digits, strict=True)]
        phantoms, minutes = found["phantoms"], found.get("minutes")
        cells += [f"{phantoms['added']}, {phantoms['lost']}", "-" if minutes is None else f"{minutes:.1f}"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Compute the missing rows and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--rows", nargs="+", help="names of rows; all by default")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    settings = trained_rows(options.steps)
    results: dict[str, dict[str, Any]] = {}
    for name in options.rows or [*FILTERS, *settings]:
        stored = options.work / f"{name.replace(' ', '-').replace(',', '')}.json"
        if not stored.exists():
            data, work = options.data, options.work
            found = filtered(data, work, name) if name in FILTERS else trained(data, work, name, settings[name])
            stored.write_text(json.dumps(found))
        results[name] = json.loads(stored.read_text())
    print(table(results))


if __name__ == "__main__":
    main()
