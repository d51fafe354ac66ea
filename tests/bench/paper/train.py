"""One run, from its first step or from its checkpoint to its last step; it may be killed at any moment."""

import copy
import fcntl
import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from cellxlate.model.bundle import save_tensors
from cellxlate.model.networks import TranslatorNetworks
from cellxlate.settings import NetworkSettings, Precision
from cellxlate.stacks.stack import Stack
from cellxlate.training.acceleration.precision import accelerate, has_bfloat16
from cellxlate.training.checkpoint import read_notes, restore_checkpoint, save_checkpoint
from cellxlate.training.domains import open_domains
from cellxlate.training.fields.guides import saliency
from cellxlate.training.fields.patches import Domain, Mask
from cellxlate.training.run import Run, drawn_ahead, fingerprint, has_checkpoint, one_step
from cellxlate.training.steps import LearnedStep, Step
from cellxlate.whole_file import write_whole_file
from paper.cut import CutStep
from paper.data import prepared
from paper.hinge import HingedStep
from paper.methods import STEPS_PER_EPOCH, Planned
from paper.smoothed import SmoothedStep
from paper.translate import Judge, judge_of, levels_of, merit, translated
from paper.utom import UtomStep

LOG_EVERY, SAVE_EVERY, VALIDATE_EVERY = 64, 256, 320
FIRST_LOOKS = (1, 64, 300)
"""Steps whose terms are printed early, to see that they move."""

NOTHING_SELECTED = 0.001
PRECISION: Precision = "bfloat16" if has_bfloat16(torch.device("cpu")) else "float32"


OUTCOME, BEST, LAST = "outcome.json", "best.safetensors", "last.safetensors"


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Say whether this process has the folder of a run to itself; the claim ends with the process, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "claim").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            file.write(f"{os.getpid()}\n")
            file.flush()
            yield True


def begun(planned: Planned, domains: tuple[Domain, ...], device: torch.device) -> Run:
    """Build the networks of a run from its seed."""
    settings = planned.settings
    step: Step
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        if planned.method == "utom":
            step = UtomStep(settings, device, domains)
        elif planned.method == "cut":
            step = CutStep(settings, device, mixed=PRECISION == "bfloat16")
        elif planned.method == "hinge":
            step = HingedStep(settings, device)
        elif planned.method == "smoothed":
            step = SmoothedStep(settings, device)
        else:
            step = LearnedStep(settings, device)
    average = copy.deepcopy(step.translator).requires_grad_(False)
    networks = [module for name, module in step.modules.items() if name not in ("count", "heads")]
    accelerate(networks, settings, device, PRECISION)
    steps = settings.steps or settings.epochs * STEPS_PER_EPOCH
    return Run(settings, step, average, PRECISION, steps, STEPS_PER_EPOCH)


def train(planned: Planned, shared: Path, work: Path, *, steps: int | None = None) -> dict[str, Any]:
    """Train a run to its end, or by so many steps, and return what was noted on the way.

    The folder `runs/NAME` then holds `outcome.json` (terms, validation and hours), the translator of the best
    validation in `best.safetensors` and of the last step in `last.safetensors`. What is not finished holds a checkpoint
    and goes on from it, to the bit.
    """
    folders, folder = prepared(planned.data, shared, work), work / "runs" / planned.name
    judge = judge_of(planned.data, folders.validation)
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as files:
        masks = [folders.masks] if planned.settings.guide == "masks" else []
        domains = open_domains(([folders.source], [folders.target]), planned.settings, None, masks, files)
        domains = tuple(with_levels(domain, planned.data) for domain in domains)
        run = begun(planned, domains, torch.device("cpu"))
        notes: dict[str, Any] = {
            "run": asdict(planned), "settings": asdict(run.settings), "data": fingerprint(domains),
            "precision": PRECISION, "step": 0, "wall_s": 0.0, "cpu_s": 0.0, "log": [], "validation": [],
        }  # fmt: skip
        if has_checkpoint(folder):
            kept = read_notes(folder)
            for key in ("settings", "data", "precision"):
                if kept[key] != json.loads(json.dumps(notes[key])):
                    raise SystemExit(f"{folder} was begun with other {key}; move it away")
            restore_checkpoint(folder, run.state)
            notes, run.done = kept, kept["step"]
        return continued(run, domains, judge, folder, notes, run.steps if steps is None else run.done + steps)


def continued(
    run: Run, domains: tuple[Domain, ...], judge: Judge, folder: Path, notes: dict[str, Any], until: int
) -> dict[str, Any]:
    """Do the remaining steps; log, validate and save on the way."""
    sums: dict[str, float] = {}
    wall, cpu = time.monotonic() - notes["wall_s"], time.process_time() - notes["cpu_s"]
    with closing(drawn_ahead(run, domains)) as drawn:
        for patches in drawn:
            terms = {name: float(value.detach()) for name, value in one_step(run, patches, torch.device("cpu")).items()}
            sums = {name: sums.get(name, 0.0) + value for name, value in terms.items()}
            if run.done in FIRST_LOOKS:
                print(run.done, {name: round(value, 4) for name, value in terms.items()}, flush=True)
            if not all(map(math.isfinite, terms.values())):
                return finished(run, folder, notes | {"failed": f"the loss is not finite at step {run.done}"})
            notes |= {"step": run.done, "wall_s": time.monotonic() - wall, "cpu_s": time.process_time() - cpu}
            if run.done % LOG_EVERY == 0:
                means = {name: value / LOG_EVERY for name, value in sums.items()}
                notes["log"].append({"step": run.done, **means})
                sums = {}
            if run.done % VALIDATE_EVERY == 0 or run.done == run.steps:
                validate(run, judge, folder, notes)
            if run.done % SAVE_EVERY == 0:
                save_checkpoint(folder, run.state, notes)
                write_whole_file(folder / "progress.json", json.dumps(notes, indent=1))
            if run.done == switch_step(run) and has_collapsed(run, judge):
                return finished(
                    run, folder, notes | {"failed": f"attention selects nothing at the switch ({run.done})"}
                )
            if run.done == until:
                break
    return finished(run, folder, notes) if run.done == run.steps else notes


def with_levels(domain: Domain, data: str) -> Domain:
    """Return a domain whose planes have the levels of a data set; the automatic guide is found by the package's."""
    fields = []
    for one in domain.fields:
        plane, mask = one.stack.read(one.index), one.mask
        if domain.guide == "saliency":
            found = saliency(plane, one.intensity).astype(np.uint8)
            mask = Mask(Stack.from_array(found, "YX", name=one.stack.name), ())
        fields.append(replace(one, intensity=levels_of(data, plane), mask=mask))
    return Domain(fields, domain.number, domain.guide)


def validate(run: Run, judge: Judge, folder: Path, notes: dict[str, Any]) -> None:
    """Score the translator on the images held out, and keep it where it is the best so far."""
    row = judge(run.average)
    before = [merit(one) for one in notes["validation"]]
    notes["validation"].append({"step": run.done, **row})
    print(f"step {run.done}/{run.steps} {notes['cpu_s']:.0f} s", {key: round(value, 3) for key, value in row.items()},
          flush=True)  # fmt: skip
    if merit(row) > max(before, default=-math.inf):
        save_translator(run.average, folder / BEST)


def switch_step(run: Run) -> int:
    """Return after which step attention is frozen."""
    return run.settings.switch_epoch * run.steps // run.settings.epochs


def has_collapsed(run: Run, judge: Judge) -> bool:
    """Return whether attention, frozen from here on, selects nothing: what follows would all be the input."""
    planes = [(one.plane, levels_of(judge.data, one.plane)) for one in judge.known]
    return max(float((translated(run.average, *one).gate > 0).mean()) for one in planes) < NOTHING_SELECTED


def save_translator(translator: TranslatorNetworks, path: Path) -> None:
    """Write the weights of a translator."""
    state = {name: value.detach().cpu().contiguous().clone() for name, value in translator.state_dict().items()}
    partial = path.with_name(f"{path.name}.partial")
    save_tensors(state, partial, {})
    partial.replace(path)


def load_translator(path: Path, networks: NetworkSettings) -> TranslatorNetworks:
    """Read a translator that `save_translator` wrote."""
    translator = TranslatorNetworks(networks)
    translator.load_state_dict(load_file(path))
    return translator.eval().requires_grad_(False)


def finished(run: Run, folder: Path, notes: dict[str, Any]) -> dict[str, Any]:
    """Write the last weights and what came of the run; then it is not trained again."""
    save_translator(run.average, folder / LAST)
    write_whole_file(folder / OUTCOME, json.dumps(notes, indent=1))
    (folder / "checkpoint.safetensors").unlink(missing_ok=True)
    return notes
