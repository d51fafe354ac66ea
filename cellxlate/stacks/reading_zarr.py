"""OME-Zarr images, sets and plates, and plain arrays, lazily."""

import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from math import prod
from typing import Any

import zarr

from cellxlate.errors import InputError
from cellxlate.locations import Location, RemotePath
from cellxlate.stacks.calibration import MICROMETRES, SECONDS, Calibration, positive
from cellxlate.stacks.metadata import ANNOTATION, Metadata, as_json, display_ranges, restored, valid_colours
from cellxlate.stacks.naming import ZARR_MARKS, is_zarr, one_line, stack_name
from cellxlate.stacks.pixels import check_blocks
from cellxlate.stacks.plain_note import read_note
from cellxlate.stacks.remote_store import store_of
from cellxlate.stacks.stack import READ_FAULTS, Stack, check_axes, fitting
from cellxlate.stacks.zarr_codecs import bounded

OF_THE_FORMAT = ("multiscales", "omero", "version", "bioformats2raw.layout", "series", "plate", "well", "labels",
                 "image-label", "ome", "_creator", ANNOTATION)  # fmt: skip
"""Attributes of a group that are not carried as they are: written anew, or meaningless for one image."""

MOST_COUNTED, MOST_COUNTED_REMOTE = 300_000, 30_000
"""Chunks that are looked for at most, before an array is taken to be complete."""


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
            node = zarr.open(store_of(path), mode="r")
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
            node = zarr.open(store_of(path), mode="r")
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
    array = group[first["path"]]
    if not isinstance(array, zarr.Array):
        raise InputError(f"{first['path']} is not an array")
    checked_array(array)
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
        metadata, (*others, *metadata.lost, *_absent_chunks(path, array)),
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
    earlier = (
        *own.get("earlier", ()),
        {key: value for key, value in own.items() if key not in ("metadata", "earlier")},
    )
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


def _absent_chunks(path: Location, array: zarr.Array[Any]) -> tuple[str, ...]:
    """Return a line where chunks have no file: they read as the fill value, which an unfinished copy also does."""
    shape, chunks = array.shape, array.shards or array.chunks
    expected = prod(-(-size // chunk) for size, chunk in zip(shape, chunks, strict=True))
    if expected > MOST_COUNTED:
        return ()
    folder, found = path / array.path, 0
    if isinstance(folder, RemotePath):
        if not folder.writable or expected > MOST_COUNTED_REMOTE:  # the web lists nothing, a bucket 1000 at a time
            return ()
        names = [name.rpartition("/")[2] for name in folder.below()]
        found = sum(not name.startswith(".") and name != "zarr.json" for name in names)
    else:
        for _, _, files in os.walk(folder):
            found += sum(not file.startswith(".") and file != "zarr.json" for file in files)
    if found >= expected or not folder.is_dir():
        return ()
    return (f"{expected - found} of {expected} chunks have no file and read as {array.fill_value}; if the stack was "
            "copied, compare it with its source",)  # fmt: skip


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
        warnings=_absent_chunks(path, array),
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
