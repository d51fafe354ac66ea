"""What strokes ask of a worker, and what comes back: no Qt, no layer, and no torch until it works."""

import hashlib
import re
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cellxlate.errors import CellxlateError
from cellxlate.plugin.requests import StopRequest
from cellxlate.stacks.stack import Stack

if TYPE_CHECKING:
    from cellxlate.model.bundle import Bundle

FIRST_STEPS = 40
"""After so many a first model is shown, while it learns on."""


@dataclass(frozen=True)
class StrokeRequest:
    """What is to be learned from which strokes.

    Attributes
    ----------
    stack : Stack
        One channel of a layer.
    strokes : ndarray of uint8
        Of its shape, taken down when it was asked.
    model : str
        To begin from: "auto", a shipped name, or a folder.
    folder : Path
        Where models are written, under names of their own.
    stop : StopRequest
        Ends it after a step.
    image : str
        Which image it is, in which state: two may have the same strokes.
    """

    stack: Stack
    strokes: npt.NDArray[np.uint8]
    model: str
    folder: Path
    stop: StopRequest
    image: str = ""

    @property
    def name(self) -> str:
        """Of the models: the same strokes on the same image and model have the same."""
        return strokes_key(self.strokes, self.model, self.image)


@dataclass(frozen=True)
class Taught:
    """A model has learned; `final` where it will not learn on."""

    folder: Path
    final: bool


def strokes_key(strokes: npt.NDArray[Any], model: str, image: str) -> str:
    """Return a name for strokes, their image and the model that they teach; how they came about does not matter."""
    at = np.flatnonzero(strokes)
    content = hashlib.blake2b(f"{model}\n{image}".encode(), digest_size=8)
    for part in (at, np.asarray(strokes).ravel()[at]):
        content.update(np.ascontiguousarray(part).tobytes())
    return content.hexdigest()


def folder_name(name: str) -> str:
    """Return what a taught model is called by default.

    Examples
    --------
    >>> folder_name("cells: day 2")
    'cells-day-2-strokes'
    """
    return "-".join([*re.findall(r"\w+", name), "strokes"])


def stroke_steps(request: StrokeRequest) -> Generator[Taught, None, None]:
    """Learn, and write a first and the final model; what is there already is not learned again."""
    try:
        for number, final in enumerate((False, True)):
            folder = request.folder / f"{request.name}-{number}"
            if not folder.exists():
                _learn(request, folder, None if final else FIRST_STEPS)
            request.stop.check()
            yield Taught(folder, final)
    except MemoryError as fault:
        raise CellxlateError("there is not enough memory to learn from strokes; close other layers") from fault


def _learn(request: StrokeRequest, folder: Path, steps: int | None) -> None:
    from cellxlate.choice import choose_model  # loads torch, which must not happen in the main thread
    from cellxlate.model.bundle import load_model
    from cellxlate.model.cards import AUTO
    from cellxlate.training.strokes import STEPS, teach

    base: Bundle = (
        choose_model(request.stack, [0])[0] if request.model == AUTO else load_model(request.model)
    )  # fmt: skip
    teach(
        request.stack, request.strokes, base, output=folder, steps=steps or STEPS,
        after_step=lambda _: request.stop.check(),
    )  # fmt: skip
