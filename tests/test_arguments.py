"""What a command line says: options that exist, names that were meant, files that no option has swallowed."""

import argparse
from pathlib import Path

import pytest

from cellxlate.cli import _refusal, main
from cellxlate.cli.parser import EXAMPLES, build_parser
from cellxlate.model.cards import SHIPPED
from cellxlate.option_values import instead, nearest_name


def parsed(*words: str) -> argparse.Namespace:
    return build_parser().parse_args(words)


def complaint(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run a command that must leave with exit code 2 and one line on standard error; return the line."""
    try:
        code = main(words)
    except SystemExit as left:  # the parser leaves by itself
        code = left.code  # type: ignore[assignment]
    printed = capsys.readouterr()
    assert code == 2
    assert printed.out == ""
    assert printed.err.count("\n") == 1, printed.err
    return printed.err


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder to work in, with two files and a folder of images."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.tif", "b.tif", "90"):
        Path(name).touch()
    Path("GFP").mkdir()
    return tmp_path


# --- names


@pytest.mark.parametrize(
    ("given", "known", "meant"),
    [
        ("Torch", ["auto", "torch"], "torch"),
        ("nuclei_lowexp", ["cells", "nuclei-lowexp"], "nuclei-lowexp"),
        ("thresh", ["--threshold", "--tile"], "--threshold"),
        ("--t", ["--threshold", "--tile"], None),
        ("openvion", ["auto", "openvino"], "openvino"),
        ("dream", ["enhance", "train"], None),
        ("", ["a"], None),
    ],
)
def test_the_name_that_was_probably_meant(given: str, known: list[str], meant: str | None) -> None:
    assert nearest_name(given, known) == meant


def test_a_long_list_is_shown_only_where_nothing_was_meant() -> None:
    known = [f"setting_{letter}" for letter in "abcdefgh"]
    assert instead("setting-a", known) == "did you mean 'setting_a'?"
    assert instead("x", known) == f"there are {', '.join(known)}"
    assert instead(["setting_a"], known) == f"there are {', '.join(known)}"


# --- options, commands, choices


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("enhance", "a.tif", "--chanel", "DAPI"), "did you mean --channel?"),
        (("enhance", "--chanel", "DAPI"), "did you mean --channel?"),
        (("enhance", "a.tif", "--Threshold", "0.2"), "did you mean --threshold?"),
        (("enhance", "a.tif", "--treshold=0.2"), "there is no option --treshold; did you mean --threshold?"),
        (("enhance", "a.tif", "--output_dir", "x"), "did you mean --output-dir?"),
        (("enhance", "a.tif", "-output", "x"), "there is no option -output; did you mean --output?"),
        (("enhance", "a.tif", "-model=cells"), "there is no option -model; did you mean --model?"),
        (("enhance", "a.tif", "\u2013threshold", "0.2"), "type --threshold"),
        (("evaluate", "cells", "--sorce", "x"), "did you mean --source?"),
        (("enhance", "a.tif", "--frobnicate"), "there is no option --frobnicate;"),
        (("enhance", "a.tif", "--engine", "Torch"), "--engine Torch is not known; did you mean 'torch'?"),
        (("enhance", "a.tif", "--format", "ometiff"), "did you mean 'ome-tiff'?"),
        (("enhance", "a.tif", "--threshold", "much"), "'much' is no number"),
        (("enhance", "a.tif", "--tile", "1.5"), "'1.5' is no whole number"),
        (("enhance", ""), "STACK: the name is empty"),
        (("enhance", "a.tif", ""), "STACK: the name is empty"),
        (("enhance", "a.tif", "--output-dir="), "--output-dir: the name is empty"),
        (("info", ""), "the name is empty"),
        (("enhace", "a.tif"), "there is no command 'enhace'; did you mean 'enhance'?"),
        (("dream",), "there are demo, sample, enhance"),
        (("--json", "models"), "--json belongs behind a command"),
        (("--versoin",), "did you mean --version?"),
    ],
)
def test_what_was_meant_is_said(words: tuple[str, ...], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert part in complaint(capsys, *words)


def test_what_a_run_would_refuse_is_refused_before_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--workers -1 processes cannot work" in complaint(capsys, "enhance", "a.tif", "--workers", "-1")
    assert "-m is an empty text" in complaint(capsys, "enhance", "a.tif", "-m", "")
    assert "or give it as --output-dir" in complaint(capsys, "enhance", "a.tif", "-o", "results/")


def test_a_package_that_cannot_be_loaded_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    lacking = ModuleNotFoundError("No module named 'torch'", name="torch")
    assert _refusal(lacking) == (
        "torch cannot be loaded (No module named 'torch'); install it again: pip install --force-reinstall torch", 2
    )  # fmt: skip
    assert _refusal(ImportError("cannot import name 'a' from 'cellxlate.b'", name="cellxlate.b"))[1] == 1


@pytest.mark.parametrize("words", [("enhance", "a.tif", "--thresh", "0.2"), ("models", "--js")])
def test_a_shortened_option_is_refused_as_it_may_mean_another_one_later(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "did you mean" in complaint(capsys, *words)


def test_a_file_in_place_of_a_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "write cellxlate enhance FILE" in complaint(capsys, "a.tif")


# --- words that belong to no option


@pytest.mark.parametrize(
    ("words", "stacks", "other"),
    [
        ("--channel DAPI a.tif", ["a.tif"], ("channel", ["DAPI"])),
        ("--channel DAPI GFP a.tif b.tif", ["a.tif", "b.tif"], ("channel", ["DAPI", "GFP"])),
        ("--channel DAPI GFP/ -o x.tif", ["GFP"], ("channel", ["DAPI"])),
        ("--channel 0 s3://bucket/a.zarr", ["s3://bucket/a.zarr"], ("channel", ["0"])),
        ("--channel DAPI img_{Z}.tif", ["img_{Z}.tif"], ("channel", ["DAPI"])),
        ("a.tif --channel DAPI b.tif", ["a.tif"], ("channel", ["DAPI", "b.tif"])),
        ("--channel=DAPI a.tif", ["a.tif"], ("channel", ["DAPI"])),
        ("--adapt a.tif", ["a.tif"], ("adapt", 90.0)),
        ("b.tif --adapt a.tif", ["b.tif", "a.tif"], ("adapt", 90.0)),
        ("--adapt 30 a.tif", ["a.tif"], ("adapt", 30.0)),
        ("a.tif --adapt 90", ["a.tif"], ("adapt", 90.0)),
        ("a.tif -m cells b.tif", ["a.tif", "b.tif"], ("model", "cells")),
        ("a.tif -mcells --quiet b.tif", ["a.tif", "b.tif"], ("model", "cells")),
        ("--threshold=0.2 -- a.tif -b.tif", ["a.tif", "-b.tif"], ("threshold", 0.2)),
        ("--threshold -1 a.tif", ["a.tif"], ("threshold", -1.0)),
    ],
)
def test_an_option_swallows_no_stack(folder: Path, words: str, stacks: list[str], other: tuple[str, object]) -> None:
    found = parsed("enhance", *words.split())
    assert [str(stack) for stack in found.stacks] == stacks
    assert getattr(found, other[0]) == other[1]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("enhance --channel DAPI GFP", "no STACK is given (--channel took DAPI, GFP: name it before that option)"),
        ("enhance --channel a.tif", "--channel took a.tif"),
        ("enhance --adapt 90", "--adapt took 90"),
        ("enhance a.tif --adapt soon", "'soon' is no number of seconds"),
        ("describe --source a.tif b.tif", "no MODEL is given (--source took a.tif, b.tif"),
        ("train a.tif b.tif -o m", "a.tif belongs to no option; usage: cellxlate train -o MODEL [options]; example:"),
        ("info a.tif b.tif", "b.tif belongs to no option"),
        ("train --source a.tif --target b.tif", "-o/--output"),
    ],
)
def test_what_an_option_took_is_said_with_the_order_that_works(
    folder: Path, words: str, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert part in complaint(capsys, *words.split())


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("enhance s.tif --channel a --channel b", "channel"),
        ("enhance s.tif --beside a --beside b", "beside"),
        ("train -o m --source a --source b", "source"),
        ("train -o m --source s --target a --target b", "target"),
        ("train -o m --source s --masks a --masks b", "masks"),
        ("train -o m --source s --beside a --beside b", "beside"),
        ("describe cells --source a --source b", "source"),
    ],
)
def test_what_is_named_in_several_options_is_all_meant(words: str, name: str) -> None:
    assert [str(one) for one in getattr(parsed(*words.split()), name)] == ["a", "b"]


def test_a_model_behind_images_is_the_model(folder: Path) -> None:
    found = parsed("describe", "--source", "a.tif", "b.tif", str(SHIPPED / "cells"))
    assert (found.model, [str(path) for path in found.source]) == (str(SHIPPED / "cells"), ["a.tif", "b.tif"])


def test_the_model_of_an_evaluation_may_stand_anywhere() -> None:
    for words in ("cells --source x", "--source x cells", "--source x --quiet cells --to-card"):
        assert parsed("evaluate", *words.split()).model == "cells"
    assert parsed("evaluate", "--source", "x", "--enhanced", "y").model is None


def test_a_file_that_was_probably_meant_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("stack.ome.tif").touch()
    assert "stakc.ome.tif does not exist; did you mean stack.ome.tif?" in complaint(capsys, "info", "stakc.ome.tif")
    assert "does not exist; did you mean stack.ome.tif?" in complaint(capsys, "enhance", "Stack.ome.tif", "-m", "cells")
    assert "x.czi does not exist; check the name" in complaint(capsys, "info", "x.czi")
    assert "nor does its folder; check the name" in complaint(capsys, "info", "nowhere/a.tif")


# --- help


def test_nothing_at_all_shows_the_help_with_a_first_thing_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([])
    printed = capsys.readouterr()
    assert (left.value.code, printed.out) == (2, "")
    assert "cellxlate demo" in printed.err.split("first:")[1].splitlines()[0]


def test_help_groups_all_commands_and_fits_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    shown = capsys.readouterr().out
    assert left.value.code == 0
    assert max(map(len, shown.splitlines())) <= 80
    listed = [line.split()[0] for line in shown.splitlines() if line.startswith("  ") and line[2] != " "]
    assert sorted(listed) == sorted(EXAMPLES)
    assert listed.index("info") < listed.index("enhance") < listed.index("train") < listed.index("evaluate")


@pytest.mark.parametrize("command", ["enhance", "train", "sample", "evaluate", "info", "export", "report", "describe"])
def test_a_command_without_anything_says_what_it_needs(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = complaint(capsys, command)
    assert f"usage: cellxlate {command}" in line
    assert f"example: {EXAMPLES[command]}" in line
