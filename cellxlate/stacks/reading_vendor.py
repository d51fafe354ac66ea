"""CZI, ND2 and LIF files through bioio, where the extra `vendor` is installed."""

import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cellxlate.errors import InputError
from cellxlate.stacks.calibration import positive
from cellxlate.stacks.metadata import Metadata
from cellxlate.stacks.naming import one_line, stack_name
from cellxlate.stacks.ome_xml import read_ome
from cellxlate.stacks.stack import Stack, check_axes, fitting


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


def open_vendor(path: Path, axes: str | None, image: int) -> Stack:
    """Open one scene of a CZI, ND2 or LIF file.

    Raises
    ------
    InputError
        bioio is not installed, the file is damaged, or there is no such scene.
    """
    kind = path.suffix.lower()[1:]
    try:
        from bioio import BioImage
    except ImportError:
        raise InputError(
            f"{path}: {kind.upper()} files need another reader: pip install 'cellxlate[vendor]'; or convert the file "
            "to OME-TIFF with Fiji (File > Save As > OME-TIFF) or bioformats2raw"
        ) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            file = BioImage(path)
            scenes = list(file.scenes)
            if not 0 <= image < len(scenes):
                raise InputError(f"{path}: there is no image {image}, the file holds {len(scenes)}; counted from 0")
            file.set_scene(scenes[image])
            return _scene(path, kind, file, axes, image)
    except InputError:
        raise
    except Exception as fault:  # bioio passes on what any of its readers raises
        raise InputError(
            f"{path} is damaged, or no reader for it is installed ({one_line(fault)}); pip install "
            "'cellxlate[vendor]', or convert it to OME-TIFF"
        ) from fault


def _scene(path: Path, kind: str, file: Any, axes: str | None, image: int) -> Stack:
    data = file.reader.xarray_dask_data
    found = axes or "".join(str(dimension) for dimension in data.dims)
    pixels = LazyPixels(data.data)
    check_axes(found, pixels.shape)
    sizes = file.physical_pixel_sizes
    size_um = {axis: positive(getattr(sizes, axis)) for axis in "ZYX"}
    names = tuple(str(name) for name in file.channel_names or ())
    lost = []
    if len(file.scenes) > 1:
        lost.append(f"the file holds {len(file.scenes)} images, this is number {image}; choose with --image")
    metadata = Metadata(lost=(f"of the {kind.upper()} file's own metadata only sizes and names are carried",))
    with suppress(Exception):  # few readers offer OME-XML, and those that do not say so by raising
        from ome_types import to_xml

        ome = read_ome(to_xml(file.ome_metadata), image)
        metadata = Metadata(ome_xml=ome.xml, colours=ome.colours, lost=ome.lost)
    step: Any = getattr(file, "time_interval", None)
    seconds = step.total_seconds() if hasattr(step, "total_seconds") else step
    return Stack(
        pixels, found, stack_name(path), path, {axis: size for axis, size in size_um.items() if size},
        fitting(names, found, pixels.shape), positive(seconds), kind=kind, metadata=metadata,
        warnings=(*lost, *metadata.lost), image=image,
    )  # fmt: skip
