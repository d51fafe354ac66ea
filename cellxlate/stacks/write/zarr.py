"""OME-Zarr around bands: the group's metadata in 0.5, and arrays and metadata in 0.4."""

import warnings
from collections.abc import Mapping, Sequence
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, Literal

import numcodecs
import numpy as np
import numpy.typing as npt
import zarr

from cellxlate.errors import OutputError
from cellxlate.locations import Location
from cellxlate.options import FORMAT
from cellxlate.stacks.axes import axis_unit, letters_of
from cellxlate.stacks.carried import ANNOTATION, from_json
from cellxlate.stacks.channel_names import given_names
from cellxlate.stacks.metadata.calibration import amount_of
from cellxlate.stacks.stack import Stack, plane_key
from cellxlate.stacks.stores.store import store_of
from cellxlate.stacks.write.bands import BAND_PX, Bands, Tell, no_news
from cellxlate.stacks.write.pyramid import Reduction

Version = Literal["0.4", "0.5"]
SAMPLE_COLOURS = ("FF0000", "00FF00", "0000FF", "FFFFFF")
"""Red, green, blue, and what is not one of these."""

LARGEST_STEP = 1e300
"""Of an axis, in whatever unit; what is larger is no number that steps can be counted with."""


def check_zarr(path: Location, axes: str) -> None:
    """Raise OutputError unless OME-Zarr can hold such axes: time, then channels or samples, then those of space."""
    rank = "".join({"T": "t", "C": "c", "S": "c"}.get(axis, "x") for axis in axes)
    if rank.count("c") > 1 or list(rank) != sorted(rank, key="tcx".index):
        raise OutputError(
            f"{path}: OME-Zarr wants time first, then channels or colour samples, then space; the stack has {axes}",
            remedy=("choose ", FORMAT.of("zarr"), ", a plain array that holds any axes"),
        )


def write_group(
    folder: Location,
    resolutions: Sequence[Bands],
    *,
    like: Stack,
    reduction: Reduction,
    provenance: Mapping[str, Any] | None,
    same_values: bool = True,
    version: Version = "0.5",
) -> None:
    """Write the metadata that makes the complete arrays "0", "1", ... in a folder an OME-Zarr image.

    Parameters
    ----------
    folder, resolutions, reduction
        The group, its pyramid, full resolution first, and how the levels were made.
    like, same_values
        What states calibration, channel names and metadata; its display ranges are written where values mean the same.
    provenance : mapping or None
        Becomes the attribute "cellxlate", beside "ome".
    version : {"0.4", "0.5"}
        Of the format; the arrays must be Zarr 2 or Zarr 3 accordingly.

    Notes
    -----
    Axes, transformations and `omero` of the input are written as they were; where the format does not allow them,
    they are kept in the attribute "cellxlate". The format states steps of axes only: a depth or a time step of a stack
    without Z or T is kept there too.
    """
    carried = from_json(dict(like.metadata.zarr))
    image = _image(folder.name, resolutions, like=like, reduction=reduction, carried=carried, version=version)
    if not _is_valid(image, version):
        image = _image(folder.name, resolutions, like=like, reduction=reduction, carried={}, version=version)
    multiscale = image["multiscales"][0]
    placed = multiscale["axes"] == carried.get("axes")
    omero = _omero(resolutions[-1], like, carried, same_values=same_values)
    if omero and not _is_valid(image | {"omero": omero}, version):
        omero = _omero(resolutions[-1], like, {}, same_values=same_values)
    if omero:
        image["omero"] = omero
    first, further = multiscale["datasets"][0], carried.get("dataset")
    further = further if isinstance(further, dict) else {}
    multiscale["datasets"][0] = {**further, **first}
    if not _is_valid(image, version):
        multiscale["datasets"][0] = first
    replaced = _add_where_valid(image, carried, version, placed=placed)
    stated = carried.get("multiscale", {})
    own = [key for key in multiscale if key not in stated] + ([] if carried.get("omero") else ["omero"])
    kept = like.metadata.stored(native="ome-zarr") | {"replaced": replaced, "own": own}
    kept |= {"own_names": not like.channel_names} if omero else {}
    if carried.get("omero") and omero != carried["omero"] and same_values:
        kept["omero"] = carried["omero"]
    if carried.get("creator"):  # of the input; the output is ours
        kept["creator"] = carried["creator"]
    written = {
        "axes": multiscale["axes"], "transformations": multiscale["datasets"][0]["coordinateTransformations"]
    }  # fmt: skip
    written["dataset"] = {key: value for key, value in multiscale["datasets"][0].items() if key in further}
    if changed := {key: carried[key] for key in written if carried.get(key) not in (None, written[key])}:
        kept["stated"] = changed
    note = {**(provenance or {}), "metadata": kept}
    if like.metadata.earlier:
        note["earlier"] = [dict(earlier) for earlier in like.metadata.earlier]
    attributes: dict[str, Any] = dict(carried.get("attributes", {})) | {ANNOTATION: note}
    if version == "0.5":
        attributes["ome"] = carried.get("ome", {}) | image
    else:
        multiscale["version"] = image.pop("version")
        attributes |= image
    group = zarr.open_group(store_of(folder), mode="a", zarr_format=3 if version == "0.5" else 2)
    group.update_attributes(attributes)
    if carried.get("array"):
        group["0"].update_attributes(carried["array"])


def write_arrays_v2(folder: Path, resolutions: Sequence[Bands], tell: Tell = no_news) -> None:
    """Write the levels of a pyramid as the Zarr 2 arrays that OME-Zarr 0.4 wants: "0", "1", ... with chunks of 512 px.

    Notes
    -----
    Memory holds one band at a time. Every chunk gets a file, also where all is 0; each is counted in the end.
    """
    for number, level in enumerate(resolutions):
        chunks = tuple(BAND_PX if axis in "YX" else 1 for axis in level.axes)
        array = zarr.create_array(
            store=folder / str(number), shape=level.shape, dtype=level.dtype, zarr_format=2, chunks=chunks,
            compressors=numcodecs.Zstd(level=3), fill_value=0, overwrite=True,
            chunk_key_encoding={"name": "v2", "separator": "/"}, config={"write_empty_chunks": True},
        )  # fmt: skip
        turned = level.axes.index("X") < level.axes.index("Y")
        for done, (index, band) in enumerate(product(level.plane_indices(), range(level.per_plane)), 1):
            rows = level.rows(band)
            window = level.read(index, rows)
            array[plane_key(level.axes, index, rows, slice(None))] = window.T if turned else window
            if number == 0:
                tell(done / level.per_plane)
        wanted = prod(-(-size // chunk) for size, chunk in zip(level.shape, chunks, strict=True))
        written = sum(item.is_file() and not item.name.startswith(".") for item in (folder / str(number)).rglob("*"))
        if written != wanted:
            raise OutputError(
                f"{folder.name}: {written} of {wanted} chunks of level {number} are on the disk; run again"
            )


def _image(
    name: str, resolutions: Sequence[Bands], *, like: Stack, reduction: Reduction, carried: Mapping[str, Any],
    version: Version,
) -> dict[str, Any]:  # fmt: skip
    """Return the metadata of a multiscale image; axes and transformations as they were where they are the same."""
    datasets = [
        {"path": str(number), "coordinateTransformations": _transformations(level, number, like, carried)}
        for number, level in enumerate(resolutions)
    ]
    multiscale = {
        "name": name, "type": reduction, "axes": _axes(resolutions[0].axes, like, carried), "datasets": datasets,
        "metadata": {"description": f"each level is the {reduction} of 2 x 2 pixels of the level above"},
    }  # fmt: skip
    return {"version": version, "multiscales": [multiscale]}


def _add_where_valid(
    image: dict[str, Any], carried: Mapping[str, Any], version: Version, *, placed: bool
) -> dict[str, Any]:
    """Add the input's further entries of its multiscale image; return those that cannot stand as they were.

    How the levels were made is ours to say, and what the format does not allow must not be said. Transformations of
    all levels belong to the axes of the input; where these are not written (`placed` is false), they are not either.
    """
    multiscale, replaced = image["multiscales"][0], {}
    for key, value in dict(carried.get("multiscale", {})).items():
        before = multiscale.get(key)
        if key == "type" or (key == "coordinateTransformations" and not placed):
            replaced[key] = value
            continue
        tried = [{**value, **before} if key == "metadata" and isinstance(value, dict) else value]
        if key == "coordinateTransformations":  # without what the format does not know, sizes stay what they are
            tried.append(
                [one for one in value if isinstance(one, dict) and one.get("type") in ("scale", "translation")]
            )
        for one in tried:
            multiscale[key] = one
            if _is_valid(image, version):
                break
            del multiscale[key]
            if before is not None:
                multiscale[key] = before
        if multiscale.get(key) != value:
            replaced[key] = value
    return replaced


def _is_valid(image: Mapping[str, Any], version: Version) -> bool:
    from pydantic import ValidationError  # with yaozarrs takes 0.06 s: only where OME-Zarr is written
    from yaozarrs import v04, v05

    model = v05.Image if version == "0.5" else v04.Image
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # units that the format only advises against
            model.model_validate(image)
    except ValidationError:
        return False
    return True


def _axes(axes: str, like: Stack, carried: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the axes as the input stated them, if it did and they are the same; else from the calibration."""
    if _steps(like, carried) is not None:
        return [dict(axis) for axis in carried["axes"]]
    entries = []
    for axis in axes:
        kind = {"C": "channel", "S": "channel", "T": "time"}.get(axis, "space")
        entry = {"name": axis.lower(), "type": kind}
        if axis in like.pixel_size_um or (axis == "T" and like.time_step_s is not None):
            entry["unit"] = "second" if axis == "T" else "micrometer"
        entries.append(entry)
    return entries


def _steps(like: Stack, carried: Mapping[str, Any]) -> list[float] | None:
    """Return the step of each axis in the units of the input, where axes and units mean what `like` states."""
    stated, scale = carried.get("axes") or [], None
    if (
        not all(isinstance(axis, dict) and "name" in axis for axis in stated)
        or "".join(letters_of(stated)) != like.axes
    ):
        return None
    for transformation in carried.get("transformations") or []:
        if isinstance(transformation, dict) and transformation.get("type") == "scale":
            scale = _numbers(transformation.get("scale"), len(like.axes))
    if scale is None or len(stated) != len(like.axes):
        return None
    overall: list[float] | None = [1.0] * len(scale)
    for transformation in _list(carried.get("multiscale", {}).get("coordinateTransformations")):
        if isinstance(transformation, dict) and transformation.get("type") == "scale":
            overall = _numbers(transformation.get("scale"), len(like.axes))
    if overall is None:
        return None
    for axis, entry, step, factor in zip(like.axes, stated, scale, overall, strict=True):
        size = abs(float(step) * float(factor)) * (amount_of(axis, axis_unit(entry)) or 0.0)
        known = like.time_step_s if axis == "T" else like.pixel_size_um.get(axis)
        if axis in "TZYX" and (size or None) != known:
            return None
    return [float(step) for step in scale]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _numbers(values: Any, count: int) -> list[float] | None:
    """Return so many finite numbers, as floats; None where they are none."""
    if not isinstance(values, list) or len(values) != count:
        return None
    if not all(isinstance(value, int | float) and abs(value) < LARGEST_STEP for value in values):
        return None
    return [float(value) for value in values]


def _transformations(level: Bands, number: int, like: Stack, carried: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Place a level: its pixels are larger, so the centre of its first pixel lies further inside."""
    steps = {"T": like.time_step_s or 1.0} | {axis: float(size) for axis, size in like.pixel_size_um.items()}
    full = _steps(like, carried)
    shift = [0.0] * len(level.axes)
    if full is None:
        full = [steps.get(axis, 1.0) for axis in level.axes]
    else:
        for stated in carried.get("transformations") or []:
            if isinstance(stated, dict) and stated.get("type") == "translation":
                shift = _numbers(stated.get("translation"), len(shift)) or shift
    factors = [2**number if axis in "YX" else 1 for axis in level.axes]
    transformations: list[dict[str, Any]] = [
        {"type": "scale", "scale": [step * factor for step, factor in zip(full, factors, strict=True)]}
    ]
    if number or any(shift):
        moved = [start + step * (factor - 1) / 2 for start, step, factor in zip(shift, full, factors, strict=True)]
        transformations.append({"type": "translation", "translation": moved})
    return transformations


def _omero(smallest: Bands, like: Stack, carried: Mapping[str, Any], *, same_values: bool) -> dict[str, Any] | None:
    """Return how channels are shown: as the input stated it, else from names, colours and display ranges."""
    count = like.channel_count
    stated = carried.get("omero") or {}
    channels = [dict(channel) for channel in _list(stated.get("channels")) if isinstance(channel, dict)]
    colours = like.metadata.colours if len(like.metadata.colours) == count else ()
    if "S" in like.axes and count in (3, 4):
        colours = SAMPLE_COLOURS[:count]
    ranges = like.metadata.ranges if len(like.metadata.ranges) == count and same_values else ()
    if len(channels) != count:
        if not (like.channel_names or colours or ranges):
            return None
        channels = [{"active": True} for _ in range(count)]
    given = given_names(like.channel_names)
    for number, channel in enumerate(channels):
        channel.setdefault("color", colours[number] if colours else "FFFFFF")
        if len(given) == count and (given[number] is not None or channel.get("label")):
            channel["label"] = like.channel_names[number]
        if "window" not in channel or not same_values:
            channel["window"] = _window(smallest, number)
            if ranges:
                channel["window"] |= {"start": ranges[number][0], "end": ranges[number][1]}
    return {**stated, "channels": channels}


def _window(level: Bands, channel: int) -> dict[str, float]:
    """Return a display range for one channel from its middle plane in the smallest level."""
    at = level.axes.replace("Y", "").replace("X", "")
    axis = next((axis for axis in "CS" if axis in at), None)
    planes = [index for index in level.plane_indices() if axis is None or index[at.index(axis)] == channel]
    pixels: npt.NDArray[Any] = level.read(planes[len(planes) // 2], slice(None))
    finite = pixels[np.isfinite(pixels)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if level.dtype.kind in "fb":
        limits = (low, high)
    else:
        limits = (float(np.iinfo(level.dtype).min), float(np.iinfo(level.dtype).max))
    return {"min": limits[0], "max": limits[1], "start": low, "end": max(high, low + 1.0)}
