"""A network that others made as a proposer: windows in counts to the same, by ONNX Runtime."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cellxlate.enhancement.input import Blocks, Context
from cellxlate.enhancement.proposals.choice import Windows, choose_windows, first_windows
from cellxlate.enhancement.proposals.depth import blocks_in, planes_seen
from cellxlate.enhancement.proposals.foreign_windows import ForeignProposer
from cellxlate.enhancement.proposals.locality import PlaneSamples
from cellxlate.enhancement.proposals.statistics import Fit, fit_of, fits_in_words, stated_fits
from cellxlate.enhancement.proposals.windows import Geometry, Needs
from cellxlate.errors import ModelError
from cellxlate.model.engines.devices import DeviceKind
from cellxlate.model.engines.engine import Device
from cellxlate.model.foreign.probe import probe, with_sizes
from cellxlate.model.foreign.session import ForeignSession, device_of, open_session
from cellxlate.model.foreign.values import ForeignModel
from cellxlate.options import CHANNELS, TORCHSCRIPT
from cellxlate.stacks.stack import Stack

MEMORY_OVER = 2.0
"""So many times what the arrays of its graph take, ONNX Runtime takes at most: for what it prepares and copies."""


def geometry_of(model: ForeignModel) -> Geometry:
    """Return which windows a network takes."""
    rows, columns = model.reach[-2:]
    step = math.lcm(rows.step_px, columns.step_px)
    least = max(rows.least_px, columns.least_px)
    if (rows.least_px - columns.least_px) % step:
        raise ModelError(f"{model.name} takes other heights than widths, expected that it takes squares")
    if rows.fixed_px != columns.fixed_px:
        sides = " x ".join(str(one.fixed_px or "any") for one in (rows, columns))
        raise ModelError(f"{model.name} takes images of {sides} px, expected squares")
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
    fits : tuple of Fit
        What its processing needs to know of a stack, for each group of channels.
    blocks : Blocks or None
        Which planes along z it takes together.
    planes_seen : int
        How many planes along z it sees for them, at most.
    windows : Windows or None
        Which it gets, and how that was checked on a stack; None where it has not seen one.
    """

    model: ForeignModel
    device: DeviceKind = "cpu"
    fits: tuple[Fit, ...] = ()
    blocks: Blocks | None = None
    planes_seen: int = 1
    windows: Windows | None = None

    @property
    def name(self) -> str:
        """What it is called."""
        return self.model.name

    @property
    def asked(self) -> Path:
        """Where it lies."""
        return self.model.path

    @property
    def geometry(self) -> Geometry:
        """Which windows it takes; those that were chosen for a stack, where that was done."""
        if self.windows:
            return self.windows.geometry
        geometry = geometry_of(self.model)
        return replace(geometry, bytes_per_px=geometry.bytes_per_px * self.planes_seen)

    @property
    def identity(self) -> Mapping[str, Any]:
        """Its digest, where it runs, in which windows, and what is done before and after it."""
        done = [(one.channels, one.before, one.after) for one in self.fits if one.before or one.after]
        processing = {"processing_sha256": hashlib.sha256(repr(done).encode()).hexdigest()} if done else {}
        own = self.geometry
        windows = {"halo_px": own.halo_px, "stride": own.stride, "window_px": own.fixed_px}
        return {
            "kind": "foreign", "name": self.name, "device": self.device, "sha256": self.model.digest, **windows,
            **processing,
        }  # fmt: skip

    @property
    def stated(self) -> Mapping[str, Any]:
        """Licence, citation, halo and how that was checked; how counts become its input, and its outcome counts."""
        processing = {"statistics": stated_fits(self.fits), "measured_once": fits_in_words(self.fits)}
        checked = self.windows.locality.words if self.windows and not self.windows.not_local else ""
        not_local = self.windows.not_local if self.windows else self.model.not_local
        return {
            "licence": self.model.licence, "citation": self.model.citation, "halo_px": self.geometry.halo_px,
            "checked": checked, "not_local": not_local, "window_px": self.geometry.fixed_px,
            "windows_differ_by_counts": self._difference_counts(),
            "runs_on": f"ONNX Runtime {version('onnxruntime')}, {self.device}", "counts": self.model.to_counts,
            **processing,
        }  # fmt: skip

    @property
    def warnings(self) -> Sequence[str]:
        """Those of the model, that it is not local, and that it proposes other counts than there are."""
        doubts = dict.fromkeys(f"{self.name}: {one.doubt}" for one in self.fits if one.doubt)
        return (*self.model.warnings, *doubts, *([line] if (line := self._not_local()) else []))

    @property
    def needs(self) -> Needs:
        """Channels and planes as it takes them, memory for its windows, a gate where it has no attention."""
        own = self.model
        return Needs(
            own.channels_in > 1, own.axes == "ZYX", self.blocks, self.windows.geometry if self.windows else None,
            gate=not own.attention_name, flags=(TORCHSCRIPT.command,) if own.network.program else (),
        )  # fmt: skip

    def _difference_counts(self) -> float | None:
        """Return what windows of a model that is not local were found to differ by, in counts."""
        if not self.windows or not self.windows.not_local or not self.windows.locality.compared_px:
            return None
        return float(f"{self.windows.locality.difference_counts:.3g}")

    def _not_local(self) -> str:
        """Return what to say of a model that looks at the whole image; empty where it does not."""
        if not self.windows or not self.windows.not_local:
            return ""
        own, found = self.windows.geometry, self.windows.locality
        why = f"{self.name} looks at the whole image: {self.windows.not_local}."
        if own.halo_px is None:
            measured = f"; smaller windows would differ by up to {found.difference_counts:.3g} counts"
            return f"{why} It was run on whole planes{measured if found.compared_px else ''}."
        return (
            f"{why} It was run on windows of {own.fixed_px} px, and where two of them overlap they differ by up to "
            f"{found.difference_counts:.3g} counts."
        )

    def fitted(
        self, stack: Stack, channels: Sequence[int], *, device: Device = "cpu", **_: object
    ) -> "ForeignProposal":
        """Return it with the numbers that its processing needs of the stack, and with planes and windows that suit it.

        Raises
        ------
        ModelError
            It takes other channels than are enhanced, or volumes of a stack that has no depth; it makes no numbers.
        InputError
            It is made for other counts.
        OptionError
            The device is not there.
        """
        kind = device_of(device)
        require_axes(self.model, stack, channels)
        session = with_sizes(open_session(self.model, device=kind))
        probe(session)
        own, groups = session.model, self.needs.groups(channels)
        blocks = blocks_in(own, stack)
        begun = replace(self, model=own, device=kind, blocks=blocks, planes_seen=planes_seen(blocks, stack))
        fits = tuple(
            fit_of(
                stack, group, own.before, own.after, takes=own.takes, blocks=blocks,
                propose=partial(ForeignProposer, session, first_windows(begun.geometry), len(group)),
            )
            for group in groups
        )  # fmt: skip
        begun = replace(begun, fits=fits)
        return replace(begun, windows=choose_windows(
            self.name, lambda geometry, group: begun.proposer(session, geometry, group),
            PlaneSamples(stack, groups, Context(blocks=blocks)), begun.geometry, not_local=_reason(own),
            bytes_of=begun.bytes_of,
        ))  # fmt: skip

    def bytes_of(self, pixels: float) -> float:
        """Return the memory that a window of so many pixels takes, at most."""
        own, seen = self.model, pixels * self.planes_seen
        return MEMORY_OVER * (seen * own.bytes_per_px + seen**2 * own.bytes_per_pair)

    def open(self, channels: Sequence[int]) -> ForeignProposer:
        """Return what runs it."""
        return self.proposer(open_session(self.model, device=self.device), self.geometry, channels)

    def proposer(self, session: ForeignSession, geometry: Geometry, channels: Sequence[int]) -> ForeignProposer:
        """Return what runs it in some windows, in a session that is open."""
        fit = next((one for one in self.fits if channels[0] in one.channels), Fit(tuple(channels)))
        return ForeignProposer(session, geometry, self.model.channels_in, fit.before, fit.after)


def _reason(model: ForeignModel) -> str:
    """Return why a model is not known to be local, in words; empty where it is."""
    unknown = f"it is not known how far it looks, as {', '.join(model.unknown)}" if model.unknown else ""
    return model.not_local or unknown


def require_proposes(model: ForeignModel) -> None:
    """Raise ModelError where a model can propose for no stack: it makes other channels than it takes, or no squares."""
    if model.channels_in != model.channels_out:
        plural = "" if model.channels_out == 1 else "s"
        raise ModelError(
            f"{model.name} makes {model.channels_out} channel{plural} of {model.channels_in}; only image-to-image "
            "models propose"
        )
    geometry_of(model)


def require_axes(model: ForeignModel, stack: Stack, channels: Sequence[int]) -> None:
    """Raise ModelError where a model takes other channels than are enhanced, or volumes where there are none."""
    require_proposes(model)
    if model.channels_in not in (1, len(channels)):
        raise ModelError(
            f"{model.name} takes {model.channels_in} channels together, {len(channels)} are to be enhanced",
            remedy=("name as many with ", CHANNELS, ", in the order of the stack"),
        )
    if model.axes == "ZYX" and stack.size("Z") < 2:
        raise ModelError(f"{model.name} takes volumes, and {stack.name} has no depth (z); give a model of planes")
