"""Masks that somebody made: found by name, checked, and attached to the fields they belong to."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from imagecodecs import PngError, png_decode

from cellxlate.errors import InputError, unless_denied
from cellxlate.regular_files import open_regular
from cellxlate.stacks.read.not_images import is_hidden
from cellxlate.stacks.read.open import TIFF_SUFFIXES, is_zarr, open_stack, stack_name
from cellxlate.stacks.stack import Stack
from cellxlate.training.fields.files import LARGEST_KEPT_PX, in_memory
from cellxlate.training.fields.patches import Domain, Field, Mask
from cellxlate.training.fields.spread import spread_over

STROKES_ENDING = "_strokes"
"""What is painted in such a file, is 1 for background and 2 and more for cells; 0 is not painted."""
ENDINGS = (STROKES_ENDING, "_mask", "_masks", "_label", "_labels")
SUBFOLDERS = ("source", "target")
HALF = 0.5


def attach_masks(domains: Sequence[Domain], folders: Sequence[Path]) -> tuple[Domain, ...]:
    """Return source and target with the masks of some folders on the fields they belong to.

    Parameters
    ----------
    domains : sequence of Domain
        Source and target.
    folders : sequence of Path
        Folders of TIFF, PNG or Zarr masks, or such files; a mask has the name of its image, or that name with `_mask`
        or `_labels`. Label images or binary masks: whatever is above 0 is a cell. Only a file of that name with
        `_strokes` is painted in part: 0 is not painted, 1 background, 2 and more a cell. Masks inside `source` and
        `target` folders belong to images of that domain alone.

    Returns
    -------
    tuple of Domain
        Fields without a mask have no guide. A mask of one plane counts even if it is blank (a field without cells); of
        a mask with several planes, as painted on a stack, the blank planes count as not painted.

    Raises
    ------
    InputError
        A mask cannot be read, has another size than its image, could belong to several images; none has the name of an
        image, or none marks a cell.
    """
    masks = list(find_masks(folders))
    fields = [list(domain.fields) for domain in domains]
    attached, cells = 0, False
    for path, only in masks:
        number, name = owner(path, only, domains)
        if name is None:
            continue
        strokes = is_strokes(path, name)
        mask = open_mask(path, labels=strokes)
        positions = [position for position, one in enumerate(fields[number]) if one.stack.name == name]
        planes = planes_of(mask, path, [fields[number][position] for position in positions])
        if strokes:
            planes = completed(planes, path, [fields[number][position] for position in positions])
        for position, plane in zip(positions, planes, strict=True):
            marked = bool(plane.read().any())
            cells |= marked
            if marked or len(positions) == 1:
                attached += 1
                fields[number][position] = replace(fields[number][position], mask=plane)
    if not attached:
        raise InputError(f"none of the {len(masks)} masks has the name of an image; name a mask like its image")
    if not cells:
        raise InputError("the masks mark no cell; a pixel of a cell is above 0")
    return tuple(Domain(own, domain.number, "masks") for own, domain in zip(fields, domains, strict=True))


def is_strokes(path: Path, name: str) -> bool:
    """Return whether a mask of an image of some name is painted in part, which its own name must say."""
    return _stem(path) == f"{name}{STROKES_ENDING}"


def completed(planes: Sequence[Mask], path: Path, fields: Sequence[Field]) -> list[Mask]:
    """Return whole masks in place of planes with strokes: what looks like the painted cells is one.

    Raises
    ------
    InputError
        The strokes do not show both cells and background.
    """
    strokes = [plane.stack.read(plane.index) for plane in planes]
    painted = [number for number, own in enumerate(strokes) if own.any()]
    counts = [fields[number].stack.read(fields[number].index) for number in painted]
    try:
        whole = spread_over(counts, [strokes[number] for number in painted], [fields[n].intensity for n in painted])
    except InputError as fault:
        raise InputError(f"{path}: ", fault) from fault
    masks = list(planes)
    for number, cells in zip(painted, whole, strict=True):
        masks[number] = Mask(Stack.from_array((cells > HALF).astype(np.uint8), "YX", name=path.stem), ())
    return masks


def find_masks(paths: Sequence[Path]) -> Iterator[tuple[Path, int | None]]:
    """Yield the mask files of some folders, each with the domain (0, 1) that its folder names, or None.

    Raises
    ------
    InputError
        A path does not exist, or a folder holds no mask.
    """
    for path in paths:
        if not path.exists():
            raise InputError(f"the masks {path} do not exist; check the name")
        if path.is_file() or is_zarr(path):
            yield path, None
            continue
        folders = [(path, None), *((path / name, number) for number, name in enumerate(SUBFOLDERS))]
        inside = [
            (file, number)
            for folder, number in folders
            if folder.is_dir() and not is_zarr(folder)
            for file in sorted(folder.iterdir())
            if not is_hidden(file) and (file.suffix.lower() in (*TIFF_SUFFIXES, ".png") or is_zarr(file))
        ]
        if not inside:
            raise InputError(f"the folder {path} holds no mask; expected TIFF, PNG or Zarr files named like the images")
        yield from inside


def owner(path: Path, only: int | None, domains: Sequence[Domain]) -> tuple[int, str | None]:
    """Return the domain and the name of the image that a mask belongs to; the name is None where there is none.

    Raises
    ------
    InputError
        There are several.
    """
    stem = _stem(path)
    shorter = [stem.removesuffix(ending) for ending in ENDINGS if stem.endswith(ending)]
    for name in (stem, *shorter):
        fitting = []
        for number, domain in enumerate(domains):
            if only in (None, number):
                stacks = {id(one.stack): one.stack.name for one in domain.fields}
                fitting += [number] * Counter(stacks.values())[name]
        if len(fitting) > 1:
            where = "source and target" if len(set(fitting)) > 1 else "several"
            raise InputError(
                f"{path} fits {where} images named {name}; put it into a folder source or target, or rename"
            )
        if fitting:
            return fitting[0], name
    return 0, None


def _stem(path: Path) -> str:
    """Return the name of a mask without the ending of its kind of file."""
    return path.name[:-4] if path.suffix.lower() == ".png" else stack_name(path)


def open_mask(path: Path, *, labels: bool = False) -> Stack:
    """Open a mask as a stack that is above 0 in cells; colours count as cells, transparency does not.

    With `labels` its numbers are kept, and colours refused.

    Raises
    ------
    InputError
        It cannot be read.
    """
    if path.suffix.lower() != ".png":
        stack = open_stack(path)
        if "S" not in stack.axes:
            return in_memory(stack) if np.prod(stack.shape, dtype=np.int64) <= LARGEST_KEPT_PX else stack
        if labels:
            raise InputError(f"{path} is in colour; strokes are whole numbers: 1 background, 2 and more cells")
        stack = in_memory(stack)
        marked: npt.NDArray[np.uint8] = np.where(np.asarray(stack).max(axis=stack.axes.index("S")) > 0, 1, 0).astype(
            np.uint8
        )
        return Stack.from_array(marked, stack.axes.replace("S", ""), name=stack.name)
    try:
        pixels = np.asarray(png_decode(_stored(path)))
    except InputError:
        raise
    except (OSError, PngError, ValueError) as fault:
        damaged = InputError(f"{path} is not a PNG file that can be read ({fault}); convert it to TIFF")
        raise unless_denied(damaged, path, fault) from fault
    if labels and pixels.ndim == 2:
        return Stack.from_array(pixels, "YX", name=path.stem)
    if labels:
        raise InputError(f"{path} is in colour; strokes are whole numbers: 1 background, 2 and more cells")
    if pixels.ndim == 3:
        colours = pixels.shape[2] - 1 if pixels.shape[2] in (2, 4) else pixels.shape[2]
        pixels = np.asarray(pixels[..., :colours].max(axis=2))
    return Stack.from_array((pixels > 0).astype(np.uint8), "YX", name=path.stem)


def _stored(path: Path) -> bytes:
    """Return the content of a file that somebody gave, which may be a link."""
    target = path.resolve()
    with open_regular(target.parent, target.name) as file:
        return file.read()


def planes_of(mask: Stack, path: Path, fields: Sequence[Field]) -> list[Mask]:
    """Return one plane of a mask for each field of its image, in order.

    Raises
    ------
    InputError
        Their sizes or numbers differ.
    """
    if mask.plane_shape != fields[0].shape:
        sizes = [" x ".join(str(size) for size in shape) for shape in (mask.plane_shape, fields[0].shape)]
        raise InputError(f"the mask {path} is {sizes[0]} px, its image {sizes[1]} px; they must agree")
    if mask.plane_count != len(fields):
        raise InputError(f"the mask {path} has {mask.plane_count} planes, its image {len(fields)}; they must agree")
    return [Mask(mask, index) for index in mask.plane_indices()]
