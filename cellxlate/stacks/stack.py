"""A stack: lazy pixels with axes, pixel size and channel names."""

import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from cellxlate.errors import InputError, unless_denied
from cellxlate.locations import Location, RemotePath
from cellxlate.option_values import require_kind
from cellxlate.options import AXES_OPTION, RESUME
from cellxlate.stacks.axes import letters_of
from cellxlate.stacks.carried import Metadata

if TYPE_CHECKING:
    import dask.array

AXES = "TCZYXS"
"""Axes a stack may have: time, channel, depth, rows, columns, colour samples (RGB)."""

SUPPORTED_DTYPES = ("bool", "uint8", "uint16", "uint32", "int8", "int16", "int32", "float16", "float32", "float64")

READ_FAULTS = (OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, EOFError, MemoryError,
               ArithmeticError, AssertionError, SyntaxError, struct.error, zlib.error)  # fmt: skip
"""What readers and decoders raise on damaged files."""

PlaneIndex = tuple[int, ...]
"""Position of a plane along every axis of the stack but Y and X, in the order of the stack's axes."""


PLANE_KEPT_PX = 16_777_216
"""Planes of at most 16 megapixels are read once; larger ones band by band."""


class Pixels(Protocol):
    """What holds the pixels: a zarr array, a numpy array, anything with basic slicing."""

    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102

    @property
    def dtype(self) -> np.dtype[Any]: ...  # noqa: D102

    def __getitem__(self, key: Any) -> Any: ...


def _nothing() -> None:
    return None


@dataclass(frozen=True)
class Stack:
    """A stack of planes that are read when asked for.

    Attributes
    ----------
    pixels : Pixels
        Array of shape `shape`; slicing it reads from the file.
    axes : str
        One letter of "TCZYXS" per dimension, in the order of the file; always contains Y and X.
    name : str
        File name without its endings; outputs are named after it.
    path : Path, RemotePath or None
        Where it was read from.
    pixel_size_um : mapping
        Micrometres per pixel for any of "Z", "Y", "X" that the file states.
    channel_names : tuple of str
        One per channel, or empty where the file names none.
    time_step_s : float or None
        Seconds between time points, where the file states it.
    resolutions : int
        Number of resolution levels in the file; `pixels` is the first.
    kind : str
        "tiff", "ome-tiff", "imagej", "ome-zarr", "zarr", "planes", "czi", "nd2", "lif" or "array".
    metadata : Metadata
        What else the file states and outputs carry.
    warnings : tuple of str
        One line each for what is in the file and not read, or not carried.
    image : int
        Which image of a file that holds several.
    alpha : tuple of int, optional
        Which samples are opacity and no light: positions along S, or along C where there is no S. They are copied,
        never enhanced. By default the fourth of four samples and the second of two.
    files : tuple of Path
        The files of a stack whose planes lie in several; empty otherwise.
    incomplete : bool
        Whether it was opened so that missing planes leave their time points out.
    axes_given : bool
        Whether who opened it said the axes, in place of the file.
    release : callable
        Closes what is open.
    """

    pixels: Pixels
    axes: str
    name: str = "stack"
    path: Location | None = None
    pixel_size_um: Mapping[str, float] = field(default_factory=dict)
    channel_names: tuple[str, ...] = ()
    time_step_s: float | None = None
    resolutions: int = 1
    kind: str = "array"
    metadata: Metadata = field(default_factory=Metadata)
    warnings: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    image: int = 0
    alpha: tuple[int, ...] | None = None
    incomplete: bool = False
    axes_given: bool = False
    release: Callable[[], None] = _nothing

    def __post_init__(self) -> None:
        check_axes(self.axes, self.pixels.shape)
        if self.pixels.dtype.name not in SUPPORTED_DTYPES:
            raise InputError(
                f"{self.name}: pixels are {self.pixels.dtype}, expected one of {', '.join(SUPPORTED_DTYPES)}; "
                "convert the stack first"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Size along each of the axes, in pixels."""
        return tuple(int(size) for size in self.pixels.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of the stored pixels."""
        return np.dtype(self.pixels.dtype.name)

    @property
    def plane_shape(self) -> tuple[int, int]:
        """Rows and columns of a plane."""
        return self.size("Y"), self.size("X")

    def size(self, axis: str) -> int:
        """Return the size along one axis; 1 for an axis the stack does not have."""
        return self.shape[self.axes.index(axis)] if axis in self.axes else 1

    @property
    def plane_axes(self) -> str:
        """The axes a plane index runs over: all but Y and X."""
        return self.axes.replace("Y", "").replace("X", "")

    def plane_indices(self) -> Iterator[PlaneIndex]:
        """Iterate over the positions of all planes, last axis fastest."""
        return product(*(range(self.size(axis)) for axis in self.plane_axes))

    @property
    def plane_count(self) -> int:
        """Number of planes."""
        return prod(self.size(axis) for axis in self.plane_axes)

    @property
    def _light_samples(self) -> tuple[int, ...]:
        """Positions along S that are no opacity, where channels lie along another axis; one where there is no S."""
        if "S" not in self.axes or "C" not in self.axes:
            return (0,)
        return tuple(sample for sample in range(self.size("S")) if sample not in self.alpha_samples)

    @property
    def planes_per_channel(self) -> int:
        """Number of planes of a channel, those of opacity left out."""
        other = prod(self.size(axis) for axis in self.plane_axes if axis not in "CS")
        return other * len(self._light_samples)

    def plane_of(self, number: int, channel: int) -> PlaneIndex:
        """Return the position of plane `number` of a channel, of those that `planes_per_channel` counts."""
        channel_axis = next((axis for axis in "CS" if axis in self.plane_axes), None)
        index = []
        for axis in reversed(self.plane_axes):
            if axis == channel_axis:
                index.append(channel)
            elif axis == "S":
                number, position = divmod(number, len(self._light_samples))
                index.append(self._light_samples[position])
            else:
                number, position = divmod(number, self.size(axis))
                index.append(position)
        return tuple(reversed(index))

    def channel_of(self, index: PlaneIndex) -> int:
        """Return the channel a plane belongs to; 0 in a stack without a channel axis. RGB samples count as channels."""
        for axis in "CS":
            if axis in self.plane_axes:
                return index[self.plane_axes.index(axis)]
        return 0

    def time_of(self, index: PlaneIndex) -> int:
        """Return the time point of a plane; 0 in a stack without a time axis."""
        return index[self.plane_axes.index("T")] if "T" in self.plane_axes else 0

    @property
    def alpha_samples(self) -> tuple[int, ...]:
        """Positions of opacity along S, or along C where there is no S."""
        if self.alpha is not None:
            return self.alpha
        return {2: (1,), 4: (3,)}.get(self.size("S"), ())

    def is_alpha(self, index: PlaneIndex) -> bool:
        """Return whether a plane is opacity, which is copied."""
        axis = "S" if "S" in self.plane_axes else "C"
        return axis in self.plane_axes and index[self.plane_axes.index(axis)] in self.alpha_samples

    @property
    def channel_count(self) -> int:
        """Number of channels; RGB samples count as channels where there is no channel axis."""
        return self.size("C") if "C" in self.axes else self.size("S")

    @property
    def light_channels(self) -> tuple[int, ...]:
        """Numbers of the channels that are no opacity."""
        alpha = () if "S" in self.axes and "C" in self.axes else self.alpha_samples
        return tuple(channel for channel in range(self.channel_count) if channel not in alpha)

    def read(self, index: PlaneIndex, rows: slice = slice(None), columns: slice = slice(None)) -> npt.NDArray[Any]:
        """Read a window of one plane.

        Parameters
        ----------
        index : tuple of int
            Position of the plane along `plane_axes`.
        rows, columns : slice
            The window; the whole plane by default.

        Returns
        -------
        ndarray (rows, columns)
            In the dtype of the file and native byte order.

        Raises
        ------
        InputError
            The file is damaged there.
        """
        key = plane_key(self.axes, index, rows, columns)
        try:
            window = np.asarray(self.pixels[key])
        except InputError:
            raise
        except READ_FAULTS as fault:
            where = ", ".join(f"{axis}={position}" for axis, position in zip(self.plane_axes, index, strict=True))
            of_network = isinstance(self.path, RemotePath) and isinstance(fault, OSError)
            damaged = InputError(
                f"{self.path or self.name}: the plane at {where or 'the start'} "
                f"{'cannot be read' if of_network else 'is damaged'} ({' '.join(str(fault).split())[:200]})",
                remedy=("run again with ", RESUME) if of_network else "copy the file again",
            )
            raise damaged if of_network else unless_denied(damaged, self.path or self.name, fault) from fault
        if self.axes.index("X") < self.axes.index("Y"):
            window = window.T
        return np.asarray(window, dtype=self.dtype)

    def to_dask(self, chunks: tuple[int, ...] | None = None) -> "dask.array.Array":
        """Return the pixels as a dask array of the same shape, in native byte order, by default one plane per chunk."""
        import dask.array

        chunks = chunks or tuple(size if axis in "YX" else 1 for axis, size in zip(self.axes, self.shape, strict=True))
        if isinstance(self.pixels, dask.array.Array):
            return self.pixels.rechunk(chunks).astype(self.dtype)
        example = np.empty(0, self.pixels.dtype)
        lazy = dask.array.from_array(self.pixels, chunks=chunks, name=False, asarray=True, meta=example)
        return lazy.astype(self.dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.array(self.pixels[(slice(None),) * len(self.axes)], dtype=dtype or self.dtype, copy=copy)

    def close(self) -> None:
        """Release the file. Do not read afterwards."""
        self.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @classmethod
    def from_array(cls, array: npt.ArrayLike | Pixels, axes: str | None = None, *, name: str = "array") -> "Stack":
        """Wrap an array, in memory or lazy.

        Parameters
        ----------
        array : array-like
            At least two-dimensional. One of dask, zarr or h5py stays lazy: a window of a plane is computed when it is
            read, so a chunk should not hold more planes than memory does.
        axes : str, optional
            Its axes, in upper or lower case; by default those that an xarray or Zarr array names, else (Y, X),
            (Z, Y, X), (T, Z, Y, X) or (T, C, Z, Y, X).
        name : str
            Used in messages, and in names of files.

        Raises
        ------
        InputError
            The axes do not fit; without any, the last is 3 or 4 long, so that it may be columns or colour samples. The
            array has a mask, which would be lost, or is a lazy one whose shape is not known.

        Examples
        --------
        >>> import numpy as np
        >>> Stack.from_array(np.zeros((160, 192, 3)), "yxs").axes
        'YXS'
        """
        require_kind("axes", axes, str, "letters, for example 'TCZYX'")
        is_lazy = not isinstance(array, np.ndarray) and isinstance(getattr(array, "dtype", None), np.dtype)
        if isinstance(array, np.ma.MaskedArray):
            raise InputError(f"{name} has a mask, which would be lost; give its .data, or .filled(value)")
        try:
            pixels: Any = array if is_lazy and hasattr(array, "__getitem__") else np.asarray(array)
        except ValueError as fault:
            raise InputError(f"{name} is a list whose parts differ in shape; give planes of one size") from fault
        shape, dimensions = tuple(pixels.shape), len(pixels.shape)
        if not all(float(size).is_integer() for size in shape):
            raise InputError(f"{name} has the shape {shape}, which is not known; call its compute_chunk_sizes() first")
        if axes is None:
            axes = named_axes(array)
        if axes is None:
            if not 2 <= dimensions <= 5:
                raise InputError(f"an array of shape {shape} needs axes, for example ", AXES_OPTION.of("TCZYX"))
            axes = {2: "YX", 3: "ZYX", 4: "TZYX", 5: "TCZYX"}[dimensions]
            if dimensions > 2 and shape[-1] in (3, 4):
                coloured = {3: "YXS", 4: "ZYXS", 5: "TZYXS"}[dimensions]
                raise InputError(
                    f"the last axis of an array of shape {shape} may be colour samples or columns",
                    remedy=(
                        "give ", AXES_OPTION.of(coloured), " for colour, ", AXES_OPTION.of(axes),
                        f" for planes of {shape[-1]} columns",
                    ),
                )  # fmt: skip
        return cls(pixels=pixels, axes=axes.upper(), name=name)


def named_axes(array: Any) -> str | None:
    """Return the letters of the dimensions that an xarray or Zarr array names; None where it names not all of them."""
    names = getattr(array, "dims", None) or getattr(getattr(array, "metadata", None), "dimension_names", None)
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        return None
    letters = letters_of(names)
    return "".join(letters) if all(letters) else None


class ReadPart(Protocol):
    """Reads rows, or rows and columns, of one plane: (rows, columns) in the file's dtype."""

    def __call__(self, rows: slice, columns: slice = slice(None), /) -> npt.NDArray[Any]: ...  # noqa: D102


def plane_reader(stack: Stack, index: PlaneIndex, *, most_px: int = PLANE_KEPT_PX) -> ReadPart:
    """Return what reads parts of a plane: one of at most `most_px` is read once, when first asked for."""
    if stack.plane_shape[0] * stack.plane_shape[1] > most_px:
        return partial(stack.read, index)
    kept: list[npt.NDArray[Any]] = []

    def read(rows: slice, columns: slice = slice(None), /) -> npt.NDArray[Any]:
        if not kept:
            kept.append(stack.read(index))
        return kept[0][rows, columns]

    return read


def plane_key(axes: str, index: PlaneIndex, rows: slice, columns: slice) -> tuple[int | slice, ...]:
    """Return the key that picks a window of a plane from an array with these axes."""
    positions = iter(index)
    return tuple(rows if axis == "Y" else columns if axis == "X" else next(positions) for axis in axes)


def check_axes(axes: str, shape: tuple[int, ...]) -> None:
    """Raise InputError unless `axes` names every dimension of `shape` once and contains Y and X."""
    letters = "".join(letter for letter in axes if letter.isalpha())
    if letters != axes and len(letters) == len(shape):
        raise InputError(f"axes {axes} are more than letters", remedy=("did you mean ", AXES_OPTION.of(letters), "?"))
    if len(axes) != len(shape):
        raise InputError(
            f"axes {axes} name {len(axes)} dimensions, but the shape {shape} has {len(shape)}",
            remedy=("give ", AXES_OPTION),
        )
    unknown = sorted(set(axes) - set(AXES))
    if unknown or len(set(axes)) != len(axes) or not {"Y", "X"} <= set(axes):
        raise InputError(
            f"axes {axes} of shape {shape} are not clear",
            remedy=(
                f"name each dimension once with letters of {AXES} (T time, C channel, Z depth, Y rows, X columns, "
                "S colour samples), for example ",
                AXES_OPTION.of("TCZYX"[-max(len(shape), 2) :]),
            ),
        )
    if 0 in shape:
        raise InputError(f"the stack of shape {shape} has no pixels")
