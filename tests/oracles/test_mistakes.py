"""The mistakes of a campaign: each is new once, whatever else it shows, and none hides one that was not found here."""

from dataclasses import replace

import pytest

from indexfuzz.core.finding import Finding
from indexfuzz.oracles.mistakes import Mistakes


def finding(signature: str, beyond: str = "") -> Finding:
    stage, _, rest = signature.partition("/")
    kind, _, output = rest.rpartition("/")
    return Finding(stage, kind, output, "", beyond=beyond)


RACE, STRAY, CODES = map(finding, ("gather/race/cache", "gather/out-of-bounds/k_fp8", "gather/code-mismatch/k_fp8"))
LAYOUT, OTHER = finding("gather/layout-mismatch/k_fp8"), finding("rope/bound-exceeded/q")
RELATION = finding("gather/metamorphic/layout/k_fp8")


def test_what_was_not_seen_is_new_and_what_was_found_is_not():
    mistakes = Mistakes()
    assert mistakes.explain(RACE) is None
    assert mistakes.add(RACE) == []
    assert mistakes.explain(RACE) == RACE.signature
    assert mistakes.explain(OTHER) is None


def test_what_follows_from_a_mistake_is_a_symptom_of_it():
    mistakes = Mistakes()
    mistakes.add(RACE)
    assert [mistakes.explain(f) for f in (CODES, RELATION)] == [RACE.signature] * 2
    assert mistakes.symptoms_of(RACE.signature) == [CODES.signature, RELATION.signature]


def test_what_shows_beside_a_mistake_is_a_symptom_then_and_later():
    mistakes = Mistakes()
    mistakes.add(RACE)
    assert mistakes.explain(STRAY) is None
    assert mistakes.explain(STRAY, [RACE, STRAY]) == RACE.signature
    assert mistakes.explain(STRAY) == RACE.signature


def test_stages_and_sides_of_the_contract_stand_for_themselves():
    mistakes = Mistakes()
    mistakes.add(RACE)
    assert mistakes.explain(OTHER, [RACE, OTHER]) is None
    without = finding("gather/out-of-bounds/k_fp8", beyond="block_size is 1")
    assert mistakes.explain(without, [RACE, without]) is None


def test_a_cause_that_is_found_later_takes_its_symptoms_with_it():
    mistakes = Mistakes()
    for found in (RACE, STRAY, OTHER):
        mistakes.add(found)
    assert mistakes.add(LAYOUT) == [RACE.signature, STRAY.signature]
    assert mistakes.explain(RACE) == mistakes.explain(STRAY) == LAYOUT.signature
    assert mistakes.explain(OTHER) == OTHER.signature


def test_what_a_symptom_explains_is_a_symptom_of_the_same_mistake():
    """A view is wrong in two stages; a wrong value in the second was seen before that was known."""
    here, there = (
        replace(finding(text), view="layout.py:7")
        for text in ("rope/out-of-bounds/q_ptr", "gather/out-of-bounds/q_ptr")
    )
    mistakes = Mistakes()
    for found in (CODES, here):
        assert mistakes.explain(found) is None
        assert mistakes.add(found) == []
    assert mistakes.explain(there) == here.signature
    assert mistakes.add(there) == [CODES.signature]
    assert mistakes.explain(CODES) == mistakes.explain(RELATION) == here.signature
    assert mistakes.symptoms_of(here.signature) == [there.signature, CODES.signature, RELATION.signature]


def test_what_was_known_before_hides_itself_and_relations_alone():
    mistakes = Mistakes({RACE.signature})
    assert mistakes.explain(RACE) == mistakes.explain(RELATION) == RACE.signature
    assert [mistakes.explain(f, [RACE, f]) for f in (STRAY, CODES)] == [None, None]
    assert Mistakes({RELATION.signature}).explain(CODES) is None


def test_what_follows_from_something_in_its_launch_is_put_down_to_that():
    mistakes = Mistakes()
    mistakes.add(RACE)
    assert CODES.signature not in mistakes
    assert mistakes.put_down(CODES, [OTHER, RACE]) == RACE.signature
    assert CODES.signature in mistakes
    assert mistakes.symptoms_of(RACE.signature) == [CODES.signature]
    with pytest.raises(ValueError, match="nothing beside gather/code-mismatch/k_fp8 explains it"):
        mistakes.put_down(CODES, [OTHER])


def test_what_was_known_hides_what_follows_from_it_in_no_other_launch():
    mistakes = Mistakes({RACE.signature})
    assert mistakes.put_down(CODES, [RACE]) == RACE.signature
    assert CODES.signature in mistakes
    assert mistakes.explain(CODES) is None
