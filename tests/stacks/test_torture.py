"""Files that are huge, cut, lying or incomplete: read in bounded memory, warned of, or refused in one line."""

import json
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from cellxlate.errors import InputError, OutputError
from cellxlate.stacks.intensity.range import measure_range
from cellxlate.stacks.intensity.stack_range import stack_ranges
from cellxlate.stacks.read.open import open_stack
from cellxlate.stacks.stack import Stack
from cellxlate.stacks.write.writer import open_writer

PIXELS = np.random.default_rng(0).integers(0, 200, (3, 40, 50)).astype(np.uint16)


@contextmanager
def at_most(megabytes: float) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= megabytes * 1e6, f"{peak / 1e6:.0f} MB"


def virtual(path: Path, shape: tuple[int, ...], chunks: tuple[int, ...]) -> Path:
    """An array on paper; its first chunk is there, where it is not too large."""
    array = zarr.create_array(path, shape=shape, chunks=chunks, dtype="uint16", config={"write_empty_chunks": True})
    if np.prod(chunks) < 10**6:
        array[(0,) * len(shape)] = 0
    return path


def test_100_gb_open_and_are_measured_in_64_mb(tmp_path: Path) -> None:
    path = virtual(tmp_path / "a.zarr", (100, 2, 16384, 16384), (1, 1, 512, 512))
    with at_most(64), open_stack(path, "TCYX") as stack:
        assert stack.plane_count * np.prod(stack.plane_shape) * 2 > 100e9
        assert stack.read((99, 1), slice(16000, 16384), slice(0, 512)).shape == (384, 512)
        intensity = stack_ranges(stack, [0, 1])
        assert (intensity[0].black, intensity[0].white) == (0.0, 1.0)


@pytest.mark.parametrize("shape", [(10**12, 64, 64), (10**9, 10**9, 10**9), (2, 10**6, 2 * 10**9)])
def test_absurd_sizes_allocate_nothing_and_are_not_written(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = virtual(tmp_path / "a.zarr", shape, (1, 64, 64))
    with at_most(64), open_stack(path, "ZYX") as stack:
        assert stack.shape == shape
        assert stack.read((shape[0] - 1,), slice(0, 3), slice(0, 5)).shape == (3, 5)
        for ending in (".ome.tif", ".ome.zarr"):
            with pytest.raises(OutputError, match="GB"):
                open_writer(tmp_path / f"out{ending}", like=stack)
    assert [item.name for item in tmp_path.iterdir()] == ["a.zarr"]


def test_chunks_that_fill_the_memory_are_refused(tmp_path: Path) -> None:
    path = virtual(tmp_path / "a.zarr", (4, 10**5, 10**5), (1, 10**5, 10**5))
    with at_most(16), pytest.raises(InputError, match=r"blocks of 1 x 100000 x 100000, 20.0 GB"):
        open_stack(path, "ZYX")


def test_missing_chunks_read_as_the_fill_value_with_a_warning(tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path / "a.zarr", shape=(40, 50), chunks=(20, 25), dtype="uint16", fill_value=7)
    array[:] = PIXELS[0]
    with open_stack(tmp_path / "a.zarr") as stack:
        assert stack.warnings == ()
    (tmp_path / "a.zarr" / "c" / "1" / "1").unlink()
    with open_stack(tmp_path / "a.zarr") as stack:
        assert stack.warnings[0].startswith("1 of 4 chunks have no file and read as 7")
        assert (stack.read((), slice(20, 40), slice(25, 50)) == 7).all()


@pytest.mark.parametrize("quarter", [1, 2, 3])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
def test_a_file_cut_short_is_refused_when_it_is_opened(tmp_path: Path, quarter: int, compression: Any) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.tile(PIXELS, (1, 5, 5)), photometric="minisblack", compression=compression)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * quarter // 4])
    with pytest.raises(InputError, match=r"cut short|damaged|unsupported|copy"):
        open_stack(path)


def entry(content: bytes, code: int) -> int:
    """Where the entry of a tag lies in the first directory of a little-endian classic TIFF."""
    at = int.from_bytes(content[4:8], "little")
    count = int.from_bytes(content[at : at + 2], "little")
    places = [at + 2 + 12 * number for number in range(count)]
    return next(place for place in places if int.from_bytes(content[place : place + 2], "little") == code)


@pytest.mark.parametrize(
    ("code", "value"),
    [(256, 2**31 - 1), (257, 2**31 - 1), (258, 0), (273, 2**32 - 1), (279, 2**32 - 1), (278, 2**31 - 1), (277, 60000)],
)
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_lying_tags_allocate_nothing(tmp_path: Path, code: int, value: int, compression: Any) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PIXELS[0], photometric="minisblack", metadata=None, compression=compression)
    content = bytearray(path.read_bytes())
    place = entry(bytes(content), code)
    content[place + 2 : place + 4] = (4).to_bytes(2, "little")
    content[place + 8 : place + 12] = value.to_bytes(4, "little")
    path.write_bytes(bytes(content))
    with at_most(300):  # 60000 samples make one block of 240 MB
        try:
            with open_stack(path) as stack:
                found = stack.read((0,) * len(stack.plane_axes))
        except InputError as fault:
            message = str(fault)
            found = None
    if found is not None:  # one strip, said to have more rows than the image, or bytes than an image without gaps has
        assert code in (278, 279)
        np.testing.assert_array_equal(found, PIXELS[0])
    else:
        assert "\n" not in message


@pytest.mark.parametrize("offset", [0, 3, 7, 2**31, 2**32 - 1])
def test_a_directory_elsewhere_is_refused(tmp_path: Path, offset: int) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PIXELS[0], photometric="minisblack")
    content = bytearray(path.read_bytes())
    content[4:8] = offset.to_bytes(4, "little")
    path.write_bytes(bytes(content))
    with pytest.raises(InputError):
        open_stack(path)


@pytest.mark.parametrize("size", ["SizeT", "SizeZ", "SizeY", "SizeX"])
def test_ome_xml_that_states_a_milliard_planes_allocates_nothing(tmp_path: Path, size: str) -> None:
    sizes = {"SizeX": 50, "SizeY": 40, "SizeZ": 3, "SizeC": 1, "SizeT": 1} | {size: 10**9}
    stated = " ".join(f'{name}="{value}"' for name, value in sizes.items())
    text = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels ID="Pixels:0" '
        f'DimensionOrder="XYZCT" Type="uint16" {stated}><TiffData IFD="0" PlaneCount="3"/></Pixels></Image></OME>'
    )
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, photometric="minisblack", metadata=None, description=text.encode())
    with at_most(64), pytest.raises(InputError):
        open_stack(tmp_path / "a.tif")


@pytest.mark.parametrize(
    "stated", [{"shape": [3, 40, 51]}, {"shape": [10**9, 40, 50]}, {"shape": "abc"}, {"shape": []}, {"axes": 7}]
)
def test_a_shape_that_is_not_true_is_not_believed(tmp_path: Path, stated: dict[str, Any]) -> None:
    description = json.dumps({"shape": [3, 40, 50], "axes": "ZYX"} | stated)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PIXELS, photometric="minisblack", metadata=None, description=description)
    with at_most(64):
        try:
            with open_stack(path) as stack:
                np.testing.assert_array_equal(np.asarray(stack), PIXELS)
        except InputError as fault:
            message = str(fault)
        else:
            message = ""
    assert "\n" not in message


def test_five_axes_of_odd_sizes(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 200, (3, 2, 5, 7, 11)).astype(np.int16)
    for axes in ("TCZYX", "TZCYX", "CTZYX", "ZTCYX"):
        source = Stack.from_array(pixels, axes)
        with open_writer(tmp_path / f"{axes}.ome.tif", like=source) as writer:
            for index in source.plane_indices():
                writer.write(index, 0, source.read(index))
            writer.finish()
            with open_stack(writer.publish()) as found:
                assert found.axes == axes
                np.testing.assert_array_equal(np.asarray(found), pixels)


def test_levels_of_a_channel_come_from_its_planes_alone() -> None:
    pixels = np.random.default_rng(0).integers(100, 140, (2, 3, 2, 64, 64)).astype(np.uint16)
    pixels[:, 1] += 1000
    for axes in ("TCZYX", "TZCYX"):
        stack = Stack.from_array(pixels if axes == "TCZYX" else np.swapaxes(pixels, 1, 2), axes)
        expected = measure_range([pixels[t, 1, z] for t in range(2) for z in range(2)])
        assert stack_ranges(stack, [1])[1].black == pytest.approx(expected.black)
