"""How well `stacks.camera.measure_noise` finds simulated noise: `python tests/bench/noise.py [-v]`.

Noise of nine correlations and six strengths, recorded in four ways, on clear images of ../shared/data/clean_structures
and drawn grounds. The truth is what the difference of two such recordings says at the darkest fifth of the clear image.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
from scipy import ndimage

from cellxlate.stacks.intensity.camera_noise import measure_noise

DATA = Path(__file__).parents[3] / "shared" / "data"
PER_FOLDER = 3
CORRELATIONS: tuple[float | str, ...] = (0.0, 0.35, 0.5, 0.7, 1.0, 1.3, "demosaic", "rows", "resampled")
STRENGTHS = ((0.015, 0.0), (0.05, 0.0), (0.12, 0.0), (0.02, 0.005), (0.03, 0.03), (0.05, 0.1))
"""Read noise in spans, and variance per signal."""
RECORDINGS = ("16 bit", "8 bit", "cut", "float")
DARK_SHARE = 0.2
Plane = npt.NDArray[np.float64]


def grounds() -> Iterator[tuple[str, Plane]]:
    """Yield the kind and the clear image (Y, X), about 0 to 1."""
    rng = np.random.default_rng(0)
    for folder in sorted((DATA / "clean_structures").glob("*/")):
        paths = sorted(folder.glob("*.tif"))
        for path in rng.choice(np.array(paths, dtype=object), min(PER_FOLDER, len(paths)), replace=False):
            counts = ndimage.gaussian_filter(
                tifffile.imread(path).astype(float), 0.8
            )  # their own noise is not the question
            low, high = np.percentile(counts, [1, 99.5])
            yield folder.name, np.clip((counts - low) / (high - low), 0, 2)
    rows, columns = np.mgrid[:512, :512] / 512
    yield "flat", np.full((512, 512), 0.1)
    yield "gradient", 0.8 * rows + 0.2 * columns
    yield "haze", 0.5 + 0.5 * np.sin(4 * np.pi * rows) * np.cos(3 * np.pi * columns)
    for width_px in (12, 4):
        texture = ndimage.gaussian_filter(rng.normal(size=(512, 512)), width_px, mode="wrap")
        yield f"texture of {width_px} px", 0.5 + 0.15 * texture / texture.std()


def correlated(white: Plane, kind: float | str) -> Plane:
    """Return white noise as a camera or a filter shares it between neighbours, of variance 1."""
    if kind == "demosaic":
        measured = np.indices(white.shape).sum(0) % 2 == 0
        cross = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]]) / 4
        filled = ndimage.convolve(np.where(measured, white, 0.0), cross, mode="wrap")
        shared = np.where(measured, white, filled)
    elif kind == "rows":
        shared = ndimage.convolve1d(white, [0.25, 0.5, 0.25], axis=1, mode="wrap")
    elif kind == "resampled":
        coarse = white[: int(white.shape[0] / 1.3), : int(white.shape[1] / 1.3)]
        shared = ndimage.zoom(coarse, np.array(white.shape) / np.array(coarse.shape), order=1)
    else:
        shared = ndimage.gaussian_filter(white, float(kind), mode="wrap") if kind else white
    return np.asarray(shared / shared.std())


def recorded(noisy: Plane, clear: Plane, recording: str) -> npt.NDArray[Any]:
    if recording == "16 bit":
        return np.clip(np.rint(3000 * noisy + 400), 0, 65535).astype(np.uint16)
    if recording == "8 bit":
        return np.clip(np.rint(200 * noisy + 10), 0, 255).astype(np.uint8)
    if recording == "cut":
        return np.clip(np.rint(220 * (noisy - np.percentile(clear, 20))), 0, 255).astype(np.uint8)
    return noisy.astype(np.float32)


def truth(frames: list[npt.NDArray[Any]], clear: Plane) -> tuple[float, float]:
    """Return sd and neighbour correlation of the difference of two frames at the darkest fifth."""
    smooth = ndimage.gaussian_filter(clear, 2)
    dark = smooth <= np.quantile(smooth, DARK_SHARE)
    noise = (frames[0].astype(float) - frames[1].astype(float)) / np.sqrt(2)
    noise -= noise[dark].mean()
    variance = float((noise[dark] ** 2).mean())
    across, down = dark[:, 1:] & dark[:, :-1], dark[1:] & dark[:-1]
    shared = (noise[:, 1:] * noise[:, :-1])[across].mean() + (noise[1:] * noise[:-1])[down].mean()
    return float(np.sqrt(variance)), float(shared / 2 / max(variance, 1e-12))


def main() -> None:
    rng, number, rows = np.random.default_rng(1), 0, []
    for name, clear in grounds():
        for kind in CORRELATIONS:
            read, gain = STRENGTHS[number % len(STRENGTHS)]
            recording = RECORDINGS[(number // 2) % len(RECORDINGS)]
            number += 1
            spread = np.sqrt(read**2 + gain * clear)
            frames = [
                recorded(clear + spread * correlated(rng.normal(size=clear.shape), kind), clear, recording)
                for _ in range(2)
            ]
            sd, shared = truth(frames, clear)
            found = measure_noise([frames[0]])
            if sd > 0:
                errors = found.sd_counts / sd, found.neighbour_correlation - shared
                rows.append((name, str(kind), recording, f"{read:g} {gain:g}", errors, found.reliable))
                if "-v" in sys.argv and not (abs(errors[0] - 1) < 0.15 and abs(errors[1]) < 0.1):
                    print(
                        *rows[-1][:4], f"ratio {errors[0]:.2f} correlation {errors[1]:+.2f} reliable {found.reliable}"
                    )
    print(f"{'':22} fields  within   sd ratio: 5 %  50 %  95 %   correlation: 5 %  50 %  95 %")
    for column in range(4):
        for value in dict.fromkeys(row[column] for row in rows):
            show(str(value), [row[4] for row in rows if row[column] == value])
    for reliable in (True, False):
        show(f"reliable {reliable}", [row[4] for row in rows if row[5] == reliable])
    show("all", [row[4] for row in rows])


def show(name: str, errors: list[tuple[float, float]]) -> None:
    """Print a row: how many are within 15 % of the sd and 0.1 of the correlation, and percentiles of both."""
    if not errors:
        return
    ratio, shared = np.array(errors).T
    good = float(((np.abs(ratio - 1) < 0.15) & (np.abs(shared) < 0.1)).mean())
    percents = [np.percentile(part, [5, 50, 95]) for part in (ratio, shared)]
    print(f"{name:22} {len(errors):6} {100 * good:5.0f} %  {'':9}", *(f"{value:5.2f}" for value in percents[0]), end="")
    print(f"{'':15}", *(f"{value:+5.2f}" for value in percents[1]))


if __name__ == "__main__":
    main()
