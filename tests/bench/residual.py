"""How well a report tells what was taken away from the camera's noise: of images that are made faint here.

    python tests/bench/residual.py DATA

DATA holds `clean_structures` and `nuclei_lowexp`. Two clear images of each kind are recorded anew, with few photons and
many, with noise that neighbours share and do not; then enhanced by a model, by Gaussian filters that take structure
with the noise, and by the truth itself, which takes noise alone. Prints, for each, the median and the largest share of
suspicious pixels, how many of the results the report would warn of, and how far the correlation of neighbours in the
residual is from the noise's. The last rows are recorded fields, by both shipped models.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

import cellxlate
from cellxlate.quality.report.doubts import MOST_SUSPICIOUS
from cellxlate.quality.trust.residual import taken_away
from cellxlate.stacks.intensity.camera_noise import measure_noise

Plane = npt.NDArray[Any]
SIDE_PX, IMAGES, BLACK_COUNTS, COUNTS_PER_PHOTON = 384, 2, 100, 10
RECORDINGS = ((30, 0.0), (8, 0.0), (20, 0.8))
"""Photons at the bright end, and by how many pixels noise is smoothed."""
GAUSSIANS_PX = (1, 2, 4)


def plane_of(path: Path) -> Plane:
    with cellxlate.open_stack(path) as stack:
        return stack.read(next(iter(stack.plane_indices()))).astype(np.float64)


def recorded(clear: Plane, photons: float, shared_px: float, rng: np.random.Generator) -> tuple[Plane, Plane]:
    """Return a recording (uint16) of a clear image and what was expected, in counts."""
    low, high = np.percentile(clear, [1, 99.5])
    signal = photons * np.clip((clear - low) / (high - low), 0, 1.5)
    noise = rng.normal(size=clear.shape)
    if shared_px:
        noise = ndimage.gaussian_filter(noise, shared_px)
        noise /= noise.std()
    expected = BLACK_COUNTS + COUNTS_PER_PHOTON * signal
    counts = expected + COUNTS_PER_PHOTON * noise * np.sqrt(signal + 0.5)
    return np.clip(np.rint(counts), 0, 65535).astype(np.uint16), expected


def results(data: Path) -> Iterator[tuple[str, Plane, Plane, Plane]]:
    """Yield what made a result, the recording, the result and its attention."""
    rng = np.random.default_rng(0)
    for kind in sorted(path for path in (data / "clean_structures").iterdir() if path.is_dir()):
        for path in sorted(kind.rglob("*.tif"))[:IMAGES]:
            clear = plane_of(path)[:SIDE_PX, :SIDE_PX]
            everywhere = np.full(clear.shape, 255, np.uint8)
            for photons, shared_px in RECORDINGS:
                raw, expected = recorded(clear, photons, shared_px, rng)
                yield "the truth itself", raw, expected, everywhere
                made = cellxlate.enhance(raw, "cells")
                yield "`cells`", raw, made.image, made.attention
                for sigma_px in GAUSSIANS_PX:
                    smooth = ndimage.gaussian_filter(raw.astype(float), sigma_px)
                    yield f"Gaussian of {sigma_px} px", raw, smooth, everywhere
    for folder in ("test_S", "train_T"):
        for path in sorted((data / "nuclei_lowexp" / folder).glob("*.tif"))[:17]:
            raw = plane_of(path).astype(np.uint16)
            for model in ("nuclei-lowexp", "cells"):
                made = cellxlate.enhance(raw, model)
                yield f"`{model}`, {folder}", raw, made.image, made.attention


def main() -> None:
    """Measure, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    found = defaultdict(list)
    for name, raw, made, attention in results(parser.parse_args().data):
        taken = taken_away(raw, made, attention, measure_noise([raw]))
        if taken.pixels:
            said = taken.as_dict()
            found[name].append((said["suspicious_percent"], said["neighbour_correlation"] - said["expected"]))
    print("| result | judged | suspicious, median (%) | most (%) | warned of | correlation less the noise's, median |")
    print("|---" * 6 + "|")
    for name, rows in found.items():
        shares, beyond = np.array(rows).T
        warned = int((shares > 100 * MOST_SUSPICIOUS).sum())
        print(f"| {name} | {len(rows)} | {np.median(shares):.2f} | {shares.max():.2f} | {warned} "
              f"| {np.median(beyond):+.2f} |")  # fmt: skip


if __name__ == "__main__":
    main()
