"""What people and programs are shown: lines or one JSON object on standard output, the rest on standard error."""

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cellxlate.stacks.intensity.noise_model import CameraNoise
    from cellxlate.training.loop import TrainProgress

SPACES = "\t\xa0\u202f"
TABLE_ROWS = 20
TABLE_HEAD = "    step   seconds   objective   attention: area   inside  outside   agreement with the guide"


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


@contextmanager
def progress_bar(options: argparse.Namespace, unit: str) -> Iterator[Callable[..., None]]:
    """Give a function (done, total, phase) that moves a progress bar on standard error; each phase begins at 0.

    Nothing happens without a terminal.
    """
    if options.quiet or not sys.stderr.isatty():
        yield lambda done, total, phase="": None  # noqa: ARG005
        return
    from tqdm import tqdm

    with tqdm(unit=unit, file=sys.stderr, dynamic_ncols=True, leave=False) as bar:
        shown = ""

        def show(done: float, total: int, phase: str = "") -> None:
            nonlocal shown
            if phase != shown:
                shown = phase
                bar.unit = "s" if phase == "adapting" else unit
                bar.reset(total)
                bar.set_description(phase)
            bar.total = total
            bar.update(round(done, 2) - bar.n)

        yield show


@contextmanager
def training_table(options: argparse.Namespace) -> Iterator[Callable[["TrainProgress"], None]]:
    """Give a function that moves a progress bar and, twenty times a run, writes a row of a table above it."""
    if options.quiet or not sys.stderr.isatty():
        yield lambda news: None  # noqa: ARG005
        return
    from tqdm import tqdm

    with tqdm(unit="steps", file=sys.stderr, dynamic_ncols=True, leave=False) as bar:
        written = -1

        def show(news: "TrainProgress") -> None:
            nonlocal written
            if written < 0:
                bar.write(TABLE_HEAD, file=sys.stderr)
            bar.total = news.steps
            bar.update(news.step - bar.n)
            if news.note:
                bar.write(news.note, file=sys.stderr)
            row = TABLE_ROWS * news.step // news.steps
            if row > written:
                written = row
                bar.write(training_row(news), file=sys.stderr)

        yield show


def training_row(news: "TrainProgress") -> str:
    """Return a row of the table; a dash stands for what a run without a guide does not know."""
    seen = news.attention
    known = [seen.inside, seen.outside, seen.agreement]
    inside, outside, agreement = ("-" if math.isnan(value) else f"{value:.3f}" for value in known)
    objective = news.terms.get("total", math.nan)
    return (
        f"{news.step:8d}  {news.seconds:8.0f}  {objective:10.4f}  {seen.area:16.3f}  {inside:>7}  {outside:>7}"
        f"  {agreement:>10}"
    )


def noise_answer(name: str, noise: "CameraNoise") -> dict[str, Any]:
    """Return the camera noise of a channel as it stands in JSON."""
    return {
        "channel": name, "sd_counts": noise.sd_counts, "sd_interval": list(noise.sd_interval), "gain": noise.gain,
        "neighbour_correlation": noise.neighbour_correlation, "black_counts": noise.black_counts,
        "quantisation_counts": noise.quantisation_counts, "saturation_counts": noise.saturation_counts,
        "flat_share": noise.flat_share, "reliable": noise.reliable,
    }  # fmt: skip
