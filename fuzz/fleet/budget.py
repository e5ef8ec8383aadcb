"""Which values a slice draws: time goes where slices still find new things.

Every other slice draws all kinds of values. The others draw one kind each, in proportion to what slices of it were
worth of late: the next one is of the kind whose worth, divided by one more than the slices that it has had, is the
largest (d'Hondt's method). What a slice is told of is decided by its number, not by who was faster.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import get_args

from indexfuzz.core.case_parts import Regime
from indexfuzz.fleet.slices import Result, Slice

USUAL: tuple[Regime, ...] = tuple(kind for kind in get_args(Regime) if kind != "nonfinite")

SIGNATURE = 10
"""What a new signature is worth; a thing that was not reached before is worth 1."""

RECENT = 4
"""Slices of a kind that count."""

LEAST = 1 / 8
"""The worth of a kind that finds nothing, as a share of the best one's: it may have something rare."""


class Budget:
    """Plans the slices of a campaign, in their order. Slice i is told of those before i - `ahead`.

    `asked` are the kinds of values that were asked for; none means the usual ones.
    """

    def __init__(self, asked: Sequence[Regime], ahead: int, known: frozenset[tuple[str, str]] = frozenset()) -> None:
        self._asked = tuple(asked)
        self._kinds = self._asked or USUAL
        self._ahead = ahead
        self._known = known
        self._reached: frozenset[str] = frozenset()
        self._told = 0
        self._drawn: list[tuple[Regime, ...]] = []
        self._worth: dict[Regime, list[int]] = {}
        self._results: dict[int, Result | None] = {}

    def hear(self, number: int, result: Result | None) -> None:
        """Take note of what a slice found; None where it was lost."""
        self._results[number] = result

    def next_slice(self) -> Slice | None:
        """The next slice; None as long as too little was heard of for it to be known."""
        number = len(self._drawn) + 1
        while self._told < number - 1 - self._ahead:
            if self._told + 1 not in self._results:
                return None
            self._told += 1
            self._learn(self._drawn[self._told - 1], self._results.pop(self._told))
        values = self._asked if number % 2 or len(self._kinds) < 2 else (self._due_kind(),)
        self._drawn.append(values)
        return Slice(number, values, self._known, self._reached)

    def _learn(self, values: tuple[Regime, ...], result: Result | None) -> None:
        """Count what is new in a result: a slice that ran at the same time may have found it, too."""
        worth = 0
        if result is not None:
            shown = frozenset((result.implementation, signature) for signature in result.signatures)
            worth = SIGNATURE * len(shown - self._known) + len(result.reached - self._reached)
            self._known |= shown
            self._reached |= result.reached
        if len(values) == 1:
            self._worth[values[0]] = [*self._worth.get(values[0], ()), worth][-RECENT:]

    def _due_kind(self) -> Regime:
        had = Counter(values[0] for values in self._drawn if len(values) == 1)
        shares = shares_of(self._kinds, self._worth)
        return max(self._kinds, key=lambda kind: shares[kind] / (1 + had[kind]))


def shares_of(kinds: Sequence[Regime], worth: Mapping[Regime, Sequence[int]]) -> dict[Regime, float]:
    """Kind -> what one of its slices may find. A kind that nothing is known of may be as good as the best."""
    means = {kind: sum(found) / len(found) for kind, found in worth.items()}
    best = max(means.values(), default=0.0) or 1.0
    return {kind: max(means.get(kind, best), LEAST * best) for kind in kinds}
