"""The line that offers to adapt a model to the image, and what comes of it."""

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Protocol

from magicgui.widgets import Container, SpinBox

from cellxlate.errors import CellxlateError, said
from cellxlate.plugin.controls import ClickButton
from cellxlate.plugin.enhance.domain_line import DomainLine
from cellxlate.plugin.preview.overlay import Wanted
from cellxlate.plugin.requests import Adapted, AdaptNews, AdaptRequest, Refusal, StopRequest
from cellxlate.plugin.wording import adapting_left
from cellxlate.plugin.working import await_end, begin
from cellxlate.settings import ADAPT_S

if TYPE_CHECKING:
    from napari.viewer import Viewer

LEAST_S, MOST_S = 10, 3600


class RunPanel(Protocol):
    """What adapting needs of the panel that it belongs to: one run at a time, told in the same rows."""

    @property
    def is_running(self) -> bool:
        """Whether a run goes on."""

    def begin_run(self, stop: StopRequest, words: str) -> None:
        """Show that a run goes on, which Cancel ends by the stop."""

    def tell_run(self, stop: StopRequest, share: float, words: str) -> None:
        """Show how far it is, unless it was asked to end."""

    def end_run(self, stop: StopRequest, words: str) -> bool:
        """Show that it has ended and say what came of it; False where the panel has been closed meanwhile."""

    def refuse(self, words: str) -> None:
        """Say why no run begins."""

    def adaptation_request(self, seconds: float) -> AdaptRequest:
        """Take down what is chosen."""

    def take_adapted(self, request: AdaptRequest, adapted: Adapted) -> None:
        """Choose the adapted model, and show what it changes."""


class AdaptControls:
    """Say whether the chosen model suits the chosen image, and adapt it to the image where that is wished.

    Parameters
    ----------
    viewer : Viewer
        Where the image is.
    panel : RunPanel
        Whose rows tell of the run.
    wanted : callable
        Returns which layer and which model are chosen, or None.

    Attributes
    ----------
    domain : DomainLine
        The sentence.
    adapt_button, seconds : widgets
        Begin; for how long.
    row : Container
        Sentence and button, in one line.
    """

    def __init__(self, viewer: "Viewer", *, panel: RunPanel, wanted: Callable[[], Wanted | None]) -> None:
        self._panel, self._worker = panel, None
        self.domain = DomainLine(viewer, wanted=wanted)
        self.adapt_button = ClickButton(
            text="Adapt to this image",
            tooltip="Learn from this image alone, without clear ones; what was learned is kept only where it is judged "
            "to be better.",
        )
        self.seconds = SpinBox(
            label="Adapt for (s)",
            value=int(ADAPT_S),
            min=LEAST_S,
            max=MOST_S,
            step=10,
            tooltip="Seconds for all of it, learning and judging.",
        )
        self.row = Container(widgets=[self.domain.text, self.adapt_button], layout="horizontal", labels=False, label="")
        self.row.margins = (0, 0, 0, 0)
        self.adapt_button.changed.connect(self._adapt)

    def leave(self) -> None:
        """Stop without touching the panel, whose window may be gone."""
        self.domain.leave()
        await_end(self._worker)

    def _adapt(self, _: Any = None) -> None:
        if self._panel.is_running:
            return
        try:
            request = self._panel.adaptation_request(float(self.seconds.value))
        except CellxlateError as fault:
            self._panel.refuse(said(fault, by="panel"))
            return
        self._panel.begin_run(request.run.stop, "Adapting to this image ...")
        self._worker = begin(
            _adapt_steps,
            request,
            news=lambda news: self._told(request, news),
            ended=lambda outcome: self._ended(request, outcome),
        )

    def _told(self, request: AdaptRequest, news: AdaptNews) -> None:
        self._panel.tell_run(request.run.stop, news.share, adapting_left(news))

    def _ended(self, request: AdaptRequest, outcome: Adapted | Refusal | None) -> None:
        if outcome is None or request.run.stop.asked:
            self._panel.end_run(request.run.stop, "Cancelled. The model is what it was.")
        elif isinstance(outcome, Refusal):
            self._panel.end_run(request.run.stop, outcome.reason)
        elif self._panel.end_run(request.run.stop, _verdict(outcome)) and outcome.folder is not None:
            self._panel.take_adapted(request, outcome)


def _verdict(adapted: Adapted) -> str:
    """Say in one sentence what the judge found, and in another what follows."""
    reason = adapted.reason.rstrip(". ")
    follows = f"{adapted.folder} is chosen now." if adapted.folder else "Nothing has changed."
    return f"{reason[:1].upper()}{reason[1:]}. {follows}"


def _adapt_steps(request: AdaptRequest) -> Generator[AdaptNews, None, Adapted | Refusal | None]:
    from cellxlate.plugin.enhance.adapt_steps import (
        adapt_steps,  # loads torch, which must not happen in the main thread
    )

    return (yield from adapt_steps(request))
