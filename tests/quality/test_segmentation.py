"""Objects before and after, against masks: scores worked out by hand, functions of users, and what they do wrong."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from imagecodecs import png_encode
from scipy import ndimage

from cellxlate.cli import main
from cellxlate.errors import InputError, OptionError
from cellxlate.evaluation.evaluate import evaluate
from cellxlate.evaluation.segmentation import Matched, is_numbered, matched, numbered, segmented, segmenter, together

SHAPE = (60, 80)


def labels(*boxes: tuple[int, int, int, int]) -> npt.NDArray[np.uint16]:
    """Objects 1, 2, ... as boxes: top, left, height, width."""
    drawn = np.zeros(SHAPE, np.uint16)
    for number, (top, left, height, width) in enumerate(boxes, 1):
        drawn[top : top + height, left : left + width] = number
    return drawn


def lit(objects: npt.NDArray[Any], counts: float) -> npt.NDArray[np.uint16]:
    return np.where(objects > 0, 100 + counts, 100).astype(np.uint16)


def test_scores_are_those_worked_out_by_hand() -> None:
    there = labels((5, 5, 10, 10), (5, 40, 10, 10), (30, 5, 10, 10))
    found = labels((5, 5, 10, 12), (5, 45, 10, 10), (45, 60, 5, 5))  # one larger by a fifth, one moved by half, one new
    said = matched(found, there, lit(found, 30), lit(there, 20))
    assert (said.found, said.there, said.matched) == (3, 3, 1)
    scores = said.as_dict()
    assert scores["ap50"] == pytest.approx(1 / 5)
    assert scores["count_error_percent"] == 0
    assert scores["area_bias_percent"] == pytest.approx(20)
    assert scores["intensity_bias_percent"] == pytest.approx(50)


def test_numbers_need_not_follow_one_another_and_nothing_is_nothing() -> None:
    there = labels((5, 5, 10, 10), (30, 30, 10, 10)) * 1000
    image = lit(there, 50)
    perfect = matched(there[:] // 500, there, image, image).as_dict()
    assert perfect == {"ap50": 1, "count_error_percent": 0, "area_bias_percent": 0, "intensity_bias_percent": 0}
    empty = np.zeros(SHAPE, int)
    assert all(math.isnan(value) for value in matched(empty, empty, image, image).as_dict().values())
    missed = matched(empty, there, image, image).as_dict()
    assert (missed["ap50"], missed["count_error_percent"]) == (0, -100)


def test_planes_together_count_each_object_alike() -> None:
    both = together([Matched(2, 1, 1, (1.2,), (0.5,)), Matched(1, 3, 1, (1.0,), (1.5,))])
    assert both == Matched(3, 4, 2, (1.2, 1.0), (0.5, 1.5))
    assert both.as_dict()["ap50"] == pytest.approx(2 / 5)
    assert together([]) == Matched()


def test_a_mask_of_one_number_is_taken_apart_and_touching_numbers_are_not_merged() -> None:
    apart = labels((5, 5, 10, 10), (30, 30, 10, 10))
    touching = labels((5, 5, 10, 10), (5, 15, 10, 10))
    for mask, connected, expected in (((apart > 0) * 255, 2, 1.0), (touching, 1, 0.0)):
        image = lit(mask, 50)
        there = numbered(mask, by_number=is_numbered([mask]))
        before, _ = segmented(lambda plane: ndimage.label(plane > 120)[0], image, image, there)
        assert (before.found, before.there) == (connected, 2)
        assert before.as_dict()["ap50"] == expected


def test_a_cell_in_pieces_is_one_where_the_mask_has_numbers_in_another_plane() -> None:
    pieces = labels((5, 5, 10, 10), (30, 30, 10, 10))
    pieces[pieces > 0] = 1
    assert is_numbered([pieces, labels((0, 0, 5, 5), (9, 9, 5, 5))])
    assert not is_numbered([pieces, pieces * 0])
    assert numbered(pieces, by_number=True).max() == 1
    assert numbered(pieces, by_number=False).max() == 2


@pytest.mark.parametrize(
    ("turned", "found"),
    [
        (lambda there: there > 0, 2),
        (lambda there: (there > 0).astype(np.uint8) * 255, 2),
        (lambda there: np.where(there > 0, there.astype(int), -1), 2),
        (lambda there: there.tolist(), 2),
        (lambda there: (there > 0).astype(int), 1),
    ],
    ids=["bool", "black and white", "negative background", "list", "one number"],
)
def test_what_a_function_may_return(turned: Any, found: int) -> None:
    there = labels((5, 5, 10, 10), (30, 30, 10, 10))
    image = lit(there, 50)
    before, after = segmented(lambda _: turned(there), image, image, there)
    assert before == after
    assert before.found == found
    assert found == 1 or before.as_dict()["ap50"] == 1


def test_what_a_function_does_to_its_image_stays_its_own() -> None:
    there = labels((5, 5, 10, 10), (30, 30, 10, 10))
    raw, made = lit(there, 20), lit(there, 50)

    def spoils(plane: npt.NDArray[Any]) -> npt.NDArray[Any]:
        found = ndimage.label(plane > 110)[0]
        plane[:] = 0
        return found

    _, after = segmented(spoils, raw, made, there)
    assert after.as_dict()["intensity_bias_percent"] == pytest.approx(150)
    assert (raw.max(), made.max()) == (120, 150)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Two fields whose cells only the output shows, with their masks, and files of functions."""
    objects = labels((5, 5, 12, 12), (5, 40, 12, 12), (35, 20, 12, 12))
    for name in ("source", "masks", "out"):
        (tmp_path / name).mkdir()
    for number in range(2):
        noise = np.random.default_rng(number).normal(0, 5, SHAPE)
        tifffile.imwrite(tmp_path / "source" / f"f{number}.tif", np.rint(lit(objects, 2) + noise).astype(np.uint16))
        tifffile.imwrite(tmp_path / "masks" / f"f{number}.tif", objects)
        tifffile.imwrite(tmp_path / "out" / f"f{number}_enhanced.tif", lit(objects, 60))
    (tmp_path / "mine.py").write_text(
        "from scipy import ndimage\n"
        "def find(image):\n    return ndimage.label(image > 130)[0]\n"
        "def broken(image):\n    return image[1 / 0]\n"
        "def halved(image):\n    return image[::2]\n"
        "def real(image):\n    return image * 0.5\n"
        "nothing = 3\n"
        "def loud(image):\n    print('hello')\n    return find(image)\n"
        "def leaves(image):\n    raise SystemExit(3)\n"
    )
    (tmp_path / "beside_mine.py").write_text("level = 130\n")
    (tmp_path / "whole.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom beside_mine import level\n"
        "from mine import find as found\nprint('begun')\n"
        "@dataclass\nclass Asked:\n    counts: int = level\n"
        "def find(image):\n    assert Asked().counts == 130\n    return found(image)\n"
    )
    (tmp_path / "wrong.py").write_text("import nowhere_to_be_found\n")
    return tmp_path


def asked(folders: Path, segment: str, *more: str) -> list[str]:
    return [
        "evaluate", "--enhanced", str(folders / "out"), "--source", str(folders / "source"), "--masks",
        str(folders / "masks"), "--segment", segment, *more,
    ]  # fmt: skip


def test_the_command_says_whether_objects_are_found_better(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = folders / "scores.html"
    functions = f"{folders / 'mine.py'}:find", f"{folders / 'mine.py'}:loud", f"{folders / 'whole.py'}:find"
    for segment in ("otsu", *functions):
        report.unlink(missing_ok=True)
        assert main([*asked(folders, segment, "-o", str(report)), "--json", "--quiet"]) == 0
        scores = json.loads(capsys.readouterr().out)
        assert scores["segmentation"]["before"]["ap50"] < 0.2
        assert scores["segmentation"]["after"]["ap50"] == 1
        assert scores["segmentation"]["after"]["count_error_percent"] == 0
        assert [row["segmentation"]["after"]["ap50"] for row in scores["images"]] == [1, 1]
        assert "Objects found" in report.read_text()
    assert main(asked(folders, "otsu", "--quiet")) == 0
    assert main(asked(folders, "otsu")) == 0
    assert "objects found, AP at an overlap of 0.5" in capsys.readouterr().out


def test_a_png_keeps_the_numbers_of_cells_that_touch(folders: Path) -> None:
    touching = labels((5, 5, 12, 12), (5, 17, 12, 12), (35, 20, 12, 12))
    for path in (folders / "masks").iterdir():
        path.unlink()
    for number in range(2):
        (folders / "masks" / f"f{number}_cp_masks.png").write_bytes(png_encode(touching))
    places = {"source": folders / "source", "enhanced": folders / "out", "masks": folders / "masks"}
    scores = evaluate(**places, segment=lambda _: touching)
    assert scores["segmentation"]["after"]["ap50"] == 1
    assert scores["attention"] == evaluate(**places)["attention"]


def test_python_takes_the_function_itself(folders: Path) -> None:
    def everything(plane: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        return plane > 0

    places = {"source": folders / "source", "enhanced": folders / "out", "masks": folders / "masks"}
    scores = evaluate(**places, segment=everything)
    assert scores["segmentation"]["after"]["count_error_percent"] == pytest.approx(-200 / 3)
    assert evaluate(**places)["segmentation"] is None
    with pytest.raises(OptionError, match="segment= compares objects with those of masks; give masks="):
        evaluate(source=folders / "source", enhanced=folders / "out", segment="otsu")


@pytest.mark.parametrize(
    ("segment", "words"),
    [
        ("otsus", "--segment 'otsus' is not known; expected otsu, FILE.py:FUNCTION"),
        ("gone.py:find", "gone.py does not exist"),
        ("{}/mine.py:lost", "has no function 'lost'"),
        ("{}/mine.py:nothing", "has no function 'nothing'"),
        ("{}/wrong.py:find", "wrong.py cannot be run: ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("{}/mine.py:broken", "broken failed on f0: ZeroDivisionError: division by zero"),
        ("{}/mine.py:leaves", "leaves failed on f0: SystemExit: 3"),
        ("{}/mine.py:halved", "halved returned uint16 (30, 80) for f0; expected whole numbers (60, 80)"),
        ("{}/mine.py:real", "real returned float64 (60, 80) for f0; expected whole numbers"),
    ],
)
def test_a_function_that_will_not_do_is_one_line(
    folders: Path, capsys: pytest.CaptureFixture[str], segment: str, words: str
) -> None:
    assert main(asked(folders, segment.format(folders), "--quiet")) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_what_segments_is_found_once(folders: Path) -> None:
    assert segmenter(len) is len
    with pytest.raises(InputError, match="does not exist"):
        segmenter("nowhere/mine.py:find")
