"""OME-Zarr images, sets and plates, and plain arrays, lazily."""

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import zarr
from zarr.core.chunk_key_encodings import parse_chunk_key_encoding

from cellxlate.errors import InputError
from cellxlate.locations import Location, RemotePath
from cellxlate.stacks.calibration import MICROMETRES, SECONDS, Calibration, positive
from cellxlate.stacks.metadata import (
    ANNOTATION,
    Metadata,
    as_json,
    display_ranges,
    restored,
    valid_colours,
    valid_notes,
)
from cellxlate.stacks.naming import ZARR_MARKS, is_zarr, one_line, stack_name
from cellxlate.stacks.pixels import check_blocks
from cellxlate.stacks.plain_note import read_note
from cellxlate.stacks.regular_files import files_below
from cellxlate.stacks.remote_store import store_of
from cellxlate.stacks.stack import READ_FAULTS, Stack, check_axes, fitting
from cellxlate.stacks.zarr_codecs import bounded

OF_THE_FORMAT = ("multiscales", "omero", "version", "bioformats2raw.layout", "series", "plate", "well", "labels",
                 "image-label", "ome", "_creator", ANNOTATION)  # fmt: skip
"""Attributes of a group that are not carried as they are: written anew, or meaningless for one image."""

MOST_COUNTED, MOST_COUNTED_REMOTE = 300_000, 30_000
"""Chunks that are looked for at most, before an array is taken to be complete."""

NONE_THERE = (
    "none of the {} chunks of the array {} is there, so all pixels would be invented as {}; copy the image again"
)
OTHER_KEYS = "the chunks lie under other names than the metadata state, and are read from there"


def open_node(path: Location) -> "zarr.Group | zarr.Array[Any]":
    """Open a Zarr group or array to be read, by the metadata of its own parts.

    Consolidated metadata are a copy, which does not know what was appended later. They are used only where the parts
    cannot be listed, on the web.
    """
    store = store_of(path)
    if isinstance(path, RemotePath) and not path.writable:
        return zarr.open(store, mode="r")
    return zarr.open(store, mode="r", use_consolidated=False)


def image_array(path: Location, group: zarr.Group, place: str) -> "zarr.Array[Any]":
    """Open the array of a level, which is read in bounded memory and has chunks.

    Parameters
    ----------
    path : Path or RemotePath
        What was opened.
    group : zarr.Group
        Of the image.
    place : str
        Of the array in the group.

    Raises
    ------
    InputError
        It is no array, none of its chunks is there, or its chunks cannot be read.
    """
    array = group[place]
    if not isinstance(array, zarr.Array):
        raise InputError(f"{place} is not an array")
    if isinstance(path, RemotePath) and not path.writable:  # its metadata may have come from a consolidated copy
        with suppress(FileNotFoundError, KeyError):
            array = zarr.open_array(store_of(path), path=array.path, mode="r", zarr_format=array.metadata.zarr_format)
    return checked_array(array)


def zarr_images(path: Location) -> list[str]:
    """Return where the images of a Zarr folder lie in it: of a plate its fields, of a set its images, else "".

    Raises
    ------
    InputError
        The metadata cannot be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            node = open_node(path)
            return _images(node) if isinstance(node, zarr.Group) else [""]
    except READ_FAULTS as fault:
        if isinstance(path, RemotePath) and isinstance(fault, OSError):
            raise InputError(_not_had(path, fault)) from fault
        raise InputError(
            f"{path} is a damaged or unsupported Zarr image ({one_line(fault)}); convert it again"
        ) from fault


def open_zarr(path: Location, axes: str | None, image: int) -> Stack:
    """Open one image of an OME-Zarr folder, or a plain array with the axes the user gives.

    Raises
    ------
    InputError
        The folder is no Zarr image, is damaged, has no such image, or its axes are not known.
    """
    if not is_zarr(path):
        raise InputError(
            f"{path} is a folder but no Zarr image; give a TIFF file, an OME-Zarr folder, or a pattern of planes such "
            "as img_{T}_{Z}.tif"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            node = open_node(path)
            if isinstance(node, zarr.Array):
                return _plain_array(path, node, axes)
            places = _images(node)
            if not 0 <= image < len(places):
                raise InputError(
                    f"there is no image {image}, the folder holds {len(places)}; images are counted from 0"
                )
            group = node[places[image]] if places[image] else node
            if not isinstance(group, zarr.Group):
                raise InputError(f"{places[image]} is an array, not an image")
            return replace(_open_multiscale(path, group, axes, _others(places, image)), image=image)
    except InputError as fault:
        raise fault if str(fault).startswith(str(path)) else InputError(f"{path}: {fault}") from None
    except READ_FAULTS as fault:
        if isinstance(path, RemotePath) and isinstance(fault, OSError):
            raise InputError(_not_had(path, fault)) from fault
        what = f"no entry {fault}" if isinstance(fault, KeyError) else one_line(fault)
        raise InputError(f"{path} is a damaged or unsupported Zarr image ({what}); convert it again") from fault


def _not_had(path: RemotePath, fault: OSError) -> str:
    """Say why an address cannot be read."""
    if isinstance(fault, FileNotFoundError):
        return f"{path} is no Zarr image, or is not there; check the address (only Zarr is read from addresses)"
    return f"{path} cannot be read ({one_line(fault)}); check the address, your rights and the network"


def remote_metadata(path: RemotePath) -> dict[str, bytes]:
    """Return the metadata that lie at an address and in the first level of the image there, by their names.

    Raises
    ------
    OSError
        They cannot be had; FileNotFoundError if there are none.
    """
    found: dict[str, bytes] = {}
    for place in ("", "0"):
        for mark in (*ZARR_MARKS, ".zattrs"):
            if f"{place}/zarr.json" not in found:  # Zarr 3 has no other
                with suppress(FileNotFoundError):
                    found[f"{place}/{mark}"] = path.joinpath(place, mark).read_bytes()
    if not found:
        raise FileNotFoundError(f"{path} is not there")
    return found


def checked_array(array: "zarr.Array[Any]") -> "zarr.Array[Any]":
    """Return an array that was opened to be read, whose chunks are decoded into bounded memory.

    Raises
    ------
    InputError
        Its chunks are too large, too many in a shard, or hold Python objects.
    """
    check_blocks(array.chunks, array.dtype)
    return bounded(array)


def ome_attributes(group: zarr.Group) -> Mapping[str, Any]:
    """Return what a group states of images: under "ome" since 0.5, beside all else before."""
    everything: dict[str, Any] = group.attrs.asdict()
    return everything["ome"] if isinstance(everything.get("ome"), Mapping) else everything


def further_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is stated beside the things of the format."""
    return {key: value for key, value in attributes.items() if key not in OF_THE_FORMAT}


def _images(group: zarr.Group) -> list[str]:
    """Return the places of the images in a group: itself, those of a well or a plate, or those of a set."""
    attributes = ome_attributes(group)
    if "multiscales" in attributes:
        return [""]
    if "plate" in attributes:
        wells = [str(well["path"]) for well in attributes["plate"]["wells"]]
        return [f"{well}/{field}" for well in wells for field in _images(_subgroup(group, well))]
    if "well" in attributes:
        return [str(field["path"]) for field in attributes["well"]["images"]]
    if "bioformats2raw.layout" in attributes:
        listed = ome_attributes(_subgroup(group, "OME")).get("series") if "OME" in group else None
        found = [str(place) for place in listed or sorted((k for k in group.group_keys() if k.isdecimal()), key=int)]
        if found:
            return found
    raise InputError("it holds no multiscale image; give the folder of one image inside it")


def _subgroup(group: zarr.Group, place: str) -> zarr.Group:
    found = group[place]
    if not isinstance(found, zarr.Group):
        raise InputError(f"{place} is an array, not a group")
    return found


def _others(places: Sequence[str], image: int) -> tuple[str, ...]:
    if len(places) == 1:
        return ()
    return (f"the folder holds {len(places)} images, this is number {image} ({places[image]}); choose with --image, or "
            "give the folder of one image",)  # fmt: skip


def _open_multiscale(path: Location, group: zarr.Group, axes: str | None, others: tuple[str, ...]) -> Stack:
    """Open the image of an OME-Zarr group."""
    attributes = ome_attributes(group)
    image: Mapping[str, Any] = attributes["multiscales"][0]
    first = image["datasets"][0]
    array = image_array(path, group, first["path"])
    absent = found_chunks(path, array)
    if "axes" in image or array.ndim != 5:
        names, units = zip(*(_axis(entry) for entry in image["axes"]), strict=True)
    else:  # before version 0.3 every image had these five and did not say so
        names, units = tuple("TCZYX"), (None,) * 5
    found_axes = axes or "".join(names)
    check_axes(found_axes, array.shape)
    calibration = _zarr_calibration(image, first, names, units)
    labels, metadata = _zarr_metadata(group, attributes, array)
    return Stack(
        array, found_axes, stack_name(path), path, calibration.pixel_size_um,
        fitting(labels, found_axes, array.shape), calibration.time_step_s, len(image["datasets"]), "ome-zarr",
        metadata, (*others, *metadata.lost, *absent),
    )  # fmt: skip


def _zarr_metadata(
    group: zarr.Group, attributes: Mapping[str, Any], array: zarr.Array[Any]
) -> tuple[tuple[str, ...], Metadata]:
    """Return the channel names and what is carried of an image's group."""
    image: Mapping[str, Any] = attributes["multiscales"][0]
    everything: dict[str, Any] = group.attrs.asdict()
    shown = attributes.get("omero") or {}
    channels = [channel for channel in shown.get("channels", []) if isinstance(channel, Mapping)]
    own: Mapping[str, Any] = everything[ANNOTATION] if isinstance(everything.get(ANNOTATION), Mapping) else {}
    kept: Mapping[str, Any] = own["metadata"] if isinstance(own.get("metadata"), Mapping) else {}
    own_keys = kept.get("own", ())
    further = {key: value for key, value in image.items() if key not in ("axes", "datasets", "version", *own_keys)}
    stated = {
        "axes": image.get("axes"), "transformations": image["datasets"][0].get("coordinateTransformations"),
        "omero": {} if "omero" in own_keys else kept.get("omero", shown),
        "multiscale": further | dict(kept.get("replaced", {})),
        "attributes": further_attributes(everything),
        "ome": {} if attributes == everything else further_attributes(attributes),
        "array": array.attrs.asdict(),
    }  # fmt: skip
    lost = []
    if len(attributes["multiscales"]) > 1:
        lost.append(f"the group holds {len(attributes['multiscales'])} multiscale images, the first is read")
    pyramid = {str(level["path"]).split("/")[0] for level in image["datasets"]}
    beside = sorted(name for name in group if name not in pyramid)
    if beside:
        lost.append(f"what lies beside the image is not copied: {', '.join(beside[:8])}")
    if "image-label" in attributes:
        lost.append("the attribute image-label is not carried")
    own_note = {key: value for key, value in own.items() if key not in ("metadata", "earlier")}
    earlier = valid_notes([*valid_notes(own.get("earlier")), own_note])
    colours = valid_colours([channel.get("color", "FFFFFF") for channel in channels])
    windows = [channel["window"] if isinstance(channel.get("window"), Mapping) else {} for channel in channels]
    ranges = display_ranges([(window.get("start"), window.get("end")) for window in windows])
    found = {
        "zarr": {} if kept.get("own_attributes") else {key: as_json(value) for key, value in stated.items() if value},
        "colours": colours, "ranges": ranges,
        "earlier": tuple(note for note in earlier if note), "lost": tuple(lost),
    }  # fmt: skip
    labels = tuple(str(channel["label"]) for channel in channels if channel.get("label") not in (None, ""))
    if kept.get("own_names"):
        labels = ()
    return labels, Metadata(**(found | (restored(kept) if kept else {})))


def found_chunks(path: Location, array: "zarr.Array[Any]") -> tuple[str, ...]:
    """Look for the chunks of an array under their keys; where they lie under others, make the array read these.

    Parameters
    ----------
    path : Path or RemotePath
        What was opened.
    array : zarr.Array
        Opened to be read.

    Returns
    -------
    tuple of str
        A line where chunks are not there, which read as the fill value, as in an unfinished copy; a line where chunks
        lie outside of the stated shape; a line where the keys are not those that the metadata state.

    Raises
    ------
    InputError
        No chunk is there, or chunks lie under the keys of two kinds.
    """
    shape, chunks = array.shape, array.shards or array.chunks
    counts = tuple(-(-size // chunk) for size, chunk in zip(shape, chunks, strict=True))
    expected = prod(counts)
    if not expected or not counts:
        return ()
    names = _stored_names(path, array, expected)
    if names is None:
        return _probed(path, array, counts)
    kinds = _key_kinds(array, len(counts))
    places: dict[int, set[tuple[int, ...]]] = {kind: set() for kind in range(len(kinds))}
    for name in names:
        for kind, (expression, _) in enumerate(kinds):
            if match := expression.fullmatch(name):
                places[kind].add(tuple(map(int, match.groups())))
    inside = {
        kind: sum(all(at < count for at, count in zip(place, counts, strict=True)) for place in found)
        for kind, found in places.items()
    }
    used = max(inside, key=lambda kind: (inside[kind], -kind))
    where = array.path or path.name
    if not inside[used]:
        raise InputError(NONE_THERE.format(expected, where, array.fill_value))
    others = sum(count for kind, count in inside.items() if kind != used)
    if others:
        raise InputError(
            f"the chunks of the array {where} lie under keys of two kinds ({inside[used]} and {others}), which may "
            "hold other pixels; remove those that are out of date, or convert the image again"
        )
    lines = []
    if used:
        _, encoding = kinds[used]
        _use_keys(array, encoding)
        lines.append(OTHER_KEYS)
    if inside[used] < expected:
        lines.append(
            f"{expected - inside[used]} of {expected} chunks have no file and read as {array.fill_value}; if the stack "
            "was copied, compare it with its source"
        )
    if len(places[used]) > inside[used]:
        lines.append(
            f"{len(places[used]) - inside[used]} chunks lie outside of the stated shape {shape} and are not read; if "
            "something was appended, correct the shape"
        )
    return tuple(lines)


def _stored_names(path: Location, array: "zarr.Array[Any]", expected: int) -> Iterable[str] | None:
    """Return the names of the files below an array, None where they cannot be listed, or are too many to be."""
    folder = path / array.path if array.path else path
    if isinstance(folder, RemotePath):
        if not folder.writable or expected > MOST_COUNTED_REMOTE:  # the web lists nothing, a bucket 1000 at a time
            return None
        return folder.below()
    if expected > MOST_COUNTED:
        return None
    return files_below(folder, _tree(path))


def _tree(path: Location) -> Path:
    """Return the folder that no link of an image may lead out of."""
    return store_of(path).tree  # type: ignore[union-attr]


def _key_kinds(array: "zarr.Array[Any]", dimensions: int) -> list[tuple[re.Pattern[str], Any]]:
    """Return expressions for the keys of chunks, that of the metadata first, with the encodings that they stand for."""
    stated: Any = array.metadata
    number = r"(0|[1-9]\d*)"
    separated = {sign: re.escape(sign).join([number] * dimensions) for sign in "/."}
    kinds: list[tuple[re.Pattern[str], Any]]
    if stated.zarr_format == 2:
        own: Any = stated.dimension_separator
        kinds = [(re.compile(separated[sign]), sign) for sign in "/."]
    else:
        own = (stated.chunk_key_encoding.name, stated.chunk_key_encoding.separator)
        kinds = [(re.compile(f"c{re.escape(sign)}{separated[sign]}"), ("default", sign)) for sign in "/."]
        kinds += [(re.compile(separated[sign]), ("v2", sign)) for sign in "/."]
    kinds.sort(key=lambda kind: kind[1] != own)
    distinct = {expression.pattern: (expression, encoding) for expression, encoding in reversed(kinds)}
    return list(reversed(distinct.values()))  # of one axis, both separators give the same keys


def _use_keys(array: "zarr.Array[Any]", encoding: Any) -> None:
    """Make an array that was opened to be read look for its chunks under other keys."""
    stated: Any = array.metadata
    if stated.zarr_format == 2:
        object.__setattr__(stated, "dimension_separator", encoding)
    else:
        name, separator = encoding
        other = parse_chunk_key_encoding({"name": name, "configuration": {"separator": separator}})
        object.__setattr__(stated, "chunk_key_encoding", other)


def _probed(path: Location, array: "zarr.Array[Any]", counts: tuple[int, ...]) -> tuple[str, ...]:
    """Look for some chunks where all cannot be listed, or are too many; as `found_chunks`."""
    folder = path / array.path if array.path else path
    kinds = _key_kinds(array, len(counts))
    if isinstance(folder, RemotePath):
        corners = [tuple(0 for _ in counts), tuple(count // 2 for count in counts), tuple(size - 1 for size in counts)]
        tried = [(encoding, place) for _, encoding in kinds for place in dict.fromkeys(corners)]
        found = (encoding for encoding, place in tried if (folder / _key(array, encoding, place)).is_file())
    else:
        keys = files_below(folder, _tree(path))
        found = (encoding for key in keys for expression, encoding in kinds if expression.fullmatch(key))
    used = next(found, None)
    if used is None and isinstance(folder, RemotePath):
        return ("of its chunks those that were looked for are not there; what is not there reads as "
                f"{array.fill_value}: compare the image with its source",)  # fmt: skip
    if used is None:
        raise InputError(NONE_THERE.format(prod(counts), array.path or path.name, array.fill_value))
    if used == kinds[0][1]:
        return ()
    _use_keys(array, used)
    return (OTHER_KEYS,)


def _key(array: "zarr.Array[Any]", encoding: Any, place: tuple[int, ...]) -> str:
    """Return the key of a chunk in an encoding of `_key_kinds`."""
    if array.metadata.zarr_format == 2:
        return str(encoding).join(map(str, place))
    name, separator = encoding
    return str(separator).join([*(["c"] if name == "default" else []), *map(str, place)])


def _zarr_calibration(
    image: Mapping[str, Any], dataset: Mapping[str, Any], names: Sequence[str], units: Sequence[str | None]
) -> Calibration:
    """Return what the scales of a dataset mean in micrometres and seconds; nothing where the unit is not known."""
    found = Calibration()
    for axis, unit, step in zip(names, units, _scale(image, dataset, len(names)), strict=True):
        table = SECONDS if axis == "T" else MICROMETRES
        size = positive(step * table.get(unit or "", 0.0))
        if size and axis == "T":
            found.time_step_s = size
        elif size and axis in "ZYX":
            found.pixel_size_um[axis] = size
    return found


def _plain_array(path: Location, array: zarr.Array[Any], axes: str | None) -> Stack:
    checked_array(array)
    absent = found_chunks(path, array)
    names = getattr(array.metadata, "dimension_names", None)
    if axes is None and names and all(names):
        axes = "".join(str(name).upper() for name in names)
        if len(axes) != array.ndim:
            axes = None
    if axes is None and array.ndim != 2:
        example = "TCZYX"[-max(array.ndim, 2) :]
        raise InputError(
            f"{path} is a Zarr array of shape {array.shape} without axes; name them, for example --axes {example}"
        )
    attributes = {key: as_json(value) for key, value in array.attrs.asdict().items()}
    note, axes = read_note(attributes.pop(ANNOTATION, None)), axes or "YX"
    found: dict[str, Any] = {"zarr": {"array": attributes} if attributes else {}, "earlier": note.earlier}
    stated = note.calibration
    return Stack(
        array, axes, stack_name(path), path, stated.pixel_size_um, fitting(stated.channel_names, axes, array.shape),
        stated.time_step_s, kind="zarr", metadata=Metadata(**(found | dict(note.kept))),
        warnings=absent,
    )  # fmt: skip


def _axis(entry: str | Mapping[str, Any]) -> tuple[str, str | None]:
    """Return the letter and the unit of an axis in OME-Zarr metadata (strings in 0.3, objects since 0.4)."""
    if isinstance(entry, str):
        return entry.upper(), None
    return str(entry["name"]).upper(), entry.get("unit")


def _scale(image: Mapping[str, Any], dataset: Mapping[str, Any], dimensions: int) -> list[float]:
    """Return the step along each dimension: the dataset's scale times the image's own."""
    steps = [1.0] * dimensions
    for transformations in (dataset.get("coordinateTransformations", []), image.get("coordinateTransformations", [])):
        for transformation in transformations:
            if transformation.get("type") == "scale":
                steps = [step * float(value) for step, value in zip(steps, transformation["scale"], strict=True)]
    return steps
