"""By how much hues of changed pixels turn, by `--color`: `python tests/bench/color.py FILE ...`.

RGB files are compared with themselves, three drawn dyes with their truth too.
"""

import argparse
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

import cellxlate
from cellxlate.settings import Color
from cellxlate.stacks.intensity.stack_range import stack_ranges
from cellxlate.stacks.luminance import luminance_stack
from cellxlate.stacks.samples.structures import draw_structure
from cellxlate.stacks.stack import Stack

DYES = {"nuclei": (0.05, 0.15, 1.0), "filaments": (0.1, 1.0, 0.15), "puncta": (1.0, 0.1, 0.3)}
COLORED = 0.1
"""Of the luminance's span: pixels whose chroma is smaller are left out, as their hue is rounding."""
Floats = npt.NDArray[np.float64]


def dyes(seed: int, side_px: int = 512) -> tuple[Floats, Stack]:
    """Draw nuclei, filaments and puncta in three colours: truth (3, Y, X), and what a camera makes of it in 8 bits."""
    random = np.random.default_rng(seed)
    light = np.zeros((3, side_px, side_px))
    for kind, color in DYES.items():
        light += np.reshape(color, (3, 1, 1)) * draw_structure(kind, (side_px, side_px), random).image
    truth = 10.2 + 81.6 * np.clip(light / np.percentile(light, 99.8), 0, 1.2)
    noisy = random.poisson(truth * 0.63) / 0.63 + random.normal(0, 2.0, truth.shape)
    return truth, Stack(np.clip(np.rint(noisy), 0, 255).astype(np.uint8), "SYX", f"three dyes, seed {seed}")


def hue_chroma(counts: Floats, blacks: Floats) -> tuple[Floats, Floats]:
    """Return hue in degrees and chroma in counts of samples (3, Y, X) above black."""
    red, green, blue = np.maximum(counts - blacks, 0)
    across = np.sqrt(3) / 2 * (green - blue)
    along = red - (green + blue) / 2
    return np.degrees(np.arctan2(across, along)), np.hypot(across, along)


def turned(counts: Floats, other: Floats, blacks: Floats, where: npt.NDArray[np.bool_], least: float) -> Floats:
    """Return by how many degrees hues of some pixels differ, where those of the first have a chroma."""
    (hue, chroma), (others, _) = hue_chroma(counts, blacks), hue_chroma(other, blacks)
    return np.abs((hue - others + 180) % 360 - 180)[where & (chroma > least)]


def measure(stack: Stack, model: str, truth: Floats | None = None) -> None:
    """Enhance a stack both ways and print what became of its hues."""
    axis = stack.axes.index("S")
    raw = np.moveaxis(np.asarray(stack), axis, 0)[:3].astype(np.float64)
    blacks = np.reshape([one.black for one in stack_ranges(stack, (0, 1, 2)).values()], (3, 1, 1))
    span = stack_ranges(luminance_stack(stack), (0,))[0].span
    colors: tuple[Color, ...] = ("separate", "luminance")
    results: dict[Color, tuple[Floats, float]] = {}
    for color in colors:
        started = time.perf_counter()
        result: Any = cellxlate.enhance(stack, model, color=color)
        nets_s = result.report.seconds["attention"] + result.report.seconds["generator"]
        after = np.moveaxis(result.image, axis, 0)[:3].astype(np.float64)
        print(f"{stack.name}, {color}: {time.perf_counter() - started:.1f} s, of which networks {nets_s:.2f} s")
        results[color] = after, nets_s
    for color, (after, _) in results.items():
        changed = (after != raw).any(axis=0)
        angles = turned(raw, after, blacks, changed, COLORED * span)
        line = f"  {color:9} {changed.mean():5.1%} changed, turned by {angles.mean():5.2f} deg, "
        line += f"95 % below {np.percentile(angles, 95):5.2f}"
        if truth is not None:
            both = np.all([(one != raw).any(axis=0) for one, _ in results.values()], axis=0)
            errors = [turned(truth, one, blacks, both, COLORED * span).mean() for one in (raw, after)]
            decibels = [-10 * np.log10((((one - truth) / span) ** 2)[:, both].mean()) for one in (raw, after)]
            line += (
                f"; from the truth {errors[0]:.1f} -> {errors[1]:.1f} deg, {decibels[0]:.1f} -> {decibels[1]:.1f} dB"
            )
        print(line)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the files that are named, then drawn dyes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*")
    parser.add_argument("--model", default="cells")
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3])
    options = parser.parse_args(arguments)
    for file in options.files:
        with cellxlate.open_stack(file) as stack:
            measure(stack, options.model)
    for seed in options.seeds:
        truth, drawn = dyes(seed)
        measure(drawn, options.model, truth)


if __name__ == "__main__":
    main()
