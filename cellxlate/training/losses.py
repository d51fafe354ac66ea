"""The objective: composition, cycle, least-squares adversarial terms, the guide, and the history pool.

References
----------
Mejjati et al. 2018, arXiv 1806.02311: composition eq. 1, cycle eq. 3, masked discriminator section 3.2.
Mao et al., Least squares generative adversarial networks, ICCV 2017, 10.1109/ICCV.2017.304.
Shrivastava et al., Learning from simulated and unsupervised images, CVPR 2017, 10.1109/CVPR.2017.241 (history pool).
"""

import functools

import torch
from torch import Tensor
from torch.nn import functional

EQUAL_AT = 0.1
"""The difference, in unit range, that the attended cycle counts as much as the plain one does."""

SCALE_SHARE = 0.03
GAIN_LIMITS = 0.6, 1.6
LEAST_VARIANCE = 1e-4


def compose(attention: Tensor, proposal: Tensor, images: Tensor) -> Tensor:
    """Return A F(s) + (1 - A) s (eq. 1); attention (B, 1, Y, X), the others (B, C, Y, X)."""
    return attention * proposal + (1 - attention) * images


def cycle(restored: Tensor, images: Tensor) -> Tensor:
    """Return mean |s'' - s| (eq. 3), a scalar in the range of the images."""
    return (restored - images).abs().mean()


def attended_cycle(restored: Tensor, images: Tensor, guide: Tensor, background: float = 0.05) -> Tensor:
    """Return the mean square of the cycle's difference, weighted by the guide grown by 2 px, little on the background.

    Used with the imaging process, which degrades the background too: what is restored there is never written. All but
    3 % of it is taken after the best gain and offset of each image: how much a blur of unknown width dims a cell cannot
    be told, and guessing it cost the generator 0.15 dB. The rest keeps the scale. Squares measured better
    than absolute values (docs/evidence/objective.md); divided by 0.1 they equal them at 0.1.
    """
    weight = background + (1 - background) * largest_within(guide, 2)
    fitted = (weight * (best_fit(restored, images, weight) - images) ** 2).mean()
    as_it_is = (weight * (restored - images) ** 2).mean()
    return ((1 - SCALE_SHARE) * fitted + SCALE_SHARE * as_it_is) / EQUAL_AT


LEAST_LEFT = 0.01
"""Of the noise's variance: what is left of it in fields without structure counts no further below this."""


def relative_cycle(restored: Tensor, clear: Tensor, faint: Tensor, guide: Tensor, background: float = 0.3) -> Tensor:
    """Return the mean logarithm, over images, of the mean square of what is left of the noise.

    A tenth less counts the same in every image, as it does in decibels: neither strong noise, of which more is left,
    nor weak noise, which hardly any can be taken from, decides alone. Pixels outside the guide, grown by 2 px, count
    less.

    Parameters
    ----------
    restored, clear, faint : Tensor (B, C, Y, X)
        The generator's output, what it should be, its input.
    guide : Tensor (B, 1, Y, X)
        1 in cells; -1 throughout an image that has none, which then counts everywhere.
    """
    inside = largest_within((guide != 0).to(restored.dtype), 2)
    weight = background + (1 - background) * inside
    noise = ((faint - clear) ** 2).mean(dim=(1, 2, 3)).clamp(min=LEAST_VARIANCE)
    left = (weight * (restored - clear) ** 2).mean(dim=(1, 2, 3))
    return torch.log(left + LEAST_LEFT * noise).mean()


def largest_within(maps: Tensor, reach_px: int) -> Tensor:
    """Return the largest value of maps (B, C, Y, X) within 1 or 2 px along rows and columns of each pixel.

    The same as `max_pool2d`, which takes ten times as long on a CPU. No gradient is meant to pass.
    """
    padded = functional.pad(maps, (reach_px,) * 4, value=-torch.inf)
    for axis in (-2, -1):
        size = maps.shape[axis]
        shifted = [padded.narrow(axis, first, size) for first in range(2 * reach_px + 1)]
        padded = functools.reduce(torch.maximum, shifted)
    return padded


def best_fit(restored: Tensor, images: Tensor, weight: Tensor) -> Tensor:
    """Bring each restored image to the gain and offset that fit best, in weighted least squares.

    Parameters
    ----------
    restored, images : Tensor (B, C, Y, X)
        In unit range.
    weight : Tensor (B, 1, Y, X)
        Positive.

    Returns
    -------
    Tensor (B, C, Y, X)
        No gradient passes through gain and offset: at their best the loss does not depend on them. The gain stays
        within 0.6 and 1.6, which an image without contrast would leave.
    """
    with torch.no_grad():
        share = weight / weight.sum(dim=(2, 3), keepdim=True)
        mean_restored, mean_image = ((share * plane).sum(dim=(2, 3), keepdim=True) for plane in (restored, images))
        centred = restored - mean_restored
        variance = (share * centred**2).sum(dim=(2, 3), keepdim=True)
        covariance = (share * centred * (images - mean_image)).sum(dim=(2, 3), keepdim=True)
        gain = (covariance / variance.clamp(min=LEAST_VARIANCE)).clamp(*GAIN_LIMITS)
    return gain * (restored - mean_restored) + mean_image


def generated_as_real(scores: Tensor) -> Tensor:
    """Return the generator's side of the least-squares game: mean (D(s') - 1)^2."""
    return ((scores - 1) ** 2).mean()


def real_from_generated(real_scores: Tensor, generated_scores: Tensor) -> Tensor:
    """Return the discriminator's side: half mean (D(t) - 1)^2 plus half mean D(s')^2."""
    return 0.5 * ((real_scores - 1) ** 2).mean() + 0.5 * (generated_scores**2).mean()


def binary_mask(attention: Tensor, threshold: float) -> Tensor:
    """Return 1[A > tau]; no gradient passes (section 3.2)."""
    return (attention.detach() > threshold).to(attention.dtype)


def ramp(attention: Tensor, threshold: float) -> Tensor:
    """Return the gate clip((A - tau) / (1 - tau), 0, 1) that enhancing uses, without its quantisation."""
    return ((attention - threshold) / (1 - threshold)).clamp(0, 1)


def follow_guide(logits: Tensor, guide: Tensor, *, cell_weight: float = 1.0) -> Tensor:
    """Return the cross-entropy of attention, before its sigmoid, with a guide in [0, 1], both (B, 1, Y, X).

    A pixel of a cell counts `cell_weight` times. Of an empty batch, where no image has a guide, it is 0.
    """
    if not len(logits):
        return logits.sum()
    weight = torch.tensor(cell_weight, device=logits.device)
    return functional.binary_cross_entropy_with_logits(logits, guide, pos_weight=weight)


class HistoryPool:
    """Generated images with their masks, of which half the time an older one is shown to the discriminator.

    It keeps `size` pairs; with 0 everything passes through.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.pairs: list[tuple[Tensor, Tensor]] = []

    def exchange(self, images: Tensor, masks: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Store pairs (B, C, Y, X), (B, 1, Y, X) and return as many, some of them older. Gradients are cut."""
        shown = []
        for pair in zip(images.detach(), masks.detach(), strict=True):
            if len(self.pairs) < self.size:
                self.pairs.append(pair)
                shown.append(pair)
            elif self.size and torch.rand((), generator=rng) > 0.5:
                position = int(torch.randint(self.size, (), generator=rng))
                shown.append(self.pairs[position])
                self.pairs[position] = pair
            else:
                shown.append(pair)
        return torch.stack([image for image, _ in shown]), torch.stack([mask for _, mask in shown])
