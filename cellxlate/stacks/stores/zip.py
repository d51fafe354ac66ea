"""Zarr images in one zip file, `.zarr.zip` or `.ozx`: read as they lie, nothing is unpacked."""

import zipfile
import zlib
from pathlib import Path, PurePosixPath

from zarr.abc.buffer import Buffer, BufferPrototype
from zarr.abc.store import ByteRequest
from zarr.storage import ZipStore

from cellxlate.errors import InputError
from cellxlate.stacks.naming import ZARR_MARKS, one_line
from cellxlate.stacks.stores.store import METADATA, MOST_METADATA_BYTES

ZIP_SUFFIXES = (".zip", ".ozx")
MOST_PACKED_BYTES = 2**30
"""What is packed in a zip can only be unpacked whole; chunks are packed by Zarr, and lie in the zip as they are."""

STORED_OR_DEFLATED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class ZippedStore(ZipStore):
    """zarr's store in a zip file, which unpacks nothing of gigabytes, and raises damage as OSError.

    `root` is where the outermost group or array lies in the file, "" for none; `names` are all files.
    """

    root: str = ""
    names: tuple[str, ...] = ()

    def close(self) -> None:
        """Close the file, where something was read."""
        if self._is_open:
            super().close()

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Return an entry, or a part of it; None where it is not there.

        Raises
        ------
        OSError
            It is damaged, or larger than is unpacked.
        """
        try:
            return await super().get(key, prototype, byte_range)
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as fault:
            raise OSError(f"{key}: {one_line(fault)}") from fault


def is_zipped_zarr(path: Path) -> bool:
    """Return whether a path is named as a zip file that may hold a Zarr image."""
    return path.suffix.lower() in ZIP_SUFFIXES and path.is_file()


def open_zip(path: Path) -> ZippedStore:
    """Open a zip file that holds a Zarr image.

    Raises
    ------
    InputError
        It is damaged, or holds no Zarr, several side by side, or what only a bomb holds.
    """
    try:
        with zipfile.ZipFile(path) as file:
            entries = [entry for entry in file.infolist() if not entry.is_dir()]
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as fault:
        raise InputError(f"{path} is no zip file that can be read ({one_line(fault)}); copy it again") from fault
    for entry in entries:
        is_metadata = PurePosixPath(entry.filename).name in METADATA
        most = MOST_METADATA_BYTES if is_metadata else MOST_PACKED_BYTES
        if entry.compress_type not in STORED_OR_DEFLATED or entry.flag_bits & 1:
            raise InputError(f"{path}: {entry.filename} is encrypted or packed in another way; unpack it first")
        if entry.file_size > most and (is_metadata or entry.compress_type != zipfile.ZIP_STORED):
            raise InputError(
                f"{path}: {entry.filename} would take {entry.file_size} bytes, at most {most} are unpacked; unpack the "
                "file first"
            )
    marks = [mark for entry in entries if (mark := PurePosixPath(entry.filename)).name in ZARR_MARKS]
    if not marks:
        raise InputError(f"{path} holds no Zarr image; unpack it, and give what is in it")
    fewest = min(len(mark.parts) for mark in marks)
    roots = sorted({mark.parent.as_posix() for mark in marks if len(mark.parts) == fewest})
    if len(roots) > 1:
        raise InputError(f"{path} holds {len(roots)} images side by side, {roots[0]} first; unpack it")
    store = ZippedStore(path, mode="r")
    store.root, store.names = "" if roots[0] == "." else roots[0], tuple(entry.filename for entry in entries)
    return store
