"""Convolutions of enlarged images without enlarging them: the same function with less than half of the arithmetic.

Enlarged by 2 to the nearest neighbour, four pixels show one value, so a 3 x 3 kernel sees four values at most. Around
each corner where four coarse pixels meet lie four fine pixels that see the same four: a 2 x 2 convolution of the coarse
image gives all four of them, as channels.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from cellxlate.model.blocks import channels_to_pixels
from cellxlate.model.inference import is_enlarged


def without_enlarging(layers: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """Return the function that layers in a row are, with each nearest x 2 and 3 x 3 convolution as one.

    The weights stay those of the layers, and learn. None where the layers hold no such pair.
    """
    if not isinstance(layers, nn.Sequential):
        return None
    row = list(layers)
    pairs = {position for position in range(len(row) - 1) if is_enlarged(row[position], row[position + 1])}
    if not pairs:
        return None

    def forward(features: Tensor) -> Tensor:
        for position, layer in enumerate(row):
            if position in pairs:
                continue
            if position - 1 in pairs:
                features = convolve_enlarged(features, layer.weight, layer.bias)  # type: ignore[arg-type]
            elif position - 2 in pairs and isinstance(layer, nn.ReLU):
                features = functional.relu(features)  # not in place: it copies the part that is kept
            else:
                features = layer(features)
        return features

    return forward


def convolve_enlarged(features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Enlarge (B, I, Y, X) by 2 to the nearest neighbour and convolve it, padded by 1, with weights (O, I, 3, 3)."""
    four = functional.conv2d(features, corner_weights(weight), None if bias is None else bias.repeat(4), padding=1)
    return channels_to_pixels(four)[..., 1:-1, 1:-1]  # four: of corners, Y + 1, X + 1; (B, O, 2 Y, 2 X)


def corner_weights(weight: Tensor) -> Tensor:
    """Return weights (O, I, 3, 3) of an enlarged image as those of the image: (4 O, I, 2, 2), above left first."""
    side, coarse, tap = torch.meshgrid(torch.arange(2), torch.arange(2), torch.arange(3), indexing="ij")
    sees = ((side + tap) // 2 == coarse).to(weight)  # a fine pixel on this side of a corner, which coarse one by a tap
    with torch.autocast(weight.device.type, enabled=False):
        corners = torch.einsum("rau,sbv,oiuv->rsoiab", sees, sees, weight)
    return corners.reshape(-1, weight.shape[1], 2, 2)
