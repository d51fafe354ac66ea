"""The command line: arguments in, exit code out. Each command imports what it needs when it runs."""

import argparse
import atexit
import os
import signal
import stat
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from cellxlate.cli.lines.output import complain, missing_package
from cellxlate.cli.parser import build_parser
from cellxlate.errors import CellxlateError, OptionError, said, speaking
from cellxlate.model.engines.malloc import keep_freed_memory

SIGNALLED = 128
"""Exit codes begin here where a signal ends a command: Ctrl-C 130, SIGTERM 143, a closed terminal 129."""

ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))

TIDY_S, LEAVE_S = 25.0, 5.0
"""When asked to end: to save what is done, and for threads after that; a scheduler kills a process after 30 s."""
NO_MEMORY = (
    "there is not enough memory; give a smaller --tile, or in training a smaller batch, or close other programs, and "
    "run again"
)
MEMORY_SIGNS = ("allocate memory", "out of memory", "can't allocate", "bad_alloc", "can't start new thread",
                "failed to map segment")  # fmt: skip
"""How libraries say it that raise exceptions of their own for it."""


class TerminatedError(KeyboardInterrupt):
    """The process was asked to end: by a scheduler (SIGTERM), or its terminal was closed (SIGHUP). As Ctrl-C does.

    Attributes
    ----------
    number : int
        Of the signal.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__()


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
        (Ctrl-C); 143 asked to end (SIGTERM); 129 the terminal was closed (SIGHUP).
    """
    given = sys.argv[1:] if arguments is None else arguments
    if any("\0" in argument for argument in given):
        complain("an argument holds a null character, which no file name can; check how it was made")
        return OptionError.exit_code
    with speaking("command"):
        return _run(build_parser().parse_args(arguments), is_process=arguments is None)


def _run(options: argparse.Namespace, *, is_process: bool) -> int:
    """Run a command that has been parsed; it ends this process with it where it `is_process`."""
    try:
        _prepare(options, is_process=is_process)
        with _terminable(leaves=is_process):
            code: int = options.run(options)
        return code
    except KeyboardInterrupt as ended:
        code = SIGNALLED + (ended.number if isinstance(ended, TerminatedError) else signal.SIGINT)
        if is_process:
            _end_at_once_if_asked_again(code)
        complain("interrupted; what is done is kept beside the output, give --resume to go on")
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
    if isinstance(fault, MemoryError) or any(sign in str(fault) for sign in MEMORY_SIGNS):
        return NO_MEMORY, 1
    if isinstance(fault, OSError):
        file = f"{fault.filename}: " if fault.filename else ""
        return f"{file}{fault.strerror or fault}; check the name, the folder and the disk", OptionError.exit_code
    if package := missing_package(fault):
        return package, OptionError.exit_code
    return f"unexpected {type(fault).__name__}: {fault}; run again with --debug and report what it shows", 1


def _prepare(options: argparse.Namespace, *, is_process: bool) -> None:
    """Keep other packages quiet, unless everything is wanted, and memory where it was freed."""
    if not options.debug:
        warnings.simplefilter("ignore")
        import logging  # which --help needs not

        logging.getLogger("asyncio").disabled = True  # tasks that a connection leaves behind which has broken
        if is_process:
            sys.unraisablehook = lambda _: None
    keep_freed_memory()


@contextmanager
def _terminable(*, leaves: bool) -> Iterator[None]:
    """Let SIGTERM and SIGHUP end a command as Ctrl-C does, and the process where it `leaves`, whatever threads do.

    A signal that is ignored stays so: `nohup` lets a command go on when its terminal is closed.
    """
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():  # only that one may ask
        for number in ENDING:
            if signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, _End(leaves=leaves))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _End:
    """Hears a signal that asks to end."""

    def __init__(self, *, leaves: bool) -> None:
        self.leaves = leaves

    def heard(self, number: int) -> None:
        """Do what cannot wait until a step of training is complete."""
        if number == getattr(signal, "SIGHUP", None):
            _forget_terminal()
        if self.leaves:
            _leave_within(TIDY_S, SIGNALLED + number)

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        self.heard(number)
        raise TerminatedError(number)


def _forget_terminal() -> None:
    """Write no more to a terminal that is gone, where that would fail; files and pipes are still written to."""
    for handle in (1, 2):
        with suppress(OSError):
            if stat.S_ISCHR(os.fstat(handle).st_mode):
                os.dup2(os.open(os.devnull, os.O_WRONLY), handle)


def _end_at_once_if_asked_again(code: int) -> None:
    """End the process at once where it is asked to once more.

    While the interpreter ends, it is asked in vain: Python would take its handlers away, and the system end the process
    with a code of its own.
    """

    def listen(handler: Any) -> None:
        for number in (signal.SIGINT, *ENDING):
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, handler)

    with suppress(ValueError):  # not the main thread
        listen(lambda *_: os._exit(code))
        atexit.register(listen, signal.SIG_IGN)


def _leave_within(seconds: float, code: int) -> None:
    """End the process after some time, though threads of it wait for a disk or a server that does not answer."""

    def leave() -> None:
        time.sleep(seconds)
        os._exit(code)

    threading.Thread(target=leave, daemon=True).start()
