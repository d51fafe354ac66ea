"""Fixed statistics: folding changes nothing, and measuring them says what instance normalisation would have used."""

import copy

import pytest
import torch
from torch import Tensor, nn

from cellxlate.model.networks import AttentionNetwork, Generator, TranslatorNetworks
from cellxlate.model.statistics import (
    VARIANCE_FLOOR,
    Statistics,
    fix_translator,
    fold,
    folded,
    measure_statistics,
    without_normalisation,
)
from cellxlate.settings import AttentionSettings, GeneratorSettings, NetworkSettings

SETTINGS = NetworkSettings(GeneratorSettings(width=4, blocks=2), AttentionSettings(width=4, last_width=3), channels=1)


class FixedNorm(nn.Module):
    """Normalisation by given statistics: what folding must reproduce."""

    def __init__(self, norm: nn.InstanceNorm2d, statistics: Statistics) -> None:
        super().__init__()
        self.norm, self.statistics = norm, statistics

    def forward(self, features: Tensor) -> Tensor:
        mean, variance = (value.view(1, -1, 1, 1) for value in (self.statistics.mean, self.statistics.variance))
        variance = torch.maximum(variance, torch.tensor(VARIANCE_FLOOR))
        scaled = (features - mean) / torch.sqrt(variance + self.norm.eps)
        return scaled * self.norm.weight.view(1, -1, 1, 1) + self.norm.bias.view(1, -1, 1, 1)


def with_fixed_statistics(network: nn.Module, statistics: list[Statistics]) -> nn.Module:
    """Replace every instance normalisation, in the order of the data, by one with fixed statistics."""
    fixed = copy.deepcopy(network)
    names = [name for name, layer in fixed.named_modules() if isinstance(layer, nn.InstanceNorm2d)]
    for name, one in zip(names, statistics, strict=True):
        parent, _, child = name.rpartition(".")
        setattr(fixed.get_submodule(parent), child, FixedNorm(fixed.get_submodule(name), one))
    return fixed.eval()


def trained(settings: NetworkSettings = SETTINGS, seed: int = 0) -> TranslatorNetworks:
    """A translator whose weights are as large as after training, and whose norms are not 1 and 0."""
    torch.manual_seed(seed)
    translator = TranslatorNetworks(settings)
    for layer in translator.modules():
        if isinstance(layer, nn.InstanceNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias, -0.3, 0.3)
        elif isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.weight.data.mul_(8)
            nn.init.uniform_(layer.bias, -0.2, 0.2)
    return translator.eval()


def textures(count: int, seed: int = 1) -> list[Tensor]:
    torch.manual_seed(seed)
    return [torch.rand(1, 1, 48, 64) ** 2 for _ in range(count)]


@pytest.mark.parametrize("part", ["generator", "attention"])
def test_the_folded_network_equals_the_network_with_the_statistics_fixed(part):
    network = getattr(trained(), part)
    plain = getattr(TranslatorNetworks(without_normalisation(SETTINGS)), part)
    statistics = measure_statistics(network, textures(3))
    fold(network, plain, statistics)
    reference = with_fixed_statistics(network, statistics)
    assert not any(isinstance(layer, nn.InstanceNorm2d) for layer in plain.modules())
    with torch.no_grad():
        for image in textures(2, seed=9):
            assert torch.allclose(plain(image), reference(image), atol=1e-5)
            assert not torch.allclose(plain(image), network(image), atol=1e-3)  # it does differ from instance norm


def test_a_transposed_convolution_folds_along_its_own_axis():
    torch.manual_seed(0)
    layer, norm = nn.ConvTranspose2d(5, 3, 3, 2, 1, output_padding=1), nn.InstanceNorm2d(3, affine=True)
    nn.init.uniform_(norm.weight, 0.5, 2)
    nn.init.uniform_(norm.bias)
    statistics = Statistics(torch.tensor([0.3, -1.0, 2.0]), torch.tensor([0.5, 2.0, 9.0]))
    plain = copy.deepcopy(layer)
    plain.load_state_dict(folded(layer, norm, statistics))
    with torch.no_grad():
        features = torch.randn(2, 5, 8, 8)
        assert torch.allclose(plain(features), FixedNorm(norm, statistics)(layer(features)), atol=1e-5)


@pytest.mark.parametrize("part", ["generator", "attention"])
def test_statistics_measured_on_one_image_are_those_instance_normalisation_uses_on_it(part):
    network = getattr(trained(), part)
    image = textures(1)[0]
    fixed = with_fixed_statistics(network, measure_statistics(network, [image]))
    with torch.no_grad():
        assert torch.allclose(fixed(image), network(image), atol=1e-4)


def test_statistics_are_the_mean_over_all_images_whatever_the_batches():
    network = trained().attention
    images = textures(4)
    apart = measure_statistics(network, images)
    together = measure_statistics(network, [torch.cat(images)])
    first = measure_statistics(network, images[:1])
    for one, other, single in zip(apart, together, first, strict=True):
        assert torch.allclose(one.mean, other.mean, atol=1e-5)
        assert torch.allclose(one.variance, other.variance, atol=1e-5)
        assert not torch.allclose(one.mean, single.mean, atol=1e-4)


def test_the_first_statistics_are_mean_and_variance_of_the_first_features():
    network = trained().generator
    image = textures(1)[0]
    with torch.no_grad():
        features = network.layers[0](2 * image - 1).double()
    first = measure_statistics(network, [image])[0]
    assert torch.allclose(first.mean, features.mean((0, 2, 3)).float(), atol=1e-6)
    assert torch.allclose(first.variance, features.var((0, 2, 3), correction=0).float(), atol=1e-6)


def test_measuring_leaves_no_hook_behind():
    network = trained().generator
    measure_statistics(network, textures(1))
    assert not any(layer._forward_pre_hooks for layer in network.modules())


def test_a_blank_sample_does_not_amplify_later_images():
    translator = trained()
    blank = [torch.full((1, 1, 48, 64), 0.2)]
    statistics = measure_statistics(translator.generator, blank)
    assert float(statistics[0].variance.max()) < VARIANCE_FLOOR
    fixed = fix_translator(translator, SETTINGS, blank)
    first, norm = translator.generator.layers[0], translator.generator.layers[1]
    strongest = float((norm.weight.detach() / VARIANCE_FLOOR**0.5).max())
    grown = (fixed.generator.layers[0].weight / first.weight).detach().abs().max()
    assert float(grown) <= strongest
    with torch.no_grad():
        assert bool(torch.isfinite(fixed.generator(textures(1)[0])).all())


def test_a_fixed_translator_is_local_and_an_instance_normalised_one_is_not():
    translator = trained()
    fixed = fix_translator(translator, SETTINGS, textures(2))
    image, other = textures(1)[0], textures(1)[0].clone()
    other[..., 60:] += 3.0  # 60 px away from the first column: beyond the halo of 28 px
    halo = fixed.generator_halo_px
    assert halo == 28
    with torch.no_grad():
        far = slice(0, 60 - halo)
        assert torch.equal(fixed.generator(image)[..., far], fixed.generator(other)[..., far])
        assert not torch.allclose(
            translator.generator(image)[..., far], translator.generator(other)[..., far], atol=1e-3
        )


def test_networks_without_normalisation_are_copied_as_they_are():
    settings = without_normalisation(SETTINGS)
    translator = TranslatorNetworks(settings).eval()
    fixed = fix_translator(translator, settings, textures(1))
    for key, value in translator.state_dict().items():
        assert torch.equal(fixed.state_dict()[key], value)
    assert isinstance(fixed.generator, Generator)
    assert isinstance(fixed.attention, AttentionNetwork)
