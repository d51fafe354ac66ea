"""What networks see of a plane: its channels and the planes beside it, in unit range; and the pixels that may change.

The one place that knows which planes of a stack are read for one. Memory is bounded by a band of rows.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from cellxlate.enhancement.tiling import LEAST_WINDOW_PX, Tile, window
from cellxlate.model.attention import Floats
from cellxlate.stacks.intensity.luminance import RGB, luminance_of
from cellxlate.stacks.intensity.network_input import REACH_PX, network_input
from cellxlate.stacks.intensity.range import IntensityRange
from cellxlate.stacks.stack import PlaneIndex, Stack, plane_reader
from cellxlate.stacks.windows import mirrored

ReadRows = Callable[[slice], npt.NDArray[Any]]
"""Reads whole rows of a plane: (rows, X) in the file's dtype."""
OpenPlane = Callable[[PlaneIndex], ReadRows]


@dataclass(frozen=True)
class Context:
    """Which planes are seen for one: those at some offsets along an axis, 0 among them. By default itself alone.

    At both ends the stack is continued by its mirror image, as a plane is: the plane before the first is the first.
    """

    axis: str = "Z"
    offsets: tuple[int, ...] = (0,)

    def around(self, stack: Stack, index: PlaneIndex) -> tuple[PlaneIndex, ...]:
        """Return the planes at the offsets; in a stack without the axis, each of them is the plane itself."""
        axis, size = stack.plane_axes.find(self.axis), stack.size(self.axis)
        if axis < 0:
            return (index,) * len(self.offsets)
        positions = (index[axis] + offset for offset in self.offsets)
        return tuple((*index[:axis], int(mirrored(at, at + 1, size)[0]), *index[axis + 1 :]) for at in positions)


ALONE = Context()


def planes_of_channels(stack: Stack, index: PlaneIndex, channels: Iterable[int]) -> tuple[PlaneIndex, ...]:
    """Return the planes of some channels at the position of a plane; itself in a stack without channels."""
    axis = next((stack.plane_axes.index(axis) for axis in "CS" if axis in stack.plane_axes), None)
    if axis is None:
        return (index,)
    return tuple((*index[:axis], channel, *index[axis + 1 :]) for channel in channels)


def planes_of_samples(stack: Stack, index: PlaneIndex) -> tuple[PlaneIndex, ...]:
    """Return the planes of red, green and blue at the position of a plane."""
    axis = stack.plane_axes.index("S")
    return tuple((*index[:axis], sample, *index[axis + 1 :]) for sample in RGB)


def planes_together(
    stack: Stack, index: PlaneIndex, channels: Iterable[int], *, in_color: bool
) -> tuple[PlaneIndex, ...]:
    """Return the planes that are enhanced together at the position of a plane: those of channels, or of a colour."""
    if in_color and {"C", "S"} <= set(stack.axes):  # without C, samples are channels
        return planes_of_samples(stack, index)
    return planes_of_channels(stack, index, channels)


def planes_seen(stack: Stack, together: Iterable[PlaneIndex], context: Context) -> list[PlaneIndex]:
    """Return the planes that are read for those that are enhanced together: one by one, of each those around it."""
    return [seen for own in together for seen in context.around(stack, own)]


@dataclass(frozen=True)
class PlaneInput:
    """What networks see at the position of a plane: C planes, of which G are channels that are enhanced together.

    Attributes
    ----------
    shape : (int, int)
        Rows and columns of a plane.
    planes : tuple of (ReadRows, IntensityRange)
        The C planes: channel by channel, and of each those at the offsets of its context.
    own : slice
        Which of them are the G.
    luminance : tuple of IntensityRange
        Where the G are red, green and blue: networks see their luminance, which has these ranges at the offsets of the
        context. The planes are as ever, and C is a third of them.
    """

    shape: tuple[int, int]
    planes: tuple[tuple[ReadRows, IntensityRange], ...]
    own: slice
    luminance: tuple[IntensityRange, ...] = ()

    @classmethod
    def of(
        cls, stack: Stack, index: PlaneIndex, intensities: Mapping[int, IntensityRange], *, context: Context = ALONE,
        luminance: IntensityRange | None = None, open_plane: OpenPlane | None = None,
    ) -> "PlaneInput":  # fmt: skip
        """Return the input at the position of a plane of a stack; nothing is read yet.

        Parameters
        ----------
        intensities : mapping of int to IntensityRange
            Of the channels that are enhanced together, in their order.
        context : Context
            The planes that are seen for each of them.
        luminance : IntensityRange, optional
            Of the luminance, where they are red, green and blue and networks see that in their place.
        open_plane : callable, optional
            Called once for each plane, returns what reads its rows; `plane_reader` by default.
        """
        together = planes_together(stack, index, intensities, in_color=luminance is not None)
        seen = planes_seen(stack, together, context)
        readers = {one: (open_plane or partial(plane_reader, stack))(one) for one in dict.fromkeys(seen)}
        planes = ((readers[one], intensities[stack.channel_of(one)].at(stack.time_of(one))) for one in seen)
        own = slice(context.offsets.index(0), None, len(context.offsets))
        light = [luminance.at(stack.time_of(one)) for one in context.around(stack, index)] if luminance else ()
        return cls(stack.plane_shape, tuple(planes), own, tuple(light))

    @property
    def ranges(self) -> tuple[IntensityRange, ...]:
        """Of all that is seen, (C,)."""
        return self.luminance or tuple(one for _, one in self.planes)

    @property
    def blacks(self) -> npt.NDArray[np.float64]:
        """Counts that are black in what is enhanced, (G, 1, 1)."""
        return np.array([one.black for _, one in self.planes[self.own]])[:, None, None]

    @property
    def spans(self) -> npt.NDArray[np.float64]:
        """Counts from black to white of the channels that are enhanced, (G, 1, 1); of luminance (1, 1, 1)."""
        return np.array([one.span for one in self.ranges[self.own]])[:, None, None]

    @property
    def noise(self) -> npt.NDArray[np.float64]:
        """Standard deviation of the pixel noise of all that is seen, (C, 1, 1), in unit range."""
        return np.array([one.noise / one.span for one in self.ranges])[:, None, None]

    def rows(self, area: Tile, margin_px: int) -> "InputRows":
        """Read the rows that windows in an area need, mirrored ones too.

        They hold `network_input.REACH_PX` more than the margin, which decide what networks see of the others.
        """
        margin_px += REACH_PX
        needed = mirrored(area.top - margin_px, area.bottom + margin_px + LEAST_WINDOW_PX, self.shape[0])
        rows = slice(int(needed.min()), int(needed.max()) + 1)
        counts = [read(rows) for read, _ in self.planes]
        light = luminance_of(np.stack(counts).reshape(3, -1, *counts[0].shape)) if self.luminance else counts
        seen = [network_input(one, intensity) for one, intensity in zip(light, self.ranges, strict=True)]
        kept = tuple(one.kept for one in seen[self.own])
        return InputRows(self, rows.start, _stacked(counts[self.own]), _stacked([one.unit for one in seen]), kept)


@dataclass(frozen=True)
class InputRows:
    """Rows that hold an area and the halo around it.

    Attributes
    ----------
    plane : PlaneInput
        What they were read from.
    first_row : int
        Of the plane.
    counts : ndarray (G, rows, X)
        As stored; the change is added to these.
    unit : ndarray (C, rows, X) of float32
        What networks see, in unit range.
    kept : tuple of (ndarray (rows, X) of bool, or None)
        Of each of the G, or of their luminance, the pixels that are kept whatever attention says; None where there are
        none.
    """

    plane: PlaneInput
    first_row: int
    counts: npt.NDArray[Any]
    unit: Floats
    kept: tuple[npt.NDArray[np.bool_] | None, ...]

    def window(self, tile: Tile) -> Floats:
        """Return a window (C, Y, X) in unit range, mirrored at the borders of the plane; it may be a view."""
        return window(self.unit, self.first_row, self.plane.shape, tile)

    def inside(self, tile: Tile) -> tuple[npt.NDArray[Any], Floats]:
        """Return the counts and the unit range, both (G, Y, X), of a tile inside the plane; of luminance it is one."""
        rows, columns = tile.slices(self.first_row)
        return self.counts[:, rows, columns], self.unit[self.plane.own, rows, columns]


def _stacked(planes: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Return planes (rows, X) as (N, rows, X); a single one is not copied."""
    return planes[0][None] if len(planes) == 1 else np.stack(planes)
