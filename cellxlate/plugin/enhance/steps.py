"""One enhancement from a panel, step by step in a worker thread: no Qt, no layer, nothing of the viewer.

Import it in the worker: it loads torch.
"""

from collections.abc import Generator
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from cellxlate.choice import choose_model
from cellxlate.enhancement.flow import EnhanceProgress, MakeBands, Steps, write_bands
from cellxlate.enhancement.job import THIS_PROCESS, steps_in_memory, steps_to_files
from cellxlate.enhancement.outputs.names import Outputs, name_outputs, require_free, withdraw
from cellxlate.enhancement.plan import Plan, make_plan
from cellxlate.errors import CellxlateError, OutputError
from cellxlate.model.bundle import load_model
from cellxlate.model.cards import AUTO
from cellxlate.model.engines.engine import interruptible
from cellxlate.plugin.beside import place_together
from cellxlate.plugin.enhance.one_plane import made_in_whole, plan_of_plane
from cellxlate.plugin.layers import in_layer_shape
from cellxlate.plugin.lazy import lazy_resolutions
from cellxlate.plugin.requests import CancelledError, EnhanceRequest, Outcome, StopRequest
from cellxlate.quality.report.report import RunReport
from cellxlate.stacks.channel_names import choose_channels
from cellxlate.stacks.luminance import what_is_seen
from cellxlate.stacks.read.open import one_line

Result = TypeVar("Result")


def enhance_steps(request: EnhanceRequest) -> Generator[EnhanceProgress, None, Outcome]:
    """Enhance what is requested; yields after each band of rows.

    Raises
    ------
    CellxlateError, CancelledError
        What was wrong; or the run was asked to end. Neither leaves a file.
    """
    if request.together is not None:
        plane = None if request.plane is None else place_together(request.together, request.plane)
        request = replace(request, stack=request.together, plane=plane, channels=(0,))
    try:
        choice = None
        if request.model == AUTO:
            channels = choose_channels(request.stack, request.channels)
            bundle, choice = choose_model(*what_is_seen(request.stack, channels, request.settings.color))
        else:
            bundle = load_model(request.model)
        with interruptible(bundle, request.stop.check):
            settings = replace(request.settings, context="none") if request.part else request.settings
            plan = make_plan(
                request.stack, bundle, channels=request.channels, settings=settings, engine=request.engine,
                device=request.device, choice=choice, attention_channel=request.attention_channel,
                attention_from=request.attention_from,
            )  # fmt: skip
            make = None
            if request.plane is not None:
                make = None if request.part else made_in_whole(plan, request.plane)
                plan = plan_of_plane(plan, request.plane, request.part)
            if request.output is None:
                return (yield from _in_memory(plan, request, make))
            return (yield from _to_files(plan, request, request.output, make))
    except MemoryError as fault:
        raise CellxlateError("there is not enough memory for this result; write it to a file instead") from fault
    except RuntimeError as fault:  # of torch; the worker would take it for a result
        raise CellxlateError(f"the networks failed ({one_line(fault)}); try another device") from fault


def _until_stopped(
    steps: Generator[EnhanceProgress | None, None, Result], stop: StopRequest
) -> Generator[EnhanceProgress, None, Result]:
    """Pass on the news of a run and return what it returns; after each step a stop may end it (CancelledError)."""
    for news in (run := Steps(steps)):
        stop.check()
        if news:
            yield news
    return run.result


def _in_memory(
    plan: Plan, request: EnhanceRequest, make: MakeBands | None
) -> Generator[EnhanceProgress, None, Outcome]:
    with closing(steps_in_memory(plan, make=make)) as steps:
        made = yield from _until_stopped(steps, request.stop)
    request.stop.check()
    axes = request.appearance.axes
    image, attention = made.image, made.attention
    if request.plane is None and request.together is not None:
        image, attention = (_own_channel(one, request.stack.axes) for one in (image, attention))
    if request.plane is not None:
        image, attention = in_layer_shape(image, axes), in_layer_shape(attention, axes)
    return Outcome(image, attention, made.report)


def _to_files(
    plan: Plan, request: EnhanceRequest, output: Path, make: MakeBands | None
) -> Generator[EnhanceProgress, None, Outcome]:
    outputs = name_outputs(request.source or Path(request.stack.name), is_zarr=False, output=output)
    require_free(outputs, overwrite=request.overwrite, resume=False)
    report: RunReport | None = None
    where = replace(THIS_PROCESS, write_bands=partial(write_bands, make=make))
    steps = steps_to_files(plan, outputs, overwrite=request.overwrite, where=where)
    try:
        with closing(steps):
            report = yield from _until_stopped(steps, request.stop)
        request.stop.check()
    except (CancelledError, GeneratorExit):
        with suppress(OutputError):
            withdraw(outputs, report)
        raise
    return _opened(outputs, report, request)


def _own_channel(pixels: Any, axes: str) -> Any:
    """Return what was made of the layer itself, which is the first channel where others were seen beside it."""
    return pixels[(slice(None),) * axes.index("C") + (0,)]


def _opened(outputs: Outputs, report: RunReport, request: EnhanceRequest) -> Outcome:
    """Open what was written, lazily; a pyramid as the list of its levels."""
    stack, image = lazy_resolutions(outputs.enhanced)
    _, attention = lazy_resolutions(outputs.attention)
    if request.plane is None and request.together is not None:
        image, attention = ([_own_channel(level, stack.axes) for level in levels] for levels in (image, attention))
    if request.plane is not None:
        axes = request.appearance.axes
        image, attention = ([in_layer_shape(level, axes) for level in levels] for levels in (image, attention))
    return Outcome(image if len(image) > 1 else image[0], attention if len(attention) > 1 else attention[0], report)
