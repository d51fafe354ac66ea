"""What is compared: the networks that all methods share, the schedule, and the runs in the order they are made in."""

from dataclasses import dataclass, replace
from typing import Literal

from cellxlate.settings import (
    PRESETS,
    AttentionSettings,
    DiscriminatorSettings,
    GeneratorSettings,
    NetworkSettings,
    TrainSettings,
)

Method = Literal["cyclegan", "none", "saliency", "masks", "utom", "cut"]

EPOCHS, SWITCH_EPOCH = 100, 30
STEPS_PER_EPOCH = 128
"""Of batch 1: a pass over the source images, of which there are 128."""

SMALL = NetworkSettings(
    generator=GeneratorSettings(width=16, blocks=6),
    attention=AttentionSettings(width=16, last_width=16),
    discriminator=DiscriminatorSettings(width=32),
)
"""The paper's networks, all with instance normalisation: half the width, 6 residual blocks in place of 9."""

SETTINGS = replace(
    PRESETS["paper"],
    networks=SMALL,
    epochs=EPOCHS,
    switch_epoch=SWITCH_EPOCH,
    steps=EPOCHS * STEPS_PER_EPOCH,
    patch_px=128,
    load_px=None,
    turns=True,
    learning_rate=2e-4,
)
"""The paper's schedule. Not the paper's: patches of 128 px in place of 256 and not enlarged, which would change blur
and noise; quarter turns; CycleGAN's rate of 2e-4 in place of 1e-4, for smaller networks."""


@dataclass(frozen=True)
class Planned:
    """A run: a method on a data set of `data.py`, from a seed."""

    method: Method
    seed: int
    data: str = "nuclei"

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.data}-{self.method}-{self.seed}"

    @property
    def settings(self) -> TrainSettings:
        """How it is trained."""
        if self.method in ("none", "saliency", "masks"):
            return replace(SETTINGS, guide=self.method, seed=self.seed)
        return replace(SETTINGS, baseline="cyclegan", guide="none", seed=self.seed)


PAPER: tuple[Method, ...] = ("cyclegan", "none", "saliency", "masks")
OTHERS: tuple[Method, ...] = ("utom", "cut")
QUEUE = tuple(Planned(method, seed) for methods in (PAPER, OTHERS) for seed in (0, 1) for method in methods)
