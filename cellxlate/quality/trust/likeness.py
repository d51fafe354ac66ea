"""What images look like to a model: quantities of small windows, and how far a stack is from those it was trained on.

The numbers of the training images stand in the model's card under "domain", so that every run can compare. All are in
units of the range and of the noise, as the networks see (count - black) / span: another gain, offset or data type of
the same image changes none of them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from cellxlate.stacks.intensity.range import SMOOTHING_PX, pixel_noise
from cellxlate.stacks.stack import PlaneIndex, Stack

WINDOW_PX = 256
FEWEST_WINDOWS, MOST_WINDOWS = 8, 512
SMALLEST_WINDOW_PX = 64
LEAST_CONTRAST = math.log(2.0)
"""Of training windows: a smoothed range below two pixel noises shows nothing."""

SCALES_PX = (1.0, 2.0, 4.0, 8.0, 16.0)
GRAIN_PX = 1.5
"""Bands between Gaussians of these widths; the finest band and the grain tell sharpness, the others spatial scale."""
NOISE_LEFT = 0.02
"""A band keeps this share of its variance where noise explains all of it."""

SPREAD_FLOORS = {"contrast": 0.3, "sides": 0.4, "grain": 0.03, "rise": 0.1}
"""Deviations below these are nobody's concern, however alike the training images are. Cards of earlier versions hold
"black", "range" and "noise" in counts besides, and no "rise": what a card holds of these four is compared."""
BRIGHT_FROM = 0.3
"""Of the range: noise is measured above it, too, to tell how it rises with brightness."""
FEWEST_SPREADS, QUANTILE, MARGIN = 3.0, 0.99, 1.15
"""A limit is 3 spreads, or 1.15 times what 99 % of the training windows stay within, whichever is more."""
STRUCTURE_FLOOR, SHRINKAGE = 0.05, 0.1
TOGETHER_LIMIT = 1.5
"""The least limit of structure, and of all quantities together: root mean square in standard deviations."""
DIFFERENCES = {
    "rise": (
        "bright parts are hardly noisier than the background",
        "bright parts are noisier or more textured against the background",
    ),
    "sides": (
        "the image is not bright cells on a dark background, or holds no cells",
        "the bright parts are fewer against the background",
    ),
    "grain": (
        "the noise of neighbouring pixels is sharpened",
        "the noise is smeared over neighbouring pixels (filtered, compressed, or enlarged)",
    ),
}
"""What is said of a quantity that is less, or more, than in the training images."""


@dataclass(frozen=True)
class WindowFeatures:
    """What a window of an image looks like.

    Attributes
    ----------
    quantities : mapping
        "contrast": logarithm of range over noise; "sides": of how far the brightest over the darkest pixels are from
        the middle; "rise": of the noise of bright parts over that of the background, which photons and fine texture
        raise; "grain": correlation of neighbours in what a Gaussian of 1.5 px removes from the background.
    structure : ndarray (3,)
        Logarithms of the ratios of signal variance between bands of 1-2, 2-4, 4-8 and 8-16 px: finer over coarser.
    """

    quantities: Mapping[str, float]
    structure: npt.NDArray[np.float64]


def look(window: npt.NDArray[Any]) -> WindowFeatures | None:
    """Measure what a window looks like.

    Parameters
    ----------
    window : ndarray (Y, X)
        Counts; about 256 x 256 px. Pixels that are not finite count as the median.

    Returns
    -------
    WindowFeatures or None
        None where the window is smaller than 64 px or holds one value alone: nothing can be said then.

    Notes
    -----
    All widths are in pixels, because that is what a network sees. It takes about 15 ms for 256 x 256 px. Another gain
    and offset changes nothing, as long as the noise is not lost in rounding (below half a count).
    """
    if min(window.shape) < SMALLEST_WINDOW_PX:
        return None
    counts = window.astype(np.float64)
    finite = np.isfinite(counts)
    if not finite.all():
        if not finite.any():
            return None
        counts[~finite] = np.median(counts[finite])
    if counts.min() == counts.max():
        return None
    blurred = [ndimage.gaussian_filter(counts, width, mode="reflect", truncate=3) for width in SCALES_PX]
    smooth = blurred[SCALES_PX.index(SMOOTHING_PX)]
    noise = pixel_noise(counts, smooth)
    lowest, black, middle, white, highest = np.percentile(smooth, [0.5, 10, 50, 99.5, 100])
    span = max(float(white - black), 1e-9 * abs(float(highest)), 1e-12)
    least = 1e-3 * span
    quantities = {
        "contrast": math.log(span / max(noise, least)),
        "sides": math.log((float(white - middle) + least) / (float(middle - lowest) + least)),
        "grain": _grain(counts, smooth),
        "rise": math.log(max(_bright_noise(counts, smooth, black + BRIGHT_FROM * span), least) / max(noise, least)),
    }
    bands = [
        _signal_variance(*pair, noise=noise, widths_px=widths_px)
        for pair, widths_px in zip(pairwise(blurred), pairwise(SCALES_PX), strict=True)
    ]
    return WindowFeatures(quantities, -np.diff(np.log(bands)))


def _signal_variance(
    fine: npt.NDArray[np.float64], coarse: npt.NDArray[np.float64], *, noise: float, widths_px: tuple[float, float]
) -> float:
    """Return the variance between two Gaussians less what white noise leaves there."""
    variance = float(np.var(fine - coarse))
    inner, outer = (width**2 for width in widths_px)
    left = (1 / inner + 1 / outer - 4 / (inner + outer)) / (4 * math.pi)
    return max(variance - left * noise**2, NOISE_LEFT * variance, 1e-300)


def _grain(counts: npt.NDArray[np.float64], smooth: npt.NDArray[np.float64]) -> float:
    """Return the correlation of neighbouring pixels of the fine residual in the darker half."""
    residual = counts - ndimage.gaussian_filter(counts, GRAIN_PX, mode="reflect", truncate=3)
    dark = smooth <= np.median(smooth)
    variance = float((residual[dark] ** 2).mean())
    if not variance > 0:
        return 1.0
    across, down = dark[:, 1:] & dark[:, :-1], dark[1:] & dark[:-1]
    products = (residual[:, 1:] * residual[:, :-1])[across], (residual[1:] * residual[:-1])[down]
    means = [float(product.mean()) for product in products if product.size]
    return sum(means) / len(means) / variance if means else 1.0


def _bright_noise(counts: npt.NDArray[np.float64], smooth: npt.NDArray[np.float64], above: float) -> float:
    """Return the standard deviation that second differences show above an intensity, as `pixel_noise` does below."""
    ridge = counts[:, :-2] - 2 * counts[:, 1:-1] + counts[:, 2:]
    response = ridge[:-2] - 2 * ridge[1:-1] + ridge[2:]  # (Y - 2, X - 2)
    bright = smooth[1:-1, 1:-1] > above
    return float(np.median(np.abs(response[bright])) / (6.0 * 0.6745)) if bright.any() else 0.0


def windows_of(shape: tuple[int, int], most: int = 8) -> list[tuple[slice, slice]]:
    """Return at most `most` windows of at most 256 x 256 px, spread over a plane of (rows, columns)."""
    counts = [max(round(size / WINDOW_PX), 1) for size in shape]
    starts = [
        np.linspace(0, max(size - WINDOW_PX, 0), count).astype(int) for size, count in zip(shape, counts, strict=True)
    ]
    corners = [(int(top), int(left)) for top in starts[0] for left in starts[1]]
    most = min(most, len(corners))
    picked = [corners[(2 * part + 1) * len(corners) // (2 * most)] for part in range(most)]
    return [(slice(top, top + WINDOW_PX), slice(left, left + WINDOW_PX)) for top, left in picked]


def describe(looks: Sequence[WindowFeatures]) -> dict[str, Any] | None:
    """Return what the training images look like, as it stands in a card; None for fewer than 8 windows.

    Parameters
    ----------
    looks : sequence of WindowFeatures
        Of windows of the source images.

    Returns
    -------
    dict or None
        For each quantity the "middle", the "spread" (half the width of the middle 68 %) and the "limit" in spreads;
        for "structure" and for all quantities "together" the middle, the inverse covariance and the limit of the root
        mean square distance. Together they tell what each alone does not: a noise that is usual, but not at that
        sharpness. There each window is judged by the others, since few windows fit themselves too well.
    """
    if len(looks) < FEWEST_WINDOWS:
        return None
    quantities = {}
    for name, floor in SPREAD_FLOORS.items():
        values = np.array([one.quantities[name] for one in looks])
        low, middle, high = np.percentile(values, [16, 50, 84])
        spread = max(float(high - low) / 2, floor)
        deviation = float(np.quantile(np.abs(values - middle), QUANTILE)) / spread
        quantities[name] = {
            "middle": _short(middle),
            "spread": _short(spread),
            "limit": _short(max(FEWEST_SPREADS, MARGIN * deviation)),
        }
    shapes = np.array([one.structure for one in looks])
    middle_shape = np.median(shapes, axis=0)
    covariance = np.cov(shapes - middle_shape, rowvar=False)
    even = np.eye(len(covariance)) * np.trace(covariance) / len(covariance)
    covariance = (1 - SHRINKAGE) * covariance + SHRINKAGE * even + STRUCTURE_FLOOR * np.eye(len(covariance))
    inverse = np.linalg.inv(covariance)
    distances = [_deviation(shape, middle_shape, inverse) for shape in shapes]
    return {
        "windows": len(looks),
        "window_px": WINDOW_PX,
        "quantities": quantities,
        "structure": _stated(middle_shape, inverse, distances),
        "together": _together(looks),
    }


def _all_quantities(one: WindowFeatures, names: Sequence[str]) -> npt.NDArray[np.float64]:
    """Return the named quantities of a window, and its structure, as one vector."""
    return np.array([*(one.quantities[name] for name in names), *one.structure])


def _together(looks: Sequence[WindowFeatures]) -> dict[str, Any]:
    """Return middle, inverse covariance and limit of all quantities of the training windows at once."""
    names = list(SPREAD_FLOORS)
    values = np.array([_all_quantities(one, names) for one in looks])  # (windows, quantities)
    floors = np.array([(floor / 2) ** 2 for floor in SPREAD_FLOORS.values()])
    floors = np.concatenate([floors, np.full(values.shape[1] - len(floors), STRUCTURE_FLOOR)])
    middle, inverse = _middle_and_inverse(values, floors)
    others = [_middle_and_inverse(np.delete(values, left_out, axis=0), floors) for left_out in range(len(values))]
    distances = [_deviation(value, *other) for value, other in zip(values, others, strict=True)]
    return {"names": names, **_stated(middle, inverse, distances)}


def _stated(
    middle: npt.NDArray[np.float64], inverse: npt.NDArray[np.float64], distances: Sequence[float]
) -> dict[str, Any]:
    """Return what a card says of several quantities at once; the limit is that of the training windows' distances."""
    return {
        "middle": [_short(value) for value in middle],
        "inverse_covariance": [[_short(value) for value in row] for row in inverse],
        "limit": _short(max(MARGIN * float(np.quantile(distances, QUANTILE)), TOGETHER_LIMIT)),
    }


def _middle_and_inverse(
    values: npt.NDArray[np.float64], floors: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the median (quantities,) and the inverse covariance, which few windows do not make too narrow."""
    middle = np.median(values, axis=0)
    covariance = np.cov(values - middle, rowvar=False)
    share = min(values.shape[1] / len(values), 1.0)
    covariance = (1 - share) * covariance + share * np.diag(np.diag(covariance)) + np.diag(floors)
    return middle, np.linalg.inv(covariance)


def _short(value: float) -> float:
    return float(f"{value:.5g}")


def describe_planes(planes: Sequence[tuple[Stack, PlaneIndex]]) -> dict[str, Any] | None:
    """Return what training images look like, as `describe` does, from at most 512 windows spread over them.

    Parameters
    ----------
    planes : sequence of (Stack, plane index)
        Of the source images. Windows that show nothing but noise are left out.
    """
    count = min(len(planes), MOST_WINDOWS)
    chosen = [planes[part * len(planes) // count] for part in range(count)]
    looks = []
    for stack, index in chosen:
        for rows, columns in windows_of(stack.plane_shape, max(MOST_WINDOWS // len(chosen), 1)):
            features = look(stack.read(index, rows, columns))
            if features is not None and features.quantities["contrast"] > LEAST_CONTRAST:
                looks.append(features)
    return describe(looks)


def _deviation(
    values: npt.NDArray[np.float64], middle: npt.NDArray[np.float64], inverse: npt.NDArray[np.float64]
) -> float:
    """Return the root mean square deviation in standard deviations (Mahalanobis)."""
    deviation = values - middle
    return math.sqrt(max(float(deviation @ inverse @ deviation), 0.0) / len(deviation))


@dataclass(frozen=True)
class Departure:
    """How far a channel is from what its model was trained on.

    Attributes
    ----------
    distance : float
        The largest of `parts`; above 1 the stack is out of distribution.
    parts : mapping
        Distance of each quantity in units of its limit, "structure" and all "together" included.
    measured, trained : mapping
        Each quantity of the stack (median over its windows), and of the training images.
    windows : int
        How many windows were looked at.
    """

    distance: float
    parts: Mapping[str, float]
    measured: Mapping[str, float]
    trained: Mapping[str, float]
    windows: int


def departure(looks: Sequence[WindowFeatures], domain: Mapping[str, Any] | None) -> Departure | None:
    """Compare windows of a stack with what stands in a card under "domain".

    Parameters
    ----------
    looks : sequence of WindowFeatures
        Of the stack; their medians are compared.
    domain : mapping or None
        As `describe` returns it, or as an earlier version did: quantities in counts are passed over.

    Returns
    -------
    Departure or None
        None where there is nothing to compare, or the card's numbers cannot be read.
    """
    if not looks or not domain:
        return None
    try:
        known, structure = domain["quantities"].items(), domain["structure"]
        quantities = {name: numbers for name, numbers in known if name in SPREAD_FLOORS}
        measured = {name: float(np.median([one.quantities[name] for one in looks])) for name in SPREAD_FLOORS}
        trained = {name: float(numbers["middle"]) for name, numbers in quantities.items()}
        parts = {
            name: abs(measured[name] - trained[name]) / (float(numbers["spread"]) * float(numbers["limit"]))
            for name, numbers in quantities.items()
        }
        shape = np.median([one.structure for one in looks], axis=0)
        parts["structure"] = _distance(shape, structure)
        measured["structure"], trained["structure"] = float(shape.mean()), float(np.mean(structure["middle"]))
        if together := domain.get("together"):  # cards of earlier versions have none
            every = np.median([_all_quantities(one, together["names"]) for one in looks], axis=0)
            parts["together"] = _distance(every, together)
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError):
        return None
    return Departure(max(parts.values()), parts, measured, trained, len(looks))


def _distance(values: npt.NDArray[np.float64], stated: Mapping[str, Any]) -> float:
    """Return the deviation of several quantities at once in units of the limit that a card states."""
    middle, inverse = (np.array(stated[name], float) for name in ("middle", "inverse_covariance"))
    return _deviation(values, middle, inverse) / float(stated["limit"])


def departure_words(departure: Departure, most: int = 3) -> list[str]:
    """Say in plain words what is different, the most different first; nothing where the distance is at most 1."""
    if departure.distance > 1 and departure.measured["contrast"] < LEAST_CONTRAST:
        return ["nothing stands out from the noise"]
    single = {name: distance for name, distance in departure.parts.items() if name != "together"}
    ranked = sorted(single.items(), key=lambda part: -part[1])
    if departure.distance > 1 and max(single.values(), default=0.0) <= 1:
        return [_difference("together", departure)]
    return [_difference(name, departure) for name, distance in ranked[:most] if distance > 1]


def _difference(name: str, departure: Departure) -> str:
    if name == "together":
        return "what the training images show one by one does not go together so in them"
    measured, trained = departure.measured[name], departure.trained[name]
    if name == "contrast":
        ratio = math.exp(min(abs(measured - trained), 300.0))
        times = f"{ratio:.1f}" if ratio < 100 else f"{ratio:.0f}"
        return f"cells stand out from the noise {times} times {'more' if measured > trained else 'less'}"
    if name in DIFFERENCES:
        return DIFFERENCES[name][measured > trained]
    return "structures have another size in pixels, or another sharpness"
