"""Any function of planes as a proposer: planes (Y, X) float32 in counts to the same."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cellxlate.enhancement.proposals.windows import Geometry
from cellxlate.errors import OptionError
from cellxlate.model.attention import Floats
from cellxlate.options import HALO
from cellxlate.stacks.stack import Stack

PlaneFunction = Callable[[npt.NDArray[np.float32]], npt.NDArray[Any]]


@dataclass(frozen=True)
class FunctionProposal:
    """A function (Y, X) -> (Y, X), float32 in counts, that looks `halo_px` around each pixel."""

    function: PlaneFunction
    halo_px: int

    @classmethod
    def of(cls, function: PlaneFunction, halo_px: int | None) -> "FunctionProposal":
        """Return it; OptionError where its halo is not said."""
        if halo_px is None:
            raise OptionError("a function needs ", HALO, ": how many pixels around each one it looks at")
        return cls(function, halo_px)

    @property
    def name(self) -> str:
        """What the function is called."""
        return str(getattr(self.function, "__qualname__", type(self.function).__name__))

    @property
    def identity(self) -> Mapping[str, Any]:
        """Its name, and a digest of its code."""
        code = getattr(self.function, "__code__", None)
        digest = hashlib.sha256(repr((code.co_code, code.co_consts)).encode() if code else self.name.encode())
        return {"kind": "function", "name": self.name, "halo_px": self.halo_px, "sha256": digest.hexdigest()}

    @property
    def stated(self) -> Mapping[str, Any]:
        """Nothing more."""
        return {}

    @property
    def warnings(self) -> Sequence[str]:
        """None."""
        return ()

    def fitted(self, stack: Stack, channels: Sequence[int]) -> "FunctionProposal":  # noqa: ARG002
        """Return it as it is."""
        return self

    def open(self, channels: Sequence[int]) -> "FunctionProposer":  # noqa: ARG002
        """Return what runs it on each channel by itself."""
        return FunctionProposer(self.function, Geometry(self.halo_px))


@dataclass(frozen=True)
class FunctionProposer:
    """Runs a function on each plane of windows."""

    function: PlaneFunction
    geometry: Geometry

    def __call__(self, windows: Floats) -> Floats:
        """Return what the function makes of each of (B, C, Y, X)."""
        made = [[np.asarray(self.function(plane), np.float32) for plane in planes] for planes in windows]
        return np.asarray(made, np.float32)
