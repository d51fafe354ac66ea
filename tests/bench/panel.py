"""Whether the panel keeps napari awake beside a large lazy stack; needs a screen (or xvfb-run).

    python tests/bench/panel.py [--planes 256] [--side 2048] [--model nuclei-lowexp] [--stack PATH]

A real viewer shows a lazy stack of simulated nuclei (256 planes of 2048 x 2048 px: 2.1 GB). For each action of a user
the table tells the longest gap between two turns of Qt's event loop, and the longest stretch in which the main thread
was inside our code or in what it called in napari, sampled every 4 ms by another thread. On a busy machine the
processor time of the longest gap says more than its length. The first row is napari's own, without a panel.
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
        self.longest_s = self.longest_cpu_s = 0.0
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

    def timed(self, call: Callable[[], Any]) -> Any:
        """Call something in the main thread, and return what it returns."""
        began, began_cpu = time.perf_counter(), time.thread_time()
        result = call()
        self.longest_s = max(self.longest_s, time.perf_counter() - began)
        self.longest_cpu_s = max(self.longest_cpu_s, time.thread_time() - began_cpu)
        return result

    def spin(self, holds: Callable[[], bool], longest_s: float = 120.0) -> None:
        """Run Qt's events until something holds."""
        end = time.perf_counter() + longest_s
        while not holds():
            self.timed(self._application.processEvents)
            time.sleep(0.001)
            if time.perf_counter() > end:
                raise TimeoutError("it did not happen in time")

    def rest(self, seconds: float) -> None:
        """Run Qt's events for some time."""
        end = time.perf_counter() + seconds
        self.spin(lambda: time.perf_counter() > end)

    def row(self, what: str, note: str = "") -> None:
        """Print what an action has cost, and forget it."""
        ours = f"{1000 * self.longest_ours_s:.0f} ({self.where})" if self.where else "0"
        gap_ms, cpu_ms = 1000 * self.longest_s, 1000 * self.longest_cpu_s
        print(f"| {what} | {gap_ms:.0f} | {cpu_ms:.0f} | {ours} | {note} |", flush=True)
        self.longest_ours_s, self.where = 0.0, ""
        self.longest_s = self.longest_cpu_s = 0.0


def lazy_stack(planes: int, side: int) -> Any:
    """Return planes of simulated nuclei, each made from one tile when it is read."""
    import dask.array

    from cellxlate.stacks.samples.nuclei import SampleSettings, simulate

    tile = np.asarray(simulate(SampleSettings(shape=(1, 1, 1, 512, 512), cell_fraction=0.15, seed=1)).stack).squeeze()
    plane = np.tile(tile, (-(-side // 512), -(-side // 512)))[:side, :side]

    def block(block_info: Any = None) -> Any:
        return np.roll(plane, 7 * block_info[None]["chunk-location"][0], axis=(0, 1))[None]

    return dask.array.map_blocks(block, chunks=((1,) * planes, side, side), dtype=np.uint16)


def settled(panel: Any) -> bool:
    """Return whether the preview has nothing left to do."""
    preview = panel.attention
    return not (preview._update_timer.isActive() or preview.is_running or preview._draw_timer.isActive())


def scroll(viewer: Any, watch: Watch, planes: int) -> None:
    """Go to ten planes, a fifth of a second each."""
    for number in range(10):
        watch.timed(lambda place=number * planes // 10: viewer.dims.set_current_step(0, place))
        watch.rest(0.2)


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
    heads = ("action", "longest gap (ms)", "its processor time (ms)", "longest in our code (ms)", "note")
    print("| " + " | ".join(heads) + " |", "|" + "---|" * len(heads), sep="\n")
    watch.longest_s = watch.longest_cpu_s = 0.0
    scroll(viewer, watch, len(data))
    watch.row("scroll, no panel")
    _, panel = watch.timed(lambda: viewer.window.add_plugin_dock_widget("cellxlate", "Enhance cells"))
    watch.row("open the panel, the first time")
    watch.rest(0.2)
    watch.row("draw it")
    panel.model_choice.value = options.model
    watch.rest(6.0)
    watch.row("load torch, model and engine in a worker")
    for turn in ("on, the first time", "on again"):
        began = time.perf_counter()
        watch.timed(lambda: setattr(panel.preview, "value", True))
        watch.spin(lambda: len(viewer.layers) > 1 and viewer.layers[1].data.any())
        note = f"first attention after {time.perf_counter() - began:.2f} s"
        watch.spin(lambda: settled(panel))
        watch.row(f"preview {turn}", f"{note}, all of the view after {time.perf_counter() - began:.2f} s")
        if "first" in turn:
            watch.timed(lambda: setattr(panel.preview, "value", False))
            watch.row("preview off (napari removes a layer)")
    drawn = []
    for place in np.linspace(0.05, 0.6, 30):
        began = time.perf_counter()
        watch.timed(lambda place=place: setattr(panel.threshold, "value", round(float(place), 2)))
        watch.spin(lambda: settled(panel))
        drawn.append(time.perf_counter() - began)
    watch.row("move the threshold", f"drawn after {1000 * statistics.median(drawn):.0f} ms (median)")
    scroll(viewer, watch, len(data))
    watch.spin(lambda: settled(panel))
    watch.row("scroll, preview on")
    waits = []
    for place in (3, len(data) // 2, len(data) - 2):
        began = time.perf_counter()
        watch.timed(lambda place=place: viewer.dims.set_current_step(0, place))
        watch.spin(lambda: settled(panel))
        waits.append(time.perf_counter() - began)
    watch.row("a new plane", f"all of its attention after {statistics.median(waits):.2f} s (median)")
    watch.timed(lambda: setattr(panel.preview, "value", False))
    watch.rest(0.5)
    watch.row("preview off")
    panel.enhance_button.click()
    watch.spin(lambda: panel.progress.value > 0 or not panel.is_running)
    scroll(viewer, watch, len(data))
    pressed = time.perf_counter()
    panel.cancel_button.click()
    watch.spin(lambda: not panel.is_running)
    watch.row("enhance, scroll, cancel", f"cancelled after {time.perf_counter() - pressed:.2f} s")
    viewer.close()


if __name__ == "__main__":
    main()
