"""open_writer: pixels go into a partial beside the output, and appear under the final name when all is complete.

The partial is the folder `NAME.partial`. It holds a lock, `job.json` (what is being written), and the pixels in bands
(`bands.py`), whichever the format: resume, checks, pyramids and several workers need nothing else.
"""

import errno
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from cellxlate.errors import CellxlateError, OutputError, unless_denied
from cellxlate.locations import Location, RemotePath, located
from cellxlate.options import OTHER_FOLDER, RESUME
from cellxlate.stacks.naming import PLAIN, ZARR_JSON, Format, output_format, partial_of
from cellxlate.stacks.stack import PlaneIndex, Stack
from cellxlate.stacks.stores.bucket import PUBLISHING, check_remote
from cellxlate.stacks.write.bands import BAND_PX, Bands, Tell, no_news
from cellxlate.stacks.write.job import check_job, job_of, write_job
from cellxlate.stacks.write.origins import Origins
from cellxlate.stacks.write.partial import JOB_FILE, Lock, acquire, check_places, is_ours, publish
from cellxlate.stacks.write.plain import check_format, natural_format, write_plain_attributes, write_plain_tiff
from cellxlate.stacks.write.pyramid import Pyramid, Reduction, Share, resolution_count
from cellxlate.stacks.write.tiff import write_tiff
from cellxlate.stacks.write.zarr import Version, write_arrays_v2, write_group

__all__ = ["BAND_PX", "Format", "Writer", "natural_format", "open_writer", "output_format", "remove_partial"]

PIXELS_FOLDER = "pixels.zarr"
ORIGINS_FOLDER = "input"
LARGEST_BAND_BYTES = 2**31
LEAST_COMPRESSED = 0.25
"""Free disk below this share of the uncompressed size is clearly too little."""


def open_writer(
    path: str | Location,
    *,
    like: Stack,
    dtype: npt.DTypeLike | None = None,
    format: Format | None = None,
    reduction: Reduction = "mean",
    fingerprint: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    resume: bool = False,
) -> "Writer":
    """Start to write a stack, or go on with one that was interrupted.

    Parameters
    ----------
    path : str or Path
        The output: `.ome.tif`, `.tif` (or `.tiff`) becomes an OME-TIFF, `.ome.zarr` or `.zarr` an OME-Zarr 0.5 image;
        without `.ome`, a plain file where these cannot hold the axes or the dtype. An address `s3://bucket/NAME.ome.zarr`
        takes OME-Zarr 0.5 alone.
    like : Stack
        The output has its shape, axes, pixel size, channel names, time step and metadata.
    dtype : dtype, optional
        Of the output; that of `like` by default. Where it is given, the values are taken to mean something else, and
        palettes and display ranges of `like` are not carried.
    format : {"ome-tiff", "ome-zarr", "ome-zarr-0.4", "tiff", "zarr"}, optional
        By the ending by default; OME-Zarr 0.4 only on request.
    reduction : {"mean", "max"}
        How 2 x 2 pixels become one in the lower levels of the pyramid.
    fingerprint : mapping, optional
        What decides the pixels, as JSON values. A partial is resumed only by a job with the same fingerprint.
    provenance : mapping, optional
        Stored in the output, as JSON values.
    overwrite : bool
        Remove a partial; replace an existing output once the new one is complete.
    resume : bool
        Go on with a partial, or start afresh where there is none; an existing output is replaced in the end.

    Returns
    -------
    Writer
        Use it in a `with` statement.

    Raises
    ------
    OptionError
        The ending is none of the above.
    OutputError
        The output or a partial exists and neither `overwrite` nor `resume` was given; the partial belongs to another
        job, or to one that is running; the format cannot hold the stack; the folder is missing or the disk is full.
    """
    path = located(path)
    check_remote(path)
    kind = output_format(path, format)
    stored = np.dtype(like.dtype if dtype is None else dtype)
    if format is None and not path.with_suffix("").name.lower().endswith(".ome"):
        kind = natural_format("tiff" if kind == "ome-tiff" else "zarr", like, stored)
    check_remote(path, kind)
    check_format(kind, path, like, stored)
    partial = partial_of(path)
    with _disk_faults(path):
        check_places(path, partial, kind, source=like.path, replace=overwrite or resume)
    stack = {"axes": like.axes, "shape": like.shape, "dtype": stored.name, "reduction": reduction}
    job = job_of(stack, fingerprint)
    with _disk_faults(path):
        writer = Writer(
            path, kind, like, stored, reduction, provenance, acquire(partial), same_values=dtype is None,
            replaces=overwrite or resume,
        )  # fmt: skip
        try:
            if overwrite or not (partial / JOB_FILE).exists():
                writer._check_space(1.0)
                writer._lock.clear()
                writer.pyramid.create()
                writer.origins.create()
                write_job(partial, job)
            else:
                check_job(partial, job)
                writer.mend()
                writer._check_space(writer.bands.missing() / writer.bands.count)
        except BaseException:
            writer.close()
            raise
    return writer


class Writer:
    """Writes one stack in bands of 512 rows; made by `open_writer`.

    Leaving its `with` statement before `publish` keeps the partial for a later resume, unless no band is done.

    Attributes
    ----------
    path : Path
        The final name.
    partial : Path
        The folder `NAME.partial` beside it.
    kind : Format
        What is written.
    bands : Bands
        The pixels of full resolution.
    pyramid : Pyramid
        These and the levels below; may be pickled and used by worker processes while the writer holds the lock.
    origins : Origins
        What the bands were made from, where whoever writes them notes it.
    """

    def __init__(
        self, path: Location, kind: Format, like: Stack, dtype: np.dtype[Any], reduction: Reduction,
        provenance: Mapping[str, Any] | None, lock: Lock, *, same_values: bool = True, replaces: bool = False,
    ) -> None:  # fmt: skip
        self.path = path
        self.partial = lock.folder
        self.kind, self._like, self._provenance = kind, like, provenance
        self._lock, self._same_values = lock, same_values
        self._finished, self._replaces = False, replaces
        group = self._result if kind == "ome-zarr" else self.partial / PIXELS_FOLDER
        self.bands = Bands(
            self._result if kind == "zarr" else group / "0", like.axes, like.shape, dtype, tiles=kind == "ome-tiff",
            flat=kind not in ("zarr", "ome-zarr"),
        )  # fmt: skip
        self.origins = Origins(self.partial / ORIGINS_FOLDER)
        self.pyramid = Pyramid(self.bands, reduction, 1 if kind in PLAIN else resolution_count(like.plane_shape))

    @property
    def _result(self) -> Location:
        """Where the finished file is built, under its own name."""
        return self.partial / self.path.name

    def mend(self) -> int:
        """Remove what is damaged of the partial, so that it counts as not done; return how many bands were.

        All but the bands is made again in any case: metadata, and the file that is built from them.
        """
        with _disk_faults(self.path):
            self._finished = False
            self.origins.create()
            if isinstance(self._result, RemotePath) or self.kind in ("ome-zarr", "zarr"):
                (self._result / ZARR_JSON).unlink(missing_ok=True)
            elif self._result.is_dir():
                shutil.rmtree(self._result)
            else:
                self._result.unlink(missing_ok=True)
            self.pyramid.restore()
            return self.pyramid.drop_damaged()

    def _check_space(self, todo: float) -> None:
        """Raise OutputError where the disk has no room for the share of the bands that is to be written."""
        bands = self.bands
        band_bytes = BAND_PX * bands.size("X") * bands.dtype.itemsize
        if band_bytes > LARGEST_BAND_BYTES:
            raise OutputError(
                f"{self.path}: {BAND_PX} rows of {bands.size('X')} px take {band_bytes / 1e9:.0f} GB of memory; "
                "cut the stack into parts"
            )
        if isinstance(self.partial, RemotePath):
            return
        pixel_bytes = prod(bands.shape) * bands.dtype.itemsize
        assembled = {"ome-zarr": 0.0, "zarr": 0.0, "tiff": 1.0}  # others are made beside their bands
        needed = pixel_bytes * (LEAST_COMPRESSED * todo + assembled.get(self.kind, LEAST_COMPRESSED))
        free = shutil.disk_usage(self.partial).free
        if free < needed:
            raise OutputError(
                f"{self.path.parent} has {free / 1e9:.1f} GB free, the output needs at least {needed / 1e9:.1f} GB",
                remedy=("free some, or choose ", OTHER_FOLDER),
            )

    def is_done(self, index: PlaneIndex, band: int) -> bool:
        """Return whether a band (row // 512) of a plane has been written, by this run or the one it resumes."""
        return self.bands.is_done(index, band)

    def write(self, index: PlaneIndex, first_row: int, pixels: npt.NDArray[Any]) -> None:
        """Write whole bands of one plane, and of level 1 of its pyramid. Several threads may write different bands.

        Parameters
        ----------
        index : tuple of int
            Position of the plane, as in `Stack.plane_indices`.
        first_row : int
            A multiple of 512.
        pixels : ndarray (rows, X)
            In the dtype of the output; ends at a multiple of 512 or at the last row of the plane.

        Raises
        ------
        OptionError
            The pixels are not whole bands, or of another dtype.
        OutputError
            The disk is full.
        """
        with _disk_faults(self.path):
            self._lock.check()
            self.pyramid.write(index, first_row, pixels)

    def read(self, index: PlaneIndex, rows: slice) -> npt.NDArray[Any]:
        """Read back rows of one plane, exactly as they were written.

        Raises
        ------
        OutputError
            The rows have not been written, or are damaged.
        """
        with _disk_faults(self.path):
            return self.bands.read(index, rows)

    def finish(self, share: Share = map, tell: Tell = no_news) -> Location:
        """Build the finished file inside the partial.

        Parameters
        ----------
        share : callable
            Like `map`; halves the bands of a level of the pyramid.
        tell : callable
            Is told how many planes have been put together.

        Returns
        -------
        Path
            The finished file, for checks before `publish`.

        Raises
        ------
        OutputError
            Bands are missing or damaged, or the disk is full.
        """
        missing = self.bands.missing()
        if missing:
            raise OutputError(
                f"{self.path}: {missing} of {self.bands.count} bands are not written", remedy=("give ", RESUME)
            )
        with _disk_faults(self.path):
            self._assemble(share, tell)
        self._finished = True
        return self._result

    def _assemble(self, share: Share, tell: Tell) -> None:
        """Make of complete bands what the format wants."""
        result, like, provenance, same_values = self._result, self._like, self._provenance, self._same_values
        if self.kind == "tiff" and isinstance(result, Path):
            write_plain_tiff(result, self.bands, like=like, provenance=provenance, same_values=same_values, tell=tell)
            return
        if self.kind == "zarr" and isinstance(result, Path):
            write_plain_attributes(result, like=like, provenance=provenance)
            return
        resolutions = self.pyramid.complete(share)
        if self.kind == "ome-tiff" and isinstance(result, Path):
            write_tiff(result, resolutions, like=like, provenance=provenance, same_values=same_values, tell=tell)
            return
        version: Version = "0.5" if self.kind == "ome-zarr" else "0.4"
        if version == "0.4" and isinstance(result, Path):
            write_arrays_v2(result, resolutions, tell)
        write_group(
            result, resolutions, like=like, reduction=self.pyramid.reduction, provenance=provenance,
            same_values=same_values, version=version,
        )  # fmt: skip

    def publish(self, *, replaces: bool | None = None) -> Location:
        """Let the finished file appear under its final name, and remove the partial.

        Parameters
        ----------
        replaces : bool, optional
            Whether what has the name may be replaced; by default where the writer was opened to overwrite or resume.

        Raises
        ------
        OutputError
            `finish` has not been called, the disk failed, or something has appeared under the name that may not be
            replaced: it stays, and the partial too.

        Notes
        -----
        One rename, after the file has reached the disk; in a bucket, copies that end with the root metadata. An
        OME-Zarr folder that is replaced is first moved into the partial, as a folder cannot be exchanged in one step.
        """
        if not self._finished:
            raise OutputError(f"{self.path} is not finished; call finish() before publish()")
        with _disk_faults(self.path):
            self._lock.check()
            publish(self._result, self.path, self.partial, replaces=self._replaces if replaces is None else replaces)
        self.discard()
        return self.path

    def discard(self) -> None:
        """Remove the partial."""
        self._finished = False
        with _disk_faults(self.path):
            self._lock.remove()

    def close(self) -> None:
        """Release the lock. The partial stays for a later resume, unless no band is done."""
        if self._lock.held and not self.bands.is_begun():
            self.discard()
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def remove_partial(path: Location) -> None:
    """Remove what an interrupted job has left beside an output; nothing happens where there is nothing of ours.

    Raises
    ------
    OutputError
        Another job is writing it.
    """
    partial = partial_of(path)
    with _disk_faults(path):
        if is_ours(partial):
            acquire(partial).remove()


def is_half_published(path: RemotePath) -> bool:
    """Return whether an interrupted job has begun to copy its result to an address."""
    return (partial_of(path) / PUBLISHING).is_file()


@contextmanager
def _disk_faults(path: Location) -> Iterator[None]:
    """Report what the disk refuses as OutputError."""
    try:
        yield
    except CellxlateError:
        raise
    except OSError as fault:
        if fault.errno == errno.ENOSPC:
            raise OutputError(
                f"{path}: the disk is full", remedy=("free some space and run again with ", RESUME)
            ) from fault
        refused = OutputError(f"{path} cannot be written ({fault.strerror or fault}); check the folder")
        raise unless_denied(refused, path, fault) from fault
