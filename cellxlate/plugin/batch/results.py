"""The results of a row as layers that are read when they are shown; opened in a worker thread. No Qt, no viewer."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from cellxlate.errors import InputError
from cellxlate.plugin.batch.rows import StackRow

Kind = Literal["input", "enhanced", "attention"]


@dataclass(frozen=True)
class OpenedLayer:
    """Pixels, or the levels of a pyramid, and what `add_image` takes with them."""

    kind: Kind
    pixels: Any
    options: dict[str, Any]


def open_steps(row: StackRow) -> Generator[None, None, list[OpenedLayer]]:
    """Open a stack, and its results as far as there are some: one layer per channel of each.

    Raises
    ------
    InputError
        The stack or a result cannot be read, or is not there any more.
    """
    yield
    layers = _opened("input", row.path, row.name)
    if row.enhanced:
        shown = [layer.options for layer in layers]
        enhanced = _opened("enhanced", row.enhanced, f"{row.name} enhanced")
        layers += [_shown_like(layer, like) for layer, like in zip(enhanced, shown, strict=False)]
    if row.attention and Path(row.attention).exists():
        layers += [_one_value(layer) for layer in _opened("attention", row.attention, f"{row.name} attention")]
    return layers


def _opened(kind: Kind, path: str, name: str) -> list[OpenedLayer]:
    from cellxlate.plugin.files.read import read_layers
    from cellxlate.stacks.naming import stack_name

    if not Path(path).exists():
        raise InputError(f"{path} is not there any more")
    own = stack_name(Path(path))
    opened = []
    for pixels, options, *_ in read_layers(path):
        channel = str(options["name"]).removeprefix(own)
        opened.append(OpenedLayer(kind, pixels, {**options, "name": f"{name}{channel}"}))
    return opened


def _shown_like(layer: OpenedLayer, like: dict[str, Any]) -> OpenedLayer:
    """Return a result that is shown as its input is, so that both compare."""
    same = {key: like[key] for key in ("contrast_limits", "colormap", "blending") if key in like}
    return replace(layer, options=layer.options | same)


def _one_value(layer: OpenedLayer) -> OpenedLayer:
    """Return attention with one value per pixel, the largest of the samples of a colour image."""
    options = layer.options
    if not options.get("rgb"):
        return layer
    levels: Sequence[Any] = layer.pixels if options.get("multiscale") else [layer.pixels]
    largest = [level.max(axis=-1) for level in levels]
    pixels = largest if options.get("multiscale") else largest[0]
    return replace(layer, pixels=pixels, options=options | {"rgb": False})
