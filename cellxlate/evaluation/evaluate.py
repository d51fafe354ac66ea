"""Score a model, or any folder of enhanced images, against truth and masks. Read `evaluate` from top to bottom."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

import cellxlate
from cellxlate.errors import Option, OptionError
from cellxlate.evaluation import measures
from cellxlate.evaluation.match import match_cases
from cellxlate.evaluation.score import (
    GROUPS,
    Enhance,
    Scored,
    before_and_after,
    combine_inputs,
    mean_scores,
    score_case,
    segmentations,
)
from cellxlate.evaluation.segmentation import Segment, segmenter
from cellxlate.evaluation.still import together
from cellxlate.evaluation.verdict import judge
from cellxlate.option_values import as_path, require_callables, require_choice
from cellxlate.options import ENHANCED, INTENSITY, MASKS, OUTPUT, SEGMENT, SOURCE
from cellxlate.quality.finite import finite_json
from cellxlate.quality.report import page
from cellxlate.quality.report.pictures import Picture
from cellxlate.settings import EnhanceSettings, Intensity
from cellxlate.stacks.stack import Stack
from cellxlate.whole_file import write_whole_file

if TYPE_CHECKING:
    from cellxlate.enhancement.proposals.source import Asked, Halo

MOST_PICTURES, MOST_ROWS = 6, 2000


def evaluate(
    model: "Asked | None" = None,
    *,
    source: str | Path,
    truth: str | Path | None = None,
    masks: str | Path | None = None,
    no_cells: str | Path | None = None,
    enhanced: str | Path | None = None,
    intensity: Intensity = "source",
    halo_px: "Halo | None" = None,
    still: bool = False,
    segment: str | Segment | None = None,
    output: str | Path | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> dict[str, Any]:
    """Score a model, or images that were enhanced by anything.

    Parameters
    ----------
    model : str, Path, Bundle or callable, optional
        Shipped name, model folder, a loaded model, a filter or a function, as `enhance_file` takes them, which then
        enhances the source images in memory; "auto" takes for each image the shipped model that suits it.
    source : path
        Folder of the images as they were taken.
    truth : path, optional
        Folder of what they should look like, same names.
    masks : path, optional
        Folder of masks (not 0 is cell), named as for training. Without them cells are found in the truth, by Otsu's
        threshold.
    no_cells : path, optional
        Folder of images that show no cell, in which nothing should change.
    enhanced : path, optional
        Folder of enhanced images in place of a model: `NAME_enhanced`, with `NAME_attention` where there is one, or
        any one image whose name begins with NAME.
    intensity : {"source", "target"}
        The scale a model's cells are enhanced on. On "source" `psnr` and `ssim` say how far the scales are apart; on
        "target" they tell whether the model meets the scale of the images it was trained towards.
    halo_px : int or "plane", optional
        How far around a pixel a function looks.
    still : bool
        The frames of each source image, along T (or Z, in an image without T), show one scene that holds still, so
        that nothing but noise changes from frame to frame: "flicker" says what became of that. Truth and masks may
        then have one frame.
    segment : str or callable, optional
        "otsu", a function of a plane (Y, X) in counts that returns its objects by number, or where a Python file holds
        one, as "FILE.py:FUNCTION": are objects found better than in the raw input? Wants `masks`.
    output : path, optional
        HTML report to write.
    progress : callable, optional
        Called with the number of images done and their total.

    Returns
    -------
    dict
        "foreground", "background", "attention": means over images; "no_cells"; "patch_distance"; "phantoms": sums;
        "kept_violations": sum; "input": "foreground", "phantoms" and "patch_distance" of the raw input itself, where
        there is a truth; "flicker": of still scenes; "verdict": whether it helps against the raw input, and by how
        much; "images": a row per image. What cannot be said is None. docs/explanation/scores.md explains each score.

    Raises
    ------
    InputError
        A folder is missing or empty, names do not match, or sizes differ.
    OptionError
        Neither or both of `model` and `enhanced` are given, or `segment` without `masks`.

    Examples
    --------
    >>> import cellxlate
    >>> scores = cellxlate.evaluate("my-model", source="faint", truth="clear", masks="masks")  # doctest: +SKIP
    """
    if (model is None) == (enhanced is None):
        raise OptionError("give either a model or a folder of enhanced images (", ENHANCED, ")")
    require_choice(INTENSITY, intensity, get_args(Intensity))
    require_callables(progress=progress)
    if segment is not None and masks is None:
        raise OptionError(SEGMENT, " compares objects with those of masks", remedy=("give ", MASKS))
    find = None if segment is None else segmenter(segment)
    made, place, folder = _path(ENHANCED, enhanced), _path(OUTPUT, output), as_path(SOURCE, source)
    if place is not None:
        page.require_name(place)
    clear, marked, blanks = _path("truth", truth), _path(MASKS, masks), _path("no_cells", no_cells)
    cases = match_cases(folder, enhanced=made, truth=clear, masks=marked)
    empty = match_cases(blanks, enhanced=made) if blanks is not None else []
    enhance, changes = _enhancer(model, intensity, halo_px)
    pictured = {(2 * part + 1) * len(cases) // (2 * MOST_PICTURES) for part in range(MOST_PICTURES)}
    scored = []
    for number, case in enumerate([*cases, *empty]):
        is_still = still and number < len(cases)
        is_shown = number in pictured
        scored.append(
            score_case(case, enhance, seed=number, picture=is_shown, still=is_still, changes=changes, segment=find)
        )
        if progress:
            progress(number + 1, len(cases) + len(empty))
    scored, blank = scored[: len(cases)], scored[len(cases) :]
    summary = summarise(scored, [one.row["changed_percent"] for one in blank])
    scores: dict[str, Any] = finite_json({"verdict": judge(summary).as_dict(), **summary})
    if place is not None:
        what = enhanced if model is None else getattr(model, "name", model if isinstance(model, str) else "a function")
        title = f"{Path(str(what)).name} on {folder.name}"
        write_whole_file(place, evaluation_page(title, scores, [one.picture for one in scored if one.picture]))
    return scores


def _path(option: Option | str, path: str | Path | None) -> Path | None:
    return None if path is None else as_path(option, path)


def _enhancer(
    model: "Asked | None", intensity: Intensity, halo_px: "Halo | None"
) -> tuple[Enhance | None, Callable[[Stack], Collection[int]] | None]:
    """Return what enhances a stack in memory, and says which channels; None where the images exist, or for all."""
    if model is None:
        return None, None
    from cellxlate.enhancement.job import enhance
    from cellxlate.enhancement.neighbours.channels import choose_sight
    from cellxlate.enhancement.proposals.source import loaded_model
    from cellxlate.model.bundle import Bundle

    loaded = loaded_model(model, halo_px)
    sees_beside = isinstance(loaded, Bundle) and loaded.networks.settings.beside > 0

    def changes(stack: Stack) -> Collection[int]:
        try:
            return choose_sight(stack, loaded, None, None)[0]
        except OptionError as fault:  # whose remedy is to say what the model shall see, which nobody can here
            remedy = "name the channels in the files, or enhance them first and score these with ", ENHANCED
            raise OptionError(*fault.found, remedy=remedy) from fault

    def run(stack: Stack) -> tuple[Stack, Stack]:
        if sees_beside:
            changes(stack)
        result = enhance(stack, loaded, settings=EnhanceSettings(intensity=intensity))
        return Stack(result.image, stack.axes, stack.name), Stack(result.attention, stack.axes, stack.name)

    return run, changes if sees_beside else None


def summarise(scored: Sequence[Scored], blank_changed_percent: Sequence[float]) -> dict[str, Any]:
    """Return the scores of all images together: means over images, sums of what is counted."""
    rows = [one.row for one in scored]
    patches = [np.concatenate(part) for part in zip(*(one.textures for one in scored if one.textures), strict=True)]
    violations = [row["kept_violations"] for row in rows if row["kept_violations"] is not None]
    raw = combine_inputs([row["input"] for row in rows])
    if raw is not None:
        raw = {
            "foreground": raw["foreground"],
            "patch_distance": measures.patch_distance(patches[2], patches[1]) if patches else None,
            "phantoms": {name: raw["phantoms"][name] for name in ("added", "lost")},
        }
    return {
        **{group: mean_scores([row[group] for row in rows]) for group in GROUPS},
        "no_cells": {"changed_percent": float(np.mean(blank_changed_percent)) if blank_changed_percent else None},
        "patch_distance": measures.patch_distance(*patches[:2]) if patches else None,
        "phantoms": {name: sum(row["phantoms"][name] for row in rows) for name in ("added", "lost")},
        "changed_percent": float(np.mean([row["changed_percent"] for row in rows])),
        "kept_violations": sum(violations) if violations else None,
        "flicker": steady.as_dict() if (steady := together([one.steady for one in scored if one.steady])) else None,
        "segmentation": before_and_after(segmentations([one.objects for one in scored if one.objects])),
        "input": raw,
        "images": rows,
    }


COLUMNS = (
    ("PSNR affine, dB", "foreground", "psnr_affine"),
    ("SSIM affine", "foreground", "ssim_affine"),
    ("PSNR, dB", "foreground", "psnr"),
    ("SSIM", "foreground", "ssim"),
    ("background changed, %", "background", "changed_percent"),
    ("attention IoU", "attention", "iou"),
    ("AUPRC", "attention", "auprc"),
    ("objects added", "phantoms", "added"),
    ("lost", "phantoms", "lost"),
)
"""What the table shows: head, group and name of the score."""


def evaluation_page(title: str, scores: dict[str, Any], pictures: Sequence[Picture]) -> str:
    """Return the HTML page of an evaluation: scores, pictures, a row per image.

    Parameters
    ----------
    title : str
        What was scored.
    scores : dict
        As `evaluate` returns them.
    pictures : sequence of Picture
        Of some of the images.
    """

    def columns(row: dict[str, Any]) -> list[float | None]:
        return [(row[group] or {}).get(name) for _, group, name in COLUMNS]

    broken = scores["kept_violations"]
    helps = scores["verdict"]
    warned = []
    if helps["helps"] != "unknown":
        warned.append(("good" if helps["helps"] == "yes" else "alert", helps["sentence"]))
    if broken:
        warned.append(("bad", f"{page.number(broken)} pixels changed although attention did not select them."))
    elif broken is not None:
        warned.append(("good", "Every pixel that attention did not select is the input's own, bit for bit."))
    return page.render(
        "evaluation/evaluation.html.jinja",
        title=title,
        kind="Evaluation",
        about=f"{len(scores['images'])} images",
        warned=warned,
        numbers=_numbers(scores),
        figures=page.markup(page.figures(pictures)),
        head=["image", *(name for name, _, _ in COLUMNS)],
        mean=columns(scores),
        raw=columns({**dict.fromkeys((*GROUPS, "phantoms")), **(scores["input"] or {})}) if scores["input"] else None,
        rows=[(row["name"], columns(row)) for row in scores["images"][:MOST_ROWS]],
        footer=f"Made by cellxlate {cellxlate.__version__}.",
    )


def _numbers(scores: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return the numbers a reader looks for first."""

    def value(group: str, name: str, unit: str = "") -> str:
        known = (scores[group] or {}).get(name)
        return page.number(known) + (unit if known is not None else "")

    numbers = [
        ("PSNR in cells", value("foreground", "psnr_affine", " dB"), "after the best gain and offset"),
        ("SSIM in cells", value("foreground", "ssim_affine"), "after the best gain and offset; 1 is perfect"),
        (
            "Background changed",
            value("background", "changed_percent", " %"),
            "of the pixels farther than 3 px from cells",
        ),
        ("Attention", value("attention", "iou"), "overlap with the masks (IoU at 0.5)"),
        ("Texture distance", page.number(scores["patch_distance"]), "of 7 px patches to the truth; 0 is perfect"),
        ("Objects", f"+{value('phantoms', 'added')} −{value('phantoms', 'lost')}", "added and lost"),
    ]
    if scores["segmentation"]:
        before, after = (page.number(scores["segmentation"][one]["ap50"]) for one in ("before", "after"))
        numbers.append(("Objects found", after, f"AP at an overlap of 0.5; {before} in the raw input"))
    if scores["flicker"]:
        left = value("flicker", "noise_left")
        about = f"of the pixels selected in any frame are not in every one; noise left: {left} of the input's"
        numbers.append(("Flicker", value("flicker", "percent", " %"), about))
    return numbers
