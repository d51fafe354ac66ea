"""Windows of noisy images, in memory, with the noise that their camera adds: what a model learns from alone."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cellxlate.errors import InputError
from cellxlate.settings import LEAST_LEARNED_PX, AloneSettings, TrainSettings
from cellxlate.stacks.intensity.camera_noise import measure_noise
from cellxlate.stacks.intensity.contrast import contrast, contrast_windows
from cellxlate.stacks.intensity.noise_model import CameraNoise
from cellxlate.stacks.intensity.noise_patches import spread_evenly
from cellxlate.stacks.intensity.range import IntensityRange
from cellxlate.stacks.intensity.stack_noise import stack_noise
from cellxlate.stacks.intensity.stack_range import sample_windows, stack_ranges
from cellxlate.stacks.read.open import find_images, open_stack
from cellxlate.stacks.read.sets.ome import one_of_each
from cellxlate.stacks.stack import PlaneIndex, Stack
from cellxlate.training.fields.files import check_stack
from cellxlate.training.fields.patches import Domain, Field

CONTRAST_PER_NOISE = 1.5
MOST_FILES, WINDOWS_PER_FILE = 16, 2


class NothingToLearnError(InputError):
    """An image is too small, or shows nothing that stands out of its noise."""


def alone_domain(paths: Sequence[Path], settings: TrainSettings, channel: str | int | None) -> Domain:
    """Take a bounded sample of some files and folders into memory, with the noise that their camera adds.

    Raises
    ------
    InputError
        Nothing to read, several channels and none chosen, images smaller than 64 px or without contrast.
    """
    files, _ = find_images(paths, "source")
    files = one_of_each(files)
    chosen = spread_evenly(files, min(MOST_FILES, settings.alone.windows))
    quota = -(-settings.alone.windows // len(chosen))
    fields: list[Field] = []
    windows: list[npt.NDArray[Any]] = []
    for path in chosen:
        with ExitStack() as opened:
            stack = opened.enter_context(open_stack(path))
            number = check_stack(stack, path, LEAST_LEARNED_PX, channel)
            intensities = stack_ranges(stack, [number])
            fields += sample_of(stack, number, intensities[number], settings.alone, quota)
            noise = stack_noise(stack, number) if len(chosen) == 1 else None
            windows += [] if noise else islice(sample_windows(stack, number), WINDOWS_PER_FILE)
    return domain_of([(fields, noise or measure_noise(windows))], "the source images")


Around = Callable[[Stack, PlaneIndex], Sequence[PlaneIndex]]
"""Which planes are seen for one, itself in their middle."""


def sampled_domain(
    stack: Stack, intensities: dict[int, IntensityRange], settings: AloneSettings, around: Around | None = None
) -> Domain:
    """Take a bounded sample of the channels of a stack of which ranges are given into memory, with the noise of each.

    Windows are taken with the same place of the planes `around` theirs, where that is given.

    Raises
    ------
    NothingToLearnError
        Planes are smaller than 64 px, or no channel has contrast.
    """
    if min(stack.plane_shape) < LEAST_LEARNED_PX:
        rows, columns = stack.plane_shape
        raise NothingToLearnError(
            f"{stack.name}: {rows} x {columns} px is too small to learn from; expected at least {LEAST_LEARNED_PX} px"
        )
    channels = spread_evenly(list(intensities), settings.windows)
    quota = max(settings.windows // len(channels), 1)
    return domain_of(
        [
            (sample_of(stack, one, intensities[one], settings, quota, around), stack_noise(stack, one))
            for one in channels
        ],
        stack.name,
    )


def domain_of(channels: Sequence[tuple[Sequence[Field], CameraNoise]], name: str) -> Domain:
    """Return the fields of some channels as one domain, with the noise of each channel.

    Raises
    ------
    NothingToLearnError
        No field has contrast, or none has noise.
    """
    if not any(own for own, _ in channels):
        raise NothingToLearnError(f"{name}: every window holds pixels that are not finite, or one value alone")
    pairs = [(field, noise) for own, noise in channels for field in own if stands_out(field) and noise.sd_counts > 0]
    if not pairs:
        raise NothingToLearnError(f"{name}: nothing stands out of the noise, so there is nothing to learn from")
    context = pairs[0][0].stack.size("Z") // 2
    return Domain([field for field, _ in pairs], 0, "none", noises=[noise for _, noise in pairs], context=context)


def stands_out(field: Field) -> bool:
    """Return whether a window shows more, after a Gaussian of 2 px, than what that leaves of the noise.

    Less is asked than of images that a domain is made of: the noisiest stacks are those that have most to gain.
    """
    return (
        contrast(field.stack.read(field.index), field.intensity)
        > CONTRAST_PER_NOISE * field.intensity.smooth_noise / field.intensity.span
    )


def sample_of(
    stack: Stack, channel: int, intensity: IntensityRange, settings: AloneSettings, count: int,
    around: Around | None = None,
) -> list[Field]:  # fmt: skip
    """Return at most so many windows of a channel, spread over its planes, each where there is contrast, in memory.

    Windows with pixels that are not finite, or of one value, are left out. Each is a plane, or the middle one of a
    stack of those around it, on its own levels.
    """
    kept: list[Field] = []
    for (index, rows, columns), counts, own in contrast_windows(
        stack, channel, intensity, side_px=settings.window_px, count=count
    ):
        name = f"{stack.name} channel {channel} plane {tuple(index)} from {rows.start}, {columns.start}"
        if around is None:
            kept.append(Field(Stack.from_array(np.array(counts), "YX", name=name), (), own))
            continue
        planes = [(stack.read(one, rows, columns), intensity.at(stack.time_of(one))) for one in around(stack, index)]
        drifts = any(other != own for _, other in planes)
        together = np.stack([own.levelled(one, other) if drifts else one for one, other in planes])
        kept.append(Field(Stack.from_array(together, "ZYX", name=name), (len(planes) // 2,), own))
    return kept
