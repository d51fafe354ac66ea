"""Modules of torch that networks are made of, trained and as they are run. Features are (B, C, Y, X) float32.

`as_module` makes them of the values in `architecture`, which know nothing of torch.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from cellxlate.model import architecture
from cellxlate.model.layers import KINDS


class ResidualBlock(nn.Module):
    """x + body(x), as `architecture.residual` describes it."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, width, Y, X) to the same shape."""
        changed: Tensor = features + self.body(features)
        return changed


class Level(nn.Module):
    """One resolution of a U-Net, as `architecture.unet_levels` describes it."""

    def __init__(self, before: nn.Module, down: nn.Module, inside: nn.Module, up: nn.Module, after: nn.Module) -> None:
        super().__init__()
        self.before, self.down, self.inside, self.up, self.after = before, down, inside, up, after

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, width, Y, X), sides multiples of 2 per coarser resolution, to the same shape."""
        fine = self.before(features)
        coarse = self.up(self.inside(self.down(fine)))
        joined: Tensor = self.after(inner(fine, coarse) + coarse)
        return joined


def inner(images: Tensor, smaller: Tensor) -> Tensor:
    """Return the middle of images, of the size of `smaller`, whose layers may have left out what padding would make."""
    rows, columns = ((images.shape[axis] - smaller.shape[axis]) // 2 for axis in (-2, -1))
    return images[..., rows : images.shape[-2] - rows, columns : images.shape[-1] - columns]


class CroppedBlock(nn.Module):
    """A residual block without padding: its output is smaller than its input by 2 px at every side."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, width, Y, X) to (B, width, Y - 4, X - 4)."""
        changed: Tensor = self.body(features)
        return changed.add_(inner(features, changed))


class InstanceNorm(nn.InstanceNorm2d):
    """Instance normalisation, with the right gradients for an image alone.

    Torch's own, for one image on a CPU whose gradient lies channels last, reads it in the wrong order (seen in 2.13.0).
    That of a batch is right, and it takes less time, since nothing is copied into another order.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, Y, X) to the same shape, with mean 0 and variance 1 before the scale."""
        if len(features) == 1:
            return functional.batch_norm(features, None, None, self.weight, self.bias, training=True, eps=self.eps)
        return super().forward(features)


class ChannelsToPixels(nn.Module):
    """(B, 4 C, Y, X), channels ordered as (row, column, C), to (B, C, 2 Y, 2 X); quick for channels-last images."""

    def forward(self, features: Tensor) -> Tensor:
        """Spread the channels of a pixel over 2 x 2 pixels."""
        return channels_to_pixels(features)


def channels_to_pixels(features: Tensor) -> Tensor:
    """Do what `ChannelsToPixels` does."""
    batch, channels, rows, columns = features.shape
    blocks = features.permute(0, 2, 3, 1).reshape(batch, rows, columns, 2, 2, channels // 4)
    fine = blocks.transpose(2, 3).reshape(batch, 2 * rows, 2 * columns, channels // 4)
    return fine.permute(0, 3, 1, 2)


KINDS.update({
    nn.Sequential: KINDS[architecture.Row],
    ResidualBlock: KINDS[architecture.Residual],
    CroppedBlock: KINDS[architecture.Residual],
    Level: KINDS[architecture.UNetLevel],
    nn.Conv2d: KINDS[architecture.Convolution],
    nn.ConvTranspose2d: KINDS[architecture.TransposedConvolution],
    InstanceNorm: KINDS[architecture.InstanceNormalisation],
    nn.ReLU: KINDS[architecture.Relu],
    nn.Tanh: KINDS[architecture.HyperbolicTangent],
    nn.PixelUnshuffle: KINDS[architecture.PixelsToChannels],
    nn.PixelShuffle: KINDS[architecture.ShuffledChannels],
    ChannelsToPixels: KINDS[architecture.OrderedChannels],
    nn.Upsample: KINDS[architecture.Enlargement],
})  # fmt: skip


def as_module(layer: architecture.Layer) -> nn.Module:
    """Return the module that does what a layer says.

    Weights are drawn as torch draws them, in the order of the data; `with_weights` takes those of the layer.
    """
    match layer:
        case architecture.Convolution():
            return nn.Conv2d(
                layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding,
                bias=layer.bias is not None, padding_mode=layer.padding_mode,
            )  # fmt: skip
        case architecture.TransposedConvolution():
            return nn.ConvTranspose2d(
                layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding,
                layer.output_padding, bias=layer.bias is not None,
            )  # fmt: skip
        case architecture.Row():
            return nn.Sequential(*map(as_module, layer))
        case architecture.Residual():
            return (CroppedBlock if layer.is_cropped else ResidualBlock)(as_module(layer.body))
        case architecture.UNetLevel():
            parts = (layer.before, layer.down, layer.inside, layer.up, layer.after)
            return Level(*map(as_module, parts))
        case architecture.InstanceNormalisation():
            return InstanceNorm(layer.channels, affine=True)
        case architecture.Enlargement():
            return nn.Upsample(scale_factor=layer.scale_factor, mode=layer.mode)
        case architecture.PixelsToChannels():
            return nn.PixelUnshuffle(layer.downscale_factor)
        case architecture.ShuffledChannels():
            return nn.PixelShuffle(layer.upscale_factor)
        case architecture.HyperbolicTangent():
            return nn.Tanh()
        case architecture.OrderedChannels():
            return ChannelsToPixels()
        case architecture.Relu():
            return nn.ReLU(inplace=True)


def with_weights(layer: architecture.Layer, prefix: str = "") -> dict[str, Tensor]:
    """Return the weights of a layer as a state of the module that `as_module` makes of it; they share memory."""
    return {name: torch.from_numpy(array) for name, array in architecture.named_arrays(layer, prefix)}
