"""`enhance` and `demo`: from names on the command line to enhanced files."""

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellxlate.cli.output import complain, progress_bar, say
from cellxlate.errors import CellxlateError, OptionError, OutputError, said
from cellxlate.locations import Location
from cellxlate.options import ADAPT, CONFIDENCE, MODEL, NO_ATTENTION, OUTPUT, OUTPUT_DIR, TO_REPLACE_OR_RENAME
from cellxlate.settings import EnhanceSettings

if TYPE_CHECKING:
    from cellxlate.enhancement.adaptation.adapt import Adaptation
    from cellxlate.enhancement.cluster.cluster import Cluster
    from cellxlate.enhancement.flow import EnhanceProgress
    from cellxlate.enhancement.outputs.names import Outputs
    from cellxlate.enhancement.outputs.plates import Plate
    from cellxlate.model.bundle import Bundle
    from cellxlate.quality.report.report import RunReport


OPENING = ("axes", "image", "incomplete")


def run_demo(options: argparse.Namespace) -> int:
    """Simulate, enhance, report."""
    from cellxlate.enhancement.job import enhance_file
    from cellxlate.stacks.samples.nuclei import SampleSettings, simulate
    from cellxlate.stacks.write.copy import write_stacks

    folder: Path = options.output
    folder.mkdir(parents=True, exist_ok=True)
    sample = simulate(SampleSettings(shape=(1, 1, 1, 1024, 1024), cell_fraction=0.15, seed=1))
    faint, truth = folder / "demo.ome.tif", folder / "demo_truth.ome.tif"
    with progress_bar(options, "planes") as show:
        write_stacks([(sample.stack, faint), (sample.truth, truth)], overwrite=options.overwrite, progress=show)
        follow = followed(show)
        report = enhance_file(faint, overwrite=options.overwrite, progress=follow, phases=follow)
    say(options, report.as_dict(), [f"input      {faint}", *enhanced_lines(report)])
    return 0


@dataclass(frozen=True)
class Request:
    """What one call of `enhance` is asked to do.

    Attributes
    ----------
    options : Namespace
        As parsed.
    named : list of (Location, Outputs)
        The stacks, and where their results go.
    plates : list of Plate
        Those that are given whole; their fields are among the stacks.
    model : Bundle or "auto"
        Which enhances all stacks, or the wish to choose one for each.
    naming, running : dict
        Options of `name_outputs`; of `open_stack` and `make_plan`.
    left_out : list of str
        A line for each kind of what was found and is no stack.
    """

    options: argparse.Namespace
    named: "list[tuple[Location, Outputs]]"
    plates: "list[Plate]"
    model: "Bundle | str"
    naming: dict[str, Any]
    running: dict[str, Any]
    left_out: list[str]

    def in_plate(self, path: Location) -> bool:
        """Return whether a stack is a field of a plate that is given whole."""
        return isinstance(path, Path) and any(path.is_relative_to(plate.source) for plate in self.plates)


def run_enhance(options: argparse.Namespace) -> int:
    """Enhance one stack, or several of which one failure does not stop the rest."""
    request = _request(options)
    named, plates = request.named, request.plates
    if not options.dry_run:
        for plate in plates:
            if isinstance(options.output_dir, Path):
                options.output_dir.mkdir(parents=True, exist_ok=True)
            plate.start(overwrite=options.overwrite, resume=options.resume)
    with _cluster(options) as cluster:
        if len(named) == 1 and not plates:
            answer, code = _enhance_one(request, *named[0], cluster), 0
        else:
            answers = [_attempt(request, *one, cluster) for one in named]
            answer, code = {"stacks": answers}, int(any("error" in one for one in answers))
            if plates and not options.dry_run:
                failed = {path for (path, _), one in zip(named, answers, strict=True) if "error" in one}
                answer["plates"] = [_finish(plate, failed, options) for plate in plates]
        if request.left_out:
            answer["left_out"] = request.left_out
        if cluster:
            answer["workers"] = cluster.summary()
    _show(request, answer)
    return code


def _request(options: argparse.Namespace) -> Request:
    """Find the stacks and plates that are meant, and name what becomes of them."""
    from cellxlate.enhancement.outputs.names import inputs_and_rest, name_outputs, require_distinct
    from cellxlate.enhancement.outputs.plates import plates_of
    from cellxlate.model.bundle import load_model
    from cellxlate.model.cards import AUTO
    from cellxlate.stacks.read.open import is_zarr, without_results

    naming: dict[str, Any] = {
        "output": options.output, "output_dir": options.output_dir, "format": options.format,
        "attention": not options.no_attention, "report": not options.no_report,
    }  # fmt: skip
    running: dict[str, Any] = {
        "axes": options.axes, "image": options.image, "incomplete": options.incomplete, "channels": options.channel,
        "settings": EnhanceSettings(options.threshold, options.intensity, options.tile, options.dense),
        "levels_from": options.levels_from,
        "engine": options.engine, "device": options.device, "precision": options.precision,
    }  # fmt: skip
    stacks, left_out = without_results(options.stacks)
    plates = plates_of(stacks, **naming) if options.image is None else []
    in_plates: dict[Location, Outputs] = {
        plate.source / field: plate.outputs(field, resume=options.resume) for plate in plates for field in plate.fields
    }
    others = [path for path in stacks if all(path != plate.source for plate in plates)]
    found, further = inputs_and_rest(others, each_image=options.image is None) if others else ([], [])
    left_out += further
    for line in () if options.quiet else left_out:
        complain(line)
    paths = list(dict.fromkeys([*in_plates, *found]))
    if options.output is not None and len(plates) + sum(path not in in_plates for path in paths) > 1:
        raise OptionError(OUTPUT, f" names one output, but there are {len(paths)} stacks", remedy=("give ", OUTPUT_DIR))
    if plates and options.adapt:
        raise OptionError(
            ADAPT, " learns from single stacks",
            remedy=("adapt to one field of the plate, then give its model with ", MODEL, " for all"),
        )  # fmt: skip
    if plates and options.confidence:
        raise OptionError(CONFIDENCE, " is written for single stacks", remedy="give the fields of the plate one by one")
    named = [(path, in_plates.get(path) or name_outputs(path, is_zarr=is_zarr(path), **naming)) for path in paths]
    require_distinct(named)
    model = AUTO if options.model == AUTO else load_model(options.model)
    return Request(options, named, plates, model, naming, running, left_out)


def _enhance_one(request: Request, path: Location, outputs: "Outputs", cluster: "Cluster | None") -> dict[str, Any]:
    """Enhance a stack, or predict what it would take; say what became of it, and return that as plain values."""
    from cellxlate.enhancement.job import THIS_PROCESS, enhance_file

    options, in_plate = request.options, request.in_plate(path)
    if options.output is None and not in_plate and (options.dry_run or options.confidence):
        outputs = _exact(path, request.naming, request.running)
    if options.dry_run:
        return _dry_run(path, outputs, request.model, request.running, options)
    sure = confidence_path(outputs, options) if options.confidence else None
    with progress_bar(options, "planes") as show:
        adaptation = _adapted(request, path, outputs, followed(show)) if options.adapt else None
        model = adaptation.model if adaptation else request.model
        report = enhance_file(
            path, model, **request.naming, **request.running,
            overwrite=options.overwrite, resume=options.resume, outputs=outputs if in_plate else None,
            adaptation=adaptation,
            where=cluster.executor if cluster else THIS_PROCESS, progress=followed(show), phases=followed(show),
        )  # fmt: skip
    if adaptation:
        adaptation.forget()
    answer = report.as_dict()
    if sure:
        _write_confidence(path, outputs, sure, model, request.running, options)
        answer["outputs"] |= {"confidence": str(sure)}
    if not options.json:
        say(options, {}, enhanced_lines(report) + ([f"confidence {sure}"] if sure else []))
    return answer


def _adapted(
    request: Request, path: Location, outputs: "Outputs", progress: "Callable[[EnhanceProgress], None]"
) -> "Adaptation":
    """Let the model learn from a stack, after making sure that there is room for the results."""
    from cellxlate.enhancement.adaptation.adapt import adapt_stack, model_folder
    from cellxlate.enhancement.outputs.names import require_free

    options, running = request.options, request.running
    if options.output is None:
        outputs = _exact(path, request.naming, running)
    if isinstance(options.output_dir, Path):
        options.output_dir.mkdir(parents=True, exist_ok=True)
    folder = model_folder(outputs)
    require_free(outputs, overwrite=options.overwrite, resume=options.resume)
    asked = {name: running[name] for name in (*OPENING, "channels", "settings", "levels_from", "device")}
    return adapt_stack(
        path, request.model, output=folder, seconds=options.adapt, overwrite=options.overwrite, resume=options.resume,
        progress=progress, **asked,
    )  # fmt: skip


def followed(show: Callable[..., None]) -> "Callable[[EnhanceProgress], None]":
    """Return what shows the news of a run on a progress bar."""
    return lambda news: show(news.done, news.total, news.phase)


def _attempt(request: Request, path: Location, outputs: "Outputs", cluster: "Cluster | None") -> dict[str, Any]:
    """Enhance one stack of several: what goes wrong is said, and the others go on."""
    try:
        return _enhance_one(request, path, outputs, cluster)
    except Exception as fault:  # whatever it is, the other stacks have no part in it
        if request.options.debug:
            raise
        known = isinstance(fault, CellxlateError)
        error = said(fault) if known else f"unexpected {type(fault).__name__}: {fault}; run it again with --debug"
        complain(error if known else f"{path}: {error}")
        return {"input": str(path), "error": error}


def _show(request: Request, answer: dict[str, Any]) -> None:
    """Show what became of all stacks: as JSON, or as a table for people."""
    options, named = request.options, request.named
    if options.json or options.dry_run:
        lines = [f"{key}: {value}" for one in answer.get("stacks", [answer]) for key, value in one.items()]
        say(options, answer, lines)
    elif "stacks" in answer:
        plates = [line for one in answer.get("plates", []) for line in plate_lines(one)]
        say(options, {}, batch_lines([_short(path) for path, _ in named], answer["stacks"]) + plates)
    if "workers" in answer and not options.json:
        say(options, {}, worker_lines(answer["workers"]))


def _finish(plate: "Plate", failed: set[Location], options: argparse.Namespace) -> dict[str, Any]:
    """Let a plate appear, or say why it does not."""
    missing = sum(plate.source / field in failed for field in plate.fields)
    if missing:
        complain(f"{plate.source}: {missing} of {len(plate.fields)} fields failed, so no plate appears; give --resume")
        return {"enhanced": None, "attention": None, "reports": None, "warnings": []}
    plate.finish(overwrite=options.overwrite, resume=options.resume)
    attention = str(plate.attention) if plate.keep_attention else None
    return {
        "enhanced": str(plate.enhanced), "attention": attention, "reports": str(plate.reports or "") or None,
        "warnings": plate.warnings(),
    }  # fmt: skip


def plate_lines(answer: dict[str, Any]) -> list[str]:
    """Return where a plate is and what it warns of, for people."""
    places = [f"{name:10} {place}" for name, place in answer.items() if place and name != "warnings"]
    return places + [f"warning    {warning}" for warning in answer["warnings"]]


def _short(path: Location) -> str:
    """Return what a stack is called in a table: a file by its name, a field with its plate."""
    from cellxlate.stacks.naming import stack_name, zarr_root

    return path.name if zarr_root(path) == path else stack_name(path)


def _exact(path: Location, naming: dict[str, Any], running: dict[str, Any]) -> "Outputs":
    """Return the names that a run will use, which depend on what the file holds."""
    from cellxlate.enhancement.outputs.names import format_of, name_outputs
    from cellxlate.stacks.read.open import is_zarr, open_stack

    with open_stack(path, **_opening(running)) as stack:
        found = format_of(stack, is_zarr=is_zarr(path), asked=naming["format"])
    return name_outputs(path, is_zarr=is_zarr(path), **(naming | {"format": found}))


def _opening(running: dict[str, Any]) -> dict[str, Any]:
    """Return what `open_stack` is told, of all that a run is told."""
    return {name: running[name] for name in OPENING}


@contextmanager
def _cluster(options: argparse.Namespace) -> "Iterator[Cluster | None]":
    """Start or join the workers that are asked for, and say where to watch them."""
    if options.dry_run or (options.workers is None and options.scheduler is None):
        yield None
        return
    from cellxlate.enhancement.cluster.cluster import open_cluster

    with open_cluster(workers=options.workers, scheduler=options.scheduler) as cluster:
        if not (options.quiet or options.json):
            print(f"dashboard  {cluster.dashboard}", file=sys.stderr)
        yield cluster


def worker_lines(workers: Sequence[dict[str, Any]]) -> list[str]:
    """Return what each worker has done."""
    return [
        f"worker     {one['worker']}: {one['bands']} bands in {one['busy_s']:.1f} s, "
        f"{one['megapixel_per_s']:.2f} megapixel/s"
        for one in workers
    ]


def confidence_path(outputs: "Outputs", options: argparse.Namespace) -> Location:
    """Return where confidence goes: beside attention, `_confidence` for `_attention`.

    Raises
    ------
    OptionError
        Attention is not kept.
    OutputError
        There is one already.
    """
    if options.no_attention:
        raise OptionError(CONFIDENCE, " is read together with attention", remedy=("leave out ", NO_ATTENTION))
    head, _, ending = outputs.attention.name.rpartition("_attention")
    path = outputs.attention.with_name(f"{head}_confidence{ending}")
    if path.exists() and not (options.overwrite or options.resume):
        raise OutputError(f"{path} exists already", remedy=TO_REPLACE_OR_RENAME)
    return path


def _write_confidence(
    path: Location,
    outputs: "Outputs",
    sure: Location,
    model: "Bundle | str",
    running: dict[str, Any],
    options: argparse.Namespace,
) -> None:
    """Ask the networks again how sure they are, and write it beside attention."""
    from cellxlate.enhancement.confidence.file import write_confidence
    from cellxlate.enhancement.plan import make_plan
    from cellxlate.stacks.read.open import open_stack

    planning = {name: value for name, value in running.items() if name not in OPENING}
    with open_stack(path, **_opening(running)) as stack, progress_bar(options, "planes") as show:
        plan = make_plan(stack, model, **planning)
        write_confidence(
            plan, outputs.attention, sure, overwrite=options.overwrite, resume=options.resume, progress=show
        )


def batch_lines(names: Sequence[str], answers: Sequence[dict[str, Any]]) -> list[str]:
    """Return a table of what became of each stack, how many there were, and which models were chosen for them."""
    width = max(len(name) for name in [*names, "stack"])
    lines = ["", f"{'stack':{width}}  {'changed':>9}  {'seconds':>8}  warnings"]
    for name, answer in zip(names, answers, strict=True):
        if "error" in answer:
            lines.append(f"{name:{width}}  {'failed':>9}  {'':>8}  {answer['error']}")
        else:
            changed, seconds = f"{100 * answer['changed_fraction']:.2f} %", answer["seconds"]["total"]
            lines.append(f"{name:{width}}  {changed:>9}  {seconds:8.1f}  {len(answer['warnings'])}")
    failed = sum("error" in answer for answer in answers)
    return [*lines, f"{len(answers) - failed} of {len(answers)} stacks enhanced", *_chosen_lines(answers)]


def _chosen_lines(answers: Sequence[dict[str, Any]]) -> list[str]:
    """Say how often which model was chosen, where one was chosen for each stack."""
    names = Counter(answer["model"]["name"] for answer in answers if answer.get("model", {}).get("considered"))
    if not names:
        return []
    counts = ", ".join(f"{name} for {count}" for name, count in sorted(names.items()))
    advice = "; to compare intensities between them, give one with -m" if len(names) > 1 else ""
    return [f"the model was chosen for each stack: {counts}{advice}"]


def _dry_run(
    path: Location, outputs: "Outputs", model: "Bundle | str", running: dict[str, Any], options: argparse.Namespace
) -> dict[str, Any]:
    """Return what would be done with a stack, and how long it would take."""
    from cellxlate.enhancement.adaptation.adapt import model_folder
    from cellxlate.enhancement.estimate import predict
    from cellxlate.enhancement.plan import make_plan
    from cellxlate.stacks.read.open import open_stack

    processes, started = _processes(options), time.perf_counter()
    with open_stack(path, **_opening(running)) as stack:
        plan = make_plan(stack, model, **{name: value for name, value in running.items() if name not in OPENING})
        expected = predict(plan, outputs, plan_s=time.perf_counter() - started, processes=processes).as_dict()
        adapting = {}
        if options.adapt:
            adapting = {"adaptation": {"seconds": options.adapt, "model": str(model_folder(outputs))}}
            expected["hours"] = round(expected["hours"] + options.adapt / 3600, 4)
            expected["seconds"] = {"adapting": options.adapt, **expected["seconds"]}
        return {
            "input": str(path), "axes": stack.axes, "shape": list(stack.shape), "dtype": str(stack.dtype),
            "planes": stack.plane_count, "channels": plan.channels, "tile_px": plan.tile_px, "engine": plan.engine,
            "model": plan.bundle.name, "model_considered": dict(plan.choice.considered) if plan.choice else {},
            "outputs": [str(written) for written in outputs.wanted],
            **adapting, "expected": expected,
        }  # fmt: skip


def _processes(options: argparse.Namespace) -> int:
    """Return how many processes would share the work at once, and let networks run here as they would in each."""
    import torch

    if options.scheduler is not None:
        from cellxlate.enhancement.cluster.cluster import open_cluster

        with open_cluster(scheduler=options.scheduler) as cluster:
            threads: list[int] = list(cluster.client.nthreads().values())
        torch.set_num_threads(max(threads, default=1))
        return max(len(threads), 1)
    if options.workers is None:
        return 1
    torch.set_num_threads(1)
    return int(max(min(options.workers, os.cpu_count() or 1), 1))


def enhanced_lines(report: "RunReport") -> list[str]:
    """Return what a run wrote, changed and warned of, for people."""
    answer = report.as_dict()
    lines = [f"{name:10} {path}" for name, path in answer["outputs"].items() if path]
    lines.append(f"model      {report.model_words}")
    if report.adaptation:
        lines.append(f"adapted    {report.adaptation['reason']}; {report.adaptation['steps']} steps, "
                     f"{report.adaptation['seconds']:.0f} s")  # fmt: skip
    lines.append(
        f"changed    {100 * report.changed_fraction:.2f} % of the pixels; of the others, "
        f"{report.kept_violations} differ from the input"
    )
    if "total" in answer["seconds"]:
        lines.append(f"took       {answer['seconds']['total']:.1f} s with {report.engine}")
    return lines + [f"warning    {warning}" for warning in report.warnings]
