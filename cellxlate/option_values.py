"""Values of options and names that are given: what was probably meant, and one line where they make no sense."""

from collections.abc import Collection, Iterable
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from cellxlate.errors import Option, OptionError, Part

ALIKE = 0.7
"""Of two spellings, as `difflib` measures it: from here on one may be meant where the other is given."""
FEW = 6


def nearest_name(given: str, known: Iterable[str]) -> str | None:
    """Return the name that was probably meant; None where none is near.

    Case, hyphens, underscores and spaces do not count; then a beginning that only one of them has; then the same
    letters in another order; then spelling.

    Examples
    --------
    >>> nearest_name("Nuclei_lowexp", ["cells", "nuclei-lowexp"])
    'nuclei-lowexp'
    >>> nearest_name("enhace", ["evaluate", "enhance"])
    'enhance'
    >>> nearest_name("GPF", ["DAPI", "GFP"])
    'GFP'
    >>> nearest_name("dream", ["evaluate", "enhance"])
    """
    plain = {name: _plain(name) for name in known}
    asked = _plain(given)
    if same := [name for name, one in plain.items() if one == asked]:
        return same[0]
    begun = [name for name, one in plain.items() if len(asked) > 1 and one.startswith(asked)]
    if len(begun) == 1:
        return begun[0]
    if turned := [name for name, one in plain.items() if one and sorted(one) == sorted(asked)]:
        return turned[0]
    from difflib import get_close_matches  # needed by those alone who mistype

    near = get_close_matches(asked, list(plain.values()), 1, ALIKE)
    return next((name for name, one in plain.items() if near and one == near[0]), None)


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter not in "-_ ")


def instead(given: object, known: Collection[str]) -> str:
    """Return what to give in place of something that is not known: what was probably meant, and what there is.

    Where one was meant, others are listed only if they are few.

    Examples
    --------
    >>> instead("Torch", ["auto", "torch"])
    "did you mean 'torch'? There are auto, torch"
    >>> instead(5, ["auto", "torch"])
    'there are auto, torch'
    """
    meant = nearest_name(given, known) if isinstance(given, str) else None
    there = f"here are {', '.join(known)}"
    if meant is None:
        return f"t{there}"
    return f"did you mean {meant!r}?" + (f" T{there}" if len(known) <= FEW else "")


def require_choice(option: Option | str, value: object, known: Collection[str]) -> None:
    """Raise OptionError, with the one that was probably meant, unless a value is one of those that are known."""
    if not (isinstance(value, str) and value in known):
        raise OptionError(given(option, value), " is not known", remedy=instead(value, known))


def real_number(option: Option | str, value: Any, expected: str = "a number") -> float:
    """Return a value that must be a number; NaN and infinity are left to the range that is asked of it.

    Raises
    ------
    OptionError
        It is something else: text, a truth value, a list.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise OptionError(given(option, value), f" {kind_of(value)}, expected {expected}")
    return float(value)


def whole(option: Option | str, value: Any, *, least: int | None = None) -> int:
    """Return a value that must be a whole number, and not too small, as Python's own.

    Raises
    ------
    OptionError
        It is something else, or smaller than `least`.
    """
    expected = "a whole number" if least is None else f"a whole number from {least}"
    real_number(option, value, expected)
    if not (isinstance(value, Integral) or float(value).is_integer()) or (least is not None and value < least):
        raise OptionError(given(option, value), f" is not {expected}")
    return int(value) if isinstance(value, Integral) else int(float(value))


def require_flags(**flags: object) -> None:
    """Raise OptionError where a keyword is neither True nor False: any text, "no" among it, would pass for True."""
    for name, value in flags.items():
        if not isinstance(value, bool) and type(value).__name__ not in ("bool", "bool_"):  # numpy's, under either name
            raise OptionError(given(name, value), f" {kind_of(value)}, expected True or False")


def require_callables(**functions: object) -> None:
    """Raise OptionError where a keyword is given that cannot be called."""
    for name, value in functions.items():
        if value is not None and not callable(value):
            raise OptionError(given(name, value), f" {kind_of(value)}, expected a function, as print is")


def require_kind(name: str, value: object, kind: type | tuple[type, ...], expected: str) -> None:
    """Raise OptionError where a keyword is given, but not as the kind of object that is expected."""
    if value is not None and not isinstance(value, kind):
        raise OptionError(given(name, value), f" {kind_of(value)}, expected {expected}")


def as_list(option: Option, value: Any, expected: str = "paths") -> list[Any]:
    """Return a value that must be some sequence as a list.

    Raises
    ------
    OptionError
        It is something else.
    """
    try:
        return list(value)
    except TypeError:
        raise OptionError(given(option, value), f" {kind_of(value)}, expected {expected}") from None


def as_path(option: Option | str, value: Any) -> Path:
    """Return a value that must be a path, as text or a Path.

    Raises
    ------
    OptionError
        It is something else.
    """
    if not isinstance(value, str | Path):
        raise OptionError(given(option, value), f" {kind_of(value)}, expected a path")
    return Path(value)


def given(option: Option | str, value: object) -> Part:
    """Return how an option, or a keyword that Python alone has, is named with a value."""
    if isinstance(option, str):
        return f"{option}={shortly(value)}"
    is_plain = value is None or isinstance(value, str | int | float | Path)
    return option.of(value) if is_plain else f"{option.python}{shortly(value)}"


def shortly(value: object) -> str:
    """Return the start of a value as Python writes it, in one line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:79]}…"


def kind_of(value: object) -> str:
    """Return what a value is, for a sentence that begins with it."""
    kinds = {str: "is text", bool: "is a truth value", type(None): "is nothing"}
    return kinds.get(type(value), f"is of type {type(value).__name__}")
