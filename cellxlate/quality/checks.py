"""The promise verified on what is stored, and what a reader should be warned of."""

from collections.abc import Iterable, Mapping, Sequence

from cellxlate.errors import InputError
from cellxlate.quality.tally import Counts, Tally, bits_differ
from cellxlate.stacks.stack import PlaneIndex, Stack

__all__ = ["Counts", "Tally", "bits_differ", "plane_label", "read_back", "warnings_of"]

NEARLY_ALL = 0.9
SATURATED_SHARE = 1e-3
LOWEST_ORDER = 0.7


def warnings_of(tally: Tally, *, channel_names: Mapping[int, str] | None = None) -> list[str]:
    """Say in plain language what should make a reader doubt a result, and what to do, most serious first.

    Parameters
    ----------
    tally : Tally
        Of the whole run.
    channel_names : mapping, optional
        Names by channel number, used in the text.
    """
    if not tally.pixels:
        return []
    found = []
    if tally.kept_violations:
        found.append(
            f"{tally.kept_violations} pixels changed although attention did not select them: the background promise "
            "is broken. Do not use this output; report the fault with this file."
        )
    if not tally.selected:
        found.append(
            "attention selected nothing, so the output equals the input. If the stack does hold cells, lower "
            "--threshold, or use a model that was trained on images like these."
        )
    elif tally.total.selected_fraction > NEARLY_ALL:
        found.append(
            f"attention selected {tally.total.selected_fraction:.0%} of all pixels, so hardly any background was "
            "kept. If the cells do not fill the image, raise --threshold, or use a model that was trained on images "
            "like these."
        )
    else:
        full = [index for index, counts in tally.planes.items() if counts.selected_fraction > NEARLY_ALL]
        if full:
            found.append(
                f"attention selected more than {NEARLY_ALL:.0%} of {len(full)} of {len(tally.planes)} planes "
                f"({_places(full, tally.plane_axes)}). Look at these planes before using them."
            )
    if tally.saturated > SATURATED_SHARE * tally.changed:
        found.append(
            f"{tally.saturated} changed pixels ({tally.saturated / tally.changed:.1%}) reached the limit of the data "
            "type, so their brightness is cut off. Do not measure intensities there; convert the stack to a wider data "
            "type first."
        )
    for channel, order in tally.brightness_order().items():
        if order < LOWEST_ORDER:
            name = (channel_names or {}).get(channel, f"channel {channel}")
            found.append(
                f"brightness order inside cells is not kept in {name} (rank correlation {order:.2f}, expected at least "
                f"{LOWEST_ORDER}). Do not compare intensities of the output; measure them on the input."
            )
    return found


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


def read_back(
    stack: Stack,
    enhanced: Stack,
    attention: Stack,
    *,
    channels: Sequence[int] | None = None,
    band_bytes: int = 32 << 20,
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
    tally = Tally(plane_axes=stack.plane_axes)
    rows, columns = stack.plane_shape
    band = max(band_bytes // max(columns * stack.dtype.itemsize, 1), 1)
    for index in stack.plane_indices():
        if channels is not None and stack.channel_of(index) not in channels:
            continue
        for top in range(0, rows, band):
            part = slice(top, min(top + band, rows))
            tally.add(
                index,
                top,
                raw=stack.read(index, part),
                enhanced=enhanced.read(index, part),
                attention=attention.read(index, part),
            )
    return tally
