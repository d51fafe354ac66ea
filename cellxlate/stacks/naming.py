"""Which paths are stacks, what a stack is called, and which format an output name stands for."""

import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Literal, TypeVar

from cellxlate.errors import InputError, MissingInputError, OptionError
from cellxlate.locations import Location, RemotePath
from cellxlate.option_values import nearest_name
from cellxlate.options import FORMAT, OUTPUT_DIR

TIFF_SUFFIXES = (".tif", ".tiff", ".btf", ".tf8", ".stk", ".lsm")
VENDOR_SUFFIXES = (".czi", ".nd2", ".lif", ".ims")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")
ZIPPED_ENDINGS = (".zarr.zip", ".ozx")
PLACEHOLDERS = re.compile(r"[_\- ]?[A-Za-z]?\{[TCZ]\}|\*")
"""What stands for a part of a file name in a pattern of planes, with the letter that leads it in."""

MOST_BESIDE = 5000
"""Names in a folder that are looked at for one that was meant."""

COMPANION = ".companion.ome"
"""OME-XML that lies beside the TIFF files it describes."""

TIFF_ENDINGS, ZARR_ENDINGS = (".tif", ".tiff"), (".zarr",)
ZARR_JSON = "zarr.json"
ZARR_MARKS = (ZARR_JSON, ".zgroup", ".zarray")

STROKES_ENDING = "_strokes"
"""What is painted in such a file, is 1 for background and 2 and more for cells; 0 is not painted."""

LABEL_ENDINGS = ("_mask", "_masks", "_label", "_labels", "_cp_masks", STROKES_ENDING)
"""How label images are called that lie beside the image NAME, or in a folder of masks."""

PARTIAL_ENDING, UNFINISHED_ENDING = ".partial", ".unfinished"
"""What is being written, and a plate or a batch of which only some images are."""

LOCK_FILE = ".cellxlate-lock"
"""In a partial, by which one process or job at a time holds it."""

Format = Literal["ome-tiff", "ome-zarr", "ome-zarr-0.4", "tiff", "zarr"]
"""What an output can be; "tiff" and "zarr" are plain arrays with axes in any order."""

AnyLocation = TypeVar("AnyLocation", Path, Location)

PLAIN: tuple[Format, ...] = ("tiff", "zarr")
"""Without a pyramid, and without OME's metadata."""


def partial_of(path: AnyLocation) -> AnyLocation:
    """Return where an output is while it is not complete."""
    return path.with_name(path.name + PARTIAL_ENDING)


def find_stacks(paths: Sequence[Path], what: str) -> list[Path]:
    """Return the image files and OME-Zarr folders among some paths and directly inside some folders, sorted.

    What is hidden in a folder, by a name that begins with a dot, is none; PNG and JPEG are where there are no others.

    Raises
    ------
    InputError
        A path does not exist, or a folder holds no image.
    """
    stacks: list[Path] = []
    for path in paths:
        if not path.exists():
            raise missing(f"the {what} {path}", path)
        if path.is_file() or is_zarr(path):
            stacks.append(path)
            continue
        shown = [item for item in sorted(path.iterdir()) if not item.name.startswith(".")]
        inside = [item for item in shown if is_image_name(item) or is_zarr(item)]
        inside += [item for item in shown if item.name.lower().endswith(COMPANION)]  # after their files
        inside = inside or [item for item in shown if is_picture_name(item)]
        if not inside:
            raise InputError(f"the {what} folder {path} holds no TIFF or OME-Zarr image; give a folder of images")
        stacks += inside
    return stacks


def missing(what: str, path: Location) -> MissingInputError:
    """Return the error that there is no such file, with the one beside it that was probably meant."""
    if isinstance(path, RemotePath):
        return MissingInputError(f"{what} does not exist; check the name")
    folder = path.parent
    try:
        names = [item.name for item in islice(folder.iterdir(), MOST_BESIDE)]
    except OSError:
        return MissingInputError(f"{what} does not exist, nor does its folder; check the name")
    meant = nearest_name(path.name, names)
    remedy = f"did you mean {folder / meant}?" if meant else "check the name"
    return MissingInputError(f"{what} does not exist", remedy=remedy)


def is_image_name(path: Path) -> bool:
    """Return whether a name ends as those of microscope files do."""
    return path.suffix.lower() in (*TIFF_SUFFIXES, *VENDOR_SUFFIXES) or path.name.lower().endswith(ZIPPED_ENDINGS)


def is_picture_name(path: Path) -> bool:
    """Return whether a name ends as those of PNG and JPEG files do."""
    return path.suffix.lower() in PICTURE_SUFFIXES


def is_zarr(path: Location) -> bool:
    """Return whether a path is the folder of a Zarr array or group; whatever lies at an address is taken for one.

    So is a folder with a pipe or a device in place of its metadata, which is refused when it is opened.
    """
    if isinstance(path, RemotePath):
        return True
    marks = (path / name for name in ZARR_MARKS)
    return path.is_dir() and any(mark.exists() and not mark.is_dir() for mark in marks)


def zarr_root(path: Location) -> Location:
    """Return the outermost Zarr folder that a path lies in, at an address by its ending; else the path itself."""
    if isinstance(path, RemotePath):
        return next((folder for folder in reversed(path.parents) if folder.suffix in ZARR_ENDINGS), path)
    return next((folder for folder in reversed(path.parents) if is_zarr(folder)), path)


def stack_name(path: Location) -> str:
    """Return a name without its endings, as outputs are named: `a.ome.tif` is `a`, `plate.zarr/A/1/0` `plate_A_1_0`.

    The placeholders of a pattern of planes are left out: `img_t{T}_z{Z}.tif` is `img`.
    """
    root = zarr_root(path)
    if root != path:
        return "_".join([stack_name(root), *path.relative_to(root).parts])  # type: ignore[arg-type]
    name = PLACEHOLDERS.sub("", path.name)
    for suffix in (*ZIPPED_ENDINGS, ".zip", *PICTURE_SUFFIXES):  # of the file itself alone
        if name.lower().endswith(suffix):
            name = name[: -len(suffix)]
            break
    for suffix in (*TIFF_SUFFIXES, *VENDOR_SUFFIXES, ".zarr", COMPANION, ".ome"):
        if name.lower().endswith(suffix):
            name = name[: -len(suffix)]
    if name.lower().endswith(".ome"):
        name = name[:-4]
    return name or path.name


def first_names(names: Sequence[str], most: int = 8) -> str:
    """Return the first of some names in words, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


def one_line(message: object) -> str:
    """Return the start of a message in one line."""
    return " ".join(str(message).split())[:200]


def output_format(path: Location, asked: Format | None = None) -> Format:
    """Return the format that an output's ending stands for, in the version that is asked for.

    Raises
    ------
    OptionError
        The ending is not known, or says another format than is asked for.
    """
    name = path.name.lower()
    formats: dict[tuple[str, ...], tuple[Format, ...]] = {
        (".ome.tif", ".ome.tiff"): ("ome-tiff",), (".ome.zarr",): ("ome-zarr", "ome-zarr-0.4"),
        TIFF_ENDINGS: ("ome-tiff", "tiff"), ZARR_ENDINGS: ("ome-zarr", "ome-zarr-0.4", "zarr"),
    }  # fmt: skip
    if asked in ("ome-zarr", "ome-zarr-0.4") and "." not in name and any(".zarr" in part for part in path.parts[:-1]):
        return asked  # a field of a plate
    for endings, possible in formats.items():
        if name.endswith(endings):
            if asked is not None and asked not in possible:
                raise OptionError(
                    f"the output {path} says {possible[0]}, ", FORMAT, f" says {asked}", remedy="give one of them"
                )
            return asked or possible[0]
    folder = (", or give it as ", OUTPUT_DIR) if "." not in name else ()
    raise OptionError(f"the output {path} has no known ending; name it .ome.tif or .ome.zarr", *folder)
