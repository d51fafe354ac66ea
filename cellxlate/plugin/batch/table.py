"""The table of a batch: one row per stack; a click on a row is passed on."""

from collections.abc import Sequence
from typing import Any

from psygnal import Signal
from qtpy.QtCore import QSize, Qt
from qtpy.QtGui import QColor
from qtpy.QtWidgets import (
    QAbstractItemView,
    QHeaderView,
    QSizePolicy,
    QStyledItemDelegate,
    QTableWidget,
    QTableWidgetItem,
)

from cellxlate.plugin.batch.rows import HEADINGS, StackRow, short_names

HEADING_TIPS = (
    "The stack; point at it to read where it is.",
    "waiting, running, done, failed, or skipped, as its results are there already",
    "Pixels of the chosen channels that were changed.",
    "Pixels that attention did not select and that differ from the input all the same; it has to be 0.",
    "Warnings of its report, or why it failed.",
)
MODES = ("Stretch", "ResizeToContents", "ResizeToContents", "ResizeToContents", "Stretch")
LOWEST_PX, NARROWEST_PX, LINE_PX = 130, 400, 22
VERDICT = 4
"""The last column."""
INK = {"failed": QColor("#d9534f"), "running": QColor("#e39c37")}


class _CutAtTheEnd(QStyledItemDelegate):  # type: ignore[misc]
    """Cuts a text that is too long at its end; names are cut in their middle."""

    def initStyleOption(self, option: Any, index: Any) -> None:  # noqa: N802  the name is Qt's
        """Set how a cell is drawn."""
        super().initStyleOption(option, index)
        option.textElideMode = Qt.TextElideMode.ElideRight


class _LowTable(QTableWidget):  # type: ignore[misc]
    """A table that takes the room that is left, and asks for little, so that a low panel need not scroll for it."""

    def sizeHint(self) -> QSize:  # noqa: N802  the name is Qt's
        """Return the least it needs."""
        return QSize(NARROWEST_PX, LOWEST_PX)


class ResultsTable:
    """Rows of a batch, as a macro can read and click them.

    Attributes
    ----------
    native : QTableWidget
        For a layout.
    clicked : Signal
        Emitted with the number of a row, from 0.
    """

    clicked = Signal(int)

    def __init__(self) -> None:
        self._rows: list[StackRow] = []
        self._names: list[str] = []
        self.native = _LowTable(0, len(HEADINGS))
        table = self.native
        table.setHorizontalHeaderLabels(HEADINGS)
        for column, tip in enumerate(HEADING_TIPS):
            table.horizontalHeaderItem(column).setToolTip(tip)
        table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        table.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        table.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        table.setWordWrap(False)
        table.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        table.verticalHeader().setVisible(False)
        table.setMinimumSize(NARROWEST_PX, LOWEST_PX)
        table.verticalHeader().setDefaultSectionSize(LINE_PX)
        self._from_the_left = _CutAtTheEnd(table)
        table.setItemDelegateForColumn(VERDICT, self._from_the_left)
        table.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Expanding)
        header = table.horizontalHeader()
        header.setMinimumSectionSize(30)
        for column, mode in enumerate(MODES):
            header.setSectionResizeMode(column, getattr(QHeaderView.ResizeMode, mode))
        table.cellClicked.connect(lambda row, _: self.clicked.emit(row))

    @property
    def rows(self) -> tuple[StackRow, ...]:
        """What the table shows."""
        return tuple(self._rows)

    @property
    def current(self) -> StackRow | None:
        """The row that is selected."""
        number = self.native.currentRow()
        return self._rows[number] if 0 <= number < len(self._rows) else None

    def show(self, rows: Sequence[StackRow]) -> None:
        """Show other rows; what is selected stays so where it is still there."""
        current = self.current
        self._rows, self._names = list(rows), short_names([row.name for row in rows])
        self.native.setRowCount(len(rows))
        for number in range(len(rows)):
            self._fill(number)
        numbers = [number for number, row in enumerate(rows) if current and row.path == current.path]
        self.native.setCurrentCell(numbers[0] if numbers else -1, 0)

    def change(self, number: int, row: StackRow) -> None:
        """Show a row anew."""
        self._rows[number] = row
        self._fill(number)
        if row.state == "running":
            self.native.scrollToItem(self.native.item(number, 0))

    def click(self, number: int) -> None:
        """Click a row, as a mouse would."""
        self.native.setCurrentCell(number, 0)
        self.native.cellClicked.emit(number, 0)

    def _fill(self, number: int) -> None:
        row = self._rows[number]
        for column, text in enumerate((self._names[number], *row.cells[1:])):
            item = QTableWidgetItem(text)
            item.setToolTip(row.path if column == 0 else text)
            if column in (2, 3):
                item.setTextAlignment(int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter))
            if row.state in INK and column == 1:
                item.setForeground(INK[row.state])
            self.native.setItem(number, column, item)
