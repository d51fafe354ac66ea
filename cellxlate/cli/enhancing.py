"""`enhance` and `demo`: from names on the command line to enhanced files."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellxlate.cli.showing import complain, progress_bar, say
from cellxlate.errors import CellxlateError, OptionError
from cellxlate.settings import EnhanceSettings

if TYPE_CHECKING:
    from cellxlate.enhancement.outputs import Outputs
    from cellxlate.model.bundle import Bundle
    from cellxlate.quality.report import RunReport


def run_demo(options: argparse.Namespace) -> int:
    """Simulate, enhance, report."""
    from cellxlate.enhancement.job import enhance_file
    from cellxlate.stacks.copying import write_stacks
    from cellxlate.stacks.synthetic import SampleSettings, simulate

    folder: Path = options.output
    folder.mkdir(parents=True, exist_ok=True)
    sample = simulate(SampleSettings(shape=(1, 1, 1, 1024, 1024), cell_fraction=0.15, seed=1))
    faint, truth = folder / "demo.ome.tif", folder / "demo_truth.ome.tif"
    with progress_bar(options, "planes") as show:
        write_stacks([(sample.stack, faint), (sample.truth, truth)], overwrite=options.overwrite, progress=show)
        report = enhance_file(faint, overwrite=options.overwrite, progress=lambda news: show(news.done, news.total))
    say(options, report.as_dict(), [f"input      {faint}", *enhanced_lines(report)])
    return 0


def run_enhance(options: argparse.Namespace) -> int:
    """Enhance one stack, or several of which one failure does not stop the rest."""
    from cellxlate.enhancement.job import enhance_file
    from cellxlate.enhancement.outputs import find_inputs, name_outputs, require_distinct
    from cellxlate.model.bundle import load_model
    from cellxlate.stacks.reading import is_zarr

    paths = find_inputs(options.stacks)
    if options.output is not None and len(paths) > 1:
        raise OptionError(f"-o names one output, but there are {len(paths)} stacks; give --output-dir")
    settings = EnhanceSettings(options.threshold, options.intensity, options.tile, options.dense)
    naming: dict[str, Any] = {
        "output": options.output, "output_dir": options.output_dir, "format": options.format,
        "attention": not options.no_attention, "report": not options.no_report,
    }  # fmt: skip
    named = [(path, name_outputs(path, is_zarr=is_zarr(path), **naming)) for path in paths]
    require_distinct(named)
    bundle = load_model(options.model)
    running: dict[str, Any] = {"axes": options.axes, "channels": options.channel, "settings": settings,
                               "engine": options.engine, "device": options.device}  # fmt: skip
    answers: list[dict[str, Any]] = []
    failed: list[CellxlateError] = []
    for path, outputs in named:
        try:
            if options.dry_run:
                answers.append(_dry_run(path, outputs, bundle, running))
                continue
            with progress_bar(options, "planes") as show:
                report = enhance_file(
                    path, bundle, **naming, **running, overwrite=options.overwrite, resume=options.resume,
                    progress=lambda news: show(news.done, news.total),
                )  # fmt: skip
            answers.append(report.as_dict())
            if not options.json:
                say(options, {}, enhanced_lines(report))
        except CellxlateError as fault:
            if len(paths) == 1 or options.debug:
                raise
            complain(str(fault))
            failed.append(fault)
            answers.append({"input": str(path), "error": str(fault)})
    if options.json or options.dry_run:
        lines = [f"{key}: {value}" for answer in answers for key, value in answer.items()]
        say(options, answers[0] if len(paths) == 1 else {"stacks": answers}, lines)
    elif len(paths) > 1:
        say(options, {}, [f"{len(paths) - len(failed)} of {len(paths)} stacks enhanced"])
    return 1 if failed else 0


def _dry_run(path: Path, outputs: "Outputs", bundle: "Bundle", running: dict[str, Any]) -> dict[str, Any]:
    """Return what would be done with a stack."""
    from cellxlate.enhancement.plan import make_plan
    from cellxlate.stacks.reading import open_stack

    with open_stack(path, running["axes"]) as stack:
        plan = make_plan(stack, bundle, **{name: value for name, value in running.items() if name != "axes"})
        return {
            "input": str(path), "axes": stack.axes, "shape": list(stack.shape), "dtype": str(stack.dtype),
            "planes": stack.plane_count, "channels": sorted(plan.jobs), "tile_px": plan.tile_px, "engine": plan.engine,
            "model": bundle.name, "outputs": [str(written) for written in outputs.wanted],
        }  # fmt: skip


def enhanced_lines(report: "RunReport") -> list[str]:
    """Return what a run wrote, changed and warned of, for people."""
    answer = report.as_dict()
    lines = [f"{name:10} {path}" for name, path in answer["outputs"].items() if path]
    lines.append(
        f"changed    {100 * report.changed_fraction:.2f} % of the pixels; of the others, "
        f"{report.kept_violations} differ from the input"
    )
    lines.append(f"took       {answer['seconds']['total']:.1f} s with {report.engine}")
    return lines + [f"warning    {warning}" for warning in report.warnings]
