"""Are objects found better in the output than in the raw input? A segmentation of both, against labelled masks."""

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage, sparse

from cellxlate.errors import InputError, OptionError, said
from cellxlate.evaluation.measures import find_objects
from cellxlate.options import SEGMENT

Plane = npt.NDArray[Any]
Segment = Callable[[Plane], Plane]
"""A plane (Y, X) in counts -> its objects (Y, X), numbered from 1 and 0 elsewhere."""

OTSU, LEAST_IOU = "otsu", 0.5
PICTURE = 255
"""White of a picture of 8 bit: the one number of a result that is no label image."""
EXPECTED = "expected otsu, FILE.py:FUNCTION, or in Python a function"


@dataclass(frozen=True)
class Matched:
    """Objects that were found beside those that are there, of one plane or of several.

    Attributes
    ----------
    found, there, matched : int
        Objects of the segmentation, objects of the mask, and pairs of them that overlap with an IoU above 0.5.
    areas, intensities : tuple of float
        Of each pair: the object that was found over that of the mask, in pixels; and in counts above the background of
        its own image, those of the mask taken from the raw input.
    """

    found: int = 0
    there: int = 0
    matched: int = 0
    areas: tuple[float, ...] = ()
    intensities: tuple[float, ...] = ()

    def as_dict(self) -> dict[str, float]:
        """Return the scores; NaN where there is nothing to score. docs/explanation/scores.md explains each."""
        either = self.found + self.there - self.matched
        return {
            "ap50": self.matched / either if either else math.nan,
            "count_error_percent": 100 * (self.found / self.there - 1) if self.there else math.nan,
            "area_bias_percent": _bias_percent(self.areas),
            "intensity_bias_percent": _bias_percent(self.intensities),
        }


def _bias_percent(ratios: Sequence[float]) -> float:
    return 100 * (float(np.median(ratios)) - 1) if ratios else math.nan


def together(parts: Sequence[Matched]) -> Matched:
    """Return what several planes give together, each object counted alike."""
    return Matched(
        sum(one.found for one in parts),
        sum(one.there for one in parts),
        sum(one.matched for one in parts),
        tuple(ratio for one in parts for ratio in one.areas),
        tuple(ratio for one in parts for ratio in one.intensities),
    )


def segmenter(asked: str | Segment) -> Segment:
    """Return what segments: "otsu", a function, or one that a Python file holds, as FILE.py:FUNCTION.

    "otsu" finds objects as `measures.find_objects` does. A file is run, as Python runs any program.

    Raises
    ------
    InputError
        There is no such file or function, or the file cannot be run.
    OptionError
        It is none of these.
    """
    if callable(asked):
        return asked
    if asked == OTSU:
        return find_objects
    path, colon, name = str(asked).rpartition(":")
    if not colon or not path.endswith(".py"):
        raise OptionError(SEGMENT, f" {asked!r} is not known", remedy=EXPECTED)
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{file} does not exist", remedy=EXPECTED)
    spec = spec_from_file_location(f"cellxlate_segment_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise InputError(f"{file} is no Python file", remedy=EXPECTED)
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses and other processes look for what it defines
    sys.path.insert(0, str(file.resolve().parent))
    with _run(f"{file} cannot be run"):
        spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        raise InputError(f"{file} has no function {name!r}", remedy=EXPECTED)
    return function  # type: ignore[no-any-return]


@contextmanager
def _run(failed: str) -> Iterator[None]:
    """Let a user's code print to standard error, and say in one line where it fails or leaves."""
    try:
        with redirect_stdout(sys.stderr):
            yield
    except (Exception, SystemExit) as fault:
        raise InputError(f"{failed}: {said(f'{type(fault).__name__}: ', fault)}") from fault


def segmented(
    segment: Segment, raw: Plane, enhanced: Plane, labels: Plane, where: str = "the image"
) -> tuple[Matched, Matched]:
    """Segment a plane before and after, and match the objects of both with those of a mask.

    Parameters
    ----------
    segment : callable
        As `segmenter` returns it.
    raw, enhanced : ndarray (Y, X)
        Counts.
    labels : ndarray (Y, X)
        Objects by number, 0 elsewhere.
    where : str
        What the plane is called, for errors.

    Raises
    ------
    InputError
        The function fails, or returns something else than whole numbers of the plane's shape.
    """
    before, after = (matched(_objects(segment, image, where), labels, image, raw) for image in (raw, enhanced))
    return before, after


def _objects(segment: Segment, image: Plane, where: str) -> Plane:
    name = getattr(segment, "__name__", "the function")
    with _run(f"{name} failed on {where}"):
        objects = np.asarray(segment(image.copy()))
    if objects.shape != image.shape or objects.dtype.kind not in "biu":
        raise InputError(
            f"{name} returned {objects.dtype} {objects.shape} for {where}; expected whole numbers {image.shape}, 0 "
            "where no object is"
        )
    if objects.dtype.kind == "b" or not set(np.unique(objects)) - {0, PICTURE}:
        return np.asarray(ndimage.label(objects)[0])
    return np.asarray(np.maximum(objects, 0))


def is_numbered(planes: Iterable[Plane]) -> bool:
    """Return whether the planes of a mask hold several numbers; otherwise connected regions are its objects."""
    known: set[int] = set()
    return any(len(known := known | {int(one) for one in np.unique(plane) if one > 0}) > 1 for plane in planes)


def numbered(labels: Plane, *, by_number: bool) -> Plane:
    """Return the objects of a plane of a mask, 0 elsewhere."""
    return np.asarray(np.maximum(labels, 0) if by_number else ndimage.label(labels > 0)[0])


def matched(objects: Plane, there: Plane, image: Plane, raw: Plane) -> Matched:
    """Match objects (Y, X) that were found in an image with those that are there.

    Notes
    -----
    Above an IoU of 0.5 no object can have two partners, so the pairs need no choice.
    """
    _, ours = np.unique(np.concatenate([[0], objects.ravel()]), return_inverse=True)
    _, theirs = np.unique(np.concatenate([[0], there.ravel()]), return_inverse=True)
    ours, theirs = ours[1:], theirs[1:]
    shared = sparse.coo_array((np.ones(ours.size, np.int64), (ours, theirs)))
    shared.sum_duplicates()
    sizes = np.bincount(ours), np.bincount(theirs)
    found, known = len(sizes[0]) - 1, len(sizes[1]) - 1
    one, other = shared.coords
    iou = shared.data / (sizes[0][one] + sizes[1][other] - shared.data)
    pairs = (one > 0) & (other > 0) & (iou > LEAST_IOU)
    one, other = one[pairs], other[pairs]
    light = _above_background(image, ours, found)[one - 1], _above_background(raw, theirs, known)[other - 1]
    bright = np.isfinite(light[0]) & (light[1] > 0)
    return Matched(
        found,
        known,
        len(one),
        tuple((sizes[0][one] / sizes[1][other]).tolist()),
        tuple((light[0][bright] / light[1][bright]).tolist()),
    )


def _above_background(image: Plane, objects: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.float64]:
    """Return the mean of each object (1 to count) in counts above the median outside of all; NaN where none is."""
    counts = image.astype(np.float64).ravel()
    outside = counts[(objects == 0) & np.isfinite(counts)]
    ground = float(np.median(outside)) if outside.size else math.nan
    totals = np.bincount(objects, weights=counts - ground, minlength=count + 1)[1:]
    return totals / np.maximum(np.bincount(objects, minlength=count + 1)[1:], 1)
