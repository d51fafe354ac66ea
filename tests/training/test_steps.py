"""One step of the paper's game against a small independent calculation.

Networks are affine maps of single pixels, so the whole objective fits in a few lines of numpy; optimisers are plain
gradient descent with rate 1, so a parameter moves by its gradient, which finite differences of those lines confirm.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cellxlate.settings import TrainSettings
from cellxlate.training.steps import Draw, LearnedStep, signed

SHAPE = (1, 1, 4, 6)
START = {
    "F_ST": (1.3, -0.1), "F_TS": (0.6, 0.15), "A_S": (3.0, -3.3), "A_T": (-2.5, -0.3), "D_T": (0.7, 0.4),
    "D_S": (-0.5, 0.2),
}  # fmt: skip
"""Slope and offset of each network; attention lies on both sides of tau."""


class Affine(nn.Module):
    """slope * x + offset, as a generator, an attention network or a discriminator."""

    def __init__(self, name: str) -> None:
        super().__init__()
        slope, offset = START[name]
        self.slope = nn.Parameter(torch.tensor(slope, dtype=torch.float64))
        self.offset = nn.Parameter(torch.tensor(offset, dtype=torch.float64))
        self.normalised: list[bool] = []

    def forward(self, images: Tensor, normalised: bool | None = None) -> Tensor:
        if normalised is not None:
            self.normalised.append(normalised)
        return self.slope * images + self.offset

    def logits(self, images: Tensor) -> Tensor:
        return self.slope * images + self.offset

    @property
    def values(self) -> tuple[float, float]:
        return float(self.slope.detach()), float(self.offset.detach())


class Pair(nn.Module):
    def __init__(self, generator: str, attention: str) -> None:
        super().__init__()
        self.generator, self.attention = Affine(generator), Affine(attention)


def affine_step(settings: TrainSettings) -> LearnedStep:
    """The step under test with affine networks and gradient descent of rate 1."""
    step = LearnedStep(settings, torch.device("cpu"))
    step.translator, step.backward = Pair("F_ST", "A_S"), Pair("F_TS", "A_T")
    step.judge_target, step.judge_source = Affine("D_T"), Affine("D_S")
    parts = {
        "generators": [step.translator.generator, step.backward.generator],
        "attentions": [step.translator.attention, step.backward.attention],
        "judges": [step.judge_target, step.judge_source],
    }
    step.optimisers = {
        name: torch.optim.SGD([value for network in networks for value in network.parameters()], lr=1.0)
        for name, networks in parts.items()
    }
    return step


def networks_of(step: LearnedStep) -> dict[str, Affine]:
    return {
        "F_ST": step.translator.generator, "A_S": step.translator.attention, "F_TS": step.backward.generator,
        "A_T": step.backward.attention, "D_T": step.judge_target, "D_S": step.judge_source,
    }  # fmt: skip


class Numbers:
    """The paper's objective in numpy, for parameters p and images s, t (method section 2 and 3)."""

    def __init__(self, s: np.ndarray, t: np.ndarray, **case) -> None:
        self.s, self.t = s, t
        self.case = {"masked": False, "gated": False, "ones": False, "guide": None, "composed": None, **case}

    def attention(self, p, name, x):
        if self.case["ones"]:
            return np.ones_like(x)
        slope, offset = p[name]
        return 1 / (1 + np.exp(-(slope * x + offset)))

    def translate(self, p, generator, attention, x):
        a = self.attention(p, attention, x) if self.case["composed"] is None else self.case["composed"]
        if self.case["gated"]:
            a = np.clip((a - 0.1) / 0.9, 0, 1)
        slope, offset = p[generator]
        return a * (slope * x + offset) + (1 - a) * x

    def mask(self, attention, x):
        # a binary mask is constant: it belongs to the parameters before the step
        if not self.case["masked"]:
            return np.ones_like(x)
        if self.case["composed"] is not None:
            return self.case["composed"]
        return (self.attention(START, attention, x) > 0.1).astype(float)

    def seen(self, images, mask):
        return (2 * images - 1) * mask  # in [-1, 1], zeros where masked

    def direction(self, p, x, f, a, f_back, a_back, d):
        made = self.translate(p, f, a, x)
        restored = self.translate(p, f_back, a_back, made)
        slope, offset = p[d]
        scores = slope * self.seen(made, self.mask(a, x)) + offset
        return np.mean((scores - 1) ** 2), np.mean(np.abs((2 * restored - 1) - (2 * x - 1)))

    def total(self, p):
        adversarial_s, cycle_s = self.direction(p, self.s, "F_ST", "A_S", "F_TS", "A_T", "D_T")
        adversarial_t, cycle_t = self.direction(p, self.t, "F_TS", "A_T", "F_ST", "A_S", "D_S")
        value = adversarial_s + adversarial_t + 10 * (cycle_s + cycle_t)
        if self.case["guide"] is not None:
            for name, x in (("A_S", self.s), ("A_T", self.t)):
                a, g = self.attention(p, name, x), self.case["guide"]
                value -= np.mean(g * np.log(a) + (1 - g) * np.log(1 - a))
        return value

    def judges(self, p):
        made_t = self.translate(START, "F_ST", "A_S", self.s)
        made_s = self.translate(START, "F_TS", "A_T", self.t)
        value = 0.0
        for d, real, real_mask, made, made_mask in (
            ("D_T", self.t, self.mask("A_T", self.t), made_t, self.mask("A_S", self.s)),
            ("D_S", self.s, self.mask("A_S", self.s), made_s, self.mask("A_T", self.t)),
        ):
            slope, offset = p[d]
            value += 0.5 * np.mean((slope * self.seen(real, real_mask) + offset - 1) ** 2)
            value += 0.5 * np.mean((slope * self.seen(made, made_mask) + offset) ** 2)
        return value


def slopes(function, names) -> dict[str, np.ndarray]:
    """Central differences of a function of the parameters."""
    found = {}
    for name in names:
        gradient = []
        for place in (0, 1):
            ends = []
            for sign in (1, -1):
                values = list(START[name])
                values[place] += sign * 1e-6
                ends.append(function({**START, name: tuple(values)}))
            gradient.append((ends[0] - ends[1]) / 2e-6)
        found[name] = np.array(gradient)
    return found


@pytest.fixture(scope="module")
def draws() -> tuple[Draw, Draw]:
    rng = np.random.default_rng(4)
    s, t = (torch.from_numpy(rng.uniform(-0.2, 1.3, SHAPE)) for _ in range(2))
    none = torch.full(SHAPE, -1.0, dtype=torch.float64)
    return Draw(s, none), Draw(t, none)


GUIDE = np.arange(24).reshape(SHAPE) % 2.0

CASES = {
    "epochs 0 to 29": ({}, False, {}),
    "from epoch 30": ({}, True, {"masked": True}),
    "guided, before the switch": ({"guide": "saliency"}, False, {"masked": True, "guide": GUIDE}),
    "guide in the loop": (
        {"guide": "masks", "guide_in_loop": True},
        False,
        {"masked": True, "guide": GUIDE, "composed": GUIDE},
    ),
    "guide in the loop, from epoch 30": (
        {"guide": "masks", "guide_in_loop": True},
        True,
        {"masked": True, "composed": GUIDE},
    ),
    "guide in the loop, of images without one": ({"guide_in_loop": True}, True, {"masked": True}),
    "gate in the loop": ({"gate_in_loop": True}, True, {"masked": True, "gated": True}),
    "gate in the loop, before the switch": ({"gate_in_loop": True}, False, {}),
    "cyclegan": ({"baseline": "cyclegan"}, False, {"ones": True}),
    "cyclegan from epoch 30": ({"baseline": "cyclegan"}, True, {"ones": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_terms_and_gradients_are_those_of_the_paper(case, draws, tiny_paper):
    options, switched, what = CASES[case]
    settings = replace(tiny_paper, **options)
    source, target = draws
    if options.get("guide"):
        guide = torch.from_numpy(GUIDE)
        source, target = Draw(source.images, guide), Draw(target.images, guide)
    numbers = Numbers(source.images.numpy(), target.images.numpy(), **what)
    if numbers.case["masked"]:
        assert 0.2 < numbers.mask("A_S", numbers.s).mean() < 0.9
        assert 0.2 < numbers.mask("A_T", numbers.t).mean() < 0.9
    step = affine_step(settings)
    terms = step.run(source, target, switched=switched, rng=torch.Generator().manual_seed(0))

    assert float(terms["total"].detach()) == pytest.approx(numbers.total(START), abs=1e-12)
    judged = float((terms["judge_target"] + terms["judge_source"]).detach())
    assert judged == pytest.approx(numbers.judges(START), abs=1e-12)

    frozen = switched or "cyclegan" in case
    moved = {name: np.subtract(START[name], network.values) for name, network in networks_of(step).items()}
    for name, slope in slopes(numbers.total, ["F_ST", "F_TS", "A_S", "A_T"]).items():
        if name.startswith("A") and frozen:
            assert not moved[name].any()  # attention is frozen from epoch 30 on (C)
        else:
            assert moved[name] == pytest.approx(slope, abs=1e-7)
            assert np.abs(slope).max() > 1e-3
    for name, slope in slopes(numbers.judges, ["D_T", "D_S"]).items():
        assert moved[name] == pytest.approx(slope, abs=1e-7)


@pytest.mark.parametrize(
    ("case", "normalised"),
    [("epochs 0 to 29", True), ("from epoch 30", False), ("guided, before the switch", False), ("cyclegan", True),
     ("cyclegan from epoch 30", True)],
)  # fmt: skip
def test_masked_discriminators_do_not_normalise(case, normalised, draws, tiny_paper):
    # (C): the zeros of a masked input would bias the statistics
    options, switched, _ = CASES[case]
    step = affine_step(replace(tiny_paper, **options))
    step.run(*draws, switched=switched, rng=torch.Generator())
    assert step.judge_target.normalised == [normalised] * 3
    assert step.judge_source.normalised == [normalised] * 3


def test_an_image_without_a_guide_adds_no_guide_term(draws, tiny_paper):
    step = affine_step(replace(tiny_paper, guide="masks"))
    source, target = draws
    half = Draw(source.images, torch.from_numpy(GUIDE))
    terms = step.run(half, target, switched=False, rng=torch.Generator())
    numbers = Numbers(source.images.numpy(), target.images.numpy())
    a = numbers.attention(START, "A_S", numbers.s)
    expected = -np.mean(GUIDE * np.log(a) + (1 - GUIDE) * np.log(1 - a))
    assert float(terms["guide_source"].detach()) == pytest.approx(expected)
    assert float(terms["guide_target"].detach()) == 0


def test_discriminators_are_shown_older_pairs_with_their_own_masks(draws, tiny_paper):
    step = affine_step(tiny_paper)
    seen: list[tuple[Tensor, Tensor]] = []

    class OneOlderPair:
        def exchange(self, images, masks, rng):
            seen.append((images.detach().clone(), masks.detach().clone()))
            return torch.full(SHAPE, 0.9, dtype=torch.float64), torch.zeros(SHAPE, dtype=torch.float64)

    step.pools = {"target": OneOlderPair(), "source": OneOlderPair()}
    terms = step.run(*draws, switched=True, rng=torch.Generator())
    numbers = Numbers(draws[0].images.numpy(), draws[1].images.numpy(), masked=True)
    # the older image is masked by its own mask of zeros, not by the newer one
    slope, offset = START["D_T"]
    real = 0.5 * np.mean((slope * numbers.seen(numbers.t, numbers.mask("A_T", numbers.t)) + offset - 1) ** 2)
    assert float(terms["judge_target"].detach()) == pytest.approx(real + 0.5 * offset**2)
    # what is stored is the image with the mask of the source it came from
    assert seen[0][0].numpy() == pytest.approx(numbers.translate(START, "F_ST", "A_S", numbers.s))
    assert np.array_equal(seen[0][1].numpy(), numbers.mask("A_S", numbers.s))
    assert seen[1][0].numpy() == pytest.approx(numbers.translate(START, "F_TS", "A_T", numbers.t))
    assert np.array_equal(seen[1][1].numpy(), numbers.mask("A_T", numbers.t))


def test_unit_range_becomes_the_paper_s_range():
    assert signed(torch.tensor([0.0, 0.5, 1.0])).tolist() == [-1, 0, 1]


def test_the_optimiser_is_adam_with_the_paper_s_numbers(tiny_paper):
    step = LearnedStep(tiny_paper, torch.device("cpu"))
    for optimiser in step.optimisers.values():
        assert isinstance(optimiser, torch.optim.Adam)
        assert optimiser.param_groups[0]["lr"] == 1e-4
        assert optimiser.param_groups[0]["betas"][0] == 0.5
    optimised = sum(len(group["params"]) for one in step.optimisers.values() for group in one.param_groups)
    assert optimised == sum(len(list(module.parameters())) for module in step.modules.values())


# the CycleGAN baseline


def test_the_baseline_has_the_same_networks_with_attention_fixed_to_one(tiny_paper):
    torch.manual_seed(0)
    paper = LearnedStep(tiny_paper, torch.device("cpu"))
    torch.manual_seed(0)
    baseline = LearnedStep(replace(tiny_paper, baseline="cyclegan"), torch.device("cpu"))
    for name in ("translator", "backward"):
        one, other = (dict(step.modules[name].generator.state_dict()) for step in (paper, baseline))
        assert all(torch.equal(one[key], other[key]) for key in one)
    for name in ("judge_target", "judge_source"):
        one, other = (dict(step.modules[name].state_dict()) for step in (paper, baseline))
        assert all(torch.equal(one[key], other[key]) for key in one)
    image = torch.rand(2, 1, 32, 32) * 4 - 2
    with torch.no_grad():
        assert bool((baseline.translator.attention(image) == 1).all())


def test_the_baseline_s_attention_stays_one_while_it_trains(tiny_paper):
    torch.manual_seed(0)
    step = LearnedStep(replace(tiny_paper, baseline="cyclegan"), torch.device("cpu"))
    none = torch.full((1, 1, 32, 32), -1.0)
    before = [value.clone() for value in step.translator.generator.parameters()]
    for seed in range(3):
        torch.manual_seed(seed)
        step.run(Draw(torch.rand(1, 1, 32, 32), none), Draw(torch.rand(1, 1, 32, 32), none), switched=False,
                 rng=torch.Generator())  # fmt: skip
    with torch.no_grad():
        assert bool((step.translator.attention(torch.rand(1, 1, 32, 32)) == 1).all())
    assert not all(
        torch.equal(old, new) for old, new in zip(before, step.translator.generator.parameters(), strict=True)
    )
