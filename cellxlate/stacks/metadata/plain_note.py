"""What a plain TIFF or Zarr array of ours states in JSON: axes, calibration, metadata, provenance."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cellxlate.stacks.carried import as_json, restored, valid_notes
from cellxlate.stacks.metadata.calibration import Calibration, positive
from cellxlate.stacks.stack import Stack


@dataclass(frozen=True)
class PlainNote:
    """What a note states: calibration, the fields of Metadata that are kept, and earlier enhancements, oldest first.

    Empty where there is none of ours.
    """

    calibration: Calibration = field(default_factory=Calibration)
    kept: Mapping[str, Any] = field(default_factory=dict)
    earlier: tuple[Mapping[str, Any], ...] = ()


STATED = ("axes", "pixel_size_um", "time_step_s", "channel_names", "metadata", "earlier")


def compose_note(like: Stack, provenance: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the note of an output, as JSON values; `read_note` reads it."""
    note: dict[str, Any] = {key: as_json(value) for key, value in (provenance or {}).items() if key not in STATED}
    note |= {"axes": like.axes, "pixel_size_um": dict(like.pixel_size_um), "time_step_s": like.time_step_s}
    note |= {"channel_names": list(like.channel_names), "metadata": like.metadata.stored(native="plain")}
    return note | {"earlier": [as_json(dict(earlier)) for earlier in like.metadata.earlier]}


def read_note(note: Any) -> PlainNote:
    """Return what a note states; what is not as `compose_note` writes it states nothing."""
    if not isinstance(note, Mapping) or not isinstance(note.get("metadata"), Mapping):
        return PlainNote()
    calibration = Calibration(axes=note["axes"] if isinstance(note.get("axes"), str) else None)
    stated = note.get("pixel_size_um")
    for axis, value in stated.items() if isinstance(stated, Mapping) else ():
        if axis in "ZYX" and (size := positive(value)):
            calibration.pixel_size_um[axis] = size
    calibration.time_step_s = positive(note.get("time_step_s"))
    names = note.get("channel_names")
    calibration.channel_names = tuple(map(str, names)) if isinstance(names, list | tuple) else ()
    earlier = valid_notes(note.get("earlier"))
    own = {key: value for key, value in note.items() if key not in STATED}
    return PlainNote(calibration, restored(note["metadata"]), (*earlier, *(valid_notes([own]) if own else ())))
