"""The processing that a package names becomes steps; in 0.4 by `name` with axes as letters, in 0.5 by `id`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from cellxlate.errors import ModelError
from cellxlate.model.foreign.zoo.processing import (
    Binarising,
    Casting,
    Clipping,
    Known,
    Method,
    Processing,
    Quantity,
    Scaling,
    Side,
    Squashing,
    Steps,
)
from cellxlate.model.foreign.zoo.stated import Entry

EPSILON = 1e-6
"""What the zoo adds to a span where a package states nothing else."""
LETTERS = {"batch": "b", "channel": "c"}
DTYPES = (
    "float32", "float64", "float16", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "bool",
)  # fmt: skip


@dataclass(frozen=True)
class Around:
    """What a step must know of the tensor that it works on.

    Attributes
    ----------
    axes : str
        Of the tensor, as letters of "bczyx".
    channels : int
        How many it has.
    side : {"input", "output"}
        Which of both it is.
    own : str
        Its name.
    inputs : tuple of str
        The names of all inputs of the package.
    """

    axes: str
    channels: int
    side: Side
    own: str
    inputs: tuple[str, ...] = ()


def steps_of(stated: Entry, around: Around) -> Steps:
    """Return the steps of the pre- or post-processing of a tensor.

    Raises
    ------
    ModelError
        A step is not known, or what it is told makes no sense.
    """
    return tuple(step for one in stated for step in _steps_of(one, around))


def _steps_of(stated: Entry, around: Around) -> Steps:
    name = (stated["id"] or stated["name"]).text()
    if name not in KNOWN:
        raise ModelError(
            f"{stated.where} is {ascii(name)[:60]}, a processing that is not done here; known are {', '.join(KNOWN)}"
        )
    make, keys = KNOWN[name]
    kwargs = stated["kwargs"]
    if unknown := sorted(set(kwargs.names) - set(keys)):
        raise ModelError(
            f"{kwargs.where} of {name} has {ascii(unknown[0])[:60]}, expected {' or '.join(keys) or 'none'}"
        )
    return make(kwargs, around)


def _letters(stated: Entry, around: Around) -> str:
    """Return the axes of a tensor that a step names, as letters; all of them where it names none."""
    if not stated:
        return "".join(sorted({*around.axes, "b"}))
    several = stated.value if isinstance(stated.value, str) else [one.text() for one in stated]
    named = "".join(LETTERS.get(one, one) for one in several)
    if unknown := sorted(set(named) - {*around.axes, "b"}):
        raise ModelError(f"{stated.where} names the axis {ascii(unknown[0])[:40]}, the tensor has {around.axes}")
    return named


def _quantity(kwargs: Entry, around: Around) -> Quantity:
    """Return what a step measures, as yet of no kind: of which tensor, and whether of all channels together."""
    axes, reference = _letters(kwargs["axes"], around), kwargs["reference_tensor"].text()
    if missing := {"y", "x"} - set(axes):
        raise ModelError(
            f"{kwargs.where} measures each {'row' if 'y' in missing else 'column'} by itself; a stack is measured "
            "once, whole"
        )
    of = around.side
    if reference and reference != around.own:
        if reference not in around.inputs:
            raise ModelError(f"{kwargs['reference_tensor'].where} is {ascii(reference)[:60]}, expected an input")
        of = "input"
    return Quantity("mean", of=of, together="c" in axes and around.channels > 1)


def _is_sample(kwargs: Entry, around: Around) -> bool:
    """Return whether a step measures each sample by itself, not the whole data set."""
    if kwargs["mode"]:
        return kwargs["mode"].text() == "per_sample"
    return bool(kwargs["axes"]) and "b" not in _letters(kwargs["axes"], around)


def _each(values: tuple[float, ...], stated: Entry, around: Around) -> tuple[float, ...]:
    """Return numbers that are one, or one for each channel."""
    if len(values) not in (1, around.channels):
        raise ModelError(f"{stated.where} has {len(values)} numbers, the tensor has {around.channels} channels")
    return values


def _along_channels(kwargs: Entry, around: Around) -> None:
    """Raise ModelError where numbers lie along another axis than that of channels."""
    axis = kwargs["axis"].text("channel")
    if LETTERS.get(axis, axis) != "c":
        raise ModelError(f"{kwargs['axis'].where} is {ascii(axis)[:40]}, expected the axis of channels")
    axes = _letters(kwargs["axes"], around) if kwargs["axes"] else ""
    several = any(isinstance(kwargs[name].value, list) and len(kwargs[name].value) > 1 for name in kwargs.names)
    if several and "c" in axes:
        raise ModelError(f"{kwargs.where} has several numbers for axes that are scaled together")


def _linear(kwargs: Entry, around: Around) -> Steps:
    _along_channels(kwargs, around)
    gain, offset = (
        _each(kwargs[name].numbers(default), kwargs[name], around) for name, default in (("gain", 1.0), ("offset", 0.0))
    )
    if 0 in gain:
        raise ModelError(f"{kwargs['gain'].where} is 0, which leaves nothing of an image; ask who made the package")
    return (Scaling(offset, gain, is_back=True),)


def _fixed(kwargs: Entry, around: Around) -> Steps:
    _along_channels(kwargs, around)
    mean, std = (_each(kwargs[name].numbers(), kwargs[name], around) for name in ("mean", "std"))
    if min(std) <= 0:
        raise kwargs["std"].fault("a number above 0")
    return (Scaling(mean, std, eps=kwargs["eps"].number(EPSILON)),)


def _by_mean(kwargs: Entry, around: Around) -> Steps:
    if kwargs["mode"].text("per_sample") == "fixed" or kwargs["mean"]:
        return _fixed(kwargs, around)
    mean = _quantity(kwargs, around)
    return (Scaling(mean, replace(mean, kind="std"), eps=kwargs["eps"].number(EPSILON)),)


def _by_percentiles(kwargs: Entry, around: Around) -> Steps:
    measured = _quantity(kwargs, around)
    low, high = (_share(kwargs[f"{end}_percentile"], default) for end, default in (("min", 0.0), ("max", 100.0)))
    if low >= high:
        raise ModelError(f"{kwargs.where} has min_percentile {100 * low:g}, expected less than max_percentile")
    lower, upper = (replace(measured, kind="quantile", share=share) for share in (low, high))
    return (Scaling(lower, upper, lower, eps=kwargs["eps"].number(EPSILON)),)


def _share(stated: Entry, default: float) -> float:
    share = stated.number(default) / 100
    if not 0 <= share <= 1:
        raise stated.fault("0 to 100")
    return share


def _clip(kwargs: Entry, around: Around) -> Steps:
    method: Method = "inverted_cdf" if _is_sample(kwargs, around) else "linear"

    def end(name: str, default: float) -> Known:
        if kwargs[name]:
            return (kwargs[name].number(),)
        if not (share := kwargs[f"{name}_percentile"]):
            return (default,)
        return replace(_quantity(kwargs, around), kind="quantile", share=_share(share, 0.0), method=method)

    low, high = end("min", -float("inf")), end("max", float("inf"))
    if isinstance(low, tuple) and isinstance(high, tuple) and low[0] > high[0]:
        raise ModelError(f"{kwargs.where} has min {low[0]:g}, expected no more than max, which is {high[0]:g}")
    return (Clipping(low, high),)


def _binarise(kwargs: Entry, around: Around) -> Steps:
    _along_channels(kwargs, around)
    return (Binarising(_each(kwargs["threshold"].numbers(), kwargs["threshold"], around)),)


def _sigmoid(_: Entry, __: Around) -> Steps:
    return (Squashing(),)


def _cast(kwargs: Entry, _: Around) -> Steps:
    return (Casting(dtype_of(kwargs["dtype"])),)


def _match(kwargs: Entry, around: Around) -> Steps:
    mean = replace(_quantity(kwargs, around), of="input")
    own = replace(mean, of=around.side)
    eps = kwargs["eps"].number(EPSILON)
    scalings = [Scaling(one, replace(one, kind="std"), eps=eps) for one in (own, mean)]
    return scalings[0], scalings[1].inverse


def dtype_of(stated: Entry) -> str:
    """Return the type of the values of a tensor."""
    dtype = stated.text("float32")
    if dtype not in DTYPES:
        raise stated.fault(f"one of {', '.join(DTYPES)}")
    return dtype


def is_irreversible(step: Processing) -> bool:
    """Return whether nothing brings an image back to the range that it had before a step."""
    return isinstance(step, Binarising | Squashing)


Make = Callable[[Entry, Around], Steps]
KNOWN: Mapping[str, tuple[Make, tuple[str, ...]]] = {
    "binarize": (_binarise, ("threshold", "axis")),
    "clip": (_clip, ("min", "max", "min_percentile", "max_percentile", "axes")),
    "ensure_dtype": (_cast, ("dtype",)),
    "fixed_zero_mean_unit_variance": (_fixed, ("mean", "std", "axis")),
    "scale_linear": (_linear, ("gain", "offset", "axes", "axis")),
    "scale_mean_variance": (_match, ("mode", "reference_tensor", "axes", "eps")),
    "scale_range": (
        _by_percentiles, ("mode", "axes", "min_percentile", "max_percentile", "eps", "reference_tensor"),
    ),
    "sigmoid": (_sigmoid, ()),
    "zero_mean_unit_variance": (_by_mean, ("mode", "axes", "mean", "std", "eps")),
}  # fmt: skip
"""The processing of formats 0.4 and 0.5 that is done here, and what each is told."""
