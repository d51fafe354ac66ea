"""Scores of the runs that are finished, on test images, which nothing was trained or chosen on.

    export PYTHONPATH=CHECKOUT:CHECKOUT/tests/bench
    python -m paper.score --shared ../shared/data --work WORK [--scorer ../shared/tools/score.py] [--unfinished]
                          [--keep notebooks/03_what_attention_buys.json]

Each run is scored with the weights that validated best and with the last, normalised by each image's own statistics, as
it was trained, and the nuclei's by fixed ones too, as a model folder of the package has them. WORK/scores.json,
scores.md and curves-DATA.png are written; what was scored before is kept. `--unfinished` takes runs that are under way,
for a look at them. `--keep` stores the scores and the validation curves of the nuclei's runs.

Drawn phase contrast and fluorescence share one geometry, so labels are scored against the truth. Of holograms and
bright field there are no pairs: whether an object is where it should be, how bright or how large it is, cannot be said,
and must not be measured on such images.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import tifffile
import torch

from cellxlate.evaluation import measures
from cellxlate.model.attention import attention_image
from cellxlate.model.networks import TranslatorNetworks
from cellxlate.model.statistics import fix_translator
from cellxlate.stacks.intensity.range import measure_range
from cellxlate.whole_file import write_whole_file
from paper.data import parser_of, prepared
from paper.methods import QUEUE, Planned
from paper.train import BEST, LAST, OUTCOME, load_translator
from paper.translate import Example, Translated, examples, judge_of, levels_of, merit, outside_of, translated

STATISTICS_IMAGES = 32
STATISTICS = ("image", "fixed")
METHODS = {
    "cyclegan": "CycleGAN", "utom": "UTOM", "cut": "CUT", "none": "the paper's game, no guide",
    "hinge": "the paper's game, area hinge", "smoothed": "the paper's game, hinge, smoothed",
    "saliency": "the paper's game, `saliency`", "masks": "the paper's game, masks",
    "marked": "the game composed by masks",
}  # fmt: skip


@dataclass(frozen=True)
class Weights:
    """Weights of a run: the file's name says which."""

    planned: Planned
    path: Path

    @property
    def key(self) -> str:
        """Name of the run, and which weights: `nuclei-cyclegan-0 best`."""
        return f"{self.planned.name} {self.path.stem}"


def weights_of(work: Path, *, unfinished: bool) -> Iterator[Weights]:
    """Yield the weights that there are; runs under way have no last ones."""
    for planned in QUEUE:
        folder = work / "runs" / planned.name
        if unfinished or (folder / OUTCOME).exists():
            yield from (Weights(planned, path) for path in (folder / BEST, folder / LAST) if path.exists())


def with_fixed_statistics(translator: TranslatorNetworks, source: Path) -> TranslatorNetworks:
    """Return a translator normalised by what it sees in some training images (a folder of them), folded in."""
    paths = sorted(source.glob("*.tif"))
    planes = [tifffile.imread(path) for path in paths[:: max(len(paths) // STATISTICS_IMAGES, 1)]]
    units = [levels_of("nuclei", plane).to_unit(plane) for plane in planes]
    rows, columns = (size // translator.stride * translator.stride for size in units[0].shape)
    batches = [torch.from_numpy(unit[:rows, :columns].copy())[None, None] for unit in units]
    return fix_translator(translator, translator.settings, batches)


def scored(
    translator: TranslatorNetworks, known: list[Example], empty: Path, folder: Path, scorer: Path
) -> dict[str, Any]:
    """Translate the test fields and those without cells (a folder), write them as `enhance` would, and score them."""
    folder.mkdir(parents=True, exist_ok=True)
    made = [translated(translator, one.plane, levels_of("nuclei", one.plane)) for one in known]
    for one, result in zip(known, made, strict=True):
        written(one.name, result, folder)
    for path in sorted(empty.glob("*.tif")):
        plane = tifffile.imread(path)
        written(path.stem, translated(translator, plane, levels_of("nuclei", plane)), folder)
    command = [sys.executable, str(scorer), str(folder)]
    outcome = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(outcome.stdout)
    return found | around(known, made)


def written(name: str, result: Translated, folder: Path) -> None:
    """Write an image and its attention by the names that the scorer looks for."""
    tifffile.imwrite(folder / f"{name}_enhanced.ome.tif", result.image, metadata=None)
    tifffile.imwrite(folder / f"{name}_attention.ome.tif", attention_image(result.gate), metadata=None)


def around(known: list[Example], made: list[Translated]) -> dict[str, float]:
    """Return what changed farther than 3 px from cells (means over fields), and objects made and lost (sums)."""
    rows = []
    added = lost = 0
    for one, result in zip(known, made, strict=True):
        outside = outside_of(one.cells)
        by = np.abs(result.image.astype(np.float64) - one.plane.astype(np.float64))[outside]
        noise = measure_range([one.plane]).noise
        rows.append((100 * float((by > 0).mean()), float(by.mean()), float(by.mean()) / noise))
        objects = measures.phantoms(result.image, one.truth)
        added, lost = added + objects.added, lost + objects.lost
    percent, counts, noises = np.mean(rows, axis=0)
    return {
        "background_changed_percent": float(percent), "background_change_counts": float(counts),
        "background_change_noises": float(noises), "objects_added": added, "objects_lost": lost,
    }  # fmt: skip


def score_all(shared: Path, work: Path, scorer: Path, *, unfinished: bool) -> dict[str, Any]:
    """Score what is there and was not scored yet; return all scores by run, weights and statistics."""
    data, store = shared / "nuclei_lowexp", work / "scores.json"
    known = examples(data / "test_S", data / "test_S_truth", data / "test_masks")
    scores: dict[str, Any] = json.loads(store.read_text()) if store.exists() else {}
    for weights in weights_of(work, unfinished=unfinished):
        planned = weights.planned
        for statistics in STATISTICS if planned.data == "nuclei" else STATISTICS[:1]:
            key = f"{weights.key} {statistics}"
            state = [weights.path.stat().st_size, weights.path.stat().st_mtime]
            if scores.get(key, {}).get("state") == state:
                continue
            print(key, flush=True)
            translator = load_translator(weights.path, planned.settings.networks)
            if planned.data != "nuclei":
                outcome = judge_of(planned.data, prepared(planned.data, shared, work).test)(translator)
            else:
                if statistics == "fixed":
                    translator = with_fixed_statistics(translator, prepared("nuclei", shared, work).source)
                outcome = scored(
                    translator, known, data / "no_cells_S", work / "scored" / key.replace(" ", "-"), scorer
                )
            scores[key] = {"state": state, **outcome}
            write_whole_file(store, json.dumps(scores, indent=1))
    return scores


Columns = tuple[tuple[str, str, int], ...]
"""Heads, the scores below them, their decimals."""

COLUMNS: dict[str, Columns] = {
    "nuclei": (
        ("PSNR affine (dB)", "psnr_affine", 2), ("SSIM affine", "ssim_affine", 3),
        ("patch distance", "patch_distance_to_truth", 3), ("attention IoU", "attention_iou", 3),
        ("background changed (%)", "background_changed_percent", 2), ("by (counts)", "background_change_counts", 2),
        ("by (noise)", "background_change_noises", 2), ("field without cells (%)", "empty_changed_percent", 2),
        ("changed in cells (%)", "inside_changed_percent", 1), ("objects added", "objects_added", 0),
        ("lost", "objects_lost", 0),
    ),
    "phase": (
        ("PSNR affine (dB)", "psnr_affine", 2), ("SSIM affine", "ssim_affine", 3),
        ("objects in truth, a field", "true_objects", 1), ("invented", "added", 1), ("lost", "lost", 1),
        ("selected in cells (%)", "inside_selected_percent", 1), ("outside (%)", "outside_selected_percent", 2),
        ("label outside (of that inside)", "outside_label", 3),
    ),
    "holo": (
        ("patch distance of spots", "patch_distance", 3), ("spots, a field", "objects", 1),
        ("places with rings", "masked_objects", 1), ("selected in rings (%)", "inside_selected_percent", 1),
        ("outside (%)", "outside_selected_percent", 2),
    ),
}  # fmt: skip


def table(scores: dict[str, Any], work: Path, data: str, statistics: str) -> str:
    """Return the scores of runs on a data set as Markdown: a row for each run and its weights."""
    columns = COLUMNS[data]
    heads = ["", "seed", "weights", *(head for head, _, _ in columns), "step", "core hours"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for planned in sorted(QUEUE, key=lambda one: (one.size, list(METHODS).index(one.method), one.seed)):
        for which in ("best", "last"):
            row = scores.get(f"{planned.name} {which} {statistics}") if planned.data == data else None
            if row is None:
                continue
            notes = notes_of(planned, work)
            step = best_step(notes) if which == "best" else notes["step"]
            values = ["-" if row.get(key) is None else f"{row[key]:.{digits}f}" for _, key, digits in columns]
            name = METHODS[planned.method] + (", full size" if planned.size == "full" else "")
            name += f" ({notes['failed']})" if "failed" in notes else ""
            of_all = "" if notes["step"] == planned.settings.steps else f" of {planned.settings.steps}"
            values += [f"{step}{of_all}", f"{notes['cpu_s'] / 3600:.2f}"]
            lines.append("| " + " | ".join([name, str(planned.seed), which, *values]) + " |")
    return "\n".join(lines)


def notes_of(planned: Planned, work: Path) -> dict[str, Any]:
    """Return what a run noted, whether it is finished or not."""
    folder = work / "runs" / planned.name
    path = folder / OUTCOME
    notes: dict[str, Any] = json.loads((path if path.exists() else folder / "progress.json").read_text())
    return notes


def best_step(notes: dict[str, Any]) -> int:
    """Return the step whose weights validated best."""
    best = max(notes["validation"], key=merit)
    return int(best["step"])


def keep(scores: dict[str, Any], work: Path, path: Path) -> None:
    """Write what the notebook shows of the nuclei's runs: scores (best weights, fixed statistics), curves, hours."""
    runs = []
    for planned in QUEUE:
        row = scores.get(f"{planned.name} best fixed")
        if planned.data != "nuclei" or row is None:
            continue
        notes = notes_of(planned, work)
        names, kept = [name for _, name, _ in COLUMNS["nuclei"]], ("step", *DRAWN["nuclei"])
        runs.append(
            {
                "method": METHODS[planned.method], "seed": planned.seed, "size": planned.size, "steps": notes["step"],
                "best_step": best_step(notes), "core_hours": round(notes["cpu_s"] / 3600, 3),
                "test": {name: rounded(row.get(name)) for name in names},
                "validation": [{key: rounded(one[key]) for key in kept} for one in notes["validation"]],
            }
        )  # fmt: skip
    write_whole_file(path, json.dumps(runs, indent=1) + "\n")


def rounded(value: float | None) -> float | None:
    """Return a score with the digits that it deserves."""
    return None if value is None else round(float(value), 4)


DRAWN = {
    "nuclei": ("psnr_affine", "patch_distance", "iou", "outside_change_counts"),
    "phase": ("psnr_affine", "added", "lost", "outside_label"),
    "holo": ("patch_distance", "objects", "outside_selected_percent"),
}


def draw_curves(work: Path, data: str, path: Path) -> None:
    """Draw the validation scores of every run on a data set over its steps, and the cycle term it learned by."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    keys = DRAWN[data]
    figure, grid = plt.subplots(2, 3, figsize=(12, 6.4), layout="constrained")
    axes, legend = grid.flat[: len(keys) + 1], grid.flat[-1]
    for planned in QUEUE:
        folder = work / "runs" / planned.name
        if planned.data != data or not any((folder / name).exists() for name in (OUTCOME, "progress.json")):
            continue
        notes = notes_of(planned, work)
        line = ":" if planned.size == "full" else ("-", "--", "-.")[planned.seed % 3]
        style = {"color": f"C{list(METHODS).index(planned.method)}", "linestyle": line}
        for axis, key in zip(axes, keys, strict=False):
            rows = notes["validation"]
            axis.plot([row["step"] for row in rows], [row[key] for row in rows], label=planned.name, **style)
            axis.set_title(f"validation, {key.replace('_', ' ')}", fontsize=9)
        cycles = [row for row in notes["log"] if "cycle_source" in row]
        axes[-1].plot([row["step"] for row in cycles], [row["cycle_source"] for row in cycles], **style)
    axes[-1].set_title("training, cycle of source images", fontsize=9)
    axes[-1].set_yscale("log")
    for axis in axes:
        axis.set_xlabel("step")
    legend.legend(*axes[0].get_legend_handles_labels(), loc="center")
    for axis in grid.flat[len(keys) + 1 :]:
        axis.set_axis_off()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Score what is new, and write the table and the curves."""
    parser = parser_of(__doc__)
    parser.add_argument("--scorer", type=Path, default=Path("../shared/tools/score.py"))
    parser.add_argument("--unfinished", action="store_true", help="score runs that are under way too")
    parser.add_argument("--keep", type=Path, help="write scores and curves of the nuclei's runs here, as JSON")
    options = parser.parse_args()
    scores = score_all(options.shared, options.work, options.scorer, unfinished=options.unfinished)
    if options.keep:
        keep(scores, options.work, options.keep)
    parts = []
    for data in COLUMNS:
        for statistics in STATISTICS if data == "nuclei" else STATISTICS[:1]:
            by = "its own statistics" if statistics == "image" else "fixed statistics"
            rows = table(scores, options.work, data, statistics)
            parts.append(f"{data}, each image normalised by {by}:\n\n{rows}")
        if any((options.work / "runs").glob(f"{data}-*/*.json")):
            draw_curves(options.work, data, options.work / f"curves-{data}.png")
    write_whole_file(options.work / "scores.md", "\n\n".join(parts) + "\n")
    print("\n\n".join(parts))


if __name__ == "__main__":
    main()
