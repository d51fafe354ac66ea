"""Make the pictures of docs/how-to/napari.md from the simulated sample; needs a screen (or xvfb-run).

`python docs/pictures/make_napari.py [MODEL]`
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import napari
from qtpy.QtWidgets import QApplication

from cellxlate.model.cards import DEFAULT_MODEL

FOLDER = Path(__file__).parent


def wait(holds: Callable[[], bool], longest_s: float = 300.0) -> None:
    """Let napari work until something holds, and a second more for it to be drawn."""
    end, drawn = time.monotonic() + longest_s, None
    while drawn is None or time.monotonic() < drawn:
        QApplication.processEvents()
        time.sleep(0.01)
        if drawn is None and holds():
            drawn = time.monotonic() + 1
        if time.monotonic() > end:
            raise TimeoutError("napari did not get there in time")


def preview_and_result(model: str) -> None:
    """Draw the preview at the threshold, then the two layers that an enhancement adds."""
    viewer = napari.Viewer(show=True)
    viewer.window.resize(1240, 800)
    viewer.open_sample("cellxlate", "nuclei")
    _, panel = viewer.window.add_plugin_dock_widget("cellxlate", "Enhance cells")
    panel.model_choice.value = model
    panel.preview.value = True
    wait(lambda: len(viewer.layers) == 3 and not panel.attention.is_running)
    viewer.scene.camera.zoom *= 1.9
    wait(lambda: True)
    viewer.screenshot(str(FOLDER / "napari_preview.png"), canvas_only=False, flash=False)
    panel.preview.value = False
    panel.enhance_button.click()
    wait(lambda: not panel.is_running)
    viewer.layers["faint nuclei attention"].visible = False
    wait(lambda: True)
    viewer.screenshot(str(FOLDER / "napari_enhanced.png"), canvas_only=False, flash=False)
    viewer.close()


if __name__ == "__main__":
    preview_and_result(sys.argv[1] if len(sys.argv) > 1 else DEFAULT_MODEL)
