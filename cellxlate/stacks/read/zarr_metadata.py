"""What the group of an OME-Zarr image states: axes, scales, channels, and what is carried."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import zarr

from cellxlate.errors import InputError
from cellxlate.options import AXES_OPTION
from cellxlate.stacks.axes import LATEST, axis_unit, is_known_version, letters_of, read_axes, version_of
from cellxlate.stacks.carried import ANNOTATION, Metadata, as_json, display_ranges, restored, valid_colours, valid_notes
from cellxlate.stacks.channel_names import all_named
from cellxlate.stacks.metadata.calibration import Calibration
from cellxlate.stacks.naming import first_names, one_line

OF_THE_FORMAT = ("multiscales", "omero", "version", "bioformats2raw.layout", "series", "plate", "well", "labels",
                 "image-label", "ome", "_creator", ANNOTATION)  # fmt: skip
"""Attributes of a group that are not carried as they are: written anew, or meaningless for one image."""

OF_A_LEVEL = ("path", "coordinateTransformations")


def ome_attributes(group: zarr.Group) -> Mapping[str, Any]:
    """Return what a group states of images: under "ome" since 0.5, beside all else before."""
    everything: dict[str, Any] = group.attrs.asdict()
    return everything["ome"] if isinstance(everything.get("ome"), Mapping) else everything


def further_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is stated beside the things of the format."""
    return {key: value for key, value in attributes.items() if key not in OF_THE_FORMAT}


def check_first_is_largest(group: zarr.Group, image: Mapping[str, Any], array: "zarr.Array[Any]") -> None:
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


def zarr_axes(attributes: Mapping[str, Any], shape: tuple[int, ...], asked: str | None) -> tuple[str, Calibration]:
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


def zarr_metadata(
    group: zarr.Group, attributes: Mapping[str, Any], array: zarr.Array[Any]
) -> tuple[tuple[str, ...], Metadata]:
    """Return the channel names and what is carried of an image's group."""
    image: Mapping[str, Any] = attributes["multiscales"][0]
    everything: dict[str, Any] = group.attrs.asdict()
    shown = attributes.get("omero") or {}
    channels = [channel for channel in shown.get("channels", []) if isinstance(channel, Mapping)]
    own = _mapping(everything.get(ANNOTATION))
    kept = _mapping(own.get("metadata"))
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
        lost.append(f"what lies beside the image is not copied: {first_names(beside)}")
    if "image-label" in attributes:
        lost.append("the attribute image-label is not carried")
    own_note = {key: value for key, value in own.items() if key not in ("metadata", "earlier")}
    earlier = valid_notes([*valid_notes(own.get("earlier")), own_note])
    colours = tuple((valid_colours([channel.get("color", "")]) or ("",))[0] for channel in channels)
    colours = tuple(colour or "FFFFFF" for colour in colours) if any(colours) else ()
    windows = [_mapping(channel.get("window")) for channel in channels]
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


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


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
