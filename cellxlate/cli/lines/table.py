"""Aligned text for people: tables, lists of facts, and numbers in words; pure functions, without colours."""

import math
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Sequence

NARROWEST, WIDEST = 60, 100
"""Characters of a line, whatever the terminal; outside one it is the widest."""
GAP, UNKNOWN = "  ", "-"
UNITS = "bytes", "kB", "MB", "GB", "TB", "PB"
MOST_LISTED = 12


def line_width() -> int:
    """Return how many characters a line may have: those of the terminal, 60 to 100; 100 where there is none."""
    if not sys.stdout.isatty():
        return WIDEST
    return max(NARROWEST, min(shutil.get_terminal_size((WIDEST, 24)).columns, WIDEST))


def breadth(text: str) -> int:
    """Return how many cells of a terminal a text takes: two for each wide letter, none for a combining mark.

    Examples
    --------
    >>> breadth("µm"), breadth("세포")
    (2, 4)
    """
    marks = sum(1 for letter in text if unicodedata.combining(letter))
    return len(text) - marks + sum(1 for letter in text if unicodedata.east_asian_width(letter) in "WF")


def elided(text: str, most: int) -> str:
    """Return a text in at most so many cells: its middle goes, because names differ at the end.

    Examples
    --------
    >>> elided("screen_plate7_wellB03_field12.ome.tif", 24)
    'screen_plat…d12.ome.tif'
    """
    if breadth(text) <= most:
        return text
    half = max((most - 1) // 2, 1)
    head, tail = text[:half], text[-half:]
    while breadth(head) > half:
        head = head[:-1]
    while breadth(tail) > half:
        tail = tail[1:]
    return f"{head}…{tail}"


def table(rows: Sequence[Sequence[str]], *, words: Sequence[int] = (0,), width: int | None = None) -> list[str]:
    """Return the lines of a table: columns as wide as what they hold, numbers to the right, words to the left.

    Parameters
    ----------
    rows : sequence of sequences of str
        The first row is the head; all have as many cells.
    words : sequence of int
        Columns that are flush left: names and words.
    width : int, optional
        Characters of a line, `line_width` by default. Where a row is wider the first column is elided, then the
        last where it holds words.

    Examples
    --------
    >>> table([["image", "changed"], ["a.tif", "12.0 %"], ["well_b.tif", "3.1 %"]], width=60)
    ['image       changed', 'a.tif        12.0 %', 'well_b.tif    3.1 %']
    """
    if not rows:
        return []
    width = width or line_width()
    widths = [max(breadth(row[column]) for row in rows) for column in range(len(rows[0]))]
    excess = sum(widths) + len(GAP) * (len(widths) - 1) - width
    if excess > 0:
        excess -= widths[0] - (narrower := max(widths[0] - excess, min(widths[0], 12)))
        widths[0] = narrower
    last = len(widths) - 1
    if excess > 0 and last and last in words:
        widths[last] = max(widths[last] - excess, min(widths[last], 8))
    lines = []
    for row in rows:
        cells = [elided(row[0], widths[0]), *row[1:-1], *([elided(row[-1], widths[-1])] if last else [])]
        padded = []
        for column, cell in enumerate(cells):
            space = " " * (widths[column] - breadth(cell))
            padded.append(cell + space if column in words else space + cell)
        lines.append(GAP.join(padded).rstrip())
    return lines


def facts(pairs: Sequence[tuple[str, str]], *, width: int | None = None) -> list[str]:
    """Return a line for each fact, `name  text`, with the texts below each other; a long text is wrapped, a path not.

    Examples
    --------
    >>> facts([("axes", "TYX"), ("pixel size", "0.65 µm")], width=60)
    ['axes        TYX', 'pixel size  0.65 µm']
    """
    width = width or line_width()
    column = max((breadth(name) for name, _ in pairs), default=0)
    lines = []
    for name, text in pairs:
        parts = textwrap.wrap(
            text, max(width - column - len(GAP), 20), break_long_words=False, break_on_hyphens=False
        ) or [""]  # fmt: skip
        for number, part in enumerate(parts):
            shown = name if number == 0 else ""
            lines.append(f"{shown}{' ' * (column - breadth(shown))}{GAP}{part}".rstrip())
    return lines


def wrapped(text: str, *, width: int | None = None) -> list[str]:
    """Return a sentence in lines."""
    return textwrap.wrap(text, width or line_width(), break_long_words=False, break_on_hyphens=False)


def decimals(value: float | None, places: int, *, sign: bool = False) -> str:
    """Return a number with so many decimals, or a dash where it is not known.

    Examples
    --------
    >>> decimals(1.25, 1), decimals(0.5, 2, sign=True), decimals(None, 1)
    ('1.2', '+0.50', '-')
    """
    if value is None or not math.isfinite(value):
        return UNKNOWN
    value = round(value, places) or 0.0  # which has no sign
    return f"{value:{'+' if sign else ''}.{places}f}"


def percent(share: float | None, *, places: int = 1) -> str:
    """Return a share in percent; what is more than nothing is not shown as nothing.

    Examples
    --------
    >>> percent(0.1234), percent(0.0), percent(0.00001), percent(None)
    ('12.3 %', '0.0 %', '< 0.1 %', '-')
    """
    if share is None or not math.isfinite(share):
        return UNKNOWN
    least = 10.0**-places
    return f"< {least:.{places}f} %" if 0 < 100 * share < least / 2 else f"{100 * share:.{places}f} %"


def count(number: int, one: str, many: str = "") -> str:
    """Return a number with its noun.

    Examples
    --------
    >>> count(1, "plane"), count(1200, "plane"), count(2, "axis", "axes")
    ('1 plane', '1,200 planes', '2 axes')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def megapixels(pixels: float) -> str:
    """Return a number of pixels in words.

    Examples
    --------
    >>> megapixels(4096), megapixels(1_085_760), megapixels(2.5e9)
    ('4,096 pixels', '1.09 megapixels', '2.5 gigapixels')
    """
    if pixels < 1e5:
        return count(int(pixels), "pixel")
    return f"{pixels / 1e6:.3g} megapixels" if pixels < 1e9 else f"{pixels / 1e9:.3g} gigapixels"


def size(number_of_bytes: float) -> str:
    """Return a size of files or memory in words.

    Examples
    --------
    >>> size(900), size(2_184_000), size(3.2e11)
    ('900 bytes', '2.2 MB', '320 GB')
    """
    power = 0
    while power < len(UNITS) - 1 and number_of_bytes >= 999.5:
        number_of_bytes, power = number_of_bytes / 1000, power + 1
    return f"{number_of_bytes:.0f} {UNITS[power]}" if number_of_bytes >= 10 or not power else (
        f"{number_of_bytes:.1f} {UNITS[power]}"
    )  # fmt: skip


def duration(seconds: float) -> str:
    """Return a time in words.

    Examples
    --------
    >>> duration(2.84), duration(48), duration(130), duration(1400), duration(4000), duration(200_000)
    ('2.8 s', '48 s', '2 min 10 s', '23 min', '1 h 07 min', '2 d 8 h')
    """
    if seconds < 99.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    if seconds < 599.5:
        return f"{round(seconds) // 60} min {round(seconds) % 60:02d} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"


def listed(names: Sequence[str], most: int = MOST_LISTED) -> str:
    """Return names with commas, and how many more there are.

    Examples
    --------
    >>> listed(["DAPI", "GFP", "Cy5"], 2)
    'DAPI, GFP and 1 more'
    """
    head = ", ".join(names[:most])
    return head if len(names) <= most else f"{head} and {len(names) - most:,} more"
