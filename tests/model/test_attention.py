"""The promise as laws: what the gate does not select keeps its bits, in every dtype."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cellxlate.model.attention import ATTENTION_STEPS, apply_change, attention_image, change, gate, quantise

DTYPES = ("uint8", "uint16", "int16", "uint32", "float32", "float64")
ALL_STEPS = np.arange(ATTENTION_STEPS + 1, dtype=np.uint16)


def bits(values: np.ndarray) -> np.ndarray:
    """The stored bytes, so that NaN payloads and signed zeros count."""
    return np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}")


def awkward_values(dtype: str) -> np.ndarray:
    """The values of a dtype that arithmetic is most likely to damage."""
    if np.dtype(dtype).kind != "f":
        limits = np.iinfo(dtype)
        return np.array([limits.min, limits.min + 1, 0, 1, limits.max - 1, limits.max], dtype)
    info = np.finfo(dtype)
    numbers = np.array([0.0, -0.0, np.inf, -np.inf, info.max, info.min, info.tiny, info.smallest_subnormal], dtype)
    quiet, signalling = (
        np.array([0x7FC01234, 0x7F812345], np.uint32).view(np.float32)
        if dtype == "float32"
        else np.array([0x7FF8000000001234, 0x7FF0000000012345], np.uint64).view(np.float64)
    )
    payloads = np.empty(2, dtype)
    bits(payloads)[:] = bits(np.array([quiet, signalling], dtype))
    return np.concatenate([numbers, payloads])


# quantise


def test_attention_is_kept_in_steps_and_what_is_no_number_is_nothing():
    attention = np.array([-0.5, 0.0, 0.25, 1.0, 1.5, np.nan, np.inf, -np.inf], np.float32)
    assert quantise(attention).tolist() == [0, 0, 256, 1024, 1024, 0, 1024, 0]
    assert quantise(attention).dtype == np.uint16


def test_rounding_noise_does_not_move_a_pixel_across_the_threshold():
    rng = np.random.default_rng(0)
    attention = rng.integers(0, 1025, 5000) / 1024
    wobbled = attention + rng.uniform(-1e-6, 1e-6, 5000)
    for threshold in (0.1, 0.25, 0.5):
        assert np.array_equal(gate(quantise(attention), threshold) > 0, gate(quantise(wobbled), threshold) > 0)


# gate


@given(st.floats(0, 1))
def test_the_gate_is_exactly_zero_at_and_below_the_threshold_only(threshold):
    opened = gate(ALL_STEPS, threshold)
    selected = threshold < ALL_STEPS / ATTENTION_STEPS
    assert np.array_equal(opened > 0, selected)
    assert not opened[~selected].any()
    assert opened.min() >= 0
    assert opened.max() <= 1


@given(st.floats(0, 0.99))
def test_the_gate_rises_without_a_jump(threshold):
    opened = gate(ALL_STEPS, threshold).astype(np.float64)
    steepest = 1 / ATTENTION_STEPS / (1 - threshold)
    assert np.diff(opened).min() >= 0
    assert np.diff(opened).max() <= steepest + 1e-6
    assert opened[-1] == 1


def test_the_gate_is_the_ramp_of_the_method():
    assert gate(np.array([0, 102, 103, 512, 1024], np.uint16), 0.1) == pytest.approx(
        [0, 0, (103 / 1024 - 0.1) / 0.9, (0.5 - 0.1) / 0.9, 1], abs=1e-7
    )
    assert gate(np.array([256, 257], np.uint16), 0.25)[0] == 0
    assert gate(np.array([256, 257], np.uint16), 0.25)[1] > 0


def test_threshold_one_selects_nothing():
    assert not gate(ALL_STEPS, 1.0).any()
    assert gate(ALL_STEPS, 1.0).dtype == np.float32


# change


def test_the_change_is_the_gated_difference():
    opened = np.array([0, 0.5, 1], np.float32)
    proposal, plane = np.array([9, 3, 4], np.float32), np.array([1, 1, 6], np.float32)
    assert change(opened, proposal, plane).tolist() == [0, 1, -2]
    assert change(opened, proposal, plane).dtype == np.float32


def test_a_proposal_that_is_not_finite_changes_nothing_where_the_gate_is_closed():
    opened = np.zeros(3, np.float32)
    proposal, plane = np.array([np.nan, np.inf, -np.inf], np.float32), np.array([1, np.inf, 1], np.float32)
    assert bits(change(opened, proposal, plane)).tolist() == [0, 0, 0]


# apply_change


@pytest.mark.parametrize("dtype", DTYPES)
def test_kept_pixels_have_the_bits_of_the_input(dtype):
    raw = awkward_values(dtype)
    anything = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30, 0.5])
    for value in anything:
        kept = apply_change(raw, np.full(raw.shape, value), np.zeros(raw.shape, np.float32))
        assert np.array_equal(bits(kept), bits(raw))
        assert kept.dtype == raw.dtype
        assert kept is not raw


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(DTYPES))
def test_kept_pixels_have_the_bits_of_the_input_whatever_the_pixels(data, dtype):
    shape = (4, 7)
    raw = data.draw(hnp.arrays(dtype, shape))
    counts = data.draw(hnp.arrays("float32", shape, elements=st.floats(width=32)))
    opened = data.draw(hnp.arrays("float32", shape, elements=st.sampled_from([0.0, 0.001, 0.5, 1.0])))
    enhanced = apply_change(raw, counts, opened)
    kept = opened == 0
    assert np.array_equal(bits(enhanced[kept]), bits(raw[kept]))
    assert enhanced.dtype == raw.dtype


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(("uint8", "uint16", "int16", "uint32")))
def test_selected_integers_are_the_rounded_and_limited_sum(data, dtype):
    limits = np.iinfo(dtype)
    raw = data.draw(hnp.arrays(dtype, 20))
    counts = data.draw(hnp.arrays("float64", 20, elements=st.floats(-1e10, 1e10)))
    enhanced = apply_change(raw, counts, np.ones(20, np.float32))
    for before, added, after in zip(raw.tolist(), counts.tolist(), enhanced.tolist(), strict=True):
        exact = before + added
        assert limits.min <= after <= limits.max
        if exact <= limits.min or exact >= limits.max:
            assert after == (limits.min if exact <= limits.min else limits.max)
        else:
            assert abs(after - exact) <= 0.5


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32"])
def test_nothing_wraps_around_at_the_limits(dtype):
    limits = np.iinfo(dtype)
    raw = np.array([limits.max, limits.max, limits.min, limits.min], dtype)
    moved = apply_change(raw, np.array([1.0, 1e12, -1.0, -1e12]), np.ones(4, np.float32))
    assert moved.tolist() == raw.tolist()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32"])
def test_counts_are_rounded_to_the_nearest(dtype):
    raw = np.full(6, 100, dtype)
    moved = apply_change(raw, np.array([0.49, 0.51, -0.49, -0.51, 7.9, -7.9]), np.ones(6, np.float32))
    assert moved.tolist() == [100, 101, 100, 99, 108, 92]


def test_large_counts_stay_exact():
    raw = np.array([2**24 + 1, 2**31 + 3, 2**32 - 2], np.uint32)
    opened = np.ones(3, np.float32)
    assert apply_change(raw, np.zeros(3, np.float32), opened).tolist() == raw.tolist()
    assert apply_change(raw, np.ones(3, np.float32), opened).tolist() == [2**24 + 2, 2**31 + 4, 2**32 - 1]


def test_double_precision_stays_exact():
    raw = np.array([1 / 3, 2**53 - 1.0, 1e-300])
    opened = np.ones(3, np.float32)
    assert np.array_equal(bits(apply_change(raw, np.zeros(3), opened)), bits(raw))
    added = np.array([1e-16, 1.0, 1e-301])
    assert np.array_equal(apply_change(raw, added, opened), raw + added)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_change_that_is_not_finite_keeps_the_pixel(dtype):
    raw = np.array([7, 7, 7, 7], dtype)
    moved = apply_change(raw, np.array([np.nan, np.inf, -np.inf, 2.0]), np.ones(4, np.float32))
    assert moved.tolist() == [7, 7, 7, 9]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_pixel_that_is_not_finite_or_would_overflow_is_kept(dtype):
    raw = awkward_values(dtype)
    strange = ~np.isfinite(raw)
    largest = np.finfo(dtype).max
    moved = apply_change(raw, np.full(raw.shape, largest, np.float64), np.ones(raw.shape, np.float32))
    assert np.array_equal(bits(moved[strange]), bits(raw[strange]))
    assert moved[raw == largest] == largest


def test_the_input_is_not_written_to():
    raw = np.arange(5, dtype=np.uint16)
    apply_change(raw, np.full(5, 3.0), np.ones(5, np.float32))
    assert raw.tolist() == [0, 1, 2, 3, 4]


# attention_image


@given(st.floats(0, 1))
def test_the_attention_image_is_zero_exactly_where_the_gate_is(threshold):
    opened = gate(ALL_STEPS, threshold)
    written = attention_image(opened)
    assert written.dtype == np.uint8
    assert np.array_equal(written == 0, opened == 0)
    assert np.abs(written / 255 - opened).max() <= 1 / 255
    assert (np.diff(written.astype(int)) >= 0).all()


def test_the_faintest_gate_is_still_visible_and_the_widest_is_white():
    assert attention_image(np.array([0, 1e-30, 0.5, 1], np.float32)).tolist() == [0, 1, 128, 255]
