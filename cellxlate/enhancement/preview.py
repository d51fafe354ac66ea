"""Attention of one plane, block by block and without the generator, kept so that moving the threshold costs nothing."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cellxlate.enhancement.input import PlaneInput
from cellxlate.enhancement.plane import PlaneJob, band_attention
from cellxlate.enhancement.tiling import BLOCK_PX, Tile, tiles_of
from cellxlate.model.attention import ATTENTION_STEPS, attention_image, gate


@dataclass
class AttentionPlane:
    """Attention of a plane as far as it is known, in steps of 1/1024.

    Attributes
    ----------
    steps : ndarray (Y, X) of uint16
        0 where it is not known yet.
    known : set of (int, int)
        Top left corners of the blocks of 512 px that are known.
    counts : ndarray (1025,) of int64
        Known and estimated pixels per step: the selected area follows from it for any threshold.
    estimated : set of (int, int)
        Corners of blocks of which only an estimate is there yet.
    """

    steps: npt.NDArray[np.uint16]
    known: set[tuple[int, int]]
    counts: npt.NDArray[np.int64]
    estimated: set[tuple[int, int]] = field(default_factory=set)

    @classmethod
    def unknown(cls, shape: tuple[int, int]) -> "AttentionPlane":
        """Return a plane of (rows, columns) of which nothing is known yet."""
        return cls(np.zeros(shape, np.uint16), set(), np.zeros(ATTENTION_STEPS + 1, np.int64))

    @property
    def known_px(self) -> int:
        """Pixels whose attention is known or estimated."""
        return int(self.counts.sum())

    def missing(self, area: Tile | None = None) -> list[Tile]:
        """Return the blocks that are not known yet, from the middle outwards; where `area` is given, those in it."""
        rows, columns = self.steps.shape
        area = area or Tile(0, rows, 0, columns)
        blocks = tiles_of(Tile(0, rows, 0, columns), BLOCK_PX)
        unknown = [block for block in blocks if (block.top, block.left) not in self.known and _touch(block, area)]
        return sorted(unknown, key=lambda block: _distance(block, area))

    def add(self, block: Tile, steps: npt.NDArray[np.uint16], *, estimated: bool = False) -> None:
        """Take in a block; a second time changes nothing, but for an estimate, which the block itself replaces."""
        corner = block.top, block.left
        if corner in self.known or (estimated and corner in self.estimated):
            return
        if corner in self.estimated:
            self.estimated.remove(corner)
            self.counts -= _counts(self.steps[block.slices()])
        (self.estimated if estimated else self.known).add(corner)
        self.steps[block.slices()] = steps
        self.counts += _counts(steps)

    def selected_px(self, threshold: float) -> int:
        """Return how many known pixels an enhancement with this threshold would change."""
        return int(self.counts[gate_steps(threshold) > 0].sum())

    def image(self, threshold: float, area: Tile | None = None, every_px: int = 1) -> npt.NDArray[np.uint8]:
        """Return the attention image that an enhancement would write: 0 where pixels are kept, or not known yet.

        Of an area, by default of all; of every so-many-th row and column alone, beginning with the first.
        """
        steps = self.steps if area is None else self.steps[area.slices()]
        shown: npt.NDArray[np.uint8] = attention_image(gate_steps(threshold))[steps[::every_px, ::every_px]]
        return shown


def gate_steps(threshold: float) -> npt.NDArray[np.float32]:
    """Return the gate at each of the 1025 steps of attention."""
    return gate(np.arange(ATTENTION_STEPS + 1, dtype=np.uint16), threshold)


def attention_blocks(
    plane: PlaneInput, blocks: Iterable[Tile], job: PlaneJob
) -> Iterator[tuple[Tile, npt.NDArray[np.uint16]]]:
    """Find attention, and only attention, on blocks of a plane as `AttentionPlane.missing` gives them.

    They lie at the fixed places where an enhancement computes them too, so that the attention of each channel that is
    yielded with a block, (G, Y, X) in steps of 1/1024, equals that of an enhancement.
    """
    margin_px = job.translator.attention_halo_px + job.translator.stride
    for block in blocks:
        yield block, band_attention(plane.rows(block, margin_px), block, job).steps


def _touch(block: Tile, area: Tile) -> bool:
    return block.top < area.bottom and area.top < block.bottom and block.left < area.right and area.left < block.right


def _distance(block: Tile, area: Tile) -> int:
    """Return how far the middle of a block lies from that of an area, in half pixels."""
    down, across = block.top + block.bottom - area.top - area.bottom, block.left + block.right - area.left - area.right
    return max(abs(down), abs(across))


def _counts(steps: npt.NDArray[np.uint16]) -> npt.NDArray[np.int64]:
    return np.bincount(steps.ravel(), minlength=ATTENTION_STEPS + 1)
