"""Searching: a case is brought to a goal by rehearsing it, which tells what the code under test would decide in it.

This is search-based testing as it is known since Korel (1990): how far a case is from a goal is how many decisions it
lacks to come there, then how far the operands are apart where it takes the other way. Numbers of the case are moved one
at a time; what moves an operand, and how much, is seen by trying. A turn may lead to code that no case has reached: the
search goes on with what is decided there, so that conditions that are joined are met in one go.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from indexfuzz.core.case import Case
from indexfuzz.core.comparison import Place
from indexfuzz.generation.affording import is_affordable, lighten
from indexfuzz.generation.blending import splice
from indexfuzz.generation.choices import Choices
from indexfuzz.generation.conditions import Condition, is_comparison
from indexfuzz.generation.decisions import Decisions, Pair, explain_operands
from indexfuzz.generation.goals import Goal
from indexfuzz.generation.levers import LEAST, Lever, levers
from indexfuzz.generation.measures import Measures, measure
from indexfuzz.generation.scouting import Rehearse, Scout
from indexfuzz.generation.steering import SPLICED, mend, reseed
from indexfuzz.generation.switches import flip
from indexfuzz.generation.varying import Variety

REHEARSALS = 40
"""Cases that are rehearsed on the way to a goal."""

BEHIND = 20
"""As many more, each time that a turn has led to what no case has decided before: what is near should be reached."""

MOST_REHEARSALS = 160
"""Cases that are rehearsed in one search at most."""

VARIED = 4
"""Cases of a search that meets its goal, all of which are run: what it reaches may depend on what nobody compares."""

FEW = 3
"""Guesses at an operand of which one is likely right."""

MOST_SAMPLES = 16
"""Rehearsed cases that are looked at for what operands may be."""

VARIATIONS = 6
"""Changes from one of these to the next."""

DECISIONS = 2 * 64 * (MOST_REHEARSALS + VARIED * VARIATIONS)
"""Bytes that decide how a case is searched for."""

HOPELESS = 20
"""Rehearsals after which a search ends that nothing has come closer in."""

DETOUR = 6
"""Changes of a detour."""

STEPS = (1, -1, 2, -2, 4, 16, -16, 64)
"""Steps by which a number of a case is moved to see what it moves."""


@dataclass(frozen=True)
class Found:
    """Cases that meet a goal, or one that comes closer to it, if any does, and the stages that come to its place."""

    cases: tuple[Case, ...]
    stages: frozenset[str]


def search(
    fresh: Case,
    goal: Goal,
    rehearse: Rehearse,
    choices: Choices,
    scouts: Sequence[Scout] = (),
    *,
    is_pinned: bool = False,
) -> Found | None:
    """Search for a case that meets a goal; None where rehearsals do not come to its place.

    Every other search starts from the nearest of every other scout, if that comes to the place at all.
    """
    base = rehearse(goal.case, ())
    stages = tuple(stage for stage, seen in base.items() if any(goal.place == one.place for one in seen))
    if not stages:
        return None
    cases = _Search(fresh, goal, rehearse, choices, stages, scouts, is_pinned=is_pinned).run()
    return Found(cases, frozenset(stages))


class _Search:
    """One search: the case that came closest so far, and the decisions to be turned, one behind the other."""

    def __init__(
        self,
        fresh: Case,
        goal: Goal,
        rehearse: Rehearse,
        choices: Choices,
        stages: Sequence[str],
        scouts: Sequence[Scout],
        *,
        is_pinned: bool,
    ) -> None:
        self._fresh, self._goal, self._choices, self._is_pinned = fresh, goal, choices, is_pinned
        self._rehearse, self._stages = rehearse, stages
        self._left, self._more = REHEARSALS, MOST_REHEARSALS - REHEARSALS
        self._looked_at = dict[str, Decisions]()
        self._chain: list[tuple[Place, bool]] = [(goal.place, goal.wanted)]
        self._moving: dict[Place, list[str]] = {}
        self._samples: dict[Place, list[tuple[Measures, tuple[Pair, ...]]]] = {}
        self._conditions: dict[Place, tuple[int, Condition | None]] = {}
        self._case, self._seen = goal.case, self._look(goal.case)
        self._known, self._passed = goal.known.union(self._seen.ends), self._before(self._seen)
        start = choices.number(1)
        there = [(scout.case, scout.decides(stages)) for scout in scouts[start % 2 :: 2] if start & 2]
        near = [(case, seen) for case, seen in there if goal.place in seen.ends]
        if near:
            self._case, self._seen = min(near, key=lambda one: self._missed(one[1]))
            self._remember(self._case, self._seen)
            self._known, self._passed = self._known.union(self._seen.ends), self._before(self._seen)
        self._most = self._case
        self._variety = Variety((fresh, *(scout.case for scout in scouts)), choices, is_pinned=is_pinned)

    def run(self) -> tuple[Case, ...]:
        """Change the case as long as there are rehearsals left, and keep what leaves no more to do.

        What is missed last may be had at the price of what was met before: a detour leads over cases that are further
        away, back to the best one unless it comes closer in time.
        """
        start, best, detour = self._seen, (self._case, self._seen), 0
        met, given_up, left_to_vary = dict[str, Case](), self._left - HOPELESS, 2 * VARIED
        for _ in range(2 * MOST_REHEARSALS):
            missed = self._missed(self._seen)
            if not missed and self._go_on():
                missed, given_up = self._missed(self._seen), self._left - HOPELESS
            if self._left <= max(given_up, 0) or len(met) >= VARIED or not left_to_vary:
                break
            if not missed:
                met |= self._vary(is_first=not met)
                left_to_vary -= 1
                continue
            is_free = not detour and self._choices.of((True, False, False, False))
            for case in self._changes():
                if self._take(case, math.inf if is_free else missed):
                    break
            left = self._missed(best[1]) - self._missed(self._seen)
            given_up = self._left - HOPELESS if left > 0 else given_up
            if left >= 0:
                best, detour = (self._case, self._seen), 0
            elif detour == DETOUR:
                (self._case, self._seen), detour = best, 0
            else:
                detour += 1
        met = {name: each for name, each in met.items() if not self._missed(self._looked_at[name])} or met
        self._case, self._seen = best
        if not met and self._goal.wanted in self._seen.ends.get(self._goal.place, ()):
            self._chain = [one for one in self._chain if not self._seen.miss(one[0], wanted=one[1])]
            met = self._vary(is_first=True)
        elif not met and self._missed(self._seen) < self._missed(start):
            met[self._case.id] = self._case
        return tuple(met.values())

    def _vary(self, *, is_first: bool) -> dict[str, Case]:
        """Go on to another case that meets the goal, too, and has as much as may be from fresh ones; takes no patience.

        The first one is also given as it is, but for its values.
        """
        case = self._case
        self._chain += [one for one in self._behind(self._seen) if one not in self._chain]
        left, self._left = self._left, max(self._left, 0) + VARIATIONS
        for _ in range(VARIATIONS):
            changed = self._variety.of(self._case)
            self._variety.learn(is_met=changed is not None and self._take(changed, 0))
        self._left = left
        found = {case.id: self._variety.with_other_values(case)} if is_first else {}
        found[self._case.id] = self._case
        return {name: each for name, each in found.items() if name != self._goal.case.id}

    def _behind(self, seen: Decisions) -> Iterator[tuple[Place, bool]]:
        """What a case decides behind the goal as few others have, or none."""
        before = self._before(seen)
        for place, ends in seen.ends.items():
            if place not in before and len(ends) == 1:
                (end,) = ends
                if (place, end) in self._goal.rare or place not in self._goal.known:
                    yield place, end

    def _take(self, case: Case, most: float) -> bool:
        """Whether a changed case is no further away than that, and is the one to go on with then."""
        lighter = lighten(case, is_pinned=self._is_pinned)
        affordable = next((one for one in lighter if self._is_affordable(one)), None)
        if affordable is None or affordable.id == self._case.id or self._left <= 0:
            return False
        seen = self._look(affordable)
        if self._missed(seen) > most:
            return False
        self._case, self._seen = affordable, seen
        return True

    def _is_affordable(self, case: Case) -> bool:
        return is_affordable(case, beside=self._most, stages=self._stages)

    def _look(self, case: Case) -> Decisions:
        if case.id not in self._looked_at:
            self._left -= 1
            found = self._rehearse(case, self._stages)
            self._remember(case, Decisions.of(one for stage in self._stages for one in found.get(stage, ())))
        return self._looked_at[case.id]

    def _remember(self, case: Case, seen: Decisions) -> None:
        self._looked_at[case.id] = seen
        measures = measure(case)
        for place, pairs in seen.pairs.items():
            if pairs:
                self._samples.setdefault(place, []).append((measures, pairs))

    def _missed(self, seen: Decisions) -> float:
        """How far a case is away: by each decision that it lacks, 2 for one that it does not come to."""
        missed = sum(seen.miss(place, wanted=wanted) for place, wanted in self._chain)
        if any(place in seen.ends for place, _ in self._chain):
            return missed
        return missed + sum(seen.miss(place, wanted=end) for place, end in self._goal.leading)

    def _blocked(self) -> tuple[Place, bool] | None:
        """The decision that keeps the case from the next one."""
        reached = [(place, wanted) for place, wanted in self._chain if place in self._seen.ends]
        if reached:
            return next((one for one in reached if one[1] not in self._seen.ends[one[0]]), None)
        broken = [one for one in self._goal.leading if self._seen.miss(one[0], wanted=one[1])]
        return broken[self._choices.number(1) % len(broken)] if broken else None

    def _before(self, seen: Decisions) -> frozenset[Place]:
        """The place of the goal, and what a case decides before it.

        A launcher may keep what it has decided, and not come there again: then all that the case decides.
        """
        places, place = [*seen.ends], self._goal.place
        return frozenset(places[: places.index(place) + 1] if place in seen.ends else places)

    def _go_on(self) -> bool:
        """Take what is decided behind the last turn for the next goal, where few cases have been, or none."""
        for place, ends in self._seen.ends.items():
            if place not in self._passed and len(ends) == 1:
                (end,) = ends
                if place in self._known and (place, not end) not in self._goal.rare:
                    continue
                self._passed |= {place}
                if self._seen.settling[place] is not (not end):
                    self._chain.append((place, not end))
                    more = min(BEHIND, self._more)
                    self._left, self._more = self._left + more, self._more - more
                    return True
        return False

    def _changes(self) -> Iterator[Case]:
        """Changed cases, some of which may come closer."""
        blocked = self._blocked()
        kind = self._choices.number(1) % 8
        if blocked is None or kind == 0:
            yield from self._variations()
        elif kind == 1:
            yield reseed(self._case, self._choices)
        elif kind == 2:
            flipped = flip(self._case, self._choices, is_pinned=self._is_pinned)
            yield from (flipped,) if flipped is not None else ()
        elif kind < 6:
            yield from self._mended(*blocked)
        else:
            yield from self._moved(blocked[0])

    def _variations(self) -> Iterator[Case]:
        changed = splice(self._case, self._fresh, self._choices.of(SPLICED), self._choices, is_pinned=self._is_pinned)
        if changed is not None:
            yield changed

    def _mended(self, place: Place, wanted: bool) -> Iterator[Case]:  # noqa: FBT001
        """The case with a measure where a decision may turn: one that an operand corresponds to in all cases."""
        condition = self._condition(place, wanted=wanted)
        if condition is not None:
            which = self._choices.number(1) % self._choices.of((1, 4, 24))
            changed = mend(self._case, condition, self._choices, which, is_pinned=self._is_pinned)
            if changed is not None:
                yield changed

    def _condition(self, place: Place, *, wanted: bool) -> Condition | None:
        """What is known of the operands of a place: by the cases that were run, or where that is little, rehearsed.

        What these say is only looked at again when there are twice as many.
        """
        samples = self._samples.get(place, [])
        count, condition = self._conditions.get(place, (0, None))
        if not count:
            known = next((one for one in self._goal.conditions if one.place == place), None)
            if known is not None and max(len(known.left.guesses), len(known.right.guesses)) <= FEW:
                self._conditions[place] = len(samples), known
                return known
        if samples and len(samples) >= 2 * count and is_comparison(place[2]):
            condition = explain_operands(place, samples[-MOST_SAMPLES:], wanted=wanted)
            self._conditions[place] = len(samples), condition
        return condition

    def _moved(self, place: Place) -> Iterator[Case]:
        """The case with one number moved, then as far as it takes, by how it moves the operands."""
        among = levers(self._case, is_pinned=self._is_pinned)
        known = [lever for lever in among if lever.name in self._moving.get(place, ())]
        among = known if known and self._choices.number(1) % 4 else among
        lever = among[self._choices.number(2) % len(among)]
        steps = (*STEPS, self._case.cache.block_size)
        value = self._choices.of((*(lever.now + step for step in steps), *LEAST))
        step, gap = value - lever.now, self._seen.gap(place)
        tried = self._try(lever, value)
        if tried is None or place not in tried[1].pairs:
            return
        yield tried[0]
        moved = gap - tried[1].gap(place)
        if moved and gap:
            self._moving.setdefault(place, []).append(lever.name)
            offset = self._choices.of((0, 0, 0, 1, -1))
            there = lever.set(self._case, lever.now + round(gap * step / moved) + offset)
            if there is not None:
                yield there

    def _try(self, lever: Lever, value: int) -> tuple[Case, Decisions] | None:
        case = lever.set(self._case, value)
        if case is None or not self._is_affordable(case):
            return None
        return case, self._look(case)
