"""The choice of what gates: attention of each channel or of one, a labels layer, the automatic guide."""

from typing import TYPE_CHECKING, Any

from psygnal import Signal
from qtpy.QtWidgets import QComboBox

from cellxlate.plugin.controls import LayerChoice
from cellxlate.plugin.layers import mask_stack
from cellxlate.settings import SALIENCY
from cellxlate.stacks.channel_names import shown_names
from cellxlate.stacks.stack import Stack

if TYPE_CHECKING:
    from napari.viewer import Viewer

OWN = "own"


class GateChoice(LayerChoice):
    """A choice of what decides which pixels may change.

    Attributes
    ----------
    painted : Signal
        Emitted when somebody has painted in the labels layer that gates.
    """

    painted = Signal()

    def __init__(self, viewer: "Viewer") -> None:
        self._heard: Any = None
        super().__init__(
            viewer, "labels", label="Gate", first=[("own attention", OWN)],
            tooltip="What decides which pixels may change: attention of each channel itself, attention of one channel "
            "for all, the automatic guide, or a labels layer (1 inside, 0 outside, no ramp).",
        )  # fmt: skip
        shrinks = QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        self.native.setSizeAdjustPolicy(shrinks)  # a long name of a layer would widen the panel
        self.changed.connect(self._hear)

    def offer_for(self, stack: Stack | None) -> None:
        """Offer the channels of a stack, beside what there is for any."""
        several = stack is not None and stack.channel_count > 1
        channels = stack.light_channels if stack is not None and several else ()
        names = dict(enumerate(shown_names(stack) if stack is not None else ()))
        offered = [
            ("own attention", OWN),
            *((f"channel {names.get(one, one)}", one) for one in channels),
            ("automatic guide", SALIENCY),
        ]
        if offered == self._first:
            return
        self._first, chosen = offered, self.value
        with self.changed.blocked():
            self.native.clear()  # else what is new comes last
            self.reset_choices()
            if chosen in self.choices:
                self.value = chosen
        self.refresh()
        if self.value != chosen:
            self.changed.emit(self.value)

    @property
    def channel(self) -> int | None:
        """The channel whose attention gates all, where one does."""
        return self.value if isinstance(self.value, int) else None

    def given(self, like: Stack) -> Stack | str | None:
        """Return what gates in place of attention, where something does: the guide, or the labels as they are now."""
        if self.value in (None, OWN) or self.channel is not None:
            return None
        return SALIENCY if isinstance(self.value, str) else mask_stack(self.value, like)

    @property
    def key(self) -> object:
        """Tells one gate from another."""
        return getattr(self.value, "unique_id", self.value)

    def _hear(self, _: Any = None) -> None:
        """Hear what is painted in the layer that is chosen, and in no other."""
        if self._heard is not None:
            self._heard.events.paint.disconnect(self._was_painted)
        self._heard = self.value if hasattr(self.value, "events") else None
        if self._heard is not None:
            self._heard.events.paint.connect(self._was_painted)

    def _was_painted(self, _: Any = None) -> None:
        self.painted.emit()

    def leave(self) -> None:
        """Listen to the viewer and its layers no more."""
        super().leave()
        if self._heard is not None:
            self._heard.events.paint.disconnect(self._was_painted)
            self._heard = None
