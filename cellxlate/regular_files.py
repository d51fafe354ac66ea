"""Files inside a folder from strangers: regular ones alone, and none that a link leads out of it to.

A pipe under the name of a chunk would be waited for without end, a device read without end, and a link could bring a
file of the user's that nobody meant into a result that is shared.
"""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO

from cellxlate.errors import InputError
from cellxlate.locations import Location, RemotePath

MOST_LINKS = 100_000
MOST_NOTE_BYTES = 2**26
"""Links in a folder of chunks, which could lead round each other in ever new ways; our longest reports take some MB."""


def open_regular(tree: Path, key: str | os.PathLike[str]) -> BinaryIO:
    """Open a file inside a folder to be read, without ever waiting for somebody to write it.

    The folder, `tree`, has no links in its own path (`Path.resolve`).

    Raises
    ------
    InputError
        It is a pipe, a device or a socket, or a link leads out of the folder.
    OSError
        It is not there, is a folder, or cannot be read.
    """
    path = _inside(tree, tree / key)
    mode = path.stat().st_mode
    if not S_ISREG(mode) and not path.is_dir():  # opening a folder says so
        raise _no_regular_file(path)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    return os.fdopen(os.open(path, flags), "rb")


def files_below(folder: Path, tree: Path) -> Iterator[str]:
    """Yield the files below a folder, as paths from there with "/"; links to nothing are none.

    Links to folders are followed inside the `tree`, which has none in its own path.

    Raises
    ------
    InputError
        Something is no regular file, or a link leads out of the tree.
    """
    start = _inside(tree, tree / folder.resolve())
    waiting: list[tuple[Path, str, tuple[Path, ...]]] = [(start, "", (start,))]
    links = 0
    while waiting:
        below, prefix, above = waiting.pop()
        try:
            entries = list(os.scandir(below))
        except OSError:  # as os.walk: what cannot be listed is not there
            continue
        for entry in entries:
            path, name = Path(entry.path), prefix + entry.name
            if entry.is_symlink():
                path, links = _inside(tree, path), links + 1
                if not path.exists() or path in above:  # a circle
                    continue
                if links > MOST_LINKS:
                    raise InputError(f"more than {MOST_LINKS} links lie below {folder}; copy it without (cp -rL)")
            if entry.is_dir():
                waiting.append((path, f"{name}/", (*above, path)))
            elif entry.is_file():
                yield name
            else:
                raise _no_regular_file(path)


def _inside(tree: Path, path: Path) -> Path:
    """Return where a path inside a tree leads, or raise InputError where that is outside."""
    parts = path.relative_to(tree).parts if path.is_relative_to(tree) else ("..",)
    walked, linked = str(tree), ".." in parts
    for part in parts if not linked else ():
        walked = os.path.join(walked, part)  # noqa: PTH118 (for each chunk: a Path costs as much as the call)
        if os.path.islink(walked):  # noqa: PTH114
            linked = True
            break
    if not linked:
        return path
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(tree):
        raise InputError(
            f"{path} leads out of {tree}, and only what lies inside is read; copy the folder with what its links lead "
            "to (cp -rL)"
        )
    return real


def _no_regular_file(path: Path) -> InputError:
    return InputError(f"{path} is a pipe, a device or a socket, and only regular files are read; copy the image again")


def read_small_file(path: Location) -> bytes:
    """Return the content of a file of notes, such as a report.

    Raises
    ------
    OSError
        It is not there, cannot be read, or is a pipe, a device or a socket.
    ValueError
        It is longer than 64 MB.
    """
    if isinstance(path, RemotePath):
        return path.read_bytes()
    state = path.stat()
    if not S_ISREG(state.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    if state.st_size > MOST_NOTE_BYTES:
        raise ValueError(f"{path} takes {state.st_size} bytes, at most {MOST_NOTE_BYTES} were expected")
    return path.read_bytes()
