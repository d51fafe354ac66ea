"""Images through a trained translator as it was trained: normalised by their own statistics, composed by the gate."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
import torch
from scipy import ndimage

from cellxlate.evaluation import measures
from cellxlate.model.attention import apply_change, change, gate, quantise
from cellxlate.model.networks import TranslatorNetworks
from cellxlate.settings import THRESHOLD
from cellxlate.stacks.intensity.range import IntensityRange, measure_range

Plane = npt.NDArray[Any]
NEAR_CELLS_PX = 3


@dataclass(frozen=True)
class Translated:
    """What a translator made of a plane (Y, X): stored pixels in the plane's dtype, the gate, and the proposal, in
    counts."""

    image: Plane
    gate: npt.NDArray[np.float32]
    proposal: npt.NDArray[np.float32]


def translated(translator: TranslatorNetworks, plane: Plane, target: IntensityRange | None = None) -> Translated:
    """Translate a plane (Y, X) as a whole, on the source's scale or, where it is given, on that of a target."""
    intensity = measure_range([plane])
    unit = intensity.to_unit(plane)
    beyond = [(0, -size % translator.stride) for size in plane.shape]
    rows, columns = plane.shape
    batch = torch.from_numpy(np.pad(unit, beyond, mode="reflect"))[None, None]
    with torch.inference_mode():
        attention, proposal = (
            network(batch)[0, 0, :rows, :columns].numpy() for network in (translator.attention, translator.generator)
        )
    opened = gate(quantise(attention), THRESHOLD)
    if target is not None:  # another modality: its own scale, wherever something is selected
        counts = target.black + target.span * proposal
        made = opened * counts + (1 - opened) * (target.black + target.span * unit)
        return Translated(made.astype(np.float32), opened, counts.astype(np.float32))
    made = apply_change(plane, intensity.span * change(opened, proposal, unit), opened)
    return Translated(made, opened, intensity.black + intensity.span * proposal)


@dataclass(frozen=True)
class Example:
    """A plane whose truth and cells (Y, X) are known."""

    name: str
    plane: Plane
    truth: Plane
    cells: npt.NDArray[np.bool_]


def examples(source: Path, truth: Path, masks: Path) -> list[Example]:
    """Read the planes of three folders that belong together by their names."""
    return [
        Example(
            path.stem, tifffile.imread(path), tifffile.imread(truth / path.name),
            tifffile.imread(masks / path.name) > 0,
        )
        for path in sorted(source.glob("*.tif"))
    ]  # fmt: skip


def scores(known: list[Example], made: list[Translated]) -> dict[str, float]:
    """Return means over planes of what the gate leaves, inside cells and outside; patches of all planes together."""
    rows, ours, wanted = [], [], []
    for number, (one, result) in enumerate(zip(known, made, strict=True)):
        inside = measures.foreground(result.image, one.truth, one.cells)
        outside = ~ndimage.binary_dilation(one.cells, iterations=NEAR_CELLS_PX)
        changed = result.image != one.plane
        selected = result.gate > (0.5 - THRESHOLD) / (1 - THRESHOLD)
        objects = measures.phantoms(result.image, one.truth)
        rows.append(
            {
                "psnr_affine": inside.psnr_affine,
                "ssim_affine": inside.ssim_affine,
                "iou": float((selected & one.cells).sum() / max((selected | one.cells).sum(), 1)),
                "outside_selected_percent": 100 * float((result.gate > 0)[outside].mean()),
                "outside_changed_percent": 100 * float(changed[outside].mean()),
                "outside_change_counts": float(
                    np.abs(result.image.astype(np.float64) - one.plane.astype(np.float64))[outside].mean()
                ),
                "inside_changed_percent": 100 * float(changed[one.cells].mean()),
                "added": objects.added,
                "lost": objects.lost,
            }
        )
        ours.append(measures.texture_patches(result.image, one.cells, seed=number))
        wanted.append(measures.texture_patches(one.truth, one.cells, seed=number))
    total = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
    total["patch_distance"] = measures.patch_distance(np.concatenate(ours), np.concatenate(wanted))
    return total
