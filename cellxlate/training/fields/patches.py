"""A domain: fields, their levels, and patches drawn from them.

Every draw is a function of (seed, domain, step) alone, so a resumed run sees the same data as an unbroken one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from cellxlate.settings import Guide
from cellxlate.stacks.intensity.noise_model import CameraNoise
from cellxlate.stacks.intensity.range import SMOOTHING_PX, IntensityRange, measure_range
from cellxlate.stacks.stack import PlaneIndex, Stack
from cellxlate.stacks.windows import mirrored
from cellxlate.training.fields.guides import REACH_PX, saliency
from cellxlate.training.fields.movies import as_movie

BLANK_SPAN_PER_NOISE = 6.5
"""A field whose span is at the noise floor (6) shows nothing."""

TURN_PX = 256
GRAIN_PX, ENLARGED_GRAIN_PX = 0.3, 0.5
"""Smoothed before a window is enlarged or reduced, as much more as it is reduced, and by so much more where it becomes
twice as large: the grain of a recording would become blobs that look like structure."""
REDRAWS = 16
CENTRE_PX = 2048


@dataclass(frozen=True)
class Mask:
    """A plane that somebody marked: above 0 in cells."""

    stack: Stack
    index: PlaneIndex

    def read(self, rows: slice = slice(None), columns: slice = slice(None)) -> npt.NDArray[np.float32]:
        """Return a window (Y, X): 1 in cells, 0 elsewhere."""
        return (self.stack.read(self.index, rows, columns) > 0).astype(np.float32)


@dataclass(frozen=True)
class Field:
    """One plane to draw patches from, with the levels of its channel and the mask of its cells where one was given.

    `beside` are the same place in other channels, which networks see beside it.
    """

    stack: Stack
    index: PlaneIndex
    intensity: IntensityRange
    mask: Mask | None = None
    beside: "tuple[Field, ...]" = ()

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.stack.plane_shape

    def unit(self, rows: slice, columns: slice) -> npt.NDArray[np.float32]:
        """Read a window (Y, X) in unit range."""
        return self.intensity.to_unit(self.stack.read(self.index, rows, columns))

    def with_beside(self, own: npt.NDArray[np.float32], rows: slice, columns: slice) -> npt.NDArray[np.float32]:
        """Return a window (Y, X) in unit range as networks see it: (C, Y, X) where there are channels beside."""
        return np.stack([own, *(one.unit(rows, columns) for one in self.beside)]) if self.beside else own

    @property
    def neighbour_axis(self) -> int | None:
        """Which axis of the index leads to neighbours: Z, or T where there is one z; None where there are none."""
        axes = (self.stack.plane_axes.find(axis) for axis in "ZT" if self.stack.size(axis) > 1)
        return next(axes, None)

    def unit_in_context(self, axis: int, context: int, rows: slice, columns: slice) -> npt.NDArray[np.float32]:
        """Read a window (C, Y, X) in unit range: the plane amid so many on either side along an axis of the index."""
        at = self.index[axis]
        positions = mirrored(at - context, at + context + 1, self.stack.size(self.stack.plane_axes[axis])).tolist()
        planes = [
            self.stack.read((*self.index[:axis], seen, *self.index[axis + 1 :]), rows, columns) for seen in positions
        ]
        return self.intensity.to_unit(np.stack(planes))


@dataclass(frozen=True)
class Patches:
    """Patches that were drawn together.

    Attributes
    ----------
    images : ndarray (B, C, Y, X) float32
        Unit range.
    guides : ndarray (B, 1, Y, X) float32
        1 in cells; -1 throughout an image that has no guide.
    """

    images: npt.NDArray[np.float32]
    guides: npt.NDArray[np.float32]


class Domain:
    """The fields of one domain.

    Parameters
    ----------
    fields : sequence of Field
        At least two, but for a source that is learned from alone.
    number : int
        0 for the source, 1 for the target; part of the seed of every draw.
    guide : {"none", "saliency", "masks"}
        Where guides come from. With "masks" a field without a mask has no guide; with "saliency" a mask comes first.
    by_area : bool
        Draw large fields more often, as many times per pass as they hold windows of 256 x 256 px.
    times : sequence of int, optional
        How many times as often each field takes part.
    noises : sequence of CameraNoise
        Of each field, where it was measured.
    context : int
        Planes on either side that are drawn with each: those of a stack, and frames of a movie made of a plane that
        has no neighbours.
    """

    def __init__(
        self,
        fields: Sequence[Field],
        number: int,
        guide: Guide = "saliency",
        *,
        by_area: bool = False,
        times: Sequence[int] | None = None,
        noises: Sequence[CameraNoise] = (),
        context: int = 0,
    ) -> None:
        self.fields = list(fields)
        self.noises = list(noises)
        self.number = number
        self.guide = guide
        self.context = context
        turns = [max(round(one.shape[0] * one.shape[1] / TURN_PX**2), 1) if by_area else 1 for one in self.fields]
        times = times or [1] * len(turns)
        self._turns = [
            number for number, (turn, more) in enumerate(zip(turns, times, strict=True)) for _ in range(turn * more)
        ]
        self._with_content = [number for number, one in enumerate(self.fields) if has_contrast(one)]
        self._saliency: dict[int, npt.NDArray[np.bool_]] = {}

    def __len__(self) -> int:
        return len(self.fields)

    def close(self) -> None:
        """Release the files."""
        for field in self.fields:
            field.stack.close()
            if field.mask:
                field.mask.stack.close()

    def draw(
        self,
        step: int,
        batch: int,
        *,
        patch_px: int,
        load_px: int | None,
        guided: bool,
        seed: int,
        turns: bool = True,
        content: bool = False,
        magnification: tuple[float, float] = (1.0, 1.0),
    ) -> Patches:
        """Draw the patches of one step: every field once per pass over the domain, in an order of that pass.

        Where less than half of the fields have masks to be guided by, every other patch is drawn from those.

        Parameters
        ----------
        step, batch, patch_px : int
            Counted from 0; how many patches, and their side.
        load_px : int or None
            Where given, a window is enlarged by load_px / patch_px (the paper resizes to 286 and crops 256).
        guided : bool
            Whether guides are wanted.
        turns : bool
            Vary by quarter turns and flips; otherwise by left-right flips alone.
        content : bool
            Draw again where a patch shows nothing but noise, which instance normalisation would amplify.
        magnification : (float, float)
            Enlarge every window by a factor between these, smoothed so that neither its grain nor its pixels show. A
            field that is smaller than a window is continued by its mirror image, once.
        """
        images, guides = [], []
        smallest, largest = magnification
        for ticket in range(step * batch, (step + 1) * batch):
            number, rng = self._turn_of(ticket, seed, guided)
            side = window_px(patch_px, load_px)
            if smallest < largest:
                factor = smallest * (largest / smallest) ** rng.random()
                side = min(round(side / factor), 2 * min(self.fields[number].shape))
            image, guide = self._draw_one(number, side, rng, guided, content)
            image, guide = _vary(image, guide, patch_px, turns, rng, smoothed=smallest < largest)
            if self.context and image.ndim == 2:
                image, guide = as_movie(image, guide, self.context, rng)
            images.append(image if image.ndim == 3 else image[None])
            guides.append(guide)
        return Patches(np.stack(images), np.stack(guides)[:, None])

    def _turn_of(self, ticket: int, seed: int, guided: bool) -> tuple[int, np.random.Generator]:
        """Return the field of a ticket, and its random numbers; where masks are few, every other ticket is a mask's."""
        numbers: Sequence[int] = self._turns
        masked = [number for number, one in enumerate(self.fields) if one.mask is not None]
        stream = 1
        if guided and self.guide == "masks" and 0 < 2 * len(masked) < len(self.fields):
            stream = 2 + ticket % 2
            ticket, numbers = ticket // 2, masked if stream == 2 else numbers
        lap, position = divmod(ticket, len(numbers))
        shuffle = np.random.default_rng([seed, self.number, lap, *([stream] if stream > 1 else [])])
        turn = int(shuffle.permutation(len(numbers))[position])
        return numbers[turn], np.random.default_rng([seed, self.number, lap, position, stream])

    def _draw_one(
        self, number: int, side: int, rng: np.random.Generator, guided: bool, content: bool
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Draw a window of a field; where content is asked for, try again there, elsewhere, and at a bright spot."""
        for attempt in range(REDRAWS if content else 1):
            if attempt >= REDRAWS // 2:
                number = int(rng.choice(self._with_content))
            row, column = (int(rng.integers(0, max(size - side, 0) + 1)) for size in self.fields[number].shape)
            image, guide = self._window(number, row, column, side, guided)
            if not content or shows_content(image):
                break
        else:
            number = int(rng.choice(self._with_content))
            row, column = brightest_window(self.fields[number], side)
            image, guide = self._window(number, row, column, side, guided)
        place = slice(row, row + side), slice(column, column + side)
        return self.fields[number].with_beside(image, *place), guide

    def _window(
        self, number: int, row: int, column: int, side: int, guided: bool
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return a window in unit range with its guide; saliency of stacks in memory is kept."""
        field = self.fields[number]
        guide = self.guide if guided else "none"
        if guide == "saliency" and field.mask is not None:
            guide = "masks"
        if side > min(field.shape):
            image, whole = self._window(number, 0, 0, min(field.shape), guided)
            beyond = [(0, side - min(field.shape))] * 2
            wider = [*[(0, 0)] * (image.ndim - 2), *beyond]
            return np.pad(image, wider, mode="symmetric"), np.pad(whole, beyond, mode="symmetric")
        if self.context and (axis := field.neighbour_axis) is not None:
            seen = field.unit_in_context(axis, self.context, slice(row, row + side), slice(column, column + side))
            return seen, read_window(field, row, column, side, guide)[1]
        if guide != "saliency" or not isinstance(field.stack.pixels, np.ndarray):
            return read_window(field, row, column, side, guide)
        if number not in self._saliency:
            self._saliency[number] = saliency(field.stack.read(field.index), field.intensity) > 0
        inside = slice(row, row + side), slice(column, column + side)
        return field.unit(*inside), self._saliency[number][inside].astype(np.float32)


def window_px(patch_px: int, load_px: int | None) -> int:
    """Return the side of the window that becomes a patch."""
    return patch_px if load_px is None else round(patch_px * patch_px / load_px)


def _vary(
    image: npt.NDArray[np.float32],
    guide: npt.NDArray[np.float32],
    patch_px: int,
    turns: bool,
    rng: np.random.Generator,
    *,
    smoothed: bool = False,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Bring an image (Y, X) or (C, Y, X) and its guide to the side of a patch, flipped and turned at random."""
    side = image.shape[-1]
    if side != patch_px:
        if smoothed:
            larger = min(max(patch_px / side - 1, 0.0), 1.0)
            smaller = max(side / patch_px - 1, 0.0)
            width = GRAIN_PX * (1 + smaller) + ENLARGED_GRAIN_PX * larger
            image = ndimage.gaussian_filter(image, (*[0] * (image.ndim - 2), width, width), truncate=3.0)
        sides = (*[1] * (image.ndim - 2), patch_px / side, patch_px / side)
        image = ndimage.zoom(image, sides, order=1, grid_mode=True, mode="nearest")
        guide = ndimage.zoom(guide, patch_px / side, order=0, grid_mode=True, mode="nearest")
    quarters, flip = int(rng.integers(4)), bool(rng.integers(2))
    if flip:
        image, guide = image[..., ::-1], guide[..., ::-1]
    if turns:
        image, guide = np.rot90(image, quarters, (-2, -1)), np.rot90(guide, quarters)
    return np.ascontiguousarray(image), np.ascontiguousarray(guide)


def read_window(
    field: Field, row: int, column: int, side: int, guide: Guide
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Read a square window in unit range with its guide; the guide is -1 where there is none."""
    if guide == "saliency":
        top, left = max(row - REACH_PX, 0), max(column - REACH_PX, 0)
        reach = side + REACH_PX
        counts = field.stack.read(field.index, slice(top, row + reach), slice(left, column + reach))
        inner = (slice(row - top, row - top + side), slice(column - left, column - left + side))
        return field.intensity.to_unit(counts[inner]), saliency(counts, field.intensity)[inner]
    window = slice(row, row + side), slice(column, column + side)
    image = field.unit(*window)
    return image, field.mask.read(*window) if guide == "masks" and field.mask else np.full_like(image, -1)


def of_beside(domain: Domain, number: int) -> Domain:
    """Return one of the channels that are seen beside, as a domain of its own."""
    return Domain([one.beside[number] for one in domain.fields], domain.number, "none")


def has_contrast(field: Field) -> bool:
    """Return whether the span of a field stands above the floor that its noise sets."""
    return _stands_out(field.intensity, 1.0 if field.stack.dtype.kind != "f" else 0.0)


def shows_content(image: npt.NDArray[np.float32]) -> bool:
    """Return whether a patch (Y, X) shows anything but noise."""
    return bool(image.min() < image.max()) and _stands_out(measure_range([image]), 0.0)


def _stands_out(intensity: IntensityRange, least: float) -> bool:
    return intensity.span > max(BLANK_SPAN_PER_NOISE * intensity.noise, least)


def central_window(field: Field, limit_px: int = 512) -> npt.NDArray[Any]:
    """Read the middle of a field, at most limit_px on a side, in counts."""
    return field.stack.read(field.index, *_centre(field, limit_px))


def central_sight(field: Field, limit_px: int) -> npt.NDArray[np.float32]:
    """Read the middle of a field as networks see it: (Y, X) in unit range, (C, Y, X) with channels beside it."""
    place = _centre(field, limit_px)
    return field.with_beside(field.unit(*place), *place)


def _centre(field: Field, limit_px: int) -> tuple[slice, slice]:
    rows, columns = (slice(max((size - limit_px) // 2, 0), (size + limit_px) // 2) for size in field.shape)
    return rows, columns


def brightest_window(field: Field, side: int) -> tuple[int, int]:
    """Return where a window around the brightest place in the middle of a field begins (row, column)."""
    rows, columns = _centre(field, CENTRE_PX)
    smooth = ndimage.gaussian_filter(field.unit(rows, columns), SMOOTHING_PX)
    brightest = np.unravel_index(int(smooth.argmax()), smooth.shape)
    first = [
        min(max(begin + int(at) - side // 2, 0), size - side)
        for begin, at, size in zip((rows.start, columns.start), brightest, field.shape, strict=True)
    ]
    return first[0], first[1]
