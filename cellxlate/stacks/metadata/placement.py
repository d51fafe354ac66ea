"""Where a stack lies in the world: the step and the start of each axis, as files state them and as they are written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isclose
from typing import Any, Literal
from xml.etree.ElementTree import Element, SubElement, tostring

from cellxlate.stacks.axes import axis_unit, letters_of
from cellxlate.stacks.carried import Metadata
from cellxlate.stacks.metadata.calibration import amount_of, finite
from cellxlate.stacks.metadata.ome_xml import NAMESPACE, parse, xml_text
from cellxlate.stacks.stack import Stack

Unit = Literal["um", "s", "pixel"]
LARGEST = 1e12
"""Steps and starts beyond it, in micrometres or seconds, are none."""


@dataclass(frozen=True)
class AxisPlace:
    """Where the pixels of an axis lie: `start` is the centre of the first, `step` leads to the next, in `unit`."""

    step: float = 1.0
    start: float = 0.0
    unit: Unit = "pixel"


def axis_places(stack: Stack) -> dict[str, AxisPlace]:
    """Return where the pixels of each axis but S lie.

    Parameters
    ----------
    stack : Stack
        Its pixel size and time step decide. Beside them count the translations and unitless scales of OME-Zarr, the
        positions of the first planes in OME-XML, and the origin of ImageJ.

    Notes
    -----
    What a file states in no known unit counts in pixels of the step that it states, 1 where it states none.
    """
    sizes: dict[str, float | None] = {**stack.pixel_size_um, "T": stack.time_step_s}
    places = {
        axis: AxisPlace(step, 0.0, "s" if axis == "T" else "um") if (step := sizes.get(axis)) else AxisPlace()
        for axis in stack.axes.replace("S", "")
    }
    stated = _in_zarr(stack)
    if not stated:
        stated = _in_xml(stack, places) or _in_imagej(stack, places)
    for axis, place in stated.items():
        same = place.unit == places[axis].unit and isclose(abs(place.step), places[axis].step, rel_tol=1e-6)
        alike = same or place.unit == places[axis].unit == "pixel"
        if alike and 0 < abs(place.step) < LARGEST and abs(place.start) < LARGEST:
            places[axis] = place
    return places


def placed(
    stack: Stack, places: Mapping[str, AxisPlace], *, omero: Mapping[str, Any], note: Mapping[str, Any]
) -> Stack:
    """Return a stack that states where its pixels lie, in the way of both OME formats.

    Parameters
    ----------
    stack : Stack
        In memory or lazy; what it states of this so far is replaced.
    places : mapping
        One AxisPlace for each axis but S.
    omero : mapping
        How channels are shown, as OME-Zarr has it; empty for none.
    note : mapping
        Further attributes of the group, as JSON values.
    """
    axes, steps, starts = [], [], []
    for axis in stack.axes:
        place = places.get(axis, AxisPlace())
        entry = {"name": axis.lower(), "type": {"C": "channel", "S": "channel", "T": "time"}.get(axis, "space")}
        if place.unit != "pixel":
            entry["unit"] = "second" if place.unit == "s" else "micrometer"
        axes.append(entry)
        steps.append(float(place.step))
        starts.append(float(place.start))
    transformations: list[dict[str, Any]] = [{"type": "scale", "scale": steps}]
    if any(starts):
        transformations.append({"type": "translation", "translation": starts})
    stated = {"axes": axes, "transformations": transformations, "omero": dict(omero), "attributes": dict(note)}
    channels = omero.get("channels", ())
    metadata = Metadata(
        ome_xml=_positions_as_xml(stack.name, places),
        zarr={key: value for key, value in stated.items() if value},
        colours=tuple(channel["color"] for channel in channels),
        ranges=tuple((channel["window"]["start"], channel["window"]["end"]) for channel in channels),
    )
    return replace(
        stack,
        metadata=metadata,
        channel_names=tuple(channel["label"] for channel in channels),
        pixel_size_um={axis: abs(place.step) for axis, place in places.items() if place.unit == "um"},
        time_step_s=abs(places["T"].step) if "T" in places and places["T"].unit == "s" else None,
    )


def _in_zarr(stack: Stack) -> dict[str, AxisPlace]:
    """Return what the transformations of the first level of OME-Zarr state, those of the dataset first."""
    carried = stack.metadata.zarr
    axes = carried.get("axes") or []
    if "".join(letters_of(axes)) != stack.axes:
        return {}
    steps, starts = [1.0] * len(axes), [0.0] * len(axes)
    further = carried.get("multiscale", {})
    listed = (carried.get("transformations"), further.get("coordinateTransformations") if further else None)
    for transformation in (one for each in listed if isinstance(each, list) for one in each):
        kind = transformation.get("type") if isinstance(transformation, Mapping) else None
        values = _numbers(transformation.get(kind), len(axes)) if kind in ("scale", "translation") else None
        if values is None:
            continue
        if kind == "scale":
            steps = [step * value for step, value in zip(steps, values, strict=True)]
            starts = [start * value for start, value in zip(starts, values, strict=True)]
        else:
            starts = [start + value for start, value in zip(starts, values, strict=True)]
    places = {}
    for axis, entry, step, start in zip(stack.axes, axes, steps, starts, strict=True):
        amount = amount_of(axis, axis_unit(entry)) if axis in "TZYX" else None
        if axis in "TZYX" and amount:
            places[axis] = AxisPlace(step * amount, start * amount, "s" if axis == "T" else "um")
        elif axis in "TZYX":
            places[axis] = AxisPlace(step, start)
    return places


def _numbers(values: Any, count: int) -> list[float] | None:
    """Return so many finite numbers; None where they are none."""
    numbers = [finite(value) for value in values] if isinstance(values, list | tuple) else []
    return [one for one in numbers if one is not None] if len(numbers) == count and None not in numbers else None


def _in_xml(stack: Stack, places: Mapping[str, AxisPlace]) -> dict[str, AxisPlace]:
    """Return where OME-XML says that the first plane was taken; nothing along Z where depths run backwards."""
    root = parse(stack.metadata.ome_xml) if stack.metadata.ome_xml and "Position" in stack.metadata.ome_xml else None
    if root is None:
        return {}
    planes = {
        tuple(plane.get(f"The{axis}", "0") for axis in "TCZ"): plane for plane in root.iterfind(".//{*}Pixels/{*}Plane")
    }
    first, above = planes.get(("0", "0", "0")), planes.get(("0", "0", "1"))
    found = {}
    for axis in "ZYX":
        start = _position(first, axis)
        if start is None or axis not in places or places[axis].unit != "um":
            continue
        following = _position(above, axis) if axis == "Z" else None
        if following is None or isclose(following - start, places[axis].step, rel_tol=0.05):
            found[axis] = replace(places[axis], start=start)
    return found


def _position(plane: Element | None, axis: str) -> float | None:
    """Return the position of a plane in micrometres; None where it has none in a unit of length."""
    position = None if plane is None else finite(plane.get(f"Position{axis}"))
    amount = None if plane is None else amount_of(axis, plane.get(f"Position{axis}Unit", "reference frame"))
    return position * amount if position is not None and amount else None


def _in_imagej(stack: Stack, places: Mapping[str, AxisPlace]) -> dict[str, AxisPlace]:
    """Return where ImageJ's origin, in pixels, puts the first pixel."""
    text = str(stack.metadata.tiff.get("description", ""))
    if not text.startswith("ImageJ="):
        return {}
    stated = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    found = {}
    for axis in "ZYX":
        origin = finite(stated.get(f"{axis.lower()}origin"))
        if origin and axis in places and places[axis].unit == "um":
            found[axis] = replace(places[axis], start=-origin * places[axis].step)
    return found


def _positions_as_xml(name: str, places: Mapping[str, AxisPlace]) -> str:
    """Return OME-XML of an image whose first plane says where it lies."""
    root = Element("OME", {"xmlns": NAMESPACE})
    image = SubElement(root, "Image", {"ID": "Image:0", "Name": xml_text(name)})
    pixels = SubElement(image, "Pixels", {"ID": "Pixels:0"})
    plane = {"TheZ": "0", "TheT": "0", "TheC": "0"}
    stated: Sequence[str] = [axis for axis in "XYZ" if axis in places and places[axis].unit == "um"]
    for axis in stated:
        plane |= {f"Position{axis}": repr(float(places[axis].start)), f"Position{axis}Unit": "µm"}
    if any(places[axis].start for axis in stated):
        SubElement(pixels, "Plane", plane)
    return tostring(root, encoding="unicode")
