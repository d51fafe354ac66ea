"""Whether the panel keeps napari awake beside a large lazy stack; needs a screen (or xvfb-run).

    python tests/bench/panel.py [--planes 256] [--side 2048] [--model nuclei-lowexp] [--stack PATH]

A real viewer shows a lazy stack of simulated nuclei (256 planes of 2048 x 2048 px: 2.1 GB). For each action of a user
the table tells the longest gap between two turns of Qt's event loop, and the longest stretch in which the main thread
was inside our code, sampled every 4 ms by another thread. The gaps of the first rows are napari's own, without a panel.
"""

import argparse
import os
import platform
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

OURS = str(Path("cellxlate") / "plugin")
SAMPLE_S = 0.004


class Watch:
    """Gaps of the event loop, and how long our code held the main thread, while an action goes on."""

    def __init__(self, application: Any) -> None:
        self._application, self._main = application, threading.main_thread().ident
        self._ended = threading.Event()
        self.longest_ours_s, self.where = 0.0, ""
        threading.Thread(target=self._sample, daemon=True).start()

    def _sample(self) -> None:
        began, last, inside = 0.0, 0.0, ""
        while not self._ended.wait(SAMPLE_S):
            frame, now, ours = sys._current_frames().get(self._main), time.perf_counter(), ""
            while frame is not None:
                if OURS in frame.f_code.co_filename:
                    ours = f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_name}"
                frame = frame.f_back
            if ours and ours == inside and now - last < 20 * SAMPLE_S:
                if now - began > self.longest_ours_s:
                    self.longest_ours_s, self.where = now - began, ours
            elif ours:
                began = last if last else now
            inside, last = ours, now

    def spin(self, holds: Callable[[], bool], longest_s: float = 60.0) -> float:
        """Run Qt's events until something holds; return the longest gap between two turns."""
        gap_s, end = 0.0, time.perf_counter() + longest_s
        while not holds():
            began = time.perf_counter()
            self._application.processEvents()
            gap_s = max(gap_s, time.perf_counter() - began)
            time.sleep(0.001)
            if time.perf_counter() > end:
                raise TimeoutError("it did not happen in time")
        return gap_s

    def rest(self, seconds: float) -> float:
        """Run Qt's events for some time."""
        end = time.perf_counter() + seconds
        return self.spin(lambda: time.perf_counter() > end)

    def row(self, what: str, gap_s: float, note: str = "") -> None:
        """Print what an action has cost, and forget it."""
        ours = f"{1000 * self.longest_ours_s:.0f} ({self.where})" if self.where else "0"
        print(f"| {what} | {1000 * gap_s:.0f} | {ours} | {note} |", flush=True)
        self.longest_ours_s, self.where = 0.0, ""


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """Return what a call returns, and its seconds."""
    began = time.perf_counter()
    result = call()
    return result, time.perf_counter() - began


def lazy_stack(planes: int, side: int) -> Any:
    """Return planes of simulated nuclei, each made from one tile when it is read."""
    import dask.array

    from cellxlate.stacks.synthetic import SampleSettings, simulate

    tile = np.asarray(simulate(SampleSettings(shape=(1, 1, 1, 512, 512), cell_fraction=0.15, seed=1)).stack).squeeze()
    plane = np.tile(tile, (-(-side // 512), -(-side // 512)))[:side, :side]

    def block(block_info: Any = None) -> Any:
        return np.roll(plane, 7 * block_info[None]["chunk-location"][0], axis=(0, 1))[None]

    return dask.array.map_blocks(block, chunks=((1,) * planes, side, side), dtype=np.uint16)


def settled(panel: Any) -> bool:
    """Return whether the preview has nothing left to do."""
    preview = panel.attention
    return not (preview._update_timer.isActive() or preview.is_running or preview._draw_timer.isActive())


def scroll(viewer: Any, watch: Watch, planes: int) -> float:
    """Go to ten planes, a fifth of a second each; return the longest gap, the change of plane included."""
    gap_s = 0.0
    for number in range(10):
        _, moved_s = timed(lambda place=number * planes // 10: viewer.dims.set_current_step(0, place))
        gap_s = max(gap_s, moved_s, watch.rest(0.2))
    return gap_s


def main() -> None:
    """Do what a user does, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--planes", type=int, default=256)
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--model", default="nuclei-lowexp")
    parser.add_argument("--stack", type=Path, help="a file or Zarr folder in place of the simulated stack")
    options = parser.parse_args()
    import napari
    from napari.qt import get_qapp

    viewer = napari.Viewer(show=True)
    watch = Watch(get_qapp())
    if options.stack:
        (layer,) = viewer.open(options.stack, plugin="cellxlate")
    else:
        layer = viewer.add_image(lazy_stack(options.planes, options.side), name="cells", contrast_limits=(90, 300))
    watch.rest(1.0)
    data = layer.data[0] if layer.multiscale else layer.data
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {data.shape}, "
          f"{data.nbytes / 1e9:.1f} GB\n")  # fmt: skip
    heads = ("action", "longest gap (ms)", "longest in our code (ms)", "note")
    print("| " + " | ".join(heads) + " |", "|" + "---|" * len(heads), sep="\n")
    watch.row("scroll, no panel", scroll(viewer, watch, len(data)))
    (_, panel), opened_s = timed(lambda: viewer.window.add_plugin_dock_widget("cellxlate", "Enhance cells"))
    watch.row("open the panel, the first time", max(opened_s, watch.rest(0.5)), f"{1000 * opened_s:.0f} ms in the call")
    panel.model_choice.value = options.model
    watch.rest(0.5)
    watch.row("choose a model", 0.0)
    began = time.perf_counter()
    panel.preview.value = True
    gap_s = watch.spin(lambda: len(viewer.layers) > 1 and viewer.layers[1].data.any())
    note = f"first attention after {time.perf_counter() - began:.2f} s"
    gap_s = max(gap_s, watch.spin(lambda: settled(panel)))
    watch.row("preview on", gap_s, f"{note}, all of the view after {time.perf_counter() - began:.2f} s")
    gap_s, drawn = 0.0, []
    for place in np.linspace(0.05, 0.6, 30):
        began = time.perf_counter()
        panel.threshold.value = round(float(place), 2)
        gap_s = max(gap_s, time.perf_counter() - began, watch.spin(lambda: settled(panel)))
        drawn.append(time.perf_counter() - began)
    watch.row("move the threshold", gap_s, f"drawn after {1000 * statistics.median(drawn):.0f} ms (median)")
    watch.row("scroll, preview on", scroll(viewer, watch, len(data)))
    gap_s = watch.spin(lambda: settled(panel))
    waits = []
    for place in (3, len(data) // 2, len(data) - 2):
        began = time.perf_counter()
        viewer.dims.set_current_step(0, place)
        gap_s = max(gap_s, watch.spin(lambda: settled(panel)))
        waits.append(time.perf_counter() - began)
    watch.row("a new plane", gap_s, f"its attention after {statistics.median(waits):.2f} s (median)")
    panel.preview.value = False
    watch.rest(0.5)
    watch.row("preview off", 0.0)
    panel.enhance_button.click()
    gap_s = watch.spin(lambda: panel.progress.value > 0 or not panel.is_running)
    gap_s = max(gap_s, scroll(viewer, watch, len(data)))
    pressed = time.perf_counter()
    panel.cancel_button.click()
    gap_s = max(gap_s, watch.spin(lambda: not panel.is_running))
    watch.row("enhance, scroll, cancel", gap_s, f"cancelled after {time.perf_counter() - pressed:.2f} s")
    viewer.close()


if __name__ == "__main__":
    main()
