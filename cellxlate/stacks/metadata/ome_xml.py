"""OME-XML: what it states of one image, and the text for an output that keeps what the input stated."""

import json
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import numpy as np

from cellxlate.stacks.carried import ANNOTATION, hex_colour, is_too_deep, valid_notes
from cellxlate.stacks.channel_names import all_named, given_names
from cellxlate.stacks.metadata.calibration import Calibration, finite, positive
from cellxlate.stacks.stack import Stack

NAMESPACE = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
CARRIED_VERSIONS = (NAMESPACE, "http://www.openmicroscopy.org/Schemas/OME/2015-01")
"""Schemas with a place for our annotation."""

OF_THE_FILE = ("Type", "BigEndian", "Interleaved", "SignificantBits", "DimensionOrder",
               "SizeX", "SizeY", "SizeZ", "SizeC", "SizeT")  # fmt: skip
PIXEL_TYPES = {
    "bool": "bit", "uint8": "uint8", "uint16": "uint16", "uint32": "uint32", "int8": "int8", "int16": "int16",
    "int32": "int32", "float32": "float", "float64": "double",
}  # fmt: skip
NOT_SET = -1
"""What programs write for a size that is not known."""

NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass
class OmeImage:
    """What OME-XML states of one image; `xml` is the part that is carried, `kept` what our annotation has stored.

    `most_px` is the number of pixels of the largest image of the document, `bits` how many of a pixel are significant,
    `samples` how many of them each Channel element has, 0 where it does not say.
    """

    calibration: Calibration = field(default_factory=Calibration)
    xml: str | None = None
    colours: tuple[str, ...] = ()
    kept: Mapping[str, Any] = field(default_factory=dict)
    earlier: tuple[Mapping[str, Any], ...] = ()
    most_px: float = 0.0
    bits: int | None = None
    samples: tuple[int, ...] = ()
    lost: tuple[str, ...] = ()


def read_ome(text: str, image: int = 0) -> OmeImage:
    """Read one image of OME-XML. What cannot be parsed states nothing.

    Parameters
    ----------
    text : str
        A whole document. Documents that declare entities are not parsed.
    image : int
        Position among the images.
    """
    root = parse(text)
    if root is None:
        return OmeImage(lost=("its OME-XML cannot be read, so nothing of it is carried",))
    images = root.findall("{*}Image")
    chosen = images[image] if image < len(images) else root
    pixels = chosen.find(".//{*}Pixels")
    if pixels is None:
        return OmeImage(lost=("its OME-XML describes no pixels, so nothing of it is carried",))
    ome = OmeImage(ome_calibration(pixels))
    ome.most_px = max(
        prod(positive(each.get(f"Size{axis}")) or 1.0 for axis in "XYZCT") for each in root.findall(".//{*}Pixels")
    )
    channels = pixels.findall("{*}Channel")
    ome.bits = _whole(pixels.get("SignificantBits")) or None
    ome.samples = tuple(_whole(channel.get("SamplesPerPixel")) for channel in channels)
    if any(channel.get("Color") for channel in channels):
        ome.colours = tuple(_read_colour(channel.get("Color")) for channel in channels)
    notes = _take_own_notes(root)
    if notes:
        ome.calibration.axes = notes[-1].pop("axes", None)
        kept = _json(notes[-1].pop("metadata", ""))
        ome.kept = kept if isinstance(kept, dict) and not is_too_deep(kept) else {}
        earlier = valid_notes(_json(notes[-1].pop("earlier", "")))
        ome.earlier = (*earlier, *(note for note in notes if note))
    if ome.kept.get("own_xml"):
        return ome
    if root.tag.removesuffix("OME").strip("{}") not in CARRIED_VERSIONS:
        ome.lost = ("its OME-XML is older than 2015, so instrument and acquisition are not carried",)
        return ome
    lost = _drop_other_images(root, images, chosen) if len(images) > 1 else []
    lost += _drop_what_is_of_the_file(root, pixels)
    ome.lost = (f"of its OME-XML {', '.join(lost)} are not carried",) if lost else ()
    _strip_namespace(root)
    ome.xml = ElementTree.tostring(root, encoding="unicode")
    return ome


def ome_calibration(pixels: Element) -> Calibration:
    """Return what a Pixels element states in micrometres and seconds."""
    calibration = Calibration()
    for axis in "ZYX":
        size = pixels.get(f"PhysicalSize{axis}")
        if finite(size) == NOT_SET:
            calibration.doubts.append(f"the pixel size along {axis} is {size}, as where none is set, and is not stated")
        else:
            calibration.add_size(axis, size, pixels.get(f"PhysicalSize{axis}Unit", "µm"))
    calibration.add_size("T", pixels.get("TimeIncrement"), pixels.get("TimeIncrementUnit", "s"))
    calibration.channel_names = all_named([channel.get("Name") for channel in pixels.findall("{*}Channel")])
    return calibration


def compose_ome(
    like: Stack, dtype: np.dtype[Any], *, name: str, provenance: Mapping[str, Any] | None, same_values: bool = True
) -> bytes:
    """Return the OME-XML (UTF-8) of an output: what the input stated, with its own pixels and our annotation.

    Parameters
    ----------
    like : Stack
        What it states of axes, shape, pixel sizes and names wins over its OME-XML.
    dtype : dtype
        Of the output.
    name : str
        Of the image, where the input had no OME-XML.
    provenance : mapping or None
        Becomes an OME MapAnnotation; values that are not text are written as JSON.
    same_values : bool
        Whether the values mean what those of the input mean: significant bits are carried then.
    """
    carried = like.metadata.ome_xml
    root = parse(carried) if carried else None
    if root is None:
        root = _fresh(name, like.metadata.tiff.get("description"))
    _strip_namespace(root)
    root.attrib |= {"UUID": f"urn:uuid:{uuid.uuid4()}", "Creator": "cellxlate"}
    image = root.find("Image")
    pixels = root.find(".//Pixels")
    if image is None or pixels is None:  # a stack whose metadata came from elsewhere
        root = _fresh(name, None)
        _strip_namespace(root)
        image, pixels = root[0], root[0][-1]
    _describe_pixels(pixels, like, dtype)
    bits = like.metadata.tiff.get("bits")
    if same_values and isinstance(bits, int):
        pixels.set("SignificantBits", str(bits))
    _annotate(root, image, like, provenance)
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=False)
    return text


def declares_entities(text: str) -> bool:
    """Return whether XML has a document type, which OME-XML never has: entities could grow, or name other files."""
    return "<!DOCTYPE" in text or "<!ENTITY" in text


def parse(text: str) -> Element | None:
    """Return the root of a document; None where it cannot be parsed or declares entities."""
    if declares_entities(text):
        return None
    try:
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError, RecursionError):
        return None


def _fresh(name: str, description: Any) -> Element:
    root = Element("OME", {"xmlns": NAMESPACE})
    image = SubElement(root, "Image", {"ID": "Image:0", "Name": xml_text(name)})
    if isinstance(description, str):
        SubElement(image, "Description").text = xml_text(description)
    SubElement(image, "Pixels", {"ID": "Pixels:0"})
    return root


def _describe_pixels(pixels: Element, like: Stack, dtype: np.dtype[Any]) -> None:
    """State sizes, type, calibration and channels; what the element says already and what agrees stays as it is."""
    samples, above = like.size("S"), [axis for axis in reversed(like.axes) if axis in "TCZ"]
    order = "XY" + "".join(above) + "".join(axis for axis in "CZT" if axis not in above)
    pixels.attrib |= {"DimensionOrder": order, "Type": PIXEL_TYPES[dtype.name], "BigEndian": "false"}
    pixels.attrib |= {f"Size{axis}": str(like.size(axis) * (samples if axis == "C" else 1)) for axis in "XYZCT"}
    if "S" in like.axes:
        pixels.set("Interleaved", "true" if like.axes.endswith("S") else "false")
    stated = ome_calibration(pixels)
    for axis, size_um in like.pixel_size_um.items():
        if stated.pixel_size_um.get(axis) != size_um:
            pixels.attrib |= {f"PhysicalSize{axis}": repr(float(size_um)), f"PhysicalSize{axis}Unit": "µm"}
    if like.time_step_s is not None and stated.time_step_s != like.time_step_s:
        pixels.attrib |= {"TimeIncrement": repr(float(like.time_step_s)), "TimeIncrementUnit": "s"}
    count = like.size("C")
    channels = pixels.findall("Channel")
    fit = channels_fit(tuple(_whole(channel.get("SamplesPerPixel")) for channel in channels), like)
    named = any(channel.get("Name") for channel in channels)
    if not fit or (len(channels) < count and named and not like.channel_names):
        for channel in channels:
            pixels.remove(channel)
        channels = []
    taken = {channel.get("ID") for channel in channels}
    for number in range(len(channels), count):
        identity = f"Channel:0:{number}" if f"Channel:0:{number}" not in taken else f"Channel:{ANNOTATION}:{number}"
        channel = Element("Channel", {"ID": identity})
        pixels.insert(number, channel)
        if len(like.metadata.colours) == count:
            channel.set("Color", _written_colour(like.metadata.colours[number]))
        channel.set("SamplesPerPixel", str(samples))
        channels.append(channel)
    if len(like.channel_names) == count:
        for channel, channel_name, given in zip(
            channels, like.channel_names, given_names(like.channel_names), strict=True
        ):
            if given is not None or channel.get("Name"):
                channel.set("Name", xml_text(channel_name))
    first_after = next((at for at, child in enumerate(pixels) if child.tag not in ("Channel",)), len(pixels))
    pixels.insert(first_after, Element("TiffData", {"IFD": "0", "PlaneCount": str(like.plane_count // samples)}))
    for plane in pixels.findall("Plane"):
        if any(not 0 <= _place(plane.get(f"The{axis}", 0)) < like.size(axis) for axis in "ZCT"):
            pixels.remove(plane)


def channels_fit(samples: Sequence[int], like: Stack) -> bool:
    """Return whether Channel elements with so many samples (0: not stated) can stand in the OME-XML of a stack."""
    return len(samples) <= like.size("C") and all(each in (0, like.size("S")) for each in samples)


def _annotate(root: Element, image: Element, like: Stack, provenance: Mapping[str, Any] | None) -> None:
    """Add the MapAnnotation that holds provenance, axes, and what OME-XML has no place for."""
    values = {key: _note(value) for key, value in (provenance or {}).items()}
    values |= {"axes": like.axes, "metadata": _note(like.metadata.stored(native="ome-tiff"))}
    if like.metadata.earlier:
        values["earlier"] = _note([dict(note) for note in like.metadata.earlier])
    annotations = root.find("StructuredAnnotations")
    if annotations is None:
        annotations = Element("StructuredAnnotations")
        root.insert(list(root).index(root.findall("Image")[-1]) + 1, annotations)
    taken, number = {item.get("ID") for item in annotations}, 0
    while f"Annotation:{ANNOTATION}{number}" in taken:
        number += 1
    identity = f"Annotation:{ANNOTATION}{number}"
    note = SubElement(annotations, "MapAnnotation", {"ID": identity, "Namespace": ANNOTATION})
    value = SubElement(note, "Value")
    for key, text in values.items():
        SubElement(value, "M", {"K": xml_text(key)}).text = text
    SubElement(image, "AnnotationRef", {"ID": identity})


def _take_own_notes(root: Element) -> list[dict[str, str]]:
    """Remove our annotations, and return what they say."""
    notes, identities = [], set()
    for annotations in root.findall("{*}StructuredAnnotations"):
        for note in annotations.findall(f"{{*}}MapAnnotation[@Namespace='{ANNOTATION}']"):
            notes.append({entry.get("K", ""): entry.text or "" for entry in note.findall("{*}Value/{*}M")})
            identities.add(note.get("ID"))
            annotations.remove(note)
        if not len(annotations):
            root.remove(annotations)
    for parent, child in _pairs(root):
        if _local(child) == "AnnotationRef" and child.get("ID") in identities:
            parent.remove(child)
    return notes


def _drop_other_images(root: Element, images: list[Element], chosen: Element) -> list[str]:
    """Remove the other images, the plates, and what refers to the images that go; return what was beside images."""
    gone, plates = {image.get("ID") for image in images if image is not chosen}, []
    for child in list(root):
        if (child in images and child is not chosen) or _local(child) in ("Plate", "Screen"):
            root.remove(child)
            plates += [_local(child)] if child not in images else []
    for parent, child in _pairs(root):
        if _local(child) == "ImageRef" and child.get("ID") in gone:
            parent.remove(child)
    return list(dict.fromkeys(plates))


def _drop_what_is_of_the_file(root: Element, pixels: Element) -> list[str]:
    """Remove what describes the file and its pixels; return what of it the output does not state anew."""
    lost = []
    for attribute in ("UUID", "Creator"):
        root.attrib.pop(attribute, None)
    for attribute in OF_THE_FILE:
        pixels.attrib.pop(attribute, None)
    for attribute in ("PhysicalSizeX", "PhysicalSizeY", "PhysicalSizeZ"):
        size = finite(pixels.get(attribute)) or 0.0
        if size == NOT_SET:
            del pixels.attrib[attribute]
        elif size < 0:  # the schema wants it positive
            pixels.set(attribute, str(pixels.get(attribute)).strip().removeprefix("-"))
    for child in list(pixels):
        if _local(child) in ("TiffData", "BinData", "MetadataOnly"):
            pixels.remove(child)
    for parent, child in _pairs(pixels):
        if _local(child) == "HashSHA1":
            parent.remove(child)
            lost = ["the sums HashSHA1 of its planes"]
    return lost


def _pairs(root: Element) -> Iterator[tuple[Element, Element]]:
    """Yield every element with its parent; children may be removed meanwhile."""
    for parent in list(root.iter()):
        for child in list(parent):
            yield parent, child


def _place(text: str | int) -> int:
    """Return a whole number that counts from 0, -1 for what is none."""
    try:
        return int(text)
    except ValueError:
        return -1


def _local(element: Element) -> str:
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def _strip_namespace(root: Element) -> None:
    """Make the namespace of the root the default one, so that the text has no prefixes."""
    if root.tag.startswith("{"):
        namespace = root.tag[1:].partition("}")[0]
        for element in root.iter():
            if isinstance(element.tag, str):
                element.tag = element.tag.removeprefix(f"{{{namespace}}}")
        root.set("xmlns", namespace)


def _read_colour(text: str | None) -> str:
    """Return "RRGGBB" of OME's signed 32-bit RGBA."""
    try:
        rgba = int(text or "-1") & 0xFFFFFFFF
    except ValueError:
        rgba = 0xFFFFFFFF
    return hex_colour(rgba >> 24, rgba >> 16, rgba >> 8)


def _written_colour(colour: str) -> str:
    rgba = (int(colour, 16) << 8) | 0xFF
    return str(rgba - 2**32 if rgba >= 2**31 else rgba)


def _json(text: str) -> Any:
    """Return what a text of JSON says; None where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _note(value: Any) -> str:
    return xml_text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def _whole(text: str | None) -> int:
    """Return a positive whole number, 0 for anything else."""
    return int(positive(text) or 0)


def xml_text(text: str) -> str:
    """Leave out the control characters that XML cannot hold."""
    return NOT_XML.sub("", text)
