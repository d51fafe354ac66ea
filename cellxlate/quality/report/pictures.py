"""Pictures of planes: chosen, shrunk and read in bounded memory, drawn as PNG on one scale."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from imagecodecs import PNG, png_encode

from cellxlate.quality.checks import plane_label
from cellxlate.stacks.channel_names import shown_names
from cellxlate.stacks.luminance import RGB, of_colors
from cellxlate.stacks.stack import PlaneIndex, ReadPart, Stack, plane_reader

LONGEST_PX = 640
GAP_PX = 4
DETAIL_PX = 256
BAND_BYTES = 32 << 20
"""Planes are read in bands of about this size."""
OVERLAY_OPACITY = 0.55
PNG_LEVEL = 3
GREY_CODING = {"filter": PNG.FILTER.PAETH, "strategy": PNG.STRATEGY.RLE}
COLOUR_CODING = {"filter": PNG.FILTER.NO}
"""Grey pixels are like their neighbours and repeat little, colours of attention are few: a third of the time that
libpng's own choice takes, and smaller."""
DARKEST_PERCENTILE, BRIGHTEST_PERCENTILE = 0.5, 99.8

# Anchors of viridis (S. van der Walt and N. Smith, CC0), from attention just above 0 to 1.
VIRIDIS = (
    (68, 1, 84), (71, 19, 101), (72, 36, 117), (70, 52, 128), (65, 68, 135), (59, 82, 139), (52, 96, 141),
    (46, 110, 142), (41, 123, 142), (37, 136, 142), (33, 149, 140), (31, 162, 135), (39, 174, 129), (60, 187, 117),
    (92, 200, 99), (132, 212, 75), (170, 220, 50), (214, 226, 25), (253, 231, 37),
)  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """A plane, or a part of one, before and after.

    Attributes
    ----------
    title : str
        What is shown.
    before, after : ndarray (Y, X)
        In counts; (Y, X, 3) in colour.
    attention : ndarray of uint8 (Y, X)
        0 where the pixel was kept.
    pixel_size_um : float or None
        Micrometres per pixel of these arrays, along X.
    reduction : int
        Pixels of the stack per pixel of these arrays, in either direction.
    truth : ndarray (Y, X), optional
        In counts; drawn beside the others, on a scale of its own.
    overlay : str
        What `attention` shows.
    aspect : float
        Height of a pixel as it is drawn, in widths of one.
    note : str
        What must be known to read it.
    """

    title: str
    before: npt.NDArray[Any]
    attention: npt.NDArray[np.uint8]
    after: npt.NDArray[Any]
    pixel_size_um: float | None = None
    reduction: int = 1
    truth: npt.NDArray[Any] | None = None
    overlay: str = "Attention, over the input"
    aspect: float = 1.0
    note: str = ""


def choose_planes(stack: Stack, channels: Sequence[int], count: int = 6, *, in_color: bool = False) -> list[PlaneIndex]:
    """Return at most `count` planes of these channels, evenly spread over the stack, in the order of the stack.

    Parameters
    ----------
    stack : Stack
        No pixel of it is read.
    channels : sequence of int
        The channels that were enhanced; each gets an equal share while there are fewer channels than `count`.
    in_color : bool
        Whether red, green and blue are one picture: their planes are chosen once, as those of red.
    """
    if in_color and "C" not in stack.axes:
        channels = [RGB[0]]
    of_channel: dict[int, list[PlaneIndex]] = {channel: [] for channel in channels[:count]}
    for index in stack.plane_indices():
        planes = of_channel.get(stack.channel_of(index))
        if planes is not None and not (in_color and index != of_colors(stack, index)[0]):
            planes.append(index)
    chosen: list[PlaneIndex] = []
    for number, planes in enumerate(of_channel.values()):
        share = (count + number) // len(of_channel)
        parts = min(share, len(planes))
        chosen += [planes[(2 * part + 1) * len(planes) // (2 * parts)] for part in range(parts)]
    return sorted(chosen)


def reduction_of(shape: tuple[int, ...], longest_px: int = LONGEST_PX) -> int:
    """Return by how much a plane must be reduced so that its longer side is at most `longest_px`."""
    return max(-(-max(shape) // longest_px), 1)


def shrink(
    plane: npt.NDArray[Any],
    longest_px: int = LONGEST_PX,
    *,
    keep: Literal["mean", "max"] = "mean",
    reduction: int | None = None,
) -> npt.NDArray[Any]:
    """Reduce a plane by whole factors, so that its longer side is at most `longest_px`.

    Parameters
    ----------
    plane : ndarray (Y, X), or (Y, X, 3) in colour
        Any dtype.
    longest_px : int
        Longest side of the result.
    keep : {"mean", "max"}
        Mean of each block, for intensities; or its maximum, for attention, so that no small selection is lost.
    reduction : int, optional
        Side of the blocks; computed from the plane's shape by default.

    Returns
    -------
    ndarray (Y', X')
        The plane itself where it is small enough; else float64 for means, and the plane's dtype for maxima. Blocks at
        the lower and right border hold what is left.
    """
    step = reduction or reduction_of(plane.shape[:2], longest_px)
    if step == 1:
        return plane
    if plane.ndim == 3:
        samples = (shrink(one, keep=keep, reduction=step) for one in np.moveaxis(plane, -1, 0))
        return np.stack(list(samples), axis=-1)
    rest = [(0, -size % step) for size in plane.shape]
    if keep == "max":
        return _blocks(np.maximum, np.pad(plane, rest, mode="edge"), step, plane.dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        sums = _blocks(np.add, np.pad(plane, rest), step, np.dtype(np.float64))
    sizes = [np.minimum(step, size - np.arange(0, size, step)) for size in plane.shape]
    return np.asarray(sums / np.outer(*sizes))


def _blocks(operation: np.ufunc, pixels: npt.NDArray[Any], step: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Reduce blocks of `step` x `step`; the last axis by slices, for which numpy is several times as fast."""
    rows = operation.reduce(pixels.reshape(-1, step, pixels.shape[1]), axis=1, dtype=dtype)
    return np.asarray(functools.reduce(operation, (rows[:, first::step] for first in range(step))))


def take_pictures(
    stack: Stack, enhanced: Stack, attention: Stack, *, planes: Sequence[PlaneIndex], longest_px: int = LONGEST_PX,
    in_color: bool = False,
) -> list[Picture]:  # fmt: skip
    """Read pictures of some planes, band by band: an overview and, where that is reduced, a detail at full resolution.

    Parameters
    ----------
    stack, enhanced, attention : Stack
        Input, output and attention (uint8), of the same shape.
    planes : sequence of plane indices
        As `choose_planes` returns them.
    longest_px : int
        Longest side of an overview; details have at most 256 px.
    in_color : bool
        Whether red, green and blue are shown together; attention is the same in all three.
    """
    step = reduction_of(stack.plane_shape, longest_px)
    size_um = stack.pixel_size_um.get("X")
    pictures = []
    for index in planes:
        selected = _reader(attention, index)
        before, after = (_color_reader(one, index) if in_color else _reader(one, index) for one in (stack, enhanced))
        label = _title(stack, index, in_color=in_color)
        overview = Picture(
            title=label,
            before=_read_shrunk(before, stack, step=step, keep="mean"),
            attention=_read_shrunk(selected, attention, step=step, keep="max"),
            after=_read_shrunk(after, enhanced, step=step, keep="mean"),
            pixel_size_um=size_um * step if size_um else None,
            reduction=step,
        )
        pictures.append(overview)
        if step > 1:
            rows, columns = detail_window(overview.attention, reduction=step, shape=stack.plane_shape)
            title = f"{label}, detail at full resolution from row {rows.start}, column {columns.start}"
            parts = before(rows, columns), selected(rows, columns), after(rows, columns)
            pictures.append(Picture(title, *parts, pixel_size_um=size_um))
    return pictures


def _reader(stack: Stack, index: PlaneIndex) -> ReadPart:
    return plane_reader(stack, index, most_px=BAND_BYTES // stack.dtype.itemsize)


def _color_reader(stack: Stack, index: PlaneIndex) -> ReadPart:
    """Return what reads parts of red, green and blue together: (rows, columns, 3)."""
    readers = [_reader(stack, one) for one in of_colors(stack, index)]

    def read(rows: slice, columns: slice = slice(None), /) -> npt.NDArray[Any]:
        return np.stack([one(rows, columns) for one in readers], axis=-1)

    return read


def _read_shrunk(read: ReadPart, stack: Stack, *, step: int, keep: Literal["mean", "max"]) -> npt.NDArray[Any]:
    """Read a plane in bands of whole blocks and reduce each."""
    rows, columns = stack.plane_shape
    band = max(BAND_BYTES // max(columns * stack.dtype.itemsize * step, 1), 1) * step
    return np.concatenate([
        shrink(read(slice(top, min(top + band, rows)), slice(0, columns)), keep=keep, reduction=step)
        for top in range(0, rows, band)
    ])  # fmt: skip


def _title(stack: Stack, index: PlaneIndex, *, in_color: bool = False) -> str:
    axes, names = stack.plane_axes, stack.channel_names
    if in_color:
        at = axes.index("S")
        axes, index = axes.replace("S", ""), (*index[:at], *index[at + 1 :])
    label = plane_label(index, axes, shown_names(stack)) if index else "Plane"
    return f"{label} ({names[index[axes.index('C')] if 'C' in axes else 0]})" if names else label


def detail_window(attention: npt.NDArray[np.uint8], *, reduction: int, shape: tuple[int, int]) -> tuple[slice, slice]:
    """Return the window of a plane, at most 256 px on a side, where attention selects most.

    Parameters
    ----------
    attention : ndarray of uint8 (Y', X')
        The plane's attention, reduced.
    reduction : int
        By how much.
    shape : (int, int)
        Rows and columns of the plane.
    """
    side = max(DETAIL_PX // reduction, 1)
    sums = np.pad((attention > 0).astype(np.int64).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    tall, wide = min(side, attention.shape[0]), min(side, attention.shape[1])
    inside = sums[tall:, wide:] - sums[:-tall, wide:] - sums[tall:, :-wide] + sums[:-tall, :-wide]
    row, column = np.unravel_index(int(inside.argmax()), inside.shape)
    top = max(min(int(row) * reduction, shape[0] - DETAIL_PX), 0)
    left = max(min(int(column) * reduction, shape[1] - DETAIL_PX), 0)
    return slice(top, min(top + DETAIL_PX, shape[0])), slice(left, min(left + DETAIL_PX, shape[1]))


def grey_limits(*planes: npt.NDArray[Any]) -> tuple[float, float]:
    """Return the counts that are drawn black and white, for all planes together. NaN and infinities do not count."""
    values = np.concatenate([plane[np.isfinite(plane)].astype(np.float64).ravel() for plane in planes])
    if not values.size:
        return 0.0, 1.0
    low, high = (float(level) for level in np.percentile(values, [DARKEST_PERCENTILE, BRIGHTEST_PERCENTILE]))
    return low, high if high > low else low + 1.0


def counts_png(plane: npt.NDArray[Any], limits: tuple[float, float]) -> bytes:
    """Draw counts, (Y, X) or (Y, X, 3) in colour, between the limits from black to white; NaN is drawn black."""
    unit = (np.nan_to_num(plane.astype(np.float64)) - limits[0]) / (limits[1] - limits[0])
    return _png(np.rint(np.clip(unit, 0, 1) * 255).astype(np.uint8))


def attention_png(attention: npt.NDArray[np.uint8]) -> bytes:
    """Draw attention in viridis, to be laid over the input: clear where the pixel was kept."""
    steps = np.linspace(0, 1, len(VIRIDIS))
    level = np.arange(256) / 255
    palette = np.stack([np.interp(level, steps, channel) for channel in zip(*VIRIDIS, strict=True)], axis=1)
    opacity = np.full(256, OVERLAY_OPACITY * 255)
    colours = np.rint(np.column_stack([palette, opacity])).astype(np.uint8)  # (256, 4)
    colours[0] = 0
    return _png(colours[attention])


def _png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Compress an image; the room for it is given, because imagecodecs reckons too little for narrow images."""
    room_bytes = pixels.size + pixels.shape[0] + pixels.size // 100 + 4096
    coding = GREY_CODING if pixels.ndim == 2 else COLOUR_CODING
    return bytes(png_encode(np.ascontiguousarray(pixels), level=PNG_LEVEL, out=room_bytes, **coding))


def triptych_png(
    before: npt.NDArray[np.floating], attention: npt.NDArray[np.floating], after: npt.NDArray[np.floating]
) -> bytes:
    """Return a PNG of before, attention and after side by side; before and after share one scale.

    Parameters
    ----------
    before, after : ndarray (Y, X)
        Unit range: 0 is drawn black, 1 white.
    attention : ndarray (Y, X)
        In [0, 1], drawn from black to white.
    """
    gap = np.ones((before.shape[0], GAP_PX))
    row = np.concatenate([before, gap, attention, gap, after], axis=1)
    return bytes(png_encode(np.rint(np.clip(row, 0, 1) * 255).astype(np.uint8)))
