"""What `train` says while it runs, on standard error: a bar and a table on a terminal, a line per look in a log."""

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cellxlate.cli.lines.output import printable
from cellxlate.cli.lines.table import duration, percent

if TYPE_CHECKING:
    from cellxlate.training.loop import TrainProgress

TABLE_ROWS, LOG_LINES = 20, 100
"""At most so many looks of a run are written, spread evenly over it."""
COLUMNS = (
    ("step", 15), ("so far", 12), ("left", 12), ("loss", 9), ("selected", 10), ("in cells", 10), ("overlap", 9),
)  # fmt: skip
"""Of the table on a terminal, with widths. The last three are attention's: the share of pixels that it selects, its
mean inside of what guides it, and how far it overlaps with that (IoU)."""
TERMS = {
    "cycle": "restoring", "guide": "following the guide", "adversarial": "looking real", "texture": "texture",
    "judge": "judging",
}  # fmt: skip
"""What the terms of the objective are about; those of both directions are shown as their mean."""
PREPARING = "preparing"
FIRST_STEPS = "step {n_fmt}, {elapsed} so far"
BAR = "{percentage:3.0f} % |{bar}| step {n_fmt} of {total_fmt}, {elapsed} so far, {remaining} left"


@dataclass(frozen=True)
class TrainingNews:
    """What training calls: with each look at attention, and after each step; None where nobody listens."""

    look: "Callable[[TrainProgress], None] | None" = None
    after_step: Callable[[int], None] | None = None


@contextmanager
def training_news(options: argparse.Namespace) -> Iterator[TrainingNews]:
    """Give what tells of a run on standard error: a bar with a table above it on a terminal, else lines of a log."""
    if options.quiet:
        yield TrainingNews()
    elif sys.stderr.isatty():
        with _training_bar() as news:
            yield news
    else:
        written = Spread(LOG_LINES)

        def write(news: "TrainProgress") -> None:
            if written.takes(news):
                print(printable(training_line(news)), file=sys.stderr, flush=True)

        yield TrainingNews(write)


class Spread:
    """Picks at most so many looks of a run, spread evenly over it; the first, the last and those with a note too."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._last = -1

    def takes(self, news: "TrainProgress") -> bool:
        """Return whether a look is one of those; another seed begins anew."""
        share = self.most * news.step // max(news.steps, 1)
        taken = share != self._last or bool(news.note) or news.step >= news.steps
        if taken:
            self._last = share
        return taken


@contextmanager
def _training_bar() -> Iterator[TrainingNews]:
    """Give what moves a bar with every step and writes rows of a table above it."""
    from tqdm import tqdm

    written, headed = Spread(TABLE_ROWS), False
    with tqdm(file=sys.stderr, dynamic_ncols=True, leave=False, bar_format=PREPARING, smoothing=0.05) as bar:

        def step(done: int) -> None:
            if not 0 < bar.n < done:  # the first step, of a run, of one that is resumed, or of another seed
                bar.reset()
                bar.initial = bar.n = done - 1
                bar.bar_format = BAR if bar.total else FIRST_STEPS
            bar.update(done - bar.n)

        def look(news: "TrainProgress") -> None:
            nonlocal headed
            bar.total, bar.bar_format = news.steps, BAR
            if written.takes(news):
                if not headed:
                    bar.write(training_head(), file=sys.stderr)
                headed = True
                if news.note:
                    bar.write(printable(news.note), file=sys.stderr)
                bar.write(training_row(news), file=sys.stderr)

        yield TrainingNews(look, step)


def training_head() -> str:
    """Return the head of the table."""
    return "".join(f"{name:>{width}}" for name, width in COLUMNS)


def training_row(news: "TrainProgress") -> str:
    """Return a row of the table; a dash stands for what a run without a guide does not know."""
    seen = news.attention
    cells = [
        f"{news.step} of {news.steps}", duration(news.seconds), _left(news) or "-",
        _decimals(news.terms.get("total", math.nan), 4), percent(seen.area, places=0), _decimals(seen.inside, 2),
        _decimals(seen.agreement, 2),
    ]  # fmt: skip
    return "".join(f"{cell:>{width}}" for cell, (_, width) in zip(cells, COLUMNS, strict=True))


def training_line(news: "TrainProgress") -> str:
    """Return a look as a line of a log: step N of M, time gone and left, the loss in words, what attention does."""
    seen = news.attention
    epoch = f", epoch {news.epoch} of {news.epochs}" if news.epochs else ""
    guided = "" if math.isnan(seen.agreement) else f", overlap with its guide {seen.agreement:.2f}"
    note = f"; {news.note}" if news.note else ""
    left = f", about {_left(news)} left" if _left(news) else ""
    return (
        f"training: step {news.step} of {news.steps}{epoch}, {duration(news.seconds)} so far{left}; "
        f"{loss_words(news.terms)}; attention selects {percent(seen.area, places=0)} of the pixels{guided}{note}"
    )


def loss_words(terms: Mapping[str, float]) -> str:
    """Return the loss and what it is made of.

    Examples
    --------
    >>> loss_words({"cycle_target": 0.25, "guide": 0.125, "total": 2.625, "attention_area": 0.1})
    'loss 2.6250 (restoring 0.2500, following the guide 0.1250)'
    >>> loss_words({"cycle_source": 0.25, "cycle_target": 0.75, "total": 5.0})
    'loss 5.0000 (restoring 0.5000)'
    """
    parts = []
    for name, words in TERMS.items():
        values = [value for key, value in terms.items() if key.split("_")[0] == name]
        if values:
            parts.append(f"{words} {sum(values) / len(values):.4f}")
    total = terms.get("total", math.nan)
    made_of = f" ({', '.join(parts)})" if parts else ""
    return f"loss {_decimals(total, 4)}{made_of}"


def _left(news: "TrainProgress") -> str:
    """Return how long a run will still take; nothing at its end."""
    return duration(news.left_s) if news.step < news.steps else ""


def _decimals(value: float, places: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{places}f}"
