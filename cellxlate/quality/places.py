"""Where attention selects, counted in blocks of a fixed grid, and which windows a check should therefore look at."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from cellxlate.stacks.stack import PlaneIndex

BLOCK_PX, HALF_PX = 256, 128
MOST_BLOCKS = 1 << 20
WORTH_LOOKING = 0.02
"""A block of which attention selects less has too little in it to judge cells by."""

Window = tuple[PlaneIndex, slice, slice]


@dataclass
class Places:
    """Selected pixels per block of 256 x 256 px, the same for any split of a plane into bands.

    Attributes
    ----------
    selected : dict
        Plane -> ndarray of int64 (block rows, block columns); planes beyond a million blocks are left out.
    shape : (int, int)
        Rows seen and columns of a plane.
    blocks : int
        How many there are in all planes.
    """

    selected: dict[PlaneIndex, npt.NDArray[np.int64]] = field(default_factory=dict)
    shape: tuple[int, int] = (0, 0)
    blocks: int = 0

    def add(self, index: PlaneIndex, first_row: int, selected: npt.NDArray[np.bool_]) -> None:
        """Count one band of a plane (rows, X) that starts at `first_row`."""
        rows, columns = selected.shape
        self.shape = (max(self.shape[0], first_row + rows), columns)
        counts = self.selected.get(index)
        if counts is None:
            if self.blocks >= MOST_BLOCKS:
                return
            counts = np.zeros((0, -(-columns // BLOCK_PX)), np.int64)
        needed = -(-(first_row + rows) // BLOCK_PX)
        if needed > len(counts):
            self.blocks += (needed - len(counts)) * counts.shape[1]
            counts = np.vstack([counts, np.zeros((needed - len(counts), counts.shape[1]), np.int64)])
        padded = np.pad(selected, ((0, 0), (0, -columns % 8)))
        words = np.ascontiguousarray(padded).view(np.uint64)  # 8 pixels of a row, a byte each
        starts = np.array([0, *range(HALF_PX - first_row % HALF_PX, rows, HALF_PX)])
        halves = np.add.reduceat(words, starts, axis=0).view(np.uint8)[:, :columns]  # at most 128 in a byte
        across = np.add.reduceat(halves, range(0, columns, BLOCK_PX), axis=1, dtype=np.int64)
        row_of = (first_row + starts) // BLOCK_PX - first_row // BLOCK_PX
        sums = np.zeros((row_of[-1] + 1, across.shape[1]), np.int64)  # (block rows, block columns)
        np.add.at(sums, row_of, across)
        top = first_row // BLOCK_PX
        counts[top : top + len(sums)] += sums
        self.selected[index] = counts

    def include(self, other: "Places") -> None:
        """Add what was counted of other planes, or of other rows of the same."""
        self.shape = (max(self.shape[0], other.shape[0]), max(self.shape[1], other.shape[1]))
        for index, counts in other.selected.items():
            before = self.selected.get(index)
            if before is None and self.blocks >= MOST_BLOCKS:
                continue
            longer = np.zeros((max(len(counts), 0 if before is None else len(before)), counts.shape[1]), np.int64)
            for part in (counts, before):
                if part is not None:
                    longer[: len(part)] += part
            self.blocks += longer.size - (0 if before is None else before.size)
            self.selected[index] = longer

    def choose(self, most: int, indices: Sequence[PlaneIndex] | None = None) -> list[Window]:
        """Return at most `most` windows of 256 x 256 px (fewer pixels only in smaller planes).

        Parameters
        ----------
        most : int
            All blocks in which attention selects at least 2 %, if there are no more; else some, from the fullest to the
            emptiest of them in even steps. Where there is none, blocks that are spread evenly.
        indices : sequence of plane indices, optional
            The planes to choose from; all by default.
        """
        planes = [index for index in sorted(self.selected) if indices is None or index in set(indices)]
        all_blocks: list[Any] = [
            (int(count), index, row, column)
            for index in planes
            for (row, column), count in np.ndenumerate(self.selected[index])
        ]
        worth = [block for block in all_blocks if block[0] >= WORTH_LOOKING * BLOCK_PX**2]
        worth.sort(key=lambda block: (-block[0], *block[1:]))
        ranked = worth or all_blocks
        most = min(most, len(ranked))
        picked = [ranked[(2 * part + 1) * len(ranked) // (2 * most)] for part in range(most)]
        return [(index, *self._window(row, column)) for _, index, row, column in picked]

    def _window(self, row: int, column: int) -> tuple[slice, slice]:
        ends = [min((block + 1) * BLOCK_PX, size) for block, size in zip((row, column), self.shape, strict=True)]
        rows, columns = (slice(max(end - BLOCK_PX, 0), end) for end in ends)
        return rows, columns
