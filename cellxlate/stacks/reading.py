"""open_stack: the TIFF family and OME-Zarr, lazily."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile
import zarr

from cellxlate.errors import InputError
from cellxlate.stacks.stack import Pixels, Stack, check_axes

TIFF_SUFFIXES = (".tif", ".tiff", ".btf", ".tf8", ".stk", ".lsm")
MICROMETRES = {
    "pm": 1e-6, "nm": 1e-3, "µm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0, "micrometre": 1.0,
    "nanometer": 1e-3, "angstrom": 1e-4, "Å": 1e-4, "mm": 1e3, "millimeter": 1e3, "cm": 1e4, "centimeter": 1e4,
    "m": 1e6, "meter": 1e6, "inch": 25400.0,
}  # fmt: skip
SECONDS = {
    "s": 1.0,
    "sec": 1.0,
    "second": 1.0,
    "ms": 1e-3,
    "millisecond": 1e-3,
    "min": 60.0,
    "minute": 60.0,
    "h": 3600.0,
}
FAULTS = (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, RuntimeError, EOFError, MemoryError,
          NotImplementedError, OverflowError, ArithmeticError)  # fmt: skip
"""What readers raise on damaged files."""


@dataclass
class Calibration:
    """What a file states about its axes."""

    pixel_size_um: dict[str, float] = field(default_factory=dict)
    channel_names: tuple[str, ...] = ()
    time_step_s: float | None = None


def open_stack(path: str | Path, axes: str | None = None) -> Stack:
    """Open a stack without reading its pixels.

    Parameters
    ----------
    path : str or Path
        A TIFF, OME-TIFF or ImageJ file, or the folder of an OME-Zarr image (0.4 or 0.5) or a plain Zarr array.
    axes : str, optional
        Letters of "TCZYXS", one per dimension, where the file does not say or says it wrongly.

    Returns
    -------
    Stack
        Close it, or use it in a `with` statement, to release the file.

    Raises
    ------
    InputError
        The file is missing, damaged, of another kind, or its axes are not known.

    Examples
    --------
    >>> import cellxlate
    >>> stack = cellxlate.open_stack("stack.tif")  # doctest: +SKIP
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist; check the name")
    if axes is not None:
        axes = axes.upper()
    if path.is_dir():
        return _open_zarr(path, axes)
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty; copy it again")
    return _open_tiff(path, axes)


def find_stacks(paths: Sequence[Path], what: str) -> list[Path]:
    """Return the image files and OME-Zarr folders among some paths and directly inside some folders, sorted.

    Raises
    ------
    InputError
        A path does not exist, or a folder holds no image.
    """
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise InputError(f"the {what} {path} does not exist; check the name")
        if path.is_file() or is_zarr(path):
            found.append(path)
            continue
        inside = [item for item in sorted(path.iterdir()) if item.suffix.lower() in TIFF_SUFFIXES or is_zarr(item)]
        if not inside:
            raise InputError(f"the {what} folder {path} holds no TIFF or OME-Zarr image; give a folder of images")
        found += inside
    return found


def is_zarr(path: Path) -> bool:
    """Return whether a path is the folder of a Zarr array or group."""
    return path.is_dir() and any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zarray"))


def stack_name(path: Path) -> str:
    """Return a file name without its endings, as outputs are named: `a.ome.tif` is `a`."""
    name = path.name
    for suffix in (*TIFF_SUFFIXES, ".zarr", ".ome"):
        if name.lower().endswith(suffix):
            name = name[: -len(suffix)]
    if name.lower().endswith(".ome"):
        name = name[:-4]
    return name or path.name


def _open_tiff(path: Path, axes: str | None) -> Stack:
    """Open the first series of a TIFF file through its Zarr view, which decodes strips and tiles on demand."""
    closers: list[Callable[[], None]] = []

    def release() -> None:
        for close in reversed(closers):
            close()

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            file = tifffile.TiffFile(path)
            closers.append(file.close)
            series = file.series[0]
            store = series.aszarr()
            closers.append(store.close)
            node = zarr.open(store, mode="r")
            levels = len(series.levels)
            pixels: Pixels = node if isinstance(node, zarr.Array) else _first_level(node)
            kind = "ome-tiff" if file.is_ome else "imagej" if file.is_imagej else "tiff"
            found_axes = axes or series.axes
            shape = tuple(int(size) for size in pixels.shape)
            if axes is None and not set(found_axes) <= set("TCZYXS"):
                found_axes = _guess_axes(found_axes, shape)
            calibration = _tiff_calibration(file, kind)
        check_axes(found_axes, shape)
        return Stack(
            pixels, found_axes, stack_name(path), path, calibration.pixel_size_um,
            _fitting(calibration.channel_names, found_axes, shape), calibration.time_step_s, levels, kind, release,
        )  # fmt: skip
    except InputError as fault:
        release()
        raise fault if str(path) in str(fault) else InputError(f"{path}: {fault}") from None
    except tifffile.TiffFileError as fault:
        release()
        raise InputError(f"{path} is not a TIFF file that can be read ({fault}); convert it to OME-TIFF") from fault
    except FAULTS as fault:
        release()
        raise InputError(f"{path} is damaged or of an unsupported kind ({fault}); convert it to OME-TIFF") from fault


def _guess_axes(axes: str, shape: tuple[int, ...]) -> str:
    """Take unknown axes of length 1 as missing information that does no harm; leave others to the user."""
    free = [letter for letter in "TZC" if letter not in axes]
    named = "".join(
        free.pop(0) if letter not in "TCZYXS" and size == 1 and free else letter
        for letter, size in zip(axes, shape, strict=True)
    )
    if set(named) <= set("TCZYXS"):
        return named
    example = "ZYX" if len(shape) == 3 else "TCZYX"[-len(shape) :]
    raise InputError(f"the axes of shape {shape} are not known ({axes}); name them, for example --axes {example}")


def _first_level(group: zarr.Group) -> zarr.Array[Any]:
    """Return the array of full resolution in a pyramid; its keys come unsorted."""
    keys = sorted(group.array_keys(), key=lambda key: (len(key), key))
    return group[keys[0]]  # type: ignore[return-value]


def _fitting(names: tuple[str, ...], axes: str, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Return channel names if there is one per channel, else none."""
    channels = shape[axes.index("C")] if "C" in axes else 1
    return names if len(names) == channels else ()


def _tiff_calibration(file: tifffile.TiffFile, kind: str) -> Calibration:
    """Read pixel size, channel names and time step from OME-XML, ImageJ tags or resolution tags, in this order."""
    if kind == "ome-tiff" and file.ome_metadata:
        return _ome_calibration(file.ome_metadata)
    found = Calibration()
    page = file.pages[0]
    tags = page.tags if isinstance(page, tifffile.TiffPage) else None
    unit_um: float | None = None
    metadata: Mapping[str, Any] = (file.imagej_metadata or {}) if kind == "imagej" else {}
    if kind == "imagej":
        unit_um = MICROMETRES.get(str(metadata.get("unit", "")).replace("\\u00B5", "µ").strip("\x00 "))
        spacing, interval = metadata.get("spacing"), metadata.get("finterval")
        if unit_um and isinstance(spacing, int | float) and spacing > 0:
            found.pixel_size_um["Z"] = float(spacing) * unit_um
        if isinstance(interval, int | float) and interval > 0:
            found.time_step_s = float(interval) * SECONDS.get(str(metadata.get("tunit", "s")), 1.0)
    elif tags is not None and "ResolutionUnit" in tags:
        unit_um = {3: 1e4}.get(int(tags["ResolutionUnit"].value))  # centimetres; inches come from paint programs
    if unit_um and tags is not None:
        for axis, tag in (("Y", "YResolution"), ("X", "XResolution")):
            value = tags[tag].value if tag in tags else None
            if isinstance(value, tuple) and value[0] > 0 and value[1] > 0:
                found.pixel_size_um[axis] = unit_um * value[1] / value[0]
    return found


def _ome_calibration(text: str) -> Calibration:
    """Read the first image of OME-XML. Metadata that cannot be parsed states nothing."""
    found = Calibration()
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        return found
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return found
    pixels = root.find(".//{*}Pixels")
    if pixels is None:
        return found
    for axis in "ZYX":
        size = _positive(pixels.get(f"PhysicalSize{axis}"))
        unit_um = MICROMETRES.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        if size and unit_um:
            found.pixel_size_um[axis] = size * unit_um
    step = _positive(pixels.get("TimeIncrement"))
    if step:
        found.time_step_s = step * SECONDS.get(pixels.get("TimeIncrementUnit", "s"), 1.0)
    names = [channel.get("Name") for channel in pixels.findall("{*}Channel")]
    if all(names):
        found.channel_names = tuple(str(name) for name in names)
    return found


def _positive(text: str | None) -> float | None:
    """Return a finite positive number, or None."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if np.isfinite(value) and value > 0 else None


def _open_zarr(path: Path, axes: str | None) -> Stack:
    """Open the first image of an OME-Zarr folder, or a plain array with the axes the user gives."""
    if not is_zarr(path):
        raise InputError(f"{path} is a folder but no Zarr image; give a TIFF file or an OME-Zarr folder")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            node = zarr.open(path, mode="r")
        if isinstance(node, zarr.Array):
            return _plain_array(path, node, axes)
        attributes: Mapping[str, Any] = node.attrs.get("ome", node.attrs.asdict())  # type: ignore[assignment]
        if "multiscales" not in attributes:
            raise InputError(f"{path} holds no multiscale image; give the folder of one image inside it")
        image: Mapping[str, Any] = attributes["multiscales"][0]
        first = image["datasets"][0]
        array = node[first["path"]]
        if not isinstance(array, zarr.Array):
            raise InputError(f"{path}: {first['path']} is not an array")
        names, units = zip(*(_axis(entry) for entry in image["axes"]), strict=True)
        found_axes = axes or "".join(names)
        check_axes(found_axes, array.shape)
        steps = _scale(image, first, len(names))
        size_um = {
            axis: step * MICROMETRES.get(unit or "micrometer", 1.0)
            for axis, unit, step in zip(names, units, steps, strict=True)
            if axis in "ZYX" and unit and step > 0
        }
        times = [step * SECONDS.get(unit, 1.0) for axis, unit, step in zip(names, units, steps, strict=True)
                 if axis == "T" and unit and step > 0]  # fmt: skip
        channels = attributes.get("omero", {}).get("channels", [])
        labels = tuple(str(channel["label"]) for channel in channels if channel.get("label"))
        return Stack(
            array, found_axes, stack_name(path), path, size_um, _fitting(labels, found_axes, array.shape),
            times[0] if times else None, len(image["datasets"]), "ome-zarr",
        )  # fmt: skip
    except InputError as fault:
        raise fault if str(path) in str(fault) else InputError(f"{path}: {fault}") from None
    except FAULTS as fault:
        raise InputError(f"{path} is a damaged or unsupported Zarr image ({fault})") from fault


def _plain_array(path: Path, array: zarr.Array[Any], axes: str | None) -> Stack:
    if axes is None and array.ndim != 2:
        example = "TCZYX"[-max(array.ndim, 2) :]
        raise InputError(
            f"{path} is a Zarr array of shape {array.shape} without axes; name them, for example --axes {example}"
        )
    return Stack(array, axes or "YX", stack_name(path), path, kind="zarr")


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
