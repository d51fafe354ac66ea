"""Networks as they are run: the same function of a pixel's surroundings, with less work around it.

Enhancing looks only at pixels whose whole receptive field lies inside a window (`enhancement.tiling`), so padding
inside the networks is computed for nothing: the blocks that hold most of the work leave it out, and their output
shrinks towards the pixels that are wanted.
"""

import copy
from typing import TypeVar

import torch
from torch import nn

from cellxlate.model.blocks import ChannelsToPixels, CroppedBlock, Level, ResidualBlock
from cellxlate.model.layers import coarsening, margin_px
from cellxlate.model.networks import AttentionNetwork, Generator

Network = TypeVar("Network", bound=Generator | AttentionNetwork)


def for_inference(network: Network) -> Network:
    """Return a copy of a network that computes the same for the pixels whose surroundings are whole, faster.

    The network has no normalisation layers. The copy maps (B, C, Y, X) to (B, 1 or C, Y - 2 m, X - 2 m); m, at most the
    halo, depends on the network alone. Weights are stored for channels-last images.

    Notes
    -----
    Residual blocks compute no padding. A nearest-neighbour enlargement followed by a 3 x 3 convolution becomes a
    convolution of 2 x 2 at the coarse pixels, which makes four fine pixels at once: 4 products in place of 9, and the
    enlarged features, four times the memory, never exist. Rounding differs from the trained form by about 1e-6.
    """
    ready = copy.deepcopy(network)
    ready.layers = _unpadded(ready.layers)
    return ready.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _unpadded(layers: nn.Sequential) -> nn.Sequential:
    """Return layers one after another as they are run."""
    ready: list[nn.Module] = list(layers)
    for position, (layer, following) in enumerate(zip(ready, [*ready, None][1:], strict=True)):
        if isinstance(layer, ResidualBlock):
            ready[position] = CroppedBlock(layer)
        elif isinstance(layer, Level):
            _crop_level(layer)
        elif isinstance(following, nn.Conv2d) and is_enlarged(layer, following):
            ready[position], ready[position + 1] = enlarging(following), ChannelsToPixels()
        elif isinstance(layer, nn.Conv2d) and isinstance(following, nn.PixelShuffle) and layer.out_channels > 4:
            ready[position], ready[position + 1] = _pixels_last(layer), ChannelsToPixels()
    return nn.Sequential(*ready)


def _crop_level(level: Level) -> None:
    """Leave out the padding of a resolution and of those inside it, where that keeps coarse pixels in place."""
    inside = level.inside
    if isinstance(inside, Level):
        _crop_level(inside)
    else:
        level.inside = _unpadded(inside)  # type: ignore[arg-type]
    before = _unpadded(copy.deepcopy(level.before))
    if margin_px(before) % coarsening(level) == 0:
        level.before = before
    level.up, level.after = _unpadded(level.up), _unpadded(level.after)


def _pixels_last(convolution: nn.Conv2d) -> nn.Conv2d:
    """Return a convolution before `PixelShuffle(2)` with its outputs in the order that `ChannelsToPixels` takes."""
    outputs = convolution.out_channels
    order = torch.arange(outputs).reshape(outputs // 4, 4).T.flatten()
    convolution.weight = nn.Parameter(convolution.weight.detach()[order])
    if convolution.bias is not None:
        convolution.bias = nn.Parameter(convolution.bias.detach()[order])
    return convolution


def is_enlarged(first: nn.Module, second: nn.Module) -> bool:
    """Return whether two layers are nearest x 2 and a centred 3 x 3 convolution that sees zeros around the image."""
    return (
        isinstance(first, nn.Upsample)
        and (first.mode, first.scale_factor) == ("nearest", 2)
        and isinstance(second, nn.Conv2d)
        and (second.kernel_size, second.stride, second.padding, second.dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))
        and (second.padding_mode, second.groups) == ("zeros", 1)
    )


def enlarging(convolution: nn.Conv2d) -> nn.Conv2d:
    """Return what, before `ChannelsToPixels`, equals nearest-neighbour x 2 before `convolution`, less 1 px all around.

    The convolution is one that `is_enlarged` takes.

    Notes
    -----
    Between coarse pixels a - 1 and a lie the fine pixels 2 a - 1 and 2 a, whose three rows are coarse rows a - 1,
    a - 1, a and a - 1, a, a: both need these two alone. Columns alike.
    """
    weight = convolution.weight.detach()
    outputs, inputs = weight.shape[:2]
    summed = weight.new_zeros(2, 2, outputs, inputs, 2, 2)
    coarse = ((0, 0, 1), (0, 1, 1))  # for both fine pixels, of their three rows (or columns)
    for row, rows in enumerate(coarse):
        for column, columns in enumerate(coarse):
            for y, coarse_y in enumerate(rows):
                for x, coarse_x in enumerate(columns):
                    summed[row, column, :, :, coarse_y, coarse_x] += weight[:, :, y, x]
    with torch.device("meta"):  # no random numbers are drawn for what is filled below: another thread may be training
        layer = nn.Conv2d(inputs, 4 * outputs, 2, bias=convolution.bias is not None)
    layer.weight = nn.Parameter(summed.flatten(0, 2))
    if convolution.bias is not None:
        layer.bias = nn.Parameter(convolution.bias.detach().repeat(4))
    return layer
