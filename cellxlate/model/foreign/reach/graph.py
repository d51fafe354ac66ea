"""How far a network looks, told from its graph alone: halo, stride, sizes, or which operator looks at everything.

The graph is walked at several sizes. What does not grow with the image is a halo; what grows with it is the whole.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from cellxlate.errors import ModelError
from cellxlate.model.foreign.reach.spread import Dependence, OtherSidesError, UnfitError
from cellxlate.model.foreign.reach.walk import OperatorGraph, UnknownHereError, Walked
from cellxlate.model.foreign.values import Reach

FIRST_SIZES = (256, 192, 240, 288, 320, 384, 512)
LARGEST_STRIDE = 128
GROWING_SIZES = (512, 1024, 2048, 4096)
LEAST_TILE_PX = 8
SQUARE_FROM = 1.5
"""Memory per pixel that grows so much with twice the side grows with the square of pixels."""
UNKNOWN_BYTES_PER_PX, MOST_BYTES_PER_PX = 256.0, 200_000.0

WORDS: dict[str, str] = {
    "InstanceNormalization": "takes the mean and the spread of the whole image",
    "GroupNormalization": "takes the mean and the spread of the whole image",
    "LayerNormalization": "takes the mean and the spread of the whole image",
    "MeanVarianceNormalization": "takes the mean and the spread of the whole image",
    "GlobalAveragePool": "takes the mean of the whole image",
    "GlobalMaxPool": "takes the maximum of the whole image",
    "Softmax": "weighs all places of the image against each other",
    "MatMul": "sums over all places of the image, as attention does",
    "Einsum": "sums over all places of the image, as attention does",
    "CumSum": "sums from one side of the image to the other",
    "ReduceMean": "takes the mean of the whole image",
    "ReduceSum": "sums over the whole image",
    "ReduceMax": "takes the maximum of the whole image",
    "ReduceMin": "takes the minimum of the whole image",
}  # fmt: skip


@dataclass(frozen=True)
class GraphFacts:
    """What a graph tells.

    Attributes
    ----------
    reach : tuple of Reach
        Along each spatial axis.
    not_local : str
        Which operator looks at the whole image, in words; empty where none does.
    unknown : tuple of str
        Operators of which it is not known how far they look, in words.
    operators : mapping of str to int
        How often each occurs.
    bytes_per_px : float
        Memory per pixel of a window that its arrays take at once.
    bytes_per_pair : float
        What it takes beside that for each pair of pixels, as attention does.
    """

    reach: tuple[Reach, ...]
    not_local: str
    unknown: tuple[str, ...]
    operators: Mapping[str, int]
    bytes_per_px: float
    bytes_per_pair: float = 0.0


@dataclass(frozen=True)
class Image:
    """An input or an output: its name, its axes in their order, and its sides, None where they are free."""

    name: str
    axes: str
    sides: tuple[int | None, ...]

    @property
    def spatial(self) -> str:
        """Its axes in space, as "yx"."""
        return "".join(axis for axis in self.axes if axis in "zyx")

    def side(self, axis: str) -> int | None:
        """Return the length of one of its axes; None where it is free, 1 where it has none."""
        return self.sides[self.axes.index(axis)] if axis in self.axes else 1

    def shape(self, lengths: Mapping[str, int]) -> list[int]:
        """Return its shape where some axes have these lengths; others that are free have 1."""
        return [lengths.get(axis, side or 1) for axis, side in zip(self.axes, self.sides, strict=True)]


@dataclass(frozen=True)
class Looker:
    """Walks through a graph, from an image to others of the same sides."""

    graph: OperatorGraph
    given: Image
    made: tuple[Image, ...]

    def walk(self, axis: str, lengths: Mapping[str, int], *, places_alone: bool = False) -> Walked:
        """Walk along an axis of an image of some lengths."""
        shape, outputs = self.given.shape(lengths), [one.name for one in self.made]
        at = self.given.axes.index(axis)
        return self.graph.walk(self.given.name, shape, at, outputs, places_alone=places_alone)

    def ends(self, walked: Walked) -> Iterator[tuple[Image, Dependence]]:
        """Yield what was found of each output."""
        for image in self.made:
            spread = walked.made.get(image.name)
            if spread is None or spread.rank != len(image.axes):
                raise UnfitError(f"{image.name} is not made, or has other axes")
            yield image, spread

    def margin(self, walked: Walked, axis: str, length: int) -> int:
        """Return by how much the outputs are smaller than the input at either side."""
        margins = {length - spread.shape[image.axes.index(axis)] for image, spread in self.ends(walked)}
        (twice,) = margins if len(margins) == 1 else (1,)
        if twice < 0 or length - twice == 1 < length:
            raise OtherSidesError(f"makes an image of {length - twice} px of one of {length} px")
        if twice % 2:
            raise UnfitError(f"an image of {length} px becomes one of {length - twice} px")
        return twice // 2

    def reach(self, walked: Walked, axis: str, length: int) -> int:
        """Return how far around its own place the outputs look."""
        margin, found = self.margin(walked, axis, length), 0
        for image, spread in self.ends(walked):
            others = tuple(one for one in range(spread.rank) if one != image.axes.index(axis))
            length = spread.shape[image.axes.index(axis)]
            low, high = (np.broadcast_to(one, length) for one in (spread.low.min(others), spread.high.max(others)))
            at, some = np.arange(length) + margin, low <= high
            found = max(found, int(np.where(some, np.maximum(at - low, high - at), 0).max()))
        return max(found, margin)


def look(model: Any, given: Image, made: Sequence[Image], name: str) -> GraphFacts:
    """Return what a graph tells of how far its outputs look.

    Parameters
    ----------
    model : ModelProto
        Checked by `limits`.
    given, made : Image
        Its input, and the outputs of the same sides.
    name : str
        Of the network, for errors.

    Raises
    ------
    ModelError
        It makes images of other sides, or there are no sizes that its operators fit.
    """
    graph = OperatorGraph.of(model, [one.name for one in made])
    looker = Looker(graph, given, tuple(made))
    operators = dict(sorted(Counter(node.kind for node in graph.nodes).items()))
    try:
        sizes = {axis: _sizes(looker, axis, name) for axis in given.spatial}
    except OtherSidesError as fault:
        raise ModelError(f"{name} {fault}; only networks that keep its size can propose") from fault
    except UnknownHereError as fault:
        reach = tuple(Reach(None, fixed_px=given.side(axis)) for axis in given.spatial)
        return GraphFacts(reach, "", (f"{fault.node.words} {fault.why}",), operators, UNKNOWN_BYTES_PER_PX)
    except UnfitError as fault:
        raise ModelError(f"{name} does not fit its own sizes: {fault}") from fault
    try:
        return _facts(looker, sizes, name, operators)
    except UnfitError as fault:
        raise ModelError(f"{name} does not fit its own sizes: {fault}") from fault


def _facts(looker: Looker, sizes: Mapping[str, Reach], name: str, operators: Mapping[str, int]) -> GraphFacts:
    """Return what a graph tells whose sizes are known."""
    found, why = [], ""
    small = {axis: _at_least(one, 32) for axis, one in sizes.items()}
    for axis, own in sizes.items():
        try:
            halo_px, reason = _halo(looker, axis, own, small)
        except UnknownHereError as fault:
            halo_px, reason = None, f"{fault.node.words} {fault.why}"
        found.append(replace(own, halo_px=halo_px))
        why = why or reason
    bytes_per_px, bytes_per_pair = _bytes(looker, sizes)
    _require_bounded(name, bytes_per_px)
    return GraphFacts(tuple(found), why, (), operators, bytes_per_px, bytes_per_pair)


def _require_bounded(name: str, bytes_per_px: float) -> None:
    """Raise ModelError where a network takes absurdly much memory."""
    if bytes_per_px > MOST_BYTES_PER_PX:
        raise ModelError(
            f"{name} takes {bytes_per_px:.3g} bytes of memory for each pixel, at most {MOST_BYTES_PER_PX:.3g} are given"
        )


def _bytes(looker: Looker, sizes: Mapping[str, Reach]) -> tuple[float, float]:
    """Return the memory of all arrays at once per pixel, and what grows with the square of pixels, per pair of them."""
    last = looker.given.spatial[-1]
    lengths = [{axis: _at_least(one, side) for axis, one in sizes.items()} for side in (64, 128)]
    small, large = (looker.walk(last, one, places_alone=True).bytes_at_once for one in lengths)
    few, many = (prod(one.values()) for one in lengths)
    if large / many < SQUARE_FROM * small / few:
        return max(large / many, small / few), 0.0
    per_pair = (large / many - small / few) / (many - few)
    return max(small / few - per_pair * few, 1.0), per_pair


def _at_least(one: Reach, side_px: int) -> int:
    """Return the least size that is allowed and not less than a side."""
    return one.fixed_px or one.least_px + max(-(-(side_px - one.least_px) // one.step_px), 0) * one.step_px


def _sizes(looker: Looker, axis: str, name: str) -> Reach:
    """Return which sizes fit along an axis, and the stride; the halo is not known yet."""
    fixed = looker.given.side(axis)
    free = [one for one in looker.given.spatial if looker.given.side(one) is None]
    fault: UnfitError | None = None

    def at(length: int) -> tuple[int, int]:
        lengths = {one: length if one in free else int(looker.given.side(one) or 1) for one in looker.given.spatial}
        walked = looker.walk(axis, lengths, places_alone=True)
        stride = walked.stride
        if stride > LARGEST_STRIDE:
            raise UnfitError(f"its arrays do not fit {length} px without a rest")
        return stride, looker.margin(walked, axis, lengths[axis])

    def fits(length: int, expected: tuple[int, int]) -> bool:
        try:
            return at(length) == expected
        except UnfitError:
            return False

    if fixed is not None:
        stride, margin = at(256)
        return Reach(None, stride, fixed, stride, fixed, margin)
    for length in (*FIRST_SIZES, *range(257, 257 + LARGEST_STRIDE)):
        try:
            found = at(length)
        except UnfitError as unfit:
            fault = fault or unfit
            continue
        if found[1]:  # a size whose rest is cut off looks like a network that makes smaller images
            whole = (found[0], 0)
            others = (more for more in range(length + 1, length + found[0]) if fits(more, whole))
            length, found = next(((more, whole) for more in others), (length, found))
        step = next(
            (
                times * found[0]
                for times in range(1, LARGEST_STRIDE // found[0] + 1)
                if fits(length + times * found[0], found)
            ),
            None,
        )
        if step is None:
            continue
        least = next(one for one in range(length % step or step, length + 1, step) if fits(one, found))
        return Reach(None, found[0], least, step, None, found[1])
    raise ModelError(f"{name} fits no image of 1 to 512 px: {fault}")


def _halo(looker: Looker, axis: str, own: Reach, least: Mapping[str, int]) -> tuple[int | None, str]:
    """Return how far the outputs look along an axis; where that is the whole, None and which operator does so."""
    walks: list[tuple[int, Walked]] = []
    before = -1
    for size in GROWING_SIZES:
        length = size // own.step_px * own.step_px + own.least_px
        try:
            walked = looker.walk(axis, {**least, axis: length})
            reach = looker.reach(walked, axis, length)
        except UnfitError:  # a graph of one size alone
            if own.fixed_px is None or walks:
                raise
            return _halo_of_one_size(looker, axis, own, least)
        if walked.placed:
            return None, f"{walked.placed[0]} adds numbers that belong to places of the image, not to what is there"
        if reach == before:
            return reach, ""
        before = reach
        walks.append((length, walked))
    return None, _reason(looker, walks[0], walks[1])


def _halo_of_one_size(looker: Looker, axis: str, own: Reach, least: Mapping[str, int]) -> tuple[int | None, str]:
    """Return how far the outputs look in a graph that has one size."""
    length = int(own.fixed_px or 0)
    walked = looker.walk(axis, {**least, axis: length})
    if walked.placed:
        return None, f"{walked.placed[0]} adds numbers that belong to places of the image, not to what is there"
    reach = looker.reach(walked, axis, length)
    if 2 * reach + own.stride + LEAST_TILE_PX <= length:
        return reach, ""
    made = walked.made
    for node in looker.graph.nodes:
        if any(made[one].width >= length for one in node.outputs if one in made):
            return None, f"{node.words} {WORDS.get(node.kind, 'looks at the whole image')}"
    return None, f"it looks {reach} px around each pixel, which leaves nothing of its {length} px"


def _reason(looker: Looker, small: tuple[int, Walked], large: tuple[int, Walked]) -> str:
    """Return which operator is the first whose look grows with the image, in words."""
    grown = large[0] - small[0]
    for node in looker.graph.nodes:
        for out in node.outputs:
            pair = [one.made[out].width for _, one in (small, large) if out in one.made]
            if len(pair) == 2 and pair[1] - pair[0] >= grown // 2:
                return f"{node.words} {WORDS.get(node.kind, 'looks at the whole image')}"
    return "its operators together look at the whole image"
