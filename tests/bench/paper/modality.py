"""The figure of the change of modality: what each method labels in drawn phase contrast, beside the true label.

    export PYTHONPATH=CHECKOUT:CHECKOUT/tests/bench
    python -m paper.modality --shared ../shared/data --work WORK --output docs/pictures/modality.png [--fields 0 1]

A row for each test field: phase contrast, the label that was drawn with it, what each method labels, and the attention
of those that have one. Labels are in unit range; weights are those that validated best.
"""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np

from paper.data import parser_of, prepared
from paper.methods import QUEUE, Method, Planned
from paper.train import BEST, load_translator
from paper.translate import Example, Plane, judge_of, levels_of, translated, whole_range

TITLES: dict[Method, str] = {
    "cyclegan": "CycleGAN", "marked": "attention-guided,\ncomposed by masks",
    "masks": "attention-guided\nby masks, as published", "none": "attention-guided,\nno guide",
}  # fmt: skip
WITHOUT_ATTENTION = "cyclegan"

Picture = tuple[str, Plane, str]
"""What stands above it, an image (Y, X) in [0, 1], its colours."""


def row_of(one: Example, runs: Sequence[Planned], work: Path) -> list[Picture]:
    """Return the pictures of a field."""
    pictures: list[Picture] = [
        ("phase contrast", whole_range(one.plane).to_unit(one.plane), "gray"),
        ("label, as drawn", whole_range(one.truth).to_unit(one.truth), "gray"),
    ]
    for planned in runs:
        translator = load_translator(work / "runs" / planned.name / BEST, planned.settings.networks)
        result = translated(translator, one.plane, levels_of(planned.data, one.plane))
        pictures.append((TITLES[planned.method], result.label, "gray"))
        if planned.method != WITHOUT_ATTENTION:
            pictures.append(("its attention", result.gate, "magma"))
    return pictures


def draw(rows: Sequence[Sequence[Picture]], path: Path) -> None:
    """Draw the figure and write it."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    size = (2.3 * len(rows[0]), 2.4 * len(rows) + 0.3)
    figure, grid = plt.subplots(len(rows), len(rows[0]), figsize=size, layout="constrained", squeeze=False)
    for number, (axes, pictures) in enumerate(zip(grid, rows, strict=True)):
        for axis, (title, image, colours) in zip(axes, pictures, strict=True):
            axis.imshow(np.clip(image, 0, 1), cmap=colours, vmin=0, vmax=1)
            axis.set_axis_off()
            if number == 0:
                axis.set_title(title, fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Draw the figure of some test fields, with the methods of which there are weights."""
    parser = parser_of(__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--fields", type=int, nargs="+", default=(0, 1), help="of the test pairs")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    runs = [one for one in QUEUE if (one.data, one.seed) == ("phase", options.seed)]
    runs = [one for one in runs if (options.work / "runs" / one.name / BEST).exists()]
    if not runs:
        parser.error(f"{options.work} holds no weights of drawn phase contrast yet; train first (run.py)")
    known = judge_of("phase", prepared("phase", options.shared, options.work).test).known
    draw([row_of(known[number], runs, options.work) for number in options.fields], options.output)


if __name__ == "__main__":
    main()
