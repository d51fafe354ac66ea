"""Planes along z that a network of volumes enhances together: as many as keep memory bounded."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cellxlate.enhancement.input import Blocks
from cellxlate.enhancement.proposals.windows import Geometry
from cellxlate.enhancement.tiling import BAND_BYTES_PER_PX, BLOCK_PX, SEEN_BYTES_PER_PX
from cellxlate.errors import ModelError
from cellxlate.model.foreign.values import ForeignModel
from cellxlate.stacks.stack import Stack

DEPTH_BYTES = 256_000_000
"""Of the rows of planes that are seen at once for a block along z."""
FEWEST_PLANES = 8
"""Blocks along z are no larger than this, or four times the halo: more would save little."""


def blocks_in(model: ForeignModel, stack: Stack) -> Blocks | None:
    """Return which planes along z of a stack a model of volumes enhances together; as many as keep memory bounded.

    Raises
    ------
    ModelError
        No plane is seen whole in the planes that it takes.
    """
    if model.axes != "ZYX":
        return None
    reach, size = model.reach[0], stack.size("Z")
    along = Geometry(
        reach.halo_px, reach.stride, reach.least_px, reach.step_px, reach.fixed_px, margin_px=reach.margin_px
    )
    if reach.halo_px is None:
        if reach.fixed_px is not None and size > reach.fixed_px:
            raise ModelError(
                f"{model.name} looks at all planes and takes {reach.fixed_px} together, the stack has {size}; export "
                "it for any number"
            )
        return Blocks(size, along)
    rows, columns = stack.plane_shape
    band_px = min(rows, 2 * BLOCK_PX) * columns * model.channels_in
    room = DEPTH_BYTES / band_px - 2 * reach.halo_px * SEEN_BYTES_PER_PX
    planes = min(max(int(room // BAND_BYTES_PER_PX), reach.stride), max(4 * reach.halo_px, FEWEST_PLANES), size)
    if reach.fixed_px is not None:
        planes = min(planes, reach.fixed_px - 2 * reach.halo_px - reach.stride + 1)
    if planes < 1:
        raise ModelError(
            f"{model.name} takes {reach.fixed_px} planes and looks {reach.halo_px} around each, so none is seen whole"
        )
    return Blocks(planes, along)


def planes_seen(blocks: Blocks | None, stack: Stack) -> int:
    """Return how many planes along z are seen for a block, at most."""
    if blocks is None:
        return 1
    size = stack.size("Z")
    return max(last - first for first, last in (blocks.seen(at, size) for at in range(0, size, blocks.planes)))


def block_planes(blocks: Blocks | None) -> int:
    """Return how many planes along z are enhanced together."""
    return blocks.planes if blocks else 1


def sample_stack(windows: Sequence[npt.NDArray[Any]], blocks: Blocks | None) -> Stack:
    """Return windows (C, Y, X) of a stack as time points of another, each a whole block where planes are in blocks."""
    counts = np.stack(windows)
    if blocks is None:
        return Stack.from_array(counts, "TCYX", name="sample")
    return Stack.from_array(np.repeat(counts[:, :, None], blocks.planes, axis=2), "TCZYX", name="sample")
