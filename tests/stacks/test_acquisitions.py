"""Acquisitions of Micro-Manager, NDTiff and OME sets: positions are images, and of stopped ones the complete part."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from file_writers import acquisition, ndtiff, random_pixels

from cellxlate.cli import main
from cellxlate.enhancement.job import enhance_file
from cellxlate.enhancement.outputs.names import find_inputs
from cellxlate.errors import InputError
from cellxlate.stacks.metadata.calibration import Calibration
from cellxlate.stacks.read.open import open_stack
from cellxlate.stacks.read.sets.acquisition import Cut, ranges_in_words

PLACES = [(c, 0, t, 0) for t in range(3) for c in range(2)]


def read(path: Path, **options: Any) -> np.ndarray:
    with open_stack(path, **options) as stack:
        return np.asarray(stack)


@pytest.mark.parametrize(("lost", "kept"), [((5,), [0, 1]), ((2,), [0, 2]), ((0, 5), [1]), ((4, 5), [0, 1])])
def test_of_a_stopped_acquisition_the_complete_time_points_are_read(
    tmp_path: Path, lost: tuple[int, ...], kept: list[int]
) -> None:
    pixels, path = random_pixels(6, 20, 30), tmp_path / "a_MMStack_Pos0.ome.tif"
    there = [number for number in range(6) if number not in lost]
    acquisition(path, pixels[there], [PLACES[number] for number in there], Frames=9)
    if lost != (4, 5):  # of a whole time point that is missing at the end nothing is described
        with pytest.raises(InputError, match=rf"planes are described.*incomplete=True takes the {len(kept)}"):
            open_stack(path)
    with open_stack(path, incomplete=True) as stack:
        assert (stack.axes, stack.incomplete) == ("TCYX", True)
        np.testing.assert_array_equal(np.asarray(stack), pixels.reshape(3, 2, 20, 30)[kept])
        gone = [line for line in stack.warnings if "not complete and left out" in line]
        assert len(gone) == (lost != (4, 5))
        assert any(f"{len(kept)} of 9 time points" in line for line in stack.warnings)


def test_an_acquisition_without_a_complete_time_point_is_refused(tmp_path: Path) -> None:
    pixels, path = random_pixels(4, 20, 30), tmp_path / "a_MMStack_Pos0.ome.tif"
    acquisition(path, pixels[[0, 3]], [PLACES[0], PLACES[3]], Frames=2)
    for incomplete in (False, True):
        with pytest.raises(InputError, match="none of its time points is complete, so there is nothing to enhance"):
            open_stack(path, incomplete=incomplete)


def test_of_a_stopped_depth_stack_the_complete_depths_are_read(tmp_path: Path) -> None:
    pixels, path = random_pixels(6, 20, 30), tmp_path / "a_MMStack_Pos0.ome.tif"
    acquisition(path, pixels[:5], [(c, z, 0, 0) for z in range(3) for c in range(2)][:5], Slices=3)
    with open_stack(path, incomplete=True) as stack:
        found = np.asarray(stack)
        expected = np.moveaxis(pixels[:4].reshape(2, 2, 20, 30), 0, stack.axes.index("Z"))
        np.testing.assert_array_equal(found, expected)
        assert any("1 of 3 depths" in line and "numbers 2 " in line for line in stack.warnings)


def test_an_acquisition_that_goes_on_in_a_second_file_is_one_stack(tmp_path: Path) -> None:
    pixels, paths = random_pixels(6, 20, 30), [tmp_path / f"a_MMStack_Pos0{end}.ome.tif" for end in ("", "_1")]
    acquisition(paths[0], pixels[:4], PLACES[:4], Frames=3)
    acquisition(paths[1], pixels[4:], PLACES[4:], Frames=3)
    assert find_inputs([tmp_path])[0] == paths[:1]
    for path in paths:
        with open_stack(path) as stack:
            np.testing.assert_array_equal(np.asarray(stack), pixels.reshape(3, 2, 20, 30))
            assert set(stack.files) == set(paths)
    paths[0].unlink()
    with open_stack(paths[1]) as stack:  # what is left of it says that it is not all
        np.testing.assert_array_equal(np.asarray(stack), pixels[4:])
        assert any("1 of 3 time points" in line and "one folder" in line for line in stack.warnings)


# --- positions


def positions(folder: Path, pixels: np.ndarray, *, one_file: bool) -> list[Path]:
    """Three positions of two time points and two channels: (position, T, C, Y, X)."""
    at = [[(c, 0, t, p) for t in range(2) for c in range(2)] for p in range(3)]
    sizes = {"Frames": 2, "Channels": 2, "Positions": 3}
    if one_file:
        path = folder / "a_MMStack.ome.tif"
        acquisition(path, pixels.reshape(12, *pixels.shape[-2:]), [place for places in at for place in places], **sizes)
        return [path]
    paths = [folder / f"a_MMStack_Pos{p}.ome.tif" for p in range(3)]
    for p, path in enumerate(paths):
        acquisition(path, pixels[p].reshape(4, *pixels.shape[-2:]), at[p], **sizes)
    return paths


@pytest.mark.parametrize("one_file", [False, True])
def test_positions_are_images(tmp_path: Path, one_file: bool) -> None:
    pixels = random_pixels(3, 2, 2, 20, 30)
    paths = positions(tmp_path, pixels, one_file=one_file)
    assert find_inputs([tmp_path])[0] == paths
    for number, path in enumerate(paths):
        with open_stack(path) as stack:
            assert (stack.axes, stack.image) == ("TCYX", number)
            np.testing.assert_array_equal(np.asarray(stack), pixels[number])
            assert any(f"holds 3 images, this is number {number}; choose with image=" in w for w in stack.warnings)
        for image in range(3):
            with open_stack(path, image=image) as stack:
                np.testing.assert_array_equal(np.asarray(stack), pixels[image])
                np.testing.assert_array_equal(stack.read((1, 0), slice(3, 9)), pixels[image, 1, 0, 3:9])
                elsewhere = any("other files of the set" in line for line in stack.warnings)
                assert elsewhere == (not one_file and image != number)
    with pytest.raises(InputError, match="no image 3, the file holds 3"):
        open_stack(paths[0], image=3)


def test_a_position_that_was_stopped_is_refused_and_the_others_are_read(tmp_path: Path) -> None:
    pixels = random_pixels(3, 2, 2, 20, 30)
    paths = positions(tmp_path, pixels, one_file=False)
    acquisition(paths[1], pixels[1].reshape(4, 20, 30)[:3], [(c, 0, t, 1) for t in range(2) for c in range(2)][:3],
                Frames=2, Channels=2, Positions=3)  # fmt: skip
    np.testing.assert_array_equal(read(paths[0]), pixels[0])
    with pytest.raises(InputError, match="1 of 4 planes"):
        open_stack(paths[1])
    np.testing.assert_array_equal(read(paths[1], incomplete=True), pixels[1][:1])
    np.testing.assert_array_equal(read(paths[0], image=1, incomplete=True), pixels[1][:1])


def test_a_position_has_its_own_part_of_the_ome_xml(tmp_path: Path) -> None:
    pixels = random_pixels(2, 3, 20, 30)
    images = [
        f'<Image ID="Image:{p}"><Pixels ID="Pixels:{p}" DimensionOrder="XYCZT" Type="uint16" SizeX="30" SizeY="20" '
        f'SizeC="1" SizeZ="1" SizeT="3" PhysicalSizeX="0.{p + 1}"><Channel ID="Channel:{p}:0" Name="dye {p}" '
        'SamplesPerPixel="1"/>'
        + "".join(
            f'<TiffData FirstT="{t}" IFD="{t}" PlaneCount="1"><UUID FileName="a_MMStack_Pos{p}.ome.tif">urn:uuid:{p}'
            "</UUID></TiffData>"
            for t in range(3)
        )
        + "</Pixels></Image>"
        for p in range(2)
    ]
    text = '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">' + "".join(images) + "</OME>"
    paths = [tmp_path / f"a_MMStack_Pos{p}.ome.tif" for p in range(2)]
    for p, path in enumerate(paths):
        acquisition(path, pixels[p], [(0, 0, t, p) for t in range(3)], text, Frames=3, Channels=1, Positions=2)
    for path in paths:
        for p in range(2):
            with open_stack(path, image=p) as stack:
                np.testing.assert_array_equal(np.asarray(stack), pixels[p])
                assert (stack.channel_names, stack.pixel_size_um) == ((f"dye {p}",), {"X": (p + 1) / 10})
    paths[0].unlink()
    with open_stack(paths[1]) as stack:
        np.testing.assert_array_equal(np.asarray(stack), pixels[1])
        assert stack.channel_names == ("dye 1",)


# --- NDTiff


def test_positions_and_complete_time_points_of_ndtiff_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tifffile.TiffFile, "is_ndtiff", True)  # its header is not written here
    pixels = random_pixels(2, 3, 2, 20, 30)
    at = [{"position": p, "time": t, "channel": c} for p in range(2) for t in range(3) for c in range(2)]
    path = ndtiff(tmp_path, list(pixels.reshape(12, 20, 30)), at)
    np.testing.assert_array_equal(read(path), pixels[0])
    np.testing.assert_array_equal(read(path, image=1), pixels[1])
    path = ndtiff(tmp_path, list(pixels.reshape(12, 20, 30)[:11]), at[:11])
    np.testing.assert_array_equal(read(path), pixels[0])
    with pytest.raises(InputError, match="1 of 6 planes"):
        open_stack(path, image=1)
    np.testing.assert_array_equal(read(path, image=1, incomplete=True), pixels[1, :2])


def test_an_index_of_ndtiff_that_leads_elsewhere_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tifffile.TiffFile, "is_ndtiff", True)
    (tmp_path / "inner").mkdir()
    pixels = random_pixels(2, 20, 30)
    path = ndtiff(tmp_path / "inner", list(pixels), [{"time": t} for t in range(2)])
    np.testing.assert_array_equal(read(path), pixels)
    index = path.with_name("NDTiff.index")
    content = index.read_bytes()
    for other in ("../NDTiffStack1.tif", "b_NDTiffStack.tif"):
        name = other.encode().ljust(len(path.name), b"x")[: len(path.name)]
        index.write_bytes(content.replace(path.name.encode(), name))
        with pytest.raises(InputError, match="is no file of its folder"):
            open_stack(path)


def test_letters_are_not_advised_for_axes_that_are_known(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, random_pixels(2, 3, 20, 30), photometric="minisblack", metadata={"axes": "AZYX"})
    with pytest.raises(InputError, match="of which angle can be none of T, C, Z; save the images along it") as caught:
        open_stack(path)
    assert "axes=" not in str(caught.value)


# --- OME sets and patterns

OME = (
    '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels ID="Pixels:0" '
    'DimensionOrder="XYCZT" Type="uint16" SizeX="30" SizeY="20" SizeC="1" SizeZ="1" SizeT="5" TimeIncrement="2" '
    'PhysicalSizeX="0.5"><Channel ID="Channel:0:0" SamplesPerPixel="1"/>{planes}{times}</Pixels></Image></OME>'
)


@pytest.mark.parametrize(("lost", "step_s"), [((4,), 2.0), ((1, 3), 4.0), ((1,), None)])
def test_what_remains_of_an_ome_set_has_its_times(tmp_path: Path, lost: tuple[int, ...], step_s: float | None) -> None:
    planes = "".join(
        f'<TiffData FirstT="{t}" IFD="0" PlaneCount="1"><UUID FileName="t{t}.ome.tif">urn:uuid:{t}</UUID></TiffData>'
        for t in range(5)
    )
    times = "".join(f'<Plane TheZ="0" TheT="{t}" TheC="0" DeltaT="{2 * t}.0"/>' for t in range(5))
    pixels, kept = random_pixels(5, 20, 30), [t for t in range(5) if t not in lost]
    for t in kept:
        tifffile.imwrite(tmp_path / f"t{t}.ome.tif", pixels[t], description=OME.format(planes=planes, times=times),
                         metadata=None)  # fmt: skip
    with pytest.raises(InputError, match="incomplete=True"):
        open_stack(tmp_path / "t0.ome.tif")
    report = enhance_file(tmp_path / "t0.ome.tif", "nuclei-lowexp", incomplete=True, report=False,
                          output=tmp_path / "out.ome.tif")  # fmt: skip
    assert report.shape == (len(kept), 20, 30)
    assert any(f"{len(lost)} of 5 time points" in line for line in report.warnings)
    with open_stack(tmp_path / "out.ome.tif") as stack, tifffile.TiffFile(tmp_path / "out.ome.tif") as file:
        assert (stack.shape, stack.time_step_s) == ((len(kept), 20, 30), step_s)
        text = file.ome_metadata or ""
        assert [text.count(f'DeltaT="{2 * t}.0"') for t in range(5)] == [int(t in kept) for t in range(5)]
        for number, t in enumerate(kept):
            start = text.index(f'DeltaT="{2 * t}.0"')
            assert f'TheT="{number}"' in text[text.rindex("<", 0, start) : text.index(">", start)]


def test_of_a_pattern_the_complete_time_points_are_read(tmp_path: Path) -> None:
    pixels = random_pixels(3, 2, 20, 30)
    for t in range(3):
        for c, name in enumerate(("DAPI", "GFP")):
            if (t, c) != (2, 1):
                tifffile.imwrite(tmp_path / f"a_t{t}_{name}.tif", pixels[t, c])
    pattern = tmp_path / "a_t{T}_{C}.tif"
    with pytest.raises(
        InputError, match="1 of 6 files are missing, the first at T=2, C=GFP; incomplete=True takes the 2"
    ):
        open_stack(pattern)
    with open_stack(pattern, incomplete=True) as stack:
        np.testing.assert_array_equal(np.asarray(stack), pixels[:2])
        assert stack.channel_names == ("DAPI", "GFP")
        assert any("1 of 3 time points are not complete and left out, numbers 2 " in line for line in stack.warnings)


# --- the command line


def test_the_command_says_what_it_leaves_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels, path = random_pixels(6, 32, 30), tmp_path / "a_MMStack_Pos0.ome.tif"
    acquisition(path, pixels[:5], PLACES[:5], Frames=3)
    assert main(["enhance", str(path)]) == 2
    assert "--incomplete takes the 2 time points that are complete" in capsys.readouterr().err
    assert main(["info", str(path), "--incomplete", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["shape"] == [2, 2, 32, 30]
    assert main(["enhance", str(path), "--incomplete", "-m", "nuclei-lowexp", "--workers", "1", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    said = [line for line in answer["warnings"] if "1 of 3 time points are not complete and left out" in line]
    assert len(said) == 1
    report = json.loads((tmp_path / "a_MMStack_Pos0_report.json").read_text())
    assert said[0] in report["warnings"]
    assert "--incomplete" in report["command"]
    with open_stack(tmp_path / "a_MMStack_Pos0_enhanced.ome.tif") as out:
        with open_stack(tmp_path / "a_MMStack_Pos0_attention.ome.tif") as attention:
            kept = np.asarray(attention) == 0
        np.testing.assert_array_equal(np.asarray(out)[kept], pixels[:4].reshape(2, 2, 32, 30)[kept])
    assert main(["report", str(tmp_path / "a_MMStack_Pos0_enhanced.ome.tif"), "--json"]) == 0


def test_numbers_in_words() -> None:
    assert ranges_in_words([2]) == "2"
    assert ranges_in_words([2, 3, 4, 8, 10, 11]) == "2 to 4, 8, 10 to 11"
    assert ranges_in_words(list(range(0, 20, 2))) == "0, 2, 4, 6, 8, 10, ..."


def test_the_step_between_kept_time_points() -> None:
    assert Cut("T", (0, 1, 2), 4).calibrated(Calibration(time_step_s=3.0)).time_step_s == 3
    assert Cut("T", (0, 2, 4), 6).calibrated(Calibration(time_step_s=3.0)).time_step_s == 6
    assert Cut("T", (0, 1, 4), 6).calibrated(Calibration(time_step_s=3.0)).time_step_s is None
    assert Cut("Z", (1, 3), 6).calibrated(Calibration({"Z": 0.5})).pixel_size_um == {"Z": 1.0}
    assert Cut("Z", (1, 3), 6).calibrated(Calibration({"X": 0.5})).pixel_size_um == {"X": 0.5}
