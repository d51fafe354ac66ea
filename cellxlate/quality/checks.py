"""The promise verified on what is stored, and what a reader should be warned of."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy.typing as npt

from cellxlate.errors import InputError, said
from cellxlate.options import NEAREST_MODEL, THRESHOLD, TILE, TO_ADAPT, TO_TRAIN
from cellxlate.prefetch import ahead
from cellxlate.quality.likeness import departure_words
from cellxlate.quality.tally import Tally
from cellxlate.quality.trust import Trust
from cellxlate.stacks.channel_names import unnamed
from cellxlate.stacks.stack import PlaneIndex, Stack
from cellxlate.stacks.write.origins import SeeRows, made_sums, row_sums

NEARLY_ALL = 0.9
NEARLY_NONE = 1e-4
SATURATED_SHARE = 1e-3
LOWEST_ORDER = 0.7
LOWEST_AGREEMENT = 0.8
LOWEST_SALIENT = 0.7
"""Rates at which each limit is right and wrong: docs/explanation/checks.md."""
OTHER_MODEL = ", or use a model that was trained on images like these."
NEXT_STEP = (
    "Do not trust the output: measure on the input, look at the attention file before you use any of it, and ",
    TO_ADAPT, ", or train on your own images with ", TO_TRAIN, ".",
)  # fmt: skip


def warnings_of(
    tally: Tally,
    *,
    channel_names: Mapping[int, str] | None = None,
    earlier: Sequence[Mapping[str, Any]] = (),
    chosen: bool = False,
) -> list[str]:
    """Say in plain language what should make a reader doubt a result, and what to do, most serious first.

    Parameters
    ----------
    tally : Tally
        Of the whole run.
    channel_names : mapping, optional
        Names by channel number, used in the text.
    earlier : sequence of mapping
        Provenance of the enhancements that the input states it has been through (`Metadata.earlier`).
    chosen : bool
        Whether the model is the shipped one that suits the stack best, so that no other needs to be tried.
    """
    total = tally.total
    if not total.pixels:
        return []
    orders = tally.brightness_order()
    channels = {*tally.channels, *tally.trust, *orders}
    names = {channel: (channel_names or {}).get(channel, unnamed(channel)) for channel in channels}
    warnings = []
    if total.kept_violations:
        warnings.append(
            f"{total.kept_violations} pixels changed although attention did not select them: the background promise "
            "is broken. Do not use this output; report the fault with this file."
        )
    warnings += _selection(tally)
    warnings += _enhanced_before(tally, names, earlier)
    for channel, trust in sorted(tally.trust.items()):
        warnings += _doubts(trust, names[channel], chosen=chosen)
    warnings += _seams(tally)
    if total.saturated > SATURATED_SHARE * total.changed:
        warnings.append(
            f"{total.saturated} changed pixels ({total.saturated / total.changed:.1%}) reached the limit of the data "
            "type, so their brightness is cut off. Do not measure intensities there; convert the stack to a wider data "
            "type first."
        )
    return warnings + [
        f"brightness order inside cells is not kept in {names[channel]} (rank correlation {order:.2f}, expected at "
        f"least {LOWEST_ORDER}). Do not compare intensities of the output; measure them on the input."
        for channel, order in orders.items()
        if order < LOWEST_ORDER
    ]


def _selection(tally: Tally) -> list[str]:
    """Say where attention selected hardly anything, or nearly everything: of all pixels, else of single planes."""
    total = tally.total
    if not total.selected:
        return [said(
            "attention selected nothing, so the output equals the input. If the stack does hold cells, lower ",
            THRESHOLD, OTHER_MODEL,
        )]  # fmt: skip
    if total.selected_fraction < NEARLY_NONE:
        return [said(
            f"attention selected nearly nothing ({total.selected} of {total.pixels} pixels). If the stack does hold "
            "cells, lower ", THRESHOLD, OTHER_MODEL,
        )]  # fmt: skip
    if total.selected_fraction > NEARLY_ALL:
        return [said(
            f"attention selected {total.selected_fraction:.0%} of all pixels, so hardly any background was "
            "kept. If the cells do not fill the image, raise ", THRESHOLD, OTHER_MODEL,
        )]  # fmt: skip
    full = [index for index, counts in tally.planes.items() if counts.selected_fraction > NEARLY_ALL]
    if not full:
        return []
    return [
        f"attention selected more than {NEARLY_ALL:.0%} of {len(full)} of {len(tally.planes)} planes "
        f"({_places(full, tally.plane_axes)}). Look at these planes before using them."
    ]


def _enhanced_before(tally: Tally, names: Mapping[int, str], earlier: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say which of the channels had been enhanced before; their pixels cannot tell, as the kept ones are the same."""
    warnings = []
    for channel in sorted(tally.channels):
        models = [str(note.get("model", "a model")) for note in earlier if str(channel) in _channels_of(note)]
        if models:
            warnings.append(
                f"{names[channel]} of the input has been enhanced before, with {models[-1]}: "
                "what was changed then counts as seen now. Enhance the original."
            )
    return warnings


def _channels_of(note: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what an earlier enhancement states of each channel it enhanced; nothing where it cannot be read."""
    levels = note.get("levels_counts", {})
    try:
        stated = json.loads(levels) if isinstance(levels, str) else levels
    except ValueError:
        return {}
    return stated if isinstance(stated, Mapping) else {}


def _doubts(trust: Trust, name: str, *, chosen: bool) -> list[str]:
    """Say what the windows of a channel give reason to doubt."""
    warnings, seen, words = [], trust.support, trust.departure and departure_words(trust.departure)
    if trust.departure and words:
        warnings.append(said(
            f"{name} does not look like the images the model was trained on: {'; '.join(words)} (distance "
            f"{trust.departure.distance:.1f}, limit 1); ",
            "no other shipped model is nearer" if chosen else NEAREST_MODEL, ". ", *NEXT_STEP,
        ))  # fmt: skip
    if seen.added:
        warnings.append(said(
            f"{seen.added} regions of the output in {name} have no support in the input: they may be invented. Look at "
            "both side by side there before counting or measuring anything, or raise ", THRESHOLD, ".",
        ))  # fmt: skip
    if seen.lost:
        warnings.append(
            f"{seen.lost} regions that stand out in {name} of the input are gone from the output. Count on the input, "
            "or use a model that was trained on images like these."
        )
    if seen.mean_agreement < LOWEST_AGREEMENT:
        warnings.append(
            f"attention is at odds with what stands out in {name}: a selected pixel has more contrast than a kept one "
            f"in {seen.mean_agreement:.0%} of cases (50% is chance). Look at the attention file; use a model that was "
            "trained on images like these."
        )
    elif seen.salient_share < LOWEST_SALIENT:
        warnings.append(said(
            f"attention left out {1 - seen.salient_share:.0%} of the pixels that stand out clearly in {name}. Lower ",
            THRESHOLD, OTHER_MODEL,
        ))  # fmt: skip
    return warnings


def _seams(tally: Tally) -> list[str]:
    """Say where borders of tiles show."""
    borders = tally.seams.visible()
    if not borders:
        return []
    index, kind, position, _ = borders[0]
    where = plane_label(index, tally.plane_axes)
    return [said(
        f"{len(borders)} borders of tiles show as a step (the clearest at {kind} {position} of {where}). Do not use "
        "this output; run again with another ", TILE, ", and report the fault with this file.",
    )]  # fmt: skip


def _places(indices: Iterable[PlaneIndex], axes: str, most: int = 4) -> str:
    """Name some planes, as in `T=0 Z=3, T=0 Z=4, ...`."""
    listed = list(indices)
    names = [plane_label(index, axes) for index in listed[:most]]
    return ", ".join([*names, "..."] if len(listed) > most else names)


def plane_label(index: PlaneIndex, plane_axes: str) -> str:
    """Name a plane by its position, as in `T=0 Z=3`; a stack of one plane has the name `plane`.

    Examples
    --------
    >>> plane_label((0, 3), "TZ")
    'T=0 Z=3'
    """
    if len(plane_axes) != len(index):
        return ", ".join(str(position) for position in index) or "plane"
    return " ".join(f"{axis}={position}" for axis, position in zip(plane_axes, index, strict=True)) or "plane"


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
    tally = Tally(plane_axes=stack.plane_axes, tile_px=tile_px)
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
    tally = Tally(plane_axes=stack.plane_axes, tile_px=tile_px)
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
