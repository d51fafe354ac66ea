"""The operators of a graph as plain values, and those that depend on nothing computed by the package onnx."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from cellxlate.model.foreign.limits import onnx_package
from cellxlate.model.foreign.reach.spread import UnfitError
from cellxlate.stacks.naming import one_line

MOST_VALUES = 65_536
"""Of an array that is computed to know the sizes of others."""

COMPUTED = frozenset((
    "Abs", "Add", "And", "Cast", "Ceil", "Concat", "ConstantOfShape", "Div", "Equal", "Expand", "Flatten", "Floor",
    "Gather", "Greater", "GreaterOrEqual", "Identity", "Less", "LessOrEqual", "Max", "Min", "Mod", "Mul", "Neg",
    "NonZero", "Not", "Or", "Pow", "Range", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "Reshape", "Round",
    "ScatterElements", "ScatterND", "Sign", "Slice", "Split", "Sqrt", "Squeeze", "Sub", "Tile", "Transpose", "Trilu",
    "Unsqueeze", "Where", "Xor",
))  # fmt: skip
"""Of which sizes are made in graphs."""


@dataclass(frozen=True)
class Node:
    """An operator of a graph.

    Attributes
    ----------
    kind, name : str
        What it does, and what it is called.
    inputs, outputs : tuple of str
        Empty where one is left out.
    attributes : mapping
        As plain values.
    opset : int
        The version of the operators.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    opset: int

    @property
    def words(self) -> str:
        """How it is called in a sentence."""
        plain = "".join(letter for letter in one_line(self.name) if letter.isprintable())
        return f"{self.kind} ({plain})" if plain else self.kind

    def number(self, name: str, default: int) -> int:
        """Return an attribute that is a whole number."""
        return int(self.attributes.get(name, default))

    def numbers(self, name: str, default: Sequence[int]) -> list[int]:
        """Return an attribute that is a list of whole numbers."""
        return [int(one) for one in self.attributes.get(name, default)]

    def text(self, name: str, default: str) -> str:
        """Return an attribute that is a text."""
        found = self.attributes.get(name, default)
        return found.decode("utf-8", "replace") if isinstance(found, bytes) else str(found)


def node_of(proto: Any, opset: int) -> Node:
    """Return an operator of a graph as values."""
    onnx = onnx_package()
    attributes = {one.name: onnx.helper.get_attribute_value(one) for one in proto.attribute}
    return Node(proto.op_type, proto.name, tuple(proto.input), tuple(proto.output), attributes, opset)


class Computer:
    """Computes operators that depend on nothing, where they are small; remembers what runs each."""

    def __init__(self) -> None:
        self._ready: dict[int, Callable[[list[Any]], list[Any]]] = {}

    def __call__(self, node: Node, values: Sequence[npt.NDArray[Any] | None]) -> list[npt.NDArray[Any]] | None:
        """Return what an operator makes of arrays; None where that is large, or it is none of those computed.

        Raises
        ------
        UnfitError
            It cannot be computed.
        """
        if node.kind not in COMPUTED or sum(one.size for one in values if one is not None) > MOST_VALUES:
            return None
        if _made_size(node, values) > MOST_VALUES:
            return None
        run = self._ready.get(id(node)) or self._ready.setdefault(id(node), _evaluator(node))
        try:
            with np.errstate(all="ignore"):
                made = run([one for one in values if one is not None])
        except Exception as fault:
            raise UnfitError(f"{node.words} cannot be computed") from fault
        return [np.asarray(one) for one in made]


def _made_size(node: Node, values: Sequence[npt.NDArray[Any] | None]) -> float:
    """Return at most how many numbers an operator makes."""
    known = [one for one in values if one is not None]
    if node.kind in ("ConstantOfShape", "Expand", "Tile"):
        asked = float(np.prod(np.maximum(np.abs(known[-1].astype(np.float64)), 1)))
        return asked * (1 if node.kind == "ConstantOfShape" else known[0].size)
    if node.kind == "Range":
        start, limit, delta = (float(one) for one in known)
        return abs(limit - start) / max(abs(delta), 1e-9)
    if node.kind == "Gather":
        return float(known[0].size * known[1].size)
    if node.kind in ("Concat", "Slice", "Split", "NonZero", "ScatterND", "ScatterElements", "Reshape"):
        return float(sum(one.size * max(one.ndim, 1) for one in known))
    try:
        return float(prod(np.broadcast_shapes(*(one.shape for one in known))))
    except ValueError:
        return float(max((one.size for one in known), default=0))


def _evaluator(node: Node) -> Callable[[list[Any]], list[Any]]:
    """Return the package's own definition of an operator."""
    onnx = onnx_package()
    from onnx.reference import ReferenceEvaluator

    names = [f"given_{number}" if name else "" for number, name in enumerate(node.inputs)]
    made = [f"made_{number}" for number, _ in enumerate(node.outputs)]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(node.kind, names, made, **node.attributes)], "one",
        [onnx.ValueInfoProto(name=name) for name in names if name], [onnx.ValueInfoProto(name=name) for name in made],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", node.opset)])
    evaluator = ReferenceEvaluator(model)
    wanted = [name for name in names if name]
    return lambda arrays: list(evaluator.run(None, dict(zip(wanted, arrays, strict=True))))
