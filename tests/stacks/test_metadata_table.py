"""The tables of docs/reference/metadata.md: a file states each element, and outputs show what becomes of it."""

import base64
import json
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import numpy as np
import ome_types.model
import pytest
import tifffile
import zarr
from pydantic import BaseModel

from cellxlate.errors import InputError
from cellxlate.stacks.carried import ANNOTATION
from cellxlate.stacks.metadata.ome_xml import NAMESPACE
from cellxlate.stacks.metadata.tiff_tags import STRUCTURE
from cellxlate.stacks.read.open import open_stack
from cellxlate.stacks.write.writer import open_writer

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "metadata.md"
PIXELS = np.random.default_rng(0).integers(0, 200, (3, 20, 30)).astype(np.uint16)
ENDINGS = (".ome.tif", ".ome.zarr")

Row = tuple[str, str, str, str]
"""Part, element, and what becomes of it in an OME-TIFF and in an OME-Zarr."""


# --- what an output states


@dataclass(frozen=True)
class Output:
    """What an output states where others look (`native`), and in our annotation or a free text (`note`)."""

    native: str
    note: str
    xml: Element | None

    def has(self, *marks: str) -> str:
        """Return "carried", "as text" or "" for what is written as one of some marks."""
        if any(mark in self.native for mark in marks):
            return "carried"
        return "as text" if any(mark in self.note for mark in marks) else ""


def output_of(path: Path, *, free_text: bool = True) -> Output:
    """Read an output without our reader. `free_text` counts the description of an OME image as text."""
    if path.is_dir():
        group = zarr.open_group(path, mode="r")
        attributes: dict[str, Any] = group.attrs.asdict()
        note = attributes.pop(ANNOTATION)
        xml = note["metadata"].get("ome_xml")
        native = json.dumps([attributes, group["0"].attrs.asdict()], ensure_ascii=False)
        return Output(native, json.dumps(note, ensure_ascii=False), ElementTree.fromstring(xml) if xml else None)
    with tifffile.TiffFile(path) as file:
        tags = file.pages.first.tags
        root = ElementTree.fromstring(file.ome_metadata or "")
        native = "\n".join(f"{tag.name}={shown(tag.value)}" for tag in tags if tag.name != "ImageDescription")
    note = ""
    for parent in list(root.iter()):
        for child in list(parent):
            own = local(child) == "MapAnnotation" and child.get("Namespace") == ANNOTATION
            if own or (free_text and local(child) == "Description"):
                note += "".join(child.itertext())
                parent.remove(child)
    return Output(native + ElementTree.tostring(root, encoding="unicode"), note, root)


def shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{key}: {shown(one)}" for key, one in value.items())
    if isinstance(value, list | tuple):
        return " ".join(shown(one) for one in value)
    return value.hex() if isinstance(value, bytes) else str(getattr(value, "tolist", lambda: value)())


def outputs(source: Path, folder: Path, *, free_text: bool = True, axes: str | None = None, **options: Any) -> Any:
    """Return the warnings about a file, and what its copies in both formats state."""
    found = []
    for ending in ENDINGS:
        with open_stack(source, axes) as stack:
            lines = "\n".join(stack.warnings)
            target = folder / f"copy{ending}"
            with open_writer(target, like=stack, **(options if ending == ".ome.zarr" else {})) as writer:
                for index in stack.plane_indices():
                    writer.write(index, 0, stack.read(index))
                writer.finish()
                writer.publish()
        found.append(output_of(target, free_text=free_text))
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    return lines, found


def verdict(found: str, *, named: bool) -> str:
    """Put together what becomes of an element; "LOST" is what must never be in the tables."""
    return ", ".join(word for word in (found, "warned" if named else "") if word) or "LOST"


OF_THE_OLD_FILE = {"PageNumber"}
"""What says where in its file a page lies, and means nothing in another."""


# --- tables in the page


def table(part: str, rows: Iterable[Row]) -> str:
    """Return the lines of a table: elements of one part with one fate are one row."""
    together: dict[tuple[str, str, str], list[str]] = {}
    for of, element, tiff, in_zarr in rows:
        together.setdefault((of, tiff, in_zarr), []).append(element)
    lines = [f"| {part} | elements | to OME-TIFF | to OME-Zarr |", "|---|---|---|---|"]
    for (of, tiff, in_zarr), elements in together.items():
        separator = "; " if any("," in one for one in elements) else ", "
        lines.append(f"| {of} | {separator.join(dict.fromkeys(elements))} | {tiff} | {in_zarr} |")
    return "\n".join(lines)


def check(name: str, made: str) -> None:
    """Compare a table with the one between the marks of its name in the page."""
    assert "LOST" not in made, made
    text = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    match = re.search(rf"<!-- table: {name} -->\n(.*?)\n<!-- end -->", text, re.S)
    assert match is not None, f"{PAGE.name} has no table {name}, it is:\n{made}"
    assert match[1] == made, f"the table {name} of {PAGE.name} is out of date, it is:\n{made}"


def local(element: Element) -> str:
    return element.tag.rpartition("}")[2]


# --- OME-XML

ANEW = {"Type", "DimensionOrder", "BigEndian", "Interleaved", "SizeX", "SizeY", "SizeZ", "SizeC", "SizeT"}
VALID = {
    "Pixels": {"DimensionOrder": "XYZCT", "Type": "uint16", "SignificantBits": "11", "Interleaved": "false",
               "BigEndian": "true", "SizeX": "30", "SizeY": "20", "SizeZ": "3", "SizeC": "1", "SizeT": "1",
               "PhysicalSizeX": "1111.25", "PhysicalSizeY": "1112.25", "PhysicalSizeZ": "1113.25", "ID": "Pixels:77",
               "PhysicalSizeXUnit": "nm", "PhysicalSizeYUnit": "nm", "PhysicalSizeZUnit": "nm",
               "TimeIncrement": "1114.25", "TimeIncrementUnit": "ms"},
    "Channel": {"SamplesPerPixel": "1", "Color": "305420031"},
    "Plane": {"TheZ": "1", "TheC": "0", "TheT": "0"},
    "TiffData": {"IFD": "0", "PlaneCount": "3", "FirstZ": "0", "FirstC": "0", "FirstT": "0"},
    "UUID": {"FileName": "a.ome.tif"},
}  # fmt: skip
PLACED_BY_US = {"TiffData", "UUID", "BinData", "MetadataOnly", "BinaryOnly"}
ALONE = {"BinData", "MetadataOnly", "BinaryOnly"}
"""Elements that are in the place of TiffData; they are tried in documents of their own."""

PARTS = ("TiffData", "Plane", "Channel", "Pixels", "StageLabel", "ImagingEnvironment", "ObjectiveSettings", "Image")


def full_element(name: str, kind: type[BaseModel], above: tuple[str, ...]) -> Element:
    """Return an element with all attributes and children of the schema, each with a text of its own."""
    element, here = Element(name), (*above, name)
    if name == "UUID":
        element.text = "urn:uuid:00000000-0000-0000-0000-000000000001"
    for field_name, field in kind.model_fields.items():
        stated: Any = field.json_schema_extra or {}
        child = stated.get("name", field_name)
        children = models(field.annotation)
        if stated.get("type") == "Attribute":
            mark = f"{'-'.join(here[-2:])}-{child}"
            element.set(child, VALID.get(name, {}).get(child, mark))
        elif stated.get("type") == "Wildcard":
            SubElement(element, "Anything").text = f"{'-'.join(here[-2:])}-anything"
        elif children and child not in ALONE - {"BinData"} and not (child == "BinData" and name == "Pixels"):
            element.extend(full_element(child, one, here) for one in children if child not in here)
        elif not children and stated.get("type") == "Element":
            SubElement(element, child).text = f"{'-'.join(here[-2:])}-{child}"
        elif not children and name != "UUID":
            element.text = f"{'-'.join(here[-2:])}-text"
    return element


def models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models(part)]


def statements(element: Element, above: tuple[str, ...] = ()) -> Iterable[tuple[tuple[str, ...], str, str]]:
    """Yield path, attribute ("" for the text) and value of all that a document states."""
    here = (*above, local(element))
    if (element.text or "").strip():
        yield here, "", str(element.text)
    for name, value in element.attrib.items():
        yield here, name, value
    for child in element:
        yield from statements(child, here)


def ome_file(path: Path, text: str) -> Path:
    tifffile.imwrite(path, PIXELS, photometric="minisblack", metadata=None, description=text.encode())
    return path


def part_of(path: tuple[str, ...]) -> str:
    if path[1:2] == ("Image",):
        return next((part for part in PARTS if part in path), "Image")
    return "OME" if len(path) == 1 else path[1]


def test_every_element_of_ome_xml(tmp_path: Path) -> None:
    root = full_element("OME", ome_types.model.OME, ())
    root.set("xmlns", NAMESPACE)
    stated = [one for one in statements(root) if one[1] != "xmlns"]
    assert len({path[-1] for path, _, _ in stated}) > 80
    source = ome_file(tmp_path / "a.ome.tif", ElementTree.tostring(root, encoding="unicode"))
    lines, found = outputs(source, tmp_path, free_text=False)
    fates: dict[tuple[str, str], dict[tuple[str, str], list[str]]] = {}
    for path, name, value in stated:
        anew = (path[-1] in PLACED_BY_US and "Pixels" in path) or name in ("UUID", "Creator")
        anew = anew or (path[-1] == "Pixels" and name in ANEW)
        marks = [value] if len(value) > 6 else []
        marks += [f"{float(value) / 1000}"] if name in ("PhysicalSizeX", "PhysicalSizeY", "PhysicalSizeZ") else []
        marks += ["123456"] if (path[-1], name) == ("Channel", "Color") else []
        words = []
        for one, ending in zip(found, ENDINGS, strict=True):
            if (path, name, value) in statements(one.xml) and not (anew and ending == ".ome.tif"):
                word = "carried" if ending == ".ome.tif" or one.has(*marks) == "carried" else "as text"
            elif f'"bits": {value}' in one.note and name == "SignificantBits":
                word = "as text"
            else:
                word = "written anew" if anew else ""
            words.append(verdict(word, named=len(path[-1]) > 3 and re.search(rf"\b{path[-1]}\b", lines) is not None))
        fates.setdefault((part_of(path), path[-1]), {}).setdefault((words[0], words[1]), []).append(name)
    rows: list[Row] = []
    for (part, element), by_fate in fates.items():
        most = max(
            by_fate, key=lambda fate: ("written anew" not in fate or element in PLACED_BY_US, len(by_fate[fate]))
        )
        for fate, names in by_fate.items():
            of_element = [f"`{element}@{name}`" if name else f"the text of `{element}`" for name in names]
            rows += [
                (part, one, *fate) for one in ([f"`{element}`"] if fate == most and element != "OME" else of_element)
            ]
    check("OME-XML", table("part", rows))


SMALL = (
    '<OME xmlns="{schema}">{before}<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" '
    'SizeX="30" SizeY="20" SizeZ="{z}" SizeC="{c}" SizeT="1" {pixels}>{channels}{place}</Pixels></Image>{after}</OME>'
)
PLACE = '<TiffData IFD="0" PlaneCount="3"/>'
SECOND = (
    '<Image ID="Image:1" Name="the other"><Pixels ID="Pixels:1" DimensionOrder="XYZCT" Type="uint16" SizeX="30" '
    'SizeY="20" SizeZ="1" SizeC="1" SizeT="1"><TiffData IFD="0" PlaneCount="1"/></Pixels></Image>'
)
PLATE = '<Plate ID="Plate:0" Name="of-the-plate"/>'
DOCUMENTS: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "further `Image`": ({"after": SECOND}, ("the other",)),
    "`Plate` and `Screen` beside further images": ({"before": PLATE, "after": SECOND}, ("of-the-plate",)),
    "schemas before 2015": ({"schema": NAMESPACE.replace("2016-06", "2012-06"), "before": PLATE}, ("of-the-plate",)),
    "a document that declares entities, or is no XML": ({"schema": "<"}, ()),
    "`MetadataOnly` of `Pixels`": ({"place": "<MetadataOnly/>"}, ()),
    "`BinData` of `Pixels`": ({"place": "<BinData Length=\"4\" BigEndian=\"false\">AAAA</BinData>"}, ()),
    "`BinaryOnly` without its companion": ({"before": '<BinaryOnly MetadataFile="no.ome" UUID="urn:uuid:1"/>'}, ()),
    "negative sizes": ({"pixels": 'PhysicalSizeZ="-1113.25"'}, ("1113.25",)),
    "sizes in unknown units": ({"pixels": 'PhysicalSizeZ="1113.25" PhysicalSizeZUnit="ell"'}, ("1113.25",)),
    "channels of which some have no name": (
        {"c": "3", "z": "1", "channels": '<Channel ID="C:0"/><Channel ID="C:1" Name="second"/><Channel ID="C:2"/>'},
        ("second",),
    ),
    "fewer `Channel` than channels": ({"c": "3", "z": "1", "channels": '<Channel ID="C:0" Name="first"/>'}, ("first",)),
    "more `Channel` than channels": ({"channels": '<Channel ID="C:0" Name="one"/><Channel ID="C:1"/>'}, ('"one"',)),
}  # fmt: skip


def fate(source: Path, folder: Path, marks: Iterable[str], **options: Any) -> tuple[str, str]:
    """Return what becomes of one thing that a file states, where all its warnings are about this."""
    try:
        lines, found = outputs(source, folder, **options)
    except InputError:
        return "refused", "refused"
    tiff, in_zarr = (verdict(one.has(*marks), named=bool(lines)) for one in found)
    return tiff, in_zarr


def test_documents_of_ome_xml_that_are_not_ordinary(tmp_path: Path) -> None:
    rows: list[Row] = []
    for number, (words, (changes, marks)) in enumerate(DOCUMENTS.items()):
        stated = {"schema": NAMESPACE, "before": "", "after": "", "z": "3", "c": "1", "pixels": "", "channels": ""}
        text = SMALL.format(**(stated | {"place": PLACE} | changes))
        if changes.get("schema") == "<":
            text = '<!DOCTYPE OME [<!ENTITY a "b">]>' + SMALL.format(**stated, place=PLACE).replace('="<"', "")
        rows.append(("documents", words, *fate(ome_file(tmp_path / f"{number}.ome.tif", text), tmp_path, marks)))
    check("OME-XML documents", table("part", rows))


# --- ImageJ

IMAGEJ = {
    "ImageJ": "1.54f", "images": "3", "slices": "3", "hyperstack": "true", "mode": "grayscale", "unit": "um",
    "yunit": "nm", "zunit": "mm", "spacing": "1113.25", "finterval": "1114.25", "tunit": "ms", "fps": "17.25",
    "loop": "true", "min": "211.25", "max": "2112.25", "xorigin": "311.25", "yorigin": "312.25", "zorigin": "313.25",
    "info": "a-line-of-info", "inverty": "true",
}  # fmt: skip
TABLES = {"Info": "text-of-info", "Labels": ["label-one", "label-two", "label-three"], "Ranges": (411.25, 412.25),
          "LUTs": [np.stack([np.arange(256, dtype=np.uint8)] * 3)], "ROI": b"roi-of-imagej",
          "Overlays": [b"an-overlay"],
          "Properties": ["key-of-property", "value-of-property"]}  # fmt: skip
EFFECTS = {
    "unit": ('PhysicalSizeX="0.5"', "0.00025, 0.5"), "yunit": ('PhysicalSizeY="0.00025"', "0.00025, 0.5"),
    "zunit": ('PhysicalSizeZ="1113250.0"', "1113250.0"), "spacing": ('PhysicalSizeZ="1113250.0"', "1113250.0"),
    "slices": ('SizeZ="3"', '"name": "z"'),
    "finterval": ('TimeIncrement="1.11425"',), "tunit": ('TimeIncrement="1.11425"',),
}  # fmt: skip
"""What an output states of what these mean: two pixels per µm along X, four per nm along Y."""

ODD_IMAGEJ: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "`cf`, `c0` to `c4`, `vunit`": ({"cf": "0", "c0": "-32768.25", "c1": "1.0", "vunit": "Gray"}, ("c0=-32768.25",)),
    "negative `spacing`": ({"unit": "um", "spacing": "-1113.25"}, ('PhysicalSizeZ="1113.25"', "1113.25")),
    "unknown `unit`": ({"unit": "ell", "spacing": "1113.25"}, ("spacing=1113.25",)),
}


def imagej_file(path: Path, lines: Mapping[str, str], tables: Mapping[str, Any]) -> Path:
    tags = tifffile.imagej_metadata_tag(dict(tables), "<") if tables else ()
    text = "".join(f"{key}={value}\n" for key, value in lines.items())
    tifffile.imwrite(path, PIXELS, photometric="minisblack", metadata=None, description=text, extratags=tags,
                     resolution=((2, 1), (4, 1)), resolutionunit=1)  # fmt: skip
    return path


def test_what_imagej_states(tmp_path: Path) -> None:
    lines, found = outputs(imagej_file(tmp_path / "a.tif", IMAGEJ, TABLES), tmp_path)
    assert lines == ""
    rows: list[Row] = []
    for key, value in IMAGEJ.items():
        words = [verdict(one.has(*EFFECTS.get(key, ())) or one.has(f"{key}={value}"), named=False) for one in found]
        rows.append(("description", f"`{key}`", words[0], words[1]))
    for key, value in TABLES.items():
        first = value[0] if isinstance(value, list | tuple) else value
        raw = first if isinstance(first, bytes) else np.asarray(first, np.uint8).tobytes() if key == "LUTs" else None
        marks = [str(first)] if raw is None else [raw[:8].hex(), base64.b64encode(raw[:9]).decode(), "0, 1, 2, 3"]
        words = [verdict(one.has(*marks), named=False) for one in found]
        rows.append(("`IJMetadata`", f"`{key}`", words[0], words[1]))
    for number, (name, (stated, marks_of)) in enumerate(ODD_IMAGEJ.items()):
        source = imagej_file(tmp_path / f"{number}.tif", {"ImageJ": "1.54f", "images": "3", "slices": "3"} | stated, {})
        rows.append(("description", name, *fate(source, tmp_path, marks_of)))
    check("ImageJ", table("part", rows))


# --- tags of TIFF

TAGS: dict[int, tuple[int, Any]] = {
    269: (2, "a document"), 271: (2, "the maker"), 272: (2, "the model"), 274: (3, 6), 285: (2, "the page"),
    305: (2, "the program"), 306: (2, "2024:05:06 07:08:09"), 315: (2, "the artist"), 316: (2, "the computer"),
    33432: (2, "the copyright"), 34675: (7, b"profile-of-colours"), 263: (3, 2), 280: (3, 61), 281: (3, 62),
    286: (5, (63, 64)), 287: (5, (65, 66)), 288: (4, 67), 289: (4, 68), 290: (3, 4), 291: (3, (69,) * 16),
    297: (3, (1, 7)), 301: (3, (70,) * 768), 318: (5, (71, 72, 73, 74)), 319: (5, (75, 76) * 6), 321: (3, (77,
    78)), 332: (3, 2),
    333: (2, "inks"), 334: (3, 5), 336: (1, (7, 9)), 337: (2, "a target"), 340: (3, 79), 341: (3, 80),
    700: (1, b"<xmp/>"),
    32781: (2, "an image id"), 33550: (12, (81.5, 82.5, 83.5)), 33922: (12, (84.5,) * 6), 34377: (1, b"8BIM"),
    42112: (2, "<GDALMetadata/>"), 65000: (4, 85),
}  # fmt: skip
"""Codes, types and values that are written one by one; those that say how pixels lie are tifffile's own to write."""


def test_every_tag_of_tiff(tmp_path: Path) -> None:
    rows: list[Row] = []
    for first in range(0, len(TAGS), 7):  # a warning names eight at most
        some = dict(list(TAGS.items())[first : first + 7])
        source = tmp_path / f"{first}.tif"
        extra = [(code, kind, len(value) if isinstance(value, tuple) and kind != 5 else
                  len(value) // 2 if isinstance(value, tuple) else len(value) if isinstance(value, bytes) else
                  None if kind == 2 else 1, value, True) for code, (kind, value) in some.items()]  # fmt: skip
        tifffile.imwrite(source, PIXELS[0], photometric="minisblack", metadata=None, software=False, extratags=extra)
        lines, found = outputs(source, tmp_path)
        with tifffile.TiffFile(source) as file:
            tags = {tag.code: (tag.name, shown(tag.value)) for tag in file.pages.first.tags}
        for code, (kind, value) in some.items():
            (called, shows), words = tags[code], []
            for one, ending in zip(found, ENDINGS, strict=True):
                named = re.search(rf"\b{called}\b", lines) is not None
                texts = [f"{called}={shows}"] if ending == ".ome.tif" else []
                texts += [value] if kind == 2 else []
                word = one.has(
                    *texts, *(['"orientation": 6'] if code == 274 else []), *(["cHJvZmlsZS1v"] if code == 34675 else [])
                )
                words.append("left out" if called in OF_THE_OLD_FILE else verdict(word, named=named))
            rows.append(("text and numbers", f"`{called}`" if code != 65000 else "private tags", words[0], words[1]))
    rows += resolution_rows(tmp_path)
    of_structure = sorted(STRUCTURE - TAGS.keys() - {270, 282, 283, 296, 320, 338, 50838, 50839})
    rows += [
        ("how pixels lie", f"`{tifffile.TIFF.TAGS.get(code, str(code))}`", "written anew", "written anew")
        for code in of_structure
    ]
    check("TIFF tags", table("tags", rows))


def resolution_rows(folder: Path) -> list[Row]:
    """Return the rows of resolutions, palettes, bits, colours and descriptions, each in a file of its own."""
    grey, ramp = PIXELS[0], np.stack([np.arange(256, dtype=np.uint16) * 256 + 7] * 3)
    rgb = PIXELS.astype(np.uint8)
    four = np.concatenate([rgb, rgb[:1]])
    cases: dict[str, tuple[Any, dict[str, Any], tuple[str, ...]]] = {
        "`XResolution`, `YResolution`, `ResolutionUnit` per cm": (
            grey, {"resolution": (20000, 40000), "resolutionunit": 3}, ('PhysicalSizeX="0.5"', '"scale": [0.25, 0.5]')),
        "the same per inch, below 20 µm": (
            grey, {"resolution": (25400, 50800), "resolutionunit": 2}, ('PhysicalSizeX="1.0"', '"scale": [0.5, 1.0]')),
        "the same per inch, as of printers": (
            grey, {"resolution": (301, 302), "resolutionunit": 2}, ("XResolution=301 1", '"resolution": [[301')),
        "the same without a unit": (
            grey, {"resolution": (301, 302), "resolutionunit": 1}, ("XResolution=301 1", '"resolution": [[301')),
        "`ImageDescription`": (grey, {"description": "words of a person"}, ("words of a person",)),
        "`ColorMap`": (grey.astype(np.uint8), {"photometric": "palette", "colormap": ramp}, ("[7, 263, 519",
        "BwAHAQcC")),
        "`PhotometricInterpretation` min-is-white": (
            grey, {"photometric": "miniswhite"}, ("PhotometricInterpretation=0", "miniswhite")),
        "`PhotometricInterpretation` CIELAB, CMYK, YCbCr": (
            rgb, {"photometric": "cielab", "planarconfig": "separate"}, ()),
        "`ExtraSamples`: opacity, or unspecified": (
            four, {"photometric": "rgb", "planarconfig": "separate", "extrasamples": ["unspecified"]},
            ("ExtraSamples=0", '"alpha": "unspecified"')),
    }  # fmt: skip
    found = []
    for number, (name, (pixels, options, marks)) in enumerate(cases.items()):
        source = folder / f"case {number}.tif"
        tifffile.imwrite(source, pixels, **({"photometric": "minisblack", "metadata": None} | options))
        lines, (tiff, in_zarr) = outputs(source, folder)
        words = [verdict(one.has(*marks), named=bool(lines)) for one in (tiff, in_zarr)]
        found.append(("meaning of pixels", name, words[0], words[1]))
    return found


# --- OME-Zarr


def zarr_image(
    path: Path, version: str, change: Any = lambda image: None, *, beside: Mapping[str, Any] | None = None,
    shape: tuple[int, ...] = (3, 20, 30),
) -> Path:  # fmt: skip
    """An image with all that NGFF has a place for, each with a mark of its own, and changed by a function."""
    group = zarr.open_group(path, mode="w", zarr_format=3 if version == "0.5" else 2)
    array = group.create_array("s0", data=np.resize(PIXELS, shape), chunks=(1,) * (len(shape) - 2) + shape[-2:])
    array.update_attributes({"of-the-array": "mark-of-array"})
    window = {"min": 1.25, "max": 60001.25, "start": 31.25, "end": 9001.25}
    channel = {"label": "mark-of-label", "color": "123456", "window": window, "active": True,
               "family": "mark-of-family", "inverted": False, "coefficient": 1.125,
               "further": "mark-of-channel"}  # fmt: skip
    attributes: dict[str, Any] = {
        "multiscales": [{
            "name": "mark-of-name", "type": "mark-of-type", "metadata": {"method": "mark-of-metadata"},
            "axes": [{"name": "z", "type": "space", "unit": "micrometer", "longName": "mark-of-axis"},
                     {"name": "y", "type": "space", "unit": "nanometer"},
                     {"name": "x", "type": "space", "unit": "nanometer"}],
            "datasets": [{"path": "s0", "of-the-level": "mark-of-level", "coordinateTransformations": [
                {"type": "scale", "scale": [1113.25, 1112.25, 1111.25]},
                {"type": "translation", "translation": [513.25, 512.25, 511.25]}]}],
            "coordinateTransformations": [{"type": "scale", "scale": [1.0, 1.0, 2.0]}],
            "further": "mark-of-multiscale",
        }],
        "omero": {"channels": [channel], "rdefs": {"model": "mark-of-rdefs", "defaultZ": 1}, "id": 90125,
                  "name": "mark-of-omero"},
    }  # fmt: skip
    change(attributes)
    image = attributes["multiscales"][0]
    of_version = attributes.pop("version", version)
    if version == "0.5":
        group.update_attributes({"ome": {"version": of_version, "_creator": {"name": "mark-of-creator"}, **attributes}})
    else:
        image["version"] = of_version
        group.update_attributes({"_creator": {"name": "mark-of-creator"}, **attributes})
    group.update_attributes({"of-the-lab": "mark-of-group"} | dict(beside or {}))
    return path


NGFF = {
    "`axes`: name, type, unit": ('"unit": "nanometer"',), "`axes`: further keys": ("mark-of-axis",),
    "`datasets`: `scale`": ("1112.25", 'PhysicalSizeY="1.11225"'), "`datasets`: `translation`": ("513.25",),
    "`datasets`: `path`": ('"path": "s0"',), "`datasets`: further keys": ("mark-of-level",),
    "`coordinateTransformations` of all levels": ("[1.0, 1.0, 2.0]",), "`name`": ("mark-of-name",),
    "`type`": ("mark-of-type",), "`metadata`": ("mark-of-metadata",), "further keys": ("mark-of-multiscale",),
    "`channels`: `label`": ("mark-of-label",), "`channels`: `color`": ("123456", "305420031"),
    "`channels`: `window`": ("31.25",),
    "`channels`: `active`, `family`, `inverted`, `coefficient`": ("mark-of-family",),
    "`channels`: others": ("mark-of-channel",), "`rdefs`": ("mark-of-rdefs",), "`id`, `name`": ("mark-of-omero",),
    "of the group": ("mark-of-group",), "of the array of the first level": ("mark-of-array",),
    "`_creator`": ("mark-of-creator",),
}  # fmt: skip


def of_image(**changes: Any) -> Any:
    return lambda attributes: attributes["multiscales"][0].update(changes)


def of_axes(*kinds: tuple[str, str]) -> Any:
    def change(attributes: dict[str, Any]) -> None:
        image = attributes["multiscales"][0]
        image["axes"] = [
            {"name": name} | ({"type": kind} if kind else {}) | ({"unit": "micrometer"} if kind == "space" else {})
            for name, kind in kinds
        ]

    return change


def of_first_level(*transformations: Mapping[str, Any]) -> Any:
    def change(attributes: dict[str, Any]) -> None:
        attributes["multiscales"][0]["datasets"][0]["coordinateTransformations"] = list(transformations)

    return change


def without_axes(version: str) -> Any:
    def change(attributes: dict[str, Any]) -> None:
        attributes["version"] = version
        del attributes["multiscales"][0]["axes"]

    return change


SCALE, SPACE = {"type": "scale", "scale": [1113.25, 1112.25, 1111.25]}, (("y", "space"), ("x", "space"))
AFFINE = {"type": "affine", "affine": [[1.625, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]}
ODD_NGFF: dict[str, tuple[Any, tuple[str, ...]]] = {
    "axes of other names, by their type": (of_axes(("wavelength", "channel"), *SPACE), ('"wavelength"',)),
    "axes whose type belies the name": (of_axes(("t", "channel"), *SPACE), ('"name": "t"',)),
    "axes of other types (`angle`), longer than 1": (of_axes(("angle", "angle"), *SPACE), ()),
    "units that are not known": (
        of_image(axes=[{"name": one, "type": "space", "unit": "ell"} for one in "zyx"]), ('"ell"',)),
    "a `scale` without a unit": (of_image(axes=[{"name": one, "type": "space"} for one in "zyx"]), ("1112.25",)),
    "negative `scale`": (of_first_level({"type": "scale", "scale": [-1113.25, 1.0, 1.0]}), ("-1113.25",)),
    "`affine`, `rotation`, `sequence` and others, or by `path`": (of_first_level(SCALE, AFFINE), ("1.625",)),
    "a second multiscale image": (
        lambda stated: stated["multiscales"].append({"name": "mark-of-second"}), ("mark-of-second",)),
    "versions that are not known, with `axes` as in 0.5": (lambda stated: stated.update(version="0.6"), ('"0.6"',)),
    "the same without `axes`": (without_axes("0.6"), ()),
    "`image-label`": (lambda stated: stated.update({"image-label": {"colors": []}}), ('"image-label"',)),
}  # fmt: skip


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_every_element_of_ome_zarr(tmp_path: Path, version: str) -> None:
    kind = {"format": "ome-zarr" if version == "0.5" else "ome-zarr-0.4"}
    lines, found = outputs(zarr_image(tmp_path / "a.ome.zarr", version), tmp_path, **kind)
    assert lines == ""
    rows: list[Row] = []
    for name, marks in NGFF.items():
        part = (
            "attributes"
            if name.startswith(("of the", "`_c"))
            else "`omero`"
            if name in list(NGFF)[11:18]
            else "`multiscales`"
        )
        words = [verdict(one.has(*marks) or ("written anew" if name == "`datasets`: `path`" else ""), named=False)
                 for one in found]  # fmt: skip
        rows.append((part, name, words[0], words[1]))
    for number, (name, (change, of_case)) in enumerate(ODD_NGFF.items()):
        source = zarr_image(tmp_path / f"{number}.ome.zarr", version, change)
        rows.append(("what is odd", name, *fate(source, tmp_path, of_case, **kind)))
    rows += collection_rows(tmp_path, version, kind)
    check("OME-Zarr", table("part", rows))


def collection_rows(folder: Path, version: str, kind: Mapping[str, Any]) -> list[Row]:
    """Return the rows of what lies around an image: labels, a set of bioformats2raw, a plate."""
    form = 3 if version == "0.5" else 2

    def state(path: Path, **stated: Any) -> None:
        group = zarr.open_group(path, mode="a", zarr_format=form)
        group.update_attributes({"ome": {"version": version, **stated}} if version == "0.5" else stated)

    source = zarr_image(folder / "labelled.ome.zarr", version)
    state(source / "labels", labels=["mark-of-labels"])
    rows = [
        ("beside the image", "`labels`, tables, further folders", *fate(source, folder, ["mark-of-labels"], **kind))
    ]
    raw = folder / "set.zarr"
    state(raw, **{"bioformats2raw.layout": 3})
    zarr_image(raw / "0", version)
    state(raw / "OME", series=["0"])
    text = SMALL.format(
        schema=NAMESPACE, before='<Experimenter ID="E:0" LastName="of-the-xml"/>', after="", z="3", c="1", pixels="",
        channels="", place="<MetadataOnly/>",
    )  # fmt: skip
    (raw / "OME" / "METADATA.ome.xml").write_text(text, encoding="utf-8")
    for given in (raw, raw / "0"):
        rows.append(("bioformats2raw", "`OME/METADATA.ome.xml`", *fate(given, folder, ["of-the-xml"], **kind)))
    plate = folder / "plate.zarr"
    state(plate, plate={"name": "of-the-plate", "rows": [{"name": "A"}], "columns": [{"name": "1"}], "version": version,
                        "wells": [{"path": "A/1", "rowIndex": 0, "columnIndex": 0}], "field_count": 1})  # fmt: skip
    state(plate / "A")
    state(plate / "A" / "1", well={"images": [{"path": "0", "acquisition": 7}], "version": version})
    zarr_image(plate / "A" / "1" / "0", version)
    rows.append(("plates", "`plate`, `well` of a single field", *fate(plate, folder, ["of-the-plate"], **kind)))
    return rows
