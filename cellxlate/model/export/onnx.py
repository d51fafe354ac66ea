"""ONNX from the networks: written layer by layer, so that sides and batch stay free and no tracing guesses them."""

from typing import TYPE_CHECKING

import numpy as np

from cellxlate.errors import OptionError
from cellxlate.model.architecture import Network
from cellxlate.model.graph import Graph
from cellxlate.model.layers import margin_px, write

if TYPE_CHECKING:
    import onnx

    from cellxlate.model.networks import AttentionNetwork, Generator

OPSET = 17
IR_VERSION = 8


def onnx_model(network: "Network | Generator | AttentionNetwork", *, name: str) -> "onnx.ModelProto":
    """Return a network, as trained or as `inference.for_inference` makes it, as an ONNX model of opset 17.

    It has one input, `images` (batch, C, rows, columns) float32 in unit range, sides multiples of the stride; and one
    output, called `name` like the graph, float32 in unit range.

    Raises
    ------
    OptionError
        The package onnx is not installed, or a layer has no counterpart.
    """
    try:
        from onnx import TensorProto, checker, helper, numpy_helper
    except ImportError as fault:
        raise OptionError("ONNX needs the package onnx; pip install onnx") from fault
    inputs = network.inputs
    outputs = 1 if network.is_attention else network.channels
    graph = Graph(helper.make_node, inputs)
    graph.last("Identity", _body(graph, network, "images"), name)
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            name,
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", inputs, "rows", "columns"])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", outputs, "out_rows", "out_columns"])],
            [numpy_helper.from_array(values, key) for key, values in graph.constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="cellxlate",
    )
    checker.check_model(model, full_check=True)
    return model


def _body(graph: Graph, network: "Network | Generator | AttentionNetwork", images: str) -> str:
    """Add what the `forward` of a network does."""
    if network.is_attention:
        doubled = graph.add("Mul", images, graph.constant([2.0]))
        return graph.add("Sigmoid", write(network.layers, graph, graph.add("Sub", doubled, graph.constant([1.0]))))
    smaller_px = margin_px(network)
    if network.residual:
        change = write(network.layers, graph, images)
        return graph.add("Add", graph.cropped(_own(graph, network, images), smaller_px), change)
    half, one, two = (graph.constant([value]) for value in (0.5, 1.0, 2.0))
    shifted = graph.add("Sub", graph.add("Mul", images, two), one)
    reach: float = network.settings.reach  # type: ignore[union-attr]
    inside = graph.add("Clip", shifted, graph.constant(-reach), graph.constant(reach))
    if reach == 1:
        drawn = write(network.layers, graph, inside)
    else:
        scale = graph.constant([reach])
        drawn = graph.add("Mul", write(network.layers, graph, graph.add("Div", inside, scale)), scale)
    outcome = graph.add("Mul", graph.add("Add", drawn, one), half)
    excess = graph.add("Sub", images, graph.add("Mul", graph.add("Add", inside, one), half))
    return graph.add("Add", outcome, graph.cropped(_own(graph, network, excess), smaller_px))


def _own(graph: Graph, network: "Network | Generator | AttentionNetwork", images: str) -> str:
    """Take the channels' own planes out of those that are seen."""
    if network.inputs == network.channels:
        return images
    own = list(range(network.inputs))[network.own]
    return graph.add("Gather", images, graph.constant(own, np.int64), axis=1)
