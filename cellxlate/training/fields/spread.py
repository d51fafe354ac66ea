"""Strokes, spread over the image around them: a small classifier of pixels, fitted to the strokes alone.

Read `spread_over` from top to bottom.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor, nn

from cellxlate.errors import InputError
from cellxlate.model.networks import AttentionNetwork
from cellxlate.settings import BACKGROUND, CELL
from cellxlate.stacks.intensity.network_input import network_input
from cellxlate.stacks.intensity.range import IntensityRange

Plane = npt.NDArray[np.float32]

WINDOW_PX, MOST_WINDOWS = 256, 8
WHOLE_PX = 400
"""Smaller planes are one window."""

SIGMAS_PX = (0.7, 1.0, 1.6, 2.5, 4.0, 6.0, 10.0)
MARGIN_PX = 32
HIDDEN, MEMBERS, FITS = 32, 3, 160
FIT_RATE, FIT_DECAY, FIT_NOISE, DROPPED = 1e-2, 1e-2, 1.0, 0.3
MOST_FOLDS, MOST_PAINTED_PX = 6, 6000
LEAST_SURE, SURE_SHARE = 10, 0.75
MOST_DEVIATIONS = 6.0


@dataclass(frozen=True)
class Painted:
    """A window of a plane with its strokes.

    Attributes
    ----------
    unit : ndarray (Y, X) of float32
        Unit range.
    strokes : ndarray (Y, X) of uint8
        0 not painted, 1 background, 2 cell.
    """

    unit: Plane
    strokes: npt.NDArray[np.uint8]


def check_strokes(planes: Sequence[npt.NDArray[Any]], strokes: Sequence[npt.NDArray[Any]]) -> None:
    """Raise InputError where strokes do not fit their planes, or do not show both cells and background."""
    if len(planes) != len(strokes):
        raise InputError(f"{len(strokes)} planes of strokes for {len(planes)} planes; give one for each")
    kinds = set()
    for plane, own in zip(planes, strokes, strict=True):
        if np.shape(own) != plane.shape or plane.ndim != 2:
            raise InputError(f"the strokes are {np.shape(own)} px, their plane {plane.shape}; they must agree")
        kinds |= set(np.unique(kinds_of(own)).tolist()) - {0}
    if not kinds:
        raise InputError("nothing is painted; paint inside some cells with 2 and some background with 1")
    if kinds == {CELL}:
        raise InputError("only cells are painted; paint some background with 1 too")
    if kinds == {BACKGROUND}:
        raise InputError("only background is painted; paint inside some cells with 2 too")


def kinds_of(strokes: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return labels as 0 not painted, 1 background, 2 cell.

    Raises
    ------
    InputError
        They are no whole numbers.
    """
    if np.asarray(strokes).dtype.kind not in "iu":
        raise InputError(f"the strokes are {np.asarray(strokes).dtype}; expected whole numbers: 1 background, 2 cells")
    kinds: npt.NDArray[np.uint8] = np.clip(strokes, 0, CELL).astype(np.uint8)
    return kinds


def windows_of(unit: Plane, strokes: npt.NDArray[Any]) -> Iterator[Painted]:
    """Yield the windows of a plane (Y, X) in unit range that hold strokes."""
    kinds = kinds_of(strokes)
    if max(unit.shape) <= WHOLE_PX:
        yield Painted(unit, kinds)
        return
    for top in range(0, unit.shape[0], WINDOW_PX):
        for left in range(0, unit.shape[1], WINDOW_PX):
            at = np.argwhere(kinds[top : top + WINDOW_PX, left : left + WINDOW_PX])
            if not len(at):
                continue
            middle = at.mean(axis=0) + np.array([top, left])
            first = [
                int(np.clip(round(centre) - WINDOW_PX // 2, 0, max(size - WINDOW_PX, 0)))
                for centre, size in zip(middle, unit.shape, strict=True)
            ]
            inside = tuple(slice(begin, begin + WINDOW_PX) for begin in first)
            yield Painted(unit[inside], kinds[inside])


# From strokes to a picture of what looks like them


def spread(windows: Sequence[Painted], attention: AttentionNetwork | None = None, *, seed: int = 0) -> list[Plane]:
    """Return for each window how much each pixel looks like the painted cells, in [0, 1].

    Parameters
    ----------
    windows : sequence of Painted
        Both kinds of strokes must be among them.
    attention : AttentionNetwork, optional
        What it says of a pixel is one more of its features.
    seed : int
        Of the classifier.

    Notes
    -----
    Features are brightness, slope, curvature and roughness at seven scales (as in ilastik: Berg et al., Nature Methods
    2019, doi:10.1038/s41592-019-0582-9); the classifier is a small network of one hidden layer, three times over, with
    noise as strong as the features themselves, because three cells say little about the others.

    Strokes run through the middle of cells, so a contour halfway between both kinds lies too far out. How sure a pixel
    must be is learned by leaving strokes out: the contour lies at three quarters of the logit that is then said of the
    least sure tenth of the cells.
    """
    maps = [features_of(one.unit, attention) for one in windows]  # (Y, X, F) each
    every = np.concatenate([one.reshape(-1, one.shape[-1]) for one in maps])
    middle, deviation = every.mean(axis=0), every.std(axis=0) + 1e-6
    pixels = torch.from_numpy(np.clip((every - middle) / deviation, -MOST_DEVIATIONS, MOST_DEVIATIONS))
    kinds = np.concatenate([one.strokes.ravel() for one in windows])
    folds = np.concatenate([fold.ravel() for fold in _folds(windows)])
    painted = _some(np.flatnonzero(kinds), np.random.default_rng(seed))
    known = pixels[torch.from_numpy(painted)]
    inside, fold = torch.from_numpy(kinds[painted] == CELL), torch.from_numpy(folds[painted])
    draws = torch.Generator().manual_seed(seed)
    logits = torch.stack([_fit(known, inside, draws)(pixels) for _ in range(MEMBERS)]).mean(dim=0)
    logits = logits - _contour(known, inside, fold, draws)
    ends = np.cumsum([one.unit.size for one in windows])[:-1]
    likely = torch.sigmoid(logits).numpy()
    return [part.reshape(one.unit.shape) for part, one in zip(np.split(likely, ends), windows, strict=True)]


def spread_over(
    planes: Sequence[npt.NDArray[Any]],
    strokes: Sequence[npt.NDArray[Any]],
    intensities: Sequence[IntensityRange],
    *,
    seed: int = 0,
) -> list[Plane]:
    """Return for each plane (Y, X) of counts how much each pixel looks like the painted cells, in [0, 1].

    Raises
    ------
    InputError
        As `learn_strokes`.
    """
    check_strokes(planes, strokes)
    units = [network_input(plane, own).unit for plane, own in zip(planes, intensities, strict=True)]
    return spread([Painted(unit, kinds_of(own)) for unit, own in zip(units, strokes, strict=True)], seed=seed)


def _folds(windows: Sequence[Painted]) -> Iterator[npt.NDArray[np.int64]]:
    """Yield for each window (Y, X) which of a few groups of strokes a painted pixel belongs to."""
    before = 0
    for one in windows:
        numbers = np.zeros(one.strokes.shape, np.int64)
        for kind in (BACKGROUND, CELL):
            parts, count = ndimage.label(one.strokes == kind, np.ones((3, 3)))
            numbers = np.where(parts > 0, parts - 1 + before, numbers)
            before += count
        yield numbers % MOST_FOLDS


def _some(painted: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return the painted pixels, or so many of them that fitting stays quick."""
    if len(painted) <= MOST_PAINTED_PX:
        return painted
    return np.sort(rng.choice(painted, MOST_PAINTED_PX, replace=False))


def _contour(known: Tensor, inside: Tensor, fold: Tensor, draws: torch.Generator) -> float:
    """Return which logit is the contour of cells, from what is said of strokes that were left out."""
    said = torch.full((len(known),), float("nan"))
    for number in range(MOST_FOLDS):
        left_out = fold == number
        rest = inside[~left_out]
        if inside[left_out].any() and rest.any() and not rest.all():
            said[left_out] = _fit(known[~left_out], rest, draws)(known[left_out])
    cells = said[inside & said.isfinite()].numpy()
    return SURE_SHARE * float(np.percentile(cells, LEAST_SURE)) if len(cells) else 0.0


def _fit(known: Tensor, inside: Tensor, draws: torch.Generator) -> Callable[[Tensor], Tensor]:
    """Fit one classifier to painted pixels (P, F), and return what gives the logits (N,) of any (N, F)."""
    count = known.shape[1]
    hidden = (torch.randn(HIDDEN, count, generator=draws) / count**0.5).requires_grad_()
    shift = torch.zeros(HIDDEN, requires_grad=True)
    last = (torch.randn(HIDDEN, generator=draws) / HIDDEN**0.5).requires_grad_()
    bias = torch.zeros(1, requires_grad=True)
    wanted = inside.float()
    weights = torch.where(inside, 0.5 / wanted.sum(), 0.5 / (1 - wanted).sum())
    optimiser = torch.optim.AdamW([hidden, shift, last, bias], FIT_RATE, weight_decay=FIT_DECAY)
    for _ in range(FITS):
        seen = known + FIT_NOISE * torch.randn(known.shape, generator=draws)
        kept = (torch.rand(len(known), HIDDEN, generator=draws) >= DROPPED) / (1 - DROPPED)
        logits = (torch.relu(seen @ hidden.T + shift) * kept) @ last + bias
        loss = (nn.functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none") * weights).sum()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    def classify(pixels: Tensor) -> Tensor:
        with torch.no_grad():
            said: Tensor = torch.relu(pixels @ hidden.T + shift) @ last + bias
        return said

    return classify


def features_of(unit: Plane, attention: AttentionNetwork | None) -> Plane:
    """Return the features (Y, X, F) of the pixels of a window (Y, X)."""
    margin = min(MARGIN_PX, *unit.shape)
    wide = np.pad(unit, margin, mode="symmetric")
    features = []
    for sigma in SIGMAS_PX:
        smooth = ndimage.gaussian_filter(wide, sigma)
        down, across = np.gradient(smooth)
        slope = np.hypot(down, across) * sigma
        curve_y, curve_xy = np.gradient(down)
        curve_x = np.gradient(across, axis=1)
        mean, turn = (curve_y + curve_x) / 2, np.hypot((curve_y - curve_x) / 2, curve_xy)
        rough = ndimage.gaussian_filter(wide**2, 1.5 * sigma) - ndimage.gaussian_filter(wide, 1.5 * sigma) ** 2
        features += [smooth, slope, (mean + turn) * sigma**2, (mean - turn) * sigma**2]
        features += [np.sqrt(np.maximum(rough, 0)), ndimage.gaussian_filter(slope, 2 * sigma)]
    if attention is not None:
        with torch.no_grad():
            seen = attention(torch.from_numpy(whole_strides(wide))[None, None])[0, 0].numpy()
        seen = seen[: wide.shape[0], : wide.shape[1]]
        features += [seen, ndimage.gaussian_filter(seen, 2.0)]
    inner = tuple(slice(margin, -margin) for _ in range(2))
    return np.stack([one[inner] for one in features], axis=-1).astype(np.float32)


def whole_strides(plane: npt.NDArray[Any], stride: int = 32) -> npt.NDArray[Any]:
    """Return a plane continued by its mirror image at the bottom and right, its sides multiples of the stride."""
    return np.pad(plane, [(0, -size % stride) for size in plane.shape], mode="symmetric")
