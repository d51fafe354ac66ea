"""Whatever is at the address of a scheduler: one line, soon."""

import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

pytest.importorskip("distributed")

from cellxlate.enhancement.cluster import client as connecting

GREETING = b"\x83\xabcompression\xc0\xa6python\x93\x03\x0b\x07\xafpickle-protocol\x05"


def framed(content: bytes) -> bytes:
    """Return a message as dask frames it: all bytes that follow, one frame, its length, the frame."""
    prelude = struct.pack("<QQ", 1, len(content))
    return struct.pack("<Q", len(prelude) + len(content)) + prelude + content


def silent(_: socket.socket) -> None:
    time.sleep(20)


def dribbling(peer: socket.socket) -> None:
    for _ in range(200):
        peer.sendall(b"\x10")
        time.sleep(0.1)


def saying(*parts: bytes, closing: bool = False) -> Callable[[socket.socket], None]:
    def talk(peer: socket.socket) -> None:
        for part in parts:
            peer.sendall(part)
        if not closing:
            time.sleep(20)

    return talk


HOSTS: dict[str, Callable[[socket.socket], None]] = {
    "silent": silent, "dribbling": dribbling, "closing at once": saying(closing=True),
    "a web server": saying(b"HTTP/1.1 400 Bad Request\r\n\r\n", closing=True),
    "a web server that stays": saying(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    "a terabyte to come": saying(struct.pack("<Q", 2**40)), "2^63 bytes to come": saying(struct.pack("<Q", 2**63)),
    "garbage without end": saying(b"\xff" * 2**22),
    "a greeting, then silence": saying(framed(GREETING)),
    "a greeting, then garbage": saying(framed(GREETING), b"\xff" * 5000, closing=True),
    "a greeting, then a terabyte": saying(framed(GREETING), struct.pack("<Q", 2**40)),
    "a greeting, then another kind of message": saying(framed(GREETING), framed(b"\x07"), framed(b"\x90")),
}  # fmt: skip


@pytest.fixture
def listening() -> Iterator[Callable[[Callable[[socket.socket], None]], str]]:
    """Give a function that lets something listen, and returns its address."""
    opened: list[socket.socket] = []

    def serve(server: socket.socket, talk: Callable[[socket.socket], None]) -> None:
        def answer(peer: socket.socket) -> None:
            with suppress(OSError), peer:
                talk(peer)

        while True:
            try:
                peer, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(peer,), daemon=True).start()

    def listen(talk: Callable[[socket.socket], None]) -> str:
        server = socket.create_server(("127.0.0.1", 0))
        opened.append(server)
        threading.Thread(target=serve, args=(server, talk), daemon=True).start()
        return f"tcp://127.0.0.1:{server.getsockname()[1]}"

    yield listen
    for server in opened:
        server.close()


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    tifffile.imwrite(tmp_path / "cells.tif", np.arange(4096, dtype=np.uint16).reshape(64, 64))
    return tmp_path / "cells.tif"


@pytest.mark.parametrize("kind", HOSTS)
def test_a_hostile_or_silent_scheduler_is_one_line(kind, stack, command, listening, monkeypatch, untouched):
    monkeypatch.setattr(connecting, "CONNECT_S", 1.5)
    address = listening(HOSTS[kind])
    untouched()
    started = time.perf_counter()
    line = command.enhance_refused(stack, "--scheduler", address)
    assert time.perf_counter() - started < 8, "1.5 s, on a busy machine"
    assert f"no scheduler answers at {address}" in line


@pytest.mark.parametrize(
    "address", ["tcp://127.0.0.1:x", "tcp://", "127.0.0.1:99999", "tcp://no-such-host.invalid:8786", "gopher://a:1",
                ":", "tls://127.0.0.1:1", "tcp://[::1]:1", "tcp://127.0.0.1:8786\x1b[2J"],
)  # fmt: skip
def test_an_odd_address_of_a_scheduler_is_one_line(address, stack, command, monkeypatch, untouched):
    monkeypatch.setattr(connecting, "CONNECT_S", 1.5)
    untouched()
    command.enhance_refused(stack, "--scheduler", address)


FILES: dict[str, Any] = {
    "nothing": b"", "no json": b"{", "a list": [], "no address": {}, "a number": {"address": 7},
    "no port": {"address": "here"}, "100000 deep": b"[" * 100_000, "not utf-8": b'{"address": "\xff"}',
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_no_scheduler_has_written_is_one_line(kind, stack, command, untouched):
    stated, file = FILES[kind], stack.with_name("scheduler.json")
    file.write_bytes(stated if isinstance(stated, bytes) else json.dumps(stated).encode())
    untouched()
    assert "is no file that" in command.enhance_refused(stack, "--scheduler", file)


def test_a_pipe_in_place_of_a_schedulers_file_is_one_line(stack, command):
    if not hasattr(os, "mkfifo"):
        pytest.skip("Windows has no pipes under file names")
    os.mkfifo(stack.with_name("scheduler.json"))
    command.enhance_refused(stack, "--scheduler", stack.with_name("scheduler.json"))


def test_a_process_whose_scheduler_is_hostile_ends_with_one_line(stack, command, listening):
    code = (
        "import sys, cellxlate.cli as m, cellxlate.enhancement.cluster.client as c; c.CONNECT_S = 3; sys.exit(m.main())"
    )
    words = ["enhance", str(stack), "-m", str(command.model), "--scheduler"]
    address = listening(HOSTS["a greeting, then silence"])
    done = subprocess.run([sys.executable, "-c", code, *words, address], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
