"""What disks, memory, clocks and systems do to a job: no data lost, one line, the right exit code, and it can go on."""

import errno
import importlib
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from cellxlate.cli import main
from cellxlate.enhancement import job
from cellxlate.enhancement import verify as account
from cellxlate.enhancement.outputs.names import name_outputs, require_distinct
from cellxlate.errors import OptionError
from cellxlate.stacks.read import tiff as reading_tiff
from cellxlate.stacks.stack import Stack
from cellxlate.stacks.write import bands
from cellxlate.stacks.write import partial as placing
from cellxlate.stacks.write import writer as writing

from ..conftest import skip_or_fail

resource: Any = pytest.importorskip("resource") if sys.platform != "win32" else None

NOBODY = 65_534
RESULTS = ("cells_enhanced.ome.tif", "cells_attention.ome.tif", "cells_report.html", "cells_report.json")


def noisy(rows: int = 1100, columns: int = 64) -> np.ndarray:
    """Two bands of tiles, so that a job can be stopped between them."""
    noise = np.random.default_rng(0).normal(0, 8, (rows, columns))
    return (noise + np.linspace(80, 240, columns)).astype(np.uint16)


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    path = tmp_path / "cells.tif"
    tifffile.imwrite(path, noisy())
    return path


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> np.ndarray:
    """What an undisturbed job writes."""
    path = tmp_path_factory.mktemp("expected") / "cells.tif"
    tifffile.imwrite(path, noisy())
    assert main(["enhance", str(path), "-m", str(tiny_model), "--quiet"]) == 0
    return tifffile.imread(path.with_name(RESULTS[0]))


def finished(folder: Path, expected: np.ndarray) -> None:
    """Assert that all results are there, right, and alone."""
    assert np.array_equal(tifffile.imread(folder / RESULTS[0]), expected)
    assert all((folder / name).is_file() for name in RESULTS)
    assert not [item.name for item in folder.iterdir() if item.name.endswith((".partial", ".part"))]


def nothing_final(folder: Path) -> None:
    """Assert that no stack has got its final name."""
    assert not [name for name in RESULTS[:2] if (folder / name).exists()]


@contextmanager
def limited(kind: int, soft: int) -> Iterator[None]:
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


@contextmanager
def as_nobody(*folders: Path) -> Iterator[None]:
    """Give up the rights of root, which no read-only folder stops; folders on the way are opened."""
    if os.geteuid() != 0:
        yield
        return
    for folder in folders:
        for part in (folder, *folder.parents):
            if part.stat().st_uid == 0 and not part.stat().st_mode & 0o001:
                part.chmod(part.stat().st_mode | 0o711)
    os.seteuid(NOBODY)
    try:
        Path(np.__file__).stat()
    except PermissionError:
        os.seteuid(0)
        skip_or_fail("what is installed lies in a folder that nobody but root may enter")
    try:
        yield
    finally:
        os.seteuid(0)


def failing(original: Callable[..., Any], fault: BaseException, *, at: int = 1) -> Callable[..., Any]:
    """Return a function that raises at its n-th call, and else does what it did."""
    calls = [0]

    def wrapped(*arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == at:
            raise fault
        return original(*arguments, **named)

    return wrapped


# --- disks


def test_a_disk_that_is_full_is_named_before_any_work(stack, tmp_path, command, monkeypatch, untouched):
    monkeypatch.setattr(writing.shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(10**6, 10**6, 10))
    untouched()
    assert "GB free" in command.enhance_refused(stack)


@pytest.mark.parametrize("most_bytes", [10, 3_000, 30_000, 60_000])
def test_a_disk_that_fills_up_loses_nothing_and_resume_goes_on(most_bytes, stack, tmp_path, command, expected):
    with limited(resource.RLIMIT_FSIZE, most_bytes):  # as a full disk does, it refuses what does not fit
        command.enhance_refused(stack)
    nothing_final(tmp_path)
    assert np.array_equal(tifffile.imread(stack), noisy())
    assert command.enhance(stack, "--resume")[0] == 0
    finished(tmp_path, expected)


def test_a_small_disk_that_is_really_full(tmp_path, command):
    disk = tmp_path / "disk"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", "size=200k", "none", str(disk)]
    if sys.platform != "linux" or subprocess.run(["mount", *options], capture_output=True, check=False).returncode:
        pytest.xfail("no small disk can be mounted here; the limit on file sizes stands in for it")
    try:
        path = tmp_path / "cells.tif"
        tifffile.imwrite(path, noisy(600, 300))
        for _ in range(2):
            line = command.enhance_refused(path, "--output-dir", disk, "--resume")
            assert "full" in line or "free" in line
        assert not list(disk.glob("*.ome.tif"))
        assert "free" in command.refused("sample", disk / "a.ome.tif", "--shape", "1,1,1,600,700")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("code", [errno.EIO, errno.EDQUOT, errno.EROFS, errno.ESTALE, errno.EACCES])
def test_storage_that_fails_while_writing(code, stack, tmp_path, command, expected, monkeypatch):
    fault = OSError(code, os.strerror(code))
    with monkeypatch.context() as broken:
        broken.setattr(bands.Bands, "write", failing(bands.Bands.write, fault, at=3))
        assert os.strerror(code) in command.enhance_refused(stack)
    nothing_final(tmp_path)
    assert command.enhance(stack, "--resume")[0] == 0
    finished(tmp_path, expected)


@pytest.mark.parametrize("kind", ["finish", "rename", "report"])
def test_storage_that_fails_at_the_end(kind, stack, tmp_path, command, expected, monkeypatch):
    fault = OSError(errno.EIO, "Input/output error")
    with monkeypatch.context() as broken:
        if kind == "finish":
            broken.setattr(writing, "write_tiff", failing(writing.write_tiff, fault, at=2))
        elif kind == "rename":
            broken.setattr(placing, "rename_or_say", failing(placing.rename_or_say, fault, at=2))
        else:
            broken.setattr(account, "write_page", failing(account.write_page, fault))
            assert command.enhance(stack)[0] == 0  # a report is no reason to throw a result away
        if kind != "report":
            command.enhance_refused(stack)
    assert command.enhance(stack, "--resume")[0] == 0
    finished(tmp_path, expected)


def test_storage_that_cannot_sync_still_gives_the_result(stack, tmp_path, command, expected, monkeypatch):
    def refuse(_handle: int) -> None:
        raise OSError(errno.EINVAL, "not supported")

    monkeypatch.setattr(os, "fsync", refuse)
    assert command.enhance(stack)[0] == 0
    finished(tmp_path, expected)


def test_slow_storage_changes_nothing(stack, tmp_path, command, expected, monkeypatch):
    read, write = Stack.read, bands.Bands.write

    def slowly(original: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments, **named: (time.sleep(0.02), original(*arguments, **named))[1]

    monkeypatch.setattr(Stack, "read", slowly(read))
    monkeypatch.setattr(bands.Bands, "write", slowly(write))
    assert command.enhance(stack)[0] == 0
    finished(tmp_path, expected)


@pytest.mark.parametrize("at", [1, 2, 4])
def test_an_input_that_cannot_be_read_for_a_moment(at, stack, tmp_path, command, expected, monkeypatch):
    fault = OSError(errno.EIO, "Input/output error")
    with monkeypatch.context() as broken:
        broken.setattr(reading_tiff.FilePixels, "_rows", failing(reading_tiff.FilePixels._rows, fault, at=at))
        if at == 4:  # while the result is read back, which is tried again
            assert command.enhance(stack)[0] == 0
        else:
            assert "damaged" in command.enhance_refused(stack)
            nothing_final(tmp_path)
    assert command.enhance(stack, "--resume")[0] == 0
    finished(tmp_path, expected)


# --- inputs that go away or change


def during(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """Let something happen once the first band is written."""
    write = bands.Bands.write

    def wrapped(*arguments: Any) -> None:
        write(*arguments)
        if not done:
            done.append(True)
            happens()

    done: list[bool] = []
    monkeypatch.setattr(bands.Bands, "write", wrapped)


def test_an_input_that_vanishes(stack, tmp_path, command, monkeypatch):
    during(monkeypatch, stack.unlink)
    assert "changed or removed" in command.enhance_refused(stack)
    nothing_final(tmp_path)


def test_an_input_that_is_cut_short_meanwhile(stack, tmp_path, command, monkeypatch):
    during(monkeypatch, lambda: os.truncate(stack, 5000))
    assert "changed or removed" in command.enhance_refused(stack)
    nothing_final(tmp_path)


def test_an_input_that_changes_meanwhile_is_noticed(stack, tmp_path, command, monkeypatch):
    during(monkeypatch, lambda: tifffile.imwrite(stack, noisy() + 1))
    assert "changed or removed" in command.enhance_refused(stack)
    nothing_final(tmp_path)


@pytest.mark.parametrize("when", ["read", "write"])
def test_a_zarr_that_vanishes_does_not_become_zeros(when, tmp_path, command, monkeypatch):
    path = tmp_path / "cells.zarr"
    made = zarr.create_array(store=path, shape=(1100, 64), dtype="uint16", chunks=(64, 64))
    made[:] = noisy()
    opened = job.open_writers
    if when == "read":  # after the levels are measured, before the first band
        monkeypatch.setattr(job, "open_writers", lambda *a, **k: (opened(*a, **k), shutil.rmtree(path))[0])
    else:
        during(monkeypatch, lambda: shutil.rmtree(path))
    assert "removed while it was read" in command.enhance_refused(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("when_s", [0.0, -86_400.0 * 365, 4e9])
def test_times_of_files_may_be_absurd(when_s, stack, tmp_path, command, expected):
    os.utime(stack, (when_s, when_s))
    assert command.enhance(stack)[0] == 0
    finished(tmp_path, expected)


@pytest.mark.parametrize("step_s", [-86_400.0, 86_400.0 * 40_000])
def test_clocks_that_jump_change_nothing(step_s, stack, tmp_path, command, expected, monkeypatch):
    clock = {"now": 1.6e9}

    def jumping() -> float:
        clock["now"] += step_s
        return clock["now"] % 4e9

    monkeypatch.setattr(time, "time", jumping)
    code, out, err = command.enhance(stack)
    assert (code, err) == (0, "")
    assert json.loads(out)["seconds"]["total"] >= 0
    finished(tmp_path, expected)


# --- rights


def test_a_read_only_folder(stack, tmp_path, command, untouched):
    folder = tmp_path / "shared"
    folder.mkdir()
    moved = stack.rename(folder / "cells.tif")
    moved.chmod(0o644)
    folder.chmod(0o555)
    untouched()
    with as_nobody(folder, command.model):
        assert "ermission" in command.enhance_refused(moved)
        assert "ermission" in command.enhance_refused(moved, "--output-dir", folder / "new")


def test_an_input_without_the_right_to_read(stack, tmp_path, command, untouched):
    stack.chmod(0)
    untouched()
    with as_nobody(tmp_path, command.model):
        assert "ermission" in command.enhance_refused(stack)


def test_a_model_without_the_right_to_read(stack, tmp_path, command, untouched):
    model = Path(shutil.copytree(command.model, tmp_path / "model"))
    (model / "weights.safetensors").chmod(0)
    untouched()
    with as_nobody(tmp_path):
        assert "ermission" in command.refused("enhance", stack, "-m", model)


def test_a_read_only_input_stays_read_only(stack, tmp_path, command, expected):
    stack.chmod(0o444)
    assert command.enhance(stack)[0] == 0
    finished(tmp_path, expected)
    assert stack.stat().st_mode & 0o777 == 0o444


# --- memory, handles, processors


def test_memory_that_runs_out_is_one_line(stack, tmp_path, command, expected, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(Stack, "read", failing(Stack.read, MemoryError(), at=2))
        found, out, err = command.enhance(stack)
    assert found in (1, 2)
    assert out == ""
    assert err.count("\n") == 1
    nothing_final(tmp_path)
    assert command.enhance(stack, "--resume")[0] == 0
    finished(tmp_path, expected)


UNDER_A_LIMIT = """
import resource, sys
from pathlib import Path
from cellxlate.cli import main
first, second, *options = sys.argv[1:]
assert main(["enhance", first, *options]) == 0
used = 1024 * int(Path("/proc/self/status").read_text().partition("VmSize:")[2].split()[0])
resource.setrlimit(resource.RLIMIT_AS, (used + 4_000_000, resource.RLIM_INFINITY))
sys.exit(main(["enhance", second, *options]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not enforce the limit")
def test_a_limit_on_memory_is_one_line(stack, tmp_path, command):
    """In a process of its own: in one that has run thousands of tests a thread may die as it starts, unheard."""
    path = tmp_path / "large.tif"
    tifffile.imwrite(path, noisy(1024, 6000), rowsperstrip=1024, compression="zlib")
    words = [sys.executable, "-c", UNDER_A_LIMIT, stack, path, "-m", command.model, "--quiet", "--engine", "torch"]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert ended.returncode in (1, 2)
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert "memory" in ended.stderr or "allocate" in ended.stderr
    assert not list(tmp_path.glob("large_*"))


@pytest.mark.usefixtures("_warm")
def test_few_open_files_are_enough(stack, tmp_path, command, expected):
    opened = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 40
    with limited(resource.RLIMIT_NOFILE, opened + 16):
        assert command.enhance(stack)[0] == 0
    finished(tmp_path, expected)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system cannot bind a process to a processor")
def test_one_processor_gives_the_same(stack, tmp_path, command, expected):
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert command.enhance(stack)[0] == 0
    finally:
        os.sched_setaffinity(0, before)
    finished(tmp_path, expected)


@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_other_processes_give_the_same(start, stack, tmp_path, command, expected):
    if start not in multiprocessing.get_all_start_methods():
        pytest.skip(f"the system has no {start}")
    arguments = ["enhance", str(stack), "-m", str(command.model), "--quiet"]
    process = multiprocessing.get_context(start).Process(target=main, args=(arguments,))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    finished(tmp_path, expected)


# --- interruptions


@pytest.mark.parametrize("place", ["read", "write", "finish", "verify", "report", "publish"])
def test_an_interruption_anywhere_can_be_resumed(place, stack, tmp_path, command, expected, monkeypatch):
    owner, name, at = {
        "read": (Stack, "read", 3), "write": (bands.Bands, "write", 3), "finish": (writing, "write_tiff", 2),
        "verify": (job, "verify", 1), "report": (account, "write_page", 1), "publish": (writing.Writer, "publish", 2),
    }[place]  # fmt: skip
    with monkeypatch.context() as broken:
        broken.setattr(owner, name, failing(getattr(owner, name), KeyboardInterrupt(), at=at))
        assert "interrupted" in command.enhance_refused(stack, code=130)
    assert not (tmp_path / RESULTS[0]).exists()
    assert command.enhance(stack, "--resume")[0] == 0
    finished(tmp_path, expected)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"cellxlate_partial": 99, "fingerprint": {}}', "\0" * 9], ids=ascii
)
def test_a_partial_whose_record_is_damaged(content, stack, tmp_path, command, expected, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(bands.Bands, "write", failing(bands.Bands.write, KeyboardInterrupt(), at=3))
        command.enhance_refused(stack, code=130)
    (tmp_path / f"{RESULTS[0]}.partial" / "job.json").write_text(content)
    assert "--overwrite" in command.enhance_refused(stack, "--resume")
    assert command.enhance(stack, "--overwrite")[0] == 0
    finished(tmp_path, expected)


@pytest.mark.parametrize("missing", ["weights.safetensors", "card.json"])
def test_an_interrupted_install_is_named(missing, stack, command, monkeypatch, tmp_path):
    from cellxlate.model import cards

    shipped = tmp_path / "shipped"
    shutil.copytree(command.model, shipped / "nuclei-lowexp")
    monkeypatch.setattr(cards, "SHIPPED", shipped)
    (shipped / "nuclei-lowexp" / missing).write_bytes(b"")
    command.refused("enhance", stack)
    (shipped / "nuclei-lowexp" / missing).unlink()
    command.refused("enhance", stack)
    nothing_final(tmp_path)


def test_a_package_that_is_missing_is_named(stack, tmp_path, command, monkeypatch):
    for name in ("openvino", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)
        assert "pip install" in command.enhance_refused(stack, "--engine", name)
    nothing_final(tmp_path)


# --- names and surroundings


@pytest.mark.parametrize(
    "name",
    ["a b  c.tif", "ümlaut µ.tif", "细胞 😀.tif", "new\nline.tif", "'quote\".tif", "-m.tif", "$HOME;`id`.tif",
     b"\xff\xfe\x80.tif", "a" * 220 + ".tif"],
    ids=lambda name: ascii(name)[:20],
)  # fmt: skip
def test_any_name_that_a_disk_holds_works(name, stack, tmp_path, command, expected):
    path = stack.rename(tmp_path / os.fsdecode(name))
    code, out, err = command("enhance", f"{tmp_path}/{path.name}", "-m", command.model)
    assert (code, err) == (0, "")
    assert out.isascii() or out.encode("utf-8")
    result = next(tmp_path.glob("*_enhanced.ome.tif"))
    assert np.array_equal(tifffile.imread(result), expected)


@pytest.mark.parametrize("length", [240, 251])
def test_a_name_too_long_for_its_results_is_one_line(length, stack, tmp_path, command, untouched):
    path = stack.rename(tmp_path / ("a" * (length - 4) + ".tif"))
    untouched()
    assert "too long" in command.enhance_refused(path)


def test_a_deep_path(tmp_path, command, expected):
    folder = tmp_path.joinpath(*["d" * 200] * 15)
    folder.mkdir(parents=True)
    tifffile.imwrite(folder / "cells.tif", noisy())
    assert command.enhance(folder / "cells.tif")[0] == 0
    finished(folder, expected)


@pytest.mark.parametrize(
    "surroundings",
    [{}, {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}, {"HOME": "/nonexistent", "TMPDIR": "/nonexistent"}],
    ids=["nothing", "locale C", "no home"],
)
def test_bare_surroundings(surroundings, stack, tmp_path, tiny_model, expected):
    path = stack.rename(tmp_path / os.fsdecode(b"cells \xff\xc3\xbc.tif"))
    needed = {name: os.environ[name] for name in ("SYSTEMROOT", "LD_LIBRARY_PATH") if name in os.environ}
    command = [sys.executable, "-m", "cellxlate", "enhance", os.fsencode(path), "-m", str(tiny_model)]
    done = subprocess.run(
        command, env=needed | surroundings, capture_output=True, cwd=tmp_path, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert np.array_equal(tifffile.imread(next(tmp_path.glob("*_enhanced.ome.tif"))), expected)


def test_an_output_that_nobody_can_take_is_no_traceback(stack, tmp_path, tiny_model):
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "cellxlate", "info", str(stack)]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert b"No space left" in done.stderr


@pytest.mark.parametrize("system", ["win32", "darwin"])
def test_names_that_differ_by_case_alone_are_one_place_elsewhere(system, tmp_path, monkeypatch):
    paths = [Path("one/cells.tif"), Path("two/CELLS.tif")]
    named = [(path, name_outputs(path, is_zarr=False, output_dir=tmp_path)) for path in paths]
    require_distinct(named)
    monkeypatch.setattr(sys, "platform", system)
    with pytest.raises(OptionError, match="both be written"):
        require_distinct(named)
    composed = [Path("one/ü.tif"), Path("two/u\u0308.tif")]
    with pytest.raises(OptionError, match="both be written"):
        require_distinct([(path, name_outputs(path, is_zarr=False, output_dir=tmp_path)) for path in composed])


@pytest.mark.parametrize(
    "name", ["C:\\x.tif", "c:x.tif", "\\\\server\\share\\x.tif", "..\\x.tif", "/x.tif", "a/../../x"]
)
def test_files_named_in_metadata_stay_in_their_folder_on_every_system(name, tmp_path):
    limits = importlib.import_module("cellxlate.stacks.limits.ome")
    text = f'<OME><Image><Pixels><TiffData><UUID FileName="{name}">u</UUID></TiffData></Pixels></Image></OME>'
    with pytest.raises(limits.InputError, match="outside its folder"):
        limits.check_ome(text, tmp_path)
    limits.check_ome(text.replace(name, "plane 1.ome.tif"), tmp_path)
