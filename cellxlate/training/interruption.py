"""Ctrl-C between two steps."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self


class StepEnds:
    """Holds Ctrl-C back until a step is complete, so that what is saved belongs to one step; a second acts at once.

    It does so where Python's own handler is in place, that is, in the main thread of a program without its own.
    """

    def __init__(self) -> None:
        self.asked = False
        self._previous: Any = None

    def __enter__(self) -> Self:
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._previous = signal.signal(signal.SIGINT, self._hear)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None

    def _hear(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def check(self) -> None:
        """Raise KeyboardInterrupt if Ctrl-C was pressed since."""
        if self.asked:
            raise KeyboardInterrupt
