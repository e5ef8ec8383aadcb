"""The case in flight survives the process that runs it, and nothing is left behind otherwise."""

import os
from pathlib import Path

import pytest

from indexfuzz.campaign.events import CaseRun
from indexfuzz.campaign.loop import run
from indexfuzz.campaign.settings import Settings
from indexfuzz.core.case import Case
from indexfuzz.core.setup import Setup, SetupError
from indexfuzz.core.signature import Signature
from indexfuzz.corpus import store
from indexfuzz.subjects import journal as journals
from indexfuzz.subjects.in_process import InProcess
from indexfuzz.subjects.journal import FOLDER, MOST_DIED, Journal, bury_dead_runs

MALFORMED = Signature("rope", "shape")
CASE = Case().replace(batch={"pad_tokens": 1})
COMMAND = Setup("module:my_kernels").command


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def journal():
    made = Journal(lambda file: COMMAND("replay", file))
    made.open()
    return made


def test_a_dead_run_is_told_once_with_a_command_that_works(monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(os, "getpid", lambda: 999_999_999)  # of no process
        journal().note(CASE)
    (line,) = bury_dead_runs()
    path = FOLDER / "died" / f"{CASE.id}.json"
    assert line == (
        f"case {CASE.id}: In flight when a run died. Again: indexfuzz replay {path} --impl module:my_kernels"
    )
    assert store.load(path).case == CASE
    assert bury_dead_runs() == []
    assert (FOLDER / ".gitignore").read_text() == "*\n"


def test_every_drawn_case_is_noted_before_it_runs(reference_with, pytorch_device):
    noted, ran = [], []

    def look(**_):
        noted.append(store.load(FOLDER / "in-flight" / f"{os.getpid()}.json").case.id)

    with journal() as kept:
        subject = InProcess(reference_with(rope=look), pytorch_device)
        wanted = Settings(subject, cases=3, seed=1, before_case=kept.note, known=frozenset({MALFORMED}))
        run(wanted, lambda event: ran.append(event.outcome.case.id) if isinstance(event, CaseRun) else None)
        assert bury_dead_runs() == []
    assert noted == ran
    assert not FOLDER.exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SetupError, ZeroDivisionError])
def test_an_error_of_ours_leaves_the_case_and_nothing_else_does(error):
    def fail():
        with journal() as kept:
            kept.note(CASE)
            raise error

    with pytest.raises(error):
        fail()
    assert FOLDER.exists() == (error is ZeroDivisionError)


def test_what_is_damaged_is_dropped():
    journal()
    damaged = FOLDER / "in-flight" / "999999999.json"
    damaged.write_text("{")
    assert bury_dead_runs() == []
    assert not damaged.exists()
    Path("elsewhere").mkdir()
    assert bury_dead_runs(Path("elsewhere")) == []


def test_the_cases_of_the_latest_deaths_are_kept(monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 999_999_999)
    kept = journal()
    for number in range(MOST_DIED + 3):
        kept.note(CASE.replace(values={"seed": number}))
        file = Path(journals.bury(999_999_999))
        os.utime(file, (number, number))
    seeds = {store.load(path).case.values.seed for path in (FOLDER / "died").glob("*.json")}
    assert seeds == set(range(3, MOST_DIED + 3))


def test_a_process_that_was_ended_on_purpose_leaves_nothing(monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 999_999_999)
    journal().note(CASE)
    journals.forget(999_999_999)
    assert bury_dead_runs() == []
    assert journals.bury(999_999_999) == ""
