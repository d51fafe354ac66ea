"""The figure of the comparison, from whichever models there are: what each method makes of a test field, and where.

    export PYTHONPATH=CHECKOUT:CHECKOUT/tests/bench
    python -m paper.figure --shared ../shared/data --work WORK --output figure.png [--field A22_s8_E2AF] [--seed 0]

Above: the input, the attention of the guided method, what it and the others make of the input, and the truth, all on
one scale of counts after the best gain and offset inside cells. Below: by how many counts each method changed what lies
outside of cells.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt

from cellxlate.evaluation import measures
from cellxlate.stacks.intensity.range import measure_range
from paper.methods import QUEUE, Method, Planned
from paper.train import BEST, LAST, load_translator
from paper.translate import Example, Translated, examples, levels_of, outside_of, translated

GUIDED: tuple[Method, ...] = ("masks", "saliency", "none", "hinge")
"""The first of which there is a model is shown as the attention-guided one."""

OTHERS: tuple[Method, ...] = ("cyclegan", "utom", "cut")
TITLES = {
    "masks": "attention-guided (masks)", "saliency": "attention-guided (saliency)", "none": "attention, no guide",
    "hinge": "attention, area hinge", "cyclegan": "CycleGAN", "utom": "UTOM", "cut": "CUT",
}  # fmt: skip
SIDE_PX, BAR_PX = 256, 50


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
    """Translate a plane with the last weights of a run, or the best so far; None where there are none."""
    folder = work / "runs" / planned.name
    path = next((path for path in (folder / LAST, folder / BEST) if path.exists()), None)
    if path is None:
        return None
    notes = json.loads((folder / ("outcome.json" if path.name == LAST else "progress.json")).read_text())
    translator = load_translator(path, planned.settings.networks)
    return Shown(planned, translated(translator, plane, levels_of("nuclei", plane)), notes["step"])


def methods_shown(work: Path, seed: int, plane: npt.NDArray[Any]) -> list[Shown]:
    """Return the attention-guided method and the others, as far as there are models."""
    runs = {one.method: one for one in QUEUE if (one.data, one.seed, one.size) == ("nuclei", seed, "small")}
    made = {method: shown(work, runs[method], plane) for method in (*GUIDED, *OTHERS) if method in runs}
    guided = [made[method] for method in GUIDED if made.get(method)][:1]
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
    pictures: list[tuple[str, npt.NDArray[Any], bool]] = [("input", fitted(one.plane, one), True)]
    if guided:
        pictures.append(("attention", guided.result.gate, False))
    pictures += [(each.title, fitted(each.result.image, one), True) for each in methods]
    pictures.append(("truth", one.truth.astype(np.float64), True))
    low, high = np.percentile(one.truth[window], (1, 99.7))
    count = len(pictures)
    figure, axes = plt.subplots(2, count, figsize=(2.6 * count, 5.6), layout="constrained", squeeze=False)
    for axis, (title, image, in_counts) in zip(axes[0], pictures, strict=True):
        limits = (low, high) if in_counts else (0, 1)
        axis.imshow(image[window], cmap="gray" if in_counts else "magma", vmin=limits[0], vmax=limits[1])
        axis.set_title(title, fontsize=9)
    axes[0, 0].plot([12, 12 + BAR_PX], [SIDE_PX - 12] * 2, color="white", linewidth=3)
    axes[0, 0].text(12, SIDE_PX - 20, f"{BAR_PX} px", color="white", fontsize=8)
    noise = measure_range([one.plane]).noise
    first = count - 1 - len(methods)
    drawn = None
    for axis, each in zip(axes[1, first:], methods, strict=False):
        outside = outside_of(one.cells)
        change = np.where(outside, each.result.image.astype(np.float64) - one.plane, np.nan)
        drawn = axis.imshow(change[window], cmap="RdBu_r", vmin=-3 * noise, vmax=3 * noise)
        percent, counts = 100 * np.mean(change[outside] != 0), np.abs(change[outside]).mean()
        axis.set_title(
            f"outside of cells: {percent:.2f} % changed,\nby {counts:.2f} counts (noise {noise:.1f})", fontsize=8
        )
    if drawn is not None:
        figure.colorbar(drawn, ax=axes[1, -1], label="output - input (counts)", fraction=0.5)
    for axis in axes.flat:
        axis.set_facecolor("0.6")
        axis.set_xticks([])
        axis.set_yticks([])
    for axis in [*axes[1, :first], axes[1, -1]]:
        axis.set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def fitted(image: npt.NDArray[Any], one: Example) -> npt.NDArray[np.float64]:
    """Return an image at the gain and offset that fit the truth best inside cells."""
    return np.asarray(measures.affine(image.astype(np.float64), one.truth.astype(np.float64), one.cells))


def main() -> None:
    """Draw the figure of a test field."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"), help="where the real images lie")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--field", help="name of a test field; by default the one that cells cover most of")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    data = options.shared / "nuclei_lowexp"
    known = examples(data / "test_S", data / "test_S_truth", data / "test_masks")
    named = [one for one in known if one.name == options.field]
    if options.field and not named:
        parser.error(f"there is no field {options.field}; choose one of {', '.join(one.name for one in known)}")
    chosen = named[0] if named else most_cells(known)
    methods = methods_shown(options.work, options.seed, chosen.plane)
    if not methods:
        parser.error(f"{options.work} holds no weights yet; train first (run.py)")
    draw(chosen, methods, options.output)


if __name__ == "__main__":
    main()
