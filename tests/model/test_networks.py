"""Networks: sizes from the paper, and receptive fields that gradients confirm."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from cellxlate.model.layers import kind_of, leaves, operations_per_px, parameter_count, receptive_field
from cellxlate.model.networks import AttentionNetwork, Discriminator, Generator, TranslatorNetworks
from cellxlate.settings import (
    PRESETS,
    AttentionSettings,
    DiscriminatorSettings,
    GeneratorSettings,
    NetworkSettings,
    PresetName,
)
from cellxlate.training.acceleration.precision import accelerate
from cellxlate.training.steps import placed

SMALL = {
    # the receptive field does not depend on the width, so a narrow network stands for the preset's
    "resnet": lambda: Generator(GeneratorSettings(width=1, blocks=9, normalisation="none")),
    "attention": lambda: AttentionNetwork(AttentionSettings(width=1, last_width=1, normalisation="none")),
    "compact": lambda: Generator(GeneratorSettings("compact", 2, PRESETS["fast"].networks.generator.blocks, "none")),
    "fast attention": lambda: AttentionNetwork(
        AttentionSettings(width=1, stem_kernel_px=5, last_width=1, last_kernel_px=3, normalisation="none")
    ),
    "unet": lambda: Generator(GeneratorSettings("unet", 1, 1, "none", levels=2)),
    "pyramid": lambda: AttentionNetwork(
        AttentionSettings(width=2, blocks=1, normalisation="none", architecture="pyramid", levels=3)
    ),
}


def unfilled(preset: PresetName, channels: int = 1) -> TranslatorNetworks:
    """A preset's translator without memory for its weights: enough to count and to look at layers."""
    with torch.device("meta"):
        return TranslatorNetworks(replace(PRESETS[preset].networks, channels=channels))


def open_every_path(network: nn.Module) -> nn.Module:
    """Make all weights positive, so that no path of the gradient is cut by a ReLU or cancelled by another."""
    network = network.double()
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.constant_(layer.weight, 0.3 / layer.weight[0].numel())  # small: tanh must not saturate
            if layer.bias is not None:
                nn.init.constant_(layer.bias, 0.1)
    return network


def found_reach_px(network: nn.Module, phase: int, side: int) -> tuple[int, int]:
    """Return how far above and below an output pixel of this phase the input still matters, by the gradient."""
    middle = side // 2 // 8 * 8 + phase
    images = torch.full((1, 1, side, side), 0.6, dtype=torch.float64, requires_grad=True)
    layers = network.logits(images) if isinstance(network, AttentionNetwork) else network(images)
    layers[0, 0, middle, middle].backward()
    rows = torch.nonzero(images.grad[0, 0].abs().sum(1)).flatten().tolist()
    columns = torch.nonzero(images.grad[0, 0].abs().sum(0)).flatten().tolist()
    assert rows == columns
    return middle - rows[0], rows[-1] - middle


def computed_reach_px(network: nn.Module, phase: int) -> tuple[int, int]:
    """Return the same from the layers, followed backwards."""
    first = last = phase
    for layer in reversed(leaves(network)):
        first, last = kind_of(layer).window(layer).reach(first, last)
    return phase - first, last - phase


@pytest.mark.parametrize("name", SMALL)
def test_the_receptive_field_from_the_layers_is_the_one_the_gradient_finds(name):
    network = open_every_path(SMALL[name]())
    field = receptive_field(network)
    side = (2 * field.halo_px + 32) // 8 * 8
    found = [found_reach_px(network, phase, side) for phase in range(field.stride)]
    assert found == [computed_reach_px(network, phase) for phase in range(field.stride)]
    assert max(max(above, below) for above, below in found) == field.halo_px


@pytest.mark.parametrize(
    ("network", "halo_px", "stride"),
    [("resnet", 84, 4), ("attention", 22, 4)],
)
def test_halos_are_those_the_method_states(network, halo_px, stride):
    # method section 5.4: 12 + 8 * blocks; attention within 24
    field = receptive_field(SMALL[network]())
    assert (field.halo_px, field.stride) == (halo_px, stride)


@pytest.mark.parametrize("blocks", [0, 1, 6])
def test_each_residual_block_adds_eight_pixels(blocks):
    assert receptive_field(Generator(GeneratorSettings(width=1, blocks=blocks))).halo_px == 12 + 8 * blocks


def test_shifting_the_input_by_the_stride_shifts_the_output_and_by_less_does_not():
    torch.manual_seed(0)
    network = Generator(GeneratorSettings(width=4, blocks=1, normalisation="none")).double().eval()
    for parameter in network.parameters():
        parameter.data.mul_(4)
    halo = receptive_field(network).halo_px
    image = torch.rand(1, 1, 96, 96, dtype=torch.float64)
    inner = slice(halo + 4, 96 - halo - 4)
    with torch.no_grad():
        whole = network(image)[..., inner, inner]
        for shift, same in ((4, True), (1, False)):
            moved = network(torch.roll(image, (shift, shift), (2, 3)))
            back = torch.roll(moved, (-shift, -shift), (2, 3))[..., inner, inner]
            assert torch.allclose(whole, back, atol=1e-12) == same


def test_the_paper_networks_have_the_size_of_the_paper():
    # method section 4: generator 2.86 M, attention 155 k, for the paper's three colour channels
    translator = unfilled("paper", channels=3)
    assert parameter_count(translator.generator) == 2_855_811
    assert parameter_count(translator.attention) == 154_689
    kernels = [layer.kernel_size[0] for layer in translator.attention.layers if isinstance(layer, nn.Conv2d)]
    assert kernels == [7, 3, 3, 3, 7]
    assert kernels[-3:] == [3, 3, 7]  # not the released code's 1 x 1


def test_the_wide_paper_generator_is_cyclegan_s():
    assert PRESETS["paper-wide"].networks.generator.width == 64
    assert parameter_count(unfilled("paper-wide", channels=3).generator) == pytest.approx(11.39e6, rel=1e-3)


def test_the_generator_follows_the_table_of_the_method():
    generator = unfilled("paper").generator
    layers = list(generator.layers)
    shapes = [
        (type(layer).__name__, layer.kernel_size[0], layer.stride[0], layer.out_channels)
        for layer in layers
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
    ]
    assert shapes == [
        ("Conv2d", 7, 1, 32), ("Conv2d", 3, 2, 64), ("Conv2d", 3, 2, 128),
        ("ConvTranspose2d", 3, 2, 64), ("ConvTranspose2d", 3, 2, 32), ("Conv2d", 7, 1, 1),
    ]  # fmt: skip
    assert sum(type(layer).__name__ == "ResidualBlock" for layer in layers) == 9
    assert isinstance(layers[-1], nn.Tanh)
    assert sum(isinstance(layer, nn.InstanceNorm2d) for layer in generator.modules()) == 3 + 18 + 2


def test_fast_spends_a_tenth_of_the_operations_within_a_small_halo():
    fast, paper = unfilled("fast"), unfilled("paper")
    cost = {
        name: operations_per_px(translator.generator) + operations_per_px(translator.attention)
        for name, translator in (("fast", fast), ("paper", paper))
    }
    assert cost["paper"] >= 10 * cost["fast"]
    assert operations_per_px(paper.generator) >= 10 * operations_per_px(fast.generator)
    assert fast.generator_halo_px <= 32
    assert fast.attention_halo_px <= 32
    assert fast.stride == 4


def test_a_generalist_sees_what_its_levels_reach_at_little_cost():
    general = unfilled("general")
    assert (general.generator_halo_px, general.attention_halo_px, general.stride) == (91, 189, 32)
    assert operations_per_px(general.attention) < 0.05 * operations_per_px(general.generator)
    weights = parameter_count(general.generator) + parameter_count(general.attention)
    assert 4 * weights < 5.5e6  # bytes


def test_a_unet_without_biases_scales_with_its_input():
    torch.manual_seed(0)
    network = Generator(GeneratorSettings("unet", 4, 1, "none", levels=3)).eval()
    nn.init.normal_(network.layers[-2].weight, std=0.1)
    image = torch.rand(1, 1, 32, 48)
    with torch.no_grad():
        assert torch.allclose(network(7 * image), 7 * network(image), rtol=1e-3, atol=1e-5)
        assert (network(image) - image).abs().max() > 0.01


def test_operations_are_counted_per_input_pixel():
    def stack(*layers: nn.Module) -> nn.Module:
        return nn.Sequential(*layers)

    assert operations_per_px(stack(nn.Conv2d(1, 3, 5, padding=2))) == 2 * 75
    assert operations_per_px(stack(nn.Conv2d(1, 8, 4, stride=2), nn.ConvTranspose2d(8, 1, 4, stride=2))) == 64 + 64
    assert operations_per_px(stack(nn.PixelUnshuffle(2), nn.Conv2d(4, 4, 1), nn.PixelShuffle(2))) == 2 * 16 / 4


# discriminator


def test_the_discriminator_judges_patches_of_70_px():
    judge = Discriminator(DiscriminatorSettings(width=1, normalisation="none"))
    judge = open_every_path(judge)
    images = torch.full((1, 1, 256, 256), 0.5, dtype=torch.float64, requires_grad=True)
    scores = judge(images, normalised=False)
    assert scores.shape == (1, 1, 30, 30)
    scores[0, 0, 15, 15].backward()
    rows = torch.nonzero(images.grad[0, 0].abs().sum(1)).flatten()
    assert int(rows[-1] - rows[0]) + 1 == 70


def test_the_discriminator_has_the_layers_of_the_paper():
    with torch.device("meta"):
        judge = Discriminator(PRESETS["paper"].networks.discriminator)
    shapes = [(layer.out_channels, layer.kernel_size[0], layer.stride[0]) for layer in judge.convolutions]
    assert shapes == [(64, 4, 2), (128, 4, 2), (256, 4, 2), (512, 4, 1), (1, 4, 1)]
    assert [norm.num_features for norm in judge.norms] == [128, 256, 512]


def test_the_discriminator_s_normalisation_can_be_switched_off():
    torch.manual_seed(0)
    judge = Discriminator(DiscriminatorSettings(width=4))
    images = torch.rand(1, 1, 128, 128)
    plain = Discriminator(DiscriminatorSettings(width=4, normalisation="none"))
    plain.load_state_dict({key: value for key, value in judge.state_dict().items() if "norms" not in key})
    with torch.no_grad():
        judge.norms[0].weight.fill_(3)
        assert torch.equal(judge(images, normalised=False), plain(images, normalised=False))
        assert not torch.allclose(judge(images, normalised=True), judge(images, normalised=False))


# starting values and range


def test_normalised_networks_start_from_a_truncated_normal_of_two_hundredths():
    torch.manual_seed(0)
    network = Generator(GeneratorSettings(width=16, blocks=2))
    weights = torch.cat(
        [layer.weight.detach().flatten() for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    )
    assert float(weights.abs().max()) <= 0.04  # truncated at two standard deviations
    assert float(weights.std()) == pytest.approx(0.02 * 0.8796, rel=0.02)  # the standard deviation that leaves
    assert all(not layer.bias.any() for layer in network.modules() if isinstance(layer, nn.Conv2d))


def test_a_compact_generator_starts_as_the_identity():
    image = torch.rand(1, 1, 16, 16) * 3 - 1
    assert torch.equal(Generator(GeneratorSettings("compact", 8, 2, "none"))(image), image)


@pytest.mark.parametrize("room", [0.0, 1.0])
def test_what_exceeds_the_range_is_carried_through_a_tanh_generator(room: float):
    torch.manual_seed(0)
    network = Generator(GeneratorSettings(width=2, blocks=1, normalisation="none", room=room)).eval()
    inside = torch.rand(1, 1, 32, 32)
    excess = torch.zeros_like(inside)
    inside[0, 0, 10, 10], excess[0, 0, 10, 10] = 1.0 + room, 4.0
    inside[0, 0, 20, 20], excess[0, 0, 20, 20] = 0.0 - room, -2.0
    with torch.no_grad():
        assert torch.allclose(network(inside + excess), network(inside) + excess, atol=1e-6)
        assert float(network(inside).min()) >= -room
        assert float(network(inside).max()) <= 1 + room


def test_nothing_of_the_dark_halos_of_phase_contrast_reaches_what_the_paper_draws():
    network = Generator(PRESETS["paper"].networks.generator).eval()
    nn.init.zeros_(network.layers[-2].weight)
    image = torch.linspace(-1, 2, 32 * 32).view(1, 1, 32, 32)
    with torch.no_grad():
        assert torch.allclose(network(image), torch.full_like(image, 0.5), rtol=0, atol=1e-6)


def test_attention_is_between_zero_and_one_and_as_large_as_its_image():
    torch.manual_seed(0)
    network = AttentionNetwork(AttentionSettings(width=4, last_width=4), channels=2)
    attention = network(torch.randn(3, 2, 32, 48)).detach()
    assert attention.shape == (3, 1, 32, 48)
    assert 0 < float(attention.min()) < float(attention.max()) < 1


def test_networks_take_several_channels():
    translator = TranslatorNetworks(
        NetworkSettings(GeneratorSettings(width=2, blocks=1), AttentionSettings(width=2, last_width=2), channels=3)
    )
    images = torch.rand(1, 3, 16, 20)
    assert translator.generator(images).shape == (1, 3, 16, 20)
    assert translator.attention(images).shape == (1, 1, 16, 20)


def trained_network(preset: PresetName, part: str) -> nn.Module:
    """A network of a preset, none of whose weights has a gradient of zero."""
    settings = PRESETS[preset].networks
    translator, judge = TranslatorNetworks(settings), Discriminator(settings.discriminator, settings.channels)
    network = {"generator": translator.generator, "attention": translator.attention, "discriminator": judge}[part]
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and not layer.weight.any():
            nn.init.normal_(layer.weight, std=0.02)
    return network


def gradients(network: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the gradient of each kernel for a loss that weighs all outputs at random, in float64 on the CPU."""
    made = network(images, normalised=True) if isinstance(network, Discriminator) else network(images)
    weights = torch.randn(made.shape, generator=torch.Generator().manual_seed(3)).to(made.device)
    (made * weights).mean().backward()
    kernels = {name: value.grad for name, value in network.named_parameters() if value.ndim == 4}
    return {name: gradient.flatten().cpu().double() for name, gradient in kernels.items()}


def assert_learns_by_the_right_gradients(preset: PresetName, part: str, batch: int, device: torch.device) -> None:
    torch.manual_seed(1)
    plain = trained_network(preset, part)
    images = torch.rand(batch, getattr(plain, "inputs", 1), 64, 64)
    quick = placed(copy.deepcopy(plain), device)
    accelerate([quick], replace(PRESETS[preset], compile_networks=False), device, "float32")
    right = gradients(plain.double(), images.double())
    for name, gradient in gradients(quick, images.to(device)).items():
        assert nn.functional.cosine_similarity(gradient, right[name], 0) > 0.999, name


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("part", ["generator", "attention", "discriminator"])
@pytest.mark.parametrize("preset", ["fast", "general", "paper", "paper-wide", "context"])
def test_networks_learn_by_the_right_gradients_however_their_features_lie_in_memory(preset, part, batch):
    assert_learns_by_the_right_gradients(preset, part, batch, torch.device("cpu"))


@pytest.mark.cuda
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("part", ["generator", "attention", "discriminator"])
def test_the_networks_of_the_paper_learn_by_the_right_gradients_on_a_card(part, batch, card):
    assert_learns_by_the_right_gradients("paper", part, batch, torch.device(card))
