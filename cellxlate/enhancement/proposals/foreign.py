"""A network that others made as a proposer: windows in counts to the same, by ONNX Runtime."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

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
    """A network that others made, as values."""

    model: ForeignModel
    device: DeviceKind = "cpu"

    @property
    def name(self) -> str:
        """What it is called."""
        return self.model.name

    @property
    def identity(self) -> Mapping[str, Any]:
        """Its digest, and where it runs."""
        return {"kind": "foreign", "name": self.name, "device": self.device, "sha256": self.model.digest}

    @property
    def stated(self) -> Mapping[str, Any]:
        """Licence, citation, halo."""
        return {
            "licence": self.model.licence, "citation": self.model.citation, "halo_px": geometry_of(self.model).halo_px,
        }  # fmt: skip

    @property
    def warnings(self) -> Sequence[str]:
        """Those of the model."""
        return self.model.warnings

    def fitted(self, stack: Stack, channels: Sequence[int]) -> "ForeignProposal":  # noqa: ARG002
        """Return it as it is; ModelError where it takes other channels than are enhanced together."""
        if self.model.channels_in != 1 or self.model.channels_out != 1:
            raise ModelError(f"{self.name} takes {self.model.channels_in} channels together, expected one")
        return self

    def open(self, channels: Sequence[int]) -> "ForeignProposer":  # noqa: ARG002
        """Return what runs it."""
        return ForeignProposer(open_session(self.model, device=self.device), geometry_of(self.model))


@dataclass(frozen=True)
class ForeignProposer:
    """Runs a network that others made."""

    session: ForeignSession
    geometry: Geometry

    def __call__(self, windows: Floats) -> Floats:
        """Return what the network makes of (B, C, Y, X) in counts, in the same shape and unit."""
        image, _ = self.session(windows)
        return np.asarray(image, np.float32)
