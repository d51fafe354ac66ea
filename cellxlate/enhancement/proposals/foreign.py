"""A network that others made as a proposer: windows in counts to the same, by ONNX Runtime."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from cellxlate.enhancement.proposals.statistics import Fit, fit_of, stated_fits
from cellxlate.enhancement.proposals.windows import Geometry
from cellxlate.errors import ModelError
from cellxlate.model.attention import Floats
from cellxlate.model.engines.devices import DeviceKind
from cellxlate.model.foreign.session import ForeignSession, open_session
from cellxlate.model.foreign.values import ForeignModel
from cellxlate.model.foreign.zoo.processing import Steps, processed
from cellxlate.stacks.stack import Stack


def geometry_of(model: ForeignModel) -> Geometry:
    """Return which windows a network takes."""
    rows, columns = model.reach[-2:]
    halo_px = None if rows.halo_px is None or columns.halo_px is None else max(rows.halo_px, columns.halo_px)
    return Geometry(
        halo_px, math.lcm(rows.stride, columns.stride), max(rows.least_px, columns.least_px),
        math.lcm(rows.step_px, columns.step_px), rows.fixed_px,
    )  # fmt: skip


@dataclass(frozen=True)
class ForeignProposal:
    """A network that others made, as values."""

    model: ForeignModel
    device: DeviceKind = "cpu"
    fits: tuple[Fit, ...] = ()

    @property
    def name(self) -> str:
        """What it is called."""
        return self.model.name

    @property
    def identity(self) -> Mapping[str, Any]:
        """Its digest, where it runs, and what is done before and after it."""
        done = [(one.channels, one.before, one.after) for one in self.fits if one.before or one.after]
        processing = {"processing_sha256": hashlib.sha256(repr(done).encode()).hexdigest()} if done else {}
        return {
            "kind": "foreign", "name": self.name, "device": self.device, "sha256": self.model.digest, **processing,
        }  # fmt: skip

    @property
    def stated(self) -> Mapping[str, Any]:
        """Licence, citation, halo; and how counts become its input, and its outcome counts."""
        processing = {"processing": stated_fits(self.fits), "to_counts": self.model.to_counts} if self.fits else {}
        return {
            "licence": self.model.licence, "citation": self.model.citation, "halo_px": geometry_of(self.model).halo_px,
            **processing,
        }  # fmt: skip

    @property
    def warnings(self) -> Sequence[str]:
        """Those of the model."""
        return self.model.warnings

    def fitted(self, stack: Stack, channels: Sequence[int]) -> "ForeignProposal":
        """Return it as it is; ModelError where it takes other channels than are enhanced together."""
        model = self.model
        if model.channels_in != 1 or model.channels_out != 1:
            raise ModelError(f"{self.name} takes {model.channels_in} channels together, expected one")
        proposers = partial(ForeignProposer, open_session(model, device=self.device), geometry_of(model))
        fits = tuple(
            fit_of(stack, (channel,), model.before, model.after, takes=model.takes, propose=proposers)
            for channel in channels
        )
        return replace(self, fits=fits)

    def open(self, channels: Sequence[int]) -> "ForeignProposer":
        """Return what runs it."""
        fit = next((one for one in self.fits if channels[0] in one.channels), Fit(tuple(channels)))
        return ForeignProposer(
            open_session(self.model, device=self.device), geometry_of(self.model), fit.before, fit.after
        )


@dataclass(frozen=True)
class ForeignProposer:
    """Runs a network that others made."""

    session: ForeignSession
    geometry: Geometry
    before: Steps = ()
    after: Steps = ()

    def __call__(self, windows: Floats) -> Floats:
        """Return what the network makes of (B, C, Y, X) in counts, in the same shape and unit."""
        image, _ = self.session(processed(self.before, windows))
        return processed(self.after, np.asarray(image, np.float32))
