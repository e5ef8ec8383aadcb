"""Explaining: the change that makes a case pass is named, and so is what does not matter."""

from types import SimpleNamespace

import pytest

from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.outcome import Outcome
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

    def ask(self, case, _signature):
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
    assert found.remedies == ()
    first, second = found.lines()
    assert first == "No single change that was tried makes it pass."
    assert second == "Does not matter: cache, rope, batch, memory, model, values."


def test_of_a_part_of_which_something_matters_the_rest_is_told():
    *_, last = explain(CASE, SIGNATURE, Failing(lambda case: case.rope.style == "neox"), seconds=1e9).lines()
    assert last == "Does not matter: cache, rope but for style, batch, memory, model, values."


def test_what_no_contract_covers_explains_nothing():
    subject = Failing(lambda case: case.cache.block_size == 1, covers=lambda case: case.cache.block_size == 1)
    found = explain(CASE, SIGNATURE, subject, seconds=1e9)
    assert found.remedies == ()
    assert "cache.block_size" not in found.indifferent


def test_what_has_to_be_rejected_explains_nothing():
    class Refusing(Failing):
        def ask(self, case, signature):
            outcome = super().ask(case, signature)
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
        def ask(self, case, signature):
            outcome = super().ask(case, signature)
            return outcome if outcome.findings else Outcome(case, [Finding("gather", "shape", "", "worse")], ["gather"])

    assert explain(CASE, SIGNATURE, Other(lambda case: case.cache.block_size == 1), seconds=1e9).remedies == ()


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
