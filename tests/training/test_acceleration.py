"""Networks in bfloat16: where it is taken, and that only networks compute in it."""

from dataclasses import replace

import pytest
import torch

from cellxlate.model.networks import Discriminator, TranslatorNetworks
from cellxlate.settings import PRESETS
from cellxlate.training.acceleration import precision as acceleration
from cellxlate.training.acceleration.precision import (
    accelerate,
    choose_precision,
    gain_of_bfloat16,
    has_bfloat16,
    networks_in,
    run_in_bfloat16,
)
from cellxlate.training.steps import Draw, LearnedStep

CPU = torch.device("cpu")


@pytest.mark.parametrize(("gain", "precision"), [(1.2, "float32"), (2.0, "bfloat16")])
def test_a_cpu_computes_in_bfloat16_where_it_has_it_and_is_clearly_faster(monkeypatch, tiny_paper, gain, precision):
    settings = PRESETS["fast"]
    generator = TranslatorNetworks(settings.networks).generator
    asked = []
    monkeypatch.setattr(acceleration, "has_bfloat16", lambda device: True)
    monkeypatch.setattr(acceleration, "gain_of_bfloat16", lambda network, images: asked.append(images.shape) or gain)
    assert choose_precision(generator, settings, CPU) == precision
    assert asked == [(4, 1, 128, 128)]
    assert choose_precision(generator, replace(settings, mixed_precision=False), CPU) == "float32"
    assert (
        choose_precision(TranslatorNetworks(tiny_paper.networks).generator, tiny_paper, CPU) == "float32"
    )  # too small
    monkeypatch.setattr(acceleration, "has_bfloat16", lambda device: False)
    assert choose_precision(generator, settings, CPU) == "float32"
    assert len(asked) == 1


def test_in_float32_on_a_cpu_networks_stay_the_same_functions():
    torch.manual_seed(0)
    settings = PRESETS["fast"]
    translator = TranslatorNetworks(settings.networks)
    names, image = list(translator.state_dict()), torch.rand(1, 1, 32, 32)
    wanted = translator.attention.logits(image)
    accelerate([translator], settings, CPU, "float32")
    assert "forward" in vars(translator.attention.layers)
    assert "forward" not in vars(translator.generator.layers)
    assert torch.allclose(translator.attention.logits(image), wanted, atol=1e-5)
    assert list(translator.state_dict()) == names


def test_the_measurement_leaves_no_trace(tiny_fast):
    torch.manual_seed(0)
    generator = TranslatorNetworks(tiny_fast.networks).generator
    weights = [weight.clone() for weight in generator.parameters()]
    state = torch.get_rng_state()
    assert gain_of_bfloat16(generator, torch.full((2, 1, 32, 32), 0.5)) > 0
    assert torch.equal(torch.get_rng_state(), state)
    assert all(weight.grad is None for weight in generator.parameters())
    assert all(torch.equal(one, other) for one, other in zip(weights, generator.parameters(), strict=True))
    assert generator(torch.rand(1, 1, 32, 32)).dtype == torch.float32


def test_generator_attention_and_discriminator_are_found(tiny_paper):
    translator, judge = TranslatorNetworks(tiny_paper.networks), Discriminator(tiny_paper.networks.discriminator)
    found = networks_in([translator, judge])
    assert [id(one) for one in found] == [id(translator.generator.layers), id(translator.attention.layers), id(judge)]


def test_in_bfloat16_a_network_gives_float32_of_nearly_the_same_value_and_trains(tiny_paper):
    torch.manual_seed(0)
    translator = TranslatorNetworks(tiny_paper.networks)
    image = torch.rand(1, 1, 32, 32)
    names = list(translator.state_dict())
    plain = translator.attention.logits(image).detach()
    run_in_bfloat16(translator.attention.layers, "cpu")
    mixed = translator.attention.logits(image)
    assert mixed.dtype == torch.float32
    assert not torch.equal(mixed, plain)
    assert torch.allclose(mixed, plain, atol=0.05)
    mixed.sum().backward()
    assert all(value.dtype == torch.float32 and value.grad is not None for value in translator.attention.parameters())
    assert list(translator.state_dict()) == names


def test_a_discriminator_keeps_its_switch(tiny_paper):
    torch.manual_seed(0)
    judge = Discriminator(tiny_paper.networks.discriminator)
    with torch.no_grad():
        for norm in judge.norms:
            norm.weight.fill_(5)
    run_in_bfloat16(judge, "cpu")
    image = torch.rand(1, 1, 32, 32)
    assert not torch.allclose(judge(image, normalised=True), judge(image, normalised=False), atol=0.01)


@pytest.mark.cuda
def test_a_step_runs_on_a_card(tiny_paper, card):
    device = torch.device(card)
    step = LearnedStep(tiny_paper, device)
    accelerate(step.modules.values(), tiny_paper, device, "bfloat16")
    none = torch.full((1, 1, 32, 32), -1.0, device=device)
    image = torch.rand(1, 1, 32, 32, device=device)
    terms = step.run(Draw(image, none), Draw(image, none), switched=False, rng=torch.Generator())
    assert all(bool(torch.isfinite(value)) for value in terms.values())


@pytest.mark.cuda
def test_a_card_computes_in_bfloat16_without_a_measurement(tiny_paper, card):
    generator = TranslatorNetworks(tiny_paper.networks).generator
    if card == "cuda" and has_bfloat16(torch.device(card)):
        assert choose_precision(generator, tiny_paper, torch.device(card)) == "bfloat16"
    assert choose_precision(generator, replace(tiny_paper, mixed_precision=False), torch.device(card)) == "float32"
