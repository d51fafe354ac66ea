"""PNG and JPEG files as stacks of one plane: grey, or colour samples."""

import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np

from cellxlate.errors import InputError, unless_denied
from cellxlate.stacks.carried import Metadata
from cellxlate.stacks.naming import one_line, stack_name
from cellxlate.stacks.read.pixels import LARGEST_BLOCK_BYTES
from cellxlate.stacks.stack import READ_FAULTS, Stack, check_axes

PNG_MARK = b"\x89PNG\r\n\x1a\n"
PNG_SAMPLES = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}
"""Samples of each kind of PNG: grey, RGB, palette, grey with opacity, RGB with opacity."""

PNG_OF_PIXELS = ("IHDR", "PLTE", "tRNS", "IDAT", "IEND", "acTL", "fcTL", "fdAT", "bKGD", "hIST", "sPLT")
PALETTE = 3
INTERLACE_AT = 28
"""Where a PNG states whether it is interlaced."""

ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
"""First row and column of each pass of an interlaced PNG, and the steps between rows and columns."""


LOSSY = (
    "JPEG is lossy: its values are those that compression has left, with traces of 8 x 8 px; take the file that the "
    "microscope wrote, where there is one"
)
JPEG_FRAMES = (0xC0, 0xC1, 0xC2)
"""Markers of the frames that are read: baseline, extended and progressive."""

JPEG_ALONE = (0x01, *range(0xD0, 0xD8))
"""Markers without a length."""


@dataclass(frozen=True)
class PicturePixels:
    """Pixels (rows, columns) or (rows, columns, samples) of a file that can only be decoded whole, when first read."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    decode: Callable[[], Any]
    kept: list[Any] = field(default_factory=list, compare=False)
    lock: Any = field(default_factory=threading.Lock, compare=False)

    def __getitem__(self, key: Any) -> Any:
        with self.lock:
            if not self.kept:
                pixels = np.asarray(self.decode())
                if pixels.shape != self.shape or pixels.dtype != self.dtype:
                    raise ValueError(f"{pixels.shape} {pixels.dtype} came, its header states {self.shape} {self.dtype}")
                self.kept.append(pixels)
        return self.kept[0][key]


def open_picture(path: Path, axes: str | None, image: int) -> Stack:
    """Open a PNG or JPEG file.

    Raises
    ------
    InputError
        The file is damaged, cut short, too large to be decoded whole, of a kind that is not read, or `image` is not 0.
    """
    try:
        if image:
            raise InputError(f"there is no image {image}, the file holds 1; images are counted from 0")
        content = path.read_bytes()
        if content.startswith(PNG_MARK):
            kind, (pixels, lines) = "png", _png(path, content)
        elif content.startswith(b"\xff\xd8"):
            kind, (pixels, lines) = "jpeg", _jpeg(path, content)
        else:
            raise InputError("it is neither PNG nor JPEG, whatever its name says; copy it again")
        found_axes = axes or "YXS"[: len(pixels.shape)]
        check_axes(found_axes, pixels.shape)
        return Stack(
            pixels, found_axes, stack_name(path), path, kind=kind, metadata=Metadata(lost=lines), warnings=lines
        )
    except InputError as fault:
        raise type(fault)(f"{path}: ", fault) from None
    except READ_FAULTS as fault:
        damaged = InputError(f"{path} is damaged ({one_line(fault)}); copy it again")
        raise unless_denied(damaged, path, fault) from fault


def _check_size(shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if 0 in shape:
        raise InputError(f"it states the size {shape}; copy it again")
    if prod(shape) * dtype.itemsize > LARGEST_BLOCK_BYTES:
        raise InputError(
            f"it states {shape} {dtype}, above 1 GiB, which can only be decoded whole; save it as a tiled TIFF first"
        )


def _png(path: Path, content: bytes) -> tuple[PicturePixels, tuple[str, ...]]:
    """Return the pixels of a PNG file, and lines on what is not carried."""
    chunks = [name for name, _ in _png_chunks(content)]
    if not chunks or chunks[0] != "IHDR" or "IDAT" not in chunks or chunks[-1] != "IEND":
        raise InputError("the file is cut short or damaged; copy it again")
    columns, rows, bits, kind = struct.unpack(">IIBB", content[16:26])
    if kind not in PNG_SAMPLES or bits not in (1, 2, 4, 8, 16):
        raise InputError(f"its header states kind {kind} with {bits} bits, which is no PNG; copy it again")
    samples = PNG_SAMPLES[kind] + ("tRNS" in chunks)
    dtype = np.dtype(np.uint16 if bits == 16 else bool if bits == 1 and samples == 1 else np.uint8)
    shape = (rows, columns, samples) if samples > 1 else (rows, columns)
    _check_size(shape, dtype)
    step = 255 // (2**bits - 1) if bits < 8 and kind != PALETTE else 1

    def decode() -> Any:  # libpng spreads 1, 2 and 4 bits over the range of 8
        stored = path.read_bytes()
        pixels = _interlaced(stored) if content[INTERLACE_AT] else imagecodecs.png_decode(stored)
        if step > 1 and samples == 1:
            pixels = pixels // step
        elif step > 1:
            pixels[..., 0] //= step
        return pixels.astype(dtype)

    lines = []
    if kind == PALETTE:
        lines.append("the colours of its palette are read as red, green and blue samples")
    if "tRNS" in chunks:
        lines.append("what its tRNS chunk makes transparent is read as a last sample of opacity")
    if "acTL" in chunks:
        lines.append("it is animated; the picture that other programs show still is read, the frames are not")
    lost = sorted({name for name in chunks if name not in PNG_OF_PIXELS})
    if lost:
        lines.append(
            f"of the PNG file only pixels are carried, not {', '.join(lost[:8])}; sizes of a pixel in PNG are those of "
            "printing"
        )
    return PicturePixels(shape, dtype, decode), tuple(lines)


def _interlaced(content: bytes) -> Any:
    """Return the pixels of an interlaced PNG, whose seven passes are decoded as pictures of their own.

    Of a whole one libpng decodes the same pixels, but says on standard error that it would rather be told first.
    """
    header, before, data = b"", b"", b""
    for name, at in _png_chunks(content):
        (size,) = struct.unpack(">I", content[at - 8 : at - 4])
        chunk = content[at - 8 : at + size + 4]
        if zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
            raise ValueError(f"the checksum of a chunk {name} is wrong")
        if name == "IHDR":
            header = chunk[8:-4]
        elif name in ("PLTE", "tRNS"):
            before += chunk
        elif name == "IDAT":
            data += chunk[8:-4]
    columns, rows, bits, kind = struct.unpack(">IIBB", header[:10])
    bits_per_px = bits * (1 if kind == PALETTE else PNG_SAMPLES[kind])
    passes = []
    for top, left, down, right in ADAM7:
        height, width = len(range(top, rows, down)), len(range(left, columns, right))
        if height and width:
            passes.append((top, left, down, right, height, width, height * (1 + -(-width * bits_per_px // 8))))
    whole, stored_bytes = zlib.decompressobj(), sum(one[-1] for one in passes)
    raw = whole.decompress(data, stored_bytes)
    if len(raw) < stored_bytes:
        raise ValueError("its pixels end early")
    pixels, start = None, 0
    for top, left, down, right, height, width, count in passes:
        parts = (
            (b"IHDR", struct.pack(">II", width, height) + header[8:12] + b"\0"),
            (b"IDAT", zlib.compress(raw[start : start + count], 0)), (b"IEND", b""),
        )  # fmt: skip
        first, *rest = (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
            for name, body in parts
        )
        small = imagecodecs.png_decode(PNG_MARK + first + before + b"".join(rest))
        if pixels is None:
            pixels = np.empty((rows, columns, *small.shape[2:]), small.dtype)
        pixels[top::down, left::right] = small
        start += count
    return pixels


def _png_chunks(content: bytes) -> Iterator[tuple[str, int]]:
    """Yield the names of the chunks, and where their data begin, as far as they are whole."""
    at = len(PNG_MARK)
    while at + 12 <= len(content):
        size, name = struct.unpack(">I4s", content[at : at + 8])
        if at + 12 + size > len(content):
            return
        yield name.decode("latin-1"), at + 8
        if name == b"IEND":
            return
        at += 12 + size


def _jpeg(path: Path, content: bytes) -> tuple[PicturePixels, tuple[str, ...]]:
    """Return the pixels of a JPEG file, and lines on what is not carried and not to be trusted."""
    shape, lines, ended = None, [LOSSY], False
    for marker, segment in _jpeg_segments(content):
        if marker in JPEG_FRAMES and shape is None:
            bits, rows, columns, samples = struct.unpack(">BHHB", segment[:6])
            if bits != 8 or samples not in (1, 3):
                raise InputError(f"it has {samples} samples of {bits} bits, expected 1 or 3 of 8; convert it to TIFF")
            shape = (rows, columns, samples) if samples > 1 else (rows, columns)
        elif 0xC3 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and shape is None:
            raise InputError("it is lossless, hierarchical or arithmetic JPEG, which is not read; convert it to TIFF")
        elif marker == 0xE1 and segment.startswith(b"Exif\0\0") and (turned := _orientation(segment[6:])) > 1:
            lines.append(f"its EXIF says to show it turned or mirrored (orientation {turned}); it is read as stored")
        elif marker == 0xE2 and segment.startswith(b"MPF\0"):
            lines.append("it holds further pictures (MPF), which are not read")
        ended = marker == 0xD9
    if shape is None or not ended:
        raise InputError("the file is cut short or damaged; copy it again")
    _check_size(shape, np.dtype(np.uint8))
    lines.append("of the JPEG file only pixels are carried")
    return PicturePixels(shape, np.dtype(np.uint8), lambda: imagecodecs.jpeg8_decode(path.read_bytes())), tuple(lines)


def _jpeg_segments(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield markers with what belongs to them, the end included, as far as they are whole; compressed data are skipped.

    A decoder fills what is missing at the end of a file with grey, and says nothing.
    """
    at = 2
    while at + 2 <= len(content):
        if content[at] != 0xFF:
            return
        marker = content[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        at += 2
        if marker == 0xD9:
            yield marker, b""
            return
        if marker in JPEG_ALONE:
            continue
        size = int.from_bytes(content[at : at + 2], "big")
        if size < 2 or at + size > len(content):
            return
        yield marker, content[at + 2 : at + size]
        at += size
        while marker == 0xDA:  # up to the next marker that is neither a stuffed byte nor a restart
            at = content.find(b"\xff", at)
            if at < 0 or at + 1 >= len(content):
                return
            if content[at + 1] == 0 or 0xD0 <= content[at + 1] <= 0xD7:
                at += 2
            else:
                break


def _orientation(exif: bytes) -> int:
    """Return how EXIF data say that a picture is to be turned; 1 where they do not."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 8:
        return 1
    (at,) = struct.unpack(order + "I", exif[4:8])
    if at + 2 > len(exif):
        return 1
    (count,) = struct.unpack(order + "H", exif[at : at + 2])
    for start in range(at + 2, min(at + 2 + 12 * count, len(exif) - 11), 12):
        tag, _, _, value = struct.unpack(order + "HHIH", exif[start : start + 10])
        if tag == 0x0112:
            return int(value)
    return 1
