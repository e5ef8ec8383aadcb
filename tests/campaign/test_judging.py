"""What one finding explains of others takes their headlines, and never their cases."""

from dataclasses import replace
from pathlib import Path

import pytest

from indexfuzz.campaign.events import Explained, Known, Seen
from indexfuzz.campaign.judging import Judge
from indexfuzz.campaign.keeping import Keeper
from indexfuzz.campaign.loop import Campaign
from indexfuzz.campaign.member import Hire
from indexfuzz.campaign.pool import Pool
from indexfuzz.campaign.server import start_server
from indexfuzz.campaign.settings import Settings
from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.outcome import Outcome
from indexfuzz.core.setup import Setup
from indexfuzz.corpus import store
from indexfuzz.corpus.store import Corpus
from indexfuzz.subjects.under_test import put_under_test
from indexfuzz.triage.replay import replay

WRONG = Finding("gather", "code-mismatch", "k_scale", "is 1, must be 2")
STRAY = Finding("gather", "out-of-bounds", "k_scale", "loads beyond the end")
FIRST, SECOND, THIRD = (Case().replace(values={"seed": seed}) for seed in range(3))


def showing(case, *findings, consequences=()):
    return Outcome(case, findings=list(findings), consequences=list(consequences))


@pytest.fixture
def told():
    """-> what a new judge says of some outcomes, one after the other."""

    def tell(*outcomes, known=()):
        judge = Judge(known)
        return [event for outcome in outcomes for event in judge.judge(outcome)]

    return tell


def test_a_symptom_is_told_with_its_first_case_whichever_comes_first(told):
    explained = Explained(WRONG, FIRST, STRAY.signature)
    early = told(showing(FIRST, WRONG), showing(SECOND, WRONG), showing(THIRD, STRAY))
    assert early == [Seen(WRONG, FIRST), Known(WRONG, SECOND, WRONG.signature), Seen(STRAY, THIRD), explained]
    late = told(showing(THIRD, STRAY), showing(FIRST, WRONG), showing(SECOND, WRONG))
    assert late == [Seen(STRAY, THIRD), explained, Known(WRONG, SECOND, STRAY.signature)]


def test_what_follows_in_the_same_launch_is_told_once(told):
    both = showing(FIRST, STRAY, consequences=[WRONG])
    explained = Explained(WRONG, FIRST, STRAY.signature)
    assert told(both) == [Seen(STRAY, FIRST), explained]
    assert told(both, replace(both, case=SECOND)) == [
        Seen(STRAY, FIRST),
        explained,
        Known(STRAY, SECOND, STRAY.signature),
    ]
    assert told(showing(SECOND, WRONG), both) == [
        Seen(WRONG, SECOND),
        Seen(STRAY, FIRST),
        Explained(WRONG, SECOND, STRAY.signature),
    ]


def test_what_follows_from_what_was_known_is_kept_and_new_where_it_shows_alone(told):
    both, alone = showing(FIRST, STRAY, consequences=[WRONG]), showing(SECOND, WRONG)
    assert told(both, alone, known={STRAY.signature}) == [
        Known(STRAY, FIRST, STRAY.signature),
        Explained(WRONG, FIRST, STRAY.signature),
        Seen(WRONG, SECOND),
    ]
    known = {STRAY.signature, WRONG.signature}
    assert told(both, known=known) == [Known(STRAY, FIRST, STRAY.signature)]


def test_a_broken_relation_of_what_was_known_is_kept_once(told):
    relation = Finding("gather", "metamorphic/layout", "k_fp8", "differs")
    assert told(showing(FIRST, relation), showing(SECOND, relation), known={WRONG.signature}) == [
        Explained(relation, FIRST, WRONG.signature),
        Known(relation, SECOND, WRONG.signature),
    ]


SETUP = Setup("module:toy_pair", isolate=False)


@pytest.fixture(autouse=True)
def _toy(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1])


@pytest.fixture
def campaign(tmp_path, monkeypatch):
    """Run a campaign on one of the pairs: its headlines, what was seen first, what is kept, and what is under test."""

    def run(pair, processes=1):
        monkeypatch.setenv("PAIR", pair)
        target, folder, seen = put_under_test(SETUP), tmp_path / f"{pair}-{processes}", []
        drawing = {"only": frozenset({"gather"}), "seed": 5}
        keeper = Keeper(target.entry, folder, print)

        def hear(event):
            keeper.hear(event)
            seen.extend([str(event.finding.signature)] if isinstance(event, Seen) else [])

        crew = Pool(Hire(SETUP, journal=False, drawing=drawing), processes) if processes > 1 else None
        summary = Campaign(Settings(target.subject, **drawing, cases=12, minimise_seconds=0.0), hear, crew).run()
        entries = [store.load(path) for path in Corpus(folder).files()]
        headlines = [str(found.finding.signature) for found in summary.findings]
        return headlines, seen[0], {str(entry.finding.signature): entry for entry in entries}, target

    return run


HEADLINE, SYMPTOM = "gather/out-of-bounds/from_ptr", "gather/code-mismatch/k_scale"
PAIRS = ("wrong-odd", "stray-odd")


def test_of_two_bugs_in_one_stage_both_cases_are_kept_in_both_orders(campaign, monkeypatch):
    firsts = set()
    for pair in PAIRS:
        headlines, first, kept, target = campaign(pair)
        firsts.add(first)
        assert headlines == [HEADLINE]
        assert kept.keys() == {HEADLINE, SYMPTOM}
        assert (str(kept[SYMPTOM].cause), kept[SYMPTOM].status) == (HEADLINE, "unconfirmed")
        result = replay(kept[SYMPTOM], target.subject)
        told = f"it was put down to {HEADLINE}, which the case does not show"
        assert (result.status, result.message) == ("STILL FAILS", told)
        monkeypatch.setenv("PAIR", "mended")
        assert replay(kept[SYMPTOM], target.subject).status == "NOT SHOWN"
    assert firsts == {HEADLINE, SYMPTOM}


def test_several_processes_keep_the_same(campaign):
    start_server()
    for pair in PAIRS:
        alone, together = ({s: e.case.id for s, e in campaign(pair, size)[2].items()} for size in (1, 2))
        assert alone[SYMPTOM] == together[SYMPTOM]
        assert alone.keys() == together.keys()


def test_two_bugs_that_show_in_one_launch_are_both_kept(campaign):
    headlines, _, kept, target = campaign("both")
    assert headlines == [HEADLINE]
    shown = kept.get(SYMPTOM, kept[HEADLINE])
    assert SYMPTOM in map(str, shown.signatures("toy_pair"))
    assert replay(shown, target.subject).status == "STILL FAILS"


def test_a_single_bug_that_shows_as_both_has_one_headline(campaign):
    headlines, _, kept, _ = campaign("one")
    assert headlines == [HEADLINE]
    assert all(str(entry.cause) == HEADLINE for signature, entry in kept.items() if signature != HEADLINE)
