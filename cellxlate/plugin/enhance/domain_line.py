"""The line under the model: whether the image looks like what the model was trained on, told before anything runs."""

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from cellxlate.errors import CellxlateError
from cellxlate.plugin.controls import PanelText
from cellxlate.plugin.layers import channel_of_plane, layer_stack, visible_plane
from cellxlate.plugin.preview.overlay import Wanted, single_shot
from cellxlate.plugin.requests import Refusal, StopRequest, SuitabilityRequest
from cellxlate.plugin.wording import suitability_words
from cellxlate.plugin.working import await_end, begin

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from cellxlate.choice import Suitability

SETTLED_MS = 150
"""After the last choice."""


class DomainLine:
    """Looks at a sample of the chosen image in a worker, and says whether the chosen model suits it.

    Parameters
    ----------
    viewer : Viewer
        Whose visible plane counts where a single plane is to be enhanced.
    wanted : callable
        Returns which layer and which model are chosen, or None.

    Attributes
    ----------
    text : PanelText
        One sentence, which takes as many lines as it needs; what is different stands in its tooltip.
    suitability : Suitability or None
        The answer for what is chosen now.

    Notes
    -----
    A new choice ends the look that goes on, and whatever that still answers is dropped.
    """

    def __init__(self, viewer: "Viewer", *, wanted: Callable[[], Wanted | None]) -> None:
        self._viewer, self._wanted = viewer, wanted
        self._request: SuitabilityRequest | None = None
        self._worker: Any = None
        self.suitability: Suitability | None = None
        self.text = PanelText(keeps_room=True)
        self._timer = single_shot(self._look, self.text.native)

    @property
    def is_looking(self) -> bool:
        """Whether an answer is still to come."""
        return self._request is not None

    def update(self) -> None:
        """Look at what is chosen now, a moment later."""
        self._end_look()
        self._say("")
        self._timer.start(SETTLED_MS)

    def leave(self) -> None:
        """Stop without touching the line, whose window may be gone."""
        self._end_look()
        await_end(self._worker)

    def _end_look(self) -> None:
        if self._request is not None:
            self._request.stop.ask()
        self._request = self.suitability = None

    def _look(self) -> None:
        wanted, stop = self._wanted(), StopRequest()
        if wanted is None or wanted.layer not in self._viewer.layers:
            return
        try:
            stack = layer_stack(wanted.layer, wanted.axes, check=stop.check)
            plane = visible_plane(wanted.layer, stack, self._viewer.dims.point)
        except CellxlateError:  # is said where it is enhanced
            return
        channels = wanted.channels if wanted.channels != () else (channel_of_plane(stack.axes, plane),)
        request = self._request = SuitabilityRequest(stack, channels, wanted.model, stop, wanted.color)
        self._say("Looking at the image ...")
        self._worker = begin(_suitability_steps, request, ended=self._told)

    def _told(self, request: SuitabilityRequest, answer: "Suitability | Refusal | None") -> None:
        if self._request is not request:
            return
        self._request = None
        if isinstance(answer, Refusal) or answer is None:
            self._say("", answer.reason if answer else "")
            return
        self.suitability = answer
        self._say(*suitability_words(answer))

    def _say(self, text: str, explained: str = "") -> None:
        self.text.say(text, explained)
        outside = self.suitability is not None and self.suitability.is_outside
        self.text.native.setStyleSheet("font-weight: bold" if outside else "")


def _suitability_steps(request: SuitabilityRequest) -> "Generator[None, None, Suitability]":
    from cellxlate.plugin.enhance.suitability import suitability_steps  # loads torch, thus here

    return (yield from suitability_steps(request))
