"""What a generalist learns from: clear images of many structures, drawn ones, and recordings of both by any camera."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cellxlate.settings import TrainSettings
from cellxlate.stacks.intensity.range import measure_range
from cellxlate.stacks.samples.structures import draw_structure, draw_volume
from cellxlate.stacks.stack import Stack
from cellxlate.training.fields.files import open_domain
from cellxlate.training.fields.masks import attach_masks
from cellxlate.training.fields.patches import Domain, Field, Mask
from cellxlate.training.imaging.cameras import by_any_camera

DRAWN_PX = 256
DRAWN_SCALES = 0.4, 4.0
DRAWN_PLANES, TAKEN_PLANES = 9, (2, 4, 6)
SPACINGS_PX = 0.5, 10.0
MASKED_TURNS = 3
"""Found fields with a mask take part so many times as often as others: a mask says what nobody can guess."""
HAZY_SHARE, MOST_HAZE = 0.4, 1.5
BLACK_COUNTS, SPAN_COUNTS = 400, 2000
"""Scale on which recordings are kept as integers."""


def generalist_domains(
    target: Sequence[Path], masks: Sequence[Path], settings: TrainSettings, channel: str | int | None, files: ExitStack
) -> tuple[Domain, Domain]:
    """Return the recordings that stand for the source, and the clear fields, found and drawn.

    Raises
    ------
    InputError
        As `open_domain` and `attach_masks` do.
    """
    fields: list[Field] = []
    if target:
        marked = open_domain(target, number=1, patch_px=64, load_px=None, channel=channel, guide="saliency")
        files.callback(marked.close)
        if masks:
            marked = attach_masks((Domain([], 0), marked), masks)[1]
            files.callback(marked.close)
        fields += marked.fields
    times = [MASKED_TURNS if one.mask else 1 for one in fields]
    drawn = drawn_fields(settings.generalist.drawn_fields, settings.seed)
    context = settings.networks.context
    if context:
        drawn += drawn_in_depth(settings.generalist.drawn_volumes, settings.seed)
    clear = Domain([*fields, *drawn], 1, "saliency", by_area=True, times=[*times, *(1 for _ in drawn)], context=context)
    return Domain(recorded_fields(clear, settings), 0, "saliency", context=context), clear


def drawn_fields(count: int, seed: int) -> list[Field]:
    """Draw structures of any kind and size, each with its exact mask."""
    fields = []
    for number in range(count):
        rng = np.random.default_rng([seed, 3, number])
        scale, haze = scale_and_haze(rng)
        drawn = draw_structure("mixed", (DRAWN_PX, DRAWN_PX), rng, scale=scale, haze=haze)
        if drawn.image.max() > 0:
            fields.append(field_of(drawn.image, drawn.mask, name=f"drawn-{number}"))
    return fields


def drawn_in_depth(count: int, seed: int) -> list[Field]:
    """Draw volumes of any kind and size; of each some planes that lie amid others, with their exact masks."""
    fields = []
    for number in range(count):
        rng = np.random.default_rng([seed, 4, number])
        scale, haze = scale_and_haze(rng)
        closest, farthest = SPACINGS_PX
        spacing_px = closest * (farthest / closest) ** rng.random() * scale**0.5
        drawn = draw_volume(
            "mixed", (DRAWN_PLANES, DRAWN_PX, DRAWN_PX), rng, spacing_z=spacing_px, scale=scale, haze=haze
        )
        counts = np.rint(drawn.image * (2**15 / max(float(drawn.image.max()), 1e-6))).astype(np.uint16)
        stack, marked = (
            Stack.from_array(one, "ZYX", name=f"drawn-volume-{number}") for one in (counts, drawn.mask.view(np.uint8))
        )
        intensity = measure_range([counts[DRAWN_PLANES // 2]])
        taken = [at for at in TAKEN_PLANES if counts[at].max() > counts[at].min()]
        fields += [Field(stack, (at,), intensity, Mask(marked, (at,))) for at in taken]
    return fields


def scale_and_haze(rng: np.random.Generator) -> tuple[float, float]:
    """Draw how large structures are, and how strong their haze is."""
    smallest, largest = DRAWN_SCALES
    scale = smallest * (largest / smallest) ** rng.random()
    return scale, MOST_HAZE * rng.random() if rng.random() < HAZY_SHARE else 0.0


def recorded_fields(clear: Domain, settings: TrainSettings) -> list[Field]:
    """Record some of the clear fields by any camera, as integers, with the guides of the clear ones as masks."""
    fields = []
    for number in range(settings.generalist.source_fields):
        patch = clear.draw(
            number, 1, patch_px=settings.patch_px, load_px=None, guided=True, seed=settings.seed + 1,
            magnification=settings.generalist.magnification,
        )  # fmt: skip
        rng = torch.Generator().manual_seed(settings.seed * 1_000_003 + number)
        faint = by_any_camera(torch.from_numpy(patch.images), rng)[0][0].numpy()
        counts = np.clip(np.rint(BLACK_COUNTS + SPAN_COUNTS * faint), 0, 2**16 - 1).astype(np.uint16)
        fields.append(field_of(counts, patch.guides[0, 0] > 0, name=f"recorded-{number}"))
    return fields


def field_of(image: npt.NDArray[Any], mask: npt.NDArray[np.bool_], *, name: str) -> Field:
    """Return an image (Y, X), or the middle one of several (Z, Y, X), with its mask (Y, X), as a field in memory."""
    marked = Mask(Stack.from_array(mask.astype(np.uint8), "YX", name=name), ())
    if image.ndim == 2 or len(image) == 1:
        image = image.reshape(image.shape[-2:])
        return Field(Stack.from_array(image, "YX", name=name), (), measure_range([image]), marked)
    middle = len(image) // 2
    return Field(Stack.from_array(image, "ZYX", name=name), (middle,), measure_range([image[middle]]), marked)
