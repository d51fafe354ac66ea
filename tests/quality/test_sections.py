"""Sections show the stored pixels under a line, through the place that changed most, at the right aspect."""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from cellxlate.quality.checks import read_back
from cellxlate.quality.places import Places
from cellxlate.quality.report import page, sections
from cellxlate.quality.report.figures import draw_sections
from cellxlate.quality.report.sections import take_sections
from cellxlate.stacks.stack import Stack

CHANGED = (slice(150, 170), slice(200, 230))
"""Rows and columns that differ, in one plane."""


@dataclass
class Watched:
    """Pixels of any size, zero everywhere; remembers the most that was asked for at once, and how often."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    largest_read: int = 0
    reads: int = 0

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        rows, columns = (range(*part.indices(size)) for part, size in zip(key[-2:], self.shape[-2:], strict=True))
        self.largest_read = max(self.largest_read, len(rows) * len(columns))
        self.reads += 1
        return np.zeros((len(rows), len(columns)), self.dtype)


def stacks(
    shape: tuple[int, ...], axes: str, changed: tuple[int, ...], **facts: Any
) -> tuple[Stack, Stack, Stack, Places]:
    """Return noise, what was made of it in one place of one plane, its attention, and where that selects."""
    draw = np.random.default_rng(0)
    before = draw.integers(100, 200, shape).astype(np.uint16)
    selected = np.zeros(shape, np.uint8)
    selected[(*changed, *CHANGED)] = 180
    after = before + (selected > 0).astype(np.uint16) * draw.integers(1, 99, shape).astype(np.uint16)
    made = tuple(Stack(pixels, axes, **facts) for pixels in (before, after, selected))
    return made[0], made[1], made[2], read_back(*made).places


@pytest.mark.parametrize(
    ("axes", "shape", "changed"),
    [("ZYX", (7, 300, 280), (4,)), ("TYX", (7, 300, 280), (4,)), ("TCZYX", (3, 2, 7, 300, 280), (2, 1, 4))],
)
def test_a_section_holds_the_stored_pixels_under_its_line(
    axes: str, shape: tuple[int, ...], changed: tuple[int, ...]
) -> None:
    before, after, selected, places = stacks(shape, axes, changed)
    taken = take_sections(before, after, selected, channels=range(before.channel_count), places=places)
    assert taken is not None
    assert taken.axis == ("t" if axes == "TYX" else "z")
    assert taken.place.index == changed
    assert CHANGED[0].start <= taken.place.row < CHANGED[0].stop
    assert CHANGED[1].start <= taken.place.column < CHANGED[1].stop
    assert len(taken.pictures) == 2 * before.channel_count
    of_channel = [(2, channel) for channel in range(2)] if axes == "TCZYX" else [()]
    for number, key in enumerate(of_channel):
        along_x, along_y = taken.pictures[2 * number : 2 * number + 2]
        for stack, name in ((before, "before"), (after, "after"), (selected, "attention")):
            volume = np.asarray(stack)[key]
            assert np.array_equal(getattr(along_x, name), volume[:, taken.place.row])
            assert np.array_equal(getattr(along_y, name), volume[:, :, taken.place.column])


def test_stacks_that_keep_columns_before_rows_are_cut_alike() -> None:
    before, after, selected, places = stacks((5, 300, 280), "ZYX", (2,))
    turned = [Stack(np.asarray(one).transpose(2, 1, 0), "XYZ") for one in (before, after, selected)]
    ours = take_sections(before, after, selected, channels=[0], places=places)
    theirs = take_sections(*turned, channels=[0], places=read_back(*turned).places)
    assert ours is not None
    assert theirs is not None
    for one, other in zip(ours.pictures, theirs.pictures, strict=True):
        assert np.array_equal(one.after, other.after)


@pytest.mark.parametrize(("axes", "shape"), [("YX", (40, 50)), ("CYX", (2, 40, 50)), ("TCZYX", (1, 2, 1, 40, 50))])
def test_plain_images_have_no_sections(axes: str, shape: tuple[int, ...]) -> None:
    stack = Stack(np.zeros(shape, np.uint8), axes)
    assert draw_sections(stack, stack, stack, channels=[0], places=Places()) == ("", {})


def test_where_nothing_was_selected_sections_cross_in_the_middle() -> None:
    stack = Stack(np.full((2, 5, 90, 70), 7.0, np.float32), "TZYX")
    nothing = Stack(np.zeros(stack.shape, np.uint8), "TZYX")
    taken = take_sections(stack, stack, nothing, channels=[0], places=read_back(stack, stack, nothing).places)
    assert taken is not None
    assert (taken.place.index, taken.place.row, taken.place.column) == ((1, 2), 45, 35)


def test_infinite_and_missing_pixels_do_not_decide_where_sections_cross() -> None:
    before, after, selected, places = stacks((3, 300, 280), "ZYX", (1,))
    floats = [np.asarray(one).astype(np.float32) for one in (before, after)]
    for one in floats:
        one[1, 5, :] = np.inf
        one[1, 9, :] = np.nan
    taken = take_sections(*(Stack(one, "ZYX") for one in floats), selected, channels=[0], places=places)
    assert taken is not None
    assert CHANGED[0].start <= taken.place.row < CHANGED[0].stop


def test_planes_apart_are_drawn_to_scale() -> None:
    facts = {"pixel_size_um": {"Z": 0.9, "Y": 0.3, "X": 0.2}}
    before, after, selected, places = stacks((20, 300, 280), "ZYX", (4,), **facts)
    taken = take_sections(before, after, selected, channels=[0], places=places)
    assert taken is not None
    along_x, along_y = taken.pictures
    assert (along_x.aspect, along_y.aspect) == (pytest.approx(4.5), pytest.approx(3.0))
    assert "to scale; planes lie 4.5 pixels apart" in along_x.note
    html = page.figures(taken.pictures)
    drawn = [float(ratio) for ratio in re.findall(r"aspect-ratio:([0-9.]+)", html)]
    assert drawn == [pytest.approx(280 / (20 * 4.5), abs=1e-3)] * 3 + [pytest.approx(240 / (20 * 3.0), abs=1e-3)] * 3
    widths_um = [float(width) for width in re.findall(r'data-width="([0-9.]+)"', html)]
    assert widths_um == [pytest.approx(280 * 0.2)] * 3 + [pytest.approx(240 * 0.3)] * 3


def test_a_flat_section_keeps_its_scale_between_margins() -> None:
    facts = {"pixel_size_um": {"Z": 0.2, "Y": 0.2, "X": 0.2}}
    before, after, selected, places = stacks((3, 300, 280), "ZYX", (1,), **facts)
    html, stated = draw_sections(before, after, selected, channels=[0], places=places)
    assert stated["axis"] == "z"
    wide, tall, ratio = (float(re.findall(pattern, html)[0]) for pattern in
                         (r"--wide:([0-9.]+)", r"--tall:([0-9.]+)", r"aspect-ratio:([0-9.]+)"))  # fmt: skip
    columns = 192  # the shortest line
    assert (wide, ratio * 100 / tall) == (100.0, pytest.approx(columns / 3, rel=1e-3))


def test_without_a_scale_the_page_says_so() -> None:
    before, after, selected, places = stacks((4, 300, 280), "ZYX", (1,))
    assert "not to scale" in draw_sections(before, after, selected, channels=[0], places=places)[0]
    movie = [Stack(np.asarray(one), "TYX", time_step_s=2.5) for one in (before, after, selected)]
    html, stated = draw_sections(*movie, channels=[0], places=places)
    assert "time runs down: 4 frames, 2.5 s apart" in html
    assert stated == {"axis": "t", "plane": [1], "row": stated["row"], "column": stated["column"], "every": 1}


def test_huge_planes_and_long_movies_are_cut_in_bounded_memory() -> None:
    pixels, selected = (Watched((1000, 60_000, 50_000), np.dtype(dtype)) for dtype in ("uint16", "uint8"))
    stack, attention = Stack(pixels, "TYX"), Stack(selected, "TYX")
    taken = take_sections(stack, stack, attention, channels=[0], places=Places())
    assert taken is not None
    assert (taken.every, len(taken.pictures[0].before)) == (4, 250)
    assert pixels.largest_read <= sections.LONGEST_PX**2
    assert selected.reads <= sections.MOST_POSITIONS
