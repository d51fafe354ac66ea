"""OME-Zarr images, sets and plates, and plain arrays, lazily."""

import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import zarr

from cellxlate.errors import CellxlateError, InputError, said, unless_denied
from cellxlate.locations import Location, RemotePath
from cellxlate.options import AXES_OPTION, IMAGE
from cellxlate.stacks.carried import ANNOTATION, Metadata, as_json
from cellxlate.stacks.channel_names import fitting
from cellxlate.stacks.limits.zarr_codecs import bounded
from cellxlate.stacks.metadata.ome_xml import OmeImage, channels_fit, read_ome
from cellxlate.stacks.metadata.plain_note import read_note
from cellxlate.stacks.naming import ZARR_MARKS, first_names, is_zarr, one_line, stack_name
from cellxlate.stacks.read.pixels import check_blocks
from cellxlate.stacks.read.zarr_chunks import found_chunks
from cellxlate.stacks.read.zarr_metadata import check_first_is_largest, ome_attributes, zarr_axes, zarr_metadata
from cellxlate.stacks.stack import READ_FAULTS, Stack, check_axes, named_axes
from cellxlate.stacks.stores.store import store_of
from cellxlate.stacks.stores.zip import ZippedStore, is_zipped_zarr, open_zip

MOST_XML_BYTES = 2**25


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
    """Open the array of a level, `inside` the group of an image in what lies at `path`; read in bounded memory.

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
        raise _refused(path, one_line(fault), fault) from fault


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
        what = f"no entry {fault}" if isinstance(fault, KeyError) else one_line(fault)
        raise _refused(path, what, fault) from fault


def _refused(path: Location, what: str, fault: BaseException) -> CellxlateError:
    """Say why an image cannot be read: its address does not answer, or it is damaged."""
    if isinstance(path, RemotePath) and isinstance(fault, FileNotFoundError):
        return InputError(
            f"{path} is no Zarr image, or is not there; check the address (only Zarr is read from addresses)"
        )
    if isinstance(path, RemotePath) and isinstance(fault, OSError):
        return InputError(f"{path} cannot be read ({one_line(fault)}); check the address, your rights and the network")
    damaged = InputError(f"{path} is a damaged or unsupported Zarr image ({what}); convert it again")
    return unless_denied(damaged, path, fault)


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
                f"its plate lists {len(wells)} wells, of which {first_names(missing)} are not there; "
                "copy the plate again, or give the folders of its images"
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
    check_first_is_largest(group, image, array)
    absent = found_chunks(path, array)
    found_axes, calibration = zarr_axes(attributes, array.shape, axes)
    check_axes(found_axes, array.shape)
    own = named_axes(array)
    if axes is None and own and own != found_axes:
        stated: Any = array.metadata
        calibration.doubts.append(
            f"its array names its dimensions {', '.join(stated.dimension_names)[:80]}, its multiscales otherwise; they "
            f"are read as {found_axes}"
        )
    labels, metadata = zarr_metadata(group, attributes, array)
    names, misfit = fitting(labels, found_axes, array.shape, asked=axes)
    return Stack(
        array, found_axes, stack_name(path), path, calibration.pixel_size_um, names, calibration.time_step_s,
        len(image["datasets"]), "ome-zarr", metadata, (*others, *calibration.lost, *misfit, *metadata.lost, *absent),
    )  # fmt: skip


def _plain_array(path: Location, array: zarr.Array[Any], axes: str | None) -> Stack:
    array = checked_array(array)
    absent = found_chunks(path, array)
    axes = (named_axes(array) or None) if axes is None else axes
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
