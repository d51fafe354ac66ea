"""The controls under a result: blink, swipe, difference, report."""

from collections.abc import Callable, Generator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from magicgui.widgets import Container, FloatSlider, RadioButtons
from qtpy.QtCore import QUrl
from qtpy.QtGui import QDesktopServices

from cellxlate.plugin.compare.comparison import Comparison, Difference, Pair, difference_steps
from cellxlate.plugin.controls import ClickButton, PanelText
from cellxlate.plugin.drawing import OURS, difference_colormap
from cellxlate.plugin.layers import appearance, layer_stack, visible_plane
from cellxlate.plugin.preview.overlay import single_shot
from cellxlate.plugin.requests import EnhanceRequest, Outcome, Refusal
from cellxlate.plugin.working import await_end, begin

if TYPE_CHECKING:
    from napari.viewer import Viewer

BRIEFLY_MS = 10_000
"""How long something is said that has been done."""


class CompareControls:
    """Compare an input with its result, and open the report.

    Parameters
    ----------
    viewer : Viewer
        Where both are shown.
    pair : callable
        Returns what is compared, or None.
    reported : callable
        Returns the run whose report is opened, or None.

    Attributes
    ----------
    mode, position : widgets
        How input and result are shown; where the line of the swipe lies.
    difference_button, report_button : widgets
        Add a layer of what was changed; open the report in a browser.
    state : widget
        What is being shown.
    rows : list of widgets
        All of them, for a panel.
    """

    def __init__(
        self,
        viewer: "Viewer",
        pair: Callable[[], Pair | None],
        reported: Callable[[], tuple[Outcome, EnhanceRequest] | None],
    ) -> None:
        self._viewer, self._pair, self._reported = viewer, pair, reported
        self._workers: list[Any] = []
        self.mode = RadioButtons(
            label="Compare", choices=["off", "blink", "swipe", "3-D"], value="off", orientation="horizontal",
            tooltip="Show input and result in turns, or the input left of a line and the result right of it; or the "
            "result and its attention in 3-D. off puts everything back as it was.",
        )  # fmt: skip
        self.position = FloatSlider(
            label="Line", value=0.5, min=0.0, max=1.0, step=0.01, tooltip="Where the line lies in the view."
        )
        self.difference_button = ClickButton(
            text="Difference",
            tooltip="Add a layer of result - input: orange is brighter, blue darker, clear unchanged.",
        )
        self.report_button = ClickButton(text="Report", tooltip="Open the report of the result in a browser.")
        self.state = PanelText()
        buttons = Container(widgets=[self.difference_button, self.report_button], layout="horizontal", labels=False)
        buttons.margins = (0, 0, 0, 0)
        self.rows = [self.mode, self.position, buttons, self.state]
        self._over_timer = single_shot(self._say_nothing, self.state.native)
        self.comparison = Comparison(viewer, pair=pair, say=self._say, ended=lambda: setattr(self.mode, "value", "off"))
        self.mode.changed.connect(self._mode_changed)
        self.position.changed.connect(self.comparison.move)
        self.difference_button.changed.connect(self._difference)
        self.report_button.changed.connect(self._report)
        self.position.enabled = False
        self.look_again()

    def look_again(self, _: Any = None) -> None:
        """Offer what can be done with the results that are there now."""
        self.mode.enabled = self.difference_button.enabled = self._pair() is not None
        self.report_button.enabled = self._reported() is not None

    def end(self, _: Any = None) -> None:
        """Compare no more, and say nothing of it any more."""
        self.mode.value = "off"
        self._say("")
        self.look_again()

    def show(self) -> None:
        """Swipe over a new pair at once."""
        self.end()
        self.mode.value = "swipe"

    def leave(self) -> None:
        """Stop without touching the viewer, whose window may be gone."""
        with suppress(RuntimeError):  # gone already, with the window
            self._over_timer.stop()
        self.comparison.abandon()
        for worker in self._workers:
            await_end(worker)

    def _say(self, text: str, *, briefly: bool = False) -> None:
        self._over_timer.stop()
        self.state.value = text
        if briefly:
            self._over_timer.start(BRIEFLY_MS)

    def _say_nothing(self) -> None:  # no lambda: the timer would hold it after the garbage collector has emptied it
        self._say("")

    def _mode_changed(self, mode: str) -> None:
        self.position.enabled = mode == "swipe"
        self.comparison.switch(mode)  # type: ignore[arg-type]

    def _difference(self, _: Any = None) -> None:
        """Add a layer of what was changed, as soon as its usual size is known."""
        pair = self._pair()
        if pair is None:
            self._say("The input or the result is gone; enhance again to compare.", briefly=True)
            return
        self.end()  # it would be hidden
        before, after = (layer.data[0] if layer.multiscale else layer.data for layer in (pair.before, pair.after))
        if before.shape != after.shape and not _is_plane_of(after.shape, before.shape, pair.axes):
            self._say("The input has another shape now; enhance again to compare.", briefly=True)
            return
        stack = layer_stack(pair.before, pair.axes)
        plane = visible_plane(pair.before, stack, self._viewer.dims.point)
        shown: tuple[int, ...] = plane
        if before.shape != after.shape:  # one plane was enhanced
            corner = pair.before.world_to_data(pair.after.data_to_world((0,) * pair.after.ndim))
            chosen = [round(float(position)) for position in corner]
            axes = pair.axes.replace("S", "")
            before = before[tuple(slice(at, at + 1) if axis in "TCZ" else slice(None)
                                  for axis, at in zip(axes, chosen, strict=True))]  # fmt: skip
            shown = (0,) * len(plane)
        placement = appearance(pair.after, pair.axes).placement
        name = f"{pair.after.name} - {pair.before.name}"

        def add(_: Any, difference: Difference) -> None:
            self._viewer.add_image(
                difference.pixels, name=name, colormap=difference_colormap(), blending="translucent",
                contrast_limits=(-difference.limit, difference.limit), metadata={OURS: True}, **placement,
            )  # fmt: skip
            self._say("Orange: brighter than the input; blue: darker.", briefly=True)

        arrays = (before, after, pair.axes, shown)
        self._workers.append(begin(difference_steps, arrays, news=add, ended=self._ended))

    def _report(self, _: Any = None) -> None:
        """Open the report; that of a result in memory is written to a temporary folder first."""
        reported = self._reported()
        if reported is None:
            return
        self._say("Opening the report ...")
        self._workers.append(begin(_report_steps, reported, news=self._open, ended=self._ended))

    def _open(self, _: Any, page: Path) -> None:
        opened = QDesktopServices.openUrl(QUrl.fromLocalFile(str(page)))
        if opened:
            self._say("The report opens in your browser.", briefly=True)
        else:
            self._say(f"The report is {page}")

    def _ended(self, _: Any, outcome: Refusal | None) -> None:
        self._workers = [worker for worker in self._workers if worker.is_running]
        if isinstance(outcome, Refusal):
            self._say(outcome.reason)


def _is_plane_of(shape: tuple[int, ...], whole: tuple[int, ...], axes: str) -> bool:
    """Whether an array may be one plane of another, with size 1 along all other axes."""
    sizes = zip(axes, shape, whole, strict=False)
    return len(shape) == len(whole) and all(own == (1 if axis in "TCZ" else size) for axis, own, size in sizes)


def _report_steps(reported: tuple[Outcome, EnhanceRequest]) -> Generator[Path, None, None]:
    from cellxlate.plugin.compare.report_steps import report_steps  # slow to load, thus here

    yield from report_steps(*reported)
