"""Some random files: pixels as stated or one line, soon, in bounded memory. More of them: tests/bench/fuzz.py."""

import importlib.util
import sys
from pathlib import Path

BENCH = Path(__file__).resolve().parents[1] / "bench" / "fuzz.py"


def test_random_headers_and_metadata_give_pixels_or_one_line() -> None:
    spec = importlib.util.spec_from_file_location("cellxlate_fuzz", BENCH)
    assert spec is not None
    assert spec.loader is not None
    fuzz = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = fuzz  # dataclasses look their module up
    spec.loader.exec_module(fuzz)
    found = fuzz.run(200, first_seed=7, traced=False)
    assert found["cases"] == 200
    outcomes = found["outcomes"]  # what is drawn depends on the constants of our code, so no kind is promised its share
    assert {name.split()[0] for name in outcomes} == {"tags", "broken", "description", "zarr"}
    for end in ("read", "refused"):
        assert sum(count for name, count in outcomes.items() if name.endswith(end)) >= 10
