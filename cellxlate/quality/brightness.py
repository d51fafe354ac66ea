"""Is brightness order kept inside cells? A bounded random sample of short segments, and its rank correlation."""

import math
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

from cellxlate.stacks.stack import PlaneIndex

SEGMENT_PX, SEGMENT_LEAST_PX = 8, 6
"""Order is judged on means of 8 px within a row, at least 6 of them selected: single pixels are mostly noise."""
SAMPLE_SEGMENTS = 4096
FEWEST_SEGMENTS = 50


@dataclass
class Sample:
    """A bounded random sample of pairs (input, output); which pairs it holds depends on their positions alone."""

    priority: npt.NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))
    pairs: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 2)))

    def wants(self, priority: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Return which of these it would keep, so that no other is measured."""
        if len(self.priority) < SAMPLE_SEGMENTS:
            return np.ones(len(priority), bool)
        return np.asarray(priority < self.priority.max())

    def add(self, priority: npt.NDArray[np.uint64], pairs: npt.NDArray[np.float64]) -> None:
        """Keep the SAMPLE_SEGMENTS pairs of lowest priority value, of those that are finite."""
        wanted = self.wants(priority) & np.isfinite(pairs).all(axis=1)
        priority, pairs = priority[wanted], pairs[wanted]
        self.priority = np.concatenate([self.priority, priority])
        self.pairs = np.concatenate([self.pairs, pairs])
        if len(self.priority) > SAMPLE_SEGMENTS:
            lowest = np.argpartition(self.priority, SAMPLE_SEGMENTS)[:SAMPLE_SEGMENTS]
            self.priority, self.pairs = self.priority[lowest], self.pairs[lowest]


def selected_segments(selected: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Return the segments (row, segment) of a band (rows, X) that are mostly selected."""
    count = selected.shape[1] // SEGMENT_PX
    segments = np.ascontiguousarray(selected[:, : count * SEGMENT_PX]).reshape(len(selected), count, SEGMENT_PX)
    words = segments.view(np.uint64)[..., 0]  # a segment of 8 bytes is one word
    touched = np.argwhere(words)
    inside = words[touched[:, 0], touched[:, 1]] * np.uint64(0x0101010101010101) >> np.uint64(56)  # sum of its bytes
    return np.asarray(touched[inside >= SEGMENT_LEAST_PX])


def segment_means(
    pixels: npt.NDArray[Any], selected: npt.NDArray[np.bool_], segments: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Return the mean of the selected pixels of each segment, from a band (rows, X)."""
    rows, columns = segments[:, :1], segments[:, 1:] * SEGMENT_PX + np.arange(SEGMENT_PX)
    weights = selected[rows, columns].astype(np.float64)
    return np.asarray((pixels[rows, columns].astype(np.float64) * weights).sum(axis=1) / weights.sum(axis=1))


def priority_of(seed: int, index: PlaneIndex, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """Return a random-looking number for each (row, segment) of a plane, the same in every run (splitmix64)."""
    plane = int.from_bytes(blake2b(repr((seed, tuple(index))).encode(), digest_size=8).digest(), "little")
    mixed = positions[:, 0].astype(np.uint64) << np.uint64(32) | positions[:, 1].astype(np.uint64)
    mixed = mixed * np.uint64(0x9E3779B97F4A7C15) + np.uint64(plane)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def rank_correlation(pairs: npt.NDArray[np.float64]) -> float:
    """Return Spearman's rank correlation of pairs (n, 2), ties sharing their mean rank; NaN where it has no meaning."""
    if len(pairs) < FEWEST_SEGMENTS or (pairs.min(axis=0) == pairs.max(axis=0)).any():
        return math.nan
    ranks = []
    for values in pairs.T:
        _, number, counts = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2)[number])  # `scipy.stats` would take 0.6 s to load
    return float(np.asarray(np.corrcoef(ranks))[0, 1])
