"""A model learns from a stack within its time; what is not clearly better is not kept, and nothing else changes."""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cellxlate
from cellxlate import cli
from cellxlate.cli.parser import build_parser
from cellxlate.enhancement import plan
from cellxlate.enhancement.adaptation import adapt as adaptation
from cellxlate.enhancement.adaptation import judge
from cellxlate.enhancement.adaptation.adapt import adapt_stack
from cellxlate.enhancement.adaptation.judge import AFTER, BEFORE, noise_on_range_of, sight_of, verdict
from cellxlate.enhancement.adaptation.record import Adaptation, held, model_folder
from cellxlate.enhancement.flow import EnhanceProgress
from cellxlate.enhancement.input import ALONE
from cellxlate.enhancement.job import enhance_file
from cellxlate.enhancement.outputs.names import name_outputs
from cellxlate.errors import InputError, OptionError, OutputError
from cellxlate.locations import RemotePath
from cellxlate.model.bundle import load_model, save_bundle
from cellxlate.model.layers import Described
from cellxlate.model.networks import seeing_neighbours, translator_of
from cellxlate.quality.risk import INPUT, Ranking, Risk
from cellxlate.settings import PRESETS, AloneSettings, EnhanceSettings
from cellxlate.stacks.intensity.range import IntensityRange
from cellxlate.stacks.intensity.stack_range import stack_ranges
from cellxlate.stacks.stack import Stack
from cellxlate.stacks.write.copy import write_stacks
from cellxlate.training.alone.domain import sampled_domain
from cellxlate.training.checkpoint import read_notes

SMALL = replace(
    PRESETS["alone"], batch=2, patch_px=32, checkpoint_minutes=0.0,
    alone=AloneSettings(4, 64, round_steps=10, round_windows=2, turns=2),
)  # fmt: skip


def pixels(shape: tuple[int, ...] = (2, 128, 128), seed: int = 0) -> np.ndarray:
    """Bright discs of 20 px on a noisy ground."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices(shape[-2:])
    discs = np.hypot(rows % 40 - 20, columns % 40 - 20) < 10
    return (150 + 700 * discs + rng.normal(0, 25, shape)).round().clip(0).astype(np.uint16)


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    path = tmp_path / "cells.ome.tif"
    write_stacks([(Stack(pixels(), "ZYX"), path)])
    return path


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(adapt_stack.__kwdefaults__, "training", SMALL)


def judged(monkeypatch: pytest.MonkeyPatch, gain_db: float, *, error_db: float = 0.1, trusted: bool = True) -> None:
    """Let the judge say how much better what was learned is."""

    def say(planes: Any, noises: Any, candidates: Any, **_: Any) -> Ranking:
        assert len(planes) == len(noises) > 0
        assert all(candidate(planes[0]).shape == planes[0].shape for candidate in candidates[0].values())
        risks = [Risk(AFTER, 90.0, 3 + gain_db, 0.1), Risk(BEFORE, 100.0, 3.0, 0.1), Risk(INPUT, 200.0, 0.0, 0.0)]
        errors = tuple(tuple(error_db for _ in risks) for _ in risks)
        return Ranking(tuple(risks), trusted, "" if trusted else "structure may count as noise", errors)

    monkeypatch.setattr(judge, "estimate_risks", say)
    monkeypatch.setattr(judge.Judge, "_changed", lambda *_: [np.arange(100) < 20])


def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the time be enough for the fewest steps alone, however busy the computer is."""
    monkeypatch.setattr(adaptation, "CALM", 0.0)


def adapted(stack: Any, model: Path, output: Path, **options: Any) -> Adaptation:
    return adapt_stack(stack, model, output=output, **{"seconds": 60.0, "steps": 12, **options})


# kept or not


@pytest.mark.parametrize(
    ("gain_db", "error_db", "trusted", "kept", "words"),
    [
        (0.5, 0.1, True, True, "was kept: its estimated error is 0.50 dB lower (± 0.10)"),
        (0.5, 0.3, True, False, "not clearly better: its estimated error is 0.50 dB lower (± 0.30)"),
        (-0.5, 0.1, True, False, "not clearly better: its estimated error is 0.50 dB higher (± 0.10)"),
        (0.5, 0.1, False, False, "cannot be told whether it is better: structure may count as noise"),
        (0.0, 0.0, True, False, "not clearly better"),
    ],
)
def test_only_what_is_better_beyond_doubt_is_kept(gain_db, error_db, trusted, kept, words):
    risks = Risk(AFTER, 1.0, 3 + gain_db, 0.1), Risk(BEFORE, 1.0, 3.0, 0.1)
    found = verdict(Ranking(risks, trusted, "structure may count as noise", ((error_db,) * 2,) * 2))
    assert found[0] is kept
    assert words in found[1]
    assert "\n" not in found[1]


def test_what_is_better_is_kept_in_a_folder_beside_the_results(stack, tiny_model, tmp_path, monkeypatch):
    judged(monkeypatch, 0.5)
    found = adapted(stack, tiny_model, tmp_path / "cells_model")
    base = load_model(tiny_model)
    assert (found.kept, found.steps, found.base) == (True, 12, "tiny")
    assert (found.before.mse, found.after.mse) == (100.0, 90.0)
    assert found.model.digest == load_model(tmp_path / "cells_model").digest != base.digest
    card = found.model.card
    assert (card["preset"], card["training"]["steps"], card["training"]["start"]["name"]) == ("alone", 12, "tiny")
    assert card["training"]["command"] == found.command
    assert "steps=12, seed=0)" in found.command
    assert (card["adaptation"]["kept"], card["adaptation"]["reason"]) == (True, found.reason)
    assert card["intensity"]["target"] == base.card["intensity"]["target"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells.ome.tif", "cells_model"]


@pytest.mark.parametrize(
    ("before", "after", "opens"), [(0.07, 0.98, True), (0.3, 0.9, True), (0.3, 0.5, False), (0.9, 1.0, False)]
)
def test_attention_that_opens_to_nearly_everything_stays_as_it_was(
    stack, tiny_model, tmp_path, monkeypatch, before, after, opens
):
    judged(monkeypatch, 0.5)
    digest = load_model(tiny_model).digest
    monkeypatch.setattr(
        judge.Judge, "_changed", lambda _, bundle: [np.arange(100) < 100 * (before if bundle.card["probe"] else after)]
    )
    found = adapted(stack, tiny_model, tmp_path / "cells_model")
    own, learned = (one.translator.attention.state_dict() for one in (load_model(tiny_model), found.model))
    assert all(np.array_equal(own[name], learned[name]) for name in own) is opens
    assert ("attention stays as it was" in found.reason) is opens
    assert found.kept
    assert found.model.digest != digest


def test_what_is_not_better_leaves_nothing_and_the_model_as_it_was(stack, tiny_model, tmp_path, monkeypatch):
    judged(monkeypatch, -0.5)
    found = adapted(stack, tiny_model, tmp_path / "cells_model")
    assert (found.kept, found.steps, found.model.digest) == (False, 12, load_model(tiny_model).digest)
    found.forget()
    assert [path.name for path in tmp_path.iterdir()] == ["cells.ome.tif"]


def test_the_judge_itself_can_be_asked(stack, tiny_model, tmp_path):
    found = adapted(stack, tiny_model, tmp_path / "cells_model")
    assert {BEFORE, AFTER, INPUT} <= {risk.name for risk in found.ranking.risks}
    assert found.kept == (found.ranking.trusted and found.kept)


# through the command


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any]]:
    code = cli.main(["enhance", *map(str, arguments), "--json"])
    out = capsys.readouterr().out
    return code, json.loads(out) if out else {}


@pytest.mark.parametrize("gain_db", [0.5, -0.5])
def test_enhance_adapts_first_and_says_what_became_of_it(stack, tiny_model, tmp_path, monkeypatch, capsys, gain_db):
    judged(monkeypatch, gain_db)
    few_steps(monkeypatch)
    code, answer = run(capsys, stack, "-m", tiny_model, "--adapt", "60", "--output-dir", tmp_path / "results")
    told, folder = answer["adaptation"], tmp_path / "results" / "cells_model"
    assert code == 0
    assert (told["kept"], told["risk_before"], told["risk_after"]) == (gain_db > 0, 100.0, 90.0)
    assert told["steps"] == adaptation.FEWEST_STEPS
    assert 0 < told["seconds"] < 60
    assert told["model"] == (str(folder) if gain_db > 0 else None)
    assert folder.exists() == (gain_db > 0)
    assert not folder.with_name("cells_model.partial").exists()
    assert answer["kept_violations"] == 0
    stored = json.loads((tmp_path / "results" / "cells_report.json").read_text())
    assert stored["adaptation"] == told
    assert [one["name"] for one in stored["ranking"]["candidates"]] == [AFTER, BEFORE, INPUT]
    assert f"W{told['reason'][1:]}." in (tmp_path / "results" / "cells_report.html").read_text()
    assert cli.main(["report", answer["outputs"]["enhanced"], "--json", "--source", str(stack)]) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["adaptation"], again["ranking"]) == (told, stored["ranking"])
    expected = load_model(folder if gain_db > 0 else tiny_model).digest
    assert answer["model"]["sha256"] == expected
    plain = cellxlate.enhance(stack, folder if gain_db > 0 else tiny_model)
    with cellxlate.open_stack(answer["outputs"]["enhanced"]) as written:
        assert np.array_equal(np.asarray(written), plain.image)


def test_the_summary_says_it(stack, tiny_model, monkeypatch, capsys):
    judged(monkeypatch, 0.5)
    few_steps(monkeypatch)
    assert cli.main(["enhance", str(stack), "-m", str(tiny_model), "--adapt", "60"]) == 0
    said = " ".join(capsys.readouterr().out.partition("\nadapted")[2].split())
    assert re.search(r"was kept: its estimated error is 0\.50 dB lower \(± 0\.10\); \d+ steps? in ", said)


def test_a_stack_without_contrast_is_enhanced_with_the_model_as_it_was(tiny_model, tmp_path, capsys):
    write_stacks([(Stack(np.full((2, 80, 80), 9, np.uint16), "ZYX"), tmp_path / "flat.ome.tif")])
    code, answer = run(capsys, tmp_path / "flat.ome.tif", "-m", tiny_model, "--adapt")
    assert (code, answer["adaptation"]["kept"], answer["adaptation"]["steps"]) == (0, False, 0)
    assert "one value alone" in answer["adaptation"]["reason"]
    assert not list(tmp_path.glob("*model*"))


def test_a_dry_run_says_that_it_would_adapt_and_for_how_long(stack, tiny_model, tmp_path, capsys):
    code, answer = run(capsys, stack, "-m", tiny_model, "--adapt", "40", "--dry-run")
    assert code == 0
    assert answer["adaptation"] == {"seconds": 40.0, "model": str(tmp_path / "cells_model")}
    assert answer["expected"]["seconds"]["adapting"] == 40.0
    assert answer["expected"]["hours"] >= 0.0111  # 40 s, rounded
    assert [path.name for path in tmp_path.iterdir()] == ["cells.ome.tif"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--adapt", "0.5"], "no time to learn in"),
        (["--adapt", "nan"], "no time to learn in"),
        (["--adapt", "stack2.tif"], "name the stacks before --adapt"),
    ],
)
def test_a_time_that_makes_no_sense_is_refused(arguments, words, capsys):
    with pytest.raises(SystemExit) as caught:
        build_parser().parse_args(["enhance", "stack.tif", *arguments])
    assert caught.value.code == 2
    assert words in capsys.readouterr().err


def test_a_model_is_written_beside_results_on_this_computer_alone():
    there = name_outputs(RemotePath("s3", ("lab", "x.ome.zarr")), is_zarr=True, output_dir=Path("here"))
    assert model_folder(there) == Path("here/x_model")
    with pytest.raises(OptionError, match="which must lie on this computer"):
        model_folder(replace(there, attention=RemotePath("s3", ("lab", "x_attention.ome.zarr"))))


def test_ninety_seconds_are_the_default():
    options: argparse.Namespace = build_parser().parse_args(["enhance", "stack.tif", "--adapt"])
    assert options.adapt == adaptation.ADAPT_S == 90
    assert build_parser().parse_args(["enhance", "stack.tif"]).adapt is None


def test_each_of_several_stacks_is_adapted_to(stack, tiny_model, tmp_path, monkeypatch, capsys):
    judged(monkeypatch, 0.5)
    few_steps(monkeypatch)
    write_stacks([(Stack(pixels(seed=3), "ZYX"), tmp_path / "more.ome.tif")])
    code, answer = run(capsys, stack, tmp_path / "more.ome.tif", "-m", tiny_model, "--adapt", "60")
    assert code == 0
    digests = {load_model(tmp_path / f"{name}_model").digest for name in ("cells", "more")}
    assert {one["model"]["sha256"] for one in answer["stacks"]} == digests
    assert len(digests) == 2


def test_an_interrupted_enhancement_goes_on_with_the_verdict_that_was_found(
    stack, tiny_model, tmp_path, monkeypatch, capsys
):
    judged(monkeypatch, -0.5)
    few_steps(monkeypatch)
    from cellxlate.enhancement import job

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(job, "steps_to_files", interrupted)
        assert cli.main(["enhance", str(stack), "-m", str(tiny_model), "--adapt", "60"]) == 130
    monkeypatch.setattr(adaptation, "begin", lambda *_, **__: pytest.fail("learned again"))
    code, answer = run(capsys, stack, "-m", tiny_model, "--adapt", "60", "--resume")
    assert (code, answer["adaptation"]["kept"]) == (0, False)
    assert not list(tmp_path.glob("*model*"))


def test_room_for_the_results_is_asked_for_before_learning(stack, tiny_model, monkeypatch, capsys):
    stack.with_name("cells_enhanced.ome.tif").touch()
    monkeypatch.setattr(adaptation, "begin", lambda *_, **__: pytest.fail("learned in vain"))
    assert cli.main(["enhance", str(stack), "-m", str(tiny_model), "--adapt", "60"]) == 2
    assert "cells_enhanced.ome.tif exists already" in capsys.readouterr().err


# time and steps


def test_the_time_is_kept_whole(stack, tiny_model, tmp_path):
    news: list[EnhanceProgress] = []
    started = time.monotonic()
    found = adapt_stack(stack, tiny_model, output=tmp_path / "m", seconds=3.0, progress=news.append)
    took_s = time.monotonic() - started
    assert took_s < 6
    assert found.seconds == pytest.approx(took_s, abs=1)
    assert {one.phase for one in news} == {"adapting"}
    assert all(0 <= one.done <= one.total == 3 for one in news)
    assert str(news[-1]).endswith("of 3 s")


def test_learning_ends_when_the_time_does_though_more_steps_were_planned(stack, tiny_model, tmp_path, monkeypatch):
    judged(monkeypatch, 0.5)
    monkeypatch.setattr(adaptation, "CALM", 100.0)
    monkeypatch.setattr(adaptation, "ENOUGH_STEPS", 10**6)
    found = adapt_stack(stack, tiny_model, output=tmp_path / "m", seconds=3.0)
    assert found.kept
    assert found.seconds < 6
    assert found.steps < found.model.card["training"]["settings"]["steps"]
    assert found.command.endswith(f"# cut short after {found.steps}, as its time was over")


def test_as_many_steps_and_the_same_seed_give_the_same_model(stack, tiny_model, tmp_path, monkeypatch):
    judged(monkeypatch, 0.5)
    few_steps(monkeypatch)
    timed = adapt_stack(stack, tiny_model, output=tmp_path / "timed", seconds=60.0)
    assert timed.steps == adaptation.FEWEST_STEPS
    counted = adapted(stack, tiny_model, tmp_path / "counted", steps=timed.steps)
    other = adapted(stack, tiny_model, tmp_path / "other", steps=timed.steps, seed=1)
    assert timed.model.digest == counted.model.digest != other.model.digest


# interrupted and continued

KILLED_RUN = """
import os, signal, sys
from dataclasses import replace
from cellxlate import cli, settings
from cellxlate.settings import AloneSettings
settings.PRESETS["alone"] = replace(
    settings.PRESETS["alone"], batch=2, patch_px=32, checkpoint_minutes=0.0,
    alone=AloneSettings(4, 64, round_steps=10, round_windows=2, turns=2),
)
from cellxlate.enhancement import plan
from cellxlate.enhancement.adaptation import adapt as adaptation
from cellxlate.training import loop
adaptation.CALM = 0.0
honest, saved = loop.save, []
def save(*arguments):
    honest(*arguments)
    saved.append(1)
    if len(saved) == 5: os.kill(os.getpid(), signal.SIGKILL)
loop.save = save
cli.main(["enhance", *sys.argv[1:]])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no kill -9 on Windows")
def test_what_kill_9_left_is_continued_by_resume(stack, tiny_model, tmp_path, monkeypatch, capsys):
    judged(monkeypatch, 0.5)
    arguments = [str(stack), "-m", str(tiny_model), "--adapt", "60"]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run([sys.executable, "-c", KILLED_RUN, *arguments], capture_output=True, env=alone, check=False)
    assert ended.returncode == -signal.SIGKILL
    partial = tmp_path / "cells_model.partial"
    notes = read_notes(partial)
    assert (notes["step"], notes["settings"]["steps"]) == (8, adaptation.FEWEST_STEPS)
    assert cli.main(["enhance", *arguments]) == 2
    assert "holds an unfinished adaptation; continue with --resume" in capsys.readouterr().err
    code, answer = run(capsys, *arguments, "--resume")
    assert (code, answer["adaptation"]["kept"]) == (0, True)
    assert not partial.exists()
    assert answer["adaptation"]["steps"] == adaptation.FEWEST_STEPS
    unbroken = adapted(stack, tiny_model, tmp_path / "unbroken", steps=adaptation.FEWEST_STEPS)
    assert unbroken.model.digest == load_model(tmp_path / "cells_model").digest


def test_ctrl_c_leaves_a_checkpoint_and_resume_gives_the_model_of_an_unbroken_run(
    stack, tiny_model, tmp_path, monkeypatch
):
    judged(monkeypatch, 0.5)
    unbroken = adapted(stack, tiny_model, tmp_path / "unbroken")

    def press(news: EnhanceProgress) -> None:
        if pressed.append(news) or len(pressed) == 8:
            raise KeyboardInterrupt

    pressed: list[EnhanceProgress] = []
    with pytest.raises(KeyboardInterrupt):
        adapted(stack, tiny_model, tmp_path / "m", progress=press)
    assert not (tmp_path / "m").exists()
    assert 0 < read_notes(tmp_path / "m.partial")["step"] < 12
    with pytest.raises(OutputError, match="unfinished adaptation"):
        adapted(stack, tiny_model, tmp_path / "m")
    assert adapted(stack, tiny_model, tmp_path / "m", resume=True).model.digest == unbroken.model.digest


@pytest.mark.parametrize("gain_db", [0.5, -0.5])
def test_what_is_finished_is_recalled_and_not_learned_again(stack, tiny_model, tmp_path, monkeypatch, gain_db):
    judged(monkeypatch, gain_db)
    first = adapted(stack, tiny_model, tmp_path / "m")
    monkeypatch.setattr(adaptation, "begin", lambda *_, **__: pytest.fail("learned again"))
    again = adapted(stack, tiny_model, tmp_path / "m", resume=True)
    assert (again.kept, again.steps, again.reason) == (first.kept, first.steps, first.reason)
    assert (again.ranking, again.model.digest) == (first.ranking, first.model.digest)
    again.forget()
    assert not (tmp_path / "m.partial").exists()


def test_a_model_of_another_stack_is_not_taken_for_this_one(stack, tiny_model, tmp_path, monkeypatch):
    judged(monkeypatch, 0.5)
    adapted(stack, tiny_model, tmp_path / "m")
    other = Stack(pixels(seed=5), "ZYX")
    with pytest.raises(OutputError, match="adapted to another stack"):
        adapted(other, tiny_model, tmp_path / "m", resume=True)
    with pytest.raises(OutputError, match=r"exists already; give model='.*' to use it, overwrite=True to replace it"):
        adapted(other, tiny_model, tmp_path / "m")
    before = load_model(tmp_path / "m").digest
    assert adapted(other, tiny_model, tmp_path / "m", overwrite=True).model.digest != before


def test_nothing_is_left_where_the_disk_is_full(stack, tiny_model, tmp_path, monkeypatch):
    from cellxlate.training import run as run_module

    def full(*_: Any) -> None:
        raise OutputError("the checkpoint cannot be written (no space left on device)")

    monkeypatch.setattr(run_module, "save_checkpoint", full)
    with pytest.raises(OutputError, match="no space left"):
        adapted(stack, tiny_model, tmp_path / "m")
    assert [path.name for path in tmp_path.iterdir()] == ["cells.ome.tif"]


def test_a_folder_that_is_no_model_is_never_replaced(stack, tiny_model, tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "thesis.txt").write_text("years")
    with pytest.raises(OutputError, match="is no model folder"):
        adapted(stack, tiny_model, tmp_path / "m", overwrite=True)
    assert (tmp_path / "m" / "thesis.txt").exists()


# whatever the stack is


@pytest.mark.parametrize(
    "odd",
    [
        pixels((2, 40, 200)),
        np.full((2, 90, 90), 5, np.uint8),
        np.full((2, 90, 90), np.nan, np.float32),
        np.random.default_rng(0).normal(0, 1, (2, 90, 90)).astype(np.float32),
    ],
    ids=["small", "constant", "nan", "noise"],
)
def test_where_nothing_can_be_learned_the_model_stays_and_one_sentence_says_why(odd, tiny_model, tmp_path):
    found = adapted(Stack(odd, "ZYX"), tiny_model, tmp_path / "m")
    assert (found.kept, found.steps, found.ranking) == (False, 0, None)
    assert found.reason.startswith("nothing was learned: ")
    assert "\n" not in found.reason
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "odd",
    [
        pixels().astype(np.float32) / 1000,
        np.minimum(pixels(), 700),
        np.where(np.arange(128) < 20, np.nan, pixels().astype(np.float32)),
        pixels((2, 64, 64)),
        np.stack([pixels(), 3 * pixels()])[:, :, :64, :66],
    ],
    ids=["float", "saturated", "partly nan", "64 px", "two channels"],
)
def test_odd_stacks_are_learned_from(odd, tiny_model, tmp_path):
    found = adapted(Stack(odd, "CZYX"[-odd.ndim :]), tiny_model, tmp_path / "m")
    assert found.steps == 12
    assert found.ranking is not None


def test_channels_and_levels_are_those_of_the_job(tiny_model, tmp_path, monkeypatch):
    judged(monkeypatch, 0.5)
    two = Stack(np.stack([pixels(), np.full((2, 128, 128), 7, np.uint16)]), "CZYX", channel_names=("cells", "empty"))
    found = adapted(two, tiny_model, tmp_path / "m", channels=["cells"])
    assert "channels=[0]" in found.command
    with pytest.raises(OptionError, match="has no channel"):
        adapted(two, tiny_model, tmp_path / "n", channels=["DAPI"])


def test_windows_of_another_scale_are_judged_on_that_of_the_first():
    two = Stack(np.stack([pixels(), 3 * pixels() + 50]), "CZYX")
    domain = sampled_domain(two, stack_ranges(two, [0, 1]), AloneSettings(4, 128))
    intensity = domain.fields[0].intensity
    planes = [sight_of(field, intensity, ALONE).counts for field in domain.fields]
    noises = [noise_on_range_of(intensity, *one) for one in zip(domain.noises, domain.fields, strict=True)]
    assert np.array_equal(planes[0], np.asarray(domain.fields[0].stack.pixels, np.float32))
    assert np.allclose(planes[0], planes[2], atol=2)
    assert noises[0].sd_counts == pytest.approx(noises[-1].sd_counts, rel=0.05)
    assert noises[0].black_counts == pytest.approx(noises[-1].black_counts, abs=2)
    assert isinstance(intensity, IntensityRange)


# in Python


def test_adapt_returns_a_model_that_enhances(tiny_model, monkeypatch):
    judged(monkeypatch, 0.5)
    model = cellxlate.adapt(pixels(), tiny_model, steps=8)
    assert model.digest != load_model(tiny_model).digest
    assert cellxlate.enhance(pixels(), model).report.kept_violations == 0


def test_adapt_warns_where_nothing_is_kept(tiny_model, monkeypatch):
    judged(monkeypatch, -0.5)
    with pytest.warns(UserWarning, match="was not kept, since it is not clearly better"):
        model = cellxlate.adapt(pixels(), tiny_model, steps=8)
    assert model.digest == load_model(tiny_model).digest


def test_enhance_file_tells_of_an_adaptation(stack, tiny_model, tmp_path, monkeypatch):
    judged(monkeypatch, 0.5)
    found = adapted(stack, tiny_model, tmp_path / "m")
    report = enhance_file(stack, adaptation=found, output=tmp_path / "out.ome.tif")
    assert report.model_digest == found.model.digest
    assert report.as_dict()["adaptation"] == found.as_dict()


@pytest.mark.parametrize("options", [{"seconds": 0.2}, {"seconds": float("nan")}, {"steps": 0}])
def test_times_and_steps_that_make_no_sense_are_refused(stack, tiny_model, tmp_path, options):
    with pytest.raises(OptionError):
        adapt_stack(stack, tiny_model, output=tmp_path / "m", **options)


def test_two_runs_at_one_model_exclude_each_other(stack, tiny_model, tmp_path):
    with held(tmp_path / "m"), pytest.raises(OutputError, match="is being written by another job"):
        adapt_stack(stack, tiny_model, output=tmp_path / "m", steps=2, overwrite=True)
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith("m")] == []


def test_images_of_one_bit_are_refused_before_anything_is_learned(tiny_model, tmp_path):
    with pytest.raises(InputError, match="has 1 bit per pixel"):
        adapt_stack(pixels() > 200, tiny_model, output=tmp_path / "m", steps=2, axes="ZYX")


def test_what_is_no_model_is_neither_used_nor_replaced(stack, tiny_model, tmp_path):
    (tmp_path / "m").write_text("notes")
    (tmp_path / "n.partial").write_text("notes")
    for name in ("m", "n"):
        for options in ({}, {"overwrite": True}, {"resume": True}):
            with pytest.raises(OutputError, match="move it away or choose another output"):
                adapt_stack(stack, tiny_model, output=tmp_path / name, steps=2, **options)
    assert (tmp_path / "m").read_text() == (tmp_path / "n.partial").read_text() == "notes"


# with the planes beside


@pytest.fixture(scope="session")
def seeing_model(tiny_model, tmp_path_factory) -> Path:
    """The small model with a second pair of networks, which see neighbours."""
    base, folder = load_model(tiny_model), tmp_path_factory.mktemp("models") / "seeing"
    save_bundle(folder, base.translator, base.card, b"", seeing_neighbours(base.translator, 2))
    return folder


def same_arrays(one: Described, other: Described) -> bool:
    states = [translator_of(networks).state_dict() for networks in (one, other)]
    return all(bool((states[0][name] == states[1][name]).all()) for name in states[0])


def with_context(stack: Any, model: Path, output: Path, context: str, **options: Any) -> Adaptation:
    return adapted(stack, model, output, settings=EnhanceSettings(context=context), steps=6, **options)


def test_networks_that_see_neighbours_learn_and_the_others_stay_as_they_are(seeing_model, tmp_path, monkeypatch):
    judged(monkeypatch, 0.5)
    movie = Stack(pixels((5, 80, 80)), "ZYX")
    found, base = with_context(movie, seeing_model, tmp_path / "m", "z"), load_model(seeing_model)
    model = load_model(tmp_path / "m")
    assert same_arrays(model.networks, base.networks)
    assert not same_arrays(model.in_context.networks, base.in_context.networks)
    assert "context='z')" in found.command
    assert (model.card["training"], model.card["name"]) == (base.card["training"], "m")
    assert model.card["context"]["training"]["start"]["name"] == "seeing"
    assert model.card["adaptation"]["kept"]
    report = cellxlate.enhance(movie, model, context="z").report
    assert report.kept_violations == 0


def test_a_stack_is_enhanced_with_the_neighbours_that_were_learned_with(seeing_model, tmp_path, monkeypatch):
    judged(monkeypatch, -0.5)
    movie = tmp_path / "movie.ome.tif"
    write_stacks([(Stack(pixels((5, 80, 80)), "TYX"), movie)])
    found = with_context(movie, seeing_model, tmp_path / "m", "t")
    monkeypatch.setattr(plan, "context_of", lambda *_, **__: pytest.fail("chosen again"))
    report = enhance_file(movie, adaptation=found, output=tmp_path / "out.ome.tif", context="t")
    assert report.provenance["context"] == {"axis": "t", "planes": 2, "reason": "as asked for"}


def test_without_neighbours_a_model_learns_as_one_that_knows_none(seeing_model, tiny_model, tmp_path, monkeypatch):
    judged(monkeypatch, 0.5)
    movie = Stack(pixels((5, 80, 80)), "ZYX")
    found = with_context(movie, seeing_model, tmp_path / "m", "none").model
    plain = adapted(movie, tiny_model, tmp_path / "n", steps=6).model
    assert same_arrays(found.networks, plain.networks)
    assert same_arrays(found.in_context.networks, load_model(seeing_model).in_context.networks)
    assert plain.in_context is None


def test_what_learns_with_neighbours_is_interrupted_and_continued(seeing_model, tmp_path, monkeypatch):
    judged(monkeypatch, 0.5)
    movie = Stack(pixels((5, 80, 80)), "ZYX")
    unbroken = with_context(movie, seeing_model, tmp_path / "unbroken", "z")
    told: list[EnhanceProgress] = []

    def press(news: EnhanceProgress) -> None:
        told.append(news)
        if len(told) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        with_context(movie, seeing_model, tmp_path / "m", "z", progress=press)
    again = with_context(movie, seeing_model, tmp_path / "m", "z", resume=True)
    assert (again.model.digest, again.neighbours.context.along) == (unbroken.model.digest, "z")
    known = with_context(movie, seeing_model, tmp_path / "m", "z", resume=True)
    assert (known.model.digest, known.neighbours) == (unbroken.model.digest, again.neighbours)
    with pytest.raises(OutputError, match="adapted to another stack"):
        with_context(movie, seeing_model, tmp_path / "m", "none", resume=True)
