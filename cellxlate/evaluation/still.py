"""A still scene, taken several times: what changes from frame to frame is noise, and what was made of it."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Frame = tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[np.bool_]]
"""Input and output in counts, and the pixels that were selected, all (Y, X)."""


@dataclass(frozen=True)
class Steadiness:
    """How alike the frames of a still scene come out.

    Attributes
    ----------
    frames : int
        How many there are.
    ever, unsteady : int
        Pixels that are selected in any frame; those of them that are not selected in every frame.
    variances : tuple of float
        Summed over the pixels that are selected in every frame: variance along the frames of the input and of the
        output, in counts^2.
    """

    frames: int
    ever: int
    unsteady: int
    variances: tuple[float, float]

    @property
    def percent(self) -> float:
        """Share of the ever-selected pixels that are not selected every time, in percent; NaN where there are none."""
        return 100 * self.unsteady / self.ever if self.ever else math.nan

    @property
    def noise_left(self) -> float:
        """Jitter of the output over that of the input where every frame is selected; NaN where there is none."""
        before, after = self.variances
        return math.sqrt(after / before) if before > 0 else math.nan

    def as_dict(self) -> dict[str, float]:
        """Return plain values for JSON."""
        return {
            "percent": self.percent, "ever_selected": self.ever, "unsteady": self.unsteady,
            "noise_left": self.noise_left, "frames": self.frames,
        }  # fmt: skip


def steadiness(frames: Iterable[Frame]) -> Steadiness:
    """Return how alike the frames of a still scene come out; a frame is held at a time.

    Parameters
    ----------
    frames : iterable of (ndarray (Y, X), ndarray (Y, X), ndarray of bool (Y, X))
        Input and output in counts, and where attention selects. At least two, of one size.

    Examples
    --------
    >>> raw = np.array([[1, 5, 9]])
    >>> once, twice = np.array([[True, True, False]]), np.array([[False, True, False]])
    >>> steadiness([(raw, raw, once), (raw, raw, twice)]).percent
    50.0
    """
    count = 0
    for raw, enhanced, selected in frames:
        if not count:
            first = raw.astype(np.float64), enhanced.astype(np.float64)
            times = np.zeros(selected.shape, np.int64)
            sums, squares = np.zeros((2, *selected.shape)), np.zeros((2, *selected.shape))
        count += 1
        times += selected
        for part, (image, start) in enumerate(zip((raw, enhanced), first, strict=True)):
            departure = image - start  # of the first frame: the variance of large counts would be lost in their squares
            sums[part] += departure
            squares[part] += departure**2
    variance = (squares - sums**2 / count) / max(count - 1, 1)
    always = (times == count) & np.isfinite(variance).all(axis=0)
    before, after = variance[:, always].sum(axis=1)
    return Steadiness(
        frames=count,
        ever=int(np.count_nonzero(times)),
        unsteady=int(np.count_nonzero((times > 0) & (times < count))),
        variances=(max(float(before), 0.0), max(float(after), 0.0)),
    )


def together(parts: Sequence[Steadiness]) -> Steadiness | None:
    """Return what several scenes give together, their pixels counted alike; None where there is none."""
    if not parts:
        return None
    return Steadiness(
        frames=sum(one.frames for one in parts),
        ever=sum(one.ever for one in parts),
        unsteady=sum(one.unsteady for one in parts),
        variances=(sum(one.variances[0] for one in parts), sum(one.variances[1] for one in parts)),
    )
