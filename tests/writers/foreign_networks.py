"""Networks as others write them, as ONNX: node by node, as torch's exporter does, with weights from a seed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FREE = ("batch", 1, "rows", "columns")
Shape = Sequence[int | str | None]


class Net:
    """Nodes and weights of a graph; each method adds one and returns the name of what it makes."""

    def __init__(self, seed: int = 0) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.random = np.random.default_rng(seed)

    def add(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        made = [f"{kind}_{len(self.nodes)}_{number}" for number in range(outputs)]
        name = attributes.pop("name", f"/{kind}_{len(self.nodes)}")
        self.nodes.append(helper.make_node(kind, list(inputs), made, name=name, **attributes))
        return made[0]

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def ints(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def conv(self, image: str, given: int, made: int, kernel: int = 3, *, gain: float = 1.0, **attributes: Any) -> str:
        bound = gain / np.sqrt(given * kernel**2)
        weights = self.constant(self.random.uniform(-bound, bound, (made, given, kernel, kernel)))
        attributes.setdefault("pads", [kernel // 2] * 4)
        return self.add("Conv", image, weights, self.constant(self.random.uniform(-0.1, 0.1, made)), **attributes)

    def save(
        self, path: Path, image: str, *further: str, shape: Shape = FREE, made: Shape | None = None, opset: int = 17
    ) -> Path:
        outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, made or shape) for name in (image, *further)]
        graph = helper.make_graph(
            self.nodes, "net", [helper.make_tensor_value_info("given", TensorProto.FLOAT, shape)], outputs,
            self.constants,
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        onnx.checker.check_model(model)
        path.write_bytes(model.SerializeToString())
        return path


def unet(
    path: Path, *, levels: int = 3, norm: bool = False, reflect: bool = False, two: bool = False, grow: str = "deconv",
    shape: Shape = FREE,
) -> Path:  # fmt: skip
    """Write a U-Net of counts to counts, with a stride of 2 ** levels."""
    net, width = Net(), 3

    def block(image: str, given: int) -> str:
        if reflect:
            image = net.add("Pad", image, net.ints(0, 0, 1, 1, 0, 0, 1, 1), mode="reflect")
        made = net.conv(image, given, width, gain=2.0, pads=[0] * 4 if reflect else [1] * 4)
        if norm:
            ones = net.constant(np.ones(width))
            made = net.add("InstanceNormalization", made, ones, net.constant(np.zeros(width)))
        return net.add("LeakyRelu", made, alpha=0.1)

    image = net.add("Div", net.add("Sub", "given", net.constant(200.0)), net.constant(300.0))
    skips, channels = [], 1
    for _ in range(levels):
        skips.append(block(image, channels))
        image, channels = net.add("MaxPool", skips[-1], kernel_shape=[2, 2], strides=[2, 2]), width
    image = block(image, channels)
    for skip in reversed(skips):
        image = net.add("Concat", grown(net, image, skip, width, grow), skip, axis=1)
        image = block(image, 2 * width)
    change = net.add("Mul", net.conv(image, width, 1, 1, gain=3.0), net.constant(100.0))
    outputs = [net.add("Add", "given", change)]
    if two:
        outputs.append(net.add("Sigmoid", net.conv(image, width, 1, 1, gain=20.0)))
    return net.save(path, *outputs, shape=shape)


def grown(net: Net, image: str, skip: str, width: int, how: str) -> str:
    """Make an image twice as large: by a transposed convolution, or to the size of another, as torch writes that."""
    if how == "deconv":
        weights = net.constant(net.random.uniform(-0.5, 0.5, (width, width, 2, 2)))
        return net.add("ConvTranspose", image, weights, strides=[2, 2])
    if how == "aligned":
        scales = net.constant([1, 1, 2, 2])
        return net.add("Resize", image, "", scales, mode="linear", coordinate_transformation_mode="align_corners")
    sides = [net.add("Gather", net.add("Shape", skip), net.constant(axis, np.int64), axis=0) for axis in (2, 3)]
    one = [net.add("Unsqueeze", side, net.ints(0)) for side in sides]
    first = net.add("Slice", net.add("Shape", image), net.ints(0), net.ints(2), net.ints(0))
    sizes = net.add("Concat", first, net.add("Concat", *one, axis=0), axis=0)
    return net.add("Resize", image, "", "", sizes, mode="linear", coordinate_transformation_mode="half_pixel")
