"""A report made from the files says what the run's own report said, and finds what was done to the files since."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

import cellxlate
from cellxlate.cli import main
from cellxlate.enhancement.outputs import rebuild as reporting
from cellxlate.enhancement.outputs.rebuild import rebuild_report
from cellxlate.enhancement.verify import peak_rss_mb
from cellxlate.errors import InputError
from cellxlate.model.cards import SHIPPED, read_card
from cellxlate.stacks.samples.nuclei import SampleSettings, simulate
from cellxlate.stacks.stack import Stack
from cellxlate.stacks.write.copy import write_stacks
from cellxlate.training.describe import describe_domain


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A folder with a simulated stack and what the shipped model made of it."""
    sample = simulate(SampleSettings(shape=(1, 1, 1, 300, 360), cell_fraction=0.15, seed=3))
    write_stacks([(sample.stack, tmp_path / "cells.ome.tif")])
    cellxlate.enhance_file(tmp_path / "cells.ome.tif", engine="torch")
    return tmp_path


@pytest.fixture
def small(tmp_path: Path, tiny_model: Path) -> Path:
    """A folder with a small image and what was made of it, without a report."""
    noise = np.random.default_rng(0).normal(0, 8, (90, 130))
    tifffile.imwrite(tmp_path / "cells.tif", (noise + np.linspace(80, 240, 130)).clip(0).astype(np.uint16))
    cellxlate.enhance_file(tmp_path / "cells.tif", tiny_model, report=False, engine="torch")
    return tmp_path


def altered(path: Path, change_counts: int, *, where: str) -> None:
    """Change one pixel of an enhanced file in place."""
    attention = tifffile.imread(path.with_name("cells_attention.ome.tif"))
    with tifffile.TiffFile(path) as file:
        description, pixels = file.pages[0].description, file.series[0].asarray()
    place = tuple(np.argwhere(attention == 0 if where == "kept" else attention > 200)[7])
    pixels[place] += change_counts
    tifffile.imwrite(path, pixels, description=description.encode(), metadata=None)


def test_the_rebuilt_report_warns_of_the_input_as_the_first_did(tiny_model: Path, tmp_path: Path) -> None:
    """A background that drifts, and two channels by one model: with an earlier report and without."""
    sample = simulate(SampleSettings(shape=(5, 2, 1, 128, 128), cell_fraction=0.2, seed=2))
    pixels = np.asarray(sample.stack) + 90 * np.arange(5, dtype=np.uint16)[:, None, None, None, None]
    write_stacks([(Stack(pixels.astype(np.uint16), "TCZYX"), tmp_path / "cells.ome.tif")])
    first = cellxlate.enhance_file(tmp_path / "cells.ome.tif", tiny_model, engine="torch")
    assert any("drifts over time" in text for text in first.warnings)
    assert any("all 2 chosen channels" in text for text in first.warnings)
    of_noise = [text for text in first.warnings if "nothing but the noise of this stack" in text]
    assert of_noise  # which only the run itself can tell, and its report
    for expected in (first.warnings, [text for text in first.warnings if text not in of_noise]):
        again = rebuild_report(tmp_path / "cells_enhanced.ome.tif", model=tiny_model)
        assert sorted(again.warnings) == sorted(expected)
        assert again.verdict == first.verdict or expected is not first.warnings
        assert again.sections == first.sections
        assert json.loads((tmp_path / "cells_report.json").read_text())["sections"]["axis"] == "t"
        assert (tmp_path / "cells_report.html").read_text().count("Kymograph along X") == 2
        (tmp_path / "cells_report.json").unlink()


def test_the_rebuilt_report_says_the_same(finished: Path) -> None:
    first = json.loads((finished / "cells_report.json").read_text())
    page = (finished / "cells_report.html").read_text()
    again = rebuild_report(finished / "cells_enhanced.ome.tif")
    second = json.loads((finished / "cells_report.json").read_text())
    for name in ("changes", "input", "model", "command", "warnings", "seconds", "engine", "tiles_total"):
        assert second[name] == first[name], name
    assert again.kept_violations == 0
    assert "sections" not in second
    assert second["changes"]["channels"][0]["checks"]["domain"]["distance"] < 1
    assert (finished / "cells_report.html").read_text().count("<img") == page.count("<img") > 0


def test_without_an_earlier_report_the_file_tells_what_it_knows(finished: Path) -> None:
    (finished / "cells_report.json").unlink()
    report = rebuild_report(finished / "cells_enhanced.ome.tif", output=finished / "other.html")
    assert (report.model_name, report.engine.split()[0]) == ("nuclei-lowexp", "torch")
    assert (finished / "other.html").is_file()
    assert json.loads((finished / "other.json").read_text())["settings"]["threshold"] == 0.1


def test_a_changed_background_pixel_ends_with_exit_code_1(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = finished / "cells_enhanced.ome.tif"
    assert main(["report", str(result), "--quiet"]) == 0
    altered(result, 1, where="kept")
    assert main(["report", str(result), "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["kept_violations"] == 1
    assert "background promise is broken" in answer["warnings"][0]
    assert answer["verdict"].startswith("The promise is broken: 1 pixel that attention did not select differs")


def test_a_changed_pixel_of_a_channel_that_was_copied_breaks_the_promise_too(tmp_path: Path, tiny_model: Path) -> None:
    pixels = np.random.default_rng(0).integers(50, 250, (2, 40, 60)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", pixels, metadata={"axes": "CYX"}, photometric="minisblack")
    cellxlate.enhance_file(tmp_path / "a.tif", tiny_model, channels=[0], axes="CYX", engine="torch")
    result = tmp_path / "a_enhanced.ome.tif"
    assert rebuild_report(result).kept_violations == 0
    with tifffile.TiffFile(result) as file:
        description, made = file.pages[0].description, file.series[0].asarray()
    made[1, 3, 3] += 1
    tifffile.imwrite(result, made, description=description.encode(), metadata=None)
    assert rebuild_report(result).kept_violations == 1


def test_files_that_do_not_belong_together_are_refused(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = finished / "cells_enhanced.ome.tif"
    (finished / "cells_attention.ome.tif").rename(finished / "elsewhere.ome.tif")
    assert main(["report", str(result)]) == 2
    assert "name it with --attention" in capsys.readouterr().err
    assert main(["report", str(result), "--attention", str(finished / "elsewhere.ome.tif"), "--quiet"]) == 0
    (finished / "cells.ome.tif").unlink()
    with pytest.raises(InputError, match="name it with source="):
        rebuild_report(result, attention=finished / "elsewhere.ome.tif")


def test_a_report_replaces_no_image(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = (finished / "cells.ome.tif").read_bytes()
    result = str(finished / "cells_enhanced.ome.tif")
    assert main(["report", result, "-o", str(finished / "cells.ome.tif")]) == 2
    folders = ["--enhanced", str(finished), "--source", str(finished)]
    assert main(["evaluate", *folders, "-o", str(finished / "cells.ome.tif")]) == 2
    assert capsys.readouterr().err.count("is no name for a report; name it .html") == 2
    assert (finished / "cells.ome.tif").read_bytes() == raw


def test_an_image_is_not_compared_with_itself(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (finished / "cells_report.html").read_bytes()
    source, result = finished / "cells.ome.tif", finished / "cells_enhanced.ome.tif"
    assert main(["report", str(source)]) == 2
    assert "is the input itself, no result" in capsys.readouterr().err
    assert main(["report", str(result), "--source", str(result)]) == 2
    assert "is the input itself, no result" in capsys.readouterr().err
    assert main(["report", str(result), "--attention", str(source)]) == 2
    assert "is the input itself, no attention; name it with --attention" in capsys.readouterr().err
    assert main(["report", str(finished)]) == 2
    assert "is a folder; name the results in it" in capsys.readouterr().err
    assert (finished / "cells_report.html").read_bytes() == page


def test_another_input_is_no_broken_promise(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (finished / "cells_report.html").read_bytes()
    drawn = [SampleSettings(shape=(1, 1, 1, 300, 360), cell_fraction=0.15, seed=seed) for seed in (3, 4)]
    same, other = map(simulate, drawn)
    write_stacks([(same.stack, finished / "saved again.ome.zarr"), (other.stack, finished / "other.ome.tif")])
    command = ["report", str(finished / "cells_enhanced.ome.tif"), "--source"]
    assert main([*command, str(finished / "other.ome.tif")]) == 2
    assert "other.ome.tif is not the file that cells_enhanced.ome.tif was made from" in capsys.readouterr().err
    assert (finished / "cells_report.html").read_bytes() == page
    assert main([*command, str(finished / "saved again.ome.zarr")]) == 0


def test_the_card_of_a_shipped_model_stays(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = (SHIPPED / "cells" / "card.json").read_bytes()
    assert main(["describe", "cells", "--source", str(finished)]) == 2
    assert main(["evaluate", "cells", "--source", str(finished), "--to-card"]) == 2
    assert capsys.readouterr().err.count("cells is shipped with cellxlate and its card stays as it is; copy") == 2
    assert main(["evaluate", "--enhanced", str(finished), "--source", str(finished), "--to-card"]) == 2
    assert "--to-card wants a MODEL" in capsys.readouterr().err
    assert (SHIPPED / "cells" / "card.json").read_bytes() == card


def test_another_model_is_refused(finished: Path, tiny_model: Path) -> None:
    with pytest.raises(InputError, match="the weights differ"):
        rebuild_report(finished / "cells_enhanced.ome.tif", model=tiny_model)


def test_describing_puts_numbers_into_the_card(tiny_model: Path, tmp_path: Path) -> None:
    for seed in range(3):
        sample = simulate(SampleSettings(shape=(1, 1, 1, 512, 512), seed=seed))
        write_stacks([(sample.stack, tmp_path / f"{seed}.ome.tif")])
    model = shutil.copytree(tiny_model, tmp_path / "models" / "tiny")  # others look at that one
    before = read_card(model)
    domain = describe_domain(model, [tmp_path / f"{seed}.ome.tif" for seed in range(3)])
    assert domain["windows"] == 12
    assert read_card(model) == {**before, "domain": domain}
    with pytest.raises(InputError, match="fewer than 8 windows"):
        describe_domain(model, [tmp_path / "0.ome.tif"])


@pytest.mark.parametrize("name", ["once.ome.tif", "once.ome.zarr"])
def test_what_has_been_enhanced_before_is_warned_of_in_the_same_channels(tmp_path: Path, name: str) -> None:
    sample = simulate(SampleSettings(shape=(1, 2, 1, 160, 200), cell_fraction=0.15, seed=3))
    write_stacks([(sample.stack, tmp_path / "cells.ome.tif")])
    first = cellxlate.enhance_file(tmp_path / "cells.ome.tif", output=tmp_path / name, channels=[1], engine="torch")
    again, other = (
        cellxlate.enhance_file(
            tmp_path / name, output=tmp_path / f"{channel}.ome.tif", channels=[channel], engine="torch"
        )
        for channel in (1, 0)
    )
    said = [[text for text in run.warnings if "enhanced before" in text] for run in (first, again, other)]
    assert [len(texts) for texts in said] == [0, 1, 0]
    assert "with nuclei-lowexp" in said[1][0]
    rebuilt = rebuild_report(tmp_path / "1.ome.tif", source=tmp_path / name, output=tmp_path / "again.html")
    assert said[1][0] in rebuilt.warnings


@pytest.mark.skipif(sys.platform == "win32", reason="not known there")
def test_the_peak_of_memory_is_that_of_the_process_not_of_its_parent() -> None:
    held = np.ones(100_000_000)  # 800 MB
    script = "from cellxlate.enhancement.verify import peak_rss_mb; print(peak_rss_mb())"
    peak_mb = float(subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout)
    assert 30 < peak_mb < held.nbytes / 1e6 < peak_rss_mb()


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        "[]",
        "{}",
        "null",
        '{"a',
        "[" * 100_000,
        '{"provenance": {}, "a": ' + "[" * 400 + "]" * 400 + "}",
        '{"provenance": []}',
        '{"provenance": {"settings": 3, "levels_counts": [1], "versions": "x", "model": {}}, "model": 7}',
        '{"provenance": {"levels_counts": {"x": 1}}, "seconds": {"total": "long"}, "tiles_total": "many"}',
        '{"provenance": {}, "seconds": {"total": NaN}, "tiles_total": Infinity, "peak_rss_mb": null}',
    ],
)
def test_any_earlier_report_or_none_is_no_reason_to_fail(
    small: Path, content: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    record = small / "cells_report.json"
    record.unlink(missing_ok=True)
    if content is not None:
        record.write_text(content)
    assert main(["report", str(small / "cells_enhanced.ome.tif")]) == 0
    assert "is the input bit for bit (read back from the file)" in " ".join(capsys.readouterr().out.split())
    found = json.loads(record.read_text())
    assert found["kept_violations"] == 0
    assert found["model"]["name"] == "tiny"


def test_a_broken_promise_is_found_without_an_earlier_report(small: Path) -> None:
    altered(small / "cells_enhanced.ome.tif", 1, where="kept")
    assert main(["report", str(small / "cells_enhanced.ome.tif"), "--quiet"]) == 1


def test_what_nobody_expected_in_a_report_is_not_called_a_broken_promise(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reporting, "read_back", lambda *_, **__: {}["gone"])
    assert main(["report", str(small / "cells_enhanced.ome.tif")]) == 2
    assert "no report can be made of it (KeyError" in capsys.readouterr().err
