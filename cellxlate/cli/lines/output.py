"""What people and programs are shown: lines or one JSON object on standard output, the rest on standard error."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from cellxlate.cli.lines.table import elided

SPACES = "\t\xa0\u202f"
PHASES = {
    "adapting": "learning from the stack", "levels": "measuring levels", "checking": "checking earlier work",
    "writing": "putting files together", "verifying": "reading back", "publishing": "naming the files",
}  # fmt: skip
"""What a run does, in words; the others are words."""
NAME = 24
"""Cells for the name of a stack beside its bar."""
BAR = "{desc}{percentage:3.0f} % |{bar}| {n:.1f} of {total_fmt} {unit}, {elapsed} so far, {remaining} left"
BAR_OF_SECONDS = "{desc}{percentage:3.0f} % |{bar}| {n:.0f} of {total_fmt} s"
BAR_OF_WHOLE = "{desc}{percentage:3.0f} % |{bar}| {n:.0f} of {total_fmt} {unit}, {elapsed} so far, {remaining} left"


def printable(text: str, longest: int = 2000) -> str:
    r"""Return text without what could steer a terminal: such characters as escapes; cut.

    Examples
    --------
    >>> printable("a\x1b[2Jb µm")
    'a\\x1b[2Jb µm'
    """
    shown = "".join(letter if letter.isprintable() or letter in SPACES else ascii(letter)[1:-1] for letter in text)
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def say(options: argparse.Namespace, answer: dict[str, Any], lines: Sequence[str]) -> None:
    """Print the answer as JSON, or as lines for people."""
    if options.json:
        print(json.dumps(answer, default=str), flush=True)
    elif not options.quiet:
        text = "\n".join(printable(line) for line in lines)
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)


def complain(message: str) -> None:
    """Print one line on standard error."""
    print(f"cellxlate: {printable(' '.join(message.split()))}", file=sys.stderr)


def missing_package(fault: Exception) -> str:
    """Return what to say where a package cannot be loaded that cellxlate always needs; nothing of other faults."""
    name = fault.name or "" if isinstance(fault, ImportError) else ""
    if name.partition(".")[0] in ("", "cellxlate"):
        return ""
    reason = " ".join(str(fault).split())[:200]
    return (
        f"{name} cannot be loaded ({reason}); install it again: pip install --force-reinstall {name.partition('.')[0]}"
    )


@contextmanager
def progress_bar(options: argparse.Namespace, unit: str) -> Iterator[Callable[..., None]]:
    """Give a function (done, total, phase, name) that moves a progress bar on standard error; each phase begins at 0.

    Nothing happens without a terminal.
    """
    if options.quiet or not sys.stderr.isatty():
        yield lambda done, total, phase="", name="": None  # noqa: ARG005
        return
    from tqdm import tqdm

    form = BAR if unit == "planes" else BAR_OF_WHOLE
    with tqdm(unit=unit, file=sys.stderr, dynamic_ncols=True, leave=False, bar_format=form) as bar:
        shown = ""

        def show(done: float, total: int, phase: str = "", name: str = "") -> None:
            nonlocal shown
            if phase != shown:
                shown = phase
                bar.bar_format = BAR_OF_SECONDS if phase == "adapting" else form
                bar.reset(total)
                bar.set_description(f"{elided(printable(name), NAME)} {PHASES.get(phase, phase)}".strip())
            bar.total = total
            bar.update(round(min(done, total), 2) - bar.n)

        yield show
