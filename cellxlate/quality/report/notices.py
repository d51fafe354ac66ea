"""One thing to say of a result, and how the same is said of several channels or stacks at once."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from cellxlate.locations import Location
from cellxlate.stacks.channel_names import unnamed

MOST_NAMED = 4
"""Channels, planes and stacks are named one by one up to here."""
NUMBERED = unnamed(0).removesuffix("0")


@dataclass(frozen=True)
class Notice:
    """One thing to say of a result.

    Attributes
    ----------
    text : str
        What was found, and what to do.
    short : str
        The same in a few words, for the verdict; empty where that does not need it.
    weight : {"fault", "doubt", "note"}
        Whether the result must not be used, should be looked at before it is used, or neither.
    kind : str
        Notices of one kind say the same of other stacks; by default the text, whatever its numbers.
    """

    text: str
    short: str = ""
    weight: Literal["fault", "doubt", "note"] = "note"
    kind: str = field(default="")

    def __post_init__(self) -> None:
        if not self.kind:
            object.__setattr__(self, "kind", re.sub(r"\d+(\.\d+)?", "#", self.text))


def failure_notices(failures: Iterable[str]) -> list[Notice]:
    """Say what could not be found out."""
    return [Notice(failure, "not everything could be checked", "doubt") for failure in failures]


def over_stacks(stacks: Iterable[tuple[str, Sequence[Notice]]]) -> list[str]:
    """Return what is said of several stacks, by name: each kind once, with the stacks that it concerns.

    Examples
    --------
    >>> over_stacks([("a.tif", [Notice("2 chunks are missing")]), ("b.tif", [Notice("7 chunks are missing")])])
    ['2 stacks (a.tif, b.tif), of the first: 2 chunks are missing']
    >>> over_stacks([("a.tif", [Notice("look")]), ("b.tif", [])])
    ['a.tif: look']
    """
    names: list[str] = []
    kinds: dict[str, dict[int, list[str]]] = {}
    for number, (name, notices) in enumerate(stacks):
        names.append(name)
        for notice in notices:
            texts = kinds.setdefault(notice.kind, {}).setdefault(number, [])
            if notice.text not in texts:
                texts.append(notice.text)
    lines = []
    for of_stacks in sorted(kinds.values(), key=len, reverse=True):
        named = [names[number] for number in of_stacks]
        shown = ", ".join([*named[:MOST_NAMED], *(["..."] if len(named) > MOST_NAMED else [])])
        who = f"{len(named)} stacks ({shown})" if len(named) > 1 else shown
        first, *others = of_stacks.values()
        lines.append(f"{who}{', of the first' if any(one != first for one in others) else ''}: {'; '.join(first)}")
    return lines


def told_apart(names: Sequence[str], paths: Sequence[Location]) -> list[str]:
    """Return what to call stacks: their names, with their paths where several are called so.

    Examples
    --------
    >>> from pathlib import Path
    >>> told_apart(["a.tif", "a.tif", "b.tif"], [Path("well_1/a.tif"), Path("well_2/a.tif"), Path("well_2/b.tif")])
    ['well_1/a.tif', 'well_2/a.tif', 'b.tif']
    """
    counts = Counter(names)
    return [name if counts[name] == 1 else str(path) for name, path in zip(names, paths, strict=True)]


def listed(names: Sequence[str]) -> str:
    """Name a few things in a sentence, and say how many there are beside.

    Examples
    --------
    >>> listed(["DAPI", "FITC"]), listed(["channel 0", "channel 2"]), listed(list("abcdef"))
    ('DAPI and FITC', 'channels 0 and 2', 'a, b, c, d and 2 others')
    """
    numbers = [name.removeprefix(NUMBERED) for name in names]
    if len(names) > 1 and all(
        number.isdecimal() and number != name for number, name in zip(numbers, names, strict=True)
    ):
        return f"{NUMBERED.strip()}s {listed(numbers)}"
    further = len(names) - MOST_NAMED
    shown = [*names[:MOST_NAMED], f"{further} others"] if further > 1 else list(names)
    return f"{', '.join(shown[:-1])} and {shown[-1]}" if len(shown) > 1 else shown[0]


def luminance_names(names: Mapping[int, str], channels: Collection[int]) -> dict[int, str]:
    """Return what the luminance of colours is called, by channel: so alone, where there is one.

    Examples
    --------
    >>> luminance_names({}, [0]), luminance_names({1: "stain"}, [0, 1])
    ({0: 'luminance'}, {0: 'luminance of channel 0', 1: 'luminance of stain'})
    """
    if len(channels) == 1:
        return dict.fromkeys(channels, "luminance")
    return {channel: f"luminance of {names.get(channel, unnamed(channel))}" for channel in channels}


def between(values: Iterable[float], say: Callable[[float], str]) -> str:
    """Say one number, or from which to which several are."""
    ordered = sorted(values)
    low, high = say(ordered[0]), say(ordered[-1])
    return low if low == high else f"{low} to {high}"


def each(details: Mapping[str, str]) -> str:
    """Say what there is to say of each name: once where it is the same of all."""
    if len({*details.values()}) == 1:
        return next(iter(details.values()))
    return "; ".join(f"{name}: {detail}" for name, detail in details.items())
