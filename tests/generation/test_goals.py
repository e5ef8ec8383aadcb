"""Goals: what has only ever gone one way is listed with what moves it, and becomes a place to start from."""

import pytest

from indexfuzz.core.case import Case
from indexfuzz.core.comparison import Comparison, Computed
from indexfuzz.generation.goals import AT_ONCE, BLIND_PATIENCE, MOST_GOALS, PATIENCE, STILL_PATIENCE, Goals
from indexfuzz.generation.levers import levers, reach
from indexfuzz.generation.measures import SIZES, measure, number_of
from indexfuzz.generation.sights import NEAREST, RARE


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


def aims(goal):
    """All that may turn the comparison of a goal, in its case."""
    return {aim for which in range(24) for aim in goal.turn.aims(measure(goal.case), which)}


def test_what_others_have_seen_counts_too():
    goals, others = seen(lambda case: (case.batch.keys, 4096)), Goals()
    add(others, Case(), 4097, 4096)
    add(others, Case(), 1, 2, text="a > b")
    assert (goals.turned(), len(goals.unturned())) == (0, 1)
    goals.join(others)
    assert goals.turned() == 1
    assert [place.text for place in goals.unturned()] == ["a > b"]
    assert len(others.unturned()) == 2


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
    assert any(aim in aims(goal) for goal in goals.plan())
    (turned,) = seen(lambda case: make(case)[::-1]).unturned()
    assert aim in turned.aims


def test_a_product_leads_to_either_factor():
    goals = seen(lambda case: (case.batch.keys * case.model.index_topk, 20000))
    for goal in goals.plan():
        keys, topk = goal.case.batch.keys, goal.case.model.index_topk
        assert {("keys", -(-20000 // topk)), ("index_topk", -(-20000 // keys))} <= aims(goal)


def test_a_remainder_leads_to_numbers_that_have_it():
    goals = seen(lambda case: (case.batch.keys % 16, 13), text="x % 16 > 13")
    (goal, *_) = goals.plan()
    values = [value for name, value in aims(goal) if name == "keys"]
    assert values
    assert all(value % 16 == 13 for value in values)


def test_what_the_source_calls_a_remainder_is_taken_for_nothing_else():
    case = Case().replace(batch={"decode": (8,), "max_model_len": 8})
    for text, forms in (("x % 16 > 13", {"modulo"}), ("x * y > 13", {"times"})):
        goals = Goals()
        add(goals, case, 8, 13, text=text)
        assert {guess.form for guess in goals.plan()[0].turn.left.guesses} == forms


def test_what_a_remainder_was_made_of_tells_the_measure_where_its_value_does_not():
    told, plain = Goals(), Goals()
    for keys in (16, 48, 96, 160):
        case = Case().replace(batch={"gather_pad": keys})
        add(told, case, Computed.of(0, (keys, 16)), 3, text="x % 16 > 3")
        add(plain, case, 0, 3, text="x % 16 > 3")
    names = [{str(guess) for guess in goals.plan()[0].turn.left.guesses} for goals in (told, plain)]
    assert names[0] == {"keys % 16", "prefill_logits_stride % 16"}
    assert "head_dim % 16" in names[1]


@pytest.mark.parametrize(("factor", "wanted"), [(1, "keys * 1"), (1000, "keys * 1000")])
def test_what_a_product_was_made_of_tells_its_factor(factor, wanted):
    goals = Goals()
    for keys in (16, 48, 96, 160):
        case = Case().replace(batch={"gather_pad": keys})
        add(goals, case, Computed.of(factor * keys, (factor, keys)), 1 << 30, text="x * y > z")
    assert wanted in map(str, goals.plan()[0].turn.left.guesses)


def test_what_a_part_is_not_known_by_is_explained_by_its_value():
    goals = Goals()
    for keys in (16, 48, 97, 160):
        case = Case().replace(batch={"gather_pad": keys})
        add(goals, case, Computed.of(keys % 7, (keys + (7 << 30), 7)), 3, text="f(x) % 7 > 3")
    assert ("keys", 7) in {(guess.name, guess.number) for guess in goals.plan()[0].turn.left.guesses}


def test_a_word_leads_to_the_option_that_may_be_it():
    goals = Goals()
    for style in ("neox", "neox", "interleaved"):
        case = Case().replace(rope={"style": style, "mode": "inplace"}, memory={"k_pad": 3})
        goals.add(case, [Comparison("a.py", 3, "m == 'functional'", False, "inplace", "functional")])
    aim = ("mode", number_of("functional"))
    assert all(aims(goal) == {aim} for goal in goals.plan())
    assert reach(case, *aim, levers(case)).rope.mode == "functional"


def test_what_a_tensor_holds_is_looked_at_where_no_size_explains_an_operand():
    goals = Goals()
    for tokens in (3, 7, 20, 33):
        case = Case().replace(cache={"block_size": 16}, batch={"decode": (tokens, tokens % 5, 90), "max_model_len": 99})
        held = measure(case)["context_lens.sum"]
        assert held == tokens + tokens % 5 + 90
        add(goals, case, held, 500)
    names = {guess.name for goal in goals.plan() for guess in goal.turn.left.guesses}
    assert "context_lens.sum" in names


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
    assert (goals.unturned(), goals.turned()) == ([], 1)


def test_the_cases_that_came_closest_are_those_to_start_from():
    goals = seen(lambda case: (case.model.index_topk, 3000))
    by_topk = sorted(cases(), key=lambda case: -case.model.index_topk)
    plan = goals.plan()[:NEAREST]
    assert [goal.case for goal in plan] == by_topk[:NEAREST]
    assert [goal.gap for goal in plan] == [3000 - case.model.index_topk for case in by_topk[:NEAREST]]


def test_a_case_that_has_shown_what_was_never_seen_is_the_one_to_start_from():
    goals = seen(lambda case: (case.batch.keys, 100))
    for seed in range(RARE):
        add(goals, Case().replace(values={"seed": seed}), 0, 100)
    rare = Case().replace(batch={"gather_pad": 200})
    add(goals, rare, 200, 100)
    assert {(goal.case.id, goal.gap) for goal in goals.plan()} == {(rare.id, 0)}
    for more in range(1, RARE):
        add(goals, rare.replace(batch={"gather_pad": 200 + more}), 200 + more, 100)
    assert not goals.plan()


def plans(goals):
    """How many cases are steered until nothing is a goal any more."""
    count = 0
    while plan := goals.plan():
        count += len(plan)
        assert count < 1000
    return count


def test_a_goal_that_nothing_comes_closer_to_is_given_up_until_something_does():
    goals = seen(lambda case: (case.batch.keys, 1 << 12))
    assert plans(goals) == PATIENCE
    assert str(goals.unturned()[0]).endswith(f"; {PATIENCE} cases were steered there")
    add(goals, Case().replace(batch={"gather_pad": 300}), 300, 1 << 12)
    assert plans(goals) == 0
    add(goals, Case().replace(batch={"gather_pad": 3000}), 3000, 1 << 12)
    assert plans(goals) == PATIENCE


def test_a_goal_whose_operands_no_case_has_moved_is_given_up_sooner():
    assert plans(seen(lambda case: (10**9, (1 << 40) + 1))) == BLIND_PATIENCE
    assert plans(seen(lambda case: (7, 1 << 12))) == STILL_PATIENCE
    assert plans(seen(lambda case: (10**9 + 7 * case.batch.keys**2, 1 << 31), text="f(x) > y")) == PATIENCE


def test_a_plan_is_of_several_goals_and_begins_with_what_was_tried_least():
    goals = Goals()
    for line in range(1, 5):
        for case in cases():
            goals.add(case, [Comparison("a.py", line, f"x > {4096 + line}", False, case.batch.keys, 4096 + line)])
        plan = goals.plan()
    assert len(plan) == MOST_GOALS < 4 * AT_ONCE
    assert [goal.place[1] for goal in plan[:3]] == [4, 4, 3]


def test_every_other_goal_stands_where_the_fewest_cases_have_come():
    goals = Goals()
    for number, case in enumerate(cases()):
        for line in range(1, 10 if number < 2 else 9):
            goals.add(case, [Comparison("a.py", line, f"x > {line}000", False, case.batch.keys, 1000 * line)])
    for _ in range(3):
        places = [goal.place[1] for goal in goals.plan()]
        assert places.count(9) == AT_ONCE
        assert len(set(places)) == 1 + MOST_GOALS - AT_ONCE


def test_places_that_ask_for_the_same_do_not_crowd_out_others():
    goals = Goals()
    for case in cases():
        for line, text in ((1, "x > 4096"), (2, "x > 4096"), (3, "y > 4096")):
            goals.add(case, [Comparison("a.py", line, text, False, case.batch.keys, 4096)])
    assert [goal.place[1] for goal in goals.plan()[:3]] == [1, 3, 2]


def test_places_that_have_ended_alike_in_every_case_count_as_one():
    goals = Goals()
    for number, case in enumerate(cases()):
        for line, text, holds in ((1, "is_a", number == 2), (2, "is_b", number == 2), (3, "is_c", number == 3)):
            goals.add(case, [Comparison("a.py", line, text, holds, None, None)])
    assert [goal.place[1] for goal in goals.plan()[:4]] == [1, 3, 2, 3]


def test_what_an_operand_is_in_most_cases_is_known_though_some_are_odd():
    def operands(case):
        return (case.batch.keys if case.model.index_topk != 64 else 77), 4096

    goals = seen(operands)
    assert all(("keys", 4096) in aims(goal) for goal in goals.plan())
    add(goals, Case().replace(batch={"gather_pad": 5}), 99, 4096)
    assert all(("keys", 4096) in aims(goal) for goal in goals.plan())


def test_nothing_is_known_of_an_operand_that_is_something_else_in_most_cases():
    goals = seen(lambda case: ({5: 77}.get(case.model.index_topk, 1000 + case.model.index_topk**2 % 97), 4096))
    assert all(goal.turn is None for goal in goals.plan())


JOINED = [("a.py", 3, "x > 30"), ("a.py", 3, "y == 7")]


def joined(case):
    """What `x > 30 and y == 7` compares, where x is how many keys there are and y the index_topk."""
    keys, topk = case.batch.keys, case.model.index_topk
    yield Comparison(*JOINED[0], keys > 30, keys, 30, False)
    if keys > 30:
        yield Comparison(*JOINED[1], topk == 7, topk, 7)


def test_a_goal_behind_another_condition_says_what_it_takes_to_come_there():
    goals = Goals()
    for case in cases():
        goals.add(case, joined(case))
    behind = [goal for goal in goals.plan() if goal.turn.text == "y == 7"]
    assert behind
    for goal in behind:
        assert goal.case.batch.keys > 30
        (kept,) = goal.keep
        assert (kept.text, kept.wanted) == ("x > 30", True)
        assert [kept.holds(measure(case)) for case in cases()] == [False, False, False, True]


def test_the_end_that_settles_a_joined_condition_is_no_goal():
    for settles, count in ((None, 2), (False, 1)):
        goals = Goals()
        for case in cases():
            goals.add(case, [Comparison("a.py", 3, "x > 0", True, case.batch.keys, 0, settles)])
            goals.add(case, [Comparison("a.py", 3, "y > 0", True, case.model.index_topk, 0)])
        assert len({goal.turn.text for goal in goals.plan()}) == count


def test_every_measure_is_a_number_of_every_case():
    assert all(type(of(case)) is int for of in SIZES.values() for case in (Case(), *cases()))
