"""The command line: arguments in, exit code out. Each command imports what it needs when it runs."""

import os
import sys
import warnings
from collections.abc import Sequence

from cellxlate.cli.parser import build_parser
from cellxlate.cli.showing import complain
from cellxlate.errors import CellxlateError

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    arguments : sequence of str, optional
        Those of the process by default.

    Returns
    -------
    int
        0 done; 1 the job ran and a promise or check failed; 2 the input or the options are wrong; 130 interrupted.
    """
    options = build_parser().parse_args(arguments)
    if not options.debug:
        warnings.simplefilter("ignore")
    try:
        code: int = options.run(options)
        return code
    except KeyboardInterrupt:
        complain("interrupted; what is done is kept beside the output, give --resume to go on")
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads on; nothing to say
        return 0
    except CellxlateError as fault:
        if options.debug:
            raise
        complain(str(fault))
        return fault.exit_code
    except Exception as fault:  # the last line of defence: no traceback reaches a user
        if options.debug:
            raise
        complain(f"unexpected {type(fault).__name__}: {fault}; run again with --debug and report what it shows")
        return 1
