"""The report says what happened, in files that need nothing else, whatever names it is given."""

import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from imagecodecs import png_decode

from cellxlate.errors import OutputError
from cellxlate.quality.finite import finite_json
from cellxlate.quality.histogram import Histogram
from cellxlate.quality.report import page
from cellxlate.quality.report.gates import context_words
from cellxlate.quality.report.notices import Notice
from cellxlate.quality.report.pictures import Picture, triptych_png
from cellxlate.quality.report.report import RunReport, report_page, write_report
from cellxlate.quality.risk import Ranking, Risk
from cellxlate.quality.tally import Tally

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&\u202e\x00\udcff.tif"


class Reader(HTMLParser):
    """Collects the elements, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def count(self, tag: str) -> int:
        return sum(element == tag for element, _ in self.elements)


def tally(*, violations: int = 0, planes: int = 1, channels: int = 1) -> Tally:
    draw = np.random.default_rng(0)
    counted = Tally(plane_axes="CZ")
    for channel in range(channels):
        for plane in range(planes):
            raw = draw.integers(100, 300, (32, 64)).astype(np.uint16)
            attention = np.zeros(raw.shape, np.uint8)
            attention[:, :24] = 200
            enhanced = raw + (attention > 0).astype(np.uint16) * np.uint16(5)
            enhanced[0, 60 : 60 + violations] += 1
            counted.add((channel, plane), 0, raw=raw, enhanced=enhanced, attention=attention)
    return counted


def report(**changes: Any) -> RunReport:
    plain = RunReport(
        outputs={"enhanced": "a_enhanced.ome.tif", "attention": None, "report": "a_report.html"},
        input_name="a.tif",
        axes="CZYX",
        shape=(1, 1, 32, 64),
        dtype="uint16",
        model_name="nuclei-lowexp",
        model_digest="0" * 64,
        tally=tally(),
        pixel_size_um={"Y": 0.5, "X": 0.5},
        settings={"threshold": 0.1},
        versions={"cellxlate": "0.1.0"},
        seconds={"total": 1.5},
        tiles_total=4,
        tiles_skipped=1,
        peak_rss_mb=123.4,
        engine="torch",
        provenance={"input": {"bytes": 4096}},
        command="cellxlate enhance a.tif",
    )
    return replace(plain, **changes)


def picture(shape: tuple[int, int] = (32, 64), seed: int = 0, **changes: Any) -> Picture:
    draw = np.random.default_rng(seed)
    before = draw.integers(0, 4000, shape).astype(np.uint16)
    attention = draw.integers(0, 256, shape).astype(np.uint8)
    return replace(Picture("Z=0", before, attention, before + np.uint16(100)), **changes)


def written(folder: Path, run: RunReport, pictures: list[Picture] | None = None) -> tuple[str, dict[str, Any]]:
    html, data = folder / "a_report.html", folder / "a_report.json"
    write_report(run, page.figures([picture()] if pictures is None else pictures), html=html, json=data)
    assert sorted(path.name for path in folder.iterdir()) == ["a_report.html", "a_report.json"]
    assert html.stat().st_size < 5_000_000
    return html.read_text(encoding="utf-8"), json.loads(data.read_text(encoding="utf-8"))


def test_json_holds_the_keys_of_the_command_and_the_provenance(tmp_path: Path) -> None:
    run = report(notices=[Notice("look at it")])
    _, stored = written(tmp_path, run)
    assert {key: stored[key] for key in run.as_dict()} == finite_json(run.as_dict())
    assert set(run.as_dict()) == {
        "attention_source", "context", "outputs", "pixels", "changed_fraction", "kept_violations", "tiles_total",
        "tiles_skipped", "seconds",
        "peak_rss_mb", "engine", "model", "selected_fraction", "warnings", "verdict",
    }  # fmt: skip
    assert stored["changed_fraction"] == 24 / 64
    assert stored["changes"]["planes"][0]["changed_fraction"] == 24 / 64
    assert stored["provenance"] == {"input": {"bytes": 4096}}
    assert (stored["command"], stored["model"]["sha256"]) == ("cellxlate enhance a.tif", "0" * 64)


def test_what_python_shows_of_a_report_is_no_flood_of_counts() -> None:
    shown = repr(report(tally=tally(planes=30, channels=2)))
    assert "nuclei-lowexp" in shown
    assert len(shown) < 2500


def test_page_says_the_numbers(tmp_path: Path) -> None:
    html, _ = written(tmp_path, report())
    words = " ".join(Reader(html).words)
    for expected in (
        "37.5 %",
        "768 of the 768 that were selected",
        "192",
        "µm²",
        "cellxlate enhance a.tif",
        "1 of 4 tiles",
        "1,280 pixels, the input's own, bit for bit",
    ):
        assert expected in words


def test_page_asks_nothing_of_the_network(tmp_path: Path) -> None:
    html, _ = written(tmp_path, report(notices=[Notice("see https://example.org", "https://example.org", "doubt")]))
    for tag, attributes in Reader(html).elements:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        for name in ("src", "href", "srcset", "action", "poster"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert not re.search(r"@import|url\(", html)
    policy = next(a["content"] for tag, a in Reader(html).elements if tag == "meta" and "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "script-src 'sha256-" in policy


def test_the_policy_admits_exactly_the_script_of_the_page(tmp_path: Path) -> None:
    from base64 import b64encode
    from hashlib import sha256

    html, _ = written(tmp_path, report())
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    assert len(scripts) == 1
    assert b64encode(sha256(scripts[0].encode()).digest()).decode() in html


def test_names_from_outside_are_text_and_nothing_else(tmp_path: Path) -> None:
    run = report(
        input_name=HOSTILE, model_name=HOSTILE, model_licence=HOSTILE, channel_names=(HOSTILE,), engine=HOSTILE,
        command=HOSTILE, command_note=HOSTILE, notices=[Notice(HOSTILE, HOSTILE, "doubt")],
        outputs={"enhanced": HOSTILE}, versions={HOSTILE: HOSTILE}, settings={HOSTILE: HOSTILE},
        provenance={HOSTILE: {HOSTILE: [HOSTILE]}}, seconds={"total": 1.0, HOSTILE: 2.0},
        tally=tally(channels=2), model_digest=HOSTILE, dtype=HOSTILE, axes=HOSTILE,
    )  # fmt: skip
    html, stored = written(tmp_path, run, [picture(title=HOSTILE, overlay=HOSTILE)])
    plain, _ = written(tmp_path, replace(report(), tally=tally(channels=2)))
    hostile, reader = Reader(html), Reader(plain)
    assert hostile.count("script") == reader.count("script") == 1
    assert hostile.count("img") == reader.count("img") == 4
    assert not any(name.startswith("on") for _, attributes in hostile.elements for name in attributes)
    assert "<script>alert(1)</script>" in "".join(hostile.words)
    assert "\u202e" not in html
    assert "\x00" not in html
    assert stored["input"]["name"] == HOSTILE


def test_a_value_that_is_missing_or_misspelt_in_a_template_is_an_error() -> None:
    with pytest.raises(Exception, match="'about' is undefined"):
        page.render("quality/report/templates/page.html.jinja", title="t", kind="k", footer="f", sections="")


def test_what_a_template_is_handed_is_text_until_it_is_said_to_be_markup() -> None:
    values = {"title": "t", "kind": "<b>", "about": "a", "footer": "f"}
    as_text, as_html = (
        page.render("quality/report/templates/page.html.jinja", sections=sections, **values)
        for sections in (HOSTILE, page.markup("<hr>"))
    )
    assert Reader(as_text).count("img") == 0
    assert Reader(as_html).count("hr") == 1
    assert Reader(as_text).count("b") == Reader(as_html).count("b") == 0
    assert "\x00" not in as_text


def test_templates_are_imported_only_where_a_page_is_written() -> None:
    code = "import sys, cellxlate.quality.report.report; sys.exit('jinja2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_name_or_number_of_planes_makes_the_page_large(tmp_path: Path) -> None:
    long, many = "a" * 3_000_000, "b" * 3_000
    counted = tally(planes=2)
    for plane in range(2, 2300):
        blank = np.zeros((1, 8), np.uint16)
        counted.add((plane % 300, plane), 0, raw=blank, enhanced=blank, attention=blank.astype(np.uint8))
    run = report(
        input_name=long, notices=[Notice(long)], command=long, tally=counted, channel_names=(many,) * 300,
        provenance={f"{number}": many for number in range(2000)}, settings={"a": long}, versions={"b": long},
    )  # fmt: skip
    pictures = [picture((400, 400), seed, title=long) for seed in range(30)]
    html, stored = written(tmp_path, run, pictures)
    assert "6 more pictures are not shown" in html
    assert len(stored["changes"]["planes"]) == 2000
    assert "all further planes" in html


def test_pictures_are_reduced_only_as_far_as_needed() -> None:
    alone = page.figures([picture((640, 640))])
    many = page.figures([picture((640, 640), seed) for seed in range(8)])
    assert "each pixel drawn" not in alone
    assert "each pixel drawn is" in many
    assert 0.3 * page.PICTURES_BYTES < len(many) <= page.PICTURES_BYTES


@pytest.mark.parametrize("shape", [(1, 1), (1, 900), (900, 1), (17, 1031)])
def test_planes_of_any_shape_are_shown(tmp_path: Path, shape: tuple[int, int]) -> None:
    html, _ = written(tmp_path, report(), [picture(shape)])
    assert Reader(html).count("img") == 4


def test_before_and_after_are_drawn_on_one_scale() -> None:
    from base64 import b64decode

    before = np.tile(np.array([100, 200], np.uint16), (64, 32))
    html = page.figures([Picture("a", before, np.zeros(before.shape, np.uint8), before + np.uint16(100))])
    drawn = [png_decode(b64decode(code)) for code in re.findall(r"base64,([^\"]+)", html)]
    assert [np.unique(plane).tolist() for plane in (drawn[0], drawn[2])] == [[0, 128], [128, 255]]
    assert not drawn[1].any()
    assert ">100<i" in html
    assert "300 counts" in html


@pytest.mark.parametrize(
    ("changes", "label"),
    [({"pixel_size_um": 0.5}, "5 µm"), ({}, "10 px"), ({"reduction": 4}, "50 px"), ({"pixel_size_um": 20.0}, "200 µm")],
)
def test_the_scale_bar_is_a_round_length_of_at_most_a_quarter(changes: dict[str, Any], label: str) -> None:
    html = page.figures([picture((64, 64), **changes)])
    assert html.count(f"<span>{label}</span>") == 3
    width = float(re.findall(r'class="scale"[^>]*width:([0-9.]+)%', html)[0])
    per_px = changes.get("pixel_size_um", changes.get("reduction", 1))
    assert width == pytest.approx(100 * float(label.split()[0]) / (64 * per_px), abs=0.01)


def test_a_bar_of_less_than_a_pixel_is_not_drawn_in_pixels() -> None:
    assert "<span>1 px</span>" in page.figures([picture((1, 1))])


def test_truth_gets_a_panel_of_its_own() -> None:
    html = page.figures([picture(truth=np.ones((32, 64)))])
    assert Reader(html).count("figure") == 4
    assert "Truth, on a scale of its own" in html


def test_the_verdict_comes_first_then_warnings_and_a_broken_promise_is_red(tmp_path: Path) -> None:
    html, _ = written(tmp_path, report(notices=[Notice("first thing", "be careful", "doubt"), Notice("second thing")]))
    assert (
        html.index("but be careful (1 further remark).")
        < html.index("first thing")
        < html.index("second thing")
        < html.index("Pixels changed")
    )
    assert "verdict alert" in html
    assert "verdict good" in report_page(report(notices=[Notice("by the way")]), "")
    broken, stored = written(tmp_path, report(tally=tally(violations=2)))
    assert stored["kept_violations"] == 2
    assert "verdict bad" in broken
    assert stored["verdict"].startswith("The promise is broken: 2 pixels")
    assert "bit for bit" not in broken
    assert '<td class="bad">2</td>' in broken


def test_a_run_without_pixels_or_pictures_has_a_report(tmp_path: Path) -> None:
    html, stored = written(tmp_path, report(tally=Tally(), pixel_size_um={}, seconds={}, provenance={}, command=""), [])
    assert stored["pixels"] == 0
    assert "Pixels changed" in html


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    _, stored = written(tmp_path, report(provenance={"a": float("nan"), "b": np.float32("inf"), "c": np.arange(2)}))
    assert stored["provenance"] == {"a": None, "b": None, "c": [0, 1]}


def test_the_page_is_the_same_for_the_same_run(tmp_path: Path) -> None:
    run = report()
    assert written(tmp_path, run) == written(tmp_path, run)


def test_a_missing_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written") as fault:
        write_report(report(), "", html=tmp_path / "no" / "a.html", json=tmp_path / "no" / "a.json")
    assert "\n" not in str(fault.value)


def test_charts_hold_what_the_histogram_holds() -> None:
    histogram = Histogram()
    values = np.repeat(np.array([10, 11, 12], np.uint8), [1, 9, 99])
    histogram.add(values, values[-9:], np.full(9, 13, np.uint8))
    charts = report_page(report(tally=replace(tally(), histograms={0: histogram})), "")
    assert charts.count("<svg") == 2
    heights = [
        float(level) for level in re.findall(r'class="after" d="M([^"]+)"', charts)[0].replace(",", " ").split()[1::4]
    ]
    counts = 10 ** ((132 - np.array(heights)) / 122 * np.log10(100)) - 1
    assert counts == pytest.approx([1, 9, 90, 9], rel=0.01)
    empty = replace(tally(), histograms={0: Histogram()})
    assert report_page(report(tally=empty), "").count("<svg") == 0


def test_a_preview_shows_three_images_side_by_side() -> None:
    before, attention, after = np.zeros((4, 5)), np.full((4, 5), 0.5), np.full((4, 5), 2.0)
    drawn = png_decode(triptych_png(before, attention, after))
    assert drawn[0].tolist() == [0] * 5 + [255] * 4 + [128] * 5 + [255] * 4 + [255] * 5


def test_a_ranking_is_shown_as_bars_and_a_sentence_and_stated_in_the_record(tmp_path: Path) -> None:
    risks = tuple(Risk(name, 1.0, gain, 0.1) for name, gain in (("<b>x", 6.0), ("gaussian 1", 5.0), ("input", 0.0)))
    ranking = Ranking(risks, True, "", tuple((0.1,) * 3 for _ in range(3)))
    html, record = (tmp_path / name for name in ("r.html", "r.json"))
    write_report(report(ranking=ranking), "", html=html, json=record)
    seen = Reader(html.read_text(encoding="utf-8"))
    assert "1.0 dB better than the best filter (gaussian 1 px)" in " ".join(seen.words)
    assert seen.count("b") == Reader(report_page(report(), "")).count("b")
    bars = [attributes for element, attributes in seen.elements if element == "rect"]
    widths = [float(bar["width"] or 0) for bar in bars]
    assert [bar["class"] for bar in bars] == ["bar"] * 3
    assert widths[0] / widths[1] == pytest.approx(6 / 5, rel=0.01)
    assert widths[2] == 0
    stated = json.loads(record.read_text())["ranking"]
    assert stated["trusted"] is True
    assert stated["candidates"][0] == {"name": "<b>x", "gain_db": 6.0, "error_db": 0.1}


def test_a_ranking_that_is_not_trusted_has_no_colours_and_says_why() -> None:
    risks = (Risk("cells", 1.0, math.nan, math.inf), Risk("input", 1.0, 0.0, 0.0))
    doubted = Ranking(risks, False, "the noise is not known", ((0.0, 0.0), (0.0, 0.0)))
    html = report_page(report(ranking=doubted), "")
    assert "it cannot be told which is best: the noise is not known" in html
    assert 'class="faint"' in html
    assert 'class="bar"' not in html.split("<svg")[1]
    assert "nan" not in html.split("<svg")[1].split("</svg>")[0]


def test_a_report_without_a_ranking_says_nothing_of_one() -> None:
    assert "What suits this image" not in report_page(report(), "")
    assert "ranking" not in report().as_dict()


def test_neighbours_state_their_reason_where_none_were_seen() -> None:
    reason = "each plane alone: nuclei-lowexp was not trained to see the planes beside it"
    assert context_words({"axis": None, "planes": 0, "reason": reason}) == reason
    assert context_words({"axis": None, "planes": 0, "reason": ""}) == "each plane alone"
