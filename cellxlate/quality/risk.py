"""A judge without truth: how far outputs lie from the image without noise, told from the noisy image and its noise.

`estimate_risks` asks every candidate twice, for the plane plus and minus a little more noise of the kind that it holds
already. What an output follows of that noise it follows of the plane's own, and that part of its distance to the plane
is no merit.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from cellxlate.errors import OptionError
from cellxlate.quality.error_sums import (
    BLOCK_PX,
    LEVEL_PX,
    SIGNAL_BINS,
    Candidate,
    ErrorSums,
    Floats,
    error_sums,
    smoothed,
    squared_errors,
    variance_times,
)
from cellxlate.stacks.intensity.noise_model import CameraNoise

__all__ = ["CLASSICAL", "INPUT", "Candidate", "Ranking", "Risk", "estimate_risks"]

INPUT = "input"
GAUSSIANS_PX = (0.5, 0.7, 1.0, 1.5, 2.0, 3.0)
UNSTEADY = ("median 3",)
"""What follows a little noise otherwise than all of it."""
STRENGTH = 0.25
RANGE_PERCENTILES, SKEW, SEEN, BRIGHT_SHARE = (0.5, 50.0, 99.5), 2.0, 5.0, 0.25
FEWEST_BLOCKS, MOST_SATURATED = 12, 0.01
MOST_SHIFTED, MOST_REGRET_DB = 0.15, 0.3
VARIANCE_ERROR, LEAST_ERROR_DB = 0.06, 0.05
"""What the variance may be off by once it is fitted; below the other nothing is told apart. Of fields of our own."""
MOST_DB, SURE_ERRORS = 60.0, 2.0
MOST_STATED, MOST_STATED_DB = 64, 1e6


def _quoted(name: str) -> str:
    return f"\N{LEFT DOUBLE QUOTATION MARK}{name}\N{RIGHT DOUBLE QUOTATION MARK}"


def _finite(value: Any) -> float:
    """Return a finite number; ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MOST_STATED_DB:
        raise ValueError(f"{value!r} is no number of dB")
    return float(value)


def _listed(parts: Sequence[str]) -> str:
    return ", ".join(parts[:-1]) + (" and " if len(parts) > 1 else "") + "".join(parts[-1:])


CLASSICAL: Mapping[str, Candidate] = {
    INPUT: lambda plane: plane,
    **{f"gaussian {width:g}": partial(ndimage.gaussian_filter, sigma=width, mode="reflect") for width in GAUSSIANS_PX},
    "median 3": partial(ndimage.median_filter, size=3, mode="reflect"),
}
"""Candidates that always take part: the input itself, Gaussians by their width in px, a median of 3 x 3 px."""


@dataclass(frozen=True)
class Risk:
    """How far one candidate is from the image without noise.

    Attributes
    ----------
    name : str
        Of the candidate.
    mse : float
        Estimated mean squared distance, in counts squared, after the best gain and offset. May be slightly negative.
    gain_db : float
        By how much it is less than the input's, in dB; more is better, 0 for the input.
    error : float
        Standard error of `gain_db`, what the noise's interval adds included; 0 for the input.
    """

    name: str
    mse: float
    gain_db: float
    error: float


@dataclass(frozen=True)
class Ranking:
    """Candidates in the order of their estimated error.

    Attributes
    ----------
    risks : tuple of Risk
        Best first.
    trusted : bool
        Whether something may be decided by it.
    doubt : str
        Why not; empty where it is trusted.
    errors_db : tuple of tuple of float
        Standard error of the difference in dB of any two, in the order of `risks`.
    sureness : tuple of tuple of float
        By how many of its standard errors the squared error of each is less than that of every other.
    """

    risks: tuple[Risk, ...]
    trusted: bool
    doubt: str = ""
    errors_db: tuple[tuple[float, ...], ...] = ()
    sureness: tuple[tuple[float, ...], ...] = ()

    def better(self, name: str, other: str) -> tuple[float, float]:
        """Return by how many dB the first is better than the other, and the standard error of that.

        Raises
        ------
        OptionError
            No candidate has that name.
        """
        first, second = self._place(name), self._place(other)
        return self.risks[first].gain_db - self.risks[second].gain_db, self.errors_db[first][second]

    def surely_better(self, name: str, other: str) -> float:
        """Return by how many standard errors the squared error of the first is less than the other's.

        Whatever the noise is taken for, it is much the same for both. So the sign of their difference is surer than its
        size in dB, which for outputs that are nearly right is a ratio of small differences of large numbers.

        Raises
        ------
        OptionError
            No candidate has that name.
        """
        return self.sureness[self._place(name)][self._place(other)]

    def stated(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        candidates = [{"name": one.name, "gain_db": one.gain_db, "error_db": one.error} for one in self.risks]
        errors = [list(row) for row in self.errors_db]
        return {"trusted": self.trusted, "doubt": self.doubt, "candidates": candidates, "errors_db": errors}

    @classmethod
    def from_stated(cls, stated: Any) -> "Ranking | None":
        """Return a ranking from what `stated` gave, without the errors in counts; None from anything else."""
        try:
            risks = tuple(
                Risk(str(one["name"]), math.nan, _finite(one["gain_db"]), _finite(one["error_db"]))
                for one in stated["candidates"][:MOST_STATED]
            )
            errors = tuple(tuple(_finite(error) for error in row[: len(risks)]) for row in stated["errors_db"])
            trusted, doubt = stated["trusted"] is True, str(stated["doubt"])
        except (KeyError, TypeError, ValueError, IndexError, AttributeError):
            return None
        square = len(errors) == len(risks) and all(len(row) == len(risks) for row in errors)
        return cls(risks, trusted, doubt, errors) if risks and square else None

    def words(self, name: str | None = None) -> str:
        """Return one sentence: how much better one candidate is than the models and the best filter, or why not told.

        Parameters
        ----------
        name : str, optional
            The candidate that was taken; the best by default, and where no candidate has the name.
        """
        if not self.trusted:
            return f"Without a truth it cannot be told which is best: {self.doubt}."
        names = [risk.name for risk in self.risks]
        chosen = name if name in names else names[0]
        models = [other for other in names if other not in CLASSICAL and other != chosen]
        filters = [other for other in names if other in CLASSICAL and other not in (INPUT, chosen)]
        others = [*models, *filters[:1], *([INPUT] if chosen in CLASSICAL and chosen != INPUT else [])]
        return (
            f"Without a truth: {_quoted(chosen)} is estimated {_listed([self._than(chosen, one) for one in others])}."
        )

    def _than(self, name: str, other: str) -> str:
        """Return how one compares with another, in words; what is below two standard errors is not told apart."""
        gain, error = self.better(name, other)
        than = (
            "the input" if other == INPUT else f"the best filter ({other} px)" if other in CLASSICAL else _quoted(other)
        )
        if abs(gain) < SURE_ERRORS * error:
            return f"as good as {than}, as far as can be told ({gain:+.1f} ± {error:.1f} dB)"
        return f"{abs(gain):.1f} dB {'better' if gain > 0 else 'worse'} than {than}"

    def _place(self, name: str) -> int:
        names = [risk.name for risk in self.risks]
        if name not in names:
            raise OptionError(f"no candidate is called {name!r}; the ranking holds {', '.join(names)}")
        return names.index(name)


def estimate_risks(
    planes: Sequence[npt.NDArray[Any]],
    noises: Sequence[CameraNoise],
    candidates: Mapping[str, Candidate] | Sequence[Mapping[str, Candidate]],
    *,
    inside: Sequence[npt.NDArray[np.bool_]] | None = None,
    seed: int = 0,
    strength: float = STRENGTH,
    known: bool = False,
) -> Ranking:
    """Rank candidates by their distance to the image without noise, which nobody has.

    Parameters
    ----------
    planes : sequence of ndarray (Y, X)
        Counts, of one kind of image: one gain and offset is fitted to all. A few windows of 256 px will do.
    noises : sequence of CameraNoise
        Of each plane.
    candidates : mapping of str to callable, or a sequence of those
        By name, in addition to `CLASSICAL`. Each gets float32 counts and must give the same output for the same plane.
        A sequence holds those of each plane, of the same names: what a candidate knows beside the plane (planes beside
        it, whose noise is their own) may differ then.
    inside : sequence of ndarray of bool (Y, X), optional
        Where the error counts: best where attention selects. By default where smoothed planes are brighter than a
        quarter of their range, if only bright parts stand out; otherwise everywhere.
    seed : int
        Of the noise that is drawn; the same for every candidate.
    strength : float
        Standard deviation of the noise that is added, over that of the plane's own. It is drawn once, which costs two
        calls of every candidate on every plane.
    known : bool
        Whether the noises are exact. Otherwise what filters take away tells gain and variance once more, which is
        right where little is bright, and a little too much where structure is as fine as noise.

    Returns
    -------
    Ranking
        Not trusted, with all errors 0, where the planes show no noise.

    Raises
    ------
    OptionError
        There is no plane, numbers of planes, noises, masks and candidates differ, or a candidate changes a plane's
        shape.

    Notes
    -----
    With y = x + n, z drawn as n is, and a the strength, the mean over both signs of |f(y ± a z) - (y ∓ z / a)|² is
    E |f - x|² at 1 + a² times the noise, plus a constant, for any f: y + a z and y - z / a have independent noise
    (recorruption, Pang et al. 2021). Written out, what is large in 1 / a cancels between the signs:

        mean of |f(y ± a z) - y|²  +  z · (f(y + a z) - f(y - a z)) / a  -  |n|²

    Small a gives Stein's estimate by Monte Carlo (Ramani et al. 2008), with correlated noise in place of white.

    References
    ----------
    T. Pang et al., "Recorrupted-to-Recorrupted", CVPR 2021. doi:10.1109/CVPR46437.2021.00208
    S. Ramani, T. Blu, M. Unser, "Monte-Carlo SURE", IEEE TIP 17, 2008. doi:10.1109/TIP.2008.2001404
    """
    if not planes or len(planes) != len(noises) or (inside is not None and len(inside) != len(planes)):
        raise OptionError(
            f"{len(planes)} planes, {len(noises)} noises{'' if inside is None else f', {len(inside)} masks'}; give at "
            "least one plane, and one of each for every plane"
        )
    own = [candidates] * len(planes) if isinstance(candidates, Mapping) else candidates
    if len(own) != len(planes) or any(one.keys() != own[0].keys() for one in own):
        raise OptionError(f"candidates of {len(own)} planes for {len(planes)}; give the same names for every plane")
    planes = [np.asarray(plane) for plane in planes]
    counted = _bright(planes, noises) if inside is None else inside
    pairs = list(zip(planes, noises, strict=True))
    brightest = max(float(smoothed(plane).max(initial=0.0)) - noise.black_counts for plane, noise in pairs)
    parts = [
        error_sums(
            plane, noise, {**CLASSICAL, **own[number]}, counted[number], brightest=brightest,
            rng=np.random.default_rng([seed, number]), strength=strength,
        )
        for number, (plane, noise) in enumerate(pairs)
    ]  # fmt: skip
    return _ranking(ErrorSums.together(parts), noises, known=known)


def _bright(planes: Sequence[npt.NDArray[Any]], noises: Sequence[CameraNoise]) -> list[npt.NDArray[np.bool_]]:
    """Return where planes are brighter than a quarter of the range that they have in common, if bright parts stand out.

    Most of a field is background, where a filter may do what it likes to noise; what people look at is not. Where dark
    parts stand out as well, as in bright field, or nothing does, all pixels count.
    """
    smooth = [smoothed(plane) for plane in planes]
    low, middle, high = np.percentile(np.concatenate([level.ravel() for level in smooth]), RANGE_PERCENTILES)
    noise = max(noise.after_smoothing(LEVEL_PX) for noise in noises)
    if high - middle < max(SKEW * (middle - low), SEEN * noise):
        return [np.ones(plane.shape, bool) for plane in planes]
    return [level > low + BRIGHT_SHARE * (high - low) for level in smooth]


def _decibels(sums: ErrorSums, times: Floats) -> tuple[Floats, Floats, float]:
    """Return level in dB per candidate, its share per block (sums to 0), and what was added to every error.

    No error is less than what the noise makes of it. Where estimates say so, the noise was taken for too strong, and
    the same is added to all, which leaves differences as they are. What linear filters make of noise is known exactly,
    what others do is taken by half: a median follows a little noise more than it follows all of it.
    """
    losses = squared_errors(sums, times)
    certain = np.array([0.0 if name in UNSTEADY else 1.0 if name in CLASSICAL else 0.5 for name in sums.names])
    added = max(float((certain * losses.made_by_noise - losses.mse).max()), 0.0)
    mse = np.maximum(losses.mse + added, 10 ** (-MOST_DB / 10) * losses.variance)
    shares = (losses.blocks + added * sums.pixels) / mse[:, None] - sums.pixels * ((losses.mse + added) / mse)[:, None]
    return -10 * np.log10(mse), -10 / math.log(10) * shares / sums.pixels.sum(), added / losses.variance


def _ranking(sums: ErrorSums, noises: Sequence[CameraNoise], *, known: bool) -> Ranking:
    if not sums.pixels.sum() or not sums.variance.sum() > 0:
        equal = tuple(Risk(name, 0.0, 0.0, 0.0) for name in sums.names)
        none = ((0.0,) * len(equal),) * len(equal)
        return Ranking(equal, False, "no noise was found to judge by", none, none)
    times, times_error = np.ones(SIGNAL_BINS), np.zeros(SIGNAL_BINS)
    if not known:
        times, times_error = variance_times(sums, _interval(noises))
    level, shares, added = _decibels(sums, times)
    blocks = len(sums.pixels)
    scatter = (shares[:, None, :] - shares[None, :, :]) ** 2
    squared = scatter.sum(axis=2) * blocks / max(blocks - 1, 1)
    sure = all(noise.reliable for noise in noises)
    low, high = (1 - VARIANCE_ERROR, 1 + VARIANCE_ERROR) if sure else _interval(noises)
    ends_times = [np.maximum(factor * times + sign * 2 * times_error, 0.0) for factor, sign in ((low, -1), (high, 1))]
    ends = [_decibels(sums, one)[0] for one in ends_times]
    half = np.abs((ends[1][:, None] - ends[1]) - (ends[0][:, None] - ends[0])) / 4
    errors = np.sqrt(squared + half**2 + LEAST_ERROR_DB**2)
    np.fill_diagonal(errors, 0.0)
    order = np.argsort(-level, kind="stable")
    mse, at_input = squared_errors(sums, times).mse, sums.names.index(INPUT)
    risks = tuple(
        Risk(sums.names[one], float(mse[one]), float(level[one] - level[at_input]), float(errors[one, at_input]))
        for one in order
    )
    regret = max(float(end.max() - end[order[0]]) for end in ends)
    doubt = _doubt(sums, noises, added, regret)
    table = tuple(tuple(float(errors[one, other]) for other in order) for one in order)
    sureness = _sureness(sums, times, ends_times)[np.ix_(order, order)]
    return Ranking(risks, not doubt, doubt, table, tuple(tuple(float(one) for one in row) for row in sureness))


def _sureness(sums: ErrorSums, times: Floats, ends: Sequence[Floats]) -> Floats:
    """Return by how many standard errors the squared error of each is less than each other's, (candidates,) twice."""
    losses, pixels = squared_errors(sums, times), sums.pixels

    def less(mse: Floats) -> Floats:
        return np.asarray(mse[None] - mse[:, None])

    difference = less(losses.mse)
    by_block = (losses.blocks[None] - losses.blocks[:, None]) - difference[:, :, None] * pixels
    blocks = len(pixels)
    squared = (by_block**2).sum(axis=2) / pixels.sum() ** 2 * blocks / max(blocks - 1, 1)
    half = (less(squared_errors(sums, ends[1]).mse) - less(squared_errors(sums, ends[0]).mse)) / 4
    error = np.sqrt(squared + half**2)
    return np.asarray(np.divide(difference, error, out=np.zeros_like(difference), where=error > 0))


def _interval(noises: Sequence[CameraNoise]) -> tuple[float, float]:
    """Return by what the variance would be multiplied at the lower and the upper end of the sd's interval."""
    known = [noise for noise in noises if noise.sd_counts > 0]
    low = min(noise.sd_interval[0] / noise.sd_counts for noise in known)
    high = max(noise.sd_interval[1] / noise.sd_counts for noise in known)
    return min(low, 1.0) ** 2, max(high, 1.0) ** 2


def _doubt(sums: ErrorSums, noises: Sequence[CameraNoise], added: float, regret_db: float) -> str:
    """Return why nothing should be decided by a ranking; empty where nothing speaks against it."""
    if not all(noise.reliable for noise in noises):
        return "no place without structure was found, so structure may have been taken for noise"
    if len(sums.pixels) < FEWEST_BLOCKS:
        return f"{len(sums.pixels)} blocks of {BLOCK_PX} px are too few to judge by; it takes {FEWEST_BLOCKS}"
    if sums.saturated > MOST_SATURATED:
        return f"{sums.saturated:.0%} of the pixels are saturated, where noise cannot be told"
    if added > MOST_SHIFTED:
        return "the noise was taken for stronger than the outputs show it to be, so structure may count as noise"
    if regret_db > MOST_REGRET_DB:
        return (
            "the noise is not known well enough: within what it may be, another candidate is better by "
            f"{regret_db:.1f} dB"
        )
    return ""
