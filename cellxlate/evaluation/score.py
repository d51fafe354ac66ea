"""The scores of one image, plane by plane."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cellxlate.errors import InputError
from cellxlate.evaluation import measures, segmentation
from cellxlate.evaluation.match import Case, index_in, require_same_size
from cellxlate.evaluation.segmentation import Matched, Segment
from cellxlate.evaluation.still import Frame, Steadiness, steadiness, together
from cellxlate.options import STILL
from cellxlate.quality.report.pictures import Picture, detail_window
from cellxlate.quality.tally import bits_differ
from cellxlate.stacks.masks.open import open_mask
from cellxlate.stacks.read.open import open_stack
from cellxlate.stacks.stack import PlaneIndex, Stack

Enhance = Callable[[Stack], tuple[Stack, Stack]]
"""Turns a stack into its enhanced stack and its attention (uint8), of the same shape."""

GROUPS = "foreground", "background", "attention"
SEEDS_PER_PLANE = 1_000_000
LARGEST_PICTURE_PX = 384


@dataclass(frozen=True)
class Plane:
    """One plane and what belongs to it, all (Y, X); None where it is not known.

    Attributes
    ----------
    raw, enhanced : ndarray
        Stored pixels, in counts.
    attention : ndarray of uint8 or None
        0 where the pixel was kept.
    truth : ndarray or None
        In counts.
    labels : ndarray or None
        Where cells are, 0 elsewhere; which cell, where the mask says so.
    """

    raw: npt.NDArray[Any]
    enhanced: npt.NDArray[Any]
    attention: npt.NDArray[np.uint8] | None = None
    truth: npt.NDArray[Any] | None = None
    labels: npt.NDArray[Any] | None = None

    @property
    def mask(self) -> npt.NDArray[np.bool_] | None:
        """Where cells are."""
        return None if self.labels is None else self.labels != 0

    @property
    def cells(self) -> npt.NDArray[np.bool_] | None:
        """The mask; without one the objects of the truth; without either None."""
        if self.mask is not None or self.truth is None:
            return self.mask
        return measures.find_objects(self.truth) > 0

    @property
    def changed(self) -> npt.NDArray[np.bool_]:
        """Where the stored bits differ; where the data types differ, where the values do."""
        return bits_differ(*self.comparable)

    @property
    def comparable(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Input and output in one dtype: their own, or float64 where another program changed it."""
        if self.raw.dtype == self.enhanced.dtype:
            return self.raw, self.enhanced
        return self.raw.astype(np.float64), self.enhanced.astype(np.float64)


@dataclass(frozen=True)
class Scored:
    """What was found out about one image.

    Attributes
    ----------
    row : dict
        Its scores by group, as they go into the JSON.
    textures : (ndarray (n, 49), ndarray (n, 49), ndarray (n, 49)) or None
        Patches inside its cells, of the output, of the truth and of the raw input.
    picture : Picture or None
        Of its middle plane.
    steady : Steadiness or None
        How alike its frames come out, where they show one still scene.
    objects : (Matched, Matched) or None
        What a segmentation finds before and after, where one was asked for.
    """

    row: dict[str, Any]
    textures: tuple[npt.NDArray[np.float64], ...] | None = None
    picture: Picture | None = None
    steady: Steadiness | None = None
    objects: tuple[Matched, Matched] | None = None


def score_case(
    case: Case, enhance: Enhance | None, *, seed: int, picture: bool = False, still: bool = False,
    changes: Callable[[Stack], Collection[int]] | None = None, segment: Segment | None = None,
) -> Scored:  # fmt: skip
    """Score one image, plane by plane; its scores are means over planes, its counts are sums.

    Parameters
    ----------
    case : Case
        The image and what belongs to it.
    enhance : callable or None
        What enhances it; None where `case.enhanced` exists.
    seed : int
        Of the places of the texture patches.
    picture : bool
        Whether to make a picture of the middle plane.
    still : bool
        Whether its frames, along T or, without T, along Z, show one scene that holds still. Truth and mask may then
        have one frame.
    changes : callable, optional
        Returns which channels of a stack are scored: those that `enhance` changes; all without it.
    segment : callable, optional
        Finds objects, which are compared with those of the mask.

    Raises
    ------
    InputError
        A file is damaged, or of another size than the source image; or it has no frames, where it should be still.
    """
    rows, textures, objects, drawn, steady = [], [], [], None, None
    with ExitStack() as opened:
        stacks = _open(case, enhance, opened, still=still, labels=segment is not None)
        stack = stacks["source"]
        chosen = changes(stack) if changes else None
        indices = [one for one in stack.plane_indices() if chosen is None or stack.channel_of(one) in chosen]
        by_number = segment is not None and "mask" in stacks and segmentation.is_numbered(_planes(stacks["mask"]))
        for number, index in enumerate(indices):
            plane = _plane(stacks, index)
            rows.append(score_plane(plane))
            if plane.truth is not None and plane.cells is not None:
                plane_seed = seed + SEEDS_PER_PLANE * number
                images = (plane.enhanced, plane.truth, plane.raw)
                textures.append([measures.texture_patches(pixels, plane.cells, seed=plane_seed) for pixels in images])
            if segment and plane.labels is not None:
                there = segmentation.numbered(plane.labels, by_number=by_number)
                objects.append(segmentation.segmented(segment, plane.raw, plane.enhanced, there, case.name))
            if picture and number == len(indices) // 2:
                drawn = picture_of(plane, case.name, stack.pixel_size_um.get("X"))
        steady = together([steadiness(frames) for frames in series_of(stacks)]) if still else None
        found = segmentations(objects)
        row = {
            "name": case.name,
            "dtype_kept": stacks["enhanced"].dtype == stack.dtype,
            "cells_from": "masks" if "mask" in stacks else "truth" if "truth" in stacks else None,
            **combine(rows),
            "segmentation": before_and_after(found),
            "flicker": steady.as_dict() if steady else None,
        }
    patches = tuple(np.concatenate(places) for places in zip(*textures, strict=True)) if textures else None
    return Scored(row, patches, drawn, steady, found)


def segmentations(parts: Sequence[tuple[Matched, Matched]]) -> tuple[Matched, Matched] | None:
    """Return what a segmentation found before and after in several planes or images together; None where in none."""
    if not parts:
        return None
    before, after = zip(*parts, strict=True)
    return segmentation.together(before), segmentation.together(after)


def before_and_after(found: tuple[Matched, Matched] | None) -> dict[str, dict[str, float]] | None:
    """Return the scores of a segmentation of input and output, as they go into the JSON."""
    return None if found is None else {"before": found[0].as_dict(), "after": found[1].as_dict()}


def _planes(stack: Stack) -> Iterator[npt.NDArray[Any]]:
    return (stack.read(index) for index in stack.plane_indices())


def _open(case: Case, enhance: Enhance | None, opened: ExitStack, *, still: bool, labels: bool) -> dict[str, Stack]:
    """Open the stacks of a case, all of one size; those it does not have are left out.

    With `labels` a mask keeps the numbers of its objects, whatever kind of file it is.
    """
    stack = opened.enter_context(open_stack(case.source))
    stacks, repeated = {"source": stack}, frame_axis(stack) if still else ""
    if enhance is not None:
        stacks["enhanced"], stacks["attention"] = enhance(stack)
    for name in ("enhanced", "attention", "truth", "mask"):
        path: Path | None = getattr(case, name)
        if path is not None and name not in stacks:
            other = opened.enter_context(open_mask(path, stack, numbers=labels) if name == "mask" else open_stack(path))
            free = {"attention": "C", "mask": f"C{repeated}", "truth": repeated}.get(name, "")
            require_same_size(stack, other, name, free_axes=free)
            stacks[name] = other
    return stacks


def frame_axis(stack: Stack) -> str:
    """Return the axis along which the frames of a still scene lie: T where it has several, else Z.

    Raises
    ------
    InputError
        It has one frame.
    """
    for axis in "TZ":
        if stack.size(axis) > 1:
            return axis
    raise InputError(
        f"{stack.path or stack.name} is {stack.axes} {stack.shape}, one frame; expected several of one still scene "
        "along T or Z",
        remedy=("leave out ", STILL),
    )


def series_of(stacks: Mapping[str, Stack]) -> Iterator[Iterator[Frame]]:
    """Yield the frames of each plane of a still scene; selected is what changed, where there is no attention."""
    stack = stacks["source"]
    position = stack.plane_axes.index(frame_axis(stack))
    shown = {name: stacks[name] for name in ("source", "enhanced", "attention") if name in stacks}

    def frames(first: PlaneIndex) -> Iterator[Frame]:
        for at in range(stack.size(stack.plane_axes[position])):
            plane = _plane(shown, (*first[:position], at, *first[position + 1 :]))
            yield plane.raw, plane.enhanced, plane.changed if plane.attention is None else plane.attention > 0

    return (frames(index) for index in stack.plane_indices() if index[position] == 0)


def _plane(stacks: Mapping[str, Stack], index: PlaneIndex) -> Plane:
    """Read one plane of each stack."""
    stack = stacks["source"]
    read = {name: other.read(index_in(other, stack, index)) for name, other in stacks.items()}
    return Plane(read["source"], read["enhanced"], read.get("attention"), read.get("truth"), read.get("mask"))


def score_plane(plane: Plane) -> dict[str, Any]:
    """Return the scores of a plane by group; a group is None where what it needs is not known."""
    changed, cells = plane.changed, plane.cells
    kept_violations = None if plane.attention is None else int((changed & (plane.attention == 0)).sum())
    scores: dict[str, Any] = {"changed_percent": 100 * float(changed.mean()), "kept_violations": kept_violations}
    scores |= dict.fromkeys(GROUPS)
    if plane.truth is not None and cells is not None:
        scores["foreground"] = asdict(measures.foreground(plane.enhanced, plane.truth, cells))
    if cells is not None:
        scores["background"] = asdict(measures.background(*plane.comparable, cells))
    if plane.attention is not None and plane.mask is not None:
        scores["attention"] = asdict(measures.attention_scores(plane.attention / 255, plane.mask))
    scores["phantoms"] = asdict(measures.phantoms(plane.enhanced, plane.raw if plane.truth is None else plane.truth))
    return scores | {"input": score_input(plane)}


def score_input(plane: Plane) -> dict[str, Any] | None:
    """Return the scores that the raw input of a plane has itself; None without a truth to compare it with."""
    if plane.truth is None or plane.cells is None:
        return None
    return {
        "foreground": asdict(measures.foreground(plane.raw, plane.truth, plane.cells)),
        "phantoms": asdict(measures.phantoms(plane.raw, plane.truth)),
    }


def combine(planes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the scores of an image from those of its planes: means of scores, sums of what is counted."""
    violations = [plane["kept_violations"] for plane in planes]
    return {
        "changed_percent": float(np.mean([plane["changed_percent"] for plane in planes])),
        "kept_violations": None if None in violations else sum(violations),
        **{group: mean_scores([plane[group] for plane in planes]) for group in GROUPS},
        "phantoms": sums([plane["phantoms"] for plane in planes]),
        "input": combine_inputs([plane["input"] for plane in planes]),
    }


def combine_inputs(inputs: Sequence[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """Return the scores of raw inputs together: means of scores, sums of what is counted; None where there is none."""
    known = [one for one in inputs if one is not None]
    if not known:
        return None
    return {
        "foreground": mean_scores([one["foreground"] for one in known]),
        "phantoms": sums([one["phantoms"] for one in known]),
    }


def sums(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """Return the sum of each count."""
    return {name: sum(one[name] for one in counts) for name in counts[0]}


def mean_scores(groups: Sequence[Mapping[str, float] | None]) -> dict[str, float] | None:
    """Return the mean of each score where it is defined; NaN where it never is; None where there is no group."""
    known = [group for group in groups if group is not None]
    if not known:
        return None
    means = {}
    for name in known[0]:
        values = [group[name] for group in known if not math.isnan(group[name])]
        means[name] = sum(values) / len(values) if values else math.nan
    return means


def picture_of(plane: Plane, title: str, pixel_size_um: float | None) -> Picture:
    """Return the picture of a plane, or of the part of a large one with most cells, at full resolution.

    Without attention it shows which pixels changed.
    """
    attention, overlay = plane.attention, Picture.overlay
    if attention is None:
        attention, overlay = plane.changed.astype(np.uint8) * 255, "Changed pixels, over the input"
    rows, columns = slice(None), slice(None)
    if max(plane.raw.shape) > LARGEST_PICTURE_PX:
        interest = attention if plane.cells is None else plane.cells.astype(np.uint8)
        rows, columns = detail_window(interest, reduction=1, shape=plane.raw.shape)
        title = f"{title}, from row {rows.start}, column {columns.start}"
    window = (rows, columns)
    return Picture(
        title,
        plane.raw[window],
        attention[window],
        plane.enhanced[window],
        pixel_size_um,
        truth=None if plane.truth is None else plane.truth[window],
        overlay=overlay,
    )
