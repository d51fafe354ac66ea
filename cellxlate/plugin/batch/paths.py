"""Paths as a panel takes them: fields, where empty means none and never the current folder; and what is dropped."""

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from magicgui.widgets import FileEdit
from qtpy.QtCore import QEvent, QObject
from qtpy.QtWidgets import QWidget

from cellxlate.plugin.controls import chosen_path
from cellxlate.settings import SALIENCY
from cellxlate.stacks.masks.names import FILES, is_cellpose, is_rois


class FilesEdit(FileEdit):  # type: ignore[misc]
    """Several files, whose names may hold commas: what was chosen is kept as it is; typed paths are parted by `;`."""

    def __init__(self, *, label: str, tooltip: str, filter: str) -> None:
        self._chosen: tuple[str, tuple[Path, ...]] = "", ()
        super().__init__(mode="rm", label=label, tooltip=tooltip, filter=filter)
        self.choose_btn.text = "Choose"

    def get_value(self) -> tuple[Path, ...]:
        """Return the files, none where the field is empty."""
        text = self.line_edit.value
        if text == self._chosen[0]:
            return self._chosen[1]
        return tuple(Path(part.strip()).expanduser() for part in text.split(";") if part.strip())

    def set_value(self, value: Sequence[str | PathLike[str]] | str | PathLike[str] | None) -> None:
        """Choose files, or none."""
        given = () if value in (None, "") else (value,) if isinstance(value, str | PathLike) else tuple(value or ())
        files = tuple(Path(path).expanduser().absolute() for path in given)
        text = "; ".join(map(str, files))
        self._chosen = text, files
        self.line_edit.value = text


def folder_edit(*, label: str, tooltip: str, empty: str) -> FileEdit:
    """Return a field for a folder, None where it is empty, which `empty` says in it."""
    edit: Any = FileEdit(mode="d", nullable=True, label=label, tooltip=tooltip)
    edit.choose_btn.text = "Choose"
    edit.line_edit.native.setPlaceholderText(empty)
    return edit


def folder_of(edit: FileEdit) -> Path | None:
    """Return the folder in a field, or None where it is empty or blank; `~` is the user's own."""
    path = chosen_path(edit)
    return path and path.expanduser()


class DroppedPaths(QObject):  # type: ignore[misc]
    """Takes the files and folders that are dropped on a panel.

    Parameters
    ----------
    panel : QWidget
        On which they are dropped.
    take : callable
        Takes their paths.
    """

    def __init__(self, panel: QWidget, take: Callable[[tuple[Path, ...]], object]) -> None:
        super().__init__(panel)
        self._take = take
        panel.setAcceptDrops(True)
        panel.installEventFilter(self)

    def eventFilter(self, _watched: QObject, event: QEvent) -> bool:  # noqa: N802  the name is Qt's
        """Accept what lies on this machine."""
        if event.type() not in (QEvent.Type.DragEnter, QEvent.Type.Drop):
            return False
        paths = tuple(Path(url.toLocalFile()) for url in event.mimeData().urls() if url.isLocalFile())
        if not paths:
            return False
        event.acceptProposedAction()
        if event.type() == QEvent.Type.Drop:
            self._take(paths)
        return True


def gating_mask(asked: str) -> Path | str | None:
    """Return the mask, the folder of masks, or the word for the guide, that a field asks for; None where none is.

    What is no word for the guide, is not there and is not named as masks are is the name of a channel.
    """
    asked = asked.strip()
    path = Path(asked).expanduser()
    is_named_so = is_cellpose(path) or is_rois(path) or asked.lower().endswith(FILES) or len(path.parts) > 1
    return asked if asked == SALIENCY else path if asked and (is_named_so or path.exists()) else None


def gating_channel(asked: str) -> str | None:
    """Return the channel that a field asks for; None where it is empty or asks for something else."""
    return None if gating_mask(asked) else asked.strip() or None
