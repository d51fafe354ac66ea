"""Streams of image codecs in TIFF files: the size that each states is compared with its tile before it is decoded.

JPEG, JPEG 2000 and their kind carry a size of their own, and their decoders believe it: some kilobytes become
gigabytes. Further numbers of JPEG 2000 cost memory whatever the size: tiles and precincts, of which a stream without
pixels may state millions.
"""

import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import tifffile

Stated = tuple[int, int, int]
"""Rows, columns, and samples per pixel as a stream states them; 0 samples where it does not say."""

PADDED_TO_PX = 16
"""Encoders may round the height of a strip up to whole blocks."""

PX_PER_PART = 64
FEWEST_PARTS = 4096
"""A stream of JPEG 2000 may have so many tiles and precincts, and one more for so many pixels and samples."""

START_OF_FRAME = frozenset((*range(0xC0, 0xD0), 0xF7)) - {0xC4, 0xC8, 0xCC}
ALONE = frozenset((0x01, *range(0xD0, 0xD9)))
"""Markers of JPEG that state a size (0xF7 of JPEG-LS), and those without a length."""

SCAN, END = 0xDA, 0xD9


def guard_decoders(pages: Iterable[Any]) -> None:
    """Make tifffile check the streams of some pages before it decodes them; other files are read as ever.

    Parameters
    ----------
    pages : iterable of TiffPage, TiffFrame or None
        Of one image. Pages that tifffile makes anew later take their decoder from the same place.
    """
    done: set[tuple[int, int]] = set()
    for page in pages:
        keyframe = None if page is None else page.keyframe
        if keyframe is None or keyframe.compression not in STREAMS:
            continue
        parent = keyframe.parent
        root = parent.root if hasattr(parent, "root") else parent._parent  # tifffile 2025 has no root
        key = (id(root), keyframe.hash)
        if key not in done:
            done.add(key)
            decode = keyframe.decode
            root._decoders[keyframe.hash] = decode if hasattr(decode, "checks") else _checked(decode, keyframe)
        keyframe.decode = root._decoders[keyframe.hash]


def _checked(decode: Callable[..., Any], keyframe: Any) -> Callable[..., Any]:
    """Return a decoder of tifffile that looks at the stated size first."""
    tiled = keyframe.is_tiled
    rows, columns = (
        (keyframe.tilelength, keyframe.tilewidth)
        if tiled
        else (min(keyframe.rowsperstrip, keyframe.imagelength), keyframe.imagewidth)
    )
    samples = keyframe.samplesperpixel if keyframe.planarconfig == 1 else 1
    compression = keyframe.compression

    def checked(data: bytes | None, index: int, /, **options: Any) -> Any:
        if data is not None:
            header = options.get("jpegheader")  # of Hamamatsu, whose strips have none
            check_stream(bytes(header or data), compression, rows=rows, columns=columns, samples=samples)
        return decode(data, index, **options)

    checked.checks = True  # type: ignore[attr-defined]
    return checked


def check_stream(data: bytes, compression: int, *, rows: int, columns: int, samples: int) -> None:
    """Raise ValueError where a stream states more rows, columns or samples than its tile or strip has.

    Streams without a size of their own, by the TIFF tag of the compression or because they are cut, are not looked at.
    """
    reader = STREAMS.get(compression)
    try:
        stated = reader(data) if reader else None
    except (IndexError, struct.error):  # cut short, as its decoder will say
        return
    if stated is None:
        return
    most_rows = -(-rows // PADDED_TO_PX) * PADDED_TO_PX
    if stated[0] > most_rows or stated[1] > columns or stated[2] > max(samples, 1):
        name = tifffile.COMPRESSION(compression).name
        raise ValueError(
            f"a {name} stream states {stated[0]} x {stated[1]} px of {max(stated[2], 1)} samples, its tile has {rows} "
            f"x {columns} of {samples}"
        )


def _jpeg(data: bytes) -> Stated | None:
    """Return what the first frame of a JPEG stream states, found as libjpeg finds it."""
    at = 2
    while at < len(data):
        at = data.find(b"\xff", at)
        if at < 0:
            return None
        while data[at] == 0xFF:
            at += 1
        marker, at = data[at], at + 1
        if marker in START_OF_FRAME:
            rows, columns, samples = struct.unpack_from(">HHB", data, at + 3)
            return rows, columns, samples
        if marker in (SCAN, END):
            return None
        if marker and marker not in ALONE:
            at += struct.unpack_from(">H", data, at)[0]
    return None


def _jpeg_2000(data: bytes) -> Stated | None:
    """Return what the SIZ marker of a stream of JPEG 2000 states; raise ValueError for absurd numbers of parts."""
    at = 0
    if data[4:8] == b"jP  ":
        at = next((start for kind, start in _boxes(data) if kind == b"jp2c"), -1)
    if at < 0 or data[at : at + 4] != b"\xff\x4f\xff\x51":
        return None
    right, bottom, left, top, tile_x, tile_y, tile_left, tile_top, samples = struct.unpack_from(">8IH", data, at + 8)
    rows, columns = max(bottom - top, 0), max(right - left, 0)
    steps = [1.0]
    for marker, at_marker in _segments(data, at + 2):
        kind, width = {0x52: (0, 0), 0x53: (1, 1 if samples < 257 else 2)}.get(marker, (-1, 0))
        if kind == 0:  # COD: style, progression, layers, transform, levels, block, ...
            steps.append(_per_precinct(data[at_marker], data[at_marker + 5], data[at_marker + 10 :], rows * columns))
        elif kind == 1:  # COC, of one component: style, levels, block, ...
            at_marker += width
            steps.append(_per_precinct(data[at_marker], data[at_marker + 1], data[at_marker + 6 :], rows * columns))
    tiles = -(-max(right - tile_left, 0) // max(tile_x, 1)) * -(-max(bottom - tile_top, 0) // max(tile_y, 1))
    parts = samples * max(tiles, max(steps))
    if parts > FEWEST_PARTS + rows * columns * samples / PX_PER_PART:
        raise ValueError(f"a stream of JPEG 2000 states {parts:.0f} tiles or precincts for {rows} x {columns} px")
    return rows, columns, samples


def _per_precinct(style: int, levels: int, sizes: bytes, pixels: int) -> float:
    """Return about how many precincts a component has; without stated sizes they are as large as they can be."""
    if not style & 1:
        return 1.0
    precincts = 0.0
    for level, size in enumerate(sizes[: min(levels, 32) + 1]):
        precincts += pixels / 4.0 ** (levels - level) / 2 ** ((size & 15) + (size >> 4))
    return precincts


def _boxes(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield the kind of each box of a JP2 or JPEG XL file, and where its content begins."""
    at = 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        start = at + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, start)
            start += 8
        yield kind, start
        if size < 8:  # up to the end
            return
        at += size


def _segments(data: bytes, at: int) -> Iterator[tuple[int, int]]:
    """Yield the markers of the main header of JPEG 2000, and where the content of each begins."""
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0x90:
        yield data[at + 1], at + 4
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]


def _png(data: bytes) -> Stated | None:
    columns, rows, _, colour = struct.unpack_from(">IIBB", data, 16)
    return (rows, columns, {0: 1, 2: 3, 3: 0, 4: 2, 6: 4}.get(colour, 0)) if data[12:16] == b"IHDR" else None


def _webp(data: bytes) -> Stated | None:
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[27:30], "little"), 1 + int.from_bytes(data[24:27], "little"), 0
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF), 0
    columns, rows = struct.unpack_from("<HH", data, 26)
    return (rows & 0x3FFF, columns & 0x3FFF, 0) if kind == b"VP8 " else None


def _jpeg_xr(data: bytes) -> Stated | None:
    """Return what the image header of JPEG XR states, where the directory of the file says that it lies."""
    at = struct.unpack_from("<I", data, 4)[0]
    for entry in range(struct.unpack_from("<H", data, at)[0]):
        code, _, _, value = struct.unpack_from("<HHII", data, at + 2 + 12 * entry)
        if code == 0xBCC0 and data[value : value + 8] == b"WMPHOTO\0":
            short = data[value + 10] & 0x80
            columns, rows = struct.unpack_from(">HH" if short else ">II", data, value + 12)
            return rows + 1, columns + 1, 0
    return None


RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))


def _jpeg_xl(data: bytes) -> Stated | None:
    """Return what the size header of JPEG XL states (ISO/IEC 18181-1, its bits from the lowest up)."""
    if data[4:8] == b"JXL ":
        starts = (start + 4 * (kind == b"jxlp") for kind, start in _boxes(data) if kind in (b"jxlc", b"jxlp"))
        data = data[next(starts, len(data)) :]
    if data[:2] != b"\xff\x0a":
        return None
    bits, at = int.from_bytes(data[2:16], "little"), 0

    def take(count: int) -> int:
        nonlocal at
        at += count
        return bits >> (at - count) & (1 << count) - 1

    def side(small: int) -> int:
        return 8 * (1 + take(5)) if small else 1 + take((9, 13, 18, 30)[take(2)])

    small = take(1)
    rows, ratio = side(small), take(3)
    columns = rows * RATIOS[ratio - 1][0] // RATIOS[ratio - 1][1] if ratio else side(small)
    return rows, columns, 0


STREAMS: dict[int, Callable[[bytes], Stated | None]] = {
    **dict.fromkeys((6, 7, 33007, 34892), _jpeg),
    **dict.fromkeys((33003, 33004, 33005, 34712), _jpeg_2000),
    **dict.fromkeys((22610, 34934), _jpeg_xr),
    **dict.fromkeys((50002, 52546), _jpeg_xl),
    34933: _png,
    50001: _webp,
}
"""By TIFF's number of the compression."""
