"""Networks made ready to run: the same values wherever the surroundings are whole."""

from typing import Any

import pytest
import torch

from cellxlate.model.architecture import Convolution
from cellxlate.model.blocks import ChannelsToPixels, as_module, inner, with_weights
from cellxlate.model.bundle import load_model
from cellxlate.model.inference import enlarging, for_inference
from cellxlate.model.networks import AttentionNetwork, Generator, TranslatorNetworks, described, running
from cellxlate.settings import AttentionSettings, GeneratorSettings, NetworkSettings


def built(architecture: Any, channels: int = 1, stem_kernel_px: int = 7, room: float = 0.0) -> TranslatorNetworks:
    """A translator with random weights, small enough that tanh does not saturate and blow up what rounding does."""
    torch.manual_seed(3)
    networks = TranslatorNetworks(
        NetworkSettings(
            GeneratorSettings(architecture, 8, 2, "none", levels=3, room=room),
            AttentionSettings(
                4, stem_kernel_px, 1, 4, stem_kernel_px, "none", "pyramid" if architecture == "unet" else "paper", 3
            ),
            channels=channels,
        )
    ).eval()
    with torch.no_grad():
        for name, parameter in networks.named_parameters():
            parameter.normal_(0, 0.07 if architecture != "compact" and name.startswith("generator") else 0.15)
    return networks


def made_ready(network: Generator | AttentionNetwork) -> Generator | AttentionNetwork:
    """A network as it is run, in torch."""
    return running(for_inference(described(network)))


@torch.inference_mode()
@pytest.mark.parametrize("architecture", ["compact", "resnet", "unet"])
@pytest.mark.parametrize("part", ["generator", "attention"])
@pytest.mark.parametrize("channels", [1, 2])
def test_pixels_with_whole_surroundings_are_the_same(architecture: Any, part: str, channels: int) -> None:
    networks = built(architecture, channels)
    network, halo_px = getattr(networks, part), getattr(networks, f"{part}_halo_px")
    images = torch.rand(2, channels, 224, 256)
    before = network(images)
    found = made_ready(network)(images)
    margin = (224 - found.shape[-2]) // 2
    assert (256 - found.shape[-1]) // 2 == margin > 0
    assert margin <= halo_px
    rest = halo_px - margin
    whole = (..., slice(rest, found.shape[-2] - rest), slice(rest, found.shape[-1] - rest))
    rounding = max(2e-6, 1e-6 * float(before.abs().max()))
    assert torch.allclose(found[whole], inner(before, found)[whole], rtol=0, atol=rounding)
    assert found[whole].std() > 0.01
    assert torch.equal(network(images), before)  # the trained network stays as it is


@torch.inference_mode()
def test_an_enlargement_and_a_convolution_become_one() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(3, 2, 3, padding=1)
    features = torch.rand(2, 3, 20, 24)
    expected = layer(torch.nn.functional.interpolate(features, scale_factor=2, mode="nearest"))
    bias = layer.bias.detach().numpy()
    one = enlarging(Convolution(layer.weight.detach().numpy(), bias, padding=(1, 1)))
    convolution = as_module(one)
    convolution.load_state_dict(with_weights(one))
    found = ChannelsToPixels()(convolution(features))
    assert found.shape == (2, 2, 38, 46)
    assert torch.allclose(found, expected[..., 1:-1, 1:-1], rtol=0, atol=1e-6)


def test_a_model_that_is_loaded_and_made_ready_draws_no_random_numbers() -> None:
    """Another thread may be training from a seed: torch has one stream of random numbers for all of them."""
    before = torch.get_rng_state()
    for name in ("cells", "nuclei-lowexp"):
        bundle = load_model(name)
        for network in (bundle.translator.generator, bundle.translator.attention):
            made_ready(network)
    assert torch.equal(torch.get_rng_state(), before)
