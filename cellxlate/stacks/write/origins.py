"""What the bands of an output were made from, and what was made: checksums of rows of the input, and of the band.

A band depends on its own rows and on those around it that the networks see, so its origin covers both, and rows of
other planes that had a part in it. Reading the input again tells whether each band was made from what the file holds
now; reading the output, whether it holds what was computed.
"""

import hashlib
import os
import threading
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

from cellxlate.locations import Location, RemotePath
from cellxlate.regular_files import read_small_file
from cellxlate.stacks.stack import PlaneIndex

RowSums = npt.NDArray[np.uint64]
"""(rows,): the CRC-32 of each row's bytes in the upper half, its CRC-32C in the lower."""

SeeRows = Callable[[PlaneIndex, int, RowSums, RowSums | None], object]
"""Is told the checksums of rows of a plane that were read: its index, the first row, the checksums of the input's rows,
and, where the output was read too, those of the output's (`made_sums`)."""


def row_sums(pixels: npt.NDArray[Any]) -> RowSums:
    """Return a checksum of 64 bits of each row of pixels (rows, X) of any dtype.

    Notes
    -----
    One changed pixel changes both halves for certain; any other change goes unseen once in 2^64. They guard against
    files that change, not against somebody who forges pixels: SHA-256 would, at a quarter of the speed or less.
    """
    return np.fromiter((_sum(row.tobytes()) for row in pixels), np.uint64, len(pixels))


def made_sums(enhanced: npt.NDArray[Any], attention: npt.NDArray[np.uint8]) -> RowSums:
    """Return a checksum of each row of an output and of its attention together, both (rows, X)."""
    rows = zip(enhanced, attention, strict=True)
    return np.fromiter((_sum(image.tobytes() + gate.tobytes()) for image, gate in rows), np.uint64, len(enhanced))


@dataclass(frozen=True)
class RowsHeld:
    """Rows of a plane, and what they held: of the input, when a band was made from them; or of the band.

    Attributes
    ----------
    first, last : int
        Of the plane; `last` is excluded.
    digest : str
        BLAKE2b of 128 bits over their `row_sums` or `made_sums`, in hexadecimal digits.
    """

    first: int
    last: int
    digest: str

    @classmethod
    def of(cls, sums: RowSums, first_row: int) -> "RowsHeld":
        """Describe rows from `first_row` on by their checksums (rows,)."""
        return cls(first_row, first_row + len(sums), sums_digest(sums))

    def agrees(self, sums: RowSums) -> bool:
        """Return whether the checksums (Y,) of a whole plane are those of the rows then."""
        return sums_digest(sums[self.first : self.last]) == self.digest


def sums_digest(sums: RowSums) -> str:
    """Return one digest of the checksums of many rows."""
    return hashlib.blake2b(sums.astype("<u8").tobytes(), digest_size=16).hexdigest()


Beside = tuple[tuple[PlaneIndex, RowsHeld], ...]
"""Rows of other planes, or further rows of the same one, that had a part in a band."""


@dataclass(frozen=True)
class Origin:
    """A band of a plane: what it was made from, beside what else, and what it is, image and attention."""

    index: PlaneIndex
    read: RowsHeld
    made: RowsHeld
    beside: Beside = ()

    @property
    def top(self) -> int:
        """The row of the plane that the band begins with."""
        return self.made.first

    @property
    def note(self) -> str:
        """What it was made from beside, a line each: too long for a name."""
        return "".join(f"{_named(index)}.{_rows(held)}\n" for index, held in self.beside)

    @property
    def name(self) -> str:
        """All of it as the name of a file, but the note, which it holds a digest of."""
        noted = (hashlib.blake2b(self.note.encode(), digest_size=16).hexdigest(),) if self.beside else ()
        return ".".join((_named(self.index), _rows(self.made), _rows(self.read), *noted))

    @classmethod
    def named(cls, name: str, read_note: Callable[[], bytes] = bytes) -> "Origin | None":
        """Return what a name and its note state; None where it is no name of an origin, or the note is damaged."""
        try:
            place, made, made_digest, read, read_digest, *noted = name.split(".")
            lines = [line.split(".") for line in read_note().decode().splitlines()] if noted else []
            beside = tuple((_index(plane), _held(rows, digest)) for plane, rows, digest in lines)
            origin = cls(_index(place), _held(read, read_digest), _held(made, made_digest), beside)
        except (ValueError, OSError):
            return None
        return origin if origin.name == name else None


def _named(index: PlaneIndex) -> str:
    return "-".join(("plane", *map(str, index)))


def _index(name: str) -> PlaneIndex:
    return tuple(map(int, name.split("-")[1:]))


def _rows(held: RowsHeld) -> str:
    return f"{held.first}-{held.last}.{held.digest}"


def _held(rows: str, digest: str) -> RowsHeld:
    first, last = map(int, rows.split("-"))
    return RowsHeld(first, last, digest)


@dataclass(frozen=True)
class Origins:
    """The origins of the bands of an unfinished output: a folder of files whose names say it all, but for their notes.

    An origin is written after its band, whole or not at all, and so is the sign that the band is done.
    """

    folder: Location

    def create(self) -> None:
        """Make the folder where it is not there."""
        if not isinstance(self.folder, RemotePath):
            self.folder.mkdir(exist_ok=True)

    def add(self, origin: Origin) -> None:
        """Note the origin of a band that has been written."""
        file, note = self.folder / origin.name, origin.note.encode()
        if isinstance(file, RemotePath):
            file.write_bytes(note or b"\n")
        elif note:
            staged = file.with_name(f"{file.name}.new-{os.getpid()}-{threading.get_ident()}")
            staged.write_bytes(note)
            staged.replace(file)
        else:
            file.touch()

    def remove(self, origins: Iterable[Origin]) -> None:
        """Forget origins, whose bands thereby are not done."""
        for origin in origins:
            (self.folder / origin.name).unlink(missing_ok=True)

    def found(self) -> dict[PlaneIndex, list[Origin]]:
        """Return all that is noted, by plane; two of one band where it was made twice."""
        folder, origins = self.folder, dict[PlaneIndex, list[Origin]]()
        for name in folder.below() if isinstance(folder, RemotePath) else (item.name for item in folder.iterdir()):
            if origin := Origin.named(name, partial(read_small_file, folder / name)):
                origins.setdefault(origin.index, []).append(origin)
        return origins


class SampledPixels:
    """Pixels of an input that remember which windows of them were read, and what these held.

    What is decided from a sample of the stack before its first band (its levels, a model that suits) is as much made
    from the input as its bands are.
    """

    def __init__(self, pixels: Any) -> None:
        self._pixels = pixels
        self._read: dict[tuple[str, int], Any] = {}

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the stack."""
        return tuple(self._pixels.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the stack."""
        stated: np.dtype[Any] = self._pixels.dtype
        return stated

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        window = np.asarray(self._pixels[key])
        self._read[repr(key), _sum(window.tobytes())] = key
        return window

    def agree(self, pixels: Any = None) -> bool:
        """Read the windows again, from other pixels where these are given, and return whether they hold the same."""
        now = self._pixels if pixels is None else pixels
        return all(_sum(np.asarray(now[key]).tobytes()) == known for (_, known), key in self._read.items())


def _sum(content: bytes) -> int:
    return (zlib.crc32(content) << 32) | int(google_crc32c.value(content))
