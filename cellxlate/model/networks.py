"""Generator, attention network, discriminator, and the two that enhancing uses together.

Images are (B, C, Y, X) float32. The `resnet` generator and the attention network follow Mejjati et al. 2018 and its
released code (method table in docs/explanation/method.md); `compact`, made for two processor cores, and the networks of
several resolutions, for structures of any size, are ours.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from cellxlate.model import architecture
from cellxlate.model.blocks import InstanceNorm, as_module, inner, with_weights
from cellxlate.model.layers import Described, receptive_field
from cellxlate.settings import AttentionSettings, DiscriminatorSettings, GeneratorSettings, NetworkSettings

INIT_STD = 0.02
LOGIT_OF_ONE = 20.0
"""Its sigmoid is 1 in float32."""


class Generator(nn.Module):
    """F: proposes what the G `channels` of an image would look like in the other domain.

    It takes C planes, the channels' own and `context` on either side of each, then those of the channels that are seen
    `beside`; it returns the own ones.
    """

    is_attention = False

    def __init__(self, settings: GeneratorSettings, channels: int = 1, context: int = 0, beside: int = 0) -> None:
        super().__init__()
        self.settings, self.channels, self.context, self.beside = settings, channels, context, beside
        values = architecture.network_of(settings, channels, context, beside)
        self.inputs, self.own = values.inputs, values.own
        self.residual = values.residual
        self.layers = nn.Sequential(*map(as_module, values.layers))
        initialise(self)
        if self.residual:  # starts as the identity
            last = self.layers[-2]
            nn.init.zeros_(last.weight)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, C, Y, X), sides multiples of the stride, to a proposal (B, G, Y, X)."""
        proposal: Tensor
        if self.residual:
            change = self.layers(images)
            proposal = inner(images[:, self.own], change) + change
            return proposal
        # tanh networks work on [-1, 1] (C), here black to white and `room` beyond; what exceeds that is carried through
        reach = self.settings.reach
        inside = (2 * images - 1).clamp(-reach, reach)
        proposal = (reach * self.layers(inside / reach) + 1) / 2
        return proposal + inner((images - (inside + 1) / 2)[:, self.own], proposal)


class AttentionNetwork(nn.Module):
    """A: where the G `channels` of an image should change, in [0, 1]; it takes the same C planes as a generator.

    Notes
    -----
    In the paper's network the decoder is 3 x 3, 3 x 3, 7 x 7: the released code's 1 x 1 kernels come from an argument
    slip and make maps that are constant on blocks of 4 x 4 pixels.
    """

    is_attention = True

    def __init__(self, settings: AttentionSettings, channels: int = 1, context: int = 0, beside: int = 0) -> None:
        super().__init__()
        self.settings, self.channels, self.context, self.beside = settings, channels, context, beside
        values = architecture.network_of(settings, channels, context, beside)
        self.inputs, self.own = values.inputs, values.own
        self.layers = nn.Sequential(*map(as_module, values.layers))
        initialise(self)

    def logits(self, images: Tensor) -> Tensor:
        """Map (B, C, Y, X), sides multiples of the stride, to attention before the sigmoid, (B, 1, Y, X)."""
        logits: Tensor = self.layers(2 * images - 1)
        return logits

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, C, Y, X), sides multiples of the stride, to attention (B, 1, Y, X)."""
        return torch.sigmoid(self.logits(images))


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
            InstanceNorm(width, affine=True) if settings.normalisation == "instance" else nn.Identity()
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
    channels, context, beside, inputs : int
        Of the images that both take: channels, planes on either side of each, channels beside, and planes in all.
    own : slice
        Which of these planes are the channels' own.
    stride : int
        Tile origins must be multiples of it, in pixels.
    generator_halo_px, attention_halo_px : int
        How far around a pixel the input matters for it.
    """

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.settings = settings
        self.channels, self.context, self.beside = sight = settings.channels, settings.context, settings.beside
        self.generator = Generator(settings.generator, *sight)
        self.attention = AttentionNetwork(settings.attention, *sight)
        self.inputs, self.own = self.generator.inputs, self.generator.own
        fields = [receptive_field(network) for network in (self.generator, self.attention)]
        self.generator_halo_px, self.attention_halo_px = (field.halo_px for field in fields)
        self.stride = math.lcm(*(field.stride for field in fields))


@torch.no_grad()
def seeing_neighbours(translator: TranslatorNetworks, context: int, beside: int = 0) -> TranslatorNetworks:
    """Return networks that take neighbours, or channels beside, too and make nothing of them yet.

    The outcome is the same, whatever these show.
    """
    wider = TranslatorNetworks(replace(translator.settings, context=context, beside=beside))
    for network, alone in ((wider.generator, translator.generator), (wider.attention, translator.attention)):
        weights = dict(alone.layers.state_dict())
        name, own = next((key, value) for key, value in weights.items() if value.ndim == 4)  # the first convolution's
        outputs, entering, *kernel = own.shape
        per_plane = entering // alone.inputs
        weight = own.new_zeros(outputs, network.inputs, per_plane, *kernel)
        weight[:, network.own] = own.view(outputs, alone.inputs, per_plane, *kernel)
        network.layers.load_state_dict(weights | {name: weight.flatten(1, 2)})
    return wider


def described(network: Generator | AttentionNetwork) -> architecture.Network:
    """Return a network as values; they share memory with its weights."""
    empty = architecture.network_of(network.settings, network.channels, network.context, network.beside)
    arrays = {name: weights.detach().cpu().numpy() for name, weights in network.layers.state_dict().items()}
    return replace(empty, layers=architecture.filled(empty.layers, arrays))


def running(network: architecture.Network) -> Generator | AttentionNetwork:
    """Return a network that torch runs, of values as `inference.for_inference` makes them, for channels-last images."""
    settings, sight = network.settings, (network.channels, network.context, network.beside)
    with torch.device("meta"):  # no random numbers are drawn for what is filled below: another thread may be training
        made = (
            AttentionNetwork(settings, *sight)
            if isinstance(settings, AttentionSettings)
            else Generator(settings, *sight)
        )
        made.layers = nn.Sequential(*map(as_module, network.layers))
    made.layers.load_state_dict(with_weights(network.layers), assign=True)
    return made.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def values_of(translator: TranslatorNetworks) -> Described:
    """Return the networks of a translator as values; they share memory with its weights."""
    return Described(translator.settings, described(translator.generator), described(translator.attention))


def translator_of(networks: Described) -> TranslatorNetworks:
    """Return a translator with the weights of networks that are values, ready to run and not to learn."""
    with torch.device("meta"):  # without memory, and no random numbers are drawn
        translator = TranslatorNetworks(networks.settings)
    states = (
        with_weights(network.layers, f"{name}.layers.")
        for name, network in (("generator", networks.generator), ("attention", networks.attention))
    )
    translator.load_state_dict({name: own for state in states for name, own in state.items()}, assign=True)
    return translator.eval().requires_grad_(False)
