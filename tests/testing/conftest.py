"""pytest in a copy of the process that runs these tests: to import PyTorch and Triton anew takes seconds each time."""

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from xdist import workermanage

from indexfuzz.core.forked import call_forked

SECONDS = 300
"""Of a core's time, for a session."""


@pytest.fixture
def run_pytest(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Callable[..., pytest.RunResult]:
    """Run pytest with some words in pytester's folder, as `python -m pytest` there would."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)

    def run(*words: str) -> pytest.RunResult:
        code = call_forked(lambda: _run_here(pytester.path, words), SECONDS)
        assert code is not None, "the session died"
        out, errors = ((pytester.path / name).read_text(encoding="utf-8") for name in (OUT, ERRORS))
        sys.stdout.write(out)
        sys.stderr.write(errors)
        return pytest.RunResult(code, out.splitlines(), errors.splitlines(), 0.0)

    return run


OUT, ERRORS = ".out", ".errors"


def _run_here(folder: Path, words: tuple[str, ...]) -> int:
    for number, name in ((1, OUT), (2, ERRORS)):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))  # noqa: SIM115
    sys.path.insert(0, str(folder))
    workermanage._sys_path[:] = sys.path  # workers get the path as it was when this was imported
    for path in folder.glob("*.py"):
        sys.modules.pop(path.stem, None)
    importlib.invalidate_caches()
    # What this process has imported cannot be rewritten any more.
    code = int(pytest.main(["-W", "ignore::pytest.PytestAssertRewriteWarning", *words]))
    sys.stdout.flush()
    sys.stderr.flush()
    return code
