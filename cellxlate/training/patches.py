"""A domain: the fields of one folder, their levels, and patches drawn from them.

Every draw is a function of (seed, domain, step) alone, so a resumed run sees the same data as an unbroken one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from cellxlate.errors import InputError
from cellxlate.stacks.intensity import Levels, stack_levels
from cellxlate.stacks.reading import find_stacks, open_stack
from cellxlate.stacks.stack import PlaneIndex, Stack
from cellxlate.training.guides import REACH_PX, saliency

LARGEST_KEPT_PX, KEPT_PX = 4_000_000, 64_000_000
"""Fields of at most 4 megapixels stay in memory, 64 megapixels of them; larger ones are read window by window."""

BLANK_SPAN_PER_NOISE = 6.5
"""A field whose span is at the noise floor (6) shows nothing."""


@dataclass(frozen=True)
class Field:
    """One plane to draw patches from, with the levels of its channel and the mask of its cells where one was given."""

    stack: Stack
    index: PlaneIndex
    levels: Levels
    mask: npt.NDArray[np.float32] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.stack.plane_shape


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
        At least two.
    number : int
        0 for the source, 1 for the target; part of the seed of every draw.
    """

    def __init__(self, fields: Sequence[Field], number: int) -> None:
        self.fields = list(fields)
        self.number = number
        self._kept: dict[int, tuple[npt.NDArray[Any], npt.NDArray[np.float32]]] = {}
        self._kept_px = 0

    def __len__(self) -> int:
        return len(self.fields)

    def draw(self, step: int, batch: int, *, patch_px: int, load_px: int | None, guided: bool, seed: int) -> Patches:
        """Draw the patches of one step: every field once per pass over the domain, in an order of that pass.

        Parameters
        ----------
        step : int
            Counts from 0.
        batch : int
            Patches to draw.
        patch_px : int
            Side of a patch.
        load_px : int or None
            Where given, a window is enlarged by load_px / patch_px (the paper resizes to 286 and crops 256).
        guided : bool
            Whether guides are wanted.
        seed : int
            Of the run.
        """
        images, guides = [], []
        for ticket in range(step * batch, (step + 1) * batch):
            lap, position = divmod(ticket, len(self.fields))
            order = np.random.default_rng([seed, self.number, lap]).permutation(len(self.fields))
            rng = np.random.default_rng([seed, self.number, lap, position, 1])
            number = int(order[position])
            side = patch_px if load_px is None else round(patch_px * patch_px / load_px)
            row, column = (int(rng.integers(0, size - side + 1)) for size in self.fields[number].shape)
            image, guide = self._window(number, row, column, side, guided)
            image, guide = _vary(image, guide, patch_px, rng)
            images.append(image)
            guides.append(guide)
        return Patches(np.stack(images)[:, None], np.stack(guides)[:, None])

    def _window(
        self, number: int, row: int, column: int, side: int, guided: bool
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return a window in unit range with its guide; small fields are kept in memory with theirs."""
        field = self.fields[number]
        size_px = field.shape[0] * field.shape[1]
        if number not in self._kept:
            if size_px > LARGEST_KEPT_PX or self._kept_px + size_px > KEPT_PX:
                return read_window(field, row, column, side, guided)
            counts = field.stack.read(field.index)
            guide = field.mask if field.mask is not None else saliency(counts, field.levels)
            self._kept[number] = counts, guide
            self._kept_px += size_px
        counts, guide = self._kept[number]
        inside = slice(row, row + side), slice(column, column + side)
        image = field.levels.to_unit(counts[inside])
        return image, guide[inside] if guided else np.full(image.shape, -1, np.float32)


def _vary(
    image: npt.NDArray[np.float32], guide: npt.NDArray[np.float32], patch_px: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Bring an image and its guide to the side of a patch, flipped and turned at random."""
    side = image.shape[0]
    if side != patch_px:
        image = ndimage.zoom(image, patch_px / side, order=1, grid_mode=True, mode="nearest")
        guide = ndimage.zoom(guide, patch_px / side, order=0, grid_mode=True, mode="nearest")
    turns, flip = int(rng.integers(4)), bool(rng.integers(2))
    if flip:
        image, guide = image[:, ::-1], guide[:, ::-1]
    return np.ascontiguousarray(np.rot90(image, turns)), np.ascontiguousarray(np.rot90(guide, turns))


def read_window(
    field: Field, row: int, column: int, side: int, guided: bool
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Read a square window in unit range with its guide; the guide is -1 where none is wanted."""
    margin = REACH_PX if guided and field.mask is None else 0
    top, left = max(row - margin, 0), max(column - margin, 0)
    counts = field.stack.read(field.index, slice(top, row + side + margin), slice(left, column + side + margin))
    inner = (slice(row - top, row - top + side), slice(column - left, column - left + side))
    image = field.levels.to_unit(counts[inner])
    if not guided:
        return image, np.full(image.shape, -1, np.float32)
    if field.mask is not None:
        return image, field.mask[row : row + side, column : column + side]
    return image, saliency(counts, field.levels)[inner]


def open_domain(
    paths: Sequence[Path], *, number: int, patch_px: int, load_px: int | None, channel: int | None = None
) -> Domain:
    """Open every image of some files and folders as one domain.

    Raises
    ------
    InputError
        Nothing to read, one image only, images smaller than a patch, several channels and none chosen, or no contrast.
    """
    name = ("source", "target")[number]
    side = patch_px if load_px is None else round(patch_px * patch_px / load_px)
    fields: list[Field] = []
    for path in find_stacks(paths, name):
        stack = open_stack(path)
        if stack.channel_count > 1 and channel is None:
            raise InputError(f"{path}: has {stack.channel_count} channels; choose one with --channel")
        if min(stack.plane_shape) < side:
            rows, columns = stack.plane_shape
            raise InputError(f"{path}: {rows} x {columns} px is smaller than a patch of {side} x {side}; leave it out")
        chosen = channel or 0
        levels = stack_levels(stack, [chosen])[chosen]
        fields += [Field(stack, index, levels) for index in stack.plane_indices() if stack.channel_of(index) == chosen]
    if len(fields) < 2:
        raise InputError(f"the {name} images are {len(fields)} plane; training needs at least 2, better 20 or more")
    if not any(has_contrast(field) for field in fields):
        raise InputError(
            f"none of the {name} images has contrast above its noise; check that these are the right files"
        )
    return Domain(fields, number)


def has_contrast(field: Field) -> bool:
    """Return whether the span of a field stands above the floor that its noise sets."""
    return field.levels.span > max(BLANK_SPAN_PER_NOISE * field.levels.noise, 1.0)


def central_window(field: Field, limit_px: int = 512) -> npt.NDArray[Any]:
    """Read the middle of a field, at most limit_px on a side, in counts."""
    rows, columns = (slice(max((size - limit_px) // 2, 0), (size + limit_px) // 2) for size in field.shape)
    return field.stack.read(field.index, rows, columns)


def attach_masks(domain: Domain, masks: Mapping[str, npt.NDArray[Any]]) -> Domain:
    """Return the domain with masks on the fields whose name has one.

    Raises
    ------
    InputError
        A mask has another size than its image, or no mask matches.
    """
    fields = []
    for field in domain.fields:
        mask = masks.get(field.stack.name)
        if mask is not None and mask.shape != field.shape:
            raise InputError(
                f"the mask of {field.stack.name} is {mask.shape}, its image {field.shape}; they must agree"
            )
        fields.append(
            field if mask is None else Field(field.stack, field.index, field.levels, (mask > 0).astype(np.float32))
        )
    if not any(field.mask is not None for field in fields):
        raise InputError("no mask has the name of a source image; name them alike")
    return Domain(fields, domain.number)
