"""One table of layers: a new kind is one entry, and an unknown one is named."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from cellxlate.errors import OptionError
from cellxlate.model.blocks import InstanceNorm
from cellxlate.model.export.onnx import onnx_model
from cellxlate.model.graph import Graph
from cellxlate.model.layers import (
    KINDS,
    Cost,
    Kind,
    Window,
    activation_bytes_per_px,
    coarsening,
    kind_of,
    leaves,
    margin_px,
    operations_per_px,
    receptive_field,
)
from cellxlate.model.networks import Generator
from cellxlate.model.statistics import fold, measure_statistics
from cellxlate.settings import GeneratorSettings

from .test_inference import built, made_ready
from .test_statistics import with_fixed_statistics


class Spread(nn.Module):
    """A kind of layer that the package does not have: every other pixel of 5 x 5."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3) / 5)
        self.bias = nn.Parameter(torch.randn(outputs) / 5)

    def forward(self, features: Tensor) -> Tensor:
        return functional.conv2d(features, self.weight, self.bias, padding=2, dilation=2)


def write_spread(layer: Spread, graph: Graph, features: str) -> str:
    weight, bias = graph.constant(layer.weight), graph.constant(layer.bias)
    return graph.add("Conv", features, weight, bias, kernel_shape=[3, 3], dilations=[2, 2], pads=[2] * 4)


SPREAD = Kind(
    window=lambda _: Window(kernel_px=5, padding_px=2),
    cost=lambda layer: Cost(layer.weight.shape[1], layer.weight.shape[0], layer.weight.numel()),
    output_axis=0,
    write=write_spread,
)


def network_with(*layers: nn.Module) -> Generator:
    """A generator made of given layers."""
    network = Generator(GeneratorSettings("compact", 2, 0, "none"))
    network.layers = nn.Sequential(*layers)
    return network.eval()


@pytest.fixture
def network(monkeypatch) -> Generator:
    """A generator with the new kind of layer, known from one entry."""
    monkeypatch.setitem(KINDS, Spread, SPREAD)
    torch.manual_seed(0)
    norm = InstanceNorm(4, affine=True)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.uniform_(norm.bias, -0.3, 0.3)
    return network_with(nn.PixelUnshuffle(2), Spread(4, 4), norm, nn.ReLU(), Spread(4, 4), nn.PixelShuffle(2))


def without_norm(network: Generator) -> Generator:
    plain = copy.deepcopy(network)
    plain.layers = nn.Sequential(*(layer for layer in plain.layers if not isinstance(layer, nn.InstanceNorm2d)))
    for parameter in plain.parameters():
        parameter.data.zero_()
    return plain


def test_a_new_kind_of_layer_has_a_receptive_field_and_a_cost(network):
    field = receptive_field(network)
    assert (field.halo_px, field.stride) == (2 * (2 + 2) + 1, 2)
    images = torch.full((1, 1, 48, 48), 0.5, requires_grad=True)
    plain = without_norm(network)
    for parameter in plain.parameters():
        parameter.data.fill_(0.1)
    (plain(images) - images)[0, 0, 25, 25].backward()
    rows = torch.nonzero(images.grad[0, 0].abs().sum(1)).flatten()
    assert (int(rows[0]), int(rows[-1])) == (25 - 9, 25 + 8)
    assert activation_bytes_per_px(network) == 4 * (4 + 2 * 4) / 4
    assert operations_per_px(network) == 2 * 2 * (4 * 4 * 9) / 4


@torch.no_grad()
def test_a_new_kind_of_layer_takes_in_the_normalisation_after_it(network):
    images = torch.rand(2, 1, 48, 64)
    statistics = measure_statistics(network, [images])
    plain = without_norm(network)
    fold(network, plain, statistics)
    assert torch.allclose(plain(images), with_fixed_statistics(network, statistics)(images), atol=1e-5)
    assert not torch.allclose(plain(images), images, atol=0.1)


@torch.no_grad()
def test_a_new_kind_of_layer_has_a_counterpart_in_onnx(network):
    evaluator = pytest.importorskip("onnx.reference").ReferenceEvaluator
    plain = without_norm(network)
    fold(network, plain, measure_statistics(network, [torch.rand(1, 1, 48, 48)]))
    images = torch.rand(2, 1, 32, 48)
    (computed,) = evaluator(onnx_model(plain, name="proposal")).run(None, {"images": images.numpy()})
    assert np.allclose(computed, plain(images).numpy(), rtol=0, atol=5e-6)


def test_an_unknown_kind_of_layer_is_named():
    pytest.importorskip("onnx")
    network = network_with(Spread(1, 1))
    for asked in (
        receptive_field,
        activation_bytes_per_px,
        operations_per_px,
        lambda network: fold(network, copy.deepcopy(network), []),
        lambda network: onnx_model(network, name="proposal"),
    ):
        with pytest.raises(OptionError, match="nothing is known of the layer Spread"):
            asked(network)


def test_no_normalisation_is_folded_into_a_layer_that_cannot_take_it():
    network = network_with(nn.ReLU(), InstanceNorm(1, affine=True))
    with pytest.raises(OptionError, match="ReLU"):
        fold(network, network_with(nn.ReLU()), measure_statistics(network, [torch.rand(1, 1, 8, 8)]))


@torch.inference_mode()
@pytest.mark.parametrize("architecture", ["compact", "resnet", "unet"])
@pytest.mark.parametrize("part", ["generator", "attention"])
def test_margins_from_the_layers_are_those_of_the_output(architecture, part):
    trained = getattr(built(architecture), part)
    assert margin_px(trained) == 0
    ready = made_ready(trained)
    assert margin_px(ready) == (256 - ready(torch.rand(1, 1, 256, 256)).shape[-1]) // 2 > 0
    assert coarsening(ready) == coarsening(trained)


@torch.inference_mode()
@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(1, 1, 7, padding=3),
        nn.Conv2d(1, 1, 5, 2, 2),
        nn.ConvTranspose2d(1, 1, 3, 2, 1, output_padding=1),
        nn.PixelUnshuffle(2),
        nn.Upsample(scale_factor=2, mode="nearest"),
        nn.Upsample(scale_factor=2, mode="bilinear"),
    ],
    ids=repr,
)
def test_a_window_tells_the_side_of_the_output(layer):
    assert leaves(layer) == [layer]
    assert kind_of(layer).window(layer).side_px(32) == layer(torch.rand(1, 1, 32, 32)).shape[-1]
