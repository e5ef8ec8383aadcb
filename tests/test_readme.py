"""What README says to type, typed: its module without a contract, and its fuzz target."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from indexfuzz import __main__ as cli
from indexfuzz.campaign import jobs
from indexfuzz.core.project import Table

README = (Path(__file__).parents[1] / "README.md").read_text()
FILES = dict(re.findall(r"^```python\n# (\S+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL))

OPS = """
from indexfuzz.reference import gather

def gather_keys(cache, k_fp8, k_scale, block_table, cu_seqlens, token_to_seq):
    gather.gather(
        cache, block_table, cu_seqlens, token_to_seq, k_fp8, k_scale, quant_group=k_fp8.shape[1], layout="{layout}"
    )
"""
"""The kernel of my_project: right where pages have the layout that it knows."""


FEW = """
from hypothesis import settings
from indexfuzz.testing import session

settings.register_profile("few", max_examples=5)
settings.load_profile("few")
session.MINIMISE_SECONDS = 0.0
"""
"""A conftest.py: so many cases, whatever the time, and what they show stays as it is."""


@pytest.fixture
def project(monkeypatch, tmp_path):
    """A folder with my_project and what README says to write."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    minimise = jobs.minimise
    monkeypatch.setattr("indexfuzz.subjects.fresh.shows_in_fresh_process", lambda *_: True)
    monkeypatch.setattr(jobs, "minimise", lambda *args, **_: minimise(*args, seconds=0.0))
    for name, text in FILES.items():
        Path(name).write_text(text)
    Path("my_project").mkdir()
    Path("my_project/ops.py").write_text(OPS.format(layout="auto"))
    yield tmp_path
    for name in ("my_kernels", "my_project", "my_project.ops"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("seed", ["1", "2", "3"])
def test_the_module_as_written_is_tested(project, capsys, monkeypatch, seed):
    """It has no contract, and knows one layout only: findings, each of them kept, and no error of ours."""
    words = ("--impl", "module:my_kernels", "--no-isolate", "--cases", "25", "--seed", seed)
    monkeypatch.setattr(sys, "argv", ["indexfuzz", "run", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    out, err = capsys.readouterr()
    found = re.findall(r"^found (\S+);", out, re.MULTILINE)
    saved = re.findall(r"^  saved as (\S+)$", out, re.MULTILINE)
    assert (end.value.code, err) == (1, "")
    assert found
    assert saved
    assert all(Path(path).is_file() for path in saved)


def test_the_target_as_written_is_collected_and_tests(project):
    Path("conftest.py").write_text(FEW)
    words = ("test_indexer.py", "--fuzz-impl", "module:my_kernels", "--no-fuzz-isolate")
    environment = os.environ | {"PYTHONPATH": ".", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode in (0, 1)
    assert re.search(r"^test_indexer\.py::test_indexer: \d+ cases in ", done.stdout, re.MULTILINE)
    assert "Traceback" not in done.stdout


def test_the_settings_as_written_are_settings():
    (text,) = re.findall(r"^```toml\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    table = tomllib.loads(text)["tool"]["indexfuzz"]
    assert Table.model_validate(table).model_fields_set == set(Table.model_fields)
