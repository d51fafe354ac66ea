"""How long a stack will take, before it is enhanced: the whole job is run on a sample of it, and each part is scaled.

A sample of at most 8 megapixels goes through the same networks, writers and checks as the stack will; its first window
does so alone before, since what a process prepares once must not be scaled. What grows with the pixels is scaled by
them, what grows with the pictures of the report by these; only the bands are shared by workers. Checks and pictures,
which a job makes at once, are measured one after another, on the clock and in seconds of the processor.
"""

import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from cellxlate.enhancement.flow import EnhanceProgress, Phase, follow, write_bands
from cellxlate.enhancement.gates.sample import Window, gates_of_windows
from cellxlate.enhancement.job import Executor, steps_to_files
from cellxlate.enhancement.outputs.names import Outputs, name_outputs, require_free
from cellxlate.enhancement.plan import Plan
from cellxlate.enhancement.plane import Work
from cellxlate.enhancement.proposals.depth import block_planes, sample_stack
from cellxlate.enhancement.tiling import bands_of, tiles_of
from cellxlate.enhancement.verify import compare_here, peak_rss_mb
from cellxlate.errors import OutputError, said
from cellxlate.locations import Location
from cellxlate.quality.report.account import Draw
from cellxlate.quality.report.pictures import choose_planes
from cellxlate.quality.report.proposals import proposal_of_run
from cellxlate.quality.tally import Tally
from cellxlate.quality.trust.likeness import Departure, departure_words
from cellxlate.stacks.channel_names import shown_names, unnamed
from cellxlate.stacks.intensity.range import IntensityRange
from cellxlate.stacks.intensity.stack_range import PLASTIC
from cellxlate.stacks.naming import PLAIN, stack_name
from cellxlate.stacks.stack import PlaneIndex, Stack
from cellxlate.stacks.write.origins import SeeRows
from cellxlate.stacks.write.pyramid import resolution_count
from cellxlate.stacks.write.writer import Writer

SAMPLE_PX, WINDOW_PX = 8 * 2**20, 1024
"""Side of a window, and of the largest tile: smaller windows would have more halo for their pixels than the stack."""

PARTS = ("plan", "read", "bands", "finish", "checks", "report", "publish")
"""What a job spends its time on. `bands` are networks and writing; `finish` builds pyramids and files; `checks` read
the result back and examine it, while pictures are drawn; `publish` waits until it has reached the disk."""
SAMPLED = ("bands", "finish", "read_back", "examine", "pictures", "report", "publish")
"""What is measured on a sample, one after another."""
BEGINS: Mapping[Phase, str] = {"writing": "finish", "report": "report", "publishing": "publish"}
"""What begins with a phase that the job tells; the others begin where the sample's executor is called."""


@dataclass(frozen=True)
class Took:
    """Seconds on the clock, and of the processor."""

    clock_s: float
    processor_s: float

    def __mul__(self, factor: float) -> "Took":
        return Took(self.clock_s * factor, self.processor_s * factor)

    def __add__(self, other: "Took") -> "Took":
        return Took(self.clock_s + other.clock_s, self.processor_s + other.processor_s)

    def at_once(self, other: "Took", cores: int) -> float:
        """Return the seconds that two things take which are done at the same time."""
        return max(self.clock_s, other.clock_s, (self + other).processor_s / cores)


@dataclass(frozen=True)
class Prediction:
    """What a stack is expected to take.

    Attributes
    ----------
    megapixels : float
        Of the whole stack.
    cell_fraction : float
        Share of the sample that attention selects, in the channels that are enhanced.
    processes : int
        That share the bands.
    seconds : mapping of str to float
        Expected, by part.
    sampled : mapping of str to Took
        Measured on the sample.
    sampled_megapixels : float
        Size of the sample.
    file_bytes : mapping of str to float
        Of "enhanced" and "attention", on disk, with their pyramids; scaled by the pixels.
    peak_rss_mb : float
        Largest memory of this process until the sample was done; 0 where it is not known. It does not grow with the
        stack, but for planes that are larger than the sample's windows.
    departures : mapping of int to Departure
        How far each channel is from the model's training images, as far as that can be said.
    """

    megapixels: float
    cell_fraction: float
    processes: int
    seconds: dict[str, float]
    sampled: Mapping[str, Took]
    sampled_megapixels: float
    file_bytes: Mapping[str, float] = field(default_factory=dict)
    peak_rss_mb: float = 0.0
    departures: Mapping[int, Departure] = field(default_factory=dict)

    @property
    def total_s(self) -> float:
        """Seconds in all."""
        return sum(self.seconds.values())

    def with_processes(self, processes: int) -> "Prediction":
        """Return what it would take with another number of processes, each on a core of its own."""
        factor = self.processes / processes
        shared = {part: self.seconds[part] * factor for part in ("read", "bands")}
        return replace(self, processes=processes, seconds={**self.seconds, **shared})

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "hours": round(self.total_s / 3600, 4),
            "seconds": {part: round(value, 1) for part, value in self.seconds.items()},
            "megapixels": round(self.megapixels, 3), "cell_fraction": round(self.cell_fraction, 4),
            "processes": self.processes, "sampled_megapixels": round(self.sampled_megapixels, 3),
            "file_bytes": {name: round(amount) for name, amount in self.file_bytes.items()},
            "peak_rss_mb": self.peak_rss_mb,
        }  # fmt: skip


@dataclass(frozen=True)
class Forecast:
    """What would be done with a stack, how long it would take, and what comes on top.

    That is learning from it before, and asking for confidence after, in seconds, if they are wanted.
    `obstacle` says why the job would be refused as things are, if it would; `free_bytes` are those of the disk that it
    would write to, where that is known.
    """

    path: Location
    plan: Plan
    outputs: Outputs
    prediction: Prediction
    adapting: Mapping[str, Any] = field(default_factory=dict)
    confidence_s: float = 0.0
    obstacle: str = ""
    free_bytes: int | None = None

    @property
    def total_s(self) -> float:
        """Seconds in all."""
        return float(self.adapting.get("seconds", 0.0)) + self.prediction.total_s + self.confidence_s

    @property
    def tiles(self) -> int:
        """How many tiles the planes that are enhanced are cut into."""
        plan, stack = self.plan, self.plan.stack
        per_plane = sum(len(list(tiles_of(one, plan.tile_px))) for one in bands_of(stack.plane_shape, plan.tile_px))
        at_once = 3 if plan.in_color and "C" in stack.axes else 1  # planes of a channel: its red, green and blue
        return per_plane * len(plan.jobs) * stack.planes_per_channel // at_once

    @property
    def warnings(self) -> list[str]:
        """What is to be known before the job is begun."""
        stack, needed = self.plan.stack, sum(self.prediction.file_bytes.values())
        warnings = [self.obstacle] if self.obstacle else []
        if self.free_bytes is not None and needed > self.free_bytes:
            warnings.append(
                f"{needed / 1e9:.1f} GB would be written, but {self.free_bytes / 1e9:.1f} GB are free in "
                f"{self.outputs.enhanced.parent}; make room or choose another folder"
            )
        for channel, departure in self.prediction.departures.items():
            if words := departure_words(departure):
                name = dict(enumerate(shown_names(stack))).get(channel, unnamed(channel))
                warnings.append(
                    f"{name} does not look like the images that {self.plan.looking} was trained on: "
                    f"{'; '.join(words)} (distance {departure.distance:.1f}, limit 1)"
                )
        return [*warnings, *stack.warnings]

    def as_dict(self) -> dict[str, Any]:
        """Return what `enhance --dry-run --json` prints."""
        plan, stack, expected = self.plan, self.plan.stack, self.prediction.as_dict()
        expected["hours"] = round(self.total_s / 3600, 4)
        if self.adapting:
            expected["seconds"] = {"adapting": self.adapting["seconds"], **expected["seconds"]}
        if self.confidence_s:
            expected["seconds"]["confidence"] = round(self.confidence_s, 1)
        return {
            "input": str(self.path), "axes": stack.axes, "shape": list(stack.shape), "dtype": str(stack.dtype),
            "planes": stack.plane_count, "channels": plan.channels, "channel_names": list(shown_names(stack)),
            "tile_px": plan.tile_px, "engine": plan.engine, "model": plan.model_name,
            "model_considered": dict(plan.choice.considered) if plan.choice else {},
            **({"proposal": proposal} if (proposal := proposal_of_run(plan.provenance)) else {}),
            "attention_source": plan.stated_source, "context": plan.neighbours.stated(),
            **({"beside": list(plan.beside_named)} if plan.beside else {}),
            **({"color": "luminance"} if plan.in_color else {}), "outputs": [str(one) for one in self.outputs.wanted],
            "tiles": self.tiles, "free_bytes": self.free_bytes, "warnings": self.warnings,
            **({"adaptation": dict(self.adapting)} if self.adapting else {}), "expected": expected,
        }  # fmt: skip


def predict(plan: Plan, outputs: Outputs, *, plan_s: float, processes: int = 1) -> Prediction:
    """Run a job on a sample of its stack, and predict what all of it takes.

    Parameters
    ----------
    plan : Plan
        Its engine runs with the threads that each process will have.
    outputs : Outputs
        State the format. Nothing is written there; the sample's files go into a temporary folder.
    plan_s : float
        Seconds that making the plan took.
    processes : int
        That share the bands, each on cores of its own.

    Notes
    -----
    Holds as far as the sample is like the stack and the machine is as busy as now. Workers elsewhere, whose processors
    and disks differ, are taken to be as fast as this one. Starting Python and workers is not counted. Networks that see
    neighbours see each window of the sample in their place: they take as long, but may select another share.
    """
    started = time.perf_counter()
    places = list(sample_places(plan.stack))[:: block_planes(plan.context.blocks)]
    windows = [_read(plan.stack, *place) for place in places]
    read_s, resolutions = time.perf_counter() - started, resolution_count(plan.stack.plane_shape)
    for part in (windows[:1], windows):
        stack = sample_stack(part, plan.context.blocks)
        scaled = partial(_range_of, plan, windows=len(part))
        gates = gates_of_windows(plan.jobs[0].gates, places[: len(part)], scaled)
        jobs = tuple(
            replace(job, work=Work(), gates=gates, context=replace(job.context, axis="Z"),
                    intensities={channel: scaled(one) for channel, one in job.intensities.items()},
                    beside={channel: scaled(one) for channel, one in job.beside.items()},
                    luminance=job.luminance and scaled(job.luminance))
            for job in plan.jobs
        )  # fmt: skip
        with TemporaryDirectory(prefix="cellxlate-sample-") as folder:
            sampled, tally = run_sample(
                replace(plan, stack=stack, jobs=jobs, sampled=None), outputs, Path(folder), resolutions=resolutions
            )
            file_bytes = {name: _bytes_of(Path(folder), name) for name in ("enhanced", "attention")}
    both = plan.stack, stack
    size, sample_size = (one.plane_count * prod(one.plane_shape) for one in both)
    shown, sample_shown = (len(choose_planes(one, plan.channels)) * prod(one.plane_shape) for one in both)
    scale, pictures = size / sample_size, shown / sample_shown  # of all pixels, and of those that the report shows
    checks = sampled["read_back"] * scale + sampled["examine"]
    seconds = {
        "plan": plan_s,
        "read": read_s * scale,
        **{part: sampled[part].clock_s * scale for part in ("bands", "finish", "publish")},
        "checks": checks.at_once(sampled["pictures"] * pictures, _cores()),
        "report": sampled["report"].clock_s,
    }
    prediction = Prediction(
        size / 1e6, tally.total.selected_fraction, 1, seconds, sampled, sample_size / 1e6,
        {name: amount * scale for name, amount in file_bytes.items()}, peak_rss_mb(),
        {channel: trust.departure for channel, trust in tally.trust.items() if trust.departure},
    )  # fmt: skip
    return prediction.with_processes(processes)


def _bytes_of(folder: Path, name: str) -> int:
    """Return the bytes of the sample's file, or folder, of that name."""
    return sum(item.stat().st_size for item in folder.rglob("*") if item.is_file() and f"_{name}" in str(item))


def obstacle_of(outputs: Outputs, *, made: Location | None, overwrite: bool, resume: bool) -> str:
    """Return why a job would be refused by what lies where it writes, in words; nothing where it would not.

    `made` is the folder for outputs that a job makes where it is missing.
    """
    folder = outputs.enhanced.parent
    if folder == made and isinstance(folder, Path) and not folder.exists():
        return ""
    try:
        require_free(outputs, overwrite=overwrite, resume=resume)
    except OutputError as fault:
        return said(fault)
    return ""


def free_bytes(folder: Location) -> int | None:
    """Return how much room there is where a folder is, or will be made; None in a bucket, or where it is not known."""
    if not isinstance(folder, Path):
        return None
    there = next((one for one in (folder, *folder.absolute().parents) if one.is_dir()), None)
    with suppress(OSError):
        return shutil.disk_usage(there).free if there else None
    return None


def sample_places(stack: Stack) -> Iterator[Window]:
    """Yield windows of all channels, at most 8 megapixels in all, spread over planes, rows and columns.

    Planes of which two fit, or all, are yielded whole: their border costs what it costs in the stack.
    """
    height, width = stack.plane_shape
    count = stack.planes_per_channel
    rows, columns, most_px = height, width, SAMPLE_PX // stack.channel_count
    if min(count, 2) * rows * columns > most_px:
        columns = min(width, WINDOW_PX)
        rows = min(height, WINDOW_PX, max(most_px // columns, 1))
    most = max(most_px // (rows * columns), 1)
    number_of_windows = min(most, max(count * (height * width) // (rows * columns), 1))
    for number in range(number_of_windows):
        plane = (2 * number + 1) * count // (2 * number_of_windows)
        top = int((height - rows + 1) * ((0.5 + number * PLASTIC**-1) % 1.0))
        left = int((width - columns + 1) * ((0.5 + number * PLASTIC**-2) % 1.0))
        planes = [stack.plane_of(plane, channel) for channel in range(stack.channel_count)]
        yield planes, slice(top, top + rows), slice(left, left + columns)


def _read(stack: Stack, planes: Sequence[PlaneIndex], rows: slice, columns: slice) -> Any:
    return np.stack([stack.read(index, rows, columns) for index in planes])


def _range_of(plan: Plan, intensity: IntensityRange, windows: int) -> IntensityRange:
    """Return the intensity range of a channel with the drift of each window of a sample, as if it were a time point."""
    count = plan.stack.planes_per_channel
    middle = [(2 * number + 1) * count // (2 * windows) for number in range(windows)]
    times = [plan.stack.time_of(plan.stack.plane_of(number, 0)) for number in middle]
    drift = ((number, intensity.at(time).black - intensity.black) for number, time in enumerate(times))
    return replace(intensity, drift=tuple(drift) if intensity.drift else ())


class _Stopwatch:
    """Adds up what the parts of a job take, on the clock and of the processor: each until another begins."""

    def __init__(self) -> None:
        self.took = dict.fromkeys(SAMPLED, Took(0.0, 0.0))
        self._part, self._since = "", (0.0, 0.0)

    def begin(self, part: str) -> None:
        now = time.perf_counter(), time.process_time()
        if self._part:
            self.took[self._part] += Took(now[0] - self._since[0], now[1] - self._since[1])
        self._part, self._since = part, now

    def executor(self, resolutions: int) -> Executor:
        """Return this process, measured: pictures are drawn after the checks, and small planes get a pyramid too."""

        def write(plan: Plan, image: Writer, attention: Writer, started: float) -> Iterator[EnhanceProgress]:
            for writer in (image, attention):
                if resolutions > 1 and writer.kind not in PLAIN:
                    writer.pyramid = replace(writer.pyramid, resolutions=2)
                    writer.pyramid.all_resolutions[1].create()
            self.begin("bands")
            yield from write_bands(plan, image, attention, started)

        def compare(
            plan: Plan, image: Stack, selected: Stack, channels: Sequence[int], tile_px: int, see: SeeRows
        ) -> Tally:
            self.begin("read_back")
            tally = compare_here(plan, image, selected, channels, tile_px, see)
            self.begin("examine")
            return tally

        @contextmanager
        def afterwards(draw: Draw) -> Iterator[Draw]:
            def drawn() -> str:
                self.begin("pictures")
                return draw()

            yield drawn

        return Executor(write_bands=write, compare=compare, beside=afterwards)


def run_sample(plan: Plan, outputs: Outputs, folder: Path, *, resolutions: int = 1) -> tuple[dict[str, Took], Tally]:
    """Do a job in a folder and return what its parts took, and what it changed.

    Planes of a sample are too small for a pyramid; where the stack gets one of several `resolutions`, one is built.
    """
    name = outputs.enhanced.name
    suffix = name.removeprefix(stack_name(Path(name))) or ".ome.zarr"  # a field of a plate has no ending
    here = name_outputs(folder / "sample", is_zarr=False, output=folder / f"sample_enhanced{suffix}",
                        format=outputs.format, attention=outputs.keep_attention, report=bool(outputs.report_html),
                        )  # fmt: skip
    watch = _Stopwatch()

    def tell(phase: Phase, _planes: float) -> None:
        if phase in BEGINS:
            watch.begin(BEGINS[phase])

    report = follow(steps_to_files(plan, here, overwrite=True, where=watch.executor(resolutions), tell=tell))
    watch.begin("")
    return watch.took, report.tally


def _cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
