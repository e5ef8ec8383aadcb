"""Solving: what tables, positions and owners hold is brought to where a condition holds, on the case alone."""

import pytest

from indexfuzz.core.case import Case
from indexfuzz.generation.affording import is_affordable
from indexfuzz.generation.conditions import Condition, Operand
from indexfuzz.generation.guess import Guess
from indexfuzz.generation.levers import levers
from indexfuzz.generation.measures import measure
from indexfuzz.generation.solving import options_of, solve

BASE = Case().replace(
    model={"num_heads": 2},
    cache={"block_size": 16},
    batch={
        "decode": (5, 30, 70),
        "prefill": ({"length": 40, "new": 7}, {"length": 90, "new": 3}),
        "max_model_len": 128,
        "next_n": 2,
    },
)

KEYS = range(20)
"""Keys that decide how a condition is solved, each in another way."""


def of(*, sign, left, right):
    """A condition of what one guess says and a number or another guess."""
    sides = (one if isinstance(one, Operand) else Operand(guesses=(one,)) for one in (left, right))
    return Condition(f"x {sign} y", *sides, wanted=True)


CONDITIONS = {
    "a sum": of(sign="==", left=Guess("decode_table.sum"), right=Operand(57)),
    "a negative sum": of(sign="<=", left=Guess("decode_table.sum"), right=Operand(-300)),
    "a sum of what is nobody's": of(sign=">=", left=Guess("decode_table.sum"), right=Operand(5 << 30)),
    "a remainder of a sum": of(sign="==", left=Guess("prefill_table.sum", "modulo", 64), right=Operand(59)),
    "the last beside the least": of(sign="==", left=Guess("decode_table.last"), right=Guess("decode_table.min")),
    "a product of two": of(
        sign=">=", left=Guess("req_table.sum", "times", second="tokens"), right=Operand(700_000_000_000)
    ),
    "an owner that is none": of(sign="==", left=Guess("token_to_seq.last"), right=Operand(1 << 30)),
    "positions": of(sign="<", left=Guess("positions.max"), right=Operand(20)),
    "windows that end beyond": of(sign=">=", left=Guess("ke.sum"), right=Operand(3 << 30)),
    "the least length": of(sign="==", left=Guess("context_lens.min"), right=Operand(71)),
}
LEAST = {"a sum": 2, "a negative sum": 5, "a remainder of a sum": 8, "an owner that is none": 6}
"""Of all keys, how many meet a condition, where that is less than half."""


def solved(condition, start, key):
    aim, *_ = condition.aims(measure(start))
    return solve(start, condition, aim, 0, key) or start


@pytest.mark.parametrize("name", CONDITIONS)
def test_what_tensors_hold_is_brought_to_where_a_condition_holds(name):
    condition = CONDITIONS[name]
    assert not condition.holds(measure(BASE))
    found = [solved(condition, BASE, key) for key in KEYS]
    assert sum(condition.holds(measure(case)) for case in found) >= LEAST.get(name, len(KEYS) // 2)
    assert all(is_affordable(case) for case in found)


def test_what_no_case_has_is_come_closer_to_at_best():
    """Pages are counted from 0 on, or are -1."""
    condition = of(sign="<", left=Guess("decode_table.min"), right=Operand(-1))
    assert not any(condition.holds(measure(solved(condition, BASE, key))) for key in KEYS)


def test_a_preset_stays():
    condition = CONDITIONS["a sum"]
    aim, *_ = condition.aims(measure(BASE))
    found = [solve(BASE, condition, aim, 0, key, is_pinned=True) or BASE for key in KEYS]
    assert all((case.model, case.rope, case.cache.block_size) == (BASE.model, BASE.rope, 16) for case in found)


def test_options_are_known_of_tensors_that_they_change():
    names = {name: {switch[1] for switch in options_of(name)} for name in ("decode_table.sum", "ke.last", "tokens")}
    assert names["decode_table.sum"] >= {"pages", "table_tail"}
    assert names["ke.last"] >= {"empty_windows", "long_windows"}
    assert names["tokens"] == set()


@pytest.mark.parametrize(
    ("name", "value", "decode"),
    [
        *(("decode_context", 20, (5, 20, 20)), ("decode_context", 99, (5, 30, 99))),
        *(("shortest", 40, (40, 40, 70)), ("shortest", 1, (1, 30, 70))),
        *(("context", 6, (5, 6, 6)), ("context", 64, (5, 30, 64)), ("context", 99, (5, 30, 70))),
    ],
)
def test_the_longest_and_the_shortest_request_are_as_long_as_they_are_set(name, value, decode):
    (lever,) = (one for one in levers(BASE) if one.name == name)
    moved = lever.set(BASE, value)
    assert moved.batch.decode == decode
    assert name != "context" or max(moved.lengths) == value


def test_prefill_requests_that_are_cut_have_no_more_new_tokens():
    (lever,) = (one for one in levers(BASE) if one.name == "context")
    assert [(one.length, one.new) for one in lever.set(BASE, 6).batch.prefill] == [(6, 6), (6, 3)]
