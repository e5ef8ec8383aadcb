"""Triton's own tests on two sides: a checkout of a few tests, one for each thing that can become of them."""

import json
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from indexfuzz.evaluation.bench import conformance

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


def lines(*items):
    return [json.dumps({"item": item, "outcome": outcome, "reason": reason}) for item, outcome, reason in items]


LOCKSTEP = lines(
    ("a.py::test_a[1]", "passed", ""),
    ("a.py::test_a[2]", "skipped", "Skipped: lockstep: k.py:3: tricks are not supported"),
    ("a.py::test_a[3]", "skipped", "Skipped: lockstep: k.py:3: tricks are not supported"),
    ("b.py::test_b", "failed", "AssertionError: no"),
    ("b.py::test_c", "skipped", "Skipped: other"),
    ("b.py::test_d", "failed", "both"),
)
INTERPRETER = lines(
    *((f"a.py::test_a[{n}]", "passed", "") for n in (1, 2, 3)),
    ("b.py::test_b", "passed", ""),
    ("b.py::test_c", "skipped", "Skipped: other"),
    ("b.py::test_d", "failed", "both"),
)


def test_the_table():
    lockstep, interpreter = conformance.read_results(LOCKSTEP), conformance.read_results(INTERPRETER)
    missed = conformance.compare(lockstep, interpreter)
    told = conformance.describe(lockstep, interpreter, missed).splitlines()
    assert told[0].split() == ["passed", "refused", "failed", "skipped"]
    assert told[1].split() == ["lockstep", "1", "2", "2", "1"]
    assert told[2].split() == ["interpreter", "4", "0", "1", "1"]
    assert told[4].startswith("Of 4 items that Triton's interpreter passes, lockstep passes 1 (25.00 %)")
    assert told[5] == "    2 refused: a.py::test_a: k.py:3: tricks are not supported"
    assert told[6] == "    1 failed: b.py::test_b: AssertionError: no"


@pytest.fixture
def no_interpreter(monkeypatch):
    monkeypatch.setattr(conformance, "interpreter", lambda: nullcontext(SimpleNamespace(environment={})))


@pytest.mark.usefixtures("no_interpreter")
@pytest.mark.parametrize(("failing", "code"), [(True, 1), (False, 0)])
def test_exit_codes(failing, code, monkeypatch, capsys):
    kept = [line for line in LOCKSTEP if failing or "test_b" not in line]
    sides = {"lockstep": conformance.read_results(kept), "interpreter": conformance.read_results(INTERPRETER)}
    monkeypatch.setattr(conformance, "run_suite", lambda path, side, *_: sides[side])
    assert conformance.main(as_json=True, path="anywhere") == code
    data = json.loads(capsys.readouterr().out)
    assert data["lockstep"]["refused"] == 2
    assert len(data["missed"]) == 2 + failing


def test_an_item_that_fails_when_it_is_torn_down_has_failed():
    items = conformance.read_results(lines(("a", "passed", ""), ("a", "failed", "late")))
    assert items["a"].outcome == "failed"
