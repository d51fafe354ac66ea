"""Laws of counting: exact in every bit, the same for any bands and any order, bounded."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellxlate.errors import InputError
from cellxlate.quality.checks import plane_label, read_back
from cellxlate.quality.report.doubts import notices_of
from cellxlate.quality.tally import MOST_PLANE_ROWS, Tally, bits_differ
from cellxlate.quality.trust.examine import Trust
from cellxlate.quality.trust.likeness import Departure
from cellxlate.quality.trust.support import Support
from cellxlate.stacks.stack import Stack

DTYPES = ("uint8", "uint16", "uint32", "int8", "int16", "int32", "float16", "float32", "float64")
Bands = tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[np.uint8]]


def bands(dtype: str, seed: int = 0, shape: tuple[int, int] = (40, 64)) -> Bands:
    """An input, an output that differs in some selected pixels, and its attention."""
    draw = np.random.default_rng(seed)
    raw = draw.integers(0, 90, shape).astype(dtype)
    attention = np.where(draw.random(shape) < 0.3, draw.integers(1, 256, shape), 0).astype(np.uint8)
    attention[5:20, 8:40] = 255
    enhanced = np.where(attention > 0, raw + draw.integers(0, 5, shape).astype(dtype), raw).astype(dtype)
    return raw, enhanced, attention


def tally_of(parts: Bands, edges: tuple[int, ...], *, reverse: bool = False) -> Tally:
    tally = Tally()
    raw, enhanced, attention = parts
    pairs = list(pairwise(edges))
    for top, bottom in reversed(pairs) if reverse else pairs:
        rows = slice(top, bottom)
        tally.add((), top, raw=raw[rows], enhanced=enhanced[rows], attention=attention[rows])
    return tally


def nan_with_payload(payload: int) -> np.float32:
    return np.array(0x7FC00000 | payload, np.uint32).view(np.float32)[()]


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_arrays_do_not_differ_and_one_flipped_bit_does(dtype: str) -> None:
    pixels = np.random.default_rng(1).integers(0, 100, (7, 9)).astype(dtype)
    assert not bits_differ(pixels, pixels.copy()).any()
    words = pixels.copy().view(f"u{pixels.dtype.itemsize}")
    words[3, 4] ^= 1
    assert np.argwhere(bits_differ(pixels, words.view(dtype))).tolist() == [[3, 4]]


def test_nan_is_equal_to_itself_but_not_to_another_nan() -> None:
    ours = np.array([nan_with_payload(1), nan_with_payload(1), 0.0, np.inf], np.float32)
    theirs = np.array([nan_with_payload(1), nan_with_payload(2), -0.0, np.inf], np.float32)
    assert bits_differ(ours, theirs).tolist() == [False, True, True, False]


def test_bits_of_a_strided_view_are_compared_in_place() -> None:
    pixels = np.arange(48, dtype=np.float64).reshape(6, 8)
    changed = pixels.copy()
    changed[2, 6] += 1
    assert np.argwhere(bits_differ(pixels.T[::2], changed.T[::2])).tolist() == [[3, 2]]


@pytest.mark.parametrize(("shape", "dtype"), [((3, 4), "uint8"), ((3, 5), "uint16")])
def test_arrays_that_do_not_belong_together_are_refused(shape: tuple[int, int], dtype: str) -> None:
    with pytest.raises(InputError, match="cannot compare"):
        bits_differ(np.zeros((3, 5), np.uint8), np.zeros(shape, dtype))


def test_attention_of_another_shape_is_refused() -> None:
    raw = np.zeros((3, 5), np.uint8)
    with pytest.raises(InputError, match="attention of shape"):
        Tally().add((), 0, raw=raw, enhanced=raw, attention=np.zeros((3, 4), np.uint8))


@pytest.mark.parametrize("dtype", DTYPES)
def test_counts_equal_a_direct_count(dtype: str) -> None:
    raw, enhanced, attention = parts = bands(dtype)
    tally = tally_of(parts, (0, 40))
    change = np.abs(enhanced.astype(float) - raw.astype(float))
    assert tally.total.pixels == raw.size
    assert tally.total.selected == (attention > 0).sum()
    assert tally.total.changed == (raw != enhanced).sum() > 0
    assert tally.total.kept_violations == 0
    assert tally.total.changed_fraction == (raw != enhanced).mean()
    assert tally.total.mean_abs_change_counts == pytest.approx(change[raw != enhanced].mean(), rel=1e-12)
    assert tally.total.change_max_counts == change.max()


@settings(max_examples=25, deadline=None)
@given(cuts=st.sets(st.integers(1, 39), max_size=6), reverse=st.booleans(), dtype=st.sampled_from(DTYPES))
def test_no_split_into_bands_and_no_order_changes_a_number(cuts: set[int], reverse: bool, dtype: str) -> None:
    parts = bands(dtype)
    whole, split = tally_of(parts, (0, 40)), tally_of(parts, (0, *sorted(cuts), 40), reverse=reverse)
    ours, theirs = split.summary(), whole.summary()
    assert ours == {**theirs, "planes": ours["planes"], "channels": ours["channels"]}
    for name in ("before", "moved_from", "moved_to"):
        assert np.array_equal(getattr(split.histograms[0], name), getattr(whole.histograms[0], name))
    assert split.brightness_order()[0] == pytest.approx(whole.brightness_order()[0], abs=1e-12)


def test_one_changed_kept_pixel_is_found_wherever_it_is() -> None:
    raw, enhanced, attention = bands("uint16")
    kept = np.argwhere(attention == 0)
    for row, column in kept[:: len(kept) // 7]:
        broken = enhanced.copy()
        broken[row, column] += 1
        assert tally_of((raw, broken, attention), (0, 13, 40)).total.kept_violations == 1


def test_a_kept_nan_may_stay_but_not_change() -> None:
    raw = np.full((2, 8), nan_with_payload(3), np.float32)
    broken = raw.copy()
    broken[1, 1] = nan_with_payload(4)
    attention = np.zeros(raw.shape, np.uint8)
    assert tally_of((raw, raw.copy(), attention), (0, 2)).total.kept_violations == 0
    tally = tally_of((raw, broken, attention), (0, 2))
    assert (tally.total.kept_violations, tally.total.mean_abs_change_counts, tally.total.change_max_counts) == (
        1,
        0.0,
        0.0,
    )


def test_a_change_that_is_not_finite_is_counted_but_does_not_spoil_the_mean() -> None:
    raw = np.array([[1.0, 2.0, np.inf, -np.inf]], np.float32)
    enhanced = np.array([[np.nan, 5.0, -np.inf, -np.inf]], np.float32)
    tally = tally_of((raw, enhanced, np.full(raw.shape, 9, np.uint8)), (0, 1))
    assert (tally.total.changed, tally.total.change_max_counts) == (3, 3.0)


def test_only_changed_pixels_at_a_limit_count_as_saturated() -> None:
    raw = np.array([[255, 250, 3, 0, 7]], np.uint8)
    enhanced = np.array([[255, 255, 0, 0, 9]], np.uint8)
    assert tally_of((raw, enhanced, np.full(raw.shape, 9, np.uint8)), (0, 1)).total.saturated == 2


def test_large_unsigned_differences_do_not_wrap() -> None:
    raw = np.array([[0, 4_000_000_000]], np.uint32)
    enhanced = raw[:, ::-1].copy()
    assert tally_of((raw, enhanced, np.full(raw.shape, 1, np.uint8)), (0, 1)).total.change_max_counts == 4e9
    darker = tally_of((raw[:, 1:], raw[:, 1:] - np.uint32(7), np.ones((1, 1), np.uint8)), (0, 1))
    assert (darker.total.mean_abs_change_counts, darker.total.change_max_counts) == (7.0, 7.0)


def test_channels_are_kept_apart_and_planes_have_rows() -> None:
    raw, enhanced, attention = bands("uint16")
    tally = Tally(plane_axes="ZC")
    for index in ((0, 0), (0, 1), (1, 0), (1, 1)):
        result = enhanced if index[1] else raw
        tally.add(index, 0, raw=raw, enhanced=result, attention=attention)
    assert tally.channels[0].changed == 0
    assert tally.channels[1].changed == 2 * (raw != enhanced).sum() == tally.total.changed
    assert [row["index"] for row in tally.summary()["planes"]] == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert tally.planes[0, 1].changed == (raw != enhanced).sum()


def test_further_planes_are_counted_together() -> None:
    raw = np.zeros((1, 8), np.uint8)
    tally = Tally(plane_axes="T")
    for number in range(MOST_PLANE_ROWS + 50):
        tally.add((number,), 0, raw=raw, enhanced=raw, attention=raw)
    tally.add((3,), 1, raw=raw, enhanced=raw, attention=raw)
    assert (len(tally.planes), tally.planes[3,].pixels) == (MOST_PLANE_ROWS, 16)
    assert tally.rest.pixels == 50 * 8
    assert tally.total.pixels == tally.rest.pixels + sum(counts.pixels for counts in tally.planes.values())


def test_brightness_order_is_one_for_a_gain_and_minus_one_for_an_inversion() -> None:
    raw = np.random.default_rng(3).integers(100, 200, (64, 256)).astype(np.uint16)
    everything = np.full(raw.shape, 255, np.uint8)
    gained, inverted = (3 * raw + 5).astype(np.uint16), (400 - raw).astype(np.uint16)
    assert tally_of((raw, gained, everything), (0, 64)).brightness_order()[0] == pytest.approx(1)
    assert tally_of((raw, inverted, everything), (0, 64)).brightness_order()[0] == pytest.approx(-1)


def test_brightness_order_agrees_with_scipy_on_all_segments() -> None:
    from scipy.stats import spearmanr

    draw = np.random.default_rng(4)
    raw = draw.integers(100, 120, (32, 64)).astype(np.uint16)
    enhanced = (raw + draw.integers(0, 20, raw.shape)).astype(np.uint16)
    means = [pixels.reshape(32, 8, 8).mean(axis=2).ravel() for pixels in (raw, enhanced)]
    order = tally_of((raw, enhanced, np.full(raw.shape, 1, np.uint8)), (0, 32)).brightness_order()[0]
    assert order == pytest.approx(spearmanr(*means).statistic, abs=1e-12)


def test_brightness_order_looks_at_selected_pixels_alone() -> None:
    raw = np.random.default_rng(5).integers(100, 200, (64, 64)).astype(np.uint16)
    attention = np.zeros(raw.shape, np.uint8)
    attention[:, :32] = 255
    enhanced = np.where(attention > 0, 2 * raw, 300 - raw).astype(np.uint16)
    assert tally_of((raw, enhanced, attention), (0, 64)).brightness_order()[0] == pytest.approx(1)


@pytest.mark.parametrize("fill", [7, 0])
def test_brightness_order_is_not_defined_for_constants_or_a_handful_of_pixels(fill: int) -> None:
    raw = np.full((64, 64), fill, np.uint8)
    assert math.isnan(tally_of((raw, raw, np.full(raw.shape, 1, np.uint8)), (0, 64)).brightness_order()[0])
    noise = np.random.default_rng(6).integers(0, 99, (4, 64)).astype(np.uint8)
    assert math.isnan(tally_of((noise, noise, np.full(noise.shape, 1, np.uint8)), (0, 4)).brightness_order()[0])


def test_the_sample_stays_bounded_and_is_the_same_in_every_run() -> None:
    raw = np.random.default_rng(7).integers(0, 999, (512, 512)).astype(np.uint16)
    everything = np.full(raw.shape, 1, np.uint8)
    first = tally_of((raw, raw, everything), (0, 512))
    second = tally_of((raw, raw, everything), (0, 200, 201, 512), reverse=True)
    assert len(first.samples[0].pairs) == 4096
    assert sorted(map(tuple, first.samples[0].pairs)) == sorted(map(tuple, second.samples[0].pairs))
    other = Tally(seed=1)
    other.add((), 0, raw=raw, enhanced=raw, attention=everything)
    assert not np.array_equal(np.sort(other.samples[0].pairs[:, 0]), np.sort(first.samples[0].pairs[:, 0]))


def test_a_segment_means_its_selected_pixels_alone() -> None:
    raw = np.random.default_rng(10).integers(100, 200, (100, 8)).astype(np.uint16)
    attention = np.full(raw.shape, 9, np.uint8)
    attention[:, ::4] = 0
    enhanced = (2 * raw).astype(np.uint16)
    enhanced[:, ::4] = raw[:, ::4] = np.random.default_rng(11).integers(0, 60000, (100, 2))
    assert tally_of((raw, enhanced, attention), (0, 100)).brightness_order()[0] == pytest.approx(1)
    attention[:, 1] = 0
    assert math.isnan(tally_of((raw, enhanced, attention), (0, 100)).brightness_order()[0])


def test_histograms_hold_the_input_the_output_and_the_selected_pixels() -> None:
    raw, enhanced, attention = bands("uint8")
    broken = enhanced.copy()
    broken[attention == 0] = 77
    for output in (enhanced, broken):
        histogram = tally_of((raw, output, attention), (0, 9, 40)).histograms[0]
        moved = (attention > 0) | (raw != output)
        pairs = [(histogram.before, raw), (histogram.after, output)]
        pairs += [(histogram.moved_from, raw[moved]), (histogram.moved_to, output[moved])]
        for counts, pixels in pairs:
            expected = np.bincount(pixels.ravel() - histogram.first, minlength=len(counts))
            assert np.array_equal(counts, expected)


@pytest.mark.parametrize("axes", ["YX", "XY"])
def test_reading_back_finds_what_was_changed(axes: str) -> None:
    raw, enhanced, attention = (pixels.T if axes == "XY" else pixels for pixels in bands("uint16"))
    stacks = [Stack.from_array(pixels, axes) for pixels in (raw, enhanced, attention)]
    tally = read_back(*stacks, band_bytes=1000)
    assert (tally.total.changed, tally.total.kept_violations) == ((raw != enhanced).sum(), 0)
    kept = tuple(np.argwhere(attention == 0)[11])
    broken = enhanced.copy()
    broken[kept] ^= 1
    assert read_back(stacks[0], Stack.from_array(broken, axes), stacks[2]).total.kept_violations == 1


def test_reading_back_leaves_other_channels_alone() -> None:
    raw = np.zeros((2, 8, 8), np.uint8)
    stacks = [Stack.from_array(pixels, "CYX") for pixels in (raw, raw + np.array([[[0]], [[1]]], np.uint8), raw)]
    assert read_back(*stacks, channels=[0]).summary()["kept_violations"] == 0
    assert read_back(*stacks).total.kept_violations == 64


def test_reading_back_refuses_files_that_do_not_belong_together() -> None:
    stack, other = Stack.from_array(np.zeros((8, 8), np.uint8)), Stack.from_array(np.zeros((8, 9), np.uint8))
    with pytest.raises(InputError, match=r"the attention has YX \(8, 9\), the input array has YX \(8, 8\)"):
        read_back(stack, stack, other)


def selecting(rows: int, *, change: int = 1, start: int = 100) -> Tally:
    raw = np.random.default_rng(8).integers(start, start + 50, (100, 64)).astype(np.uint8)
    attention = np.zeros(raw.shape, np.uint8)
    attention[:rows] = 200
    enhanced = raw.copy()
    enhanced[:rows] += np.uint8(change)
    tally = Tally(plane_axes="Z")
    tally.add((0,), 0, raw=raw, enhanced=enhanced, attention=attention)
    return tally


def warnings_of(tally: Tally, **known: Any) -> list[str]:
    return [notice.text for notice in notices_of(tally, **known)]


def test_an_ordinary_run_has_no_warning() -> None:
    assert warnings_of(selecting(50)) == []
    assert warnings_of(Tally()) == []


def test_each_fault_is_named_with_what_to_do() -> None:
    assert "attention selected nothing" in warnings_of(selecting(0))[0]
    assert "96% of all pixels" in warnings_of(selecting(96))[0]
    everywhere_once = selecting(50)
    raw = np.zeros((100, 64), np.uint8)
    everywhere_once.add((1,), 0, raw=raw[:20], enhanced=raw[:20], attention=raw[:20] + np.uint8(1))
    assert "more than 90% of 1 of 2 planes (Z=1)" in warnings_of(everywhere_once)[0]


def test_saturation_is_warned_of_where_it_is_not_rare() -> None:
    found = warnings_of(selecting(50, change=106))
    assert [("reached the limit" in text, "wider data type" in text) for text in found] == [(True, True)]


def test_a_broken_promise_comes_first() -> None:
    tally = selecting(0)
    raw = np.zeros((1, 64), np.uint8)
    tally.add((0,), 100, raw=raw, enhanced=raw + np.uint8(1), attention=raw)
    first = warnings_of(tally)[0]
    assert first.startswith("64 pixels changed although attention did not select them")


def test_lost_brightness_order_is_named_by_channel() -> None:
    raw = np.random.default_rng(9).integers(50, 150, (100, 64)).astype(np.uint8)
    attention = np.zeros(raw.shape, np.uint8)
    attention[:50] = 255
    tally = Tally()
    tally.add((), 0, raw=raw, enhanced=np.where(attention > 0, 200 - raw, raw).astype(np.uint8), attention=attention)
    assert [text for text in warnings_of(tally, channel_names={0: "DAPI"}) if "not kept in DAPI" in text]


def test_planes_are_named_by_their_axes() -> None:
    assert (plane_label((2, 0, 5), "TCZ"), plane_label((), "")) == ("T=2 C=0 Z=5", "plane")


@pytest.mark.parametrize("levels", ["no JSON", "[0]", 3, None, {"1": {}}])
def test_an_earlier_enhancement_that_cannot_be_read_or_was_of_other_channels_is_not_warned_of(levels: Any) -> None:
    tally = tally_of(bands("uint16"), (0, 40))
    assert warnings_of(tally, earlier=[{"model": "some", "levels_counts": levels}, {}]) == warnings_of(tally)
    (warned,) = set(warnings_of(tally, earlier=[{"levels_counts": '{"0": {}}'}])) - set(warnings_of(tally))
    assert "enhanced before, with a model" in warned


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (Support(added=1), "1 region of the output in DAPI has no support in the input"),
        (Support(lost=2), "2 regions that stand out in DAPI of the input are gone"),
        (Support(judged=2, agreement=1.58), "in 79% of cases"),
        (Support(judged=2, agreement=1.62), None),
        (Support(salient=100, salient_selected=69), "left out 31% of the pixels that stand out clearly in DAPI"),
        (Support(salient=100, salient_selected=71), None),
        (Support(), None),
    ],
)
def test_what_windows_give_reason_to_doubt_is_said_beyond_each_limit(seen: Support, said: str | None) -> None:
    tally = selecting(50)
    tally.trust = {0: Trust(support=seen)}
    found = warnings_of(tally, channel_names={0: "DAPI"})
    assert len(found) == (said is not None)
    assert said is None or said in found[0]


def test_images_unlike_those_of_training_are_named_beyond_distance_1() -> None:
    tally = selecting(50)
    for distance, count in ((0.99, 0), (1.01, 1)):
        far = Departure(distance, {"contrast": distance}, {"contrast": 2.0}, {"contrast": 3.0}, windows=8)
        tally.trust = {0: Trust(far)}
        found = warnings_of(tally)
        assert len(found) == count
    assert "cells stand out from the noise 2.7 times less (distance 1.0, limit 1)" in found[0]
