"""The paper's game composed by the masks themselves, for a change of modality.

A deviation from the paper. Where attention is unsure, A F(s) + (1 - A) s leaves much of the source's own grey in what
is seen as a fluorescent nucleus: a discriminator tells it at once, and the generator draws as dark as it can against
it, until its tanh has no gradient. Here images of the training sets are composed by their masks, so that a cell is the
generator's alone; attention learns the masks beside that, and composes afterwards.
"""

import torch
from torch import Tensor

from cellxlate.model.networks import Discriminator, TranslatorNetworks
from cellxlate.training import losses
from cellxlate.training.steps import Draw, LearnedStep, _Direction, _Phase, signed


class MarkedStep(LearnedStep):
    """The paper's step, in which a guide (B, 1, Y, X), where an image has one, stands in for attention."""

    def _direction(
        self, forth: TranslatorNetworks, back: TranslatorNetworks, judge: Discriminator, real: Draw, phase: _Phase
    ) -> _Direction:
        logits, attention = self._attend(forth, real.images)
        guided = real.guides[:, 0, 0, 0] >= 0
        composing = composed_by(real.guides, attention, guided)
        images = self._compose(composing, forth.generator(real.images), real.images, phase)
        restored = self._compose(composing, back.generator(images), images, phase)
        mask = losses.binary_mask(composing, self.settings.threshold)
        terms = {
            "adversarial": losses.generated_as_real(judge(signed(images) * mask, normalised=False)),
            "cycle": losses.cycle(signed(restored), signed(real.images)),
            "guide": losses.follow_guide(logits[guided], real.guides[guided]),
        }
        return _Direction(real.images, images, mask, attention, terms)


def composed_by(guides: Tensor, attention: Tensor, guided: Tensor) -> Tensor:
    """Return the guides of images that have one, attention of the others, all (B, 1, Y, X)."""
    return torch.where(guided[:, None, None, None], guides, attention)
