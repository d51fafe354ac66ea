"""What a network takes for a small window: time, with an end to it, and memory."""

import math
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from cellxlate.errors import ModelError
from cellxlate.model.attention import Floats
from cellxlate.model.engines.memory import memory_bytes
from cellxlate.model.foreign.session import ForeignSession
from cellxlate.model.foreign.values import ForeignModel

MOST_S = 20.0
"""Seconds for a probe window; no network that finishes a stack takes so long."""
PROBE_PX, LARGER_PX = 64, 256
STEPS_TRIED = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Probe:
    """What a network took for a window.

    Attributes
    ----------
    sides : tuple of int
        Of the window, in pixels.
    seconds : float
        It took.
    peak_bytes : int or None
        By how much the memory of this process grew, at its highest; None where the system does not tell.
    """

    sides: tuple[int, ...]
    seconds: float
    peak_bytes: int | None

    @property
    def seconds_per_megapixel(self) -> float:
        """Seconds for 10^6 pixels, or voxels."""
        return 1e6 * self.seconds / prod(self.sides)

    @property
    def bytes_per_megapixel(self) -> float | None:
        """Bytes for 10^6 pixels, or voxels."""
        return None if self.peak_bytes is None else 1e6 * self.peak_bytes / prod(self.sides)


def probe(session: ForeignSession, *, larger: bool = False) -> Probe:
    """Run a network on a small window of noise, and on a larger one, where that is wanted and will not take long.

    Raises
    ------
    ModelError
        It takes more than 20 s, or more memory than there is; fails, or makes an image of other sides than it says.
    """
    found = _probed_first(session, PROBE_PX)
    if larger and session.model.reach[-1].fixed_px is None and 20 * found.seconds < MOST_S:
        with suppress(MemoryError):  # attention over the image takes it with the square of its pixels
            return _probed(session, LARGER_PX)
    return found


def with_sizes(session: ForeignSession) -> ForeignSession:
    """Return a session that knows which sizes its network takes: by trying, where its graph does not tell.

    Raises
    ------
    ModelError
        It takes none of those that are tried.
    """
    model = session.model
    if not model.unknown or any(one.fixed_px for one in model.reach):
        return session
    fault: ModelError | None = None
    for step in STEPS_TRIED:
        reach = tuple(replace(one, least_px=step, step_px=step, stride=step) for one in model.reach)
        tried = replace(session, model=replace(model, reach=reach))
        try:
            _probed_first(tried, PROBE_PX + 1)  # which no larger step divides
        except ModelError as unfit:
            fault = unfit
            continue
        return tried
    raise ModelError(f"{model.name} takes no window of {PROBE_PX + 1} to {2 * PROBE_PX} px that was tried") from fault


def _probed_first(session: ForeignSession, side_px: int) -> Probe:
    """Run a network on the smallest window that says anything."""
    try:
        return _probed(session, side_px)
    except MemoryError as fault:
        shown = " x ".join(map(str, sides_of(session.model, side_px)))
        raise ModelError(
            f"{session.model.name} takes more memory than there is for a window of {shown} px; use a smaller model"
        ) from fault


def _probed(session: ForeignSession, side_px: int) -> Probe:
    model = session.model
    sides = sides_of(model, side_px)
    if any(one.fixed_px for one in model.reach) and model.bytes_per_px * prod(sides) > memory_bytes():
        shown = " x ".join(map(str, sides))
        raise ModelError(f"{model.name} takes windows of {shown} px and no other, for which there is not enough memory")
    window = np.random.default_rng(0).uniform(100, 300, (1, model.channels_in, *sides)).astype(np.float32)
    before, started = _peak_bytes(), time.perf_counter()
    image, _ = session(window, most_s=MOST_S)
    seconds, after = time.perf_counter() - started, _peak_bytes()
    _require(model, image, sides)
    grown = None if before is None or after is None else after - before
    return Probe(sides, seconds, grown)


def sides_of(model: ForeignModel, side_px: int) -> tuple[int, ...]:
    """Return the least sides of a window that a network takes and that are not less than a side; along z few planes."""
    sides = []
    for axis, reach in zip(model.axes, model.reach, strict=True):
        wanted = side_px if axis != "Z" else 8
        steps = max(math.ceil((wanted - reach.least_px) / reach.step_px), 0)
        sides.append(reach.fixed_px or reach.least_px + steps * reach.step_px)
    return tuple(sides)


def _require(model: ForeignModel, image: Floats, sides: tuple[int, ...]) -> None:
    """Raise ModelError where an image has not the sides that were told from the graph."""
    expected = tuple(side - 2 * reach.margin_px for side, reach in zip(sides, model.reach, strict=True))
    if image.shape[2:] != expected or image.shape[1] != model.channels_out:
        given, made, wanted = (" x ".join(map(str, one)) for one in (sides, image.shape[2:], expected))
        raise ModelError(
            f"{model.name} makes {image.shape[1]} channels of {made} px of a window of {given} px, expected "
            f"{model.channels_out} of {wanted} px"
        )


def _peak_bytes() -> int | None:
    """Return the most memory that this process has had."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
