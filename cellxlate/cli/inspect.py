"""`sample`, `info`, `models`, `report`, `describe`: stacks to play with, and what a stack, a model, a result is."""

import argparse
import time
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellxlate.cli.check import run_check
from cellxlate.cli.lines.info import filters_lines, folder_lines, model_lines, models_lines, noise_table, stack_facts
from cellxlate.cli.lines.output import progress_bar, say
from cellxlate.cli.lines.table import count, facts, percent
from cellxlate.errors import CellxlateError, InputError, OptionError, said
from cellxlate.locations import Location, located
from cellxlate.options import ATTENTION, HAZE, LAYOUT, MASK, NOISE, OUTPUT, SCALE, SOURCE, STRUCTURE, TRUTH

if TYPE_CHECKING:
    from cellxlate.choice import Suitability
    from cellxlate.stacks.samples.nuclei import SimulatedStack
    from cellxlate.stacks.stack import Stack

MOST_LOOKED_AT_PX = 16_777_216
"""Of a plane: of larger ones `info` does not look at pixels to say which model fits."""
MOST_COUNTED_FILES = 100_000
"""Of a Zarr folder, to say how large it is."""


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
    written = [(name, str(path)) for name, path in outputs.items() if path]
    say(options, answer, facts([*written, ("holds", _sample_words(answer))]))
    return 0


def _sample_words(answer: dict[str, Any]) -> str:
    """Return what a sample shows, and what repeats it."""
    what = answer.get("structure") or f"{answer['layout']} nuclei"
    share = "" if answer["cell_fraction"] is None else f" on {percent(answer['cell_fraction'], places=0)} of the plane"
    shape = " x ".join(map(str, answer["shape"]))
    return f"{what}{share}, {answer['axes']} {shape}, {answer['dtype']}, seed {answer['seed']}"


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
    """Describe a stack, a plate, a folder of stacks or a model; 1 where a stack of a folder cannot be read."""
    from cellxlate.model.cards import is_filter, is_model
    from cellxlate.model.foreign.given import is_foreign
    from cellxlate.stacks.read.open import is_zarr

    location = located(options.path)
    is_card = isinstance(location, Path) and is_model(options.path)
    is_others = not is_card and isinstance(location, Path) and is_foreign(location)
    is_folder = (
        not (is_card or is_others) and isinstance(location, Path) and location.is_dir() and not is_zarr(location)
    )
    if options.noise and (is_card or is_others or is_folder):
        what = "a folder of stacks" if is_folder else "a model"
        raise OptionError(
            f"{options.path} is {what}", remedy=(NOISE, " measures a stack: leave it out, or give a stack")
        )
    if is_card:
        return _model_info(options)
    if is_others:
        return run_check(argparse.Namespace(**{**vars(options), "check": options.path, "run_torchscript": False}))
    if isinstance(location, Path) and is_filter(options.path) and not location.exists():
        raise InputError(
            f"{options.path} is a filter, neither a stack nor a model; enhance and evaluate take filters, cellxlate "
            "models lists them"
        )
    return _folder_info(options, Path(options.path)) if is_folder else _stack_info(options, location)


def _model_info(options: argparse.Namespace) -> int:
    """Describe a model by its card."""
    from cellxlate.model.cards import SHIPPED, describe_model

    answer = describe_model(options.path)
    path = Path(answer["path"])
    say(options, answer, model_lines(answer, shipped=path.parent == SHIPPED, size_bytes=bytes_of([path])))
    return 0


def _stack_info(options: argparse.Namespace, location: Location) -> int:
    """Describe a stack, or a plate and its first field, and which model would be taken for it."""
    from cellxlate.stacks.read.open import open_stack

    with open_stack(location, options.axes, image=options.image, incomplete=options.incomplete) as stack:
        answer = _stack_answer(stack)
        plate = _plate_answer(location)
        if plate:
            answer["plate"] = plate
        fit = _suitability(stack)
        if fit:
            answer["model"] = {
                "name": fit.model, "distance": fit.distance, "differences": list(fit.differences),
            }  # fmt: skip
        lines = facts(stack_facts(str(options.path), answer, fit))
        if options.noise:
            from cellxlate.stacks.channel_names import shown_names
            from cellxlate.stacks.intensity.stack_noise import stack_noise

            noises = [stack_noise(stack, channel) for channel in range(stack.channel_count)]
            names = list(shown_names(stack)) or [str(channel) for channel in range(stack.channel_count)]
            lines += ["", *noise_table(names, noises)]
            answer["noise"] = [{"channel": name, **noise.as_dict()} for name, noise in zip(names, noises, strict=True)]
    say(options, answer, lines)
    return 0


def _stack_answer(stack: "Stack") -> dict[str, Any]:
    """Return what `info --json` says of a stack."""
    from cellxlate.stacks.channel_names import shown_names
    from cellxlate.stacks.luminance import is_color

    path = stack.path
    files = stack.files or ((path,) if isinstance(path, Path) else ())
    return {
        "axes": stack.axes, "shape": list(stack.shape), "dtype": str(stack.dtype),
        "pixel_size_um": dict(stack.pixel_size_um), "channels": list(shown_names(stack)),
        "rgb": is_color(stack), "levels": stack.resolutions, "time_step_s": stack.time_step_s, "kind": stack.kind,
        "colours": list(stack.metadata.colours), "warnings": list(stack.warnings), "size_bytes": bytes_of(files),
    }  # fmt: skip


def _plate_answer(location: Location) -> dict[str, Any] | None:
    """Return the wells of a plate and how many fields it has; None where it is none."""
    from cellxlate.stacks.read.open import is_zarr
    from cellxlate.stacks.write.plates import plate_fields

    fields = plate_fields(location) if isinstance(location, Path) and is_zarr(location) else []
    if not fields:
        return None
    wells = dict.fromkeys(field.rpartition("/")[0].replace("/", "") for field in fields)
    return {"wells": list(wells), "fields": len(fields)}


def _suitability(stack: "Stack") -> "Suitability | None":
    """Return how near a stack is to the shipped model that would be taken; None where looking would take long."""
    from cellxlate.choice import suitability
    from cellxlate.settings import AUTO
    from cellxlate.stacks.luminance import what_is_seen

    if not isinstance(stack.path, Path) or prod(stack.plane_shape) > MOST_LOOKED_AT_PX:
        return None
    try:
        return suitability(*what_is_seen(stack, stack.light_channels), AUTO)
    except CellxlateError:  # pixels that cannot be read are no matter of what the file says of itself
        return None


def _folder_info(options: argparse.Namespace, folder: Path) -> int:
    """Describe the stacks of a folder; 1 where one cannot be read."""
    from cellxlate.stacks.read.open import find_images, open_stack

    paths, left_out = find_images([folder], "stack")
    stacks: list[dict[str, Any]] = []
    with progress_bar(options, "stacks") as show:
        for number, path in enumerate(paths):
            try:
                with open_stack(path, options.axes, image=options.image, incomplete=options.incomplete) as stack:
                    stacks.append({"name": path.name, **_stack_answer(stack)})
            except CellxlateError as fault:
                stacks.append({"name": path.name, "error": said(fault)})
            show(number + 1, len(paths))
    answer = {"folder": str(folder), "stacks": stacks, "left_out": left_out}
    say(options, answer, folder_lines(str(folder), stacks, left_out))
    return int(any("error" in one for one in stacks))


def bytes_of(paths: Sequence[Path]) -> int | None:
    """Return the bytes of files and folders; None where they cannot be counted, or a folder holds too many files."""
    total = number = 0
    try:
        for path in paths:
            for item in path.rglob("*") if path.is_dir() else (path,):
                total += item.stat().st_size if item.is_file() else 0
                number += 1
                if number > MOST_COUNTED_FILES:
                    return None
    except OSError:
        return None
    return total if paths else None


def run_models(options: argparse.Namespace) -> int:
    """List models and filters, or check one that others made."""
    if options.check is not None:
        return run_check(options)
    from cellxlate.enhancement.proposals.filters import FILTERS
    from cellxlate.model.cards import list_models

    models, filters = list_models(Path.cwd()), [one.as_dict() for one in FILTERS.values()]
    say(options, {"models": models, "filters": filters}, [*models_lines(models), "", *filters_lines(filters)])
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
    lines = [line for report in reports for line in enhanced_lines(report, took=False)]
    say(options, {"stacks": answers} if several else answers[0], lines)
    return 1 if any(report.kept_violations for report in reports) else 0


def run_describe(options: argparse.Namespace) -> int:
    """Put what training images look like into the card of a model."""
    from cellxlate.training.describe import describe_domain

    domain = describe_domain(options.model, options.source, channel=options.channel)
    described = f"{count(domain['windows'], 'window')} of {domain['window_px']} px, described in the card"
    say(options, domain, facts([("model", str(options.model)), ("images", described)]))
    return 0
