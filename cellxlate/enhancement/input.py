"""What networks see of a plane: its channels and the planes beside it, in unit range; and the pixels that may change.

The one place that knows which planes of a stack are read for one. Memory is bounded by a band of rows.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from cellxlate.enhancement.tiling import LEAST_WINDOW_PX, Tile, window
from cellxlate.model.attention import Floats
from cellxlate.stacks.intensity.network_input import REACH_PX, network_input
from cellxlate.stacks.intensity.range import IntensityRange
from cellxlate.stacks.luminance import RGB, light_of
from cellxlate.stacks.stack import PlaneIndex, Stack, plane_reader
from cellxlate.stacks.windows import mirrored
from cellxlate.stacks.write.origins import RowsHeld, row_sums

ReadRows = Callable[[slice], npt.NDArray[Any]]
"""Reads whole rows of a plane: (rows, X) in the file's dtype."""
OpenPlane = Callable[[PlaneIndex], ReadRows]


class Along(Protocol):
    """Which windows are taken along an axis."""

    def span(self, first: int, last: int, length: int) -> tuple[int, int]:
        """Return where the window of an area begins and ends; it may reach beyond an axis that is `length` long."""


@dataclass(frozen=True)
class Blocks:
    """Planes along z that are enhanced together, so many at a time; the windows `along` z say which are seen for each.

    They are clipped at the ends of the stack; what lies beyond is its mirror image.
    """

    planes: int
    along: Along

    def own(self, position: int, size: int) -> tuple[int, int]:
        """Return where the block of a position begins and ends, in a stack of `size` planes."""
        first = position // self.planes * self.planes
        return first, min(first + self.planes, size)

    def seen(self, position: int, size: int) -> tuple[int, int]:
        """Return where the planes that are seen for it begin and end."""
        return self.along.span(*self.own(position, size), size)


@dataclass(frozen=True)
class Context:
    """Which planes are seen for one: those at some offsets along an axis, 0 among them. By default itself alone.

    At both ends the stack is continued by its mirror image, as a plane is: the plane before the first is the first.
    Where planes are enhanced in `blocks`, those of its block and their halo are seen.
    """

    axis: str = "Z"
    offsets: tuple[int, ...] = (0,)
    blocks: Blocks | None = None

    @classmethod
    def beside(cls, axis: str, planes: int) -> "Context":
        """Return that of so many planes on either side along an axis."""
        return cls(axis, tuple(range(-planes, planes + 1)))

    @property
    def planes(self) -> int:
        """How many on either side."""
        return max(self.offsets)

    @property
    def along(self) -> str:
        """The axis as options name it, "z" or "t"; empty where a plane is seen alone."""
        return self.axis.lower() if len(self.offsets) > 1 else ""

    def around(self, stack: Stack, index: PlaneIndex) -> tuple[PlaneIndex, ...]:
        """Return the planes at the offsets; in a stack without the axis, each of them is the plane itself."""
        axis, size = stack.plane_axes.find(self.axis), stack.size(self.axis)
        if self.blocks:
            return _along(index, axis, mirrored(*self.blocks.seen(index[axis] if axis >= 0 else 0, size), size))
        if axis < 0:
            return (index,) * len(self.offsets)
        positions = (index[axis] + offset for offset in self.offsets)
        return _along(index, axis, [int(mirrored(at, at + 1, size)[0]) for at in positions])

    def block(self, stack: Stack, index: PlaneIndex) -> tuple[PlaneIndex, ...]:
        """Return the planes of its channel that a plane is enhanced together with, itself among them."""
        axis = stack.plane_axes.find(self.axis)
        if not self.blocks or axis < 0:
            return (index,)
        return _along(index, axis, range(*self.blocks.own(index[axis], stack.size(self.axis))))

    def own(self, stack: Stack, index: PlaneIndex, channels: int, beside: int = 0) -> slice:
        """Return which of the planes that are seen for some channels, and others beside, are enhanced."""
        if not self.blocks:
            return slice(self.offsets.index(0), -beside or None, len(self.offsets))
        axis, size = stack.plane_axes.find(self.axis), stack.size(self.axis)
        at = index[axis] if axis >= 0 else 0
        (first, last), (begin, _) = self.blocks.own(at, size), self.blocks.seen(at, size)
        return slice((first - begin) * channels, (last - begin) * channels)


def _along(index: PlaneIndex, axis: int, positions: Iterable[int]) -> tuple[PlaneIndex, ...]:
    """Return the planes at some positions along an axis; the plane itself for each where there is no such axis."""
    return tuple(index if axis < 0 else (*index[:axis], int(at), *index[axis + 1 :]) for at in positions)


ALONE = Context()
NOTHING_BESIDE: Mapping[int, IntensityRange] = {}


def planes_of_channels(stack: Stack, index: PlaneIndex, channels: Iterable[int]) -> tuple[PlaneIndex, ...]:
    """Return the planes of some channels at the position of a plane; itself in a stack without channels."""
    axis = next((stack.plane_axes.index(axis) for axis in "CS" if axis in stack.plane_axes), None)
    if axis is None:
        return (index,)
    return tuple((*index[:axis], channel, *index[axis + 1 :]) for channel in channels)


def planes_of_colors(stack: Stack, index: PlaneIndex, channels: Iterable[int]) -> tuple[PlaneIndex, ...]:
    """Return the planes of red, green and blue at the position of a plane; in a stack without samples, of channels."""
    if "S" not in stack.plane_axes:
        return planes_of_channels(stack, index, channels)
    axis = stack.plane_axes.index("S")
    return tuple((*index[:axis], sample, *index[axis + 1 :]) for sample in RGB)


def planes_seen(
    stack: Stack, index: PlaneIndex, channels: Iterable[int], context: Context, beside: Collection[int] = ()
) -> list[PlaneIndex]:
    """Return the planes that networks see at the position of a plane.

    Channel by channel, of each those around it; then those of the channels that are seen beside. Of blocks position by
    position, of each all channels.
    """
    if context.blocks:
        return [one for at in context.around(stack, index) for one in planes_of_channels(stack, at, channels)]
    own = [seen for own in planes_of_channels(stack, index, channels) for seen in context.around(stack, own)]
    return [*own, *(planes_of_channels(stack, index, beside) if beside else ())]


class MadeUnit(Protocol):
    """Rows of a plane in unit range that are made window by window (`UnitOfCounts`)."""

    def __getitem__(self, key: tuple[Any, ...], /) -> Floats:
        """Return the window at slices of rows and columns."""

    def part(self, rows: slice, /) -> "MadeUnit":
        """Return some of its rows."""


UnitRange = Floats | MadeUnit


@dataclass(frozen=True)
class SeenPlane:
    """Rows of a plane: `counts` (rows, X) as stored, (3, rows, X) in colour, and what networks see of them.

    `unit` is their unit range, and `kept` the pixels that no one may change, as in `NetworkInput`.
    """

    counts: npt.NDArray[Any]
    unit: UnitRange
    kept: npt.NDArray[np.bool_] | None

    def part(self, rows: slice) -> "SeenPlane":
        """Return some of its rows, which are counted from its first; views."""
        unit = self.unit[rows] if isinstance(self.unit, np.ndarray) else self.unit.part(rows)
        return SeenPlane(self.counts[..., rows, :], unit, None if self.kept is None else self.kept[rows])


class SeenPlanes(Protocol):
    """Gives rows of planes as networks see them: made anew each time (`Anew`), or kept for those that come next."""

    def __call__(
        self, index: PlaneIndex, read: ReadRows, intensity: IntensityRange, rows: slice, whole: slice, /
    ) -> SeenPlane:
        """Return some rows of a plane, of which `whole` are all."""


@dataclass(frozen=True)
class Anew:
    """Reads rows and looks at them each time that they are asked for."""

    def __call__(
        self, _index: PlaneIndex, read: ReadRows, intensity: IntensityRange, rows: slice, _whole: slice
    ) -> SeenPlane:
        """Return the rows."""
        counts = read(rows)
        seen = network_input(light_of(counts), intensity)
        return SeenPlane(counts, seen.unit, seen.kept)


ANEW = Anew()


@dataclass(frozen=True)
class PlaneInput:
    """What networks see at the position of a plane: C planes, of which G are channels that are enhanced together.

    Attributes
    ----------
    shape : (int, int)
        Rows and columns of a plane.
    planes : tuple of (ReadRows, IntensityRange)
        The C planes: channel by channel, of each those at the offsets of its context, then channels beside.
    own : slice
        Which of them are the G.
    seen : tuple of PlaneIndex
        Where each of the C lies in the stack that is enhanced; empty for those of another.
    gate : PlaneInput or None
        What attention is computed on, where that is another plane.
    see : SeenPlanes
        Gives the rows of each.
    colors : mapping of PlaneIndex to tuple of PlaneIndex
        In colour each of the C is a luminance, read as (3, rows, X), and stands where the first of these planes lies.
    blacks : tuple of float
        In colour: of red, green and blue of what is enhanced, in counts.
    """

    shape: tuple[int, int]
    planes: tuple[tuple[ReadRows, IntensityRange], ...]
    own: slice
    seen: tuple[PlaneIndex, ...]
    gate: "PlaneInput | None" = None
    see: SeenPlanes = ANEW
    colors: Mapping[PlaneIndex, tuple[PlaneIndex, ...]] = field(default_factory=dict)
    blacks: tuple[float, ...] = ()

    @classmethod
    def of(
        cls, stack: Stack, index: PlaneIndex, intensities: Mapping[int, IntensityRange], *, context: Context = ALONE,
        open_plane: OpenPlane | None = None, see: SeenPlanes = ANEW,
        beside: Mapping[int, IntensityRange] = NOTHING_BESIDE,
    ) -> "PlaneInput":  # fmt: skip
        """Return the input at the position of a plane of a stack; nothing is read yet.

        Parameters
        ----------
        intensities : mapping of int to IntensityRange
            Of the channels that are enhanced together, in their order.
        context : Context
            The planes that are seen for each of them.
        open_plane : callable, optional
            Called once for each plane, returns what reads its rows; `plane_reader` by default.
        see : SeenPlanes
            What gives the rows that networks see.
        beside : mapping of int to IntensityRange
            Of the channels that are seen beside these and stay as they are, in their order.
        """
        seen, ranges = planes_seen(stack, index, intensities, context, beside), {**beside, **intensities}
        readers = {one: (open_plane or partial(plane_reader, stack))(one) for one in dict.fromkeys(seen)}
        planes = ((readers[one], ranges[stack.channel_of(one)].at(stack.time_of(one))) for one in seen)
        own = context.own(stack, index, len(intensities), beside=len(beside))
        return cls(stack.plane_shape, tuple(planes), own, tuple(seen), see=see)

    @classmethod
    def in_color(
        cls, stack: Stack, index: PlaneIndex, intensities: Mapping[int, IntensityRange], *, luminance: IntensityRange,
        context: Context = ALONE, open_plane: OpenPlane | None = None, see: SeenPlanes = ANEW,
    ) -> "PlaneInput":  # fmt: skip
        """Return the input at the position of red, green and blue: their luminance, which has a range of its own."""
        own, begin = planes_of_colors(stack, index, intensities), open_plane or partial(plane_reader, stack)
        colors = {one: planes_of_colors(stack, one, intensities) for one in context.around(stack, own[0])}
        readers = {one: ColorRows(tuple(begin(plane) for plane in three)) for one, three in colors.items()}
        seen = context.around(stack, own[0])
        planes = ((readers[one], luminance.at(stack.time_of(one))) for one in seen)
        time = stack.time_of(index)
        blacks = (intensities[stack.channel_of(one)].at(time).black for one in own)
        middle = context.own(stack, index, 1)
        return cls(stack.plane_shape, tuple(planes), middle, seen, see=see, colors=colors, blacks=tuple(blacks))

    @property
    def spans(self) -> npt.NDArray[np.float64]:
        """Counts from black to white of the channels that are enhanced, (G, 1, 1); of their luminance in colour."""
        return np.array([one.span for _, one in self.planes[self.own]])[:, None, None]

    @property
    def noise(self) -> npt.NDArray[np.float64]:
        """Standard deviation of the pixel noise of all that is seen, (C, 1, 1), in unit range."""
        return np.array([one.noise / one.span for _, one in self.planes])[:, None, None]

    def rows(self, area: Tile, margin_px: int) -> "InputRows":
        """Read the rows that windows in an area need, mirrored ones too.

        They hold `network_input.REACH_PX` more than the margin, which decide what networks see of the others.
        """
        margin_px += REACH_PX
        needed = mirrored(area.top - margin_px, area.bottom + margin_px + LEAST_WINDOW_PX, self.shape[0])
        rows = slice(int(needed.min()), int(needed.max()) + 1)
        whole = slice(0, self.shape[0])
        where = self.seen or tuple((number,) for number in range(len(self.planes)))
        planes = dict(zip(where, self.planes, strict=True))  # a mirrored one is there more than once
        read = {index: self.see(index, *one, rows, whole) for index, one in planes.items()}
        seen = [read[index] for index in where]
        gate = self.gate.rows(area, margin_px - REACH_PX) if self.gate else None
        own = [one.counts for one in seen[self.own]]
        stored = {
            plane: counts
            for index in self.seen
            for plane, counts in zip(self.planes_at(index), _as_planes(read[index].counts), strict=True)
        }
        return InputRows(
            self, rows.start, own[0] if self.colors else _stacked(own), tuple(one.unit for one in seen),
            tuple(one.kept for one in seen[self.own]), stored, gate,
        )  # fmt: skip

    def planes_at(self, index: PlaneIndex) -> tuple[PlaneIndex, ...]:
        """Return the planes of the stack that are read for one of those that are seen."""
        return self.colors.get(index, (index,))


@dataclass(frozen=True)
class ColorRows:
    """Reads whole rows of red, green and blue: (3, rows, X)."""

    readers: tuple[ReadRows, ...]

    def __call__(self, rows: slice) -> npt.NDArray[Any]:
        """Return the rows."""
        return np.stack([read(rows) for read in self.readers])


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
    unit : tuple of UnitRange
        What networks see of each of the C: (rows, X) of float32 in unit range, there or made window by window.
    kept : tuple of (ndarray (rows, X) of bool, or None)
        Of each of the G, or of their luminance in colour, the pixels that are kept whatever attention says; None where
        there are none.
    read : mapping of PlaneIndex to ndarray (rows, X)
        All that was read, as stored.
    gate : InputRows or None
        The same rows of what attention is computed on, where that is another plane.
    """

    plane: PlaneInput
    first_row: int
    counts: npt.NDArray[Any]
    unit: tuple[UnitRange, ...]
    kept: tuple[npt.NDArray[np.bool_] | None, ...]
    read: Mapping[PlaneIndex, npt.NDArray[Any]]
    gate: "InputRows | None" = None

    @property
    def own(self) -> tuple[PlaneIndex, ...]:
        """Where the G lie in their stack."""
        return tuple(plane for index in self.plane.seen[self.plane.own] for plane in self.plane.planes_at(index))

    def held(self) -> dict[PlaneIndex, RowsHeld]:
        """Describe what was read of each plane, those of the gate included."""
        read = {**(self.gate.read if self.gate else {}), **self.read}
        return {index: RowsHeld.of(row_sums(counts), self.first_row) for index, counts in read.items()}

    def window(self, tile: Tile) -> Floats:
        """Return a window (C, Y, X) in unit range, mirrored at the borders of the plane; it may be a view."""
        return _stacked([window(one, self.first_row, self.plane.shape, tile) for one in self.unit])

    def windows(self, tiles: Sequence[Tile]) -> Floats:
        """Return windows of one size as a batch (B, C, Y, X) in unit range."""
        made = np.empty((len(tiles), len(self.unit), *tiles[0].shape), np.float32)
        for into, tile in zip(made, tiles, strict=True):
            for plane, unit in zip(into, self.unit, strict=True):
                plane[:] = window(unit, self.first_row, self.plane.shape, tile)
        return made

    def inside(self, tile: Tile) -> tuple[npt.NDArray[Any], Floats]:
        """Return the counts and the unit range, both (G, Y, X), of a tile in the plane; in colour of one luminance."""
        rows, columns = tile.slices(self.first_row)
        return self.counts[:, rows, columns], _stacked([one[rows, columns] for one in self.unit[self.plane.own]])


def _as_planes(counts: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return what was read at one place as planes (N, rows, X)."""
    return counts if counts.ndim == 3 else counts[None]


def _stacked(planes: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Return planes (rows, X) as (N, rows, X); a single one is not copied."""
    return planes[0][None] if len(planes) == 1 else np.stack(planes)
