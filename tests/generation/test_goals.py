"""Goals: what has only ever gone one way is listed with the size that moves it."""

import pytest

from indexfuzz.core.case import Case
from indexfuzz.core.comparison import Comparison
from indexfuzz.generation.aims import LIMITS, Aim
from indexfuzz.generation.goals import SIZES, Goals


def cases():
    for tokens, topk in ((3, 5), (7, 2048), (20, 64), (33, 1)):
        batch = {"prefill": ({"length": tokens, "new": tokens},), "gather_pad": 1, "pad_tokens": 2}
        yield Case().replace(model={"num_heads": 2, "index_topk": topk}, batch=batch)


def seen(make, *, text="x > y"):
    """Goals after the cases, each with one comparison: `make(case)` gives its operands."""
    goals = Goals()
    for case in cases():
        left, right = make(case)
        goals.add(case, [Comparison("a.py", 3, text, left > right, left, right)])
    return goals


def test_every_size_that_can_be_aimed_at_is_known():
    assert SIZES.keys() == LIMITS.keys()


@pytest.mark.parametrize(
    ("make", "aims"),
    [
        (lambda case: (case.batch.keys, 4096), {Aim("keys", 4096)}),
        (lambda case: (case.model.index_topk, 3000), {Aim("index_topk", 3000)}),
        (lambda case: (case.batch.tokens * case.model.num_heads, 10240), {Aim("head_rows", 10240)}),
        (lambda case: (-(-case.model.index_topk // 64), 40), {Aim("index_topk", 40 * 64)}),
        (lambda case: (case.batch.keys * 32, 1 << 18), {Aim("keys", 1 << 13)}),
    ],
)
def test_operands_lead_to_the_size_that_moves_them(make, aims):
    goals = seen(make)
    (unturned,) = goals.unturned()
    assert set(unturned.aims) == aims
    assert str(unturned).startswith("a.py:3  x > y  always False; may turn at ")
    (turned,) = seen(lambda case: make(case)[::-1]).unturned()
    assert set(turned.aims) == aims


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


def test_what_has_ended_both_ways_is_no_goal():
    goals = seen(lambda case: (case.batch.keys, 10))
    assert (goals.unturned(), goals.turned) == ([], 1)
