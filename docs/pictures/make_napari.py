"""Make the pictures of docs/how-to/napari.md from the simulated sample; needs a screen (or xvfb-run).

`python docs/pictures/make_napari.py [MODEL]`
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import napari
import numpy as np
from qtpy.QtWidgets import QApplication

from cellxlate.model.cards import DEFAULT_MODEL
from cellxlate.stacks.samples.nuclei import SampleSettings, simulate
from cellxlate.stacks.write.copy import write_stacks

FOLDER = Path(__file__).resolve().parent
SIZE = 1280, 720
"""Of the whole window: a small laptop."""


def wait(holds: Callable[[], bool], longest_s: float = 600.0) -> None:
    """Let napari work until something holds, and a second more for it to be drawn."""
    end, drawn = time.monotonic() + longest_s, None
    while drawn is None or time.monotonic() < drawn:
        QApplication.processEvents()
        time.sleep(0.01)
        if drawn is None and holds():
            drawn = time.monotonic() + 1
        if time.monotonic() > end:
            raise TimeoutError("napari did not get there in time")


def take(viewer: napari.Viewer, name: str) -> None:
    """Save what the window shows."""
    wait(lambda: True)
    viewer.screenshot(str(FOLDER / name), canvas_only=False, flash=False)


def preview_and_result(model: str) -> None:
    """Draw the preview at the threshold, then the swipe between input and result, as both appear."""
    viewer = napari.Viewer(show=True)
    viewer.window.resize(*SIZE)
    viewer.open_sample("cellxlate", "nuclei")
    _, panel = viewer.window.add_plugin_dock_widget("cellxlate", "Enhance cells")
    panel.model_choice.value = model
    panel.preview.value = True
    wait(lambda: len(viewer.layers) == 2 and not panel.attention.is_running)
    take(viewer, "napari_preview.png")
    panel.preview.value = False
    panel.enhance_button.click()
    wait(lambda: not panel.is_running)
    panel.compare.mode.value = "swipe"
    wait(lambda: panel.compare.comparison.is_settled)
    take(viewer, "napari_swipe.png")
    viewer.close()


def training(looks: int = 12) -> None:
    """Draw the training panel after some looks."""
    viewer = napari.Viewer(show=True)
    viewer.window.resize(*SIZE)
    (faint,) = viewer.open_sample("cellxlate", "nuclei_time")
    clear = np.asarray(simulate(SampleSettings(shape=(8, 1, 1, 320, 320), cell_fraction=0.2, seed=5)).truth).squeeze()
    place = {"scale": faint.scale, "units": faint.units, "axis_labels": faint.axis_labels}
    target = viewer.add_image(clear, name="clear nuclei", visible=False, **place)
    viewer.layers.selection.active = faint
    _, panel = viewer.window.add_plugin_dock_widget("cellxlate", "Train translator")
    panel.source.value, panel.target.value = faint, target
    panel.steps.value = 300
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        panel.output.value = Path("my-model")
        panel.train_button.click()
        wait(lambda: len(panel._looks) >= looks or not panel.is_running)
        take(viewer, "napari_train.png")
        panel.stop_button.click()
        wait(lambda: not panel.is_running)
        os.chdir(FOLDER)
    viewer.close()


def many_files() -> None:
    """Draw the panel of many files when three of four are done, with the result of one."""
    viewer = napari.Viewer(show=True)
    viewer.window.resize(*SIZE)
    _, panel = viewer.window.add_plugin_dock_widget("cellxlate", "Enhance many files")
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        folder = Path("screen")
        folder.mkdir()
        samples = [
            simulate(SampleSettings(shape=(1, 1, 1, 512, 512), cell_fraction=0.15, seed=seed)) for seed in (1, 2, 3)
        ]
        write_stacks([(sample.stack, folder / f"day_{day}.ome.tif") for day, sample in enumerate(samples, 1)])
        (folder / "day_4.ome.tif").write_bytes((folder / "day_1.ome.tif").read_bytes()[:2000])
        panel.folder.value = folder
        wait(lambda: len(panel.results.rows) == 4)
        panel.enhance_button.click()
        wait(lambda: not panel.is_running)
        panel.results.click(1)
        wait(lambda: not panel.row_layers.is_opening)
        take(viewer, "napari_many.png")
        viewer.close()
        os.chdir(FOLDER)


if __name__ == "__main__":
    preview_and_result(sys.argv[1] if len(sys.argv) > 1 else DEFAULT_MODEL)
    training()
    many_files()
