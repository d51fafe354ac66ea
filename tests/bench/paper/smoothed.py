"""The paper's game without a guide, with the area hinge, whose discriminators hardly see noise while attention learns.

A remedy that is not the paper's: what tells faint from clear images best is noise, which is everywhere, so attention
goes to the background. Smoothed, noise is a seventh of what it was, and cells are nearly what they were. From the
switch on discriminators see attended regions alone, as they are. Without the hinge attention fell to nothing in 500
steps: what is left to tell the images by is worth less than what the cycle costs.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from cellxlate.settings import TrainSettings
from paper.hinge import HingedStep

SIGMA_PX, REACH_PX = 2.0, 6


def smoothed(images: Tensor) -> Tensor:
    """Return images (B, C, Y, X) after a Gaussian of 2 px, reflected at the border."""
    places = torch.arange(-REACH_PX, REACH_PX + 1, device=images.device, dtype=images.dtype)
    weights = torch.exp(-0.5 * (places / SIGMA_PX) ** 2)
    weights = weights / weights.sum()
    made = functional.pad(images, [REACH_PX] * 4, mode="reflect")
    for kernel in (weights[:, None], weights[None, :]):
        made = functional.conv2d(made, kernel.expand(images.shape[1], 1, *kernel.shape), groups=images.shape[1])
    return made


class SmoothedStep(HingedStep):
    """The hinged step, whose discriminators see whole images smoothed, and masked ones as they are."""

    def __init__(self, settings: TrainSettings, device: torch.device) -> None:
        super().__init__(settings, device)
        for judge in (self.judge_target, self.judge_source):
            judge.forward = smoothing(judge.forward)  # type: ignore[method-assign]


def smoothing(judge: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return what a discriminator says of smoothed images; those that are masked are not normalised, nor smoothed."""

    def forward(images: Tensor, *, normalised: bool) -> Tensor:
        return judge(smoothed(images) if normalised else images, normalised=normalised)

    return forward
