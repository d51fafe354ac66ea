"""What is loaded before the first pixel: names, not seconds, which no other work on the machine can change."""

import ctypes
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

from cellxlate.model import probe
from cellxlate.model.bundle import load_model
from cellxlate.model.cards import DEFAULT_MODEL, SHIPPED, amend_card, model_folders, save_copy
from cellxlate.model.engines import devices, threads
from cellxlate.model.engines.engine import open_engine, probe_error

ENGINES = ("openvino", "onnxruntime", "auto")
NEEDS = ("openvino", "onnxruntime", "onnx")
RUN = """
import json, sys
from cellxlate.cli import main
light = sorted(sys.modules)
codes = [main(["enhance", sys.argv[1], "-m", "nuclei-lowexp", "--engine", engine, "--device", device, "--overwrite",
               "--quiet"]) for engine, device in (("openvino", "cpu"), ("onnxruntime", "cpu"), ("auto", "cpu"))]
print(json.dumps({"codes": codes, "light": light, "all": sorted(sys.modules)}))
"""
NEVER = (
    "torch", "skimage", "dask", "scipy.spatial", "scipy.optimize", "yaozarrs", "pydantic", "napari", "qtpy",
    "matplotlib", "distributed", "h5py", "cellxlate.training", "cellxlate.enhancement.adaptation",
    "cellxlate.stacks.samples", "cellxlate.model.networks", "cellxlate.model.blocks",
)  # fmt: skip


def test_other_engines_run_without_torch_and_what_learning_needs(tmp_path: Path) -> None:
    if not all(importlib.util.find_spec(package) for package in NEEDS):
        pytest.skip("the other engines are optional and not all installed")
    stack = tmp_path / "cells.tif"
    tifffile.imwrite(stack, np.random.default_rng(0).poisson(200, (64, 64)).astype(np.uint16))
    ran = subprocess.run([sys.executable, "-c", RUN, stack], capture_output=True, text=True, check=True)
    told = json.loads(ran.stdout)
    assert told["codes"] == [0, 0, 0]
    report = json.loads((tmp_path / "cells_report.json").read_text())
    assert "openvino" in report["provenance"]["engine_version"]
    assert "of torch" in report["provenance"]["engine_version"]
    loaded = set(told["all"])
    assert {"openvino", "onnxruntime"} <= loaded
    assert [name for name in NEVER if name in loaded] == []
    heavy = {"numpy", "scipy", "zarr", "tifffile", "jinja2", "asyncio", "torch"}
    assert heavy.isdisjoint(told["light"])


def test_the_shipped_cards_state_what_torch_computes() -> None:
    for folder in model_folders(SHIPPED):
        bundle = load_model(folder)
        stated = probe.stated_in(bundle.card, bundle.digest)
        assert stated
        for part, pixels in probe.computed_by_torch(bundle.translator).items():
            points = probe.at_points(pixels).ravel()
            assert points.size >= 100
            assert points.std() > 0.01
            assert np.allclose(stated[part], points, rtol=0, atol=1e-5)


def test_an_engine_is_checked_against_the_card_or_against_torch_where_it_says_nothing(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    honest = probe.computed_by_torch
    monkeypatch.setattr(probe, "computed_by_torch", lambda translator: asked.append(1) or honest(translator))
    opened = open_engine(load_model(tiny_model), engine="torch", device="cpu")
    assert probe_error(opened, load_model(tiny_model)) < 1e-5
    assert asked == []
    stated = load_model(tiny_model).card["probe"]
    folder = save_copy(tiny_model, tmp_path / "copy")
    for entry in (
        None, "x", {}, stated | {"weights_sha256": "0"}, stated | {"proposal": "?"}, stated | {"attention": 3},
        stated | {"proposal": stated["proposal"][:8]},
    ):  # fmt: skip
        amend_card(folder, "probe", entry)
        asked.clear()
        assert probe_error(opened, load_model(folder)) < 1e-5
        assert asked == [1]
    wrong = probe.stated_of({part: pixels + 0.01 for part, pixels in honest(load_model(folder).translator).items()},
                            load_model(folder).digest)  # fmt: skip
    amend_card(folder, "probe", wrong)
    assert probe_error(opened, load_model(folder)) == pytest.approx(0.01, abs=1e-5)
    nothing = probe.stated_of({part: pixels * np.nan for part, pixels in honest(load_model(folder).translator).items()},
                              load_model(folder).digest)  # fmt: skip
    amend_card(folder, "probe", nothing)
    assert probe_error(opened, load_model(folder)) == np.inf


@pytest.mark.parametrize(
    ("build", "has_driver", "expected"),
    [
        ({"cuda": None, "hip": None}, True, True),
        ({"cuda": "12.8", "hip": None}, False, True),  # no driver: torch would find no card either
        ({"cuda": "12.8", "hip": None}, True, False),
        ({"cuda": None, "hip": "6.4"}, False, False),
        (None, False, False),
    ],
)
def test_torch_is_asked_for_a_graphics_card_only_where_there_may_be_one(
    monkeypatch: pytest.MonkeyPatch, build: dict[str, Any] | None, has_driver: bool, expected: bool
) -> None:
    def driver(_name: str) -> None:
        if not has_driver:
            raise OSError("cannot open shared object file")

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", driver)
    monkeypatch.setattr(devices, "_build_of_torch", lambda: build and SimpleNamespace(**build))
    assert not devices.has_cpu_alone()  # torch is loaded here, and knows
    monkeypatch.delitem(sys.modules, "torch")
    assert devices.has_cpu_alone() is expected
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not devices.has_cpu_alone()


def test_how_torch_was_built_is_read_without_loading_it() -> None:
    build = devices._build_of_torch()
    assert build is not None
    assert (build.__version__, build.cuda, build.hip) == (torch.__version__, torch.version.cuda, torch.version.hip)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, 4), ({"OMP_NUM_THREADS": "3"}, 3), ({"OMP_NUM_THREADS": "2,1"}, 2), ({"OMP_NUM_THREADS": "0"}, 4),
     ({"OMP_NUM_THREADS": "16"}, 4), ({"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "1"}, 1)],
)  # fmt: skip
def test_engines_take_as_many_threads_as_torch_would(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: int
) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setitem(os.environ, name, value)
    assert threads.thread_count() == torch.get_num_threads()  # it is loaded here
    monkeypatch.setattr(threads, "loaded_torch", lambda: None)
    monkeypatch.setattr(threads, "_core_count", lambda: 4)
    assert threads.thread_count() == expected
    threads.use_threads(7)
    assert threads.thread_count() == 7
    assert list(threads.in_streams(lambda number: number + 1, range(3), streams=2)) == [1, 2, 3]
    monkeypatch.undo()
    before = torch.get_num_threads()
    threads.pass_on_to_torch()
    assert torch.get_num_threads() == 7
    torch.set_num_threads(before)


def test_weights_that_are_read_are_those_of_torch() -> None:
    """Values and modules share their weights and their geometry."""
    bundle = load_model(DEFAULT_MODEL)
    assert "translator" not in vars(bundle)
    modules = bundle.translator
    for name in ("stride", "generator_halo_px", "attention_halo_px", "channels"):
        assert getattr(bundle.networks, name) == getattr(modules, name)
    first = modules.generator.layers[1].weight
    assert isinstance(first, torch.Tensor)
    assert np.shares_memory(first.numpy(), bundle.networks.generator.layers.layers[1].weight)
