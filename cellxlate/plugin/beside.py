"""Layers that a model sees beside the one that it changes, found by the names that its card states. No Qt."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cellxlate.errors import InputError
from cellxlate.plugin.layers import LayerPixels
from cellxlate.plugin.models import channels_beside
from cellxlate.stacks.stack import Pixels, PlaneIndex, Stack

if TYPE_CHECKING:
    from napari.layers import Image, Layer


ANOTHER = re.compile(r" \[\d+\]$")
"""What napari adds to a name that is there already."""


@dataclass(frozen=True)
class JoinedPixels:
    """Pixels of layers of one shape and dtype as channels of one stack, along an axis; nothing is kept.

    `layers` are what tells those beside from others.
    """

    parts: tuple[Pixels, ...]
    axis: int
    layers: tuple[Any, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of all."""
        own = tuple(self.parts[0].shape)
        return (*own[: self.axis], len(self.parts), *own[self.axis :])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of each."""
        return np.dtype(self.parts[0].dtype.name)

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        where = key if isinstance(key, tuple) else (key,)
        where = (*where, *(slice(None),) * (len(self.shape) - len(where)))
        chosen, rest = where[self.axis], (*where[: self.axis], *where[self.axis + 1 :])
        if not isinstance(chosen, slice):
            return np.asarray(self.parts[int(chosen)][rest])
        axis = sum(isinstance(one, slice) for one in where[: self.axis])
        numbers = range(*chosen.indices(len(self.parts)))
        return np.stack([np.asarray(self.parts[number][rest]) for number in numbers], axis)


def seen_together(layer: "Image", stack: Stack, layers: "Iterable[Layer]", model: str) -> Stack | None:
    """Return a layer's stack with the layers that a model sees beside it as further channels; None for other models.

    Parameters
    ----------
    layer, stack : Image, Stack
        What the model shall change, and its pixels.
    layers : iterable of Layer
        All that there are. Of the images of the same shape and dtype one is taken whose name is that of the channel, or
        ends with it, as layers of files of several channels are called; of several, the one that is called as the layer
        but for the channel, or that of its file.
    model : str
        Folder or name.

    Raises
    ------
    InputError
        There is no such layer, or there are several.
    """
    own, names = channels_beside(model)
    if not names or {"C", "S"} & {*stack.axes}:
        return None
    from napari.layers import Image  # needed for such a model alone

    others = [one for one in layers if isinstance(one, Image) and one is not layer and _fits(one, layer)]
    found = [_named(name, own, layer, others, PurePath(model).name) for name in names]
    axis = 1 if stack.axes.startswith("T") else 0
    parts = (stack.pixels, *(LayerPixels(one.shape, one.dtype, one.__getitem__) for one in map(_full, found)))
    return replace(
        stack, pixels=JoinedPixels(parts, axis, tuple(one.unique_id for one in found)),
        axes=f"{stack.axes[:axis]}C{stack.axes[axis:]}",
        channel_names=(own or "channel 0", *names),
    )  # fmt: skip


def layers_of(together: Stack | None) -> tuple[Any, ...]:
    """Return what tells the layers that are seen beside from others."""
    return together.pixels.layers if together and isinstance(together.pixels, JoinedPixels) else ()


def place_together(together: Stack, plane: PlaneIndex) -> PlaneIndex:
    """Return where a plane of a layer lies in the stack that `seen_together` made of it."""
    axis = together.plane_axes.index("C")
    return (*plane[:axis], 0, *plane[axis:])


def _full(layer: "Image") -> Any:
    return layer.data[0] if layer.multiscale else layer.data


def _fits(layer: "Image", other: "Image") -> bool:
    one, two = _full(layer), _full(other)
    return not layer.rgb and tuple(one.shape) == tuple(two.shape) and np.dtype(one.dtype) == np.dtype(two.dtype)


def _named(name: str, own: str | None, layer: "Image", others: "Sequence[Image]", model: str) -> "Image":
    wanted = name.strip().casefold()
    found = [one for one in others if f" {ANOTHER.sub('', one.name).strip().casefold()}".endswith(f" {wanted}")]
    alike = [one for one in found if own and own in layer.name and one.name == layer.name.replace(own, name)]
    of_file = [one for one in found if layer.source.path and one.source.path == layer.source.path]
    for chosen in (alike, found, of_file):
        if len(chosen) == 1:
            return chosen[0]
    sees = f"{model} sees {name} beside {layer.name}"
    if found:
        raise InputError(
            f"{sees}, and {len(found)} layers are called so", remedy="rename those that it shall not see, or close them"
        )
    raise InputError(
        f"{sees}, and no other image of this shape and type is called so",
        remedy=f"open that channel, and call its layer {name!r}",
    )
