"""What of a plane's attention is asked for, kept and shown: no Qt, no layer, and no torch, which is slow to load."""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from math import ceil, sqrt
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cellxlate.enhancement.preview import AttentionPlane
from cellxlate.enhancement.tiling import Tile
from cellxlate.plugin.requests import StopRequest
from cellxlate.settings import Along, Color
from cellxlate.stacks.stack import PlaneIndex, Stack

if TYPE_CHECKING:
    from cellxlate.enhancement.plan import Plan
    from cellxlate.model.engines.engine import Device, Engine

SHOWN_PX = 1_048_576
"""Larger planes are shown as far as they are visible, and coarser where that is still larger."""
CACHE_BYTES = 268_435_456


@dataclass(frozen=True)
class PreviewRequest:
    """Which blocks of which plane are wanted.

    Attributes
    ----------
    stack : Stack
        Of the whole layer.
    plane : tuple of int
        As `visible_plane` gives it.
    model, device, engine : str
        What runs, and where.
    blocks : tuple of Tile
        In the order in which they are wanted.
    stop : StopRequest
        Ends it between two blocks.
    plan : Plan or None
        Of an earlier request for the same stack, channels and model.
    channels : tuple of int or None
        That a model is chosen for, where it is "auto": None takes all, an empty tuple that of the plane.
    attention_channel : int or None
        Whose attention gates all.
    attention_from : Stack, "saliency" or None
        A mask, or the automatic guide, that gates in place of attention.
    context : {"auto", "none", "z", "t"}
        Which planes beside it are looked at.
    together : Stack or None
        The stack with the layers that the model sees beside it as further channels, where it sees some.
    color : {"luminance", "separate"}
        What becomes of red, green and blue.
    """

    stack: Stack
    plane: PlaneIndex
    model: str
    device: "Device"
    engine: "Engine"
    blocks: tuple[Tile, ...]
    stop: StopRequest
    plan: "Plan | None" = None
    channels: tuple[int, ...] | None = None
    attention_channel: int | None = None
    attention_from: Stack | str | None = None
    context: Along = "auto"
    together: Stack | None = None
    color: Color = "luminance"

    @property
    def indices(self) -> list[PlaneIndex]:
        """Positions of the plane in the stack: one per sample of colour of a colour image, else one."""
        if "S" not in self.stack.axes:
            return [self.plane]
        dimension = self.stack.plane_axes.index("S")
        samples = [sample for sample in range(self.stack.size("S")) if sample not in self.stack.alpha_samples]
        return [(*self.plane[:dimension], sample, *self.plane[dimension:]) for sample in samples]


@dataclass(frozen=True)
class PlanMade:
    """The levels of the stack are measured."""

    plan: "Plan"


@dataclass(frozen=True)
class Computed:
    """A block of the plane and its attention in steps of 1/1024; an estimate is replaced later."""

    block: Tile
    steps: npt.NDArray[np.uint16]
    estimated: bool = False


class AttentionCache:
    """Attention of the planes seen last, within 256 MB, and the plans it was computed with."""

    def __init__(self) -> None:
        self._planes: OrderedDict[Hashable, AttentionPlane] = OrderedDict()
        self.plans: dict[Hashable, Plan] = {}

    def plane(self, key: Hashable, shape: tuple[int, int]) -> AttentionPlane:
        """Return what is known of a plane of (rows, columns); the planes not asked for longest are forgotten."""
        kept = self._planes.pop(key, None) or AttentionPlane.unknown(shape)
        self._planes[key] = kept
        while len(self._planes) > 1 and sum(plane.steps.nbytes for plane in self._planes.values()) > CACHE_BYTES:
            self._planes.popitem(last=False)
        return kept

    def clear(self) -> None:
        """Forget everything."""
        self._planes.clear()
        self.plans.clear()


def shown_part(shape: tuple[int, int], visible: Tile) -> tuple[Tile, int]:
    """Return which part of a plane is drawn, and every how many pixels, so that drawing stays quick.

    Examples
    --------
    >>> shown_part((512, 512), Tile(0, 100, 0, 100))
    (Tile(top=0, bottom=512, left=0, right=512), 1)
    >>> shown_part((20000, 20000), Tile(0, 8000, 0, 8000))
    (Tile(top=0, bottom=8000, left=0, right=8000), 8)
    """
    whole = Tile(0, shape[0], 0, shape[1])
    if shape[0] * shape[1] <= SHOWN_PX:
        return whole, 1
    rows, columns = visible.shape
    return visible, max(1, ceil(sqrt(rows * columns / SHOWN_PX)))
