"""Curves of a training run as a picture: SVG, so that it needs no plotting package and is sharp on every screen."""

from collections.abc import Mapping, Sequence
from html import escape
from math import log10

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
    panes = [_frame(TOP, ink), _frame(TOP + PANE + GAP, ink)]
    thin = slice(None, None, max(len(steps) // MOST_POINTS, 1))
    total = [value for value in values.get("total", []) if value is not None and value > 0]
    parts = [*panes]
    if total:
        low, high = log10(min(total)), log10(max(total))
        high = max(high, low + 0.05)
        rising = [None if not value or value <= 0 else (log10(value) - low) / (high - low) for value in values["total"]]
        parts += _curve(steps[thin], rising[thin], last_step, TOP, BLUE, "objective", 0)
        parts += [_text(LEFT - 4, TOP + 8, f"{10**high:.2g}", ink), _text(LEFT - 4, TOP + PANE, f"{10**low:.2g}", ink)]
    lower = TOP + PANE + GAP
    for name, colour, label, dash in (
        ("attention_area", ORANGE, "selected", 0), ("attention_agreement", GREEN, "as guided", 5),
    ):  # fmt: skip
        if any(value is not None for value in values.get(name, [])):
            parts += _curve(steps[thin], values[name][thin], last_step, lower, colour, label, dash)
    parts += [_text(LEFT - 4, lower + 8, "1", ink), _text(LEFT - 4, lower + PANE, "0", ink)]
    parts.append(_text(LEFT, HEIGHT_PX - 6, "0", ink, "start"))
    parts.append(_text(WIDTH_PX - RIGHT, HEIGHT_PX - 6, f"step {last_step}", ink))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH_PX} {HEIGHT_PX}" font-family="sans-serif">'
    return head + "".join(parts) + "</svg>"


def _frame(top: int, ink: str) -> str:
    right = WIDTH_PX - RIGHT
    return (
        f'<polyline points="{LEFT},{top} {LEFT},{top + PANE} {right},{top + PANE}" fill="none" '
        f'stroke="{ink}" stroke-opacity="0.6"/>'
    )


def _curve(
    steps: Sequence[int], heights: Sequence[float | None], last_step: int, top: int, colour: str, label: str, dash: int
) -> list[str]:
    """Return a line through the known heights in [0, 1], and its name at its end."""
    width = WIDTH_PX - RIGHT - LEFT
    points = [
        (LEFT + width * step / max(last_step, 1), top + PANE * (1 - min(max(height, 0.0), 1.0)))
        for step, height in zip(steps, heights, strict=True)
        if height is not None
    ]
    if not points:
        return []
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    x, y = points[-1]
    return [
        f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.8"{dashed}/>',
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>',
        _text(x + 6, min(max(y + 4, top + 9), top + PANE), label, colour, "start"),
    ]


def _text(x: float, y: float, words: str, colour: str, anchor: str = "end") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="10" fill="{colour}" text-anchor="{anchor}">{escape(words)}</text>'
