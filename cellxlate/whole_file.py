"""Files that appear under their name when they are complete: at no moment is half of one there, whatever fails."""

import errno
import os
import threading
from contextlib import suppress
from pathlib import Path

from cellxlate.errors import OutputError
from cellxlate.locations import Location, RemotePath

LOST = (errno.EIO, errno.ENOSPC, errno.EDQUOT)
"""What a disk answers that has not kept what was written; any other answer means that it cannot wait."""


def write_whole_file(path: Location, content: str | bytes) -> None:
    """Write a file under another name in the same folder, then give it its name in one step.

    Parameters
    ----------
    path : Path or RemotePath
        Replaced if it exists. A link is replaced too; what it leads to stays.
    content : str or bytes
        Text is stored as UTF-8 with the line ends that it has; what UTF-8 has no bytes for (parts of odd file names)
        as escapes.

    Raises
    ------
    OutputError
        The folder is missing, full or read-only, or `path` is a folder; what was there before is still there.

    Notes
    -----
    The file gets the rights that the umask says. A link that somebody laid under the unfinished name is not followed.
    """
    stored = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    if isinstance(path, RemotePath):  # an object appears whole
        try:
            path.write_bytes(stored)
        except OSError as fault:
            raise OutputError(f"{path} cannot be written ({fault}); check your rights and the network") from fault
        return
    unfinished = path.with_name(unfinished_name())
    try:
        unfinished.unlink(missing_ok=True)
        try:
            with unfinished.open("xb") as file:  # "x" follows no link
                file.write(stored)
                file.flush()
                _wait_for_disk(file.fileno())
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
        wait_for_disk(path.parent)
    except OSError as fault:
        raise OutputError(f"{path} cannot be written ({fault.strerror or fault}); check the folder") from fault


def unfinished_name() -> str:
    """Return a name that no other process or thread of this computer uses now, short enough for every folder."""
    return f".cellxlate-{os.getpid()}-{threading.get_native_id()}.part"


def wait_for_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, have reached the disk; systems that cannot wait are not asked to.

    Raises
    ------
    OSError
        The disk has lost what was written.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # Windows opens no folder
        return
    try:
        _wait_for_disk(handle)
    finally:
        with suppress(OSError):
            os.close(handle)


def _wait_for_disk(handle: int) -> None:
    try:
        os.fsync(handle)
    except OSError as fault:
        if fault.errno in LOST:
            raise
