"""On which rows, or columns, of the input each number of an array depends: as an interval for each, exactly.

An array of a network is described along one axis of its input at a time. `low` and `high` have an axis for each of the
array's, of its length where they differ along it and of 1 where they do not, so that they stay small.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import prod

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
NOWHERE_LOW, NOWHERE_HIGH = 2**40, -1
"""Of a number that depends on nothing."""
MOST_CELLS = 4_000_000
"""Of `low`: what would need more is taken to depend on all that it could."""
MOST_ELEMENTS = 2**62
"""Of an array that is described, which takes no memory."""


class UnfitError(Exception):
    """The operators of a network do not fit together at such sizes."""


class OtherSidesError(Exception):
    """What a network makes has other sides than what it is given."""


class UnknownOperatorError(Exception):
    """It is not known how far an operator looks."""


@dataclass(frozen=True)
class Dependence:
    """What is known of an array of a network.

    Attributes
    ----------
    shape : tuple of int
        Of the array.
    low, high : ndarray of int
        The first and the last position of the input that each number depends on; `low` exceeds `high` where there is
        none.
    pitch : tuple of Fraction
        Along each axis, how many positions of the input lie between two of the array; 0 where it does not follow it.
    values : ndarray or None
        The array itself, where it is small and depends on nothing.
    """

    shape: tuple[int, ...]
    low: Ints
    high: Ints
    pitch: tuple[Fraction, ...]
    values: npt.NDArray[np.generic] | None = None

    @classmethod
    def constant(cls, shape: Sequence[int], values: npt.NDArray[np.generic] | None = None) -> "Dependence":
        """Return that of an array that depends on nothing."""
        ones = (1,) * len(shape)
        none = (Fraction(0),) * len(shape)
        return cls(tuple(shape), np.full(ones, NOWHERE_LOW), np.full(ones, NOWHERE_HIGH), none, values)

    @classmethod
    def image(cls, shape: Sequence[int], axis: int) -> "Dependence":
        """Return that of the input itself, along one of its axes."""
        own = np.arange(shape[axis]).reshape([-1 if one == axis else 1 for one in range(len(shape))])
        return cls(tuple(shape), own, own, tuple(Fraction(int(one == axis)) for one in range(len(shape))))

    @property
    def rank(self) -> int:
        """How many axes it has."""
        return len(self.shape)

    @property
    def is_constant(self) -> bool:
        """Whether it depends on nothing."""
        return not bool((self.low <= self.high).any())

    @property
    def width(self) -> int:
        """How many positions of the input one number depends on, at most."""
        return int((self.high - self.low).max()) + 1 if not self.is_constant else 0

    def varies(self, axis: int) -> bool:
        """Return whether numbers at different positions along an axis depend on different ones of the input."""
        return int(self.low.shape[axis]) > 1

    def moved(
        self, shape: Sequence[int], pitch: Sequence[Fraction], function: Callable[[Ints], npt.NDArray[np.int64]]
    ) -> "Dependence":
        """Return that of an array whose numbers are these ones in other places."""
        return compact(Dependence(tuple(shape), function(self.low), function(self.high), tuple(pitch)))

    def hull(self, axes: Iterable[int]) -> "Dependence":
        """Return that of an array of the same shape, each number of which depends on all of these along some axes."""
        chosen = tuple(axes)
        if not any(self.varies(axis) for axis in chosen):
            return replace(self, values=None)
        low, high = self.low.min(axis=chosen, keepdims=True), self.high.max(axis=chosen, keepdims=True)
        pitch = tuple(Fraction(0) if axis in chosen else one for axis, one in enumerate(self.pitch))
        return compact(Dependence(self.shape, low, high, pitch))

    def resized(self, axis: int, length: int) -> "Dependence":
        """Return that of an array of another length along an axis along which nothing varies."""
        return replace(self, shape=_replaced(self.shape, axis, length), values=None)


def _replaced(items: Sequence[int], axis: int, one: int) -> tuple[int, ...]:
    return (*items[:axis], one, *items[axis + 1 :])


def compact(spread: Dependence) -> Dependence:
    """Return it with one position along each axis along which nothing varies.

    Raises
    ------
    UnfitError
        The array has no numbers, or far too many.
    """
    if min(spread.shape, default=1) < 1:
        raise UnfitError(f"an array of shape {spread.shape} has no numbers")
    if prod(spread.shape) > MOST_ELEMENTS:
        raise UnfitError(f"an array of shape {spread.shape} has too many numbers")
    low, high, pitch = spread.low, spread.high, list(spread.pitch)
    for axis in range(low.ndim):
        first = (slice(None),) * axis + (slice(0, 1),)
        if low.shape[axis] > 1 and (low == low[first]).all() and (high == high[first]).all():
            low, high = low[first], high[first]
        if low.shape[axis] == 1:
            pitch[axis] = Fraction(0)
    return Dependence(spread.shape, low, high, tuple(pitch), spread.values)


def joined(spreads: Sequence[Dependence]) -> Dependence:
    """Return that of numbers that depend on those of all arrays at their place, as arithmetic broadcasts them."""
    try:
        shape = np.broadcast_shapes(*(one.shape for one in spreads))
    except ValueError as fault:
        raise UnfitError(f"arrays of shapes {[one.shape for one in spreads]} do not fit together") from fault
    lows, highs, pitches = [], [], []
    for one in spreads:
        more = len(shape) - one.rank
        lows.append(one.low.reshape((1,) * more + one.low.shape))
        highs.append(one.high.reshape((1,) * more + one.high.shape))
        pitches.append((Fraction(0),) * more + one.pitch)
    if prod(np.broadcast_shapes(*(low.shape for low in lows))) > MOST_CELLS:
        whole = (1,) * len(shape)
        low, high = min(low.min() for low in lows), max(high.max() for high in highs)
        return Dependence(shape, np.full(whole, low), np.full(whole, high), (Fraction(0),) * len(shape))
    low, high = lows[0], highs[0]
    for more_low, more_high in zip(lows[1:], highs[1:], strict=True):
        low, high = np.minimum(low, more_low), np.maximum(high, more_high)
    return compact(Dependence(shape, low, high, tuple(max(own) for own in zip(*pitches, strict=True))))


def taken(spread: Dependence, axis: int, positions: Ints, pitch: Fraction) -> Dependence:
    """Return that of an array with these positions along an axis; those below 0 depend on nothing."""
    if not spread.varies(axis):
        return spread.resized(axis, len(positions))
    place = positions.reshape([-1 if one == axis else 1 for one in range(spread.rank)])
    inside = np.maximum(positions, 0)
    low = np.where(place < 0, NOWHERE_LOW, spread.low.take(inside, axis))
    high = np.where(place < 0, NOWHERE_HIGH, spread.high.take(inside, axis))
    pitches = (*spread.pitch[:axis], pitch, *spread.pitch[axis + 1 :])
    return compact(Dependence(_replaced(spread.shape, axis, len(positions)), low, high, pitches))


def gathered(spread: Dependence, axis: int, first: Ints, last: Ints, pitch: Fraction) -> Dependence:
    """Return that of an array, each number of which is made of those from `first` to `last` along an axis.

    Positions outside the array stand for nothing; `first` exceeds `last` where there is none at all.
    """
    if not spread.varies(axis):
        return spread.resized(axis, len(first))
    length = spread.shape[axis]
    start, end = np.maximum(first, 0), np.minimum(last, length - 1)
    if (start <= end).all() and _rises(spread.low, axis) and _rises(spread.high, axis):
        low, high = taken(spread, axis, start, pitch), taken(spread, axis, end, pitch)
        least, most = np.broadcast_arrays(low.low, high.high)
        return compact(Dependence(low.shape, least, most, _larger(low.pitch, high.pitch)))
    made: Dependence | None = None
    for step in range(int((end - start).max(initial=-1)) + 1):
        part = taken(spread, axis, np.where(start + step <= end, start + step, -1), pitch)
        made = part if made is None else _both(made, part)
    return made or Dependence.constant(_replaced(spread.shape, axis, len(first)))


def _rises(positions: Ints, axis: int) -> bool:
    """Return whether positions never fall along an axis, so that the first of several is the least."""
    return bool((np.diff(positions, axis=axis) >= 0).all())


def _larger(one: Sequence[Fraction], other: Sequence[Fraction]) -> tuple[Fraction, ...]:
    return tuple(max(pair) for pair in zip(one, other, strict=True))


def _both(one: Dependence, other: Dependence) -> Dependence:
    """Return that of numbers that depend on what those of both depend on; of one shape."""
    pitch = _larger(one.pitch, other.pitch)
    return Dependence(one.shape, np.minimum(one.low, other.low), np.maximum(one.high, other.high), pitch)


def reshaped(spread: Dependence, shape: Sequence[int]) -> Dependence:
    """Return that of the same numbers in another shape."""
    if prod(shape) != prod(spread.shape):
        raise UnfitError(f"an array of shape {spread.shape} is asked to have shape {tuple(shape)}")
    low, high = spread.low, spread.high
    full, sides, pitch = [], [], []
    for axes, made in _groups(spread.shape, shape):
        own, target = [spread.shape[axis] for axis in axes], [shape[axis] for axis in made]
        varying = [axis for axis in axes if spread.varies(axis)]
        full += own if varying else [1] * len(own)
        sides += target if varying else [1] * len(target)
        flat = Fraction(0)
        if varying:
            flat = spread.pitch[varying[-1]] / prod(spread.shape[axis] for axis in axes if axis > varying[-1])
        pitch += [flat * prod(target[number + 1 :]) for number in range(len(target))]
    if prod(full) > MOST_CELLS:
        return reshaped(spread.hull(range(spread.rank)), shape)
    return spread.moved(shape, pitch, lambda one: np.broadcast_to(one, full).reshape(sides)) if (
        low.ndim and high.ndim
    ) else spread.moved(shape, [Fraction(0)] * len(shape), lambda one: one.reshape((1,) * len(shape)))  # fmt: skip


def _groups(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Return which axes of one shape become which of another: the smallest groups of equal size, in order."""
    groups: list[tuple[list[int], list[int]]] = []
    one = other = 0
    while one < len(before) or other < len(after):
        own, made = ([one] if one < len(before) else []), ([other] if other < len(after) else [])
        one, other = one + len(own), other + len(made)
        while (left := prod(before[axis] for axis in own)) != (right := prod(after[axis] for axis in made)):
            if left < right and one < len(before):
                own.append(one)
                one += 1
            elif left > right and other < len(after):
                made.append(other)
                other += 1
            else:
                raise UnfitError(f"an array of shape {tuple(before)} is asked to have shape {tuple(after)}")
        groups.append((own, made))
    return groups
