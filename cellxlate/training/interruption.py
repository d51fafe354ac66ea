"""Ctrl-C, a closed terminal and a scheduler's SIGTERM between two steps."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

ASKING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Signals that ask a process to end; Windows has no SIGHUP."""


class StepEnds:
    """Holds what asks to end back until a step is complete, so that what is saved belongs to one step.

    A second signal acts at once.
    Ctrl-C is held back where Python's own handler is in place, the other signals where the program hears them by a
    function; all that in the main thread. Such a function may have one of its own, `heard`, for what cannot wait.
    """

    def __init__(self) -> None:
        self.asked: tuple[int, FrameType | None] | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in ASKING:
                handler = signal.getsignal(number)
                if callable(handler) and (number != signal.SIGINT or handler is signal.default_int_handler):
                    self._previous[number] = signal.signal(number, self._hear)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if error is None:
            self.check()

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if heard := getattr(self._previous[number], "heard", None):
            heard(number)
        if self.asked:
            self._previous[number](number, frame)
        self.asked = number, frame

    def check(self) -> None:
        """Do what was asked since, which raises KeyboardInterrupt."""
        if self.asked:
            (number, frame), self.asked = self.asked, None
            self._previous[number](number, frame)
