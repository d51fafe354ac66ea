"""HTML by Jinja2: the one environment, in which all is escaped, and plain values of pictures and charts for it.

A template stands beside the module that hands it values. Only what was made here is markup; all else is text.
"""

import functools
import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cellxlate.errors import OptionError
from cellxlate.locations import Location
from cellxlate.quality.histogram import Histogram
from cellxlate.quality.report.pictures import VIRIDIS, Picture, attention_png, counts_png, grey_limits, shrink

if TYPE_CHECKING:
    from jinja2 import Environment  # with the templates it takes 0.07 s: only where a page is written

PAGE_ENDINGS = (".html", ".htm")
MOST_PICTURES = 24
PICTURES_BYTES = 3_800_000
"""All planes of a page together, as text; they are drawn smaller where they would need more."""
BYTES_PER_PX, SMALLEST_PX = 2.7, 32
"""What two noisy grey panels take as text, to begin with; below this size pictures are not reduced further."""
LONGEST_TEXT = 300
FLATTEST, TALLEST = 4.0, 0.6
"""Shape of a panel, columns per row, at most and at least; longer planes are drawn with margins."""
CHART_BINS = 96
MOST_BARS = 16


def require_name(path: Location) -> None:
    """Refuse a name for a page that is not one of a page: a page replaces what has its name, which may be an image.

    Raises
    ------
    OptionError
        The name does not end in .html or .htm.
    """
    if path.suffix.lower() not in PAGE_ENDINGS:
        raise OptionError(f"{path} is no name for a report; name it .html")


def render(template: str, **values: Any) -> str:
    """Return a template of the package, filled in.

    Parameters
    ----------
    template : str
        Its path below the package.
    **values
        What the template names; text is escaped, its control characters replaced. What is not given is an error.

    Examples
    --------
    >>> render("quality/report/templates/page.html.jinja", title="<b>DAPI</b>", kind="", about="", footer="",
    ...        sections="").partition("<h1>")[2].partition("</h1>")[0]
    '<bdi>&lt;b&gt;DAPI&lt;/b&gt;</bdi>'
    """
    return _environment().get_template(template).render(values)


def markup(made: str) -> str:
    """Return HTML that was made here as what a template does not escape."""
    from markupsafe import Markup

    return Markup(made)


@functools.cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("cellxlate", ""),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    style, script = (
        files("cellxlate.quality.report").joinpath(f"templates/page.{kind}").read_text(encoding="utf-8")
        for kind in ("css", "js")
    )
    environment.globals |= {
        "style": markup(style),
        "script": markup(script),
        "script_digest": b64encode(sha256(script.encode()).digest()).decode(),
        "attention_colours": VIRIDIS,
    }
    environment.filters |= {"number": number, "percent": percent, "cut": _cut}
    return environment


def _cut(value: object, longest: int = LONGEST_TEXT) -> str:
    plain = str(value)
    return plain if len(plain) <= longest else f"{plain[: longest - 1]}…"


def _printable(value: object) -> object:
    """Return what a template says, without control characters."""
    if hasattr(value, "__html__"):
        return value
    plain = str(value)
    if plain.isprintable():
        return plain
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


def figures(pictures: Sequence[Picture], *, most_bytes: int = PICTURES_BYTES) -> str:
    """Return the panels of at most 24 pictures, reduced as far as needed to keep the page small."""
    longest_px = max((max(picture.before.shape[:2]) for picture in pictures[:MOST_PICTURES]), default=0)
    html = ""
    size = sum(BYTES_PER_PX * picture.before.size for picture in pictures[:MOST_PICTURES])
    while size > most_bytes or not html:
        if size > most_bytes:
            longest_px = max(int(0.97 * longest_px * math.sqrt(most_bytes / size)), 1)
        html = render(
            "quality/report/templates/figures.html.jinja",
            figures=[_figure(reduce_picture(picture, longest_px)) for picture in pictures[:MOST_PICTURES]],
            more=max(len(pictures) - MOST_PICTURES, 0),
        )
        size = len(html)
        if longest_px <= SMALLEST_PX or not pictures:
            break
    return html


def reduce_picture(picture: Picture, longest_px: int) -> Picture:
    """Return a picture whose longer side is at most `longest_px`."""
    step = max(-(-max(picture.before.shape[:2]) // longest_px), 1)
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


def _figure(picture: Picture) -> dict[str, Any]:
    """Return what is drawn of one picture: before, attention and after, their scale bar and legends."""
    rows, columns = picture.before.shape[:2]
    height_px = rows * picture.aspect
    ratio = min(max(columns / height_px, TALLEST), FLATTEST)
    shares = min(columns / height_px / ratio, 1.0), min(ratio * height_px / columns, 1.0)
    limits, in_color = grey_limits(picture.before, picture.after), picture.before.ndim == 3
    before, after = (_coded(counts_png(plane, limits)) for plane in (picture.before, picture.after))
    panels = [
        ("Before", before, False),
        (f"{picture.overlay}{' in grey' if in_color else ''}", _coded(attention_png(picture.attention)), True),
        ("After", after, False),
    ]  # fmt: skip
    if picture.truth is not None:
        truth = _coded(counts_png(picture.truth, grey_limits(picture.truth)))
        panels.append(("Truth, on a scale of its own", truth, False))
    return {
        "title": picture.title, "panels": panels, "ratio": ratio, "limits": limits, "reduction": picture.reduction,
        "bar": _scale_bar(max(columns, height_px * ratio), picture), "note": picture.note, "in_color": in_color,
        "shares": [100 * share for share in shares],
    }  # fmt: skip


def _coded(png: bytes) -> str:
    return markup(b64encode(png).decode())


def _scale_bar(width_px: float, picture: Picture) -> dict[str, Any]:
    """Return a bar of a round length, at most a quarter of the panel; it follows the zoom."""
    unit, width = (
        ("µm", width_px * picture.pixel_size_um) if picture.pixel_size_um else ("px", width_px * picture.reduction)
    )
    length = nice_length(width / 4)
    if unit == "px":
        length = max(length, 1.0)
    percent_of_width = 100 * min(length / width, 1.0)
    return {"width": width, "unit": unit, "percent": percent_of_width, "length": f"{float(f'{length:.3g}'):g}"}


def nice_length(most: float) -> float:
    """Return the largest of 1, 2, 5, 10, ... that is at most `most` (> 0)."""
    power = 10.0 ** math.floor(math.log10(most))
    return next(digit * power for digit in (5, 2, 1) if digit * power <= most * (1 + 1e-9))


def histogram_charts(histogram: Histogram) -> list[dict[str, Any]]:
    """Return what is drawn of two charts: all pixels, and those that attention selected, before and after."""
    return [
        {"caption": caption, **_chart(before, after, histogram)}
        for caption, before, after in (
            ("All pixels", histogram.before, histogram.after),
            ("Selected pixels", histogram.moved_from, histogram.moved_to),
        )
        if before.any() or after.any()
    ]


def _chart(before: npt.NDArray[np.int64], after: npt.NDArray[np.int64], histogram: Histogram) -> dict[str, Any]:
    """Return two histograms with logarithmic heights; the outermost 0.01 % on either side are left out."""
    total = np.cumsum(before + after)
    low = int(np.searchsorted(total, 1e-4 * total[-1], side="right"))
    high = int(np.searchsorted(total, (1 - 1e-4) * total[-1], side="left")) + 1
    step = max(-(-(high - low) // CHART_BINS), 1)
    starts = np.arange(low, max(high, low + 1), step)
    heights = [np.log10(1 + np.add.reduceat(counts[: starts[-1] + step], starts)) for counts in (before, after)]
    most = max(float(height.max()) for height in heights)
    width, base = 400, 132
    edges = width * np.arange(len(starts) + 1) / len(starts)
    area, line = (_steps(edges, base - (base - 10) * level / most) for level in heights)
    width_counts = 2.0**histogram.exponent
    start_counts = (starts[0] + histogram.first) * width_counts
    span_counts = len(starts) * step * width_counts
    ticks = [
        (x, counts)
        for counts in _round_counts(start_counts, start_counts + span_counts)
        for x in (width * (counts - start_counts) / span_counts,)
        if 0.03 * width < x < 0.97 * width
    ]
    return {"width": width, "height": 154, "base": base, "area": area, "line": line, "ticks": ticks}


def bar_chart(bars: Sequence[tuple[str, float, float]]) -> dict[str, Any] | None:
    """Return what is drawn of bars from 0 in dB, one below the other, with whiskers of two standard errors.

    Parameters
    ----------
    bars : sequence of (name, dB, standard error in dB)
        At most 16 are drawn. What is not finite counts as 0.
    """
    shown = [(name, _or_zero(gain), _or_zero(error)) for name, gain, error in bars[:MOST_BARS]]
    if not shown:
        return None
    low = min(0.0, *(gain - 2 * error for _, gain, error in shown), 0.0)
    high = max(0.0, *(gain + 2 * error for _, gain, error in shown), low + 1.0)
    names, width, row, top = 150, 560, 20, 4
    scale = (width - names - 60) / (high - low)
    zero = names - low * scale
    drawn = [
        {"name": name, "gain_db": gain, "middle": top + row * number + row // 2, "start": min(zero, end),
         "end": end, "length": abs(end - zero), "reach": 2 * error * scale}
        for number, (name, gain, error) in enumerate(shown)
        for end in (zero + gain * scale,)
    ]  # fmt: skip
    return {"width": width, "height": top + row * len(shown) + top, "names": names, "top": top, "zero": zero,
            "bars": drawn}  # fmt: skip


def _or_zero(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _round_counts(low: float, high: float) -> list[float]:
    """Return two to six round numbers between low and high."""
    step = nice_length((high - low) / 2.5)
    return [step * count for count in range(math.ceil(low / step), math.floor(high / step) + 1)]


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
