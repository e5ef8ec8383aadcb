"""Cases that no generator draws: whatever a stranger may write into a case file gets a verdict, and none cries wolf."""

import random
from itertools import islice
from typing import Literal, get_args, get_origin

import pytest

from indexfuzz.core.case import Case
from indexfuzz.core.part import CaseError
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.generation.sessions import sessions
from indexfuzz.generation.stream import draw, stream_cases
from indexfuzz.implementations.builtin import builtin
from indexfuzz.oracles import schedule

NUMBERS = (0, 1, 2, 3, 4, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 96, 127, 128, 130)
PARTS = ("model", "cache", "batch", "rope", "memory", "values", "session")
MOST = 4000
"""Tokens times heads, and keys: more take seconds each."""


def other(choose: random.Random, field, value):
    """Another value of the type of a field; a sequence loses one of its items."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return choose.choice(NUMBERS)
    if get_origin(field.annotation) is Literal:
        return choose.choice(get_args(field.annotation))
    if isinstance(value, tuple) and value:
        items = [item.model_dump() if hasattr(item, "model_dump") else item for item in value]
        del items[choose.randrange(len(items))]
        return tuple(items)
    return value


def changed(case: Case, seed: int) -> Case:
    """A case with some fields changed, as far as it may say so."""
    choose = random.Random(seed)
    for _ in range(12):
        part = choose.choice(PARTS)
        name, field = choose.choice(list(type(getattr(case, part)).model_fields.items()))
        try:
            new = case.replace(**{part: {name: other(choose, field, getattr(getattr(case, part), name))}})
        except CaseError:
            continue
        if (
            new.batch.tokens * new.model.num_heads <= MOST
            and new.batch.keys <= MOST
            and new.batch.max_model_len <= MOST
        ):
            case = new
    return case


@pytest.mark.parametrize("kind", ["steps", "sessions"])
def test_a_case_of_a_stranger_ends_in_a_verdict(kind):
    device, tested = LockstepDevice(), builtin()
    drawn = draw(sessions(), 5, 40) if kind == "sessions" else [*islice(stream_cases(5, ("e4m3fn",)), 25)]
    for seed, case in enumerate(drawn):
        strange = changed(case, seed)
        if strange.batch.tokens * strange.model.num_heads <= MOST and strange.batch.keys <= MOST:
            assert schedule.run(strange, tested, device).findings == [], strange.canonical_json()
