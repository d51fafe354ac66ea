"""What a model's training images look like, measured anew: to be run when the quantities of `quality.domain` change.

    python tests/bench/domain.py MODEL FOLDER... [--degraded DRAWS] [--generalist] [--update]

MODEL is a shipped name or a model folder; the FOLDERs hold its source images. Prints the quantities of the card and as
measured now, and how far each FOLDER is from either domain: the share of images above 1, the median and the largest
distance. With --update the card gets the new numbers (`cellxlate describe` does that alone), with --generalist also
the note that specialists are preferred to this model within their own domains.

With --degraded the FOLDERs hold clear images, as those a generalist is trained on are degraded in training: DRAWS
images are made of each, at 0.5 to 2 times the size, blurred by 0.3 to 1.5 px, with 5 to 400 photons at the brightest,
0.5 to 4 photons of read noise, two fifths of them with noise smeared over 0.35 to 1 px, of any gain and offset.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

import cellxlate
from cellxlate.model.cards import CARD, amend_card, locate, read_card
from cellxlate.quality.trust.likeness import departure, describe_planes, look, windows_of
from cellxlate.stacks.read.open import find_stacks
from cellxlate.stacks.stack import Stack
from cellxlate.whole_file import write_whole_file

SMALLEST_PX = 128


def degraded(clear: npt.NDArray[Any], draw: np.random.Generator) -> npt.NDArray[np.uint16]:
    """Return a clear plane as a camera would see it in little light, in ranges as wide as a generalist's."""
    low, high = np.percentile(clear, [1, 99.7])
    unit = (clear.astype(float) - low) / max(float(high - low), 1e-9)
    unit = ndimage.zoom(unit, np.exp(draw.uniform(np.log(0.5), np.log(2.0))), order=1)
    unit = np.maximum(ndimage.gaussian_filter(unit, draw.uniform(0.3, 1.5)), 0)
    unit = np.pad(unit, [(0, max(0, SMALLEST_PX - size)) for size in unit.shape], mode="reflect")
    brightest = np.exp(draw.uniform(np.log(5), np.log(400)))
    background = brightest * draw.uniform(0.02, 0.3)
    photons = draw.poisson(unit * brightest + background) + draw.normal(0, draw.uniform(0.5, 4), unit.shape)
    if draw.random() < 0.4:
        expected = unit * brightest + background
        photons = expected + ndimage.gaussian_filter(photons - expected, draw.uniform(0.35, 1.0))
    gain, offset = np.exp(draw.uniform(np.log(0.5), np.log(20))), draw.uniform(100, 1200)
    return np.clip(np.rint(photons * gain + offset), 0, 65535).astype(np.uint16)


def planes_of(folder: Path, draws: int) -> Iterator[npt.NDArray[Any]]:
    """Yield the planes of a folder, or `draws` degraded ones of each."""
    draw = np.random.default_rng(0)
    for path in find_stacks([folder], "source"):
        with cellxlate.open_stack(path) as stack:
            for index in stack.plane_indices():
                plane = stack.read(index)
                yield from (degraded(plane, draw) for _ in range(draws)) if draws else (plane,)


def distances(planes: list[npt.NDArray[Any]], domain: Any) -> npt.NDArray[np.float64]:
    """Return the distance of each plane in which something can be seen."""
    looks = [[look(plane[window]) for window in windows_of(plane.shape)] for plane in planes]
    found = [departure([one for one in own if one], domain) for own in looks]
    return np.array([one.distance for one in found if one] or [np.nan])


def main() -> None:
    """Measure, print, and update where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--degraded", type=int, default=0, metavar="DRAWS")
    parser.add_argument("--generalist", action="store_true")
    parser.add_argument("--update", action="store_true")
    options = parser.parse_args()
    model = locate(options.model)
    planes = {folder: list(planes_of(folder, options.degraded)) for folder in options.folders}
    measured = describe_planes([(Stack.from_array(plane), ()) for own in planes.values() for plane in own])
    if measured is None:
        raise SystemExit("fewer than 8 windows of 256 px with anything in them")
    domains = {"card": read_card(model).get("domain"), "measured": measured}
    print(json.dumps({name: domain and domain["quantities"] for name, domain in domains.items()}, indent=1))
    for folder, own in planes.items():
        for name, domain in domains.items():
            found = distances(own, domain)
            print(f"{folder.name:24} {name:9} {len(own):4} images, {np.mean(found > 1):.0%} above 1, "
                  f"median {np.median(found):.2f}, largest {found.max():.2f}")  # fmt: skip
    if options.update:
        amend_card(model, "domain", measured)
        if options.generalist:
            card = {**read_card(model), "generalist": True}
            write_whole_file(model / CARD, json.dumps(card, indent=1) + "\n")


if __name__ == "__main__":
    main()
