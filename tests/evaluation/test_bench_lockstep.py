import json
import subprocess
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from indexfuzz.core.contract import Clause, Clauses
from indexfuzz.evaluation.bench import interpreter, interpreter_child, lockstep
from indexfuzz.evaluation.bench.interpreter import InterpreterError
from indexfuzz.evaluation.bench.workloads import Launch, prepare
from indexfuzz.implementations import load
from indexfuzz.implementations.builtin import builtin
from indexfuzz.stages.table import STAGES


class Beside:
    """An interpreter that takes what it is told to."""

    versions = {"numpy": "1", "triton": "2"}  # noqa: RUF012

    def __init__(self, *seconds: float) -> None:
        self.taken = list(seconds)

    def seconds(self, implementation, stage, size):
        if not self.taken:
            raise InterpreterError("it is broken")
        return self.taken.pop(0)


def test_sides_take_turns_and_one_that_fails_is_left_out():
    order: list[str] = []

    def side(name: str, limit: int = 99):
        def measure() -> float:
            order.append(name)
            if order.count(name) > limit:
                raise InterpreterError("it is tired")
            return float(order.count(name))

        return measure

    taken, note = lockstep.by_turns({"a": side("a"), "b": side("b", limit=1), "c": side("c")}, 3)
    assert order == ["a", "b", "c", "a", "b", "c", "a", "c"]
    assert taken == {"a": [1, 2, 3], "b": [1], "c": [1, 2, 3]}
    assert note == "the interpreter cannot run it: it is tired"


def wants_only(monkeypatch, stage):
    monkeypatch.setattr(lockstep, "workloads_of", lambda _: iter([(stage, (2,))]))


def test_a_row_holds_the_fastest_of_each_side_and_ratios(monkeypatch):
    wants_only(monkeypatch, "k_quant_cache")
    row = next(lockstep.measure("builtin", Beside(0.7, 0.5, 0.9), repeats=3))
    assert (row.implementation, row.stage, row.size) == ("builtin", "k_quant_cache", (2,))
    assert row.interpreter_ms == 500
    assert row.lockstep_ms > 0
    assert row.unchecked_ms > 0
    ratios = replace(row, lockstep_ms=10.0, unchecked_ms=8.0).as_data()
    assert (ratios["speedup"], ratios["cost_of_checkers"]) == (50, 1.25)


def test_a_kernel_that_the_interpreter_cannot_run_has_a_note(monkeypatch):
    wants_only(monkeypatch, "gather")
    row = next(lockstep.measure("builtin", Beside(), repeats=1))
    assert (row.interpreter_ms, row.speedup) == (None, None)
    assert lockstep._line(row).endswith("the interpreter cannot run it: it is broken")


@pytest.mark.parametrize("stage", [stage.name for stage in STAGES if stage.workload])
def test_workloads_are_clean_and_repeatable(stage):
    size = (2, 8) if stage == "prefill_logits" else (5,)
    one, other = prepare(load("builtin"), stage, size), prepare(load("builtin"), stage, size)
    for workload in (one, other):
        lockstep.in_lockstep(workload, lockstep.ALL_CHECKERS)()
    assert all(torch.equal(_bytes(one.arguments[n]), _bytes(other.arguments[n])) for n in one.arguments)


def _bytes(tensor):
    return tensor.contiguous().view(torch.uint8)


@triton.jit
def _beyond(x):
    tl.store(x + 4, 1.0)


def test_a_workload_that_violates_something_is_not_measured():
    x = torch.zeros(4)
    workload = Launch(lambda: _beyond[(1,)](x), {"x": x}, {"x": True})
    with pytest.raises(AssertionError, match="out-of-bounds"):
        lockstep.in_lockstep(workload, lockstep.ALL_CHECKERS)


@pytest.fixture
def child():
    """The interpreter's process on the numpy of the tests; nothing is installed."""
    try:
        started = interpreter._start({})
    except InterpreterError as error:
        pytest.skip(f"the interpreter of Triton {triton.__version__} does not run on numpy {np.__version__}: {error}")
    yield started
    started.close()


def test_json_of_everything(child, monkeypatch, capsys):
    monkeypatch.setattr(lockstep, "interpreter", lambda: nullcontext(child))
    wants_only(monkeypatch, "gather")
    monkeypatch.setattr(lockstep, "REPEATS", 1)
    assert lockstep.main(as_json=True) == 0
    data = json.loads(capsys.readouterr().out)
    (row,) = data["rows"]
    assert row["interpreter_ms"] > 0, row["note"]
    assert row["speedup"] == row["interpreter_ms"] / row["lockstep_ms"]
    assert data["versions"]["interpreter"]["triton"] == triton.__version__


def test_an_implementation_is_measured_where_its_contract_holds():
    everything = list(lockstep.workloads_of(builtin()))
    assert {stage for stage, _ in everything} == {stage.name for stage in STAGES if stage.workload}
    narrow = Clauses((Clause(("gather",), lambda case: case.batch.keys <= 64, "64 keys", "here"),))
    gather = replace(builtin(), stages={"gather": builtin().stages["gather"]}, contract=narrow)
    sizes = [size for _, size in lockstep.workloads_of(gather)]
    assert sizes
    assert len(sizes) < len([size for stage, size in everything if stage == "gather"])


def test_it_takes_the_name_of_an_implementation(monkeypatch, capsys):
    monkeypatch.setattr(lockstep, "interpreter", lambda: nullcontext(Beside()))
    assert lockstep.main(as_json=False, impl="nix") == 2
    assert "no implementation 'nix'" in capsys.readouterr().err


class TestOlderNumpy:
    @pytest.fixture
    def started(self, monkeypatch) -> Iterator[list[dict[str, str]]]:
        """The environments of the processes started; the first cannot run kernels."""
        environments: list[dict[str, str]] = []

        class Child:
            def close(self) -> None:
                pass

        def start(environment):
            environments.append(environment)
            if len(environments) == 1:
                raise InterpreterError("only 0-dimensional arrays can be converted")
            return Child()

        monkeypatch.setattr(interpreter, "_start", start)
        return environments

    def test_is_installed_once(self, started, monkeypatch, tmp_path):
        commands = []

        def run(command, **_):
            commands.append(command)
            folder = command[command.index("--target") + 1]
            subprocess.check_call(["mkdir", "-p", f"{folder}/numpy"])
            return subprocess.CompletedProcess(command, 0, "", "")

        monkeypatch.setattr(interpreter.subprocess, "run", run)
        for _ in range(2):
            started.clear()
            with interpreter.interpreter(tmp_path):
                assert started[-1]["PYTHONPATH"].startswith(str(tmp_path))
        assert [command[-1] for command in commands] == ["numpy<2.4"]

    @pytest.mark.usefixtures("started")
    def test_that_cannot_be_installed_is_one_clear_sentence(self, monkeypatch, tmp_path):
        failed = subprocess.CompletedProcess([], 1, "", "trying\nERROR: no network\n")
        monkeypatch.setattr(interpreter.subprocess, "run", lambda *_, **__: failed)
        with (
            pytest.raises(InterpreterError, match=r"0-dimensional.*could not be installed.*ERROR: no network"),
            interpreter.interpreter(tmp_path),
        ):
            pass

    def test_error_of_the_benchmark_is_exit_code_2(self, monkeypatch, capsys):
        def broken(*_):
            raise InterpreterError("nothing works")

        monkeypatch.setattr(lockstep, "interpreter", broken)
        assert lockstep.main(as_json=False) == 2
        assert capsys.readouterr().err == "error: nothing works\n"


def test_a_process_that_dies_is_one_clear_sentence(child):
    with pytest.raises(InterpreterError, match=r"LookupError: the stage rope has no workload"):
        child.seconds("builtin", "rope", (2,))
    assert child.seconds("builtin", "gather", (2,)) > 0
    child._process.kill()
    child._process.wait()
    with pytest.raises(InterpreterError, match="ended with code -9"):
        child.seconds("builtin", "gather", (2,))


def test_masks_of_integers_become_boolean():
    class Handle:
        data = np.array([1, 0], np.int32)

    seen = []
    access = interpreter_child._with_boolean(lambda _, *operands: seen.append(operands[1].data.dtype), 1)
    access(None, "pointers", Handle())
    assert seen == [np.bool_]
