"""The benchmark of a graphics card writes its JSON whole, whatever becomes of its parts."""

import importlib
import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parent / "bench"
SCRIPTS = {
    "machine": "write({'results': {'card': 'none'}})",
    "tests": "write({'results': {'passed': 2}, 'wrong': ['one pixel differs']})",
    "speed": "write({'results': {'rows': [1]}}); os.kill(os.getpid(), 11)",
    "pixels": "write({'results': {}, 'error': 'ValueError: no'}); print('Traceback'); sys.exit(1)",
    "memory": "write({'results': {}, 'missing': 'google_crc32c'}); sys.exit(1)",
    "resume": "write({'results': {'rows': [1]}}); time.sleep(60)",
    "cells": "print('the library is broken'); sys.exit(3)",
}


@pytest.fixture(scope="module")
def gpu() -> Any:
    sys.path.insert(0, str(BENCH))
    yield importlib.import_module("gpu")
    sys.path.remove(str(BENCH))
    for name in ("gpu", "gpu_parts"):
        sys.modules.pop(name, None)


def run_all(gpu: Any, path: Path, scripts: dict[str, str], limit_s: float = 30.0) -> dict[str, Any]:
    def command_of(name: str, outcome: Path, limit_s: float) -> list[str]:
        start = (
            f"import json, os, sys, time\nwrite = lambda facts: open({str(outcome)!r}, 'w').write(json.dumps(facts))\n"
        )
        return [sys.executable, "-S", "-c", start + scripts[name]]

    results = {"limit_s": limit_s, "parts": {}}
    parts = [gpu.Part(name, 0.4 if name == "resume" else 10, 1) for name in scripts]
    gpu.LEAST_S, before = 0.1, gpu.LEAST_S
    try:
        gpu.run_all(parts, results, path, training_s=1, command_of=command_of)
    finally:
        gpu.LEAST_S = before
    return results


def test_every_part_is_accounted_for_whatever_becomes_of_it(gpu: Any, tmp_path: Path) -> None:
    results = run_all(gpu, tmp_path / "gpu.json", SCRIPTS)
    assert json.loads((tmp_path / "gpu.json").read_text()) == results
    assert [path.name for path in tmp_path.iterdir()] == ["gpu.json"]
    parts = results["parts"]
    assert {name: part["status"] for name, part in parts.items()} == {
        "machine": "done", "tests": "wrong", "speed": "failed", "pixels": "failed", "memory": "not run",
        "resume": "cut", "cells": "failed",
    }  # fmt: skip
    assert parts["tests"]["note"] == "one pixel differs"
    assert parts["speed"]["note"].startswith("signal 11")
    assert parts["speed"]["results"] == {"rows": [1]}  # what was found before is kept
    assert parts["pixels"]["note"] == "ValueError: no"
    assert parts["pixels"]["said"] == ["Traceback"]
    assert parts["memory"]["note"] == "needs the Python package google-crc32c"
    assert parts["resume"]["note"] == "it was ended after 0 s; what it had found is kept"
    assert parts["resume"]["results"] == {"rows": [1]}
    assert parts["cells"]["note"] == "exit code 3: the library is broken"
    assert not results["complete"]
    assert "tests: WRONG: one pixel differs" in gpu.summary(results)


def test_without_the_device_nothing_else_is_tried(gpu: Any, tmp_path: Path) -> None:
    scripts = {"machine": "write({'error': 'there is no CUDA device'}); sys.exit(1)", "speed": "sys.exit(0)"}
    results = run_all(gpu, tmp_path / "gpu.json", scripts)
    assert results["parts"]["speed"]["status"] == "not run"
    assert results["parts"]["speed"]["note"] == "there is no CUDA device"


def test_an_interruption_leaves_a_whole_file(gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(*_arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu, "run_part", pressed)
    with pytest.raises(KeyboardInterrupt):
        run_all(gpu, tmp_path / "gpu.json", {"machine": "", "speed": ""})
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert [part["note"] for part in found["parts"].values()] == ["interrupted", "interrupted"]


@pytest.mark.parametrize(("limit_s", "training_s"), [(480, 120), (114, 5)])
def test_parts_that_take_all_their_time_end_in_time(gpu: Any, limit_s: float, training_s: float) -> None:
    left_s, taken = limit_s, []
    for number in range(len(gpu.PARTS)):
        taken.append(gpu.limit_of(gpu.PARTS[number:], left_s, training_s))
        left_s -= taken[-1]
    assert left_s >= -1e-9
    assert min(taken) >= 4
    assert min(taken[-2:]) >= training_s


def test_what_is_needed_is_what_the_project_depends_on(gpu: Any) -> None:
    project = tomllib.loads((BENCH.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(gpu.NEEDED.values()) == {re.match(r"[\w-]+", line)[0] for line in project["dependencies"]}  # type: ignore[index]


def test_a_cut_short_record_is_whole_json(gpu: Any, tmp_path: Path) -> None:
    parts = importlib.import_module("gpu_parts")
    assert set(parts.PARTS) == {part.name for part in gpu.PARTS}
    record = parts.Record(tmp_path / "one.json", "cpu", 256, 5.0, parts.time.monotonic() - parts.STARTED + 100)
    record.row("rows", rate=float("nan"), speed=1 / 3, model="cells", is_it=True)
    assert not record.has_time("the rest", 1000)
    record.write()
    found = json.loads((tmp_path / "one.json").read_text())
    assert found["results"] == {"rows": [{"rate": None, "speed": 0.33333, "model": "cells", "is_it": True}]}
    assert found["cut"] == "no time was left from the rest on"


def test_differences_are_counted_where_they_are(gpu: Any) -> None:
    np, parts = pytest.importorskip("numpy"), importlib.import_module("gpu_parts")
    plane = np.full((4, 4), 100, np.uint16)
    attention = np.zeros((4, 4), np.uint8)
    attention[0] = 9
    image, other, other_attention = plane.copy(), plane.copy(), attention.copy()
    image[0], other[0] = 105, (105, 103, 105, 105)
    other_attention[1, 1] = 1
    other[3, 3] = 99  # kept, and yet another
    assert parts.compared(plane, (image, attention), (other, other_attention)) == {
        "selected": 5, "differ": 2, "at_most_counts": 2, "attention_differs": 1, "kept_violations": 1,
        "kept_on_both_differ": 1,
    }  # fmt: skip


def test_the_marked_tests_are_found(gpu: Any) -> None:
    names = {path.name for path in importlib.import_module("gpu_parts").marked_files()}
    assert {"test_engines.py", "test_acceleration.py", "test_loop.py"} <= names
