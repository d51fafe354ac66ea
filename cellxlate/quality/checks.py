"""The promise verified on what is stored."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy.typing as npt

from cellxlate.errors import InputError
from cellxlate.prefetch import ahead
from cellxlate.quality.tally import Tally
from cellxlate.stacks.stack import PlaneIndex, Stack
from cellxlate.stacks.write.origins import SeeRows, made_sums, row_sums


def plane_label(index: PlaneIndex, plane_axes: str, sample_names: Sequence[str] = ()) -> str:
    """Name a plane by its position, as in `T=0 Z=3`; a stack of one plane has the name `plane`, samples theirs.

    Examples
    --------
    >>> plane_label((0, 3), "TZ")
    'T=0 Z=3'
    >>> plane_label((3, 1), "ZS", ["red", "green", "blue"])
    'Z=3 green'
    """
    if len(plane_axes) != len(index):
        return ", ".join(str(position) for position in index) or "plane"
    names = dict(enumerate(sample_names)) if "C" not in plane_axes else {}
    positions = zip(plane_axes, index, strict=True)
    return " ".join(names.get(at) or f"S={at}" if axis == "S" else f"{axis}={at}" for axis, at in positions) or "plane"


def parts_of(
    stack: Stack, channels: Sequence[int], *, tile_px: int, part_px: int
) -> Iterator[list[tuple[PlaneIndex, slice]]]:
    """Cut the planes of some channels into rows that meet in the middle of a tile, about `part_px` pixels a list."""
    rows, columns = stack.plane_shape
    tile_px = max(tile_px, 1)
    height = max(part_px // columns // tile_px, 1) * tile_px
    tops = [0, *range(height + tile_px // 2, rows, height)]
    part: list[tuple[PlaneIndex, slice]] = []
    for index in stack.plane_indices():
        for top, bottom in zip(tops, [*tops[1:], rows], strict=True) if stack.channel_of(index) in channels else ():
            part.append((index, slice(top, bottom)))
            if sum(one.stop - one.start for _, one in part) * columns >= part_px:
                yield part
                part = []
    if part:
        yield part


def read_back_part(
    stack: Stack, enhanced: Stack, attention: Stack, *, index: PlaneIndex, rows: slice, tile_px: int = 0,
    band_bytes: int = 32 << 20, see: SeeRows | None = None,
) -> Tally:  # fmt: skip
    """Compare some rows of one plane of an output with its input, as `read_back` does the whole."""
    tally = Tally.of(stack, tile_px=tile_px)
    _count(tally, (stack, enhanced, attention), _bands_of(stack, index, rows, band_bytes), see)
    return tally


def read_back(
    stack: Stack,
    enhanced: Stack,
    attention: Stack,
    *,
    channels: Sequence[int] | None = None,
    band_bytes: int = 32 << 20,
    tile_px: int = 0,
    see: SeeRows | None = None,
) -> Tally:
    """Compare an output with its input, band by band: the promise, verified on what is stored.

    Parameters
    ----------
    stack, enhanced, attention : Stack
        Input, output and attention (uint8; 0 where the pixel was kept), all of the same shape and axes.
    channels : sequence of int, optional
        The channels that were enhanced; all by default. Others are not read.
    band_bytes : int
        About how much of a plane is read at a time.
    tile_px : int
        Side of the tiles whose borders are looked at for seams; 0 looks at none.
    see : callable, optional
        Is told the checksums of the rows of input and output, in the order of the stack.

    Raises
    ------
    InputError
        The stacks do not fit together, or one is damaged.
    """
    for name, other in (("output", enhanced), ("attention", attention)):
        if (other.axes, other.shape) != (stack.axes, stack.shape):
            raise InputError(
                f"the {name} has {other.axes} {other.shape}, the input {stack.name} has {stack.axes} {stack.shape}; "
                "give files that belong together"
            )
    tally = Tally.of(stack, tile_px=tile_px)
    whole = slice(0, stack.plane_shape[0])
    bands = (
        band
        for index in stack.plane_indices()
        if channels is None or stack.channel_of(index) in channels
        for band in _bands_of(stack, index, whole, band_bytes)
    )
    _count(tally, (stack, enhanced, attention), bands, see)
    return tally


def _bands_of(stack: Stack, index: PlaneIndex, rows: slice, band_bytes: int) -> Iterator[tuple[PlaneIndex, slice]]:
    """Cut some rows of a plane into bands of about `band_bytes`."""
    height = max(band_bytes // max(stack.plane_shape[1] * stack.dtype.itemsize, 1), 1)
    for top in range(rows.start, rows.stop, height):
        yield index, slice(top, min(top + height, rows.stop))


def _count(
    tally: Tally,
    stacks: tuple[Stack, Stack, Stack],
    bands: Iterable[tuple[PlaneIndex, slice]],
    see: SeeRows | None = None,
) -> None:
    """Count bands of input, output and attention; while one is counted, the next is read."""

    def read(band: tuple[PlaneIndex, slice]) -> tuple[PlaneIndex, int, list[npt.NDArray[Any]]]:
        index, rows = band
        return index, rows.start, [stack.read(index, rows) for stack in stacks]

    for index, first_row, (raw, enhanced, attention) in ahead(read, bands):
        tally.add(index, first_row, raw=raw, enhanced=enhanced, attention=attention)
        if see:
            see(index, first_row, row_sums(raw), made_sums(enhanced, attention))
