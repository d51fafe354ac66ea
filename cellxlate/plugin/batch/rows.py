"""What became of each stack of a batch, as rows of a table; and how far all of it is. No Qt, no torch."""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Literal

State = Literal["waiting", "running", "done", "failed", "skipped"]
HEADINGS = ("Stack", "State", "Changed", "Differ", "Verdict")
COLUMNS = (
    "name", "path", "state", "changed_percent", "kept_pixels_that_differ", "verdict", "enhanced", "attention", "report"
)  # fmt: skip
"""Of the table as a file."""

LONG_PREFIX = 6
"""Characters that names may share before they are left out."""

FINISHED_BEFORE = "this run was finished before"
BEFORE = "made before, verified now; "
"""How the note begins that a resumed run was complete."""


@dataclass(frozen=True)
class StackRow:
    """One stack of a batch.

    Attributes
    ----------
    name, path : str
        What it is called, and where it is.
    state : {"waiting", "running", "done", "failed", "skipped"}
        Skipped are those whose results are there already.
    changed_fraction : float or None
        Share of the pixels of the chosen channels whose value changed, in [0, 1].
    kept_violations : int or None
        Pixels that attention did not select and that differ all the same; the promise is that there is none.
    verdict : str
        Whether to believe the result, or why there is none, in one line.
    enhanced, attention, report : str or None
        Where the results are, as soon as they can be opened.
    """

    name: str
    path: str
    state: State = "waiting"
    changed_fraction: float | None = None
    kept_violations: int | None = None
    verdict: str = ""
    enhanced: str | None = None
    attention: str | None = None
    report: str | None = None

    @property
    def cells(self) -> tuple[str, str, str, str, str]:
        """What stands under `HEADINGS`."""
        changed = "" if self.changed_fraction is None else f"{100 * self.changed_fraction:.2f} %"
        differ = "" if self.kept_violations is None else str(self.kept_violations)
        return self.name, self.state, changed, differ, self.verdict


@dataclass(frozen=True)
class BatchProgress:
    """How far a batch is: the stack at work, `number` of `count` from 1, what is done with it, and with all of them.

    `share` lies in [0, 1]; `left_s` is None until it can be said.
    """

    number: int
    count: int
    name: str
    doing: str
    share: float
    left_s: float | None = None


def summary(rows: Sequence[StackRow]) -> str:
    """Return how many stacks are in which state.

    Examples
    --------
    >>> summary([StackRow("a", "a.tif", "done"), StackRow("b", "b.tif", "failed"), StackRow("c", "c.tif", "done")])
    '2 done, 1 failed'
    >>> summary([])
    'no stack'
    """
    counts = Counter(row.state for row in rows)
    states: tuple[State, ...] = ("done", "skipped", "failed", "running", "waiting")
    return ", ".join(f"{counts[state]} {state}" for state in states if counts[state]) or "no stack"


def short_names(names: Sequence[str]) -> list[str]:
    """Return names without the long beginning that all of them share, up to a separator.

    Examples
    --------
    >>> short_names(["2026-11-28_donor1_a", "2026-11-28_donor2_b"])
    ['…donor1_a', '…donor2_b']
    >>> short_names(["day1_a", "day1_b"])
    ['day1_a', 'day1_b']
    """
    first, last = min(names, default=""), max(names, default="")
    pairs = zip(first, last, strict=False)
    shared = "".join(takewhile(bool, (one if one == other else "" for one, other in pairs))) if len(names) > 1 else ""
    cut = max(shared.rfind(separator) for separator in "_- .") + 1
    return [f"…{name[cut:]}" for name in names] if cut > LONG_PREFIX else list(names)


def progress_words(progress: BatchProgress) -> str:
    """Return how far a batch is, in one line.

    Examples
    --------
    >>> progress_words(BatchProgress(2, 7, "cells_b.tif", "enhancing", 0.2, 190.0))
    '2 of 7: cells_b.tif, enhancing; about 3 min left'
    """
    left = "" if progress.left_s is None else f"; about {_duration(progress.left_s)} left"
    return f"{progress.number} of {progress.count}: {progress.name}, {progress.doing}{left}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def rows_as_csv(rows: Sequence[StackRow]) -> str:
    r"""Return a table of rows as comma-separated values, with a line of headings.

    Examples
    --------
    >>> print(rows_as_csv([StackRow("a", "in/a.tif", "done", 0.125, 0, "fine", "in/a_enhanced.ome.tif")]), end="")
    name,path,state,changed_percent,kept_pixels_that_differ,verdict,enhanced,attention,report
    a,in/a.tif,done,12.5,0,fine,in/a_enhanced.ome.tif,,
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for row in rows:
        changed = None if row.changed_fraction is None else round(100 * row.changed_fraction, 6)
        table.writerow([row.name, row.path, row.state, changed, row.kept_violations, row.verdict,
                        row.enhanced, row.attention, row.report])  # fmt: skip
    return text.getvalue()


def stated_results(record: Mapping[str, Any]) -> tuple[float | None, int | None, str]:
    """Return changed fraction, kept pixels that differ, and verdict, as the JSON of a report states them.

    Examples
    --------
    >>> stated_results({"changed_fraction": 0.25, "kept_violations": 0, "warnings": []})
    (0.25, 0, 'no warning')
    """
    changed, differ = record.get("changed_fraction"), record.get("kept_violations")
    warnings = [str(warning) for warning in record.get("warnings") or ()]
    before = BEFORE if any(warning.startswith(FINISHED_BEFORE) for warning in warnings) else ""
    return (
        float(changed) if isinstance(changed, int | float) else None,
        int(differ) if isinstance(differ, int) else None,
        f"{before}{record['verdict']}" if record.get("verdict") else verdict_words(warnings),
    )


def verdict_words(warnings: Sequence[str]) -> str:
    """Return what a reader should know of a result, in one line.

    Examples
    --------
    >>> verdict_words([])
    'no warning'
    >>> verdict_words(["it is dark", "it is flat"])
    '2 warnings: it is dark; it is flat'
    >>> verdict_words(["this run was finished before; nothing was written"])
    'made before, verified now; no warning'
    """
    own = [" ".join(warning.split()) for warning in warnings if not warning.startswith(FINISHED_BEFORE)]
    before = BEFORE if len(own) < len(warnings) else ""
    if not own:
        return f"{before}no warning"
    return f"{before}{f'{len(own)} warnings' if len(own) > 1 else 'warning'}: {'; '.join(own)}"
