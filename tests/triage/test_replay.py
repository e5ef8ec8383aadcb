import pytest

from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.outcome import Outcome
from indexfuzz.corpus.entry import Entry, Record, Sighting
from indexfuzz.devices.base import UnsupportedKernelError
from indexfuzz.implementations.base import Implementation, ImplementationError
from indexfuzz.oracles import schedule
from indexfuzz.subjects.in_process import InProcess
from indexfuzz.triage import replay as module
from indexfuzz.triage.replay import replay

SCALE = Finding("gather", "code-mismatch", "k_scale", "token 1 is 2, must be 1")
RACE = Finding("gather", "race", "k_scale", "two programs")
CRASH = Finding("gather", "crash", "KeyError", "KeyError: 1")


@pytest.fixture
def subject(pytorch_device):
    return InProcess(Implementation("toy 1.0", {"gather": print}), pytorch_device)


def answer_by(monkeypatch, run):
    """Let one oracle alone answer every question."""
    every = schedule.Oracle("planted", 1, lambda _: True, run, frozenset())
    monkeypatch.setattr(schedule, "REFERENCE", every)
    monkeypatch.setattr(schedule, "OTHERS", [])
    monkeypatch.setattr(schedule, "ORACLES", ())


@pytest.mark.parametrize(
    ("status", "findings", "expected"),
    [
        ("open", (), "FIXED"),
        ("unconfirmed", (), "NOT SHOWN"),
        ("unconfirmed", (SCALE,), "STILL FAILS"),
        ("fixed", (), "PASSES"),
        ("guard", (), "PASSES"),
        ("open", (SCALE,), "STILL FAILS"),
        ("guard", (CRASH, SCALE), "STILL FAILS"),
        ("open", (CRASH,), "CHANGED"),
    ],
)
def test_status(subject, monkeypatch, status, findings, expected):
    answer_by(monkeypatch, lambda case, *_: Outcome(case, list(findings), ["gather"]))
    result = replay(Entry(case=Case(), finding=Record.of(SCALE), status=status), subject)
    assert (result.status, set(result.findings)) == (expected, set(findings))
    assert expected != "STILL FAILS" or result.findings[0] == SCALE


def test_any_finding_changes_a_guard_that_never_had_one(subject, monkeypatch):
    answer_by(monkeypatch, lambda case, *_: Outcome(case, [CRASH]))
    assert replay(Entry(case=Case(), status="guard"), subject).status == "CHANGED"
    answer_by(monkeypatch, lambda case, *_: Outcome(case))
    assert replay(Entry(case=Case(), status="guard"), subject).status == "PASSES"


@pytest.mark.parametrize("error", [UnsupportedKernelError("no atomics"), ImplementationError("no such file")])
def test_what_cannot_run_is_an_error(subject, monkeypatch, error):
    def fail(*_: object) -> None:
        raise error

    answer_by(monkeypatch, fail)
    result = replay(Entry(case=Case(), status="guard"), subject)
    assert (result.status, result.message.endswith(str(error))) == ("ERROR", True)


@pytest.mark.parametrize(
    ("outcome", "stage", "message"),
    [
        (Outcome(Case(), outside={"gather": "cut tiles"}), "gather", "outside the contract of toy 1.0: cut tiles"),
        (Outcome(Case()), "gather", "the case does not reach the stage gather"),
        (Outcome(Case()), "rope", "toy 1.0 has no stage rope"),
    ],
)
def test_silence_is_no_fix(subject, monkeypatch, outcome, stage, message):
    answer_by(monkeypatch, lambda *_: outcome)
    record = Record.of(Finding(stage, "crash", "KeyError", "KeyError: 1"))
    assert replay(Entry(case=Case(), finding=record), subject) == module.Replay("ERROR", message=message)


@pytest.mark.parametrize(
    ("findings", "consequences", "status", "message"),
    [
        ([SCALE], [], "STILL FAILS", "it was put down to gather/race/k_scale, which the case does not show"),
        ([RACE], [SCALE], "STILL FAILS", "most likely a symptom of gather/race/k_scale, which the case shows, too"),
        ([RACE], [], "CHANGED", ""),
        ([], [], "NOT SHOWN", ""),
    ],
)
def test_what_was_put_down_to_another_says_whether_that_shows(
    subject, monkeypatch, findings, consequences, status, message
):
    answer_by(monkeypatch, lambda case, *_: Outcome(case, findings, ["gather"], consequences=consequences))
    entry = Entry(case=Case(), finding=Record.of(SCALE), status="unconfirmed", cause=RACE.signature)
    result = replay(entry, subject)
    assert (result.status, result.message) == (status, message)
    assert result.findings == (*consequences, *findings)


@pytest.mark.parametrize(
    ("names", "status", "message"),
    [
        (("toy 0.9", "other"), "open", "it was seen to fail on toy 0.9, other, and never on toy 1.0"),
        (("toy 0.9", "toy 1.0"), "open", ""),
        (("toy 0.9",), "fixed", ""),
        ((), "open", ""),
    ],
)
def test_what_passes_says_where_it_never_failed(subject, monkeypatch, names, status, message):
    answer_by(monkeypatch, lambda case, *_: Outcome(case, [], ["gather"]))
    where = {"device": "lockstep", "triton": "3", "torch": "2", "date": "2026-01-31"}
    seen = tuple(Sighting(implementation=name, **where) for name in names)
    assert replay(Entry(case=Case(), finding=Record.of(SCALE), status=status, seen=seen), subject).message == message
