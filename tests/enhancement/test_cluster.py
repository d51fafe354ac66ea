"""A job on dask workers: the same pixels as in one process, whoever dies; little in flight; faults named."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import zarr

pytest.importorskip("distributed")

from distributed import Client, LocalCluster

import cellxlate
from cellxlate.cli import main
from cellxlate.enhancement import estimate as costs
from cellxlate.enhancement import verify
from cellxlate.enhancement.cluster import client as connecting
from cellxlate.enhancement.cluster import cluster as cluster_room
from cellxlate.enhancement.cluster import worker as worker_room
from cellxlate.enhancement.cluster.cluster import Cluster, open_cluster, tasks_of
from cellxlate.enhancement.flow import EnhanceProgress
from cellxlate.enhancement.job import Executor
from cellxlate.enhancement.outputs.names import name_outputs
from cellxlate.enhancement.plan import make_plan
from cellxlate.enhancement.plane import Work
from cellxlate.errors import ClusterError, InputError, OptionError, OutputError
from cellxlate.quality.checks import parts_of, read_back, read_back_part
from cellxlate.quality.report import account
from cellxlate.quality.tally import Tally
from cellxlate.settings import EnhanceSettings
from cellxlate.stacks.stack import Stack
from cellxlate.stacks.write.bands import Bands
from cellxlate.stacks.write.copy import write_stacks
from cellxlate.stacks.write.origins import Origins
from cellxlate.stacks.write.pyramid import Pyramid

TILES = EnhanceSettings(tile_px=64)
BANDS = 12


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    """Six planes of two bands, in two channels."""
    noise = np.random.default_rng(0).normal(0, 8, (3, 2, 600, 40))
    pixels = (noise + np.linspace(80, 240, 40)).clip(0).astype(np.uint16)
    path = tmp_path / "cells.ome.tif"
    write_stacks([(Stack(pixels, "TCYX"), path)])
    return path


@pytest.fixture(scope="module")
def processes() -> Iterator[Cluster]:
    """Two worker processes with one thread each."""
    with open_cluster(workers=2) as cluster:
        yield cluster


@pytest.fixture
def inside() -> Iterator[Cluster]:
    """Two workers in this process, whose parts a test can replace."""
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0", memory_limit=None
        ) as local,
        Client(local, set_as_default=False) as client,
    ):  # fmt: skip
        cluster = Cluster(client)
        yield cluster
        cluster.release()


def pixels_of(report: Any) -> list[Any]:
    found = []
    for name in ("enhanced", "attention"):
        with cellxlate.open_stack(report.outputs[name]) as written:
            found.append(np.asarray(written).copy())
    return found


def alone(stack: Path, model: Path, **options: Any) -> Any:
    return cellxlate.enhance_file(stack, model, output=stack.parent / "alone.ome.tif", settings=TILES, **options)


def places(image: Any, attention: Any) -> dict[str, Any]:
    """Return where workers write."""
    return {"image": image.pyramid, "attention": attention.pyramid, "origins": image.origins}


def same(one: Any, other: Any) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(pixels_of(one), pixels_of(other), strict=True))


@pytest.mark.parametrize("ending", [".ome.tif", ".ome.zarr"])
def test_two_workers_give_the_pixels_of_one_process(
    stack: Path, tiny_model: Path, processes: Cluster, ending: str
) -> None:
    news: list[EnhanceProgress] = []
    before = sum(done.bands for done in processes.workers.values())
    report = cellxlate.enhance_file(
        stack, tiny_model, output=stack.parent / f"cells_enhanced{ending}", settings=TILES,
        where=processes.executor, progress=news.append,
    )  # fmt: skip
    expected = alone(stack, tiny_model)
    assert same(report, expected)
    assert 0 < report.changed_fraction == expected.changed_fraction
    assert (report.tiles_total, report.tiles_skipped) == (expected.tiles_total, expected.tiles_skipped)
    flicker, wanted = (one.tally.flicker.as_dict() or {} for one in (report, expected))
    assert flicker["ever_selected"] == wanted["ever_selected"] > 0
    assert [one["toggled"] for one in flicker["channels"]] == [one["toggled"] for one in wanted["channels"]]
    assert len(news) == BANDS
    assert news[-1].done == news[-1].total == 6
    assert [one.done for one in news] == sorted(one.done for one in news)
    assert sum(done.bands for done in processes.workers.values()) - before == BANDS
    assert not list(stack.parent.glob("*.partial"))


def test_channels_that_are_not_chosen_are_copied(stack: Path, tiny_model: Path, processes: Cluster) -> None:
    report = cellxlate.enhance_file(stack, tiny_model, channels=[1], settings=TILES, where=processes.executor)
    enhanced, attention = pixels_of(report)
    with cellxlate.open_stack(stack) as read:
        raw = np.asarray(read).copy()
    assert np.array_equal(enhanced[:, 0], raw[:, 0])
    assert not attention[:, 0].any()
    assert (enhanced[:, 1] != raw[:, 1]).any()


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_worker_that_is_killed_changes_no_pixel(stack: Path, tiny_model: Path, processes: Cluster) -> None:
    killed: list[int] = []

    def kill_one(news: EnhanceProgress) -> None:
        if not killed and news.done >= 1:
            killed.append(next(iter(processes.client.run(os.getpid).values())))
            os.kill(killed[0], signal.SIGKILL)

    report = cellxlate.enhance_file(stack, tiny_model, settings=TILES, where=processes.executor, progress=kill_one)
    assert killed
    assert same(report, alone(stack, tiny_model))


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_slow_function_goes_to_workers_and_on_after_a_kill(stack: Path, processes: Cluster, tmp_path: Path) -> None:
    from skimage.restoration import denoise_nl_means

    mask, strength = tmp_path / "mask.ome.tif", 6.0
    write_stacks([(Stack(np.ones((600, 40), np.uint8), "YX"), mask)])

    def slow(plane: Any) -> Any:
        time.sleep(0.01)
        return denoise_nl_means(plane.astype(float), 3, 2, strength, sigma=8.0, preserve_range=True)

    def kill(news: EnhanceProgress) -> None:
        if news.done >= 2:
            os.kill(next(iter(processes.client.run(os.getpid).values())), signal.SIGKILL)
            raise Stop

    options: dict[str, Any] = {"halo_px": 4, "attention_from": mask, "settings": TILES}
    with pytest.raises(Stop):
        cellxlate.enhance_file(stack, slow, where=processes.executor, progress=kill, **options)
    news: list[EnhanceProgress] = []
    strength = 7.0  # another one is another function
    with pytest.raises(OutputError, match="proposal"):
        cellxlate.enhance_file(stack, slow, where=processes.executor, resume=True, **options)
    strength = 6.0
    report = cellxlate.enhance_file(
        stack, slow, where=processes.executor, resume=True, progress=news.append, **options
    )  # fmt: skip
    assert 0 < len(news) < BANDS
    assert report.changed_fraction > 0.3
    assert same(report, cellxlate.enhance_file(stack, slow, output=tmp_path / "alone.ome.tif", **options))


def test_a_function_that_cannot_travel_is_one_line(stack: Path, inside: Cluster, tmp_path: Path) -> None:
    lock, mask = threading.Lock(), tmp_path / "mask.ome.tif"
    write_stacks([(Stack(np.ones((600, 40), np.uint8), "YX"), mask)])

    def locked(plane: Any) -> Any:
        with lock:
            return plane

    with pytest.raises(OptionError, match=r"^locked cannot be sent to workers \(TypeError: .*lock.*\); make what it"):
        cellxlate.enhance_file(stack, locked, halo_px=0, attention_from=mask, where=inside.executor)


def failing(monkeypatch: pytest.MonkeyPatch, planes: set[tuple[int, ...]], times: int) -> list[tuple[int, ...]]:
    """Let writing the second band of some planes fail a number of times; return the list of attempts."""
    honest, attempts = Bands.write, []

    def write(self: Bands, index: Any, first_row: int, pixels: Any) -> None:
        if index in planes and first_row == 512 and pixels.dtype != np.uint8:
            attempts.append(index)
            if attempts.count(index) <= times:
                raise ValueError("a fault\nof the disk")
        honest(self, index, first_row, pixels)

    monkeypatch.setattr(Bands, "write", write)
    return attempts


def test_a_band_that_fails_twice_is_done_in_the_end(
    stack: Path, tiny_model: Path, inside: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = alone(stack, tiny_model)
    attempts = failing(monkeypatch, {(1, 0)}, times=2)
    report = cellxlate.enhance_file(stack, tiny_model, settings=TILES, where=inside.executor)
    assert attempts == [(1, 0)] * 3
    assert same(report, expected)
    assert report.tally.summary() == expected.tally.summary()


def test_a_band_that_fails_three_times_is_named_and_the_rest_is_done(
    stack: Path, tiny_model: Path, inside: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = alone(stack, tiny_model)
    with monkeypatch.context() as patch:
        attempts = failing(patch, {(1, 0)}, times=99)
        with pytest.raises(ClusterError, match=r"1 bands failed 3 times: T=1 C=0 rows 512 to 599 \(a fault of"):
            cellxlate.enhance_file(stack, tiny_model, settings=TILES, where=inside.executor)
        assert attempts == [(1, 0)] * 3
    assert not (stack.parent / "cells_enhanced.ome.tif").exists()
    assert ClusterError.exit_code == 1
    news: list[EnhanceProgress] = []
    report = cellxlate.enhance_file(
        stack, tiny_model, settings=TILES, where=inside.executor, resume=True, progress=news.append
    )
    assert len(news) == 1
    assert same(report, expected)


def test_a_job_that_can_only_fail_ends_early(
    stack: Path, tiny_model: Path, inside: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_room, "MOST_FAILED", 2)
    attempts = failing(monkeypatch, {(t, c) for t in range(3) for c in range(2)}, times=99)
    honest = Bands.write
    monkeypatch.setattr(Bands, "write", lambda self, index, row, pixels: honest(self, index, 512, pixels[:88]))
    with pytest.raises(ClusterError, match="2 bands failed"):
        cellxlate.enhance_file(stack, tiny_model, settings=TILES, where=inside.executor)
    assert len(attempts) < 3 * BANDS


class Stop(Exception):
    """Stands for Ctrl-C."""


def test_what_ends_a_job_releases_the_cluster_and_resuming_continues_in_one_process(
    stack: Path, tiny_model: Path, inside: Cluster
) -> None:
    def stop(news: EnhanceProgress) -> None:
        if news.done >= 2:
            raise Stop

    with pytest.raises(Stop):
        cellxlate.enhance_file(stack, tiny_model, settings=TILES, where=inside.executor, progress=stop)
    until = time.monotonic() + 5
    while (tasks := len(inside.client.cluster.scheduler.tasks)) and time.monotonic() < until:
        time.sleep(0.05)
    assert tasks == 0
    news: list[EnhanceProgress] = []
    report = cellxlate.enhance_file(stack, tiny_model, settings=TILES, resume=True, progress=news.append)
    assert 0 < len(news) < BANDS
    assert same(report, alone(stack, tiny_model))


def test_what_waits_is_taken_back_when_a_job_ends_and_its_stack_is_closed(
    stack: Path, tiny_model: Path, inside: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, begun, ended = Bands.write, [], []

    def write(self: Bands, index: Any, first_row: int, pixels: Any) -> None:
        if pixels.dtype == np.uint16:
            (ended or begun).append((index, first_row))
            time.sleep(0.3)
        honest(self, index, first_row, pixels)

    def stop(_news: EnhanceProgress) -> None:
        ended.append("the job")
        raise Stop

    monkeypatch.setattr(Bands, "write", write)
    with pytest.raises(Stop):
        cellxlate.enhance_file(stack, tiny_model, settings=TILES, where=inside.executor, progress=stop)
    time.sleep(1.5)
    assert len(ended) - 1 <= 2  # that which each of two workers had begun; the two that waited are not
    monkeypatch.undo()
    monkeypatch.setattr(worker_room, "_OPEN", {})
    report = cellxlate.enhance_file(stack, tiny_model, settings=TILES, where=inside.executor, resume=True)
    assert same(report, alone(stack, tiny_model))
    assert worker_room._OPEN == {}


def test_models_are_taken_off_the_workers(stack: Path, tiny_model: Path, inside: Cluster) -> None:
    report = cellxlate.enhance_file(stack, tiny_model, settings=TILES, where=inside.executor)
    assert report.model_digest in worker_room._MODELS
    inside.release()
    assert report.model_digest not in worker_room._MODELS


def test_networks_use_as_many_threads_as_the_worker_has(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from cellxlate.model.bundle import load_model

    threads: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    plugin = cluster_room.ModelOnWorkers(load_model(tiny_model))
    plugin.setup(SimpleNamespace(state=SimpleNamespace(nthreads=3)))
    assert threads == [3]
    assert worker_room._MODELS[plugin.bundle.digest] is plugin.bundle
    plugin.teardown(None)
    assert plugin.bundle.digest not in worker_room._MODELS


def test_the_scheduler_is_asked_now_and_then() -> None:
    asked: list[int] = []
    client = SimpleNamespace(status="running", nthreads=lambda: asked.append(1) or {"a": 2, "b": 3})
    watch = connecting.WorkerWatch(client, "cells")
    assert {watch.look() for _ in range(200)} == {5}
    assert len(asked) == 1
    client.status = "closed"
    watch._looked -= connecting.LOOK_S
    with pytest.raises(ClusterError, match="scheduler is lost"):
        watch.look()


def test_libraries_of_local_workers_use_as_many_threads_as_they_are_given(processes: Cluster) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        assert set(processes.client.run(os.environ.get, name).values()) == {"1"}


def test_little_is_in_flight_however_many_bands_there_are(stack: Path, tiny_model: Path, inside: Cluster) -> None:
    most = 0

    def count(news: EnhanceProgress) -> None:
        nonlocal most
        tasks = inside.client.cluster.scheduler.tasks.values()
        most = max(most, sum(task.state in ("processing", "queued", "waiting", "no-worker") for task in tasks))

    cellxlate.enhance_file(stack, tiny_model, settings=TILES, where=inside.executor, progress=count)
    assert 2 <= most <= 2 * cluster_room.BANDS_PER_THREAD


def test_models_go_to_each_worker_once(stack: Path, tiny_model: Path, inside: Cluster, tmp_path: Path) -> None:
    sent: list[str] = []
    honest = inside.client.register_plugin
    inside.client.register_plugin = lambda plugin: (sent.append(plugin.name), honest(plugin))
    for name in ("one", "two"):
        cellxlate.enhance_file(
            stack, tiny_model, output=tmp_path / f"{name}.ome.tif", settings=TILES, where=inside.executor
        )
    assert len(sent) == 1


def test_workers_that_cannot_do_the_job_are_named_before_it_starts(
    stack: Path, tiny_model: Path, inside: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def elsewhere(path: Path, *_: Any, **__: Any) -> Stack:
        raise InputError(f"{path} does not exist; check the name")

    monkeypatch.setattr(worker_room, "open_stack", elsewhere)
    with pytest.raises(ClusterError, match=r"none of 2 workers can do the job; .*cells.ome.tif does not exist"):
        cellxlate.enhance_file(stack, tiny_model, settings=TILES, where=inside.executor)


def test_a_worker_that_sees_another_input_refuses(stack: Path, tiny_model: Path, tmp_path: Path) -> None:
    seen: list[str] = []

    def look(plan: Any, image: Any, attention: Any, started: float) -> Iterator[EnhanceProgress]:
        worker_room.keep_model(plan.bundle, 1)
        job = worker_room.band_job(plan, "t", **places(image, attention))
        seen.append(worker_room.fault_of_worker(job))
        worker_room.forget_job("t")
        job.identity["sampled_sha256"] = "0"
        seen.append(worker_room.fault_of_worker(job))
        seen.append(worker_room.fault_of_worker(replace(job, version="0.0.9")))
        seen.append(worker_room.fault_of_worker(replace(job, digest="f" * 64)))
        yield from ()

    with pytest.raises(Exception, match="not written"):
        cellxlate.enhance_file(stack, tiny_model, settings=TILES, where=Executor(look))
    assert seen[0] == ""
    assert "another file" in seen[1]
    assert "the job 0.0.9; install the same" in seen[2]
    assert "has not got the model ffffffffffff" in seen[3]


@pytest.mark.parametrize("when", ["before resume", "before it is verified"])
def test_an_input_that_changes_is_refused_on_a_cluster_too(
    stack: Path, tiny_model: Path, inside: Cluster, when: str
) -> None:
    with cellxlate.open_stack(stack) as opened:
        cells = np.asarray(opened).copy()
    cells[0, 0, 300, 30] += 9

    def write_over(news: EnhanceProgress) -> None:
        if when == "before resume" and news.done >= 3:
            raise Stop
        if when != "before resume" and news.done == news.total:
            with stack.open("r+b") as file:  # the same file, as some acquisition writes it
                file.write(other.read_bytes())

    other = stack.with_name("other.ome.tif")
    write_stacks([(Stack(cells, "TCYX"), other)])
    with pytest.raises((Stop, InputError), match=None if when == "before resume" else "changed"):
        cellxlate.enhance_file(stack, tiny_model, settings=TILES, where=inside.executor, progress=write_over)
    if when == "before resume":
        [partial_folder] = stack.parent.glob("cells_enhanced*.partial")
        origins = Origins(partial_folder / "input")
        for noted in origins.found().values():  # as if they had been made from other rows
            for origin in noted:
                origins.remove([origin])
                origins.add(replace(origin, read=replace(origin.read, digest="0" * 32)))
        with pytest.raises(InputError, match=r"was changed after the run began \(T=0 C=0 from row 0"):
            cellxlate.enhance_file(stack, tiny_model, settings=TILES, where=inside.executor, resume=True)
    assert not (stack.parent / "cells_enhanced.ome.tif").exists()


def test_a_worker_keeps_few_stacks_open(stack: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_room, "_OPEN", {})
    closed: list[str] = []
    names: dict[Any, str] = {}

    def release(honest: Any) -> None:
        closed.append(names[honest])
        honest()

    def look(plan: Any, image: Any, attention: Any, started: float) -> Iterator[EnhanceProgress]:
        worker_room.keep_model(plan.bundle, 1)
        for number in range(worker_room.MOST_OPEN + 2):
            job = worker_room.band_job(
                plan, f"job {number}", image=image.pyramid, attention=attention.pyramid, origins=image.origins
            )
            assert worker_room.fault_of_worker(job) == ""
            opened = worker_room._OPEN[job.token]
            names[opened.stack.release] = job.token
            opened.stack = replace(opened.stack, release=partial(release, opened.stack.release))
        raise Stop
        yield

    with pytest.raises(Stop):
        cellxlate.enhance_file(stack, tiny_model, settings=TILES, where=Executor(look))
    assert closed == ["job 0", "job 1"]
    assert list(worker_room._OPEN) == [f"job {number}" for number in range(2, worker_room.MOST_OPEN + 2)]
    for opened in worker_room._OPEN.values():
        opened.stack.close()


def test_nothing_is_written_into_a_partial_that_was_removed(stack: Path, tiny_model: Path) -> None:
    def late(plan: Any, image: Any, attention: Any, started: float) -> Iterator[EnhanceProgress]:
        worker_room.keep_model(plan.bundle, 1)
        job = worker_room.band_job(
            plan, "late", image=image.pyramid, attention=attention.pyramid, origins=image.origins
        )
        assert worker_room.fault_of_worker(job) == ""
        image.discard()
        with pytest.raises(cellxlate.errors.OutputError, match="is gone"):
            worker_room.enhance_band(job, (0, 0), next(iter(cluster_room.bands_of((600, 40), 64))))
        worker_room.forget_job("late")
        raise Stop
        yield

    with pytest.raises(Stop):
        cellxlate.enhance_file(stack, tiny_model, settings=TILES, where=Executor(late))
    assert not list(stack.parent.glob("cells_enhanced*"))


def test_workers_take_the_tiles_that_the_plan_has_chosen_and_count_each_band_for_itself(
    stack: Path, tiny_model: Path
) -> None:
    done: list[worker_room.BandDone] = []

    def work(plan: Any, image: Any, attention: Any, started: float) -> Iterator[EnhanceProgress]:
        worker_room.keep_model(plan.bundle, 1)
        job = worker_room.band_job(
            plan, "count", image=image.pyramid, attention=attention.pyramid, origins=image.origins
        )
        assert (plan.settings.tile_px, job.settings.tile_px) == (None, plan.tile_px)
        assert worker_room.fault_of_worker(job) == ""
        worker_room._OPEN["count"].stack = SlowStack(**vars(worker_room._OPEN["count"].stack))
        for index in plan.stack.plane_indices():
            done.append(
                worker_room.enhance_band(job, index, next(iter(cluster_room.bands_of((600, 40), plan.tile_px))))
            )
        worker_room.forget_job("count")
        raise Stop
        yield

    with pytest.raises(Stop):
        cellxlate.enhance_file(stack, tiny_model, where=Executor(work))
    assert len(done) == 6
    assert all(one.read_s >= 0.05 for one in done)
    assert min(one.read_s for one in done[-2:]) < 0.2, "of this band alone"
    assert all(one.compute_s > 0 for one in done)


class SlowStack(Stack):
    """Whose windows take 50 ms each."""

    def read(self, *window: Any) -> Any:
        time.sleep(0.05)
        return super().read(*window)


def test_seconds_of_the_networks_compare_with_those_on_the_clock() -> None:
    job = SimpleNamespace(work=Work())
    plan = SimpleNamespace(job_of=lambda index: {0: job}.get(index[0]))
    cluster = Cluster(None, workers={name: worker_room.Throughput() for name in ("a", "b")})
    for worker, channel in (("a", 0), ("b", 0), ("b", 1)):
        work = Work(tiles_total=3, tiles_skipped=1, generator_px=50, attention_s=2.0, generator_s=4.0)
        done = worker_room.BandDone(worker, 100, work, read_s=1.0, compute_s=6.0, write_s=1.0)
        cluster.count(done, plan, cluster_room.QueuedBand((channel,), None, 1))
    assert job.work == Work(tiles_total=6, tiles_skipped=2, generator_px=100, attention_s=2.0, generator_s=4.0)
    assert [(one.bands, one.pixels, one.busy_s) for one in cluster.workers.values()] == [(1, 100, 8.0), (2, 200, 16.0)]


def test_only_bands_that_fail_in_a_row_end_a_job() -> None:
    flight = cluster_room.Flight.__new__(cluster_room.Flight)
    flight.failed, flight._failed_in_a_row = [], 0
    flight.plan = SimpleNamespace(stack=SimpleNamespace(name="cells", plane_axes="T"))
    task = [cluster_room.QueuedBand((0,), next(iter(cluster_room.bands_of((600, 40), 64))), 1)]
    failed = SimpleNamespace(status="error", exception=lambda: OSError("disk"))
    for _ in range(3):
        for _ in range(cluster_room.MOST_FAILED - 1):
            flight._take(failed, task)
        flight._take(SimpleNamespace(status="finished", result=list), [])
    for _ in range(cluster_room.MOST_FAILED - 1):
        flight._take(failed, task)
    with pytest.raises(
        ClusterError, match=rf"{4 * cluster_room.MOST_FAILED - 3} bands failed 3 times.*disk.*resume=True"
    ):
        flight._take(failed, task)


SMALL = (24, 30, 40)


@pytest.fixture
def small_planes(tmp_path: Path) -> Path:
    """Many planes of one small band each."""
    noise = np.random.default_rng(1).normal(0, 8, SMALL)
    path = tmp_path / "small.ome.zarr"
    write_stacks([(Stack((noise + np.linspace(80, 240, 40)).clip(0).astype(np.uint16), "TYX"), path)])
    return path


def tasks_seen(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that the number of bands of each task is added to."""
    honest, seen = cluster.client.submit, []

    def submit(function: Any, *arguments: Any, **options: Any) -> Any:
        if function is worker_room.enhance_bands:
            seen.append(len(arguments[1]))
        return honest(function, *arguments, **options)

    monkeypatch.setattr(cluster.client, "submit", submit)
    return seen


def test_small_bands_go_out_together_and_give_the_same_pixels(
    small_planes: Path, tiny_model: Path, inside: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = cellxlate.enhance_file(small_planes, tiny_model, output=small_planes.parent / "alone.ome.zarr")
    monkeypatch.setattr(cluster_room, "TASKS_PER_THREAD", 2)
    monkeypatch.setattr(cluster_room, "TASK_PX", 5 * 30 * 40)
    seen, news = tasks_seen(inside, monkeypatch), []
    report = cellxlate.enhance_file(small_planes, tiny_model, where=inside.executor, progress=news.append)
    assert seen == [5, 5, 5, 5, 4]
    assert same(report, expected)
    assert 0 < report.changed_fraction == expected.changed_fraction
    assert (report.tiles_total, report.tiles_skipped) == (expected.tiles_total, expected.tiles_skipped)
    assert [one.done for one in news] == sorted(one.done for one in news)
    assert news[-1].done == news[-1].total == 24
    assert sum(done.bands for done in inside.workers.values()) == 24
    assert sum(done.pixels for done in inside.workers.values()) == np.prod(SMALL)


def test_of_bands_that_go_out_together_the_one_that_fails_is_named_and_the_others_are_done(
    small_planes: Path, tiny_model: Path, inside: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_room, "TASKS_PER_THREAD", 2)
    honest = Bands.write

    def write(self: Bands, index: Any, first_row: int, pixels: Any) -> None:
        if index == (13,):
            raise ValueError("a fault of the disk")
        honest(self, index, first_row, pixels)

    with monkeypatch.context() as patch:
        patch.setattr(Bands, "write", write)
        seen = tasks_seen(inside, patch)
        news: list[float] = []
        with pytest.raises(ClusterError, match=r"1 bands failed 3 times: T=13 rows 0 to 29 \(a fault of"):
            cellxlate.enhance_file(
                small_planes, tiny_model, where=inside.executor, progress=lambda passed: news.append(passed.done)
            )
    assert news == sorted(news)
    assert seen == [6, 6, 6, 6, *[1] * 6]
    seen = tasks_seen(inside, monkeypatch)
    report = cellxlate.enhance_file(small_planes, tiny_model, where=inside.executor, resume=True)
    assert seen == [1]
    assert report.kept_violations == 0


@pytest.mark.parametrize(
    ("shape", "tile_px", "threads", "sizes"),
    [
        ((10_000, 64, 64), 1024, 2, {256, 16}),  # a megapixel
        ((10_000, 64, 64), 1024, 100, {12, 4}),  # 8 for each thread
        ((20, 64, 64), 1024, 2, {1}),
        ((500, 2048, 2048), 1024, 2, {1}),
        ((3, 5000, 64), 64, 1, {3}),
    ],
)
def test_tasks_are_bounded_and_hold_every_band_once(
    shape: tuple[int, ...], tile_px: int, threads: int, sizes: set[int]
) -> None:
    stack = Stack.from_array(np.broadcast_to(np.uint8(1), shape), "ZYX")
    plan: Any = SimpleNamespace(stack=stack, tile_px=tile_px)
    areas = list(cluster_room.bands_of(stack.plane_shape, tile_px))
    units = [cluster_room.QueuedBand(index, area, 1) for index in stack.plane_indices() for area in areas]
    tasks = list(tasks_of(iter(units), plan, threads))
    assert [unit for task in tasks for unit in task] == units
    assert {len(task) for task in tasks} == sizes
    pixels = max(sum((unit.area.bottom - unit.area.top) * shape[2] for unit in task) for task in tasks)
    assert pixels <= max(cluster_room.TASK_PX, min(shape[1], 1024) * shape[2])


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_what_is_shared_does_not_wait_for_ever_for_workers_that_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "LOOK_S", 0.1)
    monkeypatch.setattr(connecting, "WAIT_FOR_WORKERS_S", 1.0)
    with open_cluster(workers=1) as cluster:
        assert list(cluster.share(abs, [-1, 2])) == [1, 2]
        cluster.client.cluster.scale(0)
        until = time.monotonic() + 20
        while cluster.client.nthreads() and time.monotonic() < until:
            time.sleep(0.05)
        started = time.monotonic()
        with pytest.raises(ClusterError, match="all workers are gone; start some, and give resume=True"):
            list(cluster.share(abs, [-1, 2, -3]))
        assert 0.9 < time.monotonic() - started < 10


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_job_whose_workers_die_while_they_read_back_ends(
    stack: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting, "LOOK_S", 0.1)
    monkeypatch.setattr(connecting, "WAIT_FOR_WORKERS_S", 1.0)
    with open_cluster(workers=1) as cluster:

        def scale_down(news: EnhanceProgress) -> None:
            if news.done == news.total:
                cluster.client.cluster.scale(0)

        with pytest.raises(ClusterError, match="all workers are gone"):
            cellxlate.enhance_file(stack, tiny_model, settings=TILES, where=cluster.executor, progress=scale_down)
    assert not (stack.parent / "cells_enhanced.ome.tif").exists()
    report = cellxlate.enhance_file(stack, tiny_model, settings=TILES, resume=True)
    assert same(report, alone(stack, tiny_model))


def test_what_a_function_that_is_shared_raises_is_raised_here(inside: Cluster) -> None:
    with pytest.raises(OSError, match="no space"):
        list(inside.share(full, [1]))


def full(_item: int) -> None:
    raise OSError(28, "no space left on device")


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_an_item_that_kills_its_workers_is_an_error_of_the_cluster(processes: Cluster) -> None:
    with pytest.raises(ClusterError, match="workers end while they do a part"):
        list(processes.share(end, [1]))


def end(_item: int) -> None:
    os._exit(1)


A_CLUSTER = """
import sys, time
from distributed import Client, LocalCluster
with LocalCluster(n_workers=2, threads_per_worker=1, processes=False, protocol="tcp://", host="127.0.0.1",
                  dashboard_address=None, memory_limit=None) as local:
    with Client(local) as client:
        client.write_scheduler_file(sys.argv[1])
        time.sleep(120)
"""


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[tuple[Path, Any]]:
    """A cluster in another process, and the file of its scheduler."""
    file = tmp_path / "scheduler.json"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", A_CLUSTER, file], env=environment, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not file.exists() and time.monotonic() < until:
        time.sleep(0.1)
    time.sleep(0.2)
    yield file, process
    process.kill()
    process.wait()


def test_a_scheduler_that_dies_leaves_what_is_done(
    stack: Path, tiny_model: Path, elsewhere: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting, "CONNECT_S", 2.0)
    file, process = elsewhere

    def kill(news: EnhanceProgress) -> None:
        if news.done >= 1:
            process.kill()

    with open_cluster(scheduler=file) as cluster, pytest.raises(ClusterError, match=r"scheduler is lost.*resume=True"):
        cellxlate.enhance_file(stack, tiny_model, settings=TILES, where=cluster.executor, progress=kill)
    assert not (stack.parent / "cells_enhanced.ome.tif").exists()
    news: list[EnhanceProgress] = []
    report = cellxlate.enhance_file(stack, tiny_model, settings=TILES, resume=True, progress=news.append)
    assert 0 < len(news) < BANDS
    assert same(report, alone(stack, tiny_model))


def test_a_scheduler_that_dies_before_a_result_is_fetched_is_lost() -> None:
    def fetch() -> None:
        raise ConnectionResetError(104, "Connection reset by peer")

    flight = cluster_room.Flight.__new__(cluster_room.Flight)
    flight._watch = connecting.WorkerWatch(None, "cells")
    with pytest.raises(ClusterError, match=r"scheduler is lost.*resume=True"):
        flight._take(SimpleNamespace(status="finished", result=fetch), [])


def test_the_command_line_reaches_a_cluster(
    stack: Path, tiny_model: Path, elsewhere: tuple[Path, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    level = logging.getLogger("distributed.client").level
    code = main(["enhance", str(stack), "-m", str(tiny_model), "--scheduler", str(elsewhere[0]), "--json"])
    assert logging.getLogger("distributed.client").level == level
    answer = json.loads(capsys.readouterr().out)
    assert code == 0
    assert sum(worker["bands"] for worker in answer["workers"]) == BANDS / 2  # of 1024 rows
    assert answer["kept_violations"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "exclude each other"),
        ({"workers": 1, "scheduler": "tcp://127.0.0.1:1"}, "exclude each other"),
        ({"workers": 0}, "workers=0"),
        ({"scheduler": "nowhere"}, "neither a file nor an address"),
        ({"scheduler": "tcp://127.0.0.1:1"}, "no scheduler answers"),
    ],
)
def test_a_cluster_that_cannot_be_is_refused(
    options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting, "CONNECT_S", 0.5)
    with pytest.raises(OptionError, match=message), open_cluster(**options):
        pass


@pytest.mark.parametrize("ending", [".ome.tif", ".ome.zarr"])
def test_a_dry_run_predicts_from_a_sample_and_writes_nothing(
    stack: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str], ending: str
) -> None:
    before = sorted(stack.parent.iterdir())
    output = stack.parent / f"out{ending}"
    assert main(["enhance", str(stack), "-m", str(tiny_model), "-o", str(output), "--dry-run", "--json"]) == 0
    expected = json.loads(capsys.readouterr().out)["expected"]
    assert sorted(stack.parent.iterdir()) == before
    assert expected["megapixels"] == expected["sampled_megapixels"] == round(6 * 600 * 40 / 1e6, 3)
    assert expected["hours"] == pytest.approx(sum(expected["seconds"].values()) / 3600, abs=1e-3)
    assert set(expected["seconds"]) == set(costs.PARTS)
    with cellxlate.open_stack(stack) as read:
        result = cellxlate.enhance(read, tiny_model)
    assert expected["cell_fraction"] == pytest.approx((result.attention > 0).mean(), abs=1e-3)


def test_what_a_process_prepares_once_is_not_scaled(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = (4, 1100, 1100)
    stack = Stack.from_array(np.broadcast_to(np.uint16(100), shape), "ZYX")
    plan = make_plan(
        stack, tiny_model, channels=None, settings=TILES, engine="torch", device="cpu", precision="float32"
    )
    outputs = name_outputs(tmp_path / "a.tif", is_zarr=False)
    asked = []

    def run_sample(plan: Any, outputs: Any, folder: Path, *, resolutions: int) -> Any:
        asked.append((plan.stack.shape[0], resolutions))
        seconds = 50.0 if len(asked) == 1 else 2.0
        return dict.fromkeys(costs.SAMPLED, costs.Took(seconds, seconds)), Tally(plane_axes="TC")

    monkeypatch.setattr(costs, "run_sample", run_sample)
    found = costs.predict(plan, outputs, plan_s=3.0)
    scale = 4 * 1100 * 1100 / 1e6 / found.sampled_megapixels
    assert asked == [(1, 2), (4, 2)]  # a window alone, then all; the planes get a pyramid
    assert found.seconds["bands"] == found.seconds["finish"] == pytest.approx(2 * scale)
    assert found.seconds["report"] == 2.0
    assert found.seconds["plan"] == 3.0


def test_the_sample_of_a_stack_with_pyramids_builds_a_level_and_leaves_nothing(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = Stack.from_array(np.random.default_rng(0).integers(50, 99, (70, 60), np.uint16), "YX")
    plan = make_plan(
        stack, tiny_model, channels=None, settings=TILES, engine="torch", device="cpu", precision="float32"
    )
    built, honest = [], Pyramid.complete

    def complete(pyramid: Pyramid, *arguments: Any) -> list[Bands]:
        levels = honest(pyramid, *arguments)
        built.extend(level.shape for level in levels[1:])
        return levels

    monkeypatch.setattr(Pyramid, "complete", complete)
    cases: tuple[tuple[int, Any, list[Any]], ...] = ((1, None, []), (3, "tiff", []), (3, None, [(35, 30)] * 2))
    for levels, kind, expected in cases:
        folder = tmp_path / f"{levels}{kind}"
        folder.mkdir()
        outputs = name_outputs(tmp_path / "a.tif", is_zarr=False, format=kind)
        seconds, tally = costs.run_sample(plan, outputs, folder, resolutions=levels)
        assert built == expected
        assert list(seconds) == list(costs.SAMPLED)
        assert all(took.clock_s >= 0 and took.processor_s >= 0 for took in seconds.values())
        assert tally.total.pixels == 70 * 60


def test_the_sample_takes_the_steps_of_the_job_one_after_another(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = Stack.from_array(np.random.default_rng(0).integers(50, 99, (70, 60), np.uint16), "YX")
    plan = make_plan(
        stack, tiny_model, channels=None, settings=TILES, engine="torch", device="cpu", precision="float32"
    )
    began: list[str] = []

    def slow(owner: Any, name: str, took_s: float) -> None:
        honest = getattr(owner, name)

        def wait(*arguments: Any, **options: Any) -> Any:
            began.append(name)
            time.sleep(took_s)
            return honest(*arguments, **options)

        monkeypatch.setattr(owner, name, wait)

    slow(verify, "read_back", 0.2)
    slow(account, "examine", 0.3)
    slow(account, "draw_planes", 0.4)
    slow(verify, "write_page", 0.5)
    seconds, _ = costs.run_sample(plan, name_outputs(tmp_path / "a.tif", is_zarr=False), tmp_path)
    assert began == ["read_back", "read_back", "examine", "draw_planes", "write_page"]  # chosen channels, then others
    expected = {"read_back": 0.4, "examine": 0.3, "pictures": 0.4, "report": 0.5}
    assert {part: seconds[part].clock_s for part in expected} == pytest.approx(expected, abs=0.15)
    before, began[:] = list(tmp_path.iterdir()), []
    assert [path.name for path in before if "partial" in path.name] == []
    outputs = name_outputs(tmp_path / "a.tif", is_zarr=False, report=False, attention=False)
    seconds, _ = costs.run_sample(plan, outputs, tmp_path)
    assert began == ["read_back", "read_back", "examine"]
    assert seconds["pictures"].clock_s == 0


@pytest.mark.parametrize(
    ("checks", "pictures", "cores", "expected"),
    [
        ((4.0, 4.0), (1.0, 1.0), 2, 4.0),  # pictures are drawn meanwhile
        ((1.0, 1.0), (4.0, 4.0), 2, 4.0),
        ((4.0, 7.0), (3.0, 3.0), 2, 5.0),  # both want more than two cores have
        ((4.0, 4.0), (3.0, 3.0), 1, 7.0),
    ],
)
def test_checks_and_pictures_are_made_at_once(
    checks: tuple[float, float], pictures: tuple[float, float], cores: int, expected: float
) -> None:
    assert costs.Took(*checks).at_once(costs.Took(*pictures), cores) == expected


def test_only_the_bands_are_shared_by_processes() -> None:
    one = costs.Prediction(10.0, 0.1, 1, dict.fromkeys(costs.PARTS, 8.0), {}, 3.0)
    four = one.with_processes(4)
    assert one.total_s == 7 * 8
    assert four.total_s == 5 * 8 + 2 * 2
    assert four.with_processes(1) == one


@pytest.mark.parametrize(
    ("shape", "axes", "windows"),
    [
        ((2, 40, 50), "ZYX", (2, 1, 40, 50)),  # whole
        ((1, 1, 1, 2000, 2000), "TCZYX", (1, 1, 2000, 2000)),  # whole
        ((6, 1040, 1392), "TYX", (5, 1, 1040, 1392)),  # whole planes
        ((1, 3, 4, 1400, 3000), "TCZYX", (2, 3, 1024, 1024)),
        ((9, 20, 3000, 3000), "TCYX", (1, 20, 409, 1024)),
        ((9000, 8000), "YX", (8, 1, 1024, 1024)),
        ((4, 9000, 90), "TYX", (4, 1, 9000, 90)),  # whole
        ((8, 90000, 90), "TYX", (91, 1, 1024, 90)),
    ],
)
def test_the_sample_is_bounded_and_lies_in_the_stack(
    shape: tuple[int, ...], axes: str, windows: tuple[int, ...]
) -> None:
    stack = Stack.from_array(np.broadcast_to(np.uint8(7), shape), axes)
    sample = np.stack([costs._read(stack, *place) for place in costs.sample_places(stack)])
    assert sample.shape == windows
    assert sample.size <= costs.SAMPLE_PX
    assert (sample == 7).all()


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_parts_that_are_read_back_add_up_to_the_whole(dtype: str) -> None:
    random = np.random.default_rng(0)
    raw = random.normal(300, 40, (3, 2, 700, 90)).astype(dtype)
    attention = (random.random(raw.shape) < 0.6).astype(np.uint8)
    attention[:, :, 100:500] = 1
    enhanced = np.where(attention > 0, raw * 1.5, raw).astype(dtype)
    enhanced[:, :, 192:256, :64] += 90 * (attention[:, :, 192:256, :64] > 0).astype(dtype)
    stacks = [Stack.from_array(pixels, "TCYX") for pixels in (raw, enhanced, attention)]
    whole = read_back(*stacks, channels=[0, 1], tile_px=64)
    parts = list(parts_of(stacks[0], [0, 1], tile_px=64, part_px=90 * 130))
    assert sum(map(len, parts)) == 3 * 2 * 6
    added = Tally(plane_axes="TC", tile_px=64)
    for part in parts:
        for index, rows in part:
            added.include(read_back_part(*stacks, index=index, rows=rows, tile_px=64))
    one, other = whole.summary(), added.summary()
    for key in ("pixels", "changed_fraction", "selected_fraction", "kept_violations", "seams"):
        assert one[key] == other[key], key
    assert one["seams"]["borders_with_a_step"] > 0
    assert whole.brightness_order() == pytest.approx(added.brightness_order())
    for channel in (0, 1):
        assert np.array_equal(whole.histograms[channel].after, added.histograms[channel].after)
    for index, blocks in whole.places.selected.items():
        assert np.array_equal(blocks, added.places.selected[index])
    assert whole.places.choose(32) == added.places.choose(32)


def test_a_plate_is_walked_well_by_well_on_one_cluster(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ["A/1/0", "A/1/1", "B/3/0"]
    plate = zarr.open_group(tmp_path / "plate.ome.zarr", mode="w")
    wells = [{"path": "A/1", "rowIndex": 0, "columnIndex": 0}, {"path": "B/3", "rowIndex": 1, "columnIndex": 2}]
    plate.update_attributes({"ome": {"version": "0.5", "plate": {"wells": wells}}})
    for well in wells:
        fields = [{"path": place[-1]} for place in places if place.startswith(str(well["path"]))]
        plate.create_group(str(well["path"])).update_attributes({"ome": {"version": "0.5", "well": {"images": fields}}})
    for number, place in enumerate(places):
        noise = np.random.default_rng(number).normal(0, 8, (600, 50))
        pixels = (noise + np.linspace(80, 240, 50)).clip(0).astype(np.uint16)
        field = tmp_path / "field.ome.zarr"
        write_stacks([(Stack(pixels, "YX"), field)])
        field.rename(tmp_path / "plate.ome.zarr" / place)
    command = ["enhance", str(tmp_path / "plate.ome.zarr"), "-m", str(tiny_model), "--tile", "64", "--json"]
    assert main([*command, "--output-dir", str(tmp_path / "alone")]) == 0
    expected = json.loads(capsys.readouterr().out)["stacks"]
    assert main([*command, "--output-dir", str(tmp_path / "shared"), "--workers", "2"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert len(answer["stacks"]) == len(expected) == len(places)
    assert sum(worker["bands"] for worker in answer["workers"]) == 2 * len(places)
    for one, other in zip(expected, answer["stacks"], strict=True):
        assert 0 < one["changed_fraction"] == other["changed_fraction"]
        for kind in ("enhanced", "attention"):
            with (
                cellxlate.open_stack(one["outputs"][kind]) as here,
                cellxlate.open_stack(other["outputs"][kind]) as there,
            ):
                assert np.array_equal(np.asarray(here), np.asarray(there))
