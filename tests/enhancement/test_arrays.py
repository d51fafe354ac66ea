"""What Python hands over: paths, arrays in memory, and lazy arrays, which stay lazy."""

import weakref
from pathlib import Path

import numpy as np
import pytest

import cellxlate
from cellxlate.errors import InputError, OptionError
from cellxlate.stacks.intensity import stack_range
from cellxlate.stacks.stack import Stack
from cellxlate.stacks.write.copy import write_stacks

PLANE = (520, 128)


def plane(number: int) -> np.ndarray:
    noise = np.random.default_rng(number).normal(0, 8, PLANE)
    return (noise + np.linspace(80, 240, PLANE[1])).clip(0).astype(np.uint16)


@pytest.fixture
def cells() -> np.ndarray:
    return np.stack([plane(number) for number in range(3)])


def pixels(path: Path) -> np.ndarray:
    with cellxlate.open_stack(path) as stack:
        return np.asarray(stack).copy()


def test_a_path_gives_arrays_as_its_stack_does(tmp_path, cells, tiny_model):
    path = tmp_path / "cells.ome.tif"
    write_stacks([(Stack.from_array(cells), path)])
    expected = cellxlate.enhance(cells, tiny_model)
    for given in (path, str(path)):
        found = cellxlate.enhance(given, tiny_model)
        np.testing.assert_array_equal(found.image, expected.image)
        np.testing.assert_array_equal(found.attention, expected.attention)
    assert sorted(tmp_path.iterdir()) == [path]


def test_axes_in_lower_case(cells, tiny_model):
    assert Stack.from_array(cells, "tyx").axes == "TYX"
    assert cellxlate.enhance(cells, tiny_model, axes="zyx").report.axes == "ZYX"


@pytest.mark.parametrize(
    ("shape", "named"), [((40, 50, 3), "YXS.*ZYX"), ((2, 40, 50, 4), "ZYXS.*TZYX"), ((1, 2, 40, 50, 3), "TZYXS.*TCZYX")]
)
def test_a_last_axis_that_may_be_colour_is_asked_about(shape, named, tiny_model):
    colour = np.zeros(shape, np.uint8)
    with pytest.raises(InputError, match=f"may be colour samples or columns; give axes='{named}'"):
        cellxlate.enhance(colour, tiny_model)
    for axes in ("TCZYX"[-colour.ndim :], "TZYXS"[-colour.ndim :]):
        assert Stack.from_array(colour, axes).axes == axes
    assert Stack.from_array(np.zeros((40, 3), np.uint8)).axes == "YX"
    assert Stack.from_array(np.zeros((3, 40, 50), np.uint8)).axes == "ZYX"


def test_lazy_arrays_stay_lazy():
    array = pytest.importorskip("dask.array")
    computed = []

    def made(block_info=None):
        computed.append(block_info[None]["chunk-location"])
        return np.full((1, 30, 40), 7, np.uint16)

    lazy = array.map_blocks(made, chunks=((1,) * 5, (30,), (40,)), dtype=np.uint16)
    stack = Stack.from_array(lazy, "tyx")
    computed.clear()  # dask may try the function
    assert (stack.shape, stack.dtype, computed) == ((5, 30, 40), np.dtype(np.uint16), [])
    assert (stack.read((3,), slice(2, 9)) == 7).all()
    assert computed == [(3, 0, 0)]
    assert (np.asarray(stack.to_dask()[1]) == 7).all()


@pytest.mark.parametrize("kind", ["array", "stack", "dask", "zarr"])
def test_an_array_is_written_to_a_file(kind, tmp_path, cells, tiny_model):
    given = cells
    if kind == "stack":
        given = Stack.from_array(cells, name="movie")
    elif kind == "dask":
        given = pytest.importorskip("dask.array").from_array(cells, chunks=(1, 300, 128))
    elif kind == "zarr":
        given = pytest.importorskip("zarr").create_array(tmp_path / "z", data=cells, chunks=(1, 300, 128))
    expected = cellxlate.enhance(cells, tiny_model)
    report = cellxlate.enhance_file(given, tiny_model, output_dir=tmp_path / "out")
    name = "movie" if kind == "stack" else "array"
    assert report.outputs["enhanced"] == str(tmp_path / "out" / f"{name}_enhanced.ome.tif")
    np.testing.assert_array_equal(pixels(report.outputs["enhanced"]), expected.image)
    np.testing.assert_array_equal(pixels(report.outputs["attention"]), expected.attention)
    again = cellxlate.enhance_file(given, tiny_model, output_dir=tmp_path / "out", resume=True)
    assert any("finished before" in warning for warning in again.warnings)


def test_an_array_wants_a_place(cells, tiny_model):
    with pytest.raises(OptionError, match=r"lies in memory .* give output= or output_dir="):
        cellxlate.enhance_file(cells, tiny_model)


def test_few_planes_of_a_lazy_array_are_in_memory_at_once(tmp_path, tiny_model, monkeypatch):
    """Windows of levels may be of 32 of them; else one is read ahead, one worked on, two wait to be written."""
    array = pytest.importorskip("dask.array")
    monkeypatch.setattr(stack_range, "SAMPLE_PX", 2**12)
    alive, most = set[int](), [0]

    def made(block_info=None):
        number = block_info[None]["chunk-location"][0] if block_info else 0
        pixels = np.random.default_rng(number).integers(80, 240, (1, 64, 64)).astype(np.uint16)
        alive.add(id(pixels))
        weakref.finalize(pixels, alive.discard, id(pixels))
        most[0] = max(most[0], len(alive))
        return pixels

    movie = array.map_blocks(made, chunks=((1,) * 90, (64,), (64,)), dtype=np.uint16)
    enhancing: list[int] = []

    def follow(news):
        if news.phase == "enhancing" and not enhancing:
            most[0] = 0
        enhancing.append(most[0])

    cellxlate.enhance_file(movie, tiny_model, axes="TYX", output=tmp_path / "a.tif", progress=follow, phases=follow)
    assert 0 < enhancing[-1] < 12


def test_every_second_of_a_run_is_in_its_phases(tmp_path, cells, tiny_model):
    news = []
    path = tmp_path / "cells.ome.tif"
    write_stacks([(Stack.from_array(cells), path)])
    report = cellxlate.enhance_file(path, tiny_model, progress=news.append, phases=news.append)
    order = list(dict.fromkeys(one.phase for one in news))
    assert order == ["levels", "enhancing", "writing", "verifying", "report", "publishing"]
    for phase in ("enhancing", "writing", "verifying"):
        done = [one.done for one in news if one.phase == phase]
        assert done == sorted(done)
        assert done[-1] == len(cells)
    assert report.seconds["total"] >= news[-1].seconds  # what it says includes the last phase
    again = []
    cellxlate.enhance_file(path, tiny_model, resume=True, phases=again.append)
    assert [one.phase for one in again][:2] == ["levels", "checking"]
