"""What lies beside images and is none: told by its name, and by what it states of itself."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from cellxlate.errors import CellxlateError
from cellxlate.locations import Location
from cellxlate.stacks.naming import (
    LABEL_ENDINGS,
    LOCK_FILE,
    PARTIAL_ENDING,
    UNFINISHED_ENDING,
    is_zarr,
    stack_name,
)
from cellxlate.stacks.stack import Stack

RESULT_ENDINGS = ("_enhanced", "_attention", "_confidence")
REPORT_ENDINGS = ("_report.html", "_report.json", "_reports")
UNFINISHED_ENDINGS = (PARTIAL_ENDING, UNFINISHED_ENDING, ".replaced")
MOST_NAMED = 4

OpenFile = Callable[[Path], Stack]


def states_enhancement(path: Location, open_file: Callable[[Location], Stack]) -> bool:
    """Return whether an image states that an enhancement has made it; False where it cannot be read."""
    try:
        with open_file(path) as stack:
            return bool(stack.metadata.earlier)
    except (CellxlateError, OSError):
        return False


def is_hidden(path: Path) -> bool:
    """Return whether a name begins with a dot, as those of the companions that macOS lays beside files do."""
    return path.name.startswith(".")


def is_result(path: Path, open_file: OpenFile) -> bool:
    """Return whether a file or folder is a result, a report, a model, or what an interrupted run leaves.

    By its name, and by what it holds: a user's own image of such a name does not state that it was enhanced.
    """
    if path.is_dir() and not is_zarr(path):
        is_unfinished = path.name.endswith(UNFINISHED_ENDINGS) and (path / LOCK_FILE).is_file()
        return is_unfinished or path.name.endswith("_reports") or (path / "card.json").is_file()
    if path.name.endswith((*UNFINISHED_ENDINGS, *REPORT_ENDINGS)):
        return True
    return stack_name(path).endswith(RESULT_ENDINGS) and states_enhancement(path, open_file)  # type: ignore[arg-type]


def is_label_image(path: Path, names: Iterable[str], open_file: OpenFile) -> bool:
    """Return whether a file is named like an image with `_masks`, `_labels` or `_strokes`, and holds whole numbers."""
    name = stack_name(path)
    if not any(name.endswith(ending) and name.removesuffix(ending) in names for ending in LABEL_ENDINGS):
        return False
    try:
        with open_file(path) as stack:
            return stack.dtype.kind in "bui"
    except (CellxlateError, OSError):
        return False


def images_among(paths: Sequence[Path], open_file: OpenFile) -> tuple[list[Path], list[str]]:
    """Return the images among what was found in a folder or fits a pattern, and a line for each kind of the rest.

    Only what is named like a result or a label image is opened.
    """
    names = {stack_name(path) for path in paths}
    images: list[Path] = []
    rest: dict[str, list[str]] = {}
    for path in paths:
        if is_hidden(path):
            rest.setdefault("hidden files, whose names begin with a dot", []).append(path.name)
        elif is_result(path, open_file):
            rest.setdefault("results of earlier runs", []).append(path.name)
        elif is_label_image(path, names, open_file):
            rest.setdefault("label images beside images (name them alone to use them as images)", []).append(path.name)
        else:
            images.append(path)
    return images, [left_out_words(kind, of_kind) for kind, of_kind in rest.items()]


def left_out_words(kind: str, names: Sequence[str]) -> str:
    """Say in one line what was left out."""
    named = ", ".join(names[:MOST_NAMED]) + (", ..." if len(names) > MOST_NAMED else "")
    return f"left out {len(names)} {kind}: {named}"
