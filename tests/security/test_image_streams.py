"""TIFF files whose streams of JPEG and its kind state other sizes than their tiles; descriptions of 200 MB."""

import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile

from cellxlate.errors import InputError
from cellxlate.stacks.limits.image_streams import check_stream
from cellxlate.stacks.metadata import tiff_tags
from cellxlate.stacks.read.open import open_stack

PIXELS = np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)
COMPRESSIONS = {"jpeg8": 7, "jpegls": 7, "ljpeg": 33007, "jpeg2k": 34712, "jpegxr": 22610, "jpegxl": 50002,
                "png": 34933, "webp": 50001}  # fmt: skip


Tag = tuple[int, int, int]
"""Kind of value, count, value or where it lies."""


def grey(bits: int = 16, compression: int = 1) -> dict[int, Tag]:
    """Return the tags of a grey image of 64 x 64 px in one strip."""
    return {256: (4, 1, 64), 257: (4, 1, 64), 258: (3, 1, bits), 259: (3, 1, compression), 262: (3, 1, 1),
            273: (4, 1, 8), 277: (3, 1, 1), 278: (4, 1, 64), 279: (4, 1, 8192)}  # fmt: skip


def tiff(tags: dict[int, Tag], data: bytes, *, following: int = 0) -> bytes:
    entries = b"".join(struct.pack("<HHII", code, *tags[code]) for code in sorted(tags))
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + struct.pack("<I", following) + data


def packed(tags: dict[int, Tag], data: bytes) -> bytes:
    """Return a TIFF whose single strip is `data`."""
    return tiff(tags | {273: (4, 1, 14 + 12 * len(tags)), 279: (4, 1, len(data))}, data)


def encoded(codec: str, pixels: np.ndarray, **options: object) -> bytes:
    return bytes(getattr(imagecodecs, f"{codec}_encode")(pixels, **options))


def jpeg_2000(columns: int, rows: int, tile: tuple[int, int] | None = None, *, precinct: int | None = None) -> bytes:
    """Return a stream of JPEG 2000 that states a size, tiles, and precincts of 2^n px that are not its own."""
    stream = bytearray(encoded("jpeg2k", PIXELS, codecformat="j2k"))
    struct.pack_into(">8I", stream, 8, columns, rows, 0, 0, *(tile or (columns, rows)), 0, 0)
    if precinct is None:
        return bytes(stream)
    at = stream.index(b"\xff\x52") + 2
    (length,) = struct.unpack_from(">H", stream, at)
    stated = bytearray(stream[at + 2 : at + length]) + bytes([precinct | precinct << 4] * (stream[at + 7] + 1))
    stated[0] |= 1
    return bytes(stream[:at] + struct.pack(">H", len(stated) + 2) + stated + stream[at + length :])


def jpeg(columns: int, rows: int) -> bytes:
    stream = bytearray(encoded("jpeg8", PIXELS))
    struct.pack_into(">HH", stream, stream.index(b"\xff\xc0") + 5, rows, columns)
    return bytes(stream)


def png(columns: int, rows: int) -> bytes:
    stream = bytearray(encoded("png", PIXELS))
    struct.pack_into(">II", stream, 16, columns, rows)
    struct.pack_into(">I", stream, 29, zlib.crc32(stream[12:29]))
    return bytes(stream)


STREAMS = {
    "jpeg of 30000 x 30000": (7, jpeg(30_000, 30_000)),
    "jpeg of more rows": (7, jpeg(64, 60_000)),
    "jpeg of other sides": (7, jpeg(128, 32)),
    "jpeg behind garbage and an earlier frame's tables": (
        7, jpeg(30_000, 30_000).replace(b"\xff\xc0", b"ab\xff\xff\xff\xc0")
    ),
    "jpeg 2000 of 30000 x 30000": (34712, jpeg_2000(30_000, 30_000)),
    "jpeg 2000 of more rows": (33003, jpeg_2000(64, 10_000_000)),
    "jpeg 2000 in a file": (34712, encoded("jpeg2k", np.zeros((3000, 64), np.uint8), codecformat="jp2")),
    "jpeg 2000 of one tile per pixel": (34712, jpeg_2000(64, 64, (1, 1)).replace(struct.pack(">II", 64, 64), b"")),
    "png of 30000 x 30000": (34933, png(30_000, 30_000)),
    "jpeg xl of 4000 x 4000": (50002, encoded("jpegxl", np.zeros((4000, 4000), np.uint8))),
    "webp of 4000 x 4000": (50001, encoded("webp", np.zeros((4000, 4000, 3), np.uint8), lossless=True)),
    "jpeg xr of 4000 x 4000": (22610, encoded("jpegxr", np.zeros((4000, 4000), np.uint8))),
}  # fmt: skip


@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_that_states_another_size_than_its_tile_is_refused(kind, tmp_path, command, untouched, bounded):
    compression, stream = STREAMS[kind]
    path = tmp_path / "a.tif"
    path.write_bytes(packed(grey(8, compression), stream))
    untouched()
    line = command.enhance_refused(path)
    if "tile per pixel" not in kind:
        assert "px of" in line


def test_a_stream_of_far_too_many_parts_is_refused(bounded):
    for stream, side in (
        (jpeg_2000(510, 128, (1, 1)), 510),
        (jpeg_2000(2048, 2048, precinct=1), 2048),
        (jpeg_2000(4096, 4096, precinct=0), 4096),
    ):
        with pytest.raises(ValueError, match="tiles or precincts"):
            check_stream(stream, 34712, rows=side, columns=side, samples=1)
    check_stream(jpeg_2000(2048, 2048, precinct=5), 34712, rows=2048, columns=2048, samples=1)


@pytest.mark.parametrize("codec", COMPRESSIONS)
@pytest.mark.parametrize("shape", [(17, 300), (64, 64), (777, 2000)])
@pytest.mark.parametrize("samples", [1, 3])
def test_what_streams_state_is_read_from_their_headers(codec, shape, samples):
    pixels = np.random.default_rng(1).integers(0, 8, (*shape, samples), np.uint8)
    if samples == 1:
        pixels = pixels[..., 0]
    if (codec == "webp" and samples == 1) or (codec == "ljpeg" and samples == 3):
        pytest.skip("the codec has no such pixels")
    stream, (rows, columns) = encoded(codec, pixels), shape
    check_stream(stream, COMPRESSIONS[codec], rows=rows, columns=columns, samples=samples)
    for fewer_rows, fewer_columns in ((rows - 16, columns), (rows, columns - 1)):
        with pytest.raises(ValueError, match=f"{rows} x {columns} px"):
            check_stream(stream, COMPRESSIONS[codec], rows=fewer_rows, columns=fewer_columns, samples=samples)


@pytest.mark.parametrize("compression", ["jpeg", "jpeg2000", "jpegxl", "png", "jpegxr"])
@pytest.mark.parametrize("layout", [{"tile": (64, 64)}, {"rowsperstrip": 16}, {}])
def test_sound_streams_are_read(compression, layout, tmp_path):
    pixels = np.random.default_rng(2).integers(0, 255, (3, 100, 150)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack", compression=compression, **layout)
    with open_stack(tmp_path / "a.tif", "ZYX") as stack:
        expected = tifffile.imread(tmp_path / "a.tif")
        for plane in range(3):
            assert np.array_equal(stack.read((plane,)), expected[plane])
            assert np.array_equal(stack.read((plane,), slice(10, 90), slice(60, 70)), expected[plane, 10:90, 60:70])


def test_a_later_page_that_states_another_size_is_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for _ in range(3):
            file.write(PIXELS, compression="jpeg", photometric="minisblack", metadata=None)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        place = file.pages[2].dataoffsets[0]
    content = bytearray((tmp_path / "a.tif").read_bytes())
    struct.pack_into(">H", content, content.index(b"\xff\xc0", place) + 5, 60_000)
    (tmp_path / "a.tif").write_bytes(content)
    with open_stack(tmp_path / "a.tif", "ZYX") as stack:
        assert stack.read((1,)).shape == (64, 64)
        for window in ((), (slice(0, 8), slice(0, 8))):
            with pytest.raises(InputError, match="states 60000 x 64 px"):
                stack.read((2,), *window)


def sparse(path: Path, content: bytes, size: int) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.truncate(size)


LONG = 200_000_000


@pytest.mark.parametrize("code", [270, 305, 700, 50839])
@pytest.mark.parametrize("form", ["first page", "later page", "big tiff"])
def test_a_description_of_200_mb_is_refused(form, code, tmp_path, command, untouched, bounded):
    path, tag = tmp_path / "a.tif", {code: (2, LONG, 20_000)}
    if form == "first page":
        sparse(path, packed(grey() | tag, bytes(8192)), LONG + 30_000)
    elif form == "later page":
        first = tiff(grey(), bytes(8192), following=10_000)
        second = tiff(grey() | tag, bytes(8192))
        sparse(path, first.ljust(10_000, b"\0") + second[8:], LONG + 30_000)
    else:
        entries = b"".join(struct.pack("<HHQQ", key, *value) for key, value in sorted((grey() | tag).items()))
        head = struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 16, len(grey()) + 1)
        sparse(path, head + entries + bytes(8), LONG + 30_000)
    untouched()
    assert f"tag {code}" in command.enhance_refused(path)


def test_a_long_description_is_not_carried(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, description="a" * 1000, metadata=None)
    monkeypatch.setattr(tiff_tags, "LONGEST_DESCRIPTION", 999)
    with open_stack(tmp_path / "a.tif") as stack:
        assert any("too long to be carried" in line for line in stack.warnings)
        assert "description" not in stack.metadata.tiff
