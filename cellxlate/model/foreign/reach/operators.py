"""How far each operator of ONNX looks: one rule for a kind, from what is known of its inputs to its outputs.

A rule that looks at all positions along an axis says so by `Dependence.hull`. A kind without a rule is not known.
"""

from collections.abc import Callable, Iterable, Sequence
from math import prod

import numpy as np

from cellxlate.model.foreign.reach.nodes import Node
from cellxlate.model.foreign.reach.places import convolved, deconvolved, padded, pooled, resized
from cellxlate.model.foreign.reach.spread import (
    Dependence,
    Ints,
    UnfitError,
    UnknownOperatorError,
    compact,
    joined,
    reshaped,
    taken,
)

Rule = Callable[[Node, Sequence[Dependence | None]], list[Dependence]]


def _present(given: Sequence[Dependence | None], least: int = 1) -> list[Dependence]:
    found = [one for one in given if one is not None]
    if len(found) < least:
        raise UnfitError("an operator lacks an input")
    return found


def _values(given: Sequence[Dependence | None], position: int, node: Node, attribute: str = "") -> list[int] | None:
    """Return whole numbers that an operator is given as an attribute or as an input; None where it has none."""
    if attribute and attribute in node.attributes:
        return [int(one) for one in np.ravel(node.attributes[attribute])]
    one = given[position] if len(given) > position else None
    if one is None:
        return None
    if one.values is None:
        raise UnknownOperatorError("moves by what is only known while it runs")
    return [int(value) for value in np.ravel(one.values)]


def _alike(node: Node, given: Sequence[Dependence | None]) -> list[Dependence]:
    """Each number of the outcome is made of the numbers at its place."""
    made = joined(_present(given))
    return [made] * len(node.outputs)


def _first(node: Node, given: Sequence[Dependence | None]) -> list[Dependence]:
    """Each number is made of the number at its place of the first input; the others are parameters."""
    image, *others = _present(given)
    return [joined([image, *(one for one in others if not one.is_constant)])] * len(node.outputs)


def kept_places(node: Node, given: Sequence[Dependence | None]) -> list[Dependence]:
    """Return what one of the `NORMALISED` kinds makes, as if each number were made of the one at its place."""
    return [_present(given)[0]] * len(node.outputs)


def _over(axes: Callable[[Node, int], Iterable[int]]) -> Rule:
    """Return the rule of what looks at all positions along some axes and keeps the shape."""

    def rule(node: Node, given: Sequence[Dependence | None]) -> list[Dependence]:
        (image, *_) = _present(given)
        return [image.hull([axis % image.rank for axis in axes(node, image.rank)])] * len(node.outputs)

    return rule


def _one_axis(node: Node, rank: int) -> list[int]:
    """Return the axis of a softmax; of the old kind, all from there."""
    if node.kind not in ("LpNormalization", "CumSum") and node.opset < 13:
        return list(range(node.number("axis", 1) % rank, rank))
    return [node.number("axis", -1)]


def _batch(node: Node, given: Sequence[Dependence | None]) -> list[Dependence]:
    """Batch normalisation: with fixed statistics it looks at nothing else."""
    (image, *_) = _present(given)
    measured = len([name for name in node.outputs if name]) > 1 or node.number("training_mode", 0)
    made = image.hull([axis for axis in range(image.rank) if axis != 1]) if measured else image
    return [made] * len(node.outputs)


def _reduced(node: Node, given: Sequence[Dependence | None]) -> list[Dependence]:
    """Return what sums, means and extremes along axes make."""
    (image, *_) = _present(given)
    axes = _values(given, 1, node, "axes")
    if not axes:
        if node.number("noop_with_empty_axes", 0):
            return [image]
        axes = list(range(image.rank))
    if node.kind in ("ArgMax", "ArgMin"):
        axes = [node.number("axis", 0)]
    chosen = {axis % image.rank for axis in axes}
    made = image.hull(chosen)
    for axis in chosen:
        made = made.resized(axis, 1)
    return [made if node.number("keepdims", 1) else _squeezed(made, chosen)]


def _squeezed(image: Dependence, axes: Iterable[int]) -> Dependence:
    left = set(axes)
    if any(image.shape[axis] != 1 for axis in left):
        raise UnfitError(f"axes {sorted(left)} of {image.shape} have more than one position")
    return reshaped(image, [side for axis, side in enumerate(image.shape) if axis not in left])


def _squeeze(node: Node, given: Sequence[Dependence | None]) -> list[Dependence]:
    (image, *_) = _present(given)
    axes = _values(given, 1, node, "axes")
    alone = [axis for axis, side in enumerate(image.shape) if side == 1]
    return [_squeezed(image, alone if axes is None else [axis % image.rank for axis in axes])]


def _unsqueeze(node: Node, given: Sequence[Dependence | None]) -> list[Dependence]:
    (image, *_) = _present(given)
    axes = _values(given, 1, node, "axes") or []
    rank = image.rank + len(axes)
    new, sides = {axis % rank for axis in axes}, iter(image.shape)
    if len(new) != len(axes):
        raise UnfitError(f"{node.words} adds axes {axes}")
    return [reshaped(image, [1 if axis in new else next(sides) for axis in range(rank)])]


def _reshape(node: Node, given: Sequence[Dependence | None]) -> list[Dependence]:
    (image, *_) = _present(given)
    asked = _values(given, 1, node, "shape")
    if asked is None:
        raise UnfitError(f"{node.words} has no shape")
    zero = bool(node.number("allowzero", 0))
    shape = [image.shape[axis] if side == 0 and not zero and axis < image.rank else side
             for axis, side in enumerate(asked)]  # fmt: skip
    known = prod(side for side in shape if side != -1)
    if shape.count(-1) > 1 or known < 1 or any(side < -1 for side in shape):
        raise UnfitError(f"{node.words} asks for the shape {asked}")
    return [reshaped(image, [prod(image.shape) // known if side == -1 else side for side in shape])]


def _flatten(node: Node, given: Sequence[Dependence | None]) -> list[Dependence]:
    (image, *_) = _present(given)
    axis = node.number("axis", 1) % (image.rank + 1)
    return [reshaped(image, [prod(image.shape[:axis]), prod(image.shape[axis:])])]


def _transpose(node: Node, given: Sequence[Dependence | None]) -> list[Dependence]:
    (image, *_) = _present(given)
    order = node.numbers("perm", range(image.rank)[::-1])
    if sorted(order) != list(range(image.rank)):
        raise UnfitError(f"{node.words} orders axes {order} of {image.shape}")
    return [image.moved([image.shape[axis] for axis in order], [image.pitch[axis] for axis in order],
                        lambda one: one.transpose(order))]  # fmt: skip


def _expand(node: Node, given: Sequence[Dependence | None]) -> list[Dependence]:
    (image, *_) = _present(given)
    return [joined([image, Dependence.constant(_values(given, 1, node) or [])])]


def _tile(node: Node, given: Sequence[Dependence | None]) -> list[Dependence]:
    (image, *_) = _present(given)
    for axis, times in enumerate(_values(given, 1, node) or []):
        if times != 1:
            if not 0 < times * image.shape[axis] <= 2**20:
                raise UnfitError(f"{node.words} repeats {times} times")
            image = taken(image, axis, np.arange(times * image.shape[axis]) % image.shape[axis], image.pitch[axis])
    return [image]


def _concat(node: Node, given: Sequence[Dependence | None]) -> list[Dependence]:
    parts = _present(given)
    axis = node.number("axis", 1) % max(parts[0].rank, 1)
    others = {(*one.shape[:axis], *one.shape[axis + 1 :]) for one in parts}
    if len(others) != 1:
        raise UnfitError(f"{node.words} puts arrays of shapes {[one.shape for one in parts]} together")
    shape = (*parts[0].shape[:axis], sum(one.shape[axis] for one in parts), *parts[0].shape[axis + 1 :])
    if all(not one.varies(axis) for one in parts):  # as of channels: one for all of them
        everywhere = joined([one.resized(axis, 1) for one in parts])
        return [everywhere.resized(axis, shape[axis])]
    sides = np.broadcast_shapes(*((*one.low.shape[:axis], 1, *one.low.shape[axis + 1 :]) for one in parts))

    def whole(arrays: list[Ints]) -> Ints:
        full = [np.broadcast_to(array, (*sides[:axis], one.shape[axis], *sides[axis + 1 :]))
                for one, array in zip(parts, arrays, strict=True)]  # fmt: skip
        return np.concatenate(full, axis)

    pitch = tuple(max(own) for own in zip(*(one.pitch for one in parts), strict=True))
    return [compact(Dependence(shape, whole([one.low for one in parts]), whole([one.high for one in parts]), pitch))]


def _split(node: Node, given: Sequence[Dependence | None]) -> list[Dependence]:
    (image, *_) = _present(given)
    axis = node.number("axis", 0) % image.rank
    count, length = len(node.outputs), image.shape[axis]
    part = -(-length // count)
    even = [min(part, length - part * number) for number in range(count)]
    sides = _values(given, 1, node, "split") or even
    if sum(sides) != length or min(sides) < 1:
        raise UnfitError(f"{node.words} cuts {length} positions into {sides}")
    ends = np.cumsum(sides)
    return [taken(image, axis, np.arange(end - side, end), image.pitch[axis])
            for side, end in zip(sides, ends, strict=True)]  # fmt: skip


def _slice(node: Node, given: Sequence[Dependence | None]) -> list[Dependence]:
    (image, *_) = _present(given)
    starts, ends = _values(given, 1, node, "starts") or [], _values(given, 2, node, "ends") or []
    axes = _values(given, 3, node, "axes") or list(range(len(starts)))
    steps = _values(given, 4, node) or [1] * len(starts)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        axis = axis % image.rank
        if step == 0:
            raise UnfitError(f"{node.words} goes on by 0")
        end_of = None if step < 0 and end < -image.shape[axis] else end
        at = np.arange(image.shape[axis])[slice(start, end_of, step)]
        if not len(at):
            raise UnfitError(f"{node.words} leaves nothing of {image.shape}")
        if len(at) < image.shape[axis] or step != 1:
            image = taken(image, axis, at, image.pitch[axis] * abs(step))
    return [image]


def _gather(node: Node, given: Sequence[Dependence | None]) -> list[Dependence]:
    image, index = _present(given, 2)
    axis = node.number("axis", 0) % max(image.rank, 1)
    if image.is_constant:  # a table
        return [reshaped(index, (*image.shape[:axis], *index.shape, *image.shape[axis + 1 :]))] if (
            image.rank == 1
        ) else _unknown("looks numbers up in a table")  # fmt: skip
    at = np.array(_values(given, 1, node) or [], np.int64)
    if len(at) and (at.min() < -image.shape[axis] or at.max() >= image.shape[axis]):
        raise UnfitError(f"{node.words} takes positions {at.min()} to {at.max()} of {image.shape[axis]}")
    made = taken(image, axis, at % image.shape[axis], image.pitch[axis])
    return [reshaped(made, (*image.shape[:axis], *index.shape, *image.shape[axis + 1 :]))]


def _unknown(why: str) -> list[Dependence]:
    raise UnknownOperatorError(why)


def _product(node: Node, given: Sequence[Dependence | None]) -> list[Dependence]:
    """Return what a product of matrices makes: of a row of the one and a column of the other."""
    one, other, *more = _present(given, 2)
    if node.kind == "Gemm":
        one, other = (_turned(part) if node.number(name, 0) else part
                      for part, name in ((one, "transA"), (other, "transB")))  # fmt: skip
    left = one if one.rank > 1 else reshaped(one, (1, *one.shape))
    right = other if other.rank > 1 else reshaped(other, (*other.shape, 1))
    if left.shape[-1] != right.shape[-2]:
        raise UnfitError(f"{node.words} multiplies {one.shape} and {other.shape}")
    rows = left.hull([left.rank - 1]).resized(left.rank - 1, 1)
    columns = right.hull([right.rank - 2]).resized(right.rank - 2, 1)
    made = joined([rows, columns])
    if one.rank == 1:
        made = _squeezed(made, [made.rank - 2])
    if other.rank == 1:
        made = _squeezed(made, [made.rank - 1])
    return [joined([made, *more]) if node.kind == "Gemm" else made]


def _turned(image: Dependence) -> Dependence:
    order = [*range(image.rank - 2), image.rank - 1, image.rank - 2]
    return image.moved([image.shape[axis] for axis in order], [image.pitch[axis] for axis in order],
                       lambda one: one.transpose(order))  # fmt: skip


def _einsum(node: Node, given: Sequence[Dependence | None]) -> list[Dependence]:
    """Return what sums of products make, by the letters of its axes."""
    terms, _, out = node.text("equation", "").replace(" ", "").partition("->")
    letters, parts = terms.split(","), _present(given)
    if not out or "." in terms + out or [len(one) for one in letters] != [one.rank for one in parts]:
        raise UnknownOperatorError("sums products in a way that is not read")
    made = []
    for own, part in zip(letters, parts, strict=True):
        summed = [axis for axis, letter in enumerate(own) if letter not in out]
        left = _squeezed(_ones(part.hull(summed), summed), summed)
        kept = [letter for letter in own if letter in out]
        order = [kept.index(letter) for letter in out if letter in kept]
        node_like = Node("Transpose", "", (), ("",), {"perm": order}, node.opset)
        (turned,) = _transpose(node_like, [left]) if order else [left]
        sides = iter(turned.shape)
        made.append(reshaped(turned, [next(sides) if letter in kept else 1 for letter in out]))
    return [joined(made)]


def _ones(image: Dependence, axes: Iterable[int]) -> Dependence:
    for axis in axes:
        image = image.resized(axis, 1)
    return image


def _to_space(node: Node, given: Sequence[Dependence | None]) -> list[Dependence]:
    """Channels become places, in blocks."""
    (image, *_) = _present(given)
    size, (batch, channels, rows, columns) = node.number("blocksize", 1), _four(node, image)
    if size < 1 or channels % size**2:
        raise UnfitError(f"{node.words} makes blocks of {size} of {channels} channels")
    depth_first = node.text("mode", "DCR") == "DCR"
    parts = (size, size, channels // size**2) if depth_first else (channels // size**2, size, size)
    order = [0, 3, 4, 1, 5, 2] if depth_first else [0, 1, 4, 2, 5, 3]
    split = reshaped(image, (batch, *parts, rows, columns))
    (turned,) = _transpose(Node("Transpose", "", (), ("",), {"perm": order}, node.opset), [split])
    return [reshaped(turned, (batch, channels // size**2, rows * size, columns * size))]


def _to_depth(node: Node, given: Sequence[Dependence | None]) -> list[Dependence]:
    """Places become channels, in blocks."""
    (image, *_) = _present(given)
    size, (batch, channels, rows, columns) = node.number("blocksize", 1), _four(node, image)
    if size < 1 or rows % size or columns % size:
        raise UnfitError(f"{node.words} makes blocks of {size} of {image.shape}")
    split = reshaped(image, (batch, channels, rows // size, size, columns // size, size))
    (turned,) = _transpose(Node("Transpose", "", (), ("",), {"perm": [0, 3, 5, 1, 2, 4]}, node.opset), [split])
    return [reshaped(turned, (batch, channels * size**2, rows // size, columns // size))]


def _four(node: Node, image: Dependence) -> tuple[int, int, int, int]:
    if image.rank != 4:
        raise UnfitError(f"{node.words} takes an array of {image.shape}")
    one, two, three, four = image.shape
    return one, two, three, four


def _shape(node: Node, given: Sequence[Dependence | None]) -> list[Dependence]:
    (image, *_) = _present(given)
    if node.kind == "Size":
        return [Dependence.constant((), np.array(prod(image.shape), np.int64))]
    found = np.array(image.shape[slice(node.number("start", 0), node.attributes.get("end"))], np.int64)
    return [Dependence.constant(found.shape, found)]


def _filled(node: Node, given: Sequence[Dependence | None]) -> list[Dependence]:
    shape, value = _values(given, 0, node) or [], node.attributes.get("value")
    if min(shape, default=1) < 1:
        raise UnfitError(f"{node.words} asks for the shape {shape}")
    one = np.frombuffer(value.raw_data or bytes(8), np.uint8)[:1] if value is not None else np.zeros(1, np.uint8)
    return [Dependence.constant(shape, np.broadcast_to(one, shape))]  # whatever it is, the same everywhere


def _whole(_: Node, given: Sequence[Dependence | None]) -> list[Dependence]:
    """Return what global pooling makes."""
    image = _present(given)[0]
    return [_ones(image.hull(range(2, image.rank)), range(2, image.rank))]


NORMALISED = frozenset((
    "InstanceNormalization", "GroupNormalization", "LayerNormalization", "RMSNormalization", "Softmax", "LogSoftmax",
    "MeanVarianceNormalization", "Hardmax", "LpNormalization", "BatchNormalization",
))  # fmt: skip
"""Kinds that keep each number at its place, whatever else they look at."""

PLACE_BY_PLACE = (
    "Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "BitShift", "BitwiseAnd", "BitwiseNot",
    "BitwiseOr", "BitwiseXor", "Cast", "CastLike", "Ceil", "Clip", "Cos", "Cosh", "Div", "Elu", "Equal", "Erf", "Exp",
    "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN",
    "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mish", "Mod", "Mul", "Neg", "Not", "Or", "Pow",
    "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt",
    "Sub", "Sum", "Swish", "Tan", "Tanh", "ThresholdedRelu", "Where", "Xor",
)  # fmt: skip
RULES: dict[str, Rule] = {
    **dict.fromkeys(PLACE_BY_PLACE, _alike),
    **dict.fromkeys(("Dropout", "PRelu", "QuantizeLinear", "DequantizeLinear"), _first),
    **dict.fromkeys(("MaxPool", "AveragePool", "LpPool"), pooled),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"), _whole),
    **dict.fromkeys(("Resize", "Upsample"), resized),
    **dict.fromkeys(("MatMul", "Gemm"), _product),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax", "LpNormalization"), _over(_one_axis)),
    **dict.fromkeys(("InstanceNormalization",), _over(lambda _, rank: range(2, rank))),
    **dict.fromkeys(
        ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare",
         "ReduceLogSum", "ReduceLogSumExp", "ArgMax", "ArgMin"), _reduced
    ),
    "GroupNormalization": _over(lambda _, rank: range(1, rank)),
    "LayerNormalization": _over(lambda node, rank: range(node.number("axis", -1) % rank, rank)),
    "RMSNormalization": _over(lambda node, rank: range(node.number("axis", -1) % rank, rank)),
    "MeanVarianceNormalization": _over(lambda node, _: node.numbers("axes", (0, 2, 3))),
    "LRN": _over(lambda _, __: (1,)), "CumSum": _over(lambda _, rank: range(rank)),
    "BatchNormalization": _batch, "Conv": convolved, "ConvTranspose": deconvolved, "Pad": padded,
    "Reshape": _reshape, "Flatten": _flatten, "Transpose": _transpose, "Squeeze": _squeeze, "Unsqueeze": _unsqueeze,
    "Expand": _expand, "Tile": _tile, "Concat": _concat, "Split": _split, "Slice": _slice, "Gather": _gather,
    "Einsum": _einsum, "DepthToSpace": _to_space, "SpaceToDepth": _to_depth, "Shape": _shape, "Size": _shape,
    "ConstantOfShape": _filled,
}  # fmt: skip
