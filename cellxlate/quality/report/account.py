"""What a finished result is found to be: counted, judged and drawn in one place, whoever reads it back."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from cellxlate.quality.report.doubts import notices_of
from cellxlate.quality.report.figures import draw_planes, draw_sections
from cellxlate.quality.report.notices import Notice
from cellxlate.quality.tally import Tally, spared
from cellxlate.quality.trust.examine import NO_LEVELS, examine
from cellxlate.stacks.channel_names import shown_names
from cellxlate.stacks.intensity.range import IntensityRange
from cellxlate.stacks.luminance import luminance_stack, what_is_seen
from cellxlate.stacks.stack import Stack

Draw = Callable[[], str]
Beside = Callable[[Draw], AbstractContextManager[Draw]]
"""Lets pictures be drawn while a result is checked, and gives what returns them: `in_a_thread`, unless somebody wants
to know what each takes."""


@dataclass(frozen=True)
class Account:
    """What was found: what changed, with what could not be found out among its failures; pictures, as HTML.

    `sections` says where those are that run over depth or time, where there are any.
    """

    tally: Tally
    figures: str
    sections: Mapping[str, Any] = field(default_factory=dict)


@contextmanager
def in_a_thread(draw: Draw) -> Iterator[Draw]:
    """Draw in a thread of its own."""
    with ThreadPoolExecutor(1, "cellxlate-pictures") as pool:
        yield pool.submit(draw).result


def account_of(
    stack: Stack,
    enhanced: Stack,
    attention: Stack,
    count: Callable[[], Tally],
    *,
    channels: Sequence[int],
    domain: Mapping[str, Any] | None,
    levels: Mapping[int, IntensityRange] = NO_LEVELS,
    in_color: bool = False,
    draw: bool = True,
    beside: Beside = in_a_thread,
) -> Account:
    """Count what a result changed, judge whether it should be believed, and draw planes of it meanwhile.

    Parameters
    ----------
    stack, enhanced, attention : Stack
        Input, output and attention (uint8), of the same shape.
    count : callable
        Reads them and returns what changed: `read_back`, be it elsewhere, or with more that it answers for. What it
        raises is passed on; a check or a picture that fails is noted.
    channels : sequence of int
        The channels that were enhanced.
    domain : mapping or None
        What the model's card says of its training images.
    levels : mapping of int to IntensityRange
        Of the channels, or of their luminance, as far as they are known.
    in_color : bool
        Whether red, green and blue were enhanced by their luminance, which is judged then in their place.
    draw : bool
        Whether pictures are wanted.
    beside : callable
        How they are drawn meanwhile.
    """
    drawing = partial(draw_planes, stack, enhanced, attention, channels=channels, in_color=in_color)
    figures, across, sections = "", "", dict[str, Any]()
    with beside(drawing) if draw else nullcontext(str) as drawn:
        tally = count()
        with spared("judging whether the result should be believed", tally.failures):
            tally.in_color = in_color
            before, judged = what_is_seen(stack, channels) if in_color else (stack, channels)
            after = luminance_stack(enhanced) if in_color else enhanced
            tally.trust = examine(
                before, after, attention, places=tally.places, channels=judged, domain=domain, levels=levels
            )
        with spared("drawing the pictures of the report", tally.failures):
            figures = drawn()
    with spared("drawing the sections of the report", tally.failures):
        if draw:
            across, sections = draw_sections(
                stack, enhanced, attention, channels=channels, places=tally.places, in_color=in_color
            )
    return Account(tally, figures + across, sections)


def doubts_about(stack: Stack, tally: Tally, *, chosen: bool, source: Mapping[str, Any]) -> list[Notice]:
    """Return what a reader should be warned of; where that fails, it is among the tally's failures.

    `chosen` says whether the model was taken as the one that suits the stack best, `source` where attention comes from,
    as `gates.attention_source` states it.
    """
    notices: list[Notice] = []
    names = dict(enumerate(shown_names(stack)))
    with spared("gathering warnings", tally.failures):
        notices += notices_of(tally, channel_names=names, earlier=stack.metadata.earlier, chosen=chosen, source=source)
    return notices
