"""Varying: what a goal leaves open is taken from fresh cases, for a path may do wrong by what nobody compares.

Cases that meet a goal come from one another, and would have the same values, missing pages and options for ever. How
many fields may change at once, and which must not, is seen by trying.
"""

from collections.abc import Sequence

from indexfuzz.core.case import Case
from indexfuzz.generation.blending import Fields, blend, differing
from indexfuzz.generation.choices import Choices

REGIMES: Fields = ("values", ("q", "k", "weights", "cache", "rope"))
"""Fields that no launcher sees: what values are drawn from. They are always taken from the fresh case."""

AT_FIRST, MOST = 8, 32
"""Fields that are taken at once: at first, and at most."""


class Variety:
    """Fresh cases, and what has been seen of their fields: how many may be taken, and which may not."""

    def __init__(self, fresh: Sequence[Case], choices: Choices, *, is_pinned: bool = False) -> None:
        self._fresh, self._choices, self._is_pinned = fresh, choices, is_pinned
        self._width = AT_FIRST
        self._needed: set[Fields] = set()
        self._taken: list[Fields] = []

    def with_other_values(self, case: Case) -> Case:
        """The case with values as a fresh one has them: what launchers decide stays."""
        return blend(case, self._pick(), [REGIMES]) or case

    def of(self, case: Case) -> Case | None:
        """The case with fields of a fresh one, other ones each time; None where they contradict each other."""
        other = self._pick()
        among = differing(case, other, is_pinned=self._is_pinned)
        among = [fields for fields in among if fields not in self._needed and fields[1][0] not in REGIMES[1]]
        self._taken = [among.pop(self._choices.number(1) % len(among)) for _ in range(min(self._width, len(among)))]
        return blend(case, other, [*self._taken, REGIMES])

    def learn(self, *, is_met: bool) -> None:
        """Take twice as many fields the next time, or half as many; leave one alone that was not to be taken."""
        if is_met:
            self._width = min(2 * self._width, MOST)
        else:
            self._needed.update(self._taken if len(self._taken) == 1 else ())
            self._width = max(self._width // 2, 1)

    def _pick(self) -> Case:
        return self._fresh[self._choices.number(1) % len(self._fresh)]
