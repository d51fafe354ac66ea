"""Attention over an image: a live preview for the visible plane."""

from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from qtpy.QtCore import QTimer

from cellxlate.enhancement.preview import AttentionPlane
from cellxlate.enhancement.tiling import BLOCK_PX, Tile
from cellxlate.errors import CellxlateError, said
from cellxlate.model.attention import ATTENTION_STEPS
from cellxlate.model.cards import AUTO
from cellxlate.plugin.beside import layers_of, seen_together
from cellxlate.plugin.controls import NEIGHBOURS
from cellxlate.plugin.drawing import (
    flat_pixels,
    flat_place,
    lay_over,
    moves,
    overlay_colormap,
    visible_part,
    with_contour,
)
from cellxlate.plugin.layers import channel_of_plane, layer_stack, visible_plane
from cellxlate.plugin.preview.cache import AttentionCache, Computed, PlanMade, PreviewRequest, shown_part
from cellxlate.plugin.requests import Refusal, StopRequest
from cellxlate.plugin.working import await_end, begin
from cellxlate.settings import Along, Color
from cellxlate.stacks.stack import PlaneIndex, Stack

if TYPE_CHECKING:
    from napari.layers import Image
    from napari.viewer import Viewer

    from cellxlate.enhancement.plan import Plan
    from cellxlate.model.engines.engine import Device, Engine

DEBOUNCE_MS = 40
REDRAW_MS = 150


class Gate(Protocol):
    """What gates in place of attention of the plane itself: a channel, or what is given for a stack."""

    @property
    def channel(self) -> int | None: ...  # noqa: D102

    @property
    def key(self) -> object: ...  # noqa: D102

    def given(self, like: Stack, /) -> Stack | str | None: ...  # noqa: D102


@dataclass(frozen=True)
class Wanted:
    """What the preview is to show: the plane of a layer under a model, above a threshold.

    Where the model is "auto" it is chosen for `channels`: None takes all, an empty tuple that of the plane. `context`
    says which planes beside it are looked at, `color` what becomes of red, green and blue.
    """

    layer: "Image"
    axes: str | None
    model: str
    device: "Device"
    engine: "Engine"
    threshold: float
    channels: tuple[int, ...] | None = None
    gate: "Gate | None" = None
    context: Along = "auto"
    color: Color = "luminance"


@dataclass(frozen=True)
class ShownPlane:
    """A plane that is being shown, with what is known of its attention."""

    layer: "Image"
    stack: Stack
    plane: PlaneIndex
    key: tuple[Any, ...]
    attention: AttentionPlane


class AttentionPreview:
    """Keeps a layer of attention, with a contour at the threshold, over the visible plane while it is on.

    Parameters
    ----------
    viewer : Viewer
        Where the layers are shown.
    wanted : callable
        Returns what is to be shown, or None.
    say : callable
        Takes one line: the selected area, or what is wrong.
    ended : callable
        Called when the user has removed the layer of the preview.

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
        self._view: ShownPlane | None = None
        self._drawn: Any = None
        self._layer: Any = None
        self._request: PreviewRequest | None = None
        self._planning: tuple[Any, ...] | None = None
        self._worker: Any = None
        self._under_cursor = self._chosen = ""
        self._update_timer, self._draw_timer = single_shot(self._update), single_shot(self._draw)
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
        for event in (*moves(self._viewer), self._viewer.layers.events.removed):
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
        if self.is_on and not self._update_timer.isActive():
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
        if self._layer is not None and self._layer not in self._viewer.layers:
            self._ended()
        else:
            self.update()

    def abandon(self) -> None:
        """Stop everything without touching the viewer, whose window may be gone; layers stay."""
        self._layer = None
        with suppress(RuntimeError):  # timers may be gone already, where the application ends
            self.switch(False)
        await_end(self._worker)

    def _clear(self) -> None:
        """Take the preview's layers away, and forget what was shown."""
        self._stop()
        layer, self._layer, self._view, self._drawn = self._layer, None, None, None
        if layer is not None and layer in self._viewer.layers:
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
            self._say("")
            return
        stop = StopRequest()
        try:
            stack = layer_stack(wanted.layer, wanted.axes, check=stop.check)
            plane = visible_plane(wanted.layer, stack, self._viewer.dims.point)
            together = seen_together(wanted.layer, stack, self._viewer.layers, wanted.model)
        except CellxlateError as fault:
            self._clear()
            self._say(said(fault, by="panel"))
            return
        model = (wanted.model, wanted.channels) if wanted.model == AUTO else wanted.model
        gate = wanted.gate
        gated = gate.key if gate else None
        key = (
            wanted.layer.unique_id, layers_of(together), stack.axes, model, wanted.device, wanted.engine, gated,
            wanted.context, wanted.color, plane,
        )  # fmt: skip
        plan_key = (*key[:-1], channel_of_plane(stack.axes, plane))
        if self._view is None or self._view.key != key:
            if self._planning != plan_key:  # levels that are being measured serve this plane too
                self._stop()
            attention = self._cache.plane(key, stack.plane_shape)
            self._view = ShownPlane(wanted.layer, stack, plane, key, attention)
        self._draw_timer.start(0)
        blocks = tuple(self._view.attention.missing(self._visible(self._view)))
        plan = self._cache.plans.get(plan_key)
        self._chosen = chosen_words(plan, wanted) if plan else ""
        if blocks and self._request is None:
            self._planning = None if plan else plan_key
            request = self._request = PreviewRequest(
                stack, plane, wanted.model, wanted.device, wanted.engine, blocks, stop, plan, wanted.channels,
                gate.channel if gate else None, gate.given(stack) if gate and not plan else None, wanted.context,
                together, wanted.color,
            )  # fmt: skip
            self._worker = begin(
                _preview_steps, request, news=partial(self._news, plan_key=plan_key), ended=self._computed
            )
        self._tell()

    def _news(self, request: PreviewRequest, news: PlanMade | Computed, *, plan_key: tuple[Any, ...]) -> None:
        if self._request is not request or self._view is None:
            return
        if isinstance(news, PlanMade):
            self._cache.plans[plan_key], self._planning = news.plan, None
            self._chosen = chosen_words(news.plan, request)
            if request.plane != self._view.plane:
                self._stop()
                self.update()
        elif request.plane == self._view.plane:
            self._view.attention.add(news.block, news.steps, estimated=news.estimated)
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
            if self._view.attention.missing(self._visible(self._view)):
                self.update()  # the camera has moved meanwhile

    def _visible(self, view: ShownPlane) -> Tile:
        return visible_part(view.layer, view.stack, self._viewer.dims.ndisplay)

    # From attention to the layer

    def _tell(self) -> None:
        wanted, view = self._wanted(), self._view
        if wanted is None or view is None:
            return
        if not view.attention.known_px:
            self._say("Attention is being computed ..." if self.is_running else "")
            return
        estimate = "; a first estimate" if view.attention.estimated else ""
        self._say(area_text(view, wanted.threshold) + self._under_cursor + estimate + self._chosen)

    def _draw(self) -> None:
        wanted, view = self._wanted(), self._view
        if not self.is_on or wanted is None or view is None or view.layer not in self._viewer.layers:
            return
        part, every_px = shown_part(view.stack.plane_shape, self._visible(view))
        state = view.attention.known_px, len(view.attention.known)
        drawn = (view.key, part, every_px, wanted.threshold, state)
        if drawn == self._drawn or not (state[0] or self._layer):
            return
        self._drawn = drawn
        shown = with_contour(view.attention.image(wanted.threshold, part, every_px))
        axes = view.stack.axes
        self._layer = lay_over(
            self._viewer, self._layer, flat_pixels(shown, axes),
            flat_place(view.layer, axes, view.plane, part, every_px), name="attention preview",
            colormap=overlay_colormap(), contrast_limits=(0, 255), blending="translucent",
        )  # fmt: skip

    def _cursor(self, _viewer: Any, event: Any) -> None:
        """Tell the attention under the cursor."""
        value = attention_at(self._view, event.position) if self._view is not None else None
        self._under_cursor = "" if value is None else f"; under the cursor {value:.2f}"
        self._tell()


def area_text(view: ShownPlane, threshold: float) -> str:
    """Say how much of a plane lies above a threshold, in percent and in square micrometres where they are known."""
    known_px, all_px = view.attention.known_px, view.attention.steps.size
    selected_px = view.attention.selected_px(threshold)
    of = "this plane" if known_px == all_px else f"the {known_px / all_px:.0%} seen so far"
    text = f"{selected_px / known_px:.1%} of {of}"
    sizes_um = view.stack.pixel_size_um
    if {"Y", "X"} <= set(sizes_um):
        text += f", {selected_px * sizes_um['Y'] * sizes_um['X']:,.0f} µm²"
    return text


def chosen_words(plan: "Plan", wanted: Wanted | PreviewRequest) -> str:
    """Say which model and which neighbours were taken, where that was left open."""
    model = f"; model {plan.bundle.name}" if wanted.model == AUTO else ""
    along = {value: words for words, value in NEIGHBOURS}.get(plan.jobs[0].context.along, "")
    return model + (f"; neighbours {along}" if along and wanted.context == "auto" else "")


def attention_at(view: ShownPlane, world: Sequence[float]) -> float | None:
    """Return attention in [0, 1] at a point of the world; None outside the plane, or where it is not known."""
    axes = view.stack.axes.replace("S", "")
    at = np.atleast_1d(view.layer.world_to_data(tuple(world)))
    row, column = round(float(at[axes.index("Y")])), round(float(at[axes.index("X")]))
    rows, columns = view.attention.steps.shape
    if not (0 <= row < rows and 0 <= column < columns):
        return None
    corner = row // BLOCK_PX * BLOCK_PX, column // BLOCK_PX * BLOCK_PX
    return float(view.attention.steps[row, column]) / ATTENTION_STEPS if corner in view.attention.known else None


def single_shot(call: Callable[[], None], owner: Any = None) -> QTimer:
    """Return a timer that calls once each time it is started; it ends with the QObject that owns it, if one does."""
    timer = QTimer(owner)
    timer.setSingleShot(True)
    timer.timeout.connect(call)
    return timer


def warm_up(model: str, engine: "Engine", device: "Device") -> Any:
    """Load in a worker what the first preview will need, so that it comes at once; return the worker."""
    return begin(_warm_steps, (model, engine, device))


def _warm_steps(wanted: "tuple[str, Engine, Device]") -> Generator[None, None, None]:
    from cellxlate.plugin.preview.steps import warm_steps  # loads torch, which must not happen in the main thread

    yield from warm_steps(wanted)


def _preview_steps(request: PreviewRequest) -> "Generator[PlanMade | Computed, None, None]":
    from cellxlate.plugin.preview.steps import preview_steps  # loads torch, which must not happen in the main thread

    yield from preview_steps(request)
