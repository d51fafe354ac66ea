"""Every knob and preset: frozen dataclasses, standard library only.

Sources: (P) Mejjati et al. 2018, arXiv 1806.02311; (C) the authors' released code; the rest are our own choices,
with their reasons in docs/decisions.
"""

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

Normalisation = Literal["instance", "none"]
Guide = Literal["none", "saliency", "masks"]
PresetName = Literal["fast", "paper", "paper-wide"]

THRESHOLD = 0.1
"""tau: attention at or below it keeps the pixel (P, section 3.2)."""


@dataclass(frozen=True)
class GeneratorSettings:
    """Shape of a generator.

    `resnet` is the network of Johnson et al. as the paper uses it: two stride-2 convolutions, residual blocks, two
    transposed convolutions, tanh. `compact` works at half resolution throughout, on 2 x 2 pixels as channels, without
    normalisation, and predicts a residual that is added to its input.
    """

    architecture: Literal["resnet", "compact"] = "resnet"
    width: int = 32
    blocks: int = 9
    normalisation: Normalisation = "instance"


@dataclass(frozen=True)
class AttentionSettings:
    """Shape of an attention network: two stride-2 convolutions, residual blocks, two nearest-neighbour upsamplings."""

    width: int = 32
    stem_kernel_px: int = 7
    blocks: int = 1
    last_width: int = 32
    last_kernel_px: int = 7
    normalisation: Normalisation = "instance"


@dataclass(frozen=True)
class DiscriminatorSettings:
    """Shape of a PatchGAN discriminator: `layers` stride-2 convolutions of 4 x 4, then two of stride 1."""

    width: int = 64
    layers: int = 3
    normalisation: Normalisation = "instance"


@dataclass(frozen=True)
class NetworkSettings:
    """The networks of a translator. `channels` is the number of image channels that are translated together."""

    generator: GeneratorSettings = field(default_factory=GeneratorSettings)
    attention: AttentionSettings = field(default_factory=AttentionSettings)
    discriminator: DiscriminatorSettings = field(default_factory=DiscriminatorSettings)
    channels: int = 1


@dataclass(frozen=True)
class ImagingSettings:
    """How the imaging process, which stands in for the backward generator, draws its blur and its noise."""

    blur_px: tuple[float, float] = (1.0, 2.2)
    exposure_jitter: float = 1.4


@dataclass(frozen=True)
class TrainSettings:
    """A training run. Weights multiply the terms of the objective; epochs count passes over the larger domain."""

    preset: PresetName = "fast"
    networks: NetworkSettings = field(default_factory=NetworkSettings)
    backward: Literal["learned", "imaging"] = "learned"
    baseline: Literal["none", "cyclegan"] = "none"
    guide: Guide = "none"
    epochs: int = 100
    steps: int | None = None
    switch_epoch: int = 30
    threshold: float = THRESHOLD
    batch: int = 1
    load_px: int | None = 286
    patch_px: int = 256
    learning_rate: float = 1e-4
    adam_beta1: float = 0.5
    decay_from: float = 0.5
    pool: int = 50
    lambda_cycle: float = 10.0
    lambda_adversarial: float = 1.0
    lambda_guide: float = 1.0
    ema: float = 0.0
    imaging: ImagingSettings = field(default_factory=ImagingSettings)
    seed: int = 0
    checkpoint_minutes: float = 2.0

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as nested plain values, as they are stored in a card."""
        return asdict(self)


_PAPER = TrainSettings(preset="paper")

_FAST = TrainSettings(
    preset="fast",
    networks=NetworkSettings(
        generator=GeneratorSettings(architecture="compact", width=28, blocks=5, normalisation="none"),
        attention=AttentionSettings(
            width=12, stem_kernel_px=5, blocks=1, last_width=8, last_kernel_px=3, normalisation="none"
        ),
        discriminator=DiscriminatorSettings(width=24, layers=2, normalisation="none"),
    ),
    backward="imaging",
    guide="saliency",
    epochs=60,
    switch_epoch=0,
    batch=4,
    load_px=None,
    patch_px=128,
    learning_rate=1e-3,
    adam_beta1=0.9,
    decay_from=0.3,
    lambda_adversarial=0.0,
    ema=0.995,
)

PRESETS: dict[PresetName, TrainSettings] = {
    "fast": _FAST,
    "paper": _PAPER,
    "paper-wide": replace(
        _PAPER,
        preset="paper-wide",
        networks=replace(_PAPER.networks, generator=GeneratorSettings(width=64)),
    ),
}


@dataclass(frozen=True)
class EnhanceSettings:
    """How a stack is enhanced.

    Attributes
    ----------
    threshold : float
        tau in [0, 1): attention at or below it keeps the pixel.
    intensity : {"source", "target"}
        Whether cells stay on the input's scale or move to the scale of the images the model was trained towards.
    tile_px : int or None
        Side of a tile's written core; None takes it from a memory budget.
    dense : bool
        Run the generator everywhere, also where nothing is selected. The pixels are the same.
    """

    threshold: float = THRESHOLD
    intensity: Literal["source", "target"] = "source"
    tile_px: int | None = None
    dense: bool = False
