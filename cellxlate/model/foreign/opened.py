"""A file that is given as a foreign model becomes what is known of it: `open_foreign` from top to bottom."""

from pathlib import Path
from typing import Any

from cellxlate.errors import ModelError
from cellxlate.model.foreign.limits import parsed, read_network
from cellxlate.model.foreign.zoo.package import is_package, open_package
from cellxlate.model.foreign.values import ForeignModel

ONNX_ENDING = ".onnx"


def is_foreign(path: Path) -> bool:
    """Return whether a path is given as a foreign model: an ONNX file by its name, or a package of others."""
    return path.suffix.lower() == ONNX_ENDING or is_package(path)


def open_foreign(path: Path, *, torchscript: bool = False) -> ForeignModel:
    """Return what is known of a foreign model.

    Parameters
    ----------
    path : Path
        An ONNX file: of one image input and one image output, counts to counts; or a package of the BioImage Model Zoo.
    torchscript : bool
        As `open_package` takes it.

    Raises
    ------
    ModelError
        It is damaged, asks for too much, or is no image-to-image network.
    OptionError
        The package onnx is not installed.
    """
    if is_package(path):
        return open_package(path, torchscript=torchscript)
    data, network = read_network(path)
    graph = parsed(data, str(path)).graph
    constants = {one.name for one in graph.initializer}
    inputs = [one for one in graph.input if one.name not in constants]
    if len(inputs) != 1:
        raise ModelError(f"{path} takes {len(inputs)} inputs, expected one image")
    given, made = image_axes(inputs[0], str(path)), image_axes(graph.output[0], str(path))
    return ForeignModel(
        path.name, network, "ZYX" if "z" in given else "YX", given, made, channels_of(inputs[0], given),
        channels_of(graph.output[0], made), input_name=inputs[0].name, output_name=graph.output[0].name,
    )  # fmt: skip


def sides(value: Any) -> list[int | None]:
    """Return the sides of an input or output; None where they are free."""
    return [side.dim_value if side.HasField("dim_value") else None for side in value.type.tensor_type.shape.dim]


def image_axes(value: Any, name: str) -> str:
    """Return the axes of an input or output in their order, told from its shape."""
    shape = sides(value)
    kinds = {2: "yx", 3: "cyx", 4: "bcyx", 5: "bczyx"}
    if len(shape) not in kinds:
        raise ModelError(f"{name}: {value.name} has {len(shape)} axes, expected an image of 2 to 5")
    last = len(shape) > 3 and shape[-1] is not None and shape[-1] <= 4 and (shape[1] is None or shape[1] > 4)
    axes = kinds[len(shape)]
    return axes.replace("c", "") + "c" if last else axes


def channels_of(value: Any, axes: str) -> int:
    """Return how many channels an input or output has."""
    return (sides(value)[axes.index("c")] or 1) if "c" in axes else 1
