"""The rows that tell of a run of the panel: one at a time, in a worker, which Cancel ends."""

from collections.abc import Callable, Generator
from typing import Any, TypeVar

from magicgui.widgets import ProgressBar, PushButton

from cellxlate.errors import CellxlateError, said
from cellxlate.plugin.controls import ClickButton, PanelText
from cellxlate.plugin.requests import AdaptRequest, EnhanceRequest, Refusal, StopRequest
from cellxlate.plugin.working import await_end, begin

PROGRESS_STEPS = 1000
Request = TypeVar("Request", EnhanceRequest, AdaptRequest)


class RunControls:
    """One run at a time, told in the same rows whatever it does.

    Attributes
    ----------
    cancel_button, progress, state, notes : widgets
        End the run; how far it is, in one line what is going on or what came of it, and what a reader has to know.
    begin_buttons : list of widgets
        Those that begin a run; they rest while one goes on.
    worker : object
        Of the run that goes on, or None.
    """

    def __init__(self) -> None:
        self._stop: StopRequest | None = None
        self._tells_result = False
        self.worker: Any = None
        self.begin_buttons: list[PushButton] = []
        self.cancel_button = ClickButton(text="Cancel", enabled=False, tooltip="End the run; nothing of it is kept.")
        self.progress = ProgressBar(label="Progress", min=0, max=PROGRESS_STEPS, value=0)
        self.state, self.notes = PanelText(keeps_room=True), PanelText()
        self.cancel_button.changed.connect(self._cancel)

    @property
    def is_running(self) -> bool:
        """Whether a run goes on; it ends with layers, a message, or nothing where it was cancelled."""
        return self._stop is not None

    def forget(self, *, result: bool = False) -> None:
        """Say no more what was wrong or cancelled, as something else is chosen now; nor of a lost result."""
        if not self.is_running and (result or not self._tells_result):
            self.say("")
            self.progress.value = 0

    def say(self, text: str, *, explained: str = "", notes: str = "", result: bool = False) -> None:
        """Show one line, more where the mouse rests on it, and notes where there are some; `result` if of a result."""
        self._tells_result = result
        self.state.say(text, explained)
        self.notes.value = notes

    def run(
        self,
        take_down: Callable[[], Request],
        steps: Callable[[Request], Generator[Any, None, Any]],
        *,
        words: str,
        cancelled: str,
        told: Callable[[Any], tuple[float, str]],
        take: Callable[[Request, Any], None],
    ) -> None:
        """Begin a run, unless one goes on already.

        Parameters
        ----------
        take_down : callable
            Returns the request; what it raises is said, and nothing begins.
        steps : callable
            As `begin` takes them.
        words, cancelled : str
            What is said until there is news, and where the run was asked to end.
        told : callable
            Returns of news how far the run is, in [0, 1], and one line.
        take : callable
            Called with the request and its result, unless it was cancelled or refused.
        """
        if self.is_running:
            return
        try:
            request = take_down()
        except CellxlateError as fault:
            self.say(said(fault, by="panel"))
            return
        stop = self._stop = request.stop

        def tell(_: Request, news: Any) -> None:
            if self._stop is stop and not stop.asked:
                share, line = told(news)
                self.progress.value = round(PROGRESS_STEPS * share)
                self.say(line)

        def end(_: Request, outcome: Any) -> None:
            if self._stop is not stop:
                return  # the panel has been closed
            self._stop = self.worker = None
            self._show_running(False)
            if outcome is None or stop.asked:
                self.say(cancelled)
            elif isinstance(outcome, Refusal):
                self.say(outcome.reason)
            else:
                take(request, outcome)

        self._show_running(True)
        self.say(words)
        self.worker = begin(steps, request, news=tell, ended=end)

    def leave(self) -> None:
        """End the run without touching the rows, whose window may be gone."""
        if self._stop:
            self._stop.ask()
        self._stop = None
        await_end(self.worker)

    def _show_running(self, running: bool) -> None:
        for button in self.begin_buttons:
            button.enabled = not running
        self.cancel_button.enabled = running
        self.progress.value = 0

    def _cancel(self, _: Any = None) -> None:
        if self._stop is not None:
            self._stop.ask()
            self.cancel_button.enabled = False
            self.say("Cancelling ...")
