"""One step of training: the paper's game of two learned directions, or the imaging process as the backward one.

Names follow the paper: F_ST and F_TS are `forward` and `backward`, A_S and A_T their attention, D_T and D_S judge.
Images are (B, C, Y, X) in unit range, attention and guides (B, 1, Y, X).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from cellxlate.model.networks import Discriminator, Translator
from cellxlate.settings import TrainSettings
from cellxlate.training import losses
from cellxlate.training.imaging import ImagingProcess
from cellxlate.training.losses import HistoryPool

MAX_GRADIENT = 1.0


@dataclass(frozen=True)
class Draw:
    """The patches of one domain on the device; `guides` is -1 throughout an image that has none."""

    images: Tensor
    guides: Tensor


class Step(Protocol):
    """What the loop needs of a game: its parts, to save and restore, and one move."""

    translator: Translator
    modules: dict[str, nn.Module]
    optimisers: dict[str, torch.optim.Optimizer]
    pools: dict[str, HistoryPool]

    def run(self, source: Draw, target: Draw, *, switched: bool, rng: torch.Generator) -> dict[str, Tensor]:
        """Update all networks once and return the terms of the objective."""
        ...


def adam(parameters: Iterator[nn.Parameter], settings: TrainSettings) -> torch.optim.Optimizer:
    """Return Adam with the settings' rate and beta1."""
    return torch.optim.Adam(parameters, lr=settings.learning_rate, betas=(settings.adam_beta1, 0.999))


class LearnedStep:
    """Both directions learned (section 3 of the paper), with attention, guided attention, or none (CycleGAN)."""

    def __init__(self, settings: TrainSettings, device: torch.device) -> None:
        self.settings = settings
        networks = settings.networks
        self.translator = Translator(networks).to(device)
        self.backward = Translator(networks).to(device)
        self.judge_target = Discriminator(networks.discriminator, networks.channels).to(device)
        self.judge_source = Discriminator(networks.discriminator, networks.channels).to(device)
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

    def attend(self, translator: Translator, images: Tensor) -> Tensor:
        """Return attention (B, 1, Y, X); ones for the CycleGAN baseline."""
        if self.settings.baseline == "cyclegan":
            return torch.ones_like(images[:, :1])
        return translator.attention(images)  # type: ignore[no-any-return]

    def run(self, source: Draw, target: Draw, *, switched: bool, rng: torch.Generator) -> dict[str, Tensor]:
        """Move generators and attention, then the discriminators (algorithm of section 3.2)."""
        settings = self.settings
        masked = settings.baseline == "none" and (switched or settings.guide != "none")
        for judge in (self.judge_target, self.judge_source):
            judge.requires_grad_(False)
        there = self._direction(self.translator, self.backward, self.judge_target, source, masked)
        back = self._direction(self.backward, self.translator, self.judge_source, target, masked)
        terms = {f"{name}_source": value for name, value in there.terms.items()}
        terms |= {f"{name}_target": value for name, value in back.terms.items()}
        total = settings.lambda_adversarial * (there.terms["adversarial"] + back.terms["adversarial"])
        total = total + settings.lambda_cycle * (there.terms["cycle"] + back.terms["cycle"])
        frozen = switched or settings.baseline == "cyclegan"  # attention is frozen from the switch on (C)
        if not frozen:
            total = total + settings.lambda_guide * (there.terms["guide"] + back.terms["guide"])
        for optimiser in (self.optimisers["generators"], self.optimisers["attentions"]):
            optimiser.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        self.optimisers["generators"].step()
        if not frozen:
            self.optimisers["attentions"].step()

        for judge in (self.judge_target, self.judge_source):
            judge.requires_grad_(True)
        self.optimisers["judges"].zero_grad()
        real_source = losses.binary_mask(there.attention, settings.threshold) if masked else torch.ones_like(there.mask)
        real_target = losses.binary_mask(back.attention, settings.threshold) if masked else torch.ones_like(back.mask)
        for name, judge, real, real_mask, fake in (
            ("target", self.judge_target, target.images, real_target, there),
            ("source", self.judge_source, source.images, real_source, back),
        ):
            shown, shown_mask = self.pools[name].exchange(fake.images, fake.mask, rng)
            terms[f"judge_{name}"] = losses.real_from_generated(
                judge(real * real_mask, normalised=not masked), judge(shown * shown_mask, normalised=not masked)
            )
        (terms["judge_target"] + terms["judge_source"]).backward()  # type: ignore[no-untyped-call]
        self.optimisers["judges"].step()
        return terms | {"total": total, "attention_area": there.attention.mean()}

    def _direction(
        self, forth: Translator, back: Translator, judge: Discriminator, real: Draw, masked: bool
    ) -> "_Direction":
        """Translate, restore, and score one direction: s' = A F(s) + (1 - A) s, s'' likewise from s' (eq. 1, 3)."""
        attention = self.attend(forth, real.images)
        images = losses.compose(attention, forth.generator(real.images), real.images)
        restored = losses.compose(self.attend(back, images), back.generator(images), images)
        mask = losses.binary_mask(attention, self.settings.threshold) if masked else torch.ones_like(attention)
        guided = real.guides[:, 0, 0, 0] >= 0
        terms = {
            "adversarial": losses.generated_as_real(judge(images * mask, normalised=not masked)),
            "cycle": losses.cycle(restored, real.images),
            "guide": losses.follow_guide(forth.attention.logits(real.images[guided]), real.guides[guided])
            if guided.any() and self.settings.baseline == "none"
            else torch.zeros((), device=attention.device),
        }
        return _Direction(images, mask, attention, terms)


@dataclass(frozen=True)
class _Direction:
    """What one direction made: images with the mask a discriminator sees them through, attention, terms."""

    images: Tensor
    mask: Tensor
    attention: Tensor
    terms: dict[str, Tensor]


class ImagingStep:
    """The backward direction is the imaging process; the target cycle t -> F_TS(t) -> F_ST -> t teaches the generator.

    Attention learns the guide of clear targets on what the process made of them, and the guide of real source images.
    With a weight on the adversarial term, real source images are translated too, and a discriminator compares them with
    targets, both seen through their guides.
    """

    def __init__(self, settings: TrainSettings, process: ImagingProcess, device: torch.device) -> None:
        self.settings = settings
        networks = settings.networks
        self.process = process.to(device)
        self.translator = Translator(networks).to(device)
        self.judge_target = Discriminator(networks.discriminator, networks.channels).to(device)
        self.modules: dict[str, nn.Module] = {"translator": self.translator, "judge_target": self.judge_target}
        self.optimisers = {
            "translator": adam(self.translator.parameters(), settings),
            "judges": adam(self.judge_target.parameters(), settings),
        }
        self.pools = {"target": HistoryPool(settings.pool if settings.lambda_adversarial else 0)}

    def run(self, source: Draw, target: Draw, *, switched: bool, rng: torch.Generator) -> dict[str, Tensor]:  # noqa: ARG002
        """Move the generator and attention, then the discriminator where its weight is not 0."""
        settings, translator = self.settings, self.translator
        with torch.no_grad():
            faint = self.process(target.images, rng)
        restored = translator.generator(faint)
        both, guides = torch.cat([faint, source.images]), torch.cat([target.guides, source.guides])
        logits = translator.attention.logits(both)
        guided = guides[:, 0, 0, 0] >= 0
        terms = {
            "cycle_target": losses.attended_cycle(restored, target.images, target.guides.clamp(min=0)),
            "guide": losses.follow_guide(logits[guided], guides[guided]),
        }
        total = settings.lambda_cycle * terms["cycle_target"] + settings.lambda_guide * terms["guide"]
        if settings.lambda_adversarial:
            self.judge_target.requires_grad_(False)
            mask = (source.guides > 0).float()
            made = translator.generator(source.images)
            terms["adversarial"] = losses.generated_as_real(self.judge_target(made * mask, normalised=False))
            total = total + settings.lambda_adversarial * terms["adversarial"]
        self.optimisers["translator"].zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(translator.parameters(), MAX_GRADIENT)
        self.optimisers["translator"].step()
        if settings.lambda_adversarial:
            terms["judge_target"] = self._teach_judge(made, mask, target, rng)
        return terms | {"total": total, "attention_area": torch.sigmoid(logits[len(faint) :]).mean()}

    def _teach_judge(self, made: Tensor, mask: Tensor, target: Draw, rng: torch.Generator) -> Tensor:
        self.judge_target.requires_grad_(True)
        shown, shown_mask = self.pools["target"].exchange(made, mask, rng)
        real = target.images * (target.guides > 0).float()
        loss = losses.real_from_generated(
            self.judge_target(real, normalised=False), self.judge_target(shown * shown_mask, normalised=False)
        )
        self.optimisers["judges"].zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimisers["judges"].step()
        return loss
