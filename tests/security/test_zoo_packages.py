"""Packages of the BioImage Model Zoo from strangers: bounded, never unpacked, nothing fetched, nothing run unasked."""

import copy
import os
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
import yaml
from zoo_packages import described, onnx_of, plain_network, write_package

from cellxlate.errors import CellxlateError, ModelError
from cellxlate.model.foreign.given import is_foreign, open_foreign
from cellxlate.model.foreign.zoo.description import described as read
from cellxlate.model.foreign.zoo.stated import Entry, read_description

LONGEST_S = 5.0


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    made = onnx_of(plain_network(), (0, 1, 0, 0))
    open_foreign(write_package(tmp_path_factory.mktemp("sound") / "p", made, described(made)))  # imports onnx
    return made


def one_line(fault: Exception) -> None:
    assert "\n" not in str(fault)
    assert "\x1b" not in str(fault)
    assert len(str(fault)) < 1500


ALIASES = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
MERGES = "a0: &a0 {k0: 1}\n" + "".join(f"a{n}: &a{n}\n  <<: [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 25))
HOSTILE: dict[str, bytes] = {
    "nested lists": b"a: " + b"[" * 100_000,
    "nested mappings": b"{a: " * 100_000,
    "aliases that multiply": ALIASES.encode(),
    "merge keys that multiply": MERGES.encode(),
    "a list in itself": b"type: model\ninputs: &a [*a, *a]\n",
    "a call of Python": b"type: !!python/object/apply:os.system ['touch hacked']\n",
    "an object of Python": b"type: !!python/object:os.terminal_size [1]\n",
    "an unknown tag": b"type: !model {}\n",
    "bytes that are no text": b"type: \xff\xfe\xfd\x00\n",
    "a list": b"- a\n- b\n",
    "nothing": b"",
    "a number of 100,000 digits": b"format_version: " + b"9" * 100_000,
    "a year 0": b"type: 0000-00-00\n",
    "two documents": b"type: model\n---\ntype: model\n",
    "50,001 numbers": b"a: [" + b"1," * 50_001 + b"]",
    "an escape sequence": b'type: "\\e[2J\\e]0;title\\a"\n',
    "a key that is a mapping": b"? {a: b}\n: c\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_description_is_refused_in_one_line(name: str, tmp_path: Path, bounded: Any) -> None:
    (tmp_path / "rdf.yaml").write_bytes(HOSTILE[name])
    started = time.perf_counter()
    with pytest.raises(ModelError) as refused:
        open_foreign(tmp_path)
    one_line(refused.value)
    assert time.perf_counter() - started < LONGEST_S
    assert [path.name for path in tmp_path.iterdir()] == ["rdf.yaml"]


NONSENSE: tuple[Any, ...] = (
    None, True, -1, 0, 1e308, float("nan"), float("inf"), 2**70, "", "x" * 2000, "../x", "\x1b[2J", [], {}, [[]],
    {"a": 1}, [None, "b"], "bcyx", [1, 2, 3],
)  # fmt: skip


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield where each value of a description stands."""
    if at:
        yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*at, key))


def test_descriptions_of_nonsense_are_refused_or_read(weights: bytes) -> None:
    random, said = Random(3), 0
    steps = [
        ("scale_range", {"axes": ["y", "x"], "min_percentile": 1.0, "max_percentile": 99.0}), ("clip", {"min": 0.0}),
        ("fixed_zero_mean_unit_variance", {"mean": 1.0, "std": 2.0}), ("ensure_dtype", {"dtype": "float32"}),
    ]  # fmt: skip
    after = [("scale_linear", {"gain": 2.0, "offset": 1.0}), ("scale_mean_variance", {"reference_tensor": "raw"})]
    for version in ("0.4", "0.5"):
        plain = described(weights, version, before=steps[:1] if version == "0.4" else steps, after=after[:1])
        for place in places(plain):
            for value in random.sample(NONSENSE, 3):
                changed = copy.deepcopy(plain)
                inner = changed
                for key in place[:-1]:
                    inner = inner[key]
                inner[place[-1]] = value
                try:
                    read(Entry(changed, "rdf.yaml"))
                except ModelError as fault:
                    one_line(fault)
                    said += 1
    assert said > 100


def test_damaged_descriptions_are_refused_or_read(weights: bytes) -> None:
    random, text = Random(4), yaml.safe_dump(described(weights)).encode()
    for _ in range(150):
        changed = bytearray(text)
        for _ in range(random.randint(1, 5)):
            at = random.randrange(len(changed))
            changed[at : at + random.randint(0, 3)] = random.choice(
                (b"&a ", b"*a", b"{", b"[", b"\n  ", b"\t", b"!", b"\xc3")
            )
        try:
            read(read_description(bytes(changed), "rdf.yaml"))
        except ModelError as fault:
            one_line(fault)


def linked_out(folder: Path, weights: bytes) -> None:
    (folder / "model.onnx").unlink()
    (folder.parent / "outside.onnx").write_bytes(weights)
    (folder / "model.onnx").symlink_to(folder.parent / "outside.onnx")


def piped(folder: Path, _: bytes) -> None:
    (folder / "model.onnx").unlink()
    os.mkfifo(folder / "model.onnx")


def a_folder(folder: Path, _: bytes) -> None:
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").mkdir()


def pickled(folder: Path, _: bytes) -> None:
    (folder / "model.onnx").write_bytes(b"\x80\x04\x95cos\nsystem\n(S'touch hacked'\ntR.")


def huge(folder: Path, _: bytes) -> None:
    with (folder / "model.onnx").open("r+b") as file:
        file.truncate(2**41)


def long_description(folder: Path, _: bytes) -> None:
    with (folder / "rdf.yaml").open("ab") as file:
        file.write(b"# " + b"x" * 600_000)


@pytest.mark.skipif(os.name == "nt", reason="there are no such files")
@pytest.mark.parametrize("change", [linked_out, piped, a_folder, pickled, huge, long_description])
def test_files_of_a_package_that_are_no_such_files_are_refused(
    change: Callable[[Path, bytes], None], weights: bytes, tmp_path: Path, bounded: Any
) -> None:
    description = described(weights)
    del description["weights"]["onnx"]["sha256"]
    folder = write_package(tmp_path / "package", weights, description)
    change(folder, weights)
    with pytest.raises(CellxlateError) as refused:
        open_foreign(folder)
    one_line(refused.value)


@pytest.mark.parametrize("source", ["../model.onnx", "/etc/passwd", "..\\model.onnx", "C:model.onnx", "file:///x", "s3://a/b",
                                    "http://127.0.0.1:9/model.onnx", "10.5281/zenodo.1/model.onnx", ""])  # fmt: skip
def test_nothing_outside_a_package_is_read_or_fetched(
    source: str, weights: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*_: object, **__: object) -> None:
        raise AssertionError("the network is asked")

    monkeypatch.setattr("socket.socket.connect", asked)
    (tmp_path / "model.onnx").write_bytes(weights)
    for place in (tmp_path / "package", tmp_path / "package.zip"):
        package = write_package(place, weights, described(weights, weights={"onnx": {"source": source}}))
        with pytest.raises(CellxlateError) as refused:
            open_foreign(package)
        one_line(refused.value)


def write_archive(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_archives_are_read_within_bounds_and_never_unpacked(weights: bytes, tmp_path: Path, bounded: Any) -> None:
    text = yaml.safe_dump(described(weights)).encode()
    hostile = {
        "a description of 32 MB": {"rdf.yaml": b"#" + b" " * 2**25, "model.onnx": weights},
        "no network": {"rdf.yaml": text},
        "another network": {"rdf.yaml": text, "model.onnx": weights + b"\0"},
        "too many files": {"rdf.yaml": text, **{f"{number}": b"" for number in range(2000)}},
    }
    inside = tmp_path / "inside"
    inside.mkdir()
    for number, members in enumerate(hostile.values()):
        package = write_archive(inside / f"{number}.zip", members)
        with pytest.raises(CellxlateError) as refused:
            open_foreign(package)
        one_line(refused.value)
    climbing = {"rdf.yaml": text, "model.onnx": weights, "../../escaped": b"x", "/tmp/escaped": b"x"}
    open_foreign(write_archive(inside / "climbing.zip", climbing))
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted(
        ["inside", "climbing.zip", *(f"{number}.zip" for number in range(len(hostile)))]
    )


def test_an_archive_that_is_no_package_is_none(tmp_path: Path, weights: bytes) -> None:
    deep = write_archive(tmp_path / "deep.zip", {"a/b/rdf.yaml": b"type: model", "a/b/model.onnx": weights})
    assert not is_foreign(deep)
    (tmp_path / "cut.zip").write_bytes(deep.read_bytes()[:40])
    assert not is_foreign(tmp_path / "cut.zip")


def test_torchscript_and_pickles_are_never_loaded_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def loaded(*_: object, **__: object) -> None:
        raise AssertionError("a program is loaded")

    monkeypatch.setattr(torch.jit, "load", loaded)
    monkeypatch.setattr(torch, "load", loaded)
    for kind in ("torchscript", "pytorch_state_dict", "keras_hdf5", "tensorflow_saved_model_bundle"):
        description = described(b"", weights={kind: {"source": "model.onnx"}})
        with pytest.raises(ModelError) as refused:
            open_foreign(write_package(tmp_path / kind, b"PK\x03\x04", description))
        one_line(refused.value)
        assert kind in str(refused.value)
