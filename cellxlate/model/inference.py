"""Networks as they are run: the same function of a pixel's surroundings, with less work around it.

Enhancing looks only at pixels whose whole receptive field lies inside a window (`enhancement.tiling`), so padding
inside the networks is computed for nothing: the blocks that hold most of the work leave it out, and their output
shrinks towards the pixels that are wanted.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from cellxlate.model.architecture import (
    Convolution,
    Enlargement,
    Layer,
    Network,
    OrderedChannels,
    Residual,
    Row,
    ShuffledChannels,
    UNetLevel,
)
from cellxlate.model.layers import KINDS, coarsening, margin_px


def for_inference(network: Network) -> Network:
    """Return a network that computes the same for the pixels whose surroundings are whole, faster.

    The network has no normalisation layers. What is returned maps (B, C, Y, X) to (B, 1 or C, Y - 2 m, X - 2 m); m, at
    most the halo, depends on the network alone.

    Notes
    -----
    Residual blocks compute no padding. A nearest-neighbour enlargement followed by a 3 x 3 convolution becomes a
    convolution of 2 x 2 at the coarse pixels, which makes four fine pixels at once: 4 products in place of 9, and the
    enlarged features, four times the memory, never exist. Rounding differs from the trained form by about 1e-6.
    """
    return replace(network, layers=_unpadded(network.layers))


def _unpadded(layers: Row) -> Row:
    """Return layers one after another as they are run."""
    ready: list[Layer] = []
    is_taken = False
    for layer, following in zip(layers, [*layers, None][1:], strict=True):
        if is_taken:  # with the layer before it
            is_taken = False
        elif isinstance(layer, Residual):
            ready.append(Residual(_without_padding(layer.body), is_cropped=True))
        elif isinstance(layer, UNetLevel):
            ready.append(_cropped(layer))
        elif isinstance(following, Convolution) and is_enlarged(layer, following):
            ready += [enlarging(following), OrderedChannels()]
            is_taken = True
        elif isinstance(layer, Convolution) and isinstance(following, ShuffledChannels) and layer.out_channels > 4:
            ready += [_pixels_last(layer), OrderedChannels()]
            is_taken = True
        else:
            ready.append(layer)
    return Row(tuple(ready))


def _without_padding(body: Row) -> Row:
    """Return the body of a residual block as it is run."""
    plain = (
        replace(layer, padding=(0, 0), padding_mode="zeros") if isinstance(layer, Convolution) else layer
        for layer in body
    )
    return Row(tuple(plain))


def _cropped(scale: UNetLevel) -> UNetLevel:
    """Leave out the padding of a resolution and of those inside it, where that keeps coarse pixels in place."""
    inside = _cropped(scale.inside) if isinstance(scale.inside, UNetLevel) else _unpadded(scale.inside)
    before = _unpadded(scale.before)
    keeps_place = margin_px(before) % coarsening(scale) == 0
    return UNetLevel(
        before if keeps_place else scale.before, scale.down, inside, _unpadded(scale.up), _unpadded(scale.after)
    )


def _pixels_last(convolution: Convolution) -> Convolution:
    """Return a convolution before `ShuffledChannels` with its outputs in the order that `OrderedChannels` takes."""
    outputs = convolution.out_channels
    order = np.arange(outputs).reshape(outputs // 4, 4).T.ravel()
    bias = None if convolution.bias is None else convolution.bias[order]
    return replace(convolution, weight=convolution.weight[order], bias=bias)


def is_enlarged(first: Any, second: Any) -> bool:
    """Return whether two layers are nearest x 2 and a centred 3 x 3 convolution that sees zeros around the image."""
    return (
        KINDS.get(type(first)) is KINDS[Enlargement]
        and (first.mode, first.scale_factor) == ("nearest", 2)
        and KINDS.get(type(second)) is KINDS[Convolution]
        and (second.kernel_size, second.stride, second.padding) == ((3, 3), (1, 1), (1, 1))
        and (second.padding_mode, getattr(second, "dilation", (1, 1)), getattr(second, "groups", 1))
        == ("zeros", (1, 1), 1)
    )


def enlarging(convolution: Convolution) -> Convolution:
    """Return what, before `OrderedChannels`, equals nearest-neighbour x 2 before `convolution`, less 1 px all around.

    The convolution is one that `is_enlarged` takes.

    Notes
    -----
    Between coarse pixels a - 1 and a lie the fine pixels 2 a - 1 and 2 a, whose three rows are coarse rows a - 1,
    a - 1, a and a - 1, a, a: both need these two alone. Columns alike.
    """
    weight = convolution.weight
    outputs, inputs = weight.shape[:2]
    summed = np.zeros((2, 2, outputs, inputs, 2, 2), np.float32)
    coarse = ((0, 0, 1), (0, 1, 1))  # for both fine pixels, of their three rows (or columns)
    for row, rows in enumerate(coarse):
        for column, columns in enumerate(coarse):
            for y, coarse_y in enumerate(rows):
                for x, coarse_x in enumerate(columns):
                    summed[row, column, :, :, coarse_y, coarse_x] += weight[:, :, y, x]
    bias = None if convolution.bias is None else np.tile(convolution.bias, 4)
    return Convolution(summed.reshape(4 * outputs, inputs, 2, 2), bias)
