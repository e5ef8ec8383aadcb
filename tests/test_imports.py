"""Who may import whom, read from the source of every module."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"kernels": "indexfuzz.kernels", "reference": "indexfuzz.reference", "fuzz": "indexfuzz"}

RULES = {
    "indexfuzz.kernels": {"torch", "triton", "indexfuzz.kernels"},
    "indexfuzz.reference": {"torch", "indexfuzz.reference"},
    "indexfuzz.core.case": {"pydantic"},
    "indexfuzz.core.rng": {"torch", "numpy"},
    "indexfuzz.core.finding": set(),
    "indexfuzz.testing.options": set(),
    "indexfuzz.checks": {"torch", "indexfuzz.checks"},
    "indexfuzz.lockstep": {"torch", "triton", "numpy", "indexfuzz.lockstep"},
    "indexfuzz.corpus": {"pydantic", "indexfuzz.core.case", "indexfuzz.core.finding"},
    "indexfuzz.generation.strategies": {"hypothesis", "indexfuzz.core.case", "indexfuzz.core.presets", "indexfuzz.samples.values"},
}
"""Module or package -> all that it may import besides the standard library."""


def ours(*names: str) -> tuple[str, ...]:
    return tuple(f"indexfuzz.{name}" for name in names)


RESERVED = {
    "hypothesis": ours("strategies", "profiles", "target", "campaign", "bench", "test_"),
    "indexfuzz.subjects.isolation": ours("isolation", "under_test", "bench"),
    "indexfuzz.kernels": ours("kernels", "implementations"),
    "indexfuzz.lockstep": ours("lockstep", "devices", "simulated_dot", "bench"),
    "indexfuzz.generation.strategies": ("indexfuzz.campaign", "indexfuzz.evaluation.bench", "indexfuzz.test_"),
    "indexfuzz.campaign": ("indexfuzz.campaign", "indexfuzz.cli", "indexfuzz.evaluation.bench"),
    "indexfuzz.cli": ("indexfuzz.cli",),
    "indexfuzz.testing.plugin": (),
    "typer": ("indexfuzz.cli",),
    "rich": ("indexfuzz.cli",),
}  # fmt: skip
"""What only these modules, by the start of their names, may import."""


def imports(text: str) -> set[str]:
    """Every module that a source text imports, names of `from x import y` included where y may be a module."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports would give a second set of classes under pytest"
            found |= {node.module} if node.module != "indexfuzz" else {f"indexfuzz.{a.name}" for a in node.names}
    return {name for name in found if name.split(".")[0] not in sys.stdlib_module_names}


def modules() -> dict[str, Path]:
    found = {}
    for folder, package in PACKAGES.items():
        for file in (ROOT / folder).rglob("*.py"):
            parts = file.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join((package, *(part for part in parts if part != "__init__")))] = file
    return found


MODULES = modules()


def within(name: str, packages: set[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_module_keeps_to_its_rules(module):
    imported = imports(MODULES[module].read_text())
    for package, allowed in RULES.items():
        if within(module, {package}):
            assert not {name for name in imported if not within(name, allowed)}
    for reserved, owners in RESERVED.items():
        if not module.startswith(owners):
            assert not {name for name in imported if within(name, {reserved})}, f"{reserved} is for {owners}"


def test_all_folders_are_looked_at():
    assert {"indexfuzz.kernels.cache", "indexfuzz.reference.cache", "indexfuzz.cli.run", "indexfuzz"} <= set(MODULES)


def test_a_forbidden_import_is_noticed():
    assert imports("def f():\n    from indexfuzz import kernels\n    import triton.language as tl\n") == {
        "indexfuzz.kernels",
        "triton.language",
    }
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
