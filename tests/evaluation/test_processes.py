"""Things are examined in processes of their own: one that hangs or kills its process is given up."""

import os
import signal
import time
from dataclasses import dataclass
from functools import partial

import pytest

from indexfuzz.evaluation import processes
from indexfuzz.evaluation.processes import ExaminationError, Process, examine_all


@dataclass(frozen=True)
class Budget:
    seconds: float = 0.1


class Examiner:
    def __init__(self, budget):
        assert budget == Budget()

    def examine(self, thing):
        if thing == "sleep":
            time.sleep(1e6)
        while thing == "spin":
            pass
        if thing == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if thing == "stop":
            os.kill(os.getpid(), signal.SIGTERM)
        if thing == "fail":
            raise RuntimeError("a bug of ours")
        return thing.upper()


def give_up(thing, _seconds, why):
    return f"{thing}: {why}"


@pytest.fixture
def process():
    started = Process(Examiner, give_up, Budget(), method="fork")
    yield started
    started.stop()


@pytest.mark.parametrize(
    ("thing", "patience", "why"),
    [("sleep", 0.1, "no answer in time"), ("spin", 1000, "the process died"), ("die", 1000, "the process died")],
)
def test_what_hangs_is_given_up_and_the_next_thing_is_examined(monkeypatch, process, thing, patience, why):
    monkeypatch.setattr(processes, "GRACE", 0.1)
    monkeypatch.setattr(processes, "PATIENCE", patience)
    assert process.examine(thing) == f"{thing}: {why}"
    monkeypatch.setattr(processes, "GRACE", 1000)
    monkeypatch.setattr(processes, "PATIENCE", 1000)
    assert process.examine("next") == "NEXT"


def test_a_process_that_holds_too_much_is_replaced_and_its_result_counts(monkeypatch, process):
    monkeypatch.setattr(processes, "MOST_MEMORY", 1 << 50)  # it is forked, so it holds what the tests before it left
    first = process._pid
    assert process.examine("small") == "SMALL"
    assert process._pid == first
    monkeypatch.setattr(processes, "MOST_MEMORY", 0)
    assert process.examine("large") == "LARGE"
    assert process._pid != first
    assert process.examine("next") == "NEXT"


def test_a_failure_of_the_examination_is_no_result(process):
    with pytest.raises(ExaminationError, match="fail: RuntimeError: a bug of ours"):
        process.examine("fail")
    assert process.examine("next") == "NEXT"


def test_a_process_that_is_stopped_from_outside_is_not_taken_for_one_that_hangs(process):
    with pytest.raises(ExaminationError, match="stop: SIGTERM stopped its process"):
        process.examine("stop")


def test_results_come_in_the_order_of_the_things(monkeypatch):
    monkeypatch.setattr(processes, "Process", partial(Process, method="fork"))
    heard = []
    assert examine_all("abcdef", Examiner, give_up, Budget(), workers=2, on_result=heard.append) == list("ABCDEF")
    assert sorted(heard) == list("ABCDEF")
