"""The folders are the architecture: who may import whom, read from the source of every module."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"kernels": "indexfuzz.kernels", "reference": "indexfuzz.reference", "fuzz": "indexfuzz"}

FOLDERS = (
    "kernels",
    "reference",
    "lockstep",
    "core",
    "checks",
    "devices",
    "corpus",
    "samples",
    "implementations",
    "stages",
    "generation",
    "oracles",
    "compiling",
    "subjects",
    "triage",
    "campaign",
    "fleet",
    "report",
    "testing",
    "evaluation",
    "cli",
)
"""From the ground up: a folder imports only from folders before it in this list, and from itself."""

APART = {"kernels": set(), "reference": set(), "lockstep": set(), "checks": {"core"}}
"""Folders that import from the folders named here alone: each has its own arithmetic, so that they check each other."""

LOOSE = {"__init__", "__main__"}
"""The only modules of the fuzzer that lie in no folder."""

RESERVED = {
    "hypothesis": ("generation.sessions", "generation.strategies", "generation.stream", "testing", "campaign"),
    "fsspec": ("fleet",),
    "ray": ("fleet.cluster",),
    "PIL": ("report.pictures.png",),
    "typer": ("cli",),
    "rich": ("cli",),
}
"""Third-party packages that only these may import: the child of an isolated subject runs where they are missing."""


def modules() -> dict[str, Path]:
    found = {}
    for folder, package in PACKAGES.items():
        for file in (ROOT / folder).rglob("*.py"):
            parts = file.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join((package, *(part for part in parts if part != "__init__")))] = file
    return found


MODULES = modules()


FACES = {"indexfuzz", "indexfuzz.__main__"}


def imports(text: str) -> set[str]:
    """Every module that a source text imports, deferred and TYPE_CHECKING imports included."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports would give a second set of classes under pytest"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in names}
    return {name for name in found if name.split(".")[0] not in sys.stdlib_module_names}


GRAPH = {module: imports(file.read_text()) for module, file in MODULES.items() if module not in FACES}
"""Who imports what; the faces of the package offer what lies in the folders, so they stand above them all."""


def folder_of(module: str) -> str:
    return module.removeprefix("indexfuzz").lstrip(".").partition(".")[0]


def upward(graph: dict[str, set[str]]) -> list[str]:
    """Imports against the order of the folders."""
    found = []
    for module, imported in graph.items():
        here = folder_of(module)
        for other in sorted(name for name in imported if name.startswith("indexfuzz.")):
            there = folder_of(other)
            allowed = APART.get(here, set(FOLDERS[: FOLDERS.index(here)])) | {here}
            if there not in allowed:
                found.append(f"{module} -> {other}")
    return found


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Sets of modules that import each other, however indirectly (Tarjan's strongly connected components)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(module: str) -> None:
        order[module] = low[module] = len(order)
        stack.append(module)
        for other in graph[module] & graph.keys():
            if other not in order:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], order[other])
        if low[module] == order[module]:
            part = [stack.pop()]
            while part[-1] != module:
                part.append(stack.pop())
            if len(part) > 1:
                found.append(sorted(part))

    for module in graph:
        if module not in order:
            visit(module)
    return found


def test_folders_import_downwards_only():
    assert not upward(GRAPH)


def test_no_modules_import_each_other():
    assert not circles(GRAPH)


def test_no_module_lies_loose():
    assert {file.stem for file in (ROOT / "fuzz").glob("*.py")} == LOOSE
    assert {file.name for file in (ROOT / "fuzz").iterdir() if (file / "__init__.py").is_file()} == (
        set(FOLDERS) - {"kernels", "reference"}
    )


@pytest.mark.parametrize("package", RESERVED)
def test_reserved_packages_keep_to_their_place(package):
    owners = tuple(f"indexfuzz.{owner}" for owner in RESERVED[package])
    users = {name for name, imported in GRAPH.items() if any(i.split(".")[0] == package for i in imported)}
    assert not {name for name in users if not name.startswith(owners)}


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_folder_says_what_it_is_for(folder):
    text = MODULES[f"indexfuzz.{folder}"].read_text()
    assert (ast.get_docstring(ast.parse(text)) or "").splitlines()[0].endswith((".", ":"))


def test_an_upward_import_is_noticed():
    graph = {"indexfuzz.core.case": {"indexfuzz.stages.base"}, "indexfuzz.lockstep.run": {"indexfuzz.core.case"}}
    assert upward(graph) == [
        "indexfuzz.core.case -> indexfuzz.stages.base",
        "indexfuzz.lockstep.run -> indexfuzz.core.case",
    ]
    assert not upward({"indexfuzz.stages.base": {"indexfuzz.core.case", "torch"}})


def test_a_circle_is_noticed():
    graph = {"a": {"b"}, "b": {"c", "x"}, "c": {"a"}, "d": {"a"}, "e": {"e"}}
    assert circles(graph) == [["a", "b", "c"]]


def test_deferred_and_typing_imports_count():
    text = "def f():\n    from indexfuzz.core import case\nif TYPE_CHECKING:\n    import triton.language as tl\n"
    assert imports(text) == {"indexfuzz.core.case", "triton.language"}
    with pytest.raises(AssertionError, match="relative imports"):
        imports("from . import case")


def test_top_level_kernels_is_not_ours(tmp_path):
    """`kernels` is a package of its own on PyPI; ours must be installable beside it."""
    look = "import importlib.util as u; print([u.find_spec(n) for n in ('kernels', 'reference', 'fuzz')])"
    found = subprocess.run([sys.executable, "-c", look], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert str(ROOT) not in found.stdout


def test_every_package_is_in_the_wheel():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted(name for name, file in MODULES.items() if file.name == "__init__.py")
