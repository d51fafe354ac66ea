"""OME-Zarr 0.5 around bands: the group's metadata."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from yaozarrs import v05

from cellxlate.errors import OutputError
from cellxlate.stacks.bands import Bands, Reduction
from cellxlate.stacks.stack import Stack

ORDER = "TCZYX"


def check_zarr(path: Path, axes: str) -> None:
    """Raise OutputError unless OME-Zarr 0.5 can hold such axes."""
    if "S" in axes:
        raise OutputError(
            f"{path}: OME-Zarr has no axis for colour samples ({axes}); name them channels with --axes, or choose "
            "--format ome-tiff"
        )
    if axes != "".join(axis for axis in ORDER if axis in axes):
        raise OutputError(
            f"{path}: OME-Zarr keeps axes in the order {ORDER}, the stack has {axes}; choose --format ome-tiff"
        )


def write_group(
    folder: Path,
    levels: Sequence[Bands],
    *,
    like: Stack,
    reduction: Reduction,
    provenance: Mapping[str, Any] | None,
) -> None:
    """Write the metadata that makes the arrays "0", "1", ... in a folder an OME-Zarr 0.5 image.

    Parameters
    ----------
    folder : Path
        Of the group; holds the arrays of `levels`.
    levels : sequence of Bands
        The pyramid, full resolution first, complete.
    like : Stack
        States pixel size, channel names and time step.
    reduction : {"mean", "max"}
        How the levels were made.
    provenance : mapping or None
        Becomes the attribute "cellxlate", beside "ome".

    Notes
    -----
    The format states steps of axes only: a depth or a time step of a stack without Z or T is not carried.
    """
    axes = levels[0].axes
    multiscale = v05.Multiscale(
        name=folder.name,
        axes=[_axis(axis, like) for axis in axes],
        datasets=[_dataset(level, number, like) for number, level in enumerate(levels)],
        type=reduction,
        metadata={"description": f"each level is the {reduction} of 2 x 2 pixels of the level above"},
    )
    image = v05.Image(multiscales=[multiscale])
    if like.channel_names and len(like.channel_names) == like.size("C"):
        smallest = levels[-1]
        channels = [
            v05.OmeroChannel(label=name, color="FFFFFF", active=True, window=_window(smallest, channel))
            for channel, name in enumerate(like.channel_names)
        ]
        image.omero = v05.Omero(channels=channels)
    attributes: dict[str, Any] = {"ome": image.model_dump(exclude_none=True)}
    if provenance:
        attributes["cellxlate"] = dict(provenance)
    zarr.open_group(folder, mode="a", zarr_format=3).update_attributes(attributes)


def _axis(axis: str, like: Stack) -> v05.SpaceAxis | v05.TimeAxis | v05.ChannelAxis:
    if axis == "C":
        return v05.ChannelAxis(name="c")
    if axis == "T":
        return v05.TimeAxis(name="t", unit="second" if like.time_step_s is not None else None)
    return v05.SpaceAxis(name=axis.lower(), unit="micrometer" if axis in like.pixel_size_um else None)


def _dataset(level: Bands, number: int, like: Stack) -> v05.Dataset:
    """Place a level: its pixels are larger, so the centre of its first pixel lies further inside."""
    steps = {"T": like.time_step_s or 1.0} | {axis: float(size) for axis, size in like.pixel_size_um.items()}
    full = [steps.get(axis, 1.0) for axis in level.axes]
    factors = [2**number if axis in "YX" else 1 for axis in level.axes]
    transformations: list[v05.ScaleTransformation | v05.TranslationTransformation] = [
        v05.ScaleTransformation(scale=[step * factor for step, factor in zip(full, factors, strict=True)])
    ]
    if number:
        shift = [step * (factor - 1) / 2 for step, factor in zip(full, factors, strict=True)]
        transformations.append(v05.TranslationTransformation(translation=shift))
    return v05.Dataset(path=str(number), coordinateTransformations=transformations)


def _window(level: Bands, channel: int) -> v05.OmeroWindow:
    """Return a display range for one channel from its middle plane in the smallest level."""
    at = level.axes.replace("Y", "").replace("X", "")
    planes = [index for index in level.plane_indices() if "C" not in at or index[at.index("C")] == channel]
    pixels: npt.NDArray[Any] = level.read(planes[len(planes) // 2], slice(None))
    finite = pixels[np.isfinite(pixels)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if level.dtype.kind == "f":
        limits = (low, high)
    else:
        limits = (float(np.iinfo(level.dtype).min), float(np.iinfo(level.dtype).max))
    return v05.OmeroWindow(min=limits[0], max=limits[1], start=low, end=max(high, low + 1.0))
