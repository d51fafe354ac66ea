"""Many stacks from a panel, without a window: what becomes of each, what a stop leaves, how the next run goes on."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from cellxlate.enhancement.flow import follow
from cellxlate.errors import OptionError
from cellxlate.plugin.batch import steps
from cellxlate.plugin.batch.requests import BatchEnd, BatchNews, BatchRequest
from cellxlate.plugin.batch.results import open_steps
from cellxlate.plugin.batch.rows import found_words
from cellxlate.plugin.batch.steps import _BatchClock, batch_steps, find_steps
from cellxlate.plugin.requests import StopRequest
from cellxlate.stacks.read.open import open_stack

from ..test_plates import plate
from .conftest import ramp


def image(path: Path, seed: int = 0, planes: int = 1) -> Path:
    tifffile.imwrite(path, ramp((planes, 40, 50), seed=seed), metadata={"axes": "ZYX"}, imagej=True)
    return path


@pytest.fixture
def ask(tiny_model):
    def request(*paths: Path, **options) -> BatchRequest:
        return BatchRequest(paths, StopRequest(), model=str(tiny_model), **options)

    return request


def run(request: BatchRequest) -> tuple[BatchEnd, list[BatchNews]]:
    news: list[BatchNews] = []
    return follow(batch_steps(request), news.append), news


def states(end: BatchEnd) -> list[tuple[str, str]]:
    return [(row.name, row.state) for row in end.rows]


def test_what_fails_does_not_stop_the_others(tmp_path, ask):
    first, last = image(tmp_path / "a.tif"), image(tmp_path / "c, again.tif", seed=1)
    broken = tmp_path / "b.tif"
    broken.write_bytes(b"II*\0nonsense")
    end, news = run(ask(first, broken, last, tmp_path / "gone.tif", output_dir=tmp_path / "out"))
    assert states(end) == [("a", "done"), ("b", "failed"), ("c, again", "done"), ("gone", "failed")]
    assert end.rows[1].verdict.startswith("is damaged or of an unsupported kind")
    assert not end.is_cancelled
    for path, row in ((first, end.rows[0]), (last, end.rows[2])):
        assert Path(row.enhanced).parent == tmp_path / "out"
        with open_stack(path) as before, open_stack(row.enhanced) as after, open_stack(row.attention) as attention:
            before, after, attention = np.asarray(before), np.asarray(after), np.asarray(attention)
        assert 0 < row.changed_fraction == pytest.approx(float((before != after).mean()))
        assert row.kept_violations == 0
        np.testing.assert_array_equal(after[attention == 0], before[attention == 0])
        assert Path(row.report).is_file()
    assert [row.state for row in next(one.found for one in news if one.found).rows] == [*["waiting"] * 3, "failed"]
    shares = [one.progress.share for one in news if one.progress]
    assert shares == sorted(shares)
    assert {one.progress.count for one in news if one.progress} == {4}


def test_a_stop_keeps_what_is_done_and_the_next_run_goes_on_from_there(tmp_path, ask, monkeypatch):
    paths = [image(tmp_path / f"{name}.tif", seed, planes=2) for seed, name in enumerate("abc")]
    whole, _ = run(ask(*paths, output_dir=tmp_path / "whole"))
    out = tmp_path / "out"
    run(ask(paths[0], output_dir=out))
    enhanced = out / "a_enhanced.ome.tif"
    written = enhanced.stat().st_mtime_ns
    tell = steps._BatchRun._tell

    def stopping(self, phase, share):
        tell(self, phase, share)
        if (self._clock.number, phase) == (1, "writing"):
            self._request.stop.ask()

    with monkeypatch.context() as patched:
        patched.setattr(steps._BatchRun, "_tell", stopping)
        end, _ = run(ask(*paths, output_dir=out))
    assert states(end) == [("a", "skipped"), ("b", "waiting"), ("c", "waiting")]
    assert end.is_cancelled
    assert end.rows[1].verdict == "begun; Enhance goes on from here"
    assert not (out / "b_enhanced.ome.tif").exists()
    end, _ = run(ask(*paths, output_dir=out))
    assert states(end) == [("a", "skipped"), ("b", "done"), ("c", "done")]
    assert enhanced.stat().st_mtime_ns == written
    for row, unbroken in zip(end.rows, whole.rows, strict=True):
        assert row.changed_fraction == unbroken.changed_fraction
        np.testing.assert_array_equal(tifffile.imread(row.enhanced), tifffile.imread(unbroken.enhanced))


def test_existing_results_are_kept_verified_or_replaced_as_asked(tmp_path, ask):
    path = image(tmp_path / "a.tif")
    first = run(ask(path))[0].rows[0]
    kept = run(ask(path, threshold=0.6))[0].rows[0]
    assert (kept.state, kept.changed_fraction, kept.enhanced) == ("skipped", first.changed_fraction, first.enhanced)
    verified = run(ask(path, existing="verify"))[0].rows[0]
    assert (verified.state, verified.kept_violations) == ("done", 0)
    assert verified.verdict.startswith("made before, verified now; ")
    other = run(ask(path, existing="verify", threshold=0.6))[0].rows[0]
    assert other.state == "failed"
    assert other.verdict.endswith("is finished, but from other settings; give 'Replace existing files' to replace it")
    replaced = run(ask(path, existing="replace", threshold=0.6))[0].rows[0]
    assert replaced.state == "done"
    assert replaced.changed_fraction < first.changed_fraction


def test_a_whole_plate_becomes_a_plate(tmp_path, ask):
    path = plate(tmp_path / "screen.ome.zarr", fields=1)
    found = follow(find_steps(ask(path)))
    assert ([row.name for row in found.rows], found.wells) == (["screen_A_1_0", "screen_B_2_0"], ("A/1", "B/2"))
    (path / "B/2/0/zarr.json").rename(path / "aside.json")
    end, _ = run(ask(path))
    made = tmp_path / "screen_enhanced.ome.zarr"
    assert states(end) == [("screen_A_1_0", "done"), ("screen_B_2_0", "failed")]
    assert end.notes == ("screen.ome.zarr: 1 of 2 fields are missing, so no plate appears yet",)
    assert not made.exists()
    assert Path(end.rows[0].enhanced).is_dir()  # where it lies until then
    (path / "aside.json").rename(path / "B/2/0/zarr.json")
    end, _ = run(ask(path))
    assert [row.state for row in end.rows] == ["done", "done"]
    assert [row.enhanced for row in end.rows] == [str(made / "A/1/0"), str(made / "B/2/0")]
    assert all(Path(row.report).is_file() for row in end.rows)
    assert [row.state for row in run(ask(path))[0].rows] == ["skipped", "skipped"]


def test_chosen_wells_become_stacks_of_their_own(tmp_path, ask):
    path = plate(tmp_path / "screen.ome.zarr", fields=1)
    end, _ = run(ask(path, wells=("B/2",)))
    assert states(end) == [("screen_B_2_0", "done")]
    assert end.rows[0].enhanced == str(tmp_path / "screen_B_2_0_enhanced.ome.zarr")
    assert len(follow(find_steps(ask(path, wells=("A/1", "B/2")))).rows) == 2
    assert follow(find_steps(ask(path, wells=("A/1", "B/2"), existing="verify"))).wells == ("A/1", "B/2")


def test_what_is_wrong_with_all_is_said_before_any_is_enhanced(tmp_path, ask):
    (tmp_path / "x").mkdir()
    paths = image(tmp_path / "a.tif"), image(tmp_path / "x" / "a.tif")
    with pytest.raises(OptionError, match="would both be written to"):
        run(ask(*paths, output_dir=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_results_are_opened_lazily_and_look_like_their_input(tmp_path, ask):
    path = tmp_path / "two.tif"
    tifffile.imwrite(path, ramp((2, 40, 50)), ome=True, metadata={"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP"]}})
    row = run(ask(path))[0].rows[0]
    layers = follow(open_steps(row))
    assert [(layer.kind, layer.options["name"]) for layer in layers] == [
        ("input", "two DAPI"), ("input", "two GFP"), ("enhanced", "two enhanced DAPI"),
        ("enhanced", "two enhanced GFP"), ("attention", "two attention DAPI"), ("attention", "two attention GFP"),
    ]  # fmt: skip
    assert [layer.options["contrast_limits"] for layer in layers[2:4]] == [
        layer.options["contrast_limits"] for layer in layers[:2]
    ]
    assert all(hasattr(layer.pixels, "dask") for layer in layers)


def test_the_time_that_is_left_counts_what_was_work_alone(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("cellxlate.plugin.batch.steps.time.monotonic", lambda: now[0])
    clock = _BatchClock((1.0, 1.0, 2.0))
    assert clock.left_s is None
    clock.next(is_work=False)
    now[0] = 110.0
    clock.reach(0.5)
    clock.reach(0.4)  # a phase that begins anew
    assert clock.share == pytest.approx(1.5 / 4)
    assert clock.left_s == pytest.approx(10 * 2.5 / 0.5)


def test_a_path_that_is_not_there_is_said_before_anything_runs(tmp_path, ask):
    found = follow(find_steps(ask(image(tmp_path / "a.tif"), tmp_path / "gone")), lambda _: None)
    assert [(row.state, row.verdict) for row in found.rows] == [("waiting", ""), ("failed", "is not there")]
    assert found_words(found.rows) == f"1 stack to enhance. 1 is not there: {tmp_path / 'gone'}."


def test_an_output_folder_that_cannot_be_made_is_said_in_words(tmp_path, ask):
    (tmp_path / "file").touch()
    end, _ = run(ask(image(tmp_path / "a.tif"), output_dir=tmp_path / "file" / "out"))
    assert end.rows[0].verdict.startswith(f"the output folder {tmp_path / 'file' / 'out'} cannot be made")
