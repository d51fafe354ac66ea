"""Whether the input is still what a run was made from: rows are read again and compared with what bands have noted.

Refused, not mended: levels, and a model that was chosen, were decided on the input as a whole, so that a single pixel
that has changed may mean another result anywhere.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from cellxlate.enhancement.outputs.identity import input_identity
from cellxlate.enhancement.plan import Plan
from cellxlate.enhancement.tiling import bands_of
from cellxlate.errors import InputError
from cellxlate.options import OVERWRITE, RESUME
from cellxlate.prefetch import ahead
from cellxlate.quality.checks import plane_label
from cellxlate.stacks.read.open import open_stack
from cellxlate.stacks.stack import PlaneIndex, Stack
from cellxlate.stacks.write.origins import Origin, RowsHeld, RowSums, SeeRows, row_sums, sums_digest

READ_BYTES = 32 << 20

ReadAgain = Callable[[Plan, Sequence[PlaneIndex], SeeRows], None]
"""Reads some planes of the input again, and tells the checksums of their rows."""


class ChangedInputError(InputError):
    """The input is no longer what a run was made from."""


@dataclass
class SameInput:
    """Takes the checksums of an input's rows as they are read again, plane by plane, and says what has changed.

    Attributes
    ----------
    rows, bands : int
        Of a plane.
    origins : mapping or None
        Of the bands, by plane; every plane that is seen must have those of all its bands. None compares nothing.
    partly : bool
        Whether planes may have bands without an origin, which are not made yet.
    changed : list of (plane, row)
        Bands whose rows of the input hold something else now, by the first row.
    damaged : list of (plane, row)
        Bands that the output, where it was read too, holds otherwise than they were computed.
    """

    rows: int
    bands: int
    origins: Mapping[PlaneIndex, Sequence[Origin]] | None = None
    partly: bool = False
    changed: list[tuple[PlaneIndex, int]] = field(default_factory=list)
    damaged: list[tuple[PlaneIndex, int]] = field(default_factory=list)
    _digests: dict[PlaneIndex, str] = field(default_factory=dict)
    _made_digests: dict[PlaneIndex, str] = field(default_factory=dict)
    _begun: dict[PlaneIndex, tuple[RowSums, RowSums]] = field(default_factory=dict)
    _left: dict[PlaneIndex, int] = field(default_factory=dict)
    _beside: dict[PlaneIndex, list[tuple[PlaneIndex, int, RowsHeld]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for origin in chain.from_iterable((self.origins or {}).values()):
            for index, held in origin.beside:
                self._beside.setdefault(index, []).append((origin.index, origin.top, held))

    def see(self, index: PlaneIndex, first_row: int, sums: RowSums, made: RowSums | None = None) -> None:
        """Take the checksums of some rows; those of a plane are let go once it is complete."""
        fresh = np.zeros(self.rows, np.uint64), np.zeros(self.rows if made is not None else 0, np.uint64)
        plane, output = self._begun.setdefault(index, fresh)
        plane[first_row : first_row + len(sums)] = sums
        if made is not None:
            output[first_row : first_row + len(made)] = made
        self._left[index] = self._left.get(index, self.rows) - len(sums)
        if self._left[index] == 0:
            del self._begun[index], self._left[index]
            self._digests[index] = sums_digest(plane)
            if len(output):
                self._made_digests[index] = sums_digest(output)
            self._compare(index, plane, output)

    def _compare(self, index: PlaneIndex, plane: RowSums, output: RowSums) -> None:
        if self.origins is None:
            return
        origins = self.origins.get(index, ())
        tops = {origin.top for origin in origins}
        self.changed += [(index, origin.top) for origin in origins if not origin.read.agrees(plane)]
        self.changed += [(of, top) for of, top, held in self._beside.get(index, ()) if not held.agrees(plane)]
        if not self.partly and len(tops) < self.bands:
            self.changed.append((index, 0))
        if len(output):  # a band that was made twice may differ in rounding
            right = {origin.top for origin in origins if origin.made.agrees(output)}
            self.damaged += [(index, top) for top in sorted(tops - right)]

    @property
    def digest(self) -> str:
        """One for all planes of the input that were seen; the same in whatever order they were read."""
        return _digest_of(self._digests)

    @property
    def made_digest(self) -> str:
        """One for all planes of the output that were seen."""
        return _digest_of(self._made_digests)


def _digest_of(planes: Mapping[PlaneIndex, str]) -> str:
    parts = (f"{index} {digest}\n".encode() for index, digest in sorted(planes.items()))
    return hashlib.blake2b(b"".join(parts), digest_size=16).hexdigest()


def same_input(
    plan: Plan, origins: Mapping[PlaneIndex, Sequence[Origin]] | None = None, *, partly: bool = False
) -> SameInput:
    """Return what takes the rows of a plan's input as they are read again."""
    stack = plan.stack
    bands = sum(1 for _ in bands_of(stack.plane_shape, plan.tile_px))
    return SameInput(stack.plane_shape[0], bands, origins, partly)


def read_again(plan: Plan, planes: Sequence[PlaneIndex], see: SeeRows) -> None:
    """Read planes of the input again in this process, and tell the checksums of their rows."""
    stack = plan.stack
    height = max(READ_BYTES // max(stack.plane_shape[1] * stack.dtype.itemsize, 1), 1)
    blocks = ((index, top) for index in planes for top in range(0, stack.plane_shape[0], height))

    def summed(block: tuple[PlaneIndex, int]) -> tuple[PlaneIndex, int, RowSums]:
        index, top = block
        return index, top, row_sums(stack.read(index, slice(top, min(top + height, stack.plane_shape[0]))))

    for index, top, sums in ahead(summed, blocks):
        see(index, top, sums, None)


def require_same_bands(
    plan: Plan, origins: Mapping[PlaneIndex, Sequence[Origin]], read: ReadAgain = read_again
) -> None:
    """Raise ChangedInputError where bands that are done were made from an input that has changed since."""
    check = same_input(plan, origins, partly=True)
    read(plan, sorted(planes_read(origins)), check.see)
    if check.changed:
        where = named_bands(plan, check.changed)
        raise ChangedInputError(
            f"{plan.stack.path or plan.stack.name} was changed after the run began ({where})",
            remedy=("give ", OVERWRITE, " to start again, or bring the stack back as it was and give ", RESUME),
        )


def planes_read(origins: Mapping[PlaneIndex, Sequence[Origin]]) -> set[PlaneIndex]:
    """Return the planes of an input that bands were made from, those beside their own included."""
    return {*origins, *(index for origin in chain.from_iterable(origins.values()) for index, _ in origin.beside)}


def require_same(plan: Plan, check: SameInput, now: Stack) -> None:
    """Raise ChangedInputError where the input is not what the bands, or the levels, were made from.

    `check` has seen all rows of it as it was opened again (`now`).
    """
    where = named_bands(plan, check.changed) if check.changed else ""
    if not where and plan.sampled and not plan.sampled.agree(now.pixels if now is not plan.stack else None):
        where = "before its first band was read"
    if where:
        raise changed_meanwhile(plan.stack, where)


def require_still_same(plan: Plan, *, states: str, digest: str, read: ReadAgain = read_again) -> None:
    """Raise ChangedInputError where the input, or a mask that gates it, was written to and holds something else now.

    `states` are those of its files then (`file_states`), `digest` is that of all its rows, which are read again where
    its files are in another state.
    """
    if plan.source.was_changed(plan.stack):
        raise ChangedInputError(f"the mask {plan.source.path} was changed during the run; run again when it stays")
    if file_states(plan.stack) == states:
        return
    check = same_input(plan)
    with opened_again(plan.stack) as now:
        read(replace(plan, stack=now), list(plan.stack.plane_indices()), check.see)
    if check.digest != digest:
        raise changed_meanwhile(plan.stack)


def was_changed(plan: Plan, before: Mapping[str, Any]) -> bool:
    """Return whether the files of a stack are no longer those of the start: a Zarr chunk that is gone reads as zeros.

    `before` is the run's `plan.identity["input"]` at its start.
    """
    try:
        now = input_identity(plan.stack.path, plan.stack.files)
    except OSError:
        return True
    return any(now.get(key) != before.get(key) for key in ("bytes", "sampled_sha256"))


def changed_meanwhile(stack: Stack, where: str = "") -> ChangedInputError:
    """Return what to raise where the input has changed during a run."""
    named = f" ({where})" if where else ""
    return ChangedInputError(
        f"{stack.path or stack.name} was changed or removed while it was read{named}; run again when it stays"
    )


def file_states(stack: Stack) -> str:
    """Return a digest of which files a stack on this machine lies in, their sizes and times; nothing of others.

    Times of change are among them, which cannot be set back. A Zarr array of 100,000 chunks takes about half a second.
    """
    digest = hashlib.sha256()
    if not isinstance(stack.path, Path):
        return ""
    with suppress(OSError):  # one that is gone differs
        files: Iterable[Path] = stack.files or (sorted(stack.path.rglob("*")) if stack.path.is_dir() else [stack.path])
        for file in files:
            state = file.stat()
            digest.update(repr((str(file), state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)).encode())
    return digest.hexdigest()


@contextmanager
def opened_again(stack: Stack) -> Iterator[Stack]:
    """Open the file of a stack once more, since another may have its name by now; a stack in memory is itself.

    Raises
    ------
    ChangedInputError
        The file is gone, or holds a stack of another kind.
    """
    if stack.path is None or stack.kind == "array":
        yield stack
        return
    for axes in (stack.axes, None):
        try:
            now = open_stack(stack.path, axes, image=stack.image, incomplete=stack.incomplete)
        except (InputError, OSError):
            continue
        with now:
            if (now.axes, now.shape, now.dtype) == (stack.axes, stack.shape, stack.dtype):
                yield now
                return
    raise changed_meanwhile(stack)


def named_bands(plan: Plan, bands: Iterable[tuple[PlaneIndex, int]], most: int = 3) -> str:
    """Name some bands, by plane and first row."""
    listed = sorted(set(bands))
    named = [f"{plane_label(index, plan.stack.plane_axes)} from row {top}" for index, top in listed[:most]]
    return ", ".join(named) + (f" and {len(listed) - most} more bands" if len(listed) > most else "")
