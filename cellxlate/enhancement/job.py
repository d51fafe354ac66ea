"""One stack, from file to files. Read `enhance_file` from top to bottom."""

import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cellxlate.enhancement.flow import (
    EnhanceProgress,
    MakeBands,
    Tell,
    WriteBands,
    enhanced_bands,
    files_written,
    follow,
    no_news,
    open_writers,
    phase_teller,
    write_bands,
)
from cellxlate.enhancement.neighbours.channels import Channels
from cellxlate.enhancement.outputs.names import (
    Outputs,
    begun_context,
    make_folder,
    may_replace,
    name_outputs,
    opened,
    require_free,
    require_still_free,
    source_of,
)
from cellxlate.enhancement.plan import Plan, make_plan
from cellxlate.enhancement.proposals.source import Asked, Halo, proposal_of
from cellxlate.enhancement.same_input import (
    ChangedInputError,
    ReadAgain,
    changed_meanwhile,
    read_again,
    require_same_bands,
    require_still_same,
    was_changed,
)
from cellxlate.enhancement.verify import (
    Compare,
    DamagedResultError,
    compare_here,
    report_of_finished,
    run_report,
    store_report,
    told,
    verify,
)
from cellxlate.errors import InputError
from cellxlate.locations import Location, located
from cellxlate.model.cards import AUTO
from cellxlate.model.engines.engine import Device, Engine, Precision
from cellxlate.option_values import require_callables, require_flags
from cellxlate.quality.report.account import Account, Beside, in_a_thread
from cellxlate.quality.report.report import RunReport
from cellxlate.settings import Along, Color, EnhanceSettings, Intensity
from cellxlate.settings_file import enhance_settings
from cellxlate.stacks.read.open import is_zarr, open_stack
from cellxlate.stacks.stack import Pixels, PlaneIndex, Stack, plane_key
from cellxlate.stacks.write.origins import Origin
from cellxlate.stacks.write.pyramid import Share
from cellxlate.stacks.write.writer import Format, Writer

if TYPE_CHECKING:
    from cellxlate.enhancement.adaptation.record import Adaptation


@dataclass(frozen=True)
class Executor:
    """Where a job is computed: this process, unless others take its parts over (`Cluster.executor`).

    Attributes
    ----------
    write_bands, compare, share, read_again, beside : callable
        Writes the bands that are not there yet; reads the result back and counts what differs; does what `map` does;
        reads planes of the input again, for their checksums; draws pictures while the result is read back.
    """

    write_bands: WriteBands = write_bands
    compare: Compare = compare_here
    share: Share = map
    read_again: ReadAgain = read_again
    beside: Beside = in_a_thread


THIS_PROCESS = Executor()


@dataclass(frozen=True)
class EnhancedStack:
    """An enhancement in memory.

    Attributes
    ----------
    image : ndarray
        Shape and dtype of the stack.
    attention : ndarray of uint8
        Same shape; 0 exactly where the pixel was kept.
    report : RunReport
        What was changed, where, by how much; warnings; provenance.
    """

    image: npt.NDArray[Any]
    attention: npt.NDArray[np.uint8]
    report: RunReport


def enhance_file(
    path: str | Location | Stack | npt.NDArray[Any] | Pixels, model: Asked = AUTO, *,
    output: str | Location | None = None, output_dir: str | Location | None = None, format: Format | None = None,
    axes: str | None = None, image: int | None = None, incomplete: bool = False, channels: Channels = None,
    beside: Channels = None, levels_from: str | Path | None = None, attention_channel: str | int | None = None,
    attention_from: str | Path | Stack | npt.NDArray[Any] | Pixels | None = None,
    threshold: float | None = None, intensity: Intensity | None = None, tile_px: int | None = None,
    dense: bool | None = None, context: Along | None = None, color: Color | None = None,
    settings: EnhanceSettings | None = None, halo_px: Halo | None = None, engine: Engine = "auto",
    device: Device = "auto", precision: Precision = "float32", attention: bool = True, report: bool = True,
    overwrite: bool = False, resume: bool = False, outputs: Outputs | None = None,
    adaptation: "Adaptation | None" = None, where: Executor = THIS_PROCESS,
    progress: Callable[[EnhanceProgress], object] | None = None,
    phases: Callable[[EnhanceProgress], object] | None = None,
) -> RunReport:  # fmt: skip
    """Enhance a stack and write the result, the attention map and a report beside it.

    Parameters
    ----------
    path : path, Stack or array
        Whatever `open_stack` reads; arrays of dask, zarr or h5py plane by plane, with `output` or `output_dir`.
    model : str, Path, Bundle or callable
        Shipped name, folder, or loaded; "auto" takes the shipped model that suits the stack. Or, gated by the attention
        of `cells`, a filter ("gaussian:1.5"), or any function of planes (Y, X) float32 in counts to the same.
    halo_px : int or "plane", optional
        How far around a pixel such a function looks; "plane" where it looks at all of it.
    output : path, optional
        Of the enhanced stack; `NAME_enhanced.ome.tif` beside the input by default, `.ome.zarr` for Zarr.
    output_dir : path, optional
        Folder for the outputs; made if it is not there.
    format : {"ome-tiff", "ome-zarr", "ome-zarr-0.4", "tiff", "zarr"}, optional
        Where no output name decides.
    axes : str, optional
        Axes of the input, where the file does not say; of an array as in `enhance`.
    image : int, optional
        Which image of a file that holds several; by default as `open_stack`.
    incomplete : bool
        Enhance the complete time points of an acquisition that was stopped; missing planes are an error otherwise.
    channels, beside : sequence of str or int, optional
        Names (in any case) or numbers, or one: of those to enhance (all), and of those a model sees beside as well.
    attention_channel : str or int, optional
        Name or number of a channel whose attention gates all of them; each by its own otherwise.
    attention_from : path, array, Stack or "saliency", optional
        A mask in place of attention: 1 where it is above 0, else 0, without a ramp. A file (labels, picture, Cellpose,
        regions of ImageJ), a folder of masks named like their images, or pixels, shaped as the stack or as one plane
        for all. Or "saliency", the automatic guide of training, from contrast alone.
    levels_from : path, optional
        Report or output of an earlier run whose levels are used, so that stacks compare; measured by default.
    threshold, intensity, tile_px, dense, context, color, settings : optional
        As in `EnhanceSettings`, one by one, or as one object, which those that are given change.
    engine, device, precision : str
        What runs the networks, where, and in which numbers.
    attention, report, overwrite : bool
        Whether to write them, and to replace outputs.
    resume : bool
        Continue an interrupted run of the same input, model and settings; one that is finished is verified again.
    outputs : Outputs, optional
        In place of the options that name and choose the results.
    adaptation : Adaptation, optional
        What `adapt_stack` returned for the stack: its model is used.
    where : Executor
        This process, or `Cluster.executor`.
    progress, phases : callable, optional
        Called with an EnhanceProgress after each band of rows; and in other phases: when levels are measured, earlier
        work is checked, files are put together, read back, and named, and the report is written.

    Returns
    -------
    RunReport
        What was written, what was changed, warnings, provenance.

    Raises
    ------
    InputError, OptionError, OutputError, ModelError
        Before anything is written, or when reading or writing fails; then it can be resumed.
    PromiseError
        The written file differs from the input where attention is 0; it does not appear.

    Examples
    --------
    >>> import cellxlate, dask.array
    >>> movie = dask.array.zeros((500, 2048, 2048), chunks=(1, 2048, 2048), dtype="uint16")
    >>> report = cellxlate.enhance_file(movie, axes="TYX", output="movie.ome.tif")  # doctest: +SKIP
    """
    started, folder = time.perf_counter(), None if output_dir is None else located(output_dir)
    asked = enhance_settings(settings, threshold=threshold, intensity=intensity, tile_px=tile_px, dense=dense,
                             context=context, color=color)  # fmt: skip
    require_flags(attention=attention, report=report, overwrite=overwrite, resume=resume)
    require_callables(progress=progress, phases=phases)
    model = proposal_of(model, halo_px) or model
    with opened(path, axes, image, incomplete) as stack:
        if outputs is None:
            source = source_of(path, stack, to=output or folder)
            outputs = name_outputs(
                source, is_zarr=is_zarr(source), output=None if output is None else located(output),
                output_dir=folder, format=format, attention=attention, report=report, like=stack,
            )  # fmt: skip
        make_folder(folder)
        require_free(outputs, overwrite=overwrite, resume=resume)
        tell = phase_teller(stack, started, phases)
        tell("levels", 0)
        plan = make_plan(
            stack, model, channels=channels, levels_from=levels_from, settings=asked, engine=engine, device=device,
            precision=precision, adaptation=adaptation, attention_channel=attention_channel,
            attention_from=attention_from, begun=begun_context(outputs) if resume else None, beside=beside,
        )  # fmt: skip
        steps = steps_to_files(
            plan, outputs, overwrite=overwrite, resume=resume, started=started, where=where, tell=tell
        )
        return follow(steps, progress)


def enhance(
    stack: str | Location | Stack | npt.NDArray[Any] | Pixels, model: Asked = AUTO, *,
    axes: str | None = None, image: int | None = None, incomplete: bool = False, channels: Channels = None,
    beside: Channels = None, levels_from: str | Path | None = None, attention_channel: str | int | None = None,
    attention_from: str | Path | Stack | npt.NDArray[Any] | Pixels | None = None,
    threshold: float | None = None, intensity: Intensity | None = None, tile_px: int | None = None,
    dense: bool | None = None, context: Along | None = None, color: Color | None = None,
    settings: EnhanceSettings | None = None, halo_px: Halo | None = None, engine: Engine = "auto",
    device: Device = "auto", precision: Precision = "float32",
    progress: Callable[[EnhanceProgress], object] | None = None,
    phases: Callable[[EnhanceProgress], object] | None = None,
) -> EnhancedStack:  # fmt: skip
    """Enhance a stack in memory.

    Parameters
    ----------
    stack : path, Stack or array
        A path is opened as `open_stack` does, and the result is arrays here too: `enhance_file` is what writes files.
    axes : str, optional
        In upper or lower case. Of an array; YX, ZYX, TZYX or TCZYX by default, unless the last axis is 3 or 4 long: it
        may be colour samples, so the axes have to be said then. Of a file that does not say.
    model, image, incomplete, channels, beside, attention_channel, attention_from, levels_from, threshold, intensity
        As in `enhance_file`.
    tile_px, dense, context, settings, halo_px, engine, device, precision, progress, phases
        As there.

    Returns
    -------
    EnhancedStack
        Image, attention and report; the pixels that `enhance_file` would write.

    Raises
    ------
    InputError, OptionError, ModelError
        As in `enhance_file`.
    PromiseError
        A kept pixel differs.

    Examples
    --------
    >>> import cellxlate, numpy as np
    >>> result = cellxlate.enhance(np.zeros((40, 50), np.uint16), threshold=0.2)  # doctest: +SKIP
    >>> result.image.dtype, int(result.attention.max())  # doctest: +SKIP
    (dtype('uint16'), 0)
    """
    started = time.perf_counter()
    asked = enhance_settings(settings, threshold=threshold, intensity=intensity, tile_px=tile_px, dense=dense,
                             context=context, color=color)  # fmt: skip
    require_callables(progress=progress, phases=phases)
    model = proposal_of(model, halo_px) or model
    with opened(stack, axes, image, incomplete) as opened_stack:
        tell = phase_teller(opened_stack, started, phases)
        tell("levels", 0)
        plan = make_plan(
            opened_stack, model, channels=channels, beside=beside, levels_from=levels_from, settings=asked,
            engine=engine, device=device, precision=precision, attention_channel=attention_channel,
            attention_from=attention_from,
        )  # fmt: skip
        return follow(steps_in_memory(plan, started=started, tell=tell), progress)


def steps_to_files(
    plan: Plan,
    outputs: Outputs,
    *,
    overwrite: bool = False,
    resume: bool = False,
    started: float | None = None,
    where: Executor = THIS_PROCESS,
    tell: Tell = no_news,
) -> Generator[EnhanceProgress | None, None, RunReport]:
    """Enhance a stack into files: yields news after each band of rows, and None before anything gets its final name.

    `tell` is told how far the other phases are, while they are under way.

    Closing it leaves a partial that can be resumed, and nothing under a final name. With `resume`, a run that is
    finished is verified again and reported; nothing is written. Once the promise is verified, no failure of a picture,
    a check or the report keeps the result from its name: the report that is returned warns of it.
    """
    started = started or time.perf_counter()
    if resume:
        tell("checking", 0)
        if finished := report_of_finished(plan, outputs, started=started):
            return finished
    require_still_free(outputs, overwrite=overwrite, resume=resume)
    before = plan.identity["input"]
    image_writer, attention_writer = open_writers(plan, outputs, overwrite=overwrite, resume=resume)
    with image_writer, attention_writer:
        if resume:
            require_same_bands(plan, image_writer.origins.found(), where.read_again)
        try:
            account = yield from _verified(
                plan, image_writer, attention_writer, started, where, tell, before=before,
                draw=bool(outputs.report_html),
            )  # fmt: skip
            yield None
            tell("report", 0)
            tally = account.tally
            report = run_report(plan, account, outputs, started=started)
            require_still_same(plan, states=tally.input_states, digest=tally.input_digest, read=where.read_again)
        except ChangedInputError:
            for writer in (image_writer, attention_writer):
                writer.discard()  # its bands must not be resumed
            raise
        require_still_free(outputs, overwrite=overwrite, resume=resume)  # before any of them gets its name
        report = store_report(report, account.figures, outputs, overwrite=overwrite, resume=resume)
        tell("publishing", 0)
        for path, writer in ((outputs.attention, attention_writer), (outputs.enhanced, image_writer)):
            if writer is attention_writer and not outputs.keep_attention:
                writer.discard()
            else:
                writer.publish(replaces=may_replace(path, overwrite=overwrite, resume=resume))
    total_s = time.perf_counter() - started
    io_s = report.seconds["io"] + total_s - report.seconds["total"]
    return replace(report, seconds={**report.seconds, "io": round(io_s, 3), "total": round(total_s, 3)})


def _verified(
    plan: Plan, image_writer: Writer, attention_writer: Writer, started: float, where: Executor, tell: Tell, *,
    before: Mapping[str, Any], draw: bool,
) -> Generator[EnhanceProgress, None, Account]:  # fmt: skip
    """Write all bands, build the two files, and verify them; what turns out to be damaged is made again, once."""

    def read_back(files: tuple[Location, Location]) -> Account:
        if was_changed(plan, before):
            raise changed_meanwhile(plan.stack)
        with open_stack(files[0]) as image, open_stack(files[1]) as selected:
            tell("verifying", 0)
            compare, origins = told(where.compare, lambda planes: tell("verifying", planes)), image_writer.origins
            return verify(plan, image, selected, compare, origins=origins.found(), draw=draw, beside=where.beside)

    steps = partial(files_written, plan, image_writer, attention_writer, started, tell, where.write_bands, where.share)
    files = yield from steps()
    try:
        return read_back(files)
    except ChangedInputError:
        raise
    except (InputError, DamagedResultError):  # one of the two files cannot be read, or is not as it was computed
        for writer in (image_writer, attention_writer):
            writer.mend()
    return read_back((yield from steps()))


def steps_in_memory(
    plan: Plan, *, started: float | None = None, tell: Tell = no_news, make: MakeBands | None = None
) -> Generator[EnhanceProgress | None, None, EnhancedStack]:
    """Enhance a stack in memory; yields after each band of rows, and `tell` is told of other phases."""
    started, stack = started or time.perf_counter(), plan.stack
    image = Stack(np.empty(stack.shape, stack.dtype), stack.axes, stack.name)
    selected = Stack(np.zeros(stack.shape, np.uint8), stack.axes, stack.name)
    origins: dict[PlaneIndex, list[Origin]] = {}
    for index, band, news in enhanced_bands(plan, started=started, make=make):
        origins.setdefault(index, []).append(band.origin(index))
        _put(image, index, band.first_row, band.enhanced)
        _put(selected, index, band.first_row, band.attention)
        yield news
    tell("verifying", 0)
    compare = told(compare_here, lambda planes: tell("verifying", planes))
    account = verify(plan, image, selected, compare, origins=origins)
    report = run_report(plan, account, None, started=started)
    return EnhancedStack(np.asarray(image.pixels), np.asarray(selected.pixels), report)


def _put(stack: Stack, index: PlaneIndex, first_row: int, pixels: npt.NDArray[Any]) -> None:
    """Write rows into a stack in memory."""
    into: Any = stack.pixels
    rows = slice(first_row, first_row + len(pixels))
    turned = stack.axes.index("X") < stack.axes.index("Y")
    into[plane_key(stack.axes, index, rows, slice(None))] = pixels.T if turned else pixels
