"""One stack, from file to files. Read `enhance_file` from top to bottom."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cellxlate.enhancement.outputs import Outputs, name_outputs, require_free
from cellxlate.enhancement.plan import Plan, make_plan
from cellxlate.enhancement.plane import Band, ReadRows, enhance_plane
from cellxlate.enhancement.tiling import Tile, bands_of
from cellxlate.errors import PromiseError
from cellxlate.model.bundle import Bundle
from cellxlate.model.cards import DEFAULT_MODEL
from cellxlate.model.engines import Device, Engine
from cellxlate.quality.checks import Tally, warnings_of
from cellxlate.quality.pictures import choose_planes, take_pictures
from cellxlate.quality.report import RunReport, write_report
from cellxlate.settings import EnhanceSettings
from cellxlate.stacks.reading import is_zarr, open_stack
from cellxlate.stacks.stack import PlaneIndex, Stack, plane_key
from cellxlate.stacks.writing import BAND_PX, Format, Writer, open_writer

PLANE_KEPT_PX = 16_777_216
"""Planes of at most 16 megapixels are read once; larger ones band by band."""


@dataclass(frozen=True)
class EnhanceProgress:
    """How far an enhancement has come: planes that are done, and seconds so far."""

    name: str
    done: float
    total: int
    seconds: float

    def __str__(self) -> str:
        left_s = self.seconds / self.done * (self.total - self.done) if self.done else 0.0
        return f"{self.name}: {self.done:.1f} of {self.total} planes  {self.seconds:.0f} s  about {left_s:.0f} s left"


Progress = Callable[[EnhanceProgress], object]


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
    path: str | Path,
    model: str | Path | Bundle = DEFAULT_MODEL,
    *,
    output: str | Path | None = None,
    output_dir: str | Path | None = None,
    format: Format | None = None,
    axes: str | None = None,
    channels: Sequence[str | int] | None = None,
    settings: EnhanceSettings | None = None,
    engine: Engine = "auto",
    device: Device = "auto",
    attention: bool = True,
    report: bool = True,
    overwrite: bool = False,
    resume: bool = False,
    progress: Callable[[EnhanceProgress], object] | None = None,
) -> RunReport:
    """Enhance a stack and write the result, the attention map and a report beside it.

    Parameters
    ----------
    path : path
        A TIFF file or an OME-Zarr folder.
    model : str, Path or Bundle
        Shipped name, model folder, or a loaded model.
    output : path, optional
        Of the enhanced stack; `NAME_enhanced.ome.tif` beside the input by default, `.ome.zarr` for Zarr.
    output_dir : path, optional
        Folder for the outputs; made if it is not there.
    format : {"ome-tiff", "ome-zarr"}, optional
        Where no output name decides.
    axes : str, optional
        Axes of the input, where the file does not say.
    channels : sequence of str or int, optional
        Names or numbers of the channels to enhance; all by default. Others are copied.
    settings : EnhanceSettings, optional
        Threshold, intensity, tiles.
    engine, device : str
        What runs the networks.
    attention, report : bool
        Whether to write them.
    overwrite : bool
        Replace outputs that are there already.
    resume : bool
        Continue an interrupted run of the same input, model and settings.
    progress : callable, optional
        Called with an EnhanceProgress after each band of rows.

    Returns
    -------
    RunReport
        What was written, what was changed, warnings, provenance.

    Raises
    ------
    InputError, OptionError, OutputError, ModelError
        Before anything is written, or when reading or writing fails; what was done can be resumed.
    PromiseError
        The written file differs from the input where attention is 0; it does not appear under its final name.

    Examples
    --------
    >>> import cellxlate
    >>> report = cellxlate.enhance_file("stack.tif", output="out.ome.zarr", progress=print)  # doctest: +SKIP
    """
    started, path = time.perf_counter(), Path(path)
    with open_stack(path, axes) as stack:
        outputs = name_outputs(
            path, is_zarr=is_zarr(path), output=_path(output), output_dir=_path(output_dir), format=format,
            attention=attention, report=report,
        )  # fmt: skip
        if output_dir is not None:
            Path(output_dir).mkdir(parents=True, exist_ok=True)
        require_free(outputs, overwrite=overwrite, resume=resume)
        plan = make_plan(stack, model, channels=channels, settings=settings, engine=engine, device=device)
        image_writer, attention_writer = open_writers(plan, outputs, overwrite=overwrite, resume=resume)
        with image_writer, attention_writer:
            write_bands(plan, image_writer, attention_writer, progress, started)
            image_file, attention_file = image_writer.finish(), attention_writer.finish()
            with open_stack(image_file) as image, open_stack(attention_file) as selected:
                tally = verify(plan, image, selected)
                planes = choose_planes(stack, sorted(plan.jobs))
                pictures = take_pictures(stack, image, selected, planes=planes) if report else []
            found = run_report(plan, tally, outputs, total_s=time.perf_counter() - started)
            if outputs.report_html and outputs.report_json:
                write_report(found, pictures, html=outputs.report_html, json=outputs.report_json)
            if attention:
                attention_writer.publish()
            else:
                attention_writer.discard()
            image_writer.publish()
    return found


def enhance(
    stack: Stack | npt.NDArray[Any],
    model: str | Path | Bundle = DEFAULT_MODEL,
    *,
    axes: str | None = None,
    channels: Sequence[str | int] | None = None,
    settings: EnhanceSettings | None = None,
    engine: Engine = "auto",
    device: Device = "auto",
    progress: Callable[[EnhanceProgress], object] | None = None,
) -> EnhancedStack:
    """Enhance a stack in memory.

    Parameters
    ----------
    stack : Stack or ndarray
        At least two-dimensional.
    model : str, Path or Bundle
        Shipped name, model folder, or a loaded model.
    axes : str, optional
        Of an array; YX, ZYX, TZYX or TCZYX by default.
    channels, settings, engine, device, progress
        As in `enhance_file`.

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
    >>> result = cellxlate.enhance(np.zeros((40, 50), np.uint16))  # doctest: +SKIP
    >>> result.image.dtype, int(result.attention.max())  # doctest: +SKIP
    (dtype('uint16'), 0)
    """
    started = time.perf_counter()
    if not isinstance(stack, Stack):
        stack = Stack.from_array(stack, axes)
    plan = make_plan(stack, model, channels=channels, settings=settings, engine=engine, device=device)
    image = Stack(np.empty(stack.shape, stack.dtype), stack.axes, stack.name)
    selected = Stack(np.zeros(stack.shape, np.uint8), stack.axes, stack.name)
    for index, band in enhanced_bands(plan, progress=progress, started=started):
        _put(image, index, band.first_row, band.enhanced)
        _put(selected, index, band.first_row, band.attention)
    tally = verify(plan, image, selected)
    found = run_report(plan, tally, None, total_s=time.perf_counter() - started)
    return EnhancedStack(np.asarray(image.pixels), np.asarray(selected.pixels), found)


def open_writers(plan: Plan, outputs: Outputs, *, overwrite: bool, resume: bool) -> tuple[Writer, Writer]:
    """Open the writers of the enhanced stack and of its attention, which has the same axes in uint8."""
    identity, provenance = plan.identity, plan.provenance
    image_writer = open_writer(
        outputs.enhanced,
        like=plan.stack,
        fingerprint=identity,
        provenance=provenance,
        overwrite=overwrite,
        resume=resume,
    )
    try:
        attention_writer = open_writer(
            outputs.attention, like=plan.stack, dtype=np.dtype(np.uint8), reduction="max", fingerprint=identity,
            provenance=provenance, overwrite=overwrite, resume=resume,
        )  # fmt: skip
    except BaseException:
        with image_writer:  # releases it
            raise
    return image_writer, attention_writer


def write_bands(
    plan: Plan, image_writer: Writer, attention_writer: Writer, progress: Progress | None, started: float
) -> None:
    """Write every band that is not there yet; one whose image and attention are both written is done."""

    def is_done(index: PlaneIndex, area: Tile) -> bool:
        return all(
            writer.is_done(index, band)
            for writer in (image_writer, attention_writer)
            for band in range(area.top // BAND_PX, -(-area.bottom // BAND_PX))
        )

    for index, band in enhanced_bands(plan, is_done, progress=progress, started=started):
        image_writer.write(index, band.first_row, band.enhanced)
        attention_writer.write(index, band.first_row, band.attention)


def enhanced_bands(
    plan: Plan,
    is_done: Callable[[PlaneIndex, Tile], bool] = lambda _index, _area: False,
    *,
    progress: Progress | None,
    started: float,
) -> Iterator[tuple[PlaneIndex, Band]]:
    """Yield the bands of all planes that are not done; channels that were not chosen are copied."""
    stack = plan.stack
    for done, index in enumerate(stack.plane_indices()):
        read_rows = plane_reader(stack, index)
        wanted = [area for area in bands_of(stack.plane_shape, plan.tile_px) if not is_done(index, area)]
        job = plan.jobs.get(stack.channel_of(index))
        bands = enhance_plane(read_rows, wanted, stack.plane_shape, job) if job else copied_bands(read_rows, wanted)
        for band in bands:
            yield index, band
            if progress:
                last_row = band.first_row + len(band.raw)
                part = done + last_row / stack.plane_shape[0]
                progress(EnhanceProgress(stack.name, part, stack.plane_count, time.perf_counter() - started))


def copied_bands(read_rows: ReadRows, wanted: Sequence[Tile]) -> Iterator[Band]:
    """Yield bands of a channel that stays as it is."""
    for area in wanted:
        raw = read_rows(slice(area.top, area.bottom))
        yield Band(area.top, raw, raw, np.zeros(raw.shape, np.uint8))


def plane_reader(stack: Stack, index: PlaneIndex) -> ReadRows:
    """Return what reads rows of a plane: a small plane is read once, when first asked for, a large one row by row."""
    if stack.plane_shape[0] * stack.plane_shape[1] > PLANE_KEPT_PX:
        return lambda rows: stack.read(index, rows)
    kept: list[npt.NDArray[Any]] = []

    def read_rows(rows: slice) -> npt.NDArray[Any]:
        if not kept:
            kept.append(stack.read(index))
        return kept[0][rows]

    return read_rows


def verify(plan: Plan, image: Stack, selected: Stack) -> Tally:
    """Read input, result and attention, and count what differs.

    Raises
    ------
    PromiseError
        A pixel whose attention is 0 differs from the input in any bit, or the shape is another.
    """
    stack = plan.stack
    for written in (image, selected):
        if (written.axes, written.shape) != (stack.axes, stack.shape):
            raise PromiseError(
                f"{stack.name}: the written file reads as {written.axes} {written.shape} in place of {stack.axes} "
                f"{stack.shape}; it does not appear under its name, please report this"
            )
    tally = Tally(plane_axes=stack.plane_axes)
    copied = Tally(plane_axes=stack.plane_axes)
    for index in stack.plane_indices():
        counted = tally if stack.channel_of(index) in plan.jobs else copied
        readers = [plane_reader(one, index) for one in (stack, image, selected)]
        for area in bands_of(stack.plane_shape, BAND_PX):
            raw, enhanced, attention = (read(slice(area.top, area.bottom)) for read in readers)
            counted.add(index, area.top, raw=raw, enhanced=enhanced, attention=attention)
    broken = tally.kept_violations + copied.kept_violations
    if broken:
        raise PromiseError(
            f"{stack.name}: {broken} kept pixels differ from the input in the written file, which therefore does not "
            "appear under its name; run again, and check the disk if it happens twice"
        )
    return tally


def run_report(plan: Plan, tally: Tally, outputs: Outputs | None, *, total_s: float) -> RunReport:
    """Gather what the report says."""
    stack, bundle, work = plan.stack, plan.bundle, plan.work
    names = dict(enumerate(stack.channel_names))
    found = warnings_of(tally, channel_names=names)
    if len(plan.jobs) > 1:
        found.append(f"all {len(plan.jobs)} chosen channels were enhanced by one model; choose with --channel")
    seconds = {"calibrate": plan.calibrate_s, "attention": work.attention_s, "generator": work.generator_s}
    seconds |= {"io": total_s - sum(seconds.values()), "total": total_s}
    written = (
        {"enhanced": outputs.enhanced, "attention": outputs.attention if outputs.keep_attention else None,
         "report": outputs.report_html} if outputs else {}
    )  # fmt: skip
    return RunReport(
        outputs={name: None if path is None else str(path) for name, path in written.items()},
        input_name=stack.path.name if stack.path else stack.name,
        axes=stack.axes,
        shape=stack.shape,
        dtype=str(stack.dtype),
        model_name=bundle.name,
        model_digest=bundle.digest,
        tally=tally,
        model_licence=str(bundle.card.get("licence", "")),
        pixel_size_um=stack.pixel_size_um,
        channel_names=stack.channel_names,
        settings=asdict(plan.settings),
        versions=plan.versions,
        seconds={name: round(value, 3) for name, value in seconds.items()},
        tiles_total=work.tiles_total,
        tiles_skipped=work.tiles_skipped,
        peak_rss_mb=peak_rss_mb(),
        engine=plan.engine,
        warnings=found,
        provenance=plan.provenance,
        command=plan.command,
    )


def peak_rss_mb() -> float:
    """Return the largest resident memory of this process so far, in megabytes."""
    if sys.platform == "win32":
        return 0.0  # not known without another package
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6, 1)


def _put(stack: Stack, index: PlaneIndex, first_row: int, pixels: npt.NDArray[Any]) -> None:
    """Write rows into a stack in memory."""
    into: Any = stack.pixels
    rows = slice(first_row, first_row + len(pixels))
    turned = stack.axes.index("X") < stack.axes.index("Y")
    into[plane_key(stack.axes, index, rows, slice(None))] = pixels.T if turned else pixels


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)
