"""What would run on CUDA, as far as a CPU can show it."""

from dataclasses import replace

import torch

from cellxlate.model.networks import Discriminator, Translator
from cellxlate.training.acceleration import accelerate, networks_in, run_in_bfloat16


def test_on_a_cpu_nothing_changes(tiny_paper):
    translator = Translator(tiny_paper.networks)
    before = [layer.forward for layer in translator.modules()]
    settings = replace(tiny_paper, mixed_precision=True, compile_networks=True)
    accelerate([translator], settings, torch.device("cpu"))
    assert [layer.forward for layer in translator.modules()] == before


def test_generator_attention_and_discriminator_are_found(tiny_paper):
    translator, judge = Translator(tiny_paper.networks), Discriminator(tiny_paper.networks.discriminator)
    found = networks_in([translator, judge])
    assert [id(one) for one in found] == [id(translator.generator.layers), id(translator.attention.layers), id(judge)]


def test_in_bfloat16_a_network_gives_float32_of_nearly_the_same_value_and_trains(tiny_paper):
    torch.manual_seed(0)
    translator = Translator(tiny_paper.networks)
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


if torch.cuda.is_available():

    def test_a_step_runs_on_cuda(tiny_paper):
        from cellxlate.training.steps import Draw, LearnedStep

        device = torch.device("cuda")
        step = LearnedStep(tiny_paper, device)
        accelerate(step.modules.values(), tiny_paper, device)
        none = torch.full((1, 1, 32, 32), -1.0, device=device)
        image = torch.rand(1, 1, 32, 32, device=device)
        terms = step.run(Draw(image, none), Draw(image, none), switched=False, rng=torch.Generator())
        assert all(bool(torch.isfinite(value)) for value in terms.values())
