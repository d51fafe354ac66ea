"""What the directories of a TIFF file may ask for, looked at before a library reads it."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cellxlate.errors import InputError

MOST_TAG_BYTES = 2**26
"""Of one tag that is no table of strips: an OME-XML of 190,000 planes; such text takes a dozen times as much memory."""

TABLES = (273, 279, 288, 289, 324, 325, 330)
"""Where strips, tiles and further directories lie, and how long they are."""

STORAGE = {
    256: ("ImageWidth", 0), 257: ("ImageLength", 0), 258: ("BitsPerSample", 1), 259: ("Compression", 1),
    266: ("FillOrder", 1), 277: ("SamplesPerPixel", 1), 278: ("RowsPerStrip", 2**32 - 1),
    284: ("PlanarConfiguration", 1), 317: ("Predictor", 1), 322: ("TileWidth", 0), 323: ("TileLength", 0),
    339: ("SampleFormat", 1),
}  # fmt: skip
"""Tags that say how pixels are stored, and what is meant where they are absent."""

ADOBE_DEFLATE, DEFLATE = 8, 32946
"""Two numbers of one compression."""

KIND_BYTES = np.array([1, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 1, 1, 8, 8, 8])
"""Of one value, by the number of its kind (TIFF 6.0, page 15, and BigTIFF)."""


def check_first_directory(path: Path) -> None:
    """Raise InputError where the first directory of a TIFF file has a tag of more than 64 MB.

    Files of another kind, or cut short, are left to tifffile to refuse.
    """
    with path.open("rb") as file:
        head = file.read(16)
        order = {b"II": "<", b"MM": ">"}.get(head[:2])
        if order is None or len(head) < 16:
            return
        is_big = head[2:4] in (b"\x2b\0", b"\0\x2b")
        file.seek(0, 2)
        if not is_big and file.tell() >= 2**32:  # Hamamatsu's, whose offsets take 8 bytes
            return
        file.seek(
            struct.unpack_from(f"{order}Q", head, 8)[0] if is_big else struct.unpack_from(f"{order}I", head, 4)[0]
        )
        counted = file.read(8 if is_big else 2)
        if len(counted) < (8 if is_big else 2):
            return
        (count,) = struct.unpack(f"{order}{'Q' if is_big else 'H'}", counted)
        check_tags(file.read(min(count, 2**16) * (20 if is_big else 12)), order, is_big=is_big)


def check_tags(entries: bytes, order: str, *, is_big: bool) -> None:
    """Raise InputError where an entry of a directory, as stored in this byte order without its count, exceeds 64 MB.

    Entries of a BigTIFF, and of others that are as big, have 20 bytes.
    """
    wide = f"{order}u8" if is_big else f"{order}u4"
    kind: Any = np.dtype([("code", f"{order}u2"), ("kind", f"{order}u2"), ("count", wide), ("value", wide)])
    tags: npt.NDArray[Any] = np.frombuffer(entries[: len(entries) // kind.itemsize * kind.itemsize], kind)
    each = KIND_BYTES[np.minimum(tags["kind"], len(KIND_BYTES) - 1)]
    long = (tags["count"] > MOST_TAG_BYTES // each) & ~np.isin(tags["code"], TABLES)
    if long.any():
        first = int(np.flatnonzero(long)[0])
        code, size = int(tags["code"][first]), int(tags["count"][first]) * int(each[first])
        raise InputError(
            f"its TIFF tag {code}{' (ImageDescription)' if code == 270 else ''} takes {size / 1e6:.0f} MB, at most "
            f"{MOST_TAG_BYTES / 1e6:.0f} are read; save the file without it, or copy it again"
        )


def storage_of(entries: bytes, order: str, *, is_big: bool) -> dict[str, int]:
    """Return how the pixels of a directory are stored, by the names of tags; parameters as of `check_tags`."""
    step, storage = 20 if is_big else 12, dict(STORAGE.values())
    for at in range(0, len(entries) - step + 1, step):
        code, kind = struct.unpack_from(f"{order}HH", entries, at)
        if code not in STORAGE or kind not in (1, 3, 4):
            continue
        (count,) = struct.unpack_from(f"{order}{'Q' if is_big else 'I'}", entries, at + 4)
        letter = {1: "B", 3: "H", 4: "I"}[kind]
        if count * int(KIND_BYTES[kind]) <= (8 if is_big else 4):  # else its place stands here, not its values
            (storage[STORAGE[code][0]],) = struct.unpack_from(order + letter, entries, at + (12 if is_big else 8))
    if storage["Compression"] == DEFLATE:
        storage["Compression"] = ADOBE_DEFLATE
    storage["RowsPerStrip"] = min(storage["RowsPerStrip"], storage["ImageLength"])
    return storage
