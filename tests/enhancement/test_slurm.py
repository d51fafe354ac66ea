"""A script for Slurm: its own commands are run in place of sbatch, and make the pixels of a direct run."""

import argparse
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from cellxlate.cli import main
from cellxlate.cli.parser import build_parser
from cellxlate.cli.slurm import NOT_OF_A_TASK, task_options
from cellxlate.enhancement.cluster.slurm import LONGEST_S, TaskNeeds, group_size, log_pattern, needs_of, script_of

ODD_NAMES = ("-dash.tif", "a b.tif", "it's $HOME.tif", "new\nline `id`.tif", 'µ "q"*[1].tif')


def draw(path: Path, shape: tuple[int, ...] = (60, 70), seed: int = 0) -> Path:
    noise = np.random.default_rng(seed).normal(0, 8, shape)
    tifffile.imwrite(path, (noise + np.linspace(80, 240, shape[-1])).astype(np.uint16))
    return path


def written(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    assert main(["enhance", *map(str, arguments), "--json"]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    assert main(["enhance", *map(str, arguments)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    return said.err


def words(script: Path, name: str, folder: Path) -> list[str]:
    """Return an array of a script, as bash understands it."""
    text = script.read_text(encoding="utf-8").split("\ntask=")[0]
    shown = subprocess.run(
        ["bash", "-c", f"{text}\nprintf '%s\\0' \"${{{name}[@]}}\""], capture_output=True, check=True, cwd=folder
    ).stdout
    return [os.fsdecode(word) for word in shown.split(b"\0")[:-1]]


@pytest.fixture
def scheduler(tmp_path: Path) -> dict[str, str]:
    """What a task finds around it: its array, and a `scontrol` that notes what it is asked."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "scontrol").write_text(f'#!/bin/bash\necho "$@" >> "{tools}/asked"\n')
    (tools / "scontrol").chmod(0o755)
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "SLURM_ARRAY_JOB_ID": "77", "SLURM_CPUS_PER_TASK": "1"}


def test_a_script_holds_all_stacks_and_the_same_options_whatever_their_names(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    stacks = [draw(tmp_path / "data" / name) for name in ODD_NAMES]
    shutil.copytree(tiny_model, tmp_path / "tiny")
    answer = written(capsys, "data", "-m", "tiny", "--output-dir", "my results", "--no-report", "--slurm", "go.sh")
    script = tmp_path / "go.sh"
    text = script.read_text(encoding="utf-8")
    assert (answer["script"], answer["tasks"], answer["submit"]) == (str(script), 5, "sbatch go.sh")
    assert answer["stacks"] == [str(stack) for stack in stacks]
    assert script.stat().st_mode & 0o777 == 0o755
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    assert words(script, "stacks", tmp_path) == answer["stacks"]
    given = words(script, "options", tmp_path)
    assert given[:4] == ["-m", str(tmp_path / "tiny"), "--output-dir", str(tmp_path / "my results")]
    assert "--no-report" in given
    asked = dict(line[10:].partition("=")[::2] for line in text.splitlines() if line[:10] == "#SBATCH --")
    assert asked["array"] == "0-4%5"
    assert asked["time"] == answer["time_limit"] == "00:15:00"
    assert asked["mem"] == f"{answer['memory_gb']}G"
    assert asked["cpus-per-task"] == str(answer["cpus_per_task"]) == "4"
    assert asked["output"] == f"{tmp_path}/go-%A_%a.log"
    comments = [line for line in text.split("\nset -u")[0].splitlines() if not line.startswith("#")]
    assert comments == []  # no name breaks out of a comment
    assert not list((tmp_path / "my results").iterdir())


def test_a_task_whose_time_is_up_returns_to_the_queue_and_makes_the_pixels_of_a_direct_run(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str], scheduler: dict[str, str]
) -> None:
    other, stack = draw(tmp_path / "other.tif"), tmp_path / ODD_NAMES[2]
    pixels = np.random.default_rng(1).uniform(80, 240, (12, 520, 60)).astype(np.uint16)
    tifffile.imwrite(stack, pixels, metadata={"axes": "TYX"})
    options = ("-m", str(tiny_model), "--engine", "torch", "--threshold", "0.3", "--no-report")
    script, results = tmp_path / "it's a script.sh", tmp_path / "results"
    written(capsys, other, stack, *options, "--output-dir", results, "--slurm", script)
    task = {**scheduler, "SLURM_ARRAY_TASK_ID": "1"}
    enhanced, attention = (results / f"it's $HOME_{which}.ome.tif" for which in ("enhanced", "attention"))
    partial = enhanced.with_name(f"{enhanced.name}.partial")

    first = subprocess.Popen(["bash", script], env=task, stdout=subprocess.PIPE, text=True)
    ends = time.monotonic() + 60
    while not list(partial.glob("input/*")) and time.monotonic() < ends:
        time.sleep(0.005)
    first.send_signal(signal.SIGUSR1)
    assert "the time is up; what is done is kept" in first.communicate(timeout=60)[0]
    assert first.returncode == 143
    assert (tmp_path / "tools" / "asked").read_text() == "requeue 77_1\n"
    assert partial.is_dir()
    assert not enhanced.exists()

    subprocess.run(["bash", script], env={**task, "SLURM_RESTART_COUNT": "1"}, check=True, timeout=60)
    assert main(["enhance", str(stack), *options, "--output-dir", str(tmp_path / "direct")]) == 0
    for path in (enhanced, attention):
        np.testing.assert_array_equal(tifffile.imread(path), tifffile.imread(tmp_path / "direct" / path.name))
    assert sorted(results.iterdir()) == sorted((enhanced, attention))

    before, again = enhanced.stat().st_mtime_ns, words(script, "options", tmp_path)
    assert main(["enhance", str(stack), *again, "--resume"]) == 0
    assert "finished before; nothing was written" in capsys.readouterr().out
    assert enhanced.stat().st_mtime_ns == before


# --- without the program: a stand-in says how it was called, and ends as it is told


STAND_IN = '#!/bin/bash\nprintf "%s " "$@" >> "{calls}"\necho >> "{calls}"\n{then}\n'


def script_with(folder: Path, then: str, *, stacks: int = 3, replaces: bool = False) -> Path:
    """Write a script that calls a stand-in for the program."""
    program = folder / "program"
    program.write_text(STAND_IN.format(calls=folder / "calls", then=then))
    program.chmod(0o755)
    names = [f"/s{number}" for number in range(stacks)]
    text = script_of(folder / "go.sh", names, [["-m", "cells"]], TaskNeeds(1, 2, 900), replaces=replaces)
    line = next(line for line in text.splitlines() if line.startswith("program=("))
    (folder / "go.sh").write_text(text.replace(line, f"program=('{program}')"))
    return folder / "go.sh"


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().splitlines()


def test_a_task_that_fails_says_so_and_is_not_requeued(tmp_path: Path, scheduler: dict[str, str]) -> None:
    script = script_with(tmp_path, "exit 1")
    assert subprocess.run(["bash", script, "2"], env=scheduler, check=False).returncode == 1
    assert calls(tmp_path) == ["enhance /s2 -m cells --resume "]
    assert subprocess.run(["bash", script, "3"], env=scheduler, check=False).returncode == 2
    assert not (tmp_path / "tools" / "asked").exists()


@pytest.mark.parametrize(
    ("restarts", "then", "called"),
    [
        (0, "exit 0", ["--overwrite"]),
        (1, "exit 0", ["--resume"]),
        (1, "[[ ${@: -1} == --resume ]] && exit 2; exit 0", ["--resume", "--overwrite"]),
    ],
    ids=["first", "goes on", "was stopped before anything was written"],
)
def test_earlier_results_are_replaced_once(
    restarts: int, then: str, called: list[str], tmp_path: Path, scheduler: dict[str, str]
) -> None:
    script = script_with(tmp_path, then, replaces=True)
    subprocess.run(["bash", script, "0"], env={**scheduler, "SLURM_RESTART_COUNT": str(restarts)}, check=True)
    assert [line.split()[-1] for line in calls(tmp_path)] == called


@pytest.mark.parametrize(
    ("number", "restarts", "asked"),
    [(signal.SIGUSR1, 20, False), (signal.SIGTERM, 0, False), (signal.SIGUSR1, 19, True)],
    ids=["requeued too often", "cancelled", "requeued"],
)
def test_what_is_cancelled_is_not_requeued_and_nothing_is_for_ever(
    number: int, restarts: int, asked: bool, tmp_path: Path, scheduler: dict[str, str]
) -> None:
    script = script_with(
        tmp_path, f'trap "exit 143" TERM; kill -{number:d} $PPID; while :; do read -rt 0.1 <> <(:); done'
    )
    environment = {**scheduler, "SLURM_ARRAY_TASK_ID": "1", "SLURM_RESTART_COUNT": str(restarts)}
    assert subprocess.run(["bash", script], env=environment, check=False, timeout=20).returncode == 143
    assert (tmp_path / "tools" / "asked").exists() is asked


def test_more_than_a_thousand_stacks_are_several_in_a_task(tmp_path: Path, scheduler: dict[str, str]) -> None:
    assert [group_size(count) for count in (1, 1000, 1001, 2500)] == [1, 1, 2, 3]
    script = script_with(tmp_path, "exit 0", stacks=2501)
    assert "#SBATCH --array=0-833%50\n" in script.read_text()
    for task in ("0", "833"):
        subprocess.run(["bash", script, task], env=scheduler, check=True)
    assert calls(tmp_path) == ["enhance /s0 /s1 /s2 -m cells --resume ", "enhance /s2499 /s2500 -m cells --resume "]


# --- what is asked for


def test_every_option_of_enhance_reaches_the_task_as_it_was_given() -> None:
    """An option that is added later is carried too, unless it is decided for all stacks at once."""
    parser = build_parser()
    commands = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    actions = [action for action in commands.choices["enhance"]._actions if action.option_strings]
    given = []
    for action in actions:
        if action.dest in NOT_OF_A_TASK | {"help"}:
            continue
        value = "2" if action.type in (int, float) or action.dest == "adapt" else (action.choices or ["x"])[-1]
        given += [action.option_strings[0], *([] if action.nargs == 0 else [str(value)])]
    options = parser.parse_args(["enhance", "/a.tif", *given])
    again = parser.parse_args(["enhance", "/a.tif", *[word for words in task_options(options) for word in words]])
    expected = {**vars(options), "output": options.output.absolute(), "output_dir": options.output_dir.absolute(),
                "levels_from": options.levels_from.absolute(),
                "attention_from": options.attention_from.absolute()}  # fmt: skip
    assert vars(again) == expected
    assert {action.dest for action in actions} - {"help"} <= NOT_OF_A_TASK | {
        flag.lstrip("-").replace("-", "_").replace("m", "model") if flag == "-m" else
        {"-o": "output"}.get(flag, flag.lstrip("-").replace("-", "_"))
        for flag, *_ in task_options(options)
    }  # fmt: skip


def test_needs_have_room_and_an_end() -> None:
    assert needs_of(3600, 1400) == TaskNeeds(4, 3, 8100)
    assert needs_of(3600, 1400, workers=8, graphics_card=True) == TaskNeeds(8, 15, 8100, True)
    assert needs_of(1e6, 100) == TaskNeeds(4, 2, LONGEST_S)


def test_a_log_lies_beside_the_script_whatever_the_folder_is_called() -> None:
    assert log_pattern(Path("/µ/a 'b'#100%/x y.sh")) == "\"/µ/a 'b'#100%%/x_y-%A_%a.log\""


# --- what is refused, before anything is written


def test_what_a_run_would_refuse_is_refused_now(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stack, script = draw(tmp_path / "a.tif"), tmp_path / "go.sh"
    good = (stack, "-m", tiny_model, "--slurm", script)
    assert "both given" in refused(capsys, *good, "--scheduler", "tcp://head:1")
    assert "no channel 'DAPI'" in refused(capsys, *good, "--channel", "DAPI")
    assert "no model" in refused(capsys, stack, "-m", "nothing", "--slurm", script)
    assert "does not exist" in refused(capsys, *good[:-1], tmp_path / "nowhere" / "go.sh")
    (tmp_path / "bad.tif").write_bytes(stack.read_bytes()[:150])
    assert "bad.tif" in refused(capsys, tmp_path / "bad.tif", *good[1:])
    several = refused(capsys, stack, tmp_path / "bad.tif", *good[1:]).splitlines()
    assert ["bad.tif" in several[0], "1 of 2 stacks" in several[1], len(several)] == [True, True, 2]
    (tmp_path / "a_attention.ome.tif").touch()
    assert "a_attention.ome.tif exists already; give --overwrite" in refused(capsys, *good)
    assert not script.exists()


def test_a_script_replaces_a_script_if_that_is_asked_for_and_nothing_else_ever(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stack, other, script = draw(tmp_path / "a.tif"), draw(tmp_path / "b.tif"), tmp_path / "go.sh"
    pixels = other.read_bytes()
    shown = written(capsys, stack, "-m", tiny_model, "--slurm", script, "--dry-run")
    assert shown["script"] is None
    assert not script.exists()
    script.write_text("#!/bin/bash\n")
    assert "exists already; give --overwrite" in refused(capsys, stack, "-m", tiny_model, "--slurm", script)
    assert "no script" in refused(capsys, stack, "-m", tiny_model, "--slurm", other, "--overwrite")
    written(capsys, stack, "-m", tiny_model, "--slurm", script, "--overwrite")
    assert "attempt --overwrite" in script.read_text()
    assert other.read_bytes() == pixels
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tif", "b.tif", "go.sh"]
