"""Controls that panels share: buttons that macros can press, choices of models and of layers."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from weakref import ref

from magicgui.widgets import ComboBox, Container, FileEdit, FloatSlider, Label, PushButton, Widget
from psygnal import Signal
from qtpy.QtCore import QEvent, QObject, Qt, QTimer
from qtpy.QtWidgets import QFrame, QLabel, QScrollArea, QSizePolicy

from cellxlate.plugin.drawing import OURS
from cellxlate.plugin.models import SHELF
from cellxlate.settings import THRESHOLD

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.viewer import Viewer


STYLED_PX = 14
"""What napari's style adds to the width of a panel that was measured without it."""
AGAIN_MS = 300
NEIGHBOURS = (("auto", "auto"), ("none", "none"), ("in depth (z)", "z"), ("in time (t)", "t"))
NEIGHBOURS_TOOLTIP = (
    "Which planes beside each are looked at as well, by models that know neighbours. auto tries on a sample of the "
    "stack whether they help. Only the plane itself is written, and kept pixels stay as they are."
)
BREAK = "\u200b"
"""Where a line may end without a space."""


class ClickButton(PushButton):  # type: ignore[misc]
    """A button that macros can press."""

    def click(self) -> None:
        """Press it, as a mouse would."""
        self.native.click()


class ModelChoice(ComboBox):  # type: ignore[misc]
    """A choice of models that also takes the folder of one it does not list yet."""

    @property
    def value(self) -> Any:
        """Folder of the model, or None where there is none."""
        return ComboBox.value.fget(self)

    @value.setter
    def value(self, value: Any) -> None:
        value = str(value) if isinstance(value, Path) else value
        if isinstance(value, str) and value not in self.choices:
            for name, path in SHELF.choices():
                value = path if name == value else value
            value = SHELF.add(value)
            self.reset_choices()
        ComboBox.value.fset(self, value)


class LayerChoice(ComboBox):  # type: ignore[misc]
    """A choice of layers that keeps its layer while others come and go and while it is renamed.

    Parameters
    ----------
    viewer : Viewer
        Whose layers are offered.
    kind : {"image", "labels"}
        Which of them; layers that only show something of ours are left out.
    first : sequence of (str, object)
        Choices before the layers.
    label, tooltip : str
        As for any control.

    Attributes
    ----------
    offered : Signal
        Emitted when layers have come, gone, or been renamed.
    pixels_changed : Signal
        Emitted when an offered layer has got new pixels.
    """

    value: Any
    offered = Signal()
    pixels_changed = Signal()

    def __init__(
        self,
        viewer: "Viewer",
        kind: Literal["image", "labels"],
        *,
        label: str,
        tooltip: str,
        first: Sequence[tuple[str, Any]] = (),
    ) -> None:
        self._viewer, self._kind, self._first = viewer, kind, list(first)
        self._watched: list[Any] = []
        super().__init__(label=label, choices=self._offer, tooltip=tooltip)
        layers = viewer.layers.events
        for event in (layers.inserted, layers.removed, layers.reordered):
            event.connect(self.refresh)
        self._watch()

    @property
    def layers(self) -> "list[Layer]":
        """The layers on offer."""
        besides = [value for _, value in self._first]
        return [value for value in self.choices if value not in besides]

    def leave(self) -> None:
        """Listen to the viewer and its layers no more."""
        layers = self._viewer.layers.events
        for event in (layers.inserted, layers.removed, layers.reordered):
            event.disconnect(self.refresh)
        self._disconnect()

    def refresh(self, _: Any = None) -> None:
        """Offer the layers that are there now."""
        chosen = self.value
        with self.changed.blocked():
            self.reset_choices()
            if chosen is not None and chosen in self.choices:
                self.value = chosen  # also where it was renamed
        self._watch()
        if self.value != chosen:
            self.changed.emit(self.value)
        self.offered.emit()

    def _offer(self, _: Any) -> list[tuple[str, Any]]:
        layers = (layer for layer in self._viewer.layers if layer._type_string == self._kind)
        return [*self._first, *((layer.name, layer) for layer in layers if OURS not in layer.metadata)]

    def _watch(self) -> None:
        """Hear of new names and new pixels of the layers on offer, and of no others."""
        self._disconnect()
        self._watched = self.layers
        for layer in self._watched:
            layer.events.name.connect(self.refresh)
            layer.events.data.connect(self._new_pixels)

    def _disconnect(self) -> None:
        for layer in self._watched:
            layer.events.name.disconnect(self.refresh)
            layer.events.data.disconnect(self._new_pixels)
        self._watched = []

    def _new_pixels(self, _: Any = None) -> None:
        self.pixels_changed.emit()


def scrolled(panel: Container, rows: Container) -> Container:
    """Put rows into an empty panel, which scrolls where the window is too low for them; return the rows.

    Notes
    -----
    The scrolling that magicgui offers is lost in napari, which takes `native`, the widget inside it.
    """
    area = QScrollArea()
    area.setWidgetResizable(True)
    area.setFrameShape(QFrame.Shape.NoFrame)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    area.setWidget(rows.native)
    bar_px = area.verticalScrollBar().sizeHint().width()
    area.setMinimumWidth(rows.native.sizeHint().width() + bar_px + STYLED_PX)
    panel.native.layout().setContentsMargins(0, 0, 0, 0)
    panel.native.layout().addWidget(area)
    _EvenLabels(rows)
    return rows


def threshold_slider() -> FloatSlider:
    """Return the control of the attention that a pixel has to exceed, 0 to 1."""
    return FloatSlider(
        label="Threshold", value=THRESHOLD, min=0.0, max=1.0, step=0.01,
        tooltip="Pixels whose attention is at or below it stay exactly as they are.",
    )  # fmt: skip


def neighbours_choice(choices: Any = NEIGHBOURS) -> ComboBox:
    """Return the control of which planes beside each are looked at."""
    return ComboBox(label="Neighbours", choices=choices, tooltip=NEIGHBOURS_TOOLTIP)


def without_label(*rows: Widget) -> None:
    """Let rows of a panel begin where the labels of the others do."""
    for row in rows:
        labelled = row._labeled_widget()
        if labelled is not None:
            labelled._label_widget.visible = False


def chosen_path(field: FileEdit) -> Path | None:
    """Return the path in a field; None where it is empty, which magicgui takes for the current folder."""
    return Path(field.value) if field.line_edit.value.strip() else None


class PanelText(Label):  # type: ignore[misc]
    """A text of a panel: it takes as many lines as it needs, and no room where there is nothing to say.

    Parameters
    ----------
    keeps_room : bool
        Keep a line where there is nothing to say, so that what lies below stays where it is.

    Notes
    -----
    A path has no spaces, and Qt would cut it off; it may be broken after separators, which `value` does not show.
    """

    def __init__(self, *, keeps_room: bool = False) -> None:
        self._keeps_room = keeps_room
        super().__init__()
        self.native.setWordWrap(True)
        self.native.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)
        self._height = _WholeText(self.native)

    @property
    def value(self) -> str:
        """What it says."""
        return str(Label.value.fget(self)).replace(BREAK, "")

    @value.setter
    def value(self, text: str) -> None:
        Label.value.fset(self, re.sub(r"([/\\_])(?=\S)", rf"\1{BREAK}", text))
        self.fit()

    def fit(self) -> None:
        """Take the room that the text needs."""
        if self.native.parent() is not None and not self._keeps_room:  # without a parent it would be a window
            self.visible = bool(self.value)
        self._height.fit()

    def say(self, text: str, explained: str = "") -> None:
        """Say something, and more where the mouse rests on it."""
        self.value, self.tooltip = text, explained


class _WholeText(QObject):  # type: ignore[misc]
    """Keeps a label as high as its text is at its width; layouts in layouts may give it less."""

    def __init__(self, label: QLabel) -> None:
        super().__init__(label)
        self._label = label
        label.installEventFilter(self)

    def eventFilter(self, _watched: QObject, event: QEvent) -> bool:  # noqa: N802  the name is Qt's
        """Follow the width."""
        if event.type() == QEvent.Type.Resize:
            self.fit()
        return False

    def fit(self) -> None:
        """Take the height that the text needs."""
        self._label.setMinimumHeight(0)  # that of a longer text before, which Qt counts in
        self._label.setMinimumHeight(max(self._label.heightForWidth(self._label.width()), 0))


class _EvenLabels(QObject):  # type: ignore[misc]
    """Lets all fields begin in one column: magicgui measures labels before a window's style has changed their font."""

    def __init__(self, rows: Container) -> None:
        super().__init__(rows.native)
        self._rows = ref(rows)  # which holds what owns this, and may go while Qt still sends events
        rows.native.installEventFilter(self)

    def eventFilter(self, _watched: QObject, event: QEvent) -> bool:  # noqa: N802  the name is Qt's
        """Measure again where the panel is shown, or gets another style."""
        rows = self._rows() if event.type() in (QEvent.Type.Show, QEvent.Type.StyleChange) else None
        if rows is not None:
            self.align(rows)
        return False

    def align(self, rows: Container) -> None:
        """Give all labels the width of the widest."""
        labelled = [one for row in rows if (one := row._labeled_widget()) is not None]
        labels = [one._label_widget.native for one in labelled if one._label_widget._explicitly_hidden is not True]
        for label in labels:
            label.ensurePolished()
        widest_px = max((label.sizeHint().width() for label in labels), default=0)
        for one in labelled:
            one.label_width = widest_px


class Leaving(QObject):  # type: ignore[misc]
    """Ends a panel whose x was pressed: napari then only lets go of it, and it would go on unseen.

    Parameters
    ----------
    panel : Container
        It is destroyed where it is not shown elsewhere at once.
    hidden : callable
        Called when it cannot be seen any more while its window can.
    left : callable
        Called before it is destroyed, while the viewer is there.
    is_running : callable
        Whether a run goes on, which is waited for.
    """

    def __init__(
        self,
        panel: Container,
        *,
        hidden: Callable[[], object] = lambda: None,
        left: Callable[[], object] = lambda: None,
        is_running: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__(panel.native)
        self._native, self._hidden, self._left, self._is_running = panel.native, hidden, left, is_running
        panel.native.installEventFilter(self)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._end)

    def eventFilter(self, _watched: QObject, event: QEvent) -> bool:  # noqa: N802  the name is Qt's
        """Follow what napari does with the panel."""
        if event.type() == QEvent.Type.Hide and not event.spontaneous():
            self._hidden()
        elif event.type() == QEvent.Type.ParentChange and self._native.parent() is None:
            self._timer.start(0)
        return False

    def _end(self) -> None:
        if self._native.parent() is not None:
            return
        self._left()
        if self._is_running():
            self._timer.start(AGAIN_MS)
        else:
            self._native.deleteLater()
