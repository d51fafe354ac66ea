"""PNG, JPEG, Imaris and zipped Zarr: the values are those of the file, and what is lost is said."""

import json
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from file_writers import chunk, imaris, png, random_pixels, text, zipped

from cellxlate.cli import main
from cellxlate.enhancement.job import enhance_file
from cellxlate.enhancement.outputs.names import find_inputs
from cellxlate.errors import InputError
from cellxlate.stacks.naming import stack_name
from cellxlate.stacks.read.open import open_stack
from cellxlate.stacks.read.resolutions import open_resolutions
from cellxlate.stacks.stack import Stack
from cellxlate.stacks.write.copy import write_stacks

# --- PNG


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(("samples", "axes"), [(1, "YX"), (2, "YXS"), (3, "YXS"), (4, "YXS")])
def test_a_png_has_the_values_of_the_file(tmp_path: Path, dtype: type, samples: int, axes: str) -> None:
    pixels = random_pixels(20, 30, samples, dtype=dtype)
    pixels = pixels[..., 0] if samples == 1 else pixels
    path = tmp_path / "a.PNG"
    path.write_bytes(imagecodecs.png_encode(pixels))
    with open_stack(path) as stack:
        assert (stack.axes, stack.shape, stack.dtype, stack.kind) == (axes, pixels.shape, pixels.dtype, "png")
        np.testing.assert_array_equal(np.asarray(stack), pixels)
        np.testing.assert_array_equal(
            stack.read((0,) * (samples > 1), slice(3, 9)), pixels.reshape(20, 30, -1)[3:9, :, 0]
        )
        assert (stack.alpha_samples, stack.warnings) == ({2: (1,), 4: (3,)}.get(samples, ()), ())


def test_few_bits_are_stored_values_and_a_palette_is_colours(tmp_path: Path) -> None:
    path, colours = tmp_path / "a.png", chunk(b"PLTE", bytes([10, 20, 30, 40, 50, 60]))
    for content, expected in (
        (png(8, 1, 1, 0, b"\0\x55"), [[False, True] * 4]),
        (png(4, 1, 2, 0, b"\0\x1b"), [[0, 1, 2, 3]]),
        (png(2, 1, 4, 0, b"\0\x1f"), [[1, 15]]),
        (png(2, 1, 4, 0, b"\0\x1f", chunk(b"tRNS", b"\0\x0f")), [[[1, 255], [15, 0]]]),
        (png(2, 1, 1, 3, b"\0\x40", colours), [[[10, 20, 30], [40, 50, 60]]]),
    ):
        path.write_bytes(content)
        with open_stack(path) as stack:
            np.testing.assert_array_equal(np.asarray(stack), np.array(expected))
            assert stack.dtype == (bool if expected[0][0] is False else np.uint8)
            assert any("palette" in line for line in stack.warnings) == (colours in content)
            assert any("tRNS" in line for line in stack.warnings) == (b"tRNS" in content)


PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def scan_lines(values: np.ndarray, bits: int) -> bytes:
    """Rows of a PNG without filter."""
    if bits == 16:
        return b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    each = ((values.reshape(len(values), -1, 1) >> np.arange(bits)[::-1]) & 1).reshape(len(values), -1)
    return b"".join(b"\0" + np.packbits(row.astype(np.uint8)).tobytes() for row in each)


@pytest.mark.parametrize("shape", [(13, 21), (1, 1), (3, 2), (8, 5)])
@pytest.mark.parametrize(
    ("bits", "kind", "samples"),
    [(1, 0, 1), (2, 0, 1), (4, 0, 1), (8, 0, 1), (16, 0, 1), (8, 2, 3), (16, 4, 2), (16, 6, 4), (4, 3, 1)],
)
def test_an_interlaced_png_is_read_without_a_word(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], shape: tuple[int, int], bits: int, kind: int, samples: int
) -> None:
    values = np.random.default_rng(bits).integers(0, 2**bits, (*shape, samples))
    further = [chunk(b"PLTE", bytes(range(48)))] if kind == 3 else []
    raw = b"".join(scan_lines(part, bits) for y, x, dy, dx in PASSES if (part := values[y::dy, x::dx]).size)
    plain, interlaced = tmp_path / "a.png", tmp_path / "b.png"
    plain.write_bytes(png(shape[1], shape[0], bits, kind, scan_lines(values, bits), *further))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", shape[1], shape[0], bits, kind, 0, 0, 1))
    content = png(shape[1], shape[0], bits, kind, raw, *further)
    interlaced.write_bytes(content[:8] + header + content[8 + len(header) :])
    with open_stack(plain) as expected, open_stack(interlaced) as stack:
        np.testing.assert_array_equal(np.asarray(stack), np.asarray(expected))
    assert capfd.readouterr().err == ""


def test_what_a_png_holds_beside_pixels_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(2, 1, 8, 0, b"\0\1\2", chunk(b"pHYs", struct.pack(">IIB", 9, 9, 1)), chunk(b"tEXt", b"a\0b")))
    with open_stack(path) as stack:
        assert stack.pixel_size_um == {}
        assert any("not pHYs, tEXt" in line for line in stack.warnings)
    path.write_bytes(png(2, 1, 8, 0, b"\0\1\2", chunk(b"acTL", struct.pack(">II", 3, 0))))
    with open_stack(path) as stack:
        assert any("animated" in line for line in stack.warnings)


def test_a_damaged_or_huge_png_is_refused(tmp_path: Path) -> None:
    path, whole = tmp_path / "a.png", imagecodecs.png_encode(random_pixels(20, 30))
    for content, said in (
        (whole[:-13], "cut short"), (whole[:200], "cut short"), (whole[:20], "cut"),
        (b"GIF89a", "neither PNG nor JPEG"),
        (png(100_000, 100_000, 16, 6, b""), "above 1 GiB"), (png(0, 3, 8, 0, b""), "states the size"),
        (png(3, 3, 8, 5, b""), "which is no PNG"),
    ):  # fmt: skip
        path.write_bytes(content)
        with pytest.raises(InputError, match=said):
            open_stack(path)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4
    path.write_bytes(flipped)
    with open_stack(path) as stack, pytest.raises(InputError, match="is damaged"):
        stack.read(())
    with pytest.raises(InputError, match="no image 1"):
        open_stack(path, image=1)


def test_a_grey_png_is_enhanced(tmp_path: Path) -> None:
    path, pixels = tmp_path / "cells.png", random_pixels(64, 72)
    path.write_bytes(imagecodecs.png_encode(pixels))
    report = enhance_file(path, "nuclei-lowexp", report=False)
    assert report.outputs["enhanced"] == str(tmp_path / "cells_enhanced.ome.tif")
    kept = tifffile.imread(tmp_path / "cells_attention.ome.tif") == 0
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "cells_enhanced.ome.tif")[kept], pixels[kept])


# --- JPEG


def test_a_jpeg_is_read_with_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    for pixels in (random_pixels(20, 30, dtype=np.uint8), random_pixels(20, 30, 3, dtype=np.uint8)):
        path.write_bytes(imagecodecs.jpeg8_encode(pixels, level=90))
        with open_stack(path) as stack:
            np.testing.assert_array_equal(np.asarray(stack), imagecodecs.jpeg8_decode(path.read_bytes()))
            assert (stack.kind, stack.shape) == ("jpeg", pixels.shape)
            assert any("lossy" in line for line in stack.warnings)
            assert not any("turned" in line for line in stack.warnings)


def test_a_jpeg_that_is_cut_short_or_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jpeg"
    whole = imagecodecs.jpeg8_encode(random_pixels(40, 50, dtype=np.uint8), level=90)
    frame = whole.index(b"\xff\xc0")
    huge = whole[: frame + 5] + struct.pack(">HH", 65_000, 65_000) + whole[frame + 9 :]
    other = whole[: frame + 1] + b"\xc9" + whole[frame + 2 :]
    four = imagecodecs.jpeg8_encode(random_pixels(8, 8, 4, dtype=np.uint8), colorspace="CMYK", outcolorspace="CMYK")
    for content, said in (
        (whole[:-2], "cut short"), (whole[: len(whole) // 2], "cut short"), (whole[:3], "cut short"),
        (huge, "above 1 GiB"), (other, "lossless"), (four, "4 samples"),
    ):  # fmt: skip
        path.write_bytes(content)
        with pytest.raises(InputError, match=said):
            open_stack(path)


def test_further_pictures_of_a_jpeg_are_named(tmp_path: Path) -> None:
    whole = imagecodecs.jpeg8_encode(random_pixels(20, 30, dtype=np.uint8), level=90)
    (tmp_path / "a.jpg").write_bytes(whole[:2] + b"\xff\xe2\0\x0aMPF\0II*\0" + whole[2:] + whole)
    with open_stack(tmp_path / "a.jpg") as stack:
        assert any("further pictures" in line for line in stack.warnings)


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_jpeg_that_is_to_be_turned_says_so(tmp_path: Path, order: str) -> None:
    whole = imagecodecs.jpeg8_encode(random_pixels(20, 30, dtype=np.uint8), level=90)
    mark = b"II" if order == "<" else b"MM"
    exif = b"Exif\0\0" + mark + struct.pack(f"{order}HIHHHIHH", 42, 8, 1, 0x0112, 3, 1, 6, 0)
    content = whole[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + whole[2:]
    (tmp_path / "a.jpg").write_bytes(content)
    with open_stack(tmp_path / "a.jpg") as stack:
        assert any("orientation 6" in line for line in stack.warnings)


def test_pictures_are_images_of_a_folder_that_holds_no_others(tmp_path: Path) -> None:
    for name in ("a.png", "b.jpg"):
        (tmp_path / name).write_bytes(imagecodecs.png_encode(random_pixels(4, 4)))
    assert find_inputs([tmp_path])[0] == [tmp_path / "a.png", tmp_path / "b.jpg"]
    tifffile.imwrite(tmp_path / "c.tif", random_pixels(4, 4))
    found, rest = find_inputs([tmp_path])
    assert found == [tmp_path / "c.tif"]
    assert rest == ["left out 2 pictures beside images (name them to use them as images): a.png, b.jpg"]
    assert find_inputs([tmp_path / "*.png"])[0] == [tmp_path / "a.png"]


# --- Imaris


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_an_imaris_file_is_read_in_its_real_size(tmp_path: Path, h5py: Any, dtype: type) -> None:
    pixels, path = (random_pixels(3, 2, 5, 20, 37) / 300).astype(dtype), tmp_path / "a.ims"
    imaris(h5py, path, pixels)
    with open_stack(path) as stack:
        assert (stack.axes, stack.dtype, stack.kind) == ("TCZYX", pixels.dtype, "ims")
        np.testing.assert_array_equal(np.asarray(stack), pixels)
        np.testing.assert_array_equal(stack.read((2, 1, 4), slice(3, 19), slice(30, 37)), pixels[2, 1, 4, 3:19, 30:])
        assert stack.pixel_size_um == pytest.approx({"X": 0.1, "Y": 0.2, "Z": 0.5})
        assert (stack.channel_names, stack.time_step_s) == (("dye 0", "dye 1"), 30.0)
        assert stack.metadata.colours == ("FF8000", "FF8000")
        assert stack.warnings == ("of the IMS file's own metadata only sizes, names and colours are carried",)
    with pytest.raises(InputError, match="no image 1"):
        open_stack(path, image=1)


def test_an_imaris_file_is_enhanced(tmp_path: Path, h5py: Any) -> None:
    pixels, path = random_pixels(1, 2, 2, 40, 37), tmp_path / "a.ims"
    imaris(h5py, path, pixels)
    enhance_file(path, "nuclei-lowexp", report=False, channels=["dye 1"], output=tmp_path / "b.ome.zarr")
    with open_stack(tmp_path / "b.ome.zarr") as out, open_stack(tmp_path / "b_attention.ome.zarr") as attention:
        kept = np.asarray(attention) == 0
        np.testing.assert_array_equal(np.asarray(out)[kept], pixels[kept])
        assert kept[:, 0].all()
        assert out.channel_names == ("dye 0", "dye 1")
        assert out.pixel_size_um == pytest.approx({"X": 0.1, "Y": 0.2, "Z": 0.5})


def test_what_is_wrong_in_an_imaris_file_is_said(tmp_path: Path, h5py: Any) -> None:
    pixels, path, level = random_pixels(2, 2, 3, 20, 30), tmp_path / "a.ims", "DataSet/ResolutionLevel 0"
    changes: dict[str, Any] = {
        "1 of 4 parts are missing, the first at T=1, C=1": lambda file: file.__delitem__(
            f"{level}/TimePoint 1/Channel 1"
        ),
        "of its TimePoints number 0 is missing": lambda file: file.__delitem__(f"{level}/TimePoint 0"),
        "holds no DataSet/ResolutionLevel 0": lambda file: file.__delitem__(level),
        "holds no depths of planes": lambda file: _put(file, f"{level}/TimePoint 1/Channel 0/Data", np.zeros((3, 4))),
        r"at T=1, C=0 it holds \(1, 2, 2\) uint16": lambda file: _put(
            file, f"{level}/TimePoint 1/Channel 0/Data", np.zeros((1, 2, 2), np.uint16)
        ),
        "is a link": lambda file: _put(file, f"{level}/TimePoint 1", h5py.ExternalLink("other.ims", "/")),
        "is a link, ": lambda file: _put(file, f"{level}/TimePoint 1/Channel 1", h5py.SoftLink("/DataSet")),
    }  # fmt: skip
    for said, change in changes.items():
        imaris(h5py, path, pixels)
        with h5py.File(path, "a") as file:
            change(file)
        with pytest.raises(InputError, match=said) as caught:
            open_stack(path)
        assert "\n" not in str(caught.value)
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 100)
    with pytest.raises(InputError, match="is damaged"):
        open_stack(path)


def _put(file: Any, place: str, value: object) -> None:
    del file[place]
    file[place] = value


def test_an_imaris_file_that_does_not_state_its_size_or_its_times(tmp_path: Path, h5py: Any) -> None:
    pixels, path = random_pixels(3, 1, 3, 20, 30), tmp_path / "a.ims"
    imaris(h5py, path, pixels)
    with h5py.File(path, "a") as file:
        del file["DataSetInfo/Image"]
        for t in range(3):
            for axis in "XYZ":
                del file[f"DataSet/ResolutionLevel 0/TimePoint {t}/Channel 0"].attrs[f"ImageSize{axis}"]
        file["DataSetInfo/TimeInfo"].attrs["TimePoint3"] = text("2020-02-05 00:00:00.000")
    with open_stack(path) as stack:
        assert (stack.shape, stack.pixel_size_um, stack.time_step_s) == ((3, 1, 4, 32, 32), {}, None)
        assert any("does not state its size" in line for line in stack.warnings)
        assert any("not evenly spaced" in line for line in stack.warnings)


def test_an_imaris_channel_without_name_and_colour_takes_none_from_the_others(tmp_path: Path, h5py: Any) -> None:
    path = tmp_path / "a.ims"
    imaris(h5py, path, random_pixels(1, 3, 1, 20, 30))
    with h5py.File(path, "a") as file:
        for name in ("Name", "Color"):
            del file["DataSetInfo/Channel 1"].attrs[name]
    with open_stack(path) as stack:
        assert stack.channel_names == ("dye 0", "channel 1", "dye 2")
        assert stack.metadata.colours == ("FF8000", "FFFFFF", "FF8000")


def test_sizes_in_a_unit_that_is_not_known_are_not_stated_and_that_is_said(tmp_path: Path, h5py: Any) -> None:
    path = tmp_path / "a.ims"
    imaris(h5py, path, random_pixels(1, 1, 2, 20, 30))
    with h5py.File(path, "a") as file:
        file["DataSetInfo/Image"].attrs["Unit"] = text("furlong")
    with open_stack(path) as stack:
        assert stack.pixel_size_um == {}
        assert any("'furlong' is not known" in line for line in stack.warnings)


def test_an_imaris_file_without_h5py_is_refused_with_what_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    (tmp_path / "a.ims").write_bytes(b"ims")
    with pytest.raises(InputError, match=r"IMS files need another reader: pip install 'cellxlate\[vendor\]'"):
        open_stack(tmp_path / "a.ims")


# --- zipped Zarr


def written(path: Path, pixels: np.ndarray) -> np.ndarray:
    stack = Stack(pixels, "TCYX", pixel_size_um={"Y": 0.5, "X": 0.25}, channel_names=("DAPI", "GFP"))
    write_stacks([(stack, path)])
    return pixels


@pytest.fixture
def image(tmp_path: Path) -> tuple[Path, np.ndarray]:
    return tmp_path / "image.ome.zarr", written(tmp_path / "image.ome.zarr", random_pixels(2, 2, 60, 70))


@pytest.mark.parametrize(
    ("name", "inside", "how"),
    [("a.ome.zarr.zip", "", zipfile.ZIP_STORED), ("a.zarr.ZIP", "a.ome.zarr/", zipfile.ZIP_DEFLATED),
     ("a.ozx", "", zipfile.ZIP_DEFLATED)],
)  # fmt: skip
def test_a_zipped_zarr_is_read_as_its_folder(tmp_path: Path, name: str, inside: str, how: int) -> None:
    folder = tmp_path / "image.ome.zarr"
    pixels = written(folder, random_pixels(1, 2, 1100, 1030))
    zipped(folder, tmp_path / name, inside, how)
    assert stack_name(tmp_path / name) == "a"
    with open_stack(folder) as expected, open_stack(tmp_path / name) as stack:
        np.testing.assert_array_equal(np.asarray(stack), pixels)
        np.testing.assert_array_equal(stack.read((0, 1), slice(250, 290), slice(5, 9)), pixels[0, 1, 250:290, 5:9])
        for what in ("axes", "dtype", "pixel_size_um", "channel_names", "resolutions", "kind", "warnings", "metadata"):
            assert getattr(stack, what) == getattr(expected, what)
    levels = open_resolutions(tmp_path / name)
    assert len(levels) == expected.resolutions > 1
    assert levels[1].shape == (1, 2, 550, 515)
    levels[0].close()


def test_a_zipped_zarr_2_and_a_plain_array_are_read(tmp_path: Path) -> None:
    pixels = random_pixels(3, 20, 30)
    for version in (2, 3):
        folder, path = tmp_path / f"v{version}.zarr", tmp_path / f"v{version}.zarr.zip"
        array = zarr.create_array(folder, shape=pixels.shape, chunks=(1, 10, 30), dtype="u2", zarr_format=version)
        array[:] = pixels
        zipped(folder, path)
        with open_stack(path, "ZYX") as stack:
            np.testing.assert_array_equal(np.asarray(stack), pixels)
            assert stack.warnings == ()
        with pytest.raises(InputError, match="without axes"):
            open_stack(path)
        chunk_file = next(item for item in sorted(folder.rglob("*")) if item.is_file() and item.name[0] not in ".z")
        chunk_file.unlink()
        zipped(folder, path)
        with open_stack(path, "ZYX") as stack:
            assert any("1 of 6 chunks have no file" in line for line in stack.warnings)


def test_a_zipped_zarr_is_enhanced_into_a_tiff_beside_it(tmp_path: Path, image: tuple[Path, np.ndarray]) -> None:
    folder, pixels = image
    (tmp_path / "zips").mkdir()
    zipped(folder, tmp_path / "zips" / "a.ome.zarr.zip")
    assert find_inputs([tmp_path / "zips"])[0] == [tmp_path / "zips" / "a.ome.zarr.zip"]
    enhance_file(tmp_path / "zips" / "a.ome.zarr.zip", "nuclei-lowexp", report=False)
    kept = tifffile.imread(tmp_path / "zips" / "a_attention.ome.tif") == 0
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "zips" / "a_enhanced.ome.tif")[kept], pixels[kept])


def test_a_zip_that_is_no_zarr_or_damaged_is_refused(tmp_path: Path, image: tuple[Path, np.ndarray]) -> None:
    folder, _ = image
    path = tmp_path / "a.zarr.zip"
    zipped(folder, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="no zip file that can be read"):
        open_stack(path)
    damaged = bytearray(whole)
    at = whole.index(b"c/0/0") + 2000
    damaged[at : at + 200] = bytes(200)
    path.write_bytes(damaged)
    with open_stack(path) as stack, pytest.raises(InputError, match="is damaged"):
        np.asarray([stack.read(index) for index in stack.plane_indices()])
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.txt", "a")
    with pytest.raises(InputError, match="holds no Zarr image"):
        open_stack(path)
    with zipfile.ZipFile(path, "w") as file:
        for name in ("a.zarr/.zarray", "b.zarr/.zarray"):
            file.writestr(name, "{}")
    with pytest.raises(InputError, match="2 images side by side"):
        open_stack(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("zarr.json", b" " * (2**26 + 1))
    with pytest.raises(InputError, match=r"zarr.json would take 67108865 bytes"):
        open_stack(path)


# --- the folder one stands in


def test_the_folder_one_stands_in_is_named(
    tmp_path: Path, image: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, pixels = image
    monkeypatch.chdir(folder)
    assert main(["info", ".", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["shape"] == list(pixels.shape)
    assert main(["enhance", ".", "-m", "nuclei-lowexp", "--channel", "GFP", "--no-report", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["outputs"]["enhanced"] == str(tmp_path / "image_enhanced.ome.zarr")
    with open_stack(".") as stack:
        assert stack.name == "image"
    monkeypatch.chdir(folder / "0")
    with open_stack("..") as stack:
        np.testing.assert_array_equal(np.asarray(stack), pixels)
