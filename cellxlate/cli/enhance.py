"""`enhance` and `demo`: from names on the command line to enhanced files."""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellxlate.cli.lines.forecast import forecast_lines
from cellxlate.cli.lines.output import complain, missing_package, progress_bar, say
from cellxlate.cli.lines.table import count, duration, facts, percent, table, wrapped
from cellxlate.cli.slurm import run_slurm
from cellxlate.errors import CellxlateError, OptionError, said
from cellxlate.locations import Location
from cellxlate.options import WORKERS
from cellxlate.quality.report.gates import NOTHING_BESIDE, beside_words, context_words, source_words
from cellxlate.quick_import import without_collection
from cellxlate.settings import EnhanceSettings

if TYPE_CHECKING:
    from cellxlate.enhancement.batch import Batch, BatchSettings, BatchStack, StackOutcome
    from cellxlate.enhancement.cluster.cluster import Cluster
    from cellxlate.enhancement.flow import EnhanceProgress
    from cellxlate.quality.report.notices import Notice
    from cellxlate.quality.report.report import RunReport


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
    say(options, report.as_dict(), [*facts([("input    ", str(faint))]), *enhanced_lines(report)])
    return 0


def run_enhance(options: argparse.Namespace) -> int:
    """Enhance one stack, or several of which one failure does not stop the rest."""
    with without_collection():
        from cellxlate.enhancement.batch import attempts, enhance_stack, plan_batch, predict_stack, start_plates
        from cellxlate.enhancement.job import THIS_PROCESS
        from cellxlate.enhancement.proposals.source import load_foreign

    if options.workers is not None and options.workers < 1:
        raise OptionError(WORKERS.of(options.workers), " processes cannot work", remedy="give at least 1")
    left_out: list[str] = []
    model = load_foreign(options.model, torchscript=True) if options.run_torchscript else options.model
    batch = plan_batch(options.stacks, model, _settings(options), left_out=partial(_leave_out, options, left_out))
    if options.slurm is not None:
        return run_slurm(options, batch, left_out)
    if not options.dry_run:
        start_plates(batch)
    with _cluster(options) as cluster:
        attempt: Callable[[BatchStack], StackOutcome]
        if options.dry_run:
            attempt = partial(predict_stack, batch, workers=options.workers, scheduler=options.scheduler)
        else:
            where = cluster.executor if cluster else THIS_PROCESS
            attempt = partial(enhance_stack, batch, where=where, watch=partial(_watched, options))
        if len(batch.stacks) == 1 and not batch.plates:
            answer = _answer(options, attempt(batch.stacks[0]))
        else:
            told: list[tuple[Location, Sequence[Notice]]] = []
            answer = {"stacks": [_answer(options, outcome, told) for outcome in attempts(batch, attempt)]}
            if not options.dry_run:
                answer["warnings"] = _over_stacks(told)
        if batch.plates and not options.dry_run:
            answer["plates"] = _finish_plates(batch, answer["stacks"])
        if left_out:
            answer["left_out"] = left_out
        if cluster:
            answer["workers"] = cluster.summary()
    _show(options, _names([stack.path for stack in batch.stacks]), answer)
    return int(any("error" in one for one in answer.get("stacks", [])))


def _settings(options: argparse.Namespace) -> "BatchSettings":
    """Return what is asked for, for each stack."""
    from cellxlate.enhancement.batch import BatchSettings

    return BatchSettings(
        output=options.output, output_dir=options.output_dir, format=options.format, axes=options.axes,
        image=options.image, incomplete=options.incomplete, channels=options.channel,
        beside=options.beside, levels_from=options.levels_from,
        settings=EnhanceSettings(
            options.threshold, options.intensity, options.tile, options.dense, context=options.context,
            color=options.color,
        ),
        engine=options.engine, device=options.device, precision=options.precision,
        attention_channel=options.attention_channel, attention_from=options.attention_from,
        attention=not options.no_attention, report=not options.no_report, overwrite=options.overwrite,
        resume=options.resume, adapt_s=options.adapt, confidence=options.confidence,
    )  # fmt: skip


def _leave_out(options: argparse.Namespace, lines: list[str], line: str) -> None:
    """Note what was found and is no stack, and say it."""
    lines.append(line)
    if not options.quiet:
        complain(line)


@contextmanager
def _watched(options: argparse.Namespace) -> "Iterator[Callable[[EnhanceProgress], None]]":
    """Show the news of a run on a progress bar."""
    with progress_bar(options, "planes") as show:
        yield followed(show)


def followed(show: Callable[..., None]) -> "Callable[[EnhanceProgress], None]":
    """Return what shows the news of a run on a progress bar."""
    return lambda news: show(news.done, news.total, news.phase, news.name)


def _answer(
    options: argparse.Namespace, outcome: "StackOutcome", told: "list[tuple[Location, Sequence[Notice]]] | None" = None
) -> dict[str, Any]:
    """Say what became of a stack, and return that as plain values; where warnings are told at the end, note them."""
    if fault := outcome.error:
        if options.debug:
            raise fault
        known = isinstance(fault, CellxlateError)
        unknown = missing_package(fault) or f"unexpected {type(fault).__name__}: {fault}; run it again with --debug"
        error = said(fault) if known else unknown
        complain(error if known else f"{outcome.path}: {error}")
        return {"input": str(outcome.path), "error": error}
    if outcome.report is None:
        return outcome.forecast.as_dict() if outcome.forecast else {}
    answer, sure = outcome.report.as_dict(), outcome.confidence
    if sure:
        answer["outputs"] |= {"confidence": str(sure)}
    if not options.json:
        lines = enhanced_lines(outcome.report, warned=told is None)
        say(options, {}, lines + (facts([("confidence", str(sure))]) if sure else []))
    if told is not None:
        told.append((outcome.path, outcome.report.notices))
    return answer


def _over_stacks(told: "Sequence[tuple[Location, Sequence[Notice]]]") -> list[str]:
    """Return each warning once, with the stacks that it concerns."""
    from cellxlate.quality.report.notices import over_stacks

    return over_stacks(zip(_names([path for path, _ in told]), (notices for _, notices in told), strict=True))


def _names(paths: Sequence[Location]) -> list[str]:
    """Return what stacks are called in a table, told apart."""
    from cellxlate.quality.report.notices import told_apart

    return told_apart([_short(path) for path in paths], paths)


def _show(options: argparse.Namespace, names: Sequence[str], answer: dict[str, Any]) -> None:
    """Show what became of all stacks: as JSON, or as a table for people."""
    if options.json or options.dry_run:
        say(options, answer, forecast_lines(names, answer.get("stacks", [answer])) if options.dry_run else [])
    elif "stacks" in answer:
        plates = [line for one in answer.get("plates", []) for line in plate_lines(one)]
        warned = facts([("warning", line) for line in answer["warnings"]])
        say(options, {}, batch_lines(names, answer["stacks"]) + warned + plates)
    if "workers" in answer and not options.json:
        say(options, {}, worker_lines(answer["workers"]))


def _finish_plates(batch: "Batch", answers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Let the plates appear, or say why one does not; return where they are."""
    from cellxlate.enhancement.outputs.plates import finished_plates

    plates: list[dict[str, Any]] = []
    failed = {stack.path for stack, answer in zip(batch.stacks, answers, strict=True) if "error" in answer}
    again = {"overwrite": batch.settings.overwrite, "resume": batch.settings.resume}
    for outcome in finished_plates(batch.plates, failed, **again):
        if outcome.error:
            raise outcome.error
        plate, missing = outcome.plate, outcome.failed
        if missing:
            complain(
                f"{plate.source}: {missing} of {len(plate.fields)} fields failed, so no plate appears; give --resume"
            )
            plates.append({"enhanced": None, "attention": None, "reports": None, "warnings": []})
            continue
        attention = str(plate.attention) if plate.keep_attention else None
        plates.append({
            "enhanced": str(plate.enhanced), "attention": attention, "reports": str(plate.reports or "") or None,
            "warnings": plate.warnings(),
        })  # fmt: skip
    return plates


def plate_lines(answer: dict[str, Any]) -> list[str]:
    """Return where a plate is and what it warns of, for people."""
    places = [(name, str(place)) for name, place in answer.items() if place and name != "warnings"]
    return facts([*places, *(("warning", warning) for warning in answer["warnings"])])


def _short(path: Location) -> str:
    """Return what a stack is called in a table: a file by its name, a field with its plate."""
    from cellxlate.stacks.naming import stack_name, zarr_root

    return path.name if zarr_root(path) == path else stack_name(path)


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
    """Return what each worker has done, as a table."""
    rows = [
        [one["worker"], f"{one['bands']:,}", duration(one["busy_s"]), f"{one['megapixel_per_s']:.2f}"]
        for one in workers
    ]
    return ["", *table([["worker", "bands", "busy for", "megapixels a second"], *rows])]


def batch_lines(names: Sequence[str], answers: Sequence[dict[str, Any]]) -> list[str]:
    """Return a table of what became of each stack, how many there were, and which models were chosen for them."""
    rows = [["stack", "changed", "took", "warnings"]]
    for name, answer in zip(names, answers, strict=True):
        if "error" in answer:
            rows.append([name, "failed", "", ""])
        else:
            changed, seconds = answer["changed_fraction"], answer["seconds"]["total"]
            rows.append([name, percent(changed, places=2), duration(seconds), str(len(answer["warnings"]) or "none")])
    failed = [
        ("failed", answer["error"] if name in answer["error"] else f"{name}: {answer['error']}")
        for name, answer in zip(names, answers, strict=True)
        if "error" in answer
    ]
    done = f"{len(answers) - len(failed)} of {count(len(answers), 'stack')} enhanced"
    return ["", *table(rows), *([""] if failed else []), *facts(failed), "", done, *_chosen_lines(answers)]


def _chosen_lines(answers: Sequence[dict[str, Any]]) -> list[str]:
    """Say how often which model was chosen, where one was chosen for each stack."""
    names = Counter(answer["model"]["name"] for answer in answers if answer.get("model", {}).get("considered"))
    if not names:
        return []
    counts = ", ".join(f"{name} for {count}" for name, count in sorted(names.items()))
    advice = "; to compare intensities between them, give one with -m" if len(names) > 1 else ""
    return wrapped(f"the model was chosen for each stack: {counts}{advice}")


def enhanced_lines(report: "RunReport", *, took: bool = True, warned: bool = True) -> list[str]:
    """Return what a run wrote, what it warned of, how long it `took`, and the verdict, for people."""
    answer, adaptation = report.as_dict(), report.adaptation
    told = [(name, str(path)) for name, path in answer["outputs"].items() if path]
    told.append(("proposal" if report.proposal else "model", report.model_words))
    if report.proposal or answer["attention_source"]["kind"] != "network":
        told.append(("gate", source_words(answer["attention_source"])))
    if report.color_words:
        told.append(("colour", report.color_words))
    if (words := context_words(answer["context"])) != NOTHING_BESIDE and not report.proposal:
        told.append(("neighbours", words))
    if answer.get("beside"):
        told.append(("seen beside", beside_words(answer["beside"])))
    if adaptation:
        steps, learned = count(adaptation["steps"], "step"), duration(adaptation["seconds"])
        told.append(("adapted", f"{adaptation['reason']}; {steps} in {learned}"))
    if took and "total" in answer["seconds"]:
        told.append(("took", f"{duration(answer['seconds']['total'])} with {report.engine}"))
    told += [("warning", warning) for warning in report.warnings] if warned else []
    return facts([*told, ("verdict", report.verdict)])
