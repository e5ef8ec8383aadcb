"""Guesses tried on all cases at once, family by family, as arrays: there are thousands, and most are wrong."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexfuzz.generation.guess import Guess, make
from indexfuzz.generation.measures import Measures

Array = NDArray[Any]

EXACT = 1 << 31
"""Products of two smaller numbers are exact in 64 bits."""


class Trials:
    """The guesses that hold in one of the first cases, and do not in `odd` of all of them at most."""

    def __init__(self, values: Sequence[tuple[Measures, set[int]]], first: int, odd: int) -> None:
        self._measures = [measures for measures, _ in values]
        self._first, self._odd = first, odd
        seen = [sorted(map(int, operands)) for _, operands in values]
        widest = max(map(len, seen))
        self._seen = _array([operands + operands[:1] * (widest - len(operands)) for operands in seen])
        self._kept: list[tuple[int, Guess, int]] = []

    def try_plain(self, names: Sequence[str]) -> None:
        """The operand is a measure."""
        self._keep(self._table(names), lambda place: [Guess(names[place])])

    def try_numbers(self, names: Sequence[str], numbers: Sequence[int], forms: Sequence[str]) -> None:
        """It is what a form makes of a measure and a number."""
        table = self._table(names)[:, :, None]
        factors = np.array(numbers, table.dtype)
        made = np.stack([make(form, table, factors) for form in forms], axis=-1)

        def guesses(place: int) -> Iterable[Guess]:
            name, number, form = map(int, np.unravel_index(place, made.shape[1:]))
            return [Guess(names[name], forms[form], numbers[number])]

        self._keep(made.reshape(len(table), -1), guesses)

    def try_products(self, names: Sequence[str], seconds: Sequence[str] = ()) -> None:
        """It is the product of two of these measures, or with `seconds` of one and itself, another or a second one."""
        table, count, others = self._table((*names, *seconds)), len(names), (*names, *seconds)
        one, other = np.triu_indices(count, 1) if not seconds else np.indices((count, len(others))).reshape(2, -1)
        first = table[: self._first]
        suggested = self._holds(first[:, one] * first[:, other]).any(0)  # the others, nearly all, need no closer look
        one, other = one[suggested], other[suggested]

        def guesses(place: int) -> Iterable[Guess]:
            name, second = others[one[place]], others[other[place]]
            return Guess(name, "times", second=second), Guess(second, "times", second=name)

        self._keep(table[:, one] * table[:, other], guesses)

    def try_shifted(self, names: Sequence[str]) -> None:
        """It is a measure that varies, and what is to be added in the first case."""
        table = self._table(names)
        first, operands = table[0].tolist(), dict.fromkeys(self._seen[0].tolist())
        varying = np.flatnonzero((table != table[0]).any(0)).tolist()
        added = [(place, seen - first[place]) for place in varying for seen in operands if seen != first[place]]
        made = table[:, [place for place, _ in added]] + _array([[number for _, number in added]])
        self._keep(made, lambda place: [Guess(names[added[place][0]], "plus", added[place][1])], is_last=True)

    def missed(self) -> dict[Guess, int]:
        """In how many cases each does not hold, of those tried since the last time; first what holds in the first."""
        kept, self._kept = sorted(self._kept, key=lambda one: one[0]), []
        return {guess: times for _, guess, times in kept}

    def _table(self, names: Sequence[str]) -> Array:
        """A row for each case."""
        return _array([[measures[name] for name in names] for measures in self._measures])

    def _holds(self, made: Array) -> Array:
        """Where an operand of the case of a row was the number that is there."""
        seen = self._seen[: len(made)]
        holds = np.zeros(made.shape, bool)
        for operands in seen.T:
            holds |= made == operands[:, None]
        return holds

    def _keep(self, made: Array, guesses: Callable[[int], Iterable[Guess]], *, is_last: bool = False) -> None:
        """Keep the guesses that are good enough, of which each makes a column, one number for each case."""
        holds = self._holds(made)
        times, first = len(holds) - holds.sum(0), holds[: self._first]
        for place in np.flatnonzero(first.any(0) & (times <= self._odd)).tolist():
            since = self._first if is_last else int(first[:, place].argmax())
            self._kept += ((since, guess, int(times[place])) for guess in guesses(place))


def _array(rows: Sequence[Sequence[int]]) -> Array:
    """Rows of integers, each as it is, however large products of two may be."""
    largest = max(max(map(abs, row), default=0) for row in rows)
    return np.array(rows, np.int64 if largest < EXACT else object).reshape(len(rows), -1)
