"""Any function of planes as a proposer: planes (Y, X) float32 in counts to the same."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from threading import Lock
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from cellxlate.enhancement.proposals.fingerprint import Fingerprint, fingerprint
from cellxlate.enhancement.proposals.locality import Locality, PlaneSamples, measured_locality
from cellxlate.enhancement.proposals.windows import WHOLE_PX, Geometry, Needs
from cellxlate.errors import ModelError, OptionError
from cellxlate.model.attention import Floats
from cellxlate.option_values import whole
from cellxlate.options import HALO
from cellxlate.stacks.naming import one_line
from cellxlate.stacks.stack import Stack

PlaneFunction = Callable[[npt.NDArray[np.float32]], Any]
Halo = int | Literal["plane"]
PLANE = "plane"
"""In place of a halo: the function looks at the whole plane."""
TORCH_STRIDE = 32
"""Windows of networks begin at multiples of it and have sides that are: those of five levels fit, and less."""
_ONE_AT_A_TIME = Lock()
"""Bands are made in several threads, and hardly any function is written for that."""


@dataclass(frozen=True)
class FunctionProposal:
    """A function (Y, X) -> (Y, X), float32 in counts, that looks `halo_px` around each pixel.

    It is `known` by its fingerprint as it was before its first call, which may leave something in what it holds.
    """

    needs: ClassVar = Needs()
    function: PlaneFunction
    halo_px: Halo
    known: Fingerprint
    locality: Locality | None = None

    @classmethod
    def of(cls, function: PlaneFunction, halo_px: Halo | None) -> "FunctionProposal":
        """Return it.

        Raises
        ------
        OptionError
            Its halo is not said, or is none.
        """
        if halo_px is None:
            raise OptionError(
                f"{name_of(function)} needs ", HALO, ": how many pixels around each one it looks at, or ",
                HALO.of(PLANE), " where it looks at the whole plane",
            )  # fmt: skip
        checked = halo_px if halo_px == PLANE else whole(HALO, halo_px, least=0)
        if isinstance(checked, int) and checked > WHOLE_PX:
            raise OptionError(HALO.of(checked), " is wider than any plane", remedy=("give ", HALO.of(PLANE)))
        return cls(function, checked, fingerprint(function))

    @property
    def name(self) -> str:
        """What the function is called."""
        return name_of(self.function)

    @property
    def asked(self) -> None:
        """No word asks for it."""
        return

    @property
    def identity(self) -> Mapping[str, Any]:
        """Its name, its halo, and a digest of its code and of what it holds."""
        return {
            "kind": "function", "name": self.name, "halo_px": self.halo_px, "sha256": self.known.sha256,
        }  # fmt: skip

    @property
    def stated(self) -> Mapping[str, Any]:
        """How far it looks, what was checked, and what is not known of it."""
        unseen = self.known.unseen
        checked = self.locality.words if self.locality else "planes are taken whole"
        trusted = f"resumed runs trust what it holds by its name: {', '.join(unseen)}" if unseen else ""
        return {
            "what": "a function in Python", "halo_px": self.halo_px, "checked": checked,
            **({"trusted": trusted} if trusted else {}),
        }  # fmt: skip

    @property
    def warnings(self) -> Sequence[str]:
        """None."""
        return ()

    def fitted(self, stack: Stack, channels: Sequence[int], **_: object) -> "FunctionProposal":
        """Return it as it is, once windows of the stack show that it looks no farther than it says.

        Raises
        ------
        OptionError
            It looks farther, or gives another result each time.
        ModelError
            It fails, or returns what is no plane.
        """
        if self.halo_px == PLANE:
            return self
        locality = measured_locality(self.name, self.open, PlaneSamples(stack, [(one,) for one in channels]))
        if not locality.is_local:
            raise OptionError(
                f"{self.name} looks farther than ", HALO.of(self.halo_px), ", depends on where a window begins, or "
                f"gives another result each time: on {stack.name}, windows and larger ones around them differ by "
                f"{locality.difference_counts:.3g} counts, at most {locality.most_counts:.3g} are allowed",
                remedy=("give a larger one, or ", HALO.of(PLANE), " to let it see whole planes"),
            )  # fmt: skip
        return replace(self, locality=locality)

    def open(self, channels: Sequence[int]) -> "FunctionProposer":  # noqa: ARG002
        """Return what runs it on each channel by itself."""
        halo_px = self.halo_px if isinstance(self.halo_px, int) else None
        if is_torch_module(self.function):
            run = partial(_by_torch, self.function)
            return FunctionProposer(
                run, self.name, Geometry(halo_px, TORCH_STRIDE, TORCH_STRIDE, TORCH_STRIDE, bytes_per_px=2048.0)
            )
        return FunctionProposer(self.function, self.name, Geometry(halo_px))


@dataclass(frozen=True)
class FunctionProposer:
    """Runs a function on each plane of windows, one call at a time in each process."""

    function: PlaneFunction
    name: str
    geometry: Geometry

    def __call__(self, windows: Floats) -> Floats:
        """Return what the function makes of each of (B, C, Y, X).

        Raises
        ------
        ModelError
            It fails, or returns what is no such plane.
        """
        made = np.empty_like(windows)
        with _ONE_AT_A_TIME:
            for into, planes in zip(made, windows, strict=True):
                for own, plane in zip(into, planes, strict=True):
                    own[:] = self._made(plane)
        return made

    def _made(self, plane: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
        """Return what the function makes of a plane, checked."""
        size = " x ".join(map(str, plane.shape))
        try:
            made = np.asarray(self.function(plane.copy()))
        except Exception as fault:  # whatever it is, it is the function's
            what = one_line(f"{type(fault).__name__}: {fault}")[:300]
            raise ModelError(
                f"{self.name} failed on a plane of {size} px ({what})", remedy="try it on a float32 array of that size"
            ) from fault
        if made.shape != plane.shape or made.dtype.kind not in "biuf":
            found = " x ".join(map(str, made.shape)) or "a single value"
            raise ModelError(
                f"{self.name} returned {found} of {made.dtype} for a plane of {size} px; it must return counts of the "
                "same shape"
            )
        if made.dtype.kind == "f" and not (finite := np.isfinite(made)).all():
            count = finite.size - np.count_nonzero(finite)
            raise ModelError(
                f"{self.name} returned {count} of {finite.size} pixels that are not finite (NaN or infinite) for a "
                f"plane of {size} px; it must return counts"
            )
        return made


def name_of(function: Any) -> str:
    """Return what a function is called: of a partial what it is of, of an object its class.

    Examples
    --------
    >>> name_of(len), name_of(lambda plane: plane), name_of(partial(max, 0))
    ('len', 'lambda', 'max')
    """
    if isinstance(function, partial):
        return name_of(function.func)
    named = str(getattr(function, "__qualname__", type(function).__qualname__))
    return named.rpartition("<locals>.")[2].replace("<lambda>", "lambda")


def is_torch_module(function: Any) -> bool:
    """Return whether something is a network of torch, where that is loaded."""
    torch = sys.modules.get("torch")
    return bool(torch and isinstance(function, torch.nn.Module))


def _by_torch(module: Any, plane: npt.NDArray[np.float32]) -> Any:
    """Run a network of torch on a plane: (1, 1, Y, X), as it is for use and not for training."""
    import torch

    was_training, first = module.training, next(module.parameters(), None)
    module.eval()
    try:
        with torch.inference_mode():
            seen = torch.from_numpy(plane)[None, None]
            return module(seen if first is None else seen.to(first.device, first.dtype)).float().cpu().numpy()[0, 0]
    finally:
        module.train(was_training)
