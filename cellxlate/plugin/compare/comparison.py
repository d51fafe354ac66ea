"""Input against output: blinking, a swipe, the result in 3-D, and what differs."""

from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from qtpy.QtCore import QTimer

from cellxlate.enhancement.tiling import Tile
from cellxlate.errors import CellxlateError
from cellxlate.plugin.compare.volume import VolumeView, why_no_volume
from cellxlate.plugin.drawing import OURS, flat_pixels, flat_place, lay_over, lies_over, moves, visible_part
from cellxlate.plugin.layers import appearance, layer_stack, read_part, visible_plane
from cellxlate.plugin.preview.cache import shown_part
from cellxlate.plugin.preview.overlay import single_shot
from cellxlate.plugin.requests import Refusal
from cellxlate.plugin.working import await_end, begin
from cellxlate.stacks.stack import PlaneIndex, Stack

if TYPE_CHECKING:
    from napari.layers import Image
    from napari.viewer import Viewer

Mode = Literal["off", "blink", "swipe", "3-D"]
BLINK_MS = 700
DEBOUNCE_MS = 30
DIFFERENCE_NOW_PX = 1 << 22
"""Larger differences are computed plane by plane, when they are shown."""


@dataclass(frozen=True)
class Pair:
    """An input and what was made of it; `axes` are those of the input.

    Or two results of one input, `of`, under two models; `words` are what both are called. `attention` belongs to the
    result, where there is a layer of it.
    """

    before: "Image"
    after: "Image"
    axes: str
    words: tuple[str, str] = ("the input", "the result")
    of: "Image | None" = None
    attention: "Image | None" = None

    @property
    def image(self) -> "Image":
        """The input."""
        return self.of if self.of is not None else self.before


@dataclass(frozen=True)
class Part:
    """A part of a plane of the input, every so many pixels, that lies over the result left of the line."""

    layer: "Image"
    stack: Stack
    plane: PlaneIndex
    tile: Tile
    every_px: int

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells it from another."""
        return self.layer.unique_id, self.stack.axes, self.plane, self.tile, self.every_px


class Comparison:
    """Shows the input in place of the result, in turns or left of a line, or the result in 3-D, until switched off.

    Layers that only show something about an image, such as attention, are hidden meanwhile; afterwards everything is
    shown again as it was.

    Parameters
    ----------
    viewer : Viewer
        Where both are shown.
    pair : callable
        Returns what is compared, or None.
    say : callable
        Takes one line: what is being shown.
    ended : callable
        Called when there is nothing to compare any more.
    """

    def __init__(
        self,
        viewer: "Viewer",
        *,
        pair: Callable[[], Pair | None],
        say: Callable[[str], None],
        ended: Callable[[], None],
    ) -> None:
        self._viewer, self._pair, self._say, self._ended = viewer, pair, say, ended
        self.mode: Mode = "off"
        self.position = 0.5
        self._compared: Pair | None = None
        self._visible: dict[Any, bool] = {}
        self._cover: Any = None
        self._is_covering = False
        self._part: Part | None = None
        self._pixels: npt.NDArray[Any] | None = None
        self._reading: Part | None = None
        self._worker: Any = None
        self._volume = VolumeView(viewer, self._left_volume)
        self._blink_timer, self._update_timer = QTimer(), single_shot(self._update)
        self._blink_timer.timeout.connect(self._blink)

    @property
    def is_settled(self) -> bool:
        """Whether what is shown is what is wanted."""
        return not self._update_timer.isActive() and self._reading is None

    def switch(self, mode: Mode) -> None:
        """Compare in another way, or no more."""
        if mode == self.mode:
            return
        self._leave()
        pair = self._pair() if mode != "off" else None
        if pair is None:
            if mode != "off":
                self._say("Enhance something first; then its result is compared with the input.")
                self._ended()
            return
        if mode == "3-D" and (reason := why_no_volume(self._in_depth(pair), pair.axes)):
            self._say(reason)
            self._ended()
            return
        self.mode = mode
        self._compared = pair
        layers = self._viewer.layers
        over = [layer for layer in layers if mode == "3-D" or lies_over(layer, layers, pair.after)]
        self._visible = {layer: layer.visible for layer in (pair.before, pair.after, *over)}
        for layer in over:
            layer.visible = False
        self._viewer.layers.events.removed.connect(self._removed)
        self._viewer.layers.events.inserted.connect(self._inserted)
        if mode == "blink":
            self._blink()
            self._blink_timer.start(BLINK_MS)
            return
        pair.before.visible, pair.after.visible = pair.before.visible and mode != "3-D", True
        if mode == "3-D":
            self._show_volume(pair)
            return
        self._say(f"Left of the line: {pair.words[0]}. Right: {pair.words[1]}.")
        for event in moves(self._viewer):
            event.connect(self._moved)
        pair.before.events.data.connect(self._forget)
        self._update_timer.start(0)

    def move(self, position: float) -> None:
        """Put the line elsewhere: 0 at the left of what is visible, 1 at the right."""
        self.position = position
        if self.mode == "swipe" and self._pixels is not None:
            self._draw()

    def abandon(self) -> None:
        """Stop without touching the viewer, whose window may be gone."""
        self._cover, self._visible = None, {}
        self._leave()
        await_end(self._worker)

    def _leave(self) -> None:
        """Put everything back as it was."""
        mode, self.mode = self.mode, "off"
        if mode == "off":
            return
        for timer in (self._blink_timer, self._update_timer):
            with suppress(RuntimeError):  # gone already, where the application ends
                timer.stop()
        self._viewer.layers.events.removed.disconnect(self._removed)
        self._viewer.layers.events.inserted.disconnect(self._inserted)
        if mode == "swipe":
            for event in moves(self._viewer):
                event.disconnect(self._moved)
            if self._compared is not None:
                self._compared.before.events.data.disconnect(self._forget)
        if mode == "3-D":
            self._volume.leave()  # first, as napari would load whatever becomes visible in 3-D
        cover, self._cover, self._part, self._pixels, self._reading = self._cover, None, None, None, None
        if cover is not None and cover in self._viewer.layers:
            self._viewer.layers.remove(cover)
        for layer, visible in self._visible.items():
            layer.visible = visible
        self._compared, self._visible = None, {}
        self._say("")

    def _inserted(self, event: Any) -> None:
        """Hide what is drawn meanwhile, such as attention of another plane, but not an image that was opened."""
        layer = event.value
        if OURS in layer.metadata and not self._is_covering:
            self._visible[layer] = layer.visible
            layer.visible = False

    def _removed(self, _: Any = None) -> None:
        pair, layers = self._compared, self._viewer.layers
        gone = pair is not None and not {pair.before, pair.after} <= set(layers)
        if gone or (self._cover is not None and self._cover not in layers):
            self._leave()
            self._ended()

    def _left_volume(self) -> None:
        """Somebody has switched back to planes."""
        self._leave()
        self._ended()

    def _moved(self, _: Any = None) -> None:
        if not self._update_timer.isActive():
            self._update_timer.start(DEBOUNCE_MS)

    def _forget(self, _: Any = None) -> None:
        """Read the input again: it has other pixels now."""
        self._part = None
        self._moved()

    # Blink

    def _blink(self) -> None:
        if (pair := self._compared) is not None:
            pair.after.visible = not pair.after.visible
            pair.before.visible = not pair.after.visible
            self._say(f"Now: {pair.words[pair.after.visible]}.")

    # 3-D

    def _in_depth(self, pair: Pair) -> "list[Image]":
        """Return what is shown in 3-D: the result, and its attention where that is still there."""
        attention = [pair.attention] if pair.attention in self._viewer.layers and pair.attention is not None else []
        return [pair.after, *attention]

    def _show_volume(self, pair: Pair) -> None:
        """Show the result and its attention in 3-D, and nothing else."""
        result, *attention = self._in_depth(pair)
        words = self._volume.enter(result, next(iter(attention), None), pair.axes)
        for layer in attention:
            layer.visible = True
        self._say(words)

    # Swipe

    def _update(self) -> None:
        """Take up the part of the plane that is visible now; lazy pixels are read in a worker."""
        pair = self._compared
        if self.mode != "swipe" or pair is None:
            return
        try:
            stack = layer_stack(pair.before, pair.axes)
            plane = visible_plane(pair.before, stack, self._viewer.dims.point)
        except CellxlateError:
            return
        tile, every_px = shown_part(stack.plane_shape, visible_part(pair.before, stack, self._viewer.dims.ndisplay))
        part = Part(pair.before, stack, plane, tile, every_px)
        if self._part is not None and part.key == self._part.key:
            self._draw()
        elif isinstance(pair.before.data, np.ndarray):
            self._take(part, read_part(stack, plane, tile, every_px))
        elif self._reading is None:
            self._reading = part
            self._worker = begin(_read_steps, part, news=self._take, ended=self._read)

    def _read(self, _: Part, outcome: Refusal | None) -> None:
        self._reading = None
        if isinstance(outcome, Refusal):
            self._say(outcome.reason)
        elif self.mode == "swipe":
            self._moved()  # it may lie elsewhere by now

    def _take(self, part: Part, pixels: npt.NDArray[Any]) -> None:
        if self.mode == "swipe":
            self._part, self._pixels = part, pixels
            self._draw()

    def _draw(self) -> None:
        """Cover the result with the input, left of the line."""
        part, pixels = self._part, self._pixels
        if part is None or pixels is None or self._compared is None or part.layer not in self._viewer.layers:
            return
        visible = visible_part(part.layer, part.stack, self._viewer.dims.ndisplay)
        line = visible.left + self.position * (visible.right - visible.left)
        columns = int(np.clip(round((line - part.tile.left) / part.every_px), 0, pixels.shape[1]))
        shown = pixels[:, : max(columns, 1)].copy()
        shown[:, -1:] = np.iinfo(shown.dtype).max if shown.dtype.kind in "iu" else part.layer.contrast_limits[1]
        shown = flat_pixels(shown, part.stack.axes)
        placement = flat_place(part.layer, part.stack.axes, part.plane, part.tile, part.every_px)
        look = appearance(part.layer, part.stack.axes).shown if self._cover is None else {}
        name = f"{self._compared.words[0]}, left of the line"
        self._is_covering = True
        try:
            self._cover = lay_over(self._viewer, self._cover, shown, placement, name=name, **look)
        finally:
            self._is_covering = False
        self._cover.visible = columns > 0


def _read_steps(part: Part) -> Generator[npt.NDArray[Any], None, None]:
    yield read_part(part.stack, part.plane, part.tile, part.every_px)


@dataclass(frozen=True)
class Difference:
    """What a result adds to its input: an array with the axes of the layers but S, and the largest usual change."""

    pixels: Any
    limit: float


def difference_steps(arrays: tuple[Any, Any, str, PlaneIndex]) -> Generator[Difference, None, None]:
    """Yield the difference of two arrays (before, after, axes, visible plane); lazily where they are large."""
    before, after, axes, plane = arrays
    difference = subtract(before, after, axes)
    positions = iter(plane)
    key = tuple(
        min(next(positions), size - 1) if axis in "TCZ" else slice(None, None, max(size // 1024, 1))
        for axis, size in zip(axes.replace("S", ""), difference.shape, strict=True)
    )
    changed = np.abs(np.asarray(difference[key]))
    yield Difference(difference, max(float(np.percentile(changed, 99.8)), float(changed.max()) / 4, 1e-6))


def subtract(before: Any, after: Any, axes: str) -> Any:
    """Return after - before as float32, exact for 16-bit counts, the mean of colour samples; lazily where large."""

    def change(old: npt.NDArray[Any], new: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        wide = np.float32 if new.dtype.itemsize < 3 else np.float64
        difference = new.astype(wide) - old.astype(wide)
        return np.asarray(difference.mean(axis=-1) if "S" in axes else difference, dtype=np.float32)

    if np.prod(after.shape, dtype=np.int64) <= DIFFERENCE_NOW_PX:
        return change(np.asarray(before), np.asarray(after))
    import dask.array

    chunks = tuple(1 if axis in "TCZ" else size for axis, size in zip(axes, after.shape, strict=True))
    old, new = (
        array.rechunk(chunks)
        if isinstance(array, dask.array.Array)
        else dask.array.from_array(array, chunks=chunks, name=False, asarray=True)
        for array in (before, after)
    )
    return dask.array.map_blocks(
        change, old, new, dtype=np.float32, **({"drop_axis": old.ndim - 1} if "S" in axes else {})
    )
