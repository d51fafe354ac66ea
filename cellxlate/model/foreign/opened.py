"""A file that is given as a foreign model becomes what is known of it: `open_foreign` from top to bottom."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cellxlate.errors import ModelError
from cellxlate.model.foreign.limits import checked_model, onnx_package, read_network
from cellxlate.model.foreign.reach.graph import Image, look
from cellxlate.model.foreign.values import ForeignModel, NetworkFile

ONNX_ENDING = ".onnx"
AXES_OF_RANK = {2: "yx", 3: "cyx", 4: "bcyx", 5: "bczyx"}
MOST_CHANNELS = 16
"""Beyond which a last axis is no channels but columns."""
PASSED_ON = ("Identity", "Cast", "Transpose", "Reshape", "Slice", "Squeeze", "Unsqueeze", "Split")
MOST_PASSED_ON = 20


def is_foreign(path: Path) -> bool:
    """Return whether a path is given as a foreign model; by its name alone, nothing is opened."""
    return path.suffix.lower() == ONNX_ENDING


def open_foreign(path: Path) -> ForeignModel:
    """Return what is known of a foreign model.

    Parameters
    ----------
    path : Path
        An ONNX file: of one image input and one image output, counts to counts.

    Raises
    ------
    ModelError
        It is damaged, asks for too much, or is no image-to-image network.
    OptionError
        The package onnx is not installed.
    """
    data, network = read_network(path)
    return foreign_of_network(data, network, path.name)


def foreign_of_network(
    data: bytes, network: NetworkFile, name: str, *, input_axes: str = "", output_axes: str = "",
    output: int | None = None, attention: int | None = None,
) -> ForeignModel:  # fmt: skip
    """Return what the graph of an ONNX network tells.

    Parameters
    ----------
    data : bytes
        Of the ONNX file.
    network : NetworkFile
        Where they lie.
    name : str
        For reports.
    input_axes, output_axes : str
        Of "bczyx", in the order of the arrays; told from their shapes where they are not given.
    output : int
        Which of the outputs is the image; told from the graph where it is not given.
    attention : int
        Which is attention in [0, 1]; told from the graph where it is not given.

    Raises
    ------
    ModelError
        As `open_foreign` does.
    """
    model = checked_model(data, network.path, name)
    constants = {one.name for one in model.graph.initializer}
    inputs = [one for one in model.graph.input if one.name not in constants]
    if len(inputs) != 1 or not model.graph.output:
        raise ModelError(f"{name} takes {len(inputs)} inputs and gives {len(model.graph.output)} outputs, expected one "
                         "image, and one that is made of it")  # fmt: skip
    given = _image(inputs[0], name, input_axes)
    if not set("yx") <= set(given.axes):
        raise ModelError(f"{name} takes an array of axes {given.axes}, expected rows and columns of an image")
    if (together := given.side("b") or 1) != 1:
        raise ModelError(
            f"{name} takes {together} images at once, no more and no fewer; export it for one, or any number"
        )
    image, bounded = _outputs(model.graph, output, name)
    gating = bounded if attention is None else _outputs(model.graph, attention, name)[0]
    made = _image(image, name, output_axes, given)
    gate = _image(gating, name, output_axes, given) if gating is not None else None
    facts = look(model, given, [one for one in (made, gate) if one], name)
    return ForeignModel(
        name, network, "ZYX" if "z" in given.axes else "YX", given.axes, made.axes, given.side("c") or 1,
        made.side("c") or given.side("c") or 1, facts.reach, given.name, made.name, gate.name if gate else "",
        facts.not_local, facts.unknown, facts.operators, facts.bytes_per_px, facts.bytes_per_pair,
    )  # fmt: skip


def _image(value: Any, name: str, axes: str, like: Image | None = None) -> Image:
    """Return an input or output as values; its axes are told from its shape, or those of another, where not given."""
    shape = value.type.tensor_type.shape.dim
    sides = tuple(side.dim_value if side.HasField("dim_value") else None for side in shape)
    if like and (not sides or (len(sides) == len(like.axes) and not axes)):
        axes = axes or like.axes
        sides = sides or (None,) * len(axes)
    if not axes:
        if len(sides) not in AXES_OF_RANK:
            raise ModelError(f"{name}: {value.name} has {len(sides)} axes, expected an image of 2 to 5")
        axes, last = AXES_OF_RANK[len(sides)], sides[-1]
        if len(sides) > 3 and last is not None and last <= MOST_CHANNELS and (sides[1] is None or sides[1] > last):
            axes = axes.replace("c", "") + "c"
    if len(axes) != len(sides):
        raise ModelError(f"{name}: {value.name} has {len(sides)} axes, expected {len(axes)} ({axes})")
    return Image(value.name, axes, sides)


def _outputs(graph: Any, wanted: int | None, name: str) -> tuple[Any, Any | None]:
    """Return the output that is the image, and a further one that lies in [0, 1] by its last operator, or None."""
    outputs = list(graph.output)
    if wanted is not None and wanted >= len(outputs):
        raise ModelError(f"{name} has {len(outputs)} outputs, expected {wanted + 1} or more")
    image = None if wanted is None else outputs[wanted]
    bounded = [one for one in outputs if one is not image and _is_bounded(graph, one.name)]
    image = image or next((one for one in outputs if one not in bounded), outputs[0])
    return image, next((one for one in bounded if one.name != image.name), None)


def _is_bounded(graph: Any, name: str) -> bool:
    """Return whether what makes an output keeps it within [0, 1]."""
    makers = {made: node for node in graph.node for made in node.output}
    for _ in range(MOST_PASSED_ON):
        node = makers.get(name)
        if node is None or node.op_type not in PASSED_ON:
            break
        name = node.input[0]
    else:
        return False
    if node is None:
        return False
    return node.op_type in ("Sigmoid", "HardSigmoid") or (node.op_type == "Clip" and _limits(graph, node) == [0.0, 1.0])


def _limits(graph: Any, node: Any) -> Sequence[float]:
    """Return between what an operator clips, where the graph states that."""
    onnx = onnx_package()
    stated = {one.name: one.f for one in node.attribute}
    constants = {one.name: one for one in graph.initializer}
    constants.update({one.output[0]: one.attribute[0].t for one in graph.node if one.op_type == "Constant"})
    given = [np.ravel(onnx.numpy_helper.to_array(constants[one])) for one in node.input[1:] if one in constants]
    return [stated["min"], stated["max"]] if len(stated) == 2 else [float(one[0]) for one in given if one.size]
