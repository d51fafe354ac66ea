"""Pictures are bounded, honest and drawn on one scale."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from imagecodecs import png_decode

from cellxlate.quality.report import pictures
from cellxlate.quality.report.pictures import choose_planes, detail_window, grey_limits, shrink, take_pictures
from cellxlate.stacks.stack import Stack


@dataclass
class Virtual:
    """Pixels made when asked for, as large as one likes; remembers the most that was asked for at once."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    largest_read: int = 0

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        rows, columns = (range(*part.indices(size)) for part, size in zip(key[-2:], self.shape[-2:], strict=True))
        self.largest_read = max(self.largest_read, len(rows) * len(columns))
        return np.add.outer(np.array(rows) % 7, np.array(columns) % 5).astype(self.dtype)


def blocks(plane: npt.NDArray[Any], step: int, keep: str) -> npt.NDArray[np.float64]:
    """Reduce block by block, slowly and plainly."""
    rows, columns = range(0, plane.shape[0], step), range(0, plane.shape[1], step)
    of = np.mean if keep == "mean" else np.max
    return np.array([[of(plane[r : r + step, c : c + step]) for c in columns] for r in rows], dtype=float)


@pytest.mark.parametrize("shape", [(1, 1), (17, 31), (40, 7), (64, 64), (65, 3)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_blocks_are_means_or_maxima_to_the_border(shape: tuple[int, int], dtype: str) -> None:
    plane = np.random.default_rng(0).integers(0, 120, shape).astype(dtype)
    for longest_px in (8, 16, 64):
        step = -(-max(shape) // longest_px)
        assert max(shrink(plane, longest_px).shape) <= longest_px
        assert np.allclose(shrink(plane, longest_px), blocks(plane, step, "mean"), rtol=1e-6)
        assert np.array_equal(shrink(plane, longest_px, keep="max"), blocks(plane, step, "max"))


def test_a_small_plane_is_returned_as_it_is_and_a_constant_stays_constant() -> None:
    plane = np.full((50, 60), 65535, np.uint16)
    assert shrink(plane, 64) is plane
    assert np.array_equal(shrink(plane, 7), np.full((6, 7), 65535.0))


def test_one_selected_pixel_survives_reduction() -> None:
    attention = np.zeros((1000, 1000), np.uint8)
    attention[777, 333] = 1
    assert shrink(attention, 20, keep="max").sum() == 1


@pytest.mark.parametrize(
    ("axes", "shape"), [("TCZYX", (3, 2, 4, 5, 6)), ("YXC", (5, 6, 2)), ("YX", (5, 6)), ("CZYX", (9, 1, 5, 6))]
)
def test_planes_are_chosen_from_the_wanted_channels_alone(axes: str, shape: tuple[int, ...]) -> None:
    stack = Stack.from_array(np.zeros(shape, np.uint8), axes)
    everything = list(stack.plane_indices())
    for channels in ([0], list(range(stack.channel_count))):
        for count in (1, 4, 6):
            chosen = choose_planes(stack, channels, count)
            assert 0 < len(chosen) <= count
            assert chosen == sorted(set(chosen), key=everything.index)
            assert {stack.channel_of(index) for index in chosen} == set(channels[:count])


def test_planes_are_spread_over_the_stack() -> None:
    stack = Stack.from_array(np.zeros((60, 2, 2), np.uint8), "ZYX")
    assert choose_planes(stack, [0]) == [(5,), (15,), (25,), (35,), (45,), (55,)]
    assert choose_planes(stack, [0], 100) == list(stack.plane_indices())


def test_pictures_of_a_plane_do_not_depend_on_the_bands_it_is_read_in(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(1)
    raw, enhanced = (draw.integers(0, 9999, (331, 517)).astype(np.uint16) for _ in range(2))
    attention = (draw.random(raw.shape) > 0.99).astype(np.uint8) * 200
    stacks = [Stack.from_array(plane) for plane in (raw, enhanced, attention)]
    whole = take_pictures(*stacks, planes=[()], longest_px=100)
    monkeypatch.setattr(pictures, "BAND_BYTES", 5000)
    banded = take_pictures(*stacks, planes=[()], longest_px=100)
    assert len(whole) == len(banded) == 2
    for ours, theirs in zip(whole, banded, strict=True):
        assert all(
            np.array_equal(getattr(ours, name), getattr(theirs, name)) for name in ("before", "attention", "after")
        )
    assert np.allclose(whole[0].before, blocks(raw, 6, "mean"))
    assert np.array_equal(whole[0].attention, blocks(attention, 6, "max"))
    assert np.allclose(whole[0].after, blocks(enhanced, 6, "mean"))


def test_a_detail_shows_the_stored_pixels_and_the_scale_follows_the_reduction() -> None:
    raw = np.random.default_rng(2).integers(0, 99, (900, 1000)).astype(np.uint8)
    attention = np.zeros(raw.shape, np.uint8)
    attention[400:500, 700:800] = 255
    stack = Stack(raw, "YX", pixel_size_um={"X": 0.5, "Y": 0.5})
    overview, detail = take_pictures(stack, stack, Stack.from_array(attention), planes=[()])
    assert (overview.reduction, overview.pixel_size_um) == (2, 1.0)
    assert (detail.reduction, detail.pixel_size_um, detail.before.shape) == (1, 0.5, (256, 256))
    assert detail.attention.sum() == attention.sum()
    top, left = (int(word.strip(",")) for word in detail.title.split() if word.strip(",").isdecimal())
    assert np.array_equal(detail.before, raw[top : top + 256, left : left + 256])


def test_huge_planes_are_pictured_in_bounded_memory() -> None:
    pixels, selected = (Virtual((1, 2_500, 9_000), np.dtype(dtype)) for dtype in ("uint16", "uint8"))
    stack, attention = Stack(pixels, "ZYX"), Stack(selected, "ZYX")
    overview, detail = take_pictures(stack, stack, attention, planes=[(0,)])
    assert max(overview.before.shape) <= 640
    assert detail.before.shape == (256, 256)
    assert pixels.largest_read * 2 <= pictures.BAND_BYTES < pixels.shape[1] * pixels.shape[2] * 2


@pytest.mark.parametrize("shape", [(1, 1), (300, 20), (20, 300), (256, 256), (257, 1000)])
def test_detail_windows_lie_inside_the_plane(shape: tuple[int, int]) -> None:
    for reduction in (1, 3):
        attention = shrink(np.ones(shape, np.uint8), reduction=reduction, keep="max")
        rows, columns = detail_window(attention, reduction=reduction, shape=shape)
        assert (rows.start, columns.start) >= (0, 0)
        assert (rows.stop, columns.stop) <= shape
        assert (rows.stop - rows.start, columns.stop - columns.start) == (min(shape[0], 256), min(shape[1], 256))


def test_before_and_after_share_their_limits_which_ignore_what_is_not_finite() -> None:
    dark, bright = np.full((50, 50), 10.0), np.full((50, 50), 30.0)
    bright[0, 0] = np.nan
    bright[0, 1] = np.inf
    assert grey_limits(dark, bright) == (10.0, 30.0)
    assert grey_limits(np.full((2, 2), 5)) == (5.0, 6.0)
    assert grey_limits(np.full((2, 2), np.nan)) == (0.0, 1.0)


def test_grey_goes_from_black_to_white_between_the_limits() -> None:
    plane = np.array([[0.0, 100.0, 150.0, 200.0, 999.0, np.nan]])
    assert png_decode(pictures.counts_png(plane, (100.0, 200.0))).tolist() == [[0, 0, 128, 255, 255, 0]]


def test_kept_pixels_are_clear_and_selected_ones_coloured() -> None:
    drawn = png_decode(pictures.attention_png(np.array([[0, 1, 128, 255]], np.uint8)))
    assert drawn[0, 0].tolist() == [0, 0, 0, 0]
    assert (drawn[0, 1:, 3] == 140).all()
    assert drawn[0, 3, :3].tolist() == [253, 231, 37]


def test_colours_of_attention_grow_lighter_throughout() -> None:
    drawn = png_decode(pictures.attention_png(np.arange(1, 256, dtype=np.uint8)[None]))[0, :, :3] / 255
    linear = np.where(drawn <= 0.04045, drawn / 12.92, ((drawn + 0.055) / 1.055) ** 2.4)
    lightness = 116 * np.cbrt(linear @ [0.2126, 0.7152, 0.0722]) - 16
    assert (np.diff(lightness) > -0.35).all()
    assert np.corrcoef(lightness, np.arange(255))[0, 1] > 0.995
