"""The table of kinds of files in docs/reference/formats.md: each is written here, read, and compared with its row.

`python -m pytest tests/stacks/test_kinds_of_files.py` prints the table as it should be where one differs.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from file_writers import acquisition, imaris, ndtiff, png, random_pixels, zipped

from cellxlate.cli import main
from cellxlate.enhancement.outputs.names import find_inputs, format_of, name_outputs
from cellxlate.errors import InputError
from cellxlate.errors import said as in_words
from cellxlate.stacks.naming import is_zarr
from cellxlate.stacks.read.open import open_stack
from cellxlate.stacks.stack import Stack
from cellxlate.stacks.write.copy import write_stacks

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "formats.md"
HEADS = ("kind of file", "with", "read as", "result", "what is said")
LEFT_OUT_HEADS = ("beside images in a folder or pattern", "what is said")
Made = tuple[Path, np.ndarray | None]
"""A file, and the pixels that it must be read as; None where it is refused or its reader is not the matter here."""


@dataclass(frozen=True)
class Kind:
    """A kind of file: its name in the table, what writes it, and how it is opened."""

    name: str
    write: Callable[[Path], Made]
    options: str = ""
    opening: dict[str, Any] = field(default_factory=dict)
    needs: str = ""


Y, X = 20, 30
PLANE = random_pixels(Y, X)
TCZ = random_pixels(2, 2, 3, Y, X)
RGB = random_pixels(Y, X, 3, dtype=np.uint8)


def tiff(pixels: np.ndarray, name: str = "a.tif", *, expected: np.ndarray | None = None, **options: Any) -> Any:
    def write(folder: Path) -> Made:
        tifffile.imwrite(folder / name, pixels, **({"photometric": "minisblack"} | options))
        return folder / name, pixels if expected is None else expected

    return write


def refused(write: Callable[[Path], Made]) -> Callable[[Path], Made]:
    return lambda folder: (write(folder)[0], None)


def cut_short(write: Callable[[Path], Made], bytes_left: float = 0.6) -> Callable[[Path], Made]:
    def written(folder: Path) -> Made:
        path, _ = write(folder)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * bytes_left)])
        return path, None

    return written


def two_images(folder: Path) -> Made:
    with tifffile.TiffWriter(folder / "a.ome.tif", ome=True) as file:
        for number in range(2):
            file.write(TCZ[number, 0], photometric="minisblack", metadata={"axes": "ZYX"})
    return folder / "a.ome.tif", TCZ[1, 0]


OME = (
    '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"{uuid}><Image ID="Image:0"><Pixels ID="Pixels:0" '
    'DimensionOrder="XYCZT" Type="uint16" SizeX="30" SizeY="20" SizeC="1" SizeZ="1" SizeT="3"><Channel '
    'ID="Channel:0:0" SamplesPerPixel="1"/>{planes}</Pixels></Image></OME>'
)
OME_PLANES = "".join(
    f'<TiffData FirstT="{t}" IFD="0" PlaneCount="1"><UUID FileName="t{t}.ome.tif">urn:uuid:{t}</UUID></TiffData>'
    for t in range(3)
)


def ome_set(lost: int | None = None, *, companion: bool = False) -> Callable[[Path], Made]:
    def write(folder: Path) -> Made:
        text = OME.format(uuid="", planes=OME_PLANES)
        only = (
            '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><BinaryOnly MetadataFile="a.companion.ome" '
            'UUID="urn:uuid:9"/></OME>'
        )
        for t in range(3):
            if t != lost:
                tifffile.imwrite(folder / f"t{t}.ome.tif", TCZ[0, 0, t], description=only if companion else text,
                                 metadata=None)  # fmt: skip
        if companion:
            (folder / "a.companion.ome").write_text(OME.format(uuid=' UUID="urn:uuid:9"', planes=OME_PLANES))
            return folder / "a.companion.ome", TCZ[0, 0]
        return folder / "t0.ome.tif", TCZ[0, 0] if lost is None else TCZ[0, 0][[t for t in range(3) if t != lost]]

    return write


def pyramid(folder: Path) -> Made:
    pixels = random_pixels(64, 96)
    with tifffile.TiffWriter(folder / "a.ome.tif", bigtiff=True) as file:
        tiles = {"tile": (32, 32), "photometric": "minisblack"}
        file.write(pixels, subifds=1, metadata={"axes": "YX"}, **tiles)
        file.write(pixels[::2, ::2], subfiletype=1, **tiles)
    return folder / "a.ome.tif", pixels


def fewer_described(folder: Path) -> Made:
    text = OME.format(uuid="", planes='<TiffData IFD="0" PlaneCount="3"/>')
    tifffile.imwrite(folder / "a.ome.tif", random_pixels(4, Y, X), description=text, metadata=None,
                     photometric="minisblack")  # fmt: skip
    return folder / "a.ome.tif", random_pixels(4, Y, X)[:3]


MM_PLACES = [(c, 0, t, 0) for t in range(3) for c in range(2)]


def micromanager(count: int = 6) -> Callable[[Path], Made]:
    def write(folder: Path) -> Made:
        planes = random_pixels(6, Y, X)
        path = folder / "a_MMStack_Pos0.ome.tif"
        acquisition(path, planes[:count], MM_PLACES[:count], Frames=3)
        return path, planes.reshape(3, 2, Y, X)[: count // 2]

    return write


def micromanager_positions(folder: Path) -> Made:
    planes = random_pixels(2, 2, Y, X)
    for p in range(2):
        places = [(0, 0, t, p) for t in range(2)]
        acquisition(folder / f"a_MMStack_Pos{p}.ome.tif", planes[p], places, Frames=2, Channels=1, Positions=2)
    return folder / "a_MMStack_Pos0.ome.tif", planes[1]


def ndtiff_positions(folder: Path) -> Made:
    planes = random_pixels(2, 3, Y, X)
    at = [{"position": p, "time": t} for p in range(2) for t in range(3)]
    return ndtiff(folder, list(planes.reshape(6, Y, X)), at), planes[1]


ZARR_AXES = [{"name": name, "type": kind} for name, kind in
             (("t", "time"), ("c", "channel"), ("z", "space"), ("y", "space"), ("x", "space"))]  # fmt: skip


def ome_zarr(version: str = "0.4", *, inside: str = "", **options: Any) -> Callable[[Path], Made]:
    """An OME-Zarr image as other programs write it."""

    def write(folder: Path) -> Made:
        path, format = folder / "a.ome.zarr", 3 if version == "0.5" else 2
        group = zarr.open_group(path, mode="w", zarr_format=format)  # type: ignore[arg-type]
        group.create_array("0", data=TCZ, chunks=(1, 1, 1, 16, 16), **options)
        scale = [{"type": "scale", "scale": [1.0, 1, 2, 0.5, 0.5]}]
        image: dict[str, Any] = {"datasets": [{"path": "0", "coordinateTransformations": scale}], "version": version}
        if version == "0.3":
            image["axes"] = ["t", "c", "z", "y", "x"]
        elif version > "0.3":
            image["axes"] = ZARR_AXES
        attributes: dict[str, Any] = {"multiscales": [image]}
        group.update_attributes({"ome": attributes | {"version": "0.5"}} if version == "0.5" else attributes)
        return path, TCZ

    return write


def with_labels(folder: Path) -> Made:
    path, pixels = ome_zarr()(folder)
    zarr.open_group(path / "labels", mode="w", zarr_format=2)
    return path, pixels


def other_keys(folder: Path) -> Made:
    path, pixels = ome_zarr()(folder)
    for item in sorted((path / "0").iterdir()):
        if not item.name.startswith("."):
            place = path / "0" / item.name.replace(".", "/")
            place.parent.mkdir(parents=True, exist_ok=True)
            item.rename(place.with_name(place.name + "_")) if place.exists() else item.rename(place)
    return path, pixels


def without_chunks(keep: int) -> Callable[[Path], Made]:
    def write(folder: Path) -> Made:
        path, _ = ome_zarr()(folder)
        chunks = [item for item in sorted((path / "0").iterdir()) if not item.name.startswith(".")]
        for item in chunks[keep:]:
            item.unlink()
        found = np.zeros_like(TCZ)
        found[0, 0, 0, :16, :16] = TCZ[0, 0, 0, :16, :16]
        return path, found if keep else None

    return write


def plate(folder: Path) -> Made:
    group = zarr.open_group(folder / "a.ome.zarr", mode="w", zarr_format=2)
    group.update_attributes({"plate": {"wells": [{"path": "A/1"}], "rows": [], "columns": []}})
    group.create_group("A/1").update_attributes({"well": {"images": [{"path": "0"}, {"path": "1"}]}})
    return _images(folder / "a.ome.zarr", ["A/1/0", "A/1/1"])


def converted(folder: Path) -> Made:
    zarr.open_group(folder / "a.ome.zarr", mode="w", zarr_format=2).update_attributes({"bioformats2raw.layout": 3})
    return _images(folder / "a.ome.zarr", ["0", "1"])


def _images(path: Path, places: list[str]) -> Made:
    for number, place in enumerate(places):
        group = zarr.open_group(path / place, mode="w", zarr_format=2)
        group.create_array("0", data=TCZ[number, 0, 0], chunks=(16, 16))
        image = {"datasets": [{"path": "0"}], "axes": ZARR_AXES[3:]}
        group.update_attributes({"multiscales": [image | {"version": "0.4"}]})
    return path, TCZ[1, 0, 0]


def plain_array(**options: Any) -> Callable[[Path], Made]:
    def write(folder: Path) -> Made:
        zarr.create_array(folder / "a.zarr", data=TCZ[0, 0], chunks=(1, 16, 16), **options)
        return folder / "a.zarr", TCZ[0, 0]

    return write


def zipped_image(name: str) -> Callable[[Path], Made]:
    def write(folder: Path) -> Made:
        (folder / "inner").mkdir()
        path, pixels = ome_zarr("0.5")(folder / "inner")
        zipped(path, folder / name)
        return folder / name, pixels

    return write


def pattern(lost: tuple[int, str] | None = None) -> Callable[[Path], Made]:
    def write(folder: Path) -> Made:
        for t in range(3):
            for c, name in enumerate(("DAPI", "GFP")):
                if (t, name) != lost:
                    tifffile.imwrite(folder / f"a_t{t}_{name}.tif", TCZ[0, c, t])
        found = np.moveaxis(TCZ[0], 0, 1)
        return folder / "a_t{T}_{C}.tif", found[:2] if lost else found

    return write


def encoded(name: str, content: Callable[[], bytes], expected: Any = None) -> Callable[[Path], Made]:
    def write(folder: Path) -> Made:
        (folder / name).write_bytes(content())
        return folder / name, None if expected is None else np.asarray(expected)

    return write


def imaris_file(folder: Path) -> Made:
    import h5py

    imaris(h5py, folder / "a.ims", TCZ)
    return folder / "a.ims", TCZ


def whole_numbers(dtype: Any) -> np.ndarray:
    return random_pixels(Y, X, dtype=np.uint8).astype(dtype)


GREY8, GREY16 = random_pixels(Y, X, dtype=np.uint8), PLANE
OPAQUE = random_pixels(Y, X, 2, dtype=np.uint8)
JPEG = imagecodecs.jpeg8_encode(GREY8, level=90)
JPEG_RGB = imagecodecs.jpeg8_encode(RGB, level=90)

KINDS = [
    Kind("OME-TIFF", tiff(TCZ, "a.ome.tif", metadata={"axes": "TCZYX"})),
    Kind("OME-TIFF, another order of axes", tiff(TCZ, "a.ome.tif", metadata={"axes": "ZTCYX"})),
    Kind("OME-TIFF of several images", two_images, "`--image 1`", {"image": 1}),
    Kind("OME-TIFF, BigTIFF in tiles with a pyramid", pyramid),
    Kind("OME-TIFF whose description counts fewer planes than there are", fewer_described),
    Kind("OME-TIFF cut short", cut_short(tiff(TCZ, "a.ome.tif", metadata={"axes": "TCZYX"}))),
    Kind("OME-TIFF set, a file for each time", ome_set()),
    Kind("OME-TIFF set with a `.companion.ome`", ome_set(companion=True)),
    Kind("OME-TIFF set of which a file is missing", refused(ome_set(2))),
    Kind("OME-TIFF set of which a file is missing", ome_set(2), "`--incomplete`", {"incomplete": True}),
    Kind("Micro-Manager stack", micromanager()),
    Kind("Micro-Manager, several positions", micromanager_positions, "`--image 1`", {"image": 1}),
    Kind("Micro-Manager, stopped in a time point", refused(micromanager(5))),
    Kind("Micro-Manager, stopped in a time point", micromanager(5), "`--incomplete`", {"incomplete": True}),
    Kind("Micro-Manager, stopped between time points", micromanager(4)),
    Kind("NDTiff, several positions", ndtiff_positions, "`--image 1`", {"image": 1}),
    Kind("ImageJ hyperstack", tiff(np.moveaxis(TCZ, 2, 1), imagej=True, metadata={"axes": "TZCYX"})),
    Kind("ImageJ, of 8 bits and RGB", tiff(RGB, imagej=True, photometric="rgb")),
    *(Kind(f"TIFF, {name}", tiff(PLANE, compression=name)) for name in ("lzw", "deflate", "zstd", "packbits")),
    Kind("TIFF, lossless JPEG 2000", tiff(PLANE, compression="jpeg2000")),
    Kind("TIFF, big-endian", tiff(PLANE, byteorder=">")),
    Kind("TIFF, RGB interleaved", tiff(RGB, photometric="rgb")),
    Kind("TIFF, RGB planar", tiff(np.moveaxis(RGB, 2, 0), photometric="rgb", planarconfig="separate")),
    Kind("TIFF, RGB with opacity", tiff(random_pixels(Y, X, 4), photometric="rgb", extrasamples=["unassalpha"])),
    Kind("TIFF, palette", tiff(GREY8, photometric="palette", colormap=random_pixels(3, 256))),
    Kind("TIFF, min-is-white", tiff(PLANE, photometric="miniswhite")),
    Kind("TIFF, several pages", refused(tiff(TCZ[0, 0], metadata=None))),
    Kind("TIFF, several pages", tiff(TCZ[0, 0], metadata=None), "`--axes ZYX`", {"axes": "ZYX"}),
    Kind("TIFF, axes with angles", refused(tiff(TCZ[0], metadata={"axes": "AZYX"}))),
    Kind("TIFF, rows not last", tiff(TCZ[0, 0], metadata=None), "`--axes YXC`", {"axes": "YXC"}),
    *(Kind(f"TIFF, {dtype}", tiff(whole_numbers(dtype))) for dtype in ("int8", "int16", "int32", "uint8", "uint32")),
    *(Kind(f"TIFF, {dtype}", tiff(whole_numbers(dtype))) for dtype in ("float16", "float32", "float64")),
    Kind("TIFF, 1 bit", tiff(GREY8 > 99)),
    *(Kind(f"TIFF, {dtype}", refused(tiff(whole_numbers(dtype)))) for dtype in ("uint64", "complex64")),
    Kind("TIFF cut short", cut_short(tiff(PLANE))),
    *(Kind(f"OME-Zarr {version}", ome_zarr(version)) for version in ("0.1", "0.3", "0.4", "0.5")),
    Kind("OME-Zarr, sharded", ome_zarr("0.5", shards=(1, 1, 3, 32, 32))),
    Kind("OME-Zarr with labels", with_labels),
    Kind("OME-Zarr, nested chunks that its metadata do not state", other_keys),
    Kind("OME-Zarr of which chunks are missing", without_chunks(1)),
    Kind("OME-Zarr without any chunk", without_chunks(0)),
    Kind("OME-Zarr plate", plate, "`--image 1`", {"image": 1}),
    Kind("bioformats2raw folder", converted, "`--image 1`", {"image": 1}),
    Kind("OME-Zarr in a zip file, `.zarr.zip`", zipped_image("a.ome.zarr.zip")),
    Kind("OME-Zarr in a zip file, `.ozx`", zipped_image("a.ozx")),
    Kind("Zarr array", refused(plain_array())),
    Kind("Zarr array", plain_array(), "`--axes ZYX`", {"axes": "ZYX"}),
    Kind("Zarr array with named dimensions", plain_array(dimension_names=["z", "y", "x"])),
    Kind("planes in files, `a_t{T}_{C}.tif`", pattern()),
    Kind("planes in files, one missing", refused(pattern((2, "GFP")))),
    Kind("planes in files, one missing", pattern((2, "GFP")), "`--incomplete`", {"incomplete": True}),
    Kind("PNG, grey of 8 bits", encoded("a.png", lambda: imagecodecs.png_encode(GREY8), GREY8)),
    Kind("PNG, grey of 16 bits", encoded("a.png", lambda: imagecodecs.png_encode(GREY16), GREY16)),
    Kind("PNG, grey of 4 bits", encoded("a.png", lambda: png(2, 1, 4, 0, b"\0\x1f"), np.array([[1, 15]], np.uint8))),
    Kind("PNG, 1 bit", encoded("a.png", lambda: png(8, 1, 1, 0, b"\0\x55"), [[False, True] * 4])),
    Kind("PNG, RGB", encoded("a.png", lambda: imagecodecs.png_encode(RGB), RGB)),
    Kind("PNG, grey with opacity", encoded("a.png", lambda: imagecodecs.png_encode(OPAQUE), OPAQUE)),
    Kind("PNG cut short", cut_short(encoded("a.png", lambda: imagecodecs.png_encode(GREY16)))),
    Kind("JPEG, grey", encoded("a.jpg", lambda: JPEG, imagecodecs.jpeg8_decode(JPEG))),
    Kind("JPEG, RGB", encoded("a.jpg", lambda: JPEG_RGB, imagecodecs.jpeg8_decode(JPEG_RGB))),
    Kind("JPEG cut short", cut_short(encoded("a.jpg", lambda: JPEG))),
    Kind("Imaris, `.ims`", imaris_file, "`cellxlate[vendor]`", needs="h5py"),
    Kind("another program's file", encoded("a.tif", lambda: b"not an image at all")),
]


def outcome(kind: Kind, folder: Path) -> tuple[str, ...]:
    """Write a kind, read it, and return its row; what is read must be the pixels that were written."""
    path, pixels = kind.write(folder)
    if pixels is None:
        with pytest.raises(InputError) as caught:
            open_stack(path, **kind.opening)
        said = in_words(caught.value, by="command").replace(f"{path}: ", "").replace(f"{folder}/", "")
        said = re.sub(r" \([^;]*TIFF?[^;]*\)", "", said, flags=re.I)  # words of tifffile, which change
        return kind.name, kind.options, "refused", "", said
    with open_stack(path, **kind.opening) as stack:
        assert stack.dtype == pixels.dtype
        np.testing.assert_array_equal(np.asarray(stack), pixels, err_msg=kind.name)
        place = name_outputs(path, is_zarr=is_zarr(path), format=format_of(stack, is_zarr=is_zarr(path)))
        ending = place.enhanced.name.partition("_enhanced")[2]
        said = "; ".join(_first_words(line) for line in stack.warnings)
        result = "refused by `enhance`" if stack.dtype == bool else f"`{ending}`"
        return kind.name, kind.options, f"{stack.axes} {stack.dtype}", result, said


def _first_words(line: str) -> str:
    """Return what a warning says, without what it advises."""
    return line.split(";")[0]


def lines(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    """Return a table in Markdown."""
    body = [f"| {' | '.join(cell.replace('|', '') for cell in row)} |".replace("|  |", "| |") for row in rows]
    return [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}", *[line.replace("|  |", "| |") for line in body]]


def on_page(first: str) -> list[str]:
    """Return the lines of the table of the page whose first head is given."""
    found = re.search(rf"^\| {re.escape(first)} \|.*?(?=\n\n)", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    return found[0].splitlines() if found else []


def compare(made: list[str], first: str, absent: set[str]) -> None:
    """Compare a table that was made with that of the page, but for rows whose kinds are absent here."""
    stated = [line for line in on_page(first) if line.split(" | ")[0].removeprefix("| ") not in absent]
    assert stated == made, f"{PAGE.name} differs; as it should be:\n\n" + "\n".join(made) + "\n"


@pytest.fixture(autouse=True)
def _ndtiff_by_its_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """The header of NDTiff is not written here; its index decides."""
    stated = tifffile.TiffFile.is_ndtiff

    def is_ndtiff(file: tifffile.TiffFile) -> bool:
        return "NDTiff" in file.filename or bool(stated.__get__(file))

    monkeypatch.setattr(tifffile.TiffFile, "is_ndtiff", property(is_ndtiff))


def test_the_table_of_kinds_is_what_happens(tmp_path: Path) -> None:
    rows, absent = [], set()
    for number, kind in enumerate(KINDS):
        if kind.needs and find_spec(kind.needs) is None:
            absent.add(kind.name)
            continue
        folder = tmp_path / str(number)
        folder.mkdir()
        rows.append(outcome(kind, folder))
    compare(lines(HEADS, rows), HEADS[0], absent)


def test_the_table_of_what_is_no_input_is_what_happens(tmp_path: Path) -> None:
    def put(folder: Path, name: str) -> None:
        tifffile.imwrite(folder / name, PLANE)

    def finished(folder: Path) -> None:
        assert main(["enhance", str(folder / "a.tif"), "-m", "nuclei-lowexp", "--quiet"]) == 0

    def picture(folder: Path) -> None:
        (folder / "a.png").write_bytes(imagecodecs.png_encode(GREY8))

    rows = []
    for number, (name, add) in enumerate(
        (
            ("a hidden file, `._a.tif`", lambda folder: put(folder, "._a.tif")),
            ("results of an earlier run, `a_enhanced.ome.tif`", finished),
            ("an image of that name that is no result", lambda folder: put(folder, "b_enhanced.tif")),
            ("a label image, `a_masks.tif`", lambda folder: put(folder, "a_masks.tif")),
            ("a picture, `a.png`", picture),
        )
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        put(folder, "a.tif")
        add(folder)
        found, rest = find_inputs([folder])
        others = [path.name for path in found if path.name != "a.tif"]
        assert found[0].name == "a.tif"
        rows.append((name, "; ".join(rest) or f"nothing: {', '.join(others)} is enhanced"))
    compare(lines(LEFT_OUT_HEADS, rows), LEFT_OUT_HEADS[0], set())


def test_vendor_files_need_the_extra_or_their_reader_judges_them(tmp_path: Path) -> None:
    for ending, package in (("czi", "pylibCZIrw"), ("nd2", "nd2"), ("lif", "liffile"), ("ims", "h5py")):
        (tmp_path / f"a.{ending}").write_bytes(b"not really")
        with pytest.raises(InputError, match="is damaged" if find_spec(package) else r"cellxlate\[vendor\]"):
            open_stack(tmp_path / f"a.{ending}")
        assert f"`.{ending}`" in PAGE.read_text(encoding="utf-8")


def test_ours_are_read(tmp_path: Path) -> None:
    for name in ("a.ome.tif", "a.ome.zarr"):
        write_stacks([(Stack(TCZ, "TCZYX"), tmp_path / name)])
        with open_stack(tmp_path / name) as stack:
            np.testing.assert_array_equal(np.asarray(stack), TCZ)
            assert stack.warnings == ()
