"""Conditions inside kernels as goals: nothing rehearses them, so only those count of which something is known."""

import pytest

from indexfuzz.core.case import Case
from indexfuzz.core.comparison import Comparison
from indexfuzz.generation.goals import MOST_GOALS, MOST_INSIDE, Goals
from indexfuzz.generation.measures import measure
from indexfuzz.generation.sights import RARE_INSIDE, SAMPLES, SURE

LENGTHS = (3, 7, 20, 33, 64, 90, 100, 129, 200)


def case_of(length):
    batch = {"prefill": ({"length": length, "new": length},), "pad_tokens": length % 4, "gather_pad": length % 5}
    return Case().replace(batch=batch, cache={"spare_blocks": length % 3})


def add(goals, case, left, right, *, line=3, inside=True):
    goals.add(case, [Comparison("a.py", line, "x < y", left < right, left, right, inside=inside)])


def seen(make):
    """Goals after cases that each make one comparison in a kernel."""
    goals = Goals()
    for length in LENGTHS:
        case = case_of(length)
        add(goals, case, *make(case))
    return goals


def last_lane(count, tile=64):
    return -(-count // tile) * tile - 1


@pytest.mark.parametrize(
    ("make", "aim"),
    [
        (lambda case: (case.batch.keys, 4096), ("keys", 4096)),
        (lambda case: (case.batch.tokens * case.model.num_heads, 5000), ("head_rows", 5000)),
        (lambda case: (last_lane(case.batch.keys), 8191), ("keys", 8192)),
        (lambda case: (last_lane(case.batch.tokens, 32), 777), ("tokens", 778)),
    ],
)
def test_operands_lead_to_the_measure_that_moves_them(make, aim):
    goals = seen(make)
    plan = goals.plan()
    found = {aim for goal in plan for which in range(24) for aim in goal.turn.aims(measure(goal.case), which)}
    assert aim in found
    (unturned,) = goals.unturned()
    assert "may turn at" in str(unturned)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda case: (case.batch.keys - 1, case.batch.keys), "keys - 1 is compared with keys"),
        (lambda case: (case.batch.tokens, case.batch.tokens + 4), "tokens is compared with tokens + 4"),
        (lambda _case: (64, 128), "64 is compared with 128 in every case"),
        (lambda case: (case.memory.shift, case.batch.gather_holes + 1), "0 is compared with 1 in every case"),
        (lambda _case: ("fp32", "ue8m0"), "fp32 is compared with ue8m0 in every case"),
    ],
)
def test_what_no_case_can_turn_is_no_goal_and_says_why(make, reason):
    goals = seen(make)
    assert len(LENGTHS) >= SURE
    assert not goals.plan()
    (unturned,) = goals.unturned()
    assert unturned.reason == reason


def test_what_seemed_to_move_together_is_a_goal_again_once_it_does_not():
    goals = seen(lambda case: (case.batch.keys - 1, case.batch.keys))
    add(goals, case_of(11), 10, 300)
    assert not goals.unturned()[0].reason.startswith("keys")


def test_the_latest_operands_are_kept_of_what_nothing_explains():
    goals = Goals()
    for number in range(2 * SAMPLES):
        add(goals, case_of(3 + number % 5), 10**9 + number**2, 1 << 31)
    assert goals.unturned()[0].reason == "no size was seen to move it"
    for _ in range(SAMPLES):
        add(goals, case_of(3), 7, 9)
    assert goals.unturned()[0].reason == "7 is compared with 9 in every case"


def test_what_nothing_is_known_to_move_is_no_goal():
    assert not seen(lambda case: (7 * case.batch.keys**2 + 10**9, 1 << 31)).plan()


def test_a_plan_leaves_room_for_what_can_be_rehearsed():
    goals, both = Goals(), Goals()
    for length in LENGTHS:
        case = case_of(length)
        for line in range(1, 6):
            add(goals, case, case.batch.keys, 1 << 12, line=line)
            add(both, case, case.batch.keys, 1 << 12, line=line)
            add(both, case, case.batch.keys, 1 << 12, line=line + 10, inside=False)
    assert len(goals.plan()) == MOST_GOALS
    places = [goal.place[1] for goal in both.plan()]
    assert len(places) == MOST_GOALS
    assert sum(line < 10 for line in places) == MOST_INSIDE


def test_few_cases_that_have_shown_an_end_are_enough():
    goals = seen(lambda case: (case.batch.keys, 1 << 12))
    for more in range(RARE_INSIDE):
        assert goals.plan()
        add(goals, case_of(5000 + more), 5000 + more, 1 << 12)
    assert not goals.plan()
