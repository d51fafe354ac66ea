"""What pre- and post-processing must know of a stack: found once for its channels, never for a tile."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cellxlate.enhancement.input import Blocks, Context, planes_seen
from cellxlate.enhancement.proposals.windows import Proposer
from cellxlate.enhancement.tiling import Tile, window
from cellxlate.errors import InputError
from cellxlate.model.attention import Floats
from cellxlate.model.foreign.zoo.processing import Numbers, Quantity, Steps, fitted, measured, quantities_of
from cellxlate.stacks.intensity.stack_range import sample_places
from cellxlate.stacks.stack import Stack

MOST_PX, MOST_PROPOSED_PX = 2**24, 2**20
"""Of all channels that are measured at once: what is read, and what the network is run on where its outcome is."""


@dataclass(frozen=True)
class Fit:
    """Pre- and post-processing with the numbers of some channels of a stack.

    Attributes
    ----------
    channels : tuple of int
        Which are given to the network together.
    before, after : tuple of processing
        All quantities are numbers.
    found : tuple of (Quantity, tuple of float)
        What was measured, in counts.
    measured_share : float
        Of the pixels of these channels.
    """

    channels: tuple[int, ...]
    before: Steps = ()
    after: Steps = ()
    found: tuple[tuple[Quantity, Numbers], ...] = ()
    measured_share: float = 1.0


def fit_of(
    stack: Stack,
    channels: Sequence[int],
    before: Steps,
    after: Steps,
    *,
    takes: str,
    blocks: Blocks | None = None,
    propose: Callable[[Steps], Proposer],
) -> Fit:
    """Return processing with the numbers of some channels.

    Parameters
    ----------
    takes : str
        Type of the counts that the network is made for.
    blocks : Blocks or None
        Which planes along z are given to it together.
    propose : callable
        Returns what runs the network after some pre-processing, without any post-processing.

    Raises
    ------
    InputError
        The counts are not what the network is made for.
    """
    wanted = quantities_of((*before, *after))
    given = [one for one in wanted if one.of == "input"]
    found: dict[Quantity, Numbers] = {}
    share = 1.0
    if given or np.dtype(takes).kind in "ui":
        samples = [_sample(stack, channel, MOST_PX // len(channels)) for channel in channels]
        require_range(samples, takes, stack.name)
        share = sum(map(len, samples)) / (len(channels) * stack.planes_per_channel * float(np.prod(stack.plane_shape)))
        found = measured(samples, given)
    before, after = fitted(before, found), fitted(after, found)
    if made := quantities_of(after):
        made_of = _outcomes(stack, channels, Context(blocks=blocks), propose(before))
        outcomes = [np.concatenate(parts) for parts in zip(*made_of, strict=True)]
        found |= measured(outcomes, made)
        after = fitted(after, found)
    return Fit(tuple(channels), before, after, tuple(found.items()), share)


def _sample(stack: Stack, channel: int, most_px: int) -> npt.NDArray[Any]:
    """Return counts of a channel: all of them, or those of windows spread over the stack, (N,)."""
    return np.concatenate([stack.read(*place).ravel() for place in sample_places(stack, channel, most_px)])


def require_range(samples: Sequence[npt.NDArray[Any]], takes: str, name: str) -> None:
    """Raise InputError where counts are not such as a network for whole numbers of some type is made for."""
    if np.dtype(takes).kind not in "ui":
        return
    most = max(float(one[np.isfinite(one)].max(initial=0)) for one in samples)
    limit = float(np.iinfo(takes).max)
    if most > limit:
        raise InputError(
            f"{name} holds counts up to {most:g}, the model is made for {takes}, which ends at {limit:g}; convert the "
            "stack, or ask for a model of such counts"
        )
    if 0 < most <= 1:
        raise InputError(
            f"{name} holds values up to {most:g}, the model is made for counts of {takes}; convert the stack"
        )


def _outcomes(
    stack: Stack, channels: Sequence[int], context: Context, proposer: Proposer
) -> Iterator[list[npt.NDArray[np.float32]]]:
    """Yield what a proposer makes of a bounded sample of a stack, (N,) of each channel."""
    seen_at = set()
    for index, rows, columns in sample_places(stack, channels[0], MOST_PROPOSED_PX // len(channels)):
        place = context.block(stack, index)[0], rows.start, columns.start
        if place in seen_at:  # another plane of the same block
            continue
        seen_at.add(place)
        seen = planes_seen(stack, index, channels, context)
        planes: Floats = np.stack([stack.read(one, rows, columns) for one in seen]).astype(np.float32)
        made = whole_proposal(planes, proposer)[context.own(stack, index, len(channels))]
        yield [made[number :: len(channels)].ravel() for number in range(len(channels))]


def whole_proposal(planes: Floats, proposer: Proposer) -> Floats:
    """Return what a proposer makes of planes (C, Y, X) in counts, tile by tile."""
    shape = planes.shape[-2], planes.shape[-1]
    area, made = Tile(0, shape[0], 0, shape[1]), np.empty_like(planes)
    side_px = min(proposer.geometry.tile_px(None), 2**20)
    for tile, around in proposer.geometry.tiles(np.ones(shape, np.bool_), area, side_px, shape):
        outcome = proposer(window(planes, 0, shape, around)[None])[0]
        margin = (around.shape[0] - outcome.shape[-2]) // 2
        made[..., *tile.slices()] = outcome[..., *tile.slices(around.top + margin, around.left + margin)]
    return made


def stated_fits(fits: Sequence[Fit]) -> list[dict[str, Any]]:
    """Return what was measured, as plain values: of each group of channels, and from which share of its pixels."""
    return [
        {
            "channels": list(one.channels), "measured_share": round(one.measured_share, 4),
            "found": {_words(quantity): list(numbers) for quantity, numbers in one.found},
        }
        for one in fits
        if one.found
    ]  # fmt: skip


def fits_in_words(fits: Sequence[Fit]) -> str:
    """Return what was measured, in one line; empty where nothing was."""
    return "; ".join(
        f"channel{'s' if len(one.channels) > 1 else ''} {' and '.join(map(str, one.channels))}: "
        + ", ".join(
            f"{_words(quantity)} {' and '.join(f'{n:.4g}' for n in numbers)}" for quantity, numbers in one.found
        )
        + (", of all pixels" if one.measured_share >= 1 else f", of {100 * one.measured_share:.2g} % of the pixels")
        for one in fits
        if one.found
    )


def _words(quantity: Quantity) -> str:
    """Return what a quantity is called, as in "percentile 99.8 of the input"."""
    kind = {"mean": "mean", "std": "standard deviation", "quantile": f"percentile {100 * quantity.share:g}"}
    return f"{kind[quantity.kind]} of the {quantity.of}{', all channels together' if quantity.together else ''}"
