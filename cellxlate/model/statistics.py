"""Normalisation statistics: measured over a sample, fixed, and folded into the convolutions.

Instance normalisation lets every tile normalise by its own mean, which no halo repairs. Fixed statistics make the
network purely local; folded, they cost nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

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
    """Measure what enters each instance normalisation, averaged over images.

    Parameters
    ----------
    network : Module
        A generator or an attention network with instance normalisation.
    images : iterable of Tensor (B, C, Y, X)
        Unit range, with content: blank images would bias the statistics.

    Returns
    -------
    list of Statistics
        One per normalisation layer in the order of the data; empty for a network without any.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, nn.InstanceNorm2d)]
    sums = [torch.zeros(2, layer.num_features, dtype=torch.float64) for layer in layers]
    count = 0

    def record(place: int, features: Tensor) -> None:
        variance, mean = torch.var_mean(features, dim=(2, 3), correction=0)  # (B, channels)
        sums[place] += torch.stack([mean.double().sum(0), variance.double().sum(0)]).cpu()

    handles = [
        layer.register_forward_pre_hook(lambda _, inputs, place=place: record(place, inputs[0]))
        for place, layer in enumerate(layers)
    ]
    try:
        for batch in images:
            network(batch)
            count += len(batch)
    finally:
        for handle in handles:
            handle.remove()
    return [Statistics((pair[0] / count).float(), (pair[1] / count).float()) for pair in sums]


def fold_convolution(
    layer: nn.Conv2d | nn.ConvTranspose2d, norm: nn.InstanceNorm2d, statistics: Statistics
) -> tuple[Tensor, Tensor]:
    """Return the weight and bias of a convolution that does what it and the fixed normalisation after it did."""
    scale = norm.weight.detach().cpu() / (statistics.variance.clamp(min=VARIANCE_FLOOR) + norm.eps).sqrt()
    shape = (1, -1, 1, 1) if isinstance(layer, nn.ConvTranspose2d) else (-1, 1, 1, 1)
    bias = layer.bias.detach().cpu() if layer.bias is not None else torch.zeros_like(scale)
    return layer.weight.detach().cpu() * scale.view(shape), (bias - statistics.mean) * scale + norm.bias.detach().cpu()


@torch.no_grad()
def fold(
    network: Generator | AttentionNetwork, plain: Generator | AttentionNetwork, statistics: list[Statistics]
) -> None:
    """Fill `plain`, the same network without normalisation, so that it equals `network` with fixed statistics."""
    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.InstanceNorm2d)
    layers = [layer for layer in network.modules() if isinstance(layer, kinds)]
    outputs = [layer for layer in plain.modules() if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)]
    remaining = iter(statistics)
    destination = iter(outputs)
    for layer, following in zip(layers, [*layers[1:], None], strict=True):
        if isinstance(layer, nn.InstanceNorm2d):
            continue
        if isinstance(following, nn.InstanceNorm2d):
            weight, bias = fold_convolution(layer, following, next(remaining))
        else:
            weight = layer.weight.detach()
            bias = layer.bias.detach() if layer.bias is not None else torch.zeros(layer.out_channels)
        copy = next(destination)
        copy.weight.copy_(weight)
        if copy.bias is not None:
            copy.bias.copy_(bias)
        elif bias.any():
            raise ValueError("a folded convolution needs a bias")


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
    """Return the translator with statistics measured on a sample of source images and folded in.

    Parameters
    ----------
    translator : TranslatorNetworks
        Trained.
    settings : NetworkSettings
        Its shape.
    images : iterable of Tensor (B, C, Y, X)
        Source patches in unit range.
    """
    with torch.device("meta"):  # no random numbers are drawn for weights that are filled below
        plain = TranslatorNetworks(without_normalisation(settings))
    plain.to_empty(device="cpu")
    batches = list(images)
    for network, copy in ((translator.generator, plain.generator), (translator.attention, plain.attention)):
        fold(network, copy, measure_statistics(network, batches))
    return plain.eval()
