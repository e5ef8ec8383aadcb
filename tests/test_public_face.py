"""What users import: `indexfuzz` and `indexfuzz.reference`, nothing from inside."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import indexfuzz
from indexfuzz.reference import gather as reference

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
TEMPLATE = ROOT / "fuzz/implementations/template.py"


def reaches_inside(text: str) -> list[str]:
    """Modules of the package, other than the face and the reference, that a source text imports."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append(str(node.module))
    inside = (name for name in found if name.startswith("indexfuzz."))
    return [name for name in inside if not f"{name}.".startswith("indexfuzz.reference.")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_reach_for_nothing_inside(page):
    blocks = re.findall(r"^```python.*?\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    assert [name for block in blocks for name in reaches_inside(block)] == []


def test_nor_does_the_template():
    assert reaches_inside(TEMPLATE.read_text()) == []


def test_reaching_inside_is_noticed():
    assert reaches_inside("from indexfuzz.core.case import Case") == ["indexfuzz.core.case"]
    assert reaches_inside("import indexfuzz.referenced") == ["indexfuzz.referenced"]
    assert reaches_inside("from indexfuzz import Case\nfrom indexfuzz.reference import gather") == []


@pytest.mark.parametrize("name", indexfuzz.__all__)
def test_every_name_is_there_and_says_what_it_is(name):
    assert getattr(indexfuzz, name).__doc__
    assert name in dir(indexfuzz)


def test_what_is_not_offered_is_no_attribute():
    with pytest.raises(AttributeError, match="has no attribute 'nix'"):
        indexfuzz.nix  # noqa: B018


def test_importing_it_imports_nothing_heavy():
    script = "import indexfuzz, sys; print({'torch', 'triton', 'numpy', 'hypothesis', 'pydantic'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_it_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "indexfuzz", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"indexfuzz {indexfuzz.__version__}\n"


def test_a_case_is_tested_in_three_lines(reference_with):
    def doubles(*, k_scale, **rest):
        reference.gather(k_scale=k_scale, **rest)
        k_scale *= 2

    case = indexfuzz.Case().replace(batch={"prefill": ({"length": 2, "new": 0},)})
    for function, found in ((reference.gather, []), (doubles, ["gather/code-mismatch/k_scale"])):
        subject = indexfuzz.open_subject(reference_with(gather=function))
        assert [str(finding.signature) for finding in subject.run(case).findings] == found
