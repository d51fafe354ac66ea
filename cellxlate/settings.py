"""Every knob and preset: frozen dataclasses, standard library only.

Sources: (P) Mejjati et al. 2018, arXiv 1806.02311; (C) the authors' released code; the rest are our own choices,
with their reasons in docs/decisions.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

Normalisation = Literal["instance", "none"]
Guide = Literal["none", "saliency", "masks"]
PresetName = Literal["fast", "paper", "paper-wide", "general", "context", "alone"]
Precision = Literal["float32", "bfloat16"]
Intensity = Literal["source", "target"]
Color = Literal["luminance", "separate"]
Along = Literal["auto", "none", "z", "t"]
"""Which neighbours of a plane networks see: those along an axis, none, or what is found to help a stack."""

FilterName = Literal["gaussian", "median", "tv", "nlm", "richardson-lucy"]
"""What may propose in place of a model (`enhancement/proposals/filters.py`), alone or with a value: "gaussian:1.5"."""

AUTO = "auto"
"""No model, but the wish for the shipped one that suits a stack (`cellxlate.choice`)."""

SALIENCY = "saliency"
"""No mask, but the wish for the automatic guide of training as the gate."""

ADAPT_S = 90.0
"""So long a model adapts to a stack unless it is told otherwise."""

BACKGROUND, CELL = 1, 2
"""What strokes paint: 1 is background, 2 and more are cells; 0 is not painted."""

MOST_CONTEXT = 4
"""Planes on either side that networks may see."""

MOST_BESIDE = 8
"""Channels that networks may see beside those that they change."""

MOST_ROOM = 8
"""Spans below black and above white that a tanh may draw."""

LEAST_LEARNED_PX = 64
"""Nothing is learned from images that are smaller."""

THRESHOLD = 0.1
"""tau: attention at or below it keeps the pixel (P, section 3.2)."""


@dataclass(frozen=True)
class GeneratorSettings:
    """Shape of a generator.

    `resnet` is the network of Johnson et al. as the paper uses it: two stride-2 convolutions, residual blocks, two
    transposed convolutions, tanh. `compact` works at half resolution throughout, on 2 x 2 pixels as channels, without
    normalisation, and predicts a residual that is added to its input. `unet` does the same over `levels` resolutions,
    the first of them half, with `blocks` residual blocks before and after each coarser one, and without biases: what it
    makes of an image scales with the image, so it carries over from one strength of noise to another (Mohan et al.,
    Robust and interpretable blind image denoising via bias-free convolutional neural networks, ICLR 2020).

    The tanh of a `resnet` can draw what lies between black and white, and `room` times that span below and above; what
    of an image lies beyond is carried through. Levels leave a tenth of an image below black, of phase contrast its dark
    halos, which so need room.
    """

    architecture: Literal["resnet", "compact", "unet"] = "resnet"
    width: int = 32
    blocks: int = 9
    normalisation: Normalisation = "instance"
    levels: int = 1
    room: float = 0.0

    @property
    def reach(self) -> float:
        """How far from 0 a tanh draws, where black is -1 and white is 1."""
        return 1 + 2 * self.room


@dataclass(frozen=True)
class AttentionSettings:
    """Shape of an attention network.

    `paper`: two stride-2 convolutions, residual blocks, two nearest-neighbour upsamplings. `pyramid`: a U-Net over
    `levels` resolutions, the first of them half, so that cells of any size are seen whole; of the other settings only
    `width` and `blocks` count.
    """

    width: int = 32
    stem_kernel_px: int = 7
    blocks: int = 1
    last_width: int = 32
    last_kernel_px: int = 7
    normalisation: Normalisation = "instance"
    architecture: Literal["paper", "pyramid"] = "paper"
    levels: int = 1


@dataclass(frozen=True)
class DiscriminatorSettings:
    """Shape of a PatchGAN discriminator: `layers` stride-2 convolutions of 4 x 4, then two of stride 1."""

    width: int = 64
    layers: int = 3
    normalisation: Normalisation = "instance"


@dataclass(frozen=True)
class NetworkSettings:
    """The networks of a translator.

    `channels` is the number of image channels that are translated together; of each, `context` planes on either side
    are seen too. `beside` further channels are seen at the same place, and never changed.
    """

    generator: GeneratorSettings = field(default_factory=GeneratorSettings)
    attention: AttentionSettings = field(default_factory=AttentionSettings)
    discriminator: DiscriminatorSettings = field(default_factory=DiscriminatorSettings)
    channels: int = 1
    context: int = 0
    beside: int = 0


def planes_seen(channels: int, context: int, beside: int = 0) -> int:
    """Return how many planes networks take: `context` on either side of each channel's own, then those `beside`."""
    return channels * (2 * context + 1) + beside


def own_planes(context: int, beside: int = 0) -> slice:
    """Return which of those planes are the channels' own."""
    return slice(context, -beside or None, 2 * context + 1)


@dataclass(frozen=True)
class ImagingSettings:
    """The imaging process, which stands in for the backward generator, and what is asked of the way back.

    Attributes
    ----------
    blur_px : (float, float) or None
        Smallest and largest sigma of the blur; None estimates them from the spectra of both domains.
    exposure_jitter : float
        The noise variance of a source field is multiplied by a factor between 1 / jitter and jitter.
    texture : float
        Weight of the distance between the patches of restored and clear cells: 0 asks for fidelity alone, more for
        sharper texture at some cost of it (docs/evidence/sharpness.md has the measured trade).
    """

    blur_px: tuple[float, float] | None = None
    exposure_jitter: float = 1.4
    texture: float = 0.0


@dataclass(frozen=True)
class GeneralistSettings:
    """What a generalist learns from, beside clear images.

    Attributes
    ----------
    drawn_fields : int
        Drawn structures (`stacks.samples.structures`) of 256 x 256 px that join the target.
    magnification : (float, float)
        Every window of a clear image is enlarged by a factor between these two, drawn evenly on a logarithmic scale.
    generator_px : int
        Side of the part of each patch that the generator learns on.
    source_fields : int
        Recordings of targets that stand for the source: they are watched, and described in the card.
    drawn_volumes : int
        Drawn structures of 9 planes, for networks that see neighbours.
    """

    drawn_fields: int = 600
    magnification: tuple[float, float] = (0.6, 3.0)
    generator_px: int = 112
    source_fields: int = 128
    drawn_volumes: int = 240


@dataclass(frozen=True)
class AloneSettings:
    """How a model learns from its source alone.

    Attributes
    ----------
    windows, window_px : int
        At most so many windows of the source are learned from, each at most so many pixels on a side.
    round_steps, round_windows : int
        After so many steps the next so many windows are learned from.
    turns : int
        What a window shows is taken from the mean over so many of its eight quarter turns and reflections.
    """

    windows: int = 16
    window_px: int = 512
    round_steps: int = 100
    round_windows: int = 4
    turns: int = 8


@dataclass(frozen=True)
class TrainSettings:
    """A training run. Weights multiply the terms of the objective; epochs count passes over the larger domain.

    Attributes
    ----------
    preset : str
        Which of `PRESETS` the rest comes from.
    networks : NetworkSettings
        Shapes of the networks.
    backward : {"learned", "imaging", "any-camera", "alone"}
        What F_TS is: a network, the imaging process of the source's microscope, or that of any camera, drawn anew for
        each image; the last needs no source images. "alone" needs no target: the noise of the source, put on what the
        model itself makes of it.
    baseline : {"none", "cyclegan"}
        "cyclegan" fixes attention to 1.
    guide : {"none", "saliency", "masks"}
        What attention is guided by.
    epochs, steps : int, int or None
        Length; steps win.
    switch_epoch : int
        From here on attention is frozen and discriminators see masked images (P, section 3.2: 30 of 100). With `steps`
        the epochs are stretched over the steps.
    gate_in_loop : bool
        From the switch on, compose with the gate that enhancing uses in place of attention itself (not in P).
    guide_in_loop : bool
        Compose images that have a guide by it while networks learn, not by attention (not in P): a cell is then the
        generator's alone, however unsure attention is. Attention learns the guide, and composes afterwards.
    threshold : float
        tau of the gate and of previews, in [0, 1).
    batch, patch_px : int
        Patches per step and domain, and their side.
    turns : bool
        Vary patches by quarter turns and flips, not by left-right flips alone (C).
    load_px : int or None
        Where given, windows are enlarged by load_px / patch_px (C: resized to 286, cropped to 256).
    learning_rate, adam_beta1, decay_from : float
        Of Adam; after the share `decay_from` of the run the rate falls linearly to 0.
    pool : int
        How many generated images discriminators see again.
    lambda_cycle, lambda_adversarial, lambda_guide : float
        Weights.
    ema : float
        Of the moving average of the weights that becomes the model; 0 takes the last weights (P).
    imaging, generalist, alone : ImagingSettings, GeneralistSettings, AloneSettings
        Of the ways back that need them.
    seed : int
        Of weights and draws.
    checkpoint_minutes : float
        Between checkpoints.
    mixed_precision : bool
        Networks in bfloat16 on CUDA, and on a CPU that multiplies in it and is found to be clearly faster with it.
    compile_networks : bool
        On CUDA alone: networks compiled by torch.
    """

    preset: PresetName = "fast"
    networks: NetworkSettings = field(default_factory=NetworkSettings)
    backward: Literal["learned", "imaging", "any-camera", "alone"] = "learned"
    baseline: Literal["none", "cyclegan"] = "none"
    guide: Guide = "none"
    epochs: int = 100
    steps: int | None = None
    switch_epoch: int = 30
    gate_in_loop: bool = False
    guide_in_loop: bool = False
    threshold: float = THRESHOLD
    batch: int = 1
    turns: bool = True
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
    generalist: GeneralistSettings = field(default_factory=GeneralistSettings)
    alone: AloneSettings = field(default_factory=AloneSettings)
    seed: int = 0
    checkpoint_minutes: float = 2.0
    mixed_precision: bool = True
    compile_networks: bool = False


_PAPER = TrainSettings(preset="paper", networks=NetworkSettings(generator=GeneratorSettings(room=1.0)), turns=False)

_FAST = TrainSettings(
    preset="fast",
    networks=NetworkSettings(
        generator=GeneratorSettings(architecture="compact", width=28, blocks=5, normalisation="none"),
        attention=AttentionSettings(width=12, stem_kernel_px=5, last_width=8, last_kernel_px=3, normalisation="none"),
        discriminator=DiscriminatorSettings(width=24, layers=2, normalisation="none"),
    ),
    backward="imaging",
    guide="saliency",
    steps=8000,
    switch_epoch=0,
    batch=4,
    load_px=None,
    patch_px=128,
    learning_rate=2e-3,
    adam_beta1=0.9,
    decay_from=0.3,
    lambda_adversarial=0.0,
    ema=0.995,
)

_GENERAL = replace(
    _FAST,
    preset="general",
    networks=replace(
        _FAST.networks,
        generator=GeneratorSettings(architecture="unet", width=40, blocks=2, normalisation="none", levels=3),
        attention=AttentionSettings(architecture="pyramid", width=16, normalisation="none", levels=5),
    ),
    backward="any-camera",
    steps=13_500,
    batch=10,
    patch_px=256,
    learning_rate=4e-4,
    decay_from=0.1,
    lambda_cycle=1.0,
    ema=0.999,
)

_CONTEXT = replace(
    _GENERAL,
    preset="context",
    networks=replace(_GENERAL.networks, context=2),
    steps=6000,
    patch_px=128,
    learning_rate=4e-4,
)
"""A model that sees the planes beside its own, from one that does not; attention is taught by a second run."""

_ALONE = replace(
    _GENERAL,
    preset="alone",
    backward="alone",
    guide="none",
    steps=300,
    batch=6,
    patch_px=128,
    learning_rate=2e-4,
    decay_from=0.3,
    ema=0.98,
    checkpoint_minutes=0.12,
)
"""Its networks are those of the model that it starts from."""

PRESETS: dict[PresetName, TrainSettings] = {
    "fast": _FAST,
    "general": _GENERAL,
    "paper": _PAPER,
    "paper-wide": replace(
        _PAPER,
        preset="paper-wide",
        networks=replace(_PAPER.networks, generator=replace(_PAPER.networks.generator, width=64)),
    ),
    "context": _CONTEXT,
    "alone": _ALONE,
}


@dataclass(frozen=True)
class EnhanceSettings:
    """How a stack is enhanced.

    Attributes
    ----------
    threshold : float
        tau in [0, 1]: attention at or below it keeps the pixel; with 1 nothing is selected.
    intensity : {"source", "target"}
        Whether cells stay on the input's scale or move to the scale of the images the model was trained towards.
    tile_px : int or None
        Side of a tile's written core; None takes it from a memory budget.
    dense : bool
        Run the generator everywhere, also where nothing is selected. The pixels are the same.
    context : {"auto", "none", "z", "t"}
        Along which axis networks see the planes beside each, where the model knows neighbours; "auto" takes what is
        found to help the stack.
    color : {"luminance", "separate"}
        Whether red, green and blue are enhanced by their luminance, which keeps their hue, or each by itself. Stacks of
        no colour, and those of which some samples are chosen, are enhanced channel by channel.
    """

    threshold: float = THRESHOLD
    intensity: Intensity = "source"
    tile_px: int | None = None
    dense: bool = False
    context: Along = "auto"
    color: Color = "luminance"
