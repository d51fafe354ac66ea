"""One adaptation from a panel, in a worker thread: no Qt, no layer, nothing of the viewer.

Import it in the worker: it loads torch.
"""

import os
import tempfile
import time
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

from cellxlate.enhancement.adaptation.adapt import adapt_stack
from cellxlate.enhancement.adaptation.record import Adaptation
from cellxlate.enhancement.flow import EnhanceProgress, follow
from cellxlate.errors import CellxlateError
from cellxlate.plugin.enhance.steps import enhance_steps
from cellxlate.plugin.requests import Adapted, AdaptNews, AdaptRequest
from cellxlate.plugin.train.steps import file_name
from cellxlate.plugin.working import in_thread
from cellxlate.stacks.channel_names import choose_channels
from cellxlate.stacks.read.open import one_line


def adapt_steps(request: AdaptRequest) -> Generator[AdaptNews, None, Adapted]:
    """Adapt the model, keep it where it is judged to be better, and enhance a part of a plane before and after.

    Raises
    ------
    CellxlateError, CancelledError
        What was wrong; or it was asked to end. Neither leaves a file.
    """
    run = request.run
    try:
        parent = _place_for(run.source)
        with tempfile.TemporaryDirectory(prefix=".cellxlate-", dir=parent) as folder:
            made = Path(folder) / f"{file_name(run.appearance.name)}_model"
            learning = _Learning(request, made)
            adaptation = yield from in_thread(learning.work, run.stop, tick=learning.news)
            run.stop.check()
            if not adaptation.kept:
                return Adapted(None, adaptation.reason)
            yield AdaptNews(request.seconds, request.seconds, "Showing before and after ...")
            before, after = (follow(enhance_steps(replace(run, model=model))).image for model in (run.model, str(made)))
            kept = _keep(made, parent)
        return Adapted(kept, adaptation.reason, before, after)
    except CellxlateError:
        raise
    except MemoryError as fault:
        raise CellxlateError("there is not enough memory to adapt; close other layers first") from fault
    except OSError as fault:
        remedy = "free some space, or begin where you may write"
        raise CellxlateError(f"the adapted model cannot be kept ({fault}); {remedy}") from fault
    except RuntimeError as fault:  # of torch; the worker would take it for a result
        raise CellxlateError(f"adapting failed ({one_line(fault)})") from fault


class _Learning:
    """Adapts in one thread, and tells in another how much of the time is over."""

    def __init__(self, request: AdaptRequest, output: Path) -> None:
        self._request, self._output = request, output
        self._began, self._expected_s = time.monotonic(), request.seconds

    def news(self) -> AdaptNews:
        return AdaptNews(time.monotonic() - self._began, self._expected_s)

    def work(self) -> Adaptation:
        run, request = self._request.run, self._request
        return adapt_stack(
            run.stack, run.model, seconds=request.seconds, channels=choose_channels(run.stack, request.channels),
            settings=run.settings, device=run.device, output=self._output, progress=self._progress,
        )  # fmt: skip

    def _progress(self, news: EnhanceProgress) -> None:
        self._request.run.stop.check()
        self._expected_s = max(float(news.total), 1.0)


def _place_for(source: Path | None) -> Path:
    """Return the folder for the model: beside the file of the image, else the current one, else a temporary one."""
    for folder in (*([source.parent] if source else []), Path.cwd()):
        if folder.is_dir() and os.access(folder, os.W_OK):
            return folder
    return Path(tempfile.mkdtemp(prefix="cellxlate-"))


def _keep(made: Path, parent: Path) -> Path:
    """Move a model to its place, under a name that is free."""
    free = parent / made.name
    number = 2
    while free.exists():
        free, number = parent / f"{made.name}_{number}", number + 1
    return made.rename(free)
