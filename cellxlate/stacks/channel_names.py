"""Names of channels: as files state them, made to fit a stack, and as somebody asks for them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellxlate.errors import OptionError
from cellxlate.option_values import as_list, nearest_name, shortly
from cellxlate.options import CHANNELS, STACKS_FIRST

if TYPE_CHECKING:
    from cellxlate.stacks.stack import Stack

WANTED = "names or numbers of channels"
COLOR_NAMES = "red", "green", "blue"


def all_named(names: Sequence[Any]) -> tuple[str, ...]:
    """Return channel names, "channel N" for those that have none; nothing where no channel has a name."""
    stated = [str(name) if name is not None and str(name).strip() else "" for name in names]
    return tuple(name or unnamed(number) for number, name in enumerate(stated)) if any(stated) else ()


def unnamed(number: int) -> str:
    """Return what a channel without a name is called where others have one."""
    return f"channel {number}"


def shown_names(stack: "Stack") -> tuple[str, ...]:
    """Return what the channels of a stack are called: as the file names them, and samples of colour by their colour."""
    if "S" not in stack.axes or "C" in stack.axes or len(stack.light_channels) != len(COLOR_NAMES):
        return stack.channel_names
    return (*COLOR_NAMES, *["opacity"] * (stack.size("S") - len(COLOR_NAMES)))


def given_names(names: Sequence[str]) -> tuple[str | None, ...]:
    """Return channel names as a file may state them: None for those that `all_named` has filled in."""
    given = tuple(None if name == unnamed(number) else name for number, name in enumerate(names))
    return given if any(given) else tuple(names)


def fitting(
    names: tuple[str, ...], axes: str, shape: tuple[int, ...], *, asked: str | None = None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return channel names that fit a stack, and a line where they do not; those of the last channels may be missing.

    Where the user has `asked` for axes, what the file says of channels may mean another axis.
    """
    channels = shape[axes.index("C")] if "C" in axes else 1
    if names and len(names) < channels and asked is None:
        names += tuple(unnamed(number) for number in range(len(names), channels))
    if not names or len(names) == channels:
        return names, ()
    return (), (f"{len(names)} channel names are stated for {channels} channels, so none is taken",)


def channel_number(asked: str | int, names: Sequence[str], count: int, stack: object) -> int:
    """Return the number of a channel that is asked for: text is a name first, and a number where none is called so.

    Case and blanks around a name do not count, unless there is one that is spelled exactly so.

    Parameters
    ----------
    asked : str or int
        Name or number.
    names, count : sequence of str, int
        Of the channels that there are; no names where none has one.
    stack : object
        What the stack is called in an error.

    Raises
    ------
    OptionError
        There is no such channel, or more than one.

    Examples
    --------
    >>> channel_number("dapi", ["DAPI", "GFP"], 2, "a.tif"), channel_number("1", ["DAPI", "GFP"], 2, "a.tif")
    (0, 1)
    """
    if isinstance(asked, bool) or not (isinstance(asked, str) or hasattr(asked, "__index__")):
        raise OptionError(f"the channel {shortly(asked)} is neither a name nor a number; give one of them")
    text = str(asked)
    exact = [number for number, name in enumerate(names) if name == asked]
    if not exact and text.isdecimal() and len(text) < 10 and int(text) < count:
        return int(text)
    plain = text.strip().casefold() if isinstance(asked, str) else None
    named = exact or [number for number, name in enumerate(names) if name.strip().casefold() == plain]
    if len(named) == 1:
        return named[0]
    if named:
        raise OptionError(
            f"{stack} has {len(named)} channels that are called {text!r}, numbers {', '.join(map(str, named))}; give "
            "the number"
        )
    there = ", ".join(f"{number} {name}" for number, name in enumerate(names)) or f"numbers 0 to {count - 1}"
    meant = nearest_name(text, names)
    hint = f"did you mean {meant!r}? There are: {there}" if meant else f"there are: {there}"
    if count == 1 and not names:
        hint = "it has one, without a name: leave the channel out"
    file = ("; ", STACKS_FIRST) if Path(text).suffix and Path(text).exists() else ()
    raise OptionError(f"{stack} has no channel {text!r}", remedy=(hint, *file))


def choose_channels(stack: "Stack", channels: Sequence[str | int] | str | int | None) -> tuple[int, ...]:
    """Return the numbers of the channels that are asked for by name or number; all but opacity where none is.

    Raises
    ------
    OptionError
        There is no such channel, more than one, or it is opacity.
    """
    asked = (
        [channels]
        if isinstance(channels, str | int)
        else []
        if channels is None
        else as_list(CHANNELS, channels, WANTED)
    )
    if not asked:
        return stack.light_channels
    numbers = {channel_number(one, shown_names(stack), stack.channel_count, stack.name) for one in asked}
    if opaque := numbers.difference(stack.light_channels):
        raise OptionError(
            f"{stack.name}: sample {min(opaque)} is opacity (alpha), which is copied and never enhanced; choose others"
        )
    return tuple(sorted(numbers))
