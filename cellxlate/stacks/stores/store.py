"""Where a location becomes a Zarr store: the one place. Folders are zarr's own, addresses go through fsspec."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterable
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from zarr.abc.buffer import Buffer, BufferPrototype
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.buffer import default_buffer_prototype
from zarr.storage import FsspecStore, LocalStore, WrapperStore

from cellxlate.locations import Location, RemotePath, connection, remote_faults
from cellxlate.regular_files import open_regular
from cellxlate.stacks.naming import zarr_root

METADATA = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")
MOST_METADATA_BYTES = 2**26
"""A file of metadata is read whole; a plate of 10,000 arrays states 15 MB in one."""


def store_of(location: Location) -> "FolderStore | RemoteStore":
    """Return what zarr opens.

    Raises
    ------
    OptionError
        The packages that speak to the address are not installed.
    """
    if not isinstance(location, RemotePath):
        return FolderStore(location)
    path = str(location) if location.scheme != "s3" else location.key
    files = connection(location.scheme, asynchronous=True)
    return RemoteStore(FsspecStore(files, path=path, read_only=not location.writable))


class FolderStore(LocalStore):
    """zarr's store in a folder, which reads regular files inside it alone, and no metadata of gigabytes.

    "Inside" is the outermost Zarr folder that it lies in: links within a plate may lead from one field to another.
    """

    @cached_property
    def tree(self) -> Path:
        """What no link may lead out of; the folder itself may be a link."""
        return Path(zarr_root(self.root.absolute())).resolve()  # type: ignore[arg-type]

    @cached_property
    def _place(self) -> str:
        """Of the root in the tree; where a link leads out of that, opening a file says so."""
        resolved = self.root.resolve()
        return str(resolved.relative_to(self.tree)) if resolved.is_relative_to(self.tree) else str(resolved)

    def open_file(self, key: str) -> BinaryIO:
        """Open a file to be read.

        Raises
        ------
        InputError
            It is no regular file, or a link leads out of the tree.
        OSError
            It is not there, or cannot be read.
        """
        return open_regular(self.tree, f"{self._place}/{key}")

    def get_sync(
        self,
        key: str,
        *,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
        most_bytes: int | None = None,
    ) -> Buffer | None:
        """Return a file, or a part of it; None where it is not there.

        Raises
        ------
        InputError
            It is no regular file, or a link leads out of the tree.
        ValueError
            It is metadata, of more than 64 MB, or a chunk that is read whole and has more than `most_bytes`.
        """
        try:
            with self.open_file(key) as file:
                size_bytes = os.fstat(file.fileno()).st_size
                if key.rpartition("/")[2] in METADATA and size_bytes > MOST_METADATA_BYTES:
                    raise ValueError(f"{key} takes {size_bytes} bytes, at most {MOST_METADATA_BYTES} were expected")
                if byte_range is None and most_bytes is not None and size_bytes > most_bytes:
                    raise ValueError(f"a chunk takes {size_bytes} bytes where it is stored")
                part = slice(0, size_bytes) if byte_range is None else _slice(byte_range, size_bytes)
                first, last, _ = part.indices(size_bytes)
                file.seek(first)
                content = file.read(max(last - first, 0))
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None
        return (prototype or default_buffer_prototype()).buffer.from_bytes(content)

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return what `get_sync` returns, read by another thread."""
        return await asyncio.to_thread(self.get_sync, key, prototype=prototype, byte_range=byte_range)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Return parts of files."""
        return list(await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges)))


class RemoteStore(WrapperStore[FsspecStore]):
    """zarr's store over fsspec, which tells what is not there from what cannot be had.

    A chunk that is not there reads as the fill value. So an error must never look like absence, nor part of an object
    like all of it, nor the whole like a part. On the web nothing is listed: a page that lists files is not data.
    """

    @property
    def _is_web(self) -> bool:
        return self._store.path.startswith("http")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemoteStore) and self._store == other._store

    __hash__ = None  # type: ignore[assignment]

    def with_read_only(self, read_only: bool = False) -> "RemoteStore":
        """Return the same store, to be read alone or not; before zarr 3.1.6 wrappers had none."""
        return RemoteStore(self._store.with_read_only(read_only))

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Return an object, or a part of it; None where it is not there.

        Raises
        ------
        OSError
            The server refuses it, fails, is silent, or answers with another number of bytes.
        """
        with remote_faults(f"{self._store.path}/{key}"):
            found = await self._store.get(key, prototype, byte_range)
            if found is None or byte_range is None or len(found) == _length(byte_range):
                return found
            whole = await self._store.get(key, prototype)  # the server knows no parts, or it is shorter
            if whole is None:
                return None
            part = whole[_slice(byte_range, len(whole))]
            if len(part) != _length(byte_range, len(whole)):
                raise OSError(f"{len(part)} bytes came, {_length(byte_range)} were asked for")
            return part

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Return parts of objects."""
        return list(await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges)))

    async def exists(self, key: str) -> bool:
        """Return whether an object is there."""
        return await self.get(key, default_buffer_prototype()) is not None

    async def set(self, key: str, value: Buffer) -> None:
        """Write an object in one step."""
        with remote_faults(f"{self._store.path}/{key}"):
            await self._store.set(key, value)

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """List what lies directly below a prefix; nothing on the web."""
        if not self._is_web:
            with remote_faults(f"{self._store.path}/{prefix}"):
                async for name in self._store.list_dir(prefix):
                    yield name


def _length(part: ByteRequest, whole: int | None = None) -> int:
    """Return how many bytes a part has."""
    if isinstance(part, RangeByteRequest):
        return part.end - part.start
    if isinstance(part, SuffixByteRequest):
        return part.suffix
    return -1 if whole is None else max(whole - part.offset, 0)


def _slice(part: ByteRequest, whole: int) -> slice:
    if isinstance(part, RangeByteRequest):
        return slice(part.start, part.end)
    if isinstance(part, OffsetByteRequest):
        return slice(part.offset, None)
    return slice(max(whole - part.suffix, 0), None)
