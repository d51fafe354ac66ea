"""Without enlarging, a convolution of an enlarged image is the same function, to the border, with its gradients."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from cellxlate.model.networks import AttentionNetwork
from cellxlate.settings import PRESETS
from cellxlate.training.acceleration.enlargement import convolve_enlarged, without_enlarging


@pytest.mark.parametrize("biased", [True, False])
def test_it_is_the_convolution_of_the_enlarged_image(biased):
    torch.manual_seed(0)
    coarse, weight = torch.rand(2, 3, 5, 7).double(), torch.randn(4, 3, 3, 3).double()
    bias = torch.randn(4).double() if biased else None
    wanted = functional.conv2d(functional.interpolate(coarse, scale_factor=2, mode="nearest"), weight, bias, padding=1)
    assert torch.allclose(convolve_enlarged(coarse, weight, bias), wanted, rtol=0, atol=1e-13)


@pytest.mark.parametrize("preset", ["fast", "paper"])
def test_attention_stays_the_same_with_the_same_gradients(preset):
    torch.manual_seed(0)
    layers = AttentionNetwork(PRESETS[preset].networks.attention).double().layers
    images = torch.rand(2, 1, 24, 32).double()
    shorter = without_enlarging(layers)
    assert shorter is not None
    assert torch.allclose(shorter(images), layers(images), rtol=0, atol=1e-10)
    wanted, given = (
        torch.autograd.grad(compute(images).square().sum(), list(layers.parameters())) for compute in (layers, shorter)
    )
    for one, other in zip(wanted, given, strict=True):
        assert torch.allclose(one, other, rtol=1e-6, atol=1e-9)


def test_pairs_of_another_kind_are_left_alone():
    settings = PRESETS["fast"].networks
    last = replace(settings.attention, last_kernel_px=5)
    assert without_enlarging(AttentionNetwork(last).layers) is not None  # the last one is not behind an enlargement
    nearest = nn.Upsample(scale_factor=2, mode="nearest")
    for pair in (
        (nn.Upsample(scale_factor=4), nn.Conv2d(2, 2, 3, padding=1)),
        (nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(2, 2, 3, padding=1)),
        (nearest, nn.Conv2d(2, 2, 5, padding=2)),
        (nearest, nn.Conv2d(2, 2, 3)),
        (nearest, nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect")),
        (nearest, nn.Conv2d(2, 2, 3, padding=1, groups=2)),
        (nearest, nn.ReLU()),
    ):
        assert without_enlarging(nn.Sequential(*pair)) is None
    assert without_enlarging(nn.Conv2d(1, 1, 3)) is None
