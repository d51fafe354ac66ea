"""The `Enhance many files` panel, driven as a macro would drive it, on the model of a viewer without a window."""

import time

import dask.array
import numpy as np
import pytest
import tifffile
from qtpy.QtCore import QMimeData, QPointF, Qt, QUrl
from qtpy.QtGui import QDragEnterEvent, QDropEvent

from cellxlate.enhancement.job import enhance_file
from cellxlate.plugin.batch import steps, widget
from cellxlate.plugin.batch.widget import NOTHING_CHOSEN, BatchWidget

from ..test_plates import plate
from .conftest import ramp


@pytest.fixture
def batch(viewer, tiny_model, spin):
    made = BatchWidget(viewer)
    made.model_choice.value = tiny_model
    yield made
    made.cancel_button.click()
    spin(lambda: not made.is_running)
    made.close()


def image(path, seed=0):
    tifffile.imwrite(path, ramp((40, 50), seed=seed))
    return path


def run(batch, spin):
    batch.enhance_button.click()
    assert batch.is_running, batch.state.value
    spin(lambda: not batch.is_running)


def found(batch, spin, count):
    spin(lambda: len(batch.results.rows) == count and batch.state.value.startswith(str(count)))


def test_empty_fields_are_nothing_and_never_the_current_folder(batch, tmp_path, monkeypatch, spin):
    image(tmp_path / "a.tif")
    monkeypatch.chdir(tmp_path)
    for blank in ("", "  "):
        batch.files.line_edit.value = batch.folder.line_edit.value = batch.output_folder.line_edit.value = blank
        batch.enhance_button.click()
        assert not batch.is_running
        assert batch.state.value == NOTHING_CHOSEN
    assert batch._request().output_dir is None
    assert [item.name for item in tmp_path.iterdir()] == ["a.tif"]


def test_one_table_tells_what_became_of_each(batch, viewer, spin, tmp_path, tiny_model):
    good, broken = image(tmp_path / "a, first.tif"), tmp_path / "b.tif"
    broken.write_bytes(b"II*\0nonsense")
    batch.files.value = [good, broken]
    assert batch.files.value == (good, broken)
    found(batch, spin, 2)
    assert [row.state for row in batch.results.rows] == ["waiting", "waiting"]
    run(batch, spin)
    report = enhance_file(good, tiny_model, output_dir=tmp_path / "again")
    table = batch.results.native
    cells = [[table.item(row, column).text() for column in range(5)] for row in range(2)]
    assert cells[0][:4] == ["a, first", "done", f"{100 * report.changed_fraction:.2f} %", "0"]
    assert cells[1][:4] == ["b", "failed", "", ""]
    assert cells[1][4].startswith("is damaged")
    assert table.item(1, 0).toolTip() == str(broken)
    assert table.item(1, 4).toolTip() == cells[1][4]
    assert batch.state.value == ("1 done, 1 failed. When the cause is mended, press Enhance: what is done is kept.")
    assert batch.progress.value == batch.progress.max
    batch.save_table(tmp_path / "table.csv")
    saved = (tmp_path / "table.csv").read_text().splitlines()
    assert [line.split(",")[-4:-3] for line in saved[:1]] == [["verdict"]]
    assert saved[1].startswith(f'"a, first","{good}",done,')
    assert len(saved) == 3


def test_a_click_opens_input_and_result_lazily_with_attention_hidden(batch, viewer, spin, tmp_path, monkeypatch):
    paths = [image(tmp_path / f"{name}.tif", seed) for seed, name in enumerate("ab")]
    batch.files.value = paths
    run(batch, spin)
    for number in (0, 1, 0):
        batch.results.click(number)
        spin(lambda: not batch.row_layers.is_opening)
    shown = {layer.name: layer.visible for layer in viewer.layers}
    assert shown == {
        "a": True, "a enhanced": True, "a attention": False, "b": False, "b enhanced": False, "b attention": False
    }  # fmt: skip
    assert all(isinstance(layer.data, dask.array.Array) for layer in viewer.layers)
    assert viewer.layers.selection.active.name == "a enhanced"
    assert list(viewer.layers["a enhanced"].contrast_limits) == list(viewer.layers["a"].contrast_limits)
    assert tuple(viewer.layers["a attention"].contrast_limits) == (0, 255)
    np.testing.assert_array_equal(
        np.asarray(viewer.layers["b enhanced"].data), tifffile.imread(tmp_path / "b_enhanced.ome.tif")
    )
    assert batch.report_button.enabled
    opened = []
    monkeypatch.setattr(widget.QDesktopServices, "openUrl", lambda url: opened.append(url.toLocalFile()) or True)
    batch.report_button.click()
    assert opened == [str(tmp_path / "a_report.html")]
    batch.existing.value = "replace"
    run(batch, spin)
    assert not viewer.layers  # they would show files that are not there any more


def test_cancel_keeps_what_is_done_and_says_how_to_go_on(batch, spin, tmp_path, monkeypatch):
    tell = steps._BatchRun._tell

    def waiting(self, phase, share):
        tell(self, phase, share)
        while self._clock.number == 1 and not self._request.stop.asked:
            time.sleep(0.01)

    batch.files.value = [image(tmp_path / f"{seed}.tif", seed) for seed in range(3)]
    with monkeypatch.context() as patched:
        patched.setattr(steps._BatchRun, "_tell", waiting)
        batch.enhance_button.click()
        spin(lambda: any(row.state == "done" for row in batch.results.rows))
        batch.cancel_button.click()
        spin(lambda: not batch.is_running)
    assert batch.state.value == ("Cancelled: 1 done, 2 waiting. To go on, press Enhance: what is done is kept.")
    run(batch, spin)
    assert batch.state.value == "2 done, 1 skipped."


def test_files_and_a_folder_can_be_dropped_on_the_panel(batch, tmp_path, application):
    files = [image(tmp_path / name) for name in ("a.tif", "b.tif")]
    for paths in ([files[0]], files, [tmp_path]):
        dropped = QMimeData()
        dropped.setUrls([QUrl.fromLocalFile(str(path)) for path in paths])
        place, copied, left = QPointF(5, 5), Qt.DropAction.CopyAction, Qt.MouseButton.LeftButton
        for kind in (QDragEnterEvent(place.toPoint(), copied, dropped, left, Qt.KeyboardModifier.NoModifier),
                     QDropEvent(place, copied, dropped, left, Qt.KeyboardModifier.NoModifier)):  # fmt: skip
            application.sendEvent(batch.native, kind)
            assert kind.isAccepted()
    assert batch.files.value == tuple(files)
    assert batch.folder.value == tmp_path


def test_wells_are_offered_for_plates_alone(batch, spin, tmp_path):
    assert not batch.wells.visible
    batch.folder.value = plate(tmp_path / "screen.ome.zarr", fields=1)
    found(batch, spin, 2)
    assert batch.wells.choices == ("A/1", "B/2")
    batch.wells.value = ["B/2"]
    spin(lambda: [row.name for row in batch.results.rows] == ["screen_B_2_0"])
    assert batch.wells.choices == ("A/1", "B/2")
    batch.folder.value = None
    spin(lambda: batch.state.value == NOTHING_CHOSEN)
    assert (batch.wells.choices, batch.results.rows) == ((), ())
    assert batch._request().wells == ()


def test_what_is_wrong_with_all_is_one_line(batch, spin, tmp_path):
    batch.folder.value = tmp_path
    spin(lambda: "holds no" in batch.state.value)
    assert "\n" not in batch.state.value
    batch.folder.value, batch.files.value = None, [image(tmp_path / "a.tif")]
    batch.channel.value = "DAPI, 1"
    run(batch, spin)
    assert batch.results.rows[0].verdict == "a has no channel 'DAPI'; it has one, without a name: leave the channel out"
