"""What the training panel asks of a worker, and what comes back: no Qt, no layer, no torch, which is slow to load."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from cellxlate.enhancement.tiling import Tile
from cellxlate.errors import InputError, said
from cellxlate.plugin.layers import read_part
from cellxlate.plugin.requests import StopRequest
from cellxlate.stacks.stack import PlaneIndex, Stack

if TYPE_CHECKING:
    from cellxlate.settings import Guide, PresetName
    from cellxlate.training.watch import Collapse

BLOCK_PX = 16
"""Paint is looked at in squares of this side when it is grouped into regions."""
MARGIN_BLOCKS = 2


@dataclass(frozen=True)
class TrainRequest:
    """What is to be learned, and how.

    Attributes
    ----------
    source, target : Stack or Path
        Pixels of layers, of one channel each, or folders of images.
    output : Path
        The model folder to make.
    preset, guide : str
        As for `cellxlate.train`.
    stop : StopRequest
        Ends the run after a step; what was learned is saved.
    painted : Stack or None
        Painted cells of the source, of its shape; needed for the guide "masks".
    steps : int or None
        None takes the preset's own length.
    resume : bool
        Continue what was stopped.
    """

    source: Stack | Path
    target: Stack | Path
    output: Path
    preset: "PresetName"
    guide: "Guide"
    stop: StopRequest
    painted: Stack | None = None
    steps: int | None = None
    resume: bool = False


@dataclass(frozen=True)
class StepDone:
    """One more step is done."""

    done: int


@dataclass(frozen=True)
class TrainingSnapshot:
    """What a look at the run has found.

    Attributes
    ----------
    step, steps : int
        How far it is.
    seconds : float
        Spent so far.
    values : mapping
        Terms of the objective, and `attention_area`, `attention_agreement` in [0, 1].
    leaning : {"ones", "zeros", "grey", "flat"} or None
        What attention, or the generator, collapses to if it goes on like this.
    picture : bytes or None
        PNG of input, attention and output, side by side.
    note : str
        What is out of the ordinary.
    """

    step: int
    steps: int
    seconds: float
    values: Mapping[str, float]
    leaning: "Collapse | None" = None
    picture: bytes | None = field(default=None, repr=False)
    note: str = ""


@dataclass(frozen=True)
class Trained:
    """A model was made; `steps` and `seconds` it took."""

    folder: Path
    steps: int
    seconds: float


@dataclass(frozen=True)
class Stopped:
    """The run was stopped; what was learned is saved in `partial`, unless not even one step was done."""

    partial: Path
    saved: bool


@dataclass(frozen=True)
class PaintedRegion:
    """A region of a plane in which cells were painted: every other pixel of it counts as background."""

    index: PlaneIndex
    area: Tile


def painted_regions(painted: Stack, least_px: int) -> list[PaintedRegion]:
    """Return the boxes around groups of painted cells, each at least a patch on a side.

    Parameters
    ----------
    painted : Stack
        Labels: above 0 in cells.
    least_px : int
        Side of a patch.

    Raises
    ------
    InputError
        Nothing is painted, or a plane is smaller than a patch.

    Notes
    -----
    Cells that lie within 64 px of each other share a box, so that a few neighbours suffice and the rest of the plane
    stays open.
    """
    rows, columns = painted.plane_shape
    if min(rows, columns) < least_px:
        raise InputError(
            f"planes of {rows} x {columns} px are smaller than a patch of {least_px} px; use larger images"
        )
    regions: list[PaintedRegion] = []
    for index in painted.plane_indices():
        marked = painted.read(index) > 0
        if marked.any():
            regions += [PaintedRegion(index, _box(marked, group, least_px)) for group in _groups(marked)]
    if not regions:
        raise InputError("no cell is painted yet; choose a label and the brush, and paint every cell of a small region")
    return regions


def _groups(marked: npt.NDArray[np.bool_]) -> list[tuple[slice, slice]]:
    """Return slices around paint that lies close together."""
    rows, columns = (-(-size // BLOCK_PX) * BLOCK_PX for size in marked.shape)
    padded = np.zeros((rows, columns), bool)
    padded[: marked.shape[0], : marked.shape[1]] = marked
    blocks = padded.reshape(rows // BLOCK_PX, BLOCK_PX, columns // BLOCK_PX, BLOCK_PX).any(axis=(1, 3))
    near = ndimage.binary_dilation(blocks, np.ones((3, 3)), iterations=MARGIN_BLOCKS)
    numbers, _ = ndimage.label(near, np.ones((3, 3)))
    boxes = ndimage.find_objects(np.where(blocks, numbers, 0))
    return [(_pixels(box[0]), _pixels(box[1])) for box in boxes if box]


def _pixels(blocks: slice) -> slice:
    return slice(blocks.start * BLOCK_PX, blocks.stop * BLOCK_PX)


def _box(marked: npt.NDArray[np.bool_], group: tuple[slice, slice], least_px: int) -> Tile:
    """Return the box around the paint of a group with a margin, at least `least_px` on a side, inside the plane."""
    ends = []
    for axis, size in enumerate(marked.shape):
        at = np.flatnonzero(marked[group].any(axis=1 - axis)) + group[axis].start
        first, last = int(at[0]) - BLOCK_PX, int(at[-1]) + 1 + BLOCK_PX
        if last - first < least_px:
            first = (first + last - least_px) // 2
            last = first + least_px
        first = min(max(first, 0), max(size - least_px, 0))
        ends.append((first, min(max(last, first + least_px), size)))
    (top, bottom), (left, right) = ends
    return Tile(top, bottom, left, right)


def cut(stack: Stack, region: PaintedRegion, name: str) -> Stack:
    """Return a region of a stack, read into memory, as one plane (Y, X)."""
    sizes_um = {axis: size for axis, size in stack.pixel_size_um.items() if axis in "YX"}
    return Stack(read_part(stack, region.index, region.area), "YX", name, pixel_size_um=sizes_um)


def painted_text(painted: Stack, least_px: int) -> str:
    """Say what painting amounts to, in one line."""
    try:
        regions = painted_regions(painted, least_px)
    except InputError as fault:
        return said(fault, by="panel")
    boxes = ", ".join(f"{region.area.shape[0]} x {region.area.shape[1]} px" for region in regions[:4])
    more = f" and {len(regions) - 4} more" if len(regions) > 4 else ""
    plural = "s" if len(regions) > 1 else ""
    return (
        f"Learns from {len(regions)} painted region{plural} ({boxes}{more}); what is not painted there is background."
    )
