"""A project of a few tests on two sides: which launches are compared, and what is said of them."""

import json
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from indexfuzz.evaluation.bench import suite
from indexfuzz.evaluation.bench.outcomes import Item
from indexfuzz.evaluation.bench.suite import Row, Side, SuiteError, Timing

TESTS = """
import pytest, torch, triton
import triton.language as tl

@triton.autotune([triton.Config({"BLOCK": 16}), triton.Config({"BLOCK": 32})], key=[])
@triton.jit
def double(x, out, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i) * 2)

@pytest.mark.parametrize("n", [64, 128])
def test_double(n):
    x = torch.arange(n, device="cuda")
    out = torch.empty_like(x)
    double[(n // 16,)](x, out)
    assert out.is_cuda
    assert out.tolist() == [2 * i for i in range(n)]
"""


DYING = """
def test_dies():
    import os
    if os.environ.get("TRITON_INTERPRET") != "1":
        os._exit(139)

def test_behind():
    pass
"""


@pytest.fixture
def tests(tmp_path):
    file = tmp_path / "test_few.py"
    file.write_text(TESTS)
    return file


@pytest.fixture
def no_interpreter(monkeypatch):
    monkeypatch.setattr(suite, "interpreter", lambda: nullcontext(SimpleNamespace(environment={})))


def test_every_launch_is_compared_however_many_share_the_tests(tests, capsys):
    suite.main(as_json=True, path=str(tests), workers=[2])
    data = json.loads(capsys.readouterr().out)
    (row,) = data["rows"]
    assert row["kernel"] == "test_few.double"
    assert row["kinds"] == 2
    assert row["interpreter"] > 0 < row["lockstep"]
    assert "BLOCK=16" in row["arguments"]
    assert data["alone"] == []
    assert data["lockstep"] == data["interpreter"]
    assert data["lockstep"]["passed"] == 2


@pytest.mark.usefixtures("no_interpreter")
def test_tests_that_are_not_there(tmp_path, capsys):
    assert suite.main(as_json=False, path=str(tmp_path / "none")) == 2
    assert "there are no tests at" in capsys.readouterr().err


@pytest.mark.usefixtures("no_interpreter")
def test_tests_that_launch_nothing(tests, capsys):
    tests.write_text("import not_there\n")
    assert suite.main(as_json=False, path=str(tests)) == 2
    assert "launch no Triton kernel in lockstep; `pytest --lockstep " in capsys.readouterr().err


def test_tests_that_cannot_be_run(tests):
    (tests.parent / "conftest.py").write_text("import not_there")
    with pytest.raises(SuiteError, match="not_there"):
        suite.run_side(tests, "lockstep", 1)


def test_a_process_that_dies_is_told_of_and_its_items_are_missed(tests, capsys):
    tests.write_text(TESTS + DYING)
    assert suite.main(as_json=False, path=str(tests)) == 1
    told = capsys.readouterr()
    assert "a process of the tests ended with 139 (lockstep)" in told.err
    assert "2 passed" not in told.out
    assert "test_behind: was not run in lockstep" in told.out
    assert "test_dies: was not run in lockstep" in told.out


def lines(*launches):
    names = ("kernel", "arguments", "seconds", "finished")
    return [json.dumps(dict(zip(names, launch, strict=True))) for launch in launches]


def test_the_fastest_launch_that_ended_counts():
    launches = suite.read_launches(
        lines(("k", "n=1", 3.0, True), ("k", "n=1", 2.0, True), ("k", "n=1", 1.0, False), ("k", "n=2", 9.0, False))
    )
    assert launches == {("k", "n=1"): Timing(2.0, True), ("k", "n=2"): Timing(9.0, False)}


LOCKSTEP = {
    ("a", "n=1"): Timing(1.0, True),
    ("a", "n=2"): Timing(2.0, True),
    ("a", "n=3"): Timing(30.0, True),
    ("b", "n=1"): Timing(1.0, True),
    ("c", "n=1"): Timing(5.0, False),
    ("d", "n=1"): Timing(5.0, True),
}
INTERPRETER = {
    ("a", "n=1"): Timing(10.0, True),
    ("a", "n=2"): Timing(8.0, False),
    ("a", "n=3"): Timing(25.0, False),
    ("b", "n=1"): Timing(0.5, True),
    ("c", "n=1"): Timing(1.0, True),
}


def test_what_had_no_time_to_end_counts_where_it_says_something():
    rows, alone = suite.compare(LOCKSTEP, INTERPRETER)
    assert rows == [Row("b", 1, 0.5, 1.0, 0.5, "n=1"), Row("a", 2, 18.0, 3.0, 4.0, "n=2")]
    assert alone == ["d"]


@pytest.mark.parametrize(
    ("slower", "outcome", "code"),
    [(True, "passed", 1), (False, "passed", 0), (False, "refused", 0), (False, "failed", 1), (False, "slow", 1)],
)
@pytest.mark.usefixtures("no_interpreter")
def test_exit_codes(slower, outcome, code, monkeypatch, tests, capsys):
    kept = {key: timing for key, timing in LOCKSTEP.items() if slower or key[0] != "b"}
    sides = {
        "lockstep": Side(kept, {"test_a": Item(outcome, "")}),
        "interpreter": Side(INTERPRETER, {"test_a": Item("passed", "")}),
    }
    monkeypatch.setattr(suite, "run_side", lambda path, side, *_: sides[side])
    assert suite.main(as_json=False, path=str(tests)) == code
    told = capsys.readouterr().out
    assert f"{1 + slower} kernels" in told
    assert f"lockstep is slower on {int(slower)} kernels" in told
    assert "1 kernels ran in lockstep alone: d" in told
    assert f"lockstep passes {int(outcome == 'passed')} (" in told
