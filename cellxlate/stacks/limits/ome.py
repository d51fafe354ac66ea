"""What OME-XML from strangers may ask for, checked before tifffile believes it."""

import math
from pathlib import Path, PurePosixPath, PureWindowsPath
from xml.etree.ElementTree import Element

from cellxlate.errors import InputError
from cellxlate.stacks.metadata.ome_xml import parse

MOST_PLANES = 10_000_000
"""tifffile lists all planes that OME-XML states; a lying number must not fill the memory."""


def check_ome(text: str, folder: Path) -> None:
    """Raise InputError where OME-XML states what no file holds, or names files outside its folder.

    Planes, or steps of a modulo annotation, exceed 10 million; or a file of the set is absolute, lies above the folder,
    or is no plain file. What cannot be parsed asks for nothing.
    """
    root = parse(text)
    for element in root.iter() if root is not None else ():
        kind = element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""
        if kind == "TiffData":
            for name in ("PlaneCount", "NumPlanes", "IFD", "FirstZ", "FirstC", "FirstT"):
                _check_planes(_number(element, name, 0))
        elif kind == "UUID" and element.get("FileName"):
            _check_file(str(element.get("FileName")), folder)
        elif kind.startswith("ModuloAlong") and "Start" in element.attrib:
            extent = _number(element, "End", 0) - _number(element, "Start", 0)
            step = _number(element, "Step", 1)
            _check_planes(abs(extent / step) if step else math.inf)


def _check_planes(count: float) -> None:
    if not count <= MOST_PLANES:
        raise InputError(f"its OME-XML states {count:.15g} planes, which no such file holds; copy it again")


def check_inside(name: str) -> None:
    """Raise InputError where the name of a file leads out of the folder that it is looked for in."""
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    if posix.is_absolute() or windows.is_absolute() or windows.drive or ".." in windows.parts or "\0" in name:
        raise InputError(f"its OME-XML names a file outside its folder ({name[:200]!r}); it is not opened")


def _check_file(name: str, folder: Path) -> None:
    check_inside(name)
    named = folder / name
    if named.exists() and not named.is_file():
        raise InputError(f"its OME-XML names {name[:200]!r}, which is no plain file; it is not opened")


def _number(element: Element, name: str, default: float) -> float:
    """Return an attribute as a number; what is none states nothing that could be too large."""
    try:
        return float(element.get(name, default))
    except ValueError:
        return default
