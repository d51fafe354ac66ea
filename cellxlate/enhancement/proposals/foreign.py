"""A network that others made as a proposer: windows in counts to the same, by ONNX Runtime."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cellxlate.enhancement.proposals.choice import Locality, Windows, choose_windows
from cellxlate.enhancement.proposals.windows import Geometry
from cellxlate.errors import ModelError
from cellxlate.model.attention import Floats
from cellxlate.model.engines.devices import DeviceKind
from cellxlate.model.foreign.session import ForeignSession, open_session
from cellxlate.model.foreign.values import ForeignModel
from cellxlate.stacks.stack import Stack


def geometry_of(model: ForeignModel) -> Geometry:
    """Return which windows a network takes."""
    rows, columns = model.reach[-2:]
    step = math.lcm(rows.step_px, columns.step_px)
    least = max(rows.least_px, columns.least_px)
    if (rows.least_px - columns.least_px) % step:
        raise ModelError(f"{model.name} takes other heights than widths, expected that it takes squares")
    if rows.fixed_px != columns.fixed_px:
        raise ModelError(f"{model.name} takes images of {rows.fixed_px} x {columns.fixed_px} px, expected squares")
    halo_px = None if rows.halo_px is None or columns.halo_px is None else max(rows.halo_px, columns.halo_px)
    return Geometry(
        halo_px, math.lcm(rows.stride, columns.stride), least, step, rows.fixed_px, model.bytes_per_px,
        max(rows.margin_px, columns.margin_px),
    )  # fmt: skip


@dataclass(frozen=True)
class ForeignProposal:
    """A network that others made, as values.

    Attributes
    ----------
    model : ForeignModel
        What is known of it.
    device : {"cpu", "cuda"}
        Where it runs.
    windows : Windows or None
        Which it gets, and how that was checked on a stack; None where it has not seen one.
    """

    model: ForeignModel
    device: DeviceKind = "cpu"
    windows: Windows | None = None

    @property
    def name(self) -> str:
        """What it is called."""
        return self.model.name

    @property
    def geometry(self) -> Geometry:
        """Which windows it takes; those that were chosen for a stack, where that was done."""
        return self.windows.geometry if self.windows else geometry_of(self.model)

    @property
    def identity(self) -> Mapping[str, Any]:
        """Its digest, where it runs, and in which windows."""
        own = self.geometry
        windows = {"halo_px": own.halo_px, "stride": own.stride, "window_px": own.fixed_px}
        return {"kind": "foreign", "name": self.name, "device": self.device, "sha256": self.model.digest, **windows}

    @property
    def stated(self) -> Mapping[str, Any]:
        """Licence, citation, halo, how that was checked, and what looks at the whole image."""
        found = self.windows.locality if self.windows else Locality()
        return {
            "licence": self.model.licence, "citation": self.model.citation, "halo_px": self.geometry.halo_px,
            "stride": self.geometry.stride, "window_px": self.geometry.fixed_px,
            "not_local": self.windows.not_local if self.windows else self.model.not_local,
            "difference_counts": found.difference_counts, "tiles_compared": found.tiles, "against": found.against,
        }  # fmt: skip

    @property
    def warnings(self) -> Sequence[str]:
        """Those of the model, and that it is not local."""
        return (*self.model.warnings, *([line] if (line := self._not_local()) else []))

    def _not_local(self) -> str:
        """Return what to say of a model that looks at the whole image; empty where it does not."""
        if not self.windows or not self.windows.not_local:
            return ""
        own, found = self.windows.geometry, self.windows.locality
        why = f"{self.name} looks at the whole image: {self.windows.not_local}."
        if own.halo_px is None:
            return f"{why} It was run on whole planes"
        return (
            f"{why} It was run on windows of {own.fixed_px} px, and where two of them overlap they differ by up to "
            f"{found.difference_counts:.3g} counts"
        )

    def fitted(self, stack: Stack, channels: Sequence[int]) -> "ForeignProposal":
        """Return it with windows that suit it and a stack; ModelError where it takes several channels together."""
        if self.model.channels_in != 1 or self.model.channels_out != 1:
            raise ModelError(f"{self.name} takes {self.model.channels_in} channels together, expected one")
        session = open_session(self.model, device=self.device)
        own = self.model
        reason = own.not_local or (f"it is not known how far it looks: {', '.join(own.unknown)}" if own.unknown else "")
        chosen = choose_windows(
            self.name, lambda geometry, _: ForeignProposer(session, geometry), stack, channels, geometry_of(own),
            not_local=reason, bytes_of=lambda pixels: pixels * own.bytes_per_px + pixels**2 * own.bytes_per_pair,
        )  # fmt: skip
        return replace(self, windows=chosen)

    def open(self, channels: Sequence[int]) -> "ForeignProposer":  # noqa: ARG002
        """Return what runs it."""
        return ForeignProposer(open_session(self.model, device=self.device), self.geometry)


@dataclass(frozen=True)
class ForeignProposer:
    """Runs a network that others made."""

    session: ForeignSession
    geometry: Geometry

    def __call__(self, windows: Floats) -> Floats:
        """Return what the network makes of (B, C, Y, X) in counts, in the same shape and unit, less a margin."""
        image, _ = self.session(windows)
        return np.asarray(image, np.float32)
