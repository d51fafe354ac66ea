"""Patches of images in which noise is told from structure, and the tiles that they are looked for in."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from scipy import ndimage

TILE_PX, MOST_TILES, SMALLEST_SIDE_PX = 256, 12, 32
BLOCK_PX = 8
PATCH_BLOCKS = 2
FINE_PX, NEAR_PX, LEVEL_PX, FAR_PX, GROUND_PX = 1.0, 1.5, 2.0, 4.0, 8.0
HOT_SIDE_PX, HOT_SHARE, HOT_TIMES = 5, 0.6, 100.0
FloatPlane = npt.NDArray[np.float32]
Place = TypeVar("Place")


@dataclass(frozen=True)
class Look:
    """One tile: counts, level and fine energy per pixel; per patch the level, and log coarse over near energy."""

    counts: FloatPlane
    level: FloatPlane
    fine: FloatPlane
    patch_level: FloatPlane
    ratio: FloatPlane


def tiles_and_brightness(
    windows: Iterable[npt.NDArray[Any]], brightness: Sequence[npt.NDArray[Any]] | None
) -> tuple[list[npt.NDArray[Any]], list[npt.NDArray[Any]]]:
    """Cut windows into tiles of at most 256 px and keep at most 12, spread evenly; the same of their brightness."""
    windows = list(windows)
    brightness = windows if brightness is None else list(brightness)
    places = spread_evenly(
        [(number, *inside) for number, window in enumerate(windows) for inside in _windows(window)], MOST_TILES
    )
    return tuple(  # type: ignore[return-value]
        [_finite(images[number][rows, columns]) for number, rows, columns in places] for images in (windows, brightness)
    )


def tiles_of(window: npt.NDArray[Any], most: int) -> list[npt.NDArray[Any]]:
    """Return copies of at most so many tiles of 256 px of a window (Y, X), as `measure_noise` looks at."""
    return [window[inside].copy() for inside in spread_evenly(_windows(window), most)]


def _windows(window: npt.NDArray[Any]) -> list[tuple[slice, slice]]:
    counts = [max(round(size / TILE_PX), 1) for size in window.shape]
    rows, columns = (
        [int(start) for start in np.linspace(0, max(size - TILE_PX, 0), count)]
        for size, count in zip(window.shape, counts, strict=True)
    )
    return [(slice(top, top + TILE_PX), slice(left, left + TILE_PX)) for top in rows for left in columns]


def spread_evenly(places: Sequence[Place], most: int) -> list[Place]:
    """Return at most so many of some places, spread evenly."""
    if len(places) <= most:
        return list(places)
    return [places[(2 * number + 1) * len(places) // (2 * most)] for number in range(most)]


def _finite(tile: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a tile with the median in place of pixels that are not finite."""
    if tile.dtype.kind != "f":
        return tile
    finite = np.isfinite(tile)
    if finite.all():
        return tile
    return np.where(finite, tile, np.median(tile[finite]) if finite.any() else 0.0)


def gaussian(plane: FloatPlane, sigma_px: float) -> FloatPlane:
    """Blur a plane (Y, X)."""
    smooth: FloatPlane = ndimage.gaussian_filter(plane, sigma_px, mode="reflect", truncate=3.0)
    return smooth


def _patches(plane: FloatPlane) -> FloatPlane:
    """Return the means of patches of 16 px, every 8 px."""
    rows, columns = (size // BLOCK_PX * BLOCK_PX for size in plane.shape)
    blocks = plane[:rows, :columns].reshape(rows // BLOCK_PX, BLOCK_PX, columns // BLOCK_PX, BLOCK_PX).mean((1, 3))
    return np.asarray((blocks[1:, 1:] + blocks[:-1, 1:] + blocks[1:, :-1] + blocks[:-1, :-1]) / 4)


def look_at(counts: FloatPlane, level: FloatPlane) -> Look:
    """Return what a tile and its brightness, (Y, X) each, tell of noise and structure."""
    counts = _without_hot(counts)
    near = gaussian(counts, NEAR_PX)
    energy = _patches((counts - near) ** 2)
    coarse = _patches((near - gaussian(counts, FAR_PX)) ** 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(energy > 0, np.log(np.maximum(coarse, 1e-30) / energy), np.inf).astype(np.float32)
    return Look(counts, gaussian(level, LEVEL_PX), (counts - gaussian(counts, FINE_PX)) ** 2, _patches(level), ratio)


def _without_hot(counts: FloatPlane) -> FloatPlane:
    """Return a plane with the local mean in place of single pixels that hold nearly all the energy around them."""
    fine = counts - ndimage.uniform_filter(counts, 3, mode="reflect")
    energy = fine**2
    around = HOT_SIDE_PX**2 * ndimage.uniform_filter(energy, HOT_SIDE_PX, mode="reflect")
    hot = (energy > HOT_SHARE * around) & (energy > HOT_TIMES * float(np.median(energy[::2, ::2])))
    if not hot.any():
        return counts
    return np.where(hot, counts - fine * np.float32(9 / 8), counts)  # the mean of the eight others


def masks_of(looks: Sequence[Look], chosen: npt.NDArray[np.bool_]) -> Iterable[tuple[Look, npt.NDArray[np.bool_]]]:
    """Yield each look that has chosen patches, with the pixels of those patches."""
    begin = 0
    for look in looks:
        rows, columns = look.ratio.shape
        here = chosen[begin : begin + look.ratio.size].reshape(rows, columns)
        begin += look.ratio.size
        if not here.any():
            continue
        blocks = np.zeros((rows + PATCH_BLOCKS - 1, columns + PATCH_BLOCKS - 1), bool)
        for row in range(PATCH_BLOCKS):
            for column in range(PATCH_BLOCKS):
                blocks[row : row + rows, column : column + columns] |= here
        mask = np.zeros(look.counts.shape, bool)
        pixels = np.repeat(np.repeat(blocks, BLOCK_PX, axis=0), BLOCK_PX, axis=1)
        mask[: pixels.shape[0], : pixels.shape[1]] = pixels
        yield look, mask
