"""The commands as a user runs them: exit codes, one JSON object, one line on what is wrong."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from cellxlate.cli import main

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
        ((), "COMMAND"),
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


def test_training_shows_a_table_on_a_terminal_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        faint, clear = (tmp_path / domain / f"{number}.ome.tif" for domain in ("faint", "clear"))
        faint.parent.mkdir(exist_ok=True)
        clear.parent.mkdir(exist_ok=True)
        answer(capsys, "sample", faint, "--truth", clear, "--shape", "1,1,1,64,64", "--seed", number)
    small = tmp_path / "small.toml"
    small.write_text("batch = 1\npatch_px = 32\n[networks.generator]\nwidth = 4\nblocks = 1\n")
    arguments = ["train", "--source", tmp_path / "faint", "--target", tmp_path / "clear", "--settings", small,
                 "--steps", 30, "--json"]  # fmt: skip
    assert main([*map(str, arguments), "-o", str(tmp_path / "piped")]) == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert main([*map(str, arguments), "-o", str(tmp_path / "shown")]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["steps"] == 30
    rows = [line for line in printed.err.replace("\r", "\n").splitlines() if line.strip()]
    head = next(number for number, line in enumerate(rows) if "agreement with the guide" in line)
    first = next(line.split() for line in rows[head + 1 :] if line.split()[0].isdigit())
    assert int(first[0]) == 10
    assert [float(value) >= 0 for value in first[1:]] == [True] * 6


def test_a_row_of_the_table_says_what_is_not_known() -> None:
    from cellxlate.cli.output import training_row
    from cellxlate.training.loop import TrainProgress
    from cellxlate.training.watch import AttentionState

    unguided = AttentionState(area=0.25, entropy=0.5, inside=math.nan, outside=math.nan, agreement=math.nan, spread=0.1)
    row = training_row(TrainProgress(7, 10, 3.0, {"total": 1.5}, unguided))
    assert row.split() == ["7", "3", "1.5000", "0.250", "-", "-", "-"]
