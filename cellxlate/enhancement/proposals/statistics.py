"""What pre- and post-processing must know of a stack: found once for its channels, never for a tile."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from cellxlate.enhancement.input import Blocks, Context, planes_seen
from cellxlate.enhancement.proposals.windows import Proposer
from cellxlate.enhancement.tiling import Tile, window
from cellxlate.errors import InputError
from cellxlate.model.attention import Floats
from cellxlate.model.foreign.zoo.processing import Numbers, Quantity, Steps, fitted, measured, processed, quantities_of
from cellxlate.stacks.intensity.stack_range import sample_places
from cellxlate.stacks.stack import Stack

MOST_PX, MOST_PROPOSED_PX = 2**24, 2**20
"""Of all channels that are measured at once: what is read, and what the network is run on where its outcome is."""

FEW_PX, MOST_WINDOWS = 2**17, 8
"""What the network is run on to see where its proposals lie, and on how many windows of that at most."""
LEVELS, LEAST_CONTRAST, MOST_CONTRAST = (1.0, 99.9), 0.02, 10.0
"""Percentiles that are taken for where counts lie; how many times the span of the counts proposals may have before that
is said, as it is where they lie beside them."""


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
    doubt : str
        What a reader should know of where proposals lie; empty where that is where the counts are.
    """

    channels: tuple[int, ...]
    before: Steps = ()
    after: Steps = ()
    found: tuple[tuple[Quantity, Numbers], ...] = ()
    measured_share: float = 1.0
    doubt: str = ""


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
    context = Context(blocks=blocks)
    if made := quantities_of(after):
        pairs = list(_outcomes(stack, channels, context, propose(before), MOST_PROPOSED_PX))
        found |= measured([np.concatenate([one[at].ravel() for _, one in pairs]) for at in range(len(channels))], made)
        after = fitted(after, found)
    few = islice(_outcomes(stack, channels, context, propose(before), FEW_PX), MOST_WINDOWS)
    doubt = doubt_about([(counts, processed(after, made[None])[0]) for counts, made in few])
    return Fit(tuple(channels), before, after, tuple(found.items()), share, doubt)


def doubt_about(pairs: Sequence[tuple[Floats, Floats]]) -> str:
    """Return what to say of proposals that lie elsewhere than the counts they are made of; empty where they do not.

    Parameters
    ----------
    pairs : sequence of (ndarray, ndarray)
        Counts, and what is proposed for them, of any shape.
    """
    values = [np.concatenate([one[at].ravel() for one in pairs]) if pairs else np.empty(0) for at in range(2)]
    finite = [one[np.isfinite(one)] for one in values]
    if not all(one.size for one in finite):
        return ""
    (low, high), (least, most) = (np.percentile(one, LEVELS) for one in finite)
    is_beside, contrast = least > high or most < low, (most - least) / max(high - low, 1e-12)
    if not is_beside and LEAST_CONTRAST <= contrast <= MOST_CONTRAST:
        return ""
    return (
        f"it proposes {least:.4g} to {most:.4g} counts where the stack has {low:.4g} to {high:.4g}: it may be made for "
        "counts of another kind"
    )


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
    stack: Stack, channels: Sequence[int], context: Context, proposer: Proposer, most_px: int
) -> Iterator[tuple[Floats, Floats]]:
    """Yield windows of a bounded sample of a stack, and what a proposer makes of them, both (C, N), in counts."""
    seen_at = set()
    for index, rows, columns in sample_places(stack, channels[0], most_px // len(channels)):
        place = context.block(stack, index)[0], rows.start, columns.start
        if place in seen_at:  # another plane of the same block
            continue
        seen_at.add(place)
        seen = planes_seen(stack, index, channels, context)
        planes: Floats = np.stack([stack.read(one, rows, columns) for one in seen]).astype(np.float32)
        own, made = context.own(stack, index, len(channels)), whole_proposal(planes, proposer)
        yield _by_channel(planes[own], len(channels)), _by_channel(made[own], len(channels))


def _by_channel(planes: Floats, channels: int) -> Floats:
    """Return planes (N x C, Y, X), of each position all channels, as (C, pixels)."""
    return planes.reshape(-1, channels, *planes.shape[1:]).swapaxes(0, 1).reshape(channels, -1)


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
