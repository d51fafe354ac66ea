"""The parts of an HTML page that needs nothing but itself. Everything that comes from outside is escaped here."""

import html
import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt

from cellxlate.quality.histogram import Histogram
from cellxlate.quality.report.pictures import VIRIDIS, Picture, attention_png, grey_limits, grey_png, shrink

MOST_PICTURES = 24
PICTURES_BYTES = 3_800_000
BYTES_PER_PX, SMALLEST_PX = 2.7, 32
"""What two noisy grey panels take as text, to begin with; below this size pictures are not reduced further."""
"""All pictures of a page together, as text; they are drawn smaller where they would need more."""
LONGEST_TEXT = 300
FLATTEST, TALLEST = 4.0, 0.6
"""Shape of a panel, columns per row, at most and at least; longer planes are drawn with margins."""
CHART_BINS = 96
MOST_BARS, LONGEST_BAR_NAME = 16, 24


def text(value: object, longest: int = LONGEST_TEXT) -> str:
    """Return text from outside as HTML: escaped, cut, without control characters, its writing direction kept inside.

    Examples
    --------
    >>> text("<b>DAPI</b>")
    '<bdi>&lt;b&gt;DAPI&lt;/b&gt;</bdi>'
    """
    return f"<bdi>{html.escape(_printable(value, longest))}</bdi>"


def _printable(value: object, longest: int = LONGEST_TEXT) -> str:
    plain = str(value)
    if len(plain) > longest:
        plain = plain[: longest - 1] + "…"
    plain = plain.encode("utf-8", "backslashreplace").decode()
    return "".join(
        letter if letter.isprintable() or letter in "\n\xa0" else "\N{REPLACEMENT CHARACTER}" for letter in plain
    )


def number(value: float | None, digits: int = 3) -> str:
    """Return a number for people: grouped thousands, at most `digits` significant digits after the point.

    Examples
    --------
    >>> number(1234567), number(0.012345), number(None), number(12.0)
    ('1,234,567', '0.0123', '–', '12')
    """
    if value is None or not math.isfinite(value):
        return "–"
    if isinstance(value, int) or value == int(value):
        return f"{int(value):,}" if abs(value) < 1e15 else f"{value:.{digits}g}"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}" if abs(value) < 1e15 else f"{value:.{digits}g}"
    return f"{value:#.{digits}g}".rstrip(".")


def percent(share: float | None) -> str:
    """Return a share in percent. What is not quite nothing or everything does not read as 0 % or 100 %.

    Examples
    --------
    >>> percent(0.5), percent(0.0), percent(1e-7), percent(0.99999999)
    ('50.0 %', '0 %', '< 0.01 %', '> 99.99 %')
    """
    if share is None or not math.isfinite(share):
        return "–"
    if share in (0, 1):
        return f"{share:.0%}".replace("%", " %")
    if share < 1e-4:
        return "< 0.01 %"
    if share > 0.9999:
        return "> 99.99 %"
    return f"{100 * share:.{1 if share >= 0.1 else 2}f} %"


def whole_page(title: str, *, kind: str, about: str, sections: Sequence[str], footer: str) -> str:
    """Return a whole page.

    Parameters
    ----------
    title, about : str
        From outside; escaped here.
    kind : str
        What the page is.
    sections : sequence of str
        HTML.
    footer : str
        Escaped here.
    """
    style, script = (_asset(name) for name in ("report.css", "report.js"))
    digest = b64encode(sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{html.escape(_printable(title))}</title>",
            f"<style>{style}</style></head>",
            f'<body><main><header><p class="kind">{html.escape(kind)}</p><h1>{text(title)}</h1>',
            f'<p class="about">{text(about)}</p></header>',
            *sections,
            f"<footer>{text(footer)}</footer></main>",
            f"<script>{script}</script></body></html>\n",
        ]
    )


def _asset(name: str) -> str:
    return files("cellxlate.quality").joinpath(name).read_text(encoding="utf-8")


def notes(entries: Sequence[tuple[str, str]]) -> str:
    """Return notes; each is a level ("good", "alert" or "bad") and a text, in this order."""
    signs = {"good": ("✓", "Good"), "alert": ("!", "Warning"), "bad": ("✗", "Fault")}
    boxes = [
        f'<div class="note {level}" role="note"><span class="sign" aria-label="{signs[level][1]}">'
        f"{signs[level][0]}</span><p>{text(message, 1000)}</p></div>"
        for level, message in entries
    ]
    return f'<div class="notes">{"".join(boxes)}</div>'


def key_numbers(entries: Sequence[tuple[str, str, str]]) -> str:
    """Return large numbers; each is a name, a number and a remark."""
    items = [
        f'<div><dt>{text(name)}</dt><dd>{text(value)}</dd><dd class="more">{text(remark)}</dd></div>'
        for name, value, remark in entries
    ]
    return f'<dl class="numbers">{"".join(items)}</dl>'


def section(title: str, hint: str, *parts: str) -> str:
    """Return a section; title and hint are our own words."""
    lead = f'<p class="hint">{html.escape(hint)}</p>' if hint else ""
    return f"<section><h2>{html.escape(title)}</h2>{lead}{''.join(parts)}</section>"


def facts(entries: Mapping[str, object]) -> str:
    """Return names and values as a list."""
    items = [f"<dt>{text(name)}</dt><dd>{text(value, 1000)}</dd>" for name, value in entries.items()]
    return f'<dl class="facts">{"".join(items)}</dl>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, tall: bool = False) -> str:
    """Return a table whose cells are HTML already; the head is our own words."""
    cells = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in head)
    body = "".join(f"<tr>{''.join(c if c.startswith('<td') else f'<td>{c}</td>' for c in row)}</tr>" for row in rows)
    box = "scroll tall" if tall else "scroll"
    return f'<div class="{box}"><table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>'


def share_cell(share: float) -> str:
    """Return a percentage with a bar as long as it."""
    width_px = 60 * min(max(share, 0.0), 1.0)
    return f'<td><i class="fill" style="width:{width_px:.1f}px"></i>{html.escape(percent(share))}</td>'


def figures(pictures: Sequence[Picture]) -> str:
    """Return the panels of at most 24 pictures, reduced as far as needed to keep the page small."""
    longest_px = max((max(picture.before.shape) for picture in pictures[:MOST_PICTURES]), default=0)
    panels: list[str] = []
    size = sum(BYTES_PER_PX * picture.before.size for picture in pictures[:MOST_PICTURES])
    while size > PICTURES_BYTES or not panels:
        if size > PICTURES_BYTES:
            longest_px = max(int(0.97 * longest_px * math.sqrt(PICTURES_BYTES / size)), 1)
        panels = [_figure(reduce_picture(picture, longest_px)) for picture in pictures[:MOST_PICTURES]]
        size = sum(map(len, panels))
        if longest_px <= SMALLEST_PX or not pictures:
            break
    if len(pictures) > MOST_PICTURES:
        panels.append(f'<p class="hint">{len(pictures) - MOST_PICTURES} more pictures are not shown.</p>')
    return "".join(panels)


def attention_legend() -> str:
    """Return what the colours of attention mean."""
    colours = ", ".join(f"rgb{colour}" for colour in VIRIDIS)
    return (
        '<div class="legends"><span>Attention: little'
        f'<i class="ramp" style="background:linear-gradient(90deg, {colours})"></i>'
        "all of the proposed change is applied</span><span>no colour: the pixel was kept exactly</span></div>"
    )


def reduce_picture(picture: Picture, longest_px: int) -> Picture:
    """Return a picture whose longer side is at most `longest_px`."""
    step = max(-(-max(picture.before.shape) // longest_px), 1)
    if step == 1:
        return picture
    return replace(
        picture,
        before=shrink(picture.before, reduction=step),
        attention=shrink(picture.attention, reduction=step, keep="max"),
        after=shrink(picture.after, reduction=step),
        pixel_size_um=picture.pixel_size_um * step if picture.pixel_size_um else None,
        reduction=picture.reduction * step,
        truth=None if picture.truth is None else shrink(picture.truth, reduction=step),
    )


def _figure(picture: Picture) -> str:
    """Return before, attention and after of one picture, with their scale bar and legends."""
    rows, columns = picture.before.shape
    ratio = min(max(columns / rows, TALLEST), FLATTEST)
    limits = grey_limits(picture.before, picture.after)
    before, after = (_image(grey_png(plane, limits)) for plane in (picture.before, picture.after))
    parts = [
        ("Before", before),
        (picture.overlay, '<img alt="" data-copy>' + _image(attention_png(picture.attention))),
        ("After", after),
    ]
    if picture.truth is not None:
        parts.append(("Truth, on a scale of its own", _image(grey_png(picture.truth, grey_limits(picture.truth)))))
    bar = _scale_bar(max(columns, rows * ratio), picture)
    panels = [
        f'<figure><div class="view" tabindex="0" role="img" aria-label="{html.escape(_printable(name))}" '
        f'style="aspect-ratio:{ratio:.4f}"><div class="stage">{images}</div><div class="cross"></div>{bar}</div>'
        f"<figcaption>{text(name)}</figcaption></figure>"
        for name, images in parts
    ]
    tools = (
        '<div class="tools"><button type="button" data-factor="0.667" aria-label="zoom out">−</button>'
        '<button type="button" data-factor="1.5" aria-label="zoom in">+</button>'
        '<button type="button" data-factor="0">Whole</button></div>'
    )
    drawn = (
        f"<span>each pixel drawn is {picture.reduction} × {picture.reduction} pixels</span>"
        if picture.reduction > 1
        else ""
    )
    legends = (
        f'<div class="legends"><span>{number(limits[0])}<i class="ramp grey"></i>{number(limits[1])} counts, '
        f"before and after alike</span>{drawn}</div>"
    )
    return (
        f'<div class="plane"><div class="bar"><h3>{text(picture.title)}</h3>{tools}</div>'
        f'<div class="views" style="--panels:{len(panels)}">{"".join(panels)}</div>{legends}</div>'
    )


def _image(png: bytes) -> str:
    return f'<img alt="" src="data:image/png;base64,{b64encode(png).decode()}">'


def _scale_bar(width_px: float, picture: Picture) -> str:
    """Return a bar of a round length, at most a quarter of the panel; it follows the zoom."""
    unit, width = (
        ("µm", width_px * picture.pixel_size_um) if picture.pixel_size_um else ("px", width_px * picture.reduction)
    )
    length = nice_length(width / 4)
    if unit == "px":
        length = max(length, 1.0)
    share = min(length / width, 1.0)
    return (
        f'<div class="scale" data-width="{width:.6g}" data-unit="{unit}" style="width:{share:.2%}">'
        f"<span>{float(f'{length:.3g}'):g} {unit}</span><i></i></div>"
    )


def nice_length(most: float) -> float:
    """Return the largest of 1, 2, 5, 10, ... that is at most `most` (> 0)."""
    power = 10.0 ** math.floor(math.log10(most))
    return next(digit * power for digit in (5, 2, 1) if digit * power <= most * (1 + 1e-9))


def histogram_charts(histogram: Histogram) -> str:
    """Return two charts: all pixels, and those that attention selected, before and after."""
    charts = []
    for caption, before, after in (
        ("All pixels", histogram.before, histogram.after),
        ("Selected pixels", histogram.moved_from, histogram.moved_to),
    ):
        if before.any() or after.any():
            drawn = _chart(before, after, first=histogram.first, width_counts=2.0**histogram.exponent)
            charts.append(f"<figure><figcaption>{caption}</figcaption>{drawn}</figure>")
    return f'<div class="charts">{"".join(charts)}</div>'


def _chart(before: npt.NDArray[np.int64], after: npt.NDArray[np.int64], *, first: int, width_counts: float) -> str:
    """Draw two histograms with logarithmic heights; the outermost 0.01 % on either side are left out."""
    total = np.cumsum(before + after)
    low = int(np.searchsorted(total, 1e-4 * total[-1], side="right"))
    high = int(np.searchsorted(total, (1 - 1e-4) * total[-1], side="left")) + 1
    step = max(-(-(high - low) // CHART_BINS), 1)
    starts = np.arange(low, max(high, low + 1), step)
    heights = [np.log10(1 + np.add.reduceat(counts[: starts[-1] + step], starts)) for counts in (before, after)]
    most = max(float(height.max()) for height in heights)
    width, height, base = 400.0, 150.0, 132.0
    edges = width * np.arange(len(starts) + 1) / len(starts)
    area, line = (_steps(edges, base - (base - 10) * level / most) for level in heights)
    start_counts = (starts[0] + first) * width_counts
    span_counts = len(starts) * step * width_counts
    ticks = "".join(
        f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{base}" y2="{base + 4}"/>'
        f'<text x="{x:.1f}" y="{height - 1}" text-anchor="middle">{number(counts, 4)}</text>'
        for counts in _round_counts(start_counts, start_counts + span_counts)
        for x in (width * (counts - start_counts) / span_counts,)
        if 0.03 * width < x < 0.97 * width
    )
    return (
        f'<svg viewBox="0 0 {width:.0f} {height + 4:.0f}" role="img" aria-label="histogram before and after">'
        f'<path class="before" d="M0,{base} L{area} L{width},{base} Z"/><path class="after" d="M{line}"/>'
        f'<line class="axis" x1="0" x2="{width}" y1="{base}" y2="{base}"/>{ticks}</svg>'
    )


def bar_chart(bars: Sequence[tuple[str, float, float]], *, faint: bool = False) -> str:
    """Draw bars from 0 in dB, one below the other, with whiskers of two standard errors.

    Parameters
    ----------
    bars : sequence of (name, dB, standard error in dB)
        At most 16 are drawn. What is not finite counts as 0.
    faint : bool
        Whether nothing should be read from them; they are drawn without colour.
    """
    shown = [(name, _or_zero(gain), _or_zero(error)) for name, gain, error in bars[:MOST_BARS]]
    if not shown:
        return ""
    low = min(0.0, *(gain - 2 * error for _, gain, error in shown), 0.0)
    high = max(0.0, *(gain + 2 * error for _, gain, error in shown), low + 1.0)
    names, width, row, top = 150.0, 560.0, 20.0, 4.0
    scale = (width - names - 60) / (high - low)
    zero = names - low * scale
    base = top + row * len(shown)
    parts = []
    for place, (name, gain, error) in enumerate(shown):
        middle = top + row * (place + 0.5)
        end, reach = zero + gain * scale, 2 * error * scale
        whisker = f"M{end - reach:.1f},{middle} h{2 * reach:.1f}" if reach else ""
        caps = "".join(f" M{end + side * reach:.1f},{middle - 3} v6" for side in (-1, 1)) if reach else ""
        label = html.escape(_printable(name, LONGEST_BAR_NAME))
        parts.append(
            f'<text x="{names - 8}" y="{middle + 4}" text-anchor="end">{label}</text>'
            f'<rect class="{"faint" if faint else "bar"}" x="{min(zero, end):.1f}" y="{middle - 6}" '
            f'width="{abs(end - zero):.1f}" height="12"/><path class="whisker" d="{whisker}{caps}"/>'
            f'<text x="{width - 4}" y="{middle + 4}" text-anchor="end">{gain:+.1f} dB</text>'
        )
    return (
        f'<figure class="ranking"><svg viewBox="0 0 {width:.0f} {base + top:.0f}" role="img" '
        f'aria-label="estimated gain of each candidate in dB">{"".join(parts)}'
        f'<line class="axis" x1="{zero:.1f}" x2="{zero:.1f}" y1="{top}" y2="{base}"/></svg></figure>'
    )


def _or_zero(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _round_counts(low: float, high: float) -> list[float]:
    """Return two to six round numbers between low and high."""
    step = nice_length((high - low) / 2.5)
    return [step * place for place in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _steps(edges: npt.NDArray[np.float64], levels: npt.NDArray[np.float64]) -> str:
    return " ".join(
        f"{left:.1f},{level:.1f} {right:.1f},{level:.1f}"
        for left, right, level in zip(edges[:-1], edges[1:], levels, strict=True)
    )


def listing(values: Mapping[str, Any]) -> dict[str, str]:
    """Flatten nested settings into names with dots and short values.

    Examples
    --------
    >>> listing({"a": {"b": 1.25}, "c": None})
    {'a.b': '1.25', 'c': '–'}
    """
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{inner}": shown for inner, shown in listing(value).items()}
        elif isinstance(value, float):
            flat[name] = f"{value:.6g}"
        else:
            flat[name] = "–" if value is None else str(value)
    return flat
