"""Do tiles show? Steps across the borders of tiles, compared with the steps two to four pixels beside them."""

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
BESIDE = tuple(step for step in range(STEPS) if abs(step - MIDDLE) > 1)
FEWEST_PX = 24
"""Of selected border; an edge of a single cell that happens to lie along a border is shorter."""
LEAST_CHANCE_COUNTS = 0.3
"""What rounding to whole counts leaves."""
LIMIT = 5.0
OTHER_SIDES = 4
"""Chance at a border is that of its own surroundings and, with the weight of so many borders, that of all."""
MOST_BORDERS = 100_000

Numbers = npt.NDArray[np.float64]
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
    a tile, or around it, has a mean that is far larger than chance allows; chance is measured on the steps beside the
    borders. A tile with less than 24 px of selected border cannot be judged.
    """

    tile_px: int = 0
    sums: dict[Border, npt.NDArray[np.float64]] = field(default_factory=dict)
    above: dict[PlaneIndex, tuple[int, npt.NDArray[Any], npt.NDArray[np.bool_]]] = field(default_factory=dict)

    def add(
        self, index: PlaneIndex, first_row: int, *, enhanced: npt.NDArray[Any], selected: npt.NDArray[np.bool_]
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
        self, where: tuple[PlaneIndex, str, int], first: int, pixels: npt.NDArray[Any], selected: npt.NDArray[np.bool_]
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
        """Return for each border of a tile how many times chance its mean step is, alone or with the rest of its tile.

        Notes
        -----
        A tile that is brighter than its neighbours is so on all its sides. So the sides of a tile are judged together,
        too, weighted by their pixels; what that gives is the score of the side that is clearest by itself.
        """
        borders, table = list(self.sums), np.array(list(self.sums.values())).reshape(-1, STEPS + 1)
        steps, pixels = table[:, MIDDLE], table[:, -1]
        # Variance of a mean step times the number of its pixels: neighbours along a border are alike, so this is more
        # than the variance of a single step.
        spreads = (table[:, BESIDE] ** 2).mean(axis=1) / pixels
        judged = pixels >= FEWEST_PX
        if not judged.any():
            return {}
        usual = max(float(spreads[judged].mean()), LEAST_CHANCE_COUNTS**2)

        def times_chance(step: Numbers, count: Numbers, spread: Numbers, sides: Numbers) -> Numbers:
            variance = (spread + OTHER_SIDES * usual) / (sides + OTHER_SIDES)
            return np.asarray(np.abs(step) / np.sqrt(np.maximum(count, 1) * variance))

        tiles: dict[tuple[PlaneIndex, int, int], int] = {}
        beside = np.array(
            [[tiles.setdefault(tile, len(tiles)) for tile in self._tiles_beside(border)] for border in borders]
        ).T  # (2, borders): the tile before each border and the one after it

        def of_tile(values: Numbers, sign: float = 1.0) -> Numbers:
            before, after = (np.bincount(side, values, len(tiles)) for side in beside)
            return np.asarray(after + sign * before)

        counts = of_tile(pixels)
        together = times_chance(of_tile(steps, -1.0), counts, of_tile(spreads), of_tile(np.ones_like(pixels)))
        together[counts < FEWEST_PX] = 0
        alone = times_chance(steps, pixels, spreads, np.ones_like(pixels))
        clearest = np.zeros(len(tiles))
        np.maximum.at(clearest, beside, np.broadcast_to(alone, beside.shape))
        shared = np.where(alone >= clearest[beside], together[beside], 0).max(axis=0)
        scores = np.maximum(alone * judged, shared)
        looked_at = judged | (counts[beside].max(axis=0) >= FEWEST_PX)
        return {border: float(score) for border, score, seen in zip(borders, scores, looked_at, strict=True) if seen}

    def _tiles_beside(self, border: Border) -> tuple[tuple[PlaneIndex, int, int], ...]:
        """Return the tiles before and after a border, by plane, row and column of tiles."""
        index, kind, position, along = border
        after = position // self.tile_px
        if kind == "row":
            return (index, after - 1, along), (index, after, along)
        return (index, along, after - 1), (index, along, after)

    def visible(self) -> list[Border]:
        """Return the borders whose step is no chance, the clearest first."""
        scores = self.scores()
        return sorted((border for border, score in scores.items() if score > LIMIT), key=lambda one: -scores[one])
