"""A batch from a panel, in a worker thread: no Qt, no layer, nothing of the viewer.

Import it in the worker: it loads torch.
"""

import json
import os
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue

from cellxlate.enhancement.batch import (
    Batch,
    BatchSettings,
    BatchStack,
    StackOutcome,
    attempts,
    enhance_stack,
    plan_batch,
    start_plates,
)
from cellxlate.enhancement.flow import EnhanceProgress, Phase
from cellxlate.enhancement.job import THIS_PROCESS
from cellxlate.enhancement.outputs.names import Outputs, is_there
from cellxlate.enhancement.outputs.plates import finished_plates
from cellxlate.errors import CellxlateError, InputError, said
from cellxlate.locations import Location
from cellxlate.model.bundle import Bundle
from cellxlate.model.cards import AUTO
from cellxlate.model.engines.engine import interruptible
from cellxlate.plugin.batch.requests import BatchEnd, BatchNews, BatchRequest, FoundStacks
from cellxlate.plugin.batch.rows import BatchProgress, StackRow, stated_results
from cellxlate.plugin.requests import CancelledError
from cellxlate.plugin.working import in_thread
from cellxlate.regular_files import read_small_file
from cellxlate.settings import EnhanceSettings
from cellxlate.stacks.naming import is_zarr, one_line, partial_of, stack_name
from cellxlate.stacks.read.sets.planes import is_pattern
from cellxlate.stacks.write.plates import plate_fields

ADAPTING_SHARE = 0.5
SHARES: dict[Phase, tuple[float, float]] = {
    "levels": (0.0, 0.05), "checking": (0.05, 0.1), "enhancing": (0.1, 0.8), "writing": (0.8, 0.87),
    "verifying": (0.87, 0.95), "report": (0.95, 0.99), "publishing": (0.99, 1.0),
}  # fmt: skip
"""Where in the time of one stack its phases lie, about."""

DOING: dict[Phase, str] = {
    "levels": "measuring its levels", "checking": "checking earlier work", "report": "writing its report",
    "publishing": "naming its files", "adapting": "adapting the model to it",
}  # fmt: skip
SURE_S, SURE_SHARE = 2.0, 0.02
"""From when on it is said how long the rest will take."""


def find_steps(request: BatchRequest) -> Generator[None, None, FoundStacks]:
    """Find the stacks that are meant, without loading a model.

    Raises
    ------
    CellxlateError
        One cannot be found, two would be written to one place, ...
    """
    batch, left_out = _planned(replace(request, model=AUTO))
    yield
    return _found(request, batch, left_out)


def batch_steps(request: BatchRequest) -> Generator[BatchNews, None, BatchEnd]:
    """Enhance all stacks that are meant, one by one: what fails does not stop the others.

    Asked to end, it keeps what is done, and of the stack at work a partial that the next run continues.

    Raises
    ------
    CellxlateError
        Before any stack is enhanced, as `enhance_files` does.
    """
    run = _BatchRun(request)
    end = yield from in_thread(run.work, request.stop, tick=run.news)
    yield run.news()
    return end


def _planned(request: BatchRequest) -> tuple[Batch, tuple[str, ...]]:
    """Return the batch that is meant, and a line for each kind of what is found and is no stack."""
    left_out: list[str] = []
    paths = [chosen for path in request.paths for chosen in _chosen(path, request.wells)]
    settings = BatchSettings(
        output_dir=request.output_dir, channels=request.channels or None,
        settings=EnhanceSettings(threshold=request.threshold, context=request.context), adapt_s=request.adapt_s,
        overwrite=request.existing == "replace", resume=request.existing != "replace",
        attention_channel=request.attention_channel, attention_from=request.attention_from,
    )  # fmt: skip
    return plan_batch(paths, request.model, settings, left_out=left_out.append), tuple(left_out)


def _chosen(path: Path, wells: Sequence[str]) -> list[Location]:
    """Return a path, or of a plate the fields of the chosen wells where these are not all."""
    fields = _fields(path) if wells else []
    chosen = [field for field in fields if _well(field) in wells]
    return [path] if len(chosen) == len(fields) else [path / field for field in chosen]


def _fields(path: Path) -> list[str]:
    """Return where the fields of a plate lie in it; nothing where it is none, or cannot be read and will say why."""
    with suppress(InputError):
        return plate_fields(path) if is_zarr(path) else []
    return []


def _well(field: str) -> str:
    """Return the well of a field.

    Examples
    --------
    >>> _well("A/1/0")
    'A/1'
    """
    return field.rpartition("/")[0]


def _found(request: BatchRequest, batch: Batch, left_out: tuple[str, ...]) -> FoundStacks:
    wells = [_well(field) for path in request.paths for field in _fields(path)]
    return FoundStacks(tuple(_row(stack.path) for stack in batch.stacks), tuple(dict.fromkeys(wells)), left_out)


def _row(path: Location) -> StackRow:
    row = StackRow(stack_name(path), str(path))
    is_gone = isinstance(path, Path) and not is_pattern(path) and not os.path.exists(path)  # noqa: PTH110  exists() may raise
    return replace(row, state="failed", verdict="is not there") if is_gone else row


class _BatchRun:
    """Enhances in one thread, and tells in another how far it is."""

    def __init__(self, request: BatchRequest) -> None:
        self._request = request
        self._told: SimpleQueue[BatchNews] = SimpleQueue()
        self._rows: list[StackRow] = []
        self._clock = _BatchClock(())
        self._progress: BatchProgress | None = None

    def news(self) -> BatchNews:
        """Return what has become known since the last time."""
        found, changed = None, dict[int, StackRow]()
        with suppress(Empty):
            while True:
                told = self._told.get_nowait()
                found = told.found or found
                changed |= dict(told.changed)
        return BatchNews(found, tuple(changed.items()), self._progress)

    def work(self) -> BatchEnd:
        """Enhance all."""
        request, is_cancelled = self._request, False
        batch, left_out = _planned(request)
        found = _found(request, batch, left_out)
        self._rows, self._clock = list(found.rows), _BatchClock(_weights(batch))
        self._told.put(BatchNews(found))
        check = request.stop.check
        with interruptible(batch.model, check) if isinstance(batch.model, Bundle) else nullcontext():
            start_plates(batch)
            for stack, outcome in zip(batch.stacks, attempts(batch, partial(self._attempt, batch)), strict=True):
                is_cancelled = isinstance(outcome.error, CancelledError)
                self._set(_became(self._row, stack, outcome))
                if is_cancelled:
                    break
                self._clock.next(is_work=outcome.report is not None)
        notes = [*left_out, *self._end_plates(batch)]
        return BatchEnd(tuple(self._rows), is_cancelled, tuple(notes))

    @property
    def _row(self) -> StackRow:
        """The row of the stack at work."""
        return self._rows[self._clock.number]

    def _set(self, row: StackRow) -> None:
        number = self._clock.number
        self._rows[number] = row
        self._told.put(BatchNews(changed=((number, row),)))

    def _attempt(self, batch: Batch, stack: BatchStack) -> StackOutcome:
        """Enhance a stack; where its results are there and are to be kept, skip it, with no report in the outcome."""
        self._request.stop.check()
        self._set(replace(self._row, state="running"))
        self._tell("levels", 0.0)
        there = _results_there(batch, stack) if self._request.existing == "keep" else None
        if there:
            self._set(_skipped(self._row, there))
            return StackOutcome(stack.path)
        return enhance_stack(batch, stack, where=THIS_PROCESS, watch=lambda: nullcontext(self._follow))

    def _follow(self, news: EnhanceProgress) -> None:
        """Note how far the stack at work is; a run that is asked to end ends here, unless all is done but the names."""
        if news.phase != "publishing":
            self._request.stop.check()
        self._tell(news.phase, news.done / news.total if news.total else 0.0)

    def _tell(self, phase: Phase, share: float) -> None:
        adapts, clock = self._request.adapt_s is not None, self._clock
        first, last = SHARES.get(phase, (0.0, 1.0))
        share = first + (last - first) * min(share, 1.0)
        if adapts:
            share = ADAPTING_SHARE * share if phase == "adapting" else ADAPTING_SHARE + (1 - ADAPTING_SHARE) * share
        clock.reach(share)
        count = len(self._rows)
        self._progress = BatchProgress(
            clock.number + 1, count, self._row.name, DOING.get(phase, phase), clock.share, clock.left_s
        )

    def _end_plates(self, batch: Batch) -> Iterator[str]:
        """Let the plates appear whose fields are all done, tell where the results lie, and yield what there is to say.

        Until then they cannot be opened: the folder that they lie in changes its name.
        """
        rows = {stack.path: row for stack, row in zip(batch.stacks, self._rows, strict=True)}
        missing = {path for path, row in rows.items() if row.state not in ("done", "skipped")}
        for outcome in finished_plates(
            batch.plates, missing, overwrite=batch.settings.overwrite, resume=batch.settings.resume
        ):
            plate = outcome.plate
            is_whole = not outcome.failed and outcome.error is None
            if outcome.error:
                yield said(outcome.error)
            elif outcome.failed:
                count = f"{outcome.failed} of {len(plate.fields)} fields are missing"
                yield f"{plate.source.name}: {count}, so no plate appears yet"
            else:
                yield from (f"{plate.source.name}: {warning}" for warning in plate.warnings())
            for number, stack in enumerate(batch.stacks):
                if stack.plate == plate and self._rows[number].state == "done":
                    self._rows[number] = _placed(self._rows[number], stack.outputs, is_final=is_whole)


def _became(row: StackRow, stack: BatchStack, outcome: StackOutcome) -> StackRow:
    """Return the row of a stack after its attempt."""
    if isinstance(outcome.error, CancelledError):
        begun = partial_of(stack.outputs.enhanced).exists()
        return replace(row, state="waiting", verdict="begun; Enhance goes on from here" if begun else "")
    if outcome.error is not None:
        reason = _reason(outcome.error).removeprefix(row.path).lstrip(": ")  # which the row says already
        return replace(row, state="failed", verdict=reason)
    report = outcome.report
    if report is None:
        return row
    changed, differ, verdict = stated_results(report.as_dict())
    row = replace(row, state="done", changed_fraction=changed, kept_violations=differ, verdict=verdict)
    if stack.plate:
        return row
    places = report.outputs
    return replace(row, enhanced=places.get("enhanced"), attention=places.get("attention"), report=places.get("report"))


def _reason(fault: Exception) -> str:
    """Return why a stack could not be enhanced, in one line."""
    if isinstance(fault, CellxlateError):
        return " ".join(said(fault).split())
    if isinstance(fault, MemoryError):
        return "there is not enough memory for this stack; close other programs, then enhance it again"
    kind = "the networks failed" if isinstance(fault, RuntimeError) else f"unexpected {type(fault).__name__}"
    return f"{kind} ({one_line(fault)})"


def _results_there(batch: Batch, stack: BatchStack) -> Outputs | None:
    """Return where the results of a stack are, if they are there and complete."""
    if stack.plate:
        return stack.outputs if stack.plate.is_finished() else None
    with batch.settings.open(stack.path) as opened:
        outputs = batch.settings.outputs(stack.path, opened)  # only now is their format known
    return outputs if is_there(outputs.enhanced) and not partial_of(outputs.enhanced).exists() else None


def _skipped(row: StackRow, outputs: Outputs) -> StackRow:
    """Return the row of a stack whose results were there before, with what their report states."""
    row, stated = replace(row, state="skipped", verdict="its results are there already"), None
    with suppress(OSError, ValueError, CellxlateError):
        stated = json.loads(read_small_file(outputs.report_json)) if outputs.report_json else None
    if isinstance(stated, dict):
        changed, differ, verdict = stated_results(stated)
        row = replace(row, changed_fraction=changed, kept_violations=differ, verdict=f"{row.verdict}; {verdict}")
    return _placed(row, outputs, is_final=True)


def _placed(row: StackRow, outputs: Outputs, *, is_final: bool) -> StackRow:
    """Return a row with where its results lie, in the end or until a plate is complete."""
    enhanced, attention, report = (
        None if path is None else outputs.name_of(path) if is_final else str(path)
        for path in (outputs.enhanced, outputs.attention, outputs.report_html)
    )
    return replace(row, enhanced=enhanced, attention=attention, report=report)


def _weights(batch: Batch) -> tuple[float, ...]:
    """Return how long each stack may take, relative to the others: by the size of its file, where all are files."""
    paths = [stack.path for stack in batch.stacks]
    sizes = [path.stat().st_size if isinstance(path, Path) and path.is_file() else 0 for path in paths]
    return tuple(max(size, 1) for size in sizes) if all(sizes) else (1.0,) * len(paths)


class _BatchClock:
    """How much of a batch is done, and how long the rest will take.

    Attributes
    ----------
    number : int
        Of the stack at work, from 0.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        self.number = 0
        self._weights, self._total = weights, sum(weights)
        self._over = self._worked = 0.0
        self._share = 0.0
        self._began = time.monotonic()

    def reach(self, share: float) -> None:
        """Take up how much of the stack at work is done, in [0, 1]; it never becomes less."""
        self._share = max(share, self._share)

    def next(self, *, is_work: bool) -> None:
        """Go on to the next stack; this one has told how long they take, if it was work."""
        weight = self._weights[self.number]
        self._over += weight
        self._worked += weight if is_work else 0.0
        self.number, self._share = self.number + 1, 0.0

    @property
    def share(self) -> float:
        """Of all stacks, in [0, 1]."""
        return (self._over + self._present) / self._total

    @property
    def left_s(self) -> float | None:
        """Seconds that the rest takes if it goes on like this."""
        spent_s, worked = time.monotonic() - self._began, self._worked + self._present
        if spent_s < SURE_S or worked < SURE_SHARE * self._total:
            return None
        return spent_s * (self._total - self._over - self._present) / worked

    @property
    def _present(self) -> float:
        return self._share * self._weights[self.number]
