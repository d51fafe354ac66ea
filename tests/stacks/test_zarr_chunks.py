"""Chunks of Zarr arrays are looked for by their keys, and metadata read where they lie: no pixel is invented."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from cellxlate.errors import InputError
from cellxlate.stacks.read.open import open_stack
from cellxlate.stacks.read.resolutions import open_resolutions

SHAPE, CHUNKS = (3, 20, 30), (1, 16, 16)
PIXELS = np.random.default_rng(0).integers(1, 60_000, SHAPE).astype(np.uint16)
AXES = [{"name": "t", "type": "time"}, {"name": "y", "type": "space"}, {"name": "x", "type": "space"}]
DEFAULT, DOTS = ("default", "/"), ("default", ".")
V2_NESTED, V2_DOTS = ("v2", "/"), ("v2", ".")


def image(path: Path, version: int, keys: tuple[str, str], places: tuple[str, ...] = ("0",)) -> Path:
    """An OME-Zarr image whose chunks lie under keys of one kind."""
    group = zarr.open_group(path, mode="w", zarr_format=version)  # type: ignore[arg-type]
    encoding = {"name": keys[0], "separator": keys[1]}
    for place in places:
        array = group.create_array(
            place, shape=SHAPE, chunks=CHUNKS, dtype="uint16", fill_value=0, chunk_key_encoding=encoding
        )
        array[...] = PIXELS
    datasets = [
        {"path": place, "coordinateTransformations": [{"type": "scale", "scale": [1, 1, 1]}]} for place in places
    ]
    stated: dict[str, Any] = {"multiscales": [{"axes": AXES, "datasets": datasets}]}
    group.update_attributes({"ome": stated | {"version": "0.5"}} if version == 3 else stated)
    return path


def metadata(path: Path, place: str = "0") -> Path:
    return next(file for file in (path / place / ".zarray", path / place / "zarr.json") if file.is_file())


def state_keys(path: Path, keys: tuple[str, str] | None) -> None:
    """State other keys in the metadata than those of the files."""
    file = metadata(path)
    stated = json.loads(file.read_text())
    if file.name == "zarr.json":
        assert keys is not None
        stated["chunk_key_encoding"] = {"name": keys[0], "configuration": {"separator": keys[1]}}
    else:
        stated.pop("dimension_separator", None)
        if keys:
            stated["dimension_separator"] = keys[1]
    file.write_text(json.dumps(stated))


def chunks(path: Path, place: str = "0") -> list[Path]:
    return sorted(
        file for file in (path / place).rglob("*") if file.name.strip("c.0123456789") == "" and file.is_file()
    )


@pytest.mark.parametrize(
    ("version", "keys", "stated"),
    [
        (2, V2_NESTED, None), (2, V2_NESTED, V2_DOTS), (2, V2_DOTS, V2_NESTED),
        (3, DEFAULT, V2_DOTS), (3, DEFAULT, DOTS), (3, DOTS, DEFAULT), (3, V2_NESTED, DEFAULT), (3, V2_DOTS, DEFAULT),
    ],
)  # fmt: skip
@pytest.mark.parametrize("counted", [True, False])
def test_chunks_under_other_keys_than_stated_are_read(
    tmp_path: Path, version: int, keys: Any, stated: Any, counted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not counted:
        monkeypatch.setattr("cellxlate.stacks.read.zarr_chunks.MOST_COUNTED", 1)
    path = image(tmp_path / "a.zarr", version, keys)
    with open_stack(path) as stack:
        assert not stack.warnings
    state_keys(path, stated)
    for opened, axes in ((path, None), (path / "0", "TYX")):
        with open_stack(opened, axes) as stack:
            np.testing.assert_array_equal(np.asarray(stack), PIXELS)
            np.testing.assert_array_equal(stack.read((1,), slice(14, 19), slice(3, 20)), PIXELS[1, 14:19, 3:20])
            assert stack.warnings == (
                "the chunks lie under other names than the metadata state, and are read from there",
            )


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize(("version", "keys"), [(2, V2_NESTED), (2, V2_DOTS), (3, DEFAULT)])
def test_an_array_without_any_chunk_is_refused(
    tmp_path: Path, version: int, keys: Any, counted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not counted:
        monkeypatch.setattr("cellxlate.stacks.read.zarr_chunks.MOST_COUNTED", 1)
    path = image(tmp_path / "a.zarr", version, keys)
    for file in chunks(path):  # as many files as there were, none of which is a chunk
        file.rename(file.with_name(f"{file.name}.partial"))
    for opened, axes in ((path, None), (path / "0", "TYX")):
        with pytest.raises(InputError, match=r"none of the 12 chunks of the array .* would be invented as 0; copy"):
            open_stack(opened, axes)


def test_files_that_are_no_chunks_do_not_count_as_chunks(tmp_path: Path) -> None:
    path = image(tmp_path / "a.zarr", 2, V2_DOTS)
    lost, *_ = chunks(path)
    lost.unlink()
    for number in range(20):
        (path / "0" / f"note{number}").write_text("no chunk")
    with open_stack(path) as stack:
        assert stack.warnings[0].startswith("1 of 12 chunks have no file and read as 0")
        assert not stack.read((0,), slice(0, 16), slice(0, 16)).any()
        np.testing.assert_array_equal(np.asarray(stack)[1:], PIXELS[1:])


def test_a_coarser_level_without_chunks_is_refused(tmp_path: Path) -> None:
    path = image(tmp_path / "a.zarr", 3, DEFAULT, ("0", "1"))
    for file in chunks(path, "1"):
        file.unlink()
    with open_stack(path) as stack:
        np.testing.assert_array_equal(np.asarray(stack), PIXELS)
    with pytest.raises(InputError, match="none of the 12 chunks of the array 1 is there"):
        open_resolutions(path)


def test_chunks_under_keys_of_two_kinds_are_refused(tmp_path: Path) -> None:
    path = image(tmp_path / "a.zarr", 2, V2_DOTS)
    nested = path / "0" / "0" / "0"
    nested.mkdir(parents=True)
    (nested / "0").write_bytes(chunks(path)[0].read_bytes())
    with pytest.raises(InputError, match=r"keys of two kinds \(12 and 1\)"):
        open_stack(path)


def test_chunks_outside_of_the_stated_shape_are_named(tmp_path: Path) -> None:
    path = image(tmp_path / "a.zarr", 3, DEFAULT)
    stated = json.loads(metadata(path).read_text())
    metadata(path).write_text(json.dumps(stated | {"shape": [2, *SHAPE[1:]]}))
    with open_stack(path) as stack:
        np.testing.assert_array_equal(np.asarray(stack), PIXELS[:2])
        assert stack.warnings[0].startswith("4 chunks lie outside of the stated shape (2, 20, 30) and are not read")


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
@pytest.mark.parametrize("version", [2, 3])
def test_what_was_appended_after_consolidation_is_read(tmp_path: Path, version: int) -> None:
    path = image(tmp_path / "a.zarr", version, V2_NESTED if version == 2 else DEFAULT, ("0", "1"))
    zarr.consolidate_metadata(path)
    for place in ("0", "1"):
        zarr.open_array(path / place, mode="r+").append(PIXELS[:2], axis=0)
    levels = open_resolutions(path)
    for stack in levels:
        np.testing.assert_array_equal(np.asarray(stack), np.concatenate([PIXELS, PIXELS[:2]]))
    levels[0].close()


def test_levels_that_are_not_listed_from_the_largest_are_refused(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "a.ome.zarr", mode="w", zarr_format=3)
    datasets = []
    for place, step in (("small", 2), ("large", 1)):
        group.create_array(place, data=PIXELS[:, ::step, ::step])
        datasets.append({"path": place, "coordinateTransformations": [{"type": "scale", "scale": [1, step, step]}]})
    for listed, is_right in ((datasets[::-1], True), (datasets, False)):
        group.update_attributes({"ome": {"version": "0.5", "multiscales": [{"axes": AXES, "datasets": listed}]}})
        if is_right:
            np.testing.assert_array_equal(np.asarray(open_stack(tmp_path / "a.ome.zarr")), PIXELS)
        else:
            with pytest.raises(InputError, match=r"not listed from the largest: large has \(3, 20, 30\)"):
                open_stack(tmp_path / "a.ome.zarr")


def test_absent_chunks_without_a_fill_value_are_said_to_read_as_zero(tmp_path: Path) -> None:
    path = image(tmp_path / "a.ome.zarr", 2, V2_NESTED)
    stated = json.loads(metadata(path).read_text())
    metadata(path).write_text(json.dumps(stated | {"fill_value": None}))
    chunks(path)[0].unlink()
    with open_stack(path) as stack:
        assert not np.asarray(stack)[0, :16, :16].any()
        assert any("read as 0, though no fill value is stated" in line for line in stack.warnings)


def test_a_scale_without_a_unit_is_named(tmp_path: Path) -> None:
    path = image(tmp_path / "a.ome.zarr", 3, DEFAULT)
    file = path / "zarr.json"
    stated = json.loads(file.read_text())
    dataset = stated["attributes"]["ome"]["multiscales"][0]["datasets"][0]
    for scale, named in (([1, 1, 1], False), ([1, 0.2, 0.2], True)):
        dataset["coordinateTransformations"][0]["scale"] = scale
        file.write_text(json.dumps(stated))
        with open_stack(path) as stack:
            assert stack.pixel_size_um == {}
            assert any("scale along Y, 0.2, has no unit" in line for line in stack.warnings) == named
