"""open_stack: the TIFF family and OME-Zarr, lazily."""

import logging
import re
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr

from cellxlate.errors import InputError
from cellxlate.stacks.calibration import MICROMETRES, SECONDS, Calibration, positive, tiff_calibration
from cellxlate.stacks.pixels import Expanded, FilePixels
from cellxlate.stacks.stack import READ_FAULTS, Pixels, Stack, check_axes

TIFF_SUFFIXES = (".tif", ".tiff", ".btf", ".tf8", ".stk", ".lsm")
DAMAGE = re.compile(r"invalid page offset|corrupted|TiffTag (?:[12]?\d{1,4}|3[0-2]\d{3}) .*invalid value offset")
"""What tifffile logs, and does not raise, where a file is cut short or overwritten; private tags may be lost."""


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
    try:
        with ExitStack() as opened:
            with warnings.catch_warnings(), _damage_reported():
                warnings.simplefilter("ignore")
                file = opened.enter_context(tifffile.TiffFile(path))
                series = file.series[0]
                kind = "ome-tiff" if file.is_ome else "imagej" if file.is_imagej else "tiff"
                if kind == "ome-tiff":
                    _check_complete(series)
                pixels = _tiff_pixels(path, file, opened)
                calibration = tiff_calibration(file, kind)
            pixels, found_axes = _tiff_axes(pixels, axes, series.axes, calibration)
            shape = tuple(int(size) for size in pixels.shape)
            names = _fitting(calibration.channel_names, found_axes, shape)
            stack = Stack(
                pixels, found_axes, stack_name(path), path, calibration.pixel_size_um, names, calibration.time_step_s,
                len(series.levels), kind,
            )  # fmt: skip
            return replace(stack, release=opened.pop_all().close)
    except InputError as fault:
        raise fault if str(fault).startswith(str(path)) else InputError(f"{path}: {fault}") from None
    except tifffile.TiffFileError as fault:
        raise InputError(
            f"{path} is not a TIFF file that can be read ({one_line(fault)}); convert it to OME-TIFF"
        ) from fault
    except READ_FAULTS as fault:
        raise InputError(
            f"{path} is damaged or of an unsupported kind ({one_line(fault)}); convert it to OME-TIFF"
        ) from fault


def _tiff_pixels(path: Path, file: tifffile.TiffFile, opened: ExitStack) -> Pixels:
    """Return the pixels of the first series: straight from the file where they lie in order, else decoded on demand."""
    series = file.series[0]
    offset = series.dataoffset
    if offset is not None and not series.is_multifile and "Y" in series.axes:
        dtype = np.dtype(series.dtype).newbyteorder(file.byteorder)
        if offset + series.nbytes > path.stat().st_size:
            raise InputError("the file is cut short; copy it again")
        return FilePixels(path.absolute(), offset, tuple(series.shape), dtype, series.axes.index("Y"))
    store = series.aszarr()
    opened.callback(store.close)
    node = zarr.open(store, mode="r")
    return node if isinstance(node, zarr.Array) else _first_level(node)


@contextmanager
def _damage_reported() -> Iterator[None]:
    """Raise InputError for damage that tifffile only logs, and keep its log off the terminal."""
    found: list[str] = []
    thread = threading.get_ident()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == thread:
                found.append(record.getMessage())

    listener = Listener()
    logger = logging.getLogger("tifffile")
    logger.addHandler(listener)
    try:
        yield
    finally:
        logger.removeHandler(listener)
    for message in found:
        if DAMAGE.search(message):
            raise InputError(f"the file is cut short or damaged ({one_line(message)}); copy it again")


def _check_complete(series: tifffile.TiffPageSeries) -> None:
    """Raise InputError where planes that the OME-XML lists are in no file; tifffile would read zeros."""
    missing = sum(page is None for page in series)
    if missing:
        raise InputError(
            f"{missing} of {len(series)} planes of this OME-TIFF are missing; put all its files into one folder"
        )


def one_line(message: object) -> str:
    """Return the start of a message in one line."""
    return " ".join(str(message).split())[:200]


def _tiff_axes(pixels: Pixels, asked: str | None, stated: str, calibration: Calibration) -> tuple[Pixels, str]:
    """Return the pixels with their axes: as asked, or as the file states them, axes of length 1 included."""
    shape = tuple(int(size) for size in pixels.shape)
    if asked is not None:
        check_axes(asked, shape)
        return pixels, asked
    if not set(stated) <= set("TCZYXS"):
        stated = _guess_axes(stated, shape)
    check_axes(stated, shape)
    full = calibration.axes
    if full is not None and full != stated and "".join(axis for axis in full if axis in stated) == stated:
        expanded = Expanded(pixels, stated, full)
        check_axes(full, expanded.shape)
        return expanded, full
    return pixels, stated


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
            return _open_multiscale(path, node, axes)
    except InputError as fault:
        raise fault if str(fault).startswith(str(path)) else InputError(f"{path}: {fault}") from None
    except READ_FAULTS as fault:
        what = f"no entry {fault}" if isinstance(fault, KeyError) else one_line(fault)
        raise InputError(f"{path} is a damaged or unsupported Zarr image ({what}); convert it again") from fault


def _open_multiscale(path: Path, group: zarr.Group, axes: str | None) -> Stack:
    """Open the image of an OME-Zarr group; of a bioformats2raw folder the first image."""
    attributes: Mapping[str, Any] = group.attrs.get("ome", group.attrs.asdict())  # type: ignore[assignment]
    if "multiscales" not in attributes and "bioformats2raw.layout" in attributes and "0" in group:
        first_image = group["0"]
        if isinstance(first_image, zarr.Group):
            return _open_multiscale(path, first_image, axes)
    if "multiscales" not in attributes:
        raise InputError(f"{path} holds no multiscale image; give the folder of one image inside it")
    image: Mapping[str, Any] = attributes["multiscales"][0]
    first = image["datasets"][0]
    array = group[first["path"]]
    if not isinstance(array, zarr.Array):
        raise InputError(f"{path}: {first['path']} is not an array")
    if "axes" in image or array.ndim != 5:
        names, units = zip(*(_axis(entry) for entry in image["axes"]), strict=True)
    else:  # before version 0.3 every image had these five and did not say so
        names, units = tuple("TCZYX"), (None,) * 5
    found_axes = axes or "".join(names)
    check_axes(found_axes, array.shape)
    calibration = _zarr_calibration(image, first, names, units)
    channels = attributes.get("omero", {}).get("channels", [])
    labels = tuple(str(channel["label"]) for channel in channels if channel.get("label"))
    return Stack(
        array, found_axes, stack_name(path), path, calibration.pixel_size_um,
        _fitting(labels, found_axes, array.shape), calibration.time_step_s, len(image["datasets"]), "ome-zarr",
    )  # fmt: skip


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
