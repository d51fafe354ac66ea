"""What the documentation says can be done: links lead somewhere, commands exist, examples run."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from cellxlate.cli import main
from cellxlate.cli.parser import build_parser
from cellxlate.stacks.copying import write_stacks
from cellxlate.stacks.synthetic import SampleSettings, simulate

TOP = Path(__file__).resolve().parents[1]
PAGES = [TOP / "README.md", *sorted((TOP / "docs").rglob("*.md"))]
IDS = [str(page.relative_to(TOP)) for page in PAGES]


def blocks(page: Path, language: str) -> list[str]:
    """Return the code blocks of a language, without the indentation of a list."""
    found = re.findall(rf"^([ ]*)```{language}\n(.*?)^[ ]*```", page.read_text(encoding="utf-8"), re.M | re.S)
    return ["\n".join(line.removeprefix(indent) for line in text.splitlines()) for indent, text in found]


def commands(page: Path, language: str = "bash") -> list[list[str]]:
    """Return every command of this program in the blocks of a page, continued lines joined."""
    lines = "\n".join(blocks(page, language)).replace("\\\n", " ").splitlines()
    parts = [part for line in lines for part in re.split(r"&&", line)]
    words = [shlex.split(part, comments=True) for part in parts]
    return [one[1:] for one in words if one and one[0] == "cellxlate"]


def anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", head.strip().lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(linked), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_command_that_is_shown_exists(page: Path) -> None:
    for words in commands(page):
        build_parser().parse_args(words)  # leaves with SystemExit where an option is not known


def test_every_command_has_a_page() -> None:
    table = (TOP / "docs" / "reference" / "command-line.md").read_text(encoding="utf-8")
    (choices,) = (action.choices for action in build_parser()._actions if action.choices and action.dest != "help")
    assert [name for name in choices if f"cellxlate {name}" not in table] == []


def test_both_quick_starts_show_the_same() -> None:
    english, korean = (TOP / "docs" / name for name in ("quick-start.md", "quick-start.ko.md"))
    for language in ("bash", "console"):
        assert blocks(english, language) == blocks(korean, language) != []


def prepare(folder: Path, names: list[str]) -> None:
    """Put simulated stacks where examples expect some."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        sample = simulate(SampleSettings(shape=(1, 1, 1, 160, 200), seed=number))
        write_stacks([(sample.stack, path)])


def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    page = TOP / "docs" / "tutorial" / "first-stack.md"
    for words in commands(page):
        assert main(words) == 0, words
    (checked,) = blocks(page, "python")
    capsys.readouterr()
    exec(compile(checked, str(page), "exec"), {})
    assert capsys.readouterr().out.strip() == "0"


def test_the_readme_and_the_quick_start_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path, ["stack.ome.tif", "plate/a.ome.tif"])
    (tmp_path / "stack.ome.tif").rename(tmp_path / "stack.tif")
    for page in (TOP / "README.md", TOP / "docs" / "quick-start.md"):
        for words in commands(page):
            if words[0] == "enhance" and "my-model" not in words:
                assert main([*words, "--overwrite"]) == 0, words
    for example in blocks(TOP / "README.md", "python"):
        names: dict[str, Any] = {}
        exec(compile(example, "README.md", "exec"), names)
        names["stack"].close()
    assert (tmp_path / "stack_enhanced.ome.tif").is_file()
    assert (tmp_path / "out.ome.zarr").is_dir()
    assert main(["report", "stack_enhanced.ome.tif", "--quiet"]) == 0
