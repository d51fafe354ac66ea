"""What `evaluate` prints: input, enhanced and change in a table, the worst images, and whether it helps."""

from collections.abc import Mapping, Sequence
from typing import Any

from cellxlate.cli.lines.table import UNKNOWN, count, decimals, table, wrapped

HIGHER, LOWER, NEAR, NOTHING, NEUTRAL = "higher is better", "lower is better", "0 is best", "must be 0", ""

SCORES = (
    ("PSNR in cells, dB", "foreground", "psnr_affine", 2, HIGHER),
    ("SSIM in cells, 1 is perfect", "foreground", "ssim_affine", 3, HIGHER),
    ("texture distance to the truth", "", "patch_distance", 3, LOWER),
    ("objects that the {} lacks", "phantoms", "added", 0, LOWER),
    ("objects of the {} that are lost", "phantoms", "lost", 0, LOWER),
    ("PSNR on the scale of the truth, dB", "foreground", "psnr", 2, HIGHER),
    ("SSIM on the scale of the truth", "foreground", "ssim", 3, HIGHER),
)
"""Of input and result: words, group, name, decimals, what is better; {} stands for what objects are compared with."""

OBJECT_SCORES = (
    ("objects found, AP at an overlap of 0.5", "ap50", 3, HIGHER),
    ("more objects than there are, %", "count_error_percent", 1, NEAR),
    ("their area is too large by, %", "area_bias_percent", 1, NEAR),
    ("their light is too much by, %", "intensity_bias_percent", 1, NEAR),
)
"""Of a segmentation of input and result: words, name, decimals, what is better."""

RESULT_SCORES = (
    ("pixels changed, %", "", "changed_percent", 1, NEUTRAL),
    ("background changed, %", "background", "changed_percent", 2, LOWER),
    ("mean change of background, counts", "background", "mean_abs_change", 3, LOWER),
    ("changed in images without cells, %", "no_cells", "changed_percent", 2, LOWER),
    ("attention on cells, overlap (IoU)", "attention", "iou", 3, HIGHER),
    ("attention on cells, AUPRC", "attention", "auprc", 3, HIGHER),
    ("mean attention inside cells", "attention", "mean_inside", 3, HIGHER),
    ("mean attention outside cells", "attention", "mean_outside", 3, LOWER),
    ("selected in some frames only, %", "flicker", "percent", 2, LOWER),
    ("noise left, share of the input's", "flicker", "noise_left", 3, NEUTRAL),
    ("unselected pixels that differ", "", "kept_violations", 0, NOTHING),
)
"""Of the result alone."""

WORST = 5


def score_lines(title: str, scores: Mapping[str, Any]) -> list[str]:
    """Return an evaluation as lines for people.

    Parameters
    ----------
    title : str
        What was scored, and on what.
    scores : mapping
        As `evaluate` returns them.
    """
    images = scores["images"]
    where = {row["cells_from"] for row in images} - {None}
    cells = f"; cells are those of the {' or the '.join(sorted(where))}" if where else ""
    lines = wrapped(f"{title}: means over {count(len(images), 'image')}{cells}")
    worst = worst_lines(images)
    return [
        *lines, "", *table(score_rows(scores), words=(0, 4)), *(["", *worst] if worst else []), "",
        *wrapped(scores["verdict"]["sentence"]), *wrapped(kept_words(scores["kept_violations"])),
    ]  # fmt: skip


def score_rows(scores: Mapping[str, Any]) -> list[list[str]]:
    """Return the rows of the table of an evaluation: input, enhanced and change of what is known."""
    rows = [["", "input", "enhanced", "change", ""]]
    raw = scores.get("input")
    reference = "truth" if raw or scores.get("foreground") else "input"
    found = scores.get("segmentation") or {}
    told_of = [
        (words.format(reference), score_of(raw, group, name), score_of(scores, group, name), places, better)
        for words, group, name, places, better in SCORES
    ] + [
        (words, score_of(found, "before", name), score_of(found, "after", name), places, better)
        for words, name, places, better in OBJECT_SCORES
    ]
    for words, before, after, places, better in told_of:
        if before is None and after is None:
            continue
        change = None if before is None or after is None else after - before
        told = decimals(before, places), decimals(after, places), signed(change, places)
        rows.append([words, *told, better])
    for words, group, name, places, better in RESULT_SCORES:
        value = score_of(scores, group, name)
        if value is not None:
            rows.append([words, "", decimals(value, places), "", better])
    return rows


def score_of(scores: Mapping[str, Any] | None, group: str, name: str) -> float | None:
    """Return a score by its group and name; None where it is not known."""
    values = (scores or {}).get(group) if group else scores
    value = (values or {}).get(name)
    return value if isinstance(value, int | float) else None


def signed(value: float | None, places: int) -> str:
    """Return a change with its sign; 0 has none."""
    text = decimals(value, places, sign=True)
    return text[1:] if value is not None and not float(text) else text


def worst_lines(images: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a table of the images that gained least, where there are several and a truth."""
    gains = [
        (after - before, row["name"], before, after, score_of(row, "background", "changed_percent"))
        for row in images
        if (before := score_of((row.get("input") or {}), "foreground", "psnr_affine")) is not None
        and (after := score_of(row, "foreground", "psnr_affine")) is not None
    ]
    if len(gains) < 2:
        return []
    shown = sorted(gains, key=lambda one: one[:2])[:WORST]
    name = "image" if len(gains) <= WORST else f"least gain, of {count(len(gains), 'image')}"
    head = [name, "input, dB", "enhanced, dB", "change, dB", "background, %"]
    rows = [
        [name, decimals(before, 2), decimals(after, 2), signed(gain, 2), decimals(outside, 2)]
        for gain, name, before, after, outside in shown
    ]
    return table([head, *rows])


def kept_words(violations: int | None) -> str:
    """Return whether the promise held, where attention is known."""
    if violations is None:
        return ""
    if violations:
        return f"{count(violations, 'pixel')} changed although attention did not select them."
    return "Every pixel that attention did not select is the input's own, bit for bit."


def card_score_rows(scores: Mapping[str, Any]) -> list[list[str]]:
    """Return the rows of the table of the scores in a model's card; those of the input where the card has them."""
    rows = [row[:3] + row[4:] for row in score_rows(scores)]
    return rows if scores.get("input") else [[row[0], *row[2:]] for row in rows if row[2] != UNKNOWN]
