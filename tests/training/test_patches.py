"""Patches: a function of seed and step, on the scale of their field, with content where it is asked for."""

from dataclasses import replace

import numpy as np
import pytest
import tifffile

from cellxlate.errors import InputError, OptionError
from cellxlate.stacks.intensity.range import IntensityRange, measure_range
from cellxlate.stacks.read.open import open_stack
from cellxlate.stacks.stack import Stack
from cellxlate.training.fields import files as files_module
from cellxlate.training.fields import patches as patches_module
from cellxlate.training.fields.files import open_domain
from cellxlate.training.fields.guides import REACH_PX, saliency
from cellxlate.training.fields.patches import Domain, Field, brightest_window, has_contrast, shows_content

DRAW = {"patch_px": 32, "load_px": None, "guided": True, "seed": 0}


def domain_of(*planes: np.ndarray, number: int = 0, guide="saliency") -> Domain:
    return Domain(
        [Field(Stack.from_array(plane, "YX", name=f"f{place}"), (), measure_range([plane]))
         for place, plane in enumerate(planes)],
        number, guide,
    )  # fmt: skip


@pytest.fixture
def domain(images) -> Domain:
    return open_domain([images.source], number=0, patch_px=32, load_px=None)


def test_a_draw_is_a_function_of_seed_and_step(domain, images):
    later = domain.draw(7, 3, **DRAW)
    for step in range(5):
        domain.draw(step, 3, **DRAW)
    again = open_domain([images.source], number=0, patch_px=32, load_px=None).draw(7, 3, **DRAW)
    assert np.array_equal(later.images, again.images)
    assert np.array_equal(later.guides, again.guides)
    assert np.array_equal(later.images, domain.draw(7, 3, **DRAW).images)


def test_seed_step_and_domain_change_the_draw(domain, images):
    first = domain.draw(0, 2, **DRAW).images
    target = open_domain([images.source], number=1, patch_px=32, load_px=None)
    for other in (domain.draw(1, 2, **DRAW), domain.draw(0, 2, **{**DRAW, "seed": 1}), target.draw(0, 2, **DRAW)):
        assert not np.array_equal(first, other.images)


def test_batches_cut_one_sequence(domain):
    one_by_one = np.concatenate([domain.draw(step, 1, **DRAW).images for step in range(6)])
    together = np.concatenate([domain.draw(step, 3, **DRAW).images for step in range(2)])
    assert np.array_equal(one_by_one, together)


def test_every_field_comes_once_per_pass_in_another_order():
    planes = [np.full((40, 40), value, np.uint16) for value in range(10, 16)]
    domain = Domain(
        [Field(Stack.from_array(plane, "YX"), (), IntensityRange(0, 1)) for plane in planes], 0, "none"
    )  # fmt: skip
    laps = [
        [int(domain.draw(lap * 6 + step, 1, **DRAW).images[0, 0, 0, 0]) for step in range(6)] for lap in range(4)
    ]  # fmt: skip
    assert all(sorted(lap) == [10, 11, 12, 13, 14, 15] for lap in laps)
    assert len({tuple(lap) for lap in laps}) > 1


def test_patches_are_in_the_unit_range_of_their_own_field():
    brightness = np.random.default_rng(0).integers(0, 400, (64, 64))
    exposed = [(100 + brightness * gain).astype(np.uint16) for gain in (1, 3)]
    domain = domain_of(*exposed)
    for step in range(4):
        patch = domain.draw(step, 1, **DRAW).images
        assert patch.dtype == np.float32
        assert patch.shape == (1, 1, 32, 32)
    number = [int(np.random.default_rng([0, 0, 0]).permutation(2)[0])]
    row = domain.fields[number[0]]
    image, _ = patches_module.read_window(row, 3, 5, 32, "none")
    assert np.array_equal(image, row.intensity.to_unit(exposed[number[0]][3:35, 5:37]))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "float64", ">u2"])
def test_any_dtype_is_read(tmp_path, make_cells, dtype):
    for number in range(2):
        plane = make_cells(number)[0]
        counts = plane if dtype.startswith("float") else (plane * 200).round()
        tifffile.imwrite(tmp_path / f"{number}.tif", counts.astype(dtype))
    domain = open_domain([tmp_path], number=0, patch_px=32, load_px=None)
    patch = domain.draw(0, 4, **DRAW)
    assert patch.images.max() > 0.8
    assert patch.images.min() > -0.2
    assert patch.guides.mean() > 0.02
    domain.close()


def test_flips_and_turns_keep_image_and_guide_together():
    plane = np.zeros((40, 40), np.float32)
    plane[:15, :10] = 1
    domain = domain_of(plane, plane)
    domain._saliency = {0: plane > 0, 1: plane > 0}
    seen = set()
    for step in range(60):
        drawn = domain.draw(step, 1, **{**DRAW, "patch_px": 40})
        assert np.array_equal(drawn.images[0, 0] > 0.5, drawn.guides[0, 0] > 0.5)
        seen.add(drawn.guides.tobytes())
    assert len(seen) == 8


def test_without_turns_patches_are_flipped_left_to_right_alone():
    # method section 4, data (C): random flip
    plane = np.zeros((40, 40), np.float32)
    plane[:15, :10] = 1
    domain = domain_of(plane, plane, guide="none")
    seen = {domain.draw(step, 1, **{**DRAW, "patch_px": 40, "turns": False}).images.tobytes() for step in range(40)}
    expected = domain.fields[0].intensity.to_unit(plane)
    assert seen == {expected.tobytes(), np.ascontiguousarray(expected[:, ::-1]).tobytes()}


def test_windows_are_enlarged_as_the_paper_enlarges_images():
    # method section 4, data (C): resized to 286, cropped to 256: structures grow by 286 / 256
    assert patches_module.window_px(256, 286) == 229
    assert patches_module.window_px(128, None) == 128
    columns = np.tile(np.arange(300, dtype=np.float32), (300, 1))
    domain = Domain([Field(Stack.from_array(columns, "YX"), (), IntensityRange(0, 1))] * 2, 0, "none")
    patch = domain.draw(0, 1, patch_px=256, load_px=286, guided=False, seed=0, turns=False).images[0, 0]
    assert patch.shape == (256, 256)
    slope = np.abs(np.diff(patch[128, 10:-10])).mean()
    assert slope == pytest.approx(229 / 256, rel=1e-3)


# guides of patches


def test_without_a_guide_it_is_minus_one_throughout(domain):
    assert (domain.draw(0, 2, **{**DRAW, "guided": False}).guides == -1).all()
    unmarked = Domain(domain.fields, 0, "masks")
    assert (unmarked.draw(0, 2, **DRAW).guides == -1).all()


def test_large_stacks_are_read_by_windows_with_the_same_result(images, monkeypatch):
    kept = open_domain([images.source], number=0, patch_px=32, load_px=None)
    monkeypatch.setattr(files_module, "LARGEST_KEPT_PX", 0)
    lazy = open_domain([images.source], number=0, patch_px=32, load_px=None)
    monkeypatch.setattr(files_module, "MOST_OPEN_FILES", 1)
    reopened = open_domain([images.source], number=0, patch_px=32, load_px=None)
    assert isinstance(kept.fields[0].stack.pixels, np.ndarray)
    assert not isinstance(lazy.fields[0].stack.pixels, np.ndarray)
    assert isinstance(reopened.fields[-1].stack.pixels, files_module.ReopenedPixels)
    for step in range(8):
        one, two, three = (domain.draw(step, 1, **DRAW) for domain in (kept, lazy, reopened))
        assert np.array_equal(one.images, two.images)
        assert np.array_equal(one.guides, two.guides)
        assert np.array_equal(one.images, three.images)
    lazy.close()
    reopened.close()


def test_small_files_are_not_kept_open(images, monkeypatch):
    opened = []

    def remember(*arguments):
        opened.append(open_stack(*arguments))
        closed = opened[-1]
        return replace(closed, release=lambda: (released.append(closed), closed.close()))

    released: list[Stack] = []
    monkeypatch.setattr(files_module, "open_stack", remember)
    domain = open_domain([images.source], number=0, patch_px=32, load_px=None)
    assert len(opened) == len(released) == 4
    domain.draw(0, 4, **DRAW)
    assert len(opened) == 4


def test_whatever_is_refused_is_closed_again(tmp_path, good, monkeypatch):
    opened, released = [], []

    def remember(*arguments):
        stack = open_stack(*arguments)
        opened.append(stack)
        return replace(stack, release=lambda: (released.append(stack), stack.close()))

    monkeypatch.setattr(files_module, "open_stack", remember)
    monkeypatch.setattr(files_module, "LARGEST_KEPT_PX", 0)
    refusal(write(tmp_path / "mixed", a=good[0], b=good[1], c=np.full_like(good[0], 7)))
    assert len(opened) == 3
    assert len(released) == 3


def test_only_the_windows_that_are_drawn_are_read():
    class Counting:
        shape, dtype = (4, 5000, 5000), np.dtype("uint16")
        pixels_read = 0

        def __getitem__(self, key):
            _, rows, columns = key
            window = np.indices((rows.stop - rows.start, columns.stop - columns.start)).sum(0) % 97
            Counting.pixels_read += window.size
            return window.astype(np.uint16)

    fields = [Field(Stack(Counting(), "ZYX"), (plane,), IntensityRange(0, 100, 1)) for plane in range(4)]
    Domain(fields, 0).draw(0, 4, **DRAW)
    assert 0 < Counting.pixels_read <= 4 * (32 + 2 * REACH_PX) ** 2


# patches without content


def test_patches_of_noise_alone_are_drawn_again_for_networks_that_normalise(make_cells):
    rng = np.random.default_rng(0)
    sparse = 100 + rng.normal(0, 5, (256, 256))
    sparse[100:164, 100:164] += 300 * make_cells(0)[0]
    empty = 100 + rng.normal(0, 5, (256, 256))
    domain = domain_of(sparse, empty)
    assert not has_contrast(domain.fields[1])
    plain = [domain.draw(step, 1, **DRAW).images[0, 0] for step in range(30)]
    with_content = [domain.draw(step, 1, **DRAW, content=True).images[0, 0] for step in range(30)]
    assert not all(shows_content(patch) for patch in plain)
    assert all(shows_content(patch) for patch in with_content)
    again = [domain.draw(step, 1, **DRAW, content=True).images[0, 0] for step in range(30)]
    assert all(np.array_equal(one, other) for one, other in zip(with_content, again, strict=True))


def test_a_speck_in_a_large_field_is_found_in_the_end():
    plane = np.full((1500, 1500), 100.0)
    plane += np.random.default_rng(0).normal(0, 1, plane.shape)
    plane[700:706, 40:46] = 9000
    field = Field(Stack.from_array(plane, "YX"), (), IntensityRange(100, 300, 1))
    assert brightest_window(field, 32) == (pytest.approx(687, abs=2), pytest.approx(27, abs=2))
    domain = Domain([field, field], 0, "none")
    assert all(domain.draw(step, 1, **DRAW, content=True).images.max() > 10 for step in range(10))


def test_content_is_told_from_noise_and_from_constants():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.1, (64, 64)).astype(np.float32)
    cell = noise.copy()
    cell[20:30, 20:30] += 2
    assert not shows_content(np.full((64, 64), 0.3, np.float32))
    assert not shows_content(noise)
    assert shows_content(cell)


# opening


def write(folder, **planes):
    folder.mkdir(exist_ok=True)
    for name, plane in planes.items():
        tifffile.imwrite(folder / f"{name}.tif", plane)
    return folder


def refusal(*paths, patch_px=32, **options) -> str:
    with pytest.raises(InputError) as caught:
        open_domain(list(paths), number=options.pop("number", 0), patch_px=patch_px, load_px=None, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def good(make_cells):
    return [(100 + 1000 * make_cells(seed)[0]).astype(np.uint16) for seed in range(3)]


def test_wrong_input_is_refused_in_one_line(tmp_path, good):
    (tmp_path / "empty").mkdir()
    assert "holds no" in refusal(tmp_path / "empty")
    assert "does not exist" in refusal(tmp_path / "nowhere")
    assert "found 1 plane" in refusal(write(tmp_path / "one", a=good[0]))
    assert "smaller than a patch of 32 x 32" in refusal(write(tmp_path / "small", a=good[0], b=good[1][:20]))
    assert "smaller than a patch of 72 x 72" in refusal(write(tmp_path / "small2", a=good[0]), patch_px=72)
    constant = refusal(write(tmp_path / "constant", a=good[0], b=np.full_like(good[0], 300)))
    assert "all pixels are 300" in constant
    assert "b.tif" in constant
    broken = good[1].astype(np.float32)
    broken[3, 4], broken[5, 6] = np.nan, np.inf
    nan = refusal(write(tmp_path / "nan", a=good[0], b=broken))
    assert "2 pixels are NaN or infinite" in nan
    noise = [np.random.default_rng(seed).normal(100, 5, (64, 64)).astype(np.float32) for seed in range(2)]
    assert "contrast" in refusal(write(tmp_path / "noise", a=noise[0], b=noise[1]))


def test_channels_must_be_chosen_and_agree(tmp_path, good):
    colour = np.stack(good[:2])
    for name in "ab":
        folder = tmp_path / "two"
        folder.mkdir(exist_ok=True)
        tifffile.imwrite(folder / f"{name}.tif", colour, metadata={"axes": "CYX"}, ome=True)
    assert "2 channels; choose one with channel=" in refusal(folder)
    for channel in (2, -1):
        with pytest.raises(OptionError, match=f"a.tif has no channel '{channel}'; there are: numbers 0 to 1"):
            refusal(folder, channel=channel)
    chosen = open_domain([folder], number=0, patch_px=32, load_px=None, channel=1)
    assert len(chosen) == 2
    assert np.array_equal(chosen.fields[0].stack.read(chosen.fields[0].index), good[1])
    write(folder, c=good[2])
    assert "2 channels and" in refusal(folder, channel=0)


def test_every_plane_of_a_stack_is_a_field(tmp_path, good):
    tifffile.imwrite(tmp_path / "stack.tif", np.stack(good), metadata={"axes": "ZYX"}, imagej=True)
    domain = open_domain([tmp_path], number=0, patch_px=32, load_px=None)
    assert len(domain) == 3
    assert [np.array_equal(one.stack.read(one.index), plane) for one, plane in zip(domain.fields, good, strict=True)]


def test_the_saliency_of_a_patch_is_that_of_its_plane(domain):
    field = domain.fields[0]
    whole = saliency(field.stack.read(field.index), field.intensity)
    _, guide = domain._window(0, 10, 20, 32, True)
    assert np.array_equal(guide, whole[10:42, 20:52])
