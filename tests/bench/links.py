"""Objects found in every frame, and linked from frame to frame: how many links of the masks are kept.

Nothing here is good tracking. It is the plain way that many begin with, the same for every image: smooth, Otsu,
watershed on the distance, and the nearest centroids as one assignment.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from skimage.feature import peak_local_max
from skimage.filters import threshold_otsu
from skimage.segmentation import watershed

Labels = npt.NDArray[np.integer]
Image = npt.NDArray[np.generic]
Threshold = Literal["bright", "dim too"]

THRESHOLDS: tuple[Threshold, ...] = get_args(Threshold)
SMOOTHING_PX = 1.5
NOISES = 2.0
LEAST_SHARE = 0.6
"""Objects of fewer pixels than this share of the squared distance of centres are dust."""
OVERLAP = 0.5
"""A found object stands for an object of the masks if they overlap by this (intersection over union)."""


@dataclass(frozen=True)
class Kept:
    """What became of the objects and links of the masks.

    Attributes
    ----------
    objects, objects_found : int
        Of the masks, in all frames; those that a found object stands for.
    extra : int
        Found objects that stand for none.
    links, links_kept, links_wrong : int
        Of the masks; those that are found between the objects that stand for both ends; found links between objects
        that stand for two of the masks which are not linked.
    """

    objects: int
    objects_found: int
    extra: int
    links: int
    links_kept: int
    links_wrong: int

    @property
    def percent(self) -> float:
        """Share of the links of the masks that are kept, in percent."""
        return 100 * self.links_kept / self.links if self.links else float("nan")


def segment(frame: Image, *, apart_px: float, threshold: Threshold = "dim too") -> Labels:
    """Return the objects of one frame (Y, X), numbered from 1; centres of objects are at least so far apart.

    "bright" takes Otsu's threshold, which leaves out nuclei much dimmer than others. "dim too" takes it on the
    logarithm of the brightness over the background, in units of the smoothed background's own noise. Gain and offset do
    not matter to either.
    """
    smooth = ndimage.gaussian_filter(frame.astype(np.float64), SMOOTHING_PX)
    if threshold == "dim too":
        low, middle = np.percentile(smooth, [25, 50])
        noise = max((middle - low) / 0.6745, 1e-6 * abs(middle), 1e-9)
        smooth = np.log1p(np.maximum(smooth - middle, 0) / (NOISES * noise))
    bright = ndimage.binary_fill_holes(smooth > threshold_otsu(smooth))
    distance = ndimage.gaussian_filter(ndimage.distance_transform_edt(bright), apart_px / 4)
    peaks = peak_local_max(distance, min_distance=round(apart_px), labels=bright, exclude_border=False)
    markers = np.zeros(frame.shape, np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    objects = watershed(-distance, markers, mask=bright)
    large = np.bincount(objects.ravel()) >= LEAST_SHARE * apart_px**2
    large[0] = False
    return np.asarray((np.cumsum(large) * large)[objects])


def link(before: Labels, after: Labels, *, reach_px: float) -> set[tuple[int, int]]:
    """Return pairs of labels of two frames with the nearest centroids, each label once, none beyond the reach."""
    ours, theirs = np.unique(before[before > 0]), np.unique(after[after > 0])
    if not (len(ours) and len(theirs)):
        return set()
    centres = [
        np.array(ndimage.center_of_mass(frame > 0, frame, names)) for frame, names in ((before, ours), (after, theirs))
    ]
    distance = np.linalg.norm(centres[0][:, None] - centres[1][None], axis=-1)
    far = 1e3 * reach_px
    pairs = zip(*linear_sum_assignment(np.where(distance <= reach_px, distance, far)), strict=True)
    return {(int(ours[a]), int(theirs[b])) for a, b in pairs if distance[a, b] <= reach_px}


def stand_for(found: Labels, masks: Labels) -> dict[int, int]:
    """Return which object of the masks each found object stands for, each once at most: IoU of one half or more."""
    pairs, counts = np.unique(np.stack([found.ravel(), masks.ravel()]), axis=1, return_counts=True)
    sizes, truths = np.bincount(found.ravel()), np.bincount(masks.ravel())
    matches: dict[int, int] = {}
    for (one, other), shared in sorted(zip(pairs.T.tolist(), counts.tolist(), strict=True), key=lambda pair: -pair[1]):
        union = int(sizes[one] + truths[other]) - shared
        if one and other and shared >= OVERLAP * union and one not in matches and other not in matches.values():
            matches[one] = other
    return matches


def links_kept(found: Sequence[Labels], masks: Sequence[Labels], *, reach_px: float) -> Kept:
    """Compare the objects and links of some frames with those of the masks, both linked in the same way."""
    matches = [stand_for(one, other) for one, other in zip(found, masks, strict=True)]
    links = kept = wrong = 0
    for at in range(len(masks) - 1):
        wanted = link(masks[at], masks[at + 1], reach_px=reach_px)
        made = link(found[at], found[at + 1], reach_px=reach_px)
        named = {(matches[at].get(a, 0), matches[at + 1].get(b, 0)) for a, b in made}
        links, kept = links + len(wanted), kept + len(wanted & named)
        wrong += sum(bool(a and b) for a, b in named - wanted)
    objects = sum(len(np.unique(one[one > 0])) for one in masks)
    matched = sum(len(one) for one in matches)
    extra = sum(len(np.unique(one[one > 0])) for one in found) - matched
    return Kept(objects, matched, extra, links, kept, wrong)
