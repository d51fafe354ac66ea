"""The samples of the napari menu: calibrated image layers, the same each time, without a download."""

import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from cellxlate.plugin import samples

SAMPLES = {
    samples.nuclei: ("YX", (512, 512), (0.65, 0.65), ("um", "um")),
    samples.nuclei_3d: ("ZYX", (12, 320, 320), (1.0, 0.65, 0.65), ("um", "um", "um")),
    samples.nuclei_time: ("TYX", (12, 320, 320), (600.0, 0.65, 0.65), ("s", "um", "um")),
}
each_sample = pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.__name__)


@each_sample
def test_is_one_calibrated_image_layer(sample):
    axes, shape, scale, units = SAMPLES[sample]
    ((counts, options, kind),) = sample()
    assert kind == "image"
    assert counts.shape == shape
    assert counts.dtype == np.uint16
    assert options["scale"] == scale
    assert options["units"] == units
    assert options["axis_labels"] == tuple(axes.lower())
    assert "nuclei" in options["name"]


@each_sample
def test_contrast_limits_show_background_and_cells(sample):
    ((counts, options, _),) = sample()
    black, white = options["contrast_limits"]
    assert 0 < (counts < black).mean() < 0.011  # faint nuclei would drown in the range of all noise
    assert 0 < (counts > white).mean() < 0.0021
    assert np.median(counts) - black > 0.05 * (white - black)
    assert white > 180  # cells, not background alone


@each_sample
def test_needs_no_network_and_is_quick(sample, monkeypatch):
    def refuse(*place: object, **options: object) -> None:
        raise AssertionError("a sample opened a connection")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(samples, "SEED", 7)  # nothing of it has been computed before
    started = time.process_time()
    sample()
    assert time.process_time() - started < 2.0


@each_sample
def test_shows_different_planes_of_the_same_cells(sample):
    ((counts, _, _),) = sample()
    if counts.ndim == 2:
        assert counts.std() > 10
        return
    correlation = np.corrcoef(counts.reshape(len(counts), -1).astype(float))
    assert correlation[0, 1] > 0.8
    assert correlation[0, 1] < 0.999


def test_importing_the_samples_loads_neither_torch_nor_napari():
    code = (
        "import sys, cellxlate.plugin.samples as samples; "
        "print([name for name in ('torch', 'napari', 'qtpy', 'dask', 'skimage') if name in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


@pytest.fixture
def viewer():
    napari = pytest.importorskip("napari")
    shown = napari.Viewer(show=True)
    yield shown
    shown.close()


@pytest.mark.display
def test_opens_in_napari(viewer):
    from qtpy.QtWidgets import QApplication

    for sample, (axes, shape, scale, units) in SAMPLES.items():
        viewer.layers.clear()
        (layer,) = viewer.open_sample("cellxlate", sample.__name__)
        assert layer.data.shape == shape
        np.testing.assert_allclose(layer.scale, scale)
        assert [f"{unit:~}" for unit in layer.units] == [unit.replace("um", "µm") for unit in units]
        assert layer.axis_labels == tuple(axes.lower())
        drawn_by = time.monotonic() + 20
        while time.monotonic() < drawn_by:
            QApplication.processEvents()
            canvas = viewer.screenshot(canvas_only=True, flash=False)
            if canvas[..., :3].std() > 20:
                break
        assert canvas[..., :3].std() > 20  # a black canvas would be a layer that is not drawn
