"""Channels are found as people write them, and never mistaken for another."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from cellxlate.errors import OptionError, said
from cellxlate.stacks.channel_names import channel_number

NAMES = ("DAPI", "GFP", "Cy5", "cy5", "7", "phase contrast")


@pytest.mark.parametrize(
    ("asked", "number"),
    [
        ("DAPI", 0), ("dapi", 0), (" Gfp ", 1), ("Cy5", 2), ("cy5", 3), ("7", 4), ("5", 5), (2, 2),
        (np.int64(1), 1), ("PHASE CONTRAST", 5),
    ],
)  # fmt: skip
def test_a_channel_is_found_by_name_in_any_case_or_by_number(asked: str | int, number: int) -> None:
    assert channel_number(asked, NAMES, len(NAMES), "a.tif") == number


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ("CY5", "a.tif has 2 channels that are called 'CY5', numbers 2, 3; give the number"),
        ("DPAI", "a.tif has no channel 'DPAI'; did you mean 'DAPI'? There are: 0 DAPI, 1 GFP"),
        ("phase", "did you mean 'phase contrast'?"),
        ("9", "a.tif has no channel '9'; there are: 0 DAPI"),
        (-1, "no channel '-1'"),
        (7, "no channel '7'; did you mean '7'?"),
        (True, "the channel True is neither a name nor a number"),
        (1.0, "the channel 1.0 is neither"),
        (None, "the channel None is neither"),
    ],
)
def test_what_is_no_channel_is_refused_with_what_was_meant(asked: str | int, part: str) -> None:
    with pytest.raises(OptionError) as caught:
        channel_number(asked, NAMES, len(NAMES), "a.tif")
    assert part in str(caught.value)


def test_a_single_channel_without_a_name_needs_none() -> None:
    with pytest.raises(OptionError, match=r"'DAPI'; it has one, without a name: leave the channel out"):
        channel_number("DAPI", (), 1, "a.tif")


def test_a_file_in_place_of_a_channel_is_told_to_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tifffile.imwrite("b.tif", np.zeros((4, 4), np.uint8))
    with pytest.raises(OptionError) as caught:
        channel_number("b.tif", (), 2, "a.tif")
    expected = (
        "a.tif has no channel 'b.tif'; there are: numbers 0 to 1; that is a file: name all stacks before --channel"
    )
    assert said(caught.value, by="command") == expected
    assert "--" not in str(caught.value)
