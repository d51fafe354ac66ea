"""Scores of an enhanced image against a truth, masks, or the input; docs/explanation/scores.md explains each.

Plain functions of arrays. A score that is not defined for its input (no cells, a constant truth) is NaN, never a guess.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from cellxlate.quality.tally import bits_differ

DARK_PERCENTILE, BRIGHT_PERCENTILE = 0.1, 99.9
SSIM_WINDOW_PX = 7
PATCH_PX, PATCHES_PER_FIELD, PROJECTIONS, QUANTILES = 7, 60, 256, 200
OBJECT_SMOOTHING_PX = 2.0
OBJECT_LEAST_PX = 30
OBJECT_NOISE = 5.0
SUPPORT_SHARE = 0.25


@dataclass(frozen=True)
class Foreground:
    """Agreement with a truth inside cells.

    Attributes
    ----------
    psnr, psnr_affine : float
        In dB; infinite for a perfect image. "Affine" is after the best gain and offset.
    ssim, ssim_affine : float
        In [-1, 1]; 1 is perfect.
    """

    psnr: float
    psnr_affine: float
    ssim: float
    ssim_affine: float


@dataclass(frozen=True)
class Background:
    """What happened outside cells.

    Attributes
    ----------
    changed_percent : float
        Pixels whose stored bits changed, in percent.
    mean_abs_change : float
        Mean |output - input| over all background pixels, in counts.
    """

    changed_percent: float
    mean_abs_change: float


@dataclass(frozen=True)
class AttentionScores:
    """Agreement of attention with masks.

    Attributes
    ----------
    iou : float
        Intersection over union of attention >= 0.5 with the mask.
    auprc : float
        Area under the precision-recall curve, as average precision.
    mean_inside, mean_outside : float
        Mean attention inside and outside the mask.
    """

    iou: float
    auprc: float
    mean_inside: float
    mean_outside: float


@dataclass(frozen=True)
class Phantoms:
    """Objects without counterpart.

    Attributes
    ----------
    added : int
        Objects of the output that have no support in the reference.
    lost : int
        Objects of the reference that have no support in the output.
    objects, reference_objects : int
        How many objects the two images hold.
    """

    added: int
    lost: int
    objects: int
    reference_objects: int


def foreground(image: npt.NDArray[Any], truth: npt.NDArray[Any], cells: npt.NDArray[np.bool_]) -> Foreground:
    """Return PSNR and SSIM inside cells, as they are and after the best gain and offset.

    Parameters
    ----------
    image, truth : ndarray (Y, X)
        In counts.
    cells : ndarray of bool (Y, X)
        Where to look. Pixels that are not finite in either image are left out.

    Returns
    -------
    Foreground
        NaN where there are no cells, the truth is constant, or, for SSIM, the image is smaller than its window of 7 px.

    Notes
    -----
    The range is from the 0.1 to the 99.9 percentile of the truth. Gain and offset are least squares inside the cells.

    References
    ----------
    Z. Wang et al., Image quality assessment: from error visibility to structural similarity, IEEE TIP 13 (2004),
    10.1109/TIP.2003.819861; computed by scikit-image.
    """
    finite = np.isfinite(image) & np.isfinite(truth)
    cells = cells & finite
    if not cells.any():
        return Foreground(math.nan, math.nan, math.nan, math.nan)
    centre = float(truth[cells].mean())
    image = np.where(finite, image.astype(np.float64), centre)
    truth = np.where(finite, truth.astype(np.float64), centre)
    low, high = np.percentile(truth, [DARK_PERCENTILE, BRIGHT_PERCENTILE])
    if high <= low:
        return Foreground(math.nan, math.nan, math.nan, math.nan)
    fitted = affine(image, truth, cells)
    return Foreground(
        psnr=_psnr(image, truth, cells, high - low),
        psnr_affine=_psnr(fitted, truth, cells, high - low),
        ssim=_ssim(image, truth, cells, high - low),
        ssim_affine=_ssim(fitted, truth, cells, high - low),
    )


def affine(
    image: npt.NDArray[np.float64], truth: npt.NDArray[np.float64], cells: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """Return the image after the gain and offset that fit the truth best inside the cells (least squares)."""
    inside, wanted = image[cells], truth[cells]
    deviation = inside - inside.mean()
    variance = float(deviation @ deviation)
    gain = float(deviation @ (wanted - wanted.mean())) / variance if variance > 0 else 0.0
    return np.asarray(gain * (image - inside.mean()) + wanted.mean(), dtype=np.float64)


def _psnr(
    image: npt.NDArray[np.float64], truth: npt.NDArray[np.float64], cells: npt.NDArray[np.bool_], span: float
) -> float:
    from skimage.metrics import peak_signal_noise_ratio

    with np.errstate(divide="ignore"):
        return float(peak_signal_noise_ratio(truth[cells], image[cells], data_range=span))


def _ssim(
    image: npt.NDArray[np.float64], truth: npt.NDArray[np.float64], cells: npt.NDArray[np.bool_], span: float
) -> float:
    from skimage.metrics import structural_similarity

    if min(image.shape) < SSIM_WINDOW_PX:
        return math.nan
    _, similarity = structural_similarity(image, truth, data_range=span, full=True, win_size=SSIM_WINDOW_PX)
    return float(similarity[cells].mean())


def background(
    raw: npt.NDArray[Any], enhanced: npt.NDArray[Any], cells: npt.NDArray[np.bool_], *, margin_px: float = 3
) -> Background:
    """Return how much of the background was changed.

    Parameters
    ----------
    raw, enhanced : ndarray (Y, X)
        Stored pixels of the same dtype.
    cells : ndarray of bool (Y, X)
        All that is farther than `margin_px` (Euclidean) from a cell is background; where no pixel is, both are NaN.
    margin_px : float
        Cells' blurred borders are nobody's fault.

    Raises
    ------
    InputError
        Shape or dtype of the images differ.
    """
    outside = ndimage.distance_transform_edt(~cells) > margin_px if cells.any() else np.ones(cells.shape, bool)
    differs = bits_differ(raw, enhanced)
    if not outside.any():
        return Background(math.nan, math.nan)
    with np.errstate(invalid="ignore"):
        change_counts = np.abs(enhanced[outside].astype(np.float64) - raw[outside].astype(np.float64))
    finite = np.isfinite(change_counts)
    mean = float(change_counts[finite].mean()) if finite.any() else math.nan
    return Background(100 * float(differs[outside].mean()), mean)


def attention_scores(attention: npt.NDArray[np.floating[Any]], cells: npt.NDArray[np.bool_]) -> AttentionScores:
    """Return how well attention agrees with a mask.

    Parameters
    ----------
    attention : ndarray (Y, X)
        In [0, 1].
    cells : ndarray of bool (Y, X)
        The truth.
    """
    selected = attention >= 0.5
    union = int((selected | cells).sum())
    return AttentionScores(
        iou=int((selected & cells).sum()) / union if union else math.nan,
        auprc=average_precision(attention.ravel(), cells.ravel()),
        mean_inside=float(attention[cells].mean()) if cells.any() else math.nan,
        mean_outside=float(attention[~cells].mean()) if not cells.all() else math.nan,
    )


def average_precision(score: npt.NDArray[np.floating[Any]], positive: npt.NDArray[np.bool_]) -> float:
    """Return the sum over thresholds of precision times the gain in recall; equal scores share one threshold.

    Parameters
    ----------
    score : ndarray (n,)
        Larger means more certainly positive.
    positive : ndarray of bool (n,)
        The truth; without a positive the result is NaN.
    """
    if not positive.any():
        return math.nan
    order = np.argsort(-score, kind="stable")
    ranked = score[order]
    last_of_threshold = np.append(np.nonzero(np.diff(ranked))[0], len(ranked) - 1)
    hits = np.cumsum(positive[order])[last_of_threshold]
    precision = hits / (last_of_threshold + 1)
    recall_gain = np.diff(hits, prepend=0) / hits[-1]
    return float(precision @ recall_gain)


def texture_patches(
    image: npt.NDArray[Any], cells: npt.NDArray[np.bool_], *, seed: int, count: int = PATCHES_PER_FIELD
) -> npt.NDArray[np.float64]:
    """Return random patches centred in cells, their mean removed, in units of the field's cell signal.

    Parameters
    ----------
    image : ndarray (Y, X)
        In counts; finite.
    cells : ndarray of bool (Y, X)
        Patches are centred on these.
    seed : int
        The same seed picks the same places, so images of one field are compared at the same places.
    count : int
        Number of patches.

    Returns
    -------
    ndarray of float64 (count, 49)
        Of 7 x 7 px; (0, 49) where no patch fits, there is no background, or the cells are not brighter than it.
    """
    nothing = np.zeros((0, PATCH_PX**2))
    margin = PATCH_PX // 2
    rows, columns = np.nonzero(cells[margin : cells.shape[0] - margin, margin : cells.shape[1] - margin])
    if not len(rows) or cells.all():
        return nothing
    signal = float(np.median(image[cells]) - np.median(image[~cells]))
    if not signal > 0:
        return nothing
    pick = np.random.default_rng(seed).integers(0, len(rows), count)
    windows = np.lib.stride_tricks.sliding_window_view(image, (PATCH_PX, PATCH_PX))
    patches = windows[rows[pick], columns[pick]].reshape(count, -1).astype(np.float64)
    return np.asarray((patches - patches.mean(axis=1, keepdims=True)) / signal)


def patch_distance(patches: npt.NDArray[np.float64], reference: npt.NDArray[np.float64]) -> float:
    """Return the sliced Wasserstein-2 distance of two sets of patches, over 256 fixed random directions.

    Parameters
    ----------
    patches, reference : ndarray (n, k), (m, k)
        As `texture_patches` returns them, of any number of fields together. With an empty set the result is NaN.

    Notes
    -----
    In each direction the two distributions are compared at 200 quantiles from 0 to 1. Two finite samples of one
    distribution do not reach 0, so compare distances only between sets of the same size.

    References
    ----------
    N. Bonneel et al., Sliced and Radon Wasserstein barycenters of measures, JMIV 51 (2015), 10.1007/s10851-014-0506-3.
    """
    if not len(patches) or not len(reference):
        return math.nan
    directions = np.random.default_rng(1).normal(size=(patches.shape[1], PROJECTIONS))
    directions /= np.linalg.norm(directions, axis=0)
    levels = np.linspace(0, 1, QUANTILES)
    ours, theirs = (np.quantile(sample @ directions, levels, axis=0) for sample in (patches, reference))
    return float(np.sqrt(np.mean((ours - theirs) ** 2)))


def phantoms(image: npt.NDArray[Any], reference: npt.NDArray[Any]) -> Phantoms:
    """Count objects that an image has and a reference has not, and the reverse.

    Parameters
    ----------
    image : ndarray (Y, X)
        The output, in counts.
    reference : ndarray (Y, X)
        The truth; or the input, where no truth exists.

    Notes
    -----
    Both images are smoothed by a Gaussian of 2 px. An object is a connected region of at least 30 px above the image's
    own Otsu threshold, which is raised to five times the noise of the smoothed background where it lies lower, so that
    noise alone holds no object. It has support in the other image if a quarter of it lies above half that image's
    threshold over background. The gap between the two thresholds keeps barely visible objects from being counted by
    accident.

    All thresholds follow gain and offset of the image, so the intensity scale does not matter. Objects much dimmer than
    the field's typical cell are not counted, touching objects count as one, and a bright object split in two is neither
    added nor lost.

    References
    ----------
    N. Otsu, A threshold selection method from gray-level histograms, IEEE SMC 9 (1979), 10.1109/TSMC.1979.4310076.
    """
    ours, our_support = _objects_and_support(image)
    theirs, their_support = _objects_and_support(reference)
    return Phantoms(
        added=_without_support(ours, their_support),
        lost=_without_support(theirs, our_support),
        objects=int(ours.max(initial=0)),
        reference_objects=int(theirs.max(initial=0)),
    )


def find_objects(image: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    """Return the objects of an image (Y, X) in counts, numbered from 1 and 0 elsewhere, as `phantoms` counts them."""
    return _objects_and_support(image)[0]


def _objects_and_support(image: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """Return the labelled objects of an image, and where it supports objects of another."""
    from skimage.filters import threshold_otsu

    counts = image.astype(np.float64)
    finite = np.isfinite(counts)
    if not finite.any():
        return np.zeros(image.shape, np.int32), np.zeros(image.shape, bool)
    counts[~finite] = np.median(counts[finite])
    smooth = ndimage.gaussian_filter(counts, OBJECT_SMOOTHING_PX, mode="reflect")
    if smooth.max() - smooth.min() <= 1e-9 * np.abs(smooth).max():
        return np.zeros(image.shape, np.int32), np.zeros(image.shape, bool)
    # The lowest quarter of a field is background, whatever share cells take of the rest: Gaussian quantiles from there.
    low, quarter = np.percentile(smooth, [5, 25])
    noise = (quarter - low) / 0.970
    level = quarter + 0.674 * noise
    threshold = max(float(threshold_otsu(smooth)), level + OBJECT_NOISE * noise)
    labels, _ = ndimage.label(smooth > threshold)
    sizes = np.bincount(labels.ravel())
    large = sizes >= OBJECT_LEAST_PX
    large[0] = False
    renumbered = np.cumsum(large) * large
    return renumbered[labels].astype(np.int32), smooth > level + 0.5 * (threshold - level)


def _without_support(objects: npt.NDArray[np.int32], support: npt.NDArray[np.bool_]) -> int:
    """Count the objects of which less than a quarter is supported."""
    sizes = np.bincount(objects.ravel())[1:]
    supported = np.bincount(objects.ravel(), weights=support.ravel())[1:]
    return int((supported < SUPPORT_SHARE * sizes).sum())
