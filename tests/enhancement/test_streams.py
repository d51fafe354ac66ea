"""Bands at once: as many as memory and threads allow, in order, with the pixels of one after another."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from cellxlate.enhancement.flow import follow
from cellxlate.enhancement.job import steps_in_memory
from cellxlate.enhancement.plan import Plan, make_plan
from cellxlate.enhancement.proposals import source
from cellxlate.enhancement.tiling import stream_count
from cellxlate.model.cards import DEFAULT_MODEL
from cellxlate.model.engines.threads import in_streams
from cellxlate.settings import EnhanceSettings
from cellxlate.stacks.stack import Stack


@pytest.fixture
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_streams_share_the_threads_and_the_caller_keeps_its_own(four_threads: None) -> None:
    names, most, now, lock = set(), [0], [0], threading.Lock()

    def work(number: int) -> tuple[int, int]:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        names.add(threading.current_thread().name)
        time.sleep(0.05 if number == 0 else 0.01)
        with lock:
            now[0] -= 1
        return number, torch.get_num_threads()

    assert list(in_streams(work, range(8), streams=2)) == [(number, 2) for number in range(8)]
    assert (most[0], len(names)) == (2, 2)
    assert torch.get_num_threads() == 4
    later = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [4]  # a training that begins after an enhancement has all threads


def test_one_stream_works_in_the_thread_that_asks(four_threads: None) -> None:
    here = threading.current_thread()
    found = in_streams(lambda number: (number, threading.current_thread() is here), range(3), streams=1)
    assert list(found) == [(0, True), (1, True), (2, True)]


def test_a_fault_in_a_stream_is_raised_at_its_place_and_gives_the_threads_back(four_threads: None) -> None:
    found = in_streams(lambda number: 12 // number, [3, 2, 0, 1], streams=2)
    assert [next(found), next(found)] == [4, 6]
    with pytest.raises(ZeroDivisionError):
        next(found)
    assert torch.get_num_threads() == 4


@pytest.mark.parametrize(
    ("tile_px", "band_px", "bytes_per_px", "threads", "expected"),
    [
        (562, 512 * 2048, 84, 4, 4),  # what the fast network needs would allow for more
        (562, 512 * 2048, 84, 2, 2),
        (562, 512 * 2048, 84, 1, 1),
        (1074, 1024 * 2048, 84, 8, 3),  # 97 and 50 MB
        (1192, 1024 * 2048, 768, 8, 1),  # the full-size network fills the memory by itself
        (562, 512 * 40_000, 84, 8, 1),  # so do bands of a slide
    ],
)
def test_as_many_streams_as_threads_and_memory_allow(
    four_threads: None, tile_px: int, band_px: int, bytes_per_px: float, threads: int, expected: int
) -> None:
    torch.set_num_threads(threads)
    assert stream_count(tile_px=tile_px, band_px=band_px, activation_bytes_per_px=bytes_per_px) == expected


def planned(stack: Stack, engine: Any, streams: int | None) -> Plan:
    return make_plan(
        stack, DEFAULT_MODEL, channels=None, settings=EnhanceSettings(tile_px=64), engine=engine, device="cpu",
        streams=streams,
    )  # fmt: skip


@pytest.mark.parametrize("engine", ["torch", "openvino", "onnxruntime"])
def test_streams_give_the_pixels_and_the_account_of_one(engine: Any, four_threads: None) -> None:
    if engine != "torch":
        pytest.importorskip(engine, reason=f"{engine} is optional")
        pytest.importorskip("onnx", reason="onnx is optional")
    raw = np.random.default_rng(7).normal(130, 6, (3, 1030, 150)).round().astype(np.uint16)
    for plane, row in ((0, 40), (0, 500), (1, 620), (2, 1000)):
        raw[plane, row : row + 28, 60:95] += 250
    stack = Stack.from_array(raw, "ZYX", name="cells")
    alone, at_once = (planned(stack, engine, streams) for streams in (1, 3))
    assert (alone.streams, at_once.streams) == (1, 3)
    results = []
    for plan in (alone, at_once):
        news: list[Any] = []
        results.append(follow(steps_in_memory(plan), news.append))
        assert [round(one.done, 2) for one in news] == sorted(round(one.done, 2) for one in news)
        assert news[-1].done == 3
    expected, found = results
    assert np.array_equal(found.attention, expected.attention)
    assert np.array_equal(found.image, expected.image)
    assert (expected.image != raw).any()
    works = [replace(plan.work, attention_s=0.0, generator_s=0.0) for plan in (alone, at_once)]
    assert works[0] == works[1]
    assert works[0].tiles_total > works[0].tiles_skipped > 0
    assert 0 < sum(found.report.seconds[part] for part in ("attention", "generator")) < found.report.seconds["total"]


def test_the_processor_gets_streams_and_a_graphics_card_none(
    four_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = Stack.from_array(np.zeros((64, 64), np.uint16), "YX")
    assert planned(stack, "torch", None).streams == 4
    from cellxlate.model.bundle import load_model

    monkeypatch.setattr(source, "choose_kind", lambda _: "cuda")
    assert source.streams_of(load_model(DEFAULT_MODEL), None, stack, EnhanceSettings(), "cuda") == 1
