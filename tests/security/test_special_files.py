"""Pipes, devices and links under the names of a Zarr image's files; and waits, all of which end when asked to."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr

from cellxlate.errors import InputError
from cellxlate.stacks.read.open import open_stack

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pipes under file names")

PIXELS = np.random.default_rng(0).integers(100, 300, (64, 64)).astype(np.uint16)


def image(path: Path, zarr_format: int = 3) -> None:
    """Write an OME-Zarr image of 2 x 2 chunks."""
    group = zarr.open_group(path, mode="w", zarr_format=zarr_format)  # type: ignore[arg-type]
    separator = {} if zarr_format == 3 else {"chunk_key_encoding": {"name": "v2", "separator": "/"}}
    group.create_array("0", shape=(64, 64), dtype="uint16", chunks=(32, 32), **separator)[:] = PIXELS
    axes = [{"name": name, "type": "space"} for name in "yx"]
    scale = [{"type": "scale", "scale": [1.0, 1.0]}]
    stated = {"multiscales": [{"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}]}
    group.attrs.update({"ome": {"version": "0.5", **stated}} if zarr_format == 3 else stated)


def shards(path: Path) -> None:
    """Write an image of one shard of 2 x 2 chunks, of which parts are read."""
    image(path)
    shutil.rmtree(path / "0")
    zarr.open_group(path, mode="r+").create_array(
        "0", shape=(64, 64), dtype="uint16", chunks=(32, 32), shards=(64, 64)
    )[:] = PIXELS


def pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def device(file: Path) -> None:
    file.unlink()
    file.symlink_to("/dev/zero")


def socket_file(file: Path) -> None:
    import socket

    file.unlink()
    with socket.socket(socket.AF_UNIX) as opened:
        here = Path.cwd()
        os.chdir(file.parent)  # names of sockets are short
        try:
            opened.bind(file.name)
        finally:
            os.chdir(here)


def outside(file: Path) -> None:
    """Move what is there out of the tree, and leave a link."""
    away = next(folder for folder in file.parents if folder.suffix == ".zarr").with_name("elsewhere")
    file.rename(away)
    file.symlink_to(away)


PLACES = {"chunk": (3, "0/c/0/0"), "chunk of version 2": (2, "0/1/1"), "metadata of the array": (3, "0/zarr.json"),
          "metadata of the image": (3, "zarr.json"), "metadata of version 2": (2, "0/.zarray"),
          "attributes": (2, ".zattrs"), "folder of chunks": (3, "0/c"), "array": (3, "0")}  # fmt: skip
SPECIAL: dict[str, Callable[[Path], None]] = {
    "pipe": pipe, "device": device, "socket": socket_file, "link that leads out": outside,
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", SPECIAL)
def test_only_regular_files_inside_a_zarr_are_read(kind, place, tmp_path, command, untouched, bounded):
    path, (zarr_format, key) = tmp_path / "a.zarr", PLACES[place]
    image(path, zarr_format)
    if (path / key).is_dir() and kind != "link that leads out":
        shutil.rmtree(path / key)
        (path / key).touch()
    SPECIAL[kind](path / key)
    untouched()
    started = time.perf_counter()
    line = command.enhance_refused(path)
    assert time.perf_counter() - started < 5
    if kind == "link that leads out":
        assert "leads out of" in line


@pytest.mark.parametrize("kind", SPECIAL)
def test_a_special_file_under_the_name_of_a_shard_is_refused(kind, tmp_path, command, untouched, bounded):
    shards(tmp_path / "a.zarr")
    SPECIAL[kind](tmp_path / "a.zarr" / "0" / "c" / "0" / "0")
    untouched()
    command.enhance_refused(tmp_path / "a.zarr")


@pytest.mark.parametrize("kind", ["pipe", "link that leads out"])
@pytest.mark.parametrize("form", ["chunks", "shards"])
def test_a_special_file_that_appears_while_pixels_are_read_is_refused(kind, form, tmp_path):
    path = tmp_path / "a.zarr"
    (image if form == "chunks" else shards)(path)
    with open_stack(path) as stack:
        SPECIAL[kind](path / "0" / "c" / "0" / "0")
        with pytest.raises(InputError, match=r"pipe|leads out"):
            stack.read((), slice(0, 8), slice(0, 8))


@pytest.mark.parametrize("key", ["0/c/0/0", "0/c/0", "0/c", "0", "0/zarr.json", "zarr.json"])
def test_links_that_stay_inside_a_zarr_are_followed(key, tmp_path):
    path = tmp_path / "a.zarr"
    image(path)
    place = path / key
    kept = path / "kept" / place.name
    kept.parent.mkdir()
    place.rename(kept)
    place.symlink_to(os.path.relpath(kept, place.parent))
    (path / "0" / "circle").symlink_to("..")
    with open_stack(path) as stack:
        assert np.array_equal(stack.read(()), PIXELS)
        assert not [line for line in stack.warnings if "chunk" in line]


def test_a_link_to_a_whole_zarr_and_links_between_fields_of_a_plate_are_followed(tmp_path, command):
    image(tmp_path / "far" / "a.zarr")
    (tmp_path / "near.zarr").symlink_to(tmp_path / "far" / "a.zarr")
    with open_stack(tmp_path / "near.zarr") as stack:
        assert np.array_equal(stack.read(()), PIXELS)
    assert command.enhance(tmp_path / "near.zarr")[0] == 0
    plate = tmp_path / "plate.zarr"
    stated = {"plate": {"wells": [{"path": "A/1"}, {"path": "A/2"}]}}
    zarr.open_group(plate, mode="w").attrs.update({"ome": {"version": "0.5", **stated}})
    for well in ("1", "2"):
        group = zarr.open_group(plate, mode="r+").create_group(f"A/{well}")
        group.attrs.update({"ome": {"version": "0.5", "well": {"images": [{"path": "0"}]}}})
    image(plate / "A" / "1" / "0")
    (plate / "A" / "2" / "0").symlink_to("../1/0")
    for given, number in ((plate, 1), (plate / "A" / "2" / "0", None)):
        with open_stack(given, image=number) as stack:
            assert np.array_equal(stack.read(()), PIXELS)
    (plate / "A" / "2" / "0").unlink()
    (plate / "A" / "2" / "0").symlink_to(tmp_path / "far" / "a.zarr")
    for given, number in ((plate, 1), (plate / "A" / "2" / "0", None)):
        with pytest.raises(InputError, match="leads out of"):
            open_stack(given, image=number)


def test_a_chunk_that_is_a_link_to_nothing_is_missing(tmp_path):
    image(tmp_path / "a.zarr")
    chunk = tmp_path / "a.zarr" / "0" / "c" / "0" / "0"
    chunk.unlink()
    chunk.symlink_to("nowhere")
    with open_stack(tmp_path / "a.zarr") as stack:
        assert any("1 of 4 chunks have no file" in line for line in stack.warnings)


@pytest.mark.parametrize("name", ["cells_report.json", "cells_report.html"])
def test_a_pipe_in_place_of_an_earlier_report_is_not_waited_for(name, tmp_path, command):
    image(tmp_path / "cells.zarr")
    assert command.enhance(tmp_path / "cells.zarr")[0] == 0
    pipe(tmp_path / name)
    started = time.perf_counter()
    command.enhance(tmp_path / "cells.zarr", "--resume")
    command("report", tmp_path / "cells_enhanced.ome.zarr")
    assert time.perf_counter() - started < 5
    assert (tmp_path / name).is_file(), "it is replaced, as a damaged report is"


STUCK = """
import os, sys, threading
import cellxlate.cli as cli
from cellxlate.stacks.limits import zarr_codecs
def wait(*_, **__):
    os.write(1, b"reading\\n")  # whole at once: several threads read
    threading.Event().wait()
zarr_codecs.LimitedStore.get_sync = wait
cli.TIDY_S, cli.LEAVE_S = 2.0, 0.5
sys.exit(cli.main())
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_wait_without_end_ends_when_asked_to(number, code, tmp_path, command):
    image(tmp_path / "a.zarr")
    words = ["enhance", str(tmp_path / "a.zarr"), "-m", str(command.model)]
    with subprocess.Popen(
        [sys.executable, "-c", STUCK, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as job:
        assert job.stdout is not None
        try:
            assert job.stdout.readline() == "reading\n"
            job.send_signal(number)
            _, err = job.communicate(timeout=6)
        finally:
            job.kill()
    assert job.returncode == code
    assert err.splitlines()[-1].startswith("cellxlate: interrupted")
    assert json.loads((tmp_path / "a.zarr" / "zarr.json").read_text())["zarr_format"] == 3


ENDING = """
import os, signal, sys
import cellxlate.cli as cli
class Late:
    def __del__(self, kill=os.kill, me=os.getpid(), number=signal.SIGINT):
        kill(me, number)  # when Python's own handlers are gone
late = Late()
def interrupted(_options):
    raise KeyboardInterrupt
cli.run_models = interrupted
import cellxlate.cli.parser as parser
parser.run_models = interrupted
sys.exit(cli.main())
"""


def test_ctrl_c_while_the_process_ends_leaves_its_code():
    job = subprocess.run([sys.executable, "-c", ENDING, "models"], capture_output=True, text=True, timeout=60)
    assert (job.returncode, job.stderr.startswith("cellxlate: interrupted")) == (130, True)
