"""The chunks of a Zarr array: whether they are there, and under which keys."""

import re
from collections.abc import Iterable
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import zarr

from cellxlate.errors import InputError
from cellxlate.locations import Location, RemotePath
from cellxlate.regular_files import files_below
from cellxlate.stacks.limits.zarr_codecs import LimitedStore
from cellxlate.stacks.stores.store import store_of
from cellxlate.stacks.stores.zip import ZippedStore

MOST_COUNTED, MOST_COUNTED_REMOTE = 300_000, 30_000
"""Chunks that are looked for at most, before an array is taken to be complete."""

NONE_THERE = (
    "none of the {} chunks of the array {} is there, so all pixels would be invented as {}; copy the image again"
)

OTHER_KEYS = "the chunks lie under other names than the metadata state, and are read from there"


def found_chunks(path: Location, array: "zarr.Array[Any]") -> tuple[str, ...]:
    """Look for the chunks of an array under their keys; where they lie under others, make the array read these.

    Returns
    -------
    tuple of str
        A line where chunks are not there, which read as the fill value, as in an unfinished copy; a line where chunks
        lie outside of the stated shape; a line where the keys are not those that the metadata state.

    Raises
    ------
    InputError
        No chunk is there, or chunks lie under the keys of two kinds.
    """
    shape, chunks = array.shape, array.shards or array.chunks
    counts = tuple(-(-size // chunk) for size, chunk in zip(shape, chunks, strict=True))
    expected = prod(counts)
    if not expected or not counts:
        return ()
    names = _stored_names(path, array, expected)
    if names is None:
        return _probed(path, array, counts)
    kinds = _key_kinds(array, len(counts))
    stored: dict[int, set[tuple[int, ...]]] = {kind: set() for kind in range(len(kinds))}
    for name in names:
        for kind, (expression, _) in enumerate(kinds):
            if match := expression.fullmatch(name):
                stored[kind].add(tuple(map(int, match.groups())))
    inside = {
        kind: sum(all(at < count for at, count in zip(indices, counts, strict=True)) for indices in keys)
        for kind, keys in stored.items()
    }
    used = max(inside, key=lambda kind: (inside[kind], -kind))
    where = array.path or path.name
    if not inside[used]:
        raise InputError(NONE_THERE.format(expected, where, _fill(array)))
    others = sum(count for kind, count in inside.items() if kind != used)
    if others:
        raise InputError(
            f"the chunks of the array {where} lie under keys of two kinds ({inside[used]} and {others}), which may "
            "hold other pixels; remove those that are out of date, or convert the image again"
        )
    lines = []
    if used:
        _, encoding = kinds[used]
        _use_keys(array, encoding)
        lines.append(OTHER_KEYS)
    if inside[used] < expected:
        lines.append(
            f"{expected - inside[used]} of {expected} chunks have no file and read as {_fill(array)}; if the stack "
            "was copied, compare it with its source"
        )
    if len(stored[used]) > inside[used]:
        lines.append(
            f"{len(stored[used]) - inside[used]} chunks lie outside of the stated shape {shape} and are not read; if "
            "something was appended, correct the shape"
        )
    return tuple(lines)


def _fill(array: "zarr.Array[Any]") -> str:
    """Return what absent chunks read as, in words; Zarr 2 may state null, of which zarr makes 0."""
    return "0, though no fill value is stated" if array.fill_value is None else str(array.fill_value)


def _stored_names(path: Location, array: "zarr.Array[Any]", expected: int) -> Iterable[str] | None:
    """Return the names of the files below an array, None where they cannot be listed, or are too many to be."""
    store = array.store.unlimited if isinstance(array.store, LimitedStore) else array.store
    if isinstance(store, ZippedStore):
        start = f"{array.path}/" if array.path else ""
        return [name.removeprefix(start) for name in store.names if name.startswith(start)]
    folder = path / array.path if array.path else path
    if isinstance(folder, RemotePath):
        if not folder.writable or expected > MOST_COUNTED_REMOTE:  # the web lists nothing, a bucket 1000 at a time
            return None
        return folder.below()
    if expected > MOST_COUNTED:
        return None
    return files_below(folder, _tree(path))


def _tree(path: Location) -> Path:
    """Return the folder that no link of an image may lead out of."""
    return store_of(path).tree  # type: ignore[union-attr]


def _key_kinds(array: "zarr.Array[Any]", dimensions: int) -> list[tuple[re.Pattern[str], Any]]:
    """Return expressions for the keys of chunks, that of the metadata first, with the encodings that they stand for."""
    stated: Any = array.metadata
    number = r"(0|[1-9]\d*)"
    separated = {sign: re.escape(sign).join([number] * dimensions) for sign in "/."}
    kinds: list[tuple[re.Pattern[str], Any]]
    if stated.zarr_format == 2:
        own: Any = stated.dimension_separator
        kinds = [(re.compile(separated[sign]), sign) for sign in "/."]
    else:
        own = (stated.chunk_key_encoding.name, stated.chunk_key_encoding.separator)
        kinds = [(re.compile(f"c{re.escape(sign)}{separated[sign]}"), ("default", sign)) for sign in "/."]
        kinds += [(re.compile(separated[sign]), ("v2", sign)) for sign in "/."]
    kinds.sort(key=lambda kind: kind[1] != own)
    distinct = {expression.pattern: (expression, encoding) for expression, encoding in reversed(kinds)}
    return list(reversed(distinct.values()))  # of one axis, both separators give the same keys


def _use_keys(array: "zarr.Array[Any]", encoding: Any) -> None:
    """Make an array that was opened to be read look for its chunks under other keys."""
    stated: Any = array.metadata
    if stated.zarr_format == 2:
        object.__setattr__(stated, "dimension_separator", encoding)
    else:
        name, separator = encoding
        other = replace(stated, chunk_key_encoding={"name": name, "configuration": {"separator": separator}})
        object.__setattr__(stated, "chunk_key_encoding", other.chunk_key_encoding)


def _probed(path: Location, array: "zarr.Array[Any]", counts: tuple[int, ...]) -> tuple[str, ...]:
    """Look for some chunks where all cannot be listed, or are too many; as `found_chunks`."""
    folder = path / array.path if array.path else path
    kinds = _key_kinds(array, len(counts))
    if isinstance(folder, RemotePath):
        corners = [tuple(0 for _ in counts), tuple(count // 2 for count in counts), tuple(size - 1 for size in counts)]
        tried = [(encoding, chunk) for _, encoding in kinds for chunk in dict.fromkeys(corners)]
        matching = (encoding for encoding, chunk in tried if (folder / _key(array, encoding, chunk)).is_file())
    else:
        keys = files_below(folder, _tree(path))
        matching = (encoding for key in keys for expression, encoding in kinds if expression.fullmatch(key))
    used = next(matching, None)
    if used is None and isinstance(folder, RemotePath):
        return ("of its chunks those that were looked for are not there; what is not there reads as "
                f"{_fill(array)}: compare the image with its source",)  # fmt: skip
    if used is None:
        raise InputError(NONE_THERE.format(prod(counts), array.path or path.name, _fill(array)))
    if used == kinds[0][1]:
        return ()
    _use_keys(array, used)
    return (OTHER_KEYS,)


def _key(array: "zarr.Array[Any]", encoding: Any, chunk: tuple[int, ...]) -> str:
    """Return the key of a chunk in an encoding of `_key_kinds`."""
    if array.metadata.zarr_format == 2:
        return str(encoding).join(map(str, chunk))
    name, separator = encoding
    return str(separator).join([*(["c"] if name == "default" else []), *map(str, chunk)])
