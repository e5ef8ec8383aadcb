"""Varying: what a goal leaves open is taken from fresh cases, what it needs is left alone, and values always change."""

from itertools import islice

import pytest

from indexfuzz.core.case import Case
from indexfuzz.core.rng import random_bytes
from indexfuzz.generation.blending import blend, differing
from indexfuzz.generation.choices import Choices
from indexfuzz.generation.stream import stream_cases
from indexfuzz.generation.varying import MOST, REGIMES, Variety

BASE = Case().replace(values={"q": "ties"})
FRESH = list(islice(stream_cases(5, ("e4m3fn",)), 40))


def varied(is_met, rounds=60, **options):
    """The cases that a walk goes through, all of which meet something."""
    variety = Variety(FRESH, Choices(random_bytes(1, "varied", 64 * rounds)), **options)
    case, seen = BASE, []
    for _ in range(rounds):
        there = variety.of(case)
        if there is not None:
            variety.learn(is_met=is_met(there))
            case = there if is_met(there) else case
            seen.append(case)
    return seen


def test_nearly_all_becomes_as_fresh_cases_have_it_and_what_is_needed_stays():
    last = varied(lambda case: case.model.num_heads == BASE.model.num_heads and case.memory.k_pad == 0)[-1]
    left = {(part, name) for part, names in differing(last, BASE) for name in names}
    assert last.model.num_heads == BASE.model.num_heads
    assert ("model", "head_dim") in left or ("cache", "block_size") in left
    assert len(left) > 20


def test_values_are_never_those_of_the_case_that_met_it_first():
    regimes = {case.values.q for case in varied(lambda _: True)}
    assert regimes > {"exact", "normal"}
    still = Variety([FRESH[3]], Choices(bytes(64)))
    other = still.with_other_values(BASE)
    assert [getattr(other.values, name) for name in REGIMES[1]] == [
        getattr(FRESH[3].values, name) for name in REGIMES[1]
    ]
    assert other.replace(values=BASE.values.model_dump()) == BASE


def test_fields_that_go_together_are_taken_together_and_those_of_a_preset_never():
    pinned = varied(lambda _: True, is_pinned=True)
    assert all((case.model, case.rope) == (BASE.model, BASE.rope) for case in pinned)
    assert {case.cache.block_size for case in pinned} == {BASE.cache.block_size}
    assert len({case.cache.block_size for case in varied(lambda _: True)}) > 3


@pytest.mark.parametrize(("is_met", "width"), [(True, MOST), (False, 1)])
def test_more_fields_are_taken_at_once_as_long_as_that_meets_it_and_fewer_where_it_does_not(is_met, width):
    variety = Variety(FRESH, Choices(random_bytes(1, "width", 64 * 10)))
    for _ in range(8):
        variety.of(BASE)
        variety.learn(is_met=is_met)
    there = variety.of(BASE)
    changed = [fields for fields in differing(BASE, there) if fields[1][0] not in REGIMES[1]]
    assert len(changed) == width if width == 1 else len(changed) > 8


def test_a_field_that_alone_undoes_it_is_left_alone():
    variety = Variety([BASE.replace(memory={"k_pad": 5})], Choices(bytes(640)))
    changed = []
    for _ in range(6):
        changed.append(variety.of(BASE).memory.k_pad)
        variety.learn(is_met=False)
    assert changed[0] == 5
    assert changed[-1] == 0


def test_what_contradicts_itself_is_no_case():
    other = BASE.replace(batch={"decode": (900,), "max_model_len": 901})
    assert blend(BASE, other, [("batch", ("decode",))]) is None
    assert blend(BASE, other, [("batch", ("decode", "max_model_len"))]) == other
