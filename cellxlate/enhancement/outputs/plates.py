"""A plate in, a plate out: its fields are enhanced one by one, and appear together when all are done."""

import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from cellxlate.enhancement.outputs.names import Outputs, is_there, may_replace
from cellxlate.errors import InputError, OutputError
from cellxlate.locations import Location
from cellxlate.options import TO_GO_ON, TO_REPLACE_OR_RENAME
from cellxlate.stacks.naming import UNFINISHED_ENDING, is_zarr, stack_name
from cellxlate.stacks.write.plates import beside_wells, plate_fields, start_plate
from cellxlate.stacks.write.writer import Format
from cellxlate.whole_file import in_the_way, rename_free

GROUP_FILES = ("zarr.json", ".zgroup", ".zattrs")


@dataclass(frozen=True)
class Plate:
    """What becomes of a plate.

    Attributes
    ----------
    source : Path
        The plate.
    fields : tuple of str
        Where its fields lie in it.
    enhanced, attention : Path
        The plates that appear when all fields are done; until then they lie beside, as `NAME.unfinished`.
    reports : Path or None
        Folder of the reports of the fields.
    keep_attention : bool
        Whether the plate of attention is wanted.
    format : {"ome-zarr", "ome-zarr-0.4"}
        Of the new plates.
    """

    source: Path
    fields: tuple[str, ...]
    enhanced: Path
    attention: Path
    reports: Path | None
    keep_attention: bool
    format: Format

    def outputs(self, field: str, *, resume: bool) -> Outputs:
        """Return where the results of a field go: beside their names, or there if a finished plate is only verified."""
        verified = resume and self.is_finished()

        def folder(path: Path) -> Path:
            return path if verified else _unfinished(path)

        report = folder(self.reports) / f"{stack_name(self.source / field)}_report" if self.reports else None
        return Outputs(
            folder(self.enhanced) / field, folder(self.attention) / field,
            report and report.with_name(f"{report.name}.html"), report and report.with_name(f"{report.name}.json"),
            self.keep_attention, self.format, final={_unfinished(path): path for path in self._wanted},
        )  # fmt: skip

    def is_finished(self) -> bool:
        """Return whether the plate has its name, and no run that would replace it has begun."""
        return self.enhanced.exists() and not _unfinished(self.enhanced).exists()

    def is_begun(self) -> bool:
        """Return whether there is more of the plate than groups without images: anything of a field, or a report."""
        places = (self.enhanced, self.attention, *([self.reports] if self.reports else []))
        files = (file for path in places for file in _unfinished(path).rglob("*") if not file.is_dir())
        return self.is_finished() or any(file.name not in GROUP_FILES for file in files)

    def forget(self) -> None:
        """Remove the unfinished plates of which no field has begun."""
        if not self.is_begun():
            for path in (self.enhanced, self.attention, *([self.reports] if self.reports else [])):
                shutil.rmtree(_unfinished(path), ignore_errors=True)

    def require_free(self, *, overwrite: bool, resume: bool) -> None:
        """Raise OutputError if a plate is there already, or an interrupted one, and may not be used; or no folder."""
        if not self.enhanced.parent.is_dir():
            raise OutputError(f"the output folder {self.enhanced.parent} does not exist; make it or choose another")
        for path in [] if overwrite or resume else self._wanted:
            if path.exists():
                raise OutputError(f"{path} exists already", remedy=TO_REPLACE_OR_RENAME)
            if _unfinished(path).exists():
                raise OutputError(f"{_unfinished(path)} is left from an interrupted job", remedy=TO_GO_ON)

    def start(self, *, overwrite: bool, resume: bool) -> None:
        """Make the unfinished plates, or check that those of an interrupted run may be used again.

        Raises
        ------
        OutputError
            A plate is there already, or an interrupted one, and neither `overwrite` nor `resume` was given; the folder
            does not exist.
        """
        if resume and self.is_finished():
            return
        self.require_free(overwrite=overwrite, resume=resume)
        if resume and _unfinished(self.enhanced).exists():
            for path in self._wanted:  # a crash while they got their names
                if path.exists() and not _unfinished(path).exists():
                    path.rename(_unfinished(path))
        for path in (self.enhanced, self.attention):
            unfinished = _unfinished(path)
            if unfinished.exists() and not is_zarr(unfinished):
                raise OutputError(f"{unfinished} is in the way and no unfinished plate; move it elsewhere")
            if overwrite and unfinished.exists():
                shutil.rmtree(unfinished)
            start_plate(self.source, unfinished, version="0.4" if self.format == "ome-zarr-0.4" else "0.5")
        if self.reports:
            _unfinished(self.reports).mkdir(exist_ok=True)

    def warnings(self) -> list[str]:
        """Say what of the plate is not in the new one."""
        beside = beside_wells(self.source)
        return [f"what lies beside the wells is not copied: {', '.join(beside)}"] if beside else []

    def finish(self, *, overwrite: bool, resume: bool) -> None:
        """Let the plates appear under their names, the enhanced one last; `resume` replaces what an earlier run left.

        Raises
        ------
        OutputError
            Something else has one of the names; it stays, and the unfinished plates too.
        """
        if self.is_finished():
            return
        for path in self._wanted:
            if is_there(path) and not self._is_earlier(path, overwrite=overwrite, resume=resume):
                raise in_the_way(path)
        for path in reversed(self._wanted):
            replaced = path.with_name(path.name + ".replaced")
            if path.exists():
                path.rename(replaced)
            try:
                rename_free(_unfinished(path), path)
            except FileExistsError as fault:
                raise in_the_way(path) from fault
            shutil.rmtree(replaced, ignore_errors=True)
        shutil.rmtree(_unfinished(self.attention), ignore_errors=True)  # where it is not wanted

    def _is_earlier(self, path: Path, *, overwrite: bool, resume: bool) -> bool:
        """Return whether a folder may be replaced: a plate, or the reports of one."""
        if path == self.reports:
            endings = ("_report.html", "_report.json")
            is_reports = path.is_dir() and all(item.name.endswith(endings) for item in path.iterdir())
            return (overwrite or resume) and is_reports
        return is_zarr(path) and may_replace(path / self.fields[0], overwrite=overwrite, resume=resume)

    @property
    def _wanted(self) -> list[Path]:
        attention = [self.attention] if self.keep_attention else []
        return [self.enhanced, *attention, *([self.reports] if self.reports else [])]


def _unfinished(path: Path) -> Path:
    return path.with_name(path.name + UNFINISHED_ENDING)


@dataclass(frozen=True)
class PlateOutcome:
    """What became of a plate: it appears where no field `failed`, unless that went wrong."""

    plate: Plate
    failed: int
    error: OutputError | None = None


def finished_plates(
    plates: Sequence[Plate], failed: Collection[Location], *, overwrite: bool, resume: bool
) -> Iterator[PlateOutcome]:
    """Let the plates appear of which no field `failed`, and yield what became of each; none is left where all did."""
    for plate in plates:
        outcome = PlateOutcome(plate, sum(plate.source / name in failed for name in plate.fields))
        try:
            if not outcome.failed:
                plate.finish(overwrite=overwrite, resume=resume)
            elif outcome.failed == len(plate.fields):
                plate.forget()
        except OutputError as fault:
            outcome = replace(outcome, error=fault)
        yield outcome


def plates_of(
    paths: Sequence[Location],
    *,
    output: Location | None = None,
    output_dir: Location | None = None,
    format: Format | None = None,
    attention: bool = True,
    report: bool = True,
) -> list[Plate]:
    """Return the plates that are given whole, and what becomes of them, where that can be a plate on this machine.

    Parameters
    ----------
    output, output_dir, format, attention, report
        As in `name_outputs`; `output` names the one enhanced plate.

    Notes
    -----
    A folder whose metadata cannot be read is no plate here, and says why when it is opened.
    """
    elsewhere = [path for path in (output, output_dir) if path is not None and not isinstance(path, Path)]
    if elsewhere or format not in (None, "ome-zarr", "ome-zarr-0.4") or (output and not output.name.endswith(".zarr")):
        return []
    plates = []
    for path in paths:
        fields: list[str] = []
        with suppress(InputError):
            fields = plate_fields(path) if isinstance(path, Path) and is_zarr(path) else []
        if not fields or not isinstance(path, Path):
            continue
        folder, name = (output_dir or path.parent), stack_name(path)
        enhanced = output if output is not None else folder / f"{name}_enhanced.ome.zarr"
        base = stack_name(enhanced).removesuffix("_enhanced")
        ending = enhanced.name.removeprefix(stack_name(enhanced))
        plates.append(Plate(
            path, tuple(fields), Path(str(enhanced)), Path(str(enhanced.with_name(f"{base}_attention{ending}"))),
            Path(str(enhanced.with_name(f"{base}_reports"))) if report else None, attention, format or "ome-zarr",
        ))  # fmt: skip
    return plates
