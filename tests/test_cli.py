"""The commands as a user runs them: exit codes, one JSON object, one line on what is wrong."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile

from cellxlate.cli import main

if TYPE_CHECKING:
    from cellxlate.training.loop import TrainProgress

CONTRACT = {
    "outputs", "pixels", "changed_fraction", "kept_violations", "tiles_total", "tiles_skipped", "seconds",
    "peak_rss_mb", "engine", "warnings", "verdict",
}  # fmt: skip


@pytest.fixture
def faint(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).normal(0, 8, (70, 90))
    path = tmp_path / "faint.tif"
    tifffile.imwrite(path, (noise + np.linspace(80, 240, 90)).astype(np.uint16))
    return path


def answer(capsys: pytest.CaptureFixture[str], *arguments: str | Path, code: int = 0) -> dict[str, Any]:
    assert main([*map(str, arguments), "--json"]) == code
    printed = capsys.readouterr()
    found: dict[str, Any] = json.loads(printed.out)
    return found


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Run a command that must fail with exit code 2 and one line on standard error."""
    try:
        code = main([*map(str, arguments)])
    except SystemExit as left:  # the parser leaves by itself
        code = left.code
    printed = capsys.readouterr()
    assert code == 2
    assert printed.out == ""
    assert printed.err.count("\n") == 1, printed.err
    return printed.err


def installed(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cellxlate", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def test_importing_and_help_load_nothing_heavy() -> None:
    script = (
        "import sys, cellxlate, cellxlate.cli as cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'napari', 'qtpy', 'dask', 'skimage', 'scipy', 'numpy', 'zarr', 'tifffile', 'magicgui'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stderr.strip() == "[]"
    assert "enhance" in done.stdout


@pytest.mark.parametrize("command", ["demo", "sample", "enhance", "train", "evaluate", "info", "models"])
def test_every_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    assert f"example: cellxlate {command}" in " ".join(capsys.readouterr().out.split())


def test_sample_enhance_and_info_agree_on_the_stack(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stack, truth, mask = (tmp_path / f"{name}.ome.tif" for name in ("stack", "truth", "mask"))
    made = answer(
        capsys, "sample", stack, "--shape", "2,1,3,60,80", "--cell-fraction", "0.3", "--seed", "7", "--truth", truth,
        "--mask", mask,
    )  # fmt: skip
    assert made["outputs"] == {"stack": str(stack), "truth": str(truth), "mask": str(mask)}
    told = answer(capsys, "info", stack)
    assert (told["axes"], told["shape"], told["dtype"]) == ("TCZYX", [2, 1, 3, 60, 80], "uint16")
    assert set(told) >= {"axes", "shape", "dtype", "pixel_size_um", "channels", "levels"}
    result = answer(capsys, "enhance", stack, "-m", tiny_model, "--output-dir", tmp_path / "results")
    assert set(result) >= CONTRACT
    assert result["kept_violations"] == 0
    assert result["pixels"] == 2 * 3 * 60 * 80
    enhanced = answer(capsys, "info", result["outputs"]["enhanced"])
    assert {key: enhanced[key] for key in ("axes", "shape", "dtype", "pixel_size_um", "channels")} == {
        key: told[key] for key in ("axes", "shape", "dtype", "pixel_size_um", "channels")
    }


def test_the_same_seed_gives_the_same_sample(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shape = ("--shape", "1,1,1,64,64", "--cell-fraction", "0.3")
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        answer(capsys, "sample", tmp_path / f"{name}.ome.tif", *shape, "--seed", seed)
    a, b, c = (tifffile.imread(tmp_path / f"{name}.ome.tif") for name in "abc")
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_info_tells_the_noise_of_each_channel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planes = np.random.default_rng(0).normal(100, [[[3.0]], [[12.0]]], (2, 200, 200)).astype(np.float32)
    tifffile.imwrite(tmp_path / "two.ome.tif", planes, metadata={"axes": "CYX"})
    told = answer(capsys, "info", tmp_path / "two.ome.tif", "--noise")["noise"]
    assert [one["sd_counts"] for one in told] == pytest.approx([3, 12], rel=0.08)
    assert all(abs(one["neighbour_correlation"]) < 0.05 and one["reliable"] for one in told)
    assert main(["info", str(tmp_path / "two.ome.tif"), "--noise"]) == 0
    assert capsys.readouterr().out.count(" %\n") == 2


def test_noise_is_measured_on_stacks_alone(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--noise measures a stack" in complaint(capsys, "info", tiny_model, "--noise")


def test_info_on_a_model_tells_its_card(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = answer(capsys, "info", tiny_model)
    wanted = {"generator_parameters", "attention_parameters", "preset", "statistics", "training", "scores", "licence"}
    assert set(told) >= wanted
    assert told["generator_parameters"] > 0


def test_models_lists_the_shipped_and_those_of_this_folder(
    tiny_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_model.parent)
    listed = {model["name"]: model for model in answer(capsys, "models")["models"]}
    assert listed["nuclei-lowexp"]["shipped"]
    assert not listed["tiny"]["shipped"]
    assert Path(listed["tiny"]["path"]) == tiny_model
    assert all(model["description"] for model in listed.values())


def test_a_dry_run_writes_nothing(faint: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = answer(capsys, "enhance", faint, "-m", tiny_model, "--dry-run", "--output-dir", faint.parent / "new")
    assert told["planes"] == 1
    assert [item.name for item in faint.parent.iterdir()] == ["faint.tif"]


def test_one_bad_stack_does_not_stop_the_others(
    faint: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (faint.parent / "broken.tif").write_bytes(faint.read_bytes()[:600])
    told = answer(capsys, "enhance", faint.parent, "-m", tiny_model, code=1)
    assert ["error" in stack for stack in told["stacks"]] == [True, False]
    assert (faint.parent / "faint_enhanced.ome.tif").exists()
    again = answer(capsys, "enhance", faint.parent, "-m", tiny_model, "--overwrite", code=1)
    assert len(again["stacks"]) == 2  # results of the first run are not inputs of the second


def test_errors_are_one_line_with_exit_code_2(
    faint: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ("-m", tiny_model)
    (tmp_path / "text.tif").write_text("no TIFF")
    (tmp_path / "empty").mkdir()
    for arguments, part in (
        (("enhance", tmp_path / "nothing.tif", *model), "does not exist"),
        (("enhance", tmp_path / "text.tif", *model), "text.tif"),
        (("enhance", tmp_path / "empty", *model), "holds no"),
        (("enhance", faint, "-m", tmp_path / "no-model"), "no model"),
        (("enhance", faint, "-m", tmp_path / "empty"), "card.json"),
        (("enhance", faint, *model, "--threshold", "2"), "--threshold"),
        (("enhance", faint, *model, "--threshold", "much"), "--threshold"),
        (("enhance", faint, *model, "--channel", "DAPI"), "DAPI"),
        (("enhance", faint, *model, "--axes", "ZYX"), "axes"),
        (("enhance", faint, *model, "--device", "cuda"), "cuda"),
        (("enhance", faint, *model, "-o", tmp_path / "missing" / "a.ome.tif"), "does not exist"),
        (("enhance", faint, faint.parent / "text.tif", *model, "-o", "a.ome.tif"), "--output-dir"),
        (("sample", tmp_path / "a.ome.tif", "--shape", "1,2,3"), "shape"),
        (("sample", tmp_path / "a.ome.tif", "--cell-fraction", "0.95"), "cell fraction"),
        (("sample", tmp_path / "a.png"), "a.png"),
        (("sample", tmp_path / "a.ome.tif", "--mask", tmp_path / "a.ome.tif"), "same file"),
        (("info", tmp_path / "nothing"), "does not exist"),
        (("train", "--source", tmp_path / "empty", "--target", tmp_path, "-o", tmp_path / "m"), "holds no"),
        (("dream",), "dream"),
    ):
        assert part in complaint(capsys, *arguments), arguments
    assert sorted(item.name for item in tmp_path.iterdir()) == ["empty", "faint.tif", "text.tif"]


def test_debug_shows_where_an_error_comes_from(tmp_path: Path) -> None:
    quiet = installed("info", tmp_path / "nothing.tif")
    loud = installed("info", tmp_path / "nothing.tif", "--debug")
    assert (quiet.returncode, quiet.stdout) == (2, "")
    assert "Traceback" not in quiet.stderr
    assert "Traceback" in loud.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no SIGINT to a child")
def test_ctrl_c_leaves_a_partial_that_resume_finishes(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stack = tmp_path / "long.ome.tif"
    answer(capsys, "sample", stack, "--shape", "30,1,1,512,512", "--cell-fraction", "0.02")
    command = [sys.executable, "-m", "cellxlate", "enhance", str(stack), "-m", str(tiny_model)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    partial = tmp_path / "long_attention.ome.tif.partial"
    deadline = time.monotonic() + 60
    while not list(partial.rglob("c.*.0.0")) and time.monotonic() < deadline and running.poll() is None:
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130, errors
    assert "Traceback" not in errors
    assert not (tmp_path / "long_enhanced.ome.tif").exists()
    resumed = answer(capsys, "enhance", stack, "-m", tiny_model, "--resume")
    whole = answer(capsys, "enhance", stack, "-m", tiny_model, "-o", tmp_path / "whole.ome.tif")
    one, other = (tifffile.imread(result["outputs"]["enhanced"]) for result in (resumed, whole))
    assert np.array_equal(one, other)


def test_training_tells_a_terminal_by_a_table_a_log_by_lines_and_nobody_who_wants_quiet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        faint, clear = (tmp_path / domain / f"{number}.ome.tif" for domain in ("faint", "clear"))
        faint.parent.mkdir(exist_ok=True)
        clear.parent.mkdir(exist_ok=True)
        answer(capsys, "sample", faint, "--truth", clear, "--shape", "1,1,1,64,64", "--seed", number)
    small = tmp_path / "small.toml"
    small.write_text("batch = 1\npatch_px = 32\n[networks.generator]\nwidth = 4\nblocks = 1\n")
    arguments = ["train", "--source", tmp_path / "faint", "--target", tmp_path / "clear", "--settings", small]
    length = ["--steps", 30, "--json"]
    assert main([*map(str, [*arguments, *length]), "-o", str(tmp_path / "piped")]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"training: step {step} of 30" for step in (10, 20, 30)]
    assert all("loss" in line and "restoring" in line and "attention selects" in line for line in lines)
    assert [" left" in line for line in lines] == [True, True, False]
    assert main([*map(str, arguments), "--steps", "1", "--quiet", "-o", str(tmp_path / "quiet")]) == 0
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert main([*map(str, [*arguments, *length]), "-o", str(tmp_path / "shown")]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["steps"] == 30
    rows = [line for line in printed.err.replace("\r", "\n").splitlines() if line.strip()]
    head = next(number for number, line in enumerate(rows) if line.split()[:3] == ["step", "so", "far"])
    first = next(line.split() for line in rows[head + 1 :] if line.strip().startswith("10 of 30"))
    assert [float(value) >= 0 for value in (first[7], first[10], first[11])] == [True] * 3
    assert any("step 30 of 30" in line and "left" in line for line in rows)  # the bar


def look_at(step: int, steps: int, *, epochs: int | None = None, note: str = "") -> "TrainProgress":
    from cellxlate.training.loop import TrainProgress
    from cellxlate.training.watch import AttentionState

    unguided = AttentionState(area=0.25, entropy=0.5, inside=math.nan, outside=math.nan, agreement=math.nan, spread=0.1)
    terms = {"cycle_source": 0.25, "cycle_target": 0.75, "total": 1.5}
    return TrainProgress(step, steps, 3.0, terms, unguided, note, None, epochs)


def test_a_row_of_training_says_what_is_not_known() -> None:
    from cellxlate.cli.lines.training import training_head, training_row

    row = training_row(look_at(6, 10))
    assert row.split() == ["6", "of", "10", "3.0", "s", "2.0", "s", "1.5000", "25", "%", "-", "-"]
    assert len(row) == len(training_head()) < 80


def test_time_left_is_counted_from_steps_after_the_first_which_takes_longer() -> None:
    assert look_at(30, 400).left_s == pytest.approx(3.0 / 30 * 370)
    assert replace(look_at(30, 400), step_s=0.02).left_s == pytest.approx(0.02 * 370)


def test_a_line_of_a_log_says_step_epoch_time_left_and_loss_in_words() -> None:
    from cellxlate.cli.lines.training import training_line

    assert training_line(look_at(6, 10, epochs=5, note="another seed")) == (
        "training: step 6 of 10, epoch 3 of 5, 3.0 s so far, about 2.0 s left; loss 1.5000 (restoring 0.5000); "
        "attention selects 25 % of the pixels; another seed"
    )
    assert "left" not in training_line(look_at(10, 10))


def test_a_long_run_writes_a_line_per_look_but_no_flood() -> None:
    from cellxlate.cli.lines.training import LOG_LINES, Spread

    spread = Spread(LOG_LINES)
    assert [spread.takes(look_at(step, 300)) for step in range(50, 301, 50)] == [True] * 6
    spread = Spread(LOG_LINES)
    taken = [step for step in range(50, 80_001, 50) if spread.takes(look_at(step, 80_000))]
    assert len(taken) == LOG_LINES + 1
    assert taken[-1] == 80_000
    assert spread.takes(look_at(50, 80_000, note="trying seed 1"))


def printed(capsys: pytest.CaptureFixture[str], *arguments: str | Path, code: int = 0) -> str:
    """Run a command as a person does, outside a terminal: narrow enough, plain text, no reprs of Python."""
    assert main([*map(str, arguments)]) == code
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert not any(sign in text for sign in ("{'", "['", "None", "nan", "PosixPath"))
    for line in text.splitlines():
        assert len(line) <= 100 or "/" in line, line  # a path is not broken
    return text


def test_info_tells_a_stack_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "two.ome.tif"
    pixels = np.random.default_rng(0).normal(100, 5, (3, 2, 64, 80)).astype(np.uint16)
    tifffile.imwrite(path, pixels, metadata={
        "axes": "TCYX", "PhysicalSizeX": 0.65, "PhysicalSizeY": 0.65, "Channel": {"Name": ["DAPI", "GFP"]},
    })  # fmt: skip
    told = printed(capsys, "info", path)
    for part in (
        "OME-TIFF, ", "TCYX: 3 time points, 2 channels, 64 rows, 80 columns", "uint16, 30,720 pixels in 6 planes",
        "0.65 x 0.65 µm", "0 DAPI, 1 GFP", "would be taken", "full resolution alone",
    ):  # fmt: skip
        assert part in told
    assert answer(capsys, "info", path)["model"]["name"] in ("cells", "nuclei-lowexp")


def test_info_lists_the_stacks_of_a_folder(faint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (faint.parent / "broken.tif").write_bytes(faint.read_bytes()[:600])
    told = printed(capsys, "info", faint.parent, code=1)
    assert "a folder of 2 stacks" in told
    assert "faint.tif  YX    70x90  uint16" in told
    assert "cannot be read" in told
    listed = answer(capsys, "info", faint.parent, code=1)["stacks"]
    assert [(one["name"], "error" in one) for one in listed] == [("broken.tif", True), ("faint.tif", False)]


def test_info_and_models_tell_a_model_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    told = printed(capsys, "info", "nuclei-lowexp")
    for part in ("8,000 steps in 24 min", "CC0-1.0", "128 planes as taken", "PSNR in cells, dB", "higher is better"):
        assert part in told
    assert "no normalisation" not in told  # statistics are for programs
    assert "generalist" in printed(capsys, "models")


def test_evaluate_prints_the_raw_input_beside_the_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, columns = np.indices((64, 64))
    cell = (rows - 32) ** 2 + (columns - 32) ** 2 <= 15**2
    truth = np.where(cell, 1000 + 100 * np.sin(columns), 100).astype(np.uint16)
    faint = (truth + np.random.default_rng(0).normal(100, 60, truth.shape)).astype(np.uint16)
    for folder, pixels in (("raw", faint), ("truth", truth), ("made", np.where(cell, truth, faint))):
        (tmp_path / folder).mkdir()
        for name in "ab":
            tifffile.imwrite(tmp_path / folder / f"{name}.tif", pixels)
    told = printed(capsys, "evaluate", "--enhanced", tmp_path / "made", "--source", tmp_path / "raw", "--truth",
                   tmp_path / "truth")  # fmt: skip
    shown = told.splitlines()
    head, *lines = [line.split() for line in shown[shown.index("") + 1 :]]
    assert head == ["input", "enhanced", "change"]
    psnr = next(line for line in lines if line[:4] == ["PSNR", "in", "cells,", "dB"])
    before, after, change = map(float, psnr[4:7])
    assert after - before == pytest.approx(change, abs=0.011)
    assert change > 10
    assert psnr[7:] == ["higher", "is", "better"]
    assert "Yes, it helps on these images" in told
    assert "better in 2 of 2 images" in " ".join(told.split())


def test_evaluate_fails_where_a_pixel_changed_that_attention_did_not_select(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = np.full((32, 32), 100, np.uint16)
    attention, made = np.zeros(raw.shape, np.uint8), raw.copy()
    attention[8:16, 8:16], made[8:16, 8:16] = 255, 300
    for folder, name, pixels in (("raw", "a", raw), ("made", "a_enhanced", made), ("made", "a_attention", attention)):
        (tmp_path / folder).mkdir(exist_ok=True)
        tifffile.imwrite(tmp_path / folder / f"{name}.tif", pixels)
    command = ["evaluate", "--enhanced", str(tmp_path / "made"), "--source", str(tmp_path / "raw")]
    assert main(command) == 0
    made[0, 0] += 1
    tifffile.imwrite(tmp_path / "made" / "a_enhanced.tif", made)
    capsys.readouterr()
    assert main(command) == 1
    assert "1 pixel" in capsys.readouterr().out


def test_a_dry_run_says_in_words_what_is_in_the_way(
    faint: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = faint.parent / "faint_enhanced.ome.tif"
    taken.write_bytes(b"")
    told = printed(capsys, "enhance", faint, "-m", tiny_model, "--dry-run")
    for part in (str(taken), "1 tile of", "of the pixels would be selected", "memory", "give --overwrite"):
        assert part in told
    assert told.splitlines()[-1].split() == ["dry", "run", "nothing", "was", "written"]
    said = answer(capsys, "enhance", faint, "-m", tiny_model, "--dry-run")
    assert said["tiles"] == 1
    assert set(said["expected"]["file_bytes"]) == {"enhanced", "attention"}
    assert said["free_bytes"] > 0


def test_tables_fit_the_line_and_keep_the_ends_of_names() -> None:
    from cellxlate.cli.lines.table import breadth, table

    lines = table([["stack", "changed"], ["세포_" + "long" * 30 + "_B03.tif", "1.0 %"], ["a.tif", "12.0 %"]], width=60)
    assert max(breadth(line) for line in lines) <= 60
    assert len({breadth(line) for line in lines}) == 1
    assert "_B03.tif" in lines[1]
