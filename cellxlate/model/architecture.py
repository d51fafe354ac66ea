"""What networks are made of, as values: layers that hold arrays, and how settings become rows of them. No torch.

`networks` makes modules of torch of them, `export` an ONNX graph, `layers` knows their geometry.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from cellxlate.settings import AttentionSettings, GeneratorSettings, Normalisation, own_planes, planes_seen

Array = npt.NDArray[np.float32]
PaddingMode = Literal["zeros", "reflect"]
AnySettings = GeneratorSettings | AttentionSettings


def unfilled(*shape: int) -> Array:
    """Return weights that are not known yet: an array that takes no memory."""
    return np.broadcast_to(np.float32(0), shape)


class _Weighted:
    """What both kinds of convolution say of their weight."""

    weight: Array
    entering_axis: ClassVar[int] = 1

    @property
    def kernel_size(self) -> tuple[int, int]:
        """Of the kernel, in pixels."""
        return self.weight.shape[2], self.weight.shape[3]

    @property
    def in_channels(self) -> int:
        """Channels that enter."""
        return int(self.weight.shape[self.entering_axis])

    @property
    def out_channels(self) -> int:
        """Channels that leave."""
        return int(self.weight.shape[1 - self.entering_axis])


@dataclass(frozen=True, eq=False)
class Convolution(_Weighted):
    """A convolution, its parts called as torch calls them.

    `weight` is (outputs, inputs, kernel, kernel), `bias` (outputs,); stride and padding are in pixels along rows and
    columns, `padding_mode` says what is made up beyond the border.
    """

    weight: Array
    bias: Array | None
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    padding_mode: PaddingMode = "zeros"


@dataclass(frozen=True, eq=False)
class TransposedConvolution(_Weighted):
    """A transposed convolution; its weight is (inputs, outputs, kernel, kernel)."""

    entering_axis: ClassVar[int] = 0

    weight: Array
    bias: Array | None
    stride: tuple[int, int] = (2, 2)
    padding: tuple[int, int] = (1, 1)
    output_padding: tuple[int, int] = (1, 1)
    padding_mode: PaddingMode = "zeros"


@dataclass(frozen=True, eq=False)
class InstanceNormalisation:
    """Each channel of each image to mean 0 and variance 1, then scaled; of networks in training alone."""

    channels: int


@dataclass(frozen=True)
class Relu:
    """max(x, 0)."""


@dataclass(frozen=True)
class HyperbolicTangent:
    """tanh(x)."""


@dataclass(frozen=True)
class PixelsToChannels:
    """Pixels of 2 x 2 become channels."""

    downscale_factor: int = 2


@dataclass(frozen=True)
class ShuffledChannels:
    """Channels, ordered as (C, row, column), become pixels of 2 x 2."""

    upscale_factor: int = 2


@dataclass(frozen=True)
class OrderedChannels:
    """Channels, ordered as (row, column, C), become pixels of 2 x 2."""


@dataclass(frozen=True)
class Enlargement:
    """Twice the pixels along both sides."""

    mode: Literal["nearest", "bilinear"]
    scale_factor: int = 2


@dataclass(frozen=True, eq=False)
class Row:
    """Layers one after another."""

    layers: tuple["Layer", ...]

    def __iter__(self) -> Iterator["Layer"]:
        return iter(self.layers)


@dataclass(frozen=True, eq=False)
class Residual:
    """x + body(x); `is_cropped` where the body has no padding, so that its output is smaller by 2 px at every side."""

    body: Row
    is_cropped: bool = False


@dataclass(frozen=True, eq=False)
class UNetLevel:
    """One resolution of a U-Net: `after(before(x) + up(inside(down(before(x)))))`.

    In the order of the data along its longest way, which decides the receptive field.
    """

    before: Row
    down: Row
    inside: "Row | UNetLevel"
    up: Row
    after: Row


Layer = (
    Convolution | TransposedConvolution | InstanceNormalisation | Relu | HyperbolicTangent | PixelsToChannels
    | ShuffledChannels | OrderedChannels | Enlargement | Row | Residual | UNetLevel
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Network:
    """A generator or an attention network, as values.

    Attributes
    ----------
    settings : GeneratorSettings or AttentionSettings
        What it was made from, which tells the one from the other.
    layers : Row
        What it computes, between the fixed steps at its ends (`networks.Generator`, `networks.AttentionNetwork`).
    channels, context, beside : int
        G, the channels that are translated; planes seen on either side of each; further channels that are seen.
    """

    settings: AnySettings
    channels: int
    layers: Row
    context: int = 0
    beside: int = 0

    @property
    def inputs(self) -> int:
        """C of the images (B, C, Y, X): of each of the G its own plane amid its neighbours, then channels beside."""
        return planes_seen(self.channels, self.context, self.beside)

    @property
    def own(self) -> slice:
        """Which of them are the channels' own planes."""
        return own_planes(self.context, self.beside)

    @property
    def is_attention(self) -> bool:
        """Whether it is an attention network."""
        return isinstance(self.settings, AttentionSettings)

    @cached_property
    def residual(self) -> bool:
        """Whether its layers make the difference from the input, or all of the outcome, as those with tanh do."""
        return self.settings.architecture != "resnet"


def network_of(settings: AnySettings, channels: int, context: int = 0, beside: int = 0) -> Network:
    """Return a network whose weights are not known yet."""
    inputs = planes_seen(channels, context, beside)
    if isinstance(settings, AttentionSettings):
        rows = pyramid_layers if settings.architecture == "pyramid" else paper_attention_layers
        return Network(settings, channels, Row(tuple(rows(settings, inputs))), context, beside)
    build = {"resnet": resnet_layers, "compact": compact_layers, "unet": unet_layers}[settings.architecture]
    return Network(settings, channels, Row(tuple(build(settings, inputs, channels))), context, beside)


def resnet_layers(settings: GeneratorSettings, inputs: int, outputs: int) -> list[Layer]:
    """c7s1-w, c3s2-2w, c3s2-4w, residual blocks of 4w, two stride-2 transposed convolutions, c7s1, tanh (C)."""
    width, norm = settings.width, settings.normalisation
    layers: list[Layer] = [*convolution(inputs, width, 7, normalisation=norm, padding_mode="reflect"), Relu()]
    for wide in (width, 2 * width):
        layers += [*convolution(wide, 2 * wide, 3, stride=2, normalisation=norm), Relu()]
    layers += [residual(4 * width, norm, "reflect") for _ in range(settings.blocks)]
    for wide in (4 * width, 2 * width):
        layers.append(TransposedConvolution(unfilled(wide, wide // 2, 3, 3), unfilled(wide // 2)))
        if norm == "instance":
            layers.append(InstanceNormalisation(wide // 2))
        layers.append(Relu())
    last = convolution(width, outputs, 7, normalisation="none", padding_mode="reflect")
    return [*layers, *last, HyperbolicTangent()]


def compact_layers(settings: GeneratorSettings, inputs: int, outputs: int) -> list[Layer]:
    """2 x 2 pixels to channels, 3 x 3 convolution, residual blocks, 3 x 3 convolution, channels to 2 x 2 pixels."""
    width, norm = settings.width, settings.normalisation
    return [
        PixelsToChannels(),
        *convolution(4 * inputs, width, 3, normalisation=norm),
        Relu(),
        *(residual(width, norm) for _ in range(settings.blocks)),
        *convolution(width, 4 * outputs, 3),
        ShuffledChannels(),
    ]


def unet_layers(settings: GeneratorSettings, inputs: int, outputs: int) -> list[Layer]:
    """2 x 2 pixels to channels, 3 x 3 convolution, levels of w, 2w, 3w channels, 3 x 3, channels to 2 x 2 pixels."""
    width = settings.width
    widths = [width * (level + 1) for level in range(settings.levels)]
    return [
        PixelsToChannels(),
        *convolution(4 * inputs, width, 3, bias=False),
        unet_levels(widths, before=settings.blocks, after=settings.blocks, bias=False),
        *convolution(width, 4 * outputs, 3, bias=False),
        ShuffledChannels(),
    ]


def paper_attention_layers(settings: AttentionSettings, inputs: int) -> list[Layer]:
    """c7s2-w, c3s2-2w, residual blocks of 2w, twice nearest x 2 and a convolution, one more to 1 channel."""
    width, norm = settings.width, settings.normalisation
    return [
        *convolution(inputs, width, settings.stem_kernel_px, stride=2, normalisation=norm),
        Relu(),
        *convolution(width, 2 * width, 3, stride=2, normalisation=norm),
        Relu(),
        *(residual(2 * width, norm) for _ in range(settings.blocks)),
        Enlargement("nearest"),
        *convolution(2 * width, 2 * width, 3, normalisation=norm),
        Relu(),
        Enlargement("nearest"),
        *convolution(2 * width, settings.last_width, 3, normalisation=norm),
        Relu(),
        *convolution(settings.last_width, 1, settings.last_kernel_px),
    ]


def pyramid_layers(settings: AttentionSettings, inputs: int) -> list[Layer]:
    """2 x 2 pixels to channels, 3 x 3 convolution, resolutions of w, 1.5w, 2w ... channels, 3 x 3, 2 x 2 pixels."""
    width = settings.width
    widths = [width * (level + 2) // 2 for level in range(settings.levels)]
    return [
        PixelsToChannels(),
        *convolution(4 * inputs, width, 3),
        Relu(),
        unet_levels(widths, before=0, after=settings.blocks, bias=True),
        *convolution(width, 4, 3),
        ShuffledChannels(),
    ]


def convolution(
    inputs: int,
    outputs: int,
    kernel_px: int,
    *,
    stride: int = 1,
    normalisation: Normalisation = "none",
    padding_mode: PaddingMode = "zeros",
    bias: bool = True,
    padding_px: int | None = None,
) -> list[Layer]:
    """Return a convolution, centred by default, followed by instance normalisation where asked."""
    layer = Convolution(
        unfilled(outputs, inputs, kernel_px, kernel_px), unfilled(outputs) if bias else None, (stride,) * 2,
        (kernel_px // 2 if padding_px is None else padding_px,) * 2, padding_mode,
    )  # fmt: skip
    return [layer, InstanceNormalisation(outputs)] if normalisation == "instance" else [layer]


def residual(
    width: int, normalisation: Normalisation = "none", padding_mode: PaddingMode = "zeros", *, bias: bool = True
) -> Residual:
    """X + conv(relu(conv(x))), 3 x 3, with the normalisation that is asked for after each convolution."""
    first, second = (
        convolution(width, width, 3, normalisation=normalisation, padding_mode=padding_mode, bias=bias)
        for _ in range(2)
    )
    return Residual(Row((*first, Relu(), *second)))


def unet_levels(widths: list[int], *, before: int, after: int, bias: bool) -> UNetLevel:
    """Return one resolution of a U-Net: residual blocks, all coarser resolutions, residual blocks.

    Parameters
    ----------
    widths : list of int
        Channels of this resolution and of the coarser ones, each half of the one before.
    before, after : int
        Residual blocks before, and after, the coarser resolutions; the coarsest has as many as `after`.
    bias : bool
        Of all convolutions.

    Notes
    -----
    With blocks before the coarser resolutions, pixels become channels and channels pixels, which keeps detail. Without
    any, a ReLU follows each step to a coarser resolution, and steps back are bilinear, which leaves no blocks in a map.
    Nearly nothing is then computed at fine resolutions for the surroundings that only coarse ones look at
    (`inference.for_inference` crops what comes after).
    """
    width, coarser = widths[0], widths[1]
    down = convolution(width, coarser, 2, stride=2, padding_px=0, bias=bias)
    further = widths[1:]
    return UNetLevel(
        before=_residuals(width, before, bias=bias),
        down=Row((*down, *([] if before else [Relu()]))),
        inside=unet_levels(further, before=before, after=after, bias=bias)
        if len(further) > 1
        else _residuals(coarser, after, bias=bias),
        up=Row((*convolution(coarser, 4 * width, 1, bias=bias), ShuffledChannels()))
        if before
        else Row((*convolution(coarser, width, 1, bias=bias), Enlargement("bilinear"))),
        after=_residuals(width, after, bias=bias),
    )


def _residuals(width: int, blocks: int, *, bias: bool) -> Row:
    return Row(tuple(residual(width, bias=bias) for _ in range(blocks)))


# weights


def named_arrays(layer: Layer, prefix: str = "") -> Iterator[tuple[str, Array]]:
    """Yield the weights inside a layer by the names that torch gives them."""
    if isinstance(layer, Convolution | TransposedConvolution):
        yield f"{prefix}weight", layer.weight
        if layer.bias is not None:
            yield f"{prefix}bias", layer.bias
    for name, part in _parts(layer).items():
        yield from named_arrays(part, f"{prefix}{name}.")


def filled(layer: Layer, arrays: Mapping[str, Any], prefix: str = "") -> Any:
    """Return a layer with the weights that are called as `named_arrays` says.

    Raises
    ------
    KeyError, ValueError
        One is missing, or of another shape.
    """
    if isinstance(layer, Convolution | TransposedConvolution):
        own = {name: _fitting(f"{prefix}{name}", array, arrays) for name, array in named_arrays(layer)}
        return replace(layer, **own)
    parts = {name: filled(part, arrays, f"{prefix}{name}.") for name, part in _parts(layer).items()}
    if isinstance(layer, Row):
        return Row(tuple(parts.values()))
    return replace(layer, **parts)


def _parts(layer: Layer) -> dict[str, Any]:
    """Return the layers inside a layer, by name, in the order of the data."""
    if isinstance(layer, Row):
        return {str(number): part for number, part in enumerate(layer.layers)}
    if isinstance(layer, Residual):
        return {"body": layer.body}
    if isinstance(layer, UNetLevel):
        return {name: getattr(layer, name) for name in ("before", "down", "inside", "up", "after")}
    return {}


def _fitting(name: str, wanted: Array, arrays: Mapping[str, Any]) -> Any:
    if name not in arrays:
        raise KeyError(f"{name} is missing")
    if arrays[name].shape != wanted.shape:
        raise ValueError(f"{name} has the shape {arrays[name].shape}, expected {wanted.shape}")
    return arrays[name]
