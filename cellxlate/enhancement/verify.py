"""What a run answers for: the promise verified on what was written, and the report of what was changed."""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from cellxlate.enhancement.confidence.noise_alone import noise_alone
from cellxlate.enhancement.gates.source import stated_identity
from cellxlate.enhancement.outputs.names import Outputs, may_replace, recorded_provenance
from cellxlate.enhancement.plan import Plan
from cellxlate.enhancement.same_input import (
    ChangedInputError,
    file_states,
    named_bands,
    opened_again,
    read_again,
    require_same,
    same_input,
)
from cellxlate.errors import OutputError, PromiseError
from cellxlate.options import OVERWRITE, TO_REPLACE
from cellxlate.quality.checks import read_back
from cellxlate.quality.report.account import Account, Beside, account_of, doubts_about, in_a_thread
from cellxlate.quality.report.notices import Notice, failure_notices
from cellxlate.quality.report.remarks import input_notices
from cellxlate.quality.report.report import RunReport, write_page, write_record
from cellxlate.quality.tally import Tally, spared
from cellxlate.stacks.channel_names import shown_names
from cellxlate.stacks.naming import partial_of
from cellxlate.stacks.read.open import open_stack
from cellxlate.stacks.stack import PlaneIndex, Stack
from cellxlate.stacks.write.origins import Origin, RowSums, SeeRows

Compare = Callable[[Plan, Stack, Stack, Sequence[int], int, SeeRows], Tally]
"""Plan, result, attention, channels, side of a tile: reads what was written, and counts what differs. What is called
last is told the checksums of the input's rows."""

MOST_READ_BACK = 2
"""Once more where a file of the input was written to meanwhile, as what changed may have been read before."""

INPUT_DIGEST, OUTPUT_DIGEST = "input_rows_blake2b", "output_rows_blake2b"
"""In a report's provenance: of all rows of the input, and of the result and its attention, as they were verified."""


class DamagedResultError(PromiseError):
    """The written file does not hold what was computed."""


def compare_here(
    plan: Plan, image: Stack, selected: Stack, channels: Sequence[int], tile_px: int, see: SeeRows
) -> Tally:
    """Compare in this process."""
    return read_back(plan.stack, image, selected, channels=channels, tile_px=tile_px, see=see)


def told(compare: Compare, tell: Callable[[float], object]) -> Compare:
    """Return the same, which tells how many planes have been read, copied channels among them."""
    rows = 0

    def compare_and_tell(
        plan: Plan, image: Stack, selected: Stack, channels: Sequence[int], tile_px: int, see: SeeRows
    ) -> Tally:
        def see_and_tell(index: PlaneIndex, first_row: int, sums: RowSums, made: RowSums | None) -> None:
            nonlocal rows
            see(index, first_row, sums, made)
            rows += len(sums)
            tell(rows / plan.stack.plane_shape[0])

        return compare(plan, image, selected, channels, tile_px, see_and_tell)

    return compare_and_tell


def verify(
    plan: Plan,
    image: Stack,
    selected: Stack,
    compare: Compare = compare_here,
    *,
    origins: Mapping[PlaneIndex, Sequence[Origin]] | None = None,
    digest: str = "",
    made_digest: str = "",
    draw: bool = False,
    beside: Beside = in_a_thread,
) -> Account:
    """Open the input again, read it, result and attention, and count what differs: here, or where `compare` does it.

    `origins` say by plane what the bands were made from, and what they are. A run that was finished earlier has none
    any more, but its report states a `digest` of the input and one of the output. Whether the result should be believed
    is looked at too, and where pictures are wanted (`draw`) they are drawn meanwhile (`account_of`).

    Raises
    ------
    ChangedInputError
        The input holds something else than what bands, levels or the earlier run were made from.
    PromiseError
        A pixel whose attention is 0 differs from the input in any bit, or the shape is another.
    DamagedResultError
        Any other pixel, or attention, is not as it was computed.
    """
    return account_of(
        plan.stack, image, selected, lambda: _promised(plan, image, selected, compare, origins, digest, made_digest),
        channels=plan.channels, domain=plan.domain, levels=plan.luminances if plan.in_color else plan.intensities,
        in_color=plan.in_color, draw=draw, beside=beside,
    )  # fmt: skip


def _promised(
    plan: Plan, image: Stack, selected: Stack, compare: Compare, origins: Mapping[PlaneIndex, Sequence[Origin]] | None,
    digest: str, made_digest: str,
) -> Tally:  # fmt: skip
    """Count what differs, and raise what `verify` does where that is more than it may be."""
    stack = plan.stack
    for written in (image, selected):
        if (written.axes, written.shape) != (stack.axes, stack.shape):
            raise PromiseError(
                f"{stack.name}: the written file reads as {written.axes} {written.shape} in place of {stack.axes} "
                f"{stack.shape}; it does not appear under its name, please report this"
            )
    copied = [channel for channel in range(stack.channel_count) if channel not in plan.channels]
    chosen = plan.channels
    for _ in range(MOST_READ_BACK):
        before, check = file_states(stack), same_input(plan, origins)
        with opened_again(stack) as now:
            again = replace(plan, stack=now)
            tally = compare(again, image, selected, chosen, plan.tile_px, check.see)
            others = compare(again, image, selected, copied, 0, check.see)
            broken = tally.total.kept_violations + others.total.kept_violations
            if digest not in ("", check.digest):
                raise ChangedInputError(f"{stack.path or stack.name} was changed after the run")
            require_same(plan, check, now)
        tally.input_digest, tally.output_digest = check.digest, check.made_digest
        tally.input_states = before
        if file_states(stack) == before:
            break
    if broken:
        raise PromiseError(
            f"{stack.name}: {broken} kept pixels differ from the input in the written file, which therefore does not "
            "appear under its name; run again, and check the disk if it happens twice"
        )
    if check.damaged or made_digest not in ("", check.made_digest):
        where = f" ({named_bands(plan, check.damaged)})" if check.damaged else ""
        raise DamagedResultError(
            f"{stack.name}: the written file does not hold what was computed{where}, and therefore does not appear "
            "under its name; run again, and check the disk if it happens twice"
        )
    return tally


def run_report(
    plan: Plan, account: Account, outputs: Outputs | None, *, started: float, notes: Sequence[str] = ()
) -> RunReport:
    """Gather what the report says of a run since it `started`; what could not be found out is among its warnings."""
    tally = account.tally
    if outputs and outputs.report_json:
        with spared("trying noise alone", tally.failures):
            known = {channel: one.noise for channel, one in tally.trust.items() if one.noise}
            tally.noise_alone = noise_alone(plan, known)
    stack, work, repeat, proposal = plan.stack, plan.work, plan.repeat, plan.proposal
    by = proposal.warnings if proposal else ()
    notices = [Notice(line) for line in dict.fromkeys([*notes, *by, *plan.translator.warnings, *stack.warnings])]
    notices += doubts_about(stack, tally, chosen=plan.choice is not None, source=plan.stated_source)
    with spared("gathering remarks on intensities", tally.failures):
        notices += input_notices(
            plan.intensities,
            dict(enumerate(shown_names(stack))),
            plan.luminances,
            by=plan.model_name if plan.proposal else "one model",
        )
    notices += failure_notices(tally.failures)
    digests = {INPUT_DIGEST: tally.input_digest, OUTPUT_DIGEST: tally.output_digest} if tally.input_digest else {}
    seconds = {"calibrate": plan.calibrate_s, "attention": work.attention_s, "generator": work.generator_s}
    total_s = time.perf_counter() - started
    seconds |= {"io": total_s - sum(seconds.values()), "total": total_s}
    written = (
        {"enhanced": outputs.enhanced, "attention": outputs.attention if outputs.keep_attention else None,
         "report": outputs.report_html} if outputs else {}
    )  # fmt: skip
    stated = {name: outputs.name_of(path) if outputs and path is not None else None for name, path in written.items()}
    return RunReport(
        outputs=stated, input_name=stack.path.name if stack.path else stack.name, axes=stack.axes, shape=stack.shape,
        dtype=str(stack.dtype), model_name=plan.model_name, model_digest=plan.model_digest,
        tally=tally, model_licence=plan.model_licence,
        model_considered=plan.choice.considered if plan.choice else {},
        model_reason=plan.choice.reason if plan.choice else "",
        adaptation=plan.adaptation.as_dict() if plan.adaptation else {},
        ranking=plan.adaptation.ranking if plan.adaptation else None, pixel_size_um=stack.pixel_size_um,
        channel_names=shown_names(stack), settings=plan.stated_settings, versions=plan.versions,
        seconds={name: round(value, 3) for name, value in seconds.items()}, tiles_total=work.tiles_total,
        tiles_skipped=work.tiles_skipped, peak_rss_mb=peak_rss_mb(), engine=plan.engine, notices=notices,
        provenance=plan.provenance | digests, sections=account.sections,
        command=repeat.command, command_note=repeat.note,
    )  # fmt: skip


def store_report(
    report: RunReport, figures: str, outputs: Outputs, *, overwrite: bool = False, resume: bool = False
) -> RunReport:
    """Write the page and the record of a run where they are wanted, and return the report of what was written.

    It warns of each that could not be written: the result does not depend on it. In a resumed run only reports are
    replaced. `figures` are as `draw_planes` returns them.
    """
    html, record = outputs.report_html, outputs.report_json
    failures: list[str] = []
    if html:
        with spared("writing the report", failures):
            write_page(report, figures, html, replaces=may_replace(html, overwrite=overwrite, resume=resume))
        if failures:
            warned = [*report.notices, *failure_notices(failures)]
            report, failures = replace(report, outputs={**report.outputs, "report": None}, notices=warned), []
    if record:
        with spared("writing the report's JSON", failures):
            write_record(report, record, replaces=may_replace(record, overwrite=overwrite, resume=resume))
    return replace(report, notices=[*report.notices, *failure_notices(failures)])


def report_of_finished(plan: Plan, outputs: Outputs, *, started: float) -> RunReport | None:
    """Verify a run that has finished earlier and return its report; None where there is something left to do.

    Raises
    ------
    OutputError
        The outputs are there, but from another input, model, or other settings.
    PromiseError
        They have been changed since.
    """
    partial = partial_of(outputs.enhanced)
    if partial.exists() or not all(path.exists() for path in outputs.wanted):
        return None
    note, digest, made_digest = "this run was finished before; nothing was written", "", ""
    if outputs.report_json:
        stored = recorded_provenance(outputs.report_json)
        wanted = json.loads(json.dumps(plan.identity))
        stored = {**stored, "attention_source": stated_identity(stored)}
        differing = sorted(key for key, value in wanted.items() if stored.get(key) != value)
        if differing:
            raise OutputError(
                f"{outputs.enhanced} is finished, but from other {', '.join(differing)}", remedy=TO_REPLACE
            )
        digest, made_digest = str(stored.get(INPUT_DIGEST, "")), str(stored.get(OUTPUT_DIGEST, ""))
    else:
        note += "; without a report it is not known whether with the same settings"
    changed = OutputError(f"{outputs.enhanced} is finished, but from other pixels", remedy=TO_REPLACE)
    if not outputs.keep_attention:
        check = same_input(plan)
        if digest:
            read_again(plan, list(plan.stack.plane_indices()), check.see)
        if digest not in ("", check.digest):
            raise changed
        nothing = Account(Tally.of(plan.stack), "")
        return run_report(plan, nothing, outputs, started=started, notes=[note])
    with open_stack(outputs.enhanced) as image, open_stack(outputs.attention) as selected:
        try:
            account = verify(plan, image, selected, digest=digest, made_digest=made_digest)
        except ChangedInputError as fault:
            raise changed from fault
        except DamagedResultError as fault:
            raise PromiseError(
                f"{outputs.enhanced} or its attention was changed after the run",
                remedy=("give ", OVERWRITE, " to make it again"),
            ) from fault
    return run_report(plan, account, outputs, started=started, notes=[note])


def peak_rss_mb() -> float:
    """Return the largest resident memory of this process so far, in megabytes; 0 on Windows, where it is not known.

    Notes
    -----
    On Linux `getrusage` begins with what the parent held when it started this process, so the kernel's own record is
    read.
    """
    if sys.platform == "win32":
        return 0.0
    with suppress(OSError, IndexError, ValueError):
        return round(int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024 / 1e6, 1)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6, 1)
