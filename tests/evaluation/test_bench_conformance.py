"""Triton's own tests on two sides: a checkout of a few tests, one for each thing that can become of them."""

import json
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from indexfuzz.evaluation.bench import conformance
from indexfuzz.evaluation.bench.outcomes import Item

CONFTEST = """
import pytest
def pytest_addoption(parser): parser.addoption("--device", default="cuda")
@pytest.fixture
def device(request): return request.config.getoption("--device")
"""

TESTS = """
import inspect, textwrap, pytest, torch, triton
import triton.language as tl
from triton._internal_testing import is_interpreter
from triton.runtime.errors import InterpreterError

@triton.jit
def template(out, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + i, EXPRESSION)

def made_of(expression):
    scope = {}
    exec(textwrap.dedent(inspect.getsource(template.fn)).replace("EXPRESSION", expression), globals(), scope)
    return scope["template"]

@triton.jit
def beyond(out, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.load(out + 8 + i)

@pytest.mark.interpreter
@pytest.mark.parametrize("n", [4, 8, 16, 32])
def test_both(n, device):
    assert is_interpreter()
    out = torch.zeros(n, dtype=torch.int32, device=device)
    made_of("i * 2")[(1,)](out, N=n)
    assert out.tolist() == [2 * i for i in range(n)]

@pytest.mark.interpreter
def test_wants_a_gpu():
    pytest.skip("needs something else")

@pytest.mark.interpreter
def test_violation(device):
    beyond[(1,)](torch.zeros(8, device=device)[:8], N=4)

@pytest.mark.interpreter
def test_fails_on_both():
    assert False, "as it was told to"

@pytest.mark.interpreter
def test_error(device):
    with pytest.raises(triton.CompilationError if not is_interpreter() else InterpreterError):
        made_of("tl.static_assert(False)")[(1,)](torch.zeros(4, device=device), N=4)

def test_not_marked():
    assert False
"""


@pytest.fixture
def checkout(tmp_path):
    suite = tmp_path / "python" / "test" / "unit" / "language"
    suite.mkdir(parents=True)
    (tmp_path / "python" / "conftest.py").write_text(CONFTEST)
    (suite / "test_few.py").write_text(TESTS)
    return tmp_path


def names(items, outcome):
    return sorted(name.rpartition("::")[2] for name, item in items.items() if item.outcome == outcome)


def test_what_becomes_of_each_item(checkout):
    both = [f"test_both[{n}]" for n in (16, 32, 4, 8)]
    items = conformance.run_suite(checkout, "lockstep", 1)
    assert names(items, "passed") == [*both, "test_error"]
    assert names(items, "failed") == ["test_fails_on_both", "test_violation"]
    assert names(items, "skipped") == ["test_wants_a_gpu"]
    assert "out-of-bounds" in next(i.reason for name, i in items.items() if "violation" in name)
    items = conformance.run_suite(checkout, "interpreter", 1)
    assert [name for name in names(items, "passed") if name != "test_violation"] == [*both, "test_error"]


def test_every_nth_item(checkout):
    assert len(conformance.run_suite(checkout, "lockstep", 3)) == 3


def test_several_processes_share_the_items(checkout):
    assert names(conformance.run_suite(checkout, "lockstep", 2, workers=2), "passed") == names(
        conformance.run_suite(checkout, "lockstep", 2), "passed"
    )


def test_a_folder_that_is_no_checkout(tmp_path, capsys):
    assert conformance.main(as_json=False, path=str(tmp_path)) == 2
    assert "is no checkout of Triton" in capsys.readouterr().err


@pytest.fixture
def no_interpreter(monkeypatch):
    monkeypatch.setattr(conformance, "interpreter", lambda: nullcontext(SimpleNamespace(environment={})))


@pytest.mark.usefixtures("no_interpreter")
@pytest.mark.parametrize(("bad", "code"), [("failed", 1), ("slow", 1), ("", 0)])
def test_exit_codes(bad, code, monkeypatch, capsys):
    interpreted = {"a": Item("passed", ""), "b": Item("passed", ""), "c": Item("failed", "both")}
    own = {"a": Item("refused", "tricks"), "b": Item(bad, "no") if bad else Item("passed", ""), "c": interpreted["c"]}
    monkeypatch.setattr(conformance, "run_suite", lambda path, side, *_: own if side == "lockstep" else interpreted)
    assert conformance.main(as_json=True, path="anywhere") == code
    data = json.loads(capsys.readouterr().out)
    assert data["lockstep"]["refused"] == 1
    assert [miss["outcome"] for miss in data["missed"]] == ["refused", *([bad] if bad else [])]
