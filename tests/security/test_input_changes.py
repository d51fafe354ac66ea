"""An input that changes at any moment of a run gives the new input's result, or a refusal: never one of two inputs."""

import importlib
import os
import shutil
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from cellxlate.cli import main
from cellxlate.enhancement import job, same_input
from cellxlate.enhancement import verify as account
from cellxlate.stacks.read.open import open_stack
from cellxlate.stacks.stack import Stack
from cellxlate.stacks.write import bands
from cellxlate.stacks.write.writer import Writer

SHAPE = (2, 1030, 64)
KINDS = ("tif", "zarr")
PLACES = {"kept": (0, 300, 2), "cell": (0, 300, 60), "halo": (0, 520, 60), "last plane": (1, 30, 60)}
"""Untrained networks keep the dark side of a ramp and select the bright one; bands have 512 rows."""


def cells() -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 8, SHAPE)
    return (noise + np.linspace(80, 240, SHAPE[-1])).astype(np.uint16)


@pytest.fixture(params=KINDS)
def stack(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"cells.{request.param}"
    if path.suffix == ".zarr":
        made = zarr.create_array(store=path, shape=SHAPE, dtype="uint16", chunks=(1, 256, 64))
        made[:] = cells()
    else:
        tifffile.imwrite(path, cells(), photometric="minisblack")
    return path


@pytest.fixture
def edit(stack: Path) -> Callable[[str], None]:
    """Give what changes one pixel where neither ends and time of a file nor the metadata of a Zarr array show it."""

    def change(place: str) -> None:
        where = PLACES[place]
        if stack.suffix == ".zarr":
            array = zarr.open_array(stack, mode="r+")
            array[where] += np.uint16(9)
            return
        before = stack.stat()
        pixels = tifffile.memmap(stack, mode="r+")
        pixels[where] += np.uint16(9)
        pixels.flush()
        del pixels
        os.utime(stack, ns=(before.st_atime_ns, before.st_mtime_ns))

    return change


@pytest.fixture(autouse=True)
def small_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is small: let its identity be as blind as that of a large one."""
    identity = importlib.import_module("cellxlate.enhancement.outputs.identity")
    monkeypatch.setattr(identity, "SAMPLED_BYTES", 256)


OPTIONS = ("--axes", "ZYX", "--tile", "64")


def fresh(stack: Path, model: Path) -> np.ndarray:
    """Return what a run of its own makes of the stack as it is now."""
    folder = stack.parent / "fresh"
    folder.mkdir()
    assert (
        main(["enhance", str(stack), "-m", str(model), "--quiet", "--no-report", "--output-dir", str(folder), *OPTIONS])
        == 0
    )
    [found] = folder.glob("*_enhanced.ome.*")
    with open_stack(found) as opened:
        pixels = np.asarray(opened).copy()
    shutil.rmtree(folder)
    return pixels


def judge(stack: Path, code: int, err: str, model: Path) -> str:
    """Assert that a run has made the present input's result, or has refused in one line; say which."""
    written = list(stack.parent.glob("cells_enhanced.ome.*[!l]"))
    written = [item for item in written if not item.name.endswith(".partial")]
    if code:
        assert code == 2, err
        assert "changed" in err or "begun with other" in err, err
        assert err.count("\n") == 1
        assert not written
        return "refused"
    with open_stack(written[0]) as opened:
        np.testing.assert_array_equal(np.asarray(opened), fresh(stack, model))
    return "result"


class StopError(Exception):
    """What interrupts a run."""


def interrupted(stack: Path, command: Any, monkeypatch: pytest.MonkeyPatch, after: int = 3) -> None:
    """Stop a run when so many bands of image and attention are written."""
    write, written = bands.Bands.write, []

    def counted(*arguments: Any) -> None:
        if len(written) == after:
            raise OSError(5, "Input/output error")
        write(*arguments)
        written.append(1)

    with monkeypatch.context() as broken:
        broken.setattr(bands.Bands, "write", counted)
        command.enhance_refused(stack, *OPTIONS)
    assert (written, len(written)) == ([1] * after, after)


def hooked(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, happens: Callable[[], None], at: int = 1) -> None:
    """Let something happen once, before the n-th call of a function."""
    honest, calls = getattr(owner, name), []

    def wrapped(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == at:
            happens()
        return honest(*arguments, **named)

    monkeypatch.setattr(owner, name, wrapped)


@pytest.mark.parametrize("place", PLACES)
def test_a_stack_that_is_changed_before_resume(stack, edit, place, command, monkeypatch):
    interrupted(stack, command, monkeypatch)
    edit(place)
    code, _, err = command.enhance(stack, "--resume", "--no-report", *OPTIONS)
    outcome = judge(stack, code, err, command.model)
    if place in ("kept", "cell", "halo"):  # of a band that is done
        assert outcome == "refused"
        code, _, err = command.enhance(stack, "--overwrite", *OPTIONS)
        assert judge(stack, code, err, command.model) == "result"


def test_a_stack_that_is_brought_back_is_resumed(stack, edit, command, monkeypatch):
    before = stack.parent / "before"
    (shutil.copytree if stack.is_dir() else shutil.copy2)(stack, before)
    interrupted(stack, command, monkeypatch)
    edit("cell")
    err = command.enhance_refused(stack, "--resume", *OPTIONS)
    if stack.suffix == ".zarr":
        assert "changed after the run began (Z=0 from row 0); give --overwrite" in err
        shutil.rmtree(stack)
    before.replace(stack)
    code, _, err = command.enhance(stack, "--resume", *OPTIONS)
    assert judge(stack, code, err, command.model) == "result"


MOMENTS: dict[str, tuple[Any, str, int]] = {
    "after it is opened": (job, "make_plan", 1),
    "after the levels are measured": (job, "open_writers", 1),
    "after the first plane is read": (importlib.import_module("cellxlate.enhancement.flow"), "enhance_plane", 1),
    "between bands": (bands.Bands, "write", 4),
    "before the last band": (bands.Bands, "write", 11),
    "before the file is put together": (Writer, "finish", 1),
    "before it is verified": (job, "verify", 1),
    "when it is opened again": (account, "opened_again", 1),
    "while it is verified": (account, "read_back", 1),
    "while its samples are compared": (account, "require_same", 1),
    "after it is verified": (job, "run_report", 1),
}


@pytest.mark.parametrize(("moment", "place"), list(zip(MOMENTS, cycle(PLACES), strict=False)))
def test_a_stack_that_is_changed_during_a_run(stack, edit, moment, place, command, monkeypatch):
    owner, name, at = MOMENTS[moment]
    with monkeypatch.context() as hook:
        hooked(hook, owner, name, lambda: edit(place), at)
        code, _, err = command.enhance(stack, "--no-report", *OPTIONS)
    outcome = judge(stack, code, err, command.model)
    assert outcome == ("result" if moment == "after it is opened" else "refused")


@pytest.mark.parametrize("moment", ["after the levels are measured", "between bands", "before it is verified"])
def test_a_file_that_takes_its_place_during_a_run(stack, edit, moment, command, monkeypatch):
    """The old file stays open under no name, so that reading on would not show the new one."""
    if stack.suffix == ".zarr":
        pytest.skip("each chunk is opened when it is read")
    copy = stack.with_name("copy")

    def exchange() -> None:
        shutil.copy2(stack, copy)
        edit("cell")
        kept = stack.stat()
        changed = stack.read_bytes()
        copy.replace(stack)  # another file, the same content
        stack.write_bytes(changed)
        os.utime(stack, ns=(kept.st_atime_ns, kept.st_mtime_ns))

    owner, name, at = MOMENTS[moment]
    with monkeypatch.context() as hook:
        hooked(hook, owner, name, exchange, at)
        code, _, err = command.enhance(stack, "--no-report", *OPTIONS)
    assert judge(stack, code, err, command.model) == "refused"


def test_levels_that_were_measured_on_what_is_gone(stack, edit, command, monkeypatch):
    """Every band is of the new input then, but not the levels."""
    with monkeypatch.context() as hook:
        hooked(hook, job, "open_writers", lambda: edit("cell"))
        hook.setattr(same_input.SameInput, "_compare", lambda *_: None)
        assert "changed" in command.enhance_refused(stack, *OPTIONS)


def test_a_finished_run_of_another_input_is_not_called_finished(stack, edit, command):
    assert command.enhance(stack, *OPTIONS)[0] == 0
    assert command.enhance(stack, "--resume", *OPTIONS)[0] == 0
    edit("cell")
    err = command.enhance_refused(stack, "--resume", *OPTIONS)
    assert "is finished, but from other" in err


def test_the_same_run_in_memory(stack, edit, tiny_model, monkeypatch):
    import cellxlate
    from cellxlate.errors import InputError

    with open_stack(stack, "ZYX") as opened:
        assert cellxlate.enhance(opened, tiny_model).image.shape == SHAPE
        hooked(monkeypatch, job, "verify", lambda: edit("cell"))
        with pytest.raises(InputError, match="was changed or removed while it was read"):
            cellxlate.enhance(opened, tiny_model)


def test_a_stack_in_memory_is_its_own_file(tiny_model):
    import cellxlate

    found = cellxlate.enhance(Stack.from_array(cells()), tiny_model)
    assert found.report.provenance["input_rows_blake2b"]
