"""What an enhancement writes, and under which names."""

import json
import os
import shutil
import sys
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy.typing as npt

from cellxlate.errors import InputError, OptionError, OutputError, unless_denied
from cellxlate.locations import Location, RemotePath, located
from cellxlate.option_values import require_choice, require_flags
from cellxlate.options import FORMAT, OUTPUT, OUTPUT_DIR, TO_REPLACE_OR_RENAME
from cellxlate.quality.report.report import RunReport
from cellxlate.regular_files import read_small_file
from cellxlate.settings import Along
from cellxlate.stacks.naming import find_stacks, is_zarr, partial_of, stack_name, zarr_root
from cellxlate.stacks.read.not_images import images_among, is_hidden, states_enhancement
from cellxlate.stacks.read.open import find_images, open_stack, require_opening, without_results
from cellxlate.stacks.read.sets.ome import one_of_each
from cellxlate.stacks.read.sets.planes import is_pattern
from cellxlate.stacks.read.zarr import zarr_images
from cellxlate.stacks.stack import Pixels, Stack
from cellxlate.stacks.stores.bucket import check_remote
from cellxlate.stacks.write.job import begun_with
from cellxlate.stacks.write.writer import Format, is_half_published, natural_format, output_format, remove_partial
from cellxlate.whole_file import in_the_way

ENDINGS: dict[Format, str] = {
    "ome-tiff": ".ome.tif", "ome-zarr": ".ome.zarr", "ome-zarr-0.4": ".ome.zarr", "tiff": ".tif", "zarr": ".zarr"
}  # fmt: skip


@dataclass(frozen=True)
class Outputs:
    """Where the four results of one stack go; None for those that are not wanted.

    `final` says under which folders they will lie in the end, where these are not those they are written to.
    """

    enhanced: Location
    attention: Location
    report_html: Location | None
    report_json: Location | None
    keep_attention: bool = True
    format: Format | None = None
    final: Mapping[Path, Path] = field(default_factory=dict)

    def name_of(self, path: Location) -> str:
        """Return where a result will lie in the end."""
        for folder, final in self.final.items():
            if isinstance(path, Path) and path.is_relative_to(folder):
                return str(final / path.relative_to(folder))
        return str(path)

    @property
    def wanted(self) -> list[Location]:
        """The places that will exist in the end."""
        paths = [self.enhanced, self.attention if self.keep_attention else None, self.report_html, self.report_json]
        return [path for path in paths if path is not None]


def find_inputs(paths: Sequence[Location], *, each_image: bool = True) -> tuple[list[Location], list[str]]:
    """Return the stacks among files, Zarr folders, patterns and folders, and a line for each kind of what is left out.

    Of a plate or a set of images, each image is a stack of its own, unless `each_image` is False. A pattern with {T},
    {C} or {Z} is one stack, and so are the files of an OME-TIFF set that hold one image. Left out are hidden files,
    results of earlier runs and label images beside images; of what is given by name, results are where other stacks
    are given too.

    Raises
    ------
    InputError
        A pattern matches nothing, or a folder holds no image.
    """
    given, said = without_results(paths)
    stacks: list[Location] = []
    for path in given:
        if isinstance(path, RemotePath) or is_pattern(path):
            stacks.append(path)
        elif not path.exists() and any(sign in path.name for sign in "*?["):
            inside, rest = images_among(_fitting(path), open_stack)
            if not inside and rest:
                raise InputError(f"{path} fits no image ({'; '.join(rest)}); give the images")
            stacks += find_stacks(inside or [path], "stack")
            said += rest
        elif path.is_dir() and not is_zarr(path):
            inside, rest = find_images([path], "stack")
            stacks, said = [*stacks, *inside], said + rest
        else:
            stacks.append(path)
    stacks = one_of_each(list(dict.fromkeys(stacks)))
    return list(dict.fromkeys(image for path in stacks for image in (_images_of(path) if each_image else [path]))), said


def _fitting(pattern: Path) -> list[Path]:
    """Return what fits a pattern, sorted. `Path.glob` refuses two stars in a row, and may take for ever with fifty."""
    folder = pattern.parent
    if not folder.is_dir():
        return []
    return [
        item
        for item in sorted(folder.iterdir())
        if fnmatch(item.name, pattern.name) and (not is_hidden(item) or pattern.name.startswith("."))
    ]


def _images_of(path: Location) -> list[Location]:
    """Return the images of a plate or a set, itself where it holds one, or cannot be read and will say why."""
    images: list[str] = []
    with suppress(InputError):
        images = zarr_images(path) if is_zarr(path) else []
    return [path / image for image in images] if len(images) > 1 else [path]


def name_outputs(
    path: Location,
    *,
    is_zarr: bool,
    output: Location | None = None,
    output_dir: Location | None = None,
    format: Format | None = None,
    attention: bool = True,
    report: bool = True,
    like: Stack | None = None,
) -> Outputs:
    """Name the outputs of the stack at `path`.

    Parameters
    ----------
    is_zarr : bool
        Whether the input is Zarr, which is then written as Zarr too.
    output : Path, optional
        Of the enhanced stack; its ending decides the format, and the other names follow from it.
    output_dir, format, attention, report
        As in `enhance_file`.
    like : Stack, optional
        The input, where it is open: what OME cannot hold is written plain.

    Raises
    ------
    OptionError
        `output` and `output_dir` are both given, or the ending of `output` contradicts the format or names none.
    OutputError
        An output would replace the input.
    """
    if format is not None:
        require_choice(FORMAT, format, tuple(ENDINGS))
    require_flags(attention=attention, report=report)
    if output is not None and output_dir is not None:
        raise OptionError(OUTPUT, " and ", OUTPUT_DIR, " are both given", remedy="give one of them")
    if output is None:
        format = format_of(like, is_zarr=is_zarr, asked=format) if like else format
        ending = ENDINGS[format or ("ome-zarr" if is_zarr else "ome-tiff")]
        folder, stem, suffix = output_dir or zarr_root(path).parent, f"{stack_name(path)}_enhanced", ending
    else:
        output_format(output, format)
        folder, stem = output.parent, stack_name(output)
        suffix = output.name[len(stem) :]
    check_remote(folder)
    base = stem.removesuffix("_enhanced")
    outputs = Outputs(
        enhanced=folder / f"{stem}{suffix}",
        attention=folder / f"{base}_attention{suffix}",
        report_html=folder / f"{base}_report.html" if report else None,
        report_json=folder / f"{base}_report.json" if report else None,
        keep_attention=attention,
        format=format,
    )
    if any(_same(written, path) for written in (outputs.enhanced, outputs.attention)):
        raise OutputError(f"{path} would be replaced by its own result", remedy=("choose another ", OUTPUT))
    return outputs


@contextmanager
def opened(
    what: str | Location | Stack | npt.NDArray[Any] | Pixels,
    axes: str | None,
    image: int | None = None,
    incomplete: bool = False,
) -> Iterator[Stack]:
    """Open a path, and close it again; wrap an array; give back a stack, which is its owner's to close."""
    require_opening(axes, image, incomplete)
    if isinstance(what, Stack):
        yield what
    elif isinstance(what, str | Path | RemotePath):
        with open_stack(what, axes, image=image, incomplete=incomplete) as stack:
            yield stack
    else:
        yield Stack.from_array(what, axes)


def source_of(what: object, stack: Stack, *, to: str | Location | None) -> Location:
    """Return the path that outputs are named after: as it was given, that of the stack, or its name."""
    if isinstance(what, str | Path | RemotePath):
        return located(what)
    if stack.path is not None:
        return stack.path
    if to is None:
        raise OptionError(f"{stack.name} lies in memory and in no folder", remedy=("give ", OUTPUT, " or ", OUTPUT_DIR))
    return Path(stack.name)


def format_of(stack: Stack, *, is_zarr: bool, asked: Format | None = None) -> Format | None:
    """Return the format to name the outputs of a stack after: what is asked for, else plain where OME cannot hold it.

    None leaves it to the kind of the input.
    """
    if asked is not None:
        return asked
    natural = natural_format("zarr" if is_zarr else "tiff", stack, stack.dtype)
    return natural if natural in ("tiff", "zarr") else None


def make_folder(folder: Location | None) -> None:
    """Make the folder that outputs are asked to lie in; a bucket needs none.

    Raises
    ------
    OutputError
        It cannot be made.
    """
    if isinstance(folder, Path):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as fault:
            error = OutputError(
                f"the output folder {folder} cannot be made ({fault.strerror or fault})", remedy="choose another"
            )
            raise unless_denied(error, folder, fault) from fault


def require_free(outputs: Outputs, *, overwrite: bool, resume: bool) -> None:
    """Raise OutputError if an output is there already and may not be replaced, or if the folder does not exist."""
    folder = outputs.enhanced.parent
    if isinstance(folder, Path) and not folder.is_dir():
        raise OutputError(f"the output folder {folder} does not exist; make it or choose another")
    if overwrite or resume:
        return
    for path in outputs.wanted:
        if is_there(path):
            raise OutputError(f"{path} exists already", remedy=TO_REPLACE_OR_RENAME)


def may_replace(path: Location, *, overwrite: bool, resume: bool) -> bool:
    """Return whether what has an output's name may be replaced: anything, or, to resume, what a run has written."""
    if overwrite or not resume or not is_there(path):
        return overwrite
    if path.name.endswith("_report.json"):
        return bool(recorded_provenance(path))
    if path.name.endswith("_report.html"):
        with suppress(OSError, ValueError):
            return "Made by cellxlate" in read_small_file(path).decode("utf-8")
        return False
    if isinstance(path, RemotePath) and is_half_published(path):
        return True
    return states_enhancement(path, open_stack)


def require_still_free(outputs: Outputs, *, overwrite: bool, resume: bool) -> None:
    """Raise OutputError if something that may not be replaced has the name of the result or of its attention."""
    for path in [outputs.enhanced, *([outputs.attention] if outputs.keep_attention else [])]:
        if is_there(path) and not may_replace(path, overwrite=overwrite, resume=resume):
            raise in_the_way(path)


def is_there(path: Location) -> bool:
    """Return whether anything has a name, be it a link that leads nowhere."""
    return path.exists() if isinstance(path, RemotePath) else os.path.lexists(path)


def withdraw(outputs: Outputs, report: RunReport | None) -> None:
    """Remove what a cancelled run has left: its partials, and, where its report says so, the files that it wrote."""
    for path in (outputs.enhanced, outputs.attention):
        remove_partial(path)
    reports = (outputs.report_html, outputs.report_json)
    for path in outputs.wanted if report else []:
        if path in reports and not (report and report.outputs.get("report")):
            continue  # not written by this run
        if isinstance(path, RemotePath):
            path.remove_below()
            path.unlink()
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def recorded_provenance(report: Location) -> Mapping[str, Any]:
    """Return the provenance that a report's JSON states; nothing where it states none, InputError where denied."""
    try:
        stored = json.loads(read_small_file(report))["provenance"]
    except PermissionError as fault:
        raise unless_denied(InputError(f"{report} cannot be read"), report, fault) from fault
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    return stored if isinstance(stored, dict) else {}


def begun_context(outputs: Outputs) -> Along | None:
    """Return along which axis networks see neighbours in the run that was begun or finished; None where none says."""
    facts = begun_with(partial_of(outputs.enhanced)) or (
        recorded_provenance(outputs.report_json) if outputs.report_json else {}
    )
    settings = facts.get("settings")
    if not isinstance(settings, Mapping):
        return None
    stated = settings.get("context")
    return stated if stated in ("z", "t") else "none"


def require_distinct(all_outputs: Sequence[tuple[Location, Outputs]]) -> None:
    """Raise OptionError if two stacks would be written to the same place, or one over another input."""
    taken: dict[str, Location] = {}
    for path, outputs in all_outputs:
        for written in outputs.wanted:
            other = taken.setdefault(_place(written), path)
            if other != path:
                raise OptionError(f"{other} and {path} would both be written to {written}; enhance them one by one")
    for path, _ in all_outputs:
        if _place(path) in taken:
            raise OptionError(f"{path} is also an output of this run; leave it out of the inputs")


def _place(path: Location) -> str:
    """Return what two paths share that name one place; Windows and macOS do not tell case apart."""
    name = str(path.absolute())
    return unicodedata.normalize("NFC", name).casefold() if sys.platform in ("win32", "darwin") else name


def _same(one: Location, other: Location) -> bool:
    if isinstance(one, RemotePath) or isinstance(other, RemotePath):
        return one == other
    return one.exists() and other.exists() and one.samefile(other)
