"""ONNX from the networks: written layer by layer, so that sides and batch stay free and no tracing guesses them."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from cellxlate.errors import OptionError
from cellxlate.model.inference import ChannelsToPixels, CroppedBlock, margin_px
from cellxlate.model.networks import AttentionNetwork, Generator, Level, ResidualBlock

if TYPE_CHECKING:
    import onnx

OPSET = 17
IR_VERSION = 8
PROBE_SIDES_PX = (64, 128, 256, 512, 1024, 2048)


def onnx_model(network: Generator | AttentionNetwork, *, name: str) -> "onnx.ModelProto":
    """Return a network as an ONNX model.

    Parameters
    ----------
    network : Generator or AttentionNetwork
        As trained, or as `inference.for_inference` makes it.
    name : str
        Of the graph, and of its output.

    Returns
    -------
    ModelProto
        Opset 17. One input `images` (batch, C, rows, columns) float32 in unit range, sides multiples of the stride; one
        output, float32, in unit range.

    Raises
    ------
    OptionError
        The package onnx is not installed, or a layer has no counterpart.
    """
    try:
        from onnx import TensorProto, checker, helper, numpy_helper
    except ImportError as fault:
        raise OptionError("ONNX needs the package onnx; pip install onnx") from fault
    channels = next(layer for layer in network.modules() if isinstance(layer, nn.Conv2d)).in_channels
    channels //= 4 if isinstance(network.layers[0], nn.PixelUnshuffle) else 1
    outputs = 1 if isinstance(network, AttentionNetwork) else channels
    graph = _Graph(helper.make_node, channels)
    graph.last("Identity", _body(graph, network, "images"), name)
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            name,
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", channels, "rows", "columns"])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", outputs, "out_rows", "out_columns"])],
            [numpy_helper.from_array(values, key) for key, values in graph.constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="cellxlate",
    )
    checker.check_model(model, full_check=True)
    return model


@dataclass
class _Graph:
    """Nodes in the order of the data, and the constants they use."""

    make_node: Callable[..., Any]
    channels: int
    nodes: list[Any] = field(default_factory=list)
    constants: dict[str, Any] = field(default_factory=dict)

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append a node and return the name of its output."""
        made = f"{kind}_{len(self.nodes)}"
        self.nodes.append(self.make_node(kind, list(inputs), [made], **attributes))
        return made

    def last(self, kind: str, given: str, name: str) -> None:
        """Append the node whose output is the graph's."""
        self.nodes.append(self.make_node(kind, [given], [name]))

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        """Keep an array, or a tensor, and return its name."""
        name = f"constant_{len(self.constants)}"
        plain = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
        self.constants[name] = np.ascontiguousarray(plain, dtype)
        return name


def _body(graph: _Graph, network: Generator | AttentionNetwork, images: str) -> str:
    """Add what the `forward` of a network does."""
    if isinstance(network, AttentionNetwork):
        doubled = graph.add("Mul", images, graph.constant([2.0]))
        return graph.add("Sigmoid", _layers(graph, network.layers, graph.add("Sub", doubled, graph.constant([1.0]))))
    margin_px = _shrinks_by(network, graph.channels)
    if network.residual:
        change = _layers(graph, network.layers, images)
        return graph.add("Add", _cropped(graph, images, margin_px), change)
    half, one, two = (graph.constant([value]) for value in (0.5, 1.0, 2.0))
    shifted = graph.add("Sub", graph.add("Mul", images, two), one)
    inside = graph.add("Clip", shifted, graph.constant(-1.0), graph.constant(1.0))
    outcome = graph.add("Mul", graph.add("Add", _layers(graph, network.layers, inside), one), half)
    excess = graph.add("Sub", images, graph.add("Mul", graph.add("Add", inside, one), half))
    return graph.add("Add", outcome, _cropped(graph, excess, margin_px))


def _layers(graph: _Graph, layers: nn.Sequential, features: str) -> str:
    for layer in layers:
        features = _layer(graph, layer, features)
    return features


def _layer(graph: _Graph, layer: nn.Module, features: str) -> str:
    """Add one layer and return the name of its output."""
    if isinstance(layer, CroppedBlock):
        return graph.add("Add", _cropped(graph, features, 2), _layers(graph, layer.body, features))
    if isinstance(layer, ResidualBlock):
        return graph.add("Add", features, _layers(graph, layer.body, features))
    if isinstance(layer, Level):
        fine = _layers(graph, layer.before, features)
        coarse = _layers(graph, layer.up, _layer(graph, layer.inside, _layers(graph, layer.down, fine)))
        joined = graph.add("Add", _cropped(graph, fine, 2 * margin_px(layer.inside)), coarse)
        return _layers(graph, layer.after, joined)
    if isinstance(layer, nn.Sequential):
        return _layers(graph, layer, features)
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        return _convolution(graph, layer, features)
    if isinstance(layer, nn.ReLU | nn.Tanh):
        return graph.add("Relu" if isinstance(layer, nn.ReLU) else "Tanh", features)
    if isinstance(layer, ChannelsToPixels):
        return graph.add("DepthToSpace", features, blocksize=2, mode="DCR")
    if isinstance(layer, nn.PixelShuffle):
        return graph.add("DepthToSpace", features, blocksize=layer.upscale_factor, mode="CRD")
    if isinstance(layer, nn.PixelUnshuffle):
        return _unshuffled(graph, layer.downscale_factor, graph.channels, features)
    if isinstance(layer, nn.Upsample):
        factor = float(layer.scale_factor)  # type: ignore[arg-type]
        if layer.mode == "bilinear":
            return graph.add(
                "Resize", features, "", graph.constant([1.0, 1.0, factor, factor]), mode="linear",
                coordinate_transformation_mode="half_pixel",
            )  # fmt: skip
        return graph.add(
            "Resize", features, "", graph.constant([1.0, 1.0, factor, factor]), mode="nearest",
            coordinate_transformation_mode="asymmetric", nearest_mode="floor",
        )  # fmt: skip
    raise OptionError(f"the layer {type(layer).__name__} has no counterpart in ONNX; fold the statistics first")


def _convolution(graph: _Graph, layer: nn.Conv2d | nn.ConvTranspose2d, features: str) -> str:
    pads = [int(side) for side in layer.padding] * 2
    if layer.padding_mode == "reflect":
        full = [0, 0, *pads[:2], 0, 0, *pads[2:]]
        features, pads = graph.add("Pad", features, graph.constant(full, np.int64), mode="reflect"), [0, 0, 0, 0]
    given = [features, graph.constant(layer.weight)]
    if layer.bias is not None:
        given.append(graph.constant(layer.bias))
    shape = {"kernel_shape": list(layer.kernel_size), "strides": list(layer.stride), "pads": pads}
    if isinstance(layer, nn.ConvTranspose2d):
        return graph.add("ConvTranspose", *given, **shape, output_padding=list(layer.output_padding))
    return graph.add("Conv", *given, **shape)


def _unshuffled(graph: _Graph, factor: int, channels: int, features: str) -> str:
    """Pixels to channels. ONNX orders the channels by the place in the block first, torch by the image channel."""
    moved = graph.add("SpaceToDepth", features, blocksize=factor)
    if channels == 1:
        return moved
    order = np.arange(channels * factor**2).reshape(factor**2, channels).T.ravel()
    return graph.add("Gather", moved, graph.constant(order, np.int64), axis=1)


def _cropped(graph: _Graph, features: str, margin_px: int) -> str:
    """Leave out a margin at every side."""
    if not margin_px:
        return features
    starts, ends, axes = (graph.constant(values, np.int64) for values in ([margin_px] * 2, [-margin_px] * 2, [2, 3]))
    return graph.add("Slice", features, starts, ends, axes)


@torch.inference_mode()
def _shrinks_by(network: nn.Module, channels: int) -> int:
    """Return by how many pixels the output is smaller than the input, at every side, as the least input tells."""
    for side_px in PROBE_SIDES_PX[:-1]:
        with suppress(RuntimeError):  # nothing would be left
            return _margin_px(network, channels, side_px)
    return _margin_px(network, channels, PROBE_SIDES_PX[-1])


def _margin_px(network: nn.Module, channels: int, side_px: int) -> int:
    side: int = network(torch.zeros(1, channels, side_px, side_px)).shape[-1]
    return (side_px - side) // 2
