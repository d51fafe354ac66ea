"""What people and programs are shown: lines or one JSON object on standard output, the rest on standard error."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any


def say(options: argparse.Namespace, answer: dict[str, Any], lines: Sequence[str]) -> None:
    """Print the answer as JSON, or as lines for people."""
    if options.json:
        print(json.dumps(answer, default=str))
    elif not options.quiet:
        print("\n".join(lines))


def complain(message: str) -> None:
    """Print one line on standard error."""
    print(f"cellxlate: {' '.join(message.split())}", file=sys.stderr)


@contextmanager
def progress_bar(options: argparse.Namespace, unit: str) -> Iterator[Callable[[float, int], None]]:
    """Give a function (done, total) that moves a progress bar on standard error; nothing happens without a terminal."""
    if options.quiet or not sys.stderr.isatty():
        yield lambda done, total: None  # noqa: ARG005
        return
    from tqdm import tqdm

    with tqdm(unit=unit, file=sys.stderr, dynamic_ncols=True, leave=False) as bar:

        def show(done: float, total: int) -> None:
            bar.total = total
            bar.update(round(done, 2) - bar.n)

        yield show
