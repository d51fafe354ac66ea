"""Generator, attention network, discriminator, and the two that enhancing uses together.

Images are (B, C, Y, X) float32. The `resnet` generator and the attention network follow Mejjati et al. 2018 and its
released code (method table in docs/explanation/method.md); `compact`, made for two processor cores, and the networks of
several resolutions, for structures of any size, are ours.
"""

import math

import torch
from torch import Tensor, nn

from cellxlate.model.blocks import Level, ResidualBlock, convolution, inner
from cellxlate.model.layers import receptive_field
from cellxlate.settings import AttentionSettings, DiscriminatorSettings, GeneratorSettings, NetworkSettings

INIT_STD = 0.02
LOGIT_OF_ONE = 20.0
"""Its sigmoid is 1 in float32."""


class Generator(nn.Module):
    """F: proposes what an image of `channels` C would look like in the other domain."""

    def __init__(self, settings: GeneratorSettings, channels: int = 1) -> None:
        super().__init__()
        self.channels = channels
        self.residual = settings.architecture != "resnet"
        build = {"resnet": resnet_layers, "compact": compact_layers, "unet": unet_layers}[settings.architecture]
        self.layers = nn.Sequential(*build(settings, channels))
        initialise(self)
        if self.residual:  # starts as the identity
            last = self.layers[-2]
            nn.init.zeros_(last.weight)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, C, Y, X), sides multiples of the stride, to a proposal of the same shape."""
        proposal: Tensor
        if self.residual:
            change = self.layers(images)
            proposal = inner(images, change) + change
            return proposal
        # tanh networks work on [-1, 1] (C); what exceeds the range is carried through
        inside = (2 * images - 1).clamp(-1, 1)
        proposal = (self.layers(inside) + 1) / 2
        return proposal + inner(images - (inside + 1) / 2, proposal)


def resnet_layers(settings: GeneratorSettings, channels: int) -> list[nn.Module]:
    """c7s1-w, c3s2-2w, c3s2-4w, residual blocks of 4w, two stride-2 transposed convolutions, c7s1, tanh (C)."""
    width, norm = settings.width, settings.normalisation
    layers: list[nn.Module] = [
        *convolution(channels, width, 7, normalisation=norm, padding_mode="reflect"),
        nn.ReLU(inplace=True),
    ]
    for inputs in (width, 2 * width):
        layers += [*convolution(inputs, 2 * inputs, 3, stride=2, normalisation=norm), nn.ReLU(inplace=True)]
    layers += [ResidualBlock(4 * width, norm, "reflect") for _ in range(settings.blocks)]
    for inputs in (4 * width, 2 * width):
        layers.append(nn.ConvTranspose2d(inputs, inputs // 2, 3, 2, 1, output_padding=1))
        if norm == "instance":
            layers.append(nn.InstanceNorm2d(inputs // 2, affine=True))
        layers.append(nn.ReLU(inplace=True))
    layers += [*convolution(width, channels, 7, normalisation="none", padding_mode="reflect"), nn.Tanh()]
    return layers


def compact_layers(settings: GeneratorSettings, channels: int) -> list[nn.Module]:
    """2 x 2 pixels to channels, 3 x 3 convolution, residual blocks, 3 x 3 convolution, channels to 2 x 2 pixels."""
    width, norm = settings.width, settings.normalisation
    return [
        nn.PixelUnshuffle(2),
        *convolution(4 * channels, width, 3, normalisation=norm),
        nn.ReLU(inplace=True),
        *(ResidualBlock(width, norm, "zeros") for _ in range(settings.blocks)),
        *convolution(width, 4 * channels, 3, normalisation="none"),
        nn.PixelShuffle(2),
    ]


def unet_layers(settings: GeneratorSettings, channels: int) -> list[nn.Module]:
    """2 x 2 pixels to channels, 3 x 3 convolution, levels of w, 2w, 3w channels, 3 x 3, channels to 2 x 2 pixels."""
    width = settings.width
    widths = [width * (level + 1) for level in range(settings.levels)]
    return [
        nn.PixelUnshuffle(2),
        *convolution(4 * channels, width, 3, normalisation="none", bias=False),
        Level(widths, before=settings.blocks, after=settings.blocks, bias=False),
        *convolution(width, 4 * channels, 3, normalisation="none", bias=False),
        nn.PixelShuffle(2),
    ]


class AttentionNetwork(nn.Module):
    """A: where an image of `channels` C should change, in [0, 1].

    Notes
    -----
    In the paper's network the decoder is 3 x 3, 3 x 3, 7 x 7: the released code's 1 x 1 kernels come from an argument
    slip and make maps that are constant on blocks of 4 x 4 pixels.
    """

    def __init__(self, settings: AttentionSettings, channels: int = 1) -> None:
        super().__init__()
        self.channels = channels
        build = pyramid_layers if settings.architecture == "pyramid" else paper_attention_layers
        self.layers = nn.Sequential(*build(settings, channels))
        initialise(self)

    def logits(self, images: Tensor) -> Tensor:
        """Map (B, C, Y, X), sides multiples of the stride, to attention before the sigmoid, (B, 1, Y, X)."""
        logits: Tensor = self.layers(2 * images - 1)
        return logits

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, C, Y, X), sides multiples of the stride, to attention (B, 1, Y, X)."""
        return torch.sigmoid(self.logits(images))


def paper_attention_layers(settings: AttentionSettings, channels: int) -> list[nn.Module]:
    """c7s2-w, c3s2-2w, residual blocks of 2w, twice nearest x 2 and a convolution, one more to 1 channel."""
    width, norm = settings.width, settings.normalisation
    return [
        *convolution(channels, width, settings.stem_kernel_px, stride=2, normalisation=norm),
        nn.ReLU(inplace=True),
        *convolution(width, 2 * width, 3, stride=2, normalisation=norm),
        nn.ReLU(inplace=True),
        *(ResidualBlock(2 * width, norm, "zeros") for _ in range(settings.blocks)),
        nn.Upsample(scale_factor=2, mode="nearest"),
        *convolution(2 * width, 2 * width, 3, normalisation=norm),
        nn.ReLU(inplace=True),
        nn.Upsample(scale_factor=2, mode="nearest"),
        *convolution(2 * width, settings.last_width, 3, normalisation=norm),
        nn.ReLU(inplace=True),
        *convolution(settings.last_width, 1, settings.last_kernel_px, normalisation="none"),
    ]


def pyramid_layers(settings: AttentionSettings, channels: int) -> list[nn.Module]:
    """2 x 2 pixels to channels, 3 x 3 convolution, resolutions of w, 1.5w, 2w ... channels, 3 x 3, 2 x 2 pixels."""
    width = settings.width
    widths = [width * (level + 2) // 2 for level in range(settings.levels)]
    return [
        nn.PixelUnshuffle(2),
        *convolution(4 * channels, width, 3, normalisation="none"),
        nn.ReLU(inplace=True),
        Level(widths, before=0, after=settings.blocks, bias=True),
        *convolution(width, 4, 3, normalisation="none"),
        nn.PixelShuffle(2),
    ]


@torch.no_grad()
def attend_everywhere(network: AttentionNetwork) -> None:
    """Make attention exactly 1 for every image, as the CycleGAN baseline wants it."""
    last = [layer for layer in network.layers if isinstance(layer, nn.Conv2d)][-1]
    nn.init.zeros_(last.weight)
    nn.init.constant_(last.bias, LOGIT_OF_ONE)  # type: ignore[arg-type]


class Discriminator(nn.Module):
    """D: scores overlapping patches as real (1) or generated (0); 70 x 70 px with three stride-2 layers.

    The normalisation can be switched off in the call: the zeros of a masked input would bias its statistics (C).
    """

    def __init__(self, settings: DiscriminatorSettings, channels: int = 1) -> None:
        super().__init__()
        widths = [channels, *(settings.width * min(2**layer, 8) for layer in range(settings.layers + 1)), 1]
        strides = [2] * settings.layers + [1, 1]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(inputs, outputs, 4, stride, 1)
            for inputs, outputs, stride in zip(widths[:-1], widths[1:], strides, strict=True)
        )
        self.norms = nn.ModuleList(
            nn.InstanceNorm2d(width, affine=True) if settings.normalisation == "instance" else nn.Identity()
            for width in widths[2:-1]
        )
        initialise(self)

    def forward(self, images: Tensor, *, normalised: bool) -> Tensor:
        """Map (B, C, Y, X) to patch scores (B, 1, y, x)."""
        features = images
        for position, layer in enumerate(self.convolutions):
            features = layer(features)
            if position + 1 == len(self.convolutions):
                break
            if normalised and position > 0:
                features = self.norms[position - 1](features)
            features = nn.functional.leaky_relu(features, 0.2)
        return features


def initialise(network: nn.Module) -> None:
    """Draw weights: truncated normal 0.02 where layers are normalised (C), He's where nothing rescales them."""
    normalised = any(isinstance(layer, nn.InstanceNorm2d) for layer in network.modules())
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and not layer.weight.is_meta:
            if normalised or isinstance(network, Discriminator):
                nn.init.trunc_normal_(layer.weight, std=INIT_STD, a=-2 * INIT_STD, b=2 * INIT_STD)
            else:
                nn.init.kaiming_normal_(layer.weight, a=math.sqrt(2))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class TranslatorNetworks(nn.Module):
    """The generator and the attention network of one direction, as they are used together.

    Attributes
    ----------
    channels : int
        Of the images that both take.
    stride : int
        Tile origins must be multiples of it, in pixels.
    generator_halo_px, attention_halo_px : int
        How far around a pixel the input matters for it.
    """

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.channels = settings.channels
        self.generator = Generator(settings.generator, settings.channels)
        self.attention = AttentionNetwork(settings.attention, settings.channels)
        fields = [receptive_field(network) for network in (self.generator, self.attention)]
        self.generator_halo_px, self.attention_halo_px = (field.halo_px for field in fields)
        self.stride = math.lcm(*(field.stride for field in fields))
