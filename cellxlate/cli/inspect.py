"""`sample`, `info`, `models`, `report`, `describe`: stacks to play with, and what a stack, a model, a result is."""

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellxlate.cli.output import noise_answer, noise_table, progress_bar, say
from cellxlate.errors import CellxlateError, InputError, OptionError
from cellxlate.locations import located
from cellxlate.options import ATTENTION, HAZE, LAYOUT, MASK, NOISE, OUTPUT, SCALE, SOURCE, STRUCTURE, TRUTH

if TYPE_CHECKING:
    from cellxlate.stacks.samples.nuclei import SimulatedStack


def run_sample(options: argparse.Namespace) -> int:
    """Write a simulated stack, and its truth and mask where asked."""
    from cellxlate.stacks.write.copy import write_stacks

    started = time.perf_counter()
    sample, chosen = _simulated(options)
    outputs: dict[str, Path | None] = {"stack": options.output, "truth": options.truth, "mask": options.mask}
    wanted = [(getattr(sample, name), path) for name, path in outputs.items() if path]
    if len({path.absolute() for _, path in wanted}) < len(wanted):
        raise OptionError("OUT, ", TRUTH, " and ", MASK, " name the same file", remedy="give each its own")
    with progress_bar(options, "planes") as show:
        write_stacks(wanted, overwrite=options.overwrite, progress=show)
    answer = {
        "outputs": {name: str(path) if path else None for name, path in outputs.items()},
        "axes": sample.stack.axes, "shape": list(sample.stack.shape), "dtype": str(sample.stack.dtype),
        **chosen, "seed": options.seed,
        "seconds": round(time.perf_counter() - started, 2),
    }  # fmt: skip
    say(options, answer, [f"{name:6} {path}" for name, path in outputs.items() if path])
    return 0


def _simulated(options: argparse.Namespace) -> tuple["SimulatedStack", dict[str, Any]]:
    """Return the sample that is asked for, and what was chosen."""
    if options.structure is None:
        from cellxlate.stacks.samples.nuclei import SampleSettings, simulate

        for option, given in ((SCALE, options.scale), (HAZE, options.haze)):
            if given is not None:
                raise OptionError(
                    option, " is for drawn structures", remedy=("add ", STRUCTURE.of("KIND"), ", or leave it out")
                )
        fraction = 0.15 if options.cell_fraction is None else options.cell_fraction
        plain = SampleSettings(options.shape, fraction, options.layout or "scattered", options.seed)
        return simulate(plain), {"cell_fraction": plain.cell_fraction, "layout": plain.layout}
    if options.layout is not None:
        raise OptionError(LAYOUT, " is for simulated nuclei", remedy=("leave it out, or leave out ", STRUCTURE))
    from cellxlate.stacks.samples.drawn import StructureSettings, simulate_structures

    settings = StructureSettings(
        options.structure,
        options.shape,
        options.cell_fraction,
        options.seed,
        1.0 if options.scale is None else options.scale,
        0.0 if options.haze is None else options.haze,
    )
    chosen = {
        "structure": settings.kind, "cell_fraction": settings.cell_fraction, "scale": settings.scale,
        "haze": settings.haze,
    }  # fmt: skip
    return simulate_structures(settings), chosen


def run_info(options: argparse.Namespace) -> int:
    """Describe a stack or a model."""
    from cellxlate.model.cards import describe_model, is_model
    from cellxlate.stacks.read.open import open_stack

    location = located(options.path)
    lines: list[str] = []
    if isinstance(location, Path) and is_model(options.path):
        if options.noise:
            raise OptionError(
                f"{options.path} is a model", remedy=(NOISE, " measures a stack: leave it out, or give a stack")
            )
        answer = describe_model(options.path)
    else:
        with open_stack(location, options.axes, image=options.image, incomplete=options.incomplete) as stack:
            answer = {
                "axes": stack.axes, "shape": list(stack.shape), "dtype": str(stack.dtype),
                "pixel_size_um": dict(stack.pixel_size_um), "channels": list(stack.channel_names),
                "levels": stack.resolutions, "time_step_s": stack.time_step_s, "kind": stack.kind,
                "colours": list(stack.metadata.colours), "warnings": list(stack.warnings),
            }  # fmt: skip
            if options.noise:
                from cellxlate.stacks.intensity.stack_noise import stack_noise

                noises = [stack_noise(stack, channel) for channel in range(stack.channel_count)]
                names = list(stack.channel_names) or [str(channel) for channel in range(stack.channel_count)]
                lines = noise_table(names, noises)
    lines = [f"{name}: {value}" for name, value in answer.items()] + lines
    if options.noise:
        answer["noise"] = [noise_answer(name, noise) for name, noise in zip(names, noises, strict=True)]
    say(options, answer, lines)
    return 0


def run_models(options: argparse.Namespace) -> int:
    """List models."""
    from cellxlate.model.cards import list_models

    models = list_models(Path.cwd())
    lines = [f"{model['name']:24} {'shipped' if model['shipped'] else model['path']}  {model['description']}"
             for model in models]  # fmt: skip
    say(options, {"models": models}, lines or ["no model here; train one with cellxlate train"])
    return 0


def run_report(options: argparse.Namespace) -> int:
    """Write the reports of results anew from their files; 1 where a kept pixel differs."""
    from cellxlate.cli.enhance import enhanced_lines
    from cellxlate.enhancement.outputs.rebuild import rebuild_report

    several = len(options.results) > 1
    if several and (options.output or options.source or options.attention):
        raise OptionError(
            OUTPUT, ", ", SOURCE, " and ", ATTENTION, " belong to one result", remedy="give one, or leave them out"
        )
    reports = []
    for path in options.results:
        try:
            reports.append(
                rebuild_report(path, source=options.source, attention=options.attention, model=options.model,
                               output=options.output)
            )  # fmt: skip
        except (CellxlateError, OSError, MemoryError):
            raise
        except Exception as fault:  # 1 would say that the promise is broken
            raise InputError(f"{path}: no report can be made of it ({type(fault).__name__}: {fault})") from fault
    answers = [report.as_dict() for report in reports]
    lines = [line for report in reports for line in enhanced_lines(report) if not line.startswith("took")]
    say(options, {"stacks": answers} if several else answers[0], lines)
    return 1 if any(report.kept_violations for report in reports) else 0


def run_describe(options: argparse.Namespace) -> int:
    """Put what training images look like into the card of a model."""
    from cellxlate.training.describe import describe_domain

    domain = describe_domain(options.model, options.source, channel=options.channel)
    say(options, domain, [f"{domain['windows']} windows of {domain['window_px']} px described in the card"])
    return 0
