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

Method = Literal["cyclegan", "none", "saliency", "masks", "marked", "hinge", "smoothed", "utom", "cut"]

EPOCHS, SWITCH_EPOCH = 100, 30
STEPS_PER_EPOCH = 64
"""Of batch 1: half a pass over the source images, of which there are 128; the paper's schedule in 6,400 steps."""

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


FULL = replace(
    SETTINGS,
    networks=replace(PRESETS["paper"].networks, generator=GeneratorSettings()),
    steps=EPOCHS * STEPS_PER_EPOCH // 5,
)
"""The networks of the preset `paper`, 2.9 million weights, on the same patches; room is in the levels here. A step
takes five times as long, so the schedule (switch, fall of the rate) is a fifth as long: 1,280 steps."""


@dataclass(frozen=True)
class Planned:
    """A run: a method on a data set of `data.py`, from a seed, with networks of a size."""

    method: Method
    seed: int
    data: str = "nuclei"
    size: Literal["small", "full"] = "small"

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.data}-{self.method}-{self.seed}" + ("" if self.size == "small" else f"-{self.size}")

    @property
    def settings(self) -> TrainSettings:
        """How it is trained."""
        chosen = SETTINGS if self.size == "small" else FULL
        chosen = replace(chosen, seed=self.seed)
        if self.method in ("none", "saliency", "masks"):
            return replace(chosen, guide=self.method)
        if self.method == "marked":
            return replace(chosen, guide="masks", guide_in_loop=True)
        if self.method in REMEDIES:
            return replace(chosen, guide="none")
        return replace(chosen, baseline="cyclegan", guide="none")


PAPER: tuple[Method, ...] = ("cyclegan", "none", "saliency", "masks")
REMEDIES: tuple[Method, ...] = ("hinge", "smoothed")
"""Of the game without a guide, whose attention goes to the background."""

OTHERS: tuple[Method, ...] = ("utom", "cut")
MODALITIES: tuple[Method, ...] = ("cyclegan", "marked", "masks", "none")
"""Without `saliency`, which looks for what is brighter than its surroundings."""

QUEUE = (
    *(Planned(method, 0) for method in PAPER),
    *(Planned(method, 1) for method in PAPER if method != "none"),
    *(Planned(method, 0, "phase") for method in MODALITIES[:3]),
    Planned("none", 1),
    Planned("saliency", 0, size="full"),
    *(Planned(method, 0) for method in OTHERS),
    *(Planned(method, 0, "holo") for method in MODALITIES[:3]),
    *(Planned(method, 1) for method in OTHERS),
    *(Planned(method, 1, "phase") for method in MODALITIES[:2]),
    *(Planned(method, seed) for seed in (0, 1) for method in REMEDIES),
    *(Planned(MODALITIES[3], 0, data) for data in ("phase", "holo")),
)
