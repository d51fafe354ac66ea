"""Windows in counts through a foreign network and back; smaller ones where memory ends."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from cellxlate.enhancement.proposals.windows import Geometry
from cellxlate.enhancement.tiling import Tile
from cellxlate.model.attention import Floats
from cellxlate.model.engines.memory import ask_for_memory
from cellxlate.model.foreign.session import ForeignSession
from cellxlate.model.foreign.zoo.processing import Steps, processed

Run = Callable[[Floats], Floats]
"""(B, C, Y, X) float32 in counts -> the same, less a margin. Raises MemoryError."""


@dataclass
class WindowRoom:
    """How many pixels a window may have, as was found out; None where memory has not ended."""

    largest_px: int | None = None


@dataclass(frozen=True)
class ForeignProposer:
    """Runs a network that others made; several threads may call it at once."""

    session: ForeignSession
    geometry: Geometry
    channels: int = 1
    before: Steps = ()
    after: Steps = ()
    room: WindowRoom = field(default_factory=WindowRoom)

    def __call__(self, windows: Floats) -> Floats:
        """Return what the network makes of (B, C, Y, X) in counts, in the same unit, less a margin.

        Of a network of volumes C are positions along z, and of each its channels.
        """
        return self._within_memory(lambda part: self._planes(part, attention=False), windows)

    def attention(self, windows: Floats) -> Floats:
        """Return attention in [0, 1] of windows (B, C, Y, X) in counts, in the same shape, less a margin."""
        return self._within_memory(lambda part: self._planes(part, attention=True), windows)

    def _planes(self, windows: Floats, *, attention: bool) -> Floats:
        """Run the network on (B, C, Y, X)."""
        count, planes, *sides = windows.shape
        if self.session.device == "cpu":
            ask_for_memory(windows[:, 0].size, self.geometry.bytes_per_px)
        if self.session.model.axes == "YX":
            return np.broadcast_to(made := self._made(windows, attention), (count, planes, *made.shape[-2:]))
        volumes = windows.reshape(count, planes // self.channels, self.channels, *sides).swapaxes(1, 2)
        made = self._made(volumes, attention).swapaxes(1, 2)  # (B, Z, C, Y, X), fewer at both ends of z with a margin
        margin = (planes // self.channels - made.shape[1]) // 2
        made = np.pad(made, ((0, 0), (margin, margin), *((0, 0),) * 3))
        made = np.broadcast_to(made, (*made.shape[:2], self.channels, *made.shape[-2:]))
        return made.reshape(count, planes, *made.shape[-2:])

    def _made(self, images: Floats, attention: bool) -> Floats:
        """Return what the network makes of (B, C, ...) in counts: attention, or the image in counts."""
        image, gate = self.session(processed(self.before, images), attention=attention)
        if attention and gate is not None:
            return gate
        return processed(self.after, image)

    def _within_memory(self, run: Run, windows: Floats) -> Floats:
        """Run on windows; where there is no memory for all at once, on parts of them with the halo around each."""
        largest, pixels = self.room.largest_px, windows[:, 0].size
        if largest is None or pixels <= largest:
            try:
                return run(windows)
            except MemoryError:
                self.room.largest_px = pixels // 2
        if len(windows) > 1:
            return np.concatenate([self._within_memory(run, windows[one : one + 1]) for one in range(len(windows))])
        margin = self.geometry.margin_px
        rows, columns = (side - 2 * margin for side in windows.shape[-2:])
        halves = [Tile(0, rows // 2, 0, columns), Tile(rows // 2, rows, 0, columns)]
        if columns > rows:
            halves = [Tile(0, rows, 0, columns // 2), Tile(0, rows, columns // 2, columns)]
        made = np.empty((*windows.shape[:-2], rows, columns), np.float32)
        for half in halves:
            around = replace(self.geometry, fixed_px=None).window(half, (rows, columns))
            if self.geometry.fixed_px is not None or around.shape == windows.shape[-2:]:
                raise MemoryError(
                    f"{self.session.model.name} takes more memory than there is for a window of {rows} x {columns} px, "
                    "and gets no smaller ones; close other programs"
                )
            part = self._within_memory(run, np.ascontiguousarray(windows[..., *around.slices(-margin, -margin)]))
            made[..., *half.slices()] = part[..., *half.slices(around.top + margin, around.left + margin)]
        return made
