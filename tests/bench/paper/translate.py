"""Images through a trained translator as it was trained: normalised by their own statistics, composed by the gate."""

from dataclasses import dataclass, replace
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
from paper.data import bright_spots

Plane = npt.NDArray[Any]
NEAR_CELLS_PX = 3
WHOLE_PERCENTILES, ROOM = (0.3, 99.7), 0.25


@dataclass(frozen=True)
class Translated:
    """What a translator made of a plane (Y, X).

    `image` has the plane's dtype and scale; `gate` and `proposal` are float32, the proposal in unit range.
    """

    image: Plane
    gate: npt.NDArray[np.float32]
    proposal: npt.NDArray[np.float32]

    @property
    def label(self) -> npt.NDArray[np.float32]:
        """The proposal where the gate opens, 0 elsewhere: what of another modality is there, in its unit range."""
        return np.where(self.gate > 0, self.gate * self.proposal, np.float32(0))


def whole_range(plane: Plane) -> IntensityRange:
    """Return levels between which nearly all pixels lie, for modalities in which cells are darker than what is around.

    Those of the package begin at the 10th percentile: what is darker would be beyond the range of a tanh.
    """
    low, high = np.percentile(plane, WHOLE_PERCENTILES)
    return IntensityRange(float(low), float(max(high, low + 1)), measure_range([plane]).noise)


def with_room(levels: IntensityRange) -> IntensityRange:
    """Return the package's levels with room for a quarter of their span below and above.

    A generator carries through what is beyond its range: without room half of a background's noise would stay whatever
    a method learns, and a discriminator that sees whole images would know by it.
    """
    room = ROOM * levels.span
    return replace(levels, black=levels.black - room, white=levels.white + room)


def levels_of(data: str, plane: Plane) -> IntensityRange:
    """Return the levels of a plane of a data set: the package's, with room, for nuclei; all there is for the others."""
    return with_room(measure_range([plane])) if data == "nuclei" else whole_range(plane)


def translated(translator: TranslatorNetworks, plane: Plane, intensity: IntensityRange) -> Translated:
    """Translate a plane (Y, X) as a whole."""
    unit = intensity.to_unit(plane)
    rows, columns = plane.shape
    beyond = [(0, -size % translator.stride) for size in plane.shape]
    batch = torch.from_numpy(np.pad(unit, beyond, mode="reflect"))[None, None]
    with torch.inference_mode():
        attention, proposal = (
            network(batch)[0, 0, :rows, :columns].numpy() for network in (translator.attention, translator.generator)
        )
    opened = gate(quantise(attention), THRESHOLD)
    made = apply_change(plane, intensity.span * change(opened, proposal, unit), opened)
    return Translated(made, opened, proposal)


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
    rows = []
    for one, result in zip(known, made, strict=True):
        outside = outside_of(one.cells)
        change_counts = np.abs(result.image.astype(np.float64) - one.plane.astype(np.float64))
        selected = result.gate > (0.5 - THRESHOLD) / (1 - THRESHOLD)
        rows.append(
            against_truth(one, result.image)
            | {
                "iou": float((selected & one.cells).sum() / max((selected | one.cells).sum(), 1)),
                "outside_selected_percent": 100 * float((result.gate > 0)[outside].mean()),
                "outside_changed_percent": 100 * float((change_counts > 0)[outside].mean()),
                "outside_change_counts": float(change_counts[outside].mean()),
                "inside_changed_percent": 100 * float((change_counts > 0)[one.cells].mean()),
            }
        )
    return mean_of(rows) | {"patch_distance": distance_to_truth(known, [result.image for result in made])}


def label_scores(known: list[Example], made: list[Translated]) -> dict[str, float]:
    """Return means over planes of how labels, where nothing but a label counts, agree with their truth.

    `outside_label` is the mean light that a label has outside of cells, relative to the mean light of the truth inside.
    """
    rows = []
    for one, result in zip(known, made, strict=True):
        outside, label = outside_of(one.cells), result.label
        truth = whole_range(one.truth).to_unit(one.truth)
        light = float(np.clip(truth[one.cells], 0, None).mean()) if one.cells.any() else np.nan
        rows.append(
            against_truth(one, label)
            | {
                "outside_selected_percent": 100 * float((result.gate > 0)[outside].mean()),
                "inside_selected_percent": 100 * float((result.gate > 0)[one.cells].mean()),
                "outside_label": float(np.clip(label[outside], 0, None).mean()) / max(light, 1e-6),
            }
        )
    return mean_of(rows)


def outside_of(cells: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return what is farther than 3 px from cells (Y, X)."""
    return ~np.asarray(ndimage.binary_dilation(cells, iterations=NEAR_CELLS_PX))


def against_truth(one: Example, image: Plane) -> dict[str, float]:
    """Return how an image agrees with its truth in cells, after the best gain and offset, and objects made and lost."""
    inside = measures.foreground(image, one.truth, one.cells)
    objects = measures.phantoms(image, one.truth)
    return {
        "psnr_affine": inside.psnr_affine, "ssim_affine": inside.ssim_affine,
        "added": objects.added, "lost": objects.lost, "true_objects": objects.reference_objects,
    }  # fmt: skip


def mean_of(rows: list[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each score over the planes for which it is defined."""
    return {key: float(np.nanmean([row[key] for row in rows])) for key in rows[0]}


def distance_to_truth(known: list[Example], images: list[Plane]) -> float:
    """Return the patch distance of images from their truths."""
    ours, wanted = [], []
    for number, (one, image) in enumerate(zip(known, images, strict=True)):
        ours.append(measures.texture_patches(image, one.cells, seed=number))
        wanted.append(measures.texture_patches(one.truth, one.cells, seed=number))
    return measures.patch_distance(np.concatenate(ours), np.concatenate(wanted))


def unpaired_scores(known: list[Example], made: list[Translated], wanted: list[Example]) -> dict[str, float]:
    """Return what can be said where there is no truth: how much is selected, and how alike patches of bright spots are.

    Parameters
    ----------
    known : list of Example
        Planes of the source; their truth is not used.
    made : list of Translated
        Of these planes.
    wanted : list of Example
        Planes of the target, which show other objects.
    """
    rows, ours, theirs = [], [], []
    for number, (one, result) in enumerate(zip(known, made, strict=True)):
        outside, label = outside_of(one.cells), result.label
        rows.append(
            {
                "outside_selected_percent": 100 * float((result.gate > 0)[outside].mean()),
                "inside_selected_percent": 100 * float((result.gate > 0)[one.cells].mean()),
                "objects": float(measures.find_objects(label).max(initial=0)),
                "masked_objects": float(ndimage.label(one.cells)[1]),
            }
        )
        ours.append(measures.texture_patches(label, bright_spots(label), seed=number))
    for number, one in enumerate(wanted):
        unit = whole_range(one.plane).to_unit(one.plane)
        theirs.append(measures.texture_patches(unit, bright_spots(unit), seed=number))
    return mean_of(rows) | {"patch_distance": measures.patch_distance(np.concatenate(ours), np.concatenate(theirs))}


@dataclass(frozen=True)
class Judge:
    """What a data set is validated or scored by: planes, and of other modalities without pairs the target's too."""

    data: str
    known: list[Example]
    wanted: list[Example]

    def __call__(self, translator: TranslatorNetworks) -> dict[str, float]:
        """Score a translator."""
        made = [translated(translator, one.plane, levels_of(self.data, one.plane)) for one in self.known]
        if self.data == "nuclei":
            return scores(self.known, made)
        return (
            label_scores(self.known, made) if self.data == "phase" else unpaired_scores(self.known, made, self.wanted)
        )


def judge_of(data: str, folder: Path) -> Judge:
    """Read what lies in a folder `validation` or `test` of a data set."""
    if data == "holo":
        source, target = (
            examples(folder / part, folder / part, folder / "masks" / part) for part in ("source", "target")
        )
        return Judge(data, source, target)
    return Judge(data, examples(folder / "source", folder / "truth", folder / "masks"), [])


def merit(row: dict[str, float]) -> float:
    """Return what the best weights are chosen by: affine PSNR; without a truth the patch distance, less is better."""
    value = row["psnr_affine"] if "psnr_affine" in row else -row["patch_distance"]
    return value if np.isfinite(value) else -np.inf
