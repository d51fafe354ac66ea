"""What a model's training images look like, measured again and put into its card."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from cellxlate.errors import InputError
from cellxlate.model.cards import amend_card, amendable, card_channels, read_card
from cellxlate.quality.trust.likeness import FEWEST_WINDOWS, describe_planes
from cellxlate.stacks.channel_names import channel_number
from cellxlate.stacks.read.open import find_images, open_stack
from cellxlate.stacks.stack import PlaneIndex, Stack


def describe_domain(
    model: str | Path, source: Sequence[str | Path], *, channel: str | int | None = None
) -> dict[str, Any]:
    """Measure what source images look like and put it into the card of a model, so that runs can warn of others.

    Training does so by itself; this is for a model whose card has no such numbers, or that is to be used on more kinds
    of images than it was trained on.

    Parameters
    ----------
    model : str or Path
        Model folder; a shipped model stays as it is.
    source : sequence of path
        The source images it was trained on: files or folders.
    channel : str or int, optional
        Of images with several, by name or number; by default that which the model changes where it sees others beside
        it, else all.

    Returns
    -------
    dict
        What now stands in the card under "domain".

    Raises
    ------
    ModelError
        There is no such model, or it is a shipped one.
    InputError
        There is no image, or too few windows of 256 px with anything in them.
    OptionError
        An image has no such channel.
    OutputError
        The card cannot be written.
    """
    folder = amendable(model)
    if channel is None:
        own, beside = card_channels(read_card(folder))
        channel = own if beside else None
    with ExitStack() as opened:
        stacks = [
            opened.enter_context(open_stack(path)) for path in find_images([Path(one) for one in source], "source")[0]
        ]
        planes = [(stack, index) for stack in stacks for index in _planes_of(stack, channel)]
        domain = describe_planes(planes)
    if domain is None:
        raise InputError(
            f"the source images hold fewer than {FEWEST_WINDOWS} windows of 256 x 256 px with anything in them; give "
            "the images the model was trained on"
        )
    amend_card(folder, "domain", domain)
    return domain


def _planes_of(stack: Stack, channel: str | int | None) -> list[PlaneIndex]:
    """Return the planes of a channel, or all."""
    if channel is None:
        return list(stack.plane_indices())
    number = channel_number(channel, stack.channel_names, stack.channel_count, stack.path or stack.name)
    return [index for index in stack.plane_indices() if stack.channel_of(index) == number]
