"""A Qt application, with or without a screen, and panels whose runs have ended when a test ends."""

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

if not os.environ.get("DISPLAY"):
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")  # before Qt is loaded
os.environ.setdefault("NAPARI_ENSURE_PLUGIN_MAIN_THREAD", "1")

Spin = Callable[..., None]


@pytest.fixture(scope="session")
def application() -> Any:
    qt = pytest.importorskip("napari.qt")
    return qt.get_qapp()


@pytest.fixture
def spin(application: Any) -> Spin:
    """Run Qt's events until something holds."""

    def until(holds: Callable[[], bool], limit_s: float = 30.0) -> None:
        end = time.monotonic() + limit_s
        while not holds():
            assert time.monotonic() < end, "it did not happen in time"
            application.processEvents()
            time.sleep(0.002)

    return until


@pytest.fixture(autouse=True)
def _no_model_of_before(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Panels offer models of the current folder and of the session: both are empty to begin with."""
    from cellxlate.plugin.models import SHELF

    monkeypatch.chdir(tmp_path_factory.mktemp("here"))
    monkeypatch.setattr(SHELF, "_added", [])


@pytest.fixture
def viewer(application: Any) -> Any:
    """The model of a viewer, without a window."""
    from napari.components import ViewerModel

    return ViewerModel()


@pytest.fixture
def panel(viewer: Any, tiny_model: Any, spin: Spin) -> Iterator[Any]:
    """An `Enhance cells` panel with the tiny model chosen."""
    from cellxlate.plugin.enhance.widget import EnhanceWidget

    made = EnhanceWidget(viewer)
    made.model_choice.value = tiny_model
    made.engine.value = "torch"
    yield made
    made.cancel_button.click()
    spin(lambda: not made.is_running)
    made.close()


@pytest.fixture(scope="session")
def neighbour_model(tmp_path_factory: pytest.TempPathFactory, tiny_model: Any) -> Any:
    """The tiny model with a second pair, which looks at two planes on either side and is swayed by them."""
    import torch

    from cellxlate.model.bundle import load_model, save_bundle
    from cellxlate.model.networks import seeing_neighbours

    alone = load_model(tiny_model)
    pair = seeing_neighbours(alone.translator, 2)
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in (*pair.generator.parameters(), *pair.attention.parameters()):
            parameter.add_(0.03 * torch.randn(parameter.shape))
    folder = tmp_path_factory.mktemp("models") / "tiny-neighbours"
    save_bundle(folder, alone.translator, alone.card, b"", pair)
    return folder


def ramp(shape: tuple[int, ...], dtype: str = "uint16", seed: int = 0) -> Any:
    """A ramp along the columns with noise: the tiny model selects some of it."""
    noise = np.random.default_rng(seed).normal(0, 8, shape)
    return (noise + np.linspace(80, 240, shape[-1])).clip(0).astype(dtype)
