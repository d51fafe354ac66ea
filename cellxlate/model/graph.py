"""The nodes of an ONNX graph as layers write them; the package onnx is imported where the model is made of them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Graph:
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
        plain = values.detach().cpu().numpy() if hasattr(values, "detach") else values
        self.constants[name] = np.ascontiguousarray(plain, dtype)
        return name

    def cropped(self, features: str, margin_px: int) -> str:
        """Leave out a margin at every side."""
        if not margin_px:
            return features
        starts, ends, axes = (self.constant(values, np.int64) for values in ([margin_px] * 2, [-margin_px] * 2, [2, 3]))
        return self.add("Slice", features, starts, ends, axes)
