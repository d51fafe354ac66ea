"""The end of a network at half resolution is the same function, to the border, with the same gradients."""

import copy
from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional

from cellxlate.model.networks import AttentionNetwork
from cellxlate.settings import PRESETS
from cellxlate.training.half_resolution import enlarged_end, phases_of_enlarged, phases_of_phases


def test_phases_of_an_enlarged_image_are_its_convolution():
    torch.manual_seed(0)
    coarse, weight = torch.rand(2, 3, 5, 7).double(), torch.randn(4, 3, 3, 3).double()
    wanted = functional.conv2d(functional.interpolate(coarse, scale_factor=2, mode="nearest"), weight, padding=1)
    phases = functional.conv2d(coarse, phases_of_enlarged(weight), padding=1)
    assert torch.allclose(functional.pixel_shuffle(phases, 2), wanted, rtol=0, atol=1e-13)


def test_phases_of_phases_are_the_convolution_of_what_they_make():
    torch.manual_seed(0)
    phases, weight = torch.rand(2, 12, 5, 7).double(), torch.randn(2, 3, 3, 3).double()
    wanted = functional.conv2d(functional.pixel_shuffle(phases, 2), weight, padding=1)
    made = functional.pixel_shuffle(functional.conv2d(phases, phases_of_phases(weight), padding=1), 2)
    assert torch.allclose(made, wanted, rtol=0, atol=1e-13)


def test_the_attention_of_fast_ends_the_same_with_the_same_gradients():
    torch.manual_seed(0)
    layers = AttentionNetwork(PRESETS["fast"].networks.attention).double().layers
    images = torch.rand(2, 1, 24, 32).double()
    ending = enlarged_end(layers)
    assert ending is not None
    assert torch.allclose(ending(images), layers(images), rtol=0, atol=1e-13)
    wanted, given = (
        torch.autograd.grad(compute(images).square().sum(), list(layers.parameters())) for compute in (layers, ending)
    )
    for one, other in zip(wanted, given, strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-12)


def test_other_ends_are_left_alone():
    settings = PRESETS["fast"].networks.attention
    assert enlarged_end(AttentionNetwork(PRESETS["paper"].networks.attention).layers) is None
    assert enlarged_end(AttentionNetwork(replace(settings, last_kernel_px=5)).layers) is None
    layers = AttentionNetwork(settings).layers
    for change in (nn.Upsample(scale_factor=4), nn.Upsample(scale_factor=2, mode="bilinear"), nn.Identity()):
        other = copy.deepcopy(layers)
        other[-4] = change
        assert enlarged_end(other) is None
    for change in (nn.Conv2d(24, 8, 3, padding=1, padding_mode="reflect"), nn.Conv2d(24, 8, 3, padding=1, stride=2)):
        other = copy.deepcopy(layers)
        other[-3] = change
        assert enlarged_end(other) is None
    assert enlarged_end(nn.Conv2d(1, 1, 3)) is None
