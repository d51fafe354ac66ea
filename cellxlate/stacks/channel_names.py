"""Names of channels: as files state them, and made to fit a stack."""

from collections.abc import Sequence
from typing import Any


def all_named(names: Sequence[Any]) -> tuple[str, ...]:
    """Return channel names, "channel N" for those that have none; nothing where no channel has a name."""
    stated = [str(name) if name is not None and str(name).strip() else "" for name in names]
    return tuple(name or unnamed(number) for number, name in enumerate(stated)) if any(stated) else ()


def unnamed(number: int) -> str:
    """Return what a channel without a name is called where others have one."""
    return f"channel {number}"


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
