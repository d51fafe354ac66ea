"""Where an output may go, and how it gets its final name: on a disk, or in a bucket (`remote_output`)."""

import os
from pathlib import Path

from cellxlate.errors import OutputError
from cellxlate.locations import Location, RemotePath
from cellxlate.options import TO_GO_ON, TO_RENAME, TO_REPLACE_OR_GO_ON
from cellxlate.stacks.naming import ZARR_JSON, Format
from cellxlate.stacks.stores.bucket import ObjectLock, check_remote_place, publish_objects
from cellxlate.stacks.write.locking import FolderLock
from cellxlate.whole_file import in_the_way, rename_or_say, wait_for_disk

JOB_FILE = "job.json"
"""In a partial: what is being written."""

Lock = FolderLock | ObjectLock


def check_places(path: Location, partial: Location, kind: Format, *, source: Location | None, replace: bool) -> None:
    """Raise OutputError where an output or the folder it is made in must not go.

    With `replace`, what is there may be replaced or used again; the input, `source`, never.
    """
    if isinstance(path, RemotePath) and isinstance(partial, RemotePath):
        check_remote_place(path, partial, is_input=path == source, replace=replace)
    elif isinstance(path, Path) and isinstance(partial, Path):
        _check_place(path, kind, source=source if isinstance(source, Path) else None, replace=replace)
        _check_partial(partial, usable=replace)


def acquire(partial: Location) -> Lock:
    """Lock a partial against other jobs.

    Raises
    ------
    OutputError
        Another job holds it.
    """
    return ObjectLock.acquire(partial) if isinstance(partial, RemotePath) else FolderLock.acquire(partial)


def is_ours(partial: Location) -> bool:
    """Return whether a partial is there, and no folder of the user's."""
    return partial.is_dir() if isinstance(partial, RemotePath) else FolderLock.may_take(partial)


def publish(result: Location, path: Location, partial: Location, *, replaces: bool) -> None:
    """Give what is finished in a partial, `result`, its final name.

    Raises
    ------
    OutputError
        Something has the name that may not be replaced.
    """
    if isinstance(result, RemotePath) and isinstance(path, RemotePath) and isinstance(partial, RemotePath):
        publish_objects(result, path, partial, replaces=replaces)
    elif isinstance(result, Path) and isinstance(path, Path) and isinstance(partial, Path):
        _rename(result, path, partial, replaces=replaces)


def _rename(result: Path, path: Path, partial: Path, *, replaces: bool) -> None:
    if result.is_dir() and hasattr(os, "sync"):
        os.sync()  # thousands of files, each of which fsync would wait for
    else:
        wait_for_disk(result)
    is_folder = path.is_dir() and not path.is_symlink()
    if is_folder and not (result.is_dir() and _is_zarr_image(path)):
        raise in_the_way(path)  # a user's folder, whatever was asked for
    if replaces and (is_folder or (result.is_dir() and os.path.lexists(path))):
        path.rename(partial / "replaced")
    if replaces and not result.is_dir():
        result.replace(path)
    else:
        rename_or_say(result, path)
    wait_for_disk(path.parent)


def _check_place(path: Path, kind: Format, *, source: Path | None, replace: bool) -> None:
    """Raise OutputError where the output must not go."""
    if not path.parent.is_dir():
        raise OutputError(f"the folder {path.parent} does not exist; make it first")
    if not path.exists():
        return
    if source is not None and source.exists() and path.samefile(source):
        raise OutputError(f"{path} is the input itself", remedy=TO_RENAME)
    if not replace:
        raise OutputError(f"{path} exists", remedy=TO_REPLACE_OR_GO_ON)
    if path.is_dir() and (kind in ("ome-tiff", "tiff") or not _is_zarr_image(path)):
        raise OutputError(f"{path} is a folder and no OME-Zarr image", remedy=TO_RENAME)


def _is_zarr_image(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (ZARR_JSON, ".zgroup"))


def _check_partial(partial: Path, *, usable: bool) -> None:
    """Raise OutputError unless a partial may be made, or used again."""
    if not partial.exists():
        return
    if not FolderLock.may_take(partial):
        raise OutputError(f"{partial} is in the way and no partial of an interrupted job; move it elsewhere")
    if not usable and (partial / JOB_FILE).is_file():
        raise OutputError(f"{partial} is left from an interrupted job", remedy=TO_GO_ON)
