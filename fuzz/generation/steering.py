"""Steering: some of the cases of a stream take cases that came close to a goal further, or vary what was rare."""

import math
from collections.abc import Sequence

from indexfuzz.core.case import Case
from indexfuzz.generation.affording import is_affordable, lighten
from indexfuzz.generation.blending import splice
from indexfuzz.generation.choices import Choices
from indexfuzz.generation.conditions import Condition
from indexfuzz.generation.goals import Goal
from indexfuzz.generation.levers import Lever, levers, movers, reach, with_other_words
from indexfuzz.generation.measures import CONTENTS, OPTIONS, measure
from indexfuzz.generation.solving import solve

OFFSETS = (0, 0, 0, 0, -1, 1)

SPLICED = (1, 2, 4, 8, 16, 24)
"""Fields that a case takes from another one: of few, what was rare stays; of many, all else is as new as may be."""

ROUNDS = 24
"""Changes that are tried on the way to a goal, without running anything."""

ENOUGH = 3
"""Changes that are made once all conditions hold; one where none are known, for what matters may then get lost."""

DECISIONS = 2 * 64 * ROUNDS
"""Bytes that decide how a case is steered."""


def steer(fresh: Case, goal: Goal, choices: Choices, *, is_pinned: bool = False) -> Case:
    """A case on the way to a goal; the fresh one where that would be too much work.

    Every other one starts from the fresh case, for what a goal reaches may depend on what nobody compares; the rest,
    and those that do not get there, start from the goal's. With `is_pinned`, the model, its RoPE and the size of its
    pages stay.
    """
    which, is_fresh = choices.number(1), choices.of((True, False))
    starts = (fresh, goal.case) if is_fresh and goal.conditions else (goal.case,)
    found: Case | None = None
    for start in starts:
        found, left = _climb(start, fresh, goal, choices, which, is_pinned=is_pinned)
        if not left:
            break
    return found or fresh


def _climb(
    start: Case, fresh: Case, goal: Goal, choices: Choices, which: int, *, is_pinned: bool
) -> tuple[Case | None, float]:
    """A changed case that meets more of a goal's conditions, and what it misses; None where no change does.

    They are solved by hill climbing, which runs nothing: what makes one of them hold is changed, or fields are taken
    from the fresh case, and a change that leaves no more to do stays.
    """
    conditions, now = goal.conditions, None
    best = _miss(start, conditions, which)
    enough = ENOUGH if conditions else 1
    for _ in range(ROUNDS):
        changed = _change(now or start, fresh, goal, choices, which, is_pinned=is_pinned)
        lighter = lighten(changed, is_pinned=is_pinned) if changed is not None else ()
        affordable = next(filter(is_affordable, lighter), None)
        if affordable is None:
            continue
        left = _miss(affordable, conditions, which)
        if left <= best:
            now, best = affordable, left
            enough -= not left
        if not enough:
            break
    return now, best if now else math.inf


def _miss(case: Case, conditions: Sequence[Condition], which: int) -> float:
    """How far a case is from all of some conditions."""
    measures = measure(case)
    return sum(condition.miss(measures, which) for condition in conditions)


def _change(case: Case, fresh: Case, goal: Goal, choices: Choices, which: int, *, is_pinned: bool) -> Case | None:
    """The case with a condition mended, or with fields of the fresh one; None where that cannot be.

    Where nothing is known to turn the comparison, some number is moved by what is missing.
    """
    measures = measure(case)
    broken = [condition for condition in goal.conditions if not condition.holds(measures, which)]
    is_mended = choices.of((True, True, False))
    if is_mended and broken:
        return mend(case, broken[choices.number(1) % len(broken)], choices, which, is_pinned=is_pinned)
    if is_mended and goal.gap and goal.turn is None and case == goal.case:
        among = levers(case, is_pinned=is_pinned)
        lever = among[choices.number(1) % len(among)]
        return lever.set(case, lever.now + choices.of((goal.gap, goal.gap, -goal.gap)))
    return splice(case, fresh, choices.of(SPLICED), choices, is_pinned=is_pinned)


def mend(case: Case, condition: Condition, choices: Choices, which: int, *, is_pinned: bool = False) -> Case | None:
    """The case with one measure where a condition may hold; None where nothing brings it there."""
    measures = measure(case)
    aims = condition.aims(measures, which)
    if not aims:
        return None
    name, value = aims[choices.number(1) % len(aims)]
    if name in CONTENTS:
        solved = solve(case, condition, (name, value), which, choices.number(4), is_pinned=is_pinned)
        return solved or reseed(case, choices)
    among = movers(case, name, is_pinned=is_pinned)
    if name in OPTIONS and value == measures[name]:  # no other word is as near as the next number is
        others = with_other_words(case, among, name)
        return others[choices.number(1) % len(others)] if others else None
    start = choices.number(1) % max(len(among), 1)
    offset = 0 if name in OPTIONS else choices.of(OFFSETS)
    among = among[start:] + among[:start]
    return reach(case, name, value + offset, among) or _beyond(case, condition, which, among)


def _beyond(case: Case, condition: Condition, which: int, among: Sequence[Lever]) -> Case | None:
    """The case with a number of it so much larger or smaller that a condition holds: some measures have few values."""
    for lever in among:
        for value in (2 * lever.now, 8 * lever.now, lever.now // 2, lever.now // 8):
            there = lever.set(case, value) if value != lever.now else None
            if there is not None and condition.holds(measure(there), which):
                return there
    return None


def reseed(case: Case, choices: Choices) -> Case:
    """The case with everything drawn anew that its seed decides."""
    return case.replace(values={"seed": choices.number(4)})
