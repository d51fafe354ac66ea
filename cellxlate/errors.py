"""Every error a user can meet: what was found, what to do, and the options concerned, in the words of who asked.

An option has three names: a keyword of Python, a flag of the command line, a label of the panels (`cellxlate.options`).
Errors and warnings are made of parts, texts and options mixed, and `said` joins them with the names of one of these.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

Speaker = Literal["python", "command", "panel"]
_SPEAKER: ContextVar[Speaker] = ContextVar("speaker", default="python")


@dataclass(frozen=True)
class Words:
    """The same thing, in the words of Python, of the command line, and of the panels; and the options it concerns."""

    python: str
    command: str
    panel: str
    options: "tuple[Option, ...]" = ()


@dataclass(frozen=True)
class Option:
    """An option: keyword (`tile_px=`, `overwrite=True`), flag, label, and values that a panel calls otherwise.

    A name is empty where Python, the command line or the panels do not have the option.
    """

    python: str
    command: str
    panel: str = ""
    shown: tuple[tuple[str, str], ...] = ()

    @property
    def words(self) -> Words:
        """How it is named in a sentence; where there is none of it, by its name on the command line."""
        panel = f"'{self.panel}'" if " " in self.panel else self.panel
        return Words(self.python or self._elsewhere(), self.command, panel or self._elsewhere(), (self,))

    def of(self, value: object) -> Words:
        """Return how it is named with a value.

        Examples
        --------
        >>> Option("device=", "--device", "Device").of("cpu").panel
        "Device 'cpu'"
        """
        plain = value if isinstance(value, int | float | None) else str(value)
        keyword = f"{self.python}{plain!r}" if self.python else self._elsewhere(plain)
        shown = dict[object, object](self.shown).get(plain, plain) if isinstance(plain, str) else plain
        label = f"{self.words.panel} {shown!r}" if self.panel else self._elsewhere(plain)
        return Words(keyword, f"{self.command} {plain}", label, (self,))

    def _elsewhere(self, value: object = "") -> str:
        return f"'{f'{self.command} {value}'.strip(' -')}' of the command line"


Part: TypeAlias = str | Words | Option | BaseException


@contextmanager
def speaking(speaker: Speaker) -> Iterator[None]:
    """Let `said` use the words of the command line, or of the panels, in this thread; those of Python by default."""
    before = _SPEAKER.get()
    _SPEAKER.set(speaker)
    try:
        yield
    finally:
        _SPEAKER.set(before)  # no token: what closes a generator may be another thread


def who_speaks() -> Speaker:
    """Return whose words `said` uses in this thread."""
    return _SPEAKER.get()


def said(*parts: Part, by: Speaker | None = None) -> str:
    """Return parts, errors among them, as one line in the words of who is `speaking`.

    Examples
    --------
    >>> said("give ", Option("overwrite=True", "--overwrite", "Replace existing files"), " to replace it")
    'give overwrite=True to replace it'
    """
    speaker = by or who_speaks()
    words = [part.words if isinstance(part, Option) else part for part in _flat(parts)]
    return "".join(getattr(part, speaker) if isinstance(part, Words) else str(part) for part in words)


def _flat(parts: Iterable[Part]) -> Iterator[Part]:
    """Yield the parts, and of errors their parts."""
    for part in parts:
        yield from _flat(part.parts) if isinstance(part, CellxlateError) else (part,)


class CellxlateError(Exception):
    """A condition that is reported to the user in one line, which `str` returns in the words of Python.

    Attributes
    ----------
    found, remedy : tuple of (str, Option, Words or exception)
        What was found and what to do, in parts; a text alone may hold both.
    exit_code : int
        What the command line returns for it.
    """

    exit_code = 2

    def __init__(self, *found: Part, remedy: Part | tuple[Part, ...] = ()) -> None:
        self.found = found
        self.remedy = remedy if isinstance(remedy, tuple) else (remedy,)
        super().__init__(said(*self.parts, by="python"))

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), *self.found, remedy=self.remedy), (), self.__dict__

    @property
    def parts(self) -> tuple[Part, ...]:
        """What was found and what to do, as `said` takes it."""
        return (*self.found, "; ", *self.remedy) if self.remedy else self.found

    @property
    def options(self) -> tuple[Option, ...]:
        """The options that it names, each once."""
        words = [part.words if isinstance(part, Option) else part for part in _flat(self.parts)]
        return tuple(dict.fromkeys(one for part in words if isinstance(part, Words) for one in part.options))


class InputError(CellxlateError, ValueError):
    """A file or an array cannot be used as it is: missing, damaged, or of an unsupported kind."""


class MissingInputError(InputError, FileNotFoundError):
    """There is no such file."""


class ForbiddenInputError(InputError, PermissionError):
    """A file is there and may not be read."""


class OptionError(CellxlateError, ValueError):
    """An option is outside what makes sense, or options contradict each other."""


class OutputError(CellxlateError):
    """An output cannot be written: it exists already, or its folder cannot hold it."""


class ForbiddenOutputError(OutputError, PermissionError):
    """Its folder, or a file that is in the way, may not be changed."""


class ModelError(CellxlateError):
    """A model folder is incomplete, damaged, or from another version."""


class MissingModelError(ModelError, FileNotFoundError):
    """There is no such model, or it lacks a file."""


class ForbiddenModelError(ModelError, PermissionError):
    """A model is there and may not be read."""


def unless_denied(error: CellxlateError, place: object, fault: BaseException) -> CellxlateError:
    """Return an error, or a PermissionError in its place where the fault is that the system denied a right to a file.

    The fault may be of a library, with the system's among its causes.
    """
    cause: BaseException | None = fault
    while cause and not (isinstance(cause, PermissionError) and not isinstance(cause, CellxlateError)):
        cause = cause.__cause__ or cause.__context__
    if not isinstance(cause, PermissionError):
        return error
    if isinstance(error, OutputError):
        return ForbiddenOutputError(*error.found, remedy=error.remedy)
    kind = ForbiddenModelError if isinstance(error, ModelError) else ForbiddenInputError
    inside = f": {cause.filename}" if str(cause.filename or place) != str(place) else ""
    return kind(f"{place}{inside} cannot be read ({cause.strerror or cause})", remedy="check your rights to it")


class TrainingError(CellxlateError):
    """Training ran and stopped because going on would not give a useful model."""

    exit_code = 1


class PromiseError(CellxlateError):
    """A written file differs from its input at a pixel that attention did not select."""

    exit_code = 1


class ClusterError(CellxlateError):
    """Bands failed on every try, or the cluster was lost. What is done is kept and can be resumed."""

    exit_code = 1
