"""What the axes of an OME-Zarr image are: letters by type, and by name where no type is stated or space is meant."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from cellxlate.errors import InputError
from cellxlate.options import AXES_OPTION

WORDS = {
    "t": "T", "time": "T", "c": "C", "channel": "C", "channels": "C", "z": "Z", "depth": "Z", "y": "Y", "row": "Y",
    "rows": "Y", "x": "X", "column": "X", "columns": "X", "col": "X", "s": "S", "sample": "S", "samples": "S",
}  # fmt: skip
"""Names of axes whose meaning is plain; others need a type."""

KNOWN_VERSION = re.compile(r"0\.[1-5]([.\-].*)?")
LATEST = "0.5"


def version_of(attributes: Mapping[str, Any]) -> str | None:
    """Return the version of the format that an image states, None where it states none."""
    image = attributes["multiscales"][0]
    stated = attributes.get("version") or (image.get("version") if isinstance(image, Mapping) else None)
    return None if stated is None else str(stated)[:40]


def is_known_version(version: str | None) -> bool:
    """Return whether a version is one of 0.1 to 0.5, or none is stated."""
    return version is None or KNOWN_VERSION.fullmatch(version) is not None


def axis_name(entry: Any) -> str:
    """Return the name of an axis (a string in 0.3, a part of an object since 0.4)."""
    return str(entry["name"] if isinstance(entry, Mapping) else entry)


def axis_unit(entry: Any) -> str:
    """Return the unit of an axis, "" where none is stated."""
    return str((entry.get("unit") if isinstance(entry, Mapping) else None) or "")


def letters_of(stated: Sequence[Any]) -> tuple[str, ...]:
    """Return the letter of each axis: T, C, S, Z, Y or X, or "" where its type is of another kind.

    Notes
    -----
    The type decides, then the name. Axes of space with other names than z, y, x are depth, rows and columns in their
    order, as the format wants it.
    """
    letters = [_letter(entry) for entry in stated]
    free = [letter for letter in "ZYX" if letter not in letters]
    spatial = [number for number, letter in enumerate(letters) if letter == "space"]
    taken = free[max(len(free) - len(spatial), 0) :] + [""] * (len(spatial) - len(free))
    for axis, letter in zip(spatial, taken, strict=True):
        letters[axis] = letter
    return tuple(letters)


def _letter(entry: Any) -> str:
    """Return the letter of an axis, "space" where its place must tell, "" where it is unknown."""
    kind = str((entry.get("type") if isinstance(entry, Mapping) else None) or "").lower()
    by_name = WORDS.get(axis_name(entry).strip().lower(), "")
    if kind == "space":
        return by_name if by_name and by_name in "ZYX" else "space"
    if kind == "channel":
        return "S" if by_name == "S" else "C"
    return "T" if kind == "time" else by_name if not kind else ""


def doubts_of(stated: Sequence[Any], letters: Sequence[str]) -> list[str]:
    """Return a phrase for each axis that has a letter which its name does not say."""
    doubts = []
    for entry, letter in zip(stated, letters, strict=True):
        by_name = WORDS.get(axis_name(entry).strip().lower(), "")
        if by_name != letter and (by_name or letter in "ZYX"):
            kind = entry.get("type") if isinstance(entry, Mapping) else None
            doubts.append(f"the axis {axis_name(entry)[:40]!r} of type {str(kind)[:40]} is read as {letter}")
    return doubts


def read_axes(stated: Sequence[Any], shape: tuple[int, ...]) -> tuple[str, list[str]]:
    """Return the axes of an image as letters, and a phrase for each that its name does not say.

    Raises
    ------
    InputError
        An axis is none of time, channel and space.
    """
    letters = list(letters_of(stated))
    if len(letters) != len(shape):
        raise InputError(f"its metadata state {len(letters)} axes, the array has the shape {shape}; convert it again")
    doubts = []
    for number, (letter, size) in enumerate(zip(letters, shape, strict=True)):
        if letter:
            continue
        kind = stated[number].get("type") if isinstance(stated[number], Mapping) else None
        what = f"its axis {axis_name(stated[number])[:40]!r} of type {str(kind)[:40]!r}"
        free = next((one for one in "CTZ" if one not in letters), "")
        if size > 1 or not free:
            rest = [one for one in letters if one]
            example = "".join(one or free for one in letters)
            there = (", for example ", AXES_OPTION.of(example)) if free and len(set(example)) == len(rest) + 1 else ()
            raise InputError(
                f"{what} and length {size} is none of time, channel, space", remedy=("name the axes", *there)
            )
        letters[number] = free
        doubts.append(f"{what}, which has length 1, is read as {free}")
    return "".join(letters), doubts + doubts_of(stated, letters)
