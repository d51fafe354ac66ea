"""Training on a full disk and in little memory, answers of a bucket that are cut short, workers that are killed."""

import errno
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from scipy import ndimage

from cellxlate.training import checkpoint, finished, loop, watch

resource: Any = pytest.importorskip("resource") if sys.platform != "win32" else None

SETTINGS = """
steps = 12
patch_px = 32
batch = 1
checkpoint_minutes = 0.0
[networks.generator]
width = 4
blocks = 1
[networks.attention]
width = 2
"""


@pytest.fixture
def train(tmp_path: Path) -> list[str]:
    """Return the words of a training that takes a second."""
    random = np.random.default_rng(0)
    for folder in ("source", "target"):
        (tmp_path / folder).mkdir()
        for number in range(2):
            bright = ndimage.gaussian_filter((random.random((64, 64)) > 0.997).astype(float), 3.0)
            pixels = random.normal(100, 4, (64, 64)) + 1000 * bright / bright.max()
            tifffile.imwrite(tmp_path / folder / f"{number}.tif", pixels.clip(0).astype(np.uint16))
    (tmp_path / "train.toml").write_text(SETTINGS)
    return ["train", "--source", str(tmp_path / "source"), "--target", str(tmp_path / "target"), "-o",
            str(tmp_path / "model"), "--settings", str(tmp_path / "train.toml"), "--json", "--quiet"]  # fmt: skip


@pytest.mark.parametrize("most_bytes", [0, 100, 3_000, 20_000])
@pytest.mark.skipif(sys.platform == "win32", reason="Windows knows no such limit")
def test_training_on_a_disk_that_is_full_is_one_line(most_bytes, train, tmp_path, command):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, before[1]))  # as a full disk, it refuses what does not fit
    try:
        command.refused(*train)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["source", "target", "train.toml"]


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


PLACES: dict[str, tuple[Any, str, int]] = {
    "first checkpoint": (checkpoint, "save_tensors", 1), "later checkpoint": (checkpoint, "save_tensors", 2),
    "curves": (watch, "write_whole_file", 3), "model": (finished, "save_bundle", 1),
    "end": (loop.shutil, "copyfile", 1),
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_a_disk_that_fills_up_while_training_keeps_the_last_checkpoint(place, train, tmp_path, command, monkeypatch):
    owner, name, at = PLACES[place]
    honest, calls = getattr(owner, name), []

    def wrapped(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        return full() if len(calls) >= at else honest(*arguments, **named)

    with monkeypatch.context() as broken:
        broken.setattr(owner, name, wrapped)
        if place == "end":
            assert command(*train)[0] == 0  # the model is there
        else:
            assert "space" in command.refused(*train)
    left = sorted(item.name for item in tmp_path.iterdir() if item.name.startswith(("model", ".")))
    if place == "end":
        assert left == ["model"]
        return
    assert left == ([] if place == "first checkpoint" else ["model.partial"])
    if left:
        assert not list(tmp_path.rglob("*.part")) + list(tmp_path.rglob("checkpoint.partial"))
        code, _, err = command(*train, "--resume")
        assert (code, err) == (0, "")
        assert json.loads((tmp_path / "model" / "card.json").read_text())["training"]["steps"] == 12


@pytest.mark.parametrize(
    "fault",
    [
        MemoryError(), RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("can't start new thread"), RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    ],
    ids=["python", "allocator", "threads", "device"],
)  # fmt: skip
def test_training_that_runs_out_of_memory_is_one_line(fault, train, tmp_path, command, monkeypatch):
    def fails(*_: object) -> None:
        raise fault

    monkeypatch.setattr(loop, "one_step", fails)
    assert "not enough memory" in command.refused(*train, code=1)
    assert not (tmp_path / "model").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems limit no address space")
@pytest.mark.parametrize("more_mb", [0, 30])
def test_training_under_a_limit_on_memory_is_one_line(more_mb, train, tmp_path):
    code = f"""
import resource, sys, cellxlate.cli as cli
import cellxlate.training.loop
used = 1024 * int(open("/proc/self/status").read().partition("VmSize:")[2].split()[0])
resource.setrlimit(resource.RLIMIT_AS, (used + {more_mb}_000_000, resource.RLIM_INFINITY))
sys.exit(cli.main())
"""
    done = subprocess.run([sys.executable, "-c", code, *train], capture_output=True, text=True, timeout=100)
    assert done.returncode in (1, 2)
    assert done.stderr.count("\n") == 1, done.stderr
    assert "unexpected" not in done.stderr
    assert not (tmp_path / "model").exists()


def listing(folder: Path) -> bytes:
    """Return what a bucket answers that is asked for its objects."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    listed = "".join(
        f"<Contents><Key>{file.relative_to(folder).as_posix()}</Key><Size>{file.stat().st_size}</Size></Contents>"
        for file in files
    )
    return f"<ListBucketResult><IsTruncated>false</IsTruncated>{listed}</ListBucketResult>".encode()


@pytest.fixture
def cut_short(tmp_path: Path) -> Iterator[Callable[[str], dict[str, str]]]:
    """Give a function that lets a server, a bucket too, send half of what fits a word; it returns its environment."""
    pixels = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    folder, halved = tmp_path / "lab", [""]
    zarr.create_array(folder / "a.zarr", shape=(64, 64), dtype="uint16", chunks=(32, 32), compressors=None)[:] = pixels

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            file = folder.parent / self.path.partition("?")[0].strip("/")
            content = file.read_bytes() if file.is_file() else b""
            if "list-type" in self.path:
                content = listing(folder)
            self.send_response(200 if content else 404)
            for name, value in (("Content-Length", str(len(content))), ("ETag", '"a"'),
                                ("Last-Modified", "Sat, 28 Nov 2026 11:00:00 GMT")):  # fmt: skip
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content[: len(content) // 2] if halved[0] in self.path else content)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def start(word: str) -> dict[str, str]:
        halved[0] = word
        return {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}", "AWS_ACCESS_KEY_ID": "a",
                "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_EC2_METADATA_DISABLED": "true", "AWS_MAX_ATTEMPTS": "1"}  # fmt: skip

    yield start
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("remote_packages")
@pytest.mark.parametrize("scheme", ["s3", "http"])
@pytest.mark.parametrize("word", ["zarr.json", "c/1/1"])
def test_an_answer_that_is_cut_short_is_one_line(scheme, word, cut_short, tmp_path, command):
    environment = os.environ | cut_short(word)
    place = "s3://lab/a.zarr" if scheme == "s3" else f"{environment['AWS_ENDPOINT_URL']}/lab/a.zarr"
    words = ["enhance", place, "-m", str(command.model), "--output-dir", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-m", "cellxlate", *words], env=environment, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert "unexpected" not in done.stderr
    assert "cannot be read" in done.stderr
    assert not list((tmp_path / "out").glob("*.ome.*")) or word.startswith("c/")


KILLED = """
import multiprocessing, multiprocessing.resource_tracker, os, signal, sys, time
from cellxlate.enhancement.cluster.client import connected_client
if __name__ == "__main__":
    with connected_client(workers=1, scheduler=None, threads=1) as client:
        [pid] = client.run(os.getpid).values()
        os.kill(pid, signal.SIGKILL)
        time.sleep(0.5)
        left = multiprocessing.get_context("spawn").Semaphore()  # as a killed process leaves one
        multiprocessing.resource_tracker.register("/left", "semaphore")
"""


def test_a_worker_that_is_killed_leaves_no_warnings(tmp_path):
    pytest.importorskip("distributed")
    script = tmp_path / "run.py"
    script.write_text(KILLED)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "resource_tracker" not in done.stderr
    assert signal.SIGKILL.name not in done.stderr
