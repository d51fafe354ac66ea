"""The rows of a panel in which attention is taught by strokes."""

import math
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from magicgui.widgets import CheckBox, ComboBox, Container, FileEdit
from psygnal import Signal

from cellxlate.errors import CellxlateError, InputError, OptionError, said
from cellxlate.plugin.controls import ClickButton, PanelText, chosen_path
from cellxlate.plugin.drawing import OURS
from cellxlate.plugin.layers import shown_channel
from cellxlate.plugin.models import SHELF
from cellxlate.plugin.painting import add_labels_over
from cellxlate.plugin.preview.overlay import single_shot
from cellxlate.plugin.requests import Refusal, StopRequest
from cellxlate.plugin.strokes.steps import StrokeRequest, Taught, folder_name, stroke_steps, strokes_key
from cellxlate.plugin.working import await_end, begin
from cellxlate.settings import BACKGROUND, CELL
from cellxlate.stacks.stack import Stack

if TYPE_CHECKING:
    from napari.layers import Image
    from napari.viewer import Viewer

PAUSE_MS = 300
"""After the last stroke, before learning begins."""
BRUSH_PX = 4
MOST_PX = 500_000_000
"""Of a layer: all of its strokes are looked through after each."""
CELL_RGBA = (0.2, 0.9, 1.0, 1.0)
COLOURS: dict[int | None, Any] = {
    None: CELL_RGBA, 0: (0.0, 0.0, 0.0, 0.0), BACKGROUND: (1.0, 0.6, 0.1, 1.0), CELL: CELL_RGBA,
}  # fmt: skip
"""Orange and cyan, which every reader can tell apart; None stands for other labels, which are cells too."""
STROKES_ON = "cellxlate_strokes_on"
"""In the metadata of strokes: the image layer they were painted on, where a panel finds them again."""
BRUSHES = [("cell", CELL), ("background", BACKGROUND), ("eraser", 0)]


@dataclass(frozen=True)
class PaintedLayer:
    """What is painted on: an image layer with its axes, None where it says them itself, and the model to begin from."""

    layer: "Image"
    axes: str | None
    model: str


class StrokeControls:
    """Paint inside and outside of a few cells; attention learns from the strokes as they stand, and from nothing else.

    Parameters
    ----------
    viewer : Viewer
        Where the layers are.
    canvas : callable
        Returns what is painted on, or None.

    Attributes
    ----------
    switch, brush, save_as, save_button, cancel_button, state : widgets
        On or off; what is painted; the folder of the model and a button that writes it; a button that ends learning;
        what is going on.
    rows : list of widgets
        All of them, for a panel.
    taught : Signal
        Emitted when `model` has changed.
    """

    taught = Signal()

    def __init__(self, viewer: "Viewer", canvas: Callable[[], PaintedLayer | None]) -> None:
        self._viewer, self._canvas = viewer, canvas
        self._labels: Any = None
        self._renewed = 0
        self._folder: Path | None = None
        self._model: Path | None = None
        self._request: StrokeRequest | None = None
        self._worker: Any = None
        self.switch = CheckBox(
            text="Teach with strokes",
            tooltip="Paint inside and outside of a few cells; attention learns from that within seconds.",
        )
        self.brush = ComboBox(
            label="Brush", choices=BRUSHES, value=CELL, tooltip="What the next stroke says. Ctrl-Z takes strokes back."
        )
        self.save_as = FileEdit(label="Save as", mode="w", tooltip="The model folder to make; must not exist.")
        self.save_button = ClickButton(text="Save model", enabled=False, tooltip="Keep what the strokes have taught.")
        self.cancel_button = ClickButton(text="Stop learning", enabled=False, tooltip="Until the next stroke.")
        self.state = PanelText()
        buttons = Container(widgets=[self.save_button, self.cancel_button], layout="horizontal", labels=False)
        buttons.margins = (0, 0, 0, 0)
        self.rows = [self.switch, self.brush, self.state, self.save_as, buttons]
        self._timer = single_shot(self._learn)
        viewer.layers.events.removed.connect(self._layer_removed)
        self.switch.changed.connect(self._switched)
        self.brush.changed.connect(self._take_brush)
        self.save_button.changed.connect(self._save)
        self.cancel_button.changed.connect(self.stop)
        self.show(False)

    @property
    def model(self) -> str | None:
        """Folder of the model that the strokes have taught, while this is on."""
        return str(self._model) if self._model is not None and self.switch.value else None

    @property
    def is_running(self) -> bool:
        """Whether attention is learning."""
        return self._request is not None

    def show(self, shown: bool) -> None:
        """Show or hide all rows but the first."""
        for row in self.rows[1:]:
            row.visible = shown

    def look_at_new_pixels(self, _: Any = None) -> None:
        """Learn again: the image has other pixels."""
        self._renewed += 1
        self.look_again()

    def look_again(self, _: Any = None) -> None:
        """Learn a moment later, where the strokes, the model or the image have changed."""
        if self.switch.value:
            self._timer.start(PAUSE_MS)

    def stop(self, _: Any = None) -> None:
        """End learning; the last model stays."""
        if self._request is not None:
            self._request.stop.ask()
            self._request = None
            self.cancel_button.enabled = False
            self._say("Stopped. The next stroke goes on.")

    def leave(self) -> None:
        """End without touching the viewer, whose window may be gone."""
        if self._request is not None:
            self._request.stop.ask()
        self._request = None
        self._viewer.layers.events.removed.disconnect(self._layer_removed)
        with suppress(RuntimeError):  # gone already, where the application ends
            self._timer.stop()
        await_end(self._worker)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _say(self, text: str) -> None:
        if self.switch.value:
            self.state.value = text

    # The layer of strokes

    def _switched(self, on: bool) -> None:
        self.show(on)
        if on:
            self._look_at_canvas()
            self.look_again()
        else:
            self.stop()
            self._timer.stop()
            self._use(None)
            self.state.value = ""
            self.taught.emit()

    def _look_at_canvas(self) -> bool:
        """Give the image a layer of strokes, where it has none; return whether it has one."""
        canvas = self._canvas()
        if canvas is None:
            self._use(None)
            self._say("Choose an image and a model first.")
            return False
        try:
            stack = shown_channel(canvas.layer, self._viewer.dims.point, canvas.axes)
            if (size_px := math.prod(stack.shape)) > MOST_PX:
                raise InputError(f"{stack.name} has {size_px} px; strokes want at most {MOST_PX}: take a part of it")
            if self._is_on(self._labels, canvas.layer, stack.shape):
                return True
            before = [one for one in self._viewer.layers if self._is_on(one, canvas.layer, stack.shape)]
        except CellxlateError as fault:
            self._use(None)
            self._say(said(fault, by="panel"))
            return False
        self._labels = before[-1] if before else self._new_strokes(canvas, stack)
        self._viewer.layers.selection.active = self._labels
        for event in (self._labels.events.paint, self._labels.events.set_data):  # set_data: undo, redo, another plane
            event.connect(self.look_again)
        self._take_brush()
        self.save_as.value = Path.cwd() / folder_name(str(canvas.layer.name))
        self._say("Paint inside a cell, then choose the brush background and paint beside it.")
        return True

    def _is_on(self, labels: Any, layer: Any, shape: tuple[int, ...]) -> bool:
        """Whether a layer is one of strokes on an image as it is now."""
        return (
            labels in self._viewer.layers and labels.metadata.get(STROKES_ON) == layer.unique_id.hex
            and tuple(labels.data.shape) == shape
        )  # fmt: skip

    def _new_strokes(self, canvas: PaintedLayer, stack: Stack) -> Any:
        from napari.utils import DirectLabelColormap

        labels = add_labels_over(
            self._viewer, canvas.layer, stack, f"strokes on {canvas.layer.name}", axes=canvas.axes,
            colormap=DirectLabelColormap(color_dict=COLOURS),
            metadata={OURS: True, STROKES_ON: canvas.layer.unique_id.hex},
        )  # fmt: skip
        labels.brush_size = BRUSH_PX
        return labels

    def _layer_removed(self, event: Any) -> None:
        """End where the strokes are removed: nothing is taught any more."""
        if self._labels is not None and event.value is self._labels:
            self._labels = None
            self.switch.value = False

    def _take_brush(self, _: Any = None) -> None:
        if self._labels is not None:
            self._labels.mode = "paint" if self.brush.value else "erase"
            if self.brush.value:
                self._labels.selected_label = int(self.brush.value)

    # From strokes to a model

    def _learn(self) -> None:
        """Begin to learn from the strokes, unless that was done, or goes on."""
        canvas = self._canvas()
        if not self._look_at_canvas() or canvas is None:
            return
        strokes = np.array(self._labels.data, np.uint8)
        background, cells = (strokes == BACKGROUND).any(), (strokes >= CELL).any()
        if not (background and cells):
            self.stop()
            self._use(None)
            missing = "some background" if cells else "inside some cells"
            self._say(f"Paint {missing} too." if cells or background else "Paint inside and outside of some cells.")
            return
        image = f"{canvas.layer.unique_id.hex} {canvas.axes} {self._renewed}"
        key = strokes_key(strokes, canvas.model, image)
        if (self._request is not None and self._request.name == key) or (
            self._request is None and self._model is not None and self._model.name == f"{key}-1"
        ):
            return
        self.stop()
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="cellxlate-strokes-"))
        stop = StopRequest()
        try:
            stack = shown_channel(canvas.layer, self._viewer.dims.point, canvas.axes, check=stop.check)
        except CellxlateError as fault:
            self._say(said(fault, by="panel"))
            return
        request = StrokeRequest(stack, strokes, canvas.model, self._folder, stop, image)
        self._request = request
        self.cancel_button.enabled = True
        self._say("Learning ...")
        self._worker = begin(stroke_steps, request, news=self._news, ended=self._ended)

    def _news(self, request: StrokeRequest, news: Taught) -> None:
        if self._request is request:
            self._use(news.folder)
            self._say("Learned. Paint where it is wrong." if news.final else "Learning; this is a first look.")

    def _ended(self, request: StrokeRequest, refusal: Refusal | None) -> None:
        if self._request is not request:
            return
        self._request = None
        self.cancel_button.enabled = False
        if refusal is not None:
            self._say(refusal.reason)

    def _use(self, folder: Path | None) -> None:
        if folder != self._model:
            self._model = folder
            self.save_button.enabled = folder is not None
            self.taught.emit()

    def _save(self, _: Any = None) -> None:
        """Copy the model to where it is wanted, and offer it in every panel."""
        from cellxlate.model.cards import save_copy

        if self._model is None:
            return
        try:
            path = chosen_path(self.save_as)
            if path is None:
                raise OptionError("no folder is chosen; write into Save as where the model is to be kept")
            folder = save_copy(self._model, path)
        except CellxlateError as fault:
            self._say(said(fault, by="panel"))
            return
        SHELF.add(folder)
        self._say(f"Saved as {folder.name}; it is now among the models.")
