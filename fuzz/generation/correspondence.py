"""Which measures of a case an operand corresponds to."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product

from indexfuzz.core.comparison import Computed
from indexfuzz.generation.guess import Guess
from indexfuzz.generation.measures import CONTENTS, OPTIONS, SIZES, Measures
from indexfuzz.generation.trials import Trials

FACTORS = (2, 4, 16, 32, 64, 128, 256)
"""Sizes of tiles and of elements: what measures are multiplied with, or numbers of programs are quotients by."""

FORMS = ("modulo", "over", "times")
"""What may be made of a measure and a number."""

FEWEST = 3
"""Cases that it takes to tell a difference that is always the same from one that happens to be."""

ODD = 2
"""Of so many cases one may be odd, in which an operand is something else: where q and k share memory, say."""

FIRST = 3
"""Cases that guesses are made from: all of them may not be odd."""

MOST_GUESSES = 24
NUMBER = re.compile(r"(?<![\w.])\d{1,6}(?![\w.])")

Values = Sequence[tuple[Measures, set[int]]]
"""For each of some cases, its measures and the values that an operand had in it."""


def explaining(values: Values, text: str, form: str = "", *, of_lanes: bool = False, odd: int = 0) -> list[Guess]:
    """The guesses that hold in most cases, in all but for `odd` ones at least; those that vary come first.

    `text` is the comparison, whose numbers count. Where the source says what the operand is, "modulo" or "times",
    `form` is that, and nothing else is a guess. What tensors hold is only looked at where no size explains everything.
    Operands `of_lanes`, in kernels, may be the last of all lanes.
    """
    if not values or not all(seen for _, seen in values):
        return []
    if found := _explaining_parts(values, form, odd):
        return found
    numbers = tuple(dict.fromkeys((*(int(found) for found in NUMBER.findall(text)), *FACTORS)))
    forms = tuple(one for one in (*FORMS, *(("last",) if of_lanes else ())) if form in ("", one))
    trials, missed = Trials(values, FIRST if odd else 1, odd), dict[Guess, int]()
    for names, seconds in ((tuple(SIZES), ()), (CONTENTS, tuple(SIZES))):
        if not form:
            trials.try_plain((*names, *OPTIONS))
        if forms:
            trials.try_numbers(names, [number for number in numbers if number > 1], forms)
        if form in ("", "times"):
            trials.try_products(names, seconds)
        if not form and len(values) >= FEWEST:
            trials.try_shifted(names)
        missed |= trials.missed()
        if 0 in missed.values():
            break
    return _in_order(best_of(missed, odd), values)


def _in_order(guesses: Iterable[Guess], values: Values) -> list[Guess]:
    return sorted(guesses, key=lambda guess: not _varies(guess, values))[:MOST_GUESSES]


def _explaining_parts(values: Values, form: str, odd: int) -> list[Guess]:
    """The same, where operands tell what they were made of: both parts of a remainder or product are explained."""
    if not form or not all(isinstance(one, Computed) for _, seen in values for one in seen):
        return []
    missed = dict[Guess, int]()
    for names in (tuple(SIZES), (*SIZES, *CONTENTS)):
        made = [guess for value in values[: FIRST if odd else 1] for guess in _guesses_of_parts(value, form, names)]
        missed |= _misses(dict.fromkeys(made), values, odd, by_parts=True)
        if 0 in missed.values():
            break
    return _in_order(best_of(missed, odd), values)


def _guesses_of_parts(of: tuple[Measures, set[int]], form: str, names: Sequence[str]) -> Iterator[Guess]:
    """What explains both parts in one case: a remainder by a number, a measure times a number or another one."""
    measures, seen = of
    for left, right in (one.parts for one in seen if isinstance(one, Computed)):
        of_left, of_right = ([name for name in names if measures[name] == part] for part in (left, right))
        yield from (Guess(name, form, right) for name in of_left)
        if form == "times":
            yield from (Guess(name, form, left) for name in of_right)
            for one, other in ((of_left, of_right), (of_right, of_left)):
                yield from (Guess(name, form, second=second) for name, second in product(one, other))


def best_of(missed: Mapping[Guess, int], odd: int) -> list[Guess]:
    """The guesses that were missed least often, and in no more than so many cases."""
    least = min(missed.values(), default=0)
    return [guess for guess, times in missed.items() if times == least <= odd]


def _misses(guesses: Iterable[Guess], values: Values, odd: int, *, by_parts: bool = False) -> dict[Guess, int]:
    """In how many cases each guess does not hold, of those that may be the best: most do not hold in the first few."""
    missed, most = dict[Guess, int](), odd
    for guess in guesses:
        times = times_missed(guess, values, most, by_parts=by_parts)
        if times <= most:
            missed[guess] = most = times
    return missed


def times_missed(guess: Guess, values: Values, most: int, *, by_parts: bool = False) -> int:
    """In how many cases a guess does not hold, or its parts do not; one more than `most` where it is more."""
    times = 0
    for measures, seen in values:
        if by_parts:
            times += not any(isinstance(one, Computed) and guess.is_made_of(measures, one.parts) for one in seen)
        else:
            times += guess.of(measures) not in seen
        if times > most:
            break
    return times


def _varies(guess: Guess, values: Values) -> bool:
    return len({guess.of(measures) for measures, _ in values}) > 1
