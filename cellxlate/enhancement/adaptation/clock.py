"""The seconds that a model may learn in."""

import math
import time

from cellxlate.errors import Option, OptionError
from cellxlate.option_values import real_number, whole
from cellxlate.options import ADAPT_SECONDS

FINISHING_S, FINISHING_SHARE = 2.0, 0.05
"""For writing the model, at most a share of the time."""


def require_seconds(option: Option, seconds: float) -> float:
    """Return a time to learn in, or raise OptionError where there is none."""
    if not (math.isfinite(real_number(option, seconds, "a number of seconds")) and seconds >= 1):
        raise OptionError(option.of(seconds), " is no time to learn in", remedy="give at least 1 second, 90 are usual")
    return float(seconds)


class Clock:
    """Seconds that are there and seconds that were spent; where steps are given, there are as many as they take."""

    def __init__(self, seconds: float, steps: int | None) -> None:
        seconds = require_seconds(ADAPT_SECONDS, seconds)
        if steps is not None:
            whole("steps", steps, least=1)
        self._started = self._learned = time.monotonic()
        self.limit_s = math.inf if steps else seconds
        self.expected_s = seconds
        self.finishing_s = min(FINISHING_S, FINISHING_SHARE * seconds)

    @property
    def spent_s(self) -> float:
        """Since it began."""
        return time.monotonic() - self._started

    @property
    def since_learning_s(self) -> float:
        """Since learning ended."""
        return time.monotonic() - self._learned

    def stop_learning(self) -> None:
        """Note that learning ends now."""
        self._learned = time.monotonic()
