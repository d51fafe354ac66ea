"""The layers of the rows of a batch: opened on a click, one row shown at a time."""

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from cellxlate.plugin.batch.results import OpenedLayer
from cellxlate.plugin.batch.rows import StackRow
from cellxlate.plugin.drawing import attention_look
from cellxlate.plugin.requests import Refusal
from cellxlate.plugin.working import await_end, begin

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.viewer import Viewer

KIND = "cellxlate_batch"
"""What a layer is of its row, in its metadata."""


class RowLayers:
    """Show the input and the result of one row; attention is there and hidden.

    Parameters
    ----------
    viewer : Viewer
        Where.
    say : callable
        Takes one line about the row; empty where all is well.
    """

    def __init__(self, viewer: "Viewer", *, say: Callable[[str], None]) -> None:
        self._viewer, self._say = viewer, say
        self._opened: dict[str, list[Layer]] = {}
        self._wanted: StackRow | None = None
        self._workers: list[Any] = []

    @property
    def is_opening(self) -> bool:
        """Whether a row is being opened."""
        return self._wanted is not None

    def open(self, row: StackRow) -> None:
        """Show the layers of a row, and open them if they are not there."""
        layers = self._opened.get(row.path, [])
        if layers and all(layer in self._viewer.layers for layer in layers):
            self._wanted = None
            self._show_alone(row)
            self._say("")
            return
        self._wanted = row
        self._say(f"Opening {row.name} ...")
        self._workers = [worker for worker in self._workers if worker.is_running]
        self._workers.append(begin(_open_steps, row, ended=self._add))

    def forget(self, row: StackRow) -> None:
        """Remove the layers of a stack that has been made anew; they show what is not there any more."""
        for layer in self._opened.pop(row.path, []):
            if layer in self._viewer.layers:
                self._viewer.layers.remove(layer)

    def leave(self) -> None:
        """Touch the viewer no more."""
        self._wanted = None
        for worker in self._workers:
            await_end(worker)

    def _add(self, row: StackRow, opened: list[OpenedLayer] | Refusal | None) -> None:
        if self._wanted is not row:
            return  # another row was clicked meanwhile
        self._wanted = None
        if not isinstance(opened, list):
            self._say(opened.reason if opened else "")
            return
        self.forget(row)
        self._opened[row.path] = [self._add_layer(one) for one in opened]
        self._show_alone(row)
        self._viewer.reset_view()
        self._say("")

    def _add_layer(self, opened: OpenedLayer) -> "Layer":
        options = dict(opened.options)
        if opened.kind == "attention":
            options |= attention_look()
        layer = self._viewer.add_image(opened.pixels, **options)
        layer.metadata[KIND] = opened.kind
        return layer

    def _show_alone(self, row: StackRow) -> None:
        for path, layers in self._opened.items():
            for layer in layers:
                layer.visible = path == row.path and layer.metadata.get(KIND) != "attention"
        self._viewer.layers.selection = {[layer for layer in self._opened[row.path] if layer.visible][-1]}


def _open_steps(row: StackRow) -> Generator[None, None, list[OpenedLayer]]:
    from cellxlate.plugin.batch.results import open_steps

    return (yield from open_steps(row))
