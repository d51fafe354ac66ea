"""Do tiles show? Steps across the borders of tiles, compared with the steps two to four pixels beside them."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from cellxlate.stacks.stack import PlaneIndex

REACH_PX = 5
STEPS = 2 * REACH_PX - 1
"""Steps that are looked at around a border, the one across it in the middle, each less the mean of its neighbours: a
slope has none."""
MIDDLE = STEPS // 2
BESIDE = tuple(place for place in range(STEPS) if abs(place - MIDDLE) > 1)
FEWEST_PX = 16
LEAST_CHANCE_COUNTS = 0.3
"""What rounding to whole counts leaves."""
LIMIT = 6.0
MOST_BORDERS = 100_000

Border = tuple[PlaneIndex, str, int, int]
"""Plane, "row" or "column", position of the border, number of the tile along it."""


@dataclass
class Seams:
    """Steps of the output across tile borders, added up band by band; the same for any split into bands.

    Parameters
    ----------
    tile_px : int
        Side of a tile; 0 looks at nothing.

    Notes
    -----
    Looked at is the output where all twelve pixels around a border are selected. A step that runs along a whole side of
    a tile has a mean that is far larger than chance allows; chance is measured on the steps beside the borders. A tile
    of which less than 16 px of a side are selected cannot be judged.
    """

    tile_px: int = 0
    sums: dict[Border, npt.NDArray[np.float64]] = field(default_factory=dict)
    above: dict[PlaneIndex, tuple[int, npt.NDArray[Any], npt.NDArray[np.bool_]]] = field(default_factory=dict)

    def add(
        self,
        index: PlaneIndex,
        first_row: int,
        *,
        enhanced: npt.NDArray[Any],
        selected: npt.NDArray[np.bool_],
    ) -> None:
        """Add one band of a plane (rows, X); the bands of a plane come from top to bottom."""
        if not self.tile_px or len(self.sums) > MOST_BORDERS:
            return
        columns = enhanced.shape[1]
        for border in range(self.tile_px, columns - REACH_PX, self.tile_px):
            if border > REACH_PX:
                part = (slice(None), slice(border - REACH_PX - 1, border + REACH_PX + 1))
                self._count((index, "column", border), first_row, enhanced[part], selected[part])
        self._add_rows(index, first_row, enhanced, selected)

    def include(self, other: "Seams") -> None:
        """Add what was found in other planes, or in other rows of the same that meet in the middle of a tile."""
        for border, sums in other.sums.items():
            if border in self.sums or len(self.sums) <= MOST_BORDERS:
                self.sums.setdefault(border, np.zeros(STEPS + 1))[:] += sums

    def _add_rows(
        self, index: PlaneIndex, first_row: int, enhanced: npt.NDArray[Any], selected: npt.NDArray[np.bool_]
    ) -> None:
        """Look at borders between rows, with the last rows of the band above."""
        start, before = first_row, self.above.pop(index, None)
        if before is not None and before[0] + len(before[1]) == first_row:
            start = before[0]
            enhanced, selected = np.concatenate([before[1], enhanced]), np.concatenate([before[2], selected])
        end = start + len(enhanced)
        for border in range(-(-(start + REACH_PX + 1) // self.tile_px) * self.tile_px, end - REACH_PX, self.tile_px):
            part = slice(border - REACH_PX - 1 - start, border + REACH_PX + 1 - start)
            self._count((index, "row", border), 0, enhanced[part].T, selected[part].T)
        kept = max(len(enhanced) - 2 * REACH_PX - 1, 0)
        self.above = {index: (start + kept, enhanced[kept:].copy(), selected[kept:].copy())}

    def _count(
        self,
        where: tuple[PlaneIndex, str, int],
        first: int,
        pixels: npt.NDArray[Any],
        selected: npt.NDArray[np.bool_],
    ) -> None:
        """Add the pixels (n, 12) across one border, apart for each tile beside it; `first` is where the n start."""
        usable = np.flatnonzero(selected.all(axis=1) & np.isfinite(pixels).all(axis=1))
        if not usable.size:
            return
        steps = np.diff(pixels[usable].astype(np.float64), axis=1)  # (n, 11)
        bent = steps[:, 1:-1] - (steps[:, :-2] + steps[:, 2:]) / 2  # (n, 9)
        tiles = (first + usable) // self.tile_px
        for tile in np.unique(tiles):
            own = bent[tiles == tile]
            self.sums.setdefault((*where, int(tile)), np.zeros(STEPS + 1))[:] += np.append(own.sum(axis=0), len(own))

    def scores(self) -> dict[Border, float]:
        """Return for each border of a tile how many times chance its mean step is."""
        judged = {border: sums for border, sums in self.sums.items() if sums[-1] >= FEWEST_PX}
        # Variance of a mean step times the number of its pixels: neighbours along a border are alike, so this is more
        # than the variance of a single step.
        spreads = [float(sums[place] ** 2 / sums[-1]) for sums in judged.values() for place in BESIDE]
        if not spreads:
            return {}
        chance = max(math.sqrt(float(np.mean(spreads))), LEAST_CHANCE_COUNTS)
        return {border: abs(float(sums[MIDDLE])) / math.sqrt(sums[-1]) / chance for border, sums in judged.items()}

    def found(self, limit: float = LIMIT) -> list[Border]:
        """Return the borders whose step is no chance, the clearest first."""
        scores = self.scores()
        return sorted((border for border, score in scores.items() if score > limit), key=lambda one: -scores[one])
