"""Attention over an image: its colours, and a live preview for the visible plane."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QTimer

from cellxlate.enhancement.preview import AttentionPlane
from cellxlate.enhancement.tiling import BLOCK_PX, Tile
from cellxlate.errors import CellxlateError
from cellxlate.model.attention import ATTENTION_STEPS
from cellxlate.model.engines import Device
from cellxlate.plugin.enhancing import Refusal, StopRequest
from cellxlate.plugin.layers import appearance, channel_of_plane, in_layer_shape, layer_stack, visible_plane
from cellxlate.plugin.previewing import AttentionCache, News, PreviewRequest, preview_steps, shown_part
from cellxlate.stacks.stack import PlaneIndex, Stack

if TYPE_CHECKING:
    from napari.layers import Image
    from napari.utils import Colormap
    from napari.viewer import Viewer

DEBOUNCE_MS = 40
REDRAW_MS = 150
PREVIEW = "cellxlate_preview"
"""Marks the preview's layers in their metadata, so that panels do not offer them as images."""
OUTLINE_RGB = (1.0, 0.37, 0.64)


@cache
def attention_colormap() -> "Colormap":
    """Return viridis, which is perceptually uniform and safe for colour-blind readers, with 0 (kept) transparent."""
    from napari.utils import Colormap
    from napari.utils.colormaps import ensure_colormap

    colours = np.array(ensure_colormap("viridis").map(np.linspace(0, 1, 256)))  # (256, 4)
    colours[0, 3] = 0.0
    return Colormap(colours, name="attention (viridis)", display_name="attention (viridis)")


@cache
def outline_colormap() -> "Colormap":
    """Return a colormap of two colours: nothing, and a pink that stands out from viridis and from grey."""
    from napari.utils import Colormap

    colours = [(*OUTLINE_RGB, 0.0), (*OUTLINE_RGB, 1.0)]
    return Colormap(colours, name="outline", interpolation="zero", controls=[0.0, 0.5, 1.0])


def outline_of(selected: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """Return 1 on selected pixels (..., Y, X) that have a neighbour, in a row or a column, which is not selected.

    Notes
    -----
    An image layer of it is drawn some ten times faster than the contour of a labels layer.
    """
    inner = selected.copy()
    inner[..., 1:, :] &= selected[..., :-1, :]
    inner[..., :-1, :] &= selected[..., 1:, :]
    inner[..., 1:] &= selected[..., :-1]
    inner[..., :-1] &= selected[..., 1:]
    return (selected & ~inner).astype(np.uint8)


@dataclass(frozen=True)
class Wanted:
    """What the preview is to show: the plane of a layer under a model, above a threshold."""

    layer: "Image"
    axes: str | None
    model: str
    device: Device
    threshold: float


@dataclass(frozen=True)
class View:
    """A plane that is being shown, with what is known of its attention."""

    layer: "Image"
    stack: Stack
    plane: PlaneIndex
    key: tuple[Any, ...]
    attention: AttentionPlane


class AttentionPreview:
    """Keeps an attention layer and an outline over the visible plane while it is on.

    Parameters
    ----------
    viewer : Viewer
        Where the layers are shown.
    wanted : callable
        Returns what is to be shown, or None.
    say : callable
        Takes one line: the selected area, or what is wrong.
    ended : callable
        Called when the user has removed a layer of the preview.

    Notes
    -----
    Attention runs once per plane and model, in a worker. The threshold is looked up in a table of 1025 entries.
    """

    def __init__(
        self,
        viewer: "Viewer",
        *,
        wanted: Callable[[], Wanted | None],
        say: Callable[[str], None],
        ended: Callable[[], None],
    ) -> None:
        self._viewer, self._wanted, self._say, self._ended = viewer, wanted, say, ended
        self._cache = AttentionCache()
        self._view: View | None = None
        self._drawn: Any = None
        self._layers: list[Any] = []
        self._request: PreviewRequest | None = None
        self._planning: tuple[Any, ...] | None = None
        self._worker: Any = None
        self._under_cursor = ""
        self._update_timer, self._draw_timer = _single_shot(self._update), _single_shot(self._draw)
        self.is_on = False

    @property
    def is_running(self) -> bool:
        """Whether attention is being computed."""
        return self._request is not None

    def switch(self, on: bool) -> None:
        """Start or end the preview."""
        if on == self.is_on:
            return
        self.is_on = on
        camera = getattr(self._viewer, "scene", self._viewer).camera  # before napari 0.9 the viewer's own
        events = self._viewer.dims.events.current_step, camera.events.zoom, camera.events.center
        for event in (*events, self._viewer.layers.events.removed):
            if on:
                event.connect(self._moved)
            else:
                event.disconnect(self._moved)
        if on:
            self._viewer.mouse_move_callbacks.append(self._cursor)
            self.update()
        else:
            self._viewer.mouse_move_callbacks.remove(self._cursor)
            self._clear()
            self._say("")

    def update(self) -> None:
        """Show what is wanted now, a moment later."""
        if self.is_on:
            self._update_timer.start(DEBOUNCE_MS)

    def threshold_moved(self) -> None:
        """Apply another threshold to what is known."""
        if self.is_on and self._view is not None:
            self._tell()
            self._draw_timer.start(0)

    def forget(self) -> None:
        """Drop what is known, because pixels have changed."""
        self._stop()
        self._cache.clear()
        self._view = self._drawn = None
        self.update()

    def _moved(self, _: Any = None) -> None:
        if self._layers and any(layer not in self._viewer.layers for layer in self._layers):
            self._ended()
        else:
            self.update()

    def abandon(self) -> None:
        """Stop everything without touching the viewer, whose window may be gone; layers stay."""
        self._layers = []
        self.switch(False)
        await_end(self._worker)

    def _clear(self) -> None:
        """Take the preview's layers away, and forget what was shown."""
        self._stop()
        layers, self._layers, self._view, self._drawn = self._layers, [], None, None
        for layer in layers:
            if layer in self._viewer.layers:
                self._viewer.layers.remove(layer)
        for timer in (self._update_timer, self._draw_timer):
            timer.stop()

    def _stop(self) -> None:
        if self._request is not None:
            self._request.stop.ask()
        self._request = self._planning = None

    # From what is wanted to attention

    def _update(self) -> None:
        wanted = self._wanted()
        if wanted is None or wanted.layer not in self._viewer.layers:
            self._clear()
            return
        stop = StopRequest()
        try:
            stack = layer_stack(wanted.layer, wanted.axes, check=stop.check)
            plane = visible_plane(wanted.layer, stack, self._viewer.dims.point)
        except CellxlateError as fault:
            self._clear()
            self._say(str(fault))
            return
        key = (wanted.layer.unique_id, stack.axes, wanted.model, wanted.device, plane)
        plan_key = (*key[:-1], channel_of_plane(stack.axes, plane))
        if self._view is None or self._view.key != key:
            if self._planning != plan_key:  # levels that are being measured serve this plane too
                self._stop()
            attention = self._cache.plane(key, stack.plane_shape)
            self._view = View(wanted.layer, stack, plane, key, attention)
        self._draw_timer.start(0)
        blocks = tuple(self._view.attention.missing(visible_part(self._view, self._viewer.dims.ndisplay)))
        if blocks and self._request is None:
            plan = self._cache.plans.get(plan_key)
            self._planning = None if plan else plan_key
            self._request = PreviewRequest(stack, plane, wanted.model, wanted.device, blocks, stop, plan)
            self._compute(self._request, plan_key)
        self._tell()

    def _compute(self, request: PreviewRequest, plan_key: tuple[Any, ...]) -> None:
        from napari.qt.threading import thread_worker

        self._worker = worker = thread_worker(preview_steps, ignore_errors=True)(request)
        worker.yielded.connect(lambda news: self._news(request, news, plan_key))
        worker.returned.connect(lambda refusal: self._computed(request, refusal))
        worker.errored.connect(lambda fault: self._computed(request, Refusal(f"{type(fault).__name__}: {fault}")))
        worker.start()

    def _news(self, request: PreviewRequest, news: News, plan_key: tuple[Any, ...]) -> None:
        if self._request is not request or self._view is None:
            return
        if not isinstance(news, tuple):
            self._cache.plans[plan_key], self._planning = news, None
            if request.plane != self._view.plane:
                self._stop()
                self.update()
            return
        self._view.attention.add(*news)
        self._tell()
        if not self._draw_timer.isActive():
            self._draw_timer.start(REDRAW_MS)

    def _computed(self, request: PreviewRequest, refusal: Refusal | None) -> None:
        if self._request is not request:
            return
        self._request = self._planning = None
        if refusal is not None:
            self._say(refusal.reason)
        elif self._view is not None:
            self._tell()
            self._draw_timer.start(0)
            if self._view.attention.missing(visible_part(self._view, self._viewer.dims.ndisplay)):
                self.update()  # the camera has moved meanwhile

    # From attention to layers

    def _tell(self) -> None:
        wanted, view = self._wanted(), self._view
        if wanted is None or view is None:
            return
        if not view.attention.known_px:
            self._say("Attention is being computed ..." if self.is_running else "")
            return
        self._say(area_text(view, wanted.threshold) + self._under_cursor)

    def _draw(self) -> None:
        wanted, view = self._wanted(), self._view
        if not self.is_on or wanted is None or view is None or view.layer not in self._viewer.layers:
            return
        part, every_px = shown_part(view.attention.steps.shape, visible_part(view, self._viewer.dims.ndisplay))
        drawn = (view.key, part, every_px, wanted.threshold, view.attention.known_px)
        if drawn == self._drawn or not view.attention.known_px:
            return
        self._drawn = drawn
        shown = view.attention.image(wanted.threshold, part, every_px)
        axes = view.stack.axes.replace("S", "")
        turned = axes.index("X") < axes.index("Y")
        self._put(in_layer_shape(shown.T if turned else shown, axes), place_of_part(view, part, every_px))

    def _put(self, shown: Any, place: dict[str, Any]) -> None:
        """Show an attention image and its outline in the two layers, which are made where they are missing."""
        outline = outline_of(shown > 0)
        if self._layers:
            for layer, data in zip(self._layers, (shown, outline), strict=True):
                if layer.data.shape == data.shape:
                    layer.data[...] = data
                    layer.refresh(extent=False, highlight=False)  # a third of the time of a new array
                else:
                    layer.data = data
                if not np.allclose(layer.scale, place["scale"]) or not np.allclose(layer.translate, place["translate"]):
                    layer.scale, layer.translate = place["scale"], place["translate"]
            return
        active = self._viewer.layers.selection.active
        mark = {PREVIEW: True}
        self._layers = [
            self._viewer.add_image(
                shown, name="attention preview", colormap=attention_colormap(), contrast_limits=(0, 255),
                blending="translucent", opacity=0.5, metadata=mark, **place,
            ),
            self._viewer.add_image(
                outline, name="outline at the threshold", colormap=outline_colormap(), contrast_limits=(0, 1),
                blending="translucent", opacity=1.0, metadata=mark, **place,
            ),
        ]  # fmt: skip
        self._viewer.layers.selection.active = active

    def _cursor(self, _viewer: Any, event: Any) -> None:
        """Tell the attention under the cursor."""
        value = attention_at(self._view, event.position) if self._view is not None else None
        self._under_cursor = "" if value is None else f"; under the cursor {value:.2f}"
        self._tell()


def visible_part(view: View, ndisplay: int) -> Tile:
    """Return the part of the plane that the canvas shows; all of it in 3-D, or where there is no canvas."""
    rows, columns = view.stack.plane_shape
    corners = np.asarray(view.layer.corner_pixels, dtype=float)
    if view.layer.multiscale:
        corners = corners * view.layer.downsample_factors[view.layer.data_level]
    axes = view.stack.axes.replace("S", "")
    (top, left), (bottom, right) = corners[:, [axes.index("Y"), axes.index("X")]]
    if ndisplay != 2 or bottom - top < 1 or right - left < 1:
        return Tile(0, rows, 0, columns)
    return Tile(max(int(top), 0), min(ceil(bottom) + 1, rows), max(int(left), 0), min(ceil(right) + 1, columns))


def place_of_part(view: View, part: Tile, every_px: int) -> dict[str, Any]:
    """Return where a part of a plane lies, drawn every so many pixels, as `add_image` takes it."""
    axes = view.stack.axes.replace("S", "")
    first = {"Y": part.top + (every_px - 1) / 2, "X": part.left + (every_px - 1) / 2}
    first |= dict(zip((axis for axis in axes if axis in "TCZ"), map(float, view.plane), strict=True))
    place = dict(appearance(view.layer, axes, view.plane).place)
    place["translate"] = tuple(view.layer.affine.inverse(view.layer.data_to_world([first[axis] for axis in axes])))
    steps = (every_px if axis in "YX" else 1 for axis in axes)
    place["scale"] = tuple(size * step for size, step in zip(place["scale"], steps, strict=True))
    return place


def area_text(view: View, threshold: float) -> str:
    """Say how much of a plane lies above a threshold, in percent and in square micrometres where they are known."""
    known_px, all_px = view.attention.known_px, view.attention.steps.size
    selected_px = view.attention.selected_px(threshold)
    of = "this plane" if known_px == all_px else f"the {known_px / all_px:.0%} seen so far"
    text = f"{selected_px / known_px:.1%} of {of}"
    sizes_um = view.stack.pixel_size_um
    if {"Y", "X"} <= set(sizes_um):
        text += f", {selected_px * sizes_um['Y'] * sizes_um['X']:,.0f} µm²"
    return text


def attention_at(view: View, world: Sequence[float]) -> float | None:
    """Return attention in [0, 1] at a point of the world; None outside the plane, or where it is not known."""
    axes = view.stack.axes.replace("S", "")
    at = np.atleast_1d(view.layer.world_to_data(tuple(world)))
    row, column = round(float(at[axes.index("Y")])), round(float(at[axes.index("X")]))
    rows, columns = view.attention.steps.shape
    if not (0 <= row < rows and 0 <= column < columns):
        return None
    corner = row // BLOCK_PX * BLOCK_PX, column // BLOCK_PX * BLOCK_PX
    return float(view.attention.steps[row, column]) / ATTENTION_STEPS if corner in view.attention.known else None


def await_end(worker: Any, longest_s: float = 3.0) -> None:
    """Wait for a worker that has been asked to stop: its signals must not outlive the application."""
    end = time.monotonic() + longest_s
    while worker is not None and worker.is_running and time.monotonic() < end:
        time.sleep(0.01)


def _single_shot(call: Callable[[], None]) -> QTimer:
    timer = QTimer()
    timer.setSingleShot(True)
    timer.timeout.connect(call)
    return timer
