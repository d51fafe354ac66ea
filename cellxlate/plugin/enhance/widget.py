"""The `Enhance cells` panel: it binds a layer, a model and a threshold to the steps of an enhancement."""

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicgui.widgets import Container
from qtpy.QtCore import Qt

from cellxlate.model.cards import is_model
from cellxlate.plugin.beside import seen_together
from cellxlate.plugin.compare.widget import CompareControls
from cellxlate.plugin.controls import ClickButton, Leaving, PanelText, chosen_path, scrolled, without_label
from cellxlate.plugin.drawing import middle_of, visible_part
from cellxlate.plugin.enhance.adapt_controls import AdaptControls
from cellxlate.plugin.enhance.choices import ALL_CHANNELS, THIS_PLANE, WHOLE_STACK, Choices
from cellxlate.plugin.enhance.gate_choice import OWN
from cellxlate.plugin.enhance.results import Results
from cellxlate.plugin.enhance.run_controls import PROGRESS_STEPS, RunControls
from cellxlate.plugin.layers import appearance, channel_of_plane, layer_stack, visible_plane
from cellxlate.plugin.models import SHELF
from cellxlate.plugin.preview.overlay import AttentionPreview, Wanted, single_shot, warm_up
from cellxlate.plugin.requests import Adapted, AdaptRequest, EnhanceRequest, Outcome, StopRequest
from cellxlate.plugin.strokes.controls import PaintedLayer, StrokeControls
from cellxlate.plugin.wording import time_left, verdict_words
from cellxlate.plugin.working import await_end
from cellxlate.settings import EnhanceSettings

if TYPE_CHECKING:
    from napari.layers import Image
    from napari.viewer import Viewer

    from cellxlate.enhancement.flow import EnhanceProgress

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
    image_layer, channel, model_choice, model_folder, gate, preview, threshold, neighbours, scope, destination, file
        What is asked for, in the order of the panel; then `overwrite`.
    more, axes, intensity, engine, device : widgets
        What is seldom changed, and a box that shows it.
    choices : Choices
        All of these.
    sample_button, enhance_button : widgets
        Opens a sample, where there is no image; starts a run.
    runs : RunControls
        One run at a time; `cancel_button`, `progress`, `state` and `notes` are its.
    adapting : AdaptControls
        Whether the model suits the image, and adapting it; `adapt_button` is its button.
    strokes : StrokeControls
        Attention taught by painting inside and outside of a few cells.
    results : Results
        What runs have made, as layers.
    compare : CompareControls
        Blink, swipe and difference of input and result; the report.
    """

    def __init__(self, napari_viewer: "Viewer") -> None:
        self._viewer = napari_viewer
        self.choices = choices = Choices(napari_viewer)
        self.image_layer, self.channel, self.threshold = choices.image_layer, choices.channel, choices.threshold
        self.model_choice, self.model_folder = choices.model_choice, choices.model_folder
        self.neighbours, self.scope, self.destination = choices.neighbours, choices.scope, choices.destination
        self.color = choices.color
        self.file, self.overwrite = choices.file, choices.overwrite
        self.more, self.axes, self.intensity = choices.more, choices.axes, choices.intensity
        self.engine, self.device = choices.engine, choices.device
        self.preview, self.gate, self.selected = choices.preview, choices.gate, PanelText()
        self.sample_button = ClickButton(text="Open a sample", tooltip="Simulated nuclei; nothing is downloaded.")
        self.enhance_button = ClickButton(text="Enhance", tooltip="Start; you can go on working meanwhile.")
        self.runs = RunControls()
        self.cancel_button, self.progress = self.runs.cancel_button, self.runs.progress
        self.state, self.notes = self.runs.state, self.runs.notes
        self.results = Results(napari_viewer, lambda: self.image_layer.value)
        self.compare = CompareControls(napari_viewer, self.results.pair, self.results.reported)
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
        self._is_closed = self._is_missing = False
        self._warm_timer = single_shot(self._warm_up, self.native)
        self._connect()
        self.choices.show()
        self.strokes.show(False)  # magicgui shows what it lays out
        self._ready()
        self._warm_timer.start(WARM_MS)
        self.adapting.domain.update()

    def _laid_out(self) -> Container:
        """Return all rows in their order."""
        buttons = Container(widgets=[self.enhance_button, self.cancel_button], layout="horizontal", labels=False)
        buttons.margins = (0, 0, 0, 0)
        attention = Container(widgets=[self.gate, self.preview], layout="horizontal", labels=False, label="Gate")
        attention.margins = (0, 0, 0, 0)
        attention.native.layout().setStretchFactor(self.gate.native, 1)
        texts = [one.state for one in (self.strokes, self.runs, self.compare)]
        texts += [self.adapting.domain.text, self.selected, self.notes]
        rows = Container(
            widgets=[
                self.image_layer, self.sample_button, self.channel, self.color, self.model_choice, self.model_folder,
                self.adapting.domain.text, self.adapting.row, attention, self.threshold, self.selected,
                *self.strokes.rows, self.neighbours, self.scope, self.destination, self.file, self.overwrite,
                buttons, self.progress, self.state, *self.compare.rows, self.notes, self.more,
            ],
        )  # fmt: skip
        rows.extend(self.choices.seldom)  # afterwards, as magicgui aligns labels when one is added to a container
        without_label(self.adapting.row, buttons, *texts)
        for text in texts:
            text.fit()
        rows.native.layout().setAlignment(Qt.AlignmentFlag.AlignTop)
        return rows

    @property
    def is_running(self) -> bool:
        """Whether a run goes on."""
        return self.runs.is_running

    def _connect(self) -> None:
        SHELF.tell(self._models_changed)
        for choice in self.choices.asked:
            choice.changed.connect(self._asked_otherwise)
        self.image_layer.changed.connect(self._layer_chosen)
        self.image_layer.offered.connect(self._ready)
        self.image_layer.pixels_changed.connect(self.attention.forget)
        self._viewer.layers.events.removed.connect(self._layer_removed)
        self.model_folder.changed.connect(self._folder_chosen)
        self.preview.changed.connect(self._preview_switched)
        self.threshold.changed.connect(self.attention.threshold_moved)
        self.strokes.switch.changed.connect(self._strokes_switched)
        self.strokes.taught.connect(self.attention.update)
        for choice in (self.image_layer, self.axes, self.model_choice):
            choice.changed.connect(self.strokes.look_again)
        previewed = self.image_layer, self.axes, self.model_choice, self.engine, self.device, self.channel, self.scope
        for choice in (*previewed, self.gate, self.neighbours, self.color):
            choice.changed.connect(self.attention.update)
        for signal in (self.gate.painted, self.gate.pixels_changed):
            signal.connect(self._gate_painted)
        for choice in (self.image_layer, self.axes, self.model_choice, self.channel, self.scope, self.color):
            choice.changed.connect(self.adapting.domain.update)
        for hear in (self.adapting.domain.update, self.strokes.look_at_new_pixels):
            self.image_layer.pixels_changed.connect(hear)
        for choice in (self.model_choice, self.engine, self.device):
            choice.changed.connect(lambda _: self._warm_timer.start(WARM_MS))
        self.sample_button.changed.connect(self._open_sample)
        self.enhance_button.changed.connect(self._start)
        self.native.destroyed.connect(self._closed)
        self._leaving = Leaving(
            self, hidden=self.compare.end, left=self._put_back, is_running=lambda: self.is_running
        )  # fmt: skip

    def _open_sample(self, _: Any = None) -> None:
        from cellxlate.plugin.samples import nuclei  # simulates, which is seldom wanted

        for pixels, shown, _kind in nuclei():
            self._viewer.add_image(pixels, **shown)

    def _asked_otherwise(self, _: Any = None) -> None:
        """Say no more what was wrong with what was asked before; what is still missing is said."""
        self.runs.forget()
        self._ready()

    def _put_back(self) -> None:
        """Leave the viewer as it was: the panel is let go of."""
        self.compare.end()
        self.preview.value = self.strokes.switch.value = False

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
        self.gate.leave()
        self._viewer.layers.events.removed.disconnect(self._layer_removed)
        SHELF.tell_no_more(self._models_changed)

    # What is offered

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
            self.choices.chosen_channels() if self.scope.value == WHOLE_STACK else (), self.gate,
            self.choices.context(taught or model), self.choices.chosen_color(),
        )  # fmt: skip

    def _canvas(self) -> PaintedLayer | None:
        layer, model = self.image_layer.value, self.model_choice.value
        return None if layer is None or model is None else PaintedLayer(layer, self.axes.value or None, str(model))

    def _preview_switched(self, on: bool) -> None:
        if on:
            self.compare.end()  # it would be hidden
        self.attention.switch(on)

    def _gate_painted(self) -> None:
        """Forget what is known of attention, where a labels layer gates."""
        if self.gate.key not in (None, OWN):
            self.attention.forget()

    def _strokes_switched(self, on: bool) -> None:
        """Show what the strokes teach."""
        if on:
            self.preview.value = True

    def _layer_chosen(self, _: Any = None) -> None:
        self.axes.value = ""
        self.choices.offer_channels()
        self.channel.value = ALL_CHANNELS
        self.compare.end()
        self.runs.forget(result=True)
        self._ready()

    def _layer_removed(self, _: Any = None) -> None:
        """Let go of results that were removed."""
        if self.results.forget_removed():
            self.runs.forget(result=True)
        self.compare.look_again()

    def _models_changed(self) -> None:
        self.model_choice.reset_choices()
        self._ready()

    def _folder_chosen(self, folder: Path) -> None:
        if chosen_path(self.model_folder) is None:
            return
        if is_model(folder):
            self.model_choice.value = folder
        elif folder.is_dir():
            self.runs.say(f"{folder} is no model folder (it holds no card.json); choose the folder of one model")

    def _ready(self) -> None:
        """Offer a sample where there is no image, and say what is missing, where no run goes on."""
        self.sample_button.visible = self.image_layer.value is None
        if self.is_running:
            return
        missing, was_missing = "", self._is_missing
        if self.image_layer.value is None:
            missing = "Open an image to begin, or a sample."
        elif self.model_choice.value is None:
            missing = "Open the folder of a model to begin."
        self.enhance_button.enabled = self.adapt_button.enabled = not missing
        self._is_missing = bool(missing)
        if missing or was_missing:
            self.runs.say(missing)

    def _warm_up(self) -> None:
        """Get the model ready meanwhile, so that the first preview need not wait for it."""
        if not self._is_closed and not self.is_running and self.model_choice.value is not None:
            self._warming = warm_up(self.model_choice.value, self.engine.value, self.device.value)

    def _tell_selected(self, text: str) -> None:
        self.selected.value = text

    # A run

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
        channels = self.choices.chosen_channels()
        if plane is not None and "C" in stack.axes:
            channels = (channel_of_plane(stack.axes, plane),)
        source = layer.source.path
        model = self.strokes.model or str(self.model_choice.value)
        return EnhanceRequest(
            stack=stack,
            appearance=appearance(layer, stack.axes, plane, part),
            model=model,
            stop=stop,
            channels=channels,
            attention_channel=self.gate.channel,
            attention_from=self.gate.given(stack),
            settings=EnhanceSettings(
                threshold=float(self.threshold.value),
                intensity=self.intensity.value,
                context=self.choices.context(self.strokes.model or self.model_choice.value),
                color=self.choices.chosen_color(),
            ),
            device=self.device.value,
            engine=self.engine.value,
            plane=plane,
            part=part,
            output=None if shown else self.choices.output(),
            source=Path(source) if source and Path(source).exists() else None,
            overwrite=bool(self.overwrite.value),
            together=None if shown else seen_together(layer, stack, self._viewer.layers, model),
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
        self.progress.value = PROGRESS_STEPS
        self.results.add(request, layer, outcome)
        self.preview.value = self.preview.value and self.strokes.switch.value  # it would lie under the result
        self.compare.end()
        line, explained = verdict_words(outcome.report)
        notes = "\n".join(f"Warning: {warning}" for warning in outcome.report.warnings)
        self.runs.say(line, explained=explained, notes=notes, result=True)

    # Adapting

    def _adaptation_request(self, seconds: float) -> AdaptRequest:
        """Take down what is to be adapted, and what of the visible plane is shown before and after."""
        run = self._request(shown=True)
        channels = self.choices.chosen_channels() if self.scope.value == WHOLE_STACK else run.channels
        return AdaptRequest(run, self.image_layer.value, seconds, channels)

    def _take_adapted(self, request: AdaptRequest, adapted: Adapted) -> None:
        """Choose the adapted model, and show what it changes: both results, and a line to swipe between them."""
        self.model_choice.value = adapted.folder
        self.results.add_adapted(request, adapted)
        self.compare.show()


def _enhance_steps(request: EnhanceRequest) -> "Generator[EnhanceProgress, None, Outcome]":
    from cellxlate.plugin.enhance.steps import enhance_steps  # loads torch, which must not happen in the main thread

    return (yield from enhance_steps(request))
