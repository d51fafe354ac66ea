"""What is said of several channels, planes or stacks alike is said once."""

from pathlib import Path
from typing import Any

from cellxlate.quality.report.doubts import notices_of
from cellxlate.quality.report.notices import Notice, listed, over_stacks, told_apart
from cellxlate.quality.report.remarks import intensity_notices
from cellxlate.quality.tally import Counts, Tally
from cellxlate.quality.trust.examine import Trust
from cellxlate.quality.trust.likeness import Departure
from cellxlate.quality.trust.support import Support
from cellxlate.stacks.intensity.constant_parts import ConstantPart
from cellxlate.stacks.intensity.range import IntensityRange

NAMES = {0: "DAPI", 1: "FITC", 2: "Cy5"}


def far(distance: float, contrast: float = 2.0) -> Departure:
    return Departure(distance, {"contrast": distance}, {"contrast": contrast}, {"contrast": 3.0}, windows=8)


def texts(trusts: dict[int, Trust], *, orders: dict[int, float] | None = None, **given: Any) -> list[str]:
    counts = Counts(pixels=1000, selected=300, changed=300, change_sum_counts=300.0)
    tally = Tally(total=counts, channels=dict.fromkeys(trusts, counts), trust=trusts, orders=orders or {})
    return [notice.text for notice in notices_of(tally, channel_names=NAMES, **given)]


def test_three_channels_that_the_model_does_not_know_are_one_warning() -> None:
    (alike,) = texts({channel: Trust(far(2.0 + channel)) for channel in NAMES})
    assert alike.startswith(
        "DAPI, FITC and Cy5 do not look like the images the model was trained on: cells stand out from the noise 2.7 "
        "times less (distance 2.0 to 4.0, limit 1); "
    )
    assert alike.count("Do not trust the output") == 1
    (different,) = texts({0: Trust(far(2.0)), 2: Trust(far(3.0, contrast=5.0))})
    assert "DAPI: cells stand out from the noise 2.7 times less (distance 2.0, limit 1); Cy5: cells" in different
    (alone,) = texts({0: Trust(far(0.5)), 1: Trust(far(1.5))})
    assert alone.startswith("FITC does not look like")


def test_each_doubt_of_several_channels_is_one_warning() -> None:
    found = texts(
        {0: Trust(support=Support(added=5, lost=1)), 2: Trust(support=Support(added=3))},
        orders={0: 0.5, 1: 0.9, 2: 0.6},
    )
    assert [line.partition(". ")[0] for line in found] == [
        "5 regions of the output in DAPI and 3 in Cy5 have no support in the input: they may be invented",
        "1 region that stands out in DAPI of the input is gone from the output",
        "brightness order inside cells is not kept in DAPI and Cy5 (rank correlation 0.50 to 0.60, expected at least "
        "0.7)",
    ]
    odd, poor = Support(judged=1, agreement=0.6), Support(judged=1, agreement=0.9, salient=100, salient_selected=40)
    found = texts({0: Trust(support=odd), 1: Trust(support=odd), 2: Trust(support=poor)})
    assert len(found) == 2
    assert "stands out in DAPI and FITC: a selected pixel has more contrast than a kept one in 60% of cases" in found[0]
    assert found[1].startswith("attention left out 60% of the pixels that stand out clearly in Cy5. Lower")


def test_a_gate_from_elsewhere_is_not_blamed_for_what_stands_out_in_a_channel() -> None:
    """Mitochondria are not where nuclei are, a mask is what somebody drew; no threshold and no model mends either."""
    odd = {channel: Trust(support=Support(judged=1, agreement=0.6, added=1)) for channel in NAMES}
    assert any("stands out in DAPI, FITC and Cy5: a selected" in line for line in texts(odd))
    [added, own] = texts(odd, source={"kind": "channel", "channel": 1})
    assert "at odds with what stands out in FITC: a selected" in own
    assert "or raise" in added
    for kind in ("file", "saliency"):
        [added] = texts(odd, source={"kind": kind})
        assert added.endswith("Look at both side by side there before counting or measuring anything.")


def test_what_levels_were_kept_from_is_said_once_for_all_channels() -> None:
    padded = IntensityRange(100, 200, constant_parts=(ConstantPart(0.0, 0.12), ConstantPart(None, 0.05)))
    lit = IntensityRange(0, 100, uneven=(10.0, 60.0))
    found = [notice.text for notice in intensity_notices({0: padded, 2: padded, 1: lit}, {})]
    assert found[0].startswith("12.0% of channels 0 and 2 is one constant value (0)")
    assert found[1].startswith("5.0% of channels 0 and 2 is no number")
    assert found[2].startswith("the background of channel 1 is uneven over the field, from 10 to 60 counts (50%")
    assert len(found) == 3
    drifting = [IntensityRange(100, 200, drift=((0, 0.0), (9, end))) for end in (40.0, 60.0)]
    (line,) = intensity_notices(dict(enumerate(drifting)), NAMES)
    assert "DAPI and FITC drifts over time, DAPI: from 100 to 140 counts" in line.text


def test_the_same_warning_of_many_stacks_is_one_line() -> None:
    same, numbered = Notice("look", kind="a"), [Notice(f"{count} regions", kind="b") for count in range(7)]
    stacks = [(f"{number}.tif", [same, numbered[number]] if number < 6 else [numbered[6]]) for number in range(7)]
    assert over_stacks([*stacks, ("x.tif", [])]) == [
        "7 stacks (0.tif, 1.tif, 2.tif, 3.tif, ...), of the first: 0 regions",
        "6 stacks (0.tif, 1.tif, 2.tif, 3.tif, ...): look",
    ]
    assert over_stacks([]) == []


def test_nothing_is_lost_of_stacks_of_one_name_and_of_several_remarks_of_a_kind() -> None:
    two = [Notice("plane 1 is dark"), Notice("plane 2 is dark")]
    assert over_stacks([("a.tif", two)]) == ["a.tif: plane 1 is dark; plane 2 is dark"]
    same = Notice("look")
    paths = [Path("w1/a.tif"), Path("w2/a.tif"), Path("w2/b.tif")]
    names = told_apart([path.name for path in paths], paths)
    assert over_stacks((name, [same]) for name in names) == ["3 stacks (w1/a.tif, w2/a.tif, b.tif): look"]
    assert over_stacks([("a.tif", [same]), ("a.tif", [same])]) == ["2 stacks (a.tif, a.tif): look"]


def test_names_that_look_like_numbers_stay_apart() -> None:
    assert listed(["channel 0", "channel red"]) == "channel 0 and channel red"
    assert listed(["channel 3"]) == "channel 3"
    assert listed(["0", "1"]) == "0 and 1"
