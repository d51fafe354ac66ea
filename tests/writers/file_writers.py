"""Writers of files that other programs make: Micro-Manager, NDTiff, Imaris, PNG of few bits, zipped folders."""

import json
import struct
import zipfile
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import tifffile


def random_pixels(*shape: int, dtype: type = np.uint16) -> np.ndarray:
    return np.random.default_rng(len(shape)).integers(0, np.iinfo(dtype).max, shape).astype(dtype)


def acquisition(
    path: Path, planes: Sequence[np.ndarray], at: Sequence[tuple[int, ...]], description: str = "", **stated: int
) -> None:
    """A stack file as Micro-Manager writes it: a header, pages of 13 tags, an index (c, z, t, position, offset).

    A description, OME-XML, is one tag more of the first page.
    """
    rows, columns = planes[0].shape
    summary = json.dumps(
        {"MicroManagerVersion": "2.0", "Prefix": "a", "Frames": 1, "Channels": 2, "Slices": 1, "Positions": 1,
         "SlicesFirst": False, "TimeFirst": False} | stated
    ).encode()  # fmt: skip
    summary += b" " * (len(summary) % 2)
    content, index = bytearray(40 + len(summary)), []
    for number, (plane, place) in enumerate(zip(planes, at, strict=True)):
        text = description.encode() + b"\0" if description and number == 0 else b""
        start, header = len(content), 174 if text else 162
        end = start + header + plane.nbytes + 8 + len(text)
        short, long = 3, 4
        tags = [(256, long, columns), (257, long, rows), (258, short, 16), (259, short, 1), (262, short, 1),
                (273, long, start + header), (274, short, 1), (277, short, 1), (278, long, rows),
                (279, long, plane.nbytes), (284, short, 1), (296, short, 1)]  # fmt: skip
        entries = [struct.pack("<HHII", code, kind, 1, value) for code, kind, value in tags]
        if text:
            entries.insert(5, struct.pack("<HHII", 270, 2, len(text), end - len(text)))
        entries.append(struct.pack("<HHII", 51123, 2, 8, end - len(text) - 8))
        content += struct.pack("<H", len(entries)) + b"".join(entries)
        content += struct.pack("<I", 0 if number == len(planes) - 1 else end) + plane.tobytes() + b'{"a": 1}' + text
        index.append(struct.pack("<5I", *place, start))
    content[:40] = b"II*\0" + struct.pack(
        "<9I", 40 + len(summary), 54773648, len(content), 483765892, 0, 99384722, 0, 2355492, len(summary)
    )
    content[40 : 40 + len(summary)] = summary
    path.write_bytes(bytes(content) + struct.pack("<II", 3453623, len(index)) + b"".join(index))


def ndtiff(folder: Path, planes: Sequence[np.ndarray], at: Sequence[dict[str, Any]]) -> Path:
    """One file of NDTiff 3 and its index, which names the place of each plane."""
    path = folder / "a_NDTiffStack.tif"
    tifffile.imwrite(path, np.stack(planes), metadata=None, photometric="minisblack")
    with tifffile.TiffFile(path) as file:
        offsets = [page.dataoffsets[0] for page in file.pages]
    summary = b'{"a": 1}'
    content = bytearray(path.read_bytes())
    first = struct.unpack("<I", content[4:8])[0]
    assert first >= 8
    entries = b""
    for plane, place, offset in zip(planes, at, offsets, strict=True):
        axes, name = json.dumps(place).encode(), path.name.encode()
        entries += struct.pack("<I", len(axes)) + axes + struct.pack("<I", len(name)) + name
        entries += struct.pack("<IiiIIIII", offset, plane.shape[1], plane.shape[0], 1, 0, offset, len(summary), 0)
    (folder / "NDTiff.index").write_bytes(entries)
    return path


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(columns: int, rows: int, bits: int, kind: int, raw: bytes, *further: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", columns, rows, bits, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(further) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def text(value: object) -> np.ndarray:
    """Text as Imaris writes it: an array of single characters."""
    return np.array([letter.encode() for letter in str(value)], "S1")


def imaris(h5py: Any, path: Path, pixels: np.ndarray, *, seconds: float = 30.0, **options: Any) -> None:
    """TCZYX in an Imaris file: voxels are padded to whole chunks with 7, which is no pixel of the image."""
    times, channels, *sizes = pixels.shape
    stored = [-(-size // part) * part for size, part in zip(sizes, (2, 16, 16), strict=True)]
    with h5py.File(path, "w") as file:
        image = file.create_group("DataSetInfo/Image")
        for axis, number, size, step in zip("XYZ", "012", sizes[::-1], (0.1, 0.2, 0.5), strict=True):
            image.attrs[axis] = text(size)
            image.attrs[f"ExtMin{number}"], image.attrs[f"ExtMax{number}"] = text(-3), text(-3 + size * step)
        image.attrs["Unit"] = text("um")
        info = file.create_group("DataSetInfo/TimeInfo")
        for t in range(times):
            date = datetime(2020, 2, 3, 23, 59, tzinfo=UTC) + timedelta(seconds=seconds * t)
            info.attrs[f"TimePoint{t + 1}"] = text(date.strftime("%Y-%m-%d %H:%M:%S.000"))
        for c in range(channels):
            channel = file.create_group(f"DataSetInfo/Channel {c}")
            channel.attrs["Name"], channel.attrs["Color"] = text(f"dye {c}"), text("1.000 0.502 0.000")
        for t in range(times):
            for c in range(channels):
                group = file.create_group(f"DataSet/ResolutionLevel 0/TimePoint {t}/Channel {c}")
                for axis, size in zip("ZYX", sizes, strict=True):
                    group.attrs[f"ImageSize{axis}"] = text(size)
                data = np.full(stored, 7, pixels.dtype)
                data[tuple(slice(size) for size in sizes)] = pixels[t, c]
                group.create_dataset("Data", data=data, chunks=(2, 16, 16), compression="gzip", **options)


def zipped(folder: Path, path: Path, inside: str = "", how: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", how) as file:
        for item in sorted(folder.rglob("*")):
            if item.is_file():
                file.write(item, inside + item.relative_to(folder).as_posix())
