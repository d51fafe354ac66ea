"""How operators that move along an axis look: convolutions, pooling, resizing, borders."""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from cellxlate.model.foreign.reach.nodes import Node
from cellxlate.model.foreign.reach.spread import Dependence, Ints, UnfitError, UnknownOperatorError, gathered, taken

MOST_KERNEL_PX = 4096


def convolved(node: Node, given: Sequence[Dependence | None]) -> list[Dependence]:
    """Return what a convolution makes: each number of a window of each axis, of all channels."""
    image, weights = _two(given)
    kernel = node.numbers("kernel_shape", weights.shape[2:])
    made = image.hull([1])
    made = made.resized(1, weights.shape[0])
    return [_slid(node, made, kernel)]


def pooled(node: Node, given: Sequence[Dependence | None]) -> list[Dependence]:
    """Return what pooling makes: each number of a window of each axis."""
    (image,) = _some(given, 1)
    made = _slid(node, image, node.numbers("kernel_shape", ()))
    return [made] * len(node.outputs)


def _slid(node: Node, image: Dependence, kernel: Sequence[int]) -> Dependence:
    """Return what a window makes that slides along the axes after the first two."""
    count = image.rank - 2
    if len(kernel) != count or count < 1 or min(kernel) < 1 or max(kernel) > MOST_KERNEL_PX:
        raise UnfitError(f"{node.words} has a window of {list(kernel)} for an array of {image.shape}")
    strides, dilations = node.numbers("strides", [1] * count), node.numbers("dilations", [1] * count)
    pads, ceil = node.numbers("pads", [0] * 2 * count), node.number("ceil_mode", 0)
    auto = node.text("auto_pad", "NOTSET")
    _require(node, count, strides, dilations, pads)
    for number in range(count):
        axis, stride = number + 2, strides[number]
        length, reach = image.shape[axis], (kernel[number] - 1) * dilations[number]
        before, after = (0, 0) if auto == "VALID" else (pads[number], pads[number + count])
        if auto.startswith("SAME"):
            total = max((-(-length // stride) - 1) * stride + reach + 1 - length, 0)
            before = total // 2 if auto == "SAME_UPPER" else total - total // 2
            after = total - before
        room = length + before + after - reach - 1
        made = (-(-room // stride) if ceil else room // stride) + 1
        if ceil and (made - 1) * stride >= length + before:  # such a window would begin beyond the image
            made -= 1
        first = np.arange(max(made, 0)) * stride - before
        image = _windows(image, axis, first, kernel[number], dilations[number], image.pitch[axis] * stride)
    return image


def _windows(image: Dependence, axis: int, first: Ints, kernel: int, dilation: int, pitch: Fraction) -> Dependence:
    """Return what windows make that begin at `first`; with gaps, all between is taken to belong to them."""
    if not len(first):
        raise UnfitError(f"a window of {kernel} is larger than an array of {image.shape}")
    low = first + np.maximum(-(first // dilation), 0) * dilation  # the first position inside the image
    return gathered(image, axis, low, first + (kernel - 1) * dilation, pitch)


def _require(node: Node, count: int, *lists: Sequence[int]) -> None:
    """Raise UnfitError where strides, dilations or pads are absurd."""
    strides, dilations, pads = lists
    sound = len(strides) == len(dilations) == count and len(pads) == 2 * count
    if not sound or min(*strides, *dilations) < 1 or max(map(abs, (*strides, *dilations, *pads))) > MOST_KERNEL_PX:
        raise UnfitError(f"{node.words} has strides {strides}, dilations {dilations}, pads {pads}")


def deconvolved(node: Node, given: Sequence[Dependence | None]) -> list[Dependence]:
    """Return what a transposed convolution makes."""
    image, weights = _two(given)
    count = image.rank - 2
    kernel = node.numbers("kernel_shape", weights.shape[2:])
    strides, dilations = node.numbers("strides", [1] * count), node.numbers("dilations", [1] * count)
    pads, more = node.numbers("pads", [0] * 2 * count), node.numbers("output_padding", [0] * count)
    _require(node, count, strides, dilations, pads)
    asked, auto = node.numbers("output_shape", []), node.text("auto_pad", "NOTSET")
    made = image.hull([1]).resized(1, weights.shape[1] * node.number("group", 1))
    for number in range(count):
        axis, stride, dilation = number + 2, strides[number], dilations[number]
        length, reach = image.shape[axis], (kernel[number] - 1) * dilation
        before, after = pads[number], pads[number + count]
        full = stride * (length - 1) + more[number] + reach + 1
        size = (
            asked[-count:][number] if asked else length * stride if auto.startswith("SAME") else full - before - after
        )
        if asked or auto.startswith("SAME"):
            total = max(full - size, 0)
            before = total - total // 2 if auto == "SAME_UPPER" else total // 2
        if not 0 < size <= 2**20:
            raise UnfitError(f"{node.words} makes {size} positions")
        at = np.arange(size) + before  # made of inputs i with at - reach <= i * stride <= at
        made = gathered(made, axis, -(-(at - reach) // stride), at // stride, made.pitch[axis] / stride)
    return [made]


def resized(node: Node, given: Sequence[Dependence | None]) -> list[Dependence]:
    """Return what resizing makes: of the nearest, the two or the four positions around each.

    Raises
    ------
    UnknownOperatorError
        Where each number lies depends on the size of the whole.
    """
    image = given[0]
    if image is None:
        raise UnfitError(f"{node.words} has no image")
    for axis, (length, scale) in enumerate(_resized_sides(node, image, given)):
        if length == image.shape[axis] and scale == 1:
            continue
        image = _resized_axis(node, image, axis, length, scale)
    return [image]


def _resized_sides(node: Node, image: Dependence, given: Sequence[Dependence | None]) -> list[tuple[int, float]]:
    """Return the length of each axis, and how many times longer that is."""
    old = node.kind == "Upsample" or node.opset < 11
    scales = given[1 if old else 2] if len(given) > (1 if old else 2) else None
    sizes = given[3] if not old and len(given) > 3 else None
    axes = [axis % image.rank for axis in node.numbers("axes", range(image.rank))]
    stated = node.attributes.get("scales")
    found = {axis: (length, 1.0) for axis, length in enumerate(image.shape)}
    if node.text("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise UnknownOperatorError("keeps the ratio of the sides")
    if sizes is not None and sizes.values is not None and sizes.values.size:
        asked = [int(one) for one in sizes.values.ravel()]
        for axis, length in zip(axes, asked, strict=True):
            found[axis] = (length, length / image.shape[axis])
    else:
        values = stated if stated is not None else None if scales is None else scales.values
        if values is None:
            raise UnknownOperatorError("resizes by what is only known while it runs")
        for axis, scale in zip(axes, [float(one) for one in np.ravel(np.asarray(values))], strict=True):
            if not 0 < scale < 1e4:
                raise UnfitError(f"{node.words} resizes by {scale}")
            found[axis] = (int(np.floor(image.shape[axis] * scale)), scale)
    if min(length for length, _ in found.values()) < 1 or max(length for length, _ in found.values()) > 2**20:
        raise UnfitError(f"{node.words} makes {list(found.values())}")
    return [found[axis] for axis in range(image.rank)]


def _resized_axis(node: Node, image: Dependence, axis: int, length: int, scale: float) -> Dependence:
    """Return what resizing makes along one axis."""
    mode, old = node.text("mode", "nearest"), node.kind == "Upsample" or node.opset < 11
    where = "asymmetric" if old else node.text("coordinate_transformation_mode", "half_pixel")
    own, at = image.shape[axis], np.arange(length, dtype=float)
    if where == "asymmetric":
        center = at / scale
    elif where in ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel"):
        center = (at + 0.5) / scale - 0.5
    elif image.varies(axis):
        raise UnknownOperatorError(
            "aligns corners, so where its pixels lie depends on the size of the whole image" if where == "align_corners"
            else f"resizes by {where}"
        )  # fmt: skip
    else:
        center = at * 0
    wider = 1 / scale if scale < 1 and node.number("antialias", 0) else 1.0
    if mode == "nearest":
        rule = "floor" if old else node.text("nearest_mode", "round_prefer_floor")
        rules = {"floor": np.floor(center), "ceil": np.ceil(center), "round_prefer_ceil": np.floor(center + 0.5)}
        first = last = rules.get(rule, np.ceil(center - 0.5))
    else:
        reach = (2 if mode == "cubic" else 1) * wider
        first, last = np.floor(center - reach + 1e-6) + 1, np.ceil(center + reach - 1e-6) - 1
    pitch = image.pitch[axis] * Fraction(own, length)
    low, high = (np.clip(one, 0, own - 1).astype(np.int64) for one in (first, last))
    return gathered(image, axis, low, high, pitch)


def padded(node: Node, given: Sequence[Dependence | None]) -> list[Dependence]:
    """Return what lies in an array with a border around it: constant, its edge, its mirror image, its other side."""
    image = given[0]
    if image is None:
        raise UnfitError(f"{node.words} has no image")
    stated = node.attributes.get("pads", node.attributes.get("paddings"))
    known = given[1].values if len(given) > 1 and given[1] is not None else None
    chosen = given[3].values if len(given) > 3 and given[3] is not None else None
    values = stated if stated is not None else known
    if values is None:
        raise UnknownOperatorError("adds a border that is only known while it runs")
    pads = [int(one) for one in np.ravel(np.asarray(values))]
    axes = range(image.rank) if chosen is None else [int(axis) % image.rank for axis in np.ravel(chosen)]
    mode = node.text("mode", "constant")
    if len(pads) != 2 * len(axes) or max(map(abs, pads), default=0) > 2**20:
        raise UnfitError(f"{node.words} has pads {pads} for an array of {image.shape}")
    for number, axis in enumerate(axes):
        before, after, length = pads[number], pads[number + len(axes)], image.shape[axis]
        if before or after:
            image = taken(image, axis, _border(node, mode, length, before, after), image.pitch[axis])
    return [image]


def _border(node: Node, mode: str, length: int, before: int, after: int) -> Ints:
    """Return which position of an array lies at each place of one with a border; -1 for a constant."""
    at = np.arange(-before, length + after)
    if not len(at):
        raise UnfitError(f"{node.words} leaves nothing of {length} positions")
    if mode == "reflect":
        if max(before, after) >= length:
            raise UnfitError(f"{node.words} mirrors {max(before, after)} of {length} positions")
        at = np.abs(at)
        return np.asarray(np.where(at >= length, 2 * (length - 1) - at, at))
    if mode == "edge":
        return np.clip(at, 0, length - 1)
    if mode == "wrap":
        return np.asarray(at % length)
    return np.where((at < 0) | (at >= length), -1, at)


def _two(given: Sequence[Dependence | None]) -> tuple[Dependence, Dependence]:
    one, other = _some(given, 2)
    if one.rank < 3 or other.rank != one.rank:
        raise UnfitError(f"a convolution is asked of arrays of {one.shape} and {other.shape}")
    if not other.is_constant:
        raise UnknownOperatorError("convolves with weights that it computes")
    return one, other


def _some(given: Sequence[Dependence | None], count: int) -> list[Dependence]:
    found = [one for one in given[:count] if one is not None]
    if len(found) < count:
        raise UnfitError("an operator lacks an input")
    return found
