"""Curves of a training run as a picture: SVG, so that it needs no plotting package and is sharp on every screen."""

from collections.abc import Mapping, Sequence
from math import log10
from typing import Any

from cellxlate.quality.report import page

WIDTH_PX, HEIGHT_PX = 320, 190
LEFT, RIGHT, TOP, GAP, PANE = 38, 74, 8, 24, 66
BLUE, ORANGE, GREEN = "#56b4e9", "#e69f00", "#009e73"
"""Of Okabe and Ito: told apart by colour-blind readers; every curve also has its name at its end."""
MOST_POINTS = 200


def curves_svg(
    steps: Sequence[int], values: Mapping[str, Sequence[float | None]], *, last_step: int, ink: str = "#d0d0d0"
) -> str:
    """Draw the objective (upper pane, logarithmic) and attention (lower pane, 0 to 1) over the steps.

    Parameters
    ----------
    steps : sequence of int
        At which there was a look.
    values : mapping
        "total", "attention_area", "attention_agreement": a value or None for each of the steps; any may be missing.
    last_step : int
        Where the horizontal axis ends.
    ink : str
        Colour of axes and text, as SVG knows it.

    Returns
    -------
    str
        SVG of 320 x 190 px.
    """
    thin = slice(None, None, max(len(steps) // MOST_POINTS, 1))
    upper, lower = _pane(TOP), _pane(TOP + PANE + GAP)
    total = [value for value in values.get("total", []) if value is not None and value > 0]
    if total:
        low, high = log10(min(total)), log10(max(total))
        high = max(high, low + 0.05)
        rising = [None if not value or value <= 0 else (log10(value) - low) / (high - low) for value in values["total"]]
        upper["scale"] = (f"{10**low:.2g}", f"{10**high:.2g}")
        upper["curves"] = _curves(steps[thin], rising[thin], last_step, TOP, ("objective", BLUE, 0))
    lower["scale"] = ("0", "1")
    for name, look in (
        ("attention_area", ("selected", ORANGE, 0)), ("attention_agreement", ("as guided", GREEN, 5)),
    ):  # fmt: skip
        if any(value is not None for value in values.get(name, [])):
            lower["curves"] += _curves(steps[thin], values[name][thin], last_step, lower["top"], look)
    return page.render(
        "plugin/train/curves.svg.jinja",
        width=WIDTH_PX,
        height=HEIGHT_PX,
        panes=[upper, lower],
        last_step=last_step,
        ink=ink,
    )


def _pane(top: int) -> dict[str, Any]:
    return {"left": LEFT, "right": WIDTH_PX - RIGHT, "top": top, "bottom": top + PANE, "scale": None, "curves": []}


def _curves(
    steps: Sequence[int], heights: Sequence[float | None], last_step: int, top: int, look: tuple[str, str, int]
) -> list[dict[str, Any]]:
    """Return a line through the known heights in [0, 1], with its label, colour and dashes; none without a height."""
    width = WIDTH_PX - RIGHT - LEFT
    points = [
        (LEFT + width * step / max(last_step, 1), top + PANE * (1 - min(max(height, 0.0), 1.0)))
        for step, height in zip(steps, heights, strict=True)
        if height is not None
    ]
    if not points:
        return []
    label, colour, dash = look
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return [{"points": line, "x": points[-1][0], "y": points[-1][1], "label": label, "colour": colour, "dash": dash}]
