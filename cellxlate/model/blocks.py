"""Blocks that the networks are made of, as they are trained and as they are run. Features are (B, C, Y, X) float32."""

from typing import Literal

from torch import Tensor, nn

from cellxlate.settings import Normalisation

Padding = Literal["zeros", "reflect"]


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x))), 3 x 3, with the normalisation that is asked for after each convolution."""

    def __init__(
        self, width: int, normalisation: Normalisation = "none", padding_mode: Padding = "zeros", *, bias: bool = True
    ) -> None:
        super().__init__()
        first, second = (
            convolution(width, width, 3, normalisation=normalisation, padding_mode=padding_mode, bias=bias)
            for _ in range(2)
        )
        self.body = nn.Sequential(*first, nn.ReLU(inplace=True), *second)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, width, Y, X) to the same shape."""
        changed: Tensor = features + self.body(features)
        return changed


def convolution(
    inputs: int,
    outputs: int,
    kernel_px: int,
    *,
    stride: int = 1,
    normalisation: Normalisation,
    padding_mode: Padding = "zeros",
    bias: bool = True,
) -> list[nn.Module]:
    """Return a centred convolution, followed by instance normalisation where asked."""
    layer = nn.Conv2d(inputs, outputs, kernel_px, stride, kernel_px // 2, padding_mode=padding_mode, bias=bias)
    return [layer, nn.InstanceNorm2d(outputs, affine=True)] if normalisation == "instance" else [layer]


class Level(nn.Module):
    """One resolution of a U-Net: residual blocks, all coarser resolutions, residual blocks.

    Parameters
    ----------
    widths : list of int
        Channels of this resolution and of the coarser ones, each half of the one before.
    before, after : int
        Residual blocks before, and after, the coarser resolutions; the coarsest has as many as `after`.
    bias : bool
        Of all convolutions.

    Notes
    -----
    With blocks before the coarser resolutions, pixels become channels and channels pixels, which keeps detail. Without
    any, a ReLU follows each step to a coarser resolution, and steps back are bilinear, which leaves no blocks in a map.
    Nearly nothing is then computed at fine resolutions for the surroundings that only coarse ones look at
    (`inference.for_inference` crops what comes after). Submodules stand in the order of the data along its longest way,
    which decides the receptive field.
    """

    def __init__(self, widths: list[int], *, before: int, after: int, bias: bool) -> None:
        super().__init__()
        width, coarser = widths[0], widths[1]
        self.before = residual_blocks(width, before, bias=bias)
        down: list[nn.Module] = [nn.Conv2d(width, coarser, 2, 2, bias=bias)]
        self.down = nn.Sequential(*down, *([] if before else [nn.ReLU(inplace=True)]))
        self.inside: nn.Module = (
            Level(widths[1:], before=before, after=after, bias=bias)
            if len(widths) > 2
            else residual_blocks(coarser, after, bias=bias)
        )
        self.up = (
            nn.Sequential(nn.Conv2d(coarser, 4 * width, 1, bias=bias), nn.PixelShuffle(2))
            if before
            else nn.Sequential(nn.Conv2d(coarser, width, 1, bias=bias), nn.Upsample(scale_factor=2, mode="bilinear"))
        )
        self.after = residual_blocks(width, after, bias=bias)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, width, Y, X), sides multiples of 2 per coarser resolution, to the same shape."""
        fine = self.before(features)
        coarse = self.up(self.inside(self.down(fine)))
        joined: Tensor = self.after(inner(fine, coarse) + coarse)
        return joined


def residual_blocks(width: int, blocks: int, *, bias: bool) -> nn.Sequential:
    """Return residual blocks one after another."""
    return nn.Sequential(*(ResidualBlock(width, bias=bias) for _ in range(blocks)))


def inner(images: Tensor, smaller: Tensor) -> Tensor:
    """Return the middle of images, of the size of `smaller`, whose layers may have left out what padding would make."""
    rows, columns = ((images.shape[axis] - smaller.shape[axis]) // 2 for axis in (-2, -1))
    return images[..., rows : images.shape[-2] - rows, columns : images.shape[-1] - columns]


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
