"""What lies beside images and is none: results of earlier runs, told by their names and by what they state."""

from collections.abc import Callable

from cellxlate.errors import CellxlateError
from cellxlate.locations import Location
from cellxlate.stacks.naming import stack_name
from cellxlate.stacks.stack import Stack

RESULT_ENDINGS = ("_enhanced", "_attention", "_confidence", "_bounds")

OpenFile = Callable[[Location], Stack]


def states_enhancement(path: Location, open_file: OpenFile) -> bool:
    """Return whether an image states that an enhancement has made it; False where it cannot be read."""
    try:
        with open_file(path) as stack:
            return bool(stack.metadata.earlier)
    except (CellxlateError, OSError):
        return False


def is_result(path: Location, open_file: OpenFile) -> bool:
    """Return whether an image is a result of an earlier run: by its name, and by what it states.

    Parameters
    ----------
    path : Path
        A file or a Zarr folder.
    open_file : callable
        Opens it, as `open_stack` does.
    """
    return stack_name(path).endswith(RESULT_ENDINGS) and states_enhancement(path, open_file)
