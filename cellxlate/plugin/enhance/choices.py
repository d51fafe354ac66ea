"""What the panel asks for: an image, a model, a threshold, how much, and where to."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicgui.widgets import CheckBox, ComboBox, FileEdit, LineEdit

from cellxlate.errors import CellxlateError, OptionError
from cellxlate.plugin.controls import (
    NEIGHBOURS,
    NEIGHBOURS_TOOLTIP,
    LayerChoice,
    ModelChoice,
    chosen_path,
    neighbours_choice,
    threshold_slider,
)
from cellxlate.plugin.enhance.gate_choice import GateChoice
from cellxlate.plugin.layers import layer_stack
from cellxlate.plugin.models import SHELF, knows_neighbours
from cellxlate.settings import Along, Color
from cellxlate.stacks.channel_names import shown_names
from cellxlate.stacks.luminance import is_color
from cellxlate.stacks.stack import Stack

if TYPE_CHECKING:
    from napari.viewer import Viewer

ALL_CHANNELS = -1
THIS_PLANE, WHOLE_STACK = "this plane", "whole stack"
IN_MEMORY, TO_A_FILE = "in memory", "to a file"


class Choices:
    """The controls that decide what a run does.

    Parameters
    ----------
    viewer : Viewer
        Its image layers are offered.

    Attributes
    ----------
    image_layer, channel, model_choice, model_folder, threshold, gate, neighbours, scope, destination, file, overwrite
        What is asked for; the channel is offered where there are several, neighbours where there are any.
    color : ComboBox
        What becomes of colour, where red, green and blue are one image.
    more, axes, intensity, engine, device : widgets
        A box that shows what is seldom changed.
    asked, seldom : list of widgets
        All that decide; those under the box.
    """

    def __init__(self, viewer: "Viewer") -> None:
        self.image_layer = LayerChoice(
            viewer, "image", label="Image",
            tooltip="The image layer whose cells are enhanced. It is not changed.",
        )  # fmt: skip
        self.model_choice = ModelChoice(
            label="Model",
            choices=lambda _: SHELF.choices_and_auto(),
            tooltip="auto takes the shipped model that suits the image; or one of those trained or opened here.",
        )
        self.model_folder = FileEdit(label="Open model", mode="d", tooltip="The folder of a model you trained.")
        self.threshold = threshold_slider()
        self.preview = CheckBox(
            text="Preview",
            tooltip="Show attention: what this threshold selects on the visible plane, before anything changes.",
        )
        self.gate = GateChoice(viewer)
        self.color = ComboBox(
            label="Colour", choices=[("by luminance, hues stay", "luminance"), ("each by itself", "separate")],
            tooltip="Of red, green and blue: one attention and one change of their luminance for all three, or each "
            "enhanced as a channel of its own, for samples that are three dyes; hues may turn then.",
        )  # fmt: skip
        self.neighbours = neighbours_choice(self._neighbours_of_image)
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

        self._wanted_neighbours = "auto"
        self._make_seldom_choices()
        self.asked = [
            self.image_layer, self.channel, self.model_choice, self.gate, self.threshold, self.color, self.neighbours,
            self.scope, self.destination, self.file, self.overwrite, *self.seldom,
        ]  # fmt: skip
        self.axes.changed.connect(self.offer_channels)
        for choice in (self.image_layer, self.axes, self.model_choice):
            choice.changed.connect(self.offer_neighbours)
        self.model_choice.changed.connect(self._model_chosen)
        self.neighbours.changed.connect(self._neighbours_chosen)
        self.destination.changed.connect(self._show_fitting)
        self.more.changed.connect(self._show_fitting)

    def _make_seldom_choices(self) -> None:
        self.channel = ComboBox(
            label="Channel", choices=self._channels_of_image, tooltip="The others are copied as they are."
        )
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
        self.more = CheckBox(text="More options", tooltip="Axes, intensity, engine, device.")
        self.seldom = [self.axes, self.intensity, self.engine, self.device]

    def show(self) -> None:
        """Show what is of use now: magicgui shows all that it lays out."""
        self.offer_channels()
        self.offer_neighbours()
        self._show_fitting()

    def _show_fitting(self, _: Any = None) -> None:
        self.file.visible = self.overwrite.visible = self.destination.value == TO_A_FILE
        for control in self.seldom:
            control.visible = bool(self.more.value)

    def _why_alone(self) -> tuple[str, str]:
        """Return why the planes beside cannot be looked at, in a word and in a sentence; nothing where they can."""
        stack, model = self._stack(), self.model_choice.value
        if stack is None or model is None:
            return "none", "Choose an image and a model first."
        if max(stack.size("Z"), stack.size("T")) < 2:
            return "none: one plane", "This image has neither depth nor time."
        if not knows_neighbours(model):
            return "none: not this model", "This model was not trained to see neighbours; it sees each plane alone."
        return "", ""

    def _neighbours_of_image(self, _: Any = None) -> list[tuple[str, str]]:
        stack, (word, _reason) = self._stack(), self._why_alone()
        if stack is None or word:
            return [(word, "none")]
        return [(words, along) for words, along in NEIGHBOURS if along not in "zt" or stack.size(along.upper()) > 1]

    def offer_neighbours(self, _: Any = None) -> None:
        """Offer the neighbours that the image has; what was chosen stays chosen where it is there."""
        (_, reason), wanted, before = self._why_alone(), self._wanted_neighbours, self.neighbours.value
        with self.neighbours.changed.blocked():
            self.neighbours.reset_choices()
            if not reason:
                self.neighbours.value = wanted if wanted in self.neighbours.choices else "auto"
        self.neighbours.enabled, self.neighbours.tooltip = not reason, reason or NEIGHBOURS_TOOLTIP
        if self.neighbours.value != before:
            self.neighbours.changed.emit(self.neighbours.value)
            self._wanted_neighbours = wanted

    def _neighbours_chosen(self, along: str) -> None:
        if len(self.neighbours.choices) > 1:  # else nobody has chosen: magicgui makes choices anew in a new window
            self._wanted_neighbours = along

    def _channels_of_image(self, _: Any) -> list[tuple[str, int]]:
        every, stack = [("all", ALL_CHANNELS)], self._stack()
        if stack is None or stack.channel_count == 1:
            return every
        names = dict(enumerate(shown_names(stack)))
        return every + [(names.get(number, str(number)), number) for number in stack.light_channels]

    def _stack(self) -> Stack | None:
        """Return the image that is chosen now; None where there is none, or its axes do not fit yet."""
        try:
            return layer_stack(self.image_layer.value, self.axes.value or None)
        except (CellxlateError, AttributeError):
            return None

    def offer_channels(self, _: Any = None) -> None:
        """Offer the channels of the image that is chosen now."""
        stack = self._stack()
        self.gate.offer_for(stack)
        self.color.visible = stack is not None and is_color(stack)
        self.channel.reset_choices()
        self.channel.visible = len(self.channel.choices) > 1

    def chosen_channels(self) -> tuple[int, ...] | None:
        """Return the channels to enhance, None for all."""
        return None if self.channel.value in (None, ALL_CHANNELS) else (int(self.channel.value),)

    def chosen_color(self) -> Color:
        """Return what becomes of colour: what is chosen, where that can be seen."""
        chosen: Color = self.color.value
        stack = self._stack()
        return chosen if stack is not None and is_color(stack) else "luminance"

    def context(self, model: str) -> Along:
        """Return which neighbours a run with a model looks at: those that are chosen, none where it knows none."""
        chosen: Along = self.neighbours.value
        return chosen if chosen == "none" or knows_neighbours(str(model)) else "none"

    def output(self) -> Path | None:
        """Return the file to write, or None for a result in memory.

        Raises
        ------
        OptionError
            A file is wanted, and none is chosen.
        """
        if self.destination.value == IN_MEMORY:
            return None
        path = chosen_path(self.file)
        if path is None:
            raise OptionError(
                f"no File is chosen; choose one that ends in .ome.tif or .ome.zarr, or Result {IN_MEMORY}"
            )
        return path

    def _model_chosen(self, model: str | None) -> None:
        """Empty the field of a folder that is not what is chosen any more."""
        folder = chosen_path(self.model_folder)
        if folder is not None and str(folder.resolve()) != model:
            with self.model_folder.changed.blocked():
                self.model_folder.line_edit.value = ""
