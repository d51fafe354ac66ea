"""Networks as they are run: the same function of a pixel's surroundings, with less work around it.

Enhancing looks only at pixels whose whole receptive field lies inside a window (`enhancement.tiling`), so padding
inside the networks is computed for nothing: the blocks that hold most of the work leave it out, and their output
shrinks towards the pixels that are wanted.
"""

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from cellxlate.model.networks import AttentionNetwork, Generator, ResidualBlock, inner

Network = TypeVar("Network", bound=Generator | AttentionNetwork)


class CroppedBlock(nn.Module):
    """A residual block without padding: its output is smaller than its input by 2 px at every side."""

    def __init__(self, block: ResidualBlock) -> None:
        super().__init__()
        self.body = block.body
        for layer in self.body:
            if isinstance(layer, nn.Conv2d):
                layer.padding, layer.padding_mode = (0, 0), "zeros"

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, width, Y, X) to (B, width, Y - 4, X - 4)."""
        changed: Tensor = self.body(features)
        return changed.add_(inner(features, changed))


def for_inference(network: Network) -> Network:
    """Return a copy of a network that computes the same for the pixels whose surroundings are whole, faster.

    Parameters
    ----------
    network : Generator or AttentionNetwork
        Without normalisation layers; it stays as it is.

    Returns
    -------
    Module
        Maps (B, C, Y, X) to (B, 1 or C, Y - 2 m, X - 2 m); m, at most the halo, depends on the network alone. Weights
        are stored for channels-last images.

    Notes
    -----
    Residual blocks compute no padding. A nearest-neighbour enlargement followed by a convolution becomes a smaller
    convolution that computes the 2 x 2 pixels as channels: the enlarged features, four times the memory, never exist.
    Rounding differs from the trained form by about 1e-6.
    """
    ready = copy.deepcopy(network)
    layers: list[nn.Module] = list(ready.layers)
    for place, (layer, following) in enumerate(zip(layers, [*layers[1:], None], strict=True)):
        if isinstance(layer, ResidualBlock):
            layers[place] = CroppedBlock(layer)
        elif isinstance(layer, nn.Upsample) and isinstance(following, nn.Conv2d):
            layers[place], layers[place + 1] = enlarging(following), nn.PixelShuffle(2)
    ready.layers = nn.Sequential(*layers)
    return ready.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def enlarging(convolution: nn.Conv2d) -> nn.Conv2d:
    """Return the convolution that, before a pixel shuffle, equals nearest-neighbour x 2 before `convolution`.

    Parameters
    ----------
    convolution : Conv2d
        Stride 1, odd kernel, centred.
    """
    weight = convolution.weight.detach()
    outputs, inputs, kernel_px, _ = weight.shape
    reach_px = kernel_px // 2
    coarse_px = (reach_px + 1) // 2
    summed = weight.new_zeros(outputs, 2, 2, inputs, 2 * coarse_px + 1, 2 * coarse_px + 1)
    for down in range(2):
        for right in range(2):
            for row in range(kernel_px):
                for column in range(kernel_px):
                    y, x = (
                        (place + step - reach_px) // 2 + coarse_px for place, step in ((down, row), (right, column))
                    )
                    summed[:, down, right, :, y, x] += weight[:, :, row, column]
    layer = nn.Conv2d(inputs, 4 * outputs, 2 * coarse_px + 1, padding=coarse_px, device=weight.device)
    layer.weight = nn.Parameter(summed.flatten(0, 2))
    if convolution.bias is not None:
        layer.bias = nn.Parameter(convolution.bias.detach().repeat_interleave(4))
    return layer
