"""Chunks of Zarr arrays that decode to far more than they should hold."""

import ast
import bz2
import itertools
import json
import lzma
import pickle
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
from packaging.version import Version

import cellxlate
from cellxlate.errors import InputError
from cellxlate.stacks.read.open import open_stack
from cellxlate.stacks.read.resolutions import open_resolutions

SIDE_PX = 64
PIXELS = np.random.default_rng(0).integers(100, 300, (SIDE_PX, SIDE_PX)).astype(np.uint16)
GIGABYTE = 2**30
ZARR_2 = {"zstd": {"id": "zstd", "level": 1}, "gzip": {"id": "gzip", "level": 1}, "zlib": {"id": "zlib", "level": 1},
          "blosc": {"id": "blosc", "cname": "zstd"}, "lz4": {"id": "lz4"}, "bz2": {"id": "bz2"},
          "lzma": {"id": "lzma"}, "lzma alone": {"id": "lzma", "format": lzma.FORMAT_ALONE},
          "lzma raw": {"id": "lzma", "format": lzma.FORMAT_RAW, "filters": [{"id": lzma.FILTER_LZMA2, "preset": 1}]},
          }  # fmt: skip
ZARR_3: dict[str, dict[str, Any]] = {
    "zstd": {"name": "zstd", "configuration": {"level": 1, "checksum": False}},
    "gzip": {"name": "gzip", "configuration": {"level": 1}},
    "blosc": {"name": "blosc", "configuration": {"cname": "lz4", "clevel": 5, "shuffle": "noshuffle", "typesize": 2,
                                                 "blocksize": 0}},
    "zlib": {"name": "numcodecs.zlib", "configuration": {"level": 1}},
    "lz4": {"name": "numcodecs.lz4", "configuration": {}},
}  # fmt: skip
"""How Zarr 3 names the codecs; the others are those of Zarr 2."""


def zstd_of_stated_size() -> bytes:
    """4 GB of zeros, stated in the header, of which 32 MB follow."""
    return b"\x28\xb5\x2f\xfd\xe0" + (4 * GIGABYTE).to_bytes(8, "little") + _zeros(255)


def zstd_of_unstated_size() -> bytes:
    """4 GB of zeros in 131 KB."""
    return b"\x28\xb5\x2f\xfd\x00\x58" + _zeros(4 * GIGABYTE // 2**17)


def _zeros(blocks: int) -> bytes:
    """Blocks of 128 KB of one byte, four bytes each."""
    block = 2**17 << 3 | 1 << 1
    return (block.to_bytes(3, "little") + b"\0") * (blocks - 1) + (block | 1).to_bytes(3, "little") + b"\0"


def deflated() -> bytes:
    """Return 1 GB of zeros: the same megabyte again and again."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    piece = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return piece * 1024 + b"\x03\x00"


def patched(codec: str, at: int) -> bytes:
    """Return a small chunk that states 2 GB."""
    stored = bytearray(numcodecs.get_codec(ZARR_2[codec]).encode(PIXELS))
    stored[at : at + 4] = (2**31 - 1).to_bytes(4, "little")
    return bytes(stored)


BOMBS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "zstd that states 4 GB": ("zstd", zstd_of_stated_size),
    "zstd of 4 GB that states nothing": ("zstd", zstd_of_unstated_size),
    "gzip of 1 GB": ("gzip", lambda: b"\x1f\x8b\x08" + bytes(7) + deflated() + bytes(8)),
    "gzip of many members": (
        "gzip", lambda: b"".join(itertools.repeat(numcodecs.GZip(9).encode(bytes(2**22)), 256)),
    ),
    "zlib of 1 GB": ("zlib", lambda: b"\x78\x9c" + deflated() + bytes(4)),
    "blosc that states 2 GB": ("blosc", lambda: patched("blosc", 4)),
    "lz4 that states 2 GB": ("lz4", lambda: patched("lz4", 0)),
    "bz2 of 1 GB": ("bz2", lambda: bz2.compress(bytes(2**22)) * 256),
    "lzma of 1 GB": ("lzma", lambda: lzma.compress(bytes(2**22), preset=0) * 256),
    "lzma of a dictionary of 3 GB": (
        "lzma alone", lambda: b"]" + (3 * GIGABYTE).to_bytes(4, "little") + lzma.compress(b"a", lzma.FORMAT_ALONE)[5:],
    ),
    "zstd behind a sound frame": ("zstd", lambda: numcodecs.Zstd(1).encode(PIXELS) + zstd_of_unstated_size()),
}  # fmt: skip


def array_2(path: Path, **changes: Any) -> Path:
    """Write a Zarr 2 array without chunks; return where its only chunk goes."""
    path.mkdir()
    stated = {"zarr_format": 2, "shape": [SIDE_PX] * 2, "chunks": [SIDE_PX] * 2, "dtype": "<u2", "order": "C",
              "fill_value": 0, "compressor": None, "filters": None}  # fmt: skip
    (path / ".zarray").write_text(json.dumps(stated | changes))
    return path / "0.0"


def array_3(path: Path, codecs: list[dict[str, Any]]) -> Path:
    """Write a Zarr 3 array without chunks; return where its only chunk goes."""
    zarr.create_array(path, shape=(SIDE_PX, SIDE_PX), dtype="uint16", chunks=(SIDE_PX, SIDE_PX), zarr_format=3)
    file = path / "zarr.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"codecs": codecs}))
    chunk = path / "c" / "0" / "0"
    chunk.parent.mkdir(parents=True)
    return chunk


BYTES = {"name": "bytes", "configuration": {"endian": "little"}}


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3")
@pytest.mark.parametrize(("kind", "version"), [(kind, 2) for kind in BOMBS] + [
    (kind, 3) for kind, (codec, _) in BOMBS.items() if codec in ZARR_3])  # fmt: skip
def test_a_chunk_that_decodes_to_far_more_than_it_holds_is_refused(kind, version, tmp_path, command, bounded):
    codec, make = BOMBS[kind]
    path = tmp_path / "a.zarr"
    place = array_2(path, compressor=ZARR_2[codec]) if version == 2 else array_3(path, [BYTES, ZARR_3[codec]])
    place.write_bytes(make())
    assert "is damaged" in command.enhance_refused(path)


def test_a_dictionary_of_gigabytes_that_the_metadata_states_is_refused(tmp_path, command, bounded):
    stated = [{"id": lzma.FILTER_LZMA2, "dict_size": 3 * 2**29}]
    sound = numcodecs.get_codec(ZARR_2["lzma raw"]).encode(PIXELS)
    array_2(tmp_path / "a.zarr", compressor=ZARR_2["lzma raw"] | {"filters": stated}).write_bytes(sound)
    assert "dictionary" in command.enhance_refused(tmp_path / "a.zarr")


@pytest.mark.parametrize("version", ["filter of zarr 2", "zarr 3"])
def test_a_bomb_within_a_bomb_is_refused(version, tmp_path, command, bounded):
    path, twice = tmp_path / "a.zarr", [ZARR_3["zstd"]] * 2
    inner = ZARR_2["zstd"]
    place = array_3(path, [BYTES, *twice]) if version == "zarr 3" else array_2(path, filters=[inner], compressor=inner)
    place.write_bytes(numcodecs.Zstd(9).encode(zstd_of_unstated_size()))
    assert "is damaged" in command.enhance_refused(path)


def sharded(path: Path, entries: Any, content: bytes, *, further: Sequence[dict[str, Any]] = ()) -> Path:
    """Write an array of one shard of four chunks, its index as given; return the file of the shard."""
    array = zarr.create_array(path, shape=(SIDE_PX, SIDE_PX), dtype="uint16", chunks=(32, 32), shards=(64, 64))
    array[:] = PIXELS
    index = np.broadcast_to(np.asarray(entries, "<u8"), (4, 2)).tobytes()
    checksum = bytes(np.asarray(numcodecs.checksum32.CRC32C(location="end").encode(np.frombuffer(index, "u1"))))[-4:]
    shard = path / "c" / "0" / "0"
    shard.write_bytes(content + index + checksum)
    if further:
        file = path / "zarr.json"
        stated = json.loads(file.read_text())
        file.write_text(json.dumps(stated | {"codecs": [*stated["codecs"], *further]}))
    return shard


def test_a_bomb_within_a_shard_is_refused(tmp_path, command, bounded):
    bomb = zstd_of_unstated_size()
    sharded(tmp_path / "a.zarr", (0, len(bomb)), bomb)
    assert "is damaged" in command.enhance_refused(tmp_path / "a.zarr")


def test_a_bomb_around_a_shard_is_refused(tmp_path, command, bounded):
    shard = sharded(tmp_path / "a.zarr", (0, 0), b"", further=[ZARR_3["zstd"]])
    shard.write_bytes(zstd_of_unstated_size())
    assert "is damaged" in command.enhance_refused(tmp_path / "a.zarr")


def test_an_entry_of_a_shard_that_states_a_terabyte_is_refused(tmp_path, bounded):
    sharded(tmp_path / "a.zarr", (0, 2**40), bytes(1000))
    with open_stack(tmp_path / "a.zarr") as stack, pytest.raises(InputError, match="is stored"):
        stack.read((), slice(0, 8), slice(0, 8))  # of one chunk: read by its place in the index


def test_a_shard_of_far_too_many_chunks_is_refused(tmp_path, command, bounded):
    path = tmp_path / "a.zarr"
    zarr.create_array(path, shape=(2**24, 2**24), dtype="uint8", chunks=(1, 1), shards=(2**14, 2**14))
    place = path / "c" / "0" / "0"
    place.parent.mkdir(parents=True)
    with place.open("wb") as file:
        file.truncate(2**33)  # the index alone would be 4 GB
    assert "shards hold 268435456 chunks" in command.enhance_refused(path)


@pytest.mark.parametrize("version", [2, 3])
def test_a_chunk_whose_file_is_far_too_large_is_refused(version, tmp_path, command, bounded):
    path = tmp_path / "a.zarr"
    place = array_2(path) if version == 2 else array_3(path, [BYTES])
    with place.open("wb") as file:
        file.truncate(2**36)  # takes no room on the disk
    assert "68719476736 bytes where it is stored" in command.enhance_refused(path)


def test_a_chunk_of_far_too_many_streams_is_refused(tmp_path, command):
    place = array_2(tmp_path / "a.zarr", compressor=ZARR_2["gzip"])
    place.write_bytes(bytes(numcodecs.GZip(1).encode(b"")) * 10_000)  # each is copied to find the next
    assert "decodes to more" in command.enhance_refused(tmp_path / "a.zarr")


@pytest.mark.parametrize("name", ["zarr.json", ".zarray", ".zattrs", "0/zarr.json"])
def test_metadata_of_gigabytes_are_refused(name, tmp_path, command, bounded):
    path = tmp_path / "a.zarr"
    if name == "0/zarr.json":
        multiscale = {"axes": [{"name": "y"}, {"name": "x"}], "datasets": [{"path": "0"}]}
        zarr.open_group(path, mode="w").attrs["ome"] = {"version": "0.5", "multiscales": [multiscale]}
        zarr.create_array(path / "0", data=PIXELS)
    else:
        array_2(path)
    with (path / name).open("ab") as file:
        file.truncate(2**36)
    assert "were expected" in command.enhance_refused(path)


def test_a_bomb_in_a_coarser_level_is_refused(tmp_path, bounded):
    path = tmp_path / "a.ome.zarr"
    zarr.open_group(path, mode="w").attrs["ome"] = {"version": "0.5", "multiscales": [{
        "axes": [{"name": "y", "type": "space"}, {"name": "x", "type": "space"}],
        "datasets": [{"path": "0"}, {"path": "1"}]}]}  # fmt: skip
    zarr.create_array(path / "0", data=PIXELS, chunks=PIXELS.shape)
    array_3(path / "1", [BYTES, ZARR_3["zstd"]]).write_bytes(zstd_of_unstated_size())
    levels = open_resolutions(path)
    assert np.array_equal(levels[0].read(()), PIXELS)
    with pytest.raises(InputError, match="is damaged"):
        levels[1].read(())


@pytest.mark.parametrize("kind", ["chunk", "shard"])
def test_a_bomb_is_refused_by_another_process_too(kind, tmp_path, bounded):
    path, bomb = tmp_path / "a.zarr", zstd_of_unstated_size()
    if kind == "chunk":
        array_3(path, [BYTES, ZARR_3["zstd"]]).write_bytes(bomb)
    else:
        sharded(path, (0, len(bomb)), bomb)
    with open_stack(path) as stack:
        sent: Any = pickle.loads(pickle.dumps(stack.pixels))
    with pytest.raises(RuntimeError, match="too small"):
        sent[:]


@pytest.mark.skipif(Version(zarr.__version__) < Version("3.2"), reason="zarr has one pipeline of codecs")
@pytest.mark.parametrize("kind", ["bomb", "bomb in a shard", "terabyte", "sparse"])
def test_bounds_hold_in_the_fused_pipeline(kind, tmp_path, bounded):
    path, bomb = tmp_path / "a.zarr", zstd_of_unstated_size()
    if kind == "bomb":
        array_3(path, [BYTES, ZARR_3["zstd"]]).write_bytes(bomb)
    elif kind == "sparse":
        with array_3(path, [BYTES]).open("wb") as file:
            file.truncate(2**36)
    else:
        sharded(path, (0, 2**40 if kind == "terabyte" else len(bomb)), bomb)
    with (
        zarr.config.set({"codec_pipeline.path": "zarr.core.codec_pipeline.FusedCodecPipeline"}),
        open_stack(path) as stack,
        pytest.raises(InputError, match="is stored" if kind in ("terabyte", "sparse") else "is damaged"),
    ):
        stack.read((), slice(0, 8), slice(0, 8))


@pytest.mark.parametrize("version", [2, 3])
def test_no_other_reader_knows_the_bounded_codecs(version, tmp_path):
    zarr.create_array(tmp_path / "a.zarr", data=PIXELS, zarr_format=version)
    with open_stack(tmp_path / "a.zarr") as stack:
        stated: Any = stack.pixels.metadata.to_dict()
    with pytest.raises(Exception, match=r"cellxlate\.bounded"):
        type(stack.pixels.metadata).from_dict(stated)


def test_nothing_private_is_used_of_zarr():
    top = Path(cellxlate.__file__).parent
    for file in top.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                named = node.module or ""
            elif isinstance(node, ast.Import):
                named = node.names[0].name
            else:
                continue
            parts = named.split(".")
            assert parts[0] != "zarr" or not any(one == "core" or one.startswith("_") for one in parts), (file, named)


def test_zarr_itself_stays_as_it_is_for_others(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", data=PIXELS)
    with open_stack(tmp_path / "a.zarr") as stack:
        ours: Any = stack.pixels
    other = zarr.open_array(tmp_path / "a.zarr", mode="r")
    assert type(ours.metadata.codecs[-1]) is not type(other.metadata.codecs[-1])
    assert type(ours.store) is not type(other.store)
    assert zarr.registry.get_pipeline_class() is type(other.async_array.codec_pipeline)
    assert type(other.metadata.codecs[-1]) is zarr.codecs.ZstdCodec


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": "|O", "filters": [{"id": "pickle"}]},
        {"dtype": "|O", "filters": [{"id": "vlen-utf8"}, {"id": "pickle"}]},
        {"dtype": "|O", "filters": [{"id": "vlen-utf8"}], "compressor": {"id": "pickle"}},
        {"filters": [{"id": "pickle"}]},
        {"filters": [{"id": "zlib"}], "compressor": {"id": "pickle"}},
        {"compressor": {"id": "json2"}},
        {"filters": [{"id": "vlen-bytes"}]},
        {"filters": [{"id": "categorize", "labels": ["a"], "dtype": "|O", "astype": "<u2"}]},
        {"filters": [{"id": "base64"}]},
    ],
    ids=str,
)
def test_codecs_that_make_objects_are_never_run(changes, tmp_path, command, monkeypatch):
    class Trap:
        def __reduce__(self):
            return (exec, ("raise SystemExit('a pickle was opened')",))

    path = tmp_path / "a.zarr"
    array_2(path, fill_value=None, **changes).write_bytes(pickle.dumps(Trap()))
    monkeypatch.setattr(numcodecs.pickles.Pickle, "decode", lambda *_: pytest.fail("a pickle was opened"))
    said = command.enhance_refused(path)
    assert "never read" in said or "damaged" in said


def stated_but_codecs(array: Any) -> dict[str, Any]:
    stated: dict[str, Any] = array.metadata.to_dict()
    return {name: value for name, value in stated.items() if name not in ("codecs", "filters", "compressor")}


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3")
@pytest.mark.parametrize(("kind", "name"), [
    *((kind, name) for kind in ("zarr 2", "filtered") for name in (*ZARR_2, None)),
    *((kind, name) for kind in ("zarr 3", "sharded", "shards in shards") for name in (*ZARR_3, None)),
])  # fmt: skip
def test_what_sound_codecs_hold_is_read_as_zarr_reads_it(name, kind, tmp_path):
    if kind == "shards in shards" and Version(zarr.__version__) < Version("3.1.6"):
        pytest.skip("older zarr reads no shards within shards")
    path = tmp_path / "a.zarr"
    pixels = np.random.default_rng(1).integers(0, 60_000, (70, 50)).astype(np.uint16)  # hardly compressible
    pixels[:20] = 7
    options: dict[str, Any] = {"shape": pixels.shape, "dtype": "uint16", "chunks": (32, 16)}
    if kind in ("zarr 2", "filtered"):
        filters = None
        if kind == "filtered":
            filters = [numcodecs.AsType("<f8", "<u2"), numcodecs.Shuffle(8)] if name else [numcodecs.Delta("<u2")]
        codec = numcodecs.get_codec(ZARR_2[name]) if name else None
        array = zarr.create_array(path, **options, zarr_format=2, compressors=codec, filters=filters)
    else:
        shards = {} if kind == "zarr 3" else {"shards": (64, 32)}
        compressors = [ZARR_3[name]] if name else None
        if kind == "shards in shards":
            inner = zarr.codecs.ShardingCodec(chunk_shape=(8, 8), codecs=[BYTES, *(compressors or ())])
            array = zarr.create_array(path, **options, zarr_format=3, serializer=inner, compressors=None, **shards)
        else:
            array = zarr.create_array(path, **options, zarr_format=3, compressors=compressors, **shards)
    array[:] = pixels
    with open_stack(path, axes="YX") as stack:
        assert np.array_equal(stack.read(()), pixels)
        assert np.array_equal(stack.read((), slice(30, 70), slice(13, 14)), pixels[30:70, 13:14])
        assert stack.pixels.attrs == array.attrs
        assert stated_but_codecs(stack.pixels) == stated_but_codecs(array)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int16", "float16", "float64"])
def test_noise_that_no_codec_makes_smaller_is_read(dtype, tmp_path):
    noise = np.random.default_rng(2).integers(0, 2, (40, 40)).astype(dtype)
    if dtype != "bool":
        noise = np.frombuffer(np.random.default_rng(2).bytes(1600 * noise.itemsize), dtype).reshape(40, 40)
    for name, codec in ZARR_2.items():
        path = tmp_path / f"{name}.zarr"
        zarr.create_array(path, data=noise, chunks=(7, 7), zarr_format=2, compressors=numcodecs.get_codec(codec))
        with open_stack(path) as stack:
            assert stack.read(()).tobytes() == noise.tobytes()


@pytest.mark.parametrize("codec", ["zstd", None])
def test_filters_that_store_wider_values_are_read(codec, tmp_path):
    pixels = np.random.default_rng(3).integers(0, 256, (512, 512)).astype(np.uint8)
    compressor = numcodecs.get_codec(ZARR_2[codec]) if codec else None
    zarr.create_array(tmp_path / "a.zarr", data=pixels, chunks=pixels.shape, zarr_format=2, compressors=compressor,
                      filters=[numcodecs.AsType("<f8", "|u1"), numcodecs.Shuffle(8)])  # fmt: skip
    with open_stack(tmp_path / "a.zarr") as stack:
        assert np.array_equal(stack.read(()), pixels)


@pytest.mark.filterwarnings("ignore:Combining a `sharding_indexed` codec")
def test_a_compressed_shard_whose_index_is_larger_than_its_pixels_is_read(tmp_path):
    pixels = np.random.default_rng(3).integers(0, 256, (96, 96)).astype(np.uint8)
    shards = zarr.codecs.ShardingCodec(chunk_shape=(1, 1), codecs=[zarr.codecs.BytesCodec()])
    zarr.create_array(
        tmp_path / "a.zarr", data=pixels, chunks=pixels.shape, serializer=shards, compressors=[ZARR_3["zstd"]]
    )
    with open_stack(tmp_path / "a.zarr") as stack:
        assert np.array_equal(stack.read(()), pixels)


@pytest.mark.parametrize("kind", ["states its size", "states no size", "two frames", "a frame to skip"])
def test_zstd_of_every_kind_is_read(kind, tmp_path):
    raw = PIXELS.tobytes()

    def unstated(part: bytes) -> bytes:
        return b"\x28\xb5\x2f\xfd\x00\x58" + (len(part) << 3 | 1).to_bytes(3, "little") + part

    stored = {
        "states its size": numcodecs.Zstd(1).encode(raw), "states no size": unstated(raw),
        "two frames": numcodecs.Zstd(1).encode(raw[:100]) + unstated(raw[100:]),
        "a frame to skip": b"\x50\x2a\x4d\x18\x04\0\0\0skip" + unstated(raw),
    }[kind]  # fmt: skip
    array_2(tmp_path / "a.zarr", compressor=ZARR_2["zstd"]).write_bytes(stored)
    with open_stack(tmp_path / "a.zarr") as stack:
        assert np.array_equal(stack.read(()), PIXELS)


@pytest.mark.parametrize("codec", ["gzip", "bz2", "lzma"])
def test_streams_one_after_another_are_one_chunk(codec, tmp_path):
    raw, encode = PIXELS.tobytes(), numcodecs.get_codec(ZARR_2[codec]).encode
    place = array_2(tmp_path / "a.zarr", compressor=ZARR_2[codec])
    padding = bytes(100) if codec == "gzip" else b""
    place.write_bytes(bytes(encode(raw[:5000])) + padding + bytes(encode(raw[5000:])) + padding)
    with open_stack(tmp_path / "a.zarr") as stack:
        assert np.array_equal(stack.read(()), PIXELS)


@pytest.mark.parametrize("codec", ZARR_2)
def test_a_chunk_cut_short_is_refused(codec, tmp_path):
    stored = bytes(numcodecs.get_codec(ZARR_2[codec]).encode(PIXELS))
    place = array_2(tmp_path / "a.zarr", compressor=ZARR_2[codec])
    for length in (0, 1, 5, len(stored) // 2, len(stored) - 1):
        place.write_bytes(stored[:length])
        with open_stack(tmp_path / "a.zarr") as stack, pytest.raises(InputError, match="is damaged"):
            stack.read(())
