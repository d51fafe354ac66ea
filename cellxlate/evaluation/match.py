"""Which files belong together: an image, what was made of it, its truth, its mask. Matched by file name."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cellxlate.errors import InputError
from cellxlate.stacks.masks.names import EXPECTED_WHOLE, masks_of
from cellxlate.stacks.naming import first_names
from cellxlate.stacks.read.not_images import RESULT_ENDINGS, is_label_image
from cellxlate.stacks.read.open import find_stacks, open_stack, stack_name
from cellxlate.stacks.stack import PlaneIndex, Stack


@dataclass(frozen=True)
class Case:
    """An image and what belongs to it; None where there is no such file.

    Attributes
    ----------
    name : str
        File name of the source without its endings.
    source : Path
        The image as it was taken.
    enhanced, attention, truth, mask : Path or None
        What was made of it, and what it is compared with.
    """

    name: str
    source: Path
    enhanced: Path | None = None
    attention: Path | None = None
    truth: Path | None = None
    mask: Path | None = None


def match_cases(
    source: Path, *, enhanced: Path | None = None, truth: Path | None = None, masks: Path | None = None
) -> list[Case]:
    """Return the images of a folder, sorted by name, each with the files of the same name in the other folders.

    Parameters
    ----------
    source : Path
        A folder of images, or one image.
    enhanced : Path, optional
        Must hold one image for each source: `NAME_enhanced`, `NAME`, or one other whose name begins with NAME.
    truth : Path, optional
        May hold fewer images than the source, of the very same name, but at least one.
    masks : Path, optional
        May hold fewer masks than the source has images, but at least one, named as for training; may be the folder of
        the images.

    Warns
    -----
    UserWarning
        Masks are given, and some of the images have none.

    Raises
    ------
    InputError
        A folder is missing, empty, holds no image of a fitting name, or two that fit.
    """
    found = by_name(source, "source")
    sources = {
        name: path
        for name, path in found.items()
        if source.is_file() or not (name.endswith(RESULT_ENDINGS) or is_label_image(path, found, open_stack))
    }
    if not sources:
        raise InputError(
            f"the source folder {source} holds only results of earlier runs; give a folder of input images"
        )
    made = by_name(enhanced, "enhanced") if enhanced else {}
    truths = _same_names(sources, truth, "truth")
    found_masks = masks_of(sources, masks, list(sources.values())) if masks else {}
    if bare := [name for name in sorted(sources) if masks and name not in found_masks]:
        warnings.warn(
            f"{len(bare)} of {len(sources)} images have no mask in {masks} ({first_names(bare, 3)}); {EXPECTED_WHOLE}",
            stacklevel=2,
        )
    cases = []
    for name, path in sorted(sources.items()):
        result = _result_of(name, made, enhanced) if enhanced else None
        cases.append(Case(name, path, result, made.get(f"{name}_attention"), truths.get(name), found_masks.get(name)))
    return cases


def by_name(folder: Path, what: str) -> dict[str, Path]:
    """Return the images of a folder by their names without endings.

    Raises
    ------
    InputError
        The folder is missing or empty, or two files differ in their endings alone.
    """
    paths: dict[str, Path] = {}
    for path in find_stacks([folder], what):
        name = stack_name(path)
        if name in paths:
            raise InputError(f"{paths[name]} and {path} have one name; keep one of them in the {what} folder")
        paths[name] = path
    return paths


def _same_names(sources: Mapping[str, Path], folder: Path | None, what: str) -> dict[str, Path]:
    """Return the images of a folder that are named like sources; the endings of results do not count."""
    if folder is None:
        return {}
    images = by_name(folder, what)
    fitting = {name: images[name] for name in sources if name in images}
    if not fitting:
        raise InputError(
            f"no image in the {what} folder {folder} is named like a source image ({next(iter(images))}, expected for "
            f"example {next(iter(sources))}); name them alike"
        )
    return fitting


def _result_of(name: str, made: Mapping[str, Path], folder: Path) -> Path:
    """Return the enhanced image of a source."""
    for exact in (f"{name}_enhanced", name):
        if exact in made:
            return made[exact]
    fitting = [
        path
        for other, path in made.items()
        if other.startswith(name) and not other[len(name)].isalnum() and not other.endswith("_attention")
    ]
    if len(fitting) > 1:
        raise InputError(
            f"{fitting[0]} and {fitting[1]} both begin with {name}; keep one of them, or name it {name}_enhanced"
        )
    if not fitting:
        raise InputError(
            f"the folder {folder} has no image for {name}; expected {name}_enhanced.ome.tif or another name that "
            f"begins with {name}"
        )
    return fitting[0]


def index_in(other: Stack, stack: Stack, index: PlaneIndex) -> PlaneIndex:
    """Return where a plane of a stack lies in another stack of the same size, whose axes may be in another order."""
    position = dict(zip(stack.plane_axes, index, strict=True))
    return tuple(position.get(axis, 0) if other.size(axis) > 1 else 0 for axis in other.plane_axes)


def require_same_size(stack: Stack, other: Stack, what: str, *, free_axes: str = "") -> None:
    """Raise InputError unless two stacks have the same length along every axis.

    Parameters
    ----------
    stack, other : Stack
        Axes of length 1 may be missing in either.
    what : str
        What the other is, for the message.
    free_axes : str
        Axes along which the other may also have length 1: a mask for all channels.
    """
    for axis in "TCZYXS":
        sizes = stack.size(axis), other.size(axis)
        if sizes[0] != sizes[1] and not (axis in free_axes and sizes[1] == 1):
            raise InputError(
                f"the {what} {other.path or other.name} is {other.axes} {other.shape}, but {stack.path or stack.name} "
                f"is {stack.axes} {stack.shape}; give images of one size"
            )
