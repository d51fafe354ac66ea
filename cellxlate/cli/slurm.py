"""`enhance --slurm`: all that a run checks before it begins, and a job script in place of the run."""

import argparse
import os
import shlex
import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellxlate.cli.lines.output import complain, say
from cellxlate.errors import CellxlateError, OptionError, said
from cellxlate.locations import Location, RemotePath
from cellxlate.options import SCHEDULER, SLURM
from cellxlate.settings import AUTO

if TYPE_CHECKING:
    from cellxlate.enhancement.batch import Batch, BatchStack
    from cellxlate.enhancement.cluster.slurm import TaskNeeds

NOT_OF_A_TASK = {"stacks", "run", "slurm", "scheduler", "overwrite", "resume", "dry_run", "json", "quiet", "debug"}
"""What is decided for all stacks, or by the script."""

SHORT = {"model": "-m", "output": "-o"}


def run_slurm(options: argparse.Namespace, batch: "Batch", left_out: Sequence[str]) -> int:
    """Check everything, predict what a task needs, and write the script, or show it in a dry run."""
    from cellxlate.enhancement.cluster.slurm import group_size, require_script_place, script_of, write_script
    from cellxlate.enhancement.outputs.names import make_folder

    script: Path = options.slurm
    if options.scheduler is not None:
        raise OptionError(SCHEDULER, " and ", SLURM, " are both given", remedy="give one of them")
    require_script_place(script, overwrite=options.overwrite)
    largest = _largest(batch, script)
    tasks = {str(plate.source.absolute()): len(plate.fields) for plate in batch.plates}
    tasks |= {str(stack.path.absolute()): 1 for stack in batch.stacks if not stack.plate}
    counts, group = list(tasks.values()), group_size(len(tasks))
    together = max(sum(counts[first : first + group]) for first in range(0, len(counts), group))
    needs, expected, origin = _needed(options, batch, largest, together)
    words, replaces = list(task_options(options)), bool(options.overwrite)
    text = script_of(script, list(tasks), words, needs, origin=origin, replaces=replaces)
    if not options.dry_run:
        make_folder(batch.settings.output_dir)
        write_script(script, text, overwrite=replaces)
    answer = _answer(script, list(tasks), needs, expected, dry_run=options.dry_run)
    if left_out:
        answer["left_out"] = list(left_out)
    lines = text.splitlines() if options.dry_run else _lines(answer)
    say(options, answer, lines)
    return 0


def task_options(options: argparse.Namespace) -> Iterator[list[str]]:
    """Yield the options of a command again, words of one together: paths are absolute, as a node starts elsewhere.

    What is off or left out is not said; defaults are.
    """
    for name, value in vars(options).items():
        if name in NOT_OF_A_TASK or value is None or value is False:
            continue
        flag = SHORT.get(name, f"--{name.replace('_', '-')}")
        if value is True:
            yield [flag]
        elif isinstance(value, list | tuple):
            yield [flag, *map(str, value)]
        elif isinstance(value, Path | RemotePath) or (name == "model" and _is_file(value)):
            yield [flag, str(Path(value).absolute() if isinstance(value, str) else value.absolute())]
        else:
            yield [flag, str(value)]


def _is_file(model: str) -> bool:
    """Return whether a model lies where it is asked for, and is not the word for one, whatever lies there."""
    from cellxlate.enhancement.proposals.filters import filter_of

    return os.path.lexists(model) and model != AUTO and filter_of(model) is None


def _largest(batch: "Batch", script: Path) -> "BatchStack":
    """Check every stack, and return the largest.

    Raises
    ------
    CellxlateError
        One cannot be enhanced; where there are several, each of those is said on a line of its own before.
    """
    sizes: list[int] = []
    faults: list[CellxlateError] = []
    settings = batch.settings
    for plate in [] if _is_made(settings.output_dir) else batch.plates:
        plate.require_free(overwrite=settings.overwrite, resume=settings.resume)
    for stack in batch.stacks:
        try:
            sizes.append(_checked_size(batch, stack))
        except CellxlateError as fault:
            faults.append(fault)
        if any(place.absolute() == script.absolute() for place in stack.outputs.wanted):
            raise OptionError(f"{script} is the name of a result; choose another name for the script")
    if faults and len(batch.stacks) == 1:
        raise faults[0]
    for found in faults:
        complain(said(found))
    if faults:
        count = f"{len(faults)} of {len(batch.stacks)}"
        raise OptionError(f"{count} stacks cannot be enhanced, so no script is written; mend them or leave them out")
    return batch.stacks[sizes.index(max(sizes))]


def _checked_size(batch: "Batch", stack: "BatchStack") -> int:
    """Check a stack, as far as that reads no pixels, and return how many it has."""
    from cellxlate.enhancement.adaptation.record import make_room, model_folder
    from cellxlate.enhancement.cluster.slurm import require_writable
    from cellxlate.enhancement.confidence.file import confidence_path
    from cellxlate.enhancement.gates.source import require_fitting
    from cellxlate.enhancement.neighbours.channels import choose_sight
    from cellxlate.enhancement.neighbours.context import require_neighbours
    from cellxlate.enhancement.plan import require_counts
    from cellxlate.stacks.naming import partial_of

    settings = batch.settings
    replaced = {"overwrite": settings.overwrite, "resume": settings.resume}
    with settings.open(stack.path) as opened:
        require_counts(opened)
        choose_sight(opened, batch.model, settings.channels, settings.beside, settings.attention_channel)
        require_neighbours(settings.settings.context, opened)
        require_fitting(opened, settings.attention_channel, settings.attention_from)
        outputs = stack.outputs if stack.plate else settings.outputs(stack.path, opened)
        if not (stack.plate or _is_made(settings.output_dir)):
            require_writable(opened, outputs, **replaced)
        if settings.confidence:
            confidence_path(outputs, is_free=settings.overwrite or settings.resume)
        if settings.adapt_s is not None:
            folder = model_folder(outputs)
            if not any(replaced.values()):
                make_room(folder, partial_of(folder), **replaced)
        return prod(opened.shape)


def _is_made(folder: Location | None) -> bool:
    """Return whether a folder for results is not there yet: the run makes it, and nothing is in the way."""
    return isinstance(folder, Path) and not folder.exists()


def _needed(
    options: argparse.Namespace, batch: "Batch", largest: "BatchStack", together: int
) -> tuple["TaskNeeds", dict[str, Any], list[str]]:
    """Return what a task needs for so many stacks together, what one is expected to take, and how that was found."""
    from cellxlate.enhancement.batch import predict_stack
    from cellxlate.enhancement.cluster import slurm
    from cellxlate.enhancement.flow import planes_at_once
    from cellxlate.enhancement.verify import peak_rss_mb

    here = replace(batch.settings, device=slurm.device_here(options.device))
    with slurm.threads_of_a_task():
        forecast = predict_stack(replace(batch, settings=here), largest, workers=options.workers).forecast
    if forecast is None:
        raise RuntimeError("a stack was predicted, and there is no forecast")
    if options.workers:
        forecast = replace(forecast, prediction=forecast.prediction.with_processes(options.workers))
    peak_mb, device = peak_rss_mb(), forecast.plan.translator.identity.split()[1]
    expected_s = together * forecast.total_s
    needs = slurm.needs_of(
        expected_s, peak_mb, plane_shape=forecast.plan.stack.plane_shape,
        seen=planes_at_once(forecast.plan.stack, forecast.plan.jobs),
        workers=options.workers,
        graphics_card="cuda" in (device, options.device),
    )  # fmt: skip
    prediction = forecast.prediction
    origin = [
        f"a sample of the largest stack, {largest.path.name} ({prediction.megapixels:.3g} megapixels, "
        f"{100 * prediction.cell_fraction:.0f} % cells),",
        f"was enhanced on {socket.gethostname()} with {forecast.plan.engine}. So a task of {together} "
        f"stack{'' if together == 1 else 's'} takes about {_duration(expected_s)} and {peak_mb / 1000:.2g} GB.",
        f"Time: {slurm.TIME_MARGIN:g} times as much and {slurm.START_S / 60:.0f} min, in steps of "
        f"{slurm.STEP_S // 60} min, at most {slurm.LONGEST_S // 3600} h.",
        f"Memory: {slurm.MEMORY_MARGIN:g} times that, bands as wide as the stack, and {slurm.WORKER_GB:g} GB for each "
        f"worker; {slurm.LEAST_GB} GB at least.",
    ]
    if here.device != options.device:
        origin.append("There is no graphics card on that machine: with one, a task is much faster.")
    return needs, forecast.as_dict()["expected"], origin


def _duration(seconds: float) -> str:
    """Return a time in the unit that people would say it in."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _answer(
    script: Path, tasks: Sequence[str], needs: "TaskNeeds", expected: dict[str, Any], *, dry_run: bool
) -> dict[str, Any]:
    """Return what was written, or would be, as plain values."""
    from cellxlate.enhancement.cluster.slurm import group_size, log_of, said_needs

    return {
        "script": None if dry_run else str(script.absolute()), "tasks": -(-len(tasks) // group_size(len(tasks))),
        "stacks": list(tasks), **said_needs(needs), "logs": log_of(script), "expected": expected,
        "submit": shlex.join(["sbatch", str(script)]),
    }  # fmt: skip


def _lines(answer: dict[str, Any]) -> list[str]:
    """Return what was written and what to do next, for people."""
    tasks, stacks = answer["tasks"], len(answer["stacks"])
    of_each = "one for each stack" if tasks == stacks else f"for {stacks} stacks"
    card = ", a graphics card" if answer["graphics_card"] else ""
    return [
        f"script     {answer['script']}",
        f"tasks      {tasks}, {of_each}",
        f"each       {answer['cpus_per_task']} cores{card}, {answer['memory_gb']} GB, {answer['time_limit']}; the "
        "script says why, and may be changed",
        f"logs       {answer['logs']}",
        f"submit     {answer['submit']}",
    ]
