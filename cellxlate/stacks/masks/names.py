"""Which files are masks, and of which image: one rule for training and evaluation."""

from collections.abc import Collection, Sequence
from pathlib import Path

from cellxlate.errors import InputError, MissingInputError
from cellxlate.stacks.naming import (
    LABEL_ENDINGS,
    STROKES_ENDING,
    TIFF_SUFFIXES,
    ZIPPED_ENDINGS,
    first_names,
    is_zarr,
    stack_name,
)

PICTURES = ".png"
CELLPOSE = "_seg.npy"
ROI_SUFFIXES = (".zip", ".roi")
ROI_ENDINGS = ("_RoiSet", "_rois", "_roi")
FILES = (*TIFF_SUFFIXES, PICTURES, ".zarr", *ZIPPED_ENDINGS)
EXPECTED = (
    f"a mask is called like its image, NAME, or {', '.join(f'NAME{ending}' for ending in LABEL_ENDINGS)} "
    f"({', '.join(FILES)}), NAME{CELLPOSE} (Cellpose), or NAME, {', '.join(f'NAME{ending}' for ending in ROI_ENDINGS)} "
    f"({', '.join(ROI_SUFFIXES)}, ImageJ)"
)
"""What is searched, for messages."""

EXPECTED_WHOLE = EXPECTED.replace(f", NAME{STROKES_ENDING}", "")
"""The same where strokes are no masks."""


def is_rois(path: Path) -> bool:
    """Return whether a file is named as ImageJ names regions; a zipped Zarr image is not."""
    return path.suffix.lower() in ROI_SUFFIXES and not path.name.lower().endswith(ZIPPED_ENDINGS)


def is_cellpose(path: Path) -> bool:
    """Return whether a file is named as Cellpose names what its window saves."""
    return path.name.lower().endswith(CELLPOSE)


def is_strokes(path: Path) -> bool:
    """Return whether a file says by its name that it is painted in part."""
    return _stem(path).endswith(STROKES_ENDING)


def mask_files(folder: Path) -> list[Path]:
    """Return the files directly inside a folder that may be masks, sorted; what is hidden is none."""
    return [
        path
        for path in sorted(folder.iterdir())
        if not path.name.startswith(".")
        and (is_zarr(path) or is_rois(path) or is_cellpose(path) or path.name.lower().endswith(FILES))
    ]


def image_names(path: Path) -> tuple[str, ...]:
    """Return the names that the image of a mask may have, the longest first.

    Examples
    --------
    >>> image_names(Path("a_cp_masks.png"))
    ('a_cp_masks', 'a_cp', 'a')
    >>> image_names(Path("a.ome_seg.npy"))
    ('a.ome', 'a')
    """
    stem = _stem(path)
    if is_cellpose(path):
        names = [stem[: -len("_seg")]]
    elif is_rois(path):
        names = [stem, *(stem[: -len(ending)] for ending in ROI_ENDINGS if stem.lower().endswith(ending.lower()))]
    else:
        names = [stem, *(stem.removesuffix(ending) for ending in LABEL_ENDINGS if stem.endswith(ending))]
    names += [stack_name(Path(name)) for name in names if name]  # Cellpose leaves .ome, ImageJ leaves .tif
    return tuple(sorted({name for name in names if name}, key=len, reverse=True))


def one_of(paths: Sequence[Path], name: str) -> Path:
    """Return the mask of an image among those that fit; of what Cellpose saves twice the picture is taken.

    Raises
    ------
    InputError
        There are several.
    """
    kept = [path for path in paths if not is_cellpose(path)] or list(paths)
    if len(kept) > 1:
        named = first_names([str(path) for path in kept], 3)
        raise InputError(f"{named} are all masks of {name}; keep one of them")
    return kept[0]


def masks_of(names: Collection[str], folder: Path, images: Collection[Path]) -> dict[str, Path]:
    """Return the masks of some images by the names of these; those without one are left out.

    Parameters
    ----------
    names : collection of str
        Of the images, without endings.
    folder : Path
        A folder of masks, which may hold the images too, or one mask.
    images : collection of Path
        The images themselves, which are no masks. Files painted in part (`_strokes`) are none either.

    Raises
    ------
    InputError
        The folder is missing, there is no mask of any, or several of one.
    """
    if not folder.exists():
        raise MissingInputError(f"the masks {folder} do not exist; check the name")
    files = mask_files(folder) if folder.is_dir() and not is_zarr(folder) else [folder]
    taken = {path.resolve() for path in images}
    fitting: dict[str, list[Path]] = {}
    for path in files:
        name = next((name for name in image_names(path) if name in names), None)
        if name is not None and path.resolve() not in taken and not is_strokes(path):
            fitting.setdefault(name, []).append(path)
    if not fitting:
        there = f" (it holds {first_names([path.name for path in files], 3)})" if files else ""
        raise InputError(f"{folder} holds no mask of an image such as {min(names)}{there}; {EXPECTED_WHOLE}")
    return {name: one_of(paths, name) for name, paths in fitting.items()}


def _stem(path: Path) -> str:
    """Return the name of a mask without the ending of its kind of file."""
    if path.suffix.lower() in (PICTURES, ".npy") or is_rois(path):
        return path.name[:-4]
    return stack_name(path)
