"""One enhancement from a panel, step by step in a worker thread: no Qt, no layer, nothing of the viewer."""

import threading
import weakref
from collections.abc import Generator
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from cellxlate.enhancement.job import EnhanceProgress, steps_in_memory, steps_to_files, withdraw
from cellxlate.enhancement.outputs import Outputs, name_outputs, require_free
from cellxlate.enhancement.plan import Plan, make_plan
from cellxlate.errors import CellxlateError, OutputError
from cellxlate.model.bundle import load_model
from cellxlate.model.engines import Device, interruptible
from cellxlate.plugin.layers import Appearance, channel_of_plane, in_layer_shape, plane_stack
from cellxlate.quality.report import RunReport
from cellxlate.settings import EnhanceSettings
from cellxlate.stacks.reading import one_line, open_stack
from cellxlate.stacks.stack import PlaneIndex, Stack

Result = TypeVar("Result")


class CancelledError(Exception):
    """The user has asked a run to end."""


class StopRequest:
    """Whether a run is to end; set from the panel, checked by the worker."""

    def __init__(self) -> None:
        self._asked = threading.Event()

    @property
    def asked(self) -> bool:
        """Whether the run is to end."""
        return self._asked.is_set()

    def ask(self) -> None:
        """Ask the run to end."""
        self._asked.set()

    def check(self) -> None:
        """Raise CancelledError if the run is to end."""
        if self.asked:
            raise CancelledError


@dataclass(frozen=True)
class Request:
    """What is to be enhanced, and how.

    Attributes
    ----------
    stack : Stack
        Of the whole layer; its pixels check `stop`.
    appearance : Appearance
        Of the layer, for the results.
    model : str
        Folder or shipped name.
    stop : StopRequest
        Ends the run.
    channels : tuple of int or None
        None takes all.
    settings : EnhanceSettings
        Threshold and intensity.
    device : str
        Where the networks run.
    plane : tuple of int or None
        One plane of the stack, as `visible_plane` gives it; None takes the whole stack. Levels are those of the whole
        stack in both cases, so the plane looks as it will in the whole.
    output : Path or None
        Enhanced file to write; None keeps the result in memory.
    source : Path or None
        File the layer was read from, which must not be replaced.
    overwrite : bool
        Replace files that are there already.
    """

    stack: Stack
    appearance: Appearance
    model: str
    stop: StopRequest
    channels: tuple[int, ...] | None = None
    settings: EnhanceSettings = field(default_factory=EnhanceSettings)
    device: Device = "auto"
    plane: PlaneIndex | None = None
    output: Path | None = None
    source: Path | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a run has made: two arrays of the shape of the layer (or of its plane), and the report."""

    image: Any
    attention: Any
    report: RunReport


@dataclass(frozen=True)
class Refusal:
    """Why a run could not be done, in one line."""

    reason: str


def enhance_steps(request: Request) -> Generator[EnhanceProgress, None, Outcome | Refusal | None]:
    """Enhance what is requested; yields after each band of rows.

    Returns
    -------
    Outcome, Refusal or None
        The result; what was wrong; None where the run was asked to end, which leaves no file.
    """
    try:
        bundle = load_model(request.model)
        with interruptible(bundle, request.stop.check):
            plan = make_plan(
                request.stack, bundle, channels=request.channels, settings=request.settings, engine="auto",
                device=request.device,
            )  # fmt: skip
            if request.plane is not None:
                plan = plan_of_plane(plan, request.plane)
            if request.output is None:
                return (yield from _in_memory(plan, request))
            return (yield from _to_files(plan, request, request.output))
    except CancelledError:
        return None
    except CellxlateError as fault:
        return Refusal(str(fault))
    except MemoryError:
        return Refusal("there is not enough memory for this result; write it to a file instead")
    except RuntimeError as fault:  # of torch; the worker would take it for a result
        return Refusal(f"the networks failed ({one_line(fault)}); try another device")


def plan_of_plane(plan: Plan, plane: PlaneIndex) -> Plan:
    """Narrow a plan to one plane of its stack, with the levels of the whole."""
    axes = plan.stack.axes
    jobs = {0: plan.jobs[channel_of_plane(axes, plane)]} if "C" in axes else plan.jobs
    return replace(plan, stack=plane_stack(plan.stack, plane), jobs=jobs)


def _until_stopped(
    steps: Generator[EnhanceProgress | None, None, Result], stop: StopRequest
) -> Generator[EnhanceProgress, None, Result]:
    """Pass on the news of a run and return what it returns; after each step a stop may end it (CancelledError)."""
    while True:
        try:
            news = next(steps)
        except StopIteration as end:
            result: Result = end.value
            return result
        stop.check()
        if news:
            yield news


def _in_memory(plan: Plan, request: Request) -> Generator[EnhanceProgress, None, Outcome]:
    with closing(steps_in_memory(plan)) as steps:
        made = yield from _until_stopped(steps, request.stop)
    request.stop.check()
    axes = request.appearance.axes
    image, attention = made.image, made.attention
    if request.plane is not None:
        image, attention = in_layer_shape(image, axes), in_layer_shape(attention, axes)
    return Outcome(image, attention, made.report)


def _to_files(plan: Plan, request: Request, output: Path) -> Generator[EnhanceProgress, None, Outcome]:
    outputs = name_outputs(request.source or Path(request.stack.name), is_zarr=False, output=output)
    require_free(outputs, overwrite=request.overwrite, resume=False)
    report: RunReport | None = None
    steps = steps_to_files(plan, outputs, overwrite=request.overwrite)
    try:
        with closing(steps):
            report = yield from _until_stopped(steps, request.stop)
        request.stop.check()
    except (CancelledError, GeneratorExit):
        with suppress(OutputError):
            withdraw(outputs, published=report is not None)
        raise
    return _opened(outputs, report, request)


def _opened(outputs: Outputs, report: RunReport, request: Request) -> Outcome:
    """Open what was written, lazily."""
    image, attention = _lazy(outputs.enhanced), _lazy(outputs.attention)
    if request.plane is not None:
        axes = request.appearance.axes
        image, attention = in_layer_shape(image, axes), in_layer_shape(attention, axes)
    return Outcome(image, attention, report)


def _lazy(path: Path) -> Any:
    """Return the pixels of a file as a dask array that closes the file when nothing refers to it any more."""
    stack = open_stack(path)
    weakref.finalize(stack.pixels, stack.release)
    return stack.to_dask()
