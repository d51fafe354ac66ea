"""Stacks become files: plane by plane, in bounded memory."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from cellxlate.stacks.stack import Stack
from cellxlate.stacks.write.writer import BAND_PX, open_writer


def write_stacks(
    wanted: Sequence[tuple[Stack, Path]],
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> None:
    """Write stacks with their axes, dtype, pixel size and channel names: all of them, or none.

    Parameters
    ----------
    wanted : sequence of (Stack, Path)
        Stacks, which may be larger than memory, and where they go; the ending decides the format: `.ome.tif` or
        `.ome.zarr`.
    overwrite : bool
        Replace what is there, once the new files are complete.
    progress : callable, optional
        Called with the number of planes that are done and of all planes.

    Raises
    ------
    OptionError, OutputError
        As in `open_writer`, before anything is written.
    """
    total, done = sum(stack.plane_count for stack, _ in wanted), 0
    with ExitStack() as open_files:
        writers = [
            open_files.enter_context(open_writer(path, like=stack, overwrite=overwrite)) for stack, path in wanted
        ]
        for (stack, _), writer in zip(wanted, writers, strict=True):
            rows = stack.plane_shape[0]
            for index in stack.plane_indices():
                for top in range(0, rows, BAND_PX):
                    writer.write(index, top, stack.read(index, slice(top, min(top + BAND_PX, rows))))
                done += 1
                if progress:
                    progress(done, total)
            writer.finish()
        for writer in writers:
            writer.publish()
