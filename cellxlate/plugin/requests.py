"""What a panel asks of a worker, and what comes back: no Qt, no layer, and no torch, which is slow to load."""

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellxlate.enhancement.tiling import Tile
from cellxlate.plugin.layers import Appearance
from cellxlate.settings import Color, EnhanceSettings
from cellxlate.stacks.stack import PlaneIndex, Stack

if TYPE_CHECKING:
    from cellxlate.model.engines.engine import Device, Engine
    from cellxlate.quality.report.report import RunReport


class CancelledError(Exception):
    """The user has asked a run to end."""


class StopRequest:
    """Whether a run is to end; set from the panel, checked by the worker."""

    def __init__(self) -> None:
        self._asked = threading.Event()

    @property
    def asked(self) -> bool:
        """Whether the run is to end."""
        return self._asked.is_set()

    def ask(self) -> None:
        """Ask the run to end."""
        self._asked.set()

    def check(self) -> None:
        """Raise CancelledError if the run is to end."""
        if self.asked:
            raise CancelledError


@dataclass(frozen=True)
class EnhanceRequest:
    """What is to be enhanced, and how.

    Attributes
    ----------
    stack : Stack
        Of the whole layer; its pixels check `stop`.
    appearance : Appearance
        Of the layer, for the results.
    model : str
        Folder or shipped name.
    stop : StopRequest
        Ends the run.
    channels : tuple of int or None
        None takes all.
    attention_channel : int or None
        Whose attention gates all.
    attention_from : Stack, "saliency" or None
        A mask, or the automatic guide, that gates in place of attention.
    settings : EnhanceSettings
        Threshold, intensity, neighbours, colour.
    device, engine : str
        Where the networks run, and what runs them.
    plane : tuple of int or None
        One plane of the stack, as `visible_plane` gives it; None takes the whole stack. Intensities are those of the
        whole stack in both cases, so the plane looks as it will in the whole.
    part : Tile or None
        Of that plane; None takes all of it.
    output : Path or None
        Enhanced file to write; None keeps the result in memory.
    source : Path or None
        File the layer was read from, which must not be replaced.
    overwrite : bool
        Replace files that are there already.
    together : Stack or None
        The stack with the layers that the model sees beside it as further channels, where it sees some.
    """

    stack: Stack
    appearance: Appearance
    model: str
    stop: StopRequest
    channels: tuple[int, ...] | None = None
    attention_channel: int | None = None
    attention_from: Stack | str | None = None
    settings: EnhanceSettings = field(default_factory=EnhanceSettings)
    device: "Device" = "auto"
    engine: "Engine" = "auto"
    plane: PlaneIndex | None = None
    part: Tile | None = None
    output: Path | None = None
    source: Path | None = None
    overwrite: bool = False
    together: Stack | None = None


@dataclass(frozen=True)
class SuitabilityRequest:
    """Which model (folder, shipped name or "auto") is asked about, for which channels of a stack; None for all.

    `color` says what becomes of red, green and blue.
    """

    stack: Stack
    channels: tuple[int, ...] | None
    model: str
    stop: StopRequest
    color: Color = "luminance"


@dataclass(frozen=True)
class Outcome:
    """What a run has made: two arrays of the shape of the layer (or of its plane), and the report."""

    image: Any
    attention: Any
    report: "RunReport"

    @property
    def is_pyramid(self) -> bool:
        """Whether image and attention are lists of levels."""
        return isinstance(self.image, list)


@dataclass(frozen=True)
class AdaptRequest:
    """What a model is to be adapted to, and how long.

    Attributes
    ----------
    run : EnhanceRequest
        The stack, the model to begin with, and a part of a plane that is shown before and after.
    layer : object
        Of the image; nothing but its identity is used.
    seconds : float
        For learning and judging.
    channels : tuple of int or None
        To learn from; None takes all.
    """

    run: EnhanceRequest
    layer: Any
    seconds: float
    channels: tuple[int, ...] | None = None

    @property
    def stop(self) -> StopRequest:
        """Ends the run."""
        return self.run.stop


@dataclass(frozen=True)
class AdaptNews:
    """How many seconds of how many are over; or what else goes on, in words."""

    spent_s: float
    seconds: float
    words: str = ""

    @property
    def share(self) -> float:
        """Of the time that is over, at most 1."""
        return min(self.spent_s / self.seconds, 1.0)


@dataclass(frozen=True)
class Adapted:
    """What came of it: the model's folder, None where it was not kept; the judge's sentence; pixels before and after.

    The pixels have the shape of the layer, with size 1 along all axes but those of the plane.
    """

    folder: Path | None
    reason: str
    before: Any = None
    after: Any = None


@dataclass(frozen=True)
class Refusal:
    """Why a run could not be done, in one line."""

    reason: str
