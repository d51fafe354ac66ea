"""What docstrings name exists: attributes, parameters, and the modules that are pointed to."""

import ast
import re
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path
from typing import Any

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "cellxlate"
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {file: ast.parse(file.read_text(encoding="utf-8")) for file in FILES}
DEFINITIONS = (ast.FunctionDef, ast.ClassDef)


def documented(node: Any, section: str) -> list[str]:
    """Return the names that a section of a docstring describes, in their order."""
    text = cleandoc(ast.get_docstring(node) or "")
    body = re.search(rf"^{section}\n-+\n(.*?)(?=\n\n|\Z)", text, re.M | re.S)
    heads = re.findall(r"^(\S.*?)(?: : .*)?$", body[1], re.M) if body else []
    return [name.strip().lstrip("*") for head in heads for name in head.split(",")]


def parameters(function: ast.FunctionDef) -> set[str]:
    given = function.args
    rest = [one for one in (given.vararg, given.kwarg) if one]
    return {one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs, *rest)}


def fields(node: ast.ClassDef) -> set[str]:
    """Return the fields of a dataclass or a NamedTuple."""
    return {one.target.id for one in node.body if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)}


def members(node: ast.ClassDef) -> set[str]:
    """Return what an instance has beside its fields: properties, and what its methods assign."""
    methods = [one for one in node.body if isinstance(one, ast.FunctionDef)]
    assigned = {
        inner.attr
        for method in methods
        for inner in ast.walk(method)
        if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store)
    }
    plain = {name.id for one in node.body if isinstance(one, ast.Assign) for name in one.targets}  # type: ignore[attr-defined]
    return {method.name for method in methods if method.decorator_list} | assigned | plain


def holds_values(node: ast.ClassDef) -> bool:
    marks = [ast.unparse(one) for one in (*node.decorator_list, *node.bases)]
    return any(re.search(r"\b(dataclass|NamedTuple)\b", mark) for mark in marks)


def nodes(*kinds: type[Any]) -> Iterator[Any]:
    for file, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, kinds):
                yield pytest.param(node, id=f"{file.relative_to(PACKAGE).with_suffix('')}/{node.name}")


WITH_ATTRIBUTES = [one for one in nodes(ast.ClassDef) if documented(one.values[0], "Attributes")]
WITH_PARAMETERS = [one for one in nodes(*DEFINITIONS) if documented(one.values[0], "Parameters")]


def test_sections_are_read() -> None:
    function = ast.parse(
        '''def f(a, *b, c):
    """Say it.

    Parameters
    ----------
    a, c : int
        Numbers: of
        what.
    *b
        Rest.

    Returns
    -------
    x
    """'''
    ).body[0]
    assert documented(function, "Parameters") == ["a", "c", "b"]
    assert documented(function, "Attributes") == []
    assert len(WITH_ATTRIBUTES) > 60
    assert len(WITH_PARAMETERS) > 100


@pytest.mark.parametrize("node", WITH_ATTRIBUTES)
def test_documented_attributes_are_those_there_are(node: ast.ClassDef) -> None:
    names = documented(node, "Attributes")
    assert len(names) == len(set(names))
    assert set(names) <= fields(node) | members(node)
    if holds_values(node):
        known = {*names, *documented(node, "Parameters")}
        assert {name for name in fields(node) if not name.startswith("_")} <= known


@pytest.mark.parametrize("node", WITH_PARAMETERS)
def test_documented_parameters_are_those_there_are(node: Any) -> None:
    if isinstance(node, ast.ClassDef):
        made = [one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"]
        there = parameters(made[0]) if made else fields(node)
    else:
        there = parameters(node)
    assert set(documented(node, "Parameters")) <= there


def defined(file: Path) -> set[str]:
    """Return the names at the top of a module."""
    names = {one.name for one in TREES[file].body if isinstance(one, DEFINITIONS)}
    for one in TREES[file].body:
        for target in [*getattr(one, "targets", []), getattr(one, "target", None)]:
            names |= {inner.id for inner in ast.walk(target) if isinstance(inner, ast.Name)} if target else set()
    return names


def leads_somewhere(dotted: str) -> bool:
    *parts, last = dotted.split(".")
    for length in range(len(parts), 0, -1):
        place = PACKAGE.joinpath(*parts[:length])
        if place.with_suffix(".py").is_file():
            return length < len(parts) or last in defined(place.with_suffix(".py"))
    return PACKAGE.joinpath(*parts, last).with_suffix(".py").is_file() or PACKAGE.joinpath(*parts, last).is_dir()


ROOMS = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_modules_that_are_pointed_to_exist(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    pointed = {name.removeprefix("cellxlate.") for name in re.findall(r"`((?:\w+\.)+\w+)(?:\(\))?`", text)}
    inside = {name for name in pointed if name.split(".")[0] in ROOMS and not name.endswith((".json", ".csv", ".png"))}
    assert {name for name in inside if not leads_somewhere(name)} == set()
    assert {name for name in re.findall(r"\bdocs/[\w/.-]+\w", text) if not (PACKAGE.parent / name).exists()} == set()
    assert {name for name in re.findall(r"\btests/[\w/.-]+\w", text) if not (PACKAGE.parent / name).exists()} == set()
