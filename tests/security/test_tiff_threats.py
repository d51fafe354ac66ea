"""TIFF files from strangers: each is refused in one line, or read without harm; memory stays bounded."""

import os
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import tifffile

Tag = tuple[int, int, int | bytes]
"""Kind of value, count, value or where it lies."""

SHORT, LONG, ASCII, LONG8 = 3, 4, 2, 16
DEFLATE, LZW, JPEG, ZSTD = 8, 5, 7, 50000


def tiff(tags: Mapping[int, Tag], data: bytes = b"", *, following: int = 0, first: int = 8) -> bytes:
    """Return a little-endian TIFF of one directory at 8; `data` follows it and begins at 8 + 6 + 12 n."""
    entries = b""
    for code in sorted(tags):
        kind, count, value = tags[code]
        field = value if isinstance(value, bytes) else struct.pack("<I", value)
        entries += struct.pack("<HHI", code, kind, count) + field.ljust(4, b"\0")[:4]
    head = struct.pack("<2sHIH", b"II", 42, first, len(tags))
    return head + entries + struct.pack("<I", following) + data


def grey(width: int = 64, height: int = 64, **changes: Tag) -> dict[int, Tag]:
    """Return the tags of a 16 bit grey image in one strip; named tags replace them."""
    names = {"bits": 258, "compression": 259, "samples": 277, "offsets": 273, "counts": 279, "format": 339,
             "rows": 278, "description": 270, "photometric": 262, "width": 256, "height": 257, "subifd": 330,
             "tile_width": 322, "tile_height": 323, "planar": 284, "predictor": 317, "jpegtables": 347}  # fmt: skip
    tags: dict[int, Tag] = {
        256: (LONG, 1, width), 257: (LONG, 1, height), 258: (SHORT, 1, 16), 259: (SHORT, 1, 1), 262: (SHORT, 1, 1),
        273: (LONG, 1, 8), 277: (SHORT, 1, 1), 278: (LONG, 1, height), 279: (LONG, 1, 8192),
    }  # fmt: skip
    return tags | {names[name]: value for name, value in changes.items()}


def packed(tags: dict[int, Tag], data: bytes) -> bytes:
    """Return a TIFF whose single strip is `data`."""
    start = 8 + 2 + 12 * len(tags) + 4
    return tiff(tags | {273: (LONG, 1, start), 279: (LONG, 1, len(data))}, data)


def with_description(text: bytes, shape: tuple[int, ...] = (64, 64)) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        pixels = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
        tifffile.imwrite(path, pixels, photometric="minisblack", description=text, metadata=None)

    return write


ONE_PLANE = '<TiffData IFD="0" PlaneCount="1"/>'


def ome(pixels: str = "", inside: str = ONE_PLANE, *, root: str = "", head: str = "") -> bytes:
    """Return OME-XML of a 64 x 64 image; `pixels` adds attributes, `root` elements."""
    stated = {"SizeX": "64", "SizeY": "64", "SizeZ": "1", "SizeC": "1", "SizeT": "1"}
    stated |= {part.partition("=")[0]: part.partition("=")[2].strip('"') for part in pixels.split()}
    attributes = " ".join(f'{key}="{value}"' for key, value in stated.items())
    return (
        f'{head}<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
        f'<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" {attributes}>{inside}</Pixels></Image>{root}</OME>'
    ).encode()


def modulo(start: str, end: str, step: str) -> bytes:
    along = f'<ModuloAlongZ Type="lifetime" Start="{start}" Step="{step}" End="{end}"/>'
    note = (
        f'<XMLAnnotation ID="A:0" Namespace="openmicroscopy.org/omero/dimension/modulo"><Value><Modulo>{along}</Modulo>'
    )
    notes = f"<StructuredAnnotations>{note}</Value></XMLAnnotation></StructuredAnnotations>"
    return ome(root=notes)


def bomb(size: int) -> bytes:
    """Return zlib data of `size` zeros, in about a thousandth of it."""
    stream = zlib.compressobj(9)
    head, part = stream.compress(b"") + stream.flush(zlib.Z_FULL_FLUSH), 30_000_000
    repeated = stream.compress(bytes(part)) + stream.flush(zlib.Z_FULL_FLUSH)  # stands alone after a full flush
    return head + repeated * (size // part) + stream.flush(zlib.Z_FINISH)


def bytes_of(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None  # type: ignore[func-returns-value]


LOOPING = tiff(grey(), bytes(8192), following=8)
BILLION = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
BOMB = f'<?xml version="1.0"?><!DOCTYPE OME [<!ENTITY l0 "lol">{BILLION}]>'

REFUSED: dict[str, Callable[[Path], object]] = {
    "empty": bytes_of(b""),
    "text": bytes_of(b"this is no image\n" * 100),
    "zeros": bytes_of(bytes(10_000)),
    "png": bytes_of(b"\x89PNG\r\n\x1a\n" + bytes(200)),
    "html": bytes_of(b"<!doctype html><script>alert(1)</script>"),
    "header alone": bytes_of(b"II*\0\x08\0\0\0"),
    "half a header": bytes_of(b"II*\0\x08"),
    "directory beyond the end": bytes_of(tiff(grey(), bytes(100), first=2**31)),
    "directory of 65535 tags": bytes_of(b"II*\0\x08\0\0\0\xff\xff" + bytes(100)),
    "two widths": bytes_of(tiff(grey() | {256: (LONG, 2, 64)}, bytes(8192))),
    "two heights": bytes_of(tiff(grey() | {257: (LONG, 2, 64)}, bytes(8192))),
    "directory without tags": bytes_of(b"II*\0\x08\0\0\0\0\0\0\0\0\0"),
    "directories in a circle": bytes_of(LOOPING),
    "two directories in a circle": bytes_of(
        b"II*\0\x08\0\0\0" + b"\0\0" + struct.pack("<I", 20) + bytes(6) + b"\0\0" + struct.pack("<I", 8) + bytes(99)
    ),
    "a circle behind 300 directories": bytes_of(
        b"II*\0\x08\0\0\0"
        + b"".join(b"\0\0" + struct.pack("<I", 14 + 6 * n if n < 300 else 14) for n in range(301))
    ),
    "no size": bytes_of(tiff({258: (SHORT, 1, 16)}, bytes(8192))),
    "width 0": bytes_of(packed(grey(width=0), bytes(8192))),
    "absurd size, plain": bytes_of(packed(grey(2**32 - 1, 2**32 - 1), bytes(8192))),
    "absurd size, packed": bytes_of(packed(grey(2**31, 2**31, compression=(SHORT, 1, DEFLATE)), zlib.compress(b"a"))),
    "size above the file": bytes_of(packed(grey(30_000, 30_000), bytes(8192))),
    "strip of 8 GB, packed": bytes_of(packed(grey(2**16, 2**16, compression=(SHORT, 1, DEFLATE)), zlib.compress(b""))),
    "strip beyond the end": bytes_of(tiff(grey(offsets=(LONG, 1, 2**31)), bytes(8192))),
    "strip beyond the end, packed": bytes_of(
        tiff(grey(offsets=(LONG, 1, 2**31), compression=(SHORT, 1, DEFLATE)), bytes(8192))
    ),
    "strip of 4 GB": bytes_of(tiff(grey(counts=(LONG, 1, 2**32 - 1), compression=(SHORT, 1, LZW)), bytes(8192))),
    "strips 4 billion": bytes_of(tiff(grey(offsets=(LONG, 2**32 - 1, 8), counts=(LONG, 2**32 - 1, 8)), bytes(8192))),
    "0 bits": bytes_of(packed(grey(bits=(SHORT, 1, 0)), bytes(8192))),
    "complex": bytes_of(packed(grey(bits=(SHORT, 1, 64), format=(SHORT, 1, 6)), bytes(64 * 64 * 8))),
    "unknown sample format": bytes_of(packed(grey(format=(SHORT, 1, 77)), bytes(8192))),
    "unknown compression": bytes_of(packed(grey(compression=(SHORT, 1, 59_999)), bytes(8192))),
    "lzw garbage": bytes_of(packed(grey(compression=(SHORT, 1, LZW)), b"\xff" * 300)),
    "jpeg garbage": bytes_of(packed(grey(compression=(SHORT, 1, JPEG)), b"\xff\xd8" + b"\xff" * 300)),
    "zstd garbage": bytes_of(packed(grey(compression=(SHORT, 1, ZSTD)), b"\x28\xb5\x2f\xfd" + b"\xff" * 300)),
    "zstd of stated 2^60 bytes": bytes_of(
        packed(grey(compression=(SHORT, 1, ZSTD)), b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 2**60) + bytes(20))
    ),
    "deflate garbage": bytes_of(packed(grey(compression=(SHORT, 1, DEFLATE)), b"\x78\x9c" + b"\xaa" * 300)),
    "deflate too short": bytes_of(packed(grey(compression=(SHORT, 1, DEFLATE)), zlib.compress(b"abc"))),
    "tiles of no size": bytes_of(packed(grey(tile_width=(LONG, 1, 0), tile_height=(LONG, 1, 0)), bytes(8192))),
    "tiles of 2^31": bytes_of(packed(grey(tile_width=(LONG, 1, 2**31), tile_height=(LONG, 1, 2**31)), bytes(8192))),
    "65535 samples": bytes_of(packed(grey(samples=(SHORT, 1, 65_535)), bytes(8192))),
    "big tiff of 2^63": bytes_of(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 2**63) + bytes(100)),
    "big tiff of 2^60 tags": bytes_of(struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 16, 2**60) + bytes(100)),
    "folder": lambda path: path.mkdir(),
    "pipe": lambda path: os.mkfifo(path),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "link to nothing": lambda path: path.symlink_to("nowhere.tif"),
    "ome: planes 10^18": with_description(ome("SizeT=1000000000 SizeC=1000000000")),
    "ome: plane count 10^9": with_description(ome(inside='<TiffData IFD="0" PlaneCount="1000000000"/>')),
    "ome: number of planes 10^9": with_description(ome(inside='<TiffData IFD="0" NumPlanes="1000000000"/>')),
    "ome: modulo of 10^10 steps": with_description(modulo("0", "1e10", "1")),
    "ome: modulo of 10^9 small steps": with_description(modulo("0", "1", "1e-9")),
    "ome: planes missing": with_description(ome("SizeZ=50", '<TiffData IFD="0" PlaneCount="50"/>')),
    "ome: a file elsewhere": with_description(
        ome("SizeZ=2", '<TiffData FirstZ="0" IFD="0" PlaneCount="1"/><TiffData FirstZ="1" IFD="0" PlaneCount="1"><UUID '
            'FileName="../../../../../../../../etc/hostname">urn:uuid:1</UUID></TiffData>')
    ),
    "ome: a device as a file": with_description(
        ome("SizeZ=2", '<TiffData FirstZ="0" IFD="0" PlaneCount="1"/><TiffData FirstZ="1" IFD="0" PlaneCount="1"><UUID '
            'FileName="/dev/zero">urn:uuid:1</UUID></TiffData>')
    ),
    "ome: nested 100000 deep": with_description(ome(root="<a>" * 100_000 + "</a>" * 100_000)),
    "imagej: nonsense": with_description(b"ImageJ=\nimages=abc\nmin=nan\nmax=inf\nunit=\\u00B5\nfinterval=-1\n"),
    "deflate bomb": bytes_of(packed(grey(compression=(SHORT, 1, DEFLATE)), bomb(6_000_000_000))),
    "imagej: images 10^9": with_description(b"ImageJ=1.53\nimages=1000000000\nslices=1000000000\nhyperstack=true\n"),
}  # fmt: skip

READ: dict[str, Callable[[Path], object]] = {
    "ome: entity bomb": with_description(ome(head=BOMB, root="<XMLAnnotation>&l11;</XMLAnnotation>")),
    "ome: external entity": with_description(
        ome(head='<!DOCTYPE OME [<!ENTITY x SYSTEM "file:///etc/hostname">]>', root="<Description>&x;</Description>")
    ),
    "ome: external document type": with_description(ome(head='<!DOCTYPE OME SYSTEM "http://localhost:9/evil.dtd">')),
    "ome: parameter entity": with_description(
        ome(head='<!DOCTYPE OME [<!ENTITY % p SYSTEM "file:///etc/hostname"> %p;]>')
    ),
    "ome: cut short": with_description(ome()[:-40]),
    "ome: sizes that are no numbers": with_description(ome("PhysicalSizeX=NaN PhysicalSizeY=-1 TimeIncrement=1e999")),
    "ome: names of markup": with_description(
        ome(inside='<Channel ID="C:0" Name="&lt;script&gt;alert(1)&lt;/script&gt;"/><TiffData IFD="0" PlaneCount="1"/>')
    ),
    "description of 5 MB": with_description(b"a" * 5_000_000),
    "7 bits": bytes_of(packed(grey(bits=(SHORT, 1, 7)), bytes(8192))),
    "1 x 1 px": lambda path: tifffile.imwrite(path, np.full((1, 1), 7, np.uint16)),
    "1 row of 3000 px": lambda path: tifffile.imwrite(path, np.arange(3000, dtype=np.uint16)[None]),
    "nothing but NaN": lambda path: tifffile.imwrite(path, np.full((64, 64), np.nan, np.float32)),
    "infinities": lambda path: tifffile.imwrite(path, np.where(np.eye(64) > 0, np.inf, -np.inf).astype(np.float32)),
    "numbers near the largest": lambda path: tifffile.imwrite(path, np.linspace(-3e38, 3e38, 4096, dtype=np.float32)
                                                              .reshape(64, 64)),
    "constant": lambda path: tifffile.imwrite(path, np.full((64, 64), 65_535, np.uint16)),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_a_hostile_tiff_is_refused_in_one_line(kind, tmp_path, command, untouched, bounded):
    path = tmp_path / "a.tif"
    REFUSED[kind](path)
    untouched()
    line = command.enhance_refused(path)
    assert str(path) in line
    if "10^" in kind and kind.startswith("ome"):  # refused before it is tried, not when memory runs out
        assert "million planes" in line or "states" in line


@pytest.mark.parametrize("kind", READ)
def test_an_odd_tiff_is_read_and_its_kept_pixels_stay(kind, tmp_path, command, bounded):
    path = tmp_path / "a.tif"
    READ[kind](path)
    before = path.read_bytes()
    code, _, err = command.enhance(path)
    assert (code, err) == (0, "")
    assert path.read_bytes() == before
    with tifffile.TiffFile(path, _multifile=False) as file:
        raw = file.pages[0].asarray()
    enhanced, attention = (tifffile.imread(tmp_path / f"a_{name}.ome.tif") for name in ("enhanced", "attention"))
    kept = attention == 0
    assert np.array_equal(enhanced[kept], raw[kept], equal_nan=raw.dtype.kind == "f")
    assert kept.any()
