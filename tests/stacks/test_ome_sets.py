"""OME-TIFF sets of several files, and descriptions that do not count what is there: the pixels are the right ones."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from cellxlate.enhancement.outputs.names import find_inputs
from cellxlate.errors import InputError
from cellxlate.stacks.naming import stack_name
from cellxlate.stacks.read.open import open_stack
from cellxlate.stacks.read.resolutions import open_resolutions

OME = '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"{uuid}>{images}</OME>'
IMAGE = (
    '<Image ID="Image:{n}" Name="position {n}"><Pixels ID="Pixels:{n}" DimensionOrder="XYCZT" Type="uint16" SizeX="30" '
    'SizeY="20" SizeC="1" SizeZ="1" SizeT="{t}" PhysicalSizeX="0.{size}" PhysicalSizeY="0.{size}">'
    '<Channel ID="Channel:{n}:0" Name="dye {n}" SamplesPerPixel="1"/>{planes}</Pixels></Image>'
)
Place = tuple[str, str]
"""Name of a file, and the UUID that stands with it."""


def random_pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).integers(0, 60_000, shape).astype(np.uint16)


def document(uuid: str, images: Sequence[Sequence[Place]]) -> str:
    """OME-XML of images whose time points lie in files; of image n the pixel size is 0.(n + 1) micrometres."""
    texts = []
    for n, places in enumerate(images):
        planes = "".join(
            f'<TiffData FirstT="{t}" IFD="0" PlaneCount="1"><UUID FileName="{name}">{one}</UUID></TiffData>'
            for t, (name, one) in enumerate(places)
        )
        texts.append(IMAGE.format(n=n, t=len(places), size=n + 1, planes=planes))
    return OME.format(uuid=f' UUID="{uuid}"' if uuid else "", images="".join(texts))


def write(path: Path, pixels: np.ndarray, text: str | None = None, **options: object) -> None:
    tifffile.imwrite(path, pixels, description=text, metadata=None, photometric="minisblack", **options)


def one_file_per_image(folder: Path, compression: str | None, uuid: Callable[[int], str]) -> np.ndarray:
    """Three images, each in a file of its own that holds the whole document; the documents differ in length."""
    pixels = random_pixels(3, 20, 30)
    for number in range(3):
        text = document(uuid(number), [[(f"p{n}.ome.tif", f"urn:uuid:{n}")] for n in range(3)])
        write(folder / f"p{number}.ome.tif", pixels[number], text + " " * (700 * number), compression=compression)
    return pixels


UUIDS = {"each its own": lambda n: f"urn:uuid:{n}", "one in all": lambda n: "urn:uuid:0", "none": lambda n: ""}


@pytest.mark.parametrize("uuids", UUIDS)
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_each_image_is_read_from_the_file_it_lies_in(tmp_path: Path, compression: str | None, uuids: str) -> None:
    pixels = one_file_per_image(tmp_path, compression, UUIDS[uuids])
    for given in range(3):
        path = tmp_path / f"p{given}.ome.tif"
        with open_stack(path) as stack:
            np.testing.assert_array_equal(np.asarray(stack), pixels[given])
            np.testing.assert_array_equal(stack.read((), slice(3, 9), slice(2, 5)), pixels[given, 3:9, 2:5])
            assert (stack.image, stack.channel_names) == (given, (f"dye {given}",))
            assert stack.pixel_size_um["X"] == pytest.approx((given + 1) / 10)
            assert not any("other files" in line for line in stack.warnings)
        for image in range(3):
            with open_stack(path, image=image) as stack:
                np.testing.assert_array_equal(np.asarray(stack), pixels[image])
                assert stack.channel_names == (f"dye {image}",)
                said = any(f"p{image}.ome.tif; none of them" in line for line in stack.warnings)
                assert said == (image != given)
    assert find_inputs([tmp_path])[0] == [tmp_path / f"p{n}.ome.tif" for n in range(3)]


def test_a_file_that_was_renamed_keeps_its_image(tmp_path: Path) -> None:
    pixels = one_file_per_image(tmp_path, None, UUIDS["each its own"])
    (tmp_path / "p1.ome.tif").rename(tmp_path / "mine.ome.tif")
    with open_stack(tmp_path / "mine.ome.tif") as stack:
        np.testing.assert_array_equal(np.asarray(stack), pixels[1])
        assert stack.channel_names == ("dye 1",)


def test_an_image_is_read_where_those_before_it_are_not_there(tmp_path: Path) -> None:
    pixels = one_file_per_image(tmp_path, None, UUIDS["each its own"])
    (tmp_path / "p0.ome.tif").unlink()
    with open_stack(tmp_path / "p2.ome.tif") as stack:
        np.testing.assert_array_equal(np.asarray(stack), pixels[2])
        assert stack.channel_names == ("dye 2",)


def test_files_of_one_image_are_one_stack(tmp_path: Path) -> None:
    pixels = random_pixels(3, 20, 30)
    places = [(f"t{n}.ome.tif", f"urn:uuid:{n}") for n in range(3)]
    paths = [tmp_path / name for name, _ in places]
    for number, path in enumerate(paths):
        write(path, pixels[number], document(f"urn:uuid:{number}", [places]))
    tifffile.imwrite(tmp_path / "z.tif", pixels[0])
    assert find_inputs([tmp_path])[0] == [paths[0], tmp_path / "z.tif"]
    assert find_inputs(paths[1:])[0] == [paths[1]]
    with open_stack(paths[1]) as stack:
        np.testing.assert_array_equal(np.asarray(stack), pixels)
        assert set(stack.files) == set(paths)
        assert any("t0.ome.tif, t2.ome.tif; the others lie in it" in line for line in stack.warnings)
    write(paths[2], random_pixels(20, 32), document("urn:uuid:2", [places]))
    with pytest.raises(InputError, match=r"t2.ome.tif.* holds planes of \(20, 32\) uint16, not \(20, 30\)"):
        open_stack(paths[0])


@pytest.mark.parametrize("binary_only", [True, False])
def test_a_companion_describes_its_files(tmp_path: Path, binary_only: bool) -> None:
    pixels = random_pixels(2, 2, 20, 30)
    places = [[(f"p{n}_t{t}.ome.tif", f"urn:uuid:{n}{t}") for t in range(2)] for n in range(2)]
    companion = tmp_path / "scan.companion.ome"
    companion.write_text(document("urn:uuid:c", places if binary_only else places[:1]))
    for n, t in np.ndindex(2, 2):
        name, uuid = places[n][t]
        text = OME.format(
            uuid=f' UUID="{uuid}"', images='<BinaryOnly MetadataFile="scan.companion.ome" UUID="urn:uuid:c"/>'
        )
        if binary_only or n == 0:
            write(tmp_path / name, pixels[n, t], text if binary_only else None)
    with open_stack(companion) as stack:
        np.testing.assert_array_equal(np.asarray(stack), pixels[0])
        assert (stack.kind, stack.name, stack.channel_names) == ("ome-tiff", "scan", ("dye 0",))
    if not binary_only:
        assert find_inputs([tmp_path])[0] == [companion]
        return
    assert find_inputs([tmp_path])[0] == [tmp_path / "p0_t0.ome.tif", tmp_path / "p1_t0.ome.tif"]
    with open_stack(tmp_path / "p1_t1.ome.tif") as stack:
        np.testing.assert_array_equal(np.asarray(stack), pixels[1])
        assert (stack.channel_names, stack.axes) == (("dye 1",), "TYX")
    companion.unlink()
    with pytest.raises(InputError, match=r"scan.companion.ome, is not there; put all its files"):
        open_stack(tmp_path / "p1_t1.ome.tif")


@pytest.mark.parametrize("name", ["../x.companion.ome", "/x.companion.ome", ""])
def test_a_companion_lies_in_the_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "x.companion.ome").write_text(document("", [[("a.ome.tif", "urn:uuid:a")]]))
    (tmp_path / "in").mkdir()
    write(
        tmp_path / "in" / "a.ome.tif",
        random_pixels(20, 30),
        OME.format(uuid="", images=f'<BinaryOnly MetadataFile="{name}" UUID="u"/>'),
    )
    with pytest.raises(InputError, match=r"outside its folder|names no file"):
        open_stack(tmp_path / "in" / "a.ome.tif")


def test_a_companion_is_no_part_of_a_name() -> None:
    assert stack_name(Path("scan.companion.ome")) == "scan"


@pytest.mark.skipif(int(tifffile.__version__[:4]) < 2026, reason="older tifffile reads no pyramid of a set")
def test_levels_are_those_of_the_image_in_the_file(tmp_path: Path) -> None:
    pixels = random_pixels(2, 20, 30)
    for number in range(2):
        text = document(f"urn:uuid:{number}", [[(f"p{n}.ome.tif", f"urn:uuid:{n}")] for n in range(2)])
        with tifffile.TiffWriter(tmp_path / f"p{number}.ome.tif") as file:
            options = {"metadata": None, "photometric": "minisblack", "tile": (16, 16)}
            file.write(pixels[number], description=text, subifds=1, **options)
            file.write(pixels[number, ::2, ::2], subfiletype=1, **options)
    levels = open_resolutions(tmp_path / "p1.ome.tif")
    np.testing.assert_array_equal(np.asarray(levels[1]), pixels[1, ::2, ::2])
    levels[0].close()


# --- pages that a description does not count

IMAGEJ = "ImageJ=1.53t\nimages={images}\nchannels={channels}\nslices={slices}\nhyperstack=true\nloop=false\n"


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("kind", ["imagej", "ome", "ome of listed pages"])
def test_pages_that_are_not_counted_are_named(tmp_path: Path, kind: str, compression: str | None) -> None:
    pixels, path = random_pixels(6, 20, 30), tmp_path / "a.tif"
    planes = "<TiffData/>" if kind == "ome" else "".join(f'<TiffData FirstT="{t}" IFD="{t}"/>' for t in range(4))
    text = OME.format(uuid="", images=IMAGE.format(n=0, t=4, size=5, planes=planes))
    if kind == "imagej":
        text = IMAGEJ.format(images=6, channels=2, slices=2)
    write(path, pixels, text, compression=compression)
    with open_stack(path) as stack:
        np.testing.assert_array_equal(np.asarray(stack).reshape(4, 20, 30), pixels[:4])
        assert any(line.startswith("2 of 6 pages of the file are not read") for line in stack.warnings)


def test_planes_behind_the_only_directory_of_imagej_are_named(tmp_path: Path) -> None:
    pixels, path = random_pixels(6, 20, 30), tmp_path / "a.tif"
    write(path, pixels[0], IMAGEJ.format(images=6, channels=2, slices=2))
    with tifffile.TiffFile(path) as file:
        end = file.pages.first.dataoffsets[0] + pixels[0].nbytes
    path.write_bytes(path.read_bytes()[:end] + pixels[1:].tobytes())
    with open_stack(path) as stack:
        np.testing.assert_array_equal(np.asarray(stack).reshape(4, 20, 30), pixels[:4])
        assert any(line.startswith("2 of 6 pages of the file are not read") for line in stack.warnings)


@pytest.mark.parametrize("kind", ["imagej", "ome"])
def test_planes_that_are_counted_and_not_there_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.tif"
    text = OME.format(uuid="", images=IMAGE.format(n=0, t=8, size=5, planes="<TiffData/>"))
    if kind == "imagej":
        text = IMAGEJ.format(images=8, channels=2, slices=4)
    write(path, random_pixels(6, 20, 30), text, compression="zlib")
    with pytest.raises(InputError, match="2 of 8 planes are described and in no file"):
        open_stack(path)


@pytest.mark.parametrize("options", [{"imagej": True}, {"ome": True}, {}, {"metadata": None}])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_complete_files_warn_of_no_page(tmp_path: Path, options: dict[str, object], compression: str | None) -> None:
    path, pixels = tmp_path / "a.tif", random_pixels(2, 3, 20, 30)
    tifffile.imwrite(path, pixels, photometric="minisblack", compression=compression, **options)
    axes = None if options.keys() & {"imagej", "ome"} else "TYX" if options else "TZYX"
    with open_stack(path, axes) as stack:
        np.testing.assert_array_equal(np.asarray(stack).reshape(pixels.shape), pixels)
        assert not any("not read" in line for line in stack.warnings)


def test_a_file_under_another_spelling_or_a_link_is_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    tifffile.imwrite(tmp_path / "one.tif", random_pixels(2, 20, 30)[0])
    (tmp_path / "link.tif").symlink_to(tmp_path / "one.tif")
    for path in (tmp_path / "inner" / ".." / "one.tif", tmp_path / "link.tif"):
        with open_stack(path) as stack:
            assert not stack.warnings
            assert stack.files == ()


def a_set(folder: Path, ids: Sequence[str], own: Sequence[str] | None = None) -> np.ndarray:
    """Two time points of one image, each in its file; the document states `ids`, the files have the UUIDs `own`."""
    folder.mkdir(exist_ok=True)
    pixels = random_pixels(2, 20, 30)
    places = [(f"p{n}.ome.tif", one) for n, one in enumerate(ids)]
    for n, one in enumerate(own or ids):
        write(folder / f"p{n}.ome.tif", pixels[n], document(one, [places]))
    return pixels


def test_files_of_a_set_that_were_exchanged_are_refused(tmp_path: Path) -> None:
    a_set(tmp_path, ("urn:uuid:a", "urn:uuid:b"))
    for old, new in (("p0", "t"), ("p1", "p0"), ("t", "p1")):
        (tmp_path / f"{old}.ome.tif").rename(tmp_path / f"{new}.ome.tif")
    for given in range(2):
        with pytest.raises(InputError, match="files were exchanged"):
            open_stack(tmp_path / f"p{given}.ome.tif")


def test_the_images_of_a_set_that_were_exchanged_are_refused(tmp_path: Path) -> None:
    one_file_per_image(tmp_path, None, UUIDS["each its own"])
    for old, new in (("p0", "t"), ("p1", "p0"), ("t", "p1")):
        (tmp_path / f"{old}.ome.tif").rename(tmp_path / f"{new}.ome.tif")
    with pytest.raises(InputError, match="files were exchanged"):
        open_stack(tmp_path / "p0.ome.tif")
    with open_stack(tmp_path / "p2.ome.tif") as stack:
        np.testing.assert_array_equal(np.asarray(stack), random_pixels(3, 20, 30)[2])


def test_a_file_of_another_acquisition_in_a_set_is_refused(tmp_path: Path) -> None:
    a_set(tmp_path, ("urn:uuid:a", "urn:uuid:b"))
    a_set(tmp_path / "other", ("urn:uuid:c", "urn:uuid:d"))
    (tmp_path / "other" / "p1.ome.tif").replace(tmp_path / "p1.ome.tif")
    for given in range(2):
        with pytest.raises(InputError, match="of another acquisition"):
            open_stack(tmp_path / f"p{given}.ome.tif")


@pytest.mark.parametrize("own", [("urn:uuid:a", "urn:uuid:a"), ("urn:uuid:x", "urn:uuid:y"), ("", "")])
def test_a_set_whose_uuids_say_nothing_is_read_by_its_names(tmp_path: Path, own: Sequence[str]) -> None:
    pixels = a_set(tmp_path, ("urn:uuid:a", "urn:uuid:b"), own)
    for given in range(2):
        with open_stack(tmp_path / f"p{given}.ome.tif") as stack:
            np.testing.assert_array_equal(np.asarray(stack), pixels)
            assert any("told apart by their names" in line for line in stack.warnings) == ("urn:uuid:x" in own)


@pytest.mark.parametrize("types", [(np.uint16, np.uint8), (np.uint8, np.uint16)])
def test_files_of_a_set_with_other_types_are_refused(tmp_path: Path, types: Sequence[type]) -> None:
    places = [("p0.ome.tif", "urn:uuid:a"), ("p1.ome.tif", "urn:uuid:b")]
    for n, dtype in enumerate(types):
        pixels = random_pixels(20, 30).astype(dtype)
        write(tmp_path / f"p{n}.ome.tif", pixels, document(places[n][1], [places]))
    for name, _ in places:
        with pytest.raises(InputError, match=r"p1.ome.tif.* holds planes of \(20, 30\)"):
            open_stack(tmp_path / name)


LAYOUTS = [
    ({"tile": (16, 48)}, {"tile": (48, 16)}),
    ({"rowsperstrip": 7}, {"tile": (16, 16)}),
    ({"rowsperstrip": 5}, {}),
]


@pytest.mark.parametrize("layouts", LAYOUTS)
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_files_of_a_set_with_other_tiles_or_strips_are_read(
    tmp_path: Path, layouts: Sequence[dict[str, Any]], compression: str | None
) -> None:
    pixels, places = random_pixels(2, 20, 30), [("p0.ome.tif", "urn:uuid:a"), ("p1.ome.tif", "urn:uuid:b")]
    for n, layout in enumerate(layouts):
        write(tmp_path / places[n][0], pixels[n], document(places[n][1], [places]), compression=compression, **layout)
    for name, _ in places:
        with open_stack(tmp_path / name) as stack:
            np.testing.assert_array_equal(np.asarray(stack), pixels)
            np.testing.assert_array_equal(stack.read((1,), slice(3, 9)), pixels[1, 3:9])


@pytest.mark.parametrize("kind", ["imagej", "ome"])
@pytest.mark.parametrize("in_a_set", [False, True])
def test_pages_stored_otherwise_than_the_first_are_refused(tmp_path: Path, kind: str, in_a_set: bool) -> None:
    pixels = random_pixels(4, 20, 30)
    text = OME.format(uuid="", images=IMAGE.format(n=0, t=2, size=5, planes="<TiffData/>"))
    if in_a_set:
        planes = "".join(
            f'<TiffData FirstT="{t}" IFD="{t % 2}" PlaneCount="1"><UUID FileName="p{t // 2}.tif">urn:uuid:{t // 2}'
            "</UUID></TiffData>"
            for t in range(4)
        )
        text = OME.format(uuid=' UUID="urn:uuid:{}"', images=IMAGE.format(n=0, t=4, size=5, planes=planes))
    if kind == "imagej":
        text = IMAGEJ.format(images=2, channels=1, slices=2)
    for n in range(2):
        with tifffile.TiffWriter(tmp_path / f"p{n}.tif") as file:
            for page in range(2):
                file.write(
                    pixels[2 * n + page], description=text.replace("{}", str(n)) if page == 0 else None, metadata=None,
                    compression="zlib", predictor=2 if page else None, photometric="minisblack", contiguous=False,
                )  # fmt: skip
    with pytest.raises(InputError, match=r"stored in different ways \(Predictor 1, then 2\)"):
        open_stack(tmp_path / "p0.tif")


def test_strips_that_were_left_out_are_named(tmp_path: Path) -> None:
    path, pixels = tmp_path / "a.tif", random_pixels(20, 30)
    write(path, pixels, rowsperstrip=5, compression="zlib")
    with tifffile.TiffFile(path, mode="r+") as file:
        tags = file.pages.first.tags
        tags["StripOffsets"].overwrite((tags["StripOffsets"].value[0], 0, *tags["StripOffsets"].value[2:]))
        tags["StripByteCounts"].overwrite((tags["StripByteCounts"].value[0], 0, *tags["StripByteCounts"].value[2:]))
    with open_stack(path) as stack:
        assert stack.warnings[0].startswith("1 of 4 strips or tiles hold no data and read as 0")


def test_whole_numbers_of_24_bits_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    write(path, random_pixels(20, 45).astype(np.uint16))  # 20 x 30 x 3 bytes
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages.first.tags["ImageWidth"].overwrite(30)
        file.pages.first.tags["BitsPerSample"].overwrite(24)
    with pytest.raises(InputError, match="whole numbers of 24 bits"):
        open_stack(path)


@pytest.mark.parametrize("images", [(7, 1, 7), (5, 2, 3)])
def test_imagej_counts_that_do_not_fit_are_told(tmp_path: Path, images: tuple[int, int, int]) -> None:
    count, channels, slices = images
    path = tmp_path / "a.tif"
    write(path, random_pixels(5, 20, 30), IMAGEJ.format(images=count, channels=channels, slices=slices))
    counted = f"images={count}, channels={channels}, slices={slices}"
    with pytest.raises(InputError, match=f"description counts {counted}, the file has 5 pages"):
        open_stack(path)
