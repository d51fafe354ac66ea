"""The `Enhance many files` panel: it binds files, folders and plates to the steps of a batch, and shows its table."""

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicgui.widgets import CheckBox, ComboBox, Container, Label, LineEdit, ProgressBar, Select, SpinBox
from qtpy.QtCore import QUrl
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import QComboBox, QFileDialog

from cellxlate.errors import CellxlateError, said
from cellxlate.plugin.batch.paths import DroppedPaths, FilesEdit, folder_edit, folder_of, gating_channel, gating_mask
from cellxlate.plugin.batch.requests import BatchEnd, BatchNews, BatchRequest, FoundStacks
from cellxlate.plugin.batch.row_layers import RowLayers
from cellxlate.plugin.batch.rows import as_sentences, found_words, progress_words, rows_as_csv, summary
from cellxlate.plugin.batch.table import ResultsTable
from cellxlate.plugin.controls import (
    ClickButton,
    Leaving,
    ModelChoice,
    PanelText,
    neighbours_choice,
    scrolled,
    threshold_slider,
    without_label,
)
from cellxlate.plugin.models import SHELF
from cellxlate.plugin.preview.overlay import single_shot
from cellxlate.plugin.requests import Refusal, StopRequest
from cellxlate.plugin.working import await_end, begin
from cellxlate.settings import ADAPT_S
from cellxlate.whole_file import write_whole_file

if TYPE_CHECKING:
    from napari.viewer import Viewer

PROGRESS_STEPS = 1000
FIND_MS = 400
"""After the last letter of a path."""
WELLS_PX = 50
EXISTING = [("Keep existing files", "keep"), ("Verify existing files", "verify"), ("Replace existing files", "replace")]
NOTHING_CHOSEN = "Choose files, a folder of images, or a plate to begin."
IMAGE_FILES = "*.tif *.tiff *.btf *.tf8 *.lsm *.stk *.czi *.nd2 *.lif *.ims *.ozx *.zip *.png *.jpg *.jpeg *.ome"


class BatchWidget(Container):  # type: ignore[misc]
    """Enhance the cells of many stacks, one after the other; what fails does not stop the others.

    Parameters
    ----------
    napari_viewer : Viewer
        Where the results of a row are opened.

    Attributes
    ----------
    files, folder, wells, model_choice, channel, gate, threshold, neighbours, adapt, adapt_s, output_folder, existing
        What is asked for, in the order of the panel.
    enhance_button, cancel_button : widgets
        Start; end after the present step.
    progress, state : widgets
        How far all of it is, in words too.
    results : ResultsTable
        One row per stack; a click on one opens it, and its results, as layers.
    verdict : widget
        That of the row that is selected, whole.
    row_layers : RowLayers
        The layers of the rows that were clicked.
    report_button, save_button : widgets
        Open the report of the row that is selected; save the table as CSV.
    """

    def __init__(self, napari_viewer: "Viewer") -> None:
        self._viewer = napari_viewer
        self._stop: StopRequest | None = None
        self._worker: Any = None
        self._finding: BatchRequest | None = None
        self._finder: Any = None
        self.row_layers = RowLayers(napari_viewer, say=self._tell_row)
        self._make_choices()
        self._make_run_controls()
        super().__init__(labels=False)
        self._rows = scrolled(self, self._laid_out())
        self._find_timer = single_shot(self._find, self.native)
        self._connect()
        self.wells.visible = self.adapt_s.visible = False
        self._select()
        self._show_running(False)
        self._say(NOTHING_CHOSEN)

    def _make_choices(self) -> None:
        self.files = FilesEdit(
            label="Files", filter=IMAGE_FILES, tooltip="Stacks of any kind that cellxlate opens; several at once."
        )
        self.folder = folder_edit(
            label="Folder, plate", empty="of images, or .ome.zarr",
            tooltip="A folder of images, an OME-Zarr image, or an OME-Zarr plate.",
        )  # fmt: skip
        self.wells = Select(
            label="Wells", choices=[],
            tooltip="Wells to enhance. None or all selected takes the whole plate, and the result is a plate too.",
        )  # fmt: skip
        self.wells.native.setMaximumHeight(WELLS_PX)
        self.model_choice = ModelChoice(
            label="Model", choices=lambda _: SHELF.choices_and_auto(),
            tooltip="auto takes for each stack the shipped model that suits it; or one trained or opened here.",
        )  # fmt: skip
        self.model_choice.native.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.open_button = ClickButton(text="Open ...", tooltip="Choose the folder of a model you trained.")
        self.channel = LineEdit(
            label="Channel", tooltip="Names or numbers, parted by commas; the others are copied as they are."
        )
        self.channel.native.setPlaceholderText("all")
        self.gate = LineEdit(
            tooltip="What decides which pixels may change: a channel, whose attention gates all; a mask, or a folder "
            "of masks named like the images; saliency, the automatic guide. Empty: own attention.",
        )  # fmt: skip
        self.gate.native.setPlaceholderText("own attention")
        self.threshold = threshold_slider()
        self.neighbours = neighbours_choice()
        self.adapt = CheckBox(
            text="Adapt to each stack", tooltip="The model learns from each before it is enhanced; not for plates."
        )
        self.adapt_s = SpinBox(value=int(ADAPT_S), min=10, max=3600, step=10, tooltip="Seconds for each stack.")
        self.output_folder = folder_edit(
            label="Output folder", empty="beside each stack", tooltip="For all results; it is made if it is not there."
        )
        self.existing = ComboBox(
            label="Results", choices=EXISTING,
            tooltip="Keep: a stack whose results are there is skipped. Verify: they are compared with the input again. "
            "With both, a run that was stopped goes on. Replace: all are made anew.",
        )  # fmt: skip

    def _make_run_controls(self) -> None:
        self.enhance_button = ClickButton(text="Enhance", tooltip="Start; you can go on working meanwhile.")
        self.cancel_button = ClickButton(text="Cancel", tooltip="End soon; what is done is kept.")
        self.progress = ProgressBar(label="Progress", min=0, max=PROGRESS_STEPS, value=0)
        self.state, self.verdict = PanelText(), PanelText()
        self.results = ResultsTable()
        self.report_button = ClickButton(text="Open report", tooltip="Of the row that is selected, in a browser.")
        self.save_button = ClickButton(text="Save table ...", tooltip="As comma-separated values.")

    def _laid_out(self) -> Container:
        """Return the rows of the panel, the table below the controls."""
        model = _row([self.model_choice, self.open_button], label="Model")
        channels = _row([self.channel, Label(value="Gate"), self.gate], label="Channel")
        adapting = _row([self.adapt, self.adapt_s], label="Adapt")
        buttons = _row([self.enhance_button, self.cancel_button])
        rows = Container(widgets=[
            self.files, self.folder, self.wells, model, channels, self.threshold, self.neighbours, adapting,
            self.output_folder, self.existing, buttons, self.progress, self.state,
        ])  # fmt: skip
        without_label(buttons, self.progress, self.state)
        below = Container(widgets=[self.verdict, _row([self.report_button, self.save_button])], labels=False)
        below.margins = (0, 0, 0, 0)
        rows.native.layout().addWidget(self.results.native, 1)
        rows.native.layout().addWidget(below.native)
        self._below = below  # magicgui keeps a widget alive as long as its container is
        return rows

    def _connect(self) -> None:
        for choice in (self.files, self.folder, self.wells, self.output_folder):
            choice.changed.connect(self._find_soon)
        self.adapt.changed.connect(lambda on: setattr(self.adapt_s, "visible", on))
        self.open_button.changed.connect(self._open_model)
        self.enhance_button.changed.connect(self._start)
        self.cancel_button.changed.connect(self._cancel)
        self.results.clicked.connect(lambda number: self.row_layers.open(self.results.rows[number]))
        self.results.native.currentCellChanged.connect(self._select)
        self.report_button.changed.connect(self._open_report)
        self.save_button.changed.connect(self._ask_where_to_save)
        SHELF.tell(self._models_changed)
        self.native.destroyed.connect(self._closed)
        self._leaving = Leaving(self)
        self._dropped = DroppedPaths(self.native, self._take_dropped)

    @property
    def is_running(self) -> bool:
        """Whether a batch goes on."""
        return self._stop is not None

    def _closed(self) -> None:
        """End what runs, which can be continued; the window is gone."""
        if self._stop:
            self._stop.ask()
        self._stop = self._finding = None
        self.row_layers.leave()
        for worker in (self._worker, self._finder):
            await_end(worker)
        SHELF.tell_no_more(self._models_changed)

    def _say(self, text: str) -> None:
        self.state.value = text

    def _models_changed(self) -> None:
        self.model_choice.reset_choices()

    def _open_model(self, _: Any = None) -> None:
        """Ask for the folder of a model, and choose it."""
        folder = QFileDialog.getExistingDirectory(self.native, "The folder of a model")
        if folder:
            try:
                self.model_choice.value = Path(folder)
            except CellxlateError as fault:
                self._say(said(fault, by="panel"))

    # What is meant

    def _paths(self) -> tuple[Path, ...]:
        folder = folder_of(self.folder)
        return (*self.files.value, *([folder] if folder else []))

    def _request(self) -> BatchRequest:
        """Take down everything a run needs, so that it does not depend on the panel any more."""
        return BatchRequest(
            paths=self._paths(),
            stop=StopRequest(),
            wells=tuple(self.wells.value),
            model=str(self.model_choice.value),
            channels=tuple(name.strip() for name in self.channel.value.split(",") if name.strip()),
            attention_channel=gating_channel(self.gate.value),
            attention_from=gating_mask(self.gate.value),
            threshold=float(self.threshold.value),
            context=self.neighbours.value,
            output_dir=folder_of(self.output_folder),
            existing=self.existing.value,
            adapt_s=float(self.adapt_s.value) if self.adapt.value else None,
        )

    def _take_dropped(self, paths: tuple[Path, ...]) -> None:
        """Add what was dropped on the panel; a single folder is the folder."""
        if len(paths) == 1 and paths[0].is_dir():
            self.folder.value = paths[0]
        else:
            self.files.value = tuple(dict.fromkeys([*self.files.value, *paths]))

    def _find_soon(self, _: Any = None) -> None:
        if not self.is_running:
            self._find_timer.start(FIND_MS)

    def _find(self) -> None:
        """List the stacks that are meant."""
        if self.is_running:
            return
        self._finding = request = self._request()
        if not request.paths:
            self._show_found(FoundStacks(()))
            self._say(NOTHING_CHOSEN)
            return
        self._say("Looking for images ...")
        self._finder = begin(_find_steps, request, ended=self._was_found)

    def _was_found(self, request: BatchRequest, found: FoundStacks | Refusal | None) -> None:
        if self._finding is not request or self.is_running or found is None:
            return
        if isinstance(found, Refusal):
            self._show_found(FoundStacks(()))
            self._say(found.reason)
            return
        self._show_found(found)
        self._say(found_words(found.rows, found.left_out))

    def _show_found(self, found: FoundStacks) -> None:
        self.results.show(found.rows)
        self.progress.value = 0
        if tuple(self.wells.choices) != found.wells:
            chosen = [well for well in self.wells.value if well in found.wells]
            with self.wells.changed.blocked():
                self.wells.choices = [(well.replace("/", ""), well) for well in found.wells]
                self.wells.value = chosen
        self.wells.visible = bool(found.wells)
        self._select()

    # A run

    def _start(self, _: Any = None) -> None:
        if self.is_running:
            return
        request = self._request()
        if not request.paths:
            self._say(NOTHING_CHOSEN)
            return
        self._stop, self._finding = request.stop, None
        self._find_timer.stop()  # it would list them as waiting when they are done
        self._show_running(True)
        self.progress.value = 0
        self._say("Looking for images, and loading the model ...")
        self._worker = begin(_batch_steps, request, news=self._news, ended=self._ended)

    def _show_running(self, running: bool) -> None:
        self.enhance_button.enabled, self.cancel_button.enabled = not running, running

    def _cancel(self, _: Any = None) -> None:
        if self._stop is not None:
            self._stop.ask()
            self.cancel_button.enabled = False
            self._say("Cancelling: the present step ends first ...")

    def _news(self, request: BatchRequest, news: BatchNews) -> None:
        if self._stop is not request.stop:
            return
        if news.found:
            self._show_found(news.found)
        for number, row in news.changed:
            self.results.change(number, row)
            if row.state == "done":
                self.row_layers.forget(row)
        if news.changed:
            self._select()
        if news.progress and not request.stop.asked:
            self.progress.value = round(PROGRESS_STEPS * news.progress.share)
            self._say(progress_words(news.progress))

    def _ended(self, request: BatchRequest, outcome: BatchEnd | Refusal | None) -> None:
        if self._stop is not request.stop:
            return  # the panel has been closed
        self._stop = self._worker = None
        self._show_running(False)
        if isinstance(outcome, Refusal):
            self._say(outcome.reason)
        elif outcome is None:
            self._say("Cancelled; nothing was begun.")
        else:
            self.results.show(outcome.rows)
            self._select()
            if not outcome.is_cancelled:
                self.progress.value = PROGRESS_STEPS
            self._say(_end_words(outcome, request))

    # What was made

    def _select(self, *_: Any) -> None:
        """Say what there is to say of the row that is selected."""
        row = self.results.current
        self._tell_row("")
        self.report_button.enabled = bool(row and row.report)
        self.save_button.enabled = bool(self.results.rows)

    def _tell_row(self, text: str) -> None:
        """Say something of the row that is selected; its verdict where there is nothing else."""
        row = self.results.current
        told = f"{row.name}: {row.verdict or row.state}" if row else "Click a row to open its result."
        self.verdict.value = text or told

    def _open_report(self, _: Any = None) -> None:
        row = self.results.current
        if row is None or row.report is None:
            return
        if not Path(row.report).exists():
            self._tell_row(f"{row.report} is not there any more.")
        elif not QDesktopServices.openUrl(QUrl.fromLocalFile(row.report)):
            self._tell_row(f"The report is {row.report}")

    def _ask_where_to_save(self, _: Any = None) -> None:
        rows = self.results.rows
        beside = folder_of(self.output_folder) or (Path(rows[0].path).parent if rows else Path.home())
        name, _kind = QFileDialog.getSaveFileName(
            self.native, "Save the table", str(beside / "cellxlate_results.csv"), "Table (*.csv)"
        )
        if name:
            self.save_table(Path(name) if name.lower().endswith(".csv") else Path(f"{name}.csv"))

    def save_table(self, path: str | Path) -> None:
        """Save the table as comma-separated values, one line per stack; what has this name is replaced."""
        try:
            write_whole_file(Path(path), rows_as_csv(self.results.rows))
        except CellxlateError as fault:
            self._tell_row(said(fault, by="panel"))
            return
        self._tell_row(f"The table is saved as {path}")


def _row(widgets: Sequence[Any], label: str = "") -> Container:
    row = Container(widgets=list(widgets), layout="horizontal", labels=False, label=label)
    row.margins = (0, 0, 0, 0)
    return row


def _end_words(end: BatchEnd, request: BatchRequest) -> str:
    """Return what became of all, and how to go on where something is left."""
    states = {row.state for row in end.rows}
    enhance = "press Enhance" if request.existing != "replace" else "choose 'Keep existing files' and press Enhance"
    remedy = []
    if "waiting" in states:
        remedy = [f"To go on, {enhance}: what is done is kept"]
    elif "failed" in states:
        remedy = [f"When the cause is mended, {enhance}: what is done is kept"]
    return as_sentences([f"{'Cancelled: ' if end.is_cancelled else ''}{summary(end.rows)}", *remedy, *end.notes])


def _find_steps(request: BatchRequest) -> Generator[None, None, FoundStacks]:
    from cellxlate.plugin.batch.steps import find_steps  # loads torch, which must not happen in the main thread

    return (yield from find_steps(request))


def _batch_steps(request: BatchRequest) -> Generator[BatchNews, None, BatchEnd]:
    from cellxlate.plugin.batch.steps import batch_steps

    return (yield from batch_steps(request))
