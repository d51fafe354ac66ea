"""Files and folders as a domain: every image opened, its levels measured, what teaches nothing refused."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cellxlate.errors import InputError, OptionError
from cellxlate.options import BESIDE, CHANNEL
from cellxlate.settings import Guide
from cellxlate.stacks.channel_names import channel_number
from cellxlate.stacks.intensity.range import measure_range
from cellxlate.stacks.intensity.stack_range import sample_windows
from cellxlate.stacks.read.open import find_images, open_stack
from cellxlate.stacks.read.sets.ome import one_of_each
from cellxlate.stacks.stack import PlaneIndex, Stack
from cellxlate.training.fields.patches import Domain, Field, has_contrast, window_px

LARGEST_KEPT_PX, KEPT_PX = 4_000_000, 64_000_000
"""Stacks of at most 4 megapixels are read at once, 64 megapixels of them; from others windows are read when drawn."""

MOST_OPEN_FILES = 64
"""Further files are opened anew for each window: a process may not hold thousands."""


def open_domain(
    paths: Sequence[Path],
    *,
    number: int,
    patch_px: int,
    load_px: int | None,
    channel: str | int | None = None,
    guide: Guide = "saliency",
    beside: Sequence[str | int] = (),
) -> Domain:
    """Open every image of some files and folders as one domain; of each, channels are seen `beside` the one chosen.

    Raises
    ------
    InputError
        Nothing to read, one image only, images smaller than a patch, several channels and none chosen, other numbers of
        channels, constant images, pixels that are not finite, no contrast, or no channel that is to be seen beside.
    """
    name = ("source", "target")[number]
    with ExitStack() as closing:
        files, left_out = find_images(paths, name)
        for line in left_out:
            warnings.warn(f"{name} images: {line}", stacklevel=2)
        fields = list(_open_fields(one_of_each(files), window_px(patch_px, load_px), channel, beside, closing))
        if len(fields) < 2:
            raise InputError(
                f"{name} images: found {len(fields)} plane, training needs at least 2 and better 20 or more"
            )
        if not any(has_contrast(field) for field in fields):
            raise InputError(
                f"none of the {name} images has contrast above its noise; check that these are the right files"
            )
        for number, asked in enumerate(beside):
            if not any(has_contrast(field.beside[number]) for field in fields):
                raise InputError(
                    f"none of the {name} images has contrast above its noise in the channel {str(asked)!r}, to be seen "
                    "beside", remedy=("leave it out of ", BESIDE),
                )  # fmt: skip
        closing.pop_all()  # from here on the domain closes them
    return Domain(fields, number, guide)


def _open_fields(
    paths: Sequence[Path], side: int, channel: str | int | None, beside: Sequence[str | int], closing: ExitStack
) -> Iterator[Field]:
    """Open and check files one by one; small stacks are read at once."""
    channels: dict[int, Path] = {}
    kept_px = open_files = 0
    for path in paths:
        stack = open_stack(path)
        closing.callback(stack.close)
        channels.setdefault(stack.channel_count, path)
        if len(channels) > 1:
            (count, first), (other, second) = channels.items()
            raise InputError(f"{first} has {count} channels and {second} has {other}; leave out those of another kind")
        chosen = check_stack(stack, path, side, channel)
        intensity = measure_range(checked_windows(stack, path, chosen))
        others = {one: measure_range(checked_windows(stack, path, one)) for one in _beside(stack, path, chosen, beside)}
        size_px = int(np.prod(stack.shape, dtype=np.int64))
        if size_px <= LARGEST_KEPT_PX and kept_px + size_px <= KEPT_PX:
            kept_px += size_px
            stack = in_memory(stack)
        elif open_files < MOST_OPEN_FILES:
            open_files += 1
        else:
            stack.close()
            stack = replace(stack, pixels=ReopenedPixels(stack), release=lambda: None)
        for index in stack.plane_indices():
            if stack.channel_of(index) == chosen:
                seen = (Field(stack, _in_channel(stack, index, one), levels) for one, levels in others.items())
                yield Field(stack, index, intensity, beside=tuple(seen))


def _in_channel(stack: Stack, index: PlaneIndex, channel: int) -> PlaneIndex:
    """Return the plane at the same place in another channel."""
    axis = next(stack.plane_axes.index(axis) for axis in "CS" if axis in stack.plane_axes)
    return (*index[:axis], channel, *index[axis + 1 :])


def _beside(stack: Stack, path: Path, chosen: int, beside: Sequence[str | int]) -> list[int]:
    """Return the numbers of the channels that are seen beside the chosen one.

    Raises
    ------
    OptionError
        There is no such channel, it is the chosen one, or it is named twice.
    """
    if beside and stack.channel_count == 1:
        raise OptionError(
            f"{path} has one channel, and {str(beside[0])!r} is to be seen beside it: sources and targets need both",
            remedy=("give images that hold it, or leave out ", BESIDE),
        )
    numbers = [channel_number(one, stack.channel_names, stack.channel_count, path) for one in beside]
    for at, number in enumerate(numbers):
        if number == chosen or number in numbers[:at]:
            what = "the channel to learn" if number == chosen else "named twice"
            raise OptionError(f"{path}: {str(beside[at])!r} is {what}", remedy=("leave it out of ", BESIDE))
    return numbers


def check_stack(stack: Stack, path: Path, side: int, channel: str | int | None) -> int:
    """Return the number of the channel to train on, after making sure that it is there and large enough.

    Raises
    ------
    InputError
        The stack is too small, or has several channels and none is chosen.
    OptionError
        It has no such channel.
    """
    rows, columns = stack.plane_shape
    if min(rows, columns) < side:
        raise InputError(f"{path}: {rows} x {columns} px is smaller than a patch of {side} x {side}; leave it out")
    if channel is None and stack.channel_count > 1:
        names = f" ({', '.join(stack.channel_names)})" if stack.channel_names else ""
        raise InputError(f"{path}: has {stack.channel_count} channels{names}", remedy=("choose one with ", CHANNEL))
    return 0 if channel is None else channel_number(channel, stack.channel_names, stack.channel_count, path)


def checked_windows(stack: Stack, path: Path, channel: int) -> Iterator[npt.NDArray[Any]]:
    """Pass on the sample of a channel, and raise InputError where it holds what nothing can be learned from."""
    lowest, highest = np.inf, -np.inf
    for window in sample_windows(stack, channel):
        if window.dtype.kind == "f" and not np.isfinite(window).all():
            count = int((~np.isfinite(window)).sum())
            raise InputError(f"{path}: {count} pixels are NaN or infinite; replace them or leave the image out")
        lowest, highest = min(lowest, float(window.min())), max(highest, float(window.max()))
        yield window
    if lowest == highest:
        raise InputError(f"{path}: all pixels are {lowest:g}; leave this image out")


def in_memory(stack: Stack) -> Stack:
    """Return a stack with its pixels read and its file released."""
    pixels = np.asarray(stack)
    stack.close()
    return replace(stack, pixels=pixels, release=lambda: None)


class ReopenedPixels:
    """Pixels of a file that is opened for each read."""

    def __init__(self, stack: Stack) -> None:
        if stack.path is None:
            raise ValueError("only a stack with a path can be opened again")
        self.path, self.axes = stack.path, stack.axes
        self.shape, self.dtype = stack.shape, stack.dtype

    def __getitem__(self, key: Any) -> Any:
        with open_stack(self.path, self.axes) as stack:
            return np.asarray(stack.pixels[key])
