"""Which channels of a stack are enhanced, and which networks see beside them and never change."""

from collections.abc import Sequence

from cellxlate.errors import OptionError
from cellxlate.model.bundle import Bundle
from cellxlate.model.cards import card_channels, count_of_channels, seen_words
from cellxlate.option_values import as_list
from cellxlate.options import ATTENTION_CHANNEL, BESIDE, CHANNELS, MODEL
from cellxlate.stacks.channel_names import WANTED, channel_number, choose_channels
from cellxlate.stacks.stack import Stack

Channels = Sequence[str | int] | str | int | None
"""Names or numbers of channels, as somebody asks for them."""


def choose_sight(
    stack: Stack, model: object, channels: Channels, beside: Channels, attention_channel: str | int | None = None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the channels of a stack that are enhanced, and those that networks see beside each.

    Parameters
    ----------
    model : Bundle or object
        What is not loaded, but to be chosen for the stack, or no model of ours, sees one channel.
    channels, beside : str, int, sequence of them, or None
        Names or numbers as they were asked for. Where none is, those that the model's card names; and of a model that
        sees one channel all but opacity, beside which none is seen.
    attention_channel : str or int, optional
        Whose attention is to gate all.

    Raises
    ------
    OptionError
        There is no such channel; the model sees more channels, or fewer, than are named; one is enhanced and seen
        beside at once; or attention of such a model is to be that of another channel.
    """
    needed = model.networks.settings.beside if isinstance(model, Bundle) else 0
    if not (isinstance(model, Bundle) and needed):
        if named := _as_asked(beside):
            name = model.name if isinstance(model, Bundle) else "what enhances here"
            raise OptionError(
                BESIDE, f" names {count_of_channels(len(named))}, and {name} sees none beside the one that it changes",
                remedy=("leave it out, or choose another ", MODEL),
            )  # fmt: skip
        return choose_channels(stack, channels), ()
    if attention_channel is not None:
        raise OptionError(
            f"{model.name} looks for what may change with {seen_words(model.card, needed)} in view",
            remedy=("leave out ", ATTENTION_CHANNEL),
        )
    seen = _beside(stack, model, needed, _as_asked(beside))
    own = choose_channels(stack, channels) if _as_asked(channels) else _own(stack, model, seen)
    if both := sorted({*own} & {*seen}):
        raise OptionError(
            f"{stack.name}: {_called(stack, both[0])} is seen beside by {model.name}, and stays as it is",
            remedy=("choose others with ", CHANNELS),
        )
    return own, seen


def _as_asked(channels: Channels) -> list[str | int]:
    if channels is None:
        return []
    return [channels] if isinstance(channels, str | int) else as_list(BESIDE, channels, WANTED)


def _beside(stack: Stack, model: Bundle, needed: int, asked: list[str | int]) -> tuple[int, ...]:
    """Return the channels that are seen beside, in the order in which the networks take them."""
    if asked and len(asked) != needed:
        raise OptionError(
            f"{model.name} sees {seen_words(model.card, needed)} beside the channel that it changes, and "
            f"{count_of_channels(len(asked))} {'is' if len(asked) == 1 else 'are'} named",
            remedy=("name as many, in that order, with ", BESIDE),
        )
    names = asked or [one for one in card_channels(model.card)[1] if isinstance(one, str)]
    there = {name.strip().casefold() for name in stack.channel_names}
    if not asked and (len(names) != needed or any(str(one).strip().casefold() not in there for one in names)):
        holds = ", ".join(f"{at} {name}" for at, name in enumerate(stack.channel_names))
        unnamed = (
            f"{count_of_channels(stack.channel_count)} without {'a name' if stack.channel_count == 1 else 'names'}"
        )
        raise OptionError(
            f"{model.name} sees {seen_words(model.card, needed)} beside the channel that it changes, and {stack.name} "
            f"has {holds or unnamed}",
            remedy=("name what it shall see with ", BESIDE),
        )
    numbers = [channel_number(one, stack.channel_names, stack.channel_count, stack.name) for one in names]
    if len({*numbers} & {*stack.light_channels}) < len(numbers):
        raise OptionError(
            f"{stack.name}: channels that are seen beside are named twice, or are opacity (alpha)",
            remedy=("name each once with ", BESIDE),
        )
    return tuple(numbers)


def _own(stack: Stack, model: Bundle, seen: Sequence[int]) -> tuple[int, ...]:
    """Return the channel that is enhanced where none is asked for: that of the card's name, or the only one left."""
    name = card_channels(model.card)[0]
    left = [one for one in stack.light_channels if one not in seen]
    named = [
        one for one in left if isinstance(name, str) and stack.channel_names and _same(stack.channel_names[one], name)
    ]
    if len(found := named or left) == 1:
        return tuple(found)
    changes = f"{name} alone" if isinstance(name, str) else "one channel"
    raise OptionError(
        f"{model.name} changes {changes}, and {stack.name} has "
        + (f"{len(left)} that it could be" if left else "no other than those that are seen beside it"),
        remedy=("choose with ", CHANNELS),
    )


def _same(one: str, other: str) -> bool:
    return one.strip().casefold() == other.strip().casefold()


def _called(stack: Stack, channel: int) -> str:
    return stack.channel_names[channel] if stack.channel_names else f"channel {channel}"
