"""What a file states beside pixels, axes and calibration, kept so that the output can state it too."""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

ANNOTATION = "cellxlate"
"""Namespace of our annotation in OME-XML, and name of our attribute in OME-Zarr."""

MOST_DEEP = 60
"""IntensityRange of mappings and lists in one another; JSON of hundreds ends in a full stack somewhere."""

TEXT_BYTES = 2**20
"""Metadata of a vendor that is longer as text is not carried."""


@dataclass(frozen=True)
class Metadata:
    """What is carried from a file to what is made of it.

    Attributes
    ----------
    ome_xml : str or None
        OME-XML of the image that is read: instrument, acquisition, channels, planes, annotations, regions; without
        what describes the file itself.
    tiff : mapping
        What a TIFF keeps elsewhere, as JSON values: tags, resolution, palette, ImageJ's tables.
    zarr : mapping
        What an OME-Zarr group states, as JSON values: axes, transformations, omero, further attributes.
    colours : tuple of str
        One "RRGGBB" per channel, or empty.
    ranges : tuple of (float, float)
        Counts at which the display of each channel starts and ends, or empty.
    earlier : tuple of mapping
        Provenance of enhancements the file has been through, oldest first.
    lost : tuple of str
        One line each for what the file holds and no output will.
    """

    ome_xml: str | None = None
    tiff: Mapping[str, Any] = field(default_factory=dict)
    zarr: Mapping[str, Any] = field(default_factory=dict)
    colours: tuple[str, ...] = ()
    ranges: tuple[tuple[float, float], ...] = ()
    earlier: tuple[Mapping[str, Any], ...] = field(default=(), compare=False)
    lost: tuple[str, ...] = field(default=(), compare=False)

    def stored(self, *, native: str) -> dict[str, Any]:
        """Return, as JSON values, what the annotation of an output keeps because the format has no place for it.

        Parameters
        ----------
        native : {"ome-tiff", "ome-zarr", "plain"}
            The format; OME-XML has its place in the first, `zarr` in the second, neither in a plain array.
        """
        kept: dict[str, Any] = {"tiff": dict(self.tiff), "colours": list(self.colours)}
        kept["ranges"] = [list(limits) for limits in self.ranges]
        if native == "plain":
            return kept | {"zarr": dict(self.zarr), "ome_xml": self.ome_xml}
        if native == "ome-tiff":
            return kept | {"zarr": dict(self.zarr), "own_xml": self.ome_xml is None}
        return kept | {"ome_xml": self.ome_xml, "own_attributes": not self.zarr}


def restored(kept: Any) -> dict[str, Any]:
    """Return the fields of Metadata that `Metadata.stored` has put into an annotation; none from anything else."""
    if not isinstance(kept, Mapping):
        return {}
    fields: dict[str, Any] = {}
    for name, check in (("tiff", valid_tiff), ("zarr", valid_zarr)):
        if isinstance(kept.get(name), Mapping):
            fields[name] = check(kept[name])
    if isinstance(kept.get("ome_xml"), str):
        fields["ome_xml"] = kept["ome_xml"]
    if isinstance(kept.get("colours"), list):
        fields["colours"] = valid_colours(kept["colours"])
    fields["ranges"] = display_ranges(kept.get("ranges"))
    return fields


def valid_tiff(stated: Mapping[str, Any]) -> dict[str, Any]:
    """Return what tags state, without what is of another type than `read_tags` gives, and so could not be written."""
    return {name: value for name, value in stated.items() if _is_valid_tag(name, value)}


def _is_valid_tag(name: str, value: Any) -> bool:
    if is_too_deep(value):
        return False
    if name == "text":
        return isinstance(value, Mapping) and all(isinstance(one, str) for one in value.values())
    if name == "resolution":
        return _is_resolution(value)
    if name == "bits":
        return type(value) is int and 1 < value < 64
    if name == "orientation":
        return type(value) is int and 1 <= value <= 8
    if name in ("description", "photometric", "alpha"):
        return isinstance(value, str)
    stored = from_json(value)
    if name == "icc":
        return isinstance(stored, bytes)
    if name == "colormap":
        return isinstance(stored, np.ndarray) and stored.dtype == np.uint16 and stored.ndim == 2
    return name == "vendor" or (name == "imagej" and isinstance(stored, Mapping))


def _is_resolution(value: Any) -> bool:
    """Return whether a value is two fractions of numbers that TIFF can hold, and a unit."""
    if not isinstance(value, list) or len(value) != 3 or type(value[2]) is not int:
        return False
    return all(
        isinstance(step, list) and len(step) == 2 and all(type(one) is int and 0 <= one < 2**32 for one in step)
        for step in value[:2]
    )


def valid_notes(notes: Any) -> tuple[Mapping[str, Any], ...]:
    """Return those of some notes of earlier enhancements that are mappings."""
    listed = notes if isinstance(notes, list | tuple) else ()
    return tuple(note for note in listed if isinstance(note, Mapping) and not is_too_deep(note))


def valid_zarr(stated: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an OME-Zarr group states, without what is of another type than it may have."""
    kinds: dict[str, Any] = {"axes": list, "transformations": list}
    return {
        name: value
        for name, value in stated.items()
        if isinstance(value, kinds.get(name, Mapping))
        and not is_too_deep(value)
        and (name not in kinds or all(isinstance(one, Mapping | str) for one in value))
    }


def is_too_deep(value: Any) -> bool:
    """Return whether mappings and lists lie in one another more deeply than any metadata do."""
    level: list[Any] = [value]
    for _ in range(MOST_DEEP):
        mappings = [inner for one in level if isinstance(one, Mapping) for inner in one.values()]
        level = mappings + [inner for one in level if isinstance(one, list | tuple) for inner in one]
        if not level:
            return False
    return True


def valid_colours(colours: Sequence[Any]) -> tuple[str, ...]:
    """Return colours as "RRGGBB", or nothing where one is no such colour."""
    digits = tuple(str(colour).lstrip("#").upper() for colour in colours)
    return digits if all(re.fullmatch("[0-9A-F]{6}", colour) for colour in digits) else ()


def display_ranges(pairs: Any) -> tuple[tuple[float, float], ...]:
    """Return pairs of finite numbers, or nothing where one is no such pair."""
    try:
        ranges = tuple((float(low), float(high)) for low, high in pairs or ())
    except (TypeError, ValueError):
        return ()
    return ranges if np.isfinite(ranges).all() else ()


def hex_colour(red: int, green: int, blue: int) -> str:
    """Return "RRGGBB" of three samples from 0 to 255."""
    return f"{red & 255:02X}{green & 255:02X}{blue & 255:02X}"


def as_json(value: Any) -> Any:
    """Return a value as JSON holds it: bytes and arrays as base64, what is unknown as text."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "uif":
        native = np.ascontiguousarray(value, value.dtype.newbyteorder("<"))
        return {"base64": base64.b64encode(native.tobytes()).decode(), "dtype": value.dtype.name,
                "shape": list(value.shape)}  # fmt: skip
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if isinstance(value, np.generic):
        return as_json(value.item())
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def from_json(value: Any) -> Any:
    """Return what `as_json` was given: bytes and arrays again; a mapping that only looks like one stays a mapping."""
    if isinstance(value, Mapping) and "base64" in value:
        with suppress(ValueError, TypeError, LookupError, OverflowError):
            content = base64.b64decode(value["base64"], validate=True)
            if "dtype" not in value:
                return content
            dtype = np.dtype(value["dtype"])
            return np.frombuffer(content, dtype.newbyteorder("<")).reshape(value["shape"]).astype(dtype)
    if isinstance(value, Mapping):
        return {key: from_json(item) for key, item in value.items()}
    return [from_json(item) for item in value] if isinstance(value, list) else value


def short_enough(value: Any) -> bool:
    """Return whether a JSON value is at most 1 MiB of text."""
    return len(json.dumps(value)) <= TEXT_BYTES
