"""Normalisation statistics: measured over a sample, fixed, and folded into the convolutions.

Instance normalisation lets every tile normalise by its own mean, which no halo repairs. Fixed statistics make the
network purely local; folded, they cost nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from cellxlate.errors import OptionError
from cellxlate.model.layers import kind_of, leaves
from cellxlate.model.networks import AttentionNetwork, Generator, TranslatorNetworks
from cellxlate.settings import NetworkSettings

VARIANCE_FLOOR = 1e-4
"""Fixed variances are at least this: a channel that is blank on the sample must not amplify noise elsewhere."""


@dataclass(frozen=True)
class Statistics:
    """Mean and variance (channels,) of what enters one normalisation layer."""

    mean: Tensor
    variance: Tensor


@torch.no_grad()
def measure_statistics(network: nn.Module, images: Iterable[Tensor]) -> list[Statistics]:
    """Measure what enters each instance normalisation of a network, in the order of the data, averaged over images.

    These are tensors (B, C, Y, X) in unit range, with content: blank images would bias the statistics.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, nn.InstanceNorm2d)]
    sums = [torch.zeros(2, layer.num_features, dtype=torch.float64) for layer in layers]
    count = 0

    def record(position: int, features: Tensor) -> None:
        variance, mean = torch.var_mean(features, dim=(2, 3), correction=0)  # (B, channels)
        sums[position] += torch.stack([mean.double().sum(0), variance.double().sum(0)]).cpu()

    handles = [
        layer.register_forward_pre_hook(lambda _, inputs, position=position: record(position, inputs[0]))
        for position, layer in enumerate(layers)
    ]
    try:
        for batch in images:
            network(batch)
            count += len(batch)
    finally:
        for handle in handles:
            handle.remove()
    return [Statistics((pair[0] / count).float(), (pair[1] / count).float()) for pair in sums]


def folded(layer: nn.Module, norm: nn.InstanceNorm2d, statistics: Statistics) -> dict[str, Tensor]:
    """Return the weight and bias of a layer that does what it and the fixed normalisation after it did.

    Raises
    ------
    OptionError
        No normalisation can be folded into such a layer.
    """
    axis = kind_of(layer).output_axis
    if axis is None:
        raise OptionError(f"no normalisation can be folded into the layer {type(layer).__name__}")
    values: dict[str, Tensor] = {name: value.cpu() for name, value in layer.state_dict().items()}
    scale = norm.weight.detach().cpu() / (statistics.variance.clamp(min=VARIANCE_FLOOR) + norm.eps).sqrt()
    shape = [-1 if one == axis else 1 for one in range(values["weight"].ndim)]
    bias = values.get("bias", torch.zeros_like(scale))
    offset = (bias - statistics.mean) * scale + norm.bias.detach().cpu()
    return values | {"weight": values["weight"] * scale.view(shape), "bias": offset}


@torch.no_grad()
def fold(
    network: Generator | AttentionNetwork, plain: Generator | AttentionNetwork, statistics: list[Statistics]
) -> None:
    """Fill `plain`, the same network without normalisation, so that it equals `network` with fixed statistics.

    Raises
    ------
    OptionError
        No normalisation can be folded into a layer before one, or a layer has no entry in `layers.KINDS`.
    """
    layers = leaves(network)
    remaining, copies = iter(statistics), iter(leaves(plain))
    for layer, following in zip(layers, [*layers[1:], None], strict=True):
        if isinstance(layer, nn.InstanceNorm2d):
            continue
        values = layer.state_dict()
        if isinstance(following, nn.InstanceNorm2d):
            values = folded(layer, following, next(remaining))
        next(copies).load_state_dict(values)


def without_normalisation(settings: NetworkSettings) -> NetworkSettings:
    """Return the settings of the folded networks."""
    return replace(
        settings,
        generator=replace(settings.generator, normalisation="none"),
        attention=replace(settings.attention, normalisation="none"),
    )


def fix_translator(
    translator: TranslatorNetworks, settings: NetworkSettings, images: Iterable[Tensor]
) -> TranslatorNetworks:
    """Return a trained translator with statistics measured on source patches and folded in.

    The patches are tensors (B, C, Y, X) in unit range, the settings those of the translator.
    """
    with torch.device("meta"):  # no random numbers are drawn for weights that are filled below
        plain = TranslatorNetworks(without_normalisation(settings))
    plain.to_empty(device="cpu")
    batches = list(images)
    for network, copy in ((translator.generator, plain.generator), (translator.attention, plain.attention)):
        fold(network, copy, measure_statistics(network, batches))
    return plain.eval()
