"""Guards: what is new is kept, and of what is kept as few cases as reach the same."""

import random

from indexfuzz.campaign.events import CaseRun
from indexfuzz.campaign.guarding import GuardKeeper, choose_guards, is_guard
from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.outcome import Outcome
from indexfuzz.corpus import store
from indexfuzz.corpus.entry import Entry, Record
from indexfuzz.corpus.store import Corpus

CASES = [Case().replace(values={"seed": seed}) for seed in range(40)]
WRONG = Finding("gather", "code-mismatch", "k_fp8", "is 1, must be 2")


def ran(number, reached, findings=()):
    return CaseRun(Outcome(CASES[number], list(findings), ["gather"], reached=frozenset(reached)))


def kept(folder):
    return [store.load(path).case for path in Corpus(folder).files()]


def test_a_case_that_reaches_something_new_is_kept_and_no_other(tmp_path):
    guards = GuardKeeper(tmp_path, "ab", print)
    for number, reached in enumerate(("ab", "ac", "bc", "d")):
        guards.hear(ran(number, reached))
    assert guards.kept == 2
    assert {case.id for case in kept(tmp_path)} == {CASES[1].id, CASES[3].id}
    assert all(is_guard(store.load(path)) for path in Corpus(tmp_path).files())


def test_a_case_that_fails_is_no_guard_and_hides_nothing(tmp_path):
    guards = GuardKeeper(tmp_path, "", print)
    guards.hear(ran(0, "a", [WRONG]))
    guards.hear(ran(1, "a"))
    assert kept(tmp_path) == [CASES[1]]


def test_a_full_disk_is_told_once(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    notices = []
    monkeypatch.setattr(Corpus, "save", full)
    guards = GuardKeeper(tmp_path, "", notices.append)
    for number, reached in enumerate("abc"):
        guards.hear(ran(number, reached))
    assert guards.kept == 0
    (notice,) = notices
    assert notice.endswith("No space left on device")


def test_only_what_was_kept_for_what_it_reaches_may_go():
    bare = Entry(case=CASES[0], status="guard")
    assert is_guard(bare)
    for more in ({"note": "the case of issue 7"}, {"finding": Record.of(WRONG)}):
        assert not is_guard(bare.model_copy(update=more))
    assert not is_guard(Entry(case=CASES[0], finding=Record.of(WRONG), status="fixed"))


def test_the_chosen_reach_all_and_none_can_be_left_out():
    pick = random.Random(7)
    for _ in range(50):
        found = [(case, frozenset(pick.sample(range(60), pick.randrange(1, 12)))) for case in CASES]
        fixed = frozenset(pick.sample(range(60), 5))
        chosen = choose_guards(found, [fixed])
        reached = {case.id: what for case, what in found}
        everything = frozenset().union(*reached.values())
        assert everything <= fixed.union(*(reached[name] for name in chosen))
        for name in chosen:
            others = fixed.union(*(reached[other] for other in chosen if other != name))
            assert chosen[name] == reached[name] - others
            assert chosen[name]


def test_of_two_that_reach_the_same_the_smaller_stays():
    large = CASES[0].replace(model={"num_heads": 16})
    assert list(choose_guards([(large, frozenset("ab")), (CASES[0], frozenset("ab"))])) == [CASES[0].id]
    assert not choose_guards([(CASES[0], frozenset("ab"))], [frozenset("abc")])
    assert not choose_guards([])
