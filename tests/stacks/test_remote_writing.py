"""Results in a bucket: the pixels of a local run, nothing half-written under a final name, one job at a time."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cellxlate
from cellxlate.cli import main
from cellxlate.enhancement.flow import EnhanceProgress
from cellxlate.errors import CellxlateError, InputError, OptionError, OutputError, PromiseError
from cellxlate.locations import RemotePath, located
from cellxlate.settings import EnhanceSettings
from cellxlate.stacks.stack import Stack
from cellxlate.stacks.stores import bucket as remote_output
from cellxlate.stacks.stores.bucket import ObjectLock
from cellxlate.stacks.write.bands import Bands
from cellxlate.stacks.write.copy import write_stacks
from cellxlate.stacks.write.writer import open_writer, remove_partial

pytestmark = pytest.mark.usefixtures("remote_packages")

TILES = EnhanceSettings(tile_px=64)
BANDS = 4


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    """Two planes of two bands."""
    noise = np.random.default_rng(0).normal(0, 8, (2, 600, 60))
    path = tmp_path / "cells.ome.tif"
    write_stacks([(Stack((noise + np.linspace(80, 240, 60)).clip(0).astype(np.uint16), "TYX"), path)])
    return path


@pytest.fixture
def out(bucket: str) -> RemotePath:
    place = located(f"{bucket}/out/cells.ome.zarr")
    assert isinstance(place, RemotePath)
    return place


def read(place: Any) -> Any:
    with cellxlate.open_stack(place) as stack:
        return np.stack([stack.read(index) for index in stack.plane_indices()])


def enhance(cells: Path, model: Path, out: Any, **options: Any) -> Any:
    return cellxlate.enhance_file(cells, model, output=out, settings=TILES, **options)


def expected(cells: Path, model: Path) -> tuple[Any, Any]:
    report = enhance(cells, model, cells.parent / "local.ome.zarr")
    assert 0 < report.changed_fraction < 1
    return read(report.outputs["enhanced"]), read(report.outputs["attention"])


def objects(out: RemotePath) -> set[str]:
    return set(RemotePath(out.scheme, out.parts[:1]).below())


def test_a_bucket_gets_the_pixels_of_a_local_run_and_no_secret(
    cells: Path, out: RemotePath, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = out.with_name("source.ome.zarr")
    with cellxlate.open_stack(cells) as stack:
        write_stacks([(stack, source)])
    command = ["enhance", str(source), "-m", str(tiny_model), "--tile", "64", "-o", str(out), "--json"]
    assert main(command) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["outputs"] == {
        "enhanced": str(out), "attention": str(out.with_name("cells_attention.ome.zarr")),
        "report": str(out.with_name("cells_report.html")),
    }  # fmt: skip
    image, attention = expected(cells, tiny_model)
    assert np.array_equal(read(out), image)
    assert np.array_equal(read(answer["outputs"]["attention"]), attention)
    stored = objects(out)
    assert {"out/cells_report.html", "out/cells_report.json", "out/cells.ome.zarr/zarr.json"} <= stored
    assert not [name for name in stored if "partial" in name or "lock" in name]
    for name in stored:
        content = RemotePath("s3", (out.parts[0], *name.split("/"))).read_bytes()
        assert b"thatnobodymaysee" not in content.lower()
    assert main(command) == 2
    assert "exists already; give --overwrite" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0
    assert "finished before" in capsys.readouterr().out


def test_nothing_has_its_final_name_before_it_is_verified_and_the_root_comes_last(
    cells: Path, out: RemotePath, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cellxlate.enhancement import job

    seen: list[set[str]] = []
    honest, copy = job.verify, RemotePath.copy_to
    copied: list[list[str]] = []

    def verify(*arguments: Any, **named: Any) -> Any:
        seen.append(objects(out))
        return honest(*arguments, **named)

    def copy_to(self: RemotePath, other: RemotePath, names: list[str]) -> None:
        if other == out:
            copied.append(list(names))
        copy(self, other, names)

    monkeypatch.setattr(job, "verify", verify)
    monkeypatch.setattr(RemotePath, "copy_to", copy_to)
    enhance(cells, tiny_model, out, progress=lambda _news: seen.append(objects(out)))
    assert len(seen) == BANDS + 1
    assert all(name.split("/")[1].endswith(".partial") for names in seen for name in names)
    assert copied[-1] == ["zarr.json"]
    assert "zarr.json" not in copied[0]


class Stop(Exception):
    """Stands for Ctrl-C."""


def test_a_run_that_was_interrupted_is_resumed_in_the_bucket(cells: Path, out: RemotePath, tiny_model: Path) -> None:
    def stop(news: EnhanceProgress) -> None:
        if news.done >= 1:
            raise Stop

    with pytest.raises(Stop):
        enhance(cells, tiny_model, out, progress=stop)
    assert not out.exists()
    with pytest.raises(OutputError, match="left from an interrupted job; give resume=True"):
        enhance(cells, tiny_model, out)
    with pytest.raises(OutputError, match="begun with other settings"):
        cellxlate.enhance_file(cells, tiny_model, output=out, settings=EnhanceSettings(0.3, tile_px=64), resume=True)
    news: list[EnhanceProgress] = []
    enhance(cells, tiny_model, out, resume=True, progress=news.append)
    assert 0 < len(news) < BANDS
    assert np.array_equal(read(out), expected(cells, tiny_model)[0])


def test_a_band_that_is_damaged_in_the_bucket_is_written_again(cells: Path, out: RemotePath, tiny_model: Path) -> None:
    partial = out.with_name(f"{out.name}.partial")
    band = partial / out.name / "0/c/0/1/0"

    def damage(news: EnhanceProgress) -> None:
        if news.done == 2:
            until = time.monotonic() + 5
            while not band.is_file() and time.monotonic() < until:
                time.sleep(0.02)
            band.write_bytes(band.read_bytes()[:-40] + bytes(40))
            damaged.append(band)

    damaged: list[RemotePath] = []
    enhance(cells, tiny_model, out, progress=damage)  # found damaged when it is read back, and made again at once
    assert damaged
    assert np.array_equal(read(out), expected(cells, tiny_model)[0])


def test_a_pixel_that_changed_on_its_way_into_the_bucket_breaks_the_promise(
    cells: Path, out: RemotePath, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Bands.write

    def write(self: Bands, index: Any, first_row: int, pixels: Any) -> None:
        honest(self, index, first_row, pixels + 1 if pixels.dtype == np.uint16 and first_row else pixels)

    monkeypatch.setattr(Bands, "write", write)
    with pytest.raises(PromiseError, match="kept pixels differ"):
        enhance(cells, tiny_model, out)
    assert not out.exists()
    assert "out/cells_report.html" not in objects(out)


def test_an_input_that_leaves_the_bucket_does_not_become_zeros(cells: Path, out: RemotePath, tiny_model: Path) -> None:
    source = out.with_name("source.ome.zarr")
    with cellxlate.open_stack(cells) as stack:
        write_stacks([(stack, source)])
    with pytest.raises(InputError, match="was changed or removed while it was read"):
        cellxlate.enhance_file(
            source, tiny_model, output=out, settings=TILES, progress=lambda _news: source.remove_below()
        )
    assert not objects(out)


def old_and_new(cells: Path, out: RemotePath) -> Any:
    """Put an older image of more planes under the final name."""
    old = np.arange(3 * 90 * 80, dtype=np.uint16).reshape(3, 90, 80)
    write_stacks([(Stack(old, "TYX"), out)])
    return old


def test_an_output_that_is_replaced_stays_until_the_new_one_is_verified(
    cells: Path, out: RemotePath, tiny_model: Path
) -> None:
    old = old_and_new(cells, out)
    enhance(
        cells, tiny_model, out, overwrite=True,
        progress=lambda _news: np.testing.assert_array_equal(read(out), old),
    )  # fmt: skip
    assert np.array_equal(read(out), expected(cells, tiny_model)[0])
    assert not [name for name in out.below() if name.startswith("0/c/2")]


@pytest.mark.parametrize("fails_at", ["removing", "copying", "the root"])
def test_a_failure_while_publishing_leaves_nothing_that_opens_and_resume_heals_it(
    cells: Path, out: RemotePath, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, fails_at: str
) -> None:
    old_and_new(cells, out)
    copy, remove = RemotePath.copy_to, RemotePath.remove_below

    def copy_to(self: RemotePath, other: RemotePath, names: list[str]) -> None:
        if other == out and fails_at == "the root" and names == ["zarr.json"]:
            raise OSError("the store is gone")
        if other == out and fails_at == "copying":
            copy(self, other, names[:1])
            raise OSError("the store is gone")
        copy(self, other, names)

    def remove_below(self: RemotePath, *, keep: Any = ()) -> None:
        if self == out and fails_at == "removing":
            raise OSError("the store is gone")
        remove(self, keep=keep)

    with monkeypatch.context() as patch:
        patch.setattr(RemotePath, "copy_to", copy_to)
        patch.setattr(RemotePath, "remove_below", remove_below)
        with pytest.raises(OutputError, match="the store is gone"):
            enhance(cells, tiny_model, out, overwrite=True)
    with pytest.raises(InputError, match="is no Zarr image, or is not there"):
        cellxlate.open_stack(out)
    news: list[EnhanceProgress] = []
    enhance(cells, tiny_model, out, resume=True, progress=news.append)
    assert np.array_equal(read(out), expected(cells, tiny_model)[0])
    assert not [name for name in objects(out) if ".partial/" in name]


def test_objects_that_are_not_copied_whole_are_noticed(
    cells: Path, out: RemotePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = RemotePath.copy_to
    monkeypatch.setattr(RemotePath, "copy_to", lambda self, other, names: copy(self, other, names[1:] or names))
    with pytest.raises(OutputError, match="1 objects were not copied whole"):
        old_and_new(cells, out)
    assert not (out / "zarr.json").is_file()


def test_two_jobs_at_one_place_in_a_bucket_exclude_each_other(out: RemotePath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_output, "RENEW_S", 0.1)
    monkeypatch.setattr(remote_output, "SILENT_S", 1.0)
    like = Stack(np.zeros((90, 80), np.uint8), "YX")
    with open_writer(out, like=like) as writer:
        writer.write((), 0, like.read(()))
        for options in ({"overwrite": True}, {"resume": True}):
            with pytest.raises(OutputError, match="is being written by another job"):
                open_writer(out, like=like, **options)
        with pytest.raises(OutputError, match="is being written by another job"):
            remove_partial(out)
        writer.finish()
        writer.publish()
    assert np.array_equal(read(out)[0], like.read(()))


def test_the_lock_of_a_job_that_was_killed_is_taken_over_and_the_killed_one_writes_no_more(
    out: RemotePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_output, "RENEW_S", 60.0)  # it stands still
    monkeypatch.setattr(remote_output, "SILENT_S", 0.3)
    like = Stack(np.ones((90, 80), np.uint8), "YX")
    still = open_writer(out, like=like)
    still.write((), 0, like.read(()))
    monkeypatch.setattr(remote_output, "RENEW_S", 0.05)
    with open_writer(out, like=like, resume=True) as writer:
        assert writer.is_done((), 0)
        for write in (lambda: still.write((), 0, like.read(())), still.publish):
            still._finished = True
            with pytest.raises(OutputError, match="was taken over by another job"):
                write()
        still.close()
        writer.finish()
        writer.publish()
    assert np.array_equal(read(out)[0], like.read(()))
    assert not [name for name in objects(out) if ".partial/" in name]


def test_a_job_that_was_suspended_goes_on_where_nobody_took_its_lock(
    out: RemotePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_output, "RENEW_S", 60.0)
    monkeypatch.setattr(remote_output, "SILENT_S", 0.1)
    like = Stack(np.ones((90, 80), np.uint8), "YX")
    with open_writer(out, like=like) as writer:
        time.sleep(0.2)
        writer.write((), 0, like.read(()))
        writer.finish()
        writer.publish()
    assert np.array_equal(read(out)[0], like.read(()))


def test_a_lock_outlives_a_store_that_fails_for_a_moment(out: RemotePath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_output, "RENEW_S", 0.02)
    write_if, failures = RemotePath.write_if, []

    def fail_now_and_then(self: RemotePath, content: bytes, *, expected: str | None) -> str:
        version = write_if(self, content, expected=expected)
        if len(failures) < 3 and expected is not None:
            failures.append(version)
            raise OSError("the answer got lost")
        return version

    monkeypatch.setattr(RemotePath, "write_if", fail_now_and_then)
    lock = ObjectLock.acquire(out)
    until = time.monotonic() + 5
    while (len(failures) < 3 or lock._count < 8) and time.monotonic() < until:
        time.sleep(0.02)
    lock.check()
    assert len(failures) == 3
    lock.release()
    assert not objects(out)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("out.ome.tif", {}, "a bucket takes OME-Zarr 0.5 alone, not ome-tiff"),
        ("out.ome.zarr", {"format": "ome-zarr-0.4"}, "not ome-zarr-0.4"),
        ("out", {}, "no known ending"),
    ],
)
def test_what_a_bucket_cannot_hold_is_refused(
    bucket: str, cells: Path, tiny_model: Path, name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        enhance(cells, tiny_model, f"{bucket}/{name}", **options)


def test_an_input_is_never_its_own_output_and_other_objects_are_left_alone(
    cells: Path, out: RemotePath, tiny_model: Path
) -> None:
    old = old_and_new(cells, out)
    with pytest.raises(CellxlateError, match="would be replaced by its own result"):
        cellxlate.enhance_file(out, tiny_model, output=out, overwrite=True)
    with pytest.raises(OutputError, match="is the input itself"), cellxlate.open_stack(out) as stack:
        open_writer(out, like=stack, overwrite=True)
    assert np.array_equal(read(out), old)
    mine = out.with_name("mine.ome.zarr")
    (mine / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="no OME-Zarr image; choose another name"):
        enhance(cells, tiny_model, mine, overwrite=True)
    assert (mine / "notes.txt").read_text() == "mine"


def test_a_bucket_that_is_not_there_or_refuses_is_one_line(
    cells: Path, bucket: str, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["enhance", str(cells), "-m", str(tiny_model), "--engine", "torch", "-o", f"{bucket}-none/a.ome.zarr"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "cannot be written" in error


def test_workers_write_into_the_bucket_themselves(cells: Path, out: RemotePath, tiny_model: Path) -> None:
    pytest.importorskip("distributed")
    from cellxlate.enhancement.cluster.cluster import open_cluster

    source = out.with_name("source.ome.zarr")
    with cellxlate.open_stack(cells) as stack:
        write_stacks([(stack, source)])
    with open_cluster(workers=2) as cluster:
        report = cellxlate.enhance_file(source, tiny_model, output=out, settings=TILES, where=cluster.executor)
        assert sum(done.bands for done in cluster.workers.values()) == BANDS
    image, attention = expected(cells, tiny_model)
    assert np.array_equal(read(out), image)
    assert np.array_equal(read(report.outputs["attention"]), attention)
    assert report.kept_violations == 0


def test_a_dry_run_reads_from_the_bucket_and_writes_nothing(
    cells: Path, out: RemotePath, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with cellxlate.open_stack(cells) as stack:
        write_stacks([(stack, out)])
    before = objects(out)
    assert main(["enhance", str(out), "-m", str(tiny_model), "--dry-run", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["shape"] == [2, 600, 60]
    assert answer["outputs"][0] == str(out.with_name("cells_enhanced.ome.zarr"))
    assert answer["expected"]["megapixels"] == 0.072
    assert objects(out) == before


def test_objects_that_appear_under_the_name_meanwhile_stay(cells: Path, out: RemotePath, tiny_model: Path) -> None:
    with pytest.raises(OutputError, match="appeared meanwhile and is not replaced"):
        enhance(cells, tiny_model, out, progress=lambda _news: (out / "notes.txt").write_text("mine"))
    assert (out / "notes.txt").read_text() == "mine"
    (out / "notes.txt").unlink()
    news: list[EnhanceProgress] = []
    enhance(cells, tiny_model, out, resume=True, progress=news.append)
    assert not news
    assert np.array_equal(read(out), expected(cells, tiny_model)[0])
