"""Writing into a bucket, which knows neither locks nor renames: a lock that must be renewed, and copies, root last."""

import contextlib
import json
import os
import socket
import threading
import time
import uuid

from cellxlate.errors import OptionError, OutputError, said
from cellxlate.locations import Location, RemotePath
from cellxlate.options import OUTPUT, OUTPUT_DIR, RESUME, TO_GO_ON, TO_RENAME, TO_REPLACE_OR_GO_ON
from cellxlate.stacks.naming import LOCK_FILE, ZARR_JSON, Format
from cellxlate.whole_file import in_the_way

RENEW_S = 5.0
SILENT_S = 25.0
"""A lock that is not renewed for so long was left by a job that was killed."""

PUBLISHING = "publishing"
"""An object in the partial while its result is being copied to the final name."""


class ObjectLock:
    """Holds an address in a bucket against other jobs: an object that is written only if nobody else has written it.

    Its holder renews it every 5 s. Who finds one waits 25 s for it to be renewed; if it is not, its holder was killed,
    and the lock is taken over. No clock of the machines or the store is compared. A holder that was suspended for so
    long renews it before it writes on, and finds out whether it is gone.
    """

    def __init__(self, folder: RemotePath, version: str, holder: str) -> None:
        self.folder, self._version, self._holder = folder, version, holder
        self._lost, self._ended, self._count = False, threading.Event(), 0
        self._renewed, self._one = time.monotonic(), threading.Lock()
        self._renewing = threading.Thread(target=self._renew, name="cellxlate-lock", daemon=True)
        self._renewing.start()

    @classmethod
    def acquire(cls, folder: RemotePath) -> "ObjectLock":
        """Lock an address; waits where a killed job may have left a lock.

        Raises
        ------
        OutputError
            Another job holds it.
        OSError
            The store refuses.
        """
        lock = folder / LOCK_FILE
        holder = f"{socket.gethostname()} {os.getpid()} {uuid.uuid4().hex}"
        try:
            version = None if not lock.is_file() else _version_that_stays(lock)
            return cls(folder, lock.write_if(_content(holder, 0), expected=version), holder)
        except FileExistsError:
            raise OutputError(f"{folder} is being written by another job; wait for it, or stop it") from None

    @property
    def held(self) -> bool:
        """Whether the lock is held."""
        return not self._ended.is_set()

    def check(self) -> None:
        """Raise OutputError where another job has taken the lock, since this one was silent for too long."""
        if time.monotonic() - self._renewed > SILENT_S:
            self._renew_now()
        if self._lost:
            raise OutputError(f"{self.folder} was taken over by another job while this one stood still; wait for it")

    def clear(self) -> None:
        """Remove all below the address but the lock."""
        self.folder.remove_below(keep=(LOCK_FILE,))

    def remove(self) -> None:
        """Remove all below the address, and release the lock."""
        if self.held and not self._lost:
            self.clear()
        self.release()

    def release(self) -> None:
        """Release the lock; once more does no harm."""
        if self.held:
            self._ended.set()
            self._renewing.join()
            if not self._lost:
                with contextlib.suppress(OSError):  # it will be found silent
                    (self.folder / LOCK_FILE).unlink()

    def _renew(self) -> None:
        """Write the lock again and again, so that others see it live."""
        while not self._lost and not self._ended.wait(RENEW_S):
            with contextlib.suppress(OSError):  # the way to the store is broken for a moment
                self._renew_now()

    def _renew_now(self) -> None:
        with self._one:
            self._count += 1
            try:
                self._version = (self.folder / LOCK_FILE).write_if(
                    _content(self._holder, self._count), expected=self._version
                )
            except FileExistsError:
                self._lost = not self._is_own()
            self._renewed = time.monotonic()

    def _is_own(self) -> bool:
        """Return whether the lock is this one, whose answer got lost; take its version then."""
        lock = self.folder / LOCK_FILE
        try:
            version = lock.version()
            if json.loads(lock.read_bytes()).get("holder") != self._holder:
                return False
        except (FileNotFoundError, ValueError):
            return False
        self._version = version
        return True


def _content(holder: str, count: int) -> bytes:
    return json.dumps({"holder": holder, "renewed": count}).encode()


def _version_that_stays(lock: RemotePath) -> str | None:
    """Wait until a lock that is there has been silent for long, and return its version; None once it is gone.

    Raises
    ------
    FileExistsError
        It was renewed.
    """
    try:
        first, until = lock.version(), time.monotonic() + SILENT_S
        while time.monotonic() < until:
            time.sleep(min(1.0, SILENT_S / 10))
            if lock.version() != first:
                raise FileExistsError(f"{lock} was renewed")
    except FileNotFoundError:
        return None
    return first


def check_remote(location: Location, kind: Format | None = None) -> None:
    """Raise OptionError where nothing, or not this format, can be written at an address."""
    if not isinstance(location, RemotePath):
        return
    if not location.writable:
        raise OptionError(
            f"{location} is on the web, where nothing can be written", remedy=("give ", OUTPUT, " or ", OUTPUT_DIR)
        )
    if kind not in (None, "ome-zarr"):
        raise OptionError(
            f"{location}: a bucket takes OME-Zarr 0.5 alone, not {kind}; name it .ome.zarr, or write a file"
        )


def check_remote_place(path: RemotePath, partial: RemotePath, *, is_input: bool, replace: bool) -> None:
    """Raise OutputError where an output must not go into a bucket, or an interrupted job's partial is in the way."""
    if is_input:
        raise OutputError(f"{path} is the input itself", remedy=TO_RENAME)
    began = (partial / "job.json").is_file()
    if not replace and began:
        raise OutputError(f"{partial} is left from an interrupted job", remedy=TO_GO_ON)
    if not path.exists():
        return
    if not replace:
        raise OutputError(f"{path} exists", remedy=TO_REPLACE_OR_GO_ON)
    is_image = any((path / name).is_file() for name in (ZARR_JSON, ".zgroup"))
    if not is_image and not (partial / PUBLISHING).is_file():
        raise OutputError(f"there are objects below {path} and no OME-Zarr image", remedy=TO_RENAME)


def publish_objects(result: RemotePath, path: RemotePath, partial: RemotePath, *, replaces: bool) -> None:
    """Copy a finished image to its final name, inside the store, its root metadata last.

    Before the root is there, nothing under the final name opens as an image. What an image of this name has held is
    removed first, its root before all else. A store has no rename that replaces nothing, so the name is looked at right
    before.

    Raises
    ------
    OutputError
        Something is there that may not be replaced, or what is there in the end is not what was copied.
    """
    if not replaces and path.exists():
        raise in_the_way(path)
    note = said("the result is complete and verified; give ", RESUME, " to publish it again\n")
    (partial / PUBLISHING).write_text(note)
    if (path / ZARR_JSON).is_file():
        (path / ZARR_JSON).unlink()
    path.remove_below()
    wanted = result.below()
    result.copy_to(path, [name for name in wanted if name != ZARR_JSON])
    there = path.below()
    differing = [name for name, size in wanted.items() if name != ZARR_JSON and there.get(name) != size]
    if differing or len(there) != len(wanted) - 1:
        raise OutputError(
            f"{path}: {len(differing)} objects were not copied whole", remedy=("give ", RESUME, " to copy them again")
        )
    result.copy_to(path, [ZARR_JSON])
