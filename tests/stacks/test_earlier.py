"""Intensities of an earlier run are found in its report and in its output, to the last bit."""

import json
from pathlib import Path

import numpy as np
import pytest

from cellxlate.errors import InputError
from cellxlate.stacks.intensity.range import IntensityRange
from cellxlate.stacks.intensity.saved import saved_ranges
from cellxlate.stacks.stack import Stack
from cellxlate.stacks.write.writer import open_writer

LEVELS = {0: IntensityRange(100.1, 1 / 3 + 500, 2.5), 2: IntensityRange(-5.0, 1e-9, 0.0)}
FACTS = {
    "levels_counts": {
        str(channel): {"black": one.black, "white": one.white, "noise": one.noise} for channel, one in LEVELS.items()
    }
}


def test_levels_come_back_from_a_report(tmp_path: Path) -> None:
    path = tmp_path / "a_report.json"
    path.write_text(json.dumps({"provenance": FACTS}))
    assert saved_ranges(path) == LEVELS


@pytest.mark.parametrize("ending", [".ome.tif", ".ome.zarr"])
def test_levels_come_back_from_an_output(tmp_path: Path, ending: str) -> None:
    source = Stack.from_array(np.zeros((20, 30), np.uint16))
    with open_writer(tmp_path / f"a{ending}", like=source, provenance=FACTS) as writer:
        writer.write((), 0, source.read(()))
        writer.finish()
        path = writer.publish()
    assert saved_ranges(path) == LEVELS


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"provenance": 7}', '{"provenance": {"levels_counts": {}}}',
     '{"provenance": {"levels_counts": {"0": {"black": 5, "white": 5, "noise": 0}}}}',
     '{"provenance": {"levels_counts": {"0": {"black": NaN, "white": 5, "noise": 0}}}}'],
)  # fmt: skip
def test_a_file_without_levels_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(InputError, match="states no levels"):
        saved_ranges(path)
