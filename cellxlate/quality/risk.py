"""A judge without truth: how far outputs lie from the image without noise, told from the noisy image and its noise.

`estimate_risks` asks every candidate twice, for the plane plus and minus a little more noise of the kind that it holds
already. What an output follows of that noise it follows of the plane's own, and that part of its distance to the plane
is no merit.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage, signal

from cellxlate.errors import OptionError
from cellxlate.stacks.camera import CameraNoise

__all__ = ["CLASSICAL", "INPUT", "Candidate", "Ranking", "Risk", "estimate_risks"]

Plane = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Candidate = Callable[[Plane], npt.NDArray[Any]]
"""Turns a plane (Y, X) of counts into another of the same shape, also in counts."""

INPUT = "input"
GAUSSIANS_PX = (0.5, 0.7, 1.0, 1.5, 2.0, 3.0)
LINEAR = (INPUT, *(f"gaussian {sigma_px:g}" for sigma_px in GAUSSIANS_PX))
STRENGTH, DRAWS = 0.25, 2
BLOCK_PX, LEVEL_PX = 32, 2.0
FEWEST_BLOCKS, MOST_SATURATED = 12, 0.01
MOST_SHIFTED = 0.15
MOST_DB, SURE_ERRORS = 60.0, 2.0


def _quoted(name: str) -> str:
    return f"\N{LEFT DOUBLE QUOTATION MARK}{name}\N{RIGHT DOUBLE QUOTATION MARK}"


def _listed(parts: Sequence[str]) -> str:
    return ", ".join(parts[:-1]) + (" and " if len(parts) > 1 else "") + "".join(parts[-1:])


def _gaussian(sigma_px: float) -> Candidate:
    return lambda plane: np.asarray(ndimage.gaussian_filter(plane, sigma_px, mode="reflect"))


CLASSICAL: Mapping[str, Candidate] = {
    INPUT: lambda plane: plane,
    **{f"gaussian {sigma_px:g}": _gaussian(sigma_px) for sigma_px in GAUSSIANS_PX},
    "median 3": lambda plane: np.asarray(ndimage.median_filter(plane, 3, mode="reflect")),
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
    """

    risks: tuple[Risk, ...]
    trusted: bool
    doubt: str = ""
    errors_db: tuple[tuple[float, ...], ...] = ()

    @property
    def best(self) -> Risk:
        """The candidate with the least estimated error."""
        return self.risks[0]

    def better(self, name: str, other: str) -> tuple[float, float]:
        """Return by how many dB the first is better than the other, and the standard error of that.

        Raises
        ------
        OptionError
            No candidate has that name.
        """
        first, second = self._place(name), self._place(other)
        return self.risks[first].gain_db - self.risks[second].gain_db, self.errors_db[first][second]

    def stated(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        candidates = [{"name": one.name, "gain_db": one.gain_db, "error_db": one.error} for one in self.risks]
        return {"trusted": self.trusted, "doubt": self.doubt, "candidates": candidates}

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
    candidates: Mapping[str, Candidate],
    *,
    inside: Sequence[npt.NDArray[np.bool_]] | None = None,
    seed: int = 0,
    strength: float = STRENGTH,
    draws: int = DRAWS,
) -> Ranking:
    """Rank candidates by their distance to the image without noise, which nobody has.

    Parameters
    ----------
    planes : sequence of ndarray (Y, X)
        Counts, of one kind of image: one gain and offset is fitted to all. A few windows of 256 px will do.
    noises : sequence of CameraNoise
        Of each plane.
    candidates : mapping of str to callable
        By name, in addition to `CLASSICAL`. Each gets float32 counts and must give the same output for the same plane.
    inside : sequence of ndarray of bool (Y, X), optional
        Where the error counts; everywhere by default.
    seed : int
        Of the noise that is drawn; the same for every candidate.
    strength : float
        Standard deviation of the noise that is added, over that of the plane's own.
    draws : int
        How often noise is drawn. Each costs two calls of every candidate on every plane.

    Returns
    -------
    Ranking
        Not trusted, with all errors 0, where the planes show no noise.

    Raises
    ------
    OptionError
        There is no plane, numbers of planes, noises and masks differ, or a candidate changes a plane's shape.

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
    asked = {**CLASSICAL, **candidates}
    parts = [
        _sums(
            np.asarray(plane), noise, asked, None if inside is None else inside[place],
            rng=np.random.default_rng([seed, place]), strength=strength, draws=draws,
        )
        for place, (plane, noise) in enumerate(zip(planes, noises, strict=True))
    ]  # fmt: skip
    return _ranking(_Sums.together(parts), noises)


@dataclass(frozen=True)
class _Sums:
    """Sums over the judged pixels of each block (blocks,), and of each candidate and block; counts less a constant.

    `square` is of f², `first` of f, `product` of f y, `follows` of z (f+ - f-) / 2 a, `spread` of (f+ - f-)² / 4 a².
    """

    names: tuple[str, ...]
    saturated: float
    """Share of the judged pixels that could hold no more."""
    pixels: Floats
    plane: Floats
    plane_square: Floats
    variance: Floats
    square: Floats  # (candidates, blocks), as all below
    first: Floats
    product: Floats
    follows: Floats
    spread: Floats

    @classmethod
    def together(cls, parts: Sequence["_Sums"]) -> "_Sums":
        def joined(name: str) -> Floats:
            return np.concatenate([getattr(part, name) for part in parts], axis=-1)

        return cls(
            parts[0].names, max(part.saturated for part in parts), joined("pixels"), joined("plane"),
            joined("plane_square"), joined("variance"), joined("square"), joined("first"), joined("product"),
            joined("follows"), joined("spread"),
        )  # fmt: skip


def _sums(
    counts: npt.NDArray[Any],
    noise: CameraNoise,
    candidates: Mapping[str, Candidate],
    inside: npt.NDArray[np.bool_] | None,
    *,
    rng: np.random.Generator,
    strength: float,
    draws: int,
) -> _Sums:
    finite = np.isfinite(counts)
    judged = finite if inside is None else finite & inside
    full = np.zeros(counts.shape, bool) if noise.saturation_counts is None else counts >= noise.saturation_counts
    saturated = float(full[judged].mean()) if judged.any() else 0.0
    judged = judged & ~full
    offset = float(np.median(counts[finite])) if finite.any() else 0.0
    plane = np.where(finite, counts, offset).astype(np.float32)
    level = ndimage.gaussian_filter(plane, LEVEL_PX, mode="reflect")
    spread = np.sqrt(noise.sd_counts**2 + noise.gain * np.maximum(level - noise.black_counts, 0.0))
    own = plane - np.float64(offset)
    blocks = _Blocks(judged)
    found: dict[str, list[Floats]] = {name: [] for name in candidates}
    kernel = noise.kernel()
    for _ in range(draws):
        drawn = spread * signal.fftconvolve(rng.standard_normal([size + 8 for size in plane.shape]), kernel, "valid")
        noisier = (plane + strength * drawn).astype(np.float32), (plane - strength * drawn).astype(np.float32)
        for name, candidate in candidates.items():
            up, down = (_asked(candidate, one, name) - offset for one in noisier)
            middle, change = (up + down) / 2, (up - down) / (2 * strength)
            terms = (up**2 + down**2) / 2, middle, middle * own, drawn * change, change**2
            found[name].append(np.stack([blocks.sums(term) for term in terms]))
    means = np.stack([np.mean(found[name], axis=0) for name in candidates], axis=1)  # (5, candidates, blocks)
    return _Sums(
        tuple(candidates), saturated, blocks.pixels, blocks.sums(own), blocks.sums(own**2), blocks.sums(spread**2),
        *means,
    )  # fmt: skip


def _asked(candidate: Candidate, plane: Plane, name: str) -> Floats:
    output = np.asarray(candidate(plane), dtype=np.float64)
    if output.shape != plane.shape:
        raise OptionError(f"candidate {name!r} gave an output of {output.shape} for a plane of {plane.shape} px")
    return output


class _Blocks:
    """Blocks of 32 px of a plane that hold judged pixels."""

    def __init__(self, judged: npt.NDArray[np.bool_]) -> None:
        rows, columns = (np.arange(size) // BLOCK_PX for size in judged.shape)
        self._number = (rows[:, None] * (columns[-1] + 1 if len(columns) else 1) + columns)[judged]
        self._judged = judged
        pixels = np.bincount(self._number)
        self._kept = pixels > 0
        self.pixels: Floats = pixels[self._kept].astype(np.float64)

    def sums(self, values: npt.NDArray[Any]) -> Floats:
        """Return the sum over the judged pixels of each block."""
        sums = np.bincount(self._number, values[self._judged], len(self._kept))
        return np.asarray(sums[self._kept], dtype=np.float64)


@dataclass(frozen=True)
class _Losses:
    """Estimated squared error: sums (candidates, blocks), means (candidates,), and what of these the noise makes."""

    blocks: Floats
    mse: Floats
    made_by_noise: Floats


def _losses(sums: _Sums, variance_times: float = 1.0) -> _Losses:
    """Return what is left after the best gain and offset, if the noise has so many times the variance measured."""
    pixels = sums.pixels.sum()

    def mean(values: Floats) -> Floats:
        return np.asarray(values.sum(axis=-1) / pixels)

    first, plane = mean(sums.first), mean(sums.plane)
    follows = variance_times * sums.follows
    own_square = mean(sums.square) - first**2
    shared = mean(sums.product) - mean(follows) - first * plane
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = np.where(own_square > 0, np.maximum(shared, 0.0) / own_square, 0.0)[:, None]
    offset = plane - gain * first[:, None]
    blocks = (
        gain**2 * sums.square + 2 * gain * offset * sums.first + offset**2 * sums.pixels
        - 2 * gain * (sums.product - follows) - 2 * offset * sums.plane + sums.plane_square
        - variance_times * sums.variance
    )  # fmt: skip
    return _Losses(blocks, mean(blocks), gain[:, 0] ** 2 * variance_times * mean(sums.spread))


def _decibels(sums: _Sums, variance_times: float = 1.0) -> tuple[Floats, Floats, float]:
    """Return level in dB per candidate, its share per block (sums to 0), and what was added to every error.

    No error is less than what the noise makes of it. Where estimates say so, the noise was taken for too strong, and
    the same is added to all, which leaves differences as they are. What linear filters make of noise is known exactly,
    what others do is taken by half: a median follows a little noise more than it follows all of it.
    """
    losses = _losses(sums, variance_times)
    variance = float(sums.variance.sum() / sums.pixels.sum())
    certain = np.array([1.0 if name in LINEAR else 0.0 if name in CLASSICAL else 0.5 for name in sums.names])
    added = max(float((certain * losses.made_by_noise - losses.mse).max()), 0.0)
    mse = np.maximum(losses.mse + added, 10 ** (-MOST_DB / 10) * variance)
    shares = (losses.blocks + added * sums.pixels) / mse[:, None] - sums.pixels * ((losses.mse + added) / mse)[:, None]
    return -10 * np.log10(mse), -10 / math.log(10) * shares / sums.pixels.sum(), added / variance


def _ranking(sums: _Sums, noises: Sequence[CameraNoise]) -> Ranking:
    if not sums.pixels.sum() or not sums.variance.sum() > 0:
        return _nothing(sums.names)
    level, shares, added = _decibels(sums)
    blocks = len(sums.pixels)
    scatter = (shares[:, None, :] - shares[None, :, :]) ** 2
    squared = scatter.sum(axis=2) * blocks / max(blocks - 1, 1)
    ends = [_decibels(sums, times)[0] for times in _interval(noises)]
    half = np.abs((ends[1][:, None] - ends[1]) - (ends[0][:, None] - ends[0])) / 2
    errors = np.sqrt(squared + half**2)
    order = np.argsort(-level, kind="stable")
    mse, at_input = _losses(sums).mse, sums.names.index(INPUT)
    risks = tuple(
        Risk(sums.names[one], float(mse[one]), float(level[one] - level[at_input]), float(errors[one, at_input]))
        for one in order
    )
    doubt = _doubt(sums, noises, added, ends, order)
    table = tuple(tuple(float(errors[one, other]) for other in order) for one in order)
    return Ranking(risks, not doubt, doubt, table)


def _nothing(names: Sequence[str]) -> Ranking:
    risks = tuple(Risk(name, 0.0, 0.0, 0.0) for name in names)
    return Ranking(risks, False, "no noise was found to judge by", ((0.0,) * len(names),) * len(names))


def _interval(noises: Sequence[CameraNoise]) -> tuple[float, float]:
    """Return by what the variance would be multiplied at the lower and the upper end of the sd's interval."""
    known = [noise for noise in noises if noise.sd_counts > 0]
    low = min(noise.sd_interval[0] / noise.sd_counts for noise in known)
    high = max(noise.sd_interval[1] / noise.sd_counts for noise in known)
    return min(low, 1.0) ** 2, max(high, 1.0) ** 2


def _doubt(
    sums: _Sums, noises: Sequence[CameraNoise], added: float, ends: Sequence[Floats], order: npt.NDArray[np.intp]
) -> str:
    """Return why nothing should be decided by a ranking; empty where nothing speaks against it."""
    if not all(noise.reliable for noise in noises):
        return "no place without structure was found, so structure may have been taken for noise"
    if len(sums.pixels) < FEWEST_BLOCKS:
        return (
            f"{len(sums.pixels)} blocks of {BLOCK_PX} px are too few to judge by, which takes {FEWEST_BLOCKS} at least"
        )
    if sums.saturated > MOST_SATURATED:
        return f"{sums.saturated:.0%} of the pixels are saturated, where noise cannot be told"
    if added > MOST_SHIFTED:
        return "the noise was taken for stronger than the outputs show it to be, so structure may count as noise"
    if {int(end.argmax()) for end in ends} != {int(order[0])}:
        return "the noise is not known well enough: at the ends of its interval another candidate is the best"
    return ""
