"""Masks by the names that people give them, as Cellpose and ImageJ save them."""

import pickle
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
from roifile import ROI_OPTIONS, ROI_SUBTYPE, ROI_TYPE, ImagejRoi
from skimage.draw import polygon

from cellxlate.errors import InputError
from cellxlate.stacks.masks.cellpose import read_cellpose
from cellxlate.stacks.masks.names import EXPECTED, image_names, mask_files, masks_of
from cellxlate.stacks.masks.open import open_mask
from cellxlate.stacks.masks.rois import filled
from cellxlate.stacks.stack import Stack

PLANE = Stack.from_array(np.zeros((40, 50), np.uint8))
CELLS = np.zeros((40, 50), np.uint16)
CELLS[3:20, 5:25] = 1
CELLS[22:30, 30:48] = 700


def cellpose(path, masks, protocol=4):
    """Save as Cellpose 3 does: `numpy.save` of a mapping with the mask among other things."""
    content = {
        "outlines": masks * 0, "colors": np.zeros((2, 3), np.uint8), "masks": masks, "chan_choose": [0, 0],
        "ismanual": np.zeros(2, bool), "filename": str(path), "est_diam": np.float64(17.5), "model_path": 0,
        "flows": [[np.zeros((40, 50, 3), np.uint8)], [], [np.float32(1.5)]], "manual_changes": [], "zdraw": [None],
    }  # fmt: skip
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }"
    header += b" " * (117 - len(header)) + b"\n"
    whole = np.empty((), object)
    whole[()] = content
    start = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    path.write_bytes(start + pickle.dumps(whole, protocol=protocol))
    return path


def region(kind, corners=None, box=None, **stated):
    roi = ImagejRoi(roitype=kind, **stated) if corners is None else ImagejRoi.frompoints(np.array(corners))
    roi.roitype = kind
    if box is not None:
        roi.left, roi.top, roi.right, roi.bottom = box
    for key, value in stated.items():
        setattr(roi, key, value)
    return roi


def zipped(path, *regions):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, roi in enumerate(regions):
            archive.writestr(f"{number:04}-cell.roi", roi.tobytes())
    return path


def refused(path, like=PLANE):
    with pytest.raises(InputError) as caught:
        open_mask(path, like)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("file", "names"),
    [
        ("a.tif", ["a"]), ("a_mask.ome.tif", ["a_mask", "a"]), ("a_cp_masks.png", ["a_cp_masks", "a_cp", "a"]),
        ("a_strokes.tif", ["a_strokes", "a"]), ("a_seg.npy", ["a"]), ("a.ome_seg.npy", ["a.ome", "a"]),
        ("a.zip", ["a"]), ("a_RoiSet.zip", ["a_RoiSet", "a"]), ("a.tif.zip", ["a.tif", "a"]), ("a.roi", ["a"]),
        ("a_labels.zarr", ["a_labels", "a"]), ("a.zarr.zip", ["a"]), ("b c_masks.TIF", ["b c_masks", "b c"]),
    ],
)  # fmt: skip
def test_the_name_of_a_mask_says_whose_it_is(file, names):
    assert list(image_names(Path(file))) == names


def test_the_message_lists_all_that_is_searched(tmp_path):
    for ending in (
        "_mask",
        "_masks",
        "_label",
        "_labels",
        "_cp_masks",
        "_strokes",
        "_seg.npy",
        "_RoiSet",
        ".roi",
        ".png",
    ):
        assert ending in EXPECTED
    tifffile.imwrite(tmp_path / "other.tif", CELLS)
    with pytest.raises(InputError, match=r"no mask of an image such as a \(it holds other.tif\); a mask is called"):
        masks_of({"a"}, tmp_path, [])


def test_images_and_masks_may_share_a_folder(tmp_path):
    for name in ("a.tif", "b.tif", "a_cp_masks.tif", "b_mask.tif", "a_flows.tif", "b_strokes.tif"):
        tifffile.imwrite(tmp_path / name, CELLS)
    cellpose(tmp_path / "a_seg.npy", CELLS)
    images = [tmp_path / "a.tif", tmp_path / "b.tif"]
    found = masks_of({"a", "b"}, tmp_path, images)
    assert {name: path.name for name, path in found.items()} == {"a": "a_cp_masks.tif", "b": "b_mask.tif"}
    zipped(tmp_path / "b.zip", region(ROI_TYPE.RECT, box=(1, 2, 8, 9)))
    with pytest.raises(InputError, match="are all masks of b; keep one of them"):
        masks_of({"a", "b"}, tmp_path, images)
    (tmp_path / ".hidden_mask.tif").write_bytes(b"")
    assert tmp_path / ".hidden_mask.tif" not in mask_files(tmp_path)


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("dtype", ["uint16", "int32", ">u2", "uint32"])
def test_what_cellpose_saves_is_read_without_running_it(tmp_path, protocol, dtype):
    mask = CELLS.astype(dtype)
    read = read_cellpose(cellpose(tmp_path / "a_seg.npy", mask, protocol))
    assert np.array_equal(read, CELLS)
    assert read.dtype == np.uint16


def test_what_numpy_saves_of_a_mapping_is_read(tmp_path):
    np.save(tmp_path / "a_seg.npy", {"masks": np.asfortranarray(CELLS), "filename": "a"}, allow_pickle=True)
    assert np.array_equal(read_cellpose(tmp_path / "a_seg.npy"), CELLS)
    stack = Stack.from_array(np.zeros((3, 40, 50), np.uint8), "TYX")
    cellpose(tmp_path / "b_seg.npy", np.stack([CELLS] * 3))
    mask = open_mask(tmp_path / "b_seg.npy", stack)
    assert mask.axes == "TYX"
    assert np.array_equal(np.asarray(mask)[1], CELLS)


def test_other_files_of_numpy_are_refused_in_one_line(tmp_path):
    path = tmp_path / "a_seg.npy"
    for content in (
        {"outlines": CELLS},
        {"masks": [1, 2]},
        {"masks": CELLS / 2},
        [CELLS],
        {"masks": -CELLS.astype(int)},
    ):
        np.save(path, np.array(content, object) if isinstance(content, dict) else content)
        assert "PNG or TIFF" in refused(path)
    path.write_bytes(b"")
    refused(path)
    whole = cellpose(path, CELLS).read_bytes()
    for length in (5, 60, 200, len(whole) - 3000, len(whole) - 2):
        path.write_bytes(whole[:length])
        refused(path)


CORNERS = [[5, 3], [25, 3], [31, 20], [12, 38], [7, 22]]


@pytest.mark.parametrize("kind", [ROI_TYPE.POLYGON, ROI_TYPE.FREEHAND, ROI_TYPE.TRACED])
def test_outlines_hold_the_pixels_whose_centre_is_inside(tmp_path, kind):
    mask = open_mask(zipped(tmp_path / "a.zip", region(kind, CORNERS)), PLANE)
    wanted = np.zeros((40, 50), bool)
    columns, rows = np.array(CORNERS, float).T
    wanted[polygon(rows - 0.5, columns - 0.5, wanted.shape)] = True
    assert mask.axes == "YX"
    assert np.array_equal(np.asarray(mask) > 0, wanted)
    square = [[5, 3], [25, 3], [25, 20], [5, 20]]  # corners of pixels: 20 x 17 of them
    assert (np.asarray(open_mask(zipped(tmp_path / "b.zip", region(kind, square)), PLANE)) > 0).sum() == 340


def test_long_outlines_that_cross_themselves_are_drawn_soon():
    angle = np.linspace(0, 2 * np.pi, 20_000, endpoint=False)
    radius = 140 + 60 * np.sin(9.5 * angle)
    outline = np.stack([200 + radius * np.cos(2 * angle), 200 + radius * np.sin(2 * angle)], axis=1)
    few = outline[::200]
    wanted = np.zeros((400, 400), bool)
    wanted[polygon(few[:, 1] - 0.5, few[:, 0] - 0.5, wanted.shape)] = True
    assert np.array_equal(filled([few], wanted.shape, Path("a")), wanted)
    start = time.process_time()
    filled([outline], (400, 400), Path("a"))
    assert time.process_time() - start < 1  # scikit-image's polygon takes minutes


def test_boxes_ovals_and_holes_are_what_imagej_shows(tmp_path):
    rect, oval = region(ROI_TYPE.RECT, box=(5, 3, 25, 20)), region(ROI_TYPE.OVAL, box=(30, 4, 48, 14))
    path = [0, 2, 22, 1, 22, 22, 1, 22, 38, 1, 2, 38, 4, 0, 8, 26, 1, 14, 26, 1, 14, 34, 1, 8, 34, 4]
    paths = np.array(path, np.float32)
    paths[1:3], paths[0] = (2, 22), 0
    holed = region(ROI_TYPE.RECT, box=(2, 22, 22, 38), multi_coordinates=paths, shape_roi_size=len(path))
    labels = np.asarray(open_mask(zipped(tmp_path / "a_RoiSet.zip", rect, oval, holed), PLANE))
    assert labels.dtype == np.uint16
    assert (labels == 1).sum() == 20 * 17
    assert (labels[3:20, 5:25] == 1).all()
    assert abs((labels == 2).sum() - np.pi * 9 * 5) < 4
    assert np.array_equal(labels[4:14, 30:48] == 2, (labels[4:14, 30:48] == 2)[::-1, ::-1])
    assert (labels[26:34, 8:14] == 0).all()
    assert (labels == 3).sum() == 20 * 16 - 6 * 8


def test_a_single_region_is_a_file_of_its_own(tmp_path):
    path = tmp_path / "a.roi"
    path.write_bytes(region(ROI_TYPE.OVAL, box=(-5, -5, 5, 5)).tobytes())
    labels = np.asarray(open_mask(path, PLANE))
    assert labels[0, 0] == 1
    assert labels[5:].max() == 0


@pytest.mark.parametrize(
    ("axes", "shape", "stated", "planes"),
    [
        ("TZYX", (2, 3, 40, 50), {"z_position": 2, "t_position": 2}, {(1, 1)}),
        ("TZYX", (2, 3, 40, 50), {"z_position": 2}, {(0, 1), (1, 1)}),
        ("TZYX", (2, 3, 40, 50), {"position": 5}, {(1, 1)}),
        ("ZCYX", (3, 2, 40, 50), {"position": 4}, {(1,)}),
        ("TYX", (4, 40, 50), {"position": 3}, {(2,)}),
        ("TYX", (4, 40, 50), {"z_position": 3, "t_position": 1, "c_position": 1}, {(2,)}),
        ("TYX", (4, 40, 50), {}, {(0,), (1,), (2,), (3,)}),
        ("YX", (40, 50), {"position": 1}, {()}),
    ],
)
def test_regions_lie_in_the_planes_that_they_state(tmp_path, axes, shape, stated, planes):
    like = Stack.from_array(np.zeros(shape, np.uint8), axes)
    mask = open_mask(zipped(tmp_path / "a.zip", region(ROI_TYPE.RECT, box=(1, 2, 8, 9), **stated)), like)
    assert mask.axes == axes.replace("C", "")
    assert {index for index in mask.plane_indices() if mask.read(index).any()} == planes


def test_regions_of_large_stacks_are_drawn_when_they_are_read(tmp_path):
    like = Stack.from_array(np.broadcast_to(np.uint8(0), (300, 400, 500)), "TYX")
    mask = open_mask(zipped(tmp_path / "a.zip", region(ROI_TYPE.RECT, box=(1, 2, 8, 9), position=7)), like)
    assert not isinstance(mask.pixels, np.ndarray)
    assert mask.read((6,), slice(2, 9), slice(1, 8)).all()
    assert not mask.read((5,)).any()


def test_regions_that_are_no_areas_or_of_other_images_are_refused(tmp_path):
    path = tmp_path / "a.zip"
    square = region(ROI_TYPE.RECT, box=(1, 2, 8, 9))
    for kind in (ROI_TYPE.POLYLINE, ROI_TYPE.FREELINE, ROI_TYPE.POINT, ROI_TYPE.ANGLE):
        assert f"is a {kind.name.lower()}, expected an area" in refused(zipped(path, square, region(kind, CORNERS)))
    assert "is a line" in refused(zipped(path, region(ROI_TYPE.LINE, x1=1, y1=2, x2=8, y2=9)))
    text = region(ROI_TYPE.RECT, box=(1, 2, 8, 9), subtype=ROI_SUBTYPE.TEXT, text="no cell", text_size=9, text_name="a")
    assert "is a text" in refused(zipped(path, text))
    assert "round corners" in refused(zipped(path, region(ROI_TYPE.RECT, box=(1, 2, 8, 9), rounded_rect_arc_size=3)))
    assert "lies outside its image of 40 x 50 px" in refused(zipped(path, region(ROI_TYPE.RECT, box=(51, 2, 60, 9))))
    assert "lies in plane 4" in refused(zipped(path, region(ROI_TYPE.RECT, box=(1, 2, 8, 9), position=4)))
    assert "holds no ImageJ region" in refused(zipped(path))
    path.write_bytes(b"PK nonsense")
    refused(path)
    (tmp_path / "b.roi").write_bytes(square.tobytes()[:50])
    refused(tmp_path / "b.roi")


def test_outlines_between_pixels_are_drawn_where_they_are(tmp_path):
    roi = ImagejRoi.frompoints(np.array([[5.6, 3.2], [24.4, 3.2], [24.4, 19.9], [5.6, 19.9]], np.float32))
    roi.options |= ROI_OPTIONS.SUB_PIXEL_RESOLUTION
    labels = np.asarray(open_mask(zipped(tmp_path / "a.zip", roi), PLANE))
    assert np.array_equal(np.argwhere(labels)[[0, -1]], [[3, 6], [19, 23]])
    assert (labels > 0).sum() == 17 * 18
