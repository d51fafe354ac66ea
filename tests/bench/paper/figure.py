"""The figure of the comparison, from whichever models there are: what each method makes of a test field, and where.

    export PYTHONPATH=CHECKOUT:CHECKOUT/tests/bench
    python -m paper.figure --shared ../shared/data --work WORK --output figure.png [--field A22_s8_E2AF] [--seed 0]
    python -m paper.figure --work WORK --simulated --methods saliency cyclegan --output docs/pictures/converged.png \
        --keep notebooks/03_what_attention_buys.npz

Above: the input, what each method makes of it, and the truth, all on one scale of counts after the best gain and
offset inside cells. Below: the attention of the guided method, and by how many counts each method changed what lies
outside of cells. `--simulated` takes a field that is simulated, on which nobody holds a right; `--keep` stores the
planes that are shown.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt

from cellxlate.evaluation import measures
from cellxlate.model.attention import attention_image
from cellxlate.stacks.intensity.range import measure_range
from cellxlate.stacks.samples.nuclei import SampleSettings, simulate
from paper.data import Folders, parser_of
from paper.methods import QUEUE, Method, Planned
from paper.score import notes_of, with_fixed_statistics
from paper.train import BEST, load_translator
from paper.translate import Example, Translated, examples, levels_of, outside_of, translated

GUIDED: tuple[Method, ...] = ("masks", "marked", "saliency", "none", "hinge", "smoothed")
"""The first of which there is a model is shown as the attention-guided one."""

OTHERS: tuple[Method, ...] = ("cyclegan", "utom", "cut")
TITLES = {
    "masks": "attention-guided (masks)", "marked": "composed by masks",
    "saliency": "attention-guided (saliency)", "none": "attention, no guide",
    "hinge": "attention, area hinge", "smoothed": "attention, area hinge, smoothed",
    "cyclegan": "CycleGAN", "utom": "UTOM", "cut": "CUT",
}  # fmt: skip
SIDE_PX, BAR_PX = 256, 50
SIMULATED_PX = 320, 384


@dataclass(frozen=True)
class Shown:
    """A method's weights and what they make of the field; `step` is said where the run was not over."""

    planned: Planned
    result: Translated
    step: int

    @property
    def title(self) -> str:
        """Above its picture."""
        under_way = "" if self.step == self.planned.settings.steps else f"\nafter {self.step} steps"
        return TITLES[self.planned.method] + under_way


def shown(work: Path, planned: Planned, plane: npt.NDArray[Any]) -> Shown | None:
    """Translate a plane by the weights that validated best, with fixed statistics; None where there are none."""
    folder = work / "runs" / planned.name
    if not (folder / BEST).exists():
        return None
    translator = load_translator(folder / BEST, planned.settings.networks)
    translator = with_fixed_statistics(translator, Folders(work / "data" / "nuclei").source)
    return Shown(planned, translated(translator, plane, levels_of("nuclei", plane)), notes_of(planned, work)["step"])


def methods_shown(work: Path, seed: int, plane: npt.NDArray[Any], methods: Sequence[Method] = ()) -> list[Shown]:
    """Return the methods that are asked for, or an attention-guided one and the others, as far as there are models."""
    runs = {one.method: one for one in QUEUE if (one.data, one.seed, one.size) == ("nuclei", seed, "small")}
    made = {method: shown(work, runs[method], plane) for method in methods or (*GUIDED, *OTHERS) if method in runs}
    guided = [made[method] for method in GUIDED if made.get(method)][: None if methods else 1]
    return [one for one in (*guided, *(made[method] for method in OTHERS if method in made)) if one is not None]


def most_cells(known: list[Example]) -> Example:
    """Return the field of which cells cover most."""
    return max(known, key=lambda one: float(one.cells.mean()))


def window_of(one: Example) -> tuple[slice, slice]:
    """Return the middle of a field."""
    rows, columns = (slice((size - SIDE_PX) // 2, (size + SIDE_PX) // 2) for size in one.cells.shape)
    return rows, columns


def draw(one: Example, methods: list[Shown], path: Path) -> None:
    """Draw the figure and write it."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    window = window_of(one)
    guided = next((each for each in methods if each.planned.method in GUIDED), None)
    low, high = np.percentile(one.truth[window], (1, 99.7))
    figure, axes = plt.subplots(
        2, len(methods) + 2, figsize=(2.6 * (len(methods) + 2), 5.6), layout="constrained", squeeze=False
    )
    above = [("input", one.plane), *((each.title, each.result.image) for each in methods), ("truth", one.truth)]
    for axis, (title, image) in zip(axes[0], above, strict=True):
        axis.imshow(fitted(image, one)[window], cmap="gray", vmin=low, vmax=high)
        axis.set_title(title, fontsize=9)
    axes[0, 0].plot([12, 12 + BAR_PX], [SIDE_PX - 12] * 2, color="white", linewidth=3)
    axes[0, 0].text(12, SIDE_PX - 20, f"{BAR_PX} px", color="white", fontsize=8)
    if guided:
        axes[1, 0].imshow(guided.result.gate[window], cmap="magma", vmin=0, vmax=1)
        axes[1, 0].set_title(f"attention\n({TITLES[guided.planned.method]})", fontsize=8)
    noise, outside = measure_range([one.plane]).noise, outside_of(one.cells)
    for axis, each in zip(axes[1, 1:], methods, strict=False):
        change = np.where(outside, each.result.image.astype(np.float64) - one.plane, np.nan)
        drawn = axis.imshow(change[window], cmap="RdBu_r", vmin=-3 * noise, vmax=3 * noise)
        percent, counts = 100 * np.mean(change[outside] != 0), np.abs(change[outside]).mean()
        axis.set_title(
            f"outside of cells: {percent:.2f} % changed,\nby {counts:.2f} counts (noise {noise:.1f})", fontsize=8
        )
    bar = axes[1, -1].inset_axes((0.05, 0.05, 0.08, 0.9))
    figure.colorbar(drawn, cax=bar, label="output - input (counts)")
    for axis in axes.flat:
        axis.set_facecolor("0.6")
        axis.set_xticks([])
        axis.set_yticks([])
    axes[1, -1].set_axis_off()
    if not guided:
        axes[1, 0].set_axis_off()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def fitted(image: npt.NDArray[Any], one: Example) -> npt.NDArray[np.float64]:
    """Return an image at the gain and offset that fit the truth best inside cells."""
    return np.asarray(measures.affine(image.astype(np.float64), one.truth.astype(np.float64), one.cells))


def simulated() -> Example:
    """Return a field that is simulated."""
    field = simulate(SampleSettings(shape=(1, 1, 1, *SIMULATED_PX), cell_fraction=0.2, seed=50))
    plane, truth, cells = (np.asarray(part)[0, 0, 0] for part in (field.stack, field.truth, field.mask))
    return Example("simulated", plane, truth, cells > 0)


def keep(one: Example, methods: list[Shown], path: Path) -> None:
    """Store the planes of a field and of what was made of it: `input`, `truth`, `cells`, and two of each method."""
    planes = {"input": one.plane, "truth": one.truth, "cells": one.cells}
    for each in methods:
        planes[f"{each.planned.method} image"] = each.result.image
        planes[f"{each.planned.method} attention"] = attention_image(each.result.gate)
    np.savez_compressed(path, **planes)  # type: ignore[arg-type]


def main() -> None:
    """Draw the figure of a field."""
    parser = parser_of(__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--field", help="name of a test field; by default the one that cells cover most of")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--simulated", action="store_true", help="show a simulated field")
    parser.add_argument(
        "--methods", nargs="+", choices=TITLES, default=(), help="what to show; what there is by default"
    )
    parser.add_argument("--keep", type=Path, help="store the planes here")
    options = parser.parse_args()
    chosen = simulated() if options.simulated else test_field(options.shared / "nuclei_lowexp", options.field, parser)
    methods = methods_shown(options.work, options.seed, chosen.plane, options.methods)
    if not methods:
        parser.error(f"{options.work} holds no weights yet; train first (run.py)")
    draw(chosen, methods, options.output)
    if options.keep:
        keep(chosen, methods, options.keep)


def test_field(data: Path, name: str | None, parser: argparse.ArgumentParser) -> Example:
    """Return a test field by its name, or the one that cells cover most of."""
    known = examples(data / "test_S", data / "test_S_truth", data / "test_masks")
    named = [one for one in known if one.name == name]
    if name and not named:
        parser.error(f"there is no field {name}; choose one of {', '.join(one.name for one in known)}")
    return named[0] if named else most_cells(known)


if __name__ == "__main__":
    main()
