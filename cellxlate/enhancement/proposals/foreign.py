"""A network that others made as a proposer: windows in counts to the same, by ONNX Runtime."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from cellxlate.enhancement.input import Blocks
from cellxlate.enhancement.proposals.statistics import Fit, fit_of, stated_fits
from cellxlate.enhancement.proposals.windows import Geometry
from cellxlate.enhancement.tiling import BLOCK_PX
from cellxlate.errors import ModelError
from cellxlate.model.attention import Floats
from cellxlate.model.engines.devices import DeviceKind
from cellxlate.model.foreign.session import ForeignSession, open_session
from cellxlate.model.foreign.values import ForeignModel
from cellxlate.model.foreign.zoo.processing import Steps, processed
from cellxlate.options import CHANNELS
from cellxlate.stacks.stack import Stack

DEPTH_BYTES = 256_000_000
"""Of the rows of planes that are seen at once for a block along z."""
OWN_BYTES_PER_PX, SEEN_BYTES_PER_PX = 24, 8
"""What a band takes of a plane that is enhanced, and of one that is seen beside."""
FEWEST_PLANES = 8
"""Blocks along z are no larger than this, or four times the halo: more would save little."""


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
    fits: tuple[Fit, ...] = ()
    blocks: Blocks | None = None
    planes_seen: int = 1

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
        """Return it with the numbers that its processing needs of the stack, and the planes that it takes together.

        Raises
        ------
        ModelError
            It takes other channels than are enhanced, or volumes of a stack that has no depth.
        InputError
            It is made for other counts.
        """
        require_axes(self.model, stack, channels)
        groups = [tuple(channels)] if self.model.channels_in > 1 else [(channel,) for channel in channels]
        blocks = blocks_in(self.model, stack)
        own = replace(self, blocks=blocks, planes_seen=planes_seen(blocks, stack))
        session = open_session(self.model, device=self.device)
        fits = (
            fit_of(
                stack, group, self.model.before, self.model.after, takes=self.model.takes, blocks=blocks,
                propose=partial(ForeignProposer, session, own.geometry, len(group)),
            )
            for group in groups
        )  # fmt: skip
        return replace(own, fits=tuple(fits))

    @property
    def geometry(self) -> Geometry:
        """Which windows it takes."""
        geometry = geometry_of(self.model)
        return replace(geometry, bytes_per_px=geometry.bytes_per_px * self.planes_seen)

    def open(self, channels: Sequence[int]) -> "ForeignProposer":
        """Return what runs it."""
        fit = next((one for one in self.fits if channels[0] in one.channels), Fit(tuple(channels)))
        session, count = open_session(self.model, device=self.device), self.model.channels_in
        return ForeignProposer(session, self.geometry, count, fit.before, fit.after)


def require_axes(model: ForeignModel, stack: Stack, channels: Sequence[int]) -> None:
    """Raise ModelError where a model takes other channels than are enhanced, or volumes where there are none."""
    if model.channels_in != model.channels_out:
        raise ModelError(
            f"{model.name} makes {model.channels_out} channels of {model.channels_in}; only image-to-image models "
            "propose"
        )
    if model.channels_in not in (1, len(channels)):
        raise ModelError(
            f"{model.name} takes {model.channels_in} channels together, {len(channels)} are to be enhanced",
            remedy=("name as many with ", CHANNELS, ", in the order of the stack"),
        )
    if model.axes == "ZYX" and stack.size("Z") < 2:
        raise ModelError(f"{model.name} takes volumes, and {stack.name} has no depth (z); give a model of planes")


def blocks_in(model: ForeignModel, stack: Stack) -> Blocks | None:
    """Return which planes along z of a stack a model of volumes enhances together; as many as keep memory bounded."""
    if model.axes != "ZYX":
        return None
    reach, size = model.reach[0], stack.size("Z")
    along = Geometry(
        reach.halo_px, reach.stride, reach.least_px, reach.step_px, reach.fixed_px, margin_px=reach.margin_px
    )
    if reach.halo_px is None:
        return Blocks(size, along)
    rows, columns = stack.plane_shape
    band_px = min(rows, 2 * BLOCK_PX) * columns * model.channels_in
    room = DEPTH_BYTES / band_px - 2 * reach.halo_px * SEEN_BYTES_PER_PX
    planes = min(max(int(room // OWN_BYTES_PER_PX), reach.stride), max(4 * reach.halo_px, FEWEST_PLANES), size)
    if reach.fixed_px is not None:
        planes = min(planes, reach.fixed_px - 2 * reach.halo_px - reach.stride + 1)
    if planes < 1:
        raise ModelError(
            f"{model.name} takes {reach.fixed_px} planes and looks {reach.halo_px} around each, so none is seen whole"
        )
    return Blocks(planes, along)


def planes_seen(blocks: Blocks | None, stack: Stack) -> int:
    """Return how many planes along z are seen for a block, at most."""
    if blocks is None:
        return 1
    size = stack.size("Z")
    return max(last - first for first, last in (blocks.seen(at, size) for at in range(0, size, blocks.planes)))


@dataclass(frozen=True)
class ForeignProposer:
    """Runs a network that others made."""

    session: ForeignSession
    geometry: Geometry
    channels: int = 1
    before: Steps = ()
    after: Steps = ()

    def __call__(self, windows: Floats) -> Floats:
        """Return what the network makes of (B, C, Y, X) in counts, in the same unit.

        Of a network of volumes C are positions along z, and of each its channels.
        """
        if self.session.model.axes == "YX":
            return self._made(windows)
        count, planes, *sides = windows.shape
        volumes = windows.reshape(count, planes // self.channels, self.channels, *sides).swapaxes(1, 2)
        made = self._made(volumes).swapaxes(1, 2)  # (B, Z, C, Y, X), fewer at both ends of z where it has a margin
        margin = (planes // self.channels - made.shape[1]) // 2
        made = np.pad(made, ((0, 0), (margin, margin), *((0, 0),) * 3))
        return made.reshape(count, planes, *made.shape[-2:])

    def _made(self, images: Floats) -> Floats:
        """Return what the network makes of (B, C, ...) in counts."""
        image, _ = self.session(processed(self.before, images))
        return processed(self.after, np.asarray(image, np.float32))
