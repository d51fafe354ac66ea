"""Masks that people made: any format, a handful of them, and one line where they do not fit."""

import shutil
import zipfile

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr

from cellxlate.errors import InputError
from cellxlate.training.fields.files import open_domain
from cellxlate.training.fields.masks import attach_masks
from cellxlate.training.fields.patches import Domain

DRAW = {"patch_px": 32, "load_px": None, "guided": True, "seed": 0}


@pytest.fixture
def domains(images) -> list[Domain]:
    return [
        open_domain([folder], number=number, patch_px=32, load_px=None, guide="masks")
        for number, folder in enumerate((images.source, images.target))
    ]


def mask_of(images, number: int) -> np.ndarray:
    return tifffile.imread(images.masks / f"faint{number}.tif")


def marked(domain: Domain) -> dict[str, np.ndarray]:
    return {one.stack.name: one.mask.read() for one in domain.fields if one.mask}


def refusal(domains, *paths) -> str:
    with pytest.raises(InputError) as caught:
        attach_masks(domains, list(paths))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_masks_find_their_images_by_name(images, domains):
    source, target = attach_masks(domains, [images.masks])
    assert list(marked(source)) == ["faint0", "faint1", "faint2", "faint3"]
    assert marked(target) == {}
    for number in range(4):
        assert np.array_equal(marked(source)[f"faint{number}"], mask_of(images, number))


@pytest.mark.parametrize("kind", ["tif", "labels", "255", "bool float", "png", "png rgba", "png 16", "zarr"])
def test_any_kind_of_mask_marks_the_same_cells(images, domains, tmp_path, kind):
    mask = mask_of(images, 1)
    if kind == "zarr":
        stored = zarr.create_array(tmp_path / "faint1.zarr", shape=mask.shape, dtype="uint8", chunks=(16, 16))
        stored[:] = mask * 3
    elif kind == "png":
        (tmp_path / "faint1.png").write_bytes(imagecodecs.png_encode(mask * 255))
    elif kind == "png 16":
        (tmp_path / "faint1.png").write_bytes(imagecodecs.png_encode(mask.astype(np.uint16) * 700))
    elif kind == "png rgba":
        # painted in red on black: alpha is full everywhere and must not count
        painted = np.zeros((*mask.shape, 4), np.uint8)
        painted[..., 0], painted[..., 3] = mask * 200, 255
        (tmp_path / "faint1.png").write_bytes(imagecodecs.png_encode(painted))
    else:
        as_saved = {
            "tif": mask,
            "labels": mask.astype(np.uint32) * np.arange(1, 65, dtype=np.uint32)[:, None] * 5000,
            "255": mask * np.uint8(255),
            "bool float": mask.astype(np.float32),
        }[kind]
        tifffile.imwrite(tmp_path / "faint1.tif", as_saved)
    source, _ = attach_masks(domains, [tmp_path])
    assert list(marked(source)) == ["faint1"]
    assert np.array_equal(marked(source)["faint1"], mask)


@pytest.mark.parametrize("name", ["faint2", "faint2_mask", "faint2_masks", "faint2_label", "faint2_labels"])
def test_a_mask_may_say_that_it_is_one(images, domains, tmp_path, name):
    shutil.copy(images.masks / "faint2.tif", tmp_path / f"{name}.tif")
    source, _ = attach_masks(domains, [tmp_path])
    assert list(marked(source)) == ["faint2"]


def test_masks_of_cellpose_and_imagej_mark_their_cells(images, domains, tmp_path):
    from roifile import ROI_TYPE, ImagejRoi

    (tmp_path / "faint0_cp_masks.png").write_bytes(imagecodecs.png_encode(mask_of(images, 0).astype(np.uint16) * 9))
    np.save(tmp_path / "faint0_seg.npy", {"masks": mask_of(images, 3)}, allow_pickle=True)  # saved twice by Cellpose
    np.save(tmp_path / "faint1_seg.npy", {"masks": mask_of(images, 1).astype(np.int32)}, allow_pickle=True)
    roi = ImagejRoi(roitype=ROI_TYPE.RECT, left=5, top=7, right=30, bottom=20)
    with zipfile.ZipFile(tmp_path / "faint2_RoiSet.zip", "w") as archive:
        archive.writestr("0001.roi", roi.tobytes())
    source, _ = attach_masks(domains, [tmp_path])
    found = marked(source)
    assert list(found) == ["faint0", "faint1", "faint2"]
    for number in range(2):
        assert np.array_equal(found[f"faint{number}"] > 0, mask_of(images, number) > 0)
    assert np.argwhere(found["faint2"])[[0, -1]].tolist() == [[7, 5], [19, 29]]


def test_images_and_their_masks_may_lie_in_one_folder(images, tmp_path):
    for number in range(4):
        shutil.copy(images.source / f"faint{number}.tif", tmp_path)
    tifffile.imwrite(tmp_path / "faint1_cp_masks.tif", mask_of(images, 1).astype(np.uint16))
    with pytest.warns(UserWarning, match="label images beside images"):
        domain = open_domain([tmp_path], number=0, patch_px=32, load_px=None, guide="masks")
    (source,) = attach_masks([domain], [tmp_path])
    assert list(marked(source)) == ["faint1"]
    tifffile.imwrite(tmp_path / "faint1_mask.tif", mask_of(images, 1))
    assert "are all masks of faint1; keep one of them" in refusal([domain], tmp_path)


def test_where_no_mask_is_found_the_message_lists_all_names_that_are_searched(images, domains, tmp_path):
    tifffile.imwrite(tmp_path / "another.tif", mask_of(images, 0))
    said = refusal(domains, tmp_path)
    for name in (
        "such as faint0",
        "NAME_cp_masks",
        "NAME_strokes",
        ".png",
        "NAME_seg.npy",
        "NAME_RoiSet",
        ".zip, .roi",
    ):
        assert name in said


def test_fields_without_a_mask_have_no_guide(images, domains, tmp_path):
    shutil.copy(images.masks / "faint0.tif", tmp_path)
    source, target = attach_masks(domains, [tmp_path])
    guides = source.draw(0, 8, **DRAW).guides
    known = [float(guide.min()) >= 0 for guide in guides]
    assert 0 < known.count(True) < 8
    assert all((guide == -1).all() for guide, has in zip(guides, known, strict=True) if not has)
    assert (target.draw(0, 4, **DRAW).guides == -1).all()


def test_a_handful_of_masks_is_seen_as_often_as_all_fields_together(images, domains, tmp_path):
    shutil.copy(images.masks / "faint0.tif", tmp_path)
    source, _ = attach_masks(domains, [tmp_path])
    many = source.draw(0, 24, **DRAW).guides.min(axis=(1, 2, 3)) >= 0
    assert many[::2].all()  # every other patch is drawn from the field with a mask
    assert many[1::2].sum() == 3  # and once in each of three passes over all four
    again = np.concatenate([source.draw(step, 3, **DRAW).images for step in range(8)])
    assert np.array_equal(again, source.draw(0, 24, **DRAW).images)
    plain = source.draw(0, 24, **{**DRAW, "guided": False}).images
    unmasked = domains[0].draw(0, 24, **{**DRAW, "guided": False}).images
    assert np.array_equal(plain, unmasked)


def test_where_half_the_fields_have_masks_all_come_equally_often(images, domains, tmp_path):
    for number in (0, 2):
        shutil.copy(images.masks / f"faint{number}.tif", tmp_path)
    source, _ = attach_masks(domains, [tmp_path])
    assert (source.draw(0, 24, **DRAW).guides.min(axis=(1, 2, 3)) >= 0).sum() == 12


def test_a_patch_and_its_mask_are_cut_and_turned_alike(images, domains):
    source, _ = attach_masks(domains, [images.masks])
    for step in range(8):
        drawn = source.draw(step, 1, **DRAW)
        inside = drawn.images[drawn.guides > 0]
        outside = drawn.images[drawn.guides == 0]
        assert inside.mean() > outside.mean() + 0.1


def test_target_images_may_have_masks_too(images, domains, tmp_path):
    shutil.copy(images.masks / "faint0.tif", tmp_path / "clear3.tif")
    shutil.copy(images.masks / "faint1.tif", tmp_path / "faint1.tif")
    source, target = attach_masks(domains, [tmp_path])
    assert list(marked(source)) == ["faint1"]
    assert list(marked(target)) == ["clear3"]


def test_folders_named_source_and_target_keep_equal_names_apart(images, tmp_path):
    same = tmp_path / "same"
    shutil.copytree(images.source, same)
    domains = [
        open_domain([folder], number=number, patch_px=32, load_px=None, guide="masks")
        for number, folder in enumerate((images.source, same))
    ]
    assert "source and target images named faint0" in refusal(domains, images.masks)
    (tmp_path / "masks").mkdir()
    shutil.copytree(images.masks, tmp_path / "masks" / "target")
    source, target = attach_masks(domains, [tmp_path / "masks"])
    assert len(marked(source)) == 0
    assert len(marked(target)) == 4


def test_a_mask_of_one_plane_without_cells_says_so(images, domains, tmp_path):
    shutil.copy(images.masks / "faint0.tif", tmp_path)
    tifffile.imwrite(tmp_path / "faint1.tif", np.zeros((64, 64), np.uint8))
    source, _ = attach_masks(domains, [tmp_path])
    assert list(marked(source)) == ["faint0", "faint1"]
    assert not marked(source)["faint1"].any()


def test_planes_that_were_not_painted_have_no_guide(images, tmp_path):
    planes = np.stack([tifffile.imread(images.source / f"faint{number}.tif") for number in range(4)])
    painted = np.zeros((4, 64, 64), np.uint16)
    painted[2] = mask_of(images, 2) * 9
    (tmp_path / "stacks").mkdir()
    (tmp_path / "masks").mkdir()
    tifffile.imwrite(tmp_path / "stacks" / "movie.tif", planes, metadata={"axes": "TYX"}, imagej=True)
    tifffile.imwrite(tmp_path / "masks" / "movie.tif", painted, metadata={"axes": "TYX"}, imagej=True)
    domains = [
        open_domain([folder], number=number, patch_px=32, load_px=None, guide="masks")
        for number, folder in enumerate((tmp_path / "stacks", images.target))
    ]
    source, _ = attach_masks(domains, [tmp_path / "masks"])
    assert [one.mask is not None for one in source.fields] == [False, False, True, False]
    assert np.array_equal(source.fields[2].mask.read(), mask_of(images, 2))
    tifffile.imwrite(tmp_path / "masks" / "movie.tif", painted[:3], metadata={"axes": "TYX"}, imagej=True)
    assert "has 3 planes, its image 4" in refusal(domains, tmp_path / "masks")


def test_masks_that_do_not_fit_are_refused_in_one_line(images, domains, tmp_path):
    def folder(name, **masks):
        (tmp_path / name).mkdir()
        for stem, mask in masks.items():
            tifffile.imwrite(tmp_path / name / f"{stem}.tif", mask)
        return tmp_path / name

    mask = mask_of(images, 0)
    assert "is 64 x 60 px, its image 64 x 64 px" in refusal(domains, folder("size", faint0=mask[:, :60]))
    assert "none of the 1 masks has the name of an image" in refusal(domains, folder("other", somebody=mask))
    assert "mark no cell" in refusal(domains, folder("blank", faint0=np.zeros_like(mask)))
    assert "holds no mask" in refusal(domains, folder("empty"))
    assert "do not exist" in refusal(domains, tmp_path / "nowhere")
    (folder("bad") / "faint0.png").write_bytes(b"\x89PNG nonsense")
    assert "not a PNG file that can be read" in refusal(domains, tmp_path / "bad")
    (folder("bad tiff") / "faint0.tif").write_bytes(b"II*\x00 nonsense")
    refusal(domains, tmp_path / "bad tiff")


def test_masks_of_other_images_are_left_out(images, domains, tmp_path):
    shutil.copy(images.masks / "faint0.tif", tmp_path)
    shutil.copy(images.masks / "faint0.tif", tmp_path / "another.tif")
    source, _ = attach_masks(domains, [tmp_path])
    assert list(marked(source)) == ["faint0"]


def test_a_single_file_is_taken_as_well(images, domains):
    source, _ = attach_masks(domains, [images.masks / "faint3.tif"])
    assert list(marked(source)) == ["faint3"]
