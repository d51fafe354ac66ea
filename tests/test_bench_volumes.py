"""The measures of the benchmark of volumes, on arrays whose answers are known."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile

from cellxlate.stacks.stack import Stack

BENCH = Path(__file__).parent / "bench"
CAMERA = {"exposure": "0.1", "e_per_adu": "0.6", "read_noise": "2.5", "offset": "100", "noise_sigma_px": "0"}


@pytest.fixture(scope="module")
def bench() -> Iterator[Any]:
    """The scripts of tests/bench by name; they import each other from their own folder."""
    sys.path.insert(0, str(BENCH))
    yield importlib.import_module
    sys.path.remove(str(BENCH))
    for name in ("volumes", "links", "pairs"):
        sys.modules.pop(name, None)


def discs(*centres: tuple[int, int], radius: int = 6) -> npt.NDArray[np.int64]:
    rows, columns = np.indices((80, 80))
    labels = np.zeros((80, 80), np.int64)
    for number, (row, column) in enumerate(centres, 1):
        labels[(rows - row) ** 2 + (columns - column) ** 2 <= radius**2] = number
    return labels


MASKS = [discs((15, 15), (15, 60), (60, 30)), discs((18, 17), (15, 63), (60, 34)), discs((60, 38), (21, 19), (15, 66))]
"""Three objects that move a little; in the last frame their numbers are others."""


def test_labels_are_linked_to_the_nearest_and_each_once(bench: Any) -> None:
    link = bench("links").link
    assert link(MASKS[0], MASKS[1], reach_px=6) == {(1, 1), (2, 2), (3, 3)}
    assert link(MASKS[1], MASKS[2], reach_px=6) == {(1, 2), (2, 3), (3, 1)}
    assert link(MASKS[0], MASKS[1], reach_px=3.5) == {(2, 2)}
    assert link(MASKS[0], 0 * MASKS[1], reach_px=6) == set()
    near, rest = discs((30, 30)), discs((30, 30), (34, 30), radius=1)
    assert link(near, rest, reach_px=20) == {(1, 1)}


def test_all_links_are_kept_where_the_objects_are_those_of_the_masks(bench: Any) -> None:
    links = bench("links")
    renumbered = [np.where(one > 0, one + 5, 0) for one in MASKS]
    kept = links.links_kept(renumbered, MASKS, reach_px=6)
    assert kept == links.Kept(objects=9, objects_found=9, extra=0, links=6, links_kept=6, links_wrong=0)
    assert kept.percent == 100


def test_an_object_that_is_lost_in_one_frame_costs_its_two_links_and_one_too_many_costs_none(bench: Any) -> None:
    links = bench("links")
    found = [MASKS[0], np.where(MASKS[1] == 2, 0, MASKS[1]), MASKS[2] + 9 * discs((70, 70), radius=3)]
    kept = links.links_kept(found, MASKS, reach_px=6)
    assert (kept.objects_found, kept.extra, kept.links_kept, kept.links) == (8, 1, 4, 6)


def test_two_objects_that_run_together_stand_for_none_or_the_larger(bench: Any) -> None:
    links = bench("links")
    assert links.stand_for(np.minimum(MASKS[0], 1), MASKS[0]) == {}
    large, small = discs((30, 30), radius=12), discs((30, 46), radius=4)
    assert links.stand_for(np.sign(large + small), large + 2 * small) == {1: 1}


def test_a_link_between_objects_that_belong_apart_is_wrong(bench: Any) -> None:
    links = bench("links")
    masks = [discs((20, 20)), discs((20, 60))]
    kept = links.links_kept(masks, masks, reach_px=10)
    assert (kept.links, kept.links_wrong) == (0, 0)
    two = [discs((20, 20), (20, 36)), discs((20, 34), (20, 50))]
    swapped = [np.where(two[0] == 1, 0, two[0]), np.where(two[1] == 2, 0, two[1])]
    kept = links.links_kept(swapped, two, reach_px=20)
    assert (kept.links, kept.links_kept, kept.links_wrong) == (2, 0, 1)


@pytest.mark.parametrize(("threshold", "found"), [("bright", [1, 2, 4]), ("dim too", [1, 2, 3, 4])])
@pytest.mark.parametrize(("gain", "offset"), [(1, 0), (7.5, 900)])
def test_segments_are_the_discs_touching_ones_apart_at_any_gain(
    bench: Any, gain: float, offset: float, threshold: str, found: list[int]
) -> None:
    links = bench("links")
    labels = discs((20, 20), (20, 33), (55, 30), (60, 60), radius=7)
    bright = np.array([0, 1, 0.9, 0.2, 0.8])[labels] * 200 + np.random.default_rng(0).normal(100, 4, labels.shape)
    objects = links.segment(gain * bright + offset, apart_px=8, threshold=threshold)
    assert objects.max() == len(found)
    assert sorted(links.stand_for(objects, labels).values()) == found


@pytest.mark.parametrize("width", ["0", "0.72"])
def test_noise_drawn_again_has_the_variance_and_the_neighbours_of_the_camera(bench: Any, width: str) -> None:
    truth = np.full((4, 300, 300), 1100.0)
    drawn = bench("volumes").drawn_again(truth, CAMERA | {"noise_sigma_px": width}, 1).astype(float)
    assert drawn.mean() == pytest.approx(200, abs=0.2)
    assert drawn.var() == pytest.approx(100 / 0.6 + 2.5**2 + 1 / 12, rel=0.02)
    off = drawn - drawn.mean()
    neighbours = (off[:, :, 1:] * off[:, :, :-1]).mean() / off.var()
    assert neighbours == pytest.approx(0.6 if float(width) else 0, abs=0.02)
    assert abs((off[1:] * off[:-1]).mean()) < 0.02 * off.var()


def test_one_gain_and_offset_serve_the_whole_volume(bench: Any) -> None:
    volumes = bench("volumes")
    truth = np.random.default_rng(0).uniform(0, 1000, (3, 32, 32))
    noisy = np.rint(truth + np.random.default_rng(1).normal(0, 30, truth.shape)).clip(0).astype(np.uint16)
    volume = volumes.Volume("v", "noisy1", Stack.from_array(noisy, "ZYX"), truth, np.ones(truth.shape, int))
    once = volumes.psnr_affine(noisy, volume.pair)
    assert once == pytest.approx(20 * np.log10(1000 / 30), abs=0.3)
    assert volumes.psnr_affine(3.0 * noisy + 50, volume.pair) == pytest.approx(once)
    assert volumes.psnr_affine(noisy * np.array([1, 2, 3])[:, None, None], volume.pair) < once - 3


def test_the_structure_of_a_truth_is_its_bright_part_and_two_pixels_around(bench: Any) -> None:
    truth = np.zeros((2, 40, 40))
    truth[1, 10:20, 10:20] = 100
    cells = bench("volumes").structure(truth)
    assert not cells[0].any()
    rows, columns = np.nonzero(cells[1])
    corners = np.array([rows.min(), rows.max(), columns.min(), columns.max()])
    assert np.abs(corners - [8, 21, 8, 21]).max() <= 1  # where smoothing puts the threshold


def test_a_part_has_the_first_planes_of_the_longer_axis_and_the_middle_of_each(bench: Any) -> None:
    part_of = bench("volumes").part_of
    assert part_of("TZYX", (8, 5, 100, 60), planes=3, crop_px=40) == (
        slice(3), slice(None), slice(30, 70), slice(10, 50),
    )  # fmt: skip
    assert part_of("ZYX", (8, 100, 30), planes=0, crop_px=0) == (slice(None),) * 3


def test_gains_are_means_over_the_judged_noises(bench: Any) -> None:
    def row(noise: str, context: str, db: float) -> dict[str, Any]:
        return {"name": "v", "noise": noise, "context": context, "db": db}

    rows = [row("noisy2", "none", 20), row("noisy2", "z", 21), row("noisy4", "none", 10), row("noisy4", "z", 13)]
    assert bench("volumes").gains([*rows, row("noisy1", "none", 0), row("noisy1", "z", 90)]) == {"v": {"z": 2.0}}


def test_files_are_read_in_parts_and_flicker_is_scored_with_noise_drawn_again(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole way on a tiny folder, with the command's own enhancement replaced by one that selects the mask."""
    volumes = bench("volumes")
    (tmp_path / "volumes").mkdir()
    labels = discs((30, 30), radius=12)[None].astype(np.uint16)
    truth = (100 + 800 * labels + np.arange(80) % 50).astype(np.uint16)
    for what, pixels in (("truth", truth), ("masks", labels), ("noisy2", truth)):
        path = tmp_path / "volumes" / f"{volumes.STILL}_{what}.ome.tif"
        tifffile.imwrite(path, np.concatenate([pixels, pixels]), metadata={"axes": "TYX"}, photometric="minisblack")
    camera = {"file": f"shared/volumes/{volumes.STILL}_noisy2.ome.tif", **CAMERA}
    (tmp_path / "MANIFEST_2.csv").write_text(f"{','.join(camera)}\n{','.join(camera.values())}\n")

    def enhanced(stack: Stack, *_: object) -> Any:
        image = np.asarray(stack)
        attention = np.repeat(255 * labels, len(image), axis=0).astype(np.uint8)
        attention[2, 0, :10] = 9
        report = SimpleNamespace(model_name="m", kept_violations=0, as_full_dict=lambda: {"context": {"axis": "t"}})
        return SimpleNamespace(image=image, attention=attention, report=report)

    monkeypatch.setattr(volumes, "enhanced", enhanced)
    (row,) = volumes.flicker_rows(tmp_path, "m", ["t"], ["noisy2"], frames=4)
    area = int(labels.sum())
    assert row["percent"] == pytest.approx(100 * 10 / (area + 10))
    assert row["noise_left"] == 1
    assert row["iou"] == pytest.approx(4 * area / (4 * area + 10))
    assert row["axis"] == "t"
