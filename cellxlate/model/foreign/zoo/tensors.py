"""The tensors of a package as values: axes, sizes, type, processing; of format 0.4 (letters) and 0.5 (axis by axis)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cellxlate.errors import ModelError
from cellxlate.model.foreign.values import Reach
from cellxlate.model.foreign.zoo.processing import Binarising, Casting, Steps
from cellxlate.model.foreign.zoo.stated import Entry
from cellxlate.model.foreign.zoo.steps import LETTERS, Around, dtype_of, steps_of

SPACE = "zyx"
MOST_CHANNELS = 64


@dataclass(frozen=True)
class StatedTensor:
    """An input or output of a package.

    Attributes
    ----------
    name : str
        Its id.
    axes : str
        In their order, as letters of "bitczyx".
    channels : int
        How many it has.
    sizes : mapping of str to Reach
        Which sizes it takes along each axis of space, for inputs.
    steps : tuple of processing
        Done to it before the network, or after.
    takes : str
        Type of its values.
    scales : mapping of str to float
        Size of a pixel along each axis of space, in any unit.
    """

    name: str
    axes: str
    channels: int
    sizes: Mapping[str, Reach] = field(default_factory=dict)
    steps: Steps = ()
    takes: str = "float32"
    scales: Mapping[str, float] = field(default_factory=dict)

    @property
    def spans(self) -> str:
        """The axes of space that it has more than one position of."""
        return "".join(axis for axis in SPACE if axis in self.axes and self.sizes.get(axis, Reach(None)).fixed_px != 1)


@dataclass(frozen=True)
class _Axis:
    """One axis: its letter, and its size; `size` is None where that is free, and `of` names another it depends on."""

    letter: str
    size: Reach | None = None
    of: str = ""
    scale: float = 1.0
    offset: float = 0.0


def stated_input(stated: Entry, *, is_new: bool) -> StatedTensor:
    """Return an input of a package, of format 0.5 where it `is_new`.

    Raises
    ------
    ModelError
        It has axes that no image has, or sizes that make no sense.
    """
    axes, name = (_new_axes if is_new else _old_axes)(stated), _name(stated)
    sizes = {axis.letter: _size_of(axis, axes, name, stated) for axis in axes if axis.letter in SPACE}
    channels, letters = _channels(axes, stated), "".join(axis.letter for axis in axes)
    around = Around(letters, channels, "input", name, (name,))
    dtype = _dtype(stated)
    steps = steps_of(stated["preprocessing"], around)
    steps = (*_unless(Casting, Casting(dtype, of_counts=True), steps[:1]), *steps)
    if is_new:
        steps = (*steps, *_unless((Casting, Binarising), Casting(dtype), steps[-1:]))
    first = steps[0]
    if isinstance(first, Casting):
        steps = (Casting(first.dtype, of_counts=True), *steps[1:])
    scales = {axis.letter: axis.scale for axis in axes if not axis.of}
    return StatedTensor(name, letters, channels, sizes, steps, dtype, scales)


def stated_output(stated: Entry, given: StatedTensor, *, is_new: bool) -> StatedTensor:
    """Return an output of a package whose input is given.

    Raises
    ------
    ModelError
        It is no image at the same pixels.
    """
    axes, name = (_new_axes if is_new else _old_axes)(stated), _name(stated)
    for axis in axes:
        larger = axis.scale * (given.scales.get(axis.of, 1.0) if is_new else 1.0)
        if axis.letter in SPACE and axis.of and not math.isclose(larger, 1):
            raise ModelError(
                f"{stated.where} is {larger:g} times as large as the input along {axis.letter}, expected an image of "
                "the same pixels"
            )
    channels, letters = _channels(axes, stated, given.channels), "".join(axis.letter for axis in axes)
    sizes = {axis.letter: axis.size for axis in axes if axis.letter in SPACE and axis.size}
    around = Around(letters, channels, "output", name, (given.name,))
    steps, dtype = steps_of(stated["postprocessing"], around), _dtype(stated)
    cast = (Casting(dtype),) if dtype != "float32" else ()
    if is_new:
        steps = (*steps, *(_unless((Casting, Binarising), Casting(dtype), steps[-1:]) if cast else ()))
    else:
        steps = (*cast, *steps)
    return StatedTensor(name, letters, channels, sizes, steps, dtype)


def _unless(kinds: type | tuple[type, ...], step: Casting, there: Steps) -> Steps:
    """Return a step unless one of some kinds is there."""
    return () if there and isinstance(there[0], kinds) else (step,)


def _name(stated: Entry) -> str:
    return (stated["id"] or stated["name"]).text()


def _dtype(stated: Entry) -> str:
    """Return the type of the values of a tensor; 0.5 may state it for each channel."""
    data = stated["data"]
    if isinstance(data.value, list):
        data = data[0]
    return dtype_of(data["type"] or stated["data_type"])


def _old_axes(stated: Entry) -> list[_Axis]:
    """Return the axes of a tensor of format 0.4: letters, and a shape beside them."""
    letters, shape = stated["axes"].text(), stated["shape"]
    if not letters or len(set(letters)) != len(letters) or set(letters) - set("bitczyx"):
        raise stated["axes"].fault("some of the letters bitczyx, each once")
    if isinstance(shape.value, list):
        sizes = [(one.whole(1), 0) for one in shape]
    elif shape["reference_tensor"]:
        return _referring(letters, shape)
    else:
        sizes = list(zip([one.whole(1) for one in shape["min"]], [one.whole() for one in shape["step"]], strict=False))
    if len(sizes) != len(letters):
        raise ModelError(f"{shape.where} has {len(sizes)} sizes for {len(letters)} axes; ask who made the package")
    return [
        _Axis(letter, Reach(None, 1, least, step) if step else Reach(None, fixed_px=least))
        for letter, (least, step) in zip(letters, sizes, strict=True)
    ]


def _referring(letters: str, shape: Entry) -> list[_Axis]:
    """Return the axes of an output of format 0.4 whose shape follows from that of an input."""
    scales, offsets = list(shape["scale"]), list(shape["offset"])
    if not len(letters) == len(scales) == len(offsets):
        raise ModelError(f"{shape.where} has {len(scales)} scales for {len(letters)} axes; ask who made the package")
    axes = []
    for letter, scale, offset in zip(letters, scales, offsets, strict=True):
        more = 2 * offset.number(0.0)
        if scale and scale.number():
            axes.append(_Axis(letter, None, letter, scale.number(), more))
        else:
            axes.append(_Axis(letter, Reach(None, fixed_px=int(more))))
    return axes


def _new_axes(stated: Entry) -> list[_Axis]:
    """Return the axes of a tensor of format 0.5, each of which says its type and its size."""
    axes = [_new_axis(one) for one in stated["axes"]]
    letters = [axis.letter for axis in axes]
    if not letters or len(set(letters)) != len(letters):
        raise stated["axes"].fault("a list of axes, each once")
    return axes


def _new_axis(stated: Entry) -> _Axis:
    kind, size = stated["type"].text(), stated["size"]
    letter = {**LETTERS, "time": "t", "index": "i"}.get(kind, stated["id"].text() if kind == "space" else "")
    if letter not in tuple("bitczyx"):
        raise ModelError(f"{stated.where} is an axis of type {ascii(kind)[:40]}, expected batch, channel, or x, y, z")
    if letter == "c":
        return _Axis("c", Reach(None, fixed_px=len(list(stated["channel_names"]))))
    if letter == "b" or not size:
        return _Axis(letter, None if letter == "b" else Reach(None))
    if isinstance(size.value, int):
        return _Axis(letter, Reach(None, fixed_px=size.whole(1)), scale=stated["scale"].number(1.0))
    if size["min"]:
        least, step = size["min"].whole(1), size["step"].whole(1) if size["step"] else 1
        return _Axis(letter, Reach(None, 1, least, step), scale=stated["scale"].number(1.0))
    of = size["axis_id"].text()
    return _Axis(letter, None, LETTERS.get(of, of), 1 / max(stated["scale"].number(1.0), 1e-9), _offset(size["offset"]))


def _offset(stated: Entry) -> float:
    return stated.number(0.0)


def _size_of(axis: _Axis, axes: Sequence[_Axis], name: str, stated: Entry) -> Reach:
    """Return which sizes an input takes along an axis, which may be as large as another of its axes."""
    if axis.size is not None:
        return axis.size
    other = next((one for one in axes if one.letter == axis.of and one.size is not None), None)
    if other is None or other.size is None:
        raise ModelError(f"{stated.where}: the size of {axis.letter} of {name} refers to an axis that is not there")
    more, size = int(axis.offset), other.size
    if size.fixed_px is not None:
        return Reach(None, fixed_px=size.fixed_px + more)
    return Reach(None, 1, max(size.least_px + more, 1), size.step_px)


def _channels(axes: Sequence[_Axis], stated: Entry, given: int = 1) -> int:
    """Return how many channels a tensor has."""
    axis = next((one for one in axes if one.letter == "c"), None)
    if axis is None:
        return 1
    count = given * axis.scale + axis.offset if axis.size is None else axis.size.fixed_px
    if not count or not 1 <= count <= MOST_CHANNELS:
        raise ModelError(f"{stated.where} has {count} channels, expected 1 to {MOST_CHANNELS}")
    return int(count)
