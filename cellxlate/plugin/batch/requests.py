"""What the panel asks of a worker for many stacks, and what comes back: no Qt, no layer, and no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cellxlate.plugin.batch.rows import BatchProgress, StackRow
from cellxlate.plugin.requests import StopRequest
from cellxlate.settings import THRESHOLD, Along

Existing = Literal["keep", "verify", "replace"]


@dataclass(frozen=True)
class BatchRequest:
    """Which stacks are to be enhanced, and how.

    Attributes
    ----------
    paths : tuple of Path
        Files, folders, OME-Zarr images and plates.
    stop : StopRequest
        Ends the run.
    wells : tuple of str
        Of the plates, as "A/1"; empty takes all, and the result is a plate then.
    model : str
        Folder, shipped name, or "auto", which takes for each stack the one that suits it.
    channels : tuple of str
        Names or numbers; empty takes all.
    threshold : float
        Of attention, in [0, 1].
    context : {"auto", "none", "z", "t"}
        Which planes beside each are looked at.
    output_dir : Path or None
        For all results; None leaves them beside their stacks.
    existing : {"keep", "verify", "replace"}
        What is done where results are there: skip the stack; verify them, also where they were interrupted; replace
        them. The first two continue what was interrupted.
    adapt_s : float or None
        Let the model learn so many seconds from each stack before.
    attention_channel : str or None
        Name or number of a channel whose attention gates all.
    attention_from : Path, "saliency" or None
        A mask, a folder of masks named like the images, or the automatic guide, in place of attention.
    """

    paths: tuple[Path, ...]
    stop: StopRequest
    wells: tuple[str, ...] = ()
    model: str = "auto"
    channels: tuple[str, ...] = ()
    threshold: float = THRESHOLD
    context: Along = "auto"
    output_dir: Path | None = None
    existing: Existing = "keep"
    adapt_s: float | None = None
    attention_channel: str | None = None
    attention_from: Path | str | None = None


@dataclass(frozen=True)
class FoundStacks:
    """The stacks that are meant, the wells of the plates among them, and a line for each kind of what is no stack."""

    rows: tuple[StackRow, ...]
    wells: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class BatchNews:
    """All rows where they are new, numbered rows that have changed, and how far the batch is."""

    found: FoundStacks | None = None
    changed: tuple[tuple[int, StackRow], ...] = ()
    progress: BatchProgress | None = None


@dataclass(frozen=True)
class BatchEnd:
    """What became of all: the rows, whether it was asked to end, and what else there is to say."""

    rows: tuple[StackRow, ...]
    is_cancelled: bool = False
    notes: tuple[str, ...] = ()
