"""The page that says where things are agrees with the package that exists."""

import ast
import re
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[1]
PACKAGE = TOP / "cellxlate"
PAGE = (TOP / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")
WALKS = "\n".join(re.findall(r"^    .*$", PAGE, re.M))
MODULES = sorted(PACKAGE.rglob("*.py"))
ROOMS = sorted(path.parent for path in MODULES if path.name == "__init__.py" and path.parent != PACKAGE)


def table(heading: str) -> list[list[str]]:
    """Return the cells of the table below a heading, without its head."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def names_in(module: Path) -> set[str]:
    """Return what a module defines at its top."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    targets += [node.target for node in tree.body if isinstance(node, ast.AnnAssign)]
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    return defined | {target.id for target in targets if isinstance(target, ast.Name)}


def body_lines(function: ast.FunctionDef) -> int:
    """Return the lines of a function below its docstring."""
    last = function.end_lineno or function.lineno
    first = function.body[1] if ast.get_docstring(function) and len(function.body) > 1 else function.body[0]
    return last - first.lineno + 1


def test_the_page_lists_the_rooms_that_exist() -> None:
    said = {row[0].strip("`"): row[1] for row in table("The rooms")}
    there = {
        room.relative_to(PACKAGE).as_posix(): ast.get_docstring(ast.parse((room / "__init__.py").read_text())) or ""
        for room in ROOMS
    }
    assert said == {name: text.splitlines()[0] for name, text in there.items()}


@pytest.mark.parametrize("row", table("The words") + table("Ten questions"), ids=lambda row: row[0])
def test_what_the_page_names_stands_where_it_says(row: list[str]) -> None:
    module, name = re.fullmatch(r"`(.+\.py)` `(\w+)`", row[-1]).groups()  # type: ignore[union-attr]
    assert name in names_in(PACKAGE / module)


def test_there_are_ten_questions() -> None:
    assert len(table("Ten questions")) == 10


@pytest.mark.parametrize("step", re.findall(r"(?<=\s)(?:\w+/)+(?:\w+\.py)?|(?<=\s)\w+\.py", WALKS))
def test_the_walks_pass_through_what_exists(step: str) -> None:
    assert (PACKAGE / step).exists()


@pytest.mark.parametrize("room", [PACKAGE, *ROOMS], ids=lambda room: room.relative_to(TOP).as_posix())
def test_a_room_holds_at_most_twelve_modules(room: Path) -> None:
    assert len([path for path in room.glob("*.py") if path.name != "__init__.py"]) <= 12


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.relative_to(PACKAGE).as_posix())
def test_no_module_and_no_function_is_long(module: Path) -> None:
    text = module.read_text(encoding="utf-8")
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    assert len(text.splitlines()) <= 400
    assert [function.name for function in functions if body_lines(function) > 50] == []


def test_no_two_classes_share_a_name() -> None:
    """One word for one thing: a name is found once, private or not."""
    homes: dict[str, list[str]] = {}
    for module in MODULES:
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name.lstrip("_"), []).append(module.relative_to(PACKAGE).as_posix())
    assert {name: modules for name, modules in homes.items() if len(modules) > 1} == {}


@pytest.mark.parametrize("record", sorted((TOP / "docs" / "decisions").glob("*.md")), ids=lambda path: path.stem)
def test_a_decision_record_has_at_most_thirty_lines(record: Path) -> None:
    assert len(record.read_text(encoding="utf-8").splitlines()) <= 30
