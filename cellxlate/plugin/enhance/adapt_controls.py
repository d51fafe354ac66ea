"""The line that offers to adapt a model to the image, and what comes of it."""

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from magicgui.widgets import Container, Label, SpinBox

from cellxlate.plugin.controls import ClickButton
from cellxlate.plugin.enhance.domain_line import DomainLine
from cellxlate.plugin.enhance.run_controls import RunControls
from cellxlate.plugin.preview.overlay import Wanted
from cellxlate.plugin.requests import Adapted, AdaptNews, AdaptRequest
from cellxlate.plugin.wording import adapting_left
from cellxlate.settings import ADAPT_S

if TYPE_CHECKING:
    from napari.viewer import Viewer

LEAST_S, MOST_S = 10, 3600


class AdaptControls:
    """Say whether the chosen model suits the chosen image, and adapt it to the image where that is wished.

    Parameters
    ----------
    viewer : Viewer
        Where the image is.
    wanted : callable
        Returns which layer and which model are chosen, or None.
    runs : RunControls
        Of the panel; they tell of the run.
    request : callable
        Takes the seconds and returns what is to be adapted.
    take : callable
        Called with the request and a model that was kept.

    Attributes
    ----------
    domain : DomainLine
        The sentence.
    adapt_button, seconds : widgets
        Begin; for how long.
    row : Container
        Button and seconds, in one line under the sentence.
    """

    def __init__(
        self,
        viewer: "Viewer",
        *,
        wanted: Callable[[], Wanted | None],
        runs: RunControls,
        request: Callable[[float], AdaptRequest],
        take: Callable[[AdaptRequest, Adapted], None],
    ) -> None:
        self._runs, self._request, self._take = runs, request, take
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
        widgets = [self.adapt_button, Label(value=self.seconds.label), self.seconds]
        self.row = Container(widgets=widgets, layout="horizontal", labels=False)
        self.row.margins = (0, 0, 0, 0)
        self.adapt_button.changed.connect(self._adapt)

    def _adapt(self, _: Any = None) -> None:
        self._runs.run(
            lambda: self._request(float(self.seconds.value)),
            _adapt_steps,
            words="Adapting to this image ...",
            cancelled="Cancelled. The model is what it was.",
            told=lambda news: (news.share, adapting_left(news)),
            take=self._ended,
        )

    def _ended(self, request: AdaptRequest, adapted: Adapted) -> None:
        reason = f"{adapted.reason.rstrip('. ')}."
        reason = f"{reason[:1].upper()}{reason[1:]}"
        if adapted.folder is None:
            self._runs.say("Not kept; nothing has changed.", notes=reason, result=True)
            return
        self._take(request, adapted)
        line = f"Adapted: {adapted.folder.name} is chosen now."
        self._runs.say(line, explained=str(adapted.folder), notes=reason, result=True)


def _adapt_steps(request: AdaptRequest) -> Generator[AdaptNews, None, Adapted]:
    from cellxlate.plugin.enhance.adapt_steps import adapt_steps  # loads torch, thus here

    return (yield from adapt_steps(request))
