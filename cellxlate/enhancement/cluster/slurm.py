"""A script for Slurm in place of a run: an array over the stacks, whose tasks go on where the last one ended.

`slurm.sh.jinja` is the script, to be read as it is; `needs_of` says what a task asks for, `write_script` writes it.
"""

import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from math import ceil
from pathlib import Path

import torch

import cellxlate
from cellxlate.enhancement.outputs.names import Outputs, require_free
from cellxlate.enhancement.tiling import BAND_BYTES_PER_PX, SEEN_BYTES_PER_PX
from cellxlate.errors import OptionError, OutputError
from cellxlate.model.engines.devices import choose_kind
from cellxlate.model.engines.engine import Device
from cellxlate.options import OTHER_FOLDER, TO_REPLACE
from cellxlate.stacks.naming import one_line, output_format, partial_of
from cellxlate.stacks.stack import Stack
from cellxlate.stacks.write.partial import check_places
from cellxlate.whole_file import write_whole_file

CORES = 4
"""Of a task, where nothing else is asked for; more are hardly faster in one process."""

TIME_MARGIN, MEMORY_MARGIN, START_S = 2.0, 1.5, 600.0
"""What is asked for, to what is expected; beside that, time for slow disks and starting Python on a busy node."""

WORKER_GB, LEAST_GB, BAND_ROWS = 1.0, 2, 1024
STEP_S, LONGEST_S = 900, 86_400
"""Limits of time are multiples of 15 minutes, and no more than a day: queues for longer jobs are rare, and slow."""

NOTICE_S = 180
"""Before the end of the time Slurm says so: up to 60 s earlier than asked for, and ending takes at most 30 s."""

MOST_TASKS, MOST_AT_ONCE, MOST_REQUEUES = 1000, 50, 20
"""Slurm takes arrays of 1000 tasks, unless it is told otherwise."""

MODE = 0o755


@dataclass(frozen=True)
class TaskNeeds:
    """What a task asks Slurm for."""

    cores: int
    memory_gb: int
    time_s: int
    graphics_card: bool = False

    @property
    def time_limit(self) -> str:
        """The time as Slurm takes it.

        Examples
        --------
        >>> TaskNeeds(4, 2, 86_400).time_limit
        '24:00:00'
        """
        return f"{self.time_s // 3600:02d}:{self.time_s // 60 % 60:02d}:00"


def needs_of(
    expected_s: float,
    peak_mb: float,
    *,
    plane_shape: tuple[int, int] = (0, 0),
    seen: int = 1,
    workers: int | None = None,
    graphics_card: bool = False,
) -> TaskNeeds:
    """Return what a task asks for that is expected to take so long, where a sample of it took so much memory.

    Bands of planes (Y, X) are wider than those of a sample, and so are those `seen` for each of them.

    Examples
    --------
    >>> needs_of(60.0, 700.0)
    TaskNeeds(cores=4, memory_gb=2, time_s=900, graphics_card=False)
    >>> needs_of(60.0, 1300.0, plane_shape=(2048, 30_720)).memory_gb
    4
    """
    time_s = STEP_S * ceil((TIME_MARGIN * expected_s + START_S) / STEP_S)
    band_gb = (
        min(plane_shape[0], BAND_ROWS) * plane_shape[1] * (BAND_BYTES_PER_PX + (seen - 1) * SEEN_BYTES_PER_PX) / 1e9
    )
    memory_gb = ceil(MEMORY_MARGIN * (peak_mb / 1000 + band_gb + WORKER_GB * (workers or 0)))
    return TaskNeeds(workers or CORES, max(memory_gb, LEAST_GB), min(time_s, LONGEST_S), graphics_card)


def device_here(device: Device) -> Device:
    """Return where a sample is run for tasks that will run on a device: on the processor where there is none here."""
    try:
        choose_kind(device)
    except OptionError:
        if device != "cuda":
            raise
        return "cpu"
    return device


@contextmanager
def threads_of_a_task() -> Iterator[None]:
    """Let torch use as many threads as a task will have cores, as far as this machine has them."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(CORES, os.cpu_count() or 1))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def group_size(stacks: int) -> int:
    """Return how many stacks a task enhances, so that an array holds all."""
    return ceil(stacks / MOST_TASKS)


def require_writable(stack: Stack, outputs: Outputs, *, overwrite: bool, resume: bool) -> None:
    """Check, as a run does before it begins, that results can go where they would.

    Raises
    ------
    OutputError
        The folder is missing or may not be written to, or something is in the way.
    """
    require_free(outputs, overwrite=overwrite, resume=resume)
    folder = outputs.enhanced.parent
    if isinstance(folder, Path) and not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{folder} may not be written to", remedy=("check your rights, or choose ", OTHER_FOLDER))
    for path in (outputs.enhanced, outputs.attention):
        check_places(
            path, partial_of(path), output_format(path, outputs.format), source=stack.path, replace=overwrite or resume
        )


def require_script_place(script: Path, *, overwrite: bool) -> None:
    """Raise OutputError or OptionError where a script cannot be written, or would replace what is none."""
    folder = script.absolute().parent
    if not folder.is_dir():
        raise OutputError(f"the folder {folder} of the script does not exist; make it or choose another")
    if re.search(r"[\\\n\r]", str(folder)):
        raise OptionError(
            f"the folder {folder} has a line break or a backslash in its name, which Slurm takes in no name of a log; "
            "write the script elsewhere"
        )
    if not os.path.lexists(script):
        return
    if not _is_script(script):
        raise OutputError(f"{script} is there and is no script, so it is not replaced; choose another name")
    if not overwrite:
        raise OutputError(f"{script} exists already", remedy=(*TO_REPLACE, ", or choose another name"))


def _is_script(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return path.is_file() and file.read(2) == b"#!"
    except OSError:
        return False


def script_of(
    script: Path,
    stacks: Sequence[str],
    options: Sequence[Sequence[str]],
    needs: TaskNeeds,
    *,
    origin: Sequence[str] = (),
    replaces: bool = False,
) -> str:
    """Return the script that enhances stacks as tasks of an array.

    Parameters
    ----------
    script : Path
        Where it will lie, and its logs beside it.
    stacks : sequence of str
        Absolute paths and addresses.
    options : sequence of sequence of str
        How each is enhanced: words of the command line, those of an option together.
    needs : TaskNeeds
        Of a task.
    origin : sequence of str
        Where these come from, for people.
    replaces : bool
        Whether results that are there already are replaced by the first attempt.

    Returns
    -------
    str
        Parts of names that are no UTF-8 as `os.fsdecode` gives them.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=False, undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    template = files("cellxlate.enhancement.cluster").joinpath("slurm.sh.jinja").read_text(encoding="utf-8")
    group = group_size(len(stacks))
    tasks = ceil(len(stacks) / group)
    return environment.from_string(template).render(
        version=cellxlate.__version__, name=_comment(shlex.quote(script.name)), needs=needs, group=group,
        job_name=re.sub(r"[^A-Za-z0-9._-]", "_", script.stem) or "cellxlate", logs=log_pattern(script),
        stack_count=len(stacks), task_count=tasks, most_at_once=min(tasks, MOST_AT_ONCE), notice_s=NOTICE_S,
        most_requeues=MOST_REQUEUES, origin=[_comment(line) for line in origin], replaces=replaces,
        program=shlex.join([sys.executable, "-m", "cellxlate"]), stacks=[shlex.quote(stack) for stack in stacks],
        options=[shlex.join(words) for words in options],
    )  # fmt: skip


def log_of(script: Path) -> str:
    """Return where the logs of tasks go, beside the script: %A is the number of the job, %a that of the task."""
    name = re.sub(r"[^\w.-]", "_", script.stem)
    return str(script.absolute().with_name(f"{name}-%A_%a.log"))


def log_pattern(script: Path) -> str:
    r"""Return that as Slurm reads it in a script: in quotes, where a folder has an odd name.

    Examples
    --------
    >>> log_pattern(Path("/my data/50 %/run.sh"))
    '"/my data/50 %%/run-%A_%a.log"'
    """
    log = Path(log_of(script))
    pattern = f"{log.parent}/".replace("%", "%%").replace("//", "/") + log.name
    return pattern if re.fullmatch(r"[\w./%+,:=@-]+", pattern) else '"' + pattern.replace('"', r"\"") + '"'


def write_script(script: Path, text: str, *, overwrite: bool) -> None:
    """Write a script that may be run, whole or not at all.

    Raises
    ------
    OutputError
        It cannot be written, or something has its name meanwhile that may not be replaced.
    """
    write_whole_file(script, os.fsencode(text), replaces=overwrite)
    script.chmod(MODE)


def said_needs(needs: TaskNeeds) -> Mapping[str, int | str | bool]:
    """Return what a task asks for as plain values for JSON."""
    return {
        "cpus_per_task": needs.cores, "memory_gb": needs.memory_gb, "time_limit": needs.time_limit,
        "graphics_card": needs.graphics_card,
    }  # fmt: skip


def _comment(text: str) -> str:
    """Return a text that stays inside a comment of a script: in one line, whatever names it holds."""
    return one_line("".join(letter if letter.isprintable() else "?" for letter in text))
