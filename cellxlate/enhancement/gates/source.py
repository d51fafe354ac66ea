"""Which gate was asked for, and what is to be known of it: `choose_source` from top to bottom."""

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from cellxlate.enhancement.gates.channel import ChannelAttention
from cellxlate.enhancement.gates.mask import MaskAttention
from cellxlate.enhancement.gates.steady import SteadyAttention
from cellxlate.enhancement.outputs.again import MASK
from cellxlate.enhancement.plane import GateSource
from cellxlate.errors import InputError, MissingInputError, OptionError
from cellxlate.option_values import as_path
from cellxlate.options import ATTENTION_CHANNEL, ATTENTION_FROM
from cellxlate.quality.report.gates import attention_source
from cellxlate.settings import SALIENCY
from cellxlate.stacks.channel_names import channel_number, shown_names
from cellxlate.stacks.intensity.range import IntensityRange
from cellxlate.stacks.masks.fit import FittedMask, fitted_mask
from cellxlate.stacks.masks.names import masks_of
from cellxlate.stacks.masks.open import open_mask
from cellxlate.stacks.naming import is_zarr
from cellxlate.stacks.stack import Stack

Kind = Literal["network", "channel", "file", "saliency", "proposal"]


@dataclass(frozen=True)
class AttentionSource:
    """Where attention comes from, as plain values that go to workers and into reports.

    Attributes
    ----------
    kind : {"network", "channel", "file", "saliency", "proposal"}
        The networks on each channel itself; on one channel for all; a mask; the automatic guide; what comes with what
        is proposed (`proposed.gate_of` opens it).
    channel, name, intensity : int, str, IntensityRange
        Of a channel. The name is also that of a mask that lies in memory.
    path, digest, state : Path, str, str
        Of a mask: where it lies (None in memory), which pixels it holds, and sizes and times of its files.
    """

    kind: Kind = "network"
    channel: int | None = None
    name: str = ""
    intensity: IntensityRange | None = None
    path: Path | None = None
    digest: str = ""
    state: str = ""

    @property
    def is_given(self) -> bool:
        """Whether no network looks at the stack for it."""
        return self.kind in ("file", "saliency", "proposal")

    def seen_by_all(self) -> "AttentionSource":
        """Return it as other machines find it; raise InputError where it lies in memory and no worker can read it."""
        if self.kind == "file" and self.path is None:
            raise InputError(f"the mask {self.name} lies in memory, workers read from files; write it to a file first")
        return self if self.path is None else replace(self, path=self.path.absolute())

    def open(self, stack: Stack) -> GateSource:
        """Open the gate of a stack once more, on a worker.

        Raises
        ------
        InputError
            The mask is not there, or another one here.
        """
        if self.kind == "channel" and self.channel is not None and self.intensity is not None:
            return ChannelAttention(self.channel, self.intensity)
        if self.kind == "file" and self.path is not None:
            mask = _opened(self.path, stack)
            if mask.digest != self.digest:
                raise InputError(f"the mask {self.path} is another file here, or was changed; give one all workers see")
            return MaskAttention(mask)
        return _guided() if self.kind == "saliency" else SteadyAttention()

    def was_changed(self, stack: Stack) -> bool:
        """Return whether a mask holds other pixels by now than when it was chosen for a stack."""
        if self.path is None or _state(self.path) == self.state:
            return False
        try:
            return _opened(self.path, stack).digest != self.digest
        except InputError:
            return True

    @property
    def given(self) -> Path | str | None:
        """What to give to have it again: a mask, or the word for the guide."""
        return {"file": self.path or MASK, "saliency": SALIENCY}.get(self.kind)

    @property
    def identity(self) -> dict[str, Any]:
        """What decides which pixels may change."""
        stated: dict[str, Any] = {"kind": self.kind}
        if self.kind == "channel" and self.intensity:
            stated |= {"channel": self.channel, "levels_counts": {str(self.channel): self.intensity.stated()}}
        return stated | ({"selected_blake2b": self.digest} if self.kind == "file" else {})

    @property
    def stated(self) -> dict[str, Any]:
        """What a report says of it."""
        path = {"path": None if self.path is None else str(self.path)} if self.kind == "file" else {}
        return {**self.identity, **path, **({"name": self.name} if self.name else {})}


OWN = AttentionSource()


def stated_identity(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `identity` of what a provenance states; that of the networks' own where it states nothing."""
    return {name: one for name, one in attention_source(provenance).items() if name not in ("path", "name", "model")}


def choose_source(
    stack: Stack, *, channel: str | int | None, given: Any, ranges: Callable[[int], IntensityRange]
) -> tuple[AttentionSource, GateSource]:
    """Return where attention of a stack comes from, as it was asked for, checked; and the gate itself.

    Parameters
    ----------
    channel : str, int or None
        Name or number of the channel whose attention gates all.
    given : path, array, Stack, "saliency" or None
        A mask; a folder of masks that are named like their images; or the automatic guide.
    ranges : callable
        Returns the intensity range of a channel.

    Raises
    ------
    OptionError
        Both are given, or there is no such channel.
    InputError
        The mask is missing, cannot be read, or has another shape than the stack.
    """
    require_one(channel, given)
    if channel is not None:
        number = gating_channel(stack, channel)
        name = dict(enumerate(shown_names(stack))).get(number, "")
        intensity = ranges(number)
        return AttentionSource("channel", number, name, intensity), ChannelAttention(number, intensity)
    if given is None:
        return OWN, SteadyAttention()
    if isinstance(given, str) and given == SALIENCY:
        return AttentionSource("saliency"), _guided()
    if isinstance(given, str | Path):
        path = mask_of(stack, given)
        state, mask = _state(path), _opened(path, stack)
        return AttentionSource("file", path=path, digest=mask.digest, state=state), MaskAttention(mask)
    mask = _in_memory(given, stack)
    return AttentionSource("file", name=mask.mask.name, digest=mask.digest), MaskAttention(mask)


def require_one(channel: str | int | None, given: Any) -> None:
    """Raise what is wrong with what was asked for, whatever the stack."""
    if channel is not None and given is not None:
        raise OptionError(ATTENTION_CHANNEL, " and ", ATTENTION_FROM, " are both given", remedy="give one of them")
    if isinstance(given, bool | int | float):
        as_path(ATTENTION_FROM, given)
    if isinstance(given, str | Path) and given != SALIENCY and not Path(given).exists():
        raise MissingInputError(
            ATTENTION_FROM.of(given), " does not exist", remedy=f"give a mask, a folder of masks, or {SALIENCY!r}"
        )


def require_fitting(stack: Stack, channel: str | int | None, given: Any) -> None:
    """Raise what `choose_source` would, without measuring levels or reading all of a mask."""
    require_one(channel, given)
    if channel is not None:
        gating_channel(stack, channel)
    elif isinstance(given, str | Path) and given != SALIENCY:
        _opened(mask_of(stack, given), stack).mask.close()


def gating_channel(stack: Stack, channel: str | int) -> int:
    """Return the number of the channel whose attention gates all.

    Raises
    ------
    OptionError
        There is no such channel, no other that it could gate, or it is opacity.
    """
    if stack.channel_count == 1:
        raise OptionError(
            f"{stack.name} has one channel, so no other can gate it", remedy=("leave out ", ATTENTION_CHANNEL)
        )
    number = channel_number(channel, shown_names(stack), stack.channel_count, stack.name)
    if number not in stack.light_channels:
        raise OptionError(
            f"{stack.name}: sample {number} is opacity (alpha), which shows no cells",
            remedy=("choose another ", ATTENTION_CHANNEL),
        )
    return number


def _guided() -> GateSource:
    from cellxlate.enhancement.gates.saliency import SaliencyAttention  # and scipy, which not every run needs

    return SaliencyAttention()


def mask_of(stack: Stack, given: str | Path) -> Path:
    """Return the mask of a stack: the file that is given, or the one of its name in a folder."""
    path = Path(given)
    if not path.is_dir() or is_zarr(path):
        return path
    image = [stack.path] if isinstance(stack.path, Path) else []
    return masks_of({stack.name}, path, image)[stack.name]


def _opened(path: Path, stack: Stack) -> FittedMask:
    return fitted_mask(open_mask(path, stack), stack, f"the mask {path}")


def _state(path: Path) -> str:
    """Return a digest of the names, sizes and times of the files of a mask; of none where they are gone."""
    digest = hashlib.sha256()
    with suppress(OSError):
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            digest.update(repr((str(file), (state := file.stat()).st_size, state.st_mtime_ns)).encode())
    return digest.hexdigest()


def _in_memory(given: Any, stack: Stack) -> FittedMask:
    """Lay a mask that is no file onto a stack: an array of its shape has its axes."""
    if isinstance(given, Stack):
        mask = given
    else:
        shape = tuple(getattr(given, "shape", ()))
        planes = "".join(axis for axis in stack.axes if axis in "TZ") + "YX"
        axes = stack.axes if shape == stack.shape else planes if len(planes) == len(shape) else None
        mask = Stack.from_array(given, axes, name="mask")
    if "S" in mask.axes and mask.shape != stack.shape:
        raise InputError(f"the mask {mask.name} is in colour; give one value for each pixel")
    return fitted_mask(mask, stack, f"the mask {mask.name}")
