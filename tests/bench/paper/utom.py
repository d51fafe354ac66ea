"""UTOM: CycleGAN whose translations keep the threshold mask of their input.

References
----------
X. Li et al., Unsupervised content-preserving transformation for optical microscopy, Light: Science & Applications 10
(2021) 44, 10.1038/s41377-021-00484-y: saliency constraint. How its weight falls follows the authors' released code:
10 exp(-2 p) after p passes over its images, which are thousands; here over `STEPS_PER_DECAY` steps, since the 128
images here would be passed over too soon.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from scipy import ndimage
from skimage.filters import threshold_otsu
from torch import Tensor, nn

from cellxlate.model.networks import Discriminator, TranslatorNetworks
from cellxlate.settings import TrainSettings
from cellxlate.stacks.intensity.range import SMOOTHING_PX
from cellxlate.training.fields.patches import Domain
from cellxlate.training.steps import Draw, LearnedStep, _Direction, _Phase

STEEPNESS = 100.0
"""Of the sigmoid that stands for a threshold, on [-1, 1]."""

FIRST_WEIGHT, STEPS_PER_DECAY = 10.0, 1280


def threshold_mask(images: Tensor, threshold: float, *, bright: bool = True) -> Tensor:
    """Return, softly, which pixels of images (B, C, Y, X) in unit range lie above a threshold, or below it."""
    above = torch.sigmoid(STEEPNESS * 2 * (images.mean(dim=1, keepdim=True) - threshold))
    return above if bright else 1 - above


def saliency_constraint(images: Tensor, made: Tensor, thresholds: tuple[float, float]) -> Tensor:
    """Return the mean absolute difference of the threshold masks of images and of what was made of them.

    Parameters
    ----------
    images, made : Tensor (B, C, Y, X)
        In unit range.
    thresholds : (float, float)
        Of the images' domain and of the one that `made` belongs to.
    """
    own, other = thresholds
    return (threshold_mask(images, own) - threshold_mask(made, other)).abs().mean()


def weight_after(steps: float) -> float:
    """Return the weight of the constraint after so many steps."""
    return FIRST_WEIGHT * float(np.exp(-2 * steps / STEPS_PER_DECAY))


def domain_threshold(domain: Domain) -> float:
    """Return the median over fields, smoothed by 2 px, of Otsu's threshold, in unit range."""
    planes = [field.unit(slice(None), slice(None)) for field in domain.fields]
    return float(np.median([threshold_otsu(ndimage.gaussian_filter(plane, SMOOTHING_PX)) for plane in planes]))


class StepCount(nn.Module):
    """How many steps were done; kept by a checkpoint as weights are."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("done", torch.zeros((), dtype=torch.float64))
        self.done: Tensor


class UtomStep(LearnedStep):
    """CycleGAN's step with the constraint added in both directions."""

    def __init__(self, settings: TrainSettings, device: torch.device, domains: Sequence[Domain]) -> None:
        super().__init__(settings, device)
        self.count = StepCount()
        self.modules["count"] = self.count
        self.thresholds = tuple(domain_threshold(domain) for domain in domains)

    def run(self, source: Draw, target: Draw, *, switched: bool, rng: torch.Generator) -> dict[str, Tensor]:
        """Move generators, then discriminators; the terms `cycle` hold the constraint, which is given apart too."""
        terms = super().run(source, target, switched=switched, rng=rng)
        self.count.done += 1
        return terms

    def _direction(
        self, forth: TranslatorNetworks, back: TranslatorNetworks, judge: Discriminator, real: Draw, phase: _Phase
    ) -> _Direction:
        direction = super()._direction(forth, back, judge, real, phase)
        own, other = self.thresholds if forth is self.translator else self.thresholds[::-1]
        constraint = saliency_constraint(real.images, direction.images, (own, other))
        share = weight_after(float(self.count.done)) / self.settings.lambda_cycle
        terms = direction.terms | {"cycle": direction.terms["cycle"] + share * constraint, "saliency": constraint}
        return replace(direction, terms=terms)
