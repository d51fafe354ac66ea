"""Watching attention while it learns: curves, and the ways it collapses."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from cellxlate.errors import OptionError, TrainingError
from cellxlate.options import GUIDE, OTHER_SEED, WITH_MASKS
from cellxlate.whole_file import write_whole_file

Collapse = Literal["ones", "zeros", "grey", "flat"]

CHECKS_IN_A_ROW = 3
NEARLY_ALL, NEARLY_NONE, GREY_STD, GREY_BITS = 0.98, 0.001, 0.02, 0.2
LEAST_DRAWN = 1e-3
"""In unit range: a tanh that is saturated draws less, and has no gradient any more."""

BORDER_PX = 16
"""Of patches, not looked at: there the networks see zeros in place of the image, and attention answers to that."""
LOOKS_BEFORE_GREY = 10
"""Attention starts out grey, and a generator flat: they have this many looks to make up their minds."""


@dataclass(frozen=True)
class AttentionState:
    """What attention does on a fixed set of source patches.

    Attributes
    ----------
    area : float
        Share of pixels above the threshold.
    entropy : float
        Mean binary entropy in bits; 0 decided, 1 undecided everywhere.
    inside, outside : float
        Mean attention inside and outside the guide; NaN without a guide.
    agreement : float
        IoU of attention > 0.5 with the guide; NaN without a guide.
    spread : float
        Standard deviation of attention over all pixels.
    drawn : float
        Between which levels, in unit range, the middle half of what the generator draws lies where attention selects;
        NaN where it selects nothing, and for generators that draw a difference from the image.
    """

    area: float
    entropy: float
    inside: float
    outside: float
    agreement: float
    spread: float
    drawn: float = math.nan


def look(
    attention: npt.NDArray[np.float32],
    guides: npt.NDArray[np.float32],
    threshold: float,
    proposal: npt.NDArray[np.float32] | None = None,
) -> AttentionState:
    """Summarise attention (B, 1, Y, X), without its border, against guides of the same shape (-1: there is none).

    `proposal` (B, G, Y, X) is what the generator draws, in unit range; None for one that draws a difference.
    """
    drawn = math.nan
    if proposal is not None and (attention > threshold).any():
        low, high = np.percentile(proposal[np.broadcast_to(attention > threshold, proposal.shape)], (25, 75))
        drawn = float(high - low)
    if min(attention.shape[2:]) >= 4 * BORDER_PX:
        attention, guides = (maps[..., BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX] for maps in (attention, guides))
    clipped = np.clip(attention.astype(np.float64), 1e-7, 1 - 1e-7)
    entropy = -(clipped * np.log2(clipped) + (1 - clipped) * np.log2(1 - clipped)).mean()
    inside, outside, known = guides > 0.5, guides == 0, guides >= 0
    selected = (attention > 0.5) & known
    union = (selected | inside).sum()
    return AttentionState(
        area=float((attention > threshold).mean()),
        entropy=float(entropy),
        inside=float(attention[inside].mean()) if inside.any() else float("nan"),
        outside=float(attention[outside].mean()) if outside.any() else float("nan"),
        agreement=float((selected & inside).sum() / union) if union else float("nan"),
        spread=float(attention.std()),
        drawn=drawn,
    )


def collapse(history: Sequence[AttentionState]) -> Collapse | None:
    """Name the collapse that the last three looks agree on: "ones", "zeros", "grey", "flat", or None.

    A guide that shows no cell, or nothing but cells, on the patches that are watched excuses attention that is so too.
    """
    recent = history[-CHECKS_IN_A_ROW:]
    if len(recent) < CHECKS_IN_A_ROW:
        return None
    if all(_selects_everything(state) for state in recent):
        return "ones"
    if all(state.area < NEARLY_NONE and not _guided_to_nothing(state) for state in recent):
        return "zeros"
    if len(history) >= LOOKS_BEFORE_GREY and all(
        state.spread < GREY_STD and state.entropy > GREY_BITS for state in recent
    ):
        return "grey"
    if len(history) >= LOOKS_BEFORE_GREY and all(state.drawn < LEAST_DRAWN for state in recent):
        return "flat"
    return None


def _selects_everything(state: AttentionState) -> bool:
    if math.isnan(state.inside) and math.isnan(state.outside):
        return state.area > NEARLY_ALL and state.entropy < GREY_BITS
    return state.area > NEARLY_ALL and state.outside > 0.9


def _guided_to_nothing(state: AttentionState) -> bool:
    return math.isnan(state.inside) and not math.isnan(state.outside)


def require_no_collapse(history: Sequence[AttentionState], step: int) -> None:
    """Raise TrainingError with a remedy when three looks agree on a collapse, of attention or of the generator."""
    kind = collapse(history)
    if kind == "flat":
        raise TrainingError(
            f"the generator draws one level wherever attention selects, at step {step}, and learns no more",
            remedy=(
                "set guide_in_loop with masks, if the target is another modality, or train again with ",
                OTHER_SEED,
            ),
        )
    if kind:
        meaning = {"ones": "selects everything", "zeros": "selects nothing", "grey": "is the same grey everywhere"}
        raise TrainingError(
            f"attention {meaning[kind]} at step {step} (collapse to {kind})",
            remedy=("train again with ", GUIDE.of("saliency"), ", ", WITH_MASKS, ", or with ", OTHER_SEED),
        )


class Curves:
    """A CSV file with one row per look; it survives an interruption and is cut back to the step that is resumed."""

    def __init__(self, path: Path, *, resume_step: int = 0) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        if resume_step and path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                self.rows = [row for row in csv.DictReader(file) if int(row["step"]) <= resume_step]
        self._write()

    def add(self, step: int, seconds: float, terms: dict[str, float], state: AttentionState) -> None:
        """Append one row and write the file."""
        values = {**terms, **{f"attention_{key}": value for key, value in asdict(state).items()}}
        self.rows.append(
            {"step": step, "seconds": round(seconds, 1), **{key: f"{value:.6g}" for key, value in values.items()}}
        )
        self._write()

    def _write(self) -> None:
        columns = list(dict.fromkeys(key for row in self.rows for key in row))
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, columns, restval="")
        writer.writeheader()
        writer.writerows(self.rows)
        write_whole_file(self.path, table.getvalue())


class Board(Protocol):
    """What a TensorBoard writer can do."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None: ...  # noqa: D102

    def close(self) -> None: ...  # noqa: D102


def open_board(folder: Path, *, wanted: bool | None) -> Board | None:
    """Return a TensorBoard log in a folder; where `wanted` is None, only if TensorBoard is installed.

    Raises
    ------
    OptionError
        It is wanted and not installed.
    """
    installed = find_spec("tensorboard") is not None
    if wanted and not installed:
        raise OptionError("a TensorBoard log needs the package tensorboard; install it, or leave the log out")
    if wanted is False or not installed:
        return None
    from torch.utils.tensorboard import SummaryWriter

    board: Board = SummaryWriter(str(folder))
    return board


def log(board: Board | None, step: int, terms: Mapping[str, float], state: AttentionState) -> None:
    """Write one look to a TensorBoard log, if there is one."""
    if board is None:
        return
    with suppress(OSError):  # a full disk ends no run for its log
        for name, value in terms.items():
            board.add_scalar(f"objective/{name}", value, step)
        for name, value in asdict(state).items():
            if math.isfinite(value):
                board.add_scalar(f"attention/{name}", value, step)
