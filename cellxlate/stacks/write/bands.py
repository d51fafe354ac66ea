"""Bands: the pixels of a stack kept as one checksummed file per 512 rows of a plane."""

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, Literal

import google_crc32c
import numcodecs
import numcodecs.checksum32
import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec
from zarr.storage import MemoryStore

from cellxlate.errors import InputError, OptionError, OutputError
from cellxlate.locations import Location, RemotePath
from cellxlate.options import RESUME
from cellxlate.stacks.naming import PARTIAL_ENDING, ZARR_JSON
from cellxlate.stacks.stack import PlaneIndex, plane_key
from cellxlate.stacks.stores.store import store_of

BAND_PX = 512
"""Rows of a band; only the last band of a plane may have fewer."""

CHUNK_PX = 256
BYTE_LEVEL, LEVEL = 3, 1
"""Of zstd. Noise of 16 bits hardly gets smaller at level 3, but takes half as long again."""

NOTHING = 2**64 - 1
"""Stands in the index of a file where a chunk is not there."""

REMOTE_THREADS = 16
"""That look at objects at once; each waits for its answers."""


Tell = Callable[[float], object]
"""Is told how many planes are done."""


def no_news(planes: float) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True)
class Bands:
    """A Zarr v3 array on disk that is written and read in bands.

    A band is one shard, thus one file, that appears atomically: a band whose file exists is done. Every chunk and the
    index of every file carry a CRC-32C.

    Attributes
    ----------
    folder : Path or RemotePath
        The folder of the array.
    axes : str
        Axes in the order of the array, as in `Stack.axes`.
    shape : tuple of int
        Size along each axis.
    dtype : dtype
        Of the stored pixels.
    tiles : bool
        Whether chunks are compressed as the tiles of a TIFF file are, so that they may be copied into one (`packed`).
        Otherwise the bytes of a pixel are sorted by significance first, which TIFF does not know: a fifth smaller.
    flat : bool
        Whether all files lie in the folder itself, as `c.0.0.0` in place of `c/0/0/0`: folders for each plane take
        longer to make and to remove than the files in them. What others read as a Zarr array has folders.
    """

    folder: Location
    axes: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    tiles: bool = False
    flat: bool = False

    @property
    def chunk_shape(self) -> tuple[int, int]:
        """Rows and columns of a chunk; as a tile no larger than it must be, in steps of 16."""
        rows, columns = (min(CHUNK_PX, -(-self.size(axis) // 16) * 16) if self.tiles else CHUNK_PX for axis in "YX")
        return rows, columns

    def create(self) -> None:
        """Make the empty array on disk, in place of whatever array was there."""
        self._create(store_of(self.folder))

    def restore(self) -> None:
        """Write the metadata of the array again, should it be damaged or changed; the bands stay."""
        made: dict[str, Any] = {}
        self._create(MemoryStore(made))
        file, content = self.folder / ZARR_JSON, made[ZARR_JSON].to_bytes()
        if isinstance(file, Path):
            file.parent.mkdir(parents=True, exist_ok=True)
        if not file.is_file() or file.read_bytes() != content:
            file.write_bytes(content)

    def _create(self, store: Any) -> None:
        chunks = dict(zip("YX", self.chunk_shape, strict=True))
        shards = {"Y": BAND_PX // CHUNK_PX * chunks["Y"], "X": -(-self.size("X") // chunks["X"]) * chunks["X"]}
        zarr.create_array(
            store=store,
            shape=self.shape,
            dtype=self.dtype,
            chunks=tuple(chunks.get(axis, 1) for axis in self.axes),
            shards=tuple(shards.get(axis, 1) for axis in self.axes),
            compressors=[self._compressor(), Crc32cCodec()],
            fill_value=0,
            dimension_names=[axis.lower() for axis in self.axes],
            chunk_key_encoding={"name": "default", "separator": self._separator},
            overwrite=True,
        )

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs, which may stand in another folder and opens the array itself."""
        return {"folder": self.folder.absolute(), "axes": self.axes, "shape": self.shape, "dtype": self.dtype,
                "tiles": self.tiles, "flat": self.flat}  # fmt: skip

    @property
    def _separator(self) -> Literal[".", "/"]:
        return "." if self.flat else "/"

    def _compressor(self) -> BloscCodec | ZstdCodec:
        size = self.dtype.itemsize
        if self.tiles or size == 1:
            return ZstdCodec(level=BYTE_LEVEL if size == 1 else LEVEL)
        return BloscCodec(typesize=size, cname="zstd", clevel=LEVEL, shuffle="shuffle")

    @cached_property
    def _compress(self) -> Callable[[Any], bytes]:
        """What `_compressor` does, without zarr around it."""
        size = self.dtype.itemsize
        if self.tiles or size == 1:
            compress: Callable[[Any], bytes] = numcodecs.Zstd(level=BYTE_LEVEL if size == 1 else LEVEL).encode
        else:
            compress = numcodecs.Blosc(cname="zstd", clevel=LEVEL, shuffle=numcodecs.Blosc.SHUFFLE).encode
        return compress

    @cached_property
    def _array(self) -> zarr.Array[Any]:
        return zarr.open_array(store_of(self.folder), mode="r", zarr_format=3)

    def size(self, axis: str) -> int:
        """Return the size along one of the axes."""
        return self.shape[self.axes.index(axis)]

    @property
    def per_plane(self) -> int:
        """Number of bands of a plane."""
        return -(-self.size("Y") // BAND_PX)

    @property
    def count(self) -> int:
        """Number of bands of all planes."""
        return self.per_plane * prod(size for axis, size in zip(self.axes, self.shape, strict=True) if axis not in "YX")

    def plane_indices(self) -> list[PlaneIndex]:
        """Return the positions of all planes, last axis fastest."""
        return list(product(*(range(self.size(axis)) for axis in self.axes if axis not in "YX")))

    def rows(self, band: int) -> slice:
        """Return the rows of a band."""
        return slice(band * BAND_PX, min((band + 1) * BAND_PX, self.size("Y")))

    def file(self, index: PlaneIndex, band: int) -> Location:
        """Return the file of a band, or its object."""
        key = plane_key(self.axes, index, slice(band, band + 1), slice(0, 1))
        places = ["c", *(str(part.start if isinstance(part, slice) else part) for part in key)]
        return self.folder.joinpath(*self._separator.join(places).split("/"))

    def is_done(self, index: PlaneIndex, band: int) -> bool:
        """Return whether a band has been written."""
        file = self.file(index, band)
        if isinstance(file, RemotePath):
            return file.is_file()
        try:
            return file.stat().st_size > 0
        except (FileNotFoundError, NotADirectoryError):
            return False

    def found(self) -> Callable[[PlaneIndex, int], bool]:
        """Return what tells whether a band was there at some time since now; a bucket is listed once, for all bands."""
        folder = self.folder
        if not isinstance(folder, RemotePath):
            return self.is_done
        names = {name for name, size in folder.below().items() if size}
        return lambda index, band: str(self.file(index, band)).removeprefix(f"{folder}/") in names

    def is_begun(self) -> bool:
        """Return whether any band is there."""
        folder = self.folder if self.flat else self.folder / "c"
        if isinstance(folder, RemotePath):
            return folder.is_dir()
        return any(item.is_file() and item.name != ZARR_JSON for item in folder.rglob("*"))

    def missing(self) -> int:
        """Count the bands that have not been written."""
        is_done = self.found()
        return sum(not is_done(index, band) for index in self.plane_indices() for band in range(self.per_plane))

    def write(self, index: PlaneIndex, first_row: int, pixels: npt.NDArray[Any]) -> None:
        """Write whole bands of one plane, rows (rows, X) of the array's dtype, as `Writer.write` does.

        Raises
        ------
        OptionError
            The pixels are not whole bands, or of another dtype.
        OSError
            The disk is full or gone.
        """
        last_row = first_row + len(pixels)
        height, width = self.size("Y"), self.size("X")
        whole = first_row % BAND_PX == 0 and (last_row % BAND_PX == 0 or last_row == height)
        if pixels.ndim != 2 or pixels.shape[1] != width or not (whole and 0 <= first_row < last_row <= height):
            raise OptionError(
                f"pixels of shape {pixels.shape} at row {first_row} are not whole bands of {BAND_PX} rows "
                f"of a plane of {height} x {width}; write whole bands"
            )
        if pixels.dtype != self.dtype:
            raise OptionError(f"pixels are {pixels.dtype}, the output is {self.dtype}; convert them first")
        for start in range(first_row, last_row, BAND_PX):
            stop = min(start + BAND_PX, last_row)
            band = pixels[start - first_row : stop - first_row]
            self._store(self.file(index, start // BAND_PX), self._shard(band))

    def _shard(self, band: npt.NDArray[Any]) -> bytes:
        """Return the file of a band of at most 512 rows: its chunks, and at the end the index of them.

        It is what zarr makes of the band (sharding in the Zarr 3 specification), in a seventh of the time for planes of
        64 x 64 px: zarr takes 3 ms for each file, however small.
        """
        (rows, columns), (height, width) = self.chunk_shape, band.shape
        grid = BAND_PX // CHUNK_PX, -(-width // columns)  # of chunks; those below the last row are not there
        places = np.full((*grid, 2), NOTHING, "<u8")
        parts, length = list[bytes](), 0
        for row, column in np.ndindex(-(-height // rows), grid[1]):
            chunk = np.zeros((rows, columns), self.dtype.newbyteorder("<"))
            window = band[row * rows : (row + 1) * rows, column * columns : (column + 1) * columns]
            chunk[: window.shape[0], : window.shape[1]] = window
            stored = _with_checksum(self._compress(chunk if self._rows_first else np.ascontiguousarray(chunk.T)))
            places[row, column] = length, len(stored)
            parts.append(stored)
            length += len(stored)
        index = places if self._rows_first else places.transpose(1, 0, 2)
        return b"".join([*parts, _with_checksum(index.tobytes())])

    @staticmethod
    def _store(file: Location, content: bytes) -> None:
        """Let a file appear with all that it holds."""
        if isinstance(file, RemotePath):
            file.write_bytes(content)
            return
        unfinished = file.with_name(f"{file.name}.{uuid.uuid4().hex}{PARTIAL_ENDING}")
        try:
            try:
                unfinished.write_bytes(content)
            except FileNotFoundError:
                file.parent.mkdir(parents=True, exist_ok=True)
                unfinished.write_bytes(content)
            unfinished.replace(file)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise

    def read(self, index: PlaneIndex, rows: slice) -> npt.NDArray[Any]:
        """Read rows of one plane, (rows, X), exactly as they were written.

        Raises
        ------
        OutputError
            A band is missing, or damaged; a damaged band is removed, so that it counts as not done.
        """
        start, stop, _ = rows.indices(self.size("Y"))
        pixels = np.empty((max(stop - start, 0), self.size("X")), self.dtype)
        for band in range(start // BAND_PX, -(-stop // BAND_PX)) if stop > start else ():
            first, last = max(start, band * BAND_PX), min(stop, (band + 1) * BAND_PX)
            pixels[first - start : last - start] = self._read(index, band, slice(first, last))
        return pixels

    def _read(self, index: PlaneIndex, band: int, rows: slice) -> npt.NDArray[Any]:
        self._require(index, band)
        try:
            window = np.asarray(self._array[plane_key(self.axes, index, rows, slice(0, self.size("X")))])
        except InputError:
            raise
        except (ValueError, RuntimeError) as fault:
            raise self._without(index, band) from fault
        return window if self._rows_first else window.T

    def packed(self, index: PlaneIndex, band: int) -> list[bytes]:
        """Return the chunks of a band as they are stored, without their checksums, from left to right, row by row.

        The index at the end of a file states offset and length of each chunk (sharding in the Zarr 3 specification).

        Raises
        ------
        OutputError
            As `read`.
        """
        self._require(index, band)
        (_, columns), width = self.chunk_shape, self.size("X")
        count = BAND_PX // CHUNK_PX * -(-width // columns)
        stored = self.file(index, band).read_bytes()
        try:
            places = np.frombuffer(_checked(stored[-16 * count - 4 :]), "<u8").reshape(count, 2)
            return [_checked(stored[start : start + size]) for start, size in places.tolist() if start != NOTHING]
        except (ValueError, RuntimeError) as fault:
            raise self._without(index, band) from fault

    def _require(self, index: PlaneIndex, band: int) -> None:
        """Raise OutputError unless a band has been written: the array itself would answer with zeros."""
        if not self.is_done(index, band):
            raise OutputError(f"{self.folder}: band {band} of plane {index} has not been written; run the job again")

    def _without(self, index: PlaneIndex, band: int) -> OutputError:
        """Remove a damaged band, and return what to raise."""
        self.file(index, band).unlink(missing_ok=True)
        return OutputError(
            f"{self.folder}: band {band} of plane {index} was damaged on disk and has been removed",
            remedy=("run again with ", RESUME),
        )

    @property
    def _rows_first(self) -> bool:
        return self.axes.index("Y") < self.axes.index("X")

    def drop_damaged(self) -> int:
        """Remove the bands whose files are not as they were written, and what a killed process left; return how many.

        This reads every file and checks the checksums of its chunks and of its index, without decompressing: what a
        crash of the machine leaves is found, and a single flipped bit.
        """
        keys = product(self.plane_indices(), range(self.per_plane))
        if isinstance(self.folder, RemotePath):
            is_there = self.found()
            with ThreadPoolExecutor(REMOTE_THREADS) as pool:
                return sum(pool.map(self._drop_if_damaged, [key for key in keys if is_there(*key)]))
        for unfinished in self.folder.rglob(f"*{PARTIAL_ENDING}"):
            unfinished.unlink()
        return sum(self._drop_if_damaged(key) for key in keys if self.file(*key).exists())

    def _drop_if_damaged(self, key: tuple[PlaneIndex, int]) -> bool:
        index, band = key
        try:
            self.packed(index, band)
        except OutputError:
            self.file(index, band).unlink(missing_ok=True)
            return True
        return False

    def level_shape(self, level: int) -> tuple[int, ...]:
        """Return the shape at a level of a pyramid; a side of odd length is rounded up."""
        return tuple(
            -(-size // 2**level) if axis in "YX" else size for axis, size in zip(self.axes, self.shape, strict=True)
        )


def _with_checksum(content: bytes) -> bytes:
    """Return bytes with their CRC-32C behind them."""
    return bytes(content) + int(google_crc32c.value(bytes(content))).to_bytes(4, "little")


def _checked(stored: bytes) -> bytes:
    """Return what stands before a CRC-32C; ValueError or RuntimeError where it is another."""
    if len(stored) < 4:
        raise ValueError("cut short")
    return bytes(numcodecs.checksum32.CRC32C(location="end").decode(stored))
