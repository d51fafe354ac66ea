"""The `Train translator` panel: it binds layers or folders, a guide and a length to the steps of a training run."""

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicgui.widgets import ComboBox, Container, FileEdit, ProgressBar, SpinBox
from qtpy.QtCore import Qt
from qtpy.QtGui import QPixmap
from qtpy.QtSvgWidgets import QSvgWidget
from qtpy.QtWidgets import QLabel, QSizePolicy

from cellxlate.errors import CellxlateError, OptionError, said
from cellxlate.plugin.controls import ClickButton, LayerChoice, Leaving, PanelText, chosen_path, scrolled, without_label
from cellxlate.plugin.layers import painted_stack, shown_channel
from cellxlate.plugin.models import SHELF
from cellxlate.plugin.painting import add_labels_over
from cellxlate.plugin.preview.overlay import single_shot
from cellxlate.plugin.requests import Refusal, StopRequest
from cellxlate.plugin.train.curves import HEIGHT_PX, WIDTH_PX, curves_svg
from cellxlate.plugin.train.requests import StepDone, Stopped, Trained, TrainingSnapshot, TrainRequest, painted_text
from cellxlate.plugin.wording import leaning_words, training_left
from cellxlate.plugin.working import await_end, begin
from cellxlate.settings import PRESETS
from cellxlate.stacks.naming import partial_of
from cellxlate.stacks.stack import Stack

if TYPE_CHECKING:
    from napari.layers import Image
    from napari.viewer import Viewer

FOLDER = "a folder"
GUIDES = [("saliency (automatic)", "saliency"), ("painted cells", "masks"), ("none (as published)", "none")]
TOLD_PAINT_MS = 500


class TrainWidget(Container):  # type: ignore[misc]
    """Learn a translator from images as they are and images as they should be; they need not be pairs.

    Parameters
    ----------
    napari_viewer : Viewer
        Its image layers are offered as source and target, its labels layers as painted cells.

    Attributes
    ----------
    source, source_folder, target, target_folder, guide, painted, paint_button, preset, steps, output : widgets
        What is asked for, in the order of the panel.
    train_button, stop_button, resume_button : widgets
        Start; stop and save; continue what was stopped.
    progress, state, curves, picture : widgets
        How far a run is, in words, curves, and a picture of input, attention and output.
    """

    def __init__(self, napari_viewer: "Viewer") -> None:
        self._viewer = napari_viewer
        self._stop: StopRequest | None = None
        self._worker: Any = None
        self._looks: list[TrainingSnapshot] = []
        self._done = 0
        self._make_images()
        self._make_run_controls()
        super().__init__(labels=False)
        self._rows = scrolled(self, self._laid_out())
        self.curves, self.picture, self.caption = QSvgWidget(), QLabel(), QLabel("input, attention, output")
        self._add_pictures()
        self._paint_timer = single_shot(self._tell_paint, self.native)
        self._connect()
        self._choices_changed()

    def _make_images(self) -> None:
        first = [(FOLDER, FOLDER)]
        self.source = LayerChoice(
            self._viewer, "image", label="Source", first=first,
            tooltip="Images as they come from the microscope: a stack of at least 2 planes, or a folder of images.",
        )  # fmt: skip
        self.source_folder = FileEdit(label="", mode="d", tooltip="Folder of source images (TIFF or OME-Zarr).")
        self.target = LayerChoice(
            self._viewer, "image", label="Target", first=first,
            tooltip="Images as they should look: other cells, other days; they need not be pairs.",
        )  # fmt: skip
        self.target_folder = FileEdit(label="", mode="d", tooltip="Folder of target images (TIFF or OME-Zarr).")
        self.guide = ComboBox(
            label="Guide", choices=GUIDES,
            tooltip="What tells attention where cells are. Paint where cells are not brighter than their surroundings.",
        )  # fmt: skip
        self.painted = LayerChoice(
            self._viewer, "labels", label="Painted", tooltip="A Labels layer with the shape of the source layer."
        )
        self.paint_button = ClickButton(
            text="Paint", tooltip="Add a Labels layer over the source; paint every cell of a small region, any label."
        )
        self.paint_state = PanelText()

    def _make_run_controls(self) -> None:
        self.preset = ComboBox(
            label="Preset", choices=[name for name in PRESETS if name != "alone"], value="fast",
            tooltip="fast suits a laptop; paper and paper-wide are the published networks and want a GPU.",
        )  # fmt: skip
        self.steps = SpinBox(
            label="Steps",
            value=0,
            min=0,
            max=10_000_000,
            tooltip="0 takes the preset's own length; some 500 show a trend.",
        )
        self.output = FileEdit(
            label="Model", mode="w", value=Path.cwd() / "my-model", tooltip="The model folder to make; must not exist."
        )
        self.train_button = ClickButton(text="Train", tooltip="Start; you can go on working meanwhile.")
        self.stop_button = ClickButton(text="Stop", enabled=False, tooltip="Stop after this step and save.")
        self.resume_button = ClickButton(text="Resume", tooltip="Continue the run that was stopped under this name.")
        self.progress = ProgressBar(label="Progress", min=0, max=1, value=0)
        self.state = PanelText(keeps_room=True)

    def _laid_out(self) -> Container:
        """Return all rows in their order."""
        buttons = Container(
            widgets=[self.train_button, self.stop_button, self.resume_button], layout="horizontal", labels=False
        )
        buttons.margins = (0, 0, 0, 0)
        rows = Container(
            widgets=[
                self.source, self.source_folder, self.target, self.target_folder, self.guide, self.painted,
                self.paint_button, self.paint_state, self.preset, self.steps, self.output, buttons, self.progress,
            ],
        )  # fmt: skip
        rows.append(self.state)  # afterwards, as magicgui aligns labels when one is added to a finished container
        without_label(buttons, self.state, self.paint_state)
        for text in (self.state, self.paint_state):
            text.fit()
        rows.native.layout().setAlignment(Qt.AlignmentFlag.AlignTop)
        return rows

    @property
    def is_running(self) -> bool:
        """Whether a run goes on."""
        return self._stop is not None

    def _add_pictures(self) -> None:
        """Put the curves and the preview under the controls."""
        self.curves.setFixedSize(WIDTH_PX, HEIGHT_PX)
        self.curves.setToolTip("Objective (lower is better), share of pixels selected, agreement with the guide.")
        self.picture.setToolTip("The middle of a source image, refreshed while the model learns.")
        self.picture.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        for drawn in (self.curves, self.picture, self.caption):
            drawn.setVisible(False)
            self._rows.native.layout().addWidget(drawn)

    def _connect(self) -> None:
        for choice in (self.source, self.target, self.guide, self.painted, self.output):
            choice.changed.connect(self._choices_changed)
        for choice in (self.source, self.painted):
            choice.offered.connect(self._choices_changed)
        for choice in (self.painted.changed, self.preset.changed, self.painted.pixels_changed):
            choice.connect(self._painting)
        self.paint_button.changed.connect(self._paint)
        self.train_button.changed.connect(lambda _=None: self._start(resume=False))
        self.resume_button.changed.connect(lambda _=None: self._start(resume=True))
        self.stop_button.changed.connect(self._ask_to_stop)
        for choice in self._asked():
            choice.changed.connect(self._asked_otherwise)
        self.native.destroyed.connect(self._closed)
        self._leaving = Leaving(self)

    def _asked(self) -> list[Any]:
        """Return what decides what a run does."""
        return [
            self.source, self.source_folder, self.target, self.target_folder, self.guide, self.painted, self.preset,
            self.steps, self.output,
        ]  # fmt: skip

    def _asked_otherwise(self, _: Any = None) -> None:
        """Say no more what was wrong with what was asked before, or came of it."""
        if not self.is_running:
            self._say("")
            self.progress.value = 0

    def _closed(self) -> None:
        """Stop and save what runs; the window is gone."""
        if self._stop:
            self._stop.ask()
        self._stop = None
        await_end(self._worker)
        for choice in (self.source, self.target, self.painted):
            choice.leave()

    # What is offered

    def _choices_changed(self, _: Any = None) -> None:
        paints = self.guide.value == "masks"
        self.source_folder.visible = self.source.value == FOLDER
        self.target_folder.visible = self.target.value == FOLDER
        self.painted.visible = self.paint_button.visible = paints
        self.paint_button.enabled = self.source.value not in (None, FOLDER)
        self.resume_button.enabled = self._can_resume()
        if paints:
            self._painting()
        else:
            self.paint_state.value = ""

    def _can_resume(self) -> bool:
        output = chosen_path(self.output)
        return not self.is_running and output is not None and partial_of(output).exists()

    def _painting(self, _: Any = None) -> None:
        """Tell what the paint amounts to, a moment later; napari announces every stroke."""
        labels = self.painted.value
        if self.guide.value == "masks":
            if labels is not None:  # a second time changes nothing
                for event in (labels.events.paint, labels.events.set_data):  # set_data: undo, redo, another plane
                    event.connect(self._painted_more)
            self._tell_soon()

    def _painted_more(self, _: Any = None) -> None:
        self._asked_otherwise()
        self._tell_soon()

    def _tell_soon(self, _: Any = None) -> None:
        self._paint_timer.start(TOLD_PAINT_MS)

    def _tell_paint(self) -> None:
        try:
            painted = self._painted()
        except CellxlateError as fault:
            self.paint_state.value = said(fault, by="panel")
            return
        if self.guide.value != "masks":
            self.paint_state.value = ""
        elif not self.paint_button.enabled:
            self.paint_state.value = "Choose an image layer as Source to paint its cells."
        elif painted is None:
            self.paint_state.value = "Press Paint, then paint every cell of a small region with the brush."
        else:
            self.paint_state.value = painted_text(painted, self._patch_px)

    @property
    def _patch_px(self) -> int:
        settings = PRESETS[self.preset.value]
        load_px = settings.load_px or settings.patch_px
        return round(settings.patch_px * settings.patch_px / load_px)

    def _paint(self, _: Any = None) -> None:
        """Add a labels layer that lies on the source, with the brush in hand."""
        layer = self.source.value
        labels = add_labels_over(self._viewer, layer, self._layer_stack(layer), f"cells of {layer.name}")
        self.painted.value = labels

    # A run

    def _layer_stack(self, layer: "Image") -> Stack:
        """Return the channel of a layer that is shown."""
        return shown_channel(layer, self._viewer.dims.point)

    def _painted(self) -> Stack | None:
        source, labels = self.source.value, self.painted.value
        if self.guide.value != "masks" or labels is None or source in (None, FOLDER):
            return None
        return painted_stack(labels, self._layer_stack(source))

    def _images(self, choice: LayerChoice, folder: FileEdit) -> Stack | Path:
        if choice.value != FOLDER:
            return self._layer_stack(choice.value)
        path, what = chosen_path(folder), choice.label
        if path is None:
            raise OptionError(f"no folder of {what} images is chosen; choose one, or an image layer as {what}")
        return path

    def _require_two(self) -> None:
        """Refuse to learn from images to the same images."""
        source, target = (
            chosen_path(folder) if choice.value == FOLDER else choice.value
            for choice, folder in ((self.source, self.source_folder), (self.target, self.target_folder))
        )
        if isinstance(source, Path) and isinstance(target, Path):
            source, target = source.resolve(), target.resolve()
        if source is not None and source == target:
            name = f"the folder {source}" if isinstance(source, Path) else f"the layer {source.name}"
            raise OptionError(f"Source and Target are both {name}; choose as Target images as they should look")

    def _start(self, *, resume: bool) -> None:
        if self._stop is not None:
            return
        stop, output = StopRequest(), chosen_path(self.output)
        try:
            self._require_two()
            if output is None:
                raise OptionError("no folder is chosen for the model; write one that does not exist into Model")
            request = TrainRequest(
                source=self._images(self.source, self.source_folder),
                target=self._images(self.target, self.target_folder),
                output=output,
                preset=self.preset.value,
                guide=self.guide.value,
                stop=stop,
                painted=self._painted(),
                steps=self.steps.value or None,
                resume=resume,
            )
        except CellxlateError as fault:
            self._say(said(fault, by="panel"))
            return
        self._stop, self._looks = stop, self._looks if resume else []
        if not resume:
            for drawn in (self.curves, self.picture, self.caption):
                drawn.setVisible(False)
        self._running(True)
        self._say("Reading the images and measuring their levels ...")
        self._worker = begin(_train_steps, request, news=self._news, ended=self._ended)

    def _running(self, running: bool) -> None:
        self.train_button.enabled, self.stop_button.enabled = not running, running
        self.progress.value = 0
        self.resume_button.enabled = self._can_resume()

    def _ask_to_stop(self, _: Any = None) -> None:
        if self._stop is not None:
            self._stop.ask()
            self.stop_button.enabled = False
            self._say("Stopping after this step ...")

    def _say(self, text: str) -> None:
        self.state.value = text

    def _news(self, request: TrainRequest, news: StepDone | TrainingSnapshot) -> None:
        if self._stop is not request.stop:
            return
        if isinstance(news, StepDone):
            self._done, self.progress.value = news.done, min(news.done, self.progress.max)
            if news.done == 1:
                self._say("Learning: the first steps are done.")
            return
        self._looks.append(news)
        self.progress.max, self.progress.value = news.steps, news.step
        self._draw(news)
        if not request.stop.asked:
            words = leaning_words(news.leaning) if news.leaning else "Learning"
            self._say(f"{words}: {training_left(news)}.{' ' + news.note if news.note else ''}")

    def _draw(self, news: TrainingSnapshot) -> None:
        steps = [look.step for look in self._looks]
        names = ("total", "attention_area", "attention_agreement")
        values = {name: [look.values.get(name) for look in self._looks] for name in names}
        ink = self.native.palette().windowText().color().name()
        self.curves.load(curves_svg(steps, values, last_step=news.steps, ink=ink).encode())
        self.curves.setVisible(True)
        if news.picture:
            pixels = QPixmap()
            pixels.loadFromData(news.picture)
            wide = max(self._rows.native.width() - 24, 240)
            smooth = Qt.TransformationMode.SmoothTransformation
            self.picture.setPixmap(pixels.scaledToWidth(wide, smooth))
            self.picture.setVisible(True)
            self.caption.setVisible(True)

    def _ended(self, request: TrainRequest, outcome: Trained | Stopped | Refusal) -> None:
        if self._stop is not request.stop:
            return  # the panel has been closed
        self._stop = self._worker = None
        self._running(False)
        if isinstance(outcome, Refusal):
            self._say(outcome.reason)
        elif isinstance(outcome, Stopped):
            at = f"Stopped after step {self._done} and saved; Resume goes on from here."
            self._say(at if outcome.saved else "Stopped: not one step was done, nothing is kept.")
        else:
            SHELF.add(outcome.folder)
            self.progress.value = self.progress.max
            minutes = f"{outcome.seconds / 60:.0f} min" if outcome.seconds >= 90 else f"{outcome.seconds:.0f} s"
            self._say(f"Done: {outcome.steps} steps in {minutes}. {outcome.folder.name} is now in Enhance cells.")


def _train_steps(request: TrainRequest) -> "Generator[StepDone | TrainingSnapshot, None, Trained | Stopped | Refusal]":
    from cellxlate.plugin.train.steps import train_steps  # loads torch, which must not happen in the main thread

    return (yield from train_steps(request))
