"""What a description states, read with bounds: YAML of strangers becomes entries, checked where they are used."""

import io
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from cellxlate.errors import ModelError
from cellxlate.stacks.naming import one_line

LARGEST_DESCRIPTION_BYTES = 500_000
"""Those of the zoo have some 10 kB."""
MOST_EVENTS, MOST_DEEP, MOST_ALIASES = 50_000, 30, 200
LONGEST_TEXT = 500
MERGE_KEY, ENDING = "<<", ".yaml"
POWER = r"[-+]?[0-9]+[eE][-+]?[0-9]{1,3}"
"""A number in YAML 1.2, which most packages are written in, and a text in YAML 1.1, which is read here: 1e-06."""

Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Entry:
    """A value of a description, and where it stands there: `rdf.yaml: inputs[0].axes`."""

    value: Any
    where: str

    def __getitem__(self, key: str | int) -> "Entry":
        """Return what stands below it; an entry without a value where there is nothing."""
        if isinstance(key, int):
            items = self.value if isinstance(self.value, list) else []
            return Entry(items[key] if key < len(items) else None, f"{self.where}[{key}]")
        inner = self.value.get(key) if isinstance(self.value, dict) else None
        return Entry(inner, f"{self.where}{': ' if self.where.endswith(ENDING) else '.'}{key}")

    def __iter__(self) -> Iterator["Entry"]:
        """Yield the entries of a list; none where there is nothing, ModelError where it is no list."""
        if self.value is not None and not isinstance(self.value, list):
            raise self.fault("a list")
        for number in range(len(self.value or [])):
            yield self[number]

    def __bool__(self) -> bool:
        """Whether there is something."""
        return self.value is not None

    @property
    def names(self) -> list[str]:
        """The keys of a mapping; none where there is nothing."""
        if self.value is not None and not isinstance(self.value, dict):
            raise self.fault("a mapping")
        return [str(name) for name in self.value or {}]

    def text(self, default: str = "") -> str:
        """Return a text in one line, cut where it is very long."""
        if self.value is None:
            return default
        if isinstance(self.value, dict | list):
            raise self.fault("a text")
        words = " ".join(str(self.value).split())[:LONGEST_TEXT]
        return "".join(letter for letter in words if letter.isprintable())

    def number(self, default: float | None = None) -> float:
        """Return a number that is finite."""
        value = self.value
        if value is None and default is not None:
            return default
        if isinstance(value, str) and re.fullmatch(POWER, value):
            value = float(value)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.fault("a number")
        return float(value)

    def numbers(self, default: float | None = None) -> tuple[float, ...]:
        """Return one number, or several."""
        if isinstance(self.value, list) and self.value:
            return tuple(one.number() for one in self)
        return (self.number(default),)

    def whole(self, least: int = 0) -> int:
        """Return a whole number of pixels."""
        if type(self.value) is not int or not least <= self.value < 2**20:
            raise self.fault(f"a whole number of {least} or more")
        return self.value

    def fault(self, expected: str) -> ModelError:
        """Return what is wrong with it."""
        found = "missing" if self.value is None else ascii(self.value)[:80]
        return ModelError(f"{self.where} is {found}, expected {expected}; ask who made the package")


def read_description(data: bytes, name: str) -> Entry:
    """Return what a description states.

    Raises
    ------
    ModelError
        It is no YAML, is nested or refers to itself beyond what any package needs, or holds no mapping.
    """
    try:
        _require_bounds(data, name)
        value = yaml.load(data, Loader=Loader)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError, TypeError, AttributeError) as fault:
        raise ModelError(f"{name} is no readable YAML ({one_line(fault)[:120]}); copy the package again") from fault
    if not isinstance(value, dict):
        raise ModelError(f"{name} describes nothing; expected the description of a model")
    return Entry(value, name)


def _require_bounds(data: bytes, name: str) -> None:
    """Raise ModelError where a description is nested, or refers to itself, as no package does."""
    deep = aliases = 0
    for number, event in enumerate(yaml.parse(io.BytesIO(data), Loader=Loader)):
        deep += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        aliases += isinstance(event, yaml.AliasEvent)
        merges = isinstance(event, yaml.ScalarEvent) and event.value == MERGE_KEY and not event.style
        if number > MOST_EVENTS or deep > MOST_DEEP or aliases > MOST_ALIASES or merges:
            raise ModelError(f"{name} is nested or refers to itself as no description does; ask who made the package")
