"""Attention of the visible plane in a worker thread, and what of it is shown: no Qt, no layer."""

from collections import OrderedDict
from collections.abc import Generator, Hashable
from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np
import numpy.typing as npt

from cellxlate.enhancement.plan import Plan, make_plan
from cellxlate.enhancement.plane import plane_reader
from cellxlate.enhancement.preview import AttentionPlane, attention_blocks
from cellxlate.enhancement.tiling import Tile
from cellxlate.errors import CellxlateError
from cellxlate.model.engines import Device
from cellxlate.plugin.enhancing import CancelledError, Refusal, StopRequest
from cellxlate.stacks.reading import one_line
from cellxlate.stacks.stack import PlaneIndex, Stack

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
    model, device : str
        What runs.
    blocks : tuple of Tile
        In the order in which they are wanted.
    stop : StopRequest
        Ends it between two blocks.
    plan : Plan or None
        Of an earlier request for the same stack, channels and model.
    """

    stack: Stack
    plane: PlaneIndex
    model: str
    device: Device
    blocks: tuple[Tile, ...]
    stop: StopRequest
    plan: Plan | None = None

    @property
    def indices(self) -> list[PlaneIndex]:
        """Positions of the plane in the stack: one per sample of a colour image, else one."""
        if "S" not in self.stack.axes:
            return [self.plane]
        place = self.stack.plane_axes.index("S")
        samples = range(self.stack.size("S"))
        return [(*self.plane[:place], sample, *self.plane[place:]) for sample in samples]


News = Plan | tuple[Tile, npt.NDArray[np.uint16]]


def preview_steps(request: PreviewRequest) -> Generator[News, None, Refusal | None]:
    """Yield the plan, where it had to be made, then blocks with their attention; of colour images the largest."""
    try:
        stack, plan = request.stack, request.plan
        channels = sorted({stack.channel_of(index) for index in request.indices})
        if plan is None:
            plan = make_plan(
                stack, request.model, channels=channels, settings=None, engine="auto", device=request.device
            )
            yield plan
        readers = [plane_reader(stack, index) for index in request.indices]
        for block in request.blocks:
            found: list[npt.NDArray[np.uint16]] = []
            for index, reader in zip(request.indices, readers, strict=True):
                request.stop.check()
                job = plan.jobs[stack.channel_of(index)]
                found += (
                    steps
                    for _, steps in attention_blocks(
                        reader, [block], stack.plane_shape, translator=job.translator, levels=job.levels
                    )
                )
            yield block, np.max(found, axis=0)
    except CancelledError:
        return None
    except CellxlateError as fault:
        return Refusal(str(fault))
    except RuntimeError as fault:  # of torch; the worker would take it for a result
        return Refusal(f"attention failed ({one_line(fault)}); try another device")
    return None


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
