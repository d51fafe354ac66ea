"""The pictures of a report as HTML, with the images in it: planes before and after, and sections across them."""

from collections.abc import Sequence
from typing import Any

from cellxlate.quality.places import Places
from cellxlate.quality.report import page
from cellxlate.quality.report.pictures import choose_planes, take_pictures
from cellxlate.quality.report.sections import take_sections
from cellxlate.stacks.stack import Stack

SECTIONS_BYTES = 1_000_000
"""Pictures of all sections together, as text."""


def draw_planes(
    stack: Stack, enhanced: Stack, attention: Stack, *, channels: Sequence[int], in_color: bool = False
) -> str:
    """Return pictures of a few planes before and after, as the report holds them: HTML, with the images in it.

    Parameters
    ----------
    stack, enhanced, attention : Stack
        Input, output and attention (uint8), of the same shape.
    channels : sequence of int
        The channels that were enhanced.
    in_color : bool
        Whether red, green and blue are shown as one picture.
    """
    planes = choose_planes(stack, channels, in_color=in_color)
    return page.figures(take_pictures(stack, enhanced, attention, planes=planes, in_color=in_color))


def draw_sections(
    stack: Stack, enhanced: Stack, attention: Stack, *, channels: Sequence[int], places: Places,
    in_color: bool = False,
) -> tuple[str, dict[str, Any]]:  # fmt: skip
    """Return pictures of what lies under a line of the planes, over depth or time, and what the JSON says of them.

    Both are empty for a stack without either. `places` are those of the tally: they cross where most was selected.
    """
    sections = take_sections(stack, enhanced, attention, channels=channels, places=places, in_color=in_color)
    if sections is None:
        return "", {}
    return page.figures(sections.pictures, most_bytes=SECTIONS_BYTES), sections.stated()
