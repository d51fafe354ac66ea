"""One step of training: the paper's game of two learned directions, or the imaging process as the backward one.

Names follow the paper: F_ST and F_TS are `forward` and `backward`, A_S and A_T their attention, D_T and D_S judge.
Images are (B, C, Y, X) in unit range, attention and guides (B, 1, Y, X).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from cellxlate.model.networks import Discriminator, TranslatorNetworks, attend_everywhere
from cellxlate.settings import TrainSettings, own_planes
from cellxlate.stacks.windows import mirrored
from cellxlate.training import losses
from cellxlate.training.imaging.cameras import by_any_camera, without_cells
from cellxlate.training.imaging.channels import ChannelProcesses
from cellxlate.training.imaging.process import ImagingProcess, grow_guide, texture_distance
from cellxlate.training.losses import HistoryPool

MAX_GRADIENT = 1.0
EMPTY_EVERY = 2
CELL_WEIGHT, DECISION, LEAN, GROWN = 1.5, 16.0, 0.25, (0.33, 0.12)
"""How a generalist's attention is taught. In dense and noisy fields it cannot be sure, and a gate of a half leaves
half of the noise: cells count 1.5 times, and logits are 16 times those of the probability, a quarter added to them,
so that it decides, and rather for cells. Outlines fade faster than a specialist's, since that widens them."""

ENDS_SHARE = 0.2
"""How often networks that see neighbours are shown a short stack, or one of its ends."""

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Draw:
    """Patches of one domain; `guides` is -1 throughout an image that has none."""

    images: Tensor
    guides: Tensor


class Step(Protocol):
    """What the loop needs of a game: its parts, to save and restore, and one move."""

    translator: TranslatorNetworks
    modules: dict[str, nn.Module]
    optimisers: dict[str, torch.optim.Optimizer]
    pools: dict[str, HistoryPool]

    def prepare(self, source: Draw, target: Draw, rng: torch.Generator) -> tuple[Draw, Draw]:
        """Do on the CPU what needs no network, beside the step before: what comes back is what `run` is given."""
        ...

    def run(self, source: Draw, target: Draw, *, switched: bool, rng: torch.Generator) -> dict[str, Tensor]:
        """Update all networks once and return the terms of the objective."""
        ...


def adam(parameters: Iterator[nn.Parameter], settings: TrainSettings) -> torch.optim.Optimizer:
    """Return Adam with the settings' rate and beta1."""
    return torch.optim.Adam(parameters, lr=settings.learning_rate, betas=(settings.adam_beta1, 0.999), fused=True)


def placed(network: Network, device: torch.device) -> Network:
    """Move a network to a device, channels last: on a CPU a step takes two thirds to three quarters of the time."""
    moved: Network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved


def move(optimisers: Iterable[torch.optim.Optimizer], loss: Tensor, clipped: Sequence[nn.Module] = ()) -> None:
    """Let optimisers take a step down the gradient of a loss, at most 1 long for each of the `clipped` networks."""
    for optimiser in optimisers:
        optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    for network in clipped:
        nn.utils.clip_grad_norm_(network.parameters(), MAX_GRADIENT)
    for optimiser in optimisers:
        optimiser.step()


class LearnedStep:
    """Both directions learned (sections 2 and 3 of the paper), with attention, guided attention, or none (CycleGAN)."""

    def __init__(self, settings: TrainSettings, device: torch.device) -> None:
        self.settings = settings
        networks = settings.networks
        self.own = own_planes(0, networks.beside)
        self.translator = placed(TranslatorNetworks(networks), device)
        self.backward = placed(TranslatorNetworks(networks), device)
        self.judge_target = placed(Discriminator(networks.discriminator, networks.channels), device)
        self.judge_source = placed(Discriminator(networks.discriminator, networks.channels), device)
        self.modules: dict[str, nn.Module] = {
            "translator": self.translator,
            "backward": self.backward,
            "judge_target": self.judge_target,
            "judge_source": self.judge_source,
        }
        generators = [*self.translator.generator.parameters(), *self.backward.generator.parameters()]
        attentions = [*self.translator.attention.parameters(), *self.backward.attention.parameters()]
        judges = [*self.judge_target.parameters(), *self.judge_source.parameters()]
        self.optimisers = {
            "generators": adam(iter(generators), settings),
            "attentions": adam(iter(attentions), settings),
            "judges": adam(iter(judges), settings),
        }
        self.pools = {"target": HistoryPool(settings.pool), "source": HistoryPool(settings.pool)}
        if settings.baseline == "cyclegan":
            attend_everywhere(self.translator.attention)
            attend_everywhere(self.backward.attention)

    def prepare(self, source: Draw, target: Draw, rng: torch.Generator) -> tuple[Draw, Draw]:  # noqa: ARG002
        """Return the patches as they are."""
        return source, target

    def run(self, source: Draw, target: Draw, *, switched: bool, rng: torch.Generator) -> dict[str, Tensor]:
        """Move generators and attention, then the discriminators (section 3 of the paper).

        Attention is frozen from the switch on, and discriminators whose input is masked do not normalise (C).
        """
        settings = self.settings
        attentive = settings.baseline == "none"
        phase = _Phase(
            masked=attentive and (switched or settings.guide != "none"),
            frozen=switched or not attentive,
            gated=attentive and switched and settings.gate_in_loop,
        )
        self._freeze(attention=phase.frozen, judges=True)
        there = self._direction(self.translator, self.backward, self.judge_target, source, phase)
        back = self._direction(self.backward, self.translator, self.judge_source, target, phase)
        total = settings.lambda_adversarial * (there.terms["adversarial"] + back.terms["adversarial"])
        total = total + settings.lambda_cycle * (there.terms["cycle"] + back.terms["cycle"])
        if not phase.frozen:
            total = total + settings.lambda_guide * (there.terms["guide"] + back.terms["guide"])
        learning = ["generators"] if phase.frozen else ["generators", "attentions"]
        move([self.optimisers[name] for name in learning], total)
        self._freeze(attention=phase.frozen, judges=False)
        judged = {
            "judge_target": self._judge("target", self.judge_target, real=back, made=there, phase=phase, rng=rng),
            "judge_source": self._judge("source", self.judge_source, real=there, made=back, phase=phase, rng=rng),
        }
        move([self.optimisers["judges"]], judged["judge_target"] + judged["judge_source"])
        terms = {f"{name}_source": value for name, value in there.terms.items()}
        terms |= {f"{name}_target": value for name, value in back.terms.items()}
        return terms | judged | {"total": total, "attention_area": there.attention.mean()}

    def _freeze(self, *, attention: bool, judges: bool) -> None:
        for translator in (self.translator, self.backward):
            translator.attention.requires_grad_(not attention)
        for judge in (self.judge_target, self.judge_source):
            judge.requires_grad_(not judges)

    def _attend(self, translator: TranslatorNetworks, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and attention (B, 1, Y, X); attention is 1 for the CycleGAN baseline."""
        if self.settings.baseline == "cyclegan":
            ones = torch.ones_like(images[:, :1])
            return ones, ones
        logits = translator.attention.logits(images)
        return logits, torch.sigmoid(logits)

    def _compose(self, attention: Tensor, proposal: Tensor, images: Tensor, phase: "_Phase") -> Tensor:
        """Return A F(s) + (1 - A) s (eq. 1), with the gate in place of A where the settings ask for it."""
        gate = losses.ramp(attention, self.settings.threshold) if phase.gated else attention
        return losses.compose(gate, proposal, images[:, self.own])

    def _guides_or(self, attention: Callable[[], Tensor], real: Draw) -> Tensor:
        """Return the guides of images that have one, where settings ask for it; else attention, computed then alone."""
        if not self.settings.guide_in_loop:
            return attention()
        guided = real.guides[:, :, :1, :1] >= 0
        return real.guides if guided.all() else torch.where(guided, real.guides, attention())

    def _direction(
        self, forth: TranslatorNetworks, back: TranslatorNetworks, judge: Discriminator, real: Draw, phase: "_Phase"
    ) -> "_Direction":
        """Translate to s', restore to s'' with attention predicted afresh on s', and score both (eq. 1 to 3)."""
        logits, attention = self._attend(forth, real.images)
        composing = self._guides_or(lambda: attention, real)
        images = self._compose(composing, forth.generator(real.images), real.images, phase)
        own, seen = real.images[:, self.own], with_beside(images, real.images)
        again = self._guides_or(lambda: self._attend(back, seen)[1], real)
        restored = self._compose(again, back.generator(seen), seen, phase)
        mask = losses.binary_mask(composing, self.settings.threshold) if phase.masked else torch.ones_like(attention)
        guided = real.guides[:, 0, 0, 0] >= 0
        terms = {
            "adversarial": losses.generated_as_real(judge(signed(images) * mask, normalised=not phase.masked)),
            "cycle": losses.cycle(signed(restored), signed(own)),
            "guide": losses.follow_guide(logits[guided], real.guides[guided]),
        }
        return _Direction(own, images, mask, attention, terms)

    def _judge(
        self,
        name: str,
        judge: Discriminator,
        *,
        real: "_Direction",
        made: "_Direction",
        phase: "_Phase",
        rng: torch.Generator,
    ) -> Tensor:
        """Return a discriminator's loss: real images under their own mask, made ones under that of their origin."""
        shown, mask = self.pools[name].exchange(made.images, made.mask, rng)
        return losses.real_from_generated(
            judge(signed(real.real) * real.mask, normalised=not phase.masked),
            judge(signed(shown) * mask, normalised=not phase.masked),
        )


def with_beside(made: Tensor, images: Tensor) -> Tensor:
    """Return what was made of the own channels (B, G, Y, X) with the others of the images (B, C, Y, X) beside it."""
    channels = made.shape[1]
    return made if images.shape[1] == channels else torch.cat([made, images[:, channels:]], dim=1)


def signed(images: Tensor) -> Tensor:
    """Map unit range to [-1, 1], in which the paper measures the cycle and masks what discriminators see (C)."""
    return 2 * images - 1


@dataclass(frozen=True)
class _Phase:
    """What the schedule says of a step: discriminators see masks, attention is frozen, the gate composes."""

    masked: bool
    frozen: bool
    gated: bool


@dataclass(frozen=True)
class _Direction:
    """What one direction made of real images, the mask a discriminator sees both through, attention, terms."""

    real: Tensor
    images: Tensor
    mask: Tensor
    attention: Tensor
    terms: dict[str, Tensor]


class ImagingStep:
    """The backward direction is the imaging process; the target cycle t -> F_TS(t) -> F_ST -> t teaches the generator.

    Half of the cycle loss is taken through the gate, as enhancing will. Attention learns the guide of clear targets on
    what the process made of them, and the guide of real source images, both grown; and to leave fields without cells
    alone. With a weight on the adversarial term, real source images are translated too, and a discriminator compares
    them with targets, both seen through their guides.
    """

    def __init__(
        self, settings: TrainSettings, process: ImagingProcess | ChannelProcesses, device: torch.device
    ) -> None:
        self.settings = settings
        networks = settings.networks
        self.process, self.own = process, own_planes(0, networks.beside)
        self.translator = placed(TranslatorNetworks(networks), device)
        self.judge_target = placed(Discriminator(networks.discriminator, networks.channels), device)
        self.modules: dict[str, nn.Module] = {"translator": self.translator, "judge_target": self.judge_target}
        self.optimisers = {
            "translator": adam(self.translator.parameters(), settings),
            "judges": adam(self.judge_target.parameters(), settings),
        }
        self.pools = {"target": HistoryPool(settings.pool if settings.lambda_adversarial else 0)}

    def prepare(self, source: Draw, target: Draw, rng: torch.Generator) -> tuple[Draw, Draw]:
        """Put what the process makes of the targets before the source's own patches, and a field without cells last."""
        with torch.no_grad():
            faint = self.process(target.images, rng)
            empty = self.process.without_cells(source.images[:1], rng)
        images = torch.cat([faint, source.images, empty])
        guides = torch.cat([target.guides, source.guides, torch.zeros_like(empty[:, :1])])
        return Draw(images, guides), Draw(target.images[:, self.own], target.guides)

    def run(self, source: Draw, target: Draw, *, switched: bool, rng: torch.Generator) -> dict[str, Tensor]:  # noqa: ARG002
        """Move the generator and attention, then the discriminator where its weight is not 0."""
        settings, translator = self.settings, self.translator
        count = len(target.images)
        faint, real = source.images[:count], Draw(source.images[count:-1], source.guides[count:-1])
        restored = translator.generator(faint)
        logits = translator.attention.logits(source.images)
        gate = losses.ramp(torch.sigmoid(logits[: len(faint)].detach()), settings.threshold)
        gated = losses.compose(gate, restored, faint[:, self.own])
        cells = torch.where(target.guides < 0, gate, target.guides)  # attention tells cells where no guide does
        guided = source.guides[:, 0, 0, 0] >= 0
        terms = {
            "cycle_target": 0.5 * losses.attended_cycle(restored, target.images, cells)
            + 0.5 * losses.attended_cycle(gated, target.images, cells),
            "guide": losses.follow_guide(logits[guided], grow_guide(source.guides[guided])),
        }
        total = settings.lambda_cycle * terms["cycle_target"] + settings.lambda_guide * terms["guide"]
        if settings.imaging.texture:
            terms["texture"] = texture_distance(gated, target.images, cells, rng)
            total = total + settings.imaging.texture * terms["texture"]
        if settings.lambda_adversarial:
            self.judge_target.requires_grad_(False)
            mask = (real.guides > 0).float()
            made = translator.generator(real.images)
            terms["adversarial"] = losses.generated_as_real(self.judge_target(made * mask, normalised=False))
            total = total + settings.lambda_adversarial * terms["adversarial"]
        move([self.optimisers["translator"]], total, [translator])
        if settings.lambda_adversarial:
            terms["judge_target"] = self._teach_judge(made, mask, target, rng)
        return terms | {"total": total, "attention_area": torch.sigmoid(logits[count:-1]).mean()}

    def _teach_judge(self, made: Tensor, mask: Tensor, target: Draw, rng: torch.Generator) -> Tensor:
        self.judge_target.requires_grad_(True)
        shown, shown_mask = self.pools["target"].exchange(made, mask, rng)
        real = target.images * (target.guides > 0).float()
        loss = losses.real_from_generated(
            self.judge_target(real, normalised=False), self.judge_target(shown * shown_mask, normalised=False)
        )
        move([self.optimisers["judges"]], loss)
        return loss


class AnyCameraStep:
    """The backward direction is the imaging process of any camera; the target cycle teaches generator and attention.

    Networks that see neighbours are given recordings of several planes, each with noise of its own. What has no weight
    is not computed. The generator sees a part of each patch, attention the whole: it needs more surroundings and costs
    less. A further recording for every second patch, of a field without cells, tells attention what noise alone looks
    like.
    """

    def __init__(self, settings: TrainSettings, device: torch.device) -> None:
        self.settings = settings
        self.translator = placed(TranslatorNetworks(settings.networks), device)
        self.modules: dict[str, nn.Module] = {"translator": self.translator}
        self.optimisers = {"translator": adam(self.translator.parameters(), settings)}
        self.pools: dict[str, HistoryPool] = {}

    def prepare(self, source: Draw, target: Draw, rng: torch.Generator) -> tuple[Draw, Draw]:  # noqa: ARG002
        """Return recordings of the targets, those without cells last, and what the others show without noise."""
        faint, clear = by_any_camera(target.images, rng)
        faint, clear = at_the_ends(faint, rng), clear[:, own_planes(self.settings.networks.context)]
        if not self.settings.lambda_guide:
            return Draw(faint, target.guides), Draw(clear, target.guides)
        empty = without_cells(torch.Size((max(len(faint) // EMPTY_EVERY, 1), *faint.shape[1:])), rng)
        recorded = Draw(torch.cat([faint, empty]), torch.cat([target.guides, torch.zeros_like(empty[:, :1])]))
        return recorded, Draw(clear, target.guides)

    def run(self, source: Draw, target: Draw, *, switched: bool, rng: torch.Generator) -> dict[str, Tensor]:  # noqa: ARG002
        """Move the generator and attention."""
        settings, translator = self.settings, self.translator
        faint = source.images[: len(target.images)]
        none = torch.zeros((), device=faint.device)
        terms, area = {"cycle_target": none, "guide": none}, none
        if settings.lambda_cycle:
            seen, aim, near = cut((faint, target.images, target.guides), settings.generalist.generator_px, rng)
            own = seen[:, own_planes(settings.networks.context)]
            restored = translator.generator(seen)
            terms["cycle_target"] = losses.relative_cycle(restored, aim, own, near)
            if settings.imaging.texture:  # a field without a guide counts everywhere
                terms["texture"] = texture_distance(restored, aim, (near != 0).to(aim.dtype), rng)
        if settings.lambda_guide:
            logits = translator.attention.logits(source.images)
            guided = source.guides[:, 0, 0, 0] >= 0
            terms["guide"] = losses.follow_guide(
                logits[guided] / DECISION - LEAN, grow_guide(source.guides[guided], GROWN), cell_weight=CELL_WEIGHT
            )
            area = torch.sigmoid(logits[: len(faint)]).mean()
        total = settings.lambda_cycle * terms["cycle_target"] + settings.lambda_guide * terms["guide"]
        total = total + settings.imaging.texture * terms.get("texture", none)
        move([self.optimisers["translator"]], total, [translator.generator, translator.attention])
        return terms | {"total": total, "attention_area": area}


def at_the_ends(planes: Tensor, rng: torch.Generator) -> Tensor:
    """Let some of the planes (B, C, Y, X) be those of a stack's ends, where neighbours are its mirror image."""
    seen = planes.shape[1]
    if seen == 1:
        return planes
    reach = seen // 2
    made = []
    for one in planes:
        if torch.rand((), generator=rng) < ENDS_SHARE:
            size = int(torch.randint(1, seen, (), generator=rng))  # planes that the stack has
            own = int(torch.randint(size, (), generator=rng))
            at = torch.from_numpy(mirrored(own - reach, own + reach + 1, size)) - own + reach
            one = one[at]
        made.append(one)
    return torch.stack(made)


def cut(images: tuple[Tensor, ...], side_px: int, rng: torch.Generator) -> tuple[Tensor, ...]:
    """Cut the same random square out of the same image of each batch (B, C, Y, X)."""
    count, _, rows, columns = images[0].shape
    tops = torch.randint(max(rows - side_px, 0) + 1, (count,), generator=rng).tolist()
    lefts = torch.randint(max(columns - side_px, 0) + 1, (count,), generator=rng).tolist()
    squares = [(slice(top, top + side_px), slice(left, left + side_px)) for top, left in zip(tops, lefts, strict=True)]
    return tuple(
        torch.stack([image[:, down, across] for image, (down, across) in zip(batch, squares, strict=True)])
        for batch in images
    )
