"""Engines: the same numbers within a stated tolerance, one that is said, and none that gives up where memory ends."""

import contextlib
import gc
import importlib.util
import os
import re
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
import torch

from cellxlate.errors import OptionError
from cellxlate.model.bundle import load_model
from cellxlate.model.cards import DEFAULT_MODEL
from cellxlate.model.engines import engine as engines
from cellxlate.model.engines.engine import (
    PROBE_TOLERANCE,
    EngineTranslator,
    interruptible,
    let_go_of_others,
    open_engine,
    probe_error,
)
from cellxlate.model.engines.memory import is_out_of_memory
from cellxlate.model.engines.other_engines import OpenVinoNetwork
from cellxlate.model.engines.torch_engine import OneDnnConvolution, by_onednn
from cellxlate.model.inference import for_inference
from cellxlate.model.networks import running

OPTIONAL = [
    pytest.param(
        engine,
        marks=pytest.mark.skipif(
            not all(importlib.util.find_spec(package) for package in engines.PACKAGES[engine]),
            reason=f"{engine} is optional and not installed",
        ),
    )
    for engine in ("openvino", "onnxruntime")
]


def noise(shape: tuple[int, ...], seed: int = 0) -> Any:
    return np.random.default_rng(seed).uniform(-0.2, 1.5, shape).astype(np.float32)


@pytest.mark.parametrize("engine", OPTIONAL)
def test_other_engines_reproduce_torch(engine: Any) -> None:
    bundle = load_model(DEFAULT_MODEL)
    reference, other = (open_engine(bundle, engine=name, device="cpu") for name in ("torch", engine))
    for shape in ((1, 1, 96, 128), (3, 1, 80, 80)):
        images = noise(shape)
        for name in ("proposal", "attention"):
            expected, found = getattr(reference, name)(images), getattr(other, name)(images)
            assert found.shape == expected.shape
            assert np.abs(found - expected).max() <= PROBE_TOLERANCE
            assert expected.std() > 0.05
    assert probe_error(other, bundle) <= PROBE_TOLERANCE
    assert other.identity == f"{engine} cpu float32"


@pytest.mark.parametrize("engine", OPTIONAL)
def test_a_window_gives_the_same_proposal_whatever_lies_around_it(engine: Any) -> None:
    found = open_engine(load_model(DEFAULT_MODEL), engine=engine)
    images = noise((1, 1, 320, 400))
    whole, part = found.proposal(images), found.proposal(np.ascontiguousarray(images[..., 64:160, 80:200]))
    margin, rest = (320 - whole.shape[2]) // 2, found.generator_halo_px
    inside = part[..., rest - margin : -(rest - margin), rest - margin : -(rest - margin)]
    same = whole[..., 64 + rest - margin : 160 - rest - margin, 80 + rest - margin : 200 - rest - margin]
    assert np.abs(inside - same).max() <= 2e-6


def test_windows_of_torch_agree_bit_for_bit_whatever_their_size_and_batch() -> None:
    """On which rests that sparse, dense, and every tile size give the same pixels."""
    found = open_engine(load_model(DEFAULT_MODEL), engine="torch", device="cpu")
    images = noise((1, 1, 600, 640))
    whole = found.proposal(images)
    margin, rest = (600 - whole.shape[2]) // 2, found.generator_halo_px
    cut = rest - margin
    for top, left, rows, columns in ((0, 0, 60, 60), (40, 36, 84, 60), (8, 100, 160, 96), (4, 4, 300, 420)):
        window = np.ascontiguousarray(images[..., top : top + rows, left : left + columns])
        for batch in (1, 2, 5):
            part = found.proposal(np.repeat(window, batch, axis=0))[..., cut:-cut, cut:-cut]
            expected = whole[..., top + cut : top + rows - margin - rest, left + cut : left + columns - margin - rest]
            assert all(np.array_equal(one, expected[0]) for one in part)


@pytest.mark.parametrize("side_px", [60, 68, 92, 124])
def test_a_small_window_alone_is_convolved_as_in_a_batch(side_px: int) -> None:
    """Torch would take another algorithm for it, which rounds differently on some processors."""
    found = open_engine(load_model(DEFAULT_MODEL), engine="torch", device="cpu")
    image = noise((1, 1, side_px, side_px))
    alone, batch = found.proposal(image), found.proposal(np.repeat(image, 4, axis=0))
    assert all(np.array_equal(one, alone[0]) for one in batch)


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
def test_convolutions_by_onednn_are_those_of_the_network(padding_mode: str) -> None:
    torch.manual_seed(0)
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(2, 8, (3, 5), stride=2, padding=(1, 2), padding_mode=padding_mode), torch.nn.ReLU(),
        torch.nn.Sequential(torch.nn.Conv2d(8, 4, 3, dilation=2, groups=2, bias=False)),
    )  # fmt: skip
    images = torch.randn(3, 2, 40, 31)
    with torch.inference_mode():
        expected = layers(images)
        found = by_onednn(layers)(images)
    assert not any(isinstance(layer, torch.nn.Conv2d) for layer in layers.modules())
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, atol=1e-6)


def test_auto_says_what_it_took_and_how_near_it_is(tiny_model: Path) -> None:
    found = open_engine(load_model(tiny_model), device="cpu")
    if all(importlib.util.find_spec(package) for package in engines.PACKAGES["openvino"]):
        assert found.name.startswith("openvino")
        assert "of torch)" in found.name
    else:
        assert found.name == f"torch {torch.__version__} cpu float32"


def test_auto_does_not_take_an_engine_that_computes_something_else(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda package: True)
    monkeypatch.setattr(engines, "version", lambda package: "1")

    def a_little_off(network: Any, precision: Any, streams: Any) -> Any:
        return lambda images: running(network)(torch.from_numpy(images)).numpy() + np.float32(2e-4)

    monkeypatch.setattr(engines, "OpenVinoNetwork", a_little_off)
    assert open_engine(load_model(tiny_model), device="cpu").identity == "torch cpu float32"

    def broken(network: Any, precision: Any, streams: Any) -> Any:
        raise RuntimeError("this processor is not supported")

    monkeypatch.setattr(engines, "OpenVinoNetwork", broken)
    assert open_engine(load_model(tiny_model), device="cpu").identity == "torch cpu float32"


def test_what_cannot_be_opened_is_one_line(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = load_model(tiny_model)
    if not torch.cuda.is_available():
        with pytest.raises(OptionError, match="device='cuda' is not available"):
            open_engine(bundle, device="cuda")
    wrong: Any
    for wrong in ({"engine": "caffe"}, {"precision": "int8"}, {"engine": "onnxruntime", "precision": "bfloat16"}):
        with pytest.raises(OptionError, match=r"^(engine|precision)="):
            open_engine(bundle, **wrong)
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(OptionError, match=r"engine='openvino' is not installed; pip install"):
        open_engine(bundle, engine="openvino")


@pytest.mark.parametrize("engine", [*OPTIONAL[:1], "torch"])
def test_bfloat16_is_only_on_request_and_says_its_error(engine: Any) -> None:
    bundle = load_model(DEFAULT_MODEL)
    exact, coarse = (open_engine(bundle, engine=engine, device="cpu", precision=name) for name in
                     ("float32", "bfloat16"))  # fmt: skip
    assert not exact.warnings
    error = probe_error(coarse, bundle)
    assert f"{error:.1e}" in coarse.warnings[0]
    assert coarse.identity != exact.identity
    if engine == "torch":  # OpenVINO has it only on some processors
        assert 1e-3 < error < 0.2


def small_device(monkeypatch: pytest.MonkeyPatch, opened: EngineTranslator, largest_px: int) -> list[int]:
    """Let the device run out of memory above a number of pixels; return those it was given."""
    given = []
    for name in ("_generator", "_attention"):
        honest = getattr(opened, name)

        def run(images: Any, honest: Any = honest) -> Any:
            given.append(images.size)
            if images.size > largest_px:
                raise MemoryError
            return honest(images)

        monkeypatch.setattr(opened, name, run)
    return given


@pytest.mark.parametrize("shape", [(1, 1, 260, 200), (3, 1, 120, 160), (1, 1, 120, 404)])
def test_out_of_memory_shrinks_the_tile_and_goes_on(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]
) -> None:
    opened = open_engine(load_model(tiny_model), engine="torch", device="cpu")
    images = noise(shape)
    halo_px = opened.generator_halo_px
    expected = [opened.proposal(images), opened.attention(images)]
    given = small_device(monkeypatch, opened, 20_000)
    found = [opened.proposal(images), opened.attention(images)]
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        inside = (..., slice(halo_px, -halo_px), slice(halo_px, -halo_px))
        assert np.abs(one[inside] - other[inside]).max() <= 2e-6
    assert len(opened.warnings) == 1
    assert f"{shape[2]} x {shape[3]}" in opened.warnings[0]
    before = len(given)
    opened.proposal(images)
    assert max(given[before:]) <= 20_000  # it has learned


def test_memory_that_ends_even_for_small_tiles_is_said(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_engine(load_model(tiny_model), engine="torch", device="cpu")
    small_device(monkeypatch, opened, 100)
    with pytest.raises(MemoryError, match="even for small tiles"):
        opened.proposal(noise((1, 1, 200, 200)))


@pytest.mark.parametrize(
    "words",
    [
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "Unable to find a valid cuDNN algorithm to run convolution",
        "GET was unable to find an engine to execute this computation",
    ],
)
def test_what_the_libraries_of_cuda_say_about_memory_is_understood(words: str) -> None:
    assert is_out_of_memory(RuntimeError(words))
    assert not is_out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))


def test_what_torch_says_about_memory_is_understood(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = load_model(tiny_model)
    opened = open_engine(bundle, engine="torch", device="cpu")
    expected = opened.proposal(noise((1, 1, 200, 200)))
    honest = OneDnnConvolution.forward

    def forward(self: Any, features: Any) -> Any:
        if features.shape[-1] * features.shape[-2] > 15_000:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return honest(self, features)

    monkeypatch.setattr(OneDnnConvolution, "forward", forward)
    images = noise((1, 1, 400, 200))
    found = opened.proposal(images)
    assert found.shape[2] - expected.shape[2] == 200
    assert opened.warnings

    def fail(self: Any, features: Any) -> Any:
        raise RuntimeError("a kernel failed")

    monkeypatch.setattr(OneDnnConvolution, "forward", fail)
    with pytest.raises(RuntimeError, match="a kernel failed"):
        opened.proposal(images)


@pytest.mark.cuda
@pytest.mark.parametrize("model", ["cells", "nuclei-lowexp"])
def test_a_card_computes_what_the_cpu_does(model: str, card: Any) -> None:
    """Convolutions on a card may round to ten bits (TF32), which torch allows by default."""
    bundle = load_model(model)
    exact, coarse = (open_engine(bundle, engine="torch", device=card, precision=name) for name in
                     ("float32", "bfloat16"))  # fmt: skip
    assert exact.identity == f"torch {card} float32"
    assert probe_error(exact, bundle) <= 1e-2
    assert 1e-4 < probe_error(coarse, bundle) < 0.3
    images = noise((1, 1, 192, 224))
    assert np.array_equal(exact.proposal(images), exact.proposal(images))


@pytest.mark.cuda
def test_a_card_that_runs_out_of_memory_shrinks_the_tile(card: Any) -> None:
    if card == "cpu":
        pytest.skip("a limit on the card's memory is set, and the CPU has none such")
    images = noise((1, 1, 768, 640))
    first, again = (open_engine(load_model(DEFAULT_MODEL), engine="torch", device=card) for _ in range(2))
    for opened in (first, again):
        opened.proposal(np.ascontiguousarray(images[..., :192, :192]))
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    torch.cuda.reset_peak_memory_stats()
    expected = first.proposal(images)
    needed = torch.cuda.max_memory_reserved() - before
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((before + needed / 2) / torch.cuda.get_device_properties(0).total_memory)
    try:
        found = again.proposal(images)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert len(again.warnings) == 1
    halo_px = again.generator_halo_px
    inside = (..., slice(halo_px, -halo_px), slice(halo_px, -halo_px))
    assert np.abs(found[inside] - expected[inside]).max() <= 1e-2


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not enforce the limit")
@pytest.mark.parametrize("engine", ["torch", *OPTIONAL])
def test_an_engine_that_ran_short_of_memory_says_so_and_is_right_afterwards(engine: Any) -> None:
    script = Path(__file__).with_name("run_short_of_memory.py")
    run = subprocess.run([sys.executable, script, engine], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    gave_up = re.fullmatch(r"(\d+) of 16 gave up, 0 were wrong\n", run.stdout)
    assert gave_up, run.stdout
    assert 3 <= int(gave_up[1]) <= 13
    assert run.stderr == ""


class BrokenRequest:
    """A request of OpenVINO as it was seen when memory ended: a fault, no rows, or those of an earlier window."""

    def __init__(self, outcome: Any) -> None:
        self.outcome = outcome

    def set_input_tensor(self, _images: Any) -> None:
        """Nothing is computed of them."""

    def infer(self) -> list[Any]:
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return [self.outcome]


@pytest.mark.parametrize("_engine", OPTIONAL[:1])
@pytest.mark.parametrize(
    ("outcome", "raised"),
    [
        (RuntimeError("[CPU] Reorder node can't alloc"), MemoryError),
        (RuntimeError("another fault"), RuntimeError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (np.zeros((0, 1, 0, 0)), MemoryError),
        (np.zeros((1, 1, 300, 300)), MemoryError),
        (np.zeros((1, 1, 90, 100)), MemoryError),
        (np.zeros((2, 1, 90, 90)), MemoryError),
    ],
)
def test_what_failed_in_openvino_is_never_used_again(
    tiny_model: Path, _engine: Any, outcome: Any, raised: type[BaseException]
) -> None:
    network = OpenVinoNetwork(for_inference(load_model(tiny_model).networks.generator), "float32")
    images = noise((1, 1, 200, 200))
    expected = network(images)
    network._idle = SimpleQueue()
    network._idle.put(BrokenRequest(outcome))
    with pytest.raises(raised):
        network(images)
    assert np.array_equal(network(images), expected)


@pytest.mark.parametrize("engine", ["torch", *OPTIONAL])
def test_an_engine_does_not_keep_what_it_has_seen(tiny_model: Path, engine: Any) -> None:
    opened = open_engine(load_model(tiny_model), engine=engine, device="cpu", streams=2)
    images = noise((2, 1, 64, 64))
    seen = weakref.ref(images)
    outcome = opened.proposal(images)
    del images
    assert seen() is None
    assert outcome.shape[:2] == (2, 1)


@pytest.mark.parametrize("engine", ["torch", *OPTIONAL[:1]])
def test_a_check_ends_a_run_within_a_window(tiny_model: Path, engine: Any) -> None:
    bundle = load_model(tiny_model)
    opened = open_engine(bundle, engine=engine, device="cpu")
    calls = []

    def check() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise InterruptedError

    images = noise((1, 1, 64, 64))
    with interruptible(bundle, check), pytest.raises(InterruptedError):
        [opened.proposal(images) for _ in range(2)]
    assert len(calls) == 2
    opened.proposal(images)
    assert len(calls) == 2


def test_an_engine_is_opened_once_for_a_bundle(tiny_model: Path) -> None:
    bundle = load_model(tiny_model)
    assert open_engine(bundle) is open_engine(bundle)
    assert open_engine(bundle) is not open_engine(load_model(tiny_model))


def test_what_was_only_tried_is_let_go_of(models_in_context: dict[str, Path]) -> None:
    bundle = load_model(models_in_context["seeing"])
    assert bundle.in_context
    tried = weakref.ref(open_engine(bundle, engine="torch"))
    used = open_engine(bundle.in_context, engine="torch")
    let_go_of_others(bundle, used)
    gc.collect()
    assert tried() is None
    assert open_engine(bundle.seeing(2), engine="torch") is used


@pytest.mark.parametrize("engine", ["torch", *OPTIONAL])
def test_a_model_that_nobody_needs_any_more_is_let_go_with_its_engines(tiny_model: Path, engine: Any) -> None:
    bundle = load_model(tiny_model)
    opened = open_engine(bundle, engine=engine, device="cpu")
    opened.attention(noise((1, 1, 64, 64)))
    kept = [weakref.ref(one) for one in (opened, bundle.networks)]
    del bundle, opened
    gc.collect()
    assert [one() for one in kept] == [None, None]


INTERRUPTED = """
import faulthandler, gc, signal, sys
faulthandler.enable()  # like pytest and Jupyter
from cellxlate.model.bundle import load_model
from cellxlate.model.engines.engine import open_engine
hits = []
signal.signal(signal.SIGINT, lambda *_: hits.append(1))
for _ in range(2):
    open_engine(load_model(sys.argv[1]), engine=sys.argv[2]).attention(__import__("numpy").zeros((1, 1, 64, 64), "f4"))
    gc.collect()
    signal.raise_signal(signal.SIGINT)
sys.exit(len(hits) != 2)
"""


@pytest.mark.parametrize("engine", OPTIONAL)
def test_ctrl_c_is_heard_after_a_model_was_let_go_of(tiny_model: Path, engine: str) -> None:
    assert subprocess.run([sys.executable, "-c", INTERRUPTED, tiny_model, engine], check=False).returncode == 0


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system does not tell where threads may run")
@pytest.mark.parametrize("engine", OPTIONAL)
def test_engines_leave_it_to_the_system_where_threads_run(engine: Any) -> None:
    allowed, seen, done = os.sched_getaffinity(0), set(), threading.Event()
    threads = Path("/proc/self/task")
    of_others = set(threads.iterdir())  # what other tests, and what runs them, have started

    def watch() -> None:
        while not done.is_set():
            for thread in set(threads.iterdir()) - of_others:
                with contextlib.suppress(OSError):
                    seen.add(frozenset(os.sched_getaffinity(int(thread.name))))

    opened = open_engine(load_model(DEFAULT_MODEL), engine=engine, device="cpu")
    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(3):
        opened.proposal(noise((1, 1, 512, 512)))
    done.set()
    watcher.join()
    assert seen == {frozenset(allowed)}
