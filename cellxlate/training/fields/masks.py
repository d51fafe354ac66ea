"""Masks that somebody made: found by name, checked, and attached to the fields they belong to."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cellxlate.errors import InputError
from cellxlate.stacks.masks.names import EXPECTED, image_names, is_strokes, mask_files, one_of
from cellxlate.stacks.masks.open import open_mask
from cellxlate.stacks.naming import is_zarr
from cellxlate.stacks.stack import Stack
from cellxlate.training.fields.patches import Domain, Field, Mask
from cellxlate.training.fields.spread import spread_over

SUBFOLDERS = ("source", "target")
HALF = 0.5


def attach_masks(domains: Sequence[Domain], folders: Sequence[Path]) -> tuple[Domain, ...]:
    """Return source and target with the masks of some folders on the fields they belong to.

    Parameters
    ----------
    domains : sequence of Domain
        Source and target.
    folders : sequence of Path
        Folders of masks, or such files: label images or binary masks (TIFF, PNG, Zarr), what Cellpose saves, regions of
        ImageJ; named as `cellxlate.stacks.masks.names` says. Whatever is above 0 is a cell. Only a file with `_strokes`
        is painted in part: 0 is not painted, 1 background, 2 and more a cell. Masks inside `source` and `target`
        folders belong to images of that domain alone. The folder may hold the images too.

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
    found = list(find_masks(folders))
    fields = [list(domain.fields) for domain in domains]
    attached, cells = 0, False
    for (number, name), paths in _by_owner(found, domains).items():
        path = one_of(paths, name)
        positions = [position for position, one in enumerate(fields[number]) if one.stack.name == name]
        own = [fields[number][position] for position in positions]
        strokes = is_strokes(path)
        planes = planes_of(open_mask(path, own[0].stack, labels=strokes), path, own)
        if strokes:
            planes = completed(planes, path, own)
        for position, plane in zip(positions, planes, strict=True):
            marked = bool(plane.read().any())
            cells |= marked
            if marked or len(positions) == 1:
                attached += 1
                fields[number][position] = replace(fields[number][position], mask=plane)
    if not attached:
        example = next((one.stack.name for own in fields for one in own), "NAME")
        raise InputError(f"none of the {len(found)} masks has the name of an image such as {example}; {EXPECTED}")
    if not cells:
        raise InputError("the masks mark no cell; a pixel of a cell is above 0")
    return tuple(Domain(own, domain.number, "masks") for own, domain in zip(fields, domains, strict=True))


def _by_owner(found: Sequence[tuple[Path, int | None]], domains: Sequence[Domain]) -> dict[tuple[int, str], list[Path]]:
    """Return the masks of each image, by its domain and name; an image itself, in a folder of both, is no mask."""
    images = {one.stack.path.resolve() for each in domains for one in each.fields if isinstance(one.stack.path, Path)}
    owned: dict[tuple[int, str], list[Path]] = {}
    for path, only in found:
        key = owner(path, only, domains) if path.resolve() not in images else None
        if key is not None:
            owned.setdefault(key, []).append(path)
    return owned


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
            for file in mask_files(folder)
        ]
        if not inside:
            raise InputError(f"the folder {path} holds no mask; {EXPECTED}")
        yield from inside


def owner(path: Path, only: int | None, domains: Sequence[Domain]) -> tuple[int, str] | None:
    """Return the domain and the name of the image that a mask belongs to; None where there is none.

    Raises
    ------
    InputError
        There are several.
    """
    for name in image_names(path):
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
    return None


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
