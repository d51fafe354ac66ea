"""The same gate where windows of a stack are enhanced in its place: a sample of it, or one plane."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from cellxlate.enhancement.gates.channel import ChannelAttention
from cellxlate.enhancement.gates.each import EachAttention
from cellxlate.enhancement.gates.mask import MaskAttention
from cellxlate.enhancement.plane import GateSource
from cellxlate.stacks.intensity.range import IntensityRange
from cellxlate.stacks.masks.fit import FittedMask
from cellxlate.stacks.stack import PlaneIndex, Stack

Window = tuple[Sequence[PlaneIndex], slice, slice]
"""The planes of all channels at one position, rows and columns."""


def gates_of_windows(
    gates: GateSource, windows: Sequence[Window], levels: Callable[[IntensityRange], IntensityRange]
) -> GateSource:
    """Return the gate of a sample of a stack, (T, C, Y, X), whose time points are windows of it.

    `levels` returns the intensity range of a channel over such time points.
    """
    if isinstance(gates, EachAttention):
        return EachAttention(gates_of_windows(gates.inner, windows, levels))
    if isinstance(gates, MaskAttention):
        inside = np.stack([[gates.mask.read(one, rows, columns) for one in of] for of, rows, columns in windows])
        return MaskAttention(FittedMask(Stack.from_array(inside, "TCYX"), (0, 1)))
    return replace(gates, intensity=levels(gates.intensity)) if isinstance(gates, ChannelAttention) else gates


def gates_of_plane(
    gates: GateSource, index: PlaneIndex, rows: slice, columns: slice, channel: Stack | None, *, time: int = 0
) -> GateSource:
    """Return the gate of a window of one plane, (Y, X), which is enhanced as a stack of its own.

    `index` is that of the plane in the whole stack, where a mask lies on it; `channel` the same window of the channel
    whose attention gates all, where one does, and `time` whose levels it has then.
    """
    if isinstance(gates, EachAttention):
        return EachAttention(gates_of_plane(gates.inner, index, rows, columns, channel))
    if isinstance(gates, MaskAttention):
        return MaskAttention(FittedMask(Stack.from_array(gates.mask.read(index, rows, columns), "YX"), ()))
    if isinstance(gates, ChannelAttention):
        return replace(gates, apart=channel, intensity=gates.intensity.at(time))
    return gates
