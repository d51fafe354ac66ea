"""Chunks of Zarr arrays from strangers, decoded into bounded memory.

A chunk of a few kilobytes can decode to gigabytes, or state that it does. How much a chunk may hold follows from the
metadata of its array, so each decoder is stopped there: the array is opened again, with codecs that know their bound
and a store that reads no more. Neither zarr's registry nor its configuration changes; all that is used here is public.
"""

import asyncio
import bz2
import lzma
import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from typing import Any

import imagecodecs
import numpy as np
import zarr
from numcodecs.abc import Codec as NumCodec
from numcodecs.registry import get_codec
from zarr.abc.buffer import Buffer, BufferPrototype
from zarr.abc.codec import BytesBytesCodec, Codec
from zarr.abc.store import ByteRequest, RangeByteRequest, Store
from zarr.codecs import ShardingCodec
from zarr.storage import StorePath, WrapperStore

from cellxlate.errors import InputError
from cellxlate.stacks.stores.store import FolderStore

BOUNDED = "cellxlate.bounded"
"""What bounded codecs are called in metadata: a name that no other pipeline of codecs would decode, without a bound."""

OBJECT_CODECS = (
    "pickle",
    "json",
    "json2",
    "msgpack",
    "msgpack2",
    "vlen-array",
    "vlen-bytes",
    "vlen-utf8",
    "categorize",
)
"""Codecs that make Python objects; a pickle can run any program."""

MOST_CHUNKS = 2**22
"""In a shard, whose index takes 16 bytes for each."""

MOST_MEMBERS = 4096
"""Streams one after another in a chunk; sound ones have one."""

WIDEST_BYTES = 16
"""What a filter of Zarr 2 may store for each value."""

DICTIONARY_BYTES = 2**28
"""Memory that a chunk of LZMA may ask for beside its pixels; presets take 64 MB at most."""


def bounded(array: "zarr.Array[Any]") -> "zarr.Array[Any]":
    """Return an array, opened again, that refuses chunks that decode to far more than they should hold.

    Its metadata are those of the file but for the codecs.

    Raises
    ------
    InputError
        A codec makes Python objects, or a shard has more than `MOST_CHUNKS` chunks.
    """
    stated: Any = array.metadata
    outer = array.shards or array.chunks
    exchanged: dict[str, Any] = {}
    widest_bytes = 1
    if stated.zarr_format == 2:
        for codec in (*(stated.filters or ()), stated.compressor):
            if codec is not None and codec.codec_id in OBJECT_CODECS:
                raise InputError(
                    f"its codec {codec.codec_id} makes Python objects, which are never read; convert it to numbers"
                )
        widest_bytes = WIDEST_BYTES if stated.filters else 1
        bound = partial(_BoundedStep, most_bytes=_most_bytes(outer, array.dtype, widest_bytes))
        exchanged["filters"] = [bound(codec) for codec in stated.filters or ()] or None
        exchanged["compressor"] = stated.compressor and bound(stated.compressor)
    else:
        exchanged["codecs"] = _bounded_codecs(stated.codecs, outer)
    store = LimitedStore(array.store, 4 * _most_bytes(outer, array.dtype, widest_bytes))
    return zarr.Array(zarr.AsyncArray(replace(stated, **exchanged), StorePath(store, array.path)))


def _bounded_codecs(codecs: Iterable[Codec], shape: tuple[int, ...]) -> list[Codec]:
    """Return codecs of Zarr 3 for blocks of this shape, those that compress exchanged for bounded ones."""
    exchanged: list[Codec] = []
    index_bytes = 0
    for codec in codecs:
        if isinstance(codec, ShardingCodec):
            count = prod(shape) // max(prod(codec.chunk_shape), 1)
            if count > MOST_CHUNKS:
                raise InputError(f"its shards hold {count} chunks each; save it in larger chunks or smaller shards")
            index_bytes = 2 * WIDEST_BYTES * count
            inner = _bounded_codecs(codec.codecs, codec.chunk_shape)
            exchanged.append(_BoundedSharding(**_shards(codec) | {"codecs": inner}))
        else:
            stated = codec.to_dict()
            name = str(stated["name"]).removeprefix("numcodecs.")
            if isinstance(codec, BytesBytesCodec) and name in DECODERS:
                settings: Any = stated.get("configuration", {})
                codec = _BoundedBytes(codec, name, settings, index_bytes)
            exchanged.append(codec)
    return exchanged


Decoder = Callable[[Any, int, Mapping[str, Any]], Any]
"""Takes what is stored, the bytes that it may decode to, the settings of the codec; raises where it is more."""


def _zstd(stored: Any, most_bytes: int, _: Mapping[str, Any]) -> Any:
    decoded: Any = np.empty(most_bytes, np.uint8)
    return imagecodecs.zstd_decode(stored, out=decoded)  # the part that was filled


def _of_stated_size(name: str, at: int) -> Decoder:
    """Return a decoder for a codec that states the decoded size in its header, and believes it."""

    def decode(stored: Any, most_bytes: int, _: Mapping[str, Any]) -> Any:
        size = int.from_bytes(bytes(stored[at : at + 4]), "little")
        if size > most_bytes:
            raise ValueError(f"a chunk states {size} bytes, at most {most_bytes} were expected")
        return get_codec({"id": name}).decode(stored)

    return decode


def _streamed(start: Callable[[Mapping[str, Any]], Any], padding: bytes = b"") -> Decoder:
    """Return a decoder for streams that lie one after another, each unpacked by a new object of the library."""

    def decode(stored: Any, most_bytes: int, settings: Mapping[str, Any]) -> Any:
        pieces: list[bytes] = []
        rest, left = bytes(stored), most_bytes
        while rest or not pieces:
            try:
                stream = start(settings)
                piece = stream.decompress(rest, left + 1)
            except lzma.LZMAError as fault:  # a kind of its own
                raise ValueError(str(fault)) from fault
            left -= len(piece)
            if left < 0 or len(pieces) == MOST_MEMBERS:
                raise ValueError(f"a chunk decodes to more than the {most_bytes} bytes that were expected")
            if not stream.eof:
                raise ValueError("a chunk ends too early")
            pieces.append(piece)
            rest = stream.unused_data.lstrip(padding) if padding else stream.unused_data
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    return decode


def _start_lzma(settings: Mapping[str, Any]) -> lzma.LZMADecompressor:
    kind, filters = settings.get("format", lzma.FORMAT_XZ), settings.get("filters")
    if kind != lzma.FORMAT_RAW:
        return lzma.LZMADecompressor(kind, memlimit=DICTIONARY_BYTES)
    if any(step.get("dict_size", 0) > DICTIONARY_BYTES for step in filters or ()):
        raise ValueError(f"a chunk asks for a dictionary of more than {DICTIONARY_BYTES} bytes")
    return lzma.LZMADecompressor(kind, filters=filters)


DECODERS: dict[str, Decoder] = {
    "zstd": _zstd,
    "blosc": _of_stated_size("blosc", 4),
    "lz4": _of_stated_size("lz4", 0),
    "gzip": _streamed(lambda _: zlib.decompressobj(31), padding=b"\0"),
    "zlib": _streamed(lambda _: zlib.decompressobj()),
    "bz2": _streamed(lambda _: bz2.BZ2Decompressor()),
    "lzma": _streamed(_start_lzma),
}
"""Codecs whose result is not in proportion to what is stored."""


def _most_bytes(shape: tuple[int, ...], dtype: np.dtype[Any], least_item_bytes: int = 1) -> int:
    """Return what a chunk may take in any step of decoding: its pixels, and what codecs add to the incompressible."""
    pixels = prod(shape) * max(dtype.itemsize, least_item_bytes)
    return pixels + pixels // 4 + 2**16


@dataclass(frozen=True)
class _BoundedStep(NumCodec):  # type: ignore[misc]
    """A codec of Zarr 2, for chunks of one size."""

    codec: Any
    most_bytes: int

    codec_id = BOUNDED

    def get_config(self) -> dict[str, Any]:
        return {"id": BOUNDED, "codec": self.codec.get_config()}

    def encode(self, buf: Any) -> Any:
        return self.codec.encode(buf)

    def decode(self, buf: Any, out: Any = None) -> Any:
        decoder = DECODERS.get(self.codec.codec_id)
        return decoder(buf, self.most_bytes, self.codec.get_config()) if decoder else self.codec.decode(buf, out)


@dataclass(frozen=True)
class _BoundedBytes(BytesBytesCodec):
    """A codec of Zarr 3 that compresses."""

    inner: BytesBytesCodec
    name: str
    settings: Mapping[str, Any] = field(hash=False)
    further_bytes: int = 0

    is_fixed_size = False

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: Any) -> Buffer:
        most_bytes = _most_bytes(chunk_spec.shape, chunk_spec.dtype.to_native_dtype()) + self.further_bytes
        stored = chunk_data.as_numpy_array()
        decoded = await asyncio.to_thread(DECODERS[self.name], stored, most_bytes, self.settings)
        return chunk_spec.prototype.buffer.from_bytes(decoded)  # type: ignore[no-any-return]

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: Any) -> int:
        return self.inner.compute_encoded_size(input_byte_length, chunk_spec)

    def to_dict(self) -> dict[str, Any]:
        return {"name": BOUNDED, "configuration": {"codec": self.inner.to_dict()}}


def _shards(codec: ShardingCodec) -> dict[str, Any]:
    """Return what makes a codec of shards."""
    return {name: getattr(codec, name) for name in ("chunk_shape", "codecs", "index_codecs", "index_location")}


class _BoundedSharding(ShardingCodec):
    """Shards, whose chunks are bounded."""

    def __reduce__(self) -> Any:  # zarr's way forgets what was exchanged
        return partial(_BoundedSharding, **_shards(self)), ()


class LimitedStore(WrapperStore[Store]):
    """Reads no more of a file at once than a chunk or a shard can take; a file may be sparse, and state any size."""

    def __init__(self, store: Store, most_bytes: int) -> None:
        super().__init__(store)
        self.most_bytes = most_bytes

    def _with_store(self, store: Store) -> "LimitedStore":
        return LimitedStore(store, self.most_bytes)

    @property
    def unlimited(self) -> Store:
        """What it reads from."""
        return self._store

    def get_sync(
        self, key: str, *, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return a file of a folder, or a part of it; None where it is not there.

        Raises
        ------
        ValueError
            It is longer than a chunk can be.
        """
        self._check(byte_range)
        folder: Any = self._store
        content: Buffer | None = folder.get_sync(
            key, prototype=prototype, byte_range=byte_range, most_bytes=self.most_bytes
        )
        return content

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Return what is stored, or a part of it; None where it is not there.

        Raises
        ------
        ValueError
            It is longer than a chunk can be, as far as that is known before it is read.
        """
        if isinstance(self._store, FolderStore):
            return await asyncio.to_thread(self.get_sync, key, prototype=prototype, byte_range=byte_range)
        self._check(byte_range)
        return await self._store.get(key, prototype, byte_range)

    async def get_ranges(
        self, key: str, byte_ranges: Sequence[ByteRequest | None], **options: Any
    ) -> AsyncIterator[Sequence[tuple[int, Buffer | None]]]:
        """Return parts of a shard, as zarr since 3.2 asks for them; what fails is raised as `get` raises it."""
        for part in byte_ranges:
            self._check(part)
        store: Any = self._store
        try:
            async for parts in store.get_ranges(key, byte_ranges, **options):
                yield parts
        except BaseExceptionGroup as faults:
            raise faults.exceptions[0] from faults

    def _check(self, part: ByteRequest | None) -> None:
        if isinstance(part, RangeByteRequest) and part.end - part.start > self.most_bytes:
            raise ValueError(f"a chunk takes {part.end - part.start} bytes where it is stored")
