"""Solving: what a tensor of integers holds is brought to where a condition holds, without rehearsing anything.

Pages, owners and positions are no numbers of a case, but follow from many of them and from options. Making such a
tensor takes a fifth of a rehearsal: numbers are moved and options set on the case alone, and what comes closer stays.
"""

from functools import cache
from itertools import chain

from indexfuzz.core.case import Case
from indexfuzz.core.rng import random_bytes
from indexfuzz.generation.affording import is_affordable
from indexfuzz.generation.choices import Choices
from indexfuzz.generation.conditions import Aim, Condition
from indexfuzz.generation.levers import Lever, know_movers, movers, tables
from indexfuzz.generation.measures import CONTENTS, Measures, contents, measure, tensor_of
from indexfuzz.generation.switches import Switch, set_apart, switches

CHANGES = 20
"""Changes on the way to a condition, some of which are tried twice: by a step, and by as many as seem to be missing."""

STEPS = (1, 1, -1, -1, 2, -2, 4, 16, -16)
"""Steps by which a number is moved to see what it moves."""

MOST = 1024
"""A number is moved no further than that, or to twice what it is: tensors take time to make."""

DECISIONS = 16 * CHANGES
"""Bytes that decide how a condition is solved."""


def solve(case: Case, condition: Condition, aim: Aim, which: int, key: int, *, is_pinned: bool = False) -> Case | None:
    """The case with what tensors hold where a condition holds by its guesses, or closer to it; None where none is.

    Of a remainder, the measure is brought to the value that it is aimed at; else both sides to each other.
    """
    choices = Choices(random_bytes(key, "solved", DECISIONS))
    return _Solver(case, condition, aim, which, choices, is_pinned=is_pinned).run()


class _Solver:
    """One condition, and the case that has come closest to it."""

    def __init__(
        self, case: Case, condition: Condition, aim: Aim, which: int, choices: Choices, *, is_pinned: bool
    ) -> None:
        self._condition, self._which, self._choices, self._is_pinned = condition, which, choices, is_pinned
        guesses = condition.guesses(which)
        self._aim = aim if any(guess.form == "modulo" for guess in guesses) else None
        self._names = [name for guess in guesses for name in (guess.name, guess.second) if name]
        self._start = self._case = case
        self._gap = self._missing(measure(case))
        self._is_solved = False

    def run(self) -> Case | None:
        """Change the case until the condition holds or enough was tried."""
        for _ in range(CHANGES):
            if self._is_solved:
                break
            options, among = self._options(), self._levers()
            if self._choices.of((True, False, False)) and options:
                self._set(self._choices.of(options))
            elif self._choices.of((True, *(False,) * 7)):
                self._take(self._case.replace(values={"seed": self._choices.number(4)}))
            elif among:
                self._move(self._choices.of(among))
        return self._case if self._case is not self._start else None

    def _missing(self, measures: Measures) -> int:
        """By how much the sides differ, or the measure from what it is brought to."""
        if self._aim is None:
            return self._condition.gap(measures, self._which)
        name, value = self._aim
        return value - measures[name]

    def _levers(self) -> list[Lever]:
        known = (movers(self._case, name, is_pinned=self._is_pinned) for name in self._names)
        return list({lever.name: lever for lever in chain.from_iterable(known)}.values())

    def _options(self) -> list[Switch]:
        known = {switch[:2] for name in self._names for switch in options_of(name)}
        return [switch for switch in switches(is_pinned=self._is_pinned) if switch[:2] in known]

    def _set(self, option: Switch) -> None:
        """Try each other value of an option."""
        for there in set_apart(self._case, option):
            if not self._is_solved:
                self._take(there)

    def _move(self, lever: Lever) -> None:
        """Move a number by a step, and then by as much as its effect says that it takes."""
        step = self._choices.of((*STEPS, self._case.cache.block_size))
        beyond = self._choices.of((0, 0, 1, -1))
        start, gap = self._case, self._gap
        moved = self._take(lever.set(start, lever.now + step))
        if moved and not self._is_solved:
            value = lever.now + round((gap + beyond) * step / moved)
            if value <= max(MOST, 2 * lever.now):
                self._take(lever.set(start, value))

    def _take(self, case: Case | None) -> int:
        """Go on with a case that is no further away; says by how much closer it is."""
        if case is None or not is_affordable(case, beside=self._start):
            return 0
        measures = measure(case)
        gap, before = self._missing(measures), self._gap
        self._is_solved = self._condition.holds(measures, self._which)
        if self._is_solved or abs(gap) <= abs(before):
            self._case, self._gap = case, gap
        return before - gap


def know_moves() -> None:
    """Find out now what this and `movers` need to know, rather than in each copy of this process."""
    know_movers()
    _options_by_tensor()


def options_of(name: str) -> tuple[Switch, ...]:
    """The options that decide what a tensor holds, for any measure of that; none for a size."""
    return _options_by_tensor().get(tensor_of(name), ()) if name in CONTENTS else ()


@cache
def _options_by_tensor() -> dict[str, tuple[Switch, ...]]:
    found: dict[str, dict[Switch, None]] = {}
    for case in tables():
        now = contents(case)
        for switch in switches():
            for there in set_apart(case, switch):
                for name, value in contents(there).items():
                    if value != now[name]:
                        found.setdefault(tensor_of(name), {})[switch] = None
    return {tensor: tuple(options) for tensor, options in found.items()}
