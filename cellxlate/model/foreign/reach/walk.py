"""One walk through a graph at given sizes: how far each number of its outputs looks along one axis of its input."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import lcm, prod
from typing import Any

import numpy as np
import numpy.typing as npt

from cellxlate.model.foreign.limits import onnx_package
from cellxlate.model.foreign.reach.nodes import Computer, Node, node_of
from cellxlate.model.foreign.reach.operators import NORMALISED, PLACE_BY_PLACE, RULES, kept_places
from cellxlate.model.foreign.reach.spread import MOST_CELLS, Dependence, UnfitError, UnknownOperatorError

LARGEST_CONSTANT = 20_000_000
"""Numbers of a constant that is looked into, to see whether it is the same at each place."""
LONGEST_LOOK_S = 60.0
LARGEST_MADE = 50_000_000
"""Numbers of a constant that a graph makes of others."""
ALIGNED = frozenset((*PLACE_BY_PLACE, "Concat", "PRelu", "Gemm"))
"""Operators whose constants belong to the places where they lie."""


class UnknownHereError(Exception):
    """An operator is met of which it is not known how far it looks."""

    def __init__(self, node: Node, why: str) -> None:
        super().__init__(why)
        self.node, self.why = node, why


@dataclass(frozen=True)
class Walked:
    """What a walk has found.

    Attributes
    ----------
    made : mapping of str to Dependence
        Each array of the graph that its outputs are made of.
    bytes_at_once : int
        Memory of the arrays that are needed at the same time, at most.
    placed : tuple of str
        What adds numbers that belong to places of the window and not to what is there.
    """

    made: Mapping[str, Dependence]
    bytes_at_once: int
    placed: tuple[str, ...]

    @property
    def stride(self) -> int:
        """At which multiples windows begin, so that all arrays lie where they do in a larger window."""
        pitches = {pitch for one in self.made.values() for pitch in one.pitch if pitch}
        return lcm(*(pitch.numerator for pitch in pitches)) if pitches else 1


@dataclass
class OperatorGraph:
    """The operators that some outputs of a network are made of, and its constants.

    Attributes
    ----------
    nodes : list of Node
        Each after those that it needs.
    constants : mapping of str to TensorProto
        By name.
    """

    nodes: list[Node]
    constants: Mapping[str, Any]
    _compute: Computer = field(default_factory=Computer)
    _known: dict[str, Dependence] = field(default_factory=dict)
    _until: float = field(default_factory=lambda: time.monotonic() + LONGEST_LOOK_S)

    @classmethod
    def of(cls, model: Any, outputs: Sequence[str]) -> "OperatorGraph":
        """Return what some outputs of a model are made of."""
        opset = next(one.version for one in model.opset_import if one.domain in ("", "ai.onnx"))
        needed, nodes = set(outputs), []
        for proto in reversed(model.graph.node):
            if needed.intersection(proto.output):
                nodes.append(node_of(proto, opset))
                needed.update(proto.input)
        return cls(nodes[::-1], {one.name: one for one in model.graph.initializer if one.name in needed})

    def walk(
        self, name: str, shape: Sequence[int], axis: int, outputs: Sequence[str], *, places_alone: bool = False
    ) -> Walked:
        """Follow what depends on an axis of the input.

        Parameters
        ----------
        name : str
            Of the input.
        shape : sequence of int
            Of the input.
        axis : int
            Of the input, whose positions are followed.
        outputs : sequence of str
            Which are looked at.
        places_alone : bool
            Follow where numbers lie, as if normalisations looked at nothing else.

        Raises
        ------
        UnfitError
            The operators do not fit together at such a shape.
        UnknownHereError
            It is not known how far one of them looks.
        """
        made: dict[str, Dependence] = {name: Dependence.image(shape, axis)}
        last = {one: number for number, node in enumerate(self.nodes) for one in node.inputs}
        last.update(dict.fromkeys(outputs, len(self.nodes)))
        placed: list[str] = []
        alive = most = 4 * prod(shape)
        for number, node in enumerate(self.nodes):
            if time.monotonic() > self._until:
                raise UnfitError(
                    f"its graph of {len(self.nodes)} operators takes more than {LONGEST_LOOK_S:g} s to look through"
                )
            given = [self._given(one, made) for one in node.inputs]
            placed += [node.words] if self._adds_places(node, given) else []
            for one, spread in zip(node.outputs, self._apply(node, given, places_alone), strict=False):
                if spread.is_constant and prod(spread.shape) > LARGEST_MADE:
                    raise UnfitError(f"{node.words} makes a constant of {prod(spread.shape):.3g} numbers")
                made[one] = spread
                alive += 0 if spread.is_constant else 4 * prod(spread.shape)
            most = max(most, alive)
            for one in set(node.inputs):
                if one in made and last[one] == number and not made[one].is_constant:
                    alive -= 4 * prod(made[one].shape)
        return Walked(made, most, tuple(placed))

    def _given(self, name: str, made: Mapping[str, Dependence]) -> Dependence | None:
        if not name:
            return None
        if name in made:
            return made[name]
        if name not in self._known:
            if name not in self.constants:
                raise UnfitError(f"{name} is made nowhere")
            tensor = self.constants[name]
            shape, small = tuple(tensor.dims), prod(tensor.dims) <= MOST_CELLS // 64
            self._known[name] = Dependence.constant(shape, self._values(name) if small else None)
        return self._known[name]

    def _values(self, name: str) -> npt.NDArray[Any]:
        """Return the numbers of a constant."""
        try:
            return np.asarray(onnx_package().numpy_helper.to_array(self.constants[name]))
        except Exception as fault:
            raise UnfitError(f"{name} is damaged") from fault

    def _apply(self, node: Node, given: Sequence[Dependence | None], places_alone: bool) -> list[Dependence]:
        """Return what an operator makes."""
        if node.kind == "Constant":
            values = _constant(node)
            return [Dependence.constant(values.shape, values)]
        if given and all(one is None or one.values is not None for one in given):
            values_made = self._compute(node, [None if one is None else one.values for one in given])
            if values_made is not None:
                return [Dependence.constant(one.shape, one) for one in values_made]
        if node.kind not in RULES:
            raise UnknownHereError(node, "is not known")
        if places_alone and node.kind == "Resize":  # aligned corners too lie about there
            node = replace(node, attributes={**node.attributes, "coordinate_transformation_mode": "half_pixel"})
        try:
            rule = kept_places if places_alone and node.kind in NORMALISED else RULES[node.kind]
            return rule(node, given)
        except UnknownOperatorError as fault:
            raise UnknownHereError(node, str(fault)) from fault
        except (ValueError, TypeError, IndexError, ZeroDivisionError, OverflowError) as fault:  # nonsense in a file
            raise UnfitError(f"{node.words} does not fit its inputs") from fault

    def _adds_places(self, node: Node, given: Sequence[Dependence | None]) -> bool:
        """Return whether constants differ from place to place along an axis that the image follows."""
        present = [(name, one) for name, one in zip(node.inputs, given, strict=True) if one is not None]
        images = [one for _, one in present if not one.is_constant]
        constants = [(name, one) for name, one in present if one.is_constant and one.rank]
        if node.kind not in ALIGNED or not images or not constants:
            return False
        rank = max(one.rank for one in images)
        along = {axis - image.rank for image in images for axis in range(image.rank) if image.varies(axis)}
        if node.kind == "Concat":
            along -= {node.number("axis", 1) % rank - rank}  # which lie beside the image: a border
        return any(
            -axis <= one.rank and one.shape[axis] > 1 and self._differs(name, one, axis)
            for name, one in constants for axis in along
        )  # fmt: skip

    def _differs(self, name: str, one: Dependence, axis: int) -> bool:
        """Return whether the numbers of a constant differ along an axis; also where that cannot be told."""
        values = one.values
        if values is None and name in self.constants and prod(one.shape) <= LARGEST_CONSTANT:
            values = self._values(name)
        if values is None:
            return True
        if not any(values.strides):
            return False
        first = np.take(values, [0], axis)
        return not bool((values == first).all())


def _constant(node: Node) -> npt.NDArray[Any]:
    """Return the numbers of an operator that is a constant."""
    for name in ("value", "value_float", "value_int", "value_floats", "value_ints"):
        if name in node.attributes:
            found = node.attributes[name]
            try:
                return np.asarray(onnx_package().numpy_helper.to_array(found) if name == "value" else found)
            except Exception as fault:
                raise UnfitError(f"{node.words} is damaged") from fault
    raise UnfitError(f"{node.words} has no numbers")
