"""Evaluation of small synthetic folders whose scores are known."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from scipy import ndimage

import cellxlate
from cellxlate.errors import InputError, OptionError
from cellxlate.evaluation.evaluate import evaluate
from cellxlate.evaluation.match import index_in, match_cases
from cellxlate.evaluation.score import mean_scores
from cellxlate.evaluation.verdict import judge
from cellxlate.settings import EnhanceSettings, Intensity
from cellxlate.stacks.stack import Stack

NAMES = ("a1", "a10", "b")
SHAPE = (96, 128)


def write(path: Path, pixels: npt.NDArray[Any], axes: str = "YX") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(
        path, pixels, photometric="minisblack", metadata={"axes": axes}, ome=path.name.endswith(".ome.tif")
    )


def field(seed: int) -> dict[str, npt.NDArray[Any]]:
    """A truth of six cells, its mask, a faint noisy source, and what an ideal enhancement in counts would give."""
    draw = np.random.default_rng(seed)
    rows, columns = np.indices(SHAPE)
    mask, truth = np.zeros(SHAPE, bool), np.full(SHAPE, 400.0)
    texture = ndimage.gaussian_filter(draw.normal(0, 300, SHAPE), 2)
    for row in (24, 70):
        for column in (20, 60, 105):
            disc = (rows - row) ** 2 + (columns - column) ** 2 <= 12**2
            mask |= disc
            truth[disc] = 1500 + draw.uniform(-200, 200) + texture[disc]
    faint = ndimage.gaussian_filter(truth, 1.5) / 10 + draw.normal(0, 6, SHAPE)
    source = np.clip(np.rint(faint), 0, 65535).astype(np.uint16)
    attention = np.where(mask, 255, 0).astype(np.uint8)
    enhanced = np.where(mask, np.rint(truth / 10), source).astype(np.uint16)
    return {
        "source": source, "truth": np.rint(truth).astype(np.uint16), "masks": mask.astype(np.uint8),
        "attention": attention, "enhanced": enhanced,
    }  # fmt: skip


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Folders source, truth, masks and enhanced of three fields."""
    for seed, name in enumerate(NAMES):
        made = field(seed)
        for what in ("source", "truth", "masks"):
            write(tmp_path / what / f"{name}.tif", made[what])
        write(tmp_path / "enhanced" / f"{name}_enhanced.ome.tif", made["enhanced"])
        write(tmp_path / "enhanced" / f"{name}_attention.ome.tif", made["attention"])
    return tmp_path


def scores_of(folders: Path, **more: Any) -> dict[str, Any]:
    given = {name: folders / name for name in ("source", "truth", "masks", "enhanced")}
    return evaluate(**{**given, **more})


def test_an_ideal_enhancement_has_ideal_scores(folders: Path) -> None:
    scores = scores_of(folders)
    assert scores["foreground"]["psnr_affine"] > 40
    assert scores["foreground"]["ssim_affine"] > 0.9
    assert scores["background"] == {"changed_percent": 0.0, "mean_abs_change": 0.0}
    assert scores["attention"] == {"iou": 1.0, "auprc": 1.0, "mean_inside": 1.0, "mean_outside": 0.0}
    assert scores["phantoms"] == {"added": 0, "lost": 0}
    assert (scores["kept_violations"], scores["no_cells"]) == (0, {"changed_percent": None})
    assert [row["name"] for row in scores["images"]] == list(NAMES)
    assert all(row["dtype_kept"] and row["cells_from"] == "masks" for row in scores["images"])
    json.dumps(scores, allow_nan=False)


def test_the_identity_changes_nothing_and_is_worse(folders: Path) -> None:
    ideal = scores_of(folders)
    same = scores_of(folders, enhanced=folders / "source")
    assert same["changed_percent"] == same["background"]["changed_percent"] == 0
    assert (same["attention"], same["kept_violations"]) == (None, None)
    assert same["foreground"]["psnr_affine"] < ideal["foreground"]["psnr_affine"] - 10
    assert same["patch_distance"] > 1.2 * ideal["patch_distance"] > 0
    assert scores_of(folders, enhanced=folders / "truth")["patch_distance"] == 0


def test_means_are_over_images_and_counts_are_sums(folders: Path) -> None:
    broken = field(0)["enhanced"].copy()
    broken[-3:, :40] += 1
    write(folders / "enhanced" / "a1_enhanced.ome.tif", broken)
    scores = scores_of(folders)
    rows = scores["images"]
    assert scores["kept_violations"] == rows[0]["kept_violations"] == 120
    outside = rows[0]["background"]["changed_percent"]
    assert outside > 0
    assert scores["background"]["changed_percent"] == pytest.approx(outside / 3)
    mean = np.mean([row["foreground"]["psnr"] for row in rows])
    assert scores["foreground"]["psnr"] == pytest.approx(mean)


def test_an_invented_cell_is_a_phantom(folders: Path) -> None:
    rows, columns = np.indices(SHAPE)
    invented = (rows - 47) ** 2 + (columns - 82) ** 2 <= 9**2
    for seed, name in ((0, "a1"), (2, "b")):
        enhanced = field(seed)["enhanced"]
        enhanced[invented] = 150
        write(folders / "enhanced" / f"{name}_enhanced.ome.tif", enhanced)
    scores = scores_of(folders)
    assert scores["phantoms"]["added"] == 2
    assert [row["phantoms"]["added"] for row in scores["images"]] == [1, 0, 1]
    without_truth = scores_of(folders, truth=None)
    assert (without_truth["foreground"], without_truth["patch_distance"]) == (None, None)
    assert without_truth["phantoms"]["added"] == 2


def test_what_the_input_shows_and_the_truth_does_not_is_a_phantom_only_with_a_truth(folders: Path) -> None:
    rows, columns = np.indices(SHAPE)
    for what, name in (("source", "b.tif"), ("enhanced", "b_enhanced.ome.tif")):
        pixels = field(2)[what]
        pixels[(rows - 47) ** 2 + (columns - 82) ** 2 <= 9**2] = 150
        write(folders / what / name, pixels)
    assert scores_of(folders)["phantoms"]["added"] == 1
    assert scores_of(folders, truth=None)["phantoms"]["added"] == 0


def test_without_masks_cells_are_found_in_the_truth(folders: Path) -> None:
    scores = scores_of(folders, masks=None)
    assert scores["attention"] is None
    assert scores["images"][0]["cells_from"] == "truth"
    assert 20 < scores["foreground"]["psnr_affine"] < scores_of(folders)["foreground"]["psnr_affine"]
    assert scores["background"]["changed_percent"] == 0


def test_without_truth_and_masks_only_changes_are_counted(folders: Path) -> None:
    scores = scores_of(folders, truth=None, masks=None)
    assert (scores["foreground"], scores["background"], scores["attention"]) == (None, None, None)
    assert scores["changed_percent"] > 0


def test_images_of_another_program_in_another_dtype_are_compared_by_value(folders: Path, tmp_path: Path) -> None:
    for seed, name in enumerate(NAMES):
        made = field(seed)
        write(tmp_path / "rival" / f"{name}-denoised.tif", made["enhanced"].astype(np.float32))
    scores = scores_of(folders, enhanced=tmp_path / "rival")
    ours = scores_of(folders)
    assert scores["foreground"] == pytest.approx(ours["foreground"])
    assert scores["background"]["changed_percent"] == 0
    assert not any(row["dtype_kept"] for row in scores["images"])
    write(tmp_path / "rival" / "b-denoised.tif", field(2)["source"].astype(np.float32) + np.float32(0.25))
    changed = scores_of(folders, enhanced=tmp_path / "rival")["images"][2]
    assert changed["background"] == {"changed_percent": 100.0, "mean_abs_change": 0.25}


def test_images_without_cells_are_scored_apart(folders: Path) -> None:
    blank = np.random.default_rng(9).normal(40, 6, SHAPE).round().astype(np.uint16)
    changed = blank.copy()
    changed[:24] += 1
    write(folders / "blank" / "empty.tif", blank)
    write(folders / "enhanced" / "empty_enhanced.tif", changed)
    scores = scores_of(folders, no_cells=folders / "blank")
    assert scores["no_cells"] == {"changed_percent": 25.0}
    assert scores["background"]["changed_percent"] == 0
    assert len(scores["images"]) == 3


def test_a_stack_is_scored_plane_by_plane_in_any_order_of_axes(folders: Path, tmp_path: Path) -> None:
    made = [field(seed) for seed in range(3)]
    stacked = {what: np.stack([one[what] for one in made]) for what in made[0]}
    write(tmp_path / "s" / "source" / "x.tif", stacked["source"], "ZYX")
    write(tmp_path / "s" / "truth" / "x.tif", stacked["truth"][:, None], "ZCYX")
    write(tmp_path / "s" / "masks" / "x.tif", stacked["masks"], "ZYX")
    write(tmp_path / "s" / "enhanced" / "x_enhanced.ome.tif", stacked["enhanced"], "ZYX")
    write(tmp_path / "s" / "enhanced" / "x_attention.ome.tif", stacked["attention"], "ZYX")
    ours, theirs = scores_of(tmp_path / "s"), scores_of(folders)
    for group in ("foreground", "background", "attention"):
        assert ours[group] == pytest.approx(theirs[group], rel=1e-12)
    assert ours["images"][0]["phantoms"]["objects"] == sum(row["phantoms"]["objects"] for row in theirs["images"])


def test_planes_are_found_in_any_order_of_axes() -> None:
    stack = Stack.from_array(np.zeros((2, 3, 4, 4), np.uint8), "CZYX")
    for axes, shape, expected in (
        ("ZCYX", (3, 2, 4, 4), (2, 1)), ("ZYX", (3, 4, 4), (2,)), ("TCZYX", (1, 1, 3, 4, 4), (0, 0, 2)),
    ):  # fmt: skip
        assert index_in(Stack.from_array(np.zeros(shape, np.uint8), axes), stack, (1, 2)) == expected


def test_one_mask_serves_all_channels(tmp_path: Path) -> None:
    made = field(0)
    for what, axes in (("source", "CYX"), ("truth", "CYX"), ("enhanced", "CYX")):
        write(tmp_path / what / "x.tif", np.stack([made[what]] * 2), axes)
    write(tmp_path / "masks" / "x.tif", made["masks"])
    assert scores_of(tmp_path)["background"]["changed_percent"] == 0


@pytest.mark.parametrize("intensity", ["source", "target"])
def test_a_model_scores_like_the_files_it_writes(
    folders: Path, tmp_path: Path, tiny_model: Path, intensity: Intensity
) -> None:
    settings = EnhanceSettings(intensity=intensity)
    for name in NAMES:
        cellxlate.enhance_file(
            folders / "source" / f"{name}.tif", tiny_model, output_dir=tmp_path / "made", report=False,
            settings=settings,
        )  # fmt: skip
    written = scores_of(folders, enhanced=tmp_path / "made", no_cells=folders / "source")
    assert written["changed_percent"] == written["no_cells"]["changed_percent"] > 0
    for model in (tiny_model, cellxlate.load_model(tiny_model)):
        scored = scores_of(folders, model=model, enhanced=None, no_cells=folders / "source", intensity=intensity)
        assert scored == written


def test_the_report_shows_rows_and_pictures(folders: Path) -> None:
    target = folders / "scores.html"
    scores = scores_of(folders, output=target)
    html = target.read_text(encoding="utf-8")
    assert html.count('class="plane"') == 3
    assert html.count("<figcaption>") == 12
    for name in NAMES:
        assert f"<td><bdi>{name}</bdi></td>" in html
    assert f"{scores['foreground']['psnr_affine']:#.3g} dB" in html
    assert "Every pixel that attention did not select" in html
    rival = scores_of(folders, enhanced=folders / "source", output=target)
    assert rival["kept_violations"] is None
    assert "Changed pixels, over the input" in target.read_text(encoding="utf-8")


def test_progress_counts_every_image(folders: Path) -> None:
    seen: list[tuple[int, int]] = []
    scores_of(folders, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_names_match_whole_words(folders: Path) -> None:
    cases = match_cases(folders / "source", enhanced=folders / "enhanced")
    assert [(case.name, case.enhanced and case.enhanced.name) for case in cases] == [
        ("a1", "a1_enhanced.ome.tif"), ("a10", "a10_enhanced.ome.tif"), ("b", "b_enhanced.ome.tif"),
    ]  # fmt: skip


def test_results_beside_the_source_are_not_sources(folders: Path) -> None:
    made = field(0)
    write(folders / "source" / "a1_enhanced.ome.tif", made["enhanced"])
    write(folders / "source" / "a1_attention.ome.tif", made["attention"])
    assert [case.name for case in match_cases(folders / "source")] == list(NAMES)


def test_truth_may_be_known_for_some_images_only(folders: Path) -> None:
    (folders / "truth" / "a10.tif").unlink()
    scores = scores_of(folders)
    assert [row["foreground"] is None for row in scores["images"]] == [False, True, False]
    known = [row["foreground"]["ssim"] for row in scores["images"] if row["foreground"]]
    assert scores["foreground"]["ssim"] == pytest.approx(np.mean(known))


def fault_of(folders: Path, **more: Any) -> str:
    with pytest.raises(InputError) as fault:
        scores_of(folders, **more)
    assert "\n" not in str(fault.value)
    return str(fault.value)


def test_wrong_folders_are_one_line_each(folders: Path) -> None:
    (folders / "empty").mkdir()
    assert "holds no TIFF or OME-Zarr image" in fault_of(folders, source=folders / "empty")
    assert "does not exist" in fault_of(folders, truth=folders / "nowhere")
    assert "does not exist" in fault_of(folders, no_cells=folders / "nowhere")
    write(folders / "others" / "z.tif", field(0)["masks"])
    assert "no mask of an image such as a1 (it holds z.tif)" in fault_of(folders, masks=folders / "others")
    assert "do not exist" in fault_of(folders, masks=folders / "nowhere")
    assert "has no image for a1" in fault_of(folders, enhanced=folders / "others")


def test_a_missing_or_ambiguous_result_is_named(folders: Path) -> None:
    (folders / "enhanced" / "b_enhanced.ome.tif").unlink()
    assert "has no image for b" in fault_of(folders)
    for ending in ("one", "two"):
        write(folders / "enhanced" / f"b_{ending}.tif", field(2)["enhanced"])
    assert "both begin with b" in fault_of(folders)


def test_two_files_of_one_name_are_refused(folders: Path) -> None:
    write(folders / "truth" / "a1.ome.tif", field(0)["truth"])
    assert "have one name" in fault_of(folders)


@pytest.mark.parametrize("what", ["truth", "masks", "enhanced"])
def test_another_size_is_named(folders: Path, what: str) -> None:
    name = "a1_enhanced.ome.tif" if what == "enhanced" else "a1.tif"
    write(folders / what / name, field(0)["source"][:-1])
    found = fault_of(folders)
    assert "(95, 128)" in found
    assert "(96, 128)" in found


@pytest.mark.parametrize("model", [None, "nuclei-lowexp"])
def test_either_a_model_or_a_folder(folders: Path, model: str | None) -> None:
    with pytest.raises(OptionError, match="either a model or a folder"):
        evaluate(model, source=folders / "source", enhanced=folders / "enhanced" if model else None)


def test_the_mean_leaves_out_what_is_not_defined() -> None:
    assert mean_scores([{"a": 1.0}, None, {"a": math.nan}, {"a": 4.0}]) == {"a": 2.5}
    assert mean_scores([None]) is None
    undefined = mean_scores([{"a": math.nan}])
    assert undefined is not None
    assert math.isnan(undefined["a"])


def test_masks_of_cellpose_and_imagej_score_like_others(folders: Path) -> None:
    """One mask as Cellpose names it, beside its image, one as its window saves it; for the third there is none."""
    before = scores_of(folders)
    for name, ending in (("a1", "_cp_masks.tif"), ("a10", "_seg.npy")):
        (folders / "source" / f"{name}.tif").rename(folders / "source" / f"{name}.ome.tif")  # Cellpose leaves .ome
        mask = tifffile.imread(folders / "masks" / f"{name}.tif").astype(np.uint16)
        if ending.endswith("npy"):
            np.save(folders / "source" / f"{name}.ome{ending}", {"masks": mask}, allow_pickle=True)  # type: ignore[arg-type]
        else:
            tifffile.imwrite(folders / "source" / f"{name}{ending}", mask)
    with pytest.warns(
        UserWarning, match=r"1 of 3 images have no mask in .* \(b\); a mask is called like its image"
    ) as said:
        after = scores_of(folders, masks=folders / "source")
    assert "_strokes" not in str(said[0].message)
    assert len(after["images"]) == 3
    for name in ("a1", "a10"):
        first, second = (next(one for one in each["images"] if one["name"] == name) for each in (before, after))
        assert second["cells_from"] == "masks"
        assert second["attention"] == first["attention"]


def test_a_mask_of_a_stack_that_names_no_axes_has_those_of_its_image(folders: Path, tmp_path: Path) -> None:
    made = field(0)
    for what in ("source", "enhanced"):
        write(tmp_path / "t" / what / "s.tif", np.stack([made[what]] * 3), "TYX")
    (tmp_path / "t" / "masks").mkdir()
    labels = np.stack([made["masks"]] * 3).astype(np.uint16)
    tifffile.imwrite(tmp_path / "t" / "masks" / "s_cp_masks.tif", labels, photometric="minisblack")
    scores = evaluate(**{what: tmp_path / "t" / what for what in ("source", "enhanced", "masks")})
    assert scores["images"][0]["cells_from"] == "masks"
    assert scores["background"]["changed_percent"] == 0


def test_the_raw_input_is_scored_as_images_that_equal_it(folders: Path) -> None:
    same, better = scores_of(folders, enhanced=folders / "source"), scores_of(folders)
    for name in ("foreground", "phantoms", "patch_distance"):
        assert better["input"][name] == same["input"][name] == same[name]
    assert better["images"][1]["input"]["foreground"] == same["images"][1]["foreground"]
    assert scores_of(folders, truth=None)["input"] is None


def test_the_verdict_says_whether_it_helps_against_the_raw_input_and_by_how_much(folders: Path) -> None:
    good, same, blind = (
        scores_of(folders),
        scores_of(folders, enhanced=folders / "source"),
        scores_of(folders, truth=None),
    )
    gain = good["foreground"]["psnr_affine"] - good["input"]["foreground"]["psnr_affine"]
    assert (good["verdict"]["helps"], good["verdict"]["better"], good["verdict"]["images"]) == ("yes", 3, 3)
    assert good["verdict"]["gain_db"] == pytest.approx(gain)
    assert f"{gain:+.2f} dB against the raw input (better in 3 of 3 images)" in good["verdict"]["sentence"]
    assert (same["verdict"]["helps"], same["verdict"]["gain_db"]) == ("unclear", 0)
    assert (blind["verdict"]["helps"], blind["verdict"]["gain_db"]) == ("unknown", None)


def row(before: float, after: float, ssim: float = 0.0, lost: int = 0) -> dict[str, Any]:
    return {
        "name": f"{before}", "foreground": {"psnr_affine": after, "ssim_affine": 0.5 + ssim},
        "phantoms": {"added": 0, "lost": lost},
        "input": {"foreground": {"psnr_affine": before, "ssim_affine": 0.5}, "phantoms": {"added": 0, "lost": 0}},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "helps"),
    [
        ([row(20, 23)], "yes"),
        ([row(20, 18)], "no"),
        ([row(20, 20.05)], "unclear"),
        ([row(20, 23, ssim=-0.1)], "unclear"),
        ([row(20, 23), row(21, 20), row(22, 22.5)], "unclear"),
        ([row(20, 23), row(21, 24), row(22, 24.5)], "yes"),
        ([row(20, math.inf)], "unknown"),
    ],
)
def test_a_verdict_is_unclear_where_images_or_scores_disagree(rows: list[dict[str, Any]], helps: str) -> None:
    none = {"phantoms": {"added": 0, "lost": 0}}
    assert judge({"images": rows, "input": none, **none}).helps == helps


def test_a_verdict_names_the_image_in_which_most_objects_were_lost() -> None:
    rows, none = [row(20, 23, 0.1, lost=1), row(21, 24, 0.1, lost=4)], {"added": 0, "lost": 0}
    said = judge({"images": rows, "input": {"phantoms": none}, "phantoms": {"added": 0, "lost": 5}}).sentence
    assert said.startswith("Yes, it helps")
    assert said.endswith("But 5 more objects of the truth lost, most in 21.")


@pytest.mark.parametrize(("percent", "is_said"), [(None, False), (9.9, False), (74.3, True)])
def test_a_verdict_says_where_much_of_the_background_changed(percent: float | None, is_said: bool) -> None:
    none = {"phantoms": {"added": 0, "lost": 0}}
    scores = {"images": [row(20, 23)], "input": none, **none, "background": {"changed_percent": percent}}
    found = judge(scores)
    assert found.helps == "yes"
    assert found.sentence.endswith(" But 74 % of the background changed.") == is_said
    assert ("background" in found.sentence) == is_said
    lost = judge({**scores, "phantoms": {"added": 1, "lost": 0}})
    both = "But 1 more object that the truth does not show, most in 20; 74 % of the background changed."
    assert lost.sentence.endswith(both) == is_said
