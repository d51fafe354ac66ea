"""What is released: archives hold what they should and nothing else, are small, and the same when built again."""

import hashlib
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import cellxlate

TOP = Path(__file__).resolve().parents[1]
MOST_WHEEL_BYTES = 14_000_000
IN_PACKAGE = re.compile(
    r"cellxlate/([a-z_]+/){0,3}[a-z_0-9]+(\.py|\.(html|svg|sh)\.jinja)|cellxlate/py\.typed|cellxlate/napari\.yaml"
    r"|cellxlate/quality/report/templates/page\.(css|js)"
    r"|cellxlate/models/[a-z0-9-]+/(card\.json|curves\.csv|preview\.png|weights\.safetensors)"
)
IN_SOURCE = re.compile(
    r"(cellxlate|tests|docs|notebooks|integrations)/.+|LICENSE|README\.md|PKG-INFO|\.gitignore"
    r"|(pyproject\.toml|napari\.yaml|hatch_build\.py|constraints\.txt|mkdocs\.yml|CITATION\.cff)"
)
NEVER = re.compile(r"__pycache__|\.pyc$|\.pt$|\.pkl$|\.tiff?$|\.zarr|\.env|~$|\.part|\.DS_Store|_cache")

UNTESTED_EXTRAS = ("docs", "dev", "notebooks")
"""Whose oldest versions .ci/oldest does not try."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The wheel and the source archive, built twice."""
    pytest.importorskip("hatchling", reason="building is for developers")
    found = []
    for number in range(2):
        folder = tmp_path_factory.mktemp(f"dist{number}")
        subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "-d", str(folder)], cwd=TOP, check=True, capture_output=True,
            env={"SOURCE_DATE_EPOCH": "1577836800", "PATH": "", "HOME": str(folder), "PYTHONHASHSEED": str(number)},
        )  # fmt: skip
        found += [next(folder.glob("*.whl")), next(folder.glob("*.tar.gz"))]
    return found


def test_the_wheel_holds_the_package_and_nothing_else(built: list[Path]) -> None:
    with zipfile.ZipFile(built[0]) as wheel:
        names = [name for name in wheel.namelist() if ".dist-info/" not in name]
    odd = [name for name in names if not IN_PACKAGE.fullmatch(name) or NEVER.search(name)]
    assert not odd
    modules = {path.relative_to(TOP).as_posix() for path in (TOP / "cellxlate").rglob("*.py")}
    assert modules <= set(names)
    templates = {path.relative_to(TOP).as_posix() for path in (TOP / "cellxlate").rglob("*.jinja")}
    assert len(templates) > 5
    assert templates <= set(names)
    assert {"cellxlate/napari.yaml", "cellxlate/models/nuclei-lowexp/weights.safetensors"} <= set(names)


def test_the_wheel_with_its_model_is_small(built: list[Path]) -> None:
    assert built[0].stat().st_size < MOST_WHEEL_BYTES


def test_the_source_archive_holds_what_is_in_the_repository(built: list[Path]) -> None:
    with tarfile.open(built[1]) as archive:
        members = archive.getmembers()
    names = [member.name.partition("/")[2] for member in members]
    assert not [name for name in names if not IN_SOURCE.fullmatch(name) or NEVER.search(name)]
    assert all(member.isfile() for member in members)
    assert {"pyproject.toml", "napari.yaml", "hatch_build.py", "LICENSE", "CITATION.cff"} <= set(names)
    weights = [member for member in members if member.name.endswith(".safetensors")]
    assert sum(member.size for member in weights) < 12_000_000
    assert max(member.size for member in members if member not in weights) < 2_000_000


def test_archives_are_the_same_when_built_again(built: list[Path]) -> None:
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in built]
    assert digests[:2] == digests[2:]


def test_the_version_comes_from_one_place(built: list[Path]) -> None:
    assert all(f"cellxlate-{cellxlate.__version__}" in path.name for path in built)
    citation = (TOP / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {cellxlate.__version__}\n" in citation
    assert "\nlicense: BSD-3-Clause\n" in citation
    assert f"## {cellxlate.__version__}" in (TOP / "docs" / "changelog.md").read_text(encoding="utf-8")


def test_the_oldest_versions_are_those_that_are_promised() -> None:
    import tomllib

    project = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name: lines for name, lines in project["optional-dependencies"].items() if name not in UNTESTED_EXTRAS}
    promised = {line for lines in (project["dependencies"], *extras.values()) for line in lines}
    tested = dict(
        line.split("==") for line in (TOP / ".ci" / "oldest.txt").read_text().splitlines() if not line.startswith("#")
    )
    for line in promised:
        name, least = line.partition(",")[0].split(">=")  # below is what is too new
        if name != "torch":  # see .ci/oldest.txt
            assert tested[name].startswith(least), f"{name}: {tested[name]} is tested, {least} is promised"
    assert len(tested) == len(promised)


def test_every_check_of_ci_runs_on_every_system() -> None:
    local, remote = (TOP / ".ci" / "run").read_text(), (TOP / ".github" / "workflows" / "tests.yml").read_text()
    assert '.ci/oldest"\n' in local
    for check in (
        "ruff check .",
        "ruff format --check .",
        "mypy",
        "lint-imports",
        "npe2 validate cellxlate",
        "--nbmake",
    ):
        assert check in local
        assert check in remote
    for system in ("ubuntu-latest", "macos-latest", "windows-latest"):
        assert system in remote
