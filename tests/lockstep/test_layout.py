"""The folders of lockstep are its architecture: each imports only what stands above it in one list.

Every import counts, deferred ones and those under TYPE_CHECKING too.
"""

import ast
from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = "indexfuzz.lockstep"
ROOT = Path(__file__).parents[2] / "fuzz" / "lockstep"

ORDER = (
    "arithmetic",
    "triton_api",
    "values",
    "tracking",
    "checkers",
    "operations",
    "language",
    "arguments",
    "launch",
    "source",
    "executor",
    "programs",
    "__init__",
    "__main__",
)
"""Folders and the few loose modules, from the ground up."""


def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def name_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join((PACKAGE, *(part for part in parts if part != "__init__")))


MODULES = {name_of(file): parse(file) for file in ROOT.rglob("*.py")}


def imports(tree: ast.Module, known: Iterable[str]) -> set[str]:
    """The modules of lockstep that a module imports anywhere in its text."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            assert node.module is not None
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= whole & set(known) or {node.module}
    return {name for name in found if name == PACKAGE or name.startswith(f"{PACKAGE}.")}


def place(module: str) -> int:
    """Where a module stands in ORDER."""
    return ORDER.index(module.removeprefix(PACKAGE).removeprefix(".").partition(".")[0] or "__init__")


def climbs(graph: dict[str, set[str]]) -> list[str]:
    """Imports of something that stands higher."""
    return [f"{a} -> {b}" for a, wanted in sorted(graph.items()) for b in sorted(wanted) if place(b) > place(a)]


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a ring; empty where there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


GRAPH = {module: imports(tree, MODULES) for module, tree in MODULES.items()}


def test_nothing_stands_outside_the_list():
    assert {file.relative_to(ROOT).parts[0].removesuffix(".py") for file in ROOT.rglob("*.py")} == set(ORDER)


def test_imports_go_down_only():
    assert climbs(GRAPH) == []


def test_there_is_no_circle():
    assert circle(GRAPH) == []


def test_only_one_folder_knows_triton():
    for module, tree in MODULES.items():
        roots = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        roots |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert module.startswith(f"{PACKAGE}.triton_api") or not any(r.partition(".")[0] == "triton" for r in roots)


@pytest.mark.parametrize(
    "text",
    [
        "from indexfuzz.lockstep.checkers.races import check_races",
        "from indexfuzz.lockstep.checkers import races",
        "import indexfuzz.lockstep.checkers.races",
        "def f():\n    from indexfuzz.lockstep.checkers import races",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from indexfuzz.lockstep.checkers import races",
    ],
)
def test_an_import_upwards_is_noticed(text):
    changed = GRAPH | {f"{PACKAGE}.values.value": imports(ast.parse(text), MODULES)}
    assert climbs(changed) == [f"{PACKAGE}.values.value -> {PACKAGE}.checkers.races"]


def test_a_circle_within_a_folder_is_noticed():
    a, b = f"{PACKAGE}.values.arrays", f"{PACKAGE}.values.memory"
    assert b not in GRAPH[a]
    assert set(circle(GRAPH | {a: GRAPH[a] | {b}})) >= {a, b}
