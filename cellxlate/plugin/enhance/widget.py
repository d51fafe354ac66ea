"""The `Enhance cells` panel: it binds a layer, a model and a threshold to the steps of an enhancement."""

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicgui.widgets import CheckBox, ComboBox, Container, FileEdit, FloatSlider, Label, LineEdit
from qtpy.QtCore import Qt

from cellxlate.errors import CellxlateError
from cellxlate.model.cards import is_model
from cellxlate.plugin.compare.comparison import Pair
from cellxlate.plugin.compare.widget import CompareControls
from cellxlate.plugin.controls import ClickButton, LayerChoice, ModelChoice, scrolled, without_label, wrapped
from cellxlate.plugin.drawing import attention_colormap, middle_of, visible_part
from cellxlate.plugin.enhance.adapt_controls import AdaptControls
from cellxlate.plugin.enhance.run_controls import PROGRESS_STEPS, RunControls
from cellxlate.plugin.layers import appearance, channel_of_plane, layer_stack, visible_plane, without_samples
from cellxlate.plugin.models import SHELF
from cellxlate.plugin.preview.overlay import AttentionPreview, Wanted, single_shot, warm_up
from cellxlate.plugin.requests import Adapted, AdaptRequest, EnhanceRequest, Outcome, StopRequest
from cellxlate.plugin.strokes.controls import PaintedLayer, StrokeControls
from cellxlate.plugin.wording import time_left
from cellxlate.plugin.working import await_end
from cellxlate.settings import THRESHOLD, EnhanceSettings

if TYPE_CHECKING:
    from napari.layers import Image
    from napari.viewer import Viewer

    from cellxlate.enhancement.flow import EnhanceProgress

ALL_CHANNELS = -1
THIS_PLANE, WHOLE_STACK = "this plane", "whole stack"
IN_MEMORY, TO_A_FILE = "in memory", "to a file"
WARM_MS = 300
"""After the panel has been drawn."""
SHOWN_BEFORE_AFTER_PX = 768
"""Side of what is enhanced with both models after an adaptation: some seconds on one core."""


class EnhanceWidget(Container):  # type: ignore[misc]
    """Enhance the cells of an image layer; every other pixel stays as it is.

    Parameters
    ----------
    napari_viewer : Viewer
        Its image layers are offered; results become layers in it.

    Attributes
    ----------
    image_layer, model_choice, model_folder, threshold, preview, scope, destination, file, overwrite : widgets
        What is asked for, in the order of the panel.
    more, channel, axes, intensity, engine, device : widgets
        What is seldom changed, and a box that shows it.
    enhance_button : widget
        Starts a run.
    runs : RunControls
        One run at a time; `cancel_button`, `progress`, `state` and `notes` are its.
    adapting : AdaptControls
        Whether the model suits the image, and adapting it; `adapt_button` is its button.
    strokes : StrokeControls
        Attention taught by painting inside and outside of a few cells.
    compare : CompareControls
        Blink, swipe and difference of input and result; the report.
    """

    def __init__(self, napari_viewer: "Viewer") -> None:
        self._viewer = napari_viewer
        self._results: list[Pair] = []
        self._make_choices()
        self._make_seldom_choices()
        self.enhance_button = ClickButton(text="Enhance", tooltip="Start; you can go on working meanwhile.")
        self.runs = RunControls()
        self.cancel_button, self.progress = self.runs.cancel_button, self.runs.progress
        self.state, self.notes = self.runs.state, self.runs.notes
        self.compare = CompareControls(napari_viewer, self._pair)
        self.adapting = AdaptControls(
            napari_viewer, wanted=self._previewed, runs=self.runs, request=self._adaptation_request,
            take=self._take_adapted,
        )  # fmt: skip
        self.adapt_button = self.adapting.adapt_button
        self.runs.begin_buttons += [self.enhance_button, self.adapt_button]
        self.strokes = StrokeControls(napari_viewer, self._canvas)
        super().__init__(labels=False)
        self._rows = scrolled(self, self._laid_out())
        self.attention = AttentionPreview(
            napari_viewer,
            wanted=self._previewed,
            say=self._tell_selected,
            ended=lambda: setattr(self.preview, "value", False),
        )
        self._warming: Any = None
        self._is_closed = False
        self._warm_timer = single_shot(self._warm_up, self.native)
        self._connect()
        self._destination_changed()
        self._show_more(False)
        self.strokes.show(False)  # magicgui shows what it lays out
        self._ready()
        self._warm_timer.start(WARM_MS)
        self.adapting.domain.update()

    def _make_choices(self) -> None:
        self.image_layer = LayerChoice(
            self._viewer, "image", label="Image",
            tooltip="The image layer whose cells are enhanced. It is not changed.",
        )  # fmt: skip
        self.model_choice = ModelChoice(
            label="Model",
            choices=lambda _: SHELF.choices_and_auto(),
            tooltip="auto takes the shipped model that suits the image; or one of those trained or opened here.",
        )
        self.model_folder = FileEdit(label="Open model", mode="d", tooltip="The folder of a model you trained.")
        self.threshold = FloatSlider(
            label="Threshold", value=THRESHOLD, min=0.0, max=1.0, step=0.01,
            tooltip="Pixels whose attention is at or below it stay exactly as they are.",
        )  # fmt: skip
        self.preview = CheckBox(
            text="Preview attention",
            tooltip="Show what this threshold selects on the visible plane, before anything changes.",
        )
        self.selected = Label(label="Selected", value="")
        self.scope = ComboBox(
            label="Enhance", choices=[THIS_PLANE, WHOLE_STACK], value=WHOLE_STACK,
            tooltip="Both use the intensity levels of the whole stack, so a plane looks the same either way.",
        )  # fmt: skip
        self.destination = ComboBox(
            label="Result", choices=[IN_MEMORY, TO_A_FILE], tooltip="Large stacks are better written to a file."
        )
        self.file = FileEdit(
            label="File", mode="w", filter="*.ome.tif *.ome.zarr", tooltip="Ends in .ome.tif or .ome.zarr."
        )
        self.overwrite = CheckBox(label="Replace existing files", tooltip="Otherwise an existing file is an error.")

    def _make_seldom_choices(self) -> None:
        self.channel = ComboBox(label="Channel", choices=self._channels, tooltip="The others are copied as they are.")
        self.axes = LineEdit(
            label="Axes", tooltip="One letter per dimension: T time, C channel, Z depth, Y rows, X columns."
        )
        self.intensity = ComboBox(
            label="Intensity", choices=[("as in the image", "source"), ("as in the model's targets", "target")],
            tooltip="The scale of enhanced cells. 'as in the image' keeps cells and background comparable.",
        )  # fmt: skip
        self.device = ComboBox(label="Device", choices=["auto", "cpu", "cuda", "mps"], tooltip="auto takes a GPU.")
        self.engine = ComboBox(
            label="Engine", choices=["auto", "torch", "openvino", "onnxruntime"], tooltip="What runs the networks."
        )
        self.more = CheckBox(text="More options", tooltip="Channel, axes, intensity, engine, device.")
        self._seldom = [self.channel, self.axes, self.intensity, self.engine, self.device]

    def _laid_out(self) -> Container:
        """Return all rows in their order."""
        buttons = Container(widgets=[self.enhance_button, self.cancel_button], layout="horizontal", labels=False)
        rows = Container(
            widgets=[
                self.image_layer, self.model_choice, self.model_folder, self.adapting.row, self.adapting.seconds,
                self.threshold, self.preview, self.selected, *self.strokes.rows, self.scope, self.destination,
                self.file, self.overwrite, self.more, *self._seldom, buttons, self.progress, self.state,
            ],
        )  # fmt: skip
        rows.append(self.notes)  # afterwards, as magicgui aligns labels when one is added to a finished container
        rows.extend(self.compare.rows)
        for text in (self.selected, self.state, self.notes):
            wrapped(text)
        without_label(self.adapting.row)
        for text in (self.selected, self.notes):
            text.visible = False
        rows.native.layout().setAlignment(Qt.AlignmentFlag.AlignTop)
        return rows

    @property
    def is_running(self) -> bool:
        """Whether a run goes on."""
        return self.runs.is_running

    def _connect(self) -> None:
        SHELF.changed.connect(self._models_changed)
        self.image_layer.changed.connect(self._layer_chosen)
        self.image_layer.offered.connect(self._ready)
        self.image_layer.pixels_changed.connect(self.attention.forget)
        self.more.changed.connect(self._show_more)
        self.axes.changed.connect(lambda _: self.channel.reset_choices())
        self.model_folder.changed.connect(self._folder_chosen)
        self.destination.changed.connect(self._destination_changed)
        self.preview.changed.connect(self.attention.switch)
        self.threshold.changed.connect(self.attention.threshold_moved)
        self.strokes.switch.changed.connect(self._strokes_switched)
        self.strokes.taught.connect(self.attention.update)
        for choice in (self.image_layer, self.axes, self.model_choice):
            choice.changed.connect(self.strokes.look_again)
        previewed = self.image_layer, self.axes, self.model_choice, self.engine, self.device, self.channel, self.scope
        for choice in previewed:
            choice.changed.connect(self.attention.update)
        for choice in (self.image_layer, self.axes, self.model_choice, self.channel, self.scope):
            choice.changed.connect(self.adapting.domain.update)
        self.image_layer.pixels_changed.connect(self.adapting.domain.update)
        for choice in (self.model_choice, self.engine, self.device):
            choice.changed.connect(lambda _: self._warm_timer.start(WARM_MS))
        self.enhance_button.changed.connect(self._start)
        self.native.destroyed.connect(self._closed)

    def _closed(self) -> None:
        """End what runs and listen no more; the window is gone."""
        self.attention.abandon()
        self.strokes.leave()
        self.compare.leave()
        self.adapting.domain.leave()
        self._is_closed = True  # timers may be gone already, where the application ends
        self.runs.leave()
        await_end(self._warming)
        self.image_layer.leave()
        SHELF.changed.disconnect(self._models_changed)

    # What is offered

    def _channels(self, _: Any) -> list[tuple[str, int]]:
        every = [("all", ALL_CHANNELS)]
        try:
            stack = layer_stack(self.image_layer.value, self.axes.value or None)
        except (CellxlateError, AttributeError):  # no layer, or axes that do not fit yet
            return every
        if stack.channel_count == 1:
            return every
        return every + [(str(number), number) for number in range(stack.channel_count)]

    def _previewed(self) -> Wanted | None:
        layer, model = self.image_layer.value, self.model_choice.value
        if layer is None or model is None:
            return None
        taught = self.strokes.model
        engine = self.engine.value
        if taught and engine == "auto":
            engine = "torch"  # compiling for another takes seconds after each stroke
        return Wanted(
            layer, self.axes.value or None, taught or model, self.device.value, engine,
            float(self.threshold.value),
            self._chosen_channels() if self.scope.value == WHOLE_STACK else (),
        )  # fmt: skip

    def _canvas(self) -> PaintedLayer | None:
        layer, model = self.image_layer.value, self.model_choice.value
        return None if layer is None or model is None else PaintedLayer(layer, self.axes.value or None, str(model))

    def _strokes_switched(self, on: bool) -> None:
        """Show what the strokes teach."""
        if on:
            self.preview.value = True

    def _pair(self) -> Pair | None:
        """Return the newest result that is still there with its input; one of the chosen image first."""
        there = [pair for pair in self._results if {pair.before, pair.after} <= set(self._viewer.layers)]
        chosen = [pair for pair in there if pair.image is self.image_layer.value]
        pairs = chosen or there
        return pairs[-1] if pairs else None

    def _show_more(self, shown: bool) -> None:
        for control in self._seldom:
            control.visible = shown

    def _layer_chosen(self, _: Any = None) -> None:
        self.axes.value = ""
        self.channel.reset_choices()
        self.channel.value = ALL_CHANNELS
        if len(self.channel.choices) > 1:
            self.more.value = True
        self._ready()

    def _models_changed(self, _: str) -> None:
        self.model_choice.reset_choices()
        self._ready()

    def _folder_chosen(self, folder: Path) -> None:
        if is_model(folder):
            self.model_choice.value = folder
        elif folder.is_dir():
            self.runs.say(f"{folder} is no model folder (it holds no card.json); choose the folder of one model")

    def _destination_changed(self, _: Any = None) -> None:
        self.file.visible = self.overwrite.visible = self.destination.value == TO_A_FILE

    def _ready(self) -> None:
        """Say what is missing, where no run goes on."""
        if self.is_running:
            return
        missing = ""
        if self.image_layer.value is None:
            missing = "Open an image to begin; File > Open Sample > cellxlate has some."
        elif self.model_choice.value is None:
            missing = "Open the folder of a model to begin."
        self.enhance_button.enabled = self.adapt_button.enabled = not missing
        if missing or self.state.value.startswith("Open "):
            self.runs.say(missing)

    def _warm_up(self) -> None:
        """Get the model ready meanwhile, so that the first preview need not wait for it."""
        if not self._is_closed and not self.is_running and self.model_choice.value is not None:
            self._warming = warm_up(self.model_choice.value, self.engine.value, self.device.value)

    def _tell_selected(self, text: str) -> None:
        self.selected.value, self.selected.visible = text, bool(text)

    # A run

    def _chosen_channels(self) -> tuple[int, ...] | None:
        return None if self.channel.value in (None, ALL_CHANNELS) else (int(self.channel.value),)

    def _request(self, *, shown: bool = False) -> EnhanceRequest:
        """Take down everything a run needs, so that it does not depend on the layer or the panel any more.

        Where only what is `shown` is wanted, it is the middle of what is visible, in memory.
        """
        layer, stop = self.image_layer.value, StopRequest()
        stack = layer_stack(layer, self.axes.value or None, check=stop.check)
        is_plane = shown or self.scope.value == THIS_PLANE
        plane = visible_plane(layer, stack, self._viewer.dims.point) if is_plane else None
        visible = visible_part(layer, stack, self._viewer.dims.ndisplay)
        part = middle_of(visible, SHOWN_BEFORE_AFTER_PX) if shown else None
        channels = self._chosen_channels()
        if plane is not None and "C" in stack.axes:
            channels = (channel_of_plane(stack.axes, plane),)
        source = layer.source.path
        return EnhanceRequest(
            stack=stack,
            appearance=appearance(layer, stack.axes, plane, part),
            model=self.strokes.model or str(self.model_choice.value),
            stop=stop,
            channels=channels,
            settings=EnhanceSettings(threshold=float(self.threshold.value), intensity=self.intensity.value),
            device=self.device.value,
            engine=self.engine.value,
            plane=plane,
            part=part,
            output=Path(self.file.value) if self.destination.value == TO_A_FILE and not shown else None,
            source=Path(source) if source and Path(source).exists() else None,
            overwrite=bool(self.overwrite.value),
        )

    def _start(self, _: Any = None) -> None:
        layer = self.image_layer.value
        if layer is not None and self.model_choice.value is not None:
            self.runs.run(
                self._request,
                _enhance_steps,
                words="Reading the stack and measuring its levels ...",
                cancelled="Cancelled. No layer and no file was made.",
                told=lambda news: (news.done / news.total, time_left(news)),
                take=lambda request, outcome: self._show(request, layer, outcome),
            )

    def _show(self, request: EnhanceRequest, layer: "Image", outcome: Outcome) -> None:
        """Add the two result layers, and say what happened."""
        report, look = outcome.report, request.appearance
        self.progress.value = PROGRESS_STEPS
        metadata = {"cellxlate": report.as_full_dict()}
        enhanced = self._viewer.add_image(
            outcome.image, name=f"{look.name} enhanced", metadata=metadata, multiscale=outcome.is_pyramid,
            **look.placement, **look.shown,
        )  # fmt: skip
        levels = outcome.attention if outcome.is_pyramid else [outcome.attention]
        attention = [without_samples(level, look.axes) for level in levels]
        self._viewer.add_image(
            attention if outcome.is_pyramid else attention[0], name=f"{look.name} attention", metadata=metadata,
            multiscale=outcome.is_pyramid, colormap=attention_colormap(), contrast_limits=(0, 255),
            blending="translucent", opacity=0.6, **look.placement,
        )  # fmt: skip
        self._results.append(Pair(layer, enhanced, look.axes))
        self.compare.offer(outcome, request)
        notes = "\n".join(f"Warning: {warning}" for warning in report.warnings)
        self.runs.say(
            f"Done in {report.seconds['total']:.1f} s: {report.changed_fraction:.2%} of {report.pixels} pixels "
            f"changed, the others are the input's own. Model {report.model_words}. {report.engine}.",
            notes,
        )

    # Adapting

    def _adaptation_request(self, seconds: float) -> AdaptRequest:
        """Take down what is to be adapted, and what of the visible plane is shown before and after."""
        run = self._request(shown=True)
        channels = self._chosen_channels() if self.scope.value == WHOLE_STACK else run.channels
        return AdaptRequest(run, self.image_layer.value, seconds, channels)

    def _take_adapted(self, request: AdaptRequest, adapted: Adapted) -> None:
        """Choose the adapted model, and show what it changes: both results, and a line to swipe between them."""
        look, folder = request.run.appearance, adapted.folder
        self.model_choice.value = folder
        names = f"{look.name} before adapting", f"{look.name} adapted"
        before, after = (
            self._viewer.add_image(pixels, name=name, **look.placement, **look.shown)
            for name, pixels in zip(names, (adapted.before, adapted.after), strict=True)
        )
        self._results.append(Pair(before, after, look.axes, ("before adapting", "the adapted model"), request.layer))
        self.compare.show()


def _enhance_steps(request: EnhanceRequest) -> "Generator[EnhanceProgress, None, Outcome]":
    from cellxlate.plugin.enhance.steps import enhance_steps  # loads torch, which must not happen in the main thread

    return (yield from enhance_steps(request))
