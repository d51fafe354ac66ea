"""Does the result flicker? Selection that toggles from plane to plane and back, and how much pixels jitter."""

import math
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from cellxlate.stacks.stack import PlaneIndex, Stack

MOST_PX = 2**19
"""Of a plane, and of all planes that wait for the next one of their series, what is looked at; evenly spaced rows."""
FEWEST_PLANES = 3
"""Away and back takes three planes."""
PLACES = "kept", "between", "changed"
"""Pixels that attention selects in none of three planes, in some, in all."""

Numbers = npt.NDArray[np.float64]


@dataclass
class Jumps:
    """What was counted over three planes in a row, of any number of series.

    Attributes
    ----------
    ever, toggled : int
        Pixels that attention selects in at least one of three planes; those of them whose selection changes from the
        first to the second and back to the third.
    pixels : ndarray of int64 (3,)
        Finite pixels at the `PLACES`.
    squares : ndarray of float64 (3, 2)
        Sums over them of (before - 2 * here + after)^2, of input and output, in counts^2.
    """

    ever: int = 0
    toggled: int = 0
    pixels: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(PLACES), np.int64))
    squares: Numbers = field(default_factory=lambda: np.zeros((len(PLACES), 2)))

    @property
    def percent(self) -> float | None:
        """Share of the ever-selected pixels that toggle, in percent; None where none is selected."""
        return 100 * self.toggled / self.ever if self.ever else None

    def ratio(self, place: str) -> float | None:
        """Return the jitter of the output over that of the input; None where the input has none."""
        before, after = self.squares[PLACES.index(place)]
        return math.sqrt(after / before) if before > 0 else None

    def include(self, other: "Jumps") -> None:
        """Add what was counted of other planes."""
        self.ever += other.ever
        self.toggled += other.toggled
        self.pixels = self.pixels + other.pixels
        self.squares = self.squares + other.squares

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        rms = np.sqrt(self.squares / np.maximum(self.pixels, 1)[:, None])
        jitter = {
            place: {
                "pixels": int(pixels), "input_counts": float(before), "output_counts": float(after),
                "ratio": self.ratio(place),
            }
            for place, pixels, (before, after) in zip(PLACES, self.pixels, rms, strict=True)
        }  # fmt: skip
        return {
            "percent": self.percent, "ever_selected": self.ever, "toggled": self.toggled, "jitter": jitter
        }  # fmt: skip


@dataclass
class Waiting:
    """Rows of one plane that other planes of the series will be compared with, all (rows, X).

    `wanted` counts the triples that it belongs to and that are still to come.
    """

    raw: npt.NDArray[Any]
    enhanced: npt.NDArray[Any]
    selected: npt.NDArray[np.bool_]
    wanted: int


Rows = tuple[int, PlaneIndex, int, int]
"""Which rows of which series: channel, position along the other axes, first row, how many."""


@dataclass
class Flicker:
    """Jumps of selection and of pixels along Z or T, added up band by band as the planes come.

    Parameters
    ----------
    axis : str
        "Z" within each time point and channel, where it has at least three planes; else "T" where that has. Else the
        one that there is, with which nothing is counted; "" in a stack without either.
    planes, position : int
        How many planes the stack has along it, and which axis of a plane's index it is.
    open_sizes : tuple of int
        Of the axes after it, along which other planes come before the next one of a series.
    plane_rows, step : int
        Rows of a plane, and every which one is looked at.

    Attributes
    ----------
    channels : dict
        Channel -> Jumps.
    waiting : dict
        Rows -> position along the axis -> Waiting: planes that wait for others. In the order of the stack at most two
        of a series.

    Notes
    -----
    The same for any split into bands that is the same for all planes, and for any order of the planes.
    """

    axis: str = ""
    planes: int = 0
    position: int = 0
    open_sizes: tuple[int, ...] = ()
    plane_rows: int = 0
    step: int = 1
    channels: dict[int, Jumps] = field(default_factory=dict)
    waiting: dict[Rows, dict[int, Waiting]] = field(default_factory=dict)

    @classmethod
    def of(cls, stack: Stack) -> "Flicker":
        """Return what looks at a stack's planes; nothing has been counted yet."""
        long = [axis for axis in "ZT" if stack.size(axis) >= FEWEST_PLANES]
        axis = next(iter(long or [axis for axis in "ZT" if stack.size(axis) > 1]), "")
        if not axis:
            return cls()
        position = stack.plane_axes.index(axis)
        sizes = tuple(stack.size(one) for one in stack.plane_axes[position + 1 :])
        rows, columns = stack.plane_shape
        step = -(-prod(sizes) * rows * columns // MOST_PX)
        return cls(axis, stack.size(axis), position, sizes, rows, step)

    def add(
        self,
        index: PlaneIndex,
        first_row: int,
        *,
        channel: int,
        raw: npt.NDArray[Any],
        enhanced: npt.NDArray[Any],
        selected: npt.NDArray[np.bool_],
    ) -> None:
        """Add one band of a plane (rows, X) that starts at `first_row`."""
        if self.planes < FEWEST_PLANES:
            return
        beside = int(np.ravel_multi_index(index[self.position + 1 :], self.open_sizes)) if self.open_sizes else 0
        first = -(beside * self.plane_rows + first_row) % self.step
        part = slice(first, None, self.step)
        at, count = index[self.position], len(raw[part])
        if count:
            series = (*index[: self.position], *index[self.position + 1 :])
            wanted = sum(0 < middle < self.planes - 1 for middle in (at - 1, at, at + 1))
            rows = (raw[part].copy(), enhanced[part].copy(), selected[part].copy())
            self._join((channel, series, first_row + first, count), {at: Waiting(*rows, wanted)})

    def include(self, other: "Flicker") -> None:
        """Add what was counted of other planes, and compare those that wait with one another."""
        for channel, jumps in other.channels.items():
            self.channels.setdefault(channel, Jumps()).include(jumps)
        for rows, planes in other.waiting.items():
            self._join(rows, planes)

    def _join(self, rows: Rows, others: dict[int, Waiting]) -> None:
        """Take planes to those that wait, count the triples that this completes, and let go what waits no more."""
        own = self.waiting.pop(rows, {})
        both = own | others
        for middle in sorted({at + offset for at in others for offset in (-1, 0, 1)}):
            triple = {middle - 1, middle, middle + 1}
            if triple <= both.keys() and not (triple <= own.keys() or triple <= others.keys()):
                members = [both[at] for at in sorted(triple)]
                self.channels.setdefault(rows[0], Jumps()).include(jumps_of(*members))
                for member in members:
                    member.wanted -= 1
        if left := {at: plane for at, plane in both.items() if plane.wanted}:
            self.waiting[rows] = left

    @property
    def total(self) -> Jumps:
        """All channels together."""
        total = Jumps()
        for jumps in self.channels.values():
            total.include(jumps)
        return total

    def as_dict(self) -> dict[str, Any] | None:
        """Return plain values for JSON, channels apart where there are several; None in a stack without Z and T."""
        if not self.axis:
            return None
        apart = sorted(self.channels.items()) if len(self.channels) > 1 else []
        return {
            "axis": self.axis, "planes": self.planes, "every_row": self.step, **self.total.as_dict(),
            "channels": [{"channel": channel, **jumps.as_dict()} for channel, jumps in apart],
        }  # fmt: skip

    @property
    def words(self) -> str:
        """What was found, in a few sentences; "" where nothing was selected in three planes in a row."""
        total = self.total
        if total.percent is None:
            return ""
        words = (
            f"Flicker along {self.axis}: of the pixels that attention selects in any of three planes running, "
            f"{total.percent:.2g} % are selected in the second alone, or in the first and the third alone. Cells that "
            "move, and structures thinner than the distance of planes, are among them."
        )
        if self.step > 1:
            words += f" Looked at is one row in {self.step}."
        changed, kept = total.ratio("changed"), total.ratio("kept")
        if changed is not None:
            words += f" Where all three are selected, the result jitters {changed:.2f} times as much as the input"
            words += (
                "." if kept is None else f"; where none is, {'exactly' if kept == 1 else f'{kept:.4g} times'} as much."
            )
        return words


def jumps_of(before: Waiting, here: Waiting, after: Waiting) -> Jumps:
    """Count three planes in a row."""
    ever = before.selected | here.selected | after.selected
    always = before.selected & here.selected & after.selected
    toggled = (before.selected == after.selected) & (before.selected != here.selected)
    place = (ever.view(np.uint8) + always.view(np.uint8)).ravel()
    with np.errstate(invalid="ignore", over="ignore"):
        second = [
            (one.astype(np.float64) - 2 * two.astype(np.float64) + three.astype(np.float64)).ravel()
            for one, two, three in (
                (before.raw, here.raw, after.raw), (before.enhanced, here.enhanced, after.enhanced)
            )
        ]  # fmt: skip
        finite = np.isfinite(second[0]) & np.isfinite(second[1])
        weights = [np.where(finite, one, 0) ** 2 for one in second]
    return Jumps(
        ever=int(np.count_nonzero(ever)),
        toggled=int(np.count_nonzero(toggled)),
        pixels=np.bincount(place[finite], minlength=len(PLACES)),
        squares=np.stack([np.bincount(place, one, len(PLACES)) for one in weights], axis=1),
    )
