"""The command that repeats a run, here or elsewhere: on a copy of the input, with the same model."""

import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cellxlate.errors import said
from cellxlate.locations import Location
from cellxlate.model import cards
from cellxlate.options import LEVELS_FROM
from cellxlate.settings import AUTO, EnhanceSettings
from cellxlate.stacks.luminance import is_color
from cellxlate.stacks.naming import zarr_root
from cellxlate.stacks.stack import Stack

if TYPE_CHECKING:
    from cellxlate.model.engines.engine import Device, Engine, Precision

AGAIN = "again"
"""Folder for what is made again, so that nothing of the first run is in the way."""
DEFAULTS: "tuple[Engine, Device, Precision]" = ("auto", "auto", "float32")
"""Engine, device and numbers that nobody need ask for."""
MASK = "MASK"
"""Stands for a mask that is no file."""
FORGOTTEN = "cellxlate-"
"""How the folders begin that panels make for one session, among the system's temporary files."""


@dataclass(frozen=True)
class Repeat:
    """A command that repeats a run, and what there is to know before it is given."""

    command: str
    note: str


def repeat(
    stack: Stack,
    *,
    model: Path | str | None,
    digest: str,
    name: str = "",
    settings: EnhanceSettings,
    channels: Sequence[int],
    levels_from: Path | None = None,
    asked: tuple[str, str, str] = DEFAULTS,
    attention_channel: int | None = None,
    attention_from: Path | str | None = None,
    context: str = "auto",
    is_part: bool = False,
    further: Sequence[str] = (),
    beside: Sequence[int] = (),
) -> Repeat:
    """Return the command that makes the same pixels of a stack, to be run in the folder of its file.

    Parameters
    ----------
    stack : Stack
        What was enhanced.
    model, digest : Path, str or None; str
        Where it lies, or the word that asks for it; None for a function, called `name`. The SHA-256 of its weights.
    settings : EnhanceSettings
        How; what does not change a pixel is left out.
    channels : sequence of int
        Which.
    levels_from : Path, optional
        Where the intensity levels come from, if they were not measured.
    asked : tuple of str
        Engine, device and numbers, as they were asked for.
    attention_channel : int, optional
        Whose attention gates all.
    attention_from : Path or str, optional
        A mask, or the word for another gate; the name of a mask that is no file, as MASK.
    context : str
        Which neighbours networks saw; "auto" where there is no choice.
    is_part : bool
        Whether the stack is a part of one that the levels were measured on.
    further : sequence of str
        Flags that the model needs.
    beside : sequence of int
        Channels that the networks saw beside.

    Notes
    -----
    Files in the folder of the input are named as they are seen from there, others by their full path. A shipped model
    has its name. What was never a file, and what is kept for one session only, gets a word in capitals; the note says
    what it stands for.
    """
    folder, source, notes = _source(stack, is_part=is_part)
    named, about = _model(model, digest, folder) if isinstance(model, Path) else _word(model, name)
    words = ["cellxlate", "enhance", source, "-m", named, *further]
    words += ["--threshold", str(settings.threshold), "--intensity", settings.intensity]
    if is_color(stack):
        words += ["--color", settings.color]
    if stack.axes_given or stack.path is None:
        words += ["--axes", stack.axes]
    if stack.image:
        words += ["--image", str(stack.image)]
    if stack.incomplete:
        words.append("--incomplete")
    if levels_from:
        words += ["--levels-from", _seen_from(folder, levels_from)]
    for flag, value, usual in zip(("--engine", "--device", "--precision"), asked, DEFAULTS, strict=True):
        words += [flag, value] if value != usual else []
    if len(channels) < stack.channel_count:
        words += ["--channel", *(_channel(stack, channel) for channel in channels)]
    if beside:
        words += ["--beside", *(_channel(stack, channel) for channel in beside)]
    if attention_channel is not None:
        words += ["--attention-channel", _channel(stack, attention_channel)]
    if attention_from is not None:
        words += ["--attention-from", _seen_from(folder, attention_from) if isinstance(attention_from, Path) else
                  attention_from]  # fmt: skip
        if attention_from == MASK:
            about.append("MASK stands for the mask, which was given as pixels in memory: save it as a file first.")
    words += ["--context", context] if context != "auto" else []
    words += ["--output-dir", AGAIN]
    return Repeat(_quoted(words), " ".join([*notes, *about]))


def _source(stack: Stack, *, is_part: bool) -> tuple[Path | None, str, list[str]]:
    """Return the folder to be in, what the stack is called there, and what there is to know of it."""
    path: Location | None = None if stack.kind == "array" else stack.path
    if path is None:
        stands = f"STACK stands for {stack.name!r}, which was given as pixels in memory: save it as a file first"
        if is_part:
            stands += said(
                ", of which this is a part; its intensity levels were measured on the whole: take them from the JSON "
                "of this report with ",
                LEVELS_FROM,
                by="command",
            )
        return None, "STACK", [f"{stands}."]
    root = zarr_root(path)
    if not isinstance(path, Path) or not isinstance(root, Path):
        return None, str(path), [f"The results go to a folder {AGAIN!r}."]
    name = path.relative_to(root.parent).as_posix()
    note = f"To be given in the folder that holds {root.name}; the results go to a folder {AGAIN!r} there."
    return root.parent, f"./{name}" if name.startswith("-") else name, [note]


def _model(path: Path, digest: str, folder: Path | None) -> tuple[str, list[str]]:
    """Return what a model is called in the folder, and what there is to know of one that is not shipped."""
    if path.parent == cards.SHIPPED:
        return path.name, []
    session = Path(tempfile.gettempdir()).resolve()
    if path.is_relative_to(session) and path.relative_to(session).parts[0].startswith(FORGOTTEN):
        return "MODEL", [f"MODEL stands for {path.name}, made for one session; its weights have the SHA-256 {digest}."]
    named = _seen_from(folder, path)
    return f"./{named}" if named == AUTO or named.startswith("-") else named, [
        f"The model is the one whose weights have the SHA-256 {digest}."
    ]


def _word(asked: str | None, name: str) -> tuple[str, list[str]]:
    """Return the word that asks for what proposes; of a function, which has none, how it is run again."""
    if asked is not None:
        return asked, []
    return "MODEL", [
        f"MODEL stands for the function {name}, which a command line cannot name: run it again in Python, with "
        "cellxlate.enhance_file."
    ]


def _seen_from(folder: Path | None, path: Path) -> str:
    """Return a path as it is named in a folder that holds it; in full elsewhere."""
    full = path.resolve()
    if folder is not None and full.is_relative_to(folder.resolve()):
        return full.relative_to(folder.resolve()).as_posix()
    return str(full)


def _channel(stack: Stack, channel: int) -> str:
    """Return the number of a channel, or its name where the number is another one's name."""
    taken = str(channel) in stack.channel_names
    return stack.channel_names[channel] if taken else str(channel)


def _quoted(words: Sequence[str]) -> str:
    """Return words as one line for the shell of this system."""
    return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)
