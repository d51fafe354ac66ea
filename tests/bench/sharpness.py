"""What sharper texture costs: shipped generators taught on with a texture or an adversarial term of several weights.

    export PYTHONPATH=tests/bench
    python tests/bench/sharpness.py --shared ../shared/data --work WORK [--model nuclei-lowexp] [--steps 600]
    python tests/bench/sharpness.py --work WORK --show [--figure FILE.png]     # the table, and the trade as a curve

Each run begins with the shipped generator and learns on what it was made from, without the fields that are scored;
attention stays as it is. The control learns on with weight 0. `nuclei-lowexp` is scored on crops of clear fields that
are held out and made faint (`paper/data.py`), `cells` on the fields of `degraded.py`, both through the gate as they
enhance. Every image is recorded twice, with noise drawn anew: detail that is there agrees between the two and with the
truth, detail that is made up does not.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import tifffile
import torch
from degraded import EVERYWHERE, HELD_OUT, NOISES, degrade, structure
from paper.data import made_faint, prepared
from paper.translate import Example, against_truth, distance_to_truth, mean_of
from scipy import ndimage
from torch import Tensor

import cellxlate
from cellxlate.evaluation import measures
from cellxlate.model.bundle import Bundle
from cellxlate.model.networks import Discriminator
from cellxlate.settings import PRESETS, DiscriminatorSettings, TrainSettings
from cellxlate.training import losses
from cellxlate.training.acceleration.precision import accelerate
from cellxlate.training.domains import open_domains
from cellxlate.training.options import BASE_RATE
from cellxlate.training.run import Run, begin, drawn_ahead, one_step
from cellxlate.training.steps import AnyCameraStep, Draw, adam, cut, move
from cellxlate.whole_file import write_whole_file

Image = npt.NDArray[Any]

WEIGHTS = {
    "nuclei-lowexp": {"texture": (3.0, 10.0, 30.0, 100.0), "adversarial": (0.1, 1.0, 10.0)},
    "cells": {"texture": (30.0, 300.0, 3000.0), "adversarial": (0.1, 1.0, 10.0)},
}
CAMERAS = ("white", "shared-0.7")
"""The noises of `degraded.py` that `cells` is scored in."""

JUDGE_TIMES = 5
"""The discriminator begins from nothing and the generator does not, so it learns so many times as fast."""

FINE_PX = 1.0
"""Detail is what a Gaussian of this width takes away."""

CLEAN_FOLDERS = "actin bacteria cytoplasm membranes microtubules mitochondria nuclei_large nuclei_small puncta tissue"


@dataclass(frozen=True)
class Twice:
    """A field, recorded twice.

    Attributes
    ----------
    example : Example
        The first recording, the field without blur and noise, and where scores are taken.
    again : ndarray (Y, X)
        The second recording, in counts.
    expected : ndarray (Y, X) or None
        What both show without noise, in the same counts; None where the recording blurs as well.
    """

    example: Example
    again: Image
    expected: Image | None


class JudgedCameraStep(AnyCameraStep):
    """The step of a generalist with an adversarial term beside the fidelity of its generator, in place of the guide."""

    def __init__(self, settings: TrainSettings, device: torch.device) -> None:
        super().__init__(settings, device)
        self.judge = Discriminator(DiscriminatorSettings(width=32, layers=2, normalisation="none"), 1)
        self.modules["judge"] = self.judge
        self.optimisers["judge"] = adam(self.judge.parameters(), settings)

    def run(self, source: Draw, target: Draw, *, switched: bool, rng: torch.Generator) -> dict[str, Tensor]:
        settings, generator = self.settings, self.translator.generator
        faint = source.images[: len(target.images)]
        seen, aim, near = cut((faint, target.images, target.guides), settings.generalist.generator_px, rng)
        made, inside = generator(seen), (near != 0).to(seen.dtype)  # a field without a guide counts everywhere
        fidelity = losses.relative_cycle(made, aim, seen, near)
        self.judge.requires_grad_(False)
        adversarial = losses.generated_as_real(self.judge(made * inside, normalised=False))
        move([self.optimisers["translator"]], fidelity + settings.lambda_adversarial * adversarial, [generator])
        self.judge.requires_grad_(True)
        judged = losses.real_from_generated(
            self.judge(aim * inside, normalised=False), self.judge(made.detach() * inside, normalised=False)
        )
        move([self.optimisers["judge"]], judged)
        return {"cycle_target": fidelity, "adversarial": adversarial, "judge": judged}


def settings_of(start: Bundle, term: str, weight: float, steps: int) -> TrainSettings:
    """Return how a run is trained: as the model was, with one more term, at a rate that falls to 0."""
    preset = PRESETS["general" if start.card.get("generalist") else "fast"]
    return replace(
        preset,
        networks=replace(start.networks.settings, context=0),
        steps=steps,
        learning_rate=BASE_RATE / 2,
        decay_from=0.0,
        lambda_guide=0.0 if start.card.get("generalist") else preset.lambda_guide,
        lambda_adversarial=weight if term == "adversarial" else 0.0,
        imaging=replace(preset.imaging, texture=weight if term == "texture" else 0.0),
        ema=0.99,
    )


def taught(model: str, term: str, weight: float, steps: int, shared: Path, work: Path) -> dict[str, Tensor]:
    """Return the weights of the generator after a run."""
    start = cellxlate.load_model(model)
    settings, device = settings_of(start, term, weight, steps), torch.device("cpu")
    if model == "nuclei-lowexp":
        folders = prepared("nuclei", shared, work)
        paths: Any = ([folders.source], [folders.target])
    else:
        paths = ([], clear_images(shared, work))
    with ExitStack() as files:
        domains = open_domains(paths, settings, None, [], files)
        run = begin(settings, domains, device, "bfloat16", start)
        if model == "cells" and term == "adversarial":
            run = with_judge(run, start)
        for name, optimiser in run.step_function.optimisers.items():
            if name != "translator":
                for group in optimiser.param_groups:
                    group["times"] = JUDGE_TIMES
        begun = time.process_time()
        with closing(drawn_ahead(run, domains)) as drawn:
            for patches in drawn:
                terms = one_step(run, patches, device)
                if run.done % 100 == 0 or run.done == 10:
                    found = {name: round(float(value.detach()), 5) for name, value in terms.items()}
                    print(f"{model} {term} {weight} {run.done} {time.process_time() - begun:.0f} s {found}", flush=True)
                if run.done == steps:
                    break
    return {name: value.clone() for name, value in run.average.generator.state_dict().items()}


def with_judge(run: Run, start: Bundle) -> Run:
    """Return the run of a generalist with the step that has a discriminator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.settings.seed)
        step = JudgedCameraStep(run.settings, torch.device("cpu"))
    step.translator.load_state_dict(start.translator.state_dict())
    accelerate([step.translator, step.judge], run.settings, torch.device("cpu"), run.precision)
    run.step_function = step
    return run


def clear_images(shared: Path, work: Path) -> list[Path]:
    """Return a folder of links to the clear structures that are not held out."""
    folder = work / "clear"
    held = {Path(name).name for name in HELD_OUT}
    for kind in CLEAN_FOLDERS.split():
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for path in sorted((shared / "clean_structures" / kind).glob("*.tif")):
            link = folder / kind / path.name
            if path.name not in held and not overlaps_held(path.name, held) and not link.exists():
                link.symlink_to(path.resolve())
    return sorted(one for one in folder.iterdir() if any(one.iterdir()))


def overlaps_held(name: str, held: set[str]) -> bool:
    """Return whether a crop belongs to the field of a crop that is held out, whose light it may share."""
    field = name.split("_y")[0]
    return "_y" in name and any(one.split("_y")[0] == field for one in held)


def recorded_twice(model: str, shared: Path, work: Path) -> list[Twice]:
    """Return what a model is scored on."""
    fields = []
    if model == "nuclei-lowexp":
        folder = prepared("nuclei", shared, work).validation
        for number, path in enumerate(sorted((folder / "truth").glob("*.tif"))):
            truth = tifffile.imread(path)
            clear, cells = truth.astype(np.float64), tifffile.imread(folder / "masks" / path.name) > 0
            first = made_faint(clear, np.random.default_rng([8, number]))
            again = made_faint(clear, np.random.default_rng([8, number]), np.random.default_rng([9, number]))
            fields.append(Twice(Example(path.stem, first, truth, cells), again, None))
        return fields
    for number, name in enumerate(HELD_OUT):
        if Path(name).parent.name in EVERYWHERE:
            continue
        clear = tifffile.imread(shared / name)[:256, :256]
        for camera in CAMERAS:
            (first, expected), (again, _) = (
                degrade(clear, NOISES[camera], seed=1000 * draw + number) for draw in (1, 2)
            )
            one = Example(f"{Path(name).stem} {camera}", first, expected, structure(clear))
            fields.append(Twice(one, again, expected))
    return fields


def scores_of(bundle: Bundle, fields: Sequence[Twice]) -> dict[str, float]:
    """Return means over fields; patches of all fields together."""
    known = [one.example for one in fields]
    made = [[cellxlate.enhance(image, bundle).image for image in (one.example.plane, one.again)] for one in fields]
    rows = [scores_of_field(one, results) for one, results in zip(fields, made, strict=True)]
    return mean_of(rows) | {"patch_distance": distance_to_truth(known, [first for first, _ in made])}


def scores_of_field(one: Twice, made: Sequence[Image]) -> dict[str, float]:
    """Return the scores of one field.

    Returns
    -------
    dict
        As `against_truth` gives, and "detail" (that of the result over the truth's,
        1 is as sharp), "detail_true" (its correlation with the truth's) and "detail_again" (with that of the other
        recording); "residual" (of input minus result over the noise that was drawn, 1 if nothing but noise went).
    """
    example = one.example
    truth, cells = example.truth.astype(np.float64), example.cells
    fitted = [measures.affine(image.astype(np.float64), truth, cells) for image in made]
    fine, again, true = ((image - ndimage.gaussian_filter(image, FINE_PX))[cells] for image in (*fitted, truth))
    found = against_truth(example, made[0]) | {
        "detail": float(fine.std() / true.std()), "detail_true": float(np.corrcoef(fine, true)[0, 1]),
        "detail_again": float(np.corrcoef(fine, again)[0, 1]),
    }  # fmt: skip
    if one.expected is not None:
        noisy, result = (image.astype(np.float64) for image in (example.plane, made[0]))
        found["residual"] = float(np.std((noisy - result)[cells]) / np.std((noisy - one.expected)[cells]))
    return found


def planned(model: str) -> list[tuple[str, float]]:
    """Return term and weight of every run of a model, the control first."""
    return [("none", 0.0), *((term, weight) for term, weights in WEIGHTS[model].items() for weight in weights)]


def do(model: str, options: argparse.Namespace) -> None:
    """Train and score what is not there yet."""
    fields = recorded_twice(model, options.shared, options.work)
    start = cellxlate.load_model(model)
    stored(options.work / f"{model}-shipped.json", lambda: scores_of(start, fields))
    for term, weight in planned(model):
        path = options.work / f"{model}-{term}-{weight:g}.json"
        weights = path.with_suffix(".pt")
        if not weights.exists():
            torch.save(taught(model, term, weight, options.steps, options.shared, options.work), weights)
        translator = cellxlate.load_model(model).translator
        translator.generator.load_state_dict(torch.load(weights, weights_only=True))
        stored(
            path,
            lambda translator=translator: scores_of(replace(start.with_weights(translator), neighbours=None), fields),
        )


def stored(path: Path, make: Callable[[], dict[str, float]]) -> None:
    """Write scores, if they are not there."""
    if not path.exists():
        row = make()
        print(path.stem, {key: round(value, 4) for key, value in row.items()}, flush=True)
        write_whole_file(path, json.dumps(row))


COLUMNS = {
    "psnr_affine": ("PSNR (dB)", 2), "ssim_affine": ("SSIM", 3), "patch_distance": ("patch distance", 4),
    "detail": ("detail", 2), "detail_true": ("like the truth's", 3), "detail_again": ("like the second recording's", 3),
    "residual": ("residual", 3), "added": ("objects added", 2), "lost": ("lost", 2),
}  # fmt: skip


def rows_of(model: str, work: Path) -> list[tuple[str, float, dict[str, float]]]:
    """Return term, weight and scores of what there is of a model, the shipped one first."""
    found = []
    for term, weight in [("shipped", 0.0), *planned(model)]:
        path = work / (f"{model}-shipped.json" if term == "shipped" else f"{model}-{term}-{weight:g}.json")
        if path.exists():
            found.append((term, weight, json.loads(path.read_text())))
    return found


def table(model: str, work: Path) -> str:
    """Return the scores of a model's runs as Markdown."""
    heads = [f"`{model}`", *(head for head, _ in COLUMNS.values())]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for term, weight, row in rows_of(model, work):
        name = {"shipped": "as shipped", "none": "learning on, no term"}.get(term, f"{term}, {weight:g}")
        values = [f"{row[key]:.{digits}f}" if key in row else "-" for key, (_, digits) in COLUMNS.items()]
        lines.append("| " + " | ".join([name, *values]) + " |")
    return "\n".join(lines)


def draw(work: Path, path: Path) -> None:
    """Draw fidelity against patch distance, and against how much of the detail the second recording shows too."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(len(WEIGHTS), 2, figsize=(10, 7), layout="constrained")
    for line, model in zip(axes, WEIGHTS, strict=True):
        rows = rows_of(model, work)
        for axis, (key, name) in zip(line, (("patch_distance", "patch distance"), ("detail", "detail")), strict=True):
            for number, term in enumerate(WEIGHTS[model]):
                points = [(weight, row) for kind, weight, row in rows if kind in (term, "none")]
                axis.plot(
                    [row[key] for _, row in points],
                    [row["psnr_affine"] for _, row in points],
                    "o-",
                    label=term,
                    color=f"C{number}",
                )
                for weight, row in points[1:]:
                    axis.annotate(f" {weight:g}", (row[key], row["psnr_affine"]), fontsize=8, color=f"C{number}")
            axis.set_xlabel(f"{name} ({'0 is the truth' if key == 'patch_distance' else '1 is as sharp as the truth'})")
            axis.set_ylabel("PSNR in cells (dB)")
            axis.set_title(model, loc="left")
        line[0].legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"), help="where the real images lie")
    parser.add_argument("--work", type=Path, required=True, help="where weights and scores are kept")
    parser.add_argument("--model", choices=WEIGHTS, action="append")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--show", action="store_true", help="print what there is, and train nothing")
    parser.add_argument("--figure", type=Path, help="draw what there is")
    options = parser.parse_args()
    if options.figure:
        draw(options.work, options.figure)
    if options.show:
        print("\n\n".join(table(model, options.work) for model in options.model or WEIGHTS))
        return
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    for model in options.model or WEIGHTS:
        do(model, options)


if __name__ == "__main__":
    main()
