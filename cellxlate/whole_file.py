"""Files that appear under their name when they are complete: at no moment is half of one there, whatever fails."""

import ctypes
import errno
import os
import sys
import threading
from contextlib import suppress
from pathlib import Path

from cellxlate.errors import OutputError, unless_denied
from cellxlate.locations import Location, RemotePath
from cellxlate.options import RESUME

UNKNOWN_CALL = (errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK)
"""What a disk answers that has no links, or does not know how to rename without replacing."""

LINUX_HERE, LINUX_EXCLUSIVE, DARWIN_EXCLUSIVE = -100, 1, 4
"""AT_FDCWD, RENAME_NOREPLACE and RENAME_EXCL."""

LOST = (errno.EIO, errno.ENOSPC, errno.EDQUOT)
"""What a disk answers that has not kept what was written; any other answer means that it cannot wait."""


def in_the_way(path: Location) -> OutputError:
    """Return what to say of what has taken a name meanwhile."""
    return OutputError(
        f"{path} appeared meanwhile and is not replaced", remedy=("move it elsewhere and run again with ", RESUME)
    )


def write_whole_file(path: Location, content: str | bytes, *, replaces: bool = True) -> None:
    """Write a file under another name in the same folder, then give it its name in one step.

    A file or link that has the name is replaced, unless that is forbidden; what a link leads to stays. Text is stored
    as UTF-8 with the line ends that it has; what UTF-8 has no bytes for (parts of odd file names) as escapes.

    Raises
    ------
    OutputError
        The folder is missing, full or read-only, or `path` is a folder or must not be replaced; what was there before
        is still there.

    Notes
    -----
    The file gets the rights that the umask says. A link that somebody laid under the unfinished name is not followed.
    """
    stored = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    if isinstance(path, RemotePath):  # an object appears whole
        if not replaces and path.exists():
            raise in_the_way(path)
        try:
            path.write_bytes(stored)
        except OSError as fault:
            refused = OutputError(f"{path} cannot be written ({fault}); check your rights and the network")
            raise unless_denied(refused, path, fault) from fault
        return
    unfinished = path.with_name(unfinished_name())
    try:
        unfinished.unlink(missing_ok=True)
        try:
            with unfinished.open("xb") as file:  # "x" follows no link
                file.write(stored)
                file.flush()
                _wait_for_disk(file.fileno())
            if replaces:
                unfinished.replace(path)
            else:
                rename_or_say(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
        wait_for_disk(path.parent)
    except OSError as fault:
        refused = OutputError(f"{path} cannot be written ({fault.strerror or fault}); check the folder")
        raise unless_denied(refused, path, fault) from fault


def rename_or_say(source: Path, target: Path) -> None:
    """Do what `rename_free` does, and raise OutputError where something has the name."""
    try:
        rename_free(source, target)
    except FileExistsError as fault:
        raise in_the_way(target) from fault


def rename_free(source: Path, target: Path) -> None:
    """Give a file or a folder a name on the same disk that nothing has.

    Raises
    ------
    FileExistsError
        Something has the name, be it an empty folder or a link that leads nowhere; it is still there, and `source` too.
    OSError
        The disk refuses.

    Notes
    -----
    In one step where the system has a call for it (renameat2 of Linux, renamex_np of macOS, every rename of Windows),
    or, for a file, by a second link. Where a disk knows none of these, the name is looked at right before.
    """
    for rename in (_rename_by_the_system, _rename_by_a_link):
        try:
            if rename(source, target):
                return
        except OSError as fault:
            if isinstance(fault, FileExistsError) or fault.errno not in UNKNOWN_CALL:
                raise
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    source.rename(target)


def _rename_by_a_link(source: Path, target: Path) -> bool:
    """Rename a file without replacing by a second link; False for a folder, which can have none."""
    if source.is_dir() or sys.platform == "win32":
        return False
    os.link(source, target)
    source.unlink()
    return True


def _rename_by_the_system(source: Path, target: Path) -> bool:
    """Rename without replacing by one call of the system; False where it has none."""
    if sys.platform == "win32":
        return False
    library, names = ctypes.CDLL(None, use_errno=True), (os.fsencode(source), os.fsencode(target))
    if sys.platform == "darwin" and hasattr(library, "renamex_np"):
        failed = library.renamex_np(*names, DARWIN_EXCLUSIVE)
    elif sys.platform == "linux" and hasattr(library, "renameat2"):
        failed = library.renameat2(LINUX_HERE, names[0], LINUX_HERE, names[1], LINUX_EXCLUSIVE)
    else:
        return False
    if failed:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))
    return True


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
