"""What is known of each kind of layer, in one table, and what follows from it for whole networks. No torch.

`KINDS` has an entry for every class of layer that networks are made of (`architecture`), and `blocks` adds the modules
of torch that do the same, which have attributes of the same names. A new layer is a class in both and an entry here:
receptive field, cost, folding and ONNX export then know it. Two things stand elsewhere, since they change rows of
layers and not one: fusing neighbours (`inference`, `training.acceleration`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import lcm, prod
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np

from cellxlate.errors import OptionError
from cellxlate.model import architecture
from cellxlate.model.graph import Graph
from cellxlate.settings import NetworkSettings

if TYPE_CHECKING:
    from torch import nn

AnyLayer: TypeAlias = "architecture.Layer | architecture.Network | nn.Module"
"""A layer or a network, as values or as a module of torch."""

PROBE_SIDE_PX = 1 << 16
"""A side that any network can take, as margins are computed on it."""


@dataclass(frozen=True)
class Window:
    """Which inputs an output of a layer sees, along one axis; by itself: the one at the same place.

    Attributes
    ----------
    kernel_px, padding_px : int
        Inputs that an output sees, and how many beyond the border are made up.
    step : int
        How many inputs lie between neighbouring outputs.
    enlarges : bool
        The same backwards, as in a transposed convolution: `kernel_px` outputs see an input, and `step` outputs lie
        between neighbouring inputs.
    more_px : int
        Outputs that are added at the end.
    """

    kernel_px: int = 1
    step: int = 1
    padding_px: int = 0
    enlarges: bool = False
    more_px: int = 0

    def reach(self, first: int, last: int) -> tuple[int, int]:
        """Return the interval of inputs that the outputs first..last depend on."""
        if self.enlarges:
            start = first + self.padding_px - self.kernel_px + 1
            return -(-start // self.step), (last + self.padding_px) // self.step
        return first * self.step - self.padding_px, last * self.step - self.padding_px + self.kernel_px - 1

    def spacing(self, before: int) -> int:
        """Return the distance between neighbouring outputs, from that between inputs."""
        return before // self.step if self.enlarges else before * self.step

    def side_px(self, side_px: int) -> int:
        """Return the side of the output from the side of the input."""
        if self.enlarges:
            return (side_px - 1) * self.step - 2 * self.padding_px + self.kernel_px + self.more_px
        return (side_px + 2 * self.padding_px - self.kernel_px) // self.step + 1


@dataclass(frozen=True)
class Cost:
    """What a layer takes.

    Attributes
    ----------
    inputs, outputs : int
        Values per pixel that are kept, of what enters and of what leaves; 0 where it works in place.
    products : int
        Multiply-adds per pixel of the coarser side.
    """

    inputs: int = 0
    outputs: int = 0
    products: int = 0


@dataclass(frozen=True)
class Kind:
    """What is known of one kind of layer; functions take the layer first.

    Attributes
    ----------
    window : callable
        Returns the `Window` of a layer without parts.
    parts : callable or None
        Returns the layers inside, in the order of the data along its longest way, which decides the receptive field.
    cost : callable
        Returns the `Cost` of a layer without parts.
    output_axis : int or None
        The axis of its `weight` that counts output channels: the fixed normalisation after it is folded into its weight
        and its `bias`. None: it takes none.
    write : callable or None
        (layer, graph, features) -> name of the output in the ONNX graph. None: it has no counterpart.
    """

    window: Callable[[Any], Window] = lambda _: Window()
    parts: Callable[[Any], list[Any]] | None = None
    cost: Callable[[Any], Cost] = lambda _: Cost()
    output_axis: int | None = None
    write: Callable[[Any, Graph, str], str] | None = None


def kind_of(layer: AnyLayer) -> Kind:
    """Return what is known of a layer.

    Raises
    ------
    OptionError
        Nothing: its class has no entry.
    """
    try:
        return KINDS[type(layer)]
    except KeyError:
        raise OptionError(
            f"nothing is known of the layer {type(layer).__name__}; give it an entry in cellxlate.model.layers.KINDS"
        ) from None


def leaves(network: AnyLayer) -> list[Any]:
    """Return the layers without parts of a network (of all in its `layers`) or of a layer, in the order of the data."""
    layer = network if isinstance(network, architecture.Row) else getattr(network, "layers", network)
    parts = kind_of(layer).parts
    return [layer] if parts is None else [leaf for part in parts(layer) for leaf in leaves(part)]


# geometry


@dataclass(frozen=True)
class ReceptiveField:
    """How far the input of an output pixel reaches, at most, and the period of the network in pixels."""

    halo_px: int
    stride: int


def receptive_field(network: AnyLayer) -> ReceptiveField:
    """Compute the receptive field of a network whose output has the size of its input.

    For each phase of an output pixel, the interval of inputs that reach it is followed backwards through the layers.
    """
    stride = coarsening(network)
    windows = [kind_of(layer).window(layer) for layer in leaves(network)]
    halo = 0
    for phase in range(stride):
        first = last = phase
        for window in reversed(windows):
            first, last = window.reach(first, last)
        halo = max(halo, phase - first, last - phase)
    return ReceptiveField(halo_px=halo, stride=stride)


def spacings(network: AnyLayer) -> Iterator[tuple[Any, int, int]]:
    """Yield each layer with the distance, in input pixels, between neighbours before it and after it."""
    spacing = 1
    for layer in leaves(network):
        before, spacing = spacing, kind_of(layer).window(layer).spacing(spacing)
        yield layer, before, spacing


def coarsening(network: AnyLayer) -> int:
    """Return how many pixels on a side become one where the network is coarsest."""
    return max((spacing for _, _, spacing in spacings(network)), default=1)


def margin_px(*layers: AnyLayer) -> int:
    """Return by how many pixels, at every side, the output of layers in a row is smaller than their input."""
    side = PROBE_SIDE_PX
    for layer in layers:
        for leaf in leaves(layer):
            side = kind_of(leaf).window(leaf).side_px(side)
    return (PROBE_SIDE_PX - side) // 2


@dataclass(frozen=True, eq=False)
class Described:
    """The generator and the attention network of one direction as values: all that is known of them without torch.

    Attributes
    ----------
    settings : NetworkSettings
        What they were made from.
    generator, attention : Network
        Folded, with their weights.
    """

    settings: NetworkSettings
    generator: architecture.Network
    attention: architecture.Network

    @property
    def channels(self) -> int:
        """That are translated together."""
        return self.settings.channels

    @property
    def inputs(self) -> int:
        """Planes that both take."""
        return self.generator.inputs

    @cached_property
    def stride(self) -> int:
        """Tile origins must be multiples of it, in pixels."""
        return lcm(*(receptive_field(network).stride for network in (self.generator, self.attention)))

    @cached_property
    def generator_halo_px(self) -> int:
        """How far around a pixel the input matters for its proposal."""
        return receptive_field(self.generator).halo_px

    @cached_property
    def attention_halo_px(self) -> int:
        """How far around a pixel the input matters for its attention."""
        return receptive_field(self.attention).halo_px


# cost


def parameter_count(network: AnyLayer) -> int:
    """Return the number of trained numbers in a network."""
    if isinstance(network, architecture.Network):
        return sum(array.size for _, array in architecture.named_arrays(network.layers))
    return sum(int(parameter.numel()) for parameter in cast(Any, network).parameters())


def activation_bytes_per_px(network: AnyLayer) -> float:
    """Return the bytes per input pixel that the widest layer holds: its input, its output, and a second one kept."""
    widest = 0.0
    for layer, before, after in spacings(network):
        cost = kind_of(layer).cost(layer)
        widest = max(widest, cost.inputs / before**2 + 2 * cost.outputs / after**2)
    return 4 * widest


def operations_per_px(network: AnyLayer) -> float:
    """Return the multiply-adds times two (FLOP) that a network's layers spend per input pixel."""
    return sum(
        2 * kind_of(layer).cost(layer).products / max(before, after) ** 2 for layer, before, after in spacings(network)
    )


# export


def write(layer: AnyLayer, graph: Graph, features: str) -> str:
    """Add a layer to a graph and return the name of its output.

    Raises
    ------
    OptionError
        It, or a layer inside, has no counterpart in ONNX.
    """
    writes = kind_of(layer).write
    if writes is None:
        raise OptionError(f"the layer {type(layer).__name__} has no counterpart in ONNX; fold the statistics first")
    return writes(layer, graph, features)


def _node(kind: str, **attributes: Any) -> Callable[[Any, Graph, str], str]:
    """Return what writes a layer that is one node without constants."""
    return lambda _, graph, features: graph.add(kind, features, **attributes)


def _write_row(layers: Any, graph: Graph, features: str) -> str:
    for layer in layers:
        features = write(layer, graph, features)
    return features


def _write_block(block: Any, graph: Graph, features: str) -> str:
    inside = graph.cropped(features, margin_px(block.body))
    return graph.add("Add", inside, write(block.body, graph, features))


def _write_level(level: Any, graph: Graph, features: str) -> str:
    fine = write(level.before, graph, features)
    coarse = write(level.up, graph, write(level.inside, graph, write(level.down, graph, fine)))
    inside = graph.cropped(fine, margin_px(level.down, level.inside, level.up))
    return write(level.after, graph, graph.add("Add", inside, coarse))


def _write_convolution(layer: Any, graph: Graph, features: str) -> str:
    pads = [int(side) for side in layer.padding] * 2
    if layer.padding_mode == "reflect":
        full = [0, 0, *pads[:2], 0, 0, *pads[2:]]
        features, pads = graph.add("Pad", features, graph.constant(full, np.int64), mode="reflect"), [0, 0, 0, 0]
    shape = {"kernel_shape": list(layer.kernel_size), "strides": list(layer.stride), "pads": pads}
    return graph.add("Conv", features, *_weights(layer, graph), **shape)


def _write_transposed(layer: Any, graph: Graph, features: str) -> str:
    pads = [int(side) for side in layer.padding] * 2
    shape = {"kernel_shape": list(layer.kernel_size), "strides": list(layer.stride), "pads": pads}
    return graph.add(
        "ConvTranspose", features, *_weights(layer, graph), **shape, output_padding=list(layer.output_padding)
    )


def _weights(layer: Any, graph: Graph) -> list[str]:
    """Keep the weight and the bias of a layer as constants, and return their names."""
    return [graph.constant(values) for values in (layer.weight, layer.bias) if values is not None]


def _write_unshuffle(layer: Any, graph: Graph, features: str) -> str:
    """Pixels to channels, one image channel after the other: ONNX would order them by the place in the block first.

    A Gather that puts them in order is not computed as it should by OpenVINO 2026.4.
    """
    factor = layer.downscale_factor
    if graph.channels == 1:
        return graph.add("SpaceToDepth", features, blocksize=factor)
    axis = graph.constant([1], np.int64)
    bounds = [graph.constant([at], np.int64) for at in range(graph.channels + 1)]
    planes = (graph.add("Slice", features, *ends, axis) for ends in pairwise(bounds))
    return graph.add("Concat", *[graph.add("SpaceToDepth", plane, blocksize=factor) for plane in planes], axis=1)


def _write_shuffle(layer: Any, graph: Graph, features: str) -> str:
    return graph.add("DepthToSpace", features, blocksize=layer.upscale_factor, mode="CRD")


def _write_upsample(layer: Any, graph: Graph, features: str) -> str:
    factor = float(layer.scale_factor)
    how = (
        {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
        if layer.mode == "bilinear"
        else {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    )
    return graph.add("Resize", features, "", graph.constant([1.0, 1.0, factor, factor]), **how)


# the table


def _convolution_window(layer: Any) -> Window:
    return Window(layer.kernel_size[0], layer.stride[0], int(layer.padding[0]))


def _transposed_window(layer: Any) -> Window:
    padding, more = int(layer.padding[0]), layer.output_padding[0]
    return Window(layer.kernel_size[0], layer.stride[0], padding, enlarges=True, more_px=more)


def _convolution_cost(layer: Any) -> Cost:
    return Cost(layer.in_channels, layer.out_channels, prod(layer.weight.shape))


def _enlarging(factor: int) -> Window:
    """Each input becomes so many outputs."""
    return Window(factor, factor, enlarges=True)


def _upsample_window(layer: Any) -> Window:
    factor = int(layer.scale_factor)
    if layer.mode == "bilinear":  # between the two pixels whose centres are nearest
        half = factor // 2
        return Window(factor + 2 * half, factor, half, enlarges=True)
    return _enlarging(factor)


KINDS: dict[type[Any], Kind] = {
    architecture.Row: Kind(parts=list, write=_write_row),
    architecture.Residual: Kind(parts=lambda block: [block.body], write=_write_block),
    architecture.UNetLevel: Kind(
        parts=lambda one: [one.before, one.down, one.inside, one.up, one.after], write=_write_level
    ),
    architecture.Convolution: Kind(
        _convolution_window, cost=_convolution_cost, output_axis=0, write=_write_convolution
    ),
    architecture.TransposedConvolution: Kind(
        _transposed_window, cost=_convolution_cost, output_axis=1, write=_write_transposed
    ),
    architecture.InstanceNormalisation: Kind(),  # once its statistics are fixed
    architecture.Relu: Kind(write=_node("Relu")),
    architecture.HyperbolicTangent: Kind(write=_node("Tanh")),
    architecture.PixelsToChannels: Kind(
        lambda one: Window(one.downscale_factor, one.downscale_factor), write=_write_unshuffle
    ),
    architecture.ShuffledChannels: Kind(lambda layer: _enlarging(layer.upscale_factor), write=_write_shuffle),
    architecture.OrderedChannels: Kind(lambda _: _enlarging(2), write=_node("DepthToSpace", blocksize=2, mode="DCR")),
    architecture.Enlargement: Kind(_upsample_window, write=_write_upsample),
}
