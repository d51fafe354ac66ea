"""TIFF tags beside the pixels: what is carried, what is written again, and what is lost."""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import tifffile

from cellxlate.stacks.carried import (
    ANNOTATION,
    as_json,
    display_ranges,
    from_json,
    hex_colour,
    short_enough,
    valid_tiff,
)
from cellxlate.stacks.naming import first_names
from cellxlate.stacks.stack import READ_FAULTS

TEXT_TAGS = {269: "DocumentName", 271: "Make", 272: "Model", 285: "PageName", 305: "Software", 306: "DateTime",
             315: "Artist", 316: "HostComputer", 32781: "ImageID", 33432: "Copyright"}  # fmt: skip
STRUCTURE = frozenset((
    254, 255, 256, 257, 258, 259, 262, 266, 270, 273, 274, 277, 278, 279, 282, 283, 284, 296, 297, 317, 320,
    322, 323, 324, 325, 330, 338, 339, 347, 512, 513, 514, 529, 530, 531, 532, 32997, 34675, 50838, 50839,
))  # fmt: skip
"""Tags that say how the pixels are stored, or that are read elsewhere; resolution and palettes among them."""

SHAPED_KEYS = {"shape", "axes", ANNOTATION}
"""Entries of tifffile's own description that say no more than the file."""

PER_IMAGE = frozenset((270, 274, 282, 283, 296, 320))
"""Those of them that a page may state for itself: description, orientation, resolution, palette."""

ORIENTATIONS = {2: "mirrored left to right", 3: "turned by 180°", 4: "mirrored top to bottom",
                5: "transposed", 6: "turned by 90°", 7: "transposed the other way", 8: "turned by 270°"}  # fmt: skip

OTHER_COLOURS = {"SEPARATED": "CMYK", "CIELAB": "CIELAB", "ICCLAB": "ICCLAB", "ITULAB": "ITULAB", "YCBCR": "YCbCr"}
"""Kinds of colour that are read as they are stored and written as red, green and blue."""

PAGES_COMPARED = 16
LONGEST_DESCRIPTION = 2**23
"""Of a file that is no OME-TIFF, in letters, so that the output's own description can be read again."""

VENDORS = ("stk", "lsm", "metaseries", "fluoview", "micromanager", "scanimage", "andor", "nih", "fei", "sem", "sis",
           "tvips", "mdgel", "astrotiff")  # fmt: skip


def read_tags(file: tifffile.TiffFile, page: tifffile.TiffPage, kind: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return what the tags of a page state, as JSON values, and one line for each thing that is not carried."""
    tags, lost = page.tags, list[str]()
    carried: dict[str, Any] = {}
    text = {name: tags[code].value for code, name in TEXT_TAGS.items() if code in tags}
    carried["text"] = {name: value.strip("\x00") for name, value in text.items() if isinstance(value, str)}
    if "XResolution" in tags and "YResolution" in tags:
        unit = int(tags["ResolutionUnit"].value) if "ResolutionUnit" in tags else 2
        carried["resolution"] = as_json([tags["XResolution"].value, tags["YResolution"].value, unit])
    shaped = parse_shaped(page.description)
    if page.description and kind != "ome-tiff" and (not shaped or shaped.keys() - SHAPED_KEYS):
        if len(page.description) <= LONGEST_DESCRIPTION:
            carried["description"] = page.description
        else:
            lost.append(f"its description of {len(page.description) / 1e6:.0f} MB is too long to be carried")
    if page.photometric.name in ("MINISWHITE", "PALETTE"):
        carried["photometric"] = page.photometric.name.lower()
    if page.colormap is not None:
        carried["colormap"] = as_json(np.asarray(page.colormap))
    if page.bitspersample not in (8, 16, 32, 64) and page.bitspersample > 1:
        carried["bits"] = int(page.bitspersample)
    if page.extrasamples and set(page.extrasamples) <= {0, 1}:
        carried["alpha"] = "assocalpha" if 1 in page.extrasamples else "unspecified"
    if page.iccprofile:
        carried["icc"] = as_json(page.iccprofile)
    if "IJMetadata" in tags and isinstance(tags["IJMetadata"].value, Mapping):
        carried["imagej"] = as_json(tags["IJMetadata"].value)
    lost += _vendor_metadata(file, carried)
    orientation = tags[274].value if 274 in tags else 1
    if orientation in ORIENTATIONS:
        carried["orientation"] = int(orientation)
        lost.append(
            f"the tag Orientation wants the image shown {ORIENTATIONS[orientation]}; rows and columns are read as they "
            "are stored, and TIFF outputs have the tag"
        )
    if page.photometric.name in OTHER_COLOURS and not page.jpegheader and page.compression != 7:
        lost.append(
            f"its colours are {OTHER_COLOURS[page.photometric.name]}, and its samples are taken for RGB as they are "
            "stored; convert it to RGB first"
        )
    names = [tag.name for tag in tags if _is_lost(tag, carried)]
    if names:
        text_of = ", only what could be read of them, as text" if "vendor" in carried else ""
        lost.append(f"the TIFF tags {first_names(names)} are not carried{text_of}")
    stated = {name: value for name, value in carried.items() if value}
    valid = valid_tiff(stated)
    if len(valid) < len(stated):
        lost.append(f"of its TIFF tags {', '.join(stated.keys() - valid.keys())} has another type than it may have")
    return valid, tuple(lost)


def _is_lost(tag: tifffile.TiffTag, carried: Mapping[str, Any]) -> bool:
    """Return whether a tag says something that is not in `carried`."""
    if tag.code in TEXT_TAGS:
        return TEXT_TAGS[tag.code] not in carried["text"]
    if tag.code in (282, 283):
        return "resolution" not in carried
    return tag.code not in STRUCTURE


def differing_tags(series: tifffile.TiffPageSeries, kind: str) -> tuple[str, ...]:
    """Return a line that names the tags which later pages of an image state otherwise than its first, if there are any.

    Notes
    -----
    At most 16 pages are looked at, spread over the image, so that 100,000 cost no more. A tag that later pages leave
    out is no difference: many programs write text on the first page alone.
    """
    first, count = series.pages[0], len(series.pages)
    if count < 2 or not isinstance(first, tifffile.TiffPage):
        return ()
    ignored = (STRUCTURE - PER_IMAGE) | ({270} if kind == "ome-tiff" else frozenset())
    names: dict[str, None] = {}
    looked_at = sorted({1, *(round(number * (count - 1) / (PAGES_COMPARED - 1)) for number in range(PAGES_COMPARED))})
    for number in looked_at[1:]:
        with suppress(*READ_FAULTS):  # a page that cannot be read is refused where its pixels are
            page = series.pages[number]
            page = page.aspage() if isinstance(page, tifffile.TiffFrame) else page
            for tag in page.tags if isinstance(page, tifffile.TiffPage) else ():
                stated = first.tags.get(tag.code)
                if tag.code in ignored or tag.value in ("", None):
                    continue
                if stated is None or as_json(stated.value) != as_json(tag.value):
                    names[tag.name] = None
    if not names:
        return ()
    return (f"the TIFF tags {', '.join(list(names)[:8])} differ from page to page; of those that are carried, only the "
            f"first page's are ({len(looked_at)} of {count} pages were looked at)",)  # fmt: skip


def shaped_description(series: tifffile.TiffPageSeries) -> dict[str, Any]:
    """Return the JSON with which tifffile describes shape and axes of an image; empty where it is none."""
    page = series.keyframe
    return parse_shaped(page.description) if isinstance(page, tifffile.TiffPage) else {}


def parse_shaped(description: str) -> dict[str, Any]:
    """Return a description of tifffile's as a mapping; empty where it is something else."""
    if not description.startswith("{") or '"shape":' not in description:  # first or last, by version
        return {}
    try:
        shaped = json.loads(description)
    except (ValueError, RecursionError):
        return {}
    return shaped if isinstance(shaped, dict) and "shape" in shaped else {}


def _vendor_metadata(file: tifffile.TiffFile, carried: dict[str, Any]) -> list[str]:
    """Add what tifffile can parse of a vendor's private tags; return a line for what is too long."""
    lost = []
    for vendor in VENDORS:
        if getattr(file, f"is_{vendor}", False):
            stated = as_json(getattr(file, f"{vendor}_metadata", None))
            if stated and short_enough(stated):
                carried.setdefault("vendor", {})[vendor] = stated
            elif stated:
                lost.append(f"the metadata of its {vendor} tags is longer than 1 MB and not carried")
    return lost


def imagej_display(tiff: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[tuple[float, float], ...]]:
    """Return the colours and display ranges of ImageJ's tables, one per channel."""
    tables = tiff.get("imagej")
    if not isinstance(tables, Mapping):
        return (), ()
    colours = []
    stated = from_json(tables.get("LUTs"))
    for table in [stated] if isinstance(stated, np.ndarray) else stated or []:
        if not isinstance(table, np.ndarray) or table.shape != (3, 256):
            return (), ()
        colours.append(hex_colour(*(int(sample) for sample in table[:, -1])))
    limits = tables.get("Ranges") or []
    return tuple(colours), display_ranges(zip(limits[::2], limits[1::2], strict=False))


def tag_options(tiff: Mapping[str, Any], dtype: np.dtype[Any], *, colour: bool, same_values: bool) -> dict[str, Any]:
    """Return the options that make tifffile write again what `read_tags` has read, in an output of this dtype.

    Palettes and display tables are written where there are no colour samples and values mean what the input's do.
    """
    text = dict(tiff.get("text", {}))
    options: dict[str, Any] = {"software": _latin(text.pop("Software", "cellxlate"))}
    codes = {name: code for code, name in TEXT_TAGS.items()}
    extra: list[tuple[int, int, int | None, Any, bool]] = [
        (codes[name], 2, None, _latin(value) + b"\0", True) for name, value in text.items() if name in codes
    ]
    if tiff.get("resolution"):
        (*steps, unit) = tiff["resolution"]
        if all(step[1] for step in steps) and unit in (1, 2, 3):
            options |= {"resolution": tuple(tuple(step) for step in steps), "resolutionunit": unit}
    if tiff.get("orientation") in ORIENTATIONS:
        extra.append((274, 3, 1, tiff["orientation"], False))
    options["photometric"] = "rgb" if colour else "minisblack"
    if tiff.get("icc"):
        options["iccprofile"] = from_json(tiff["icc"])
    if same_values:
        photometric, colormap = tiff.get("photometric"), from_json(tiff.get("colormap"))
        if photometric == "miniswhite" and not colour:
            options["photometric"] = "miniswhite"
        if colormap is not None and photometric == "palette" and dtype.name in ("uint8", "uint16"):
            options |= {"photometric": "palette", "colormap": colormap}
        elif colormap is not None and not colour:
            extra.append((320, 3, colormap.size, colormap.ravel(), True))
        extra += list(tifffile.imagej_metadata_tag(from_json(tiff.get("imagej", {})), "<"))
    options["extratags"] = [(code, kind, len(value) if count is None else count, value, once)
                            for code, kind, count, value, once in extra]  # fmt: skip
    return options


def _latin(text: str) -> bytes:
    return text.encode("utf-8", "replace")
