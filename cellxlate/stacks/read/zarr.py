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

from cellxlate.errors import CellxlateError, InputError, said, unless_denied
from cellxlate.locations import Location, RemotePath
from cellxlate.options import AXES_OPTION, IMAGE
from cellxlate.regular_files import files_below
from cellxlate.stacks.axes import LATEST, axis_unit, is_known_version, letters_of, read_axes, version_of
from cellxlate.stacks.carried import (
    ANNOTATION,
    Metadata,
    as_json,
    display_ranges,
    restored,
    valid_colours,
    valid_notes,
)
from cellxlate.stacks.limits.zarr_codecs import LimitedStore, bounded
from cellxlate.stacks.metadata.calibration import Calibration
from cellxlate.stacks.metadata.ome_xml import OmeImage, channels_fit, read_ome
from cellxlate.stacks.metadata.plain_note import read_note
from cellxlate.stacks.naming import ZARR_MARKS, is_zarr, one_line, stack_name
from cellxlate.stacks.read.pixels import check_blocks
from cellxlate.stacks.stack import READ_FAULTS, Stack, all_named, check_axes, fitting
from cellxlate.stacks.stores.store import store_of
from cellxlate.stacks.stores.zip import ZippedStore, is_zipped_zarr, open_zip

OF_THE_FORMAT = ("multiscales", "omero", "version", "bioformats2raw.layout", "series", "plate", "well", "labels",
                 "image-label", "ome", "_creator", ANNOTATION)  # fmt: skip
"""Attributes of a group that are not carried as they are: written anew, or meaningless for one image."""

OF_A_LEVEL = ("path", "coordinateTransformations")
MOST_COUNTED, MOST_COUNTED_REMOTE = 300_000, 30_000
"""Chunks that are looked for at most, before an array is taken to be complete."""

MOST_XML_BYTES = 2**25

NONE_THERE = (
    "none of the {} chunks of the array {} is there, so all pixels would be invented as {}; copy the image again"
)
OTHER_KEYS = "the chunks lie under other names than the metadata state, and are read from there"


def open_node(path: Location) -> "zarr.Group | zarr.Array[Any]":
    """Open a Zarr group or array to be read, by the metadata of its own parts.

    Consolidated metadata are a copy, which does not know what was appended later. They are used only where the parts
    cannot be listed, on the web.
    """
    if isinstance(path, Path) and is_zipped_zarr(path):
        zipped = open_zip(path)
        return zarr.open(zipped, mode="r", path=zipped.root, use_consolidated=False)
    store = store_of(path)
    if isinstance(path, RemotePath) and not path.writable:
        return zarr.open(store, mode="r")
    return zarr.open(store, mode="r", use_consolidated=False)


def image_array(path: Location, group: zarr.Group, inside: str) -> "zarr.Array[Any]":
    """Open the array of a level, which is read in bounded memory and has chunks.

    Parameters
    ----------
    path : Path or RemotePath
        What was opened.
    group : zarr.Group
        Of the image.
    inside : str
        Of the array in the group.

    Raises
    ------
    InputError
        It is no array, none of its chunks is there, or its chunks cannot be read.
    """
    array = group[inside]
    if not isinstance(array, zarr.Array):
        raise InputError(f"{inside} is not an array")
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
    except InputError:
        raise
    except READ_FAULTS as fault:
        if isinstance(path, RemotePath) and isinstance(fault, OSError):
            raise InputError(_not_had(path, fault)) from fault
        raise _damaged(path, one_line(fault), fault) from fault


def open_zarr(path: Location, axes: str | None, image: int) -> Stack:
    """Open one image of an OME-Zarr folder or zip file, or a plain array with the axes the user gives.

    Raises
    ------
    InputError
        The folder is no Zarr image, is damaged, has no such image, or its axes are not known.
    """
    if not is_zarr(path) and not (isinstance(path, Path) and is_zipped_zarr(path)):
        raise InputError(
            f"{path} is a folder but no Zarr image; give a TIFF file, an OME-Zarr folder, or a pattern of planes such "
            "as img_{T}_{Z}.tif"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            node = open_node(path)
            closing: dict[str, Any] = {"release": node.store.close} if isinstance(node.store, ZippedStore) else {}
            if isinstance(node, zarr.Array):
                return replace(_plain_array(path, node, axes), **closing)
            places = _images(node)
            if not 0 <= image < len(places):
                raise InputError(
                    f"there is no image {image}, the folder holds {len(places)}; images are counted from 0"
                )
            group = node[places[image]] if places[image] else node
            if not isinstance(group, zarr.Group):
                raise InputError(f"{places[image]} is an array, not an image")
            plate = "plate" in ome_attributes(node)
            stack = _open_multiscale(path, group, axes, _others(places, image, plate=plate))
            return replace(_with_document(stack, _document_of_set(path, node, image), axes), image=image, **closing)
    except InputError as fault:
        raise fault if str(fault).startswith(str(path)) else type(fault)(f"{path}: ", fault) from None
    except READ_FAULTS as fault:
        if isinstance(path, RemotePath) and isinstance(fault, OSError):
            raise InputError(_not_had(path, fault)) from fault
        what = f"no entry {fault}" if isinstance(fault, KeyError) else one_line(fault)
        raise _damaged(path, what, fault) from fault


def _damaged(path: Location, what: str, fault: BaseException) -> CellxlateError:
    damaged = InputError(f"{path} is a damaged or unsupported Zarr image ({what}); convert it again")
    return unless_denied(damaged, path, fault)


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
    documents: dict[str, bytes] = {}
    for folder in ("", "0"):
        for mark in (*ZARR_MARKS, ".zattrs"):
            if f"{folder}/zarr.json" not in documents:  # Zarr 3 has no other
                with suppress(FileNotFoundError):
                    documents[f"{folder}/{mark}"] = path.joinpath(folder, mark).read_bytes()
    if not documents:
        raise FileNotFoundError(f"{path} is not there")
    return documents


def checked_array(array: "zarr.Array[Any]") -> "zarr.Array[Any]":
    """Return an array that was opened to be read as one whose chunks are decoded into bounded memory.

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
        missing = [well for well in wells if well not in group]
        if missing:
            raise InputError(
                f"its plate lists {len(wells)} wells, of which {_listed(missing)} are not there; copy the plate again, "
                "or give the folders of its images"
            )
        return [f"{well}/{field}" for well in wells for field in _images(_subgroup(group, well))]
    if "well" in attributes:
        return [str(field["path"]) for field in attributes["well"]["images"]]
    if "bioformats2raw.layout" in attributes:
        listed = _listed_series(group)
        paths = listed or sorted((key for key in group.group_keys() if key.isdecimal()), key=int)
        if paths:
            return paths
    raise InputError("it holds no multiscale image; give the folder of one image inside it")


def _listed_series(group: zarr.Group) -> list[str]:
    """Return the images that a bioformats2raw set lists, in the order of its OME-XML; none where it has no list."""
    listed = ome_attributes(_subgroup(group, "OME")).get("series") if "OME" in group else None
    return [str(path) for path in listed or ()]


def _subgroup(group: zarr.Group, path: str) -> zarr.Group:
    node = group[path]
    if not isinstance(node, zarr.Group):
        raise InputError(f"{path} is an array, not a group")
    return node


def _others(places: Sequence[str], image: int, *, plate: bool) -> tuple[str, ...]:
    of_plate = ("what the plate states of itself is carried only where it is enhanced whole",) if plate else ()
    if len(places) == 1:
        return of_plate
    line = said(f"the folder holds {len(places)} images, this is number {image} ({places[image]}); choose with ", IMAGE,
                ", or give the folder of one image")  # fmt: skip
    return ("; ".join((line, *of_plate)),)


def _document_of_set(path: Location, node: zarr.Group, image: int) -> OmeImage | None:
    """Return what the OME-XML of a bioformats2raw set says of one of its images, None where there is none."""
    folder, parent = path, node
    if "bioformats2raw.layout" not in ome_attributes(node):
        if isinstance(path, RemotePath) or not is_zarr(path.parent):  # on the web, each look costs a request
            return None
        above = open_node(path.parent)
        if not isinstance(above, zarr.Group) or "bioformats2raw.layout" not in ome_attributes(above):
            return None
        places = _images(above)
        if path.name not in places:
            return None
        folder, parent, image = path.parent, above, places.index(path.name)
    if not _listed_series(parent):  # then the names of the groups are the numbers, be some of them not there
        image = int(_images(parent)[image])
    document = folder.joinpath("OME", "METADATA.ome.xml")
    try:
        if isinstance(document, Path) and (document.is_symlink() or not document.is_file()):
            return None
        if isinstance(document, Path) and document.stat().st_size > MOST_XML_BYTES:
            return OmeImage(lost=("its OME/METADATA.ome.xml is longer than 32 MB and not carried",))
        text = document.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    return read_ome(text, image)


def _with_document(stack: Stack, ome: OmeImage | None, asked: str | None) -> Stack:
    """Add what OME-XML beside an image says to what the image states, which wins."""
    if ome is None or stack.metadata.ome_xml is not None:
        return stack
    names, misfit = fitting(ome.calibration.channel_names, stack.axes, stack.shape, asked=asked)
    if ome.xml is not None and not channels_fit(ome.samples, stack):
        misfit = ("what OME/METADATA.ome.xml says of channels is not carried, as their number differs",)
    bits = {"bits": ome.bits} if ome.bits is not None and ome.bits < 8 * stack.dtype.itemsize else {}
    metadata = replace(
        stack.metadata, ome_xml=ome.xml, tiff={**stack.metadata.tiff, **bits},
        colours=stack.metadata.colours or ome.colours,
    )  # fmt: skip
    return replace(
        stack, metadata=metadata, channel_names=stack.channel_names or names,
        pixel_size_um={**ome.calibration.pixel_size_um, **stack.pixel_size_um},
        time_step_s=ome.calibration.time_step_s if stack.time_step_s is None else stack.time_step_s,
        warnings=(*stack.warnings, *ome.calibration.lost, *ome.lost, *misfit),
    )  # fmt: skip


def _open_multiscale(path: Location, group: zarr.Group, axes: str | None, others: tuple[str, ...]) -> Stack:
    """Open the image of an OME-Zarr group."""
    attributes = ome_attributes(group)
    image: Mapping[str, Any] = attributes["multiscales"][0]
    first = image["datasets"][0]
    array = image_array(path, group, first["path"])
    _check_first_is_largest(group, image, array)
    absent = found_chunks(path, array)
    found_axes, calibration = _zarr_axes(attributes, array.shape, axes)
    check_axes(found_axes, array.shape)
    named = [str(name or "") for name in getattr(array.metadata, "dimension_names", None) or ()]
    if axes is None and named and all(letters_of(named)) and "".join(letters_of(named)) != found_axes:
        calibration.doubts.append(
            f"its array names its dimensions {', '.join(named)[:80]}, its multiscales otherwise; they are read as "
            f"{found_axes}"
        )
    labels, metadata = _zarr_metadata(group, attributes, array)
    names, misfit = fitting(labels, found_axes, array.shape, asked=axes)
    return Stack(
        array, found_axes, stack_name(path), path, calibration.pixel_size_um, names, calibration.time_step_s,
        len(image["datasets"]), "ome-zarr", metadata, (*others, *calibration.lost, *misfit, *metadata.lost, *absent),
    )  # fmt: skip


def _check_first_is_largest(group: zarr.Group, image: Mapping[str, Any], array: "zarr.Array[Any]") -> None:
    """Raise InputError where a further level, whose scale is finer, is larger than the first."""
    first = _steps(image, image["datasets"][0], array.ndim)
    for level in image["datasets"][1:]:
        if prod(_steps(image, level, array.ndim)) < prod(first):
            shape = tuple(getattr(group[level["path"]], "shape", ()))
            if prod(shape) > prod(array.shape):
                raise InputError(
                    f"its levels are not listed from the largest: {one_line(level['path'])} has {shape}, the first "
                    f"{array.shape}",
                    remedy=("correct the order of its datasets, or give the folder of that array with ", AXES_OPTION),
                )


def _steps(image: Mapping[str, Any], dataset: Mapping[str, Any], dimensions: int) -> list[float]:
    return [abs(step) for step in _scale(image, dataset, dimensions)[0]]


def _zarr_axes(attributes: Mapping[str, Any], shape: tuple[int, ...], asked: str | None) -> tuple[str, Calibration]:
    """Return the axes of an image, as asked for or as its version states them, and what its scales mean."""
    image: Mapping[str, Any] = attributes["multiscales"][0]
    version, stated = version_of(attributes), image.get("axes")
    doubts: list[str] = []
    if stated is None and version in (None, "0.1", "0.2") and len(shape) == 5:
        stated = list("tczyx")  # before version 0.3 every image had these five and did not say so
    if not isinstance(stated, Sequence) or isinstance(stated, str):
        if asked is None:
            known = "" if is_known_version(version) else ", which is not known (0.1 to 0.5 are),"
            raise InputError(
                f"an image of OME-Zarr {version or 'of no version'}{known} that states no axes as {LATEST} does",
                remedy=(
                    "name them, for example ",
                    AXES_OPTION.of("TCZYX"[-max(len(shape), 2) :]),
                    f", or convert it to {LATEST}",
                ),
            )
        stated = [""] * len(shape)
    letters: Sequence[str] = letters_of(stated)
    if asked is None:
        own, doubts = read_axes(stated, shape)
        letters = own
    if not is_known_version(version):
        doubts.insert(0, f"OME-Zarr version {version} is not known and read as {LATEST}")
    calibration = _zarr_calibration(image, letters, [axis_unit(entry) for entry in stated])
    calibration.doubts[:0] = doubts
    return asked or own, calibration


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
        "dataset": {key: value for key, value in image["datasets"][0].items() if key not in OF_A_LEVEL},
        **_mapping(kept.get("stated")),
        "omero": {} if "omero" in own_keys else kept.get("omero", shown),
        "multiscale": further | dict(kept.get("replaced", {})),
        "attributes": further_attributes(everything),
        "ome": {} if attributes == everything else further_attributes(attributes),
        "array": array.attrs.asdict(), "creator": kept.get("creator", attributes.get("_creator")),
    }  # fmt: skip
    lost = []
    if len(attributes["multiscales"]) > 1:
        lost.append(f"the group holds {len(attributes['multiscales'])} multiscale images, the first is read")
    pyramid = {str(level["path"]).split("/")[0] for level in image["datasets"]}
    beside = sorted(name for name in group if name not in pyramid)
    if beside:
        lost.append(f"what lies beside the image is not copied: {_listed(beside)}")
    if "image-label" in attributes:
        lost.append("the attribute image-label is not carried")
    own_note = {key: value for key, value in own.items() if key not in ("metadata", "earlier")}
    earlier = valid_notes([*valid_notes(own.get("earlier")), own_note])
    colours = tuple((valid_colours([channel.get("color", "")]) or ("",))[0] for channel in channels)
    colours = tuple(colour or "FFFFFF" for colour in colours) if any(colours) else ()
    windows = [channel["window"] if isinstance(channel.get("window"), Mapping) else {} for channel in channels]
    ranges = display_ranges([(window.get("start"), window.get("end")) for window in windows])
    carried = {
        "zarr": {} if kept.get("own_attributes") else {key: as_json(value) for key, value in stated.items() if value},
        "colours": colours, "ranges": ranges,
        "earlier": tuple(note for note in earlier if note), "lost": tuple(lost),
    }  # fmt: skip
    labels = all_named([channel.get("label") for channel in channels])
    if kept.get("own_names"):
        labels = ()
    return labels, Metadata(**(carried | (restored(kept) if kept else {})))


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"{', '.join(names[:8])}{more}"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


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
    stored: dict[int, set[tuple[int, ...]]] = {kind: set() for kind in range(len(kinds))}
    for name in names:
        for kind, (expression, _) in enumerate(kinds):
            if match := expression.fullmatch(name):
                stored[kind].add(tuple(map(int, match.groups())))
    inside = {
        kind: sum(all(at < count for at, count in zip(indices, counts, strict=True)) for indices in keys)
        for kind, keys in stored.items()
    }
    used = max(inside, key=lambda kind: (inside[kind], -kind))
    where = array.path or path.name
    if not inside[used]:
        raise InputError(NONE_THERE.format(expected, where, _fill(array)))
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
            f"{expected - inside[used]} of {expected} chunks have no file and read as {_fill(array)}; if the stack "
            "was copied, compare it with its source"
        )
    if len(stored[used]) > inside[used]:
        lines.append(
            f"{len(stored[used]) - inside[used]} chunks lie outside of the stated shape {shape} and are not read; if "
            "something was appended, correct the shape"
        )
    return tuple(lines)


def _fill(array: "zarr.Array[Any]") -> str:
    """Return what absent chunks read as, in words; Zarr 2 may state null, of which zarr makes 0."""
    return "0, though no fill value is stated" if array.fill_value is None else str(array.fill_value)


def _stored_names(path: Location, array: "zarr.Array[Any]", expected: int) -> Iterable[str] | None:
    """Return the names of the files below an array, None where they cannot be listed, or are too many to be."""
    store = array.store.unlimited if isinstance(array.store, LimitedStore) else array.store
    if isinstance(store, ZippedStore):
        start = f"{array.path}/" if array.path else ""
        return [name.removeprefix(start) for name in store.names if name.startswith(start)]
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
        other = replace(stated, chunk_key_encoding={"name": name, "configuration": {"separator": separator}})
        object.__setattr__(stated, "chunk_key_encoding", other.chunk_key_encoding)


def _probed(path: Location, array: "zarr.Array[Any]", counts: tuple[int, ...]) -> tuple[str, ...]:
    """Look for some chunks where all cannot be listed, or are too many; as `found_chunks`."""
    folder = path / array.path if array.path else path
    kinds = _key_kinds(array, len(counts))
    if isinstance(folder, RemotePath):
        corners = [tuple(0 for _ in counts), tuple(count // 2 for count in counts), tuple(size - 1 for size in counts)]
        tried = [(encoding, chunk) for _, encoding in kinds for chunk in dict.fromkeys(corners)]
        matching = (encoding for encoding, chunk in tried if (folder / _key(array, encoding, chunk)).is_file())
    else:
        keys = files_below(folder, _tree(path))
        matching = (encoding for key in keys for expression, encoding in kinds if expression.fullmatch(key))
    used = next(matching, None)
    if used is None and isinstance(folder, RemotePath):
        return ("of its chunks those that were looked for are not there; what is not there reads as "
                f"{_fill(array)}: compare the image with its source",)  # fmt: skip
    if used is None:
        raise InputError(NONE_THERE.format(prod(counts), array.path or path.name, _fill(array)))
    if used == kinds[0][1]:
        return ()
    _use_keys(array, used)
    return (OTHER_KEYS,)


def _key(array: "zarr.Array[Any]", encoding: Any, chunk: tuple[int, ...]) -> str:
    """Return the key of a chunk in an encoding of `_key_kinds`."""
    if array.metadata.zarr_format == 2:
        return str(encoding).join(map(str, chunk))
    name, separator = encoding
    return str(separator).join([*(["c"] if name == "default" else []), *map(str, chunk)])


def _zarr_calibration(image: Mapping[str, Any], letters: Sequence[str], units: Sequence[str]) -> Calibration:
    """Return what the scales of the first level mean in micrometres and seconds; nothing where there is no unit."""
    calibration = Calibration()
    steps, others = _scale(image, image["datasets"][0], len(letters))
    for axis, unit, step in zip(letters, units, steps, strict=True):
        if axis and axis in "TZYX":
            calibration.add_size(axis, step, unit)
        if axis and axis in "ZYX" and not unit and step not in (0.0, 1.0):
            calibration.doubts.append(f"the scale along {axis}, {step:.6g}, has no unit, so no pixel size is stated")
    if others:
        calibration.doubts.append(f"the transformations {', '.join(others)} are not applied, but kept as text")
    return calibration


def _plain_array(path: Location, array: zarr.Array[Any], axes: str | None) -> Stack:
    array = checked_array(array)
    absent = found_chunks(path, array)
    names = getattr(array.metadata, "dimension_names", None)
    if axes is None and names and all(letters_of([str(name or "") for name in names])):
        axes = "".join(letters_of([str(name) for name in names]))
    if axes is None and array.ndim != 2:
        example = "TCZYX"[-max(array.ndim, 2) :]
        raise InputError(
            f"{path} is a Zarr array of shape {array.shape} without axes",
            remedy=("name them, for example ", AXES_OPTION.of(example)),
        )
    attributes = {key: as_json(value) for key, value in array.attrs.asdict().items()}
    note, axes = read_note(attributes.pop(ANNOTATION, None)), axes or "YX"
    carried: dict[str, Any] = {"zarr": {"array": attributes} if attributes else {}, "earlier": note.earlier}
    stated = note.calibration
    channel_names, misfit = fitting(stated.channel_names, axes, array.shape, asked=axes)
    return Stack(
        array, axes, stack_name(path), path, stated.pixel_size_um, channel_names,
        stated.time_step_s, kind="zarr", metadata=Metadata(**(carried | dict(note.kept))),
        warnings=(*misfit, *absent),
    )  # fmt: skip


def _scale(
    image: Mapping[str, Any], dataset: Mapping[str, Any], dimensions: int
) -> tuple[list[float], tuple[str, ...]]:
    """Return the step along each dimension, the dataset's scale times the image's own, and what else is stated."""
    steps = [1.0] * dimensions
    others: dict[str, None] = {}
    for transformations in (dataset.get("coordinateTransformations"), image.get("coordinateTransformations")):
        for transformation in transformations or ():
            kind = str(transformation.get("type"))[:40]
            if kind == "scale" and "scale" in transformation:
                steps = [step * float(value) for step, value in zip(steps, transformation["scale"], strict=True)]
            elif kind not in ("translation", "identity") or "path" in transformation:
                others[kind] = None
    return steps, tuple(others)
