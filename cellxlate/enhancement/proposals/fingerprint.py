"""What a function computes, as a digest that another process finds too: code, constants, and all that it holds.

Code of installed packages and of Python itself stands for itself, by name and version.
"""

import hashlib
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path, PurePath
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

MOST_DEEP = 60
PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), PurePath)


@dataclass(frozen=True)
class Fingerprint:
    """Of a function.

    Attributes
    ----------
    sha256 : str
        Equal for the same code with the same values, in any process of the same Python.
    unseen : tuple of str
        Kinds of objects whose values could not be looked at: they count by their name alone.
    """

    sha256: str
    unseen: tuple[str, ...]


def fingerprint(function: Any) -> Fingerprint:
    """Return that of a function, a method, a `functools.partial`, or an object that can be called."""
    walk = _Walk()
    digest = walk.digest(function, 0)
    return Fingerprint(digest.hex(), tuple(dict.fromkeys(walk.unseen)))


@dataclass
class _Walk:
    """Looks at a value and at all that it holds; what holds itself is seen once."""

    unseen: list[str] = field(default_factory=list)
    begun: dict[int, int] = field(default_factory=dict)
    kept: list[Any] = field(default_factory=list)

    def digest(self, value: Any, deep: int) -> bytes:
        """Return the digest of a value."""
        found = hashlib.sha256()
        if isinstance(value, PLAIN):
            found.update(f"{type(value).__name__}:{value!r}".encode())
            return found.digest()
        if id(value) in self.begun or deep > MOST_DEEP:
            found.update(f"seen:{self.begun.get(id(value), -1)}".encode())
            return found.digest()
        self.begun[id(value)] = len(self.begun)
        self.kept.append(value)  # or another object may get its number
        for part in self.parts(value):
            found.update(part if isinstance(part, bytes) else self.digest(part, deep + 1))
            found.update(b"|")
        return found.digest()

    def parts(self, value: Any) -> Iterator[Any]:
        """Yield what makes a value: bytes as they are, and other values."""
        yield type(value).__qualname__.encode()
        if isinstance(value, ModuleType):
            yield f"{value.__name__} {_version(value.__name__)}"
        elif isinstance(value, np.ufunc):
            yield f"{value.__name__} {np.__version__}"
        elif isinstance(value, np.dtype):
            yield value.str
        elif isinstance(value, np.ndarray | np.generic):
            plain = np.asarray(value)
            yield from (plain.dtype.str, plain.shape)
            yield plain.tolist() if plain.dtype.hasobject else np.ascontiguousarray(plain).tobytes()
        elif isinstance(value, list | tuple):
            yield from value
        elif isinstance(value, set | frozenset):
            yield from sorted(_Walk().digest(one, 0) for one in value)
        elif isinstance(value, Mapping):
            yield from (one for key in sorted(value, key=repr) for one in (key, value[key]))
        elif isinstance(value, Enum):
            yield from (type(value).__module__, type(value).__qualname__, value.name)
        elif isinstance(value, partial):
            yield from (value.func, value.args, value.keywords)
        elif isinstance(value, MethodType):
            yield from (value.__func__, value.__self__)
        elif isinstance(value, CodeType):
            yield from (value.co_code, value.co_names, value.co_consts)
        elif isinstance(value, FunctionType | BuiltinFunctionType | type):
            yield from self._named(value)
        else:
            yield from self._object(value)

    def _named(self, value: Any) -> Iterator[Any]:
        """Yield what makes a function or a class."""
        yield from (str(value.__module__), value.__qualname__) if _is_installed(value) else ()
        if _is_installed(value) or isinstance(value, BuiltinFunctionType):
            yield f"{value.__qualname__} {_version(str(value.__module__))}"
            owner = getattr(value, "__self__", None)
            yield None if isinstance(owner, ModuleType) else owner
        elif isinstance(value, type):
            yield value.__bases__
            yield {name: one for name, one in vars(value).items() if not _is_of_python(name, one)}
        else:
            yield from (value.__code__, value.__defaults__, value.__kwdefaults__)
            for cell in value.__closure__ or ():
                try:
                    yield cell.cell_contents
                except ValueError:  # not filled yet
                    yield b"empty"
            yield {name: value.__globals__[name] for name in _names(value.__code__) if name in value.__globals__}

    def _object(self, value: Any) -> Iterator[Any]:
        """Yield what makes any other object: its class, and its values as far as Python shows them."""
        yield type(value)
        torch = sys.modules.get("torch")
        if torch and isinstance(value, torch.Tensor):
            yield value.detach().cpu().numpy()
        elif torch and isinstance(value, torch.nn.Module):
            yield repr(value)
            yield dict(value.state_dict())
        elif isinstance(value, staticmethod | classmethod):
            yield value.__func__
        elif isinstance(value, property):
            yield (value.fget, value.fset)
        else:
            slots = [name for one in type(value).__mro__ for name in getattr(one, "__slots__", ())]
            held = {
                **getattr(value, "__dict__", {}),
                **{one: getattr(value, one) for one in slots if hasattr(value, one)},
            }
            if not held and type(value).__module__ != "__main__" and _is_compiled(type(value)):
                self.unseen.append(type(value).__name__)
            yield held


def _names(code: CodeType) -> Iterator[str]:
    """Yield the names that code asks its module for, in functions inside it too."""
    yield from code.co_names
    for one in code.co_consts:
        if isinstance(one, CodeType):
            yield from _names(one)


def _is_of_python(name: str, value: Any) -> bool:
    """Return whether an entry of a class was put there by Python."""
    return name in ("__dict__", "__weakref__", "__module__", "__doc__", "__firstlineno__", "__static_attributes__") or (
        type(value).__name__ in ("getset_descriptor", "member_descriptor")
    )


def _is_compiled(kind: type) -> bool:
    """Return whether a class has no code in Python."""
    return not any(isinstance(one, FunctionType) for one in vars(kind).values())


def _is_installed(value: Any) -> bool:
    """Return whether a function or class is part of Python, or of a package that was installed."""
    module = sys.modules.get(str(value.__module__))
    place = getattr(module, "__file__", None)
    if module is None or module.__name__ == "__main__":
        return False
    if place is None:
        return True
    folder = Path(place).resolve()
    return any(folder.is_relative_to(one) for one in _INSTALLED)


def _version(module: str) -> str:
    """Return the version of the package of a module; that of Python where it states none."""
    package = sys.modules.get(module.partition(".")[0])
    return str(getattr(package, "__version__", sys.version.split()[0]))


_INSTALLED = tuple({
    Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "platstdlib", "purelib", "platlib")
})  # fmt: skip
