"""Movies made of a single plane: what stands still, drifts, flows, moves over the rest, fades, or is not there at all.

Networks that see neighbours learn from them when a neighbour says something of a plane, and when it does not.
"""

import math

import numpy as np
import numpy.typing as npt
import torch

from cellxlate.stacks.samples.drawing import smooth_noise

Floats = npt.NDArray[np.float32]

STILL, DRIFTS, FLOWS, OBJECTS = 0.16, 0.18, 0.26, 0.16
"""How often a movie is of a kind; in the rest of them neighbours show something else."""
DRIFT_PX, FLOW_PX, OBJECTS_PX = (0.05, 6.0), (0.2, 14.0), (4.0, 60.0)
"""Way from one frame to the next."""
FLOW_GRAIN_PX = 16.0, 120.0
FADING_SHARE, FADING = 0.4, (0.005, 0.3)
UNSTEADY_SHARE, UNSTEADY = 0.3, 0.12
MODULATED_SHARE, MODULATED = 0.25, 0.5
"""How often brightness falls by a share per frame, varies from frame to frame, or from place to place."""


def as_movie(image: Floats, guide: Floats, context: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Return frames (2 * context + 1, Y, X) around an image (Y, X), which is the middle one, and its guide (Y, X)."""
    times = np.arange(-context, context + 1)
    kind = rng.random()
    if kind < STILL:
        frames = np.repeat(image[None], len(times), axis=0)
    elif kind < STILL + DRIFTS:
        frames = moved(image, drift(times, *DRIFT_PX, rng)[..., None, None])
    elif kind < STILL + DRIFTS + FLOWS:
        frames = moved(image, flow(times, image.shape, rng))
    elif kind < STILL + DRIFTS + FLOWS + OBJECTS:
        turns = int(rng.integers(1, 4))
        rest = np.rot90(image, turns) * np.float32(rng.uniform(0.2, 1.5))
        frames = moved(image, drift(times, *OBJECTS_PX, rng)[..., None, None])
        frames = np.maximum(frames, rest) if rng.random() < 0.5 else frames + rest
        guide = np.maximum(guide, np.rot90(guide, turns))
    else:
        frames = np.stack([image if not time else _another(image, rng) for time in times])
    return with_brightness(frames.astype(np.float32, copy=False), times, rng), guide


def drift(times: npt.NDArray[np.int64], least_px: float, most_px: float, rng: np.random.Generator) -> Floats:
    """Draw a way (frames, 2) in pixels, even but for a third of its speed."""
    speed = math.exp(rng.uniform(math.log(least_px), math.log(most_px)))
    angle = rng.uniform(0, 2 * math.pi)
    way = speed * np.array([math.sin(angle), math.cos(angle)]) * times[:, None]
    unsteady = rng.normal(0, speed / 3, way.shape) * (times != 0)[:, None]
    drawn: Floats = (way + unsteady).astype(np.float32)
    return drawn


def flow(times: npt.NDArray[np.int64], shape: tuple[int, ...], rng: np.random.Generator) -> Floats:
    """Draw how far each pixel has moved, (frames, 2, Y, X): neighbours alike, each on a way of its own."""
    speed = math.exp(rng.uniform(*np.log(FLOW_PX)))
    grain_px = math.exp(rng.uniform(*np.log(FLOW_GRAIN_PX)))
    rows, columns = shape
    way = np.stack([smooth_noise((rows, columns), grain_px, rng) for _ in range(2)])
    return (speed * times[:, None, None, None] * way).astype(np.float32)


def moved(image: Floats, ways_px: Floats) -> Floats:
    """Move an image (Y, X) by ways (frames, 2, Y or 1, X or 1): rows first; mirrored at the border."""
    rows, columns = image.shape
    down, across = np.arange(rows, dtype=np.float32)[:, None], np.arange(columns, dtype=np.float32)
    at_row, at_column = down - ways_px[:, 0], across - ways_px[:, 1]
    at_row, at_column = np.broadcast_arrays(at_row, at_column, subok=False)
    shape = (len(ways_px), rows, columns)
    grid = np.stack(
        [np.broadcast_to((2 * at + 1) / size - 1, shape) for at, size in ((at_column, columns), (at_row, rows))],
        axis=-1,
    )
    images = torch.from_numpy(image)[None, None].expand(len(ways_px), 1, rows, columns)
    frames = torch.nn.functional.grid_sample(
        images, torch.from_numpy(grid.astype(np.float32)), mode="bicubic", padding_mode="reflection",
        align_corners=False,
    )  # fmt: skip
    made: Floats = frames[:, 0].numpy().clip(image.min(), image.max())
    return made


def with_brightness(frames: Floats, times: npt.NDArray[np.int64], rng: np.random.Generator) -> Floats:
    """Let brightness fall, vary from frame to frame, and from place to place; the middle frame stays as it is."""
    factors = np.ones(len(times))
    if rng.random() < FADING_SHARE:
        factors *= np.exp(-math.exp(rng.uniform(*np.log(FADING))) * times)
    if rng.random() < UNSTEADY_SHARE:
        factors *= np.exp(rng.normal(0, UNSTEADY, len(times)) * (times != 0))
    frames = np.multiply(frames, factors[:, None, None], dtype=np.float32)
    if rng.random() < MODULATED_SHARE:
        grain_px, strength = rng.uniform(4, 40), rng.uniform(0, MODULATED)
        rows, columns = frames.shape[1:]
        for number in np.flatnonzero(times):
            frames[number] *= np.exp(np.float32(strength) * smooth_noise((rows, columns), grain_px, rng))
    return frames


def _another(image: Floats, rng: np.random.Generator) -> Floats:
    """Return an image of the same kind that shows nothing at the same place."""
    turned = np.rot90(image, int(rng.integers(4)))
    turned = turned[:, ::-1] if rng.random() < 0.5 else turned
    return np.roll(turned, tuple(int(rng.integers(size // 4, 3 * size // 4)) for size in image.shape), (0, 1))
