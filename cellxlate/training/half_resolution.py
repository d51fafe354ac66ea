"""The end of an attention network computed at half resolution: the same function, in half of the time on a CPU.

A nearest-neighbour enlargement and the convolutions behind it compute four phases of every coarse pixel. Each phase is
a convolution of the coarse image itself, whose weights are sums of the given ones, so the enlarged image, most of whose
pixels repeat their neighbours, is never made. What is learned stays the weights of the layers as they are.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class EnlargedEnd:
    """Layers that end in: nearest x 2, a 3 x 3 convolution, ReLU, a 3 x 3 convolution."""

    before: nn.Sequential
    first: nn.Conv2d
    second: nn.Conv2d

    def __call__(self, images: Tensor) -> Tensor:
        """Return what the layers would, from images (B, C, Y, X): (B, O, Y, X)."""
        features = self.before(images)  # (B, C, Y / 2, X / 2)
        features = _convolved(features, phases_of_enlarged(self.first.weight), self.first.bias)  # four phases of each
        features = _convolved(functional.relu(features), phases_of_phases(self.second.weight), self.second.bias)
        return functional.pixel_shuffle(features, 2)


def enlarged_end(layers: nn.Module) -> EnlargedEnd | None:
    """Return the parts of layers that end so, or None; the weights stay those of the layers."""
    if not isinstance(layers, nn.Sequential) or len(layers) < 4:
        return None
    enlarge, first, activation, second = list(layers)[-4:]
    if not isinstance(enlarge, nn.Upsample) or (enlarge.mode, enlarge.scale_factor) != ("nearest", 2):
        return None
    if not (isinstance(activation, nn.ReLU) and isinstance(first, nn.Conv2d) and isinstance(second, nn.Conv2d)):
        return None
    plain = all(
        (layer.kernel_size, layer.stride, layer.padding, layer.dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))
        and (layer.padding_mode, layer.groups) == ("zeros", 1)
        for layer in (first, second)
    )
    return EnlargedEnd(nn.Sequential(*list(layers)[:-4]), first, second) if plain else None


def _convolved(features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return functional.conv2d(features, weight, None if bias is None else bias.repeat_interleave(4), padding=1)


def phases_of_enlarged(weight: Tensor) -> Tensor:
    """Return what a convolution of an image enlarged by 2 does to the image itself.

    Parameters
    ----------
    weight : Tensor (O, I, 3, 3)
        Of the convolution, whose padding is 1.

    Returns
    -------
    Tensor (4 O, I, 3, 3)
        Output channels are ordered as `pixel_shuffle` takes them.
    """
    phase, coarse, tap = torch.meshgrid(torch.arange(2), torch.arange(3), torch.arange(3), indexing="ij")
    reaches = (phase + tap - 1).div(2, rounding_mode="floor") + 1 == coarse
    axis = reaches.to(weight)
    with torch.autocast(weight.device.type, enabled=False):
        phases = torch.einsum("pau,qbv,oiuv->opqiab", axis, axis, weight)
    return phases.reshape(4 * len(weight), -1, 3, 3)


def phases_of_phases(weight: Tensor) -> Tensor:
    """Return what a convolution (O, I, 3, 3) of a `pixel_shuffle` does to its channels: (4 O, 4 I, 3, 3)."""
    phase, before, coarse, tap = torch.meshgrid(
        torch.arange(2), torch.arange(2), torch.arange(3), torch.arange(3), indexing="ij"
    )
    axis = (2 * (coarse - 1) + before == phase + tap - 1).to(weight)
    with torch.autocast(weight.device.type, enabled=False):
        phases = torch.einsum("rpau,sqbv,oiuv->orsipqab", axis, axis, weight)
    return phases.reshape(4 * weight.shape[0], 4 * weight.shape[1], 3, 3)
