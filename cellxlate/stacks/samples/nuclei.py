"""Seeded fluorescent nuclei with a known mask: faint stack, sharp truth and mask, computed where they are read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from math import ceil
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from cellxlate.errors import OptionError
from cellxlate.option_values import real_number, require_choice, require_kind
from cellxlate.options import LAYOUT, SEED
from cellxlate.stacks.samples.cells import REACH, Cells, Layout, cells_in_plane, outline_distance, place_cells
from cellxlate.stacks.stack import Stack
from cellxlate.stacks.windows import read_planes

Floats = npt.NDArray[np.float32]
Part = Literal["stack", "truth", "mask"]

MAX_CELL_FRACTION = 0.9
BLOCK_PX = 256

OFFSET_COUNTS = 100.0
CELL_COUNTS, CELL_SPREAD = 530.0, 0.3  # above the offset in the truth: median, and standard deviation of the logarithm
AUTOFLUORESCENCE_COUNTS, SHADING, SHADING_PX = 55.0, 0.2, (610.0, 830.0)  # amplitude and wavelengths
EXPOSURE = 0.09  # of the faint stack, relative to the truth
ELECTRONS_PER_COUNT, READ_NOISE_COUNTS = 0.6, 2.5
BLUR_PX, DEFOCUS = 1.5, 0.8  # Gaussian sigma in the central plane, and its relative growth towards the end planes

TEXTURE_PX, TEXTURE_CONTRAST, TEXTURE_GRAINS_PX = 256, 0.13, (1.2, 4.0)
PIXEL_SIZE_UM, DEPTH_UM, TIME_STEP_S = 0.65, 12.0, 600.0


@dataclass(frozen=True)
class SampleSettings:
    """What to simulate.

    Attributes
    ----------
    shape : tuple of int
        Size along T, C, Z, Y and X.
    cell_fraction : float
        Share of each plane that cells cover, 0 to 0.9.
    layout : {"scattered", "clustered"}
        Cells all over the plane, or in a few dense round groups.
    seed : int
        Not negative; the same seed gives the same pixels.

    Raises
    ------
    OptionError
        A value is outside its range.
    """

    shape: tuple[int, int, int, int, int] = (1, 1, 1, 520, 696)
    cell_fraction: float = 0.15
    layout: Layout = "scattered"
    seed: int = 0

    def __post_init__(self) -> None:
        require_kind("shape", self.shape, Sequence, "five sizes")
        for size in self.shape:
            real_number("shape", size)
        real_number("cell_fraction", self.cell_fraction)
        real_number(SEED, self.seed)
        if len(self.shape) != 5 or any(not size >= 1 or size % 1 for size in self.shape):
            raise OptionError(
                f"shape {self.shape} is not T,C,Z,Y,X with sizes of at least 1; for example 1,1,1,520,696"
            )
        if not 0 <= self.cell_fraction <= MAX_CELL_FRACTION:
            raise OptionError(
                f"cell fraction {self.cell_fraction} is outside 0 to {MAX_CELL_FRACTION}; choose one inside"
            )
        require_choice(LAYOUT, self.layout, get_args(Layout))
        if not self.seed >= 0 or self.seed % 1:
            raise OptionError(f"seed {self.seed} is not a whole number of at least 0")
        object.__setattr__(self, "shape", tuple(int(size) for size in self.shape))
        object.__setattr__(self, "seed", int(self.seed))


@dataclass(frozen=True)
class SimulatedStack:
    """One simulated sample in three parts of the same shape (T, C, Z, Y, X).

    Attributes
    ----------
    stack : Stack
        uint16 counts: blurred, faint and noisy, as a camera would record it.
    truth : Stack
        uint16 counts above the same offset, eleven times brighter: sharp and without noise.
    mask : Stack
        uint8, 255 in cells and 0 elsewhere; the same in every channel.
    """

    stack: Stack
    truth: Stack
    mask: Stack


@dataclass(frozen=True)
class SimulatedPixels:
    """Pixels of shape (T, C, Z, Y, X) that are computed when a window of them is read.

    `block_of` computes a block of 256 x 256 px, clipped to the plane, from its plane (T, C, Z), row and column. Blocks
    do not depend on each other, and each has a noise seed of its own, so a window holds the same bits whichever window
    it is read through. The process keeps the latest 256 blocks (at most 32 MiB).
    """

    shape: tuple[int, ...]
    part: Part
    block_of: Callable[[tuple[int, ...], tuple[int, int]], npt.NDArray[Any]]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type: uint8 for the mask, uint16 for the images."""
        return np.dtype(np.uint8 if self.part == "mask" else np.uint16)

    def __getitem__(self, key: Any) -> Any:
        return read_planes(key, self.shape, self.dtype, 3, self._window)[()]

    def _window(self, plane: tuple[int, ...], within: list[range]) -> Any:
        rows, columns = (np.asarray(part) for part in within)
        window = np.empty((len(rows), len(columns)), self.dtype)
        for row in np.unique(rows // BLOCK_PX):
            in_rows = np.flatnonzero(rows // BLOCK_PX == row)
            for column in np.unique(columns // BLOCK_PX):
                in_columns = np.flatnonzero(columns // BLOCK_PX == column)
                block = self.block_of(plane, (int(row), int(column)))
                inside = np.ix_(rows[in_rows] - row * BLOCK_PX, columns[in_columns] - column * BLOCK_PX)
                window[np.ix_(in_rows, in_columns)] = block[inside]
        return window


def simulate(settings: SampleSettings) -> SimulatedStack:
    """Simulate nuclei that resemble a low-exposure recording of a monolayer at 20x, in stacks with axes TCZYX.

    Notes
    -----
    The truth holds an offset of 100 counts, autofluorescence of 44-66 counts and cells of about 290-970 counts above
    the offset. The stack is 0.09 of that signal, blurred by a Gaussian of 1.5 px, with Poisson noise at 0.6 electrons
    per count and read noise of 2.5 counts: the middle of what the low-exposure nuclei have that this package is tested
    on. Every plane holds the requested share of cells within 10 % or 0.005, from 512 x 512 px upwards. Cells lie at
    different depths in a layer of 12 um that the Z planes divide; planes away from its middle are further out of focus,
    and light from other planes is not added. Over time cells wander by up to 6 px. Channels hold the same cells in
    independent brightness. In the clustered layout at a share of 0.05, at most 15 % of a plane of at least
    720 x 720 px lies within 100 px of a cell.

    One core computes 5 (share 0.9) to 12 (no cells) megapixels of the stack per second.

    Examples
    --------
    >>> sample = simulate(SampleSettings(shape=(1, 1, 1, 64, 96), cell_fraction=0.3, seed=7))
    >>> sample.stack.read((0, 0, 0), slice(0, 2), slice(0, 3)).shape
    (2, 3)
    >>> sample.mask.dtype
    dtype('uint8')
    """
    return computed_stacks(settings.shape, "nuclei", partial(_block, settings))


def computed_stacks(
    shape: tuple[int, ...], channel: str, block_of: Callable[[Part, tuple[int, ...], tuple[int, int]], npt.NDArray[Any]]
) -> SimulatedStack:
    """Return a sample of (T, C, Z, Y, X), whose blocks `block_of` computes, with channels of one name, numbered."""
    times, channels, depths = shape[:3]

    def part(name: Part) -> Stack:
        return Stack(
            pixels=SimulatedPixels(shape, name, partial(block_of, name)),
            axes="TCZYX",
            name=f"simulated_{name}",
            pixel_size_um={"Z": DEPTH_UM / depths, "Y": PIXEL_SIZE_UM, "X": PIXEL_SIZE_UM},
            channel_names=tuple(f"{channel} {number + 1}" for number in range(channels)),
            time_step_s=TIME_STEP_S if times > 1 else None,
        )

    return SimulatedStack(stack=part("stack"), truth=part("truth"), mask=part("mask"))


@lru_cache(maxsize=256)
def _block(settings: SampleSettings, part: Part, plane: tuple[int, ...], block: tuple[int, int]) -> npt.NDArray[Any]:
    """Compute one block of a plane, clipped to the plane."""
    time, channel, depth = plane
    signal, inside = _draw(settings, (time, 0 if part == "mask" else channel, depth), block)
    halo = _halo_px(settings, depth)
    core = (slice(halo, -halo), slice(halo, -halo))
    if part == "mask":
        return inside[core] * np.uint8(255)
    if part == "truth":
        return stored_counts(signal[core])
    blurred = ndimage.gaussian_filter(signal, _blur_px(settings, depth), radius=halo)
    return stored_counts(blurred[core], np.random.default_rng([settings.seed, 3, *plane, *block]))


def stored_counts(above: Floats, random: np.random.Generator | None = None) -> npt.NDArray[np.uint16]:
    """Return light, in counts above the offset, as it is stored; with a generator, as a faint recording has it."""
    counts: npt.NDArray[Any] = above
    if random is not None:
        electrons = random.poisson(above * (EXPOSURE * ELECTRONS_PER_COUNT))
        counts = electrons / ELECTRONS_PER_COUNT + READ_NOISE_COUNTS * random.standard_normal(electrons.shape)
    return np.rint(OFFSET_COUNTS + counts).astype(np.uint16)


@lru_cache(maxsize=32)
def _draw(
    settings: SampleSettings, plane: tuple[int, ...], block: tuple[int, int]
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Draw a block and its halo: sharp signal in counts above the offset, and where cells are; both (Y, X)."""
    time, channel, depth = plane
    halo = _halo_px(settings, depth)
    top, left = (position * BLOCK_PX - halo for position in block)
    bottom, right = (
        min((position + 1) * BLOCK_PX, size) + halo for position, size in zip(block, settings.shape[3:], strict=True)
    )
    nearest = np.ones((bottom - top, right - left), np.float32)  # squared distance to the nearest cell
    above = np.zeros_like(nearest)  # counts above the background
    texture, brightness = _texture(settings.seed), _brightness(settings, channel)
    numbers, cells = _cells_across(settings, (time, depth), (top, bottom))
    seen = _reaches(cells, "column", (left, right))
    for number, cell in zip(numbers[seen].tolist(), cells[seen], strict=True):
        around = ceil(cell["half_major"] * REACH)
        first_row, first_column = (round(float(cell[axis])) - around for axis in ("row", "column"))
        rows = slice(max(first_row, top), min(first_row + 2 * around + 1, bottom))
        columns = slice(max(first_column, left), min(first_column + 2 * around + 1, right))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            continue
        down_px = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] - cell["row"]
        over_px = np.arange(columns.start, columns.stop, dtype=np.float32) - cell["column"]
        distance = outline_distance(cell, down_px, over_px)  # (rows, columns)
        edge = np.minimum(0.5 + (1.0 - distance) * (0.4 * cell["half_minor"]), 1.1 - 0.2 * distance)  # soft over 1 px
        grain_rows = _shifted(rows, int(cell["texture_row"]) - first_row)
        grain_columns = _shifted(columns, int(cell["texture_column"]) - first_column)
        window = (_shifted(rows, -top), _shifted(columns, -left))
        own = distance < nearest[window]
        np.copyto(nearest[window], distance, where=own)
        np.copyto(above[window], texture[grain_rows, grain_columns] * edge * brightness[number], where=own)
    return above + _background(settings.seed, top, bottom, left, right), nearest < 1.0


def _shifted(part: slice, by_px: int) -> slice:
    return slice(part.start + by_px, part.stop + by_px)


@lru_cache(maxsize=16)
def _cells_across(
    settings: SampleSettings, plane: tuple[int, int], rows: tuple[int, int]
) -> tuple[npt.NDArray[np.intp], Cells]:
    """Return the numbers and records of the cells that may reach into rows of a plane (T, Z)."""
    cells = _cells(settings, *plane)
    numbers = np.flatnonzero(_reaches(cells, "row", rows))
    return numbers, cells[numbers]


def _reaches(cells: Cells, axis: str, part: tuple[int, int]) -> npt.NDArray[np.bool_]:
    reach_px = cells["half_major"] * REACH + 1.0
    inside: npt.NDArray[np.bool_] = (cells[axis] + reach_px >= part[0]) & (cells[axis] - reach_px < part[1])
    return inside


@lru_cache(maxsize=8)
def _cells(settings: SampleSettings, time: int, depth: int) -> Cells:
    """Return all cells as they are in one plane."""
    return cells_in_plane(
        _population(settings),
        settings.shape[3:],
        cell_fraction=settings.cell_fraction,
        time=time,
        depth=_relative_depth(settings, depth),
    )


@lru_cache(maxsize=4)
def _population(settings: SampleSettings) -> Cells:
    return place_cells(
        settings.shape[3:], cell_fraction=settings.cell_fraction, layout=settings.layout, seed=settings.seed
    )


@lru_cache(maxsize=32)
def _brightness(settings: SampleSettings, channel: int) -> Floats:
    """Draw the brightness of each cell in one channel, in counts above the offset."""
    deviation = np.random.default_rng([settings.seed, 1, channel]).standard_normal(len(_population(settings)))
    return (CELL_COUNTS * np.exp(CELL_SPREAD * deviation.clip(-2.0, 2.0))).astype(np.float32)


@lru_cache(maxsize=4)
def _texture(seed: int) -> Floats:
    """Draw chromatin of mean 1, coarse and fine grains, periodic in 256 px and repeated to 512 px; (Y, X)."""
    random = np.random.default_rng([seed, 2])
    grains = np.zeros((TEXTURE_PX, TEXTURE_PX))
    for grain_px in TEXTURE_GRAINS_PX:
        grain = ndimage.gaussian_filter(random.standard_normal(grains.shape), grain_px, mode="wrap")
        grains += grain / grain.std()
    texture = np.exp(TEXTURE_CONTRAST * grains / grains.std())
    return np.tile((texture / texture.mean()).astype(np.float32), (2, 2))


def _background(seed: int, top: int, bottom: int, left: int, right: int) -> Floats:
    """Return the autofluorescence of a window in counts above the offset, unevenly lit; (Y, X)."""
    phase = np.random.default_rng([seed, 4]).uniform(0.0, 2.0 * np.pi, 2)
    waves = [
        np.cos(np.arange(first, last) * (2.0 * np.pi / wavelength_px) + start)
        for first, last, wavelength_px, start in zip((top, left), (bottom, right), SHADING_PX, phase, strict=True)
    ]
    counts: Floats = (AUTOFLUORESCENCE_COUNTS * (1.0 + SHADING * np.outer(*waves))).astype(np.float32)
    return counts


def _relative_depth(settings: SampleSettings, depth: int) -> float:
    """Return the place of a plane between -1 and 1, 0 in the middle of the stack."""
    return (2 * depth + 1) / settings.shape[2] - 1.0


def _blur_px(settings: SampleSettings, depth: int) -> float:
    return BLUR_PX * (1.0 + DEFOCUS * _relative_depth(settings, depth) ** 2)


def _halo_px(settings: SampleSettings, depth: int) -> int:
    """Return how far the blur reaches: 3.5 of its standard deviations."""
    return ceil(3.5 * _blur_px(settings, depth))
