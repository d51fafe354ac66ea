"""What a worker of a cluster does: one band of one plane, read from the stack, enhanced, written into the partial.

A band is a file of its own, so workers never write the same file, and a band that two of them have computed is replaced
by the same pixels. Stack and partial are reached by the paths of whoever asked, so all machines must see these folders.
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy.typing as npt

import cellxlate
from cellxlate.enhancement.flow import planes_at_once
from cellxlate.enhancement.gates.each import EachAttention
from cellxlate.enhancement.gates.proposed import gate_of
from cellxlate.enhancement.gates.source import AttentionSource
from cellxlate.enhancement.input import ANEW, Context, SeenPlanes
from cellxlate.enhancement.neighbours.held import HeldPlanes
from cellxlate.enhancement.outputs.identity import input_identity
from cellxlate.enhancement.plan import Plan
from cellxlate.enhancement.plane import Band, PlaneJob, Work, enhance_plane, job_of
from cellxlate.enhancement.proposals.source import Proposal, key_of, needs_of, proposer_of
from cellxlate.enhancement.tiling import Tile
from cellxlate.errors import CellxlateError, InputError, ModelError, OutputError, Speaker, said
from cellxlate.locations import Location
from cellxlate.model.bundle import Bundle
from cellxlate.model.engines.engine import EngineTranslator, open_engine
from cellxlate.model.engines.no_engine import NO_ENGINE, NoEngine
from cellxlate.model.engines.threads import use_threads
from cellxlate.quality.checks import read_back_part
from cellxlate.quality.tally import Tally
from cellxlate.settings import EnhanceSettings
from cellxlate.stacks.intensity.range import IntensityRange
from cellxlate.stacks.read.open import open_stack
from cellxlate.stacks.stack import PlaneIndex, Stack
from cellxlate.stacks.write.origins import Origins, RowSums, row_sums
from cellxlate.stacks.write.pyramid import Pyramid

MOST_OPEN = 4
"""Jobs whose stack a worker keeps open; several users may share a cluster."""

_MODELS: dict[str, Bundle] = {}
_PROPOSALS: dict[str, Proposal] = {}
_OPEN: "dict[str, OpenJob]" = {}
_ONE_AT_A_TIME = Lock()
"""A worker computes one band at a time, with as many threads as it has: engines and readers are not shared."""


@dataclass(frozen=True)
class InputFile:
    """Where workers find an input, and what `open_stack` takes to read the same of it."""

    path: Location
    axes: str
    image: int
    incomplete: bool

    @classmethod
    def of(cls, stack: Stack) -> "InputFile":
        """Return that of a stack; raise InputError where it lies in memory, where no worker can read it."""
        if stack.path is None:
            raise InputError(f"{stack.name} lies in memory, workers read from files; write it to a file first")
        return cls(stack.path.absolute(), stack.axes, stack.image, stack.incomplete)

    def open(self) -> Stack:
        """Open it."""
        return open_stack(self.path, self.axes, image=self.image, incomplete=self.incomplete)


@dataclass(frozen=True)
class BandJob:
    """All a worker needs to know of a stack, but the model, which it has got already. A few hundred bytes.

    Attributes
    ----------
    token : str
        Tells one run from another.
    version : str
        Of the program that asks.
    source : InputFile
        The input.
    identity : mapping
        `input_identity` of the input where the job was planned.
    digest : str
        SHA-256 of the weights.
    engine : str
        Engine, device and precision.
    groups : tuple of (mapping of int to IntensityRange)
        The channels that are enhanced together, with what was measured once; other channels are copied.
    luminances : tuple of (IntensityRange or None)
        As in PlaneJob, of each group.
    beside : mapping of int to IntensityRange
        As in PlaneJob, for all groups.
    context : Context
        As in PlaneJob.
    gate : AttentionSource
        Where attention comes from; a mask is read by each worker.
    target : IntensityRange or None
        As in PlaneJob.
    settings : EnhanceSettings
        With the tile size that the plan has chosen.
    image, attention : Pyramid
        The pixels of the two partials.
    origins : Origins
        Where it is noted what bands were made from.
    proposal : str
        Key of what proposes in place of the model, which the worker has got already; empty where nothing does.
    """

    token: str
    version: str
    source: InputFile
    identity: dict[str, Any]
    digest: str
    engine: str
    groups: tuple[Mapping[int, IntensityRange], ...]
    luminances: tuple[IntensityRange | None, ...]
    beside: Mapping[int, IntensityRange]
    context: Context
    gate: AttentionSource
    target: IntensityRange | None
    settings: EnhanceSettings
    image: Pyramid
    attention: Pyramid
    origins: Origins
    proposal: str = ""


@dataclass(frozen=True)
class BandDone:
    """What a band has cost: pixels, counted work, seconds of reading, computing, writing, and by which worker."""

    worker: str
    pixels: int
    work: Work
    read_s: float
    compute_s: float
    write_s: float

    @property
    def seconds(self) -> float:
        """Seconds in all."""
        return self.read_s + self.compute_s + self.write_s


@dataclass(frozen=True)
class QueuedBand:
    """One band on its way; `passed` counts the bands of the stack up to and with this one, done earlier or not."""

    index: PlaneIndex
    area: Tile
    passed: float


@dataclass
class Throughput:
    """What a worker has done: bands, pixels, and seconds it was busy."""

    bands: int = 0
    pixels: int = 0
    busy_s: float = 0.0

    def as_dict(self) -> dict[str, float]:
        """Return plain values for JSON."""
        rate = self.pixels / self.busy_s / 1e6 if self.busy_s else 0.0
        return {"bands": self.bands, "busy_s": round(self.busy_s, 3), "megapixel_per_s": round(rate, 3)}


@dataclass
class OpenJob:
    """A stack that a worker has opened, how its channels are enhanced, and the rows that it has seen last."""

    stack: Stack
    jobs: tuple[PlaneJob, ...]
    image: Pyramid
    attention: Pyramid
    see: SeenPlanes = ANEW
    read_s: float = 0.0

    def read(self, index: PlaneIndex, rows: slice) -> npt.NDArray[Any]:
        """Read rows of a plane and count the time."""
        started = time.perf_counter()
        pixels = self.stack.read(index, rows)
        self.read_s += time.perf_counter() - started
        return pixels


def band_job(plan: Plan, token: str, *, image: Pyramid, attention: Pyramid, origins: Origins) -> BandJob:
    """Describe a plan for workers; InputError where its stack lies in memory."""
    stack, first = plan.stack, plan.jobs[0]
    return BandJob(
        token=token, version=cellxlate.__version__, source=InputFile.of(stack),
        identity=input_identity(stack.path, stack.files), digest=plan.bundle.digest, engine=plan.translator.identity,
        groups=tuple(job.intensities for job in plan.jobs), luminances=tuple(job.luminance for job in plan.jobs),
        beside=dict(plan.beside),
        context=first.context, gate=plan.source.seen_by_all(), target=first.target,
        settings=replace(plan.settings, tile_px=plan.tile_px),
        image=image, attention=attention, origins=Origins(origins.folder.absolute()), proposal=key_of(plan.proposal),
    )  # fmt: skip


@dataclass(frozen=True)
class CompareJob:
    """Input, result and attention, for workers that compare them."""

    source: InputFile
    enhanced: Location
    attention: Location
    tile_px: int


SeenRows = list[tuple[PlaneIndex, int, RowSums, RowSums | None]]
"""Of rows that were read: plane, first row, and the checksums of the input's and of the output's."""


def compare_parts(job: CompareJob, parts: Sequence[tuple[PlaneIndex, slice]]) -> tuple[Tally, SeenRows]:
    """Read rows of some planes back from the written files; count what differs, and say what the input holds now."""
    seen: SeenRows = []
    with job.source.open() as stack, open_stack(job.enhanced) as enhanced, open_stack(job.attention) as attention:
        tally = Tally.of(stack, tile_px=job.tile_px)
        for index, rows in parts:
            tally.include(
                read_back_part(
                    stack, enhanced, attention, index=index, rows=rows, tile_px=job.tile_px,
                    see=lambda *one: seen.append(one),
                )
            )  # fmt: skip
        return tally, seen


def sum_parts(source: InputFile, parts: Sequence[tuple[PlaneIndex, slice]]) -> SeenRows:
    """Read rows of some planes of an input, and return their checksums."""
    with source.open() as stack:
        return [(index, rows.start, row_sums(stack.read(index, rows)), None) for index, rows in parts]


def keep_model(bundle: Bundle, threads: int, proposal: Proposal | None = None) -> None:
    """Keep a model, and what proposes in its place, for all jobs of this process; networks run on so many threads."""
    use_threads(threads)
    _MODELS[bundle.digest] = bundle
    if proposal:
        _PROPOSALS[key_of(proposal)] = proposal


def forget_model(digest: str, proposal: str = "") -> None:
    """Release a model, and what proposes in its place."""
    _MODELS.pop(digest, None)
    _PROPOSALS.pop(proposal, None)


def forget_job(token: str) -> None:
    """Close the stack of a job that has ended; while a band is computed it stays open, until others take its place."""
    if _ONE_AT_A_TIME.acquire(blocking=False):
        try:
            if token in _OPEN:
                _OPEN.pop(token).stack.close()
        finally:
            _ONE_AT_A_TIME.release()


def fault_of_worker(job: BandJob, by: Speaker = "python") -> str:
    """Return in one line why this process cannot work on a job; nothing if it can."""
    try:
        with _ONE_AT_A_TIME:
            _opened(job)
    except (CellxlateError, OSError) as fault:
        return said(fault, by=by)
    return ""


def enhance_bands(job: BandJob, bands: Sequence[tuple[PlaneIndex, Tile]]) -> list[BandDone]:
    """Enhance some bands, one after another, as `enhance_band` does."""
    return [enhance_band(job, index, area) for index, area in bands]


def enhance_band(job: BandJob, index: PlaneIndex, area: Tile) -> BandDone:
    """Enhance one band of a plane, whole rows, in all channels of its group, and write it into both partials.

    Raises
    ------
    InputError, OutputError, ModelError
        Stack, partial or model cannot be reached or used from this machine.
    """
    with _ONE_AT_A_TIME:
        started = time.perf_counter()
        opened = _opened(job)
        opened.read_s, work = 0.0, Work()
        bands = _bands(opened, index, area, work)
        computed = time.perf_counter()
        folder = opened.image.full.folder
        if not (folder / "zarr.json").exists():  # writing would bring a folder back that was removed
            raise OutputError(f"{folder} is gone, the job has ended; nothing was written")
        for plane, band in bands.items():
            origin = band.origin(plane)
            opened.image.write(plane, band.first_row, band.enhanced)
            opened.attention.write(plane, band.first_row, band.attention)
            job.origins.add(origin)
        ended = time.perf_counter()
        return BandDone(
            worker_address(), sum(band.raw.size for band in bands.values()), work, read_s=opened.read_s,
            compute_s=computed - started - opened.read_s, write_s=ended - computed,
        )  # fmt: skip


def _bands(opened: OpenJob, index: PlaneIndex, area: Tile, work: Work) -> dict[PlaneIndex, Band]:
    """Return a band of the planes that are enhanced together."""
    stack = opened.stack
    job = job_of(opened.jobs, stack, index)
    if job is None:
        return {index: Band.copied(opened.read(index, slice(area.top, area.bottom)), area.top)}
    seen = job.input(stack, index, lambda plane: partial(opened.read, plane), opened.see)
    bands = enhance_plane(seen, [area], replace(job, work=work))
    return dict(zip(job.together(stack, index), bands, strict=True))


def worker_address() -> str:
    """Return the address of the dask worker that runs this task; the number of the process elsewhere."""
    try:
        from distributed import get_worker

        return str(get_worker().address)
    except (ImportError, ValueError):
        return f"process {os.getpid()}"


def _opened(job: BandJob) -> OpenJob:
    """Open a job's stack and engine, or return what is open already."""
    if job.token not in _OPEN:
        with _checked(job) as stack:
            engine, device, precision = job.engine.split()
            bundle = _MODELS[job.digest].seeing(job.context.planes)
            translator: EngineTranslator | NoEngine = NO_ENGINE
            if engine != "none":
                translator = open_engine(bundle, engine=engine, device=device, precision=precision)  # type: ignore[arg-type]
            gates = job.gate.open(stack)
            proposal = _PROPOSALS.get(job.proposal)
            if not needs_of(proposal).is_alone:
                gates = EachAttention(gates)
            jobs = tuple(
                PlaneJob(
                    translator,
                    group,
                    job.target,
                    job.settings,
                    context=job.context,
                    gates=gate_of(job.gate.kind, proposer, gates),
                    luminance=luminance,
                    beside=job.beside,
                    proposer=proposer,
                )
                for group, luminance in zip(job.groups, job.luminances, strict=True)
                for proposer in [proposer_of(proposal, tuple(group), luminance)]
            )
            while len(_OPEN) >= MOST_OPEN:
                _OPEN.pop(next(iter(_OPEN))).stack.close()
            see = HeldPlanes(planes_at_once(stack, jobs), are_whole=False) if job.context.along else ANEW
            _OPEN[job.token] = OpenJob(stack, jobs, job.image, job.attention, see)
    return _OPEN[job.token]


@contextmanager
def _checked(job: BandJob) -> Iterator[Stack]:
    """Open a job's stack after all is known to be here; close it again if something is not."""
    if job.version != cellxlate.__version__:
        raise ModelError(f"the worker runs cellxlate {cellxlate.__version__}, the job {job.version}; install the same")
    if job.digest not in _MODELS or (job.proposal and job.proposal not in _PROPOSALS):
        raise ModelError(f"the worker has not got the model {job.digest[:12]}; start the job again")
    for folder in (job.image.full.folder, job.attention.full.folder):
        is_here = (folder / "zarr.json").is_file()
        if not is_here or (isinstance(folder, Path) and not os.access(folder, os.W_OK)):
            raise OutputError(f"{folder} cannot be written from here; choose an output that all workers see")
    stack = job.source.open()
    try:
        identity = input_identity(job.source.path, stack.files)
        if any(identity.get(key) != job.identity.get(key) for key in ("bytes", "sampled_sha256")):
            raise InputError(f"{job.source.path} is another file here; choose an input that all workers see")
        yield stack
    except BaseException:
        stack.close()
        raise
