"""The seam between what asks about cases and what runs them: the same questions as the oracles, whoever asks."""

import math

import pytest

from indexfuzz.campaign.events import CaseRun
from indexfuzz.campaign.loop import run
from indexfuzz.campaign.settings import Settings
from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.outcome import Outcome
from indexfuzz.core.signature import Signature
from indexfuzz.corpus.entry import Entry, Record
from indexfuzz.oracles import schedule
from indexfuzz.reference import gather
from indexfuzz.subjects.in_process import InProcess
from indexfuzz.triage.minimize import minimise
from indexfuzz.triage.replay import replay

CASE = Case().replace(
    cache={"block_size": 16},
    batch={"prefill": ({"length": 20, "new": 4}, {"length": 9, "new": 9})},
)
SIGNATURE = "gather/metamorphic/table-width/RuntimeError"


@pytest.fixture
def subject(reference_with, pytorch_device):
    """What only a relation shows: it refuses block tables wider than the case's own."""

    def refuses_wide_tables(*, block_table, **rest):
        if block_table.shape[1] > 2:
            raise RuntimeError("too wide")
        gather.gather(block_table=block_table, **rest)

    return InProcess(reference_with(gather=refuses_wide_tables), pytorch_device)


@pytest.fixture(scope="session")
def related():
    """The case, with a seed that asks for the relation."""
    (width,) = (oracle for oracle in schedule.ORACLES if oracle.name == "table-width")
    cases = (CASE.replace(values={"seed": seed}) for seed in range(400))
    return next(case for case in cases if width.is_asked(case))


def signatures(outcome):
    return [str(finding.signature) for finding in outcome.findings]


def test_facts_say_what_is_under_test(subject):
    facts = subject.facts
    assert (facts.name, facts.device, facts.formats) == ("reference", "pytorch", ("e4m3fn", "e4m3fnuz"))
    assert "gather" in facts.stages
    assert facts.torch[0].isdigit()
    assert facts.triton[0].isdigit()


def test_a_case_is_put_to_all_oracles_and_a_signature_to_its_own(subject, related):
    assert signatures(subject.run(related)) == [SIGNATURE]
    assert signatures(subject.ask(CASE, Signature.parse(SIGNATURE))) == [SIGNATURE]
    assert signatures(subject.ask(related, Signature("gather", "crash", "RuntimeError"))) == []


def test_a_campaign_puts_its_cases_to_all_oracles(subject, monkeypatch):
    asked = []

    def note(case, *_):
        asked.append(case.id)
        return Outcome(case)

    silent = schedule.Oracle("silent", 1, lambda _case: True, note, frozenset())
    monkeypatch.setattr(schedule, "OTHERS", [silent])
    outcomes = []
    known = frozenset({Signature("gather", "crash", "RuntimeError")})
    run(
        Settings(subject, cases=12, seed=3, known=known),
        lambda event: outcomes.append(event.outcome) if isinstance(event, CaseRun) else None,
    )
    assert asked == [outcome.case.id for outcome in outcomes if not outcome.findings]
    assert 3 <= len(asked) < len(outcomes) == 12


def test_minimiser_and_replay_ask_for_relations(subject, related):
    small, finding = minimise(related, subject, Signature.parse(SIGNATURE), seconds=math.inf)
    assert small != related
    assert str(finding.signature) == SIGNATURE
    assert replay(Entry(case=small, finding=Record.of(finding)), subject).status == "STILL FAILS"


def test_replay_asks_everything_once_the_finding_is_gone(subject, related):
    other = Record.of(Finding("rope", "code-mismatch", "q", "differs"))
    result = replay(Entry(case=related, finding=other), subject)
    assert (result.status, str(result.findings[0].signature)) == ("CHANGED", SIGNATURE)
