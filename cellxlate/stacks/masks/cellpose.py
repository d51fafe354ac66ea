"""The mask in a `_seg.npy` of Cellpose. Such a file is a pickle; none of it is run.

Python's own tool for looking at pickles, `pickletools.genops`, lists the instructions of one. Here they are followed as
far as they make numbers, texts, lists, tuples and mappings. What would import or call something becomes a plain record
of its name and arguments, and an array is made of the bytes of such a record by us. Nothing is imported, called, or
made larger than the file.
"""

import mmap
import pickletools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from cellxlate.errors import InputError, unless_denied
from cellxlate.regular_files import open_regular
from cellxlate.stacks.naming import one_line

MAGIC = b"\x93NUMPY"
MOST_BYTES = 2**30
MOST_INSTRUCTIONS = 2_000_000
DTYPES = ("b1", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8")
TO_SAVE = "save the masks from Cellpose's window as PNG or TIFF (File menu), or with cellpose.io.save_masks"

VALUES = frozenset((
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "STRING", "BINSTRING", "SHORT_BINSTRING",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE",
    "BINUNICODE8", "FLOAT", "BINFLOAT",
))  # fmt: skip
CONSTANTS: Mapping[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass
class Record:
    """What a pickle would call: its name, the arguments, and the state it would be given."""

    name: Any
    arguments: Any = ()
    state: Any = None


class _Mark:
    """Where a list of values begins on the stack."""


def read_cellpose(path: Path) -> npt.NDArray[Any]:
    """Return the mask of a `_seg.npy` file, (Y, X) or (Z, Y, X), whole numbers, 0 outside cells.

    Raises
    ------
    InputError
        It is no such file, holds no mask, is damaged, or is larger than 1 GB.
    """
    target = path.resolve()
    try:
        with open_regular(target.parent, target.name) as file:
            size = file.seek(0, 2)
            if size > MOST_BYTES:
                raise InputError(f"{path} has {size / 1e9:.1f} GB, of which at most 1 is read; {TO_SAVE}")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                content.seek(_start(content))  # type: ignore[arg-type]
                return _mask(_followed(content))  # type: ignore[arg-type]
    except InputError as fault:
        raise fault if str(fault).startswith(str(path)) else InputError(f"{path}: ", fault) from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as fault:
        damaged = InputError(f"{path} is no Cellpose file that can be read ({one_line(fault)}); {TO_SAVE}")
        raise unless_denied(damaged, path, fault) from fault


def _start(content: BinaryIO) -> int:
    """Return where the pickle begins, after the header of NumPy, which is not evaluated."""
    content.seek(0)
    first = content.read(8)
    if first[:6] != MAGIC or first[6] not in (1, 2, 3):
        raise InputError(f"it does not begin as files of NumPy do; {TO_SAVE}")
    length = int.from_bytes(content.read(2 if first[6] == 1 else 4), "little")
    if b"'descr': '|O'" not in content.read(min(length, 2**16)):
        raise InputError(f"it holds an array and not what Cellpose saves; {TO_SAVE}")
    return (10 if first[6] == 1 else 12) + length


def _followed(content: BinaryIO) -> Any:
    """Return what a pickle describes, of numbers, texts, lists, tuples, mappings and records."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    for name, argument in _instructions(content):
        if name == "STOP":
            return stack.pop()
        if name in VALUES:
            stack.append(argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[int(argument)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[int(argument)])
        else:
            _made(name, argument, stack)
    raise ValueError("it ends too early")


def _instructions(content: BinaryIO) -> Iterator[tuple[str, Any]]:
    for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if count > MOST_INSTRUCTIONS:
            raise ValueError(f"more than {MOST_INSTRUCTIONS} instructions")
        if opcode.name not in ("PROTO", "FRAME"):
            yield opcode.name, argument


def _made(name: str, argument: Any, stack: list[Any]) -> None:
    """Follow an instruction that makes something of what lies on the stack."""
    if name == "MARK":
        stack.append(_Mark())
    elif name in ("EMPTY_DICT", "EMPTY_LIST"):
        stack.append({} if name == "EMPTY_DICT" else [])
    elif name in TUPLES:
        count = TUPLES[name]
        stack[len(stack) - count :] = [tuple(stack[len(stack) - count :])]
    elif name in ("TUPLE", "LIST"):
        values = _above_mark(stack)
        stack.append(tuple(values) if name == "TUPLE" else values)
    elif name in ("APPEND", "APPENDS"):
        values = [stack.pop()] if name == "APPEND" else _above_mark(stack)
        _of_type(stack[-1], list).extend(values)
    elif name in ("SETITEM", "SETITEMS"):
        values = [stack.pop(-2), stack.pop()] if name == "SETITEM" else _above_mark(stack)
        pairs = zip(values[::2], values[1::2], strict=True)
        _of_type(stack[-1], dict).update((key, value) for key, value in pairs if isinstance(key, str))
    elif name == "GLOBAL":
        stack.append(Record(str(argument)))
    elif name == "STACK_GLOBAL":
        attribute, module = _of_type(stack.pop(), str), _of_type(stack.pop(), str)
        stack.append(Record(f"{module} {attribute}"))
    elif name in ("REDUCE", "NEWOBJ"):
        arguments, called = stack.pop(), stack.pop()
        stack.append(Record(getattr(called, "name", None), arguments))
    elif name == "BUILD":
        state = stack.pop()
        _of_type(stack[-1], Record).state = state
    else:
        raise ValueError(f"the instruction {name} is none that Cellpose writes")


def _above_mark(stack: list[Any]) -> list[Any]:
    """Take what lies above the last mark off the stack, and the mark."""
    at = next(number for number in reversed(range(-1, len(stack))) if number < 0 or isinstance(stack[number], _Mark))
    if at < 0:
        raise ValueError("a list without a beginning")
    values = stack[at + 1 :]
    del stack[at:]
    return values


def _of_type(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"a {type(value).__name__} in place of a {kind.__name__}")
    return value


def _mask(described: Any) -> npt.NDArray[Any]:
    """Return the array under "masks" in what a file describes: an array of one mapping."""
    inside = _of_type(described, Record).state[4]
    masks = _of_type(_of_type(inside, list)[0], dict).get("masks")
    if not isinstance(masks, Record) or masks.state is None:
        raise InputError(f"it holds no masks; draw or compute them in Cellpose, or {TO_SAVE}")
    _, shape, kind, columns_first, content = masks.state
    letter, order = kind.arguments[0], kind.state[1]
    if letter not in DTYPES or order not in ("<", ">", "|") or not isinstance(content, bytes):
        raise ValueError("its masks are no whole numbers")
    if not isinstance(shape, tuple) or not all(type(size) is int and 0 < size < 2**31 for size in shape):
        raise ValueError("its masks have no shape")  # nothing of the file in messages: it may contain itself
    if not 2 <= len(shape) <= 3:
        raise ValueError(f"its masks have {len(shape)} dimensions, expected 2 or 3")
    dtype = np.dtype(f"{order}{letter}")
    if prod(shape) * dtype.itemsize != len(content):
        raise ValueError(f"its masks are {len(content)} bytes, expected {prod(shape) * dtype.itemsize}")
    values = np.frombuffer(content, dtype).reshape(shape, order="F" if columns_first else "C")
    if values.min() < 0 or int(values.max()) >= 2**32:
        raise ValueError("its masks are no numbers of cells")
    return values.astype(np.uint16 if values.max() < 2**16 else np.uint32)
