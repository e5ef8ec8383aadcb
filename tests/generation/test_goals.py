"""Goals: what has only ever gone one way is listed with what moves it, and becomes a place to start from."""

import pytest

from indexfuzz.core.case import Case
from indexfuzz.core.comparison import Comparison
from indexfuzz.generation.goals import NEAREST, PATIENCE, RARE, Goals
from indexfuzz.generation.measures import MEASURES


def cases():
    for tokens, topk in ((3, 5), (7, 2048), (20, 64), (33, 1)):
        batch = {"prefill": ({"length": tokens, "new": tokens},), "gather_pad": 1, "pad_tokens": 2}
        yield Case().replace(model={"num_heads": 2, "index_topk": topk}, batch=batch)


def seen(make, *, text="x > y"):
    """Goals after the cases, each with one comparison: `make(case)` gives its operands."""
    goals = Goals()
    for case in cases():
        add(goals, case, *make(case), text=text)
    return goals


def add(goals, case, left, right, *, text="x > y"):
    goals.add(case, [Comparison("a.py", 3, text, left > right, left, right)])


@pytest.mark.parametrize(
    ("make", "aim"),
    [
        (lambda case: (case.batch.keys, 4096), ("keys", 4096)),
        (lambda case: (case.model.index_topk, 3000), ("index_topk", 3000)),
        (lambda case: (case.batch.tokens * case.model.num_heads, 10240), ("head_rows", 10240)),
        (lambda case: (-(-case.model.index_topk // 64), 40), ("index_topk", 40 * 64)),
        (lambda case: (case.batch.keys * 32, 1 << 18), ("keys", 1 << 13)),
        (lambda case: (case.batch.keys + 41, 300), ("keys", 259)),
    ],
)
def test_operands_lead_to_the_measure_that_moves_them(make, aim):
    goals = seen(make)
    (unturned,) = goals.unturned()
    assert aim in unturned.aims
    assert str(unturned).startswith("a.py:3  x > y  always False; may turn at ")
    assert any(aim in goal.aims for goal in goals.plan())
    (turned,) = seen(lambda case: make(case)[::-1]).unturned()
    assert aim in turned.aims


def test_a_product_leads_to_either_factor():
    goals = seen(lambda case: (case.batch.keys * case.model.index_topk, 20000))
    for goal in goals.plan():
        keys, topk = goal.case.batch.keys, goal.case.model.index_topk
        assert {("keys", -(-20000 // topk)), ("index_topk", -(-20000 // keys))} <= set(goal.aims)


def test_a_remainder_leads_to_numbers_that_have_it():
    goals = seen(lambda case: (case.batch.keys % 16, 13), text="x % 16 > 13")
    (goal, *_) = goals.plan()
    values = [value for name, value in goal.aims if name == "keys"]
    assert values
    assert all(value % 16 == 13 for value in values)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda case: (7, 4096), "no size was seen to move it"),
        (lambda case: (case.batch.keys, case.model.index_topk + 100), "no size was seen to move it"),
        (lambda case: (case.batch.keys, 1 << 20), "no case has keys 1048576"),
    ],
)
def test_what_cannot_be_reached_has_a_reason(make, reason):
    (unturned,) = seen(make).unturned()
    assert unturned.aims == ()
    assert unturned.reason.startswith(reason)


def test_what_has_ended_both_ways_is_not_listed():
    goals = seen(lambda case: (case.batch.keys, 10))
    assert (goals.unturned(), goals.turned) == ([], 1)


def test_the_cases_that_came_closest_are_those_to_start_from():
    goals = seen(lambda case: (case.model.index_topk, 3000))
    by_topk = sorted(cases(), key=lambda case: -case.model.index_topk)
    assert [goal.case for goal in goals.plan()] == by_topk[:NEAREST]
    assert [goal.gap for goal in goals.plan()] == [3000 - case.model.index_topk for case in by_topk[:NEAREST]]


def test_a_case_that_has_shown_what_was_never_seen_is_the_one_to_start_from():
    goals = seen(lambda case: (case.batch.keys, 100))
    for seed in range(RARE):
        add(goals, Case().replace(values={"seed": seed}), 0, 100)
    rare = Case().replace(batch={"gather_pad": 200})
    add(goals, rare, 200, 100)
    (goal,) = goals.plan()
    assert (goal.case, goal.aims, goal.gap) == (rare, (), 0)
    for more in range(1, RARE):
        add(goals, rare.replace(batch={"gather_pad": 200 + more}), 200 + more, 100)
    assert not goals.plan()


def test_a_goal_that_nothing_comes_closer_to_is_given_up_until_something_does():
    goals = seen(lambda case: (case.batch.keys, 1 << 12))
    assert all(goals.plan() for _ in range(PATIENCE))
    assert not goals.plan()
    add(goals, Case().replace(batch={"gather_pad": 300}), 300, 1 << 12)
    assert goals.plan()


def test_every_measure_is_a_number_of_every_case():
    assert all(type(of(case)) is int for of in MEASURES.values() for case in (Case(), *cases()))
