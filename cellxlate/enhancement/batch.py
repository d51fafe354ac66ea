"""Many stacks in one go: found and named before any is written, then enhanced one by one. Read `enhance_files`.

One that fails does not stop the others. The command line goes the same way, and says what comes of each.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from traceback import clear_frames
from typing import TYPE_CHECKING, cast

from cellxlate.enhancement.confidence.file import confidence_path, write_confidence
from cellxlate.enhancement.confidence.views import VIEWS
from cellxlate.enhancement.estimate import Forecast, free_bytes, obstacle_of, predict
from cellxlate.enhancement.flow import EnhanceProgress, Progress
from cellxlate.enhancement.gates.source import require_one
from cellxlate.enhancement.job import THIS_PROCESS, Executor, enhance_file
from cellxlate.enhancement.neighbours.channels import Channels
from cellxlate.enhancement.neighbours.context import require_trained
from cellxlate.enhancement.outputs.names import (
    Outputs,
    find_inputs,
    make_folder,
    name_outputs,
    require_distinct,
    require_free,
)
from cellxlate.enhancement.outputs.plates import Plate, PlateOutcome, finished_plates, plates_of
from cellxlate.enhancement.plan import Plan, make_plan
from cellxlate.enhancement.proposals.source import Asked, Halo, Proposal, loaded_model, require_possible
from cellxlate.errors import OptionError
from cellxlate.locations import Location, located
from cellxlate.model.bundle import Bundle
from cellxlate.model.cards import AUTO
from cellxlate.model.engines.engine import Device, Engine, Precision, require_known
from cellxlate.model.engines.threads import use_threads
from cellxlate.option_values import require_callables, require_flags
from cellxlate.options import ADAPT, CONFIDENCE, MODEL, OUTPUT, OUTPUT_DIR
from cellxlate.quality.report.notices import over_stacks, told_apart
from cellxlate.quality.report.report import RunReport
from cellxlate.settings import Along, Color, EnhanceSettings, Intensity
from cellxlate.settings_file import enhance_settings
from cellxlate.stacks.read.open import is_zarr, open_stack, without_results
from cellxlate.stacks.stack import Stack
from cellxlate.stacks.write.writer import Format

if TYPE_CHECKING:
    from cellxlate.enhancement.adaptation.record import Adaptation

Watch = Callable[[], AbstractContextManager[Progress]]
"""Gives, for one stack, what is called with the news of its run."""


@dataclass(frozen=True)
class BatchSettings:
    """How each stack of a batch is enhanced: what `enhance_file` and `enhance_files` take under these names."""

    output: Location | None = None
    output_dir: Location | None = None
    format: Format | None = None
    axes: str | None = None
    image: int | None = None
    incomplete: bool = False
    channels: Channels = None
    beside: Channels = None
    attention_channel: str | int | None = None
    attention_from: str | Path | None = None
    levels_from: str | Path | None = None
    settings: EnhanceSettings = field(default_factory=EnhanceSettings)
    engine: Engine = "auto"
    device: Device = "auto"
    precision: Precision = "float32"
    attention: bool = True
    report: bool = True
    overwrite: bool = False
    resume: bool = False
    adapt_s: float | None = None
    confidence: bool = False

    def open(self, path: Location) -> Stack:
        """Open a stack."""
        return open_stack(path, self.axes, image=self.image, incomplete=self.incomplete)

    def plan(self, stack: Stack, model: Asked) -> Plan:
        """Plan how it is enhanced."""
        return make_plan(
            stack, model, channels=self.channels, settings=self.settings, engine=self.engine, device=self.device,
            precision=self.precision, levels_from=self.levels_from, attention_channel=self.attention_channel,
            attention_from=self.attention_from, beside=self.beside,
        )  # fmt: skip

    def outputs(self, path: Location, stack: Stack | None = None) -> Outputs:
        """Name the results of a stack, exactly where it is open: the format depends on what it holds."""
        return name_outputs(
            path, is_zarr=is_zarr(path), output=self.output, output_dir=self.output_dir, format=self.format,
            attention=self.attention, report=self.report, like=stack,
        )  # fmt: skip


@dataclass(frozen=True)
class BatchStack:
    """A stack, where its results go as far as that is known before it is open, and the plate that it is a field of."""

    path: Location
    outputs: Outputs
    plate: Plate | None = None


@dataclass(frozen=True)
class Batch:
    """Stacks, of which no two write to one place; plates that are given whole, whose fields are among the stacks.

    The model enhances all, or is "auto", the wish to choose one for each.
    """

    stacks: tuple[BatchStack, ...]
    plates: tuple[Plate, ...]
    model: Bundle | Proposal | str
    settings: BatchSettings


@dataclass(frozen=True)
class StackOutcome:
    """What became of a stack: a report, and where its confidence is; or a forecast of them; or what went wrong."""

    path: Location
    report: RunReport | None = None
    confidence: Location | None = None
    forecast: Forecast | None = None
    error: Exception | None = None


@dataclass(frozen=True)
class BatchOutcome:
    """What became of each stack, and of each plate that was given whole; a line for each kind of what is no stack."""

    stacks: tuple[StackOutcome, ...]
    plates: tuple[PlateOutcome, ...]
    left_out: tuple[str, ...]

    @property
    def failed(self) -> list[StackOutcome]:
        """The stacks that were not enhanced, with what went wrong (`error`)."""
        return [outcome for outcome in self.stacks if outcome.error]

    @property
    def warnings(self) -> list[str]:
        """What the reports of the stacks warn of: each kind once, with the stacks that it concerns."""
        names = told_apart([one.path.name for one in self.stacks], [one.path for one in self.stacks])
        reported = zip(names, (one.report for one in self.stacks), strict=True)
        return over_stacks((name, report.notices) for name, report in reported if report)


def enhance_files(
    paths: str | Location | Sequence[str | Location], model: Asked = AUTO, *,
    output_dir: str | Location | None = None, format: Format | None = None, axes: str | None = None,
    image: int | None = None, incomplete: bool = False, channels: Channels = None, beside: Channels = None,
    attention_channel: str | int | None = None, attention_from: str | Path | None = None,
    levels_from: str | Path | None = None, threshold: float | None = None, intensity: Intensity | None = None,
    tile_px: int | None = None, dense: bool | None = None, context: Along | None = None, color: Color | None = None,
    settings: EnhanceSettings | None = None, halo_px: Halo | None = None, engine: Engine = "auto",
    device: Device = "auto", precision: Precision = "float32", attention: bool = True,
    report: bool = True, overwrite: bool = False, resume: bool = False, adapt_s: float | None = None,
    confidence: bool = False, where: Executor = THIS_PROCESS, progress: Progress | None = None,
) -> BatchOutcome:  # fmt: skip
    """Enhance many stacks as `cellxlate enhance` does: what fails does not stop the others, and is returned.

    Parameters
    ----------
    paths : path, or sequence of paths
        Files, Zarr folders, plates, folders and patterns of them. A plate that is given whole becomes a plate, which
        appears when all its fields are enhanced.
    model, halo_px : str, Path, Bundle or callable; int or "plane"
        As in `enhance_file`, for all stacks; "auto" takes for each the shipped model that suits it.
    output_dir : path, optional
        Folder for the outputs of all; made if it is not there. Beside each input by default.
    format, axes, image, incomplete, channels, beside, attention_channel, levels_from, threshold, intensity, tile_px
        As in `enhance_file`, for every stack; `dense`, `context`, `color` and `settings` too.
    attention_from : path or "saliency", optional
        As there; a folder of masks gives each stack the one of its name.
    engine, device, precision, attention, report, overwrite, resume, where
        As there, too.
    adapt_s : float, optional
        Let the model learn from each stack before, so many seconds (`adapt`); not for plates.
    confidence : bool
        Write how sure the networks are of each pixel too, beside attention; not for plates.
    progress : callable, optional
        Called with an EnhanceProgress, which names its stack, through all phases of each.

    Returns
    -------
    BatchOutcome
        What became of each stack and each plate; `failed` lists the stacks that were not enhanced.

    Raises
    ------
    InputError, OptionError, OutputError, ModelError
        Before any stack is enhanced: one cannot be found, two would be written to one place, a plate or its name is
        taken, the model cannot be loaded.

    Examples
    --------
    >>> outcome = cellxlate.enhance_files("screen/*.tif", output_dir="results")  # doctest: +SKIP
    >>> [(stack.path.name, str(stack.error)) for stack in outcome.failed]  # doctest: +SKIP
    [('well7.tif', 'screen/well7.tif is damaged: ...')]
    """
    asked = enhance_settings(settings, threshold=threshold, intensity=intensity, tile_px=tile_px, dense=dense,
                             context=context, color=color)  # fmt: skip
    require_callables(progress=progress)
    left_out: list[str] = []
    batch = plan_batch(
        [located(path) for path in ([paths] if isinstance(paths, str | Location) else paths)],
        loaded_model(model, halo_px),
        BatchSettings(
            output_dir=None if output_dir is None else located(output_dir), format=format, axes=axes, image=image,
            incomplete=incomplete, channels=channels, beside=beside, attention_channel=attention_channel,
            attention_from=attention_from, levels_from=levels_from, settings=asked, engine=engine, device=device,
            precision=precision, attention=attention, report=report, overwrite=overwrite, resume=resume,
            adapt_s=adapt_s, confidence=confidence,
        ),
        left_out=left_out.append)  # fmt: skip
    start_plates(batch)
    watch: Watch = lambda: nullcontext(progress or (lambda _news: None))  # noqa: E731
    stacks = tuple(attempts(batch, partial(enhance_stack, batch, where=where, watch=watch)))
    failed = {outcome.path for outcome in stacks if outcome.error}
    plates = finished_plates(batch.plates, failed, overwrite=overwrite, resume=resume)
    return BatchOutcome(stacks, tuple(plates), tuple(left_out))


def plan_batch(
    paths: Sequence[Location],
    model: Asked,
    settings: BatchSettings,
    *,
    left_out: Callable[[str], object] = lambda _line: None,
) -> Batch:
    """Find the stacks and plates that are meant, name what becomes of them, and load the model; nothing is written.

    `left_out` is called with a line for each kind of what is found and is no stack.
    """
    _check(settings)
    given, said = without_results(paths)
    plates = [] if settings.image is not None else plates_of(
        given, output=settings.output, output_dir=settings.output_dir, format=settings.format,
        attention=settings.attention, report=settings.report,
    )  # fmt: skip
    fields = {
        plate.source / name: BatchStack(plate.source / name, plate.outputs(name, resume=settings.resume), plate)
        for plate in plates
        for name in plate.fields
    }
    others = [path for path in given if all(path != plate.source for plate in plates)]
    images, further = find_inputs(others, each_image=settings.image is None) if others else ([], [])
    for line in (*said, *further):
        left_out(line)
    single = [path for path in dict.fromkeys(images) if path not in fields]
    if settings.output is not None and len(plates) + len(single) > 1:
        raise OptionError(
            OUTPUT, f" names one output, but there are {len(fields) + len(single)} stacks", remedy=("give ", OUTPUT_DIR)
        )
    loaded = loaded_model(model)
    networks = (settings.adapt_s is not None, ADAPT), (settings.confidence, CONFIDENCE)
    require_possible(loaded, settings.settings, [option for asked, option in networks if asked])
    if plates and settings.adapt_s is not None:
        remedy = ("adapt to one field of the plate, then give its model with ", MODEL, " for all")
        raise OptionError(ADAPT, " learns from single stacks", remedy=remedy)
    if plates and settings.confidence:
        raise OptionError(CONFIDENCE, " is written for single stacks", remedy="give the fields of the plate one by one")
    stacks = *fields.values(), *(BatchStack(path, settings.outputs(path)) for path in single)
    require_distinct([(stack.path, stack.outputs) for stack in stacks])
    if isinstance(loaded, Bundle):
        require_trained(settings.settings.context, loaded)
    return Batch(stacks, tuple(plates), loaded, settings)


def _check(settings: BatchSettings) -> None:
    """Raise OptionError for what would fail for every stack, before anything is read."""
    enhance_settings(settings.settings)
    require_one(settings.attention_channel, settings.attention_from)
    require_known(settings.engine, settings.device, settings.precision)
    require_flags(
        incomplete=settings.incomplete, attention=settings.attention, report=settings.report,
        overwrite=settings.overwrite, resume=settings.resume, confidence=settings.confidence,
    )  # fmt: skip
    if settings.adapt_s is not None:
        from cellxlate.enhancement.adaptation.clock import require_seconds

        require_seconds(ADAPT, settings.adapt_s)


def attempts(batch: Batch, attempt: Callable[[BatchStack], StackOutcome]) -> Iterator[StackOutcome]:
    """Attempt something with all stacks, and yield what became of each, an error too."""
    for stack in batch.stacks:
        try:
            outcome = attempt(stack)
        except Exception as fault:  # noqa: BLE001 whatever it is, the other stacks have no part in it
            clear_frames(fault.__traceback__)  # the planes that they hold would stay as long as the outcome
            outcome = StackOutcome(stack.path, error=fault)
        yield outcome


def start_plates(batch: Batch) -> None:
    """Make the unfinished plates, in a folder for the outputs that is made too."""
    settings = batch.settings
    for plate in batch.plates:
        make_folder(settings.output_dir)
        plate.start(overwrite=settings.overwrite, resume=settings.resume)


def enhance_stack(batch: Batch, stack: BatchStack, *, where: Executor, watch: Watch) -> StackOutcome:
    """Enhance one stack of a batch: let the model learn from it, enhance it, write how sure it is, as that is asked."""
    settings = batch.settings
    with settings.open(stack.path) as opened, watch() as progress:
        outputs = stack.outputs if stack.plate else settings.outputs(stack.path, opened)
        is_free = settings.overwrite or settings.resume
        sure = confidence_path(outputs, is_free=is_free) if settings.confidence else None
        adaptation = None
        if settings.adapt_s is not None:
            adaptation = _adapted(batch, opened, outputs, settings.adapt_s, progress)
        model = adaptation.model if adaptation else batch.model
        report = enhance_file(
            opened, model, output_dir=settings.output_dir, outputs=outputs, channels=settings.channels,
            beside=settings.beside, attention_channel=settings.attention_channel, levels_from=settings.levels_from,
            attention_from=settings.attention_from, settings=settings.settings, engine=settings.engine,
            device=settings.device, precision=settings.precision, overwrite=settings.overwrite,
            resume=settings.resume, adaptation=adaptation, where=where, progress=progress, phases=progress,
        )  # fmt: skip
        if adaptation:
            adaptation.forget()
        if sure:
            stated = report.provenance["context"]["axis"]
            same = replace(settings, settings=replace(settings.settings, context=stated or "none"))
            _write_confidence(batch, same.plan(opened, model), outputs, sure, progress)
    return StackOutcome(stack.path, report, sure)


def predict_stack(
    batch: Batch, stack: BatchStack, *, workers: int | None = None, scheduler: str | None = None
) -> StackOutcome:
    """Say what would be done with a stack, and run a sample of it to say how long, by so many workers, or a cluster."""
    settings, processes, started, adapting = batch.settings, _processes(workers, scheduler), time.perf_counter(), {}
    with settings.open(stack.path) as opened:
        outputs = stack.outputs if stack.plate else settings.outputs(stack.path, opened)
        plan = settings.plan(opened, batch.model)
        prediction = predict(plan, outputs, plan_s=time.perf_counter() - started, processes=processes)
    if settings.adapt_s is not None:
        from cellxlate.enhancement.adaptation.record import model_folder  # of a run that learns alone

        adapting = {"seconds": settings.adapt_s, "model": str(model_folder(outputs))}
    confidence_s = VIEWS * prediction.seconds["bands"] if settings.confidence else 0.0
    obstacle = "" if stack.plate else obstacle_of(
        outputs, made=settings.output_dir, overwrite=settings.overwrite, resume=settings.resume
    )  # fmt: skip
    room = free_bytes(outputs.enhanced.parent)
    forecast = Forecast(stack.path, plan, outputs, prediction, adapting, confidence_s, obstacle, room)
    return StackOutcome(stack.path, forecast=forecast)


def _processes(workers: int | None, scheduler: str | None) -> int:
    """Return how many processes would share the work at once, and let networks run here as they would in each."""
    if scheduler is not None:
        from cellxlate.enhancement.cluster.cluster import open_cluster  # needs a package that not everybody has

        with open_cluster(scheduler=scheduler) as cluster:
            threads: list[int] = list(cluster.client.nthreads().values())
        use_threads(max(threads, default=1))
        return max(len(threads), 1)
    if workers is None:
        return 1
    use_threads(1)
    return int(max(min(workers, os.cpu_count() or 1), 1))


def _adapted(batch: Batch, stack: Stack, outputs: Outputs, seconds: float, progress: Progress) -> "Adaptation":
    """Let the model learn from a stack, after making sure that there is room for the results."""
    from cellxlate.enhancement.adaptation.adapt import adapt_stack  # and torch, which not every run needs
    from cellxlate.enhancement.adaptation.record import model_folder

    settings, folder = batch.settings, model_folder(outputs)
    make_folder(settings.output_dir)
    require_free(outputs, overwrite=settings.overwrite, resume=settings.resume)
    return adapt_stack(
        stack, cast("Bundle | str", batch.model), output=folder, seconds=seconds, channels=settings.channels,
        settings=settings.settings, levels_from=settings.levels_from, device=settings.device,
        overwrite=settings.overwrite, resume=settings.resume, progress=progress,
    )  # fmt: skip


def _write_confidence(batch: Batch, plan: Plan, outputs: Outputs, path: Location, progress: Progress) -> None:
    """Ask the networks again how sure they are, and write it beside attention."""
    started, settings = time.perf_counter(), batch.settings

    def tell(done: float, total: int) -> None:
        progress(EnhanceProgress(plan.stack.name, done, total, time.perf_counter() - started, "confidence"))

    write_confidence(plan, outputs.attention, path, overwrite=settings.overwrite, resume=settings.resume, progress=tell)
