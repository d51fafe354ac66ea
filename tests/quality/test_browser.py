"""The page in a real browser: nothing breaks, the input lies under attention, zoom moves all panels."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from cellxlate.quality.report import page
from cellxlate.quality.report.pictures import Picture

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def dom_of(path: Path) -> str:
    """Return a page as the browser holds it once its script has run."""
    if CHROMIUM is None:
        if os.environ.get("CELLXLATE_REQUIRE_ALL") == "1":
            pytest.fail("CELLXLATE_REQUIRE_ALL is set, but there is no chromium")
        pytest.skip("there is no chromium")
    ran = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={path.parent / 'profile'}",
            "--dump-dom",
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    )
    return ran.stdout


def written(folder: Path, title: str = "Z=0") -> Path:
    before = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    picture = Picture(title, before, np.full(before.shape, 9, np.uint8), before, 0.5)
    html = page.render(
        "quality/report/templates/page.html.jinja",
        title="t",
        kind="k",
        about="a",
        sections=page.markup(page.figures([picture])),
        footer="f",
    )
    path = folder / "page.html"
    path.write_text(html, encoding="utf-8")
    return path


def test_the_script_runs_under_the_policy_and_shares_the_input(tmp_path: Path) -> None:
    dom = dom_of(written(tmp_path, title="<img src=x onerror=\"document.title='broken'\">"))
    sources = re.findall(r'<img alt=""[^>]*src="(data:[^"]+)"', dom)
    assert len(sources) == 4
    assert sources[0] == sources[1] != sources[2]
    assert "<title>t</title>" in dom


def test_a_script_that_is_not_the_page_s_own_does_not_run(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_text(path.read_text(encoding="utf-8") + "<script>document.title = 'broken'</script>", encoding="utf-8")
    assert "<title>t</title>" in dom_of(path)


def test_zoom_moves_all_panels_and_shortens_the_scale_bar(tmp_path: Path) -> None:
    path = written(tmp_path)
    text = re.sub(r"<meta http-equiv[^>]*>", "", path.read_text(encoding="utf-8"))
    press = "<script>for (let i = 0; i < 5; i++) document.querySelector('button[data-factor=\"1.5\"]').click()</script>"
    path.write_text(text + press, encoding="utf-8")
    moved = re.findall(r'class="stage" style="transform: ([^"]+);"', dom_of(path))
    assert len(moved) == 3
    assert len(set(moved)) == 1
    assert moved[0].endswith("scale(7.59375)")
    bars = re.findall(r'data-unit="µm" style="width: ([0-9.]+)%;"><span>([0-9.]+) µm', dom_of(path))
    assert [(float(width), label) for width, label in bars] == [
        (pytest.approx(100 * 1 / (32 / 7.59375), abs=0.1), "1")
    ] * 3
