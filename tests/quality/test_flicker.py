"""Flicker: hand-made series whose toggles and jitter are known; the same for any bands, any order, any parts."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from cellxlate.quality import flicker
from cellxlate.quality.checks import parts_of, read_back, read_back_part
from cellxlate.quality.flicker import Flicker
from cellxlate.quality.report.report import RunReport, report_page
from cellxlate.quality.tally import Tally
from cellxlate.stacks.stack import Stack

Arrays = tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[np.uint8]]


def stacks_of(arrays: Arrays, axes: str) -> list[Stack]:
    return [Stack.from_array(one, axes) for one in arrays]


def drawn(shape: tuple[int, ...], *, seed: int = 0) -> Arrays:
    """A stack, a result that differs where attention selects, and attention that selects at random."""
    draw = np.random.default_rng(seed)
    raw = draw.integers(100, 200, shape).astype(np.uint16)
    attention = np.where(draw.random(shape) < 0.5, 255, 0).astype(np.uint8)
    return raw, np.where(attention > 0, (raw // 3 + 100).astype(np.uint16), raw), attention


def slow_answer(arrays: Arrays, at: int) -> tuple[int, int, float, float]:
    """Ever selected, toggled, and jitter ratios where all and where some of three are selected, all at once."""
    raw, enhanced, selected = (np.moveaxis(one, at, 0) for one in arrays)
    on = selected > 0
    ever, always = on[:-2] | on[1:-1] | on[2:], on[:-2] & on[1:-1] & on[2:]
    toggled = (on[:-2] == on[2:]) & (on[:-2] != on[1:-1])

    def rms(image: npt.NDArray[Any], where: npt.NDArray[np.bool_]) -> float:
        wide = image.astype(np.int64)
        return float(np.sqrt(((wide[:-2] - 2 * wide[1:-1] + wide[2:])[where] ** 2).mean()))

    some = ever & ~always
    ratios = [rms(enhanced, where) / rms(raw, where) for where in (always, some)]
    return int(ever.sum()), int(toggled.sum()), *ratios


def found(tally: Tally) -> tuple[Any, ...]:
    total = tally.flicker.total
    return total.ever, total.toggled, total.ratio("changed"), total.ratio("between")


def test_one_pixel_of_four_that_is_left_out_once_and_comes_back_is_a_quarter() -> None:
    attention = np.full((3, 1, 4), 9, np.uint8)
    attention[1, 0, 2] = 0
    raw = np.array([[[1, 1, 1, 1]], [[5, 5, 5, 5]], [[1, 1, 1, 1]]], np.uint16)
    enhanced = raw.copy()
    enhanced[1, 0, [0, 1, 3]] = 2  # the second difference is -2 in place of -8
    tally = read_back(*stacks_of((raw, enhanced, attention), "TYX"))
    assert tally.flicker.total.percent == 25
    assert tally.flicker.total.ratio("changed") == pytest.approx(0.25)
    assert tally.flicker.total.ratio("between") == 1
    assert tally.flicker.total.ratio("kept") is None
    assert "along T" in tally.flicker.words
    assert "25 % are" in tally.flicker.words
    assert "0.25 times" in tally.flicker.words


@pytest.mark.parametrize(
    ("series", "toggled", "ever"), [("0110", 0, 2), ("010", 1, 1), ("101", 1, 1), ("10101", 3, 3), ("1001", 0, 2)]
)
def test_only_away_and_back_within_three_planes_is_a_toggle(series: str, toggled: int, ever: int) -> None:
    attention = np.array([int(one) for one in series], np.uint8).reshape(-1, 1, 1)
    raw = np.zeros(attention.shape, np.uint8)
    total = read_back(*stacks_of((raw, raw, attention), "ZYX")).flicker.total
    assert (total.toggled, total.ever) == (toggled, ever)


@pytest.mark.parametrize(
    ("axes", "shape", "axis"),
    [
        ("TZYX", (4, 3, 2, 2), "Z"), ("TZYX", (4, 2, 2, 2), "T"), ("ZTCYX", (3, 5, 2, 2, 2), "Z"),
        ("TCYX", (3, 2, 2, 2), "T"),
        ("CYX", (3, 2, 2), ""), ("YX", (2, 2), ""), ("TYX", (2, 2, 2), "T"), ("ZYXS", (3, 2, 2, 3), "Z"),
    ],
)  # fmt: skip
def test_the_axis_is_depth_where_that_has_three_planes_else_time(axes: str, shape: tuple[int, ...], axis: str) -> None:
    assert Flicker.of(Stack.from_array(np.zeros(shape, np.uint8), axes)).axis == axis


@pytest.mark.parametrize(
    ("axes", "shape"),
    [
        ("ZYX", (6, 9, 7)),
        ("TCYX", (5, 3, 9, 7)),
        ("TZYX", (2, 4, 9, 7)),
        ("ZTCYX", (4, 2, 2, 9, 7)),
        ("TYX", (3, 9, 7)),
    ],
)
def test_counts_are_those_of_the_whole_array_along_its_axis(axes: str, shape: tuple[int, ...]) -> None:
    arrays = drawn(shape)
    tally = read_back(*stacks_of(arrays, axes), band_bytes=40)
    assert found(tally) == pytest.approx(slow_answer(arrays, axes.index(tally.flicker.axis)))
    assert not tally.flicker.waiting


def test_channels_are_counted_apart_and_those_that_were_copied_are_not() -> None:
    arrays = drawn((4, 3, 9, 7))
    tally = read_back(*stacks_of(arrays, "TCYX"), channels=[0, 2])
    for channel in (0, 2):
        own = tuple(one[:, channel] for one in arrays)
        assert tally.flicker.channels[channel].ever == slow_answer(own, 0)[0]  # type: ignore[arg-type]
    stated = tally.summary()["flicker"]
    assert [one["channel"] for one in stated["channels"]] == [0, 2]
    assert stated["axis"] == "T"


@pytest.mark.parametrize("axes", ["TZYX", "ZTYX"])
@pytest.mark.parametrize("cut", [1, 40, 100])
def test_parts_that_others_count_give_the_same_together(axes: str, cut: int) -> None:
    arrays = drawn((4, 5, 9, 7))
    stack, *others = stacks_of(arrays, axes)
    whole = read_back(stack, *others)
    together = Tally.of(stack)
    for part in parts_of(stack, [0], tile_px=0, part_px=cut):
        counted = Tally.of(stack)
        for index, rows in part:
            counted.include(read_back_part(stack, *others, index=index, rows=rows))
        together.include(counted)
    assert found(together) == pytest.approx(found(whole))
    assert not together.flicker.waiting


def test_any_order_of_the_planes_counts_alike() -> None:
    arrays = drawn((7, 9, 7))
    stacks = stacks_of(arrays, "ZYX")
    shuffled = Tally.of(stacks[0])
    for at in (3, 0, 6, 5, 1, 4, 2):
        raw, enhanced, attention = (one[at] for one in arrays)
        shuffled.add((at,), 0, raw=raw, enhanced=enhanced, attention=attention)
    assert found(shuffled) == pytest.approx(found(read_back(*stacks)))


@pytest.mark.parametrize(("axes", "shape"), [("TYX", (6, 64, 32)), ("ZTYX", (4, 5, 64, 32))])
def test_memory_is_bounded_by_rows_that_are_looked_at(
    axes: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flicker, "MOST_PX", 500)
    arrays = drawn(shape)
    stacks = stacks_of(arrays, axes)
    tally, most = Tally.of(stacks[0]), 0
    for index in stacks[0].plane_indices():
        for top, bottom in pairwise((0, 10, 33, 64)):
            raw, enhanced, attention = (one.read(index, slice(top, bottom)) for one in stacks)
            tally.add(index, top, raw=raw, enhanced=enhanced, attention=attention)
        held = [plane for planes in tally.flicker.waiting.values() for plane in planes.values()]
        most = max(most, sum(one.raw.size for one in held))
    assert 0 < most <= 2 * (500 + 32 * 5)  # whole rows of each series
    assert tally.flicker.step > 1
    exact = slow_answer(arrays, axes.index(tally.flicker.axis))
    ever, toggled, *ratios = found(tally)
    assert toggled / ever == pytest.approx(exact[1] / exact[0], abs=0.08)
    assert ratios == pytest.approx(exact[2:], rel=0.1)
    assert f"one row in {tally.flicker.step}" in tally.flicker.words


def test_the_page_says_it_in_words_without_a_warning() -> None:
    raw, enhanced, attention = drawn((4, 40, 40))
    attention[:, :20] = 0
    tally = read_back(*stacks_of((raw, np.where(attention > 0, enhanced, raw), attention), "ZYX"))
    report = RunReport(
        outputs={}, input_name="cells.tif", axes="ZYX", shape=raw.shape, dtype="uint16", model_name="m",
        model_digest="", tally=tally,
    )  # fmt: skip
    assert "Flicker along Z" in report_page(report, "")
    assert "where none is, exactly as much." in report_page(report, "")
    assert report.warnings == []
    assert report.as_dict()["flicker_percent"] == tally.flicker.total.percent
    assert "flicker_percent" not in replace(report, tally=Tally()).as_dict()


def test_what_is_not_finite_has_no_jitter() -> None:
    raw = np.ones((3, 1, 3), np.float32)
    raw[1] = 2
    raw[0, 0, 0], raw[2, 0, 1] = np.nan, np.inf
    total = read_back(*stacks_of((raw, raw, np.ones(raw.shape, np.uint8)), "TYX")).flicker.total
    assert total.as_dict()["jitter"]["changed"] == {
        "pixels": 1, "input_counts": 2, "output_counts": 2, "ratio": 1
    }  # fmt: skip


@pytest.mark.parametrize("axes", ["TYX", "CYX"])
def test_two_planes_or_no_selection_say_nothing(axes: str) -> None:
    raw = np.zeros((2, 4, 4), np.uint8)
    tally = read_back(*stacks_of((raw, raw, raw), axes))
    assert tally.flicker.total.percent is None
    assert tally.flicker.words == ""
