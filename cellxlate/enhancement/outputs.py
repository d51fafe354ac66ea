"""What an enhancement writes, and under which names."""

import sys
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from cellxlate.errors import OptionError, OutputError
from cellxlate.locations import Location, RemotePath
from cellxlate.stacks.naming import find_stacks, is_zarr, stack_name, zarr_root
from cellxlate.stacks.ome_sets import one_of_each
from cellxlate.stacks.reading_planes import is_pattern
from cellxlate.stacks.reading_zarr import zarr_images
from cellxlate.stacks.remote_output import check_remote
from cellxlate.stacks.stack import Stack
from cellxlate.stacks.writing import Format, natural_format, output_format

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


RESULT_ENDINGS = ("_enhanced", "_attention", "_confidence")


def find_inputs(paths: Sequence[Location], *, each_image: bool = True) -> list[Location]:
    """Return the stacks among files, Zarr folders, patterns and folders, without results of earlier runs in folders.

    Of a plate or a set of images, each image is a stack of its own, unless `each_image` is False. A pattern with {T},
    {C} or {Z} is one stack, and so are the files of an OME-TIFF set that hold one image.

    Raises
    ------
    InputError
        A pattern matches nothing, or a folder holds no image.
    """
    found: list[Location] = []
    for path in paths:
        if isinstance(path, RemotePath) or is_pattern(path):
            found.append(path)
        elif not path.exists() and any(sign in path.name for sign in "*?["):
            found += find_stacks(_fitting(path) or [path], "stack")
        elif path.is_dir() and not is_zarr(path):
            inside = find_stacks([path], "stack")
            found += [item for item in inside if not stack_name(item).endswith(RESULT_ENDINGS)]
        else:
            found.append(path)
    found = one_of_each(list(dict.fromkeys(found)))
    return list(dict.fromkeys(image for path in found for image in (_images_of(path) if each_image else [path])))


def _fitting(pattern: Path) -> list[Path]:
    """Return what fits a pattern, sorted. `Path.glob` refuses two stars in a row, and may take for ever with fifty."""
    folder = pattern.parent
    return sorted(item for item in folder.iterdir() if fnmatch(item.name, pattern.name)) if folder.is_dir() else []


def _images_of(path: Location) -> list[Location]:
    """Return the images of a plate or a set, the path itself where it holds one."""
    places = zarr_images(path) if is_zarr(path) else []
    return [path / place for place in places] if len(places) > 1 else [path]


def name_outputs(
    path: Location,
    *,
    is_zarr: bool,
    output: Location | None = None,
    output_dir: Location | None = None,
    format: Format | None = None,
    attention: bool = True,
    report: bool = True,
) -> Outputs:
    """Name the outputs of the stack at `path`.

    Parameters
    ----------
    path : Path
        The input.
    is_zarr : bool
        Whether the input is Zarr, which is then written as Zarr too.
    output : Path, optional
        Of the enhanced stack; its ending decides the format, and the other names follow from it.
    output_dir : Path, optional
        Folder for the outputs; beside the input by default.
    format : {"ome-tiff", "ome-zarr", "ome-zarr-0.4", "tiff", "zarr"}, optional
        Where the name does not decide.
    attention, report : bool
        Whether these are wanted.

    Raises
    ------
    OptionError
        `output` and `output_dir` are both given, or the ending of `output` contradicts the format or names none.
    OutputError
        An output would replace the input.
    """
    if output is not None and output_dir is not None:
        raise OptionError("-o and --output-dir are both given; give one of them")
    if output is None:
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
        raise OutputError(f"{path} would be replaced by its own result; choose another -o")
    return outputs


def format_of(stack: Stack, *, is_zarr: bool, asked: Format | None = None) -> Format | None:
    """Return the format to name the outputs of a stack after: what is asked for, else plain where OME cannot hold it.

    None leaves it to the kind of the input.
    """
    if asked is not None:
        return asked
    natural = natural_format("zarr" if is_zarr else "tiff", stack, stack.dtype)
    return natural if natural in ("tiff", "zarr") else None


def require_free(outputs: Outputs, *, overwrite: bool, resume: bool) -> None:
    """Raise OutputError if an output is there already and may not be replaced, or if the folder does not exist.

    Raises
    ------
    OutputError
        With what to do.
    """
    folder = outputs.enhanced.parent
    if isinstance(folder, Path) and not folder.is_dir():
        raise OutputError(f"the output folder {folder} does not exist; make it or choose another")
    if overwrite or resume:
        return
    for path in outputs.wanted:
        if path.exists():
            raise OutputError(f"{path} exists already; give --overwrite to replace it or choose another -o")


def require_distinct(all_outputs: Sequence[tuple[Location, Outputs]]) -> None:
    """Raise OptionError if two stacks would be written to the same place, or one over another input.

    Raises
    ------
    OptionError
        Naming both stacks.
    """
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
    place = str(path.absolute())
    return unicodedata.normalize("NFC", place).casefold() if sys.platform in ("win32", "darwin") else place


def _same(one: Location, other: Location) -> bool:
    if isinstance(one, RemotePath) or isinstance(other, RemotePath):
        return one == other
    return one.exists() and other.exists() and one.samefile(other)
