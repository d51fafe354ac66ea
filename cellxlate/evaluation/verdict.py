"""Whether an enhancement helped: one sentence, and an answer, from the scores of an evaluation."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Answer = Literal["yes", "no", "unclear", "unknown"]

LEAST_GAIN_DB = 0.1
"""What is less on average is not seen in an image."""
LEAST_SSIM = 0.01
MUCH_BACKGROUND_PERCENT = 10.0
"""Of the background changed is said beside any answer, since scores in cells do not show it."""
ERRORS = 2.0
"""So many standard errors of the mean over images a change must be, where there are at least three."""


@dataclass(frozen=True)
class Verdict:
    """What is said of an enhancement that was compared with the raw input.

    Attributes
    ----------
    helps : {"yes", "no", "unclear", "unknown"}
        Unknown where there is no truth to compare with; unclear where the change is small, differs between images, or
        the two scores disagree.
    sentence : str
        The same in words, with by how much.
    gain_db : float or None
        Mean change of the PSNR in cells, after the best gain and offset, against the raw input.
    better, images : int
        Of the images that can be compared, how many came nearer to the truth.
    """

    helps: Answer
    sentence: str
    gain_db: float | None = None
    better: int = 0
    images: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "helps": self.helps, "sentence": self.sentence, "gain_db": self.gain_db, "better": self.better,
            "images": self.images,
        }  # fmt: skip


def judge(scores: Mapping[str, Any]) -> Verdict:
    """Judge an evaluation by the change against the raw input.

    Parameters
    ----------
    scores : mapping
        As `summarise` returns them: a row per image in "images", each with "foreground" and "input".

    Notes
    -----
    The PSNR inside cells decides, the SSIM may object. Both are after the best gain and offset, so that an enhancement
    that keeps the counts of a faint input is not blamed for being faint.
    """
    gains_db = changes(scores, "psnr_affine")
    if not gains_db:
        return Verdict(
            "unknown",
            "Whether it helps cannot be told without a truth that shows cells: the same fields as they should look.",
        )
    gain_db, better, count = float(np.mean(gains_db)), sum(gain > 0 for gain in gains_db), len(gains_db)
    similarity = changes(scores, "ssim_affine")
    ssim = float(np.mean(similarity)) if similarity else 0.0
    error_db = float(np.std(gains_db, ddof=1)) / math.sqrt(count) if count >= 3 else 0.0
    measured = f"PSNR in cells {gain_db:+.2f} dB against the raw input"
    many = f" (better in {better} of {count} images)" if count > 1 else ""
    helps: Answer
    if abs(gain_db) < LEAST_GAIN_DB:
        helps, words = "unclear", f"Hardly any difference: {measured}{many}."
    elif abs(gain_db) < ERRORS * error_db:
        helps, words = "unclear", f"Not clear: {measured} on average, but images differ{many}."
    elif (gain_db > 0) != (ssim > 0) and abs(ssim) >= LEAST_SSIM:
        helps, words = "unclear", f"Not clear: {measured}, but SSIM {ssim:+.3f}{many}."
    elif gain_db > 0:
        helps, words = "yes", f"Yes, it helps on these images: {measured}{many}."
    else:
        helps, words = "no", f"No, it does not help on these images: {measured}{many}."
    return Verdict(helps, f"{words}{_but(scores)}", gain_db, better, count)


def changes(scores: Mapping[str, Any], name: str) -> list[float]:
    """Return how a score of the foreground changed against the raw input, for each image in which both are defined."""
    pairs = [change_of(row, name) for row in scores["images"]]
    return [change for change in pairs if change is not None]


def change_of(row: Mapping[str, Any], name: str) -> float | None:
    """Return how a score of the foreground of one image changed; None where either is not defined."""
    before = ((row.get("input") or {}).get("foreground") or {}).get(name)
    after = (row.get("foreground") or {}).get(name)
    if before is None or after is None or not (math.isfinite(before) and math.isfinite(after)):
        return None
    return float(after - before)


def _but(scores: Mapping[str, Any]) -> str:
    """Return a sentence on what the scores in cells do not show: objects, and a background that changed."""
    said = list(_objects(scores))
    changed_percent = (scores.get("background") or {}).get("changed_percent")
    if changed_percent is not None and changed_percent >= MUCH_BACKGROUND_PERCENT:
        said.append(f"{changed_percent:.0f} % of the background changed")
    return f" But {'; '.join(said)}." if said else ""


def _objects(scores: Mapping[str, Any]) -> Iterator[str]:
    """Yield words on objects that were invented or swallowed and that the raw input has right."""
    before = (scores.get("input") or {}).get("phantoms")
    if not before:
        return
    for name, words in (("added", "that the truth does not show"), ("lost", "of the truth lost")):
        count = scores["phantoms"][name] - before[name]
        if count > 0:
            rows = [row for row in scores["images"] if row.get("input")]
            worst = max(rows, key=lambda row: row["phantoms"][name] - row["input"]["phantoms"][name])
            yield f"{count} more {'object' if count == 1 else 'objects'} {words}, most in {worst['name']}"
