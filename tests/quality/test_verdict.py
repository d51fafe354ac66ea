"""One sentence says what changed, whether the promise held, and what to look at, in every state of a result."""

from typing import Any

import pytest

from cellxlate.quality.report.notices import Notice
from cellxlate.quality.report.verdict import verdict
from cellxlate.quality.tally import Counts

KEPT = "the other 88 % is the input bit for bit (read back from the file)"
FINE = "nothing speaks against the result"


def counted(selected: int = 120, *, pixels: int = 1000, changed: int | None = None, broken: int = 0) -> Counts:
    moved = selected if changed is None else changed
    return Counts(pixels, selected, moved, broken, change_sum_counts=35.0 * moved, change_max_counts=90.0)


def said(total: Counts, *notices: Notice, channels: dict[str, Counts] | None = None, **known: Any) -> str:
    return verdict(total, {"DAPI": total} if channels is None else channels, notices, **known)


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        (said(counted()), f"12 % of the image was changed, by 35 counts on average; {KEPT}; {FINE}."),
        (
            said(counted(), is_file=False),
            "12 % of the image was changed, by 35 counts on average; the other 88 % is the input bit for bit "
            f"(compared pixel by pixel); {FINE}.",
        ),
        (
            said(counted(broken=3), Notice("look", "look", "doubt")),
            "The promise is broken: 3 pixels that attention did not select differ from the input; do not use this "
            "output.",
        ),
        (
            said(counted(0), Notice("attention selected nothing", "if there are cells, lower threshold=", "doubt")),
            "Nothing was changed; all of it is the input bit for bit (read back from the file); but if there are "
            "cells, lower threshold=.",
        ),
        (
            said(counted(1000)),
            "100 % of the image was changed, by 35 counts on average; there is no other pixel (read back from the "
            f"file); {FINE}.",
        ),
        (
            said(counted(changed=0)),
            "Attention selected 12 % of the image, but no stored value changed; all of it is the input bit for bit "
            f"(read back from the file); {FINE}.",
        ),
        (said(counted(140, changed=120)), f"12 % of the image was changed, by 35 counts on average; {KEPT}; {FINE}."),
        (
            said(Counts(), channels={}),
            "An earlier run made this result; without its attention, what it changed could not be checked again.",
        ),
        (
            said(counted(), is_kept=True),
            f"12 % of the image was changed by the model that learned from it, by 35 counts on average; {KEPT}; "
            f"{FINE}.",
        ),
        (
            said(counted(), is_kept=False),
            f"12 % of the image was changed, by 35 counts on average; {KEPT}; what the model learned from this "
            f"stack was no better and is not used; {FINE}.",
        ),
        (
            said(counted(), is_known=False),
            f"12 % of the image was changed, by 35 counts on average; {KEPT}; {FINE}, but what the model was "
            "trained on is not known.",
        ),
        (
            said(counted(), is_compared=False),
            f"12 % of the image was changed, by 35 counts on average; {KEPT}; {FINE}, but it could not be compared "
            "with what the model was trained on.",
        ),
        (
            said(counted(), is_incomplete=True),
            "12 % of the image (its complete time points) was changed, by 35 counts on average; "
            f"{KEPT}; {FINE}.",
        ),
        (
            said(counted(), are_others=True),
            "12 % of DAPI was changed, by 35 counts on average; every other pixel is the input bit for bit (read "
            f"back from the file); {FINE}.",
        ),
        (
            said(counted(150, pixels=2000), channels={"DAPI": counted(), "FITC": counted(30)}),
            "12 % of DAPI and 3 % of FITC were changed, by 35 counts on average; every other pixel is the input "
            f"bit for bit (read back from the file); {FINE}.",
        ),
        (
            said(counted(480, pixels=4000), channels={name: counted() for name in "abcd"}),
            "12 % of 4 channels was changed, by 35 counts on average; every other pixel is the input bit for bit "
            f"(read back from the file); {FINE}.",
        ),
        (
            said(counted(1, pixels=10**7)),
            "Less than 0.1 % of the image was changed, by 35 counts on average; every other pixel is the "
            f"input bit for bit (read back from the file); {FINE}.",
        ),
    ],
)  # fmt: skip
def test_every_state_has_its_sentence(sentence: str, expected: str) -> None:
    assert sentence == expected


def test_the_most_weighty_warning_is_in_it_and_the_others_are_counted() -> None:
    note, doubt, fault = Notice("a note"), Notice("a doubt. Look.", "look", "doubt"), Notice("seams.", "", "fault")
    assert said(counted(), note).endswith("; no check raised a doubt, but read the remark.")
    assert said(counted(), note, note).endswith("; no check raised a doubt, but read the 2 remarks.")
    assert said(counted(), note, doubt).endswith("; but look (1 further remark).")
    assert said(counted(), note, doubt, fault).endswith("; but seams (2 further remarks).")
    assert said(counted(), doubt, is_known=False).endswith("; but look.")
