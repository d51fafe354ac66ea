"""The paper's game without a guide, held from two collapses: attention must cover some of each image, not all.

A remedy that is not the paper's; it says how much is attended to, never where.
"""

from dataclasses import replace

from torch import Tensor

from cellxlate.model.networks import Discriminator, TranslatorNetworks
from cellxlate.training.steps import Draw, LearnedStep, _Direction, _Phase

LEAST, MOST, WEIGHT = 0.05, 0.5, 10.0


def area_hinge(attention: Tensor) -> Tensor:
    """Return by how much the mean of each attention map (B, 1, Y, X) lies outside of 0.05 to 0.5, averaged."""
    area = attention.mean(dim=(1, 2, 3))
    return ((LEAST - area).clamp(min=0) + (area - MOST).clamp(min=0)).mean()


class HingedStep(LearnedStep):
    """The paper's step with the hinge added in both directions while attention learns."""

    def _direction(
        self, forth: TranslatorNetworks, back: TranslatorNetworks, judge: Discriminator, real: Draw, phase: _Phase
    ) -> _Direction:
        """Do as the paper's; the term `cycle` holds the hinge, which is given apart too."""
        direction = super()._direction(forth, back, judge, real, phase)
        hinge = area_hinge(direction.attention)
        share = 0.0 if phase.frozen else WEIGHT / self.settings.lambda_cycle
        terms = direction.terms | {"cycle": direction.terms["cycle"] + share * hinge, "hinge": hinge}
        return replace(direction, terms=terms)
