"""Explaining: the change that makes a case pass is named, and so is what does not matter."""

from types import SimpleNamespace

import pytest

from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.outcome import Outcome
from indexfuzz.core.session import follow
from indexfuzz.core.signature import Signature
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.implementations.faults import plant
from indexfuzz.subjects.in_process import InProcess
from indexfuzz.triage.explain import Explanation, explain
from indexfuzz.triage.neighbours import neighbours

SIGNATURE = Signature("gather", "code-mismatch", "k_fp8")
WRONG = Finding("gather", "code-mismatch", "k_fp8", "wrong")
CASE = Case().replace(
    cache={"block_size": 1},
    batch={"prefill": ({"length": 65, "new": 3},), "decode": (3,), "max_model_len": 8},
    rope={"mode": "functional"},
)


class Failing:
    """A subject whose gather is wrong where `is_wrong` says so, and is judged where `covers` does."""

    def __init__(self, is_wrong, covers=lambda _case: True):
        self._is_wrong, self._covers = is_wrong, covers
        self.facts = SimpleNamespace(name="failing")
        self.asked = 0

    def ask(self, case, _signature, _only=frozenset()):
        self.asked += 1
        if not self._covers(case):
            return Outcome(case)
        return Outcome(case, [WRONG] if self._is_wrong(case) else [], ["gather"])


@pytest.mark.parametrize(
    ("is_wrong", "remedy"),
    [
        (lambda case: case.cache.block_size == 1, "cache.block_size 16 instead of 1"),
        (lambda case: case.rope.mode == "functional", "rope.mode inplace instead of functional"),
        (lambda case: case.batch.prefill[0].length % 16, "batch.prefill[0] 64 tokens instead of 65 tokens"),
        (lambda case: not case.memory.k_pad, "memory.k_pad 1 instead of 0"),
        (lambda case: case.batch.max_model_len % 256, "batch.max_model_len 256 instead of 8"),
        (lambda case: case.batch.prefill, "batch.prefill[0] left out"),
        (lambda case: case.model.num_heads < 16, "model.num_heads 16 instead of 1"),
        (lambda case: case.values.k != "exact", "values.k exact instead of normal"),
        (lambda case: case.values.seed == 0, "values of any ordinary kind instead of these"),
    ],
)
def test_the_one_change_that_matters(is_wrong, remedy):
    found = explain(CASE, SIGNATURE, Failing(is_wrong), seconds=1e9)
    assert [str(change) for change in found.remedies] == [remedy]
    assert found.complete
    assert next(found.lines()) == f"It passes with {remedy}."
    assert remedy.split(" ")[0] not in found.indifferent


def test_what_is_always_wrong_depends_on_nothing():
    found = explain(CASE, SIGNATURE, Failing(lambda _case: True), seconds=1e9)
    assert found.is_everywhere
    assert list(found.lines()) == [
        f"No parameter matters: it shows with {found.showing} changes of the case as well, and passes with none."
    ]
    assert found.showing == len(list(neighbours(CASE)))


def test_that_it_does_not_depend_on_the_case_is_said_of_what_could_be_judged_alone():
    judged = Failing(lambda _case: True, lambda case: case.cache == CASE.cache and case.rope.mode == "functional")
    found = explain(CASE, SIGNATURE, judged, seconds=1e9)
    assert found.is_everywhere
    assert list(found.lines())[1] == (
        "Could not be judged: other cache, rope (mode); the case is outside the contract then, or fails in another way."
    )
    nothing = explain(CASE, SIGNATURE, Failing(lambda _case: True, lambda case: case == CASE), seconds=1e9)
    assert not nothing.is_everywhere
    assert list(nothing.lines()) == []


def test_of_changes_that_were_not_all_tried_nothing_of_the_kind_is_said():
    clock = iter(range(10**6))
    found = explain(CASE, SIGNATURE, Failing(lambda _case: True), seconds=9, clock=lambda: float(next(clock)))
    assert 0 < found.showing < len(list(neighbours(CASE)))
    assert next(found.lines()) == "No single change that was tried makes it pass."


def test_of_a_part_of_which_something_matters_the_rest_is_told():
    *_, last = explain(CASE, SIGNATURE, Failing(lambda case: case.rope.style == "neox"), seconds=1e9).lines()
    assert last == "Does not matter: cache, rope but for style, batch, memory, model, values."


def test_what_no_contract_covers_explains_nothing():
    subject = Failing(lambda case: case.cache.block_size == 1, covers=lambda case: case.cache.block_size == 1)
    found = explain(CASE, SIGNATURE, subject, seconds=1e9)
    assert found.remedies == ()
    assert "cache.block_size" not in found.indifferent


def test_a_change_that_passes_by_chance_is_no_remedy():
    def is_wrong(case):
        return case.rope.style == "neox" or case.values.seed % 3 == 0

    found = explain(CASE, SIGNATURE, Failing(is_wrong), seconds=1e9)
    assert found.remedies == ()
    assert "rope.style" in found.indifferent


def test_where_ordinary_values_pass_they_are_told_first():
    def is_wrong(case):
        return case.values.q == "subnormal" and case.cache.block_size == 1

    found = explain(CASE.replace(values={"q": "subnormal"}), SIGNATURE, Failing(is_wrong), seconds=1e9)
    told = [str(change) for change in found.remedies]
    assert told[:2] == ["values of any ordinary kind instead of these", "values.q exact instead of subnormal"]
    assert "cache.block_size 16 instead of 1" in told
    assert len(told) == len(set(told))


def test_what_has_to_be_rejected_explains_nothing():
    class Refusing(Failing):
        def ask(self, case, signature, only=frozenset()):
            outcome = super().ask(case, signature, only)
            return outcome if outcome.findings else Outcome(case, [], ["gather"], refused={"gather": "no such pages"})

    assert explain(CASE, SIGNATURE, Refusing(lambda case: case.cache.block_size == 1), seconds=1e9).remedies == ()


def test_among_zeros_a_change_that_hides_a_mistake_is_not_taken_for_its_end():
    def hides(case):
        return case.rope.placement == "first" or case.values.k == "normal"

    thin = CASE.replace(values={"k": "zeros", "set": {"k": ((0, 0, (1.0).hex()),)}})
    found = explain(thin, SIGNATURE, Failing(hides), seconds=1e9)
    assert found.remedies == ()
    assert "values" in found.indifferent


def test_another_finding_of_the_stage_is_no_pass():
    class Other(Failing):
        def ask(self, case, signature, only=frozenset()):
            outcome = super().ask(case, signature, only)
            return outcome if outcome.findings else Outcome(case, [Finding("gather", "shape", "", "worse")], ["gather"])

    assert explain(CASE, SIGNATURE, Other(lambda case: case.cache.block_size == 1), seconds=1e9).remedies == ()


def test_what_is_left_out_leaves_something_and_zeros_are_never_tried():
    every = list(neighbours(CASE))
    assert all(n.case.batch.decode or n.case.batch.prefill for n in every)
    assert not any("zeros" in str(neighbour) for neighbour in every)
    alone = CASE.replace(batch={"decode": ()})
    assert "left out" not in {neighbour.value for neighbour in neighbours(alone)}


def test_without_time_nothing_is_asked():
    subject = Failing(lambda _case: True)
    found = explain(CASE, SIGNATURE, subject, seconds=0)
    assert (subject.asked, found.complete) == (0, False)
    assert list(found.lines()) == ["There was no time to try every change."]


def test_a_neighbour_differs_in_what_it_says():
    every = list(neighbours(CASE))
    assert len(every) == len({neighbour.case.id for neighbour in every})
    assert all(neighbour.case != CASE for neighbour in every)
    assert {"cache.layout", "model.head_dim", "batch.decode[0]", "values"} <= {n.field for n in every}


@pytest.mark.parametrize(
    ("fault", "signature", "case", "remedies"),
    [
        (
            "layout-hardcoded-shuffle",
            "gather/layout-mismatch/k_fp8",
            {"cache": {"block_size": 16, "layout": "normal"}, "batch": {"prefill": ({"length": 2, "new": 1},)}},
            {"cache.layout": "auto"},
        ),
        (
            "rope-result-discarded",
            "rope/bound-exceeded/q",
            {"batch": {"prefill": ({"length": 2, "new": 1},)}},
            {"rope.mode": "inplace"},
        ),
        (
            "compress-halves-swapped",
            "compress/bound-exceeded/keys",
            {
                "cache": {"layout": "normal"},
                "batch": {"max_model_len": 4},
                "session": {
                    "node": "compress",
                    "ratio": 2,
                    "overlap": True,
                    "steps": ({"turns": ({"request": 0, "new": 2},)},),
                },
            },
            {"session.overlap": "off"},
        ),
        (
            "pool-max-from-zero",
            "pool/bound-exceeded/keys",
            {
                "cache": {"layout": "normal"},
                "batch": {"max_model_len": 4},
                "session": {
                    "node": "pool",
                    "ratio": 2,
                    "pooling": "max",
                    "steps": ({"turns": ({"request": 0, "new": 2},)},),
                },
            },
            {"session.pooling": "softmax"},
        ),
    ],
)
def test_planted_bugs_are_explained(fault, signature, case, remedies):
    subject = InProcess(plant((fault,)), LockstepDevice())
    found = explain(Case().replace(**case), Signature.parse(signature), subject, seconds=1e9)
    assert remedies.items() <= {change.field: change.value for change in found.remedies}.items()


def test_of_a_part_of_which_most_matters_the_few_are_named():
    told = Explanation((), ("rope.style", "rope.mode", "rope.table", "batch.lens"), ("rope.mode",), complete=True)
    assert list(told.lines())[-1] == "Does not matter: rope (mode)."
    told = Explanation((), ("rope.style", "rope.mode", "rope.table"), ("rope.mode", "rope.table"), complete=True)
    assert list(told.lines())[-1] == "Does not matter: rope but for style."
    memory = tuple(f"memory.{name}" for name in "abcdefghi")
    told = Explanation((), memory, memory[:5], complete=True)
    assert list(told.lines())[-1] == "Does not matter: most of memory."


STEPS = (
    {"turns": ({"request": 0, "new": 3}, {"request": 1, "new": 2, "drafts": 2, "accepted": 1}), "pad_tokens": 3},
    {"forks": ({"parent": 0, "child": 2},), "turns": ({"request": 0, "new": 5},), "free": (1,)},
)
SESSION = Case().replace(
    batch={"max_model_len": 8}, session={"node": "compress", "ratio": 2, "overlap": True, "steps": STEPS}
)


@pytest.mark.parametrize(
    ("is_wrong", "remedy"),
    [
        (lambda session: session.overlap, "session.overlap off"),
        (lambda session: len(session.steps) > 1, "session.steps 0 and 1 as one instead of two"),
        (lambda session: session.steps[0].pad_tokens > 1, "session.steps[0].pad_tokens 0 instead of 3"),
        (lambda session: any(step.forks for step in session.steps), "session.steps[1].forks without forks"),
        (lambda session: any(step.free for step in session.steps), "session.steps[1].free where no request goes"),
        (lambda session: session.max_drafts, "session.steps[0].turns[1].drafts 0 instead of 2"),
        (lambda session: session.steps[0].turns[0].request == 0, "session.steps[0].turns in reverse"),
        (
            lambda session: session.steps[-1].turns[0].new % 2,
            "session.steps[1].turns[0].new 6 tokens instead of 5 tokens",
        ),
    ],
)
def test_of_a_session_the_change_of_what_happens_is_told(is_wrong, remedy):
    found = explain(SESSION, SIGNATURE, Failing(lambda case: is_wrong(case.session)), seconds=1e9)
    assert remedy in [str(change) for change in found.remedies]


def test_a_session_that_makes_fewer_keys_explains_nothing():
    def keys(case):
        return sum(r.length // 2 - r.start // 2 for rows in follow(case.session) for r in rows)

    every = [n for n in neighbours(SESSION) if n.field.startswith("session.") and n.field != "session.ratio"]
    assert min(keys(neighbour.case) for neighbour in every) == keys(SESSION)
    assert {"session.steps", "session.overlap", "session.steps[1].turns[0].new"} <= {n.field for n in every}
    assert not any(neighbour.field == "session.steps[1]" for neighbour in every)


def test_a_neighbour_of_a_session_differs_in_what_it_says():
    every = list(neighbours(SESSION))
    assert len(every) == len({neighbour.case.id for neighbour in every})
    assert all(neighbour.case != SESSION for neighbour in every)
    single = next(n.case.session for n in every if n.value == "of one token each")
    assert [[(t.request, t.new, t.drafts) for t in step.turns] for step in single.steps[:3]] == [
        [(0, 1, 0)],
        [(0, 1, 0), (1, 1, 0)],
        [(0, 1, 0), (1, 1, 2)],
    ]
