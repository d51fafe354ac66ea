"""A folder that one process at a time may write: a lock that a killed process leaves open."""

import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path

from cellxlate.errors import OutputError
from cellxlate.stacks.naming import LOCK_FILE

NO_LINK = getattr(os, "O_NOFOLLOW", 0)
"""In a folder that others may write, a link could lead anywhere."""


class FolderLock:
    """Holds a folder against other processes, until it is released or the process ends, however it ends."""

    def __init__(self, folder: Path, handle: int) -> None:
        self.folder = folder
        self._handle: int | None = handle

    @classmethod
    def acquire(cls, folder: Path) -> "FolderLock":
        """Make the folder if it is not there, and lock it.

        Raises
        ------
        OutputError
            Another process, or another part of this one, holds it; it is a link, or another user made it.
        OSError
            The folder cannot be made.
        """
        while True:
            if folder.is_symlink():
                raise OutputError(f"{folder} is a link and no partial of an interrupted job; move it elsewhere")
            folder.mkdir(exist_ok=True)
            if hasattr(os, "geteuid") and folder.stat().st_uid not in (os.geteuid(), os.getuid()):
                raise OutputError(f"{folder} belongs to another user; choose another output, or ask them to remove it")
            try:
                handle = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | NO_LINK, 0o666)
            except FileNotFoundError:
                continue  # its last holder removed the folder just now
            try:
                _lock(handle)
            except OSError:
                os.close(handle)
                raise OutputError(f"{folder} is being written by another job; wait for it, or stop it") from None
            try:
                current = (folder / LOCK_FILE).stat().st_ino == os.fstat(handle).st_ino
            except FileNotFoundError:
                current = False
            if current:
                return cls(folder, handle)
            os.close(handle)

    @staticmethod
    def may_take(folder: Path) -> bool:
        """Return whether an existing folder is empty or was made for a lock, so that it is no folder of the user's."""
        return (
            folder.is_dir()
            and not folder.is_symlink()
            and ((folder / LOCK_FILE).is_file() or not any(folder.iterdir()))
        )

    @property
    def held(self) -> bool:
        """Whether the lock is held."""
        return self._handle is not None

    def check(self) -> None:
        """Do nothing: while the handle is open, no other process can have the lock."""

    def clear(self) -> None:
        """Remove all from the folder but the lock."""
        for item in self.folder.iterdir():
            if item.name == LOCK_FILE:
                continue
            if item.is_dir() and not item.is_symlink():
                shutil.rmtree(item)
            else:
                item.unlink()

    def remove(self) -> None:
        """Remove the folder and release the lock. Whoever waits for it makes a new folder."""
        if self.held:
            self.clear()
            with suppress(OSError):  # Windows keeps a file that is open
                (self.folder / LOCK_FILE).unlink()
            self.release()
            with suppress(OSError):
                if sys.platform == "win32":
                    (self.folder / LOCK_FILE).unlink(missing_ok=True)
                self.folder.rmdir()

    def release(self) -> None:
        """Release the lock; once more does no harm."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


if sys.platform == "win32":
    import msvcrt

    def _lock(handle: int) -> None:
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
