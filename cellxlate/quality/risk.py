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
from cellxlate.stacks.intensity.camera_noise import CameraNoise

__all__ = ["CLASSICAL", "INPUT", "Candidate", "Ranking", "Risk", "estimate_risks"]

Plane = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Candidate = Callable[[Plane], npt.NDArray[Any]]
"""Turns a plane (Y, X) of counts into another of the same shape, also in counts."""

INPUT = "input"
GAUSSIANS_PX = (0.5, 0.7, 1.0, 1.5, 2.0, 3.0)
FITTED = ("gaussian 0.7", "gaussian 1", "gaussian 1.5")
UNSTEADY = ("median 3",)
"""What follows a little noise otherwise than all of it."""
STRENGTH, DRAWS = 0.25, 1
BLOCK_PX, LEVEL_PX = 32, 2.0
FINE_PX, SIGNAL_BINS, FEWEST_BIN_PX, SCATTER_OF_VARIANCE = 1.0, 8, 100, 8.0
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
    candidates: Mapping[str, Candidate],
    *,
    inside: Sequence[npt.NDArray[np.bool_]] | None = None,
    seed: int = 0,
    strength: float = STRENGTH,
    draws: int = DRAWS,
    known: bool = False,
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
        Where the error counts: best where attention selects. By default where smoothed planes are brighter than a
        quarter of their range, if only bright parts stand out; otherwise everywhere.
    seed : int
        Of the noise that is drawn; the same for every candidate.
    strength : float
        Standard deviation of the noise that is added, over that of the plane's own.
    draws : int
        How often noise is drawn. Each costs two calls of every candidate on every plane.
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
    planes = [np.asarray(plane) for plane in planes]
    counted = _bright(planes, noises) if inside is None else inside
    brightest = max(
        float(_level(plane).max(initial=0.0)) - noise.black_counts for plane, noise in zip(planes, noises, strict=True)
    )
    parts = [
        _sums(
            plane, noise, asked, counted[place], brightest=brightest,
            rng=np.random.default_rng([seed, place]), strength=strength, draws=draws,
        )
        for place, (plane, noise) in enumerate(zip(planes, noises, strict=True))
    ]  # fmt: skip
    return _ranking(_Sums.together(parts), noises, known=known)


def _bright(planes: Sequence[npt.NDArray[Any]], noises: Sequence[CameraNoise]) -> list[npt.NDArray[np.bool_]]:
    """Return where planes are brighter than a quarter of the range that they have in common, if bright parts stand out.

    Most of a field is background, where a filter may do what it likes to noise; what people look at is not. Where dark
    parts stand out as well, as in bright field, or nothing does, all pixels count.
    """
    smooth = [_level(plane) for plane in planes]
    low, middle, high = np.percentile(np.concatenate([level.ravel() for level in smooth]), RANGE_PERCENTILES)
    noise = max(noise.after_smoothing(LEVEL_PX) for noise in noises)
    if high - middle < max(SKEW * (middle - low), SEEN * noise):
        return [np.ones(plane.shape, bool) for plane in planes]
    return [level > low + BRIGHT_SHARE * (high - low) for level in smooth]


def _level(counts: npt.NDArray[Any]) -> Floats:
    """Return a plane without what is not finite, smoothed: where it is how bright."""
    finite = np.isfinite(counts)
    known = np.where(finite, counts, np.median(counts[finite]) if finite.any() else 0.0)
    return np.asarray(ndimage.gaussian_filter(known.astype(np.float64), LEVEL_PX, mode="reflect"))


@dataclass(frozen=True)
class _Sums:
    """Sums over the judged pixels of each block, of some by how bright it is there. Counts less a constant.

    `square` is of f², `first` of f, `product` of f y, `follows` of z (f+ - f-) / 2 a, `spread` of (f+ - f-)² / 4 a².
    Of fine detail, over all pixels: `left` of (y - f)², `expected` of the same if nothing but noise were left.
    """

    names: tuple[str, ...]
    saturated: float
    """Share of the judged pixels that could hold no more."""
    pixels: Floats  # (blocks,)
    plane: Floats
    plane_square: Floats
    square: Floats  # (candidates, blocks)
    first: Floats
    product: Floats
    at_black: Floats  # (blocks, bins): variance where nothing is
    signal: Floats  # (blocks, bins): counts above black
    variance: Floats  # (blocks, bins): as it was measured
    follows: Floats  # (candidates, blocks, bins)
    spread: Floats
    around: Floats  # (4, bins): pixels, at_black, signal, variance of all pixels
    left: Floats  # (candidates, bins)
    expected: Floats

    @classmethod
    def together(cls, parts: Sequence["_Sums"]) -> "_Sums":
        def joined(axis: int, *names: str) -> list[Floats]:
            return [np.concatenate([getattr(part, name) for part in parts], axis=axis) for name in names]

        return cls(
            parts[0].names, max(part.saturated for part in parts), *joined(0, "pixels", "plane", "plane_square"),
            *joined(1, "square", "first", "product"), *joined(0, "at_black", "signal", "variance"),
            *joined(1, "follows", "spread"),
            *(np.sum([getattr(part, name) for part in parts], axis=0) for name in ("around", "left", "expected")),
        )  # fmt: skip


def _sums(
    counts: npt.NDArray[Any],
    noise: CameraNoise,
    candidates: Mapping[str, Candidate],
    inside: npt.NDArray[np.bool_],
    *,
    brightest: float,
    rng: np.random.Generator,
    strength: float,
    draws: int,
) -> _Sums:
    finite = np.isfinite(counts)
    full = np.zeros(counts.shape, bool) if noise.saturation_counts is None else counts >= noise.saturation_counts
    judged = finite & inside
    saturated = float(full[judged].mean()) if judged.any() else 0.0
    offset = float(np.median(counts[finite])) if finite.any() else 0.0
    plane = np.where(finite, counts, offset).astype(np.float32)
    own = plane - np.float64(offset)
    above = np.maximum(_level(counts) - noise.black_counts, 0.0)
    at_black = np.full(plane.shape, noise.sd_counts**2)
    variance = at_black + noise.gain * above
    bins = np.minimum((above / max(brightest, 1e-30) * SIGNAL_BINS).astype(np.int64), SIGNAL_BINS - 1)
    groups, everywhere = _Groups(judged & ~full, bins), _Groups(finite & ~full, bins)
    sums: dict[str, Floats] = {}
    kernel = noise.kernel()
    for _ in range(draws):
        white = rng.standard_normal([size + kernel.shape[0] - 1 for size in plane.shape])
        drawn = np.sqrt(variance) * signal.fftconvolve(white, kernel, "valid")
        noisier = (plane + strength * drawn).astype(np.float32), (plane - strength * drawn).astype(np.float32)
        for name, candidate in candidates.items():
            up, down = (_asked(candidate, one, name) - offset for one in noisier)
            middle, change = (up + down) / 2, (up - down) / (2 * strength)
            terms = (up**2 + down**2) / 2, middle, middle * own, drawn * change, change**2
            of_blocks = np.stack([groups.sums(one) for one in terms])
            of_all = np.stack([everywhere.sums(_fine(one) ** 2) for one in (own - middle, drawn - change)])
            found = np.concatenate([of_blocks.reshape(-1), of_all.sum(axis=1).reshape(-1)]) / draws
            sums[name] = sums[name] + found if name in sums else found
    table = np.stack([sums[name] for name in candidates])  # (candidates, values)
    split = 5 * len(groups) * SIGNAL_BINS
    square, first, product, follows, spread = np.moveaxis(
        table[:, :split].reshape(len(candidates), 5, len(groups), SIGNAL_BINS), 1, 0
    )
    left, expected = np.moveaxis(table[:, split:].reshape(len(candidates), 2, SIGNAL_BINS), 1, 0)
    ones = np.ones(plane.shape)
    around = np.stack([everywhere.sums(one).sum(axis=0) for one in (ones, at_black, above, variance)])
    of_pixels, of_plane, of_square = (groups.sums(one).sum(axis=1) for one in (ones, own, own**2))
    return _Sums(
        tuple(candidates), saturated, of_pixels, of_plane, of_square, square.sum(axis=2), first.sum(axis=2),
        product.sum(axis=2), groups.sums(at_black), groups.sums(above), groups.sums(variance), follows, spread, around,
        left, expected,
    )  # fmt: skip


def _fine(plane: Floats) -> Floats:
    """Return what a Gaussian of 1 px removes: nearly all noise, hardly any structure."""
    return np.asarray(plane - ndimage.gaussian_filter(plane, FINE_PX, mode="reflect"))


def _asked(candidate: Candidate, plane: Plane, name: str) -> Floats:
    output = np.asarray(candidate(plane), dtype=np.float64)
    if output.shape != plane.shape:
        raise OptionError(f"candidate {name!r} gave an output of {output.shape} for a plane of {plane.shape} px")
    return output


class _Groups:
    """Pixels of a plane by blocks of 32 px, those without any left out, and by bins of brightness."""

    def __init__(self, chosen: npt.NDArray[np.bool_], bins: npt.NDArray[np.int64]) -> None:
        rows, columns = (np.arange(size) // BLOCK_PX for size in chosen.shape)
        block = (rows[:, None] * (columns[-1] + 1 if len(columns) else 1) + columns)[chosen]
        self._kept, self._block = np.unique(block, return_inverse=True)
        self._number = self._block * SIGNAL_BINS + bins[chosen]
        self._chosen = chosen

    def __len__(self) -> int:
        return len(self._kept)

    def sums(self, values: npt.NDArray[Any]) -> Floats:
        """Return the sum over the pixels of each block and bin."""
        sums = np.bincount(self._number, values[self._chosen], len(self) * SIGNAL_BINS)
        return np.asarray(sums, dtype=np.float64).reshape(len(self), SIGNAL_BINS)


def _variance_times(sums: _Sums, within: tuple[float, float]) -> tuple[Floats, Floats]:
    """Return by what the variance measured is to be multiplied in each bin of brightness, and its standard error.

    What `left` exceeds `expected` by is structure that a filter took away, so of linear filters, for which both are
    exact, the least ratio is nearest to the noise. Through the bins goes a line: a factor of the variance at black,
    `within` what was measured, and a gain, which may have been measured far too small where little is bright.
    """
    pixels, at_black, above, variance = sums.around
    filters = [place for place, name in enumerate(sums.names) if name in FITTED]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = (sums.left[filters] / sums.expected[filters]).min(axis=0)
    seen = (pixels >= FEWEST_BIN_PX) & np.isfinite(ratio) & (variance > 0)
    times, error = np.ones(SIGNAL_BINS), np.zeros(SIGNAL_BINS)
    if seen.sum() < 2:
        return times, error
    found, black, bright = (one[seen] / pixels[seen] for one in (ratio * variance, at_black, above))
    weight = pixels[seen] / found**2
    _, level = _line(bright / black, found / black, weight * black**2)
    level = float(np.clip(level, *within))
    lever = weight * bright**2
    gains = (found - level * black) / np.maximum(bright, 1e-300)
    gain = max(float((lever * gains).sum() / lever.sum()), 0.0)
    scatter = float(np.sqrt((lever * (gains - gain) ** 2).sum() / lever.sum() / (len(gains) - 1)))
    scatter = max(scatter, float(np.sqrt(SCATTER_OF_VARIANCE / lever.sum())))
    full = variance > 0
    times[full] = ((level * at_black + gain * above) / np.where(full, variance, 1.0))[full]
    error[full] = (scatter * above / np.where(full, variance, 1.0))[full]
    return times, error


def _line(across: Floats, up: Floats, weight: Floats) -> tuple[float, float]:
    """Return slope and value at 0 of the line that fits best."""
    total = weight.sum()
    middle, height = (weight * across).sum() / total, (weight * up).sum() / total
    square = (weight * (across - middle) ** 2).sum()
    slope = float((weight * (across - middle) * (up - height)).sum() / square) if square > 0 else 0.0
    return slope, float(height - slope * middle)


@dataclass(frozen=True)
class _Losses:
    """Estimated squared error: sums (candidates, blocks), means (candidates,), and what of these the noise makes."""

    blocks: Floats
    mse: Floats
    made_by_noise: Floats
    variance: float


def _losses(sums: _Sums, times: Floats) -> _Losses:
    """Return what is left after the best gain and offset, if the noise has so many times the variance in each bin."""
    pixels = sums.pixels.sum()

    def mean(values: Floats) -> Floats:
        return np.asarray(values.sum(axis=-1) / pixels)

    first, plane = mean(sums.first), mean(sums.plane)
    follows, spread, variance = sums.follows @ times, sums.spread @ times, sums.variance @ times
    own_square = mean(sums.square) - first**2
    shared = mean(sums.product) - mean(follows) - first * plane
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = np.where(own_square > 0, np.maximum(shared, 0.0) / own_square, 0.0)[:, None]
    offset = plane - gain * first[:, None]
    blocks = (
        gain**2 * sums.square + 2 * gain * offset * sums.first + offset**2 * sums.pixels
        - 2 * gain * (sums.product - follows) - 2 * offset * sums.plane + sums.plane_square - variance
    )  # fmt: skip
    return _Losses(blocks, mean(blocks), gain[:, 0] ** 2 * mean(spread), float(sums.variance.sum() / pixels))


def _decibels(sums: _Sums, times: Floats) -> tuple[Floats, Floats, float]:
    """Return level in dB per candidate, its share per block (sums to 0), and what was added to every error.

    No error is less than what the noise makes of it. Where estimates say so, the noise was taken for too strong, and
    the same is added to all, which leaves differences as they are. What linear filters make of noise is known exactly,
    what others do is taken by half: a median follows a little noise more than it follows all of it.
    """
    losses = _losses(sums, times)
    certain = np.array([0.0 if name in UNSTEADY else 1.0 if name in CLASSICAL else 0.5 for name in sums.names])
    added = max(float((certain * losses.made_by_noise - losses.mse).max()), 0.0)
    mse = np.maximum(losses.mse + added, 10 ** (-MOST_DB / 10) * losses.variance)
    shares = (losses.blocks + added * sums.pixels) / mse[:, None] - sums.pixels * ((losses.mse + added) / mse)[:, None]
    return -10 * np.log10(mse), -10 / math.log(10) * shares / sums.pixels.sum(), added / losses.variance


def _ranking(sums: _Sums, noises: Sequence[CameraNoise], *, known: bool = False) -> Ranking:
    if not sums.pixels.sum() or not sums.variance.sum() > 0:
        return _nothing(sums.names)
    times, times_error = np.ones(SIGNAL_BINS), np.zeros(SIGNAL_BINS)
    if not known:
        times, times_error = _variance_times(sums, _interval(noises))
    level, shares, added = _decibels(sums, times)
    blocks = len(sums.pixels)
    scatter = (shares[:, None, :] - shares[None, :, :]) ** 2
    squared = scatter.sum(axis=2) * blocks / max(blocks - 1, 1)
    sure = all(noise.reliable for noise in noises)
    low, high = (1 - VARIANCE_ERROR, 1 + VARIANCE_ERROR) if sure else _interval(noises)
    ends = [
        _decibels(sums, np.maximum(factor * times + sign * 2 * times_error, 0.0))[0]
        for factor, sign in ((low, -1), (high, 1))
    ]
    half = np.abs((ends[1][:, None] - ends[1]) - (ends[0][:, None] - ends[0])) / 4
    errors = np.sqrt(squared + half**2 + LEAST_ERROR_DB**2)
    np.fill_diagonal(errors, 0.0)
    order = np.argsort(-level, kind="stable")
    mse, at_input = _losses(sums, times).mse, sums.names.index(INPUT)
    risks = tuple(
        Risk(sums.names[one], float(mse[one]), float(level[one] - level[at_input]), float(errors[one, at_input]))
        for one in order
    )
    regret = max(float(end.max() - end[order[0]]) for end in ends)
    doubt = _doubt(sums, noises, added, regret)
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


def _doubt(sums: _Sums, noises: Sequence[CameraNoise], added: float, regret_db: float) -> str:
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
