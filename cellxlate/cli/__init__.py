"""The command line: arguments in, exit code out. Each command imports what it needs when it runs."""

import argparse
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from cellxlate.cli.lines.output import complain
from cellxlate.cli.parser import build_parser
from cellxlate.errors import CellxlateError, OptionError, said, speaking
from cellxlate.model.engines.malloc import keep_freed_memory

INTERRUPTED, TERMINATED = 130, 143

TIDY_S, LEAVE_S = 25.0, 5.0
"""When asked to end: to save what is done, and for threads after that; a scheduler kills a process after 30 s."""
NO_MEMORY = (
    "there is not enough memory; give a smaller --tile, or in training a smaller batch, or close other programs, and "
    "run again"
)
MEMORY_SIGNS = ("allocate memory", "out of memory", "can't allocate", "bad_alloc", "can't start new thread",
                "failed to map segment")  # fmt: skip
"""How libraries say it that raise exceptions of their own for it."""


class Terminated(KeyboardInterrupt):
    """The process was asked to end (SIGTERM), as a scheduler does when the time is up; what it does follows Ctrl-C."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    arguments : sequence of str, optional
        Those of the process by default.

    Returns
    -------
    int
        0 done; 1 the job ran and a promise or check failed; 2 the input or the options are wrong; 130 interrupted
        (Ctrl-C); 143 asked to end (SIGTERM).
    """
    given = sys.argv[1:] if arguments is None else arguments
    if any("\0" in argument for argument in given):
        complain("an argument holds a null character, which no file name can; check how it was made")
        return OptionError.exit_code
    with speaking("command"):
        return _run(build_parser().parse_args(arguments), is_process=arguments is None)


def _run(options: argparse.Namespace, *, is_process: bool) -> int:
    """Run a command that has been parsed; it ends this process with it where it `is_process`."""
    if not options.debug:
        warnings.simplefilter("ignore")
        import logging  # which --help needs not

        logging.getLogger("asyncio").disabled = True  # tasks that a connection leaves behind which has broken
        if is_process:
            sys.unraisablehook = lambda _: None
    keep_freed_memory()
    try:
        with _terminable(leaves=is_process):
            code: int = options.run(options)
        return code
    except KeyboardInterrupt as ended:
        complain("interrupted; what is done is kept beside the output, give --resume to go on")
        code = TERMINATED if isinstance(ended, Terminated) else INTERRUPTED
        if is_process:
            _leave_within(LEAVE_S, code)
        return code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads on; nothing to say
        return 0
    except Exception as fault:  # the last line of defence: no traceback reaches a user
        if options.debug:
            raise
        line, code = _refusal(fault)
        complain(line)
        return code


def _refusal(fault: Exception) -> tuple[str, int]:
    """Return what is said of a failure, and the exit code."""
    if isinstance(fault, CellxlateError):
        return said(fault), fault.exit_code
    if isinstance(fault, OSError):
        file = f"{fault.filename}: " if fault.filename else ""
        return f"{file}{fault.strerror or fault}; check the name, the folder and the disk", OptionError.exit_code
    if isinstance(fault, MemoryError) or any(sign in str(fault) for sign in MEMORY_SIGNS):
        return NO_MEMORY, 1
    return f"unexpected {type(fault).__name__}: {fault}; run again with --debug and report what it shows", 1


@contextmanager
def _terminable(*, leaves: bool) -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does, and the process where it `leaves`, whatever its threads wait for."""

    def end(_number: int, _frame: FrameType | None) -> None:
        if leaves:
            _leave_within(TIDY_S, TERMINATED)
        raise Terminated

    if threading.current_thread() is not threading.main_thread():  # only that one may ask
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _leave_within(seconds: float, code: int) -> None:
    """End the process after some time, though threads of it wait for a disk or a server that does not answer."""

    def leave() -> None:
        time.sleep(seconds)
        os._exit(code)

    threading.Thread(target=leave, daemon=True).start()
