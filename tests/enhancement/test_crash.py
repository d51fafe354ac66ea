"""However a run ends, nothing incomplete gets a final name, and resuming gives the pixels of an unbroken run."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

import cellxlate
from cellxlate import cli
from cellxlate.enhancement import flow
from cellxlate.enhancement.flow import EnhanceProgress
from cellxlate.errors import CellxlateError, InputError, OutputError, PromiseError
from cellxlate.settings import EnhanceSettings
from cellxlate.stacks.stack import Stack
from cellxlate.stacks.write.bands import Bands
from cellxlate.stacks.write.copy import write_stacks
from cellxlate.stacks.write.writer import PIXELS_FOLDER, Writer

TILES = EnhanceSettings(tile_px=64)
BANDS = 8
RESULTS = ("_enhanced.ome.tif", "_attention.ome.tif", "_report.html", "_report.json")


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    """Four planes of two bands."""
    noise = np.random.default_rng(0).normal(0, 8, (4, 600, 40))
    pixels = (noise + np.linspace(80, 240, 40)).clip(0).astype(np.uint16)
    path = tmp_path / "cells.ome.tif"
    write_stacks([(Stack(pixels, "ZYX"), path)])
    return path


@pytest.fixture
def unbroken(stack: Path, tiny_model: Path, tmp_path: Path) -> list[Any]:
    """Image and attention of a run that nothing disturbs."""
    return pixels_of(cellxlate.enhance_file(stack, tiny_model, output=tmp_path / "whole.ome.tif", settings=TILES))


def pixels_of(report: Any) -> list[Any]:
    found = []
    for name in ("enhanced", "attention"):
        with cellxlate.open_stack(report.outputs[name]) as written:
            found.append(np.asarray(written).copy())
    return found


def resume(stack: Path, model: Path, unbroken: list[Any]) -> int:
    """Resume, compare with the unbroken run, and return how many bands were left to do."""
    news: list[EnhanceProgress] = []
    report = cellxlate.enhance_file(stack, model, settings=TILES, resume=True, progress=news.append)
    for found, expected in zip(pixels_of(report), unbroken, strict=True):
        assert np.array_equal(found, expected)
    assert not list(stack.parent.glob("*.partial"))
    return len(news)


def nothing_has_its_name(stack: Path) -> bool:
    return not any((stack.parent / f"cells{ending}").exists() for ending in RESULTS)


KILLED_RUN = """
import os, signal, sys
from pathlib import Path
import cellxlate
from cellxlate.enhancement import job
from cellxlate.settings import EnhanceSettings
from cellxlate.stacks.write.writer import Writer
stack, model, moment = sys.argv[1:]
die = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
seen = []
def progress(news):
    seen.append(news)
    if len(seen) == int(moment): die()
if moment == "finish":
    honest = job.verify
    job.verify = die
if moment == "publish":
    honest = Writer.publish
    Writer.publish = lambda writer, **options: (honest(writer, **options), die())
cellxlate.enhance_file(stack, model, settings=EnhanceSettings(tile_px=64),
                       progress=progress if moment.isdecimal() else None)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
@pytest.mark.parametrize("moment", ["3", "finish", "publish"])
def test_a_killed_run_is_resumed(stack: Path, tiny_model: Path, unbroken: list[Any], moment: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED_RUN, stack, tiny_model, moment], check=False, capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]
    assert not (stack.parent / "cells_enhanced.ome.tif").exists()  # it comes last
    left = resume(stack, tiny_model, unbroken)
    assert left == {"3": left, "finish": 0, "publish": BANDS}[moment]
    assert 0 <= left <= BANDS


def failing_at(plane: int, fault: Exception) -> Callable[..., Any]:
    honest = Stack.read

    def read(self: Stack, index: Any, *window: Any) -> Any:
        if index == (plane,):
            raise fault
        return honest(self, index, *window)

    return read


def test_a_read_error_in_the_middle(
    stack: Path, tiny_model: Path, unbroken: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cellxlate.stacks.intensity import saved

    monkeypatch.setattr(saved, "stack_ranges", lambda *_: intensity)
    with cellxlate.open_stack(stack) as opened:
        intensity = cellxlate.stacks.intensity.stack_range.stack_ranges(opened, [0])
    with monkeypatch.context() as patch:
        patch.setattr(Stack, "read", failing_at(2, InputError("plane 2 is damaged; copy the file again")))
        with pytest.raises(InputError, match="plane 2 is damaged"):
            cellxlate.enhance_file(stack, tiny_model, settings=TILES)
    assert nothing_has_its_name(stack)
    assert resume(stack, tiny_model, unbroken) == BANDS - 4


def test_a_full_disk(stack: Path, tiny_model: Path, unbroken: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    honest, written = Bands.write, []

    def write(self: Bands, *arguments: Any) -> None:
        written.append(1)
        if len(written) > 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        honest(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Bands, "write", write)
        with pytest.raises(OutputError, match=r"disk is full.*resume=True"):
            cellxlate.enhance_file(stack, tiny_model, settings=TILES)
    assert nothing_has_its_name(stack)
    assert resume(stack, tiny_model, unbroken) == BANDS - 2  # image and attention


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_the_command_with_its_code_and_keeps_what_is_done(
    stack: Path, tiny_model: Path, unbroken: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: Any, sent: int,
    code: int,
) -> None:  # fmt: skip
    honest, started = flow.enhance_plane, []

    def signalled(*arguments: Any) -> Any:
        started.append(1)
        if len(started) == 5:
            os.kill(os.getpid(), sent)
            time.sleep(1)
        yield from honest(*arguments)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(flow, "enhance_plane", signalled)
        assert cli.main(["enhance", str(stack), "-m", str(tiny_model), "--tile", "64"]) == code
    assert signal.getsignal(signal.SIGTERM) is before
    assert "--resume" in capsys.readouterr().err
    assert nothing_has_its_name(stack)
    assert BANDS - 5 < resume(stack, tiny_model, unbroken) < BANDS  # what was on its way is not kept


class Stop(Exception):
    """Stands for whatever ends a run early."""


def interrupted(stack: Path, model: Path, planes: float = 2) -> None:
    def stop(news: EnhanceProgress) -> None:
        if news.done >= planes:
            raise Stop

    with pytest.raises(Stop):
        cellxlate.enhance_file(stack, model, settings=TILES, progress=stop)


def test_a_corrupted_partial_is_detected_and_redone(stack: Path, tiny_model: Path, unbroken: list[Any]) -> None:
    interrupted(stack, tiny_model)
    bands = sorted(file for file in stack.parent.glob("cells_enhanced*.partial/**/c.*") if file.is_file())
    assert len(bands) == 4
    damaged, cut = bands[0], bands[3]
    content = bytearray(damaged.read_bytes())
    content[len(content) // 3] ^= 0xFF
    damaged.write_bytes(bytes(content))
    cut.write_bytes(cut.read_bytes()[:-20])  # as after power loss
    assert resume(stack, tiny_model, unbroken) == BANDS - 2


def test_two_runs_at_the_same_output_exclude_each_other(stack: Path, tiny_model: Path) -> None:
    refused = []

    def second(_: EnhanceProgress) -> None:
        for again in ({"resume": True}, {"overwrite": True}):
            with pytest.raises(OutputError, match="another job"):
                cellxlate.enhance_file(stack, tiny_model, settings=TILES, **again)
            refused.append(again)

    cellxlate.enhance_file(stack, tiny_model, settings=TILES, progress=second)
    assert len(refused) == 2 * BANDS


@pytest.mark.parametrize(
    ("change", "named"),
    [({"settings": EnhanceSettings(threshold=0.5, tile_px=64)}, "settings"), ({"engine": "onnxruntime"}, "engine")],
)
def test_a_partial_of_other_settings_or_another_engine_is_refused(
    stack: Path, tiny_model: Path, change: dict[str, Any], named: str
) -> None:
    if "engine" in change:
        pytest.importorskip("onnxruntime", reason="ONNX Runtime is optional")
    interrupted(stack, tiny_model)
    with pytest.raises(OutputError, match=f"begun with other {named};"):
        cellxlate.enhance_file(stack, tiny_model, resume=True, **{"settings": TILES, **change})


def test_resuming_what_is_finished_says_so_and_does_nothing(stack: Path, tiny_model: Path) -> None:
    first = cellxlate.enhance_file(stack, tiny_model, settings=TILES)

    def state() -> dict[str, tuple[int, int]]:
        return {item.name: (item.stat().st_mtime_ns, item.stat().st_ino) for item in stack.parent.iterdir()}

    before, news = state(), []
    again = cellxlate.enhance_file(stack, tiny_model, settings=TILES, resume=True, progress=news.append)
    assert state() == before
    assert not news
    assert "finished before" in again.warnings[0]
    assert (again.changed_fraction, again.pixels) == (first.changed_fraction, first.pixels)
    assert again.changed_fraction > 0
    with pytest.raises(OutputError, match="finished, but from other settings; give overwrite=True"):
        cellxlate.enhance_file(stack, tiny_model, settings=EnhanceSettings(threshold=0.6), resume=True)
    assert state() == before


def test_a_finished_result_that_was_changed_is_not_called_finished(stack: Path, tiny_model: Path) -> None:
    report = cellxlate.enhance_file(stack, tiny_model, settings=TILES)
    enhanced, attention = (Path(str(report.outputs[name])) for name in ("enhanced", "attention"))
    with cellxlate.open_stack(enhanced) as opened:
        pixels = np.asarray(opened).copy()
    with cellxlate.open_stack(attention) as selected:
        kept = np.argwhere(np.asarray(selected) == 0)[0]
    pixels[tuple(kept)] += 1
    write_stacks([(Stack(pixels, "ZYX"), enhanced)], overwrite=True)
    with pytest.raises(PromiseError, match="1 kept pixels differ"):
        cellxlate.enhance_file(stack, tiny_model, settings=TILES, resume=True)


def test_without_a_report_or_attention_a_finished_run_is_still_recognised(stack: Path, tiny_model: Path) -> None:
    wanted = {"settings": TILES, "attention": False, "report": False}
    cellxlate.enhance_file(stack, tiny_model, **wanted)
    again = cellxlate.enhance_file(stack, tiny_model, resume=True, **wanted)
    assert "it is not known whether with the same settings" in again.warnings[0]


def test_the_next_plane_is_read_while_one_is_enhanced_and_no_more(
    stack: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, read = Stack.read, []

    def noted(self: Stack, index: Any, *window: Any) -> Any:
        if threading.current_thread().name.startswith("cellxlate-ahead"):
            read.append(index)
        return honest(self, index, *window)

    monkeypatch.setattr(Stack, "read", noted)

    def wait(news: EnhanceProgress) -> None:
        expected, until = min(int(np.ceil(news.done)) + 1, 4), time.monotonic() + 5
        while len(read) < expected and time.monotonic() < until:
            time.sleep(0.005)
        time.sleep(0.02)
        assert len(read) == expected

    cellxlate.enhance_file(stack, tiny_model, settings=TILES, progress=wait)
    assert read[:4] == [(0,), (1,), (2,), (3,)]  # then the result is read back


def test_few_bands_wait_to_be_written_and_errors_end_the_run(
    stack: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, written, waiting = Bands.write, [], []

    def slowly(self: Bands, *arguments: Any) -> None:
        time.sleep(0.05)
        honest(self, *arguments)
        written.append(1)

    monkeypatch.setattr(Bands, "write", slowly)
    news: list[EnhanceProgress] = []

    def count(one: EnhanceProgress) -> None:
        news.append(one)
        waiting.append(len(news) - len(written) / 2)

    cellxlate.enhance_file(stack, tiny_model, settings=TILES, progress=count)
    assert max(waiting) <= flow.WAITING_BANDS + 1
    assert len(written) == 2 * BANDS

    def fail(self: Bands, *arguments: Any) -> None:
        raise CellxlateError("the writer failed")

    monkeypatch.setattr(Bands, "write", fail)
    with pytest.raises(CellxlateError, match="the writer failed"):
        cellxlate.enhance_file(stack, tiny_model, settings=TILES, overwrite=True)


@pytest.mark.parametrize("level", ["0", "1"])
def test_a_band_that_is_damaged_when_the_file_is_put_together_is_made_again(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    """Of full resolution or of the pyramid: nobody has to ask for --resume."""
    pixels = np.random.default_rng(2).integers(50, 900, (1030, 1100)).astype(np.uint16)
    path = tmp_path / "wide.ome.tif"
    write_stacks([(Stack.from_array(pixels, "YX"), path)])
    expected = pixels_of(cellxlate.enhance_file(path, tiny_model, settings=TILES))
    honest, damaged = Writer.finish, []

    def finish(writer: Writer, *arguments: Any) -> Any:
        if not damaged:
            band = next(file for file in (writer.partial / PIXELS_FOLDER / level).glob("c.*"))
            content = bytearray(band.read_bytes())
            content[len(content) // 3] ^= 0xFF
            band.write_bytes(bytes(content))
            damaged.append(band)
        return honest(writer, *arguments)

    monkeypatch.setattr(Writer, "finish", finish)
    found = pixels_of(cellxlate.enhance_file(path, tiny_model, settings=TILES, overwrite=True))
    assert damaged
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


FORMATS = {
    "ome-tiff": "a.ome.tif",
    "tiff": "a.tif",
    "ome-zarr": "a.ome.zarr",
    "ome-zarr-0.4": "a.ome.zarr",
    "zarr": "a.zarr",
}


def flip(file: Path, share: float = 1 / 3) -> None:
    """Flip one bit of a file."""
    content = bytearray(file.read_bytes())
    content[int(len(content) * share)] ^= 4
    file.write_bytes(bytes(content))


def files_below(partial: Path, pattern: str) -> list[Path]:
    return sorted(file for file in partial.rglob(pattern) if file.is_file())


@pytest.mark.parametrize("of", ["enhanced", "attention"])
@pytest.mark.parametrize("form", FORMATS)
def test_one_flipped_bit_in_a_partial_is_mended_by_resume(
    stack: Path, tiny_model: Path, unbroken: list[Any], form: Any, of: str
) -> None:
    """In the first of the chunks of a band, in the index of another, and in the metadata of the array."""
    options = {"settings": TILES, "format": form, "output": stack.parent / FORMATS[form], "report": False}

    def stop(news: EnhanceProgress) -> None:
        if news.done >= 3:
            raise Stop

    with pytest.raises(Stop):
        cellxlate.enhance_file(stack, tiny_model, progress=stop, **options)
    [partial] = [item for item in stack.parent.glob("*.partial") if ("attention" in item.name) == (of == "attention")]
    written = files_below(partial, "c/*/*/*") or files_below(partial, "c.*")
    assert len(written) >= 5
    for file, share in zip(written, (0.1, 0.5, 0.97), strict=False):
        flip(file, share)
    flip(next(file for file in files_below(partial, "zarr.json") if '"array"' in file.read_text()))
    report = cellxlate.enhance_file(stack, tiny_model, resume=True, **options)
    for found, expected in zip(pixels_of(report), unbroken, strict=True):
        assert np.array_equal(found, expected)
    assert not list(stack.parent.glob("*.partial"))


@pytest.mark.parametrize("form", ["ome-zarr", "zarr"])
def test_a_result_that_is_damaged_before_it_is_read_back_is_made_again(
    stack: Path, tiny_model: Path, unbroken: list[Any], form: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where its chunks have checksums; nobody has to ask for --resume."""
    honest, damaged = Writer.finish, []

    def finish(writer: Writer, *arguments: Any) -> Any:
        result = honest(writer, *arguments)
        if not damaged:
            damaged.append(
                max(files_below(result, "*"), key=lambda file: file.stat().st_size) if result.is_dir() else result
            )
            flip(damaged[0])
        return result

    monkeypatch.setattr(Writer, "finish", finish)
    options = {"settings": TILES, "format": form, "output": stack.parent / FORMATS[form], "report": False}
    report = cellxlate.enhance_file(stack, tiny_model, **options)
    for found, expected in zip(pixels_of(report), unbroken, strict=True):
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("of", ["enhanced", "attention"])
@pytest.mark.parametrize("form", ["tiff", "ome-zarr-0.4"])
def test_one_flipped_bit_of_a_selected_pixel_in_the_finished_file_is_noticed(
    stack: Path, tiny_model: Path, unbroken: list[Any], form: Any, of: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between writing and reading back, in formats without checksums: first it is mended, the second time refused."""
    where = tuple(int(axis[0]) for axis in np.nonzero(unbroken[1] > 8))
    honest, damaged, times = Writer.finish, [], 1

    def finish(writer: Writer, *arguments: Any) -> Any:
        result = honest(writer, *arguments)
        if ("attention" in result.name) == (of == "attention") and len(damaged) < times:
            pixels = tifffile.memmap(result, mode="r+") if form == "tiff" else zarr.open_array(result / "0", mode="r+")
            pixels[where] ^= pixels.dtype.type(4)
            damaged.append(where)
        return result

    monkeypatch.setattr(Writer, "finish", finish)
    options = {"settings": TILES, "format": form, "output": stack.parent / FORMATS[form], "report": False}
    report = cellxlate.enhance_file(stack, tiny_model, **options)
    assert damaged == [where]
    for found, expected in zip(pixels_of(report), unbroken, strict=True):
        assert np.array_equal(found, expected)
    times = 3
    with pytest.raises(PromiseError, match=r"does not hold what was computed \(Z=0 from row 0\)"):
        cellxlate.enhance_file(stack, tiny_model, overwrite=True, **options)


def test_a_finished_result_whose_selected_pixel_has_changed_is_not_called_finished(
    stack: Path, tiny_model: Path, unbroken: list[Any]
) -> None:
    where = tuple(int(axis[0]) for axis in np.nonzero(unbroken[1] > 8))
    output = stack.parent / "a.tif"
    options = {"settings": TILES, "format": "tiff", "output": output}
    cellxlate.enhance_file(stack, tiny_model, **options)
    cellxlate.enhance_file(stack, tiny_model, resume=True, **options)
    tifffile.memmap(output, mode="r+")[where] ^= np.uint16(4)
    with pytest.raises(PromiseError, match="was changed after the run"):
        cellxlate.enhance_file(stack, tiny_model, resume=True, **options)
