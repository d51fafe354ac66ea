"""What a package says is done to a tensor before and after the network: steps as values, and what they make of images.

A step that depends on the image names the quantities that it needs of it; they are those of a whole stack, and `fitted`
puts them in. Each is of the unprocessed input, as the zoo's own library takes them, or of the unprocessed output.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from cellxlate.model.attention import Floats

Side = Literal["input", "output"]
Method = Literal["linear", "inverted_cdf"]


@dataclass(frozen=True)
class Quantity:
    """A number that is to be known of each channel of a tensor, or of all its channels together.

    Attributes
    ----------
    kind : {"mean", "std", "quantile"}
    share : float
        Which quantile, 0 to 1.
    method : {"linear", "inverted_cdf"}
        Between two values of the sample, as `numpy.quantile` has it.
    of : {"input", "output"}
        Of the counts that the network is made for, or of what it answers.
    together : bool
        Of all channels together.
    """

    kind: Literal["mean", "std", "quantile"]
    share: float = 0.0
    method: Method = "linear"
    of: Side = "input"
    together: bool = False


Numbers: TypeAlias = tuple[float, ...]
"""One for all channels, or one for each."""
Known: TypeAlias = Numbers | Quantity


@dataclass(frozen=True)
class Scaling:
    """(x - shift) / (upper - lower + eps), or back again: x * (upper - lower + eps) + shift."""

    shift: Known
    upper: Known
    lower: Known = (0.0,)
    eps: float = 0.0
    is_back: bool = False

    def fitted(self, known: Callable[[Known], Numbers]) -> "Scaling":
        """Return it with numbers for quantities."""
        return replace(self, shift=known(self.shift), upper=known(self.upper), lower=known(self.lower))

    @property
    def inverse(self) -> "Scaling":
        """What undoes it."""
        return replace(self, is_back=not self.is_back)

    def __call__(self, images: Floats) -> Floats:
        """Return it of images (B, C, ...)."""
        shift, upper, lower = (_along(one, images) for one in (self.shift, self.upper, self.lower))
        span = upper - lower + self.eps
        return np.asarray(images * span + shift if self.is_back else (images - shift) / span, np.float32)


@dataclass(frozen=True)
class Clipping:
    """Values outside a range become its ends; an end that is missing is open."""

    low: Known = (-np.inf,)
    high: Known = (np.inf,)

    def fitted(self, known: Callable[[Known], Numbers]) -> "Clipping":
        """Return it with numbers for quantities."""
        return replace(self, low=known(self.low), high=known(self.high))

    inverse = None
    """What lies outside is lost, the rest stays."""

    def __call__(self, images: Floats) -> Floats:
        """Return it of images (B, C, ...)."""
        return np.asarray(np.clip(images, _along(self.low, images), _along(self.high, images)), np.float32)


@dataclass(frozen=True)
class Binarising:
    """1 above a threshold, 0 elsewhere."""

    threshold: Numbers

    def fitted(self, _: Callable[[Known], Numbers]) -> "Binarising":
        """Return it."""
        return self

    inverse = None

    def __call__(self, images: Floats) -> Floats:
        """Return it of images (B, C, ...)."""
        return np.asarray(images > _along(self.threshold, images), np.float32)


@dataclass(frozen=True)
class Squashing:
    """The logistic function, called sigmoid."""

    def fitted(self, _: Callable[[Known], Numbers]) -> "Squashing":
        """Return it."""
        return self

    inverse = None

    def __call__(self, images: Floats) -> Floats:
        """Return it of images (B, C, ...)."""
        return np.asarray(1 / (1 + np.exp(-images.astype(np.float64))), np.float32)


@dataclass(frozen=True)
class Casting:
    """Values as another type holds them: fractions are cut off, what it cannot hold becomes its limit.

    `of_counts` rounds instead: counts come as float32, which may lie a hair below the whole number that they are.
    """

    dtype: str
    of_counts: bool = False

    def fitted(self, _: Callable[[Known], Numbers]) -> "Casting":
        """Return it."""
        return self

    inverse = None

    def __call__(self, images: Floats) -> Floats:
        """Return it of images (B, C, ...), still float32."""
        kind = np.dtype(self.dtype)
        if kind.kind == "f":
            return images
        if kind.kind == "b":
            return np.asarray(images != 0, np.float32)
        limits = np.iinfo(kind)
        whole = np.rint(images) if self.of_counts else np.trunc(images)
        return np.asarray(np.clip(whole, float(limits.min), float(limits.max)), np.float32)


Processing: TypeAlias = Scaling | Clipping | Binarising | Squashing | Casting
Steps: TypeAlias = tuple[Processing, ...]


def quantities_of(steps: Iterable[Processing]) -> tuple[Quantity, ...]:
    """Return what is to be known for some steps, each once."""
    fields = (value for step in steps for value in vars(step).values())
    return tuple(dict.fromkeys(value for value in fields if isinstance(value, Quantity)))


def fitted(steps: Steps, found: Mapping[Quantity, Numbers]) -> Steps:
    """Return steps with numbers for the quantities that are found; the others stay quantities."""

    def known(value: Known) -> Known:
        return found.get(value, value) if isinstance(value, Quantity) else value

    return tuple(step.fitted(known) for step in steps)  # type: ignore[arg-type]


def processed(steps: Steps, images: Floats) -> Floats:
    """Return what steps make of images (B, C, ...) float32, in the same shape and type."""
    for step in steps:
        images = step(images)
    return images


def maps_back(steps: Steps) -> bool:
    """Return whether post-processing brings images to a range of its own: it scales last by what is no normalisation.

    Examples
    --------
    >>> by_mean = Scaling(Quantity("mean"), Quantity("std"))
    >>> maps_back((by_mean.inverse,)), maps_back((by_mean, Casting("float32"))), maps_back(())
    (True, False, False)
    """
    ranges = [step for step in steps if isinstance(step, Scaling | Binarising | Squashing)]
    return bool(ranges) and isinstance(ranges[-1], Scaling) and ranges[-1].is_back


def way_back(steps: Steps) -> Steps:
    """Return what undoes the normalisation of pre-processing: the inverse of each scaling, the last one first."""
    return tuple(step.inverse for step in reversed(steps) if isinstance(step, Scaling))


def measured(samples: Sequence[npt.NDArray[Any]], wanted: Iterable[Quantity]) -> dict[Quantity, Numbers]:
    """Return quantities of a sample of each channel, (N,) in any numeric type.

    Values that are not finite do not count.
    """
    finite = [one[np.isfinite(one)] if one.dtype.kind == "f" else one for one in samples]
    joint = np.concatenate(finite) if any(one.together for one in wanted) and len(finite) > 1 else finite[0]
    return {
        one: (_measured(joint, one),) if one.together else tuple(_measured(values, one) for values in finite)
        for one in wanted
    }


def _measured(values: npt.NDArray[Any], wanted: Quantity) -> float:
    if not values.size:
        return 0.0
    if wanted.kind == "quantile":
        return float(np.quantile(values, wanted.share, method=wanted.method))
    mean = float(values.mean(dtype=np.float64))
    if wanted.kind == "mean":
        return mean
    return float(
        np.sqrt(sum(float(((part - mean) ** 2).sum(dtype=np.float64)) for part in _parts(values)) / len(values))
    )


def _parts(values: npt.NDArray[Any]) -> Iterator[npt.NDArray[np.float64]]:
    """Yield values in parts, so that no array of all of them in float64 is made."""
    for first in range(0, len(values), 2**20):
        yield values[first : first + 2**20].astype(np.float64)


def _along(numbers: Known, images: Floats) -> Any:
    """Return numbers so that they apply to the channels of images (B, C, ...)."""
    if isinstance(numbers, Quantity):
        raise TypeError(f"{numbers} is not known yet")
    values = np.asarray(numbers, np.float32)
    return values.reshape(-1, *(1,) * (images.ndim - 2))
