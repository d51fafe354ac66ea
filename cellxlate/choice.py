"""Which shipped model a stack is enhanced with, where none is named (`-m auto`). Read `choose` from top to bottom."""

import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cellxlate.errors import ModelError
from cellxlate.model import cards
from cellxlate.prefetch import ahead
from cellxlate.quality.trust.likeness import (
    LEAST_CONTRAST,
    WindowFeatures,
    departure,
    departure_words,
    look,
    windows_of,
)
from cellxlate.settings import Along
from cellxlate.stacks.stack import PlaneIndex, Stack

if TYPE_CHECKING:
    from cellxlate.model.bundle import Bundle

ENOUGH_WINDOWS, MOST_WINDOWS = 8, 48
"""Of each channel: as soon as so many show something no more are read, and never more than these."""
GOLDEN = 0.6180339887498949
LIMIT = 1.0
"""Of the distance: what is nearer looks like the images that a model was trained on."""


@dataclass(frozen=True)
class Choice:
    """A model that was chosen for a stack.

    Attributes
    ----------
    name : str
        Of the shipped model.
    considered : mapping of str to float or None
        Distance of the stack to each shipped model; at most 1 within its domain. None where nothing can be said:
        the stack shows nothing, or the model's card has no domain.
    reason : str
        Why it was taken, in words.
    """

    name: str
    considered: Mapping[str, float | None]
    reason: str

    @property
    def distance(self) -> float | None:
        """Of the stack to the model that was taken."""
        return self.considered[self.name]


@dataclass(frozen=True)
class Suitability:
    """How near a stack is to the images that a model was trained on, told before anything is enhanced.

    Attributes
    ----------
    model : str
        Its name; where it was to be chosen, that of the shipped one that was.
    distance : float or None
        Of the farthest channel, in units of the limit. None where the card tells no domain, or nothing was seen.
    differences : tuple of str
        What is different, in words; none within the domain.
    windows : int
        How many windows showed something.
    adapted_from : str
        Name of the model that it was, where it has been adapted to a stack.
    """

    model: str
    distance: float | None
    differences: tuple[str, ...]
    windows: int
    adapted_from: str = ""

    @property
    def is_outside(self) -> bool:
        """Whether the stack is known not to look like the images that the model was trained on."""
        return self.distance is not None and self.distance > LIMIT


def choose_model(stack: Stack, channels: Sequence[int], *, context: Along = "auto") -> "tuple[Bundle, Choice]":
    """Load the shipped model that suits the channels of a stack that are to be enhanced, and say why it was taken.

    A bounded sample of the stack is read.

    Parameters
    ----------
    stack, channels : Stack, sequence of int
        What is to be enhanced.
    context : {"auto", "none", "z", "t"}
        Neighbours that are asked for: with "z" and "t" only models that can see them are considered.

    Raises
    ------
    ModelError
        No model is shipped, or one is damaged.
    InputError
        The stack cannot be read.
    """
    choice = choose(stack, channels, context=context)
    return shipped_model(choice), choice


def shipped_model(choice: Choice) -> "Bundle":
    """Load the model that was chosen."""
    from cellxlate.model.bundle import load_model  # needs torch, which choosing does not

    return load_model(cards.SHIPPED / choice.name)


def choose(stack: Stack, channels: Sequence[int], *, context: Along = "auto") -> Choice:
    """Choose a model as `choose_model` does, without loading it.

    Notes
    -----
    The same pixels always lead to the same model, whatever their gain, offset or data type. With several channels the
    distance is that of the channel which is farthest, because one model enhances all.
    """
    return choose_by([list(looks_of(stack, channel)) for channel in channels], context=context)


def choose_by(looks: Sequence[Sequence[WindowFeatures]], *, context: Along = "auto") -> Choice:
    """Choose a model as `choose_model` does, by what was seen of each channel, or of each kind of image.

    Raises
    ------
    ModelError
        No model is shipped, or a card is damaged.
    """
    every = {folder.name: cards.read_card(folder) for folder in cards.model_folders(cards.SHIPPED)}
    shipped = {name: card for name, card in every.items() if not cards.card_channels(card)[1]}  # which want to be named
    if context in ("z", "t"):
        shipped = {name: card for name, card in shipped.items() if "context" in card}
    if not shipped:
        raise ModelError(f"{cards.SHIPPED} holds no model to choose from; install cellxlate again, or name a model")
    distances = {name: _distance(looks, card.get("domain")) for name, card in shipped.items()}
    generalists = {name for name, card in shipped.items() if card.get("generalist") is True}
    name, reason = nearest(distances, generalists)
    if context in ("z", "t"):
        reason = (
            f"of the models that can see neighbours; {reason}" if len(shipped) > 1 else "it alone can see neighbours"
        )
    return Choice(name, distances, reason)


def suitability(stack: Stack, channels: Sequence[int], model: str) -> Suitability:
    """Say how near a stack is to what a model was trained on; the windows looked at are those of `choose`.

    Parameters
    ----------
    stack : Stack
        A bounded sample of it is read: at most 48 windows of 256 px of each channel, about 15 ms each.
    channels : sequence of int
        Those that are to be enhanced; the farthest counts.
    model : str
        Folder, archive or shipped name; "auto" takes the one that is chosen for the stack.

    Raises
    ------
    ModelError
        There is no such model, or its card is damaged.
    InputError
        The stack cannot be read.
    """
    folder = None if model == cards.AUTO else cards.locate(model)
    looks = [list(looks_of(stack, channel)) for channel in channels]
    folder = folder or cards.SHIPPED / choose_by(looks).name
    card, windows = cards.read_card(folder), sum(map(len, looks))
    adaptation = card.get("adaptation")
    base = str(adaptation.get("base", "")) if isinstance(adaptation, dict) else ""
    departures = [one for own in looks if (one := departure(own, card.get("domain")))]
    farthest = max(departures, key=lambda one: one.distance, default=None)
    distance, differences = (round(farthest.distance, 4), departure_words(farthest)) if farthest else (None, ())
    return Suitability(cards.model_name(folder), distance, tuple(differences), windows, base)


def nearest(distances: Mapping[str, float | None], generalists: Collection[str]) -> tuple[str, str]:
    """Return the model that suits best, and why.

    A specialist within its own domain comes first, the nearest of several; then a generalist within its domain, or of
    which nothing is known; then, where nothing fits, whatever is nearest. So the wide domain of a generalist, in which
    nearly everything is near, does not take from a specialist what it was trained for.

    Parameters
    ----------
    distances : mapping of str to float or None
        To each model, in units of its limit; None where it is not known.
    generalists : collection of str
        Models whose card says "generalist".

    Examples
    --------
    >>> nearest({"nuclei": 0.9, "cells": 0.2}, {"cells"})
    ('nuclei', 'the specialist for images like these')
    >>> nearest({"nuclei": 1.1, "cells": 0.2}, {"cells"})
    ('cells', 'no specialist fits, the generalist does')
    >>> nearest({"nuclei": 1.5, "cells": 1.7}, {"cells"})
    ('nuclei', 'no shipped model fits, this one is nearest')
    """

    def rank(name: str) -> tuple[int, float, str]:
        distance = distances[name]
        if distance is None:
            return 1 if name in generalists else 3, 0.0, name
        if distance > LIMIT:
            return 2, distance, name
        return 1 if name in generalists else 0, distance, name

    name = min(distances, key=rank)
    if all(distance is None for distance in distances.values()):
        return name, "the stack holds nothing to choose by"
    reasons = (
        "the specialist for images like these",
        "no specialist fits, the generalist does",
        "no shipped model fits, this one is nearest",
    )
    return name, reasons[rank(name)[0]]


def looks_of(stack: Stack, channel: int) -> Iterator[WindowFeatures]:
    """Look at windows of 256 px spread over the planes of a channel: the first 8 that show something, of at most 48."""
    count = 0
    for one in ahead(lambda window: look(stack.read(*window)), _spread_windows(stack, channel), threads=2):
        if one is not None and one.quantities["contrast"] > LEAST_CONTRAST:
            yield one
            count += 1
            if count == ENOUGH_WINDOWS:
                return


def _spread_windows(stack: Stack, channel: int) -> Iterator[tuple[PlaneIndex, slice, slice]]:
    """Yield different windows of a channel, any first few of which are spread over its planes (golden section)."""
    windows = windows_of(stack.plane_shape, sys.maxsize)
    total = len(windows) * stack.planes_per_channel
    spread = (int((turn + 0.5) * GOLDEN % 1.0 * total) for turn in range(MOST_WINDOWS))
    for number in range(total) if total <= ENOUGH_WINDOWS else dict.fromkeys(spread):
        plane, window = divmod(number, len(windows))
        yield stack.plane_of(plane, channel), *windows[window]


def _distance(looks: Sequence[Sequence[WindowFeatures]], domain: Mapping[str, Any] | None) -> float | None:
    """Return the distance of the channel that is farthest from a domain; None where no channel can be judged."""
    distances = [one.distance for own in looks if (one := departure(own, domain))]
    return round(max(distances), 4) if distances else None
