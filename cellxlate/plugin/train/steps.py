"""One training run from a panel, in a worker thread: no Qt, no layer, nothing of the viewer.

Import it in the worker: it loads torch.
"""

import math
import queue
import re
import tempfile
import threading
import time
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

from cellxlate.errors import CellxlateError, OptionError, said, speaking
from cellxlate.plugin.requests import CancelledError, Refusal
from cellxlate.plugin.train.requests import (
    StepDone,
    Stopped,
    Trained,
    TrainingSnapshot,
    TrainRequest,
    cut,
    painted_regions,
)
from cellxlate.settings import PRESETS
from cellxlate.stacks.naming import partial_of
from cellxlate.stacks.read.open import one_line
from cellxlate.stacks.stack import Stack
from cellxlate.stacks.write.copy import write_stacks
from cellxlate.training.fields.patches import window_px
from cellxlate.training.loop import TrainProgress, train
from cellxlate.training.run import has_checkpoint
from cellxlate.training.watch import LOOKS_BEFORE_GREY, collapse

PICTURE_EVERY_S = 5.0

News = StepDone | TrainingSnapshot
End = Trained | Stopped | Refusal


def train_steps(request: TrainRequest) -> Generator[News, None, End]:
    """Train what is requested; yields after each step and at each look.

    Returns
    -------
    Trained, Stopped or Refusal
        The model; where to resume; what was wrong.
    """
    told: queue.Queue[News | End] = queue.Queue()
    runner = threading.Thread(target=lambda: told.put(_run(request, told)), name="cellxlate training", daemon=True)
    runner.start()
    try:
        while True:
            news = told.get()
            if isinstance(news, End):
                return news
            yield news
    finally:
        request.stop.ask()
        runner.join()


def _run(request: TrainRequest, told: "queue.Queue[News | End]") -> End:
    """Train, and turn whatever ends it into what the panel can say."""
    partial = partial_of(request.output)
    watch = _RunWatch(request, told)
    try:
        with speaking("panel"), tempfile.TemporaryDirectory(prefix="cellxlate-") as folder:
            source, target, masks = _as_files(request, Path(folder))
            train(
                source, target, output=request.output, preset=request.preset, guide=request.guide, masks=masks,
                steps=request.steps, seed=0, tensorboard=False, resume=request.resume, progress=watch.look,
                after_step=watch.step,
            )  # fmt: skip
        return Trained(request.output, watch.done, watch.seconds)
    except CancelledError:
        return Stopped(partial, has_checkpoint(partial))
    except CellxlateError as fault:
        return Refusal(said(fault, by="panel"))
    except MemoryError:
        return Refusal("there is not enough memory to train; close other layers, or give folders of smaller images")
    except Exception as fault:  # noqa: BLE001  a thread's own failure would otherwise leave the panel waiting
        return Refusal(f"training failed ({type(fault).__name__}: {one_line(fault)})")


class _RunWatch:
    """Passes on what a run tells, and stops it when that is asked."""

    def __init__(self, request: TrainRequest, told: "queue.Queue[News | End]") -> None:
        self._request, self._told = request, told
        self._pictured: float | None = None
        self.done, self.seconds = 0, 0.0

    def step(self, done: int) -> None:
        self._request.stop.check()
        self.done = done
        self._told.put(StepDone(done))

    def look(self, news: TrainProgress) -> None:
        self.seconds = news.seconds
        now, picture = time.monotonic(), None
        if news.picture and (
            self._pictured is None or now - self._pictured > PICTURE_EVERY_S or news.step == news.steps
        ):
            self._pictured, picture = now, news.picture()
        area, agreement = news.attention.area, news.attention.agreement
        values = {**news.terms, "attention_area": area, "attention_agreement": agreement}
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        leaning = collapse([news.attention] * LOOKS_BEFORE_GREY)
        if leaning in ("grey", "flat") and self.done < news.steps // 5:
            leaning = None  # attention starts out grey, and a generator flat
        self._told.put(TrainingSnapshot(news.step, news.steps, news.seconds, finite, leaning, picture, news.note))


def _as_files(request: TrainRequest, folder: Path) -> tuple[list[Path], list[Path], list[Path] | None]:
    """Write layers into files, as training reads them; return source, target and masks."""
    for name in ("source", "target", "masks"):
        (folder / name).mkdir()
    wanted: list[tuple[Stack, Path]] = []
    paths: list[list[Path]] = []
    for side in ("source", "target"):
        images: Stack | Path = getattr(request, side)
        if isinstance(images, Path):
            paths.append([images])
            continue
        file = folder / side / f"{file_name(images.name)}.ome.tif"
        wanted.append((replace(images, name=file_name(images.name)), file))  # by which a resumed run recognises it
        paths.append([folder / side])
    if request.guide == "masks":
        if request.painted is None or isinstance(request.source, Path):
            raise OptionError("painted cells need a source layer and a Labels layer of its shape; choose both")
        settings = PRESETS[request.preset]
        for number, region in enumerate(
            painted_regions(request.painted, window_px(settings.patch_px, settings.load_px)), 1
        ):
            name = f"{file_name(request.source.name)}-painted-{number}"
            for stack, subfolder in ((request.source, folder / "source"), (request.painted, folder / "masks")):
                wanted.append((cut(stack, region, name), subfolder / f"{name}.ome.tif"))
    write_stacks(wanted, progress=lambda _done, _total: request.stop.check())
    return paths[0], paths[1], [folder / "masks"] if request.guide == "masks" else None


def file_name(name: str) -> str:
    """Return a layer's name as a file name.

    Examples
    --------
    >>> file_name("cells: day 2/3")
    'cells day 2 3'
    """
    return " ".join(re.sub(r"[^\w\-. ]", " ", name).split()).strip(". ") or "layer"
