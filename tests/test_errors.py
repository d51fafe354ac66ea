"""Errors say what was found and what to do, in the words of Python, of the command line, and of the panels."""

import argparse
import ast
import gc
import inspect
import json
import os
import pickle
import re
import shutil
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr

import cellxlate
from cellxlate import errors, options
from cellxlate.cli import main
from cellxlate.cli.parser import build_parser
from cellxlate.enhancement.adaptation.adapt import adapt
from cellxlate.enhancement.cluster.cluster import open_cluster
from cellxlate.enhancement.outputs.rebuild import rebuild_report
from cellxlate.errors import (
    CellxlateError,
    ForbiddenInputError,
    ForbiddenModelError,
    ForbiddenOutputError,
    InputError,
    MissingInputError,
    MissingModelError,
    ModelError,
    Option,
    OptionError,
    OutputError,
    Words,
    said,
    speaking,
)
from cellxlate.model.export.bioimage import export_package
from cellxlate.settings import EnhanceSettings
from cellxlate.stacks.intensity.saved import saved_ranges
from cellxlate.stacks.masks.open import open_mask
from cellxlate.stacks.samples.drawn import StructureSettings
from cellxlate.stacks.samples.nuclei import SampleSettings
from cellxlate.stacks.stack import Stack
from cellxlate.training.checkpoint import CHECKPOINT, read_notes
from cellxlate.whole_file import write_whole_file

PACKAGE = Path(cellxlate.__file__).parent
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]*|(?<![\w-])-[om]\b")
NOBODY = 65534
OPTIONS = {name: one for name, one in vars(options).items() if isinstance(one, Option)}
DEEDS = {name: one for name, one in vars(options).items() if isinstance(one, Words)}
PYTHON = (
    cellxlate.open_stack, cellxlate.enhance, cellxlate.enhance_file, cellxlate.enhance_files, cellxlate.train,
    cellxlate.evaluate, cellxlate.load_foreign, adapt, open_cluster, rebuild_report, export_package, EnhanceSettings,
    SampleSettings, StructureSettings,
)  # fmt: skip


def kinds(start: type[CellxlateError] = CellxlateError) -> Iterator[type[CellxlateError]]:
    """Yield every kind of error."""
    yield start
    for kind in start.__subclasses__():
        yield from kinds(kind)


# --- words


def test_an_option_is_named_as_each_names_it() -> None:
    found = OptionError(options.TILE.of(0), " is less than 1 px", remedy=("choose another ", options.TILE))
    assert str(found) == "tile_px=0 is less than 1 px; choose another tile_px="
    assert said(found, by="command") == "--tile 0 is less than 1 px; choose another --tile"
    assert said(found, by="panel") == (
        "'tile 0' of the command line is less than 1 px; choose another 'tile' of the command line"
    )
    assert found.options == (options.TILE,)
    assert found.remedy == ("choose another ", options.TILE)
    assert said(*found.found) == "tile_px=0 is less than 1 px"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (options.OVERWRITE.words, ("overwrite=True", "--overwrite", "'Replace existing files'")),
        (options.DEVICE.of("cpu"), ("device='cpu'", "--device cpu", "Device 'cpu'")),
        (options.INTENSITY.of("source"), ("intensity='source'", "--intensity source", "Intensity 'as in the image'")),
        (options.GUIDE.of("masks"), ("guide='masks'", "--guide masks", "Guide 'painted cells'")),
        (options.MODEL.of(Path("a")), ("model='a'", "-m a", "Model 'a'")),
    ],
)
def test_values_are_said_as_they_are_given(words: Words, expected: tuple[str, str, str]) -> None:
    assert (words.python, words.command, words.panel) == expected


def test_an_error_inside_an_error_is_said_in_the_same_words() -> None:
    inner = OutputError("a.tif exists already", remedy=options.TO_REPLACE)
    outer = InputError("plate: ", inner)
    assert str(outer) == "plate: a.tif exists already; give overwrite=True to replace it"
    assert said(outer, by="command") == "plate: a.tif exists already; give --overwrite to replace it"
    assert outer.options == (options.OVERWRITE,)
    assert said("it is ", KeyError("gone")) == "it is 'gone'"


def test_who_speaks_is_known_in_its_thread_alone_until_it_ends() -> None:
    heard = []
    with speaking("command"):
        with speaking("panel"):
            assert said(options.AXES_OPTION) == "Axes"
        assert said(options.AXES_OPTION) == "--axes"
        thread = threading.Thread(target=lambda: heard.append(said(options.AXES_OPTION)))
        thread.start()
        thread.join()
    assert said(options.AXES_OPTION) == "axes="
    assert heard == ["axes="]


def test_steps_that_are_abandoned_leave_no_words_behind() -> None:
    def steps() -> Iterator[str]:
        with speaking("panel"):
            yield said(options.AXES_OPTION)

    begun = [steps()]
    thread = threading.Thread(target=lambda: next(begun[0]))
    thread.start()
    thread.join()
    begun.clear()
    gc.collect()  # closed here, where it did not begin
    assert said(options.AXES_OPTION) == "axes="


# --- the table


def flags(parser: argparse.ArgumentParser) -> set[str]:
    """Return every flag of every command."""
    found = {flag for action in parser._actions for flag in action.option_strings}
    for action in parser._actions:
        for inner in (action.choices or {}).values() if isinstance(action, argparse._SubParsersAction) else ():
            found |= flags(inner)
    return found


@pytest.mark.parametrize("name", OPTIONS)
def test_every_name_of_an_option_exists(name: str) -> None:
    option = OPTIONS[name]
    assert not option.command or option.command in flags(build_parser())
    keyword, _, value = option.python.partition("=")
    assert value in ("", "True", "False")
    if keyword:
        assert any(keyword in inspect.signature(one).parameters for one in PYTHON)
    if option.panel:
        assert option.panel in labels()


def labels() -> set[str]:
    """Return what the panels write beside and on their controls."""
    return {
        str(word.value.value)
        for path in (PACKAGE / "plugin").rglob("*.py")
        for word in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(word, ast.keyword) and word.arg in ("label", "text") and isinstance(word.value, ast.Constant)
    }


def test_what_a_panel_calls_otherwise_is_a_choice_there() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in (PACKAGE / "plugin").rglob("*.py"))
    for option in OPTIONS.values():
        for value, shown in option.shown:
            assert f'("{shown}", "{value}")' in text


@pytest.mark.parametrize("name", DEEDS)
def test_deeds_hold_a_flag_for_the_command_line_alone(name: str) -> None:
    deed = DEEDS[name]
    assert FLAG.search(deed.command)
    assert not FLAG.search(deed.python)
    assert not FLAG.search(deed.panel)


# --- no flag in what Python says


def texts(node: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the literals of a module but its documentation, with their lines."""
    documentation = {
        id(one.value)
        for parent in ast.walk(node)
        if isinstance(parent, ast.Module | ast.ClassDef | ast.FunctionDef)
        for one in parent.body
        if isinstance(one, ast.Expr)
    }
    for one in ast.walk(node):
        if isinstance(one, ast.Constant) and isinstance(one.value, str) and id(one) not in documentation:
            yield one.lineno, one.value


def test_no_text_below_the_command_line_names_a_flag() -> None:
    found = []
    for path in PACKAGE.rglob("*.py"):
        if (path.name == "options.py" and path.parent == PACKAGE) or "cli" in path.parts:
            continue
        for line, text in texts(ast.parse(path.read_text(encoding="utf-8"))):
            is_word = FLAG.fullmatch(text)  # of a command that repeats a run
            is_page = "<div" in text or "{licence}" in text  # of a report, or of a package
            if FLAG.search(text) and not is_word and not is_page:
                found.append(f"{path.relative_to(PACKAGE)}:{line}: {text}")
    assert found == []


def test_no_text_names_a_keyword_or_a_value_of_python() -> None:
    """What is said in Python's words alone would be said so on the command line too: options are parts."""
    python = re.compile(r"\b[a-z_]+=(?!=)|\b(?:True|False|None)\b")
    found = []
    for path in PACKAGE.rglob("*.py"):
        if path.parent == PACKAGE and path.name in ("options.py", "option_values.py"):
            continue
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            named = isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id
            if named in {kind.__name__ for kind in kinds()} | {"said"}:
                found += [f"{path.name}:{line}: {text}" for line, text in texts(call) if python.search(text)]
    assert found == []


def test_no_error_is_raised_with_a_flag_in_its_text() -> None:
    names = {kind.__name__ for kind in kinds()}
    found = []
    for path in PACKAGE.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in names:
                found += [f"{path.name}:{line}: {text}" for line, text in texts(call) if FLAG.search(text)]
    assert found == []


# --- kinds


@pytest.mark.parametrize("kind", list(kinds()))
def test_errors_travel_between_processes_whole(kind: type[CellxlateError]) -> None:
    error = kind("a.tif: ", OutputError("b exists", remedy=options.TO_REPLACE), remedy=("give ", options.AXES_OPTION))
    error.add_note("of worker 3")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (str(again), again.args) == (str(error), error.args)
    assert said(again, by="command") == "a.tif: b exists; give --overwrite to replace it; give --axes"
    assert again.options == (options.OVERWRITE, options.AXES_OPTION)
    assert (again.exit_code, again.__notes__) == (error.exit_code, ["of worker 3"])


@pytest.mark.parametrize(
    ("kind", "builtin", "code"),
    [
        (InputError, ValueError, 2),
        (OptionError, ValueError, 2),
        (MissingInputError, FileNotFoundError, 2),
        (ForbiddenInputError, PermissionError, 2),
        (ForbiddenOutputError, PermissionError, 2),
        (MissingModelError, FileNotFoundError, 2),
        (ForbiddenModelError, PermissionError, 2),
        (errors.TrainingError, Exception, 1),
        (errors.PromiseError, Exception, 1),
        (errors.ClusterError, Exception, 1),
    ],
)
def test_errors_are_those_that_a_caller_expects(kind: type[CellxlateError], builtin: type, code: int) -> None:
    with pytest.raises(builtin, match=r"^what was found; what to do$") as caught:
        raise kind("what was found", remedy="what to do")
    assert isinstance(caught.value, CellxlateError)
    assert caught.value.exit_code == code


def test_what_is_missing_is_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        cellxlate.open_stack(tmp_path / "a.tif")
    with pytest.raises(FileNotFoundError, match="there is no model"):
        cellxlate.load_model(tmp_path / "model")
    (tmp_path / "model").mkdir()
    with pytest.raises(FileNotFoundError, match=r"has no card\.json"):
        cellxlate.load_model(tmp_path / "model")
    with pytest.raises(ValueError, match="tile_px=0"):
        cellxlate.enhance(np.zeros((64, 64), "uint16"), settings=EnhanceSettings(tile_px=0))


# --- rights


@contextmanager
def as_nobody(folder: Path) -> Iterator[None]:
    """Give up the rights of root, whom no right stops."""
    for part in (folder, *folder.parents):
        if part.stat().st_uid == os.geteuid() and not part.stat().st_mode & 0o001:
            part.chmod(part.stat().st_mode | 0o711)
    was_root = os.geteuid() == 0
    if was_root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if was_root:
            os.seteuid(0)


def closed_tiff(folder: Path) -> Callable[[], object]:
    tifffile.imwrite(folder / "a.tif", np.ones((32, 32), "uint16"))
    (folder / "a.tif").chmod(0)
    return lambda: cellxlate.open_stack(folder / "a.tif")


def closed_png(folder: Path) -> Callable[[], object]:
    (folder / "a.png").write_bytes(imagecodecs.png_encode(np.ones((32, 32), "uint8")))
    (folder / "a.png").chmod(0)
    return lambda: cellxlate.open_stack(folder / "a.png")


def closed_mask(folder: Path) -> Callable[[], object]:
    closed_png(folder)
    return lambda: open_mask(folder / "a.png", Stack.from_array(np.zeros((8, 9), np.uint8)))


def closed_file_of_a_set(folder: Path) -> Callable[[], object]:
    names = [f"t{number}.ome.tif" for number in range(2)]
    planes = "".join(
        f'<TiffData FirstT="{number}" PlaneCount="1"><UUID FileName="{name}">urn:uuid:{number}</UUID></TiffData>'
        for number, name in enumerate(names)
    )
    for number, name in enumerate(names):
        document = (
            f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:{number}">'
            '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="32" SizeY="32" '
            'SizeZ="1" SizeC="1" SizeT="2"><Channel ID="Channel:0:0" SamplesPerPixel="1"/>'
            f"{planes}</Pixels></Image></OME>"
        )
        tifffile.imwrite(folder / name, np.ones((32, 32), "uint16"), description=document, metadata=None)
    (folder / names[1]).chmod(0)
    return lambda: cellxlate.open_stack(folder / names[0])


def closed_way(folder: Path) -> Callable[[], object]:
    (folder / "closed").mkdir(mode=0)
    return lambda: cellxlate.open_stack(folder / "closed" / "a.tif")


def closed_way_to_a_model(folder: Path) -> Callable[[], object]:
    (folder / "closed").mkdir(mode=0)
    return lambda: cellxlate.load_model(folder / "closed" / "model")


def closed_checkpoint(folder: Path) -> Callable[[], object]:
    (folder / CHECKPOINT).write_bytes(b"")
    (folder / CHECKPOINT).chmod(0)
    return lambda: read_notes(folder)


def closed_chunk(folder: Path) -> Callable[[], object]:
    array = zarr.create_array(folder / "a.zarr", shape=(32, 32), chunks=(32, 32), dtype="uint16")
    array[:] = 1
    (folder / "a.zarr" / "c" / "0" / "0").chmod(0)
    return lambda: cellxlate.open_stack(folder / "a.zarr", "YX").read(())


def closed_zarr(folder: Path) -> Callable[[], object]:
    zarr.create_array(folder / "a.zarr", shape=(32, 32), chunks=(32, 32), dtype="uint16")
    (folder / "a.zarr" / "zarr.json").chmod(0)
    return lambda: cellxlate.open_stack(folder / "a.zarr", "YX")


def closed_zip(folder: Path) -> Callable[[], object]:
    with zipfile.ZipFile(folder / "a.zarr.zip", "w") as file:
        file.writestr("zarr.json", "{}")
    (folder / "a.zarr.zip").chmod(0)
    return lambda: cellxlate.open_stack(folder / "a.zarr.zip")


def closed_card(folder: Path, name: str = "card.json") -> Callable[[], object]:
    model = shutil.copytree(cellxlate.load_model("nuclei-lowexp").path, folder / "model")
    (model / name).chmod(0)
    return lambda: cellxlate.load_model(model)


def closed_weights(folder: Path) -> Callable[[], object]:
    return closed_card(folder, "weights.safetensors")


def closed_archive(folder: Path) -> Callable[[], object]:
    (folder / "model.zip").write_bytes(b"PK")
    (folder / "model.zip").chmod(0)
    return lambda: cellxlate.load_model(folder / "model.zip")


def closed_report(folder: Path) -> Callable[[], object]:
    (folder / "a_report.json").write_text(json.dumps({"provenance": {"levels_counts": {}}}))
    (folder / "a_report.json").chmod(0)
    return lambda: saved_ranges(folder / "a_report.json")


def closed_folder(folder: Path) -> Callable[[], object]:
    (folder / "closed").mkdir(mode=0o555)
    return lambda: write_whole_file(folder / "closed" / "a.txt", "text")


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="Windows has other rights")
@pytest.mark.parametrize(
    "closed",
    [
        closed_tiff, closed_file_of_a_set, closed_way, closed_way_to_a_model, closed_checkpoint,
        closed_png, closed_mask, closed_chunk, closed_zarr, closed_zip, closed_card, closed_weights,
        closed_archive, closed_report, closed_folder,
    ],
)  # fmt: skip
def test_what_is_denied_is_said_to_be_denied_and_never_damaged(
    closed: Callable[[Path], Callable[[], object]], tmp_path: Path
) -> None:
    attempt = closed(tmp_path)
    with as_nobody(tmp_path), pytest.raises(PermissionError, match="Permission denied") as caught:
        attempt()
    assert isinstance(caught.value, CellxlateError)
    assert str(tmp_path) in str(caught.value)
    for word in ("damaged", "unsupported", "copy", "convert", "is no "):
        assert word not in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="Windows has other rights")
def test_the_command_line_says_in_one_line_what_is_denied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    closed_tiff(tmp_path)
    with as_nobody(tmp_path):
        assert main(["info", str(tmp_path / "a.tif")]) == 2
    line = capsys.readouterr().err
    assert line == f"cellxlate: {tmp_path / 'a.tif'} cannot be read (Permission denied); check your rights to it\n"


@pytest.mark.parametrize("kind", [InputError, ModelError, OutputError])
def test_a_denial_is_found_below_what_libraries_make_of_it(kind: type[CellxlateError]) -> None:
    otherwise = kind("a is damaged")
    assert errors.unless_denied(otherwise, "a", OSError("torn")) is otherwise
    try:
        try:
            raise PermissionError(13, "Permission denied", "a/c/0")
        except OSError as fault:
            raise RuntimeError("the library failed") from fault
    except RuntimeError as fault:
        found = errors.unless_denied(otherwise, "a", fault)
    assert isinstance(found, kind)
    assert isinstance(found, PermissionError)
    if kind is not OutputError:
        assert str(found) == "a: a/c/0 cannot be read (Permission denied); check your rights to it"
