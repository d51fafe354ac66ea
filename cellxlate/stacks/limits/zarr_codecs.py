"""Chunks of Zarr arrays from strangers, decoded into bounded memory.

A chunk of a few kilobytes can decode to gigabytes, or state that it does. How much a chunk may hold follows from the
metadata of its array, so each decoder is stopped there. Only the array at hand changes, neither zarr's registry nor its
configuration.
"""

import asyncio
import bz2
import lzma
import os
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import imagecodecs
import numpy as np
import zarr
from numcodecs.registry import get_codec
from zarr.abc.codec import BytesBytesCodec, Codec
from zarr.abc.store import ByteRequest, RangeByteRequest
from zarr.codecs import ShardingCodec
from zarr.codecs._v2 import V2Codec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, BufferPrototype, NDBuffer
from zarr.core.buffer.cpu import as_numpy_array_wrapper
from zarr.core.codec_pipeline import BatchedCodecPipeline

from cellxlate.errors import InputError
from cellxlate.stacks.stores.store import FolderStore

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
    """Make an array that was opened to be read refuse chunks that decode to far more than they should hold.

    Parameters
    ----------
    array : zarr.Array
        Of version 2 or 3. Its pipeline of codecs is exchanged.

    Returns
    -------
    zarr.Array
        The same array.

    Raises
    ------
    InputError
        A codec makes Python objects, or a shard has more than `MOST_CHUNKS` chunks.
    """
    stated: Any = array.metadata
    if stated.zarr_format == 2:
        codecs: list[Codec] = [_BoundedV2(stated.filters, stated.compressor)]
        names = [codec.codec_id for codec in (*(stated.filters or ()), stated.compressor) if codec is not None]
        for name in names:
            if name in OBJECT_CODECS:
                raise InputError(f"its codec {name} makes Python objects, which are never read; convert it to numbers")
    else:
        codecs = _bounded_codecs(stated.codecs, array.shards or array.chunks)
    object.__setattr__(array.async_array, "codec_pipeline", _BoundedPipeline.from_codecs(codecs))
    return array


def _bounded_codecs(codecs: Iterable[Codec], shape: tuple[int, ...]) -> list[Codec]:
    """Return codecs of Zarr 3 for blocks of this shape, those that compress exchanged for bounded ones."""
    found: list[Codec] = []
    index_bytes = 0
    for codec in codecs:
        if isinstance(codec, ShardingCodec):
            count = prod(shape) // max(prod(codec.chunk_shape), 1)
            if count > MOST_CHUNKS:
                raise InputError(f"its shards hold {count} chunks each; save it in larger chunks or smaller shards")
            index_bytes = 2 * WIDEST_BYTES * count
            found.append(_BoundedSharding.of(codec))
        else:
            stated = codec.to_dict()
            name = str(stated["name"]).removeprefix("numcodecs.")
            if isinstance(codec, BytesBytesCodec) and name in DECODERS:
                settings: Any = stated.get("configuration", {})
                codec = _BoundedBytes(codec, name, settings, index_bytes)
            found.append(codec)
    return found


Decoder = Callable[[Any, int, Mapping[str, Any]], Any]
"""Takes what is stored, the bytes that it may decode to, the settings of the codec; raises where it is more."""


def _zstd(stored: Any, most_bytes: int, _: Mapping[str, Any]) -> Any:
    decoded: Any = np.empty(most_bytes, np.uint8)
    return imagecodecs.zstd_decode(stored, out=decoded)  # the part that was filled


def _of_stated_size(name: str, place: int) -> Decoder:
    """Return a decoder for a codec that states the decoded size in its header, and believes it."""

    def decode(stored: Any, most_bytes: int, _: Mapping[str, Any]) -> Any:
        size = int.from_bytes(bytes(stored[place : place + 4]), "little")
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


def _most_bytes(spec: ArraySpec, least_item_bytes: int = 1) -> int:
    """Return what a chunk may take in any step of decoding: its pixels, and what codecs add to the incompressible."""
    pixels = prod(spec.shape) * max(spec.dtype.to_native_dtype().itemsize, least_item_bytes)
    return pixels + pixels // 4 + 2**16


@dataclass(frozen=True)
class _BoundedStep:
    """A codec of Zarr 2, for chunks of one size."""

    codec: Any
    most_bytes: int

    def decode(self, stored: Any) -> Any:
        decoder = DECODERS.get(self.codec.codec_id)
        return decoder(stored, self.most_bytes, self.codec.get_config()) if decoder else self.codec.decode(stored)


class _BoundedV2(V2Codec):
    """The codecs of Zarr 2."""

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        most_bytes = _most_bytes(chunk_spec, WIDEST_BYTES if self.filters else 1)
        filters = [_BoundedStep(codec, most_bytes) for codec in self.filters or ()]
        compressor = None if self.compressor is None else _BoundedStep(self.compressor, most_bytes)
        plain: Any = V2Codec(tuple(filters) or None, compressor)  # type: ignore[arg-type]
        decoded: NDBuffer = await plain._decode_single(chunk_bytes, chunk_spec)
        return decoded


@dataclass(frozen=True)
class _BoundedBytes(BytesBytesCodec):
    """A codec of Zarr 3 that compresses."""

    inner: BytesBytesCodec
    name: str
    settings: Mapping[str, Any] = field(hash=False)
    further_bytes: int = 0

    is_fixed_size = False

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer:
        most_bytes = _most_bytes(chunk_spec) + self.further_bytes

        def decode(stored: Any) -> Any:
            return DECODERS[self.name](stored, most_bytes, self.settings)

        return await asyncio.to_thread(as_numpy_array_wrapper, decode, chunk_bytes, chunk_spec.prototype)

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        return self.inner.compute_encoded_size(input_byte_length, chunk_spec)

    def to_dict(self) -> dict[str, Any]:
        return self.inner.to_dict()


class _BoundedSharding(ShardingCodec):
    """Shards, whose chunks are bounded."""

    @classmethod
    def of(cls, codec: ShardingCodec) -> "_BoundedSharding":
        return cls(
            chunk_shape=codec.chunk_shape,
            codecs=_bounded_codecs(codec.codecs, codec.chunk_shape),
            index_codecs=codec.index_codecs,
            index_location=codec.index_location,
        )

    def __reduce__(self) -> Any:  # zarr's way forgets what was exchanged
        return _BoundedSharding.of, (ShardingCodec.from_dict(self.to_dict()),)


class _BoundedPipeline(BatchedCodecPipeline):
    """Reads no more of a file than a chunk or a shard can take."""

    async def read_batch(self, batch_info: Iterable[Any], out: NDBuffer, drop_axes: tuple[int, ...] = ()) -> Any:
        widest_bytes = WIDEST_BYTES if getattr(self.array_bytes_codec, "filters", None) else 1
        limited = [
            (_LimitedGetter(getter, 4 * _most_bytes(spec, widest_bytes)), spec, *rest)
            for getter, spec, *rest in batch_info
        ]
        return await super().read_batch(limited, out, drop_axes)


@dataclass(frozen=True)
class _LimitedGetter:
    """Where a chunk is stored; a file may be sparse, and state any size."""

    getter: Any
    most_bytes: int

    async def get(self, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        store = self.getter.store
        if byte_range is None and isinstance(store, FolderStore):
            return await asyncio.to_thread(self._whole, store, prototype)
        if isinstance(byte_range, RangeByteRequest):
            self._check(byte_range.end - byte_range.start)
        found: Buffer | None = await self.getter.get(prototype, byte_range)
        return found

    def _whole(self, store: FolderStore, prototype: BufferPrototype) -> Buffer | None:
        try:
            with store.open_file(self.getter.path) as file:
                self._check(os.fstat(file.fileno()).st_size)
                return prototype.buffer.from_bytes(file.read())
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None

    def _check(self, stored_bytes: int) -> None:
        if stored_bytes > self.most_bytes:
            raise ValueError(f"a chunk takes {stored_bytes} bytes where it is stored")
