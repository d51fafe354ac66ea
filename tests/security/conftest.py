"""What the tests of threats and faults share: a command run as a user runs it, judged by what it says and leaves."""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tifffile

from cellxlate.cli import main

Files = dict[str, str]
BOUND_BYTES = 800_000_000
"""Includes what the allocator reserves for each new thread; what the files ask for is ten times as much or more."""


def fingerprint(folder: Path) -> Files:
    """Return every file below a folder with a hash of its content; links with where they lead."""
    found = {}
    for item in sorted(folder.rglob("*")):
        name = os.fsdecode(item.relative_to(folder))
        if item.is_symlink():
            found[name] = f"link to {item.readlink()}"
        elif item.is_file():
            found[name] = hashlib.sha256(item.read_bytes()).hexdigest()
        else:
            found[name] = "folder" if item.is_dir() else "special"
    return found


@dataclass
class Command:
    """Runs the command line in this process."""

    capture: pytest.CaptureFixture[str]
    model: Path

    def __call__(self, *arguments: str | Path) -> tuple[int, str, str]:
        """Return exit code, standard output and standard error."""
        try:
            code = main([os.fspath(argument) for argument in arguments])
        except SystemExit as left:  # the parser leaves by itself
            code = int(left.code or 0)
        printed = self.capture.readouterr()
        assert "Traceback" not in printed.err
        return code, printed.out, printed.err

    def refused(self, *arguments: str | Path, code: int = 2) -> str:
        """Run what must fail: one line on standard error, that can be printed anywhere, and nothing else."""
        found, out, err = self(*arguments)
        assert found == code, (found, err)
        assert out == ""
        assert err.count("\n") == 1, err
        assert err.startswith("cellxlate")
        assert err[:-1].isprintable(), repr(err)
        assert "unexpected" not in err, err
        assert len(err) < 3000
        return err

    def enhance(self, path: str | Path, *options: str | Path) -> tuple[int, str, str]:
        """Enhance with the small model."""
        return self("enhance", path, "-m", self.model, "--json", *options)

    def enhance_refused(self, path: str | Path, *options: str | Path, code: int = 2) -> str:
        """Enhance with the small model what cannot be enhanced."""
        return self.refused("enhance", path, "-m", self.model, *options, code=code)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], tiny_model: Path) -> Command:
    return Command(capsys, tiny_model)


@pytest.fixture
def untouched(tmp_path: Path) -> Iterator[Callable[[], None]]:
    """Give a function to call when all inputs are there; in the end nothing may have changed or appeared."""
    before: list[Files] = []
    yield lambda: before.append(fingerprint(tmp_path))
    assert before, "the test has not said when its inputs were ready"
    assert fingerprint(tmp_path) == before[0]


def peak_bytes() -> int:
    """Return the largest address space this process has had (VmPeak), in bytes; untouched memory counts too."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except FileNotFoundError:  # not Linux
        return 0
    return 1024 * int(status.partition("VmPeak:")[2].split()[0])


@pytest.fixture(scope="session")
def _warm(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> None:
    """Load once what every job loads, so that it does not count."""
    path = tmp_path_factory.mktemp("warm") / "a.ome.tif"
    tifffile.imwrite(path, np.arange(64 * 64, dtype=np.uint16).reshape(64, 64), compression="zstd")
    assert main(["enhance", str(path), "-m", str(tiny_model), "--quiet"]) == 0


@pytest.fixture
def bounded(_warm: None) -> Iterator[None]:
    """Assert that a test allocates no more than 800 MB."""
    before = peak_bytes()
    yield
    assert peak_bytes() - before < BOUND_BYTES
