"""Samples of drawn structures with a known mask: noisy stack, clear truth and mask, computed where they are read."""

from dataclasses import dataclass
from functools import lru_cache, partial
from math import pi
from typing import Any

import numpy as np
import numpy.typing as npt

from cellxlate.stacks.samples.nuclei import (
    AUTOFLUORESCENCE_COUNTS,
    BLOCK_PX,
    DEPTH_UM,
    PIXEL_SIZE_UM,
    Part,
    SampleSettings,
    SimulatedStack,
    computed_stacks,
    stored_counts,
)
from cellxlate.stacks.samples.structures import DrawnField, check_drawing, draw_structure, draw_volume

STRUCTURE_COUNTS = 1000.0  # of the truth above its background, where an image of a drawing is 1
DRIFT_PX, DRIFT_PERIOD = 6, 40.0


@dataclass(frozen=True)
class StructureSettings:
    """Which structures to simulate.

    Attributes
    ----------
    kind : str
        One of `cellxlate.stacks.samples.structures.STRUCTURES`, or "mixed".
    shape : tuple of int
        Size along T, C, Z, Y and X.
    cell_fraction : float or None
        Share of each plane that cells shall cover, for blobs, nuclei, reticulum and cells; None for any.
    seed : int
        Not negative; the same seed gives the same pixels.
    scale, haze : float
        Sizes relative to the usual ones, and out-of-focus light relative to the structure's, as in `draw_structure`.

    Raises
    ------
    OptionError
        A value is outside its range, or has no meaning for the kind.
    """

    kind: str
    shape: tuple[int, int, int, int, int] = (1, 1, 1, 520, 696)
    cell_fraction: float | None = None
    seed: int = 0
    scale: float = 1.0
    haze: float = 0.0

    def __post_init__(self) -> None:
        plain = SampleSettings(self.shape, seed=self.seed)
        object.__setattr__(self, "shape", plain.shape)
        object.__setattr__(self, "seed", plain.seed)
        check_drawing(self.kind, self.shape[3:], 2, scale=self.scale, haze=self.haze, fraction=self.cell_fraction)


def simulate_structures(settings: StructureSettings) -> SimulatedStack:
    """Simulate a recording of drawn structures, in stacks with axes TCZYX.

    Notes
    -----
    The truth holds an offset of 100 counts, a background of 55 counts, and the drawing at about 1000 counts. The stack
    is 0.09 of that signal with Poisson noise at 0.6 electrons per count and read noise of 2.5 counts, as in `simulate`;
    both have the blur of the drawing. Each channel is a drawing of its own. Over time all drift by up to 6 px, by
    whole pixels. A channel is drawn whole; the latest two are kept, at 5 bytes a pixel of (Z, Y, X).

    Examples
    --------
    >>> sample = simulate_structures(StructureSettings("filaments", shape=(1, 1, 1, 64, 96), seed=7))
    >>> sample.stack.read((0, 0, 0), slice(0, 2), slice(0, 3)).shape
    (2, 3)
    """
    return computed_stacks(settings.shape, settings.kind, partial(_block, settings))


@lru_cache(maxsize=256)
def _block(settings: StructureSettings, part: Part, plane: tuple[int, ...], block: tuple[int, int]) -> npt.NDArray[Any]:
    """Compute one block of a plane, clipped to the plane."""
    time, channel, depth = plane
    drawn = _drawing(settings, channel)
    down, over = _drift(settings, time)
    rows, columns = (
        slice(position * BLOCK_PX + moved, min((position + 1) * BLOCK_PX, size) + moved)
        for position, moved, size in zip(block, (down, over), settings.shape[3:], strict=True)
    )
    if part == "mask":
        return drawn.mask[depth, rows, columns] * np.uint8(255)
    above = STRUCTURE_COUNTS * drawn.image[depth, rows, columns] + AUTOFLUORESCENCE_COUNTS
    return stored_counts(above, np.random.default_rng([settings.seed, 5, *plane, *block]) if part == "stack" else None)


@lru_cache(maxsize=2)
def _drawing(settings: StructureSettings, channel: int) -> DrawnField:
    """Draw one channel and what drifts into it; (Z, Y, X)."""
    random = np.random.default_rng([settings.seed, 6, channel])
    around = 2 * DRIFT_PX if settings.shape[0] > 1 else 0
    planes, rows, columns = settings.shape[2], settings.shape[3] + around, settings.shape[4] + around
    choice: dict[str, Any] = {"scale": settings.scale, "haze": settings.haze, "fraction": settings.cell_fraction}
    if planes == 1:
        field = draw_structure(settings.kind, (rows, columns), random, **choice)
        return DrawnField(image=field.image[None], mask=field.mask[None])
    spacing_z = DEPTH_UM / planes / PIXEL_SIZE_UM
    return draw_volume(settings.kind, (planes, rows, columns), random, spacing_z=spacing_z, **choice)


def _drift(settings: StructureSettings, time: int) -> tuple[int, int]:
    """Return how far all channels have moved, in whole pixels from the corner of what is drawn."""
    if settings.shape[0] == 1:
        return 0, 0
    phase = np.random.default_rng([settings.seed, 7]).uniform(0.0, 2.0 * pi, 2)
    turn = 2.0 * pi * time / DRIFT_PERIOD + phase
    down, over = np.rint(DRIFT_PX * (1.0 + np.sin(turn))).astype(int).tolist()
    return down, over
