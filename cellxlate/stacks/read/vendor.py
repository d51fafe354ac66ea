"""CZI, ND2, LIF and IMS files through pylibCZIrw, nd2, liffile and h5py, where the extra `vendor` is installed."""

import threading
import warnings
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cellxlate.errors import InputError, said, unless_denied
from cellxlate.options import IMAGE
from cellxlate.stacks.carried import Metadata
from cellxlate.stacks.channel_names import all_named, fitting
from cellxlate.stacks.metadata.calibration import Calibration, positive
from cellxlate.stacks.metadata.ome_xml import OmeImage, channels_fit, parse, read_ome
from cellxlate.stacks.naming import one_line, stack_name
from cellxlate.stacks.read.imaris import ImarisFile
from cellxlate.stacks.stack import Stack, check_axes
from cellxlate.stacks.windows import read_planes

ReadWindow = Callable[[tuple[int, ...], slice, slice], Any]
"""From the position of a plane, rows and columns to a window (rows, columns) or (rows, columns, samples)."""

CZI_TYPES = {"Gray8": "uint8", "Gray16": "uint16", "Gray32Float": "float32", "Bgr24": "uint8", "Bgr48": "uint16",
             "Bgr96Float": "float32"}  # fmt: skip


@dataclass(frozen=True)
class WindowPixels:
    """Pixels of a reader that reads windows of planes; one at a time, as readers have one file handle.

    After `outer` axes come rows, columns and, where there are any, samples.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    outer: int
    read: ReadWindow
    lock: Any = field(default_factory=threading.Lock, compare=False)

    def __getitem__(self, key: Any) -> Any:
        return read_planes(key, self.shape, self.dtype, self.outer, self._window)

    def _window(self, plane: tuple[int, ...], within: list[range]) -> Any:
        rows, columns = (slice(min(part), max(part) + 1) for part in within[:2])
        starts = (rows.start, columns.start, 0)
        with self.lock:
            pixels = np.asarray(self.read(plane, rows, columns))
        return pixels[np.ix_(*(np.asarray(part) - start for part, start in zip(within, starts, strict=False)))]


@dataclass(frozen=True)
class LazyPixels:
    """Pixels of a dask array, computed when they are sliced."""

    array: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Size along each axis."""
        return tuple(int(size) for size in self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of the stored pixels."""
        dtype: np.dtype[Any] = np.dtype(self.array.dtype)
        return dtype

    def __getitem__(self, key: Any) -> Any:
        return np.asarray(self.array[key].compute(scheduler="synchronous"))


@dataclass(frozen=True)
class VendorImage:
    """One image of a vendor's file; `count` is how many the file holds, `ome` what OME-XML its reader offers.

    `colours` are those of the channels where the file states them apart from OME-XML, `warnings` what is odd.
    """

    pixels: WindowPixels | LazyPixels
    axes: str
    calibration: Calibration
    count: int
    ome: OmeImage | None = None
    colours: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def open_vendor(path: Path, axes: str | None, image: int) -> Stack:
    """Open one image of a CZI, ND2, LIF or IMS file: a scene, a position, an image.

    Raises
    ------
    InputError
        The reader is not installed, the file is damaged or of a kind it cannot read, there is no such image, or its
        axes are not T, C, Z, Y, X, S.
    """
    kind = path.suffix.lower()[1:]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with ExitStack() as opened:
                vendor_image = OPENING[kind](path, image, opened)
                stack = _as_stack(path, kind, vendor_image, axes, image)
                return replace(stack, release=opened.pop_all().close)
    except ImportError:
        raise InputError(
            f"{path}: {kind.upper()} files need another reader: pip install 'cellxlate[vendor]'; or convert the file "
            "to OME-TIFF with Fiji (File > Save As > OME-TIFF) or bioformats2raw"
        ) from None
    except InputError as fault:
        raise fault if str(fault).startswith(str(path)) else type(fault)(f"{path}: ", fault) from None
    except Exception as fault:  # whatever these readers raise
        damaged = InputError(
            f"{path} is damaged, or of a kind that its reader cannot read ({one_line(fault)}); convert it to OME-TIFF "
            "with Fiji"
        )
        raise unless_denied(damaged, path, fault) from fault


def _as_stack(path: Path, kind: str, opened: VendorImage, asked: str | None, image: int) -> Stack:
    pixels, axes = opened.pixels, asked or opened.axes
    check_axes(axes, pixels.shape)
    pixels[tuple(slice(0, 1) if axis in "YX" else 0 for axis in axes)]  # a reader may list what it cannot read
    others = (
        (said(f"the file holds {opened.count} images, this is number {image}; choose with ", IMAGE),)
        if opened.count > 1
        else ()
    )
    words = "sizes, names and colours" if opened.colours else "sizes and names"
    lost = (f"of the {kind.upper()} file's own metadata only {words} are carried",)
    metadata = Metadata(colours=opened.colours, lost=lost)
    if opened.ome is not None and opened.ome.xml:
        bits = {"bits": opened.ome.bits} if (opened.ome.bits or 99) < 8 * pixels.dtype.itemsize else {}
        metadata = Metadata(ome_xml=opened.ome.xml, tiff=bits, colours=opened.ome.colours, lost=opened.ome.lost)
    stated = opened.calibration
    of_stack = Stack(pixels, axes)
    if metadata.ome_xml is not None and opened.ome is not None and not channels_fit(opened.ome.samples, of_stack):
        metadata = replace(metadata, lost=(*metadata.lost, "what its OME-XML says of channels is not carried"))
    renamed = dict(zip(opened.axes, axes, strict=True))
    sizes_um = {renamed[axis]: size_um for axis, size_um in stated.pixel_size_um.items()}
    names, misfit = fitting(stated.channel_names, axes, pixels.shape, asked=asked)
    return Stack(
        pixels, axes, stack_name(path), path, sizes_um, names, stated.time_step_s, kind=kind, metadata=metadata,
        warnings=(*others, *opened.warnings, *stated.lost, *misfit, *metadata.lost), image=image,
    )  # fmt: skip


def _micrometres(size_m: float) -> float:
    """Return metres as micrometres, without the last digit that the product gets wrong."""
    return float(f"{size_m * 1e6:.15g}")


def _check_image(image: int, count: int) -> None:
    if not 0 <= image < count:
        raise InputError(f"there is no image {image}, the file holds {count}; counted from 0")


def _open_czi(path: Path, image: int, opened: ExitStack) -> VendorImage:
    """Open a scene; its tiles are put together by Zeiss's library."""
    from pylibCZIrw.czi import CziReader

    file = CziReader(str(path))
    opened.callback(file.close)
    scenes = sorted(file.scenes_bounding_rectangle.items()) or [(None, file.total_bounding_rectangle)]
    _check_image(image, len(scenes))
    scene, (left, top, width, height) = scenes[image]
    sizes = {axis: stop - start for axis, (start, stop) in file.total_bounding_box.items() if axis not in "YX"}
    further = [axis for axis, size in sizes.items() if axis not in "TCZ" and size > 1]
    if further:
        raise InputError(
            f"it has the dimensions {', '.join(further)} beside T, C, Z, Y, X; convert it to OME-TIFF first"
        )
    types = {file.get_channel_pixel_type(channel) for channel in range(sizes["C"])}
    if len(types) > 1 or not types <= CZI_TYPES.keys():
        raise InputError(f"its channels are {', '.join(sorted(types))}, expected one type for all; convert it first")
    (pixel_type,) = types
    samples = (3,) if pixel_type.startswith("Bgr") else ()

    def read(position: tuple[int, ...], rows: slice, columns: slice) -> npt.NDArray[Any]:
        window = (left + columns.start, top + rows.start, columns.stop - columns.start, rows.stop - rows.start)
        pixels: npt.NDArray[Any] = file.read(roi=window, plane=dict(zip("TCZ", position, strict=True)), scene=scene)
        return pixels[..., ::-1] if samples else pixels[..., 0]  # stored as blue, green, red

    shape = (sizes["T"], sizes["C"], sizes["Z"], height, width, *samples)
    pixels = WindowPixels(shape, np.dtype(CZI_TYPES[pixel_type]), 3, read)
    axes = "TCZYXS" if samples else "TCZYX"
    return VendorImage(pixels, axes, czi_calibration(file.raw_metadata), len(scenes))


def czi_calibration(text: str) -> Calibration:
    """Return pixel sizes (stated in metres), interval (seconds) and channel names of the XML of a CZI file."""
    calibration, root = Calibration(), parse(text)
    if root is None:
        return calibration
    for distance in root.iterfind("Metadata/Scaling/Items/Distance"):
        size_m = positive(distance.findtext("Value"))
        if size_m and distance.get("Id") in ("X", "Y", "Z"):
            calibration.pixel_size_um[str(distance.get("Id"))] = _micrometres(size_m)
    dimensions = root.find("Metadata/Information/Image/Dimensions")
    if dimensions is not None:
        calibration.time_step_s = positive(dimensions.findtext("T/Positions/Interval/Increment"))
        names = [channel.get("Name") for channel in dimensions.iterfind("Channels/Channel")]
        calibration.channel_names = all_named(names)
    return calibration


def _open_nd2(path: Path, image: int, opened: ExitStack) -> VendorImage:
    """Open a position of the stage."""
    from nd2 import ND2File

    file = opened.enter_context(ND2File(path))
    sizes, array = dict(file.sizes), file.to_dask()
    count = sizes.get("P", 1)
    _check_image(image, count)
    axes = "".join(sizes)
    if "P" in axes:
        array, axes = array[tuple(image if axis == "P" else slice(None) for axis in axes)], axes.replace("P", "")
    size = file.voxel_size()
    calibration = Calibration({axis: step for axis in "ZYX" if (step := positive(getattr(size, axis.lower())))})
    calibration.channel_names = all_named([channel.channel.name for channel in file.metadata.channels or ()])
    for loop in file.experiment:
        if loop.type == "TimeLoop":
            calibration.time_step_s = positive(loop.parameters.periodMs / 1000)
    ome = None
    with suppress(Exception):  # offered for newer files alone, and what it raises is not documented
        ome = read_ome(file.ome_metadata().to_xml(), image)
    return VendorImage(LazyPixels(array), axes, calibration, count, ome)


def _open_lif(path: Path, image: int, opened: ExitStack) -> VendorImage:
    """Open an image; liffile reads its frames, whose rows may be Z (XZ scans) and whose axes may be wavelengths."""
    from liffile import LifFile

    file = opened.enter_context(LifFile(path))
    _check_image(image, len(file.images))
    chosen = file.images[image]
    axes, frame = "".join(chosen.dims), "".join(chosen.frames.frame_sizes)
    if len(axes) != len(chosen.dims) or not axes.endswith(frame) or len(frame) - ("S" in frame) != 2:
        raise InputError(f"its axes are {axes}, stored in frames {frame}, which are no planes; convert it to OME-TIFF")
    outer = axes.removesuffix(frame)

    def read(position: tuple[int, ...], rows: slice, columns: slice) -> npt.NDArray[Any]:
        plane: npt.NDArray[Any] = chosen.frame(**dict(zip(outer, position, strict=True)))
        return plane[rows, columns]

    pixels = WindowPixels(tuple(chosen.shape), np.dtype(chosen.dtype), len(outer), read)
    wavelengths = [axis for axis in axes if axis in "λΛ"]
    if len(wavelengths) == 1 and "C" not in axes:  # each wavelength of a spectral scan is a channel
        axes = axes.replace(wavelengths[0], "C")
    calibration = Calibration()
    for axis, values in chosen.coords.items():
        step = positive(abs(float(values[-1] - values[0])) / (len(values) - 1)) if len(values) > 1 else None
        if step and axis in "ZYX":
            calibration.pixel_size_um[axis] = _micrometres(step)
        elif axis == "T":
            calibration.time_step_s = step
    names = [channel.get("LUTName") for channel in chosen.xml_element.iterfind(".//ChannelDescription")]
    if len(set(filter(None, names))) == len(list(filter(None, names))):  # the names of lookup tables
        calibration.channel_names = all_named(names)
    return VendorImage(pixels, axes, calibration, len(file.images))


def _open_ims(path: Path, image: int, opened: ExitStack) -> VendorImage:
    """Open the one image of an Imaris file."""
    _check_image(image, 1)
    file = ImarisFile(path, opened)
    pixels = WindowPixels(file.shape, file.dtype, 3, file.read)
    calibration = file.calibration()
    return VendorImage(pixels, "TCZYX", calibration, 1, colours=file.colours(), warnings=file.warnings)


OPENING = {"czi": _open_czi, "nd2": _open_nd2, "lif": _open_lif, "ims": _open_ims}
