"""Which measures of a case an operand corresponds to, and what brings the operand to another value."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

from indexfuzz.core.comparison import Computed
from indexfuzz.generation.measures import CONTENTS, OPTIONS, SIZES, Measures

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


@dataclass(frozen=True)
class Guess:
    """What an operand may be: a measure, or `form` of it and a number or a second measure.

    The "last" of so many is the last lane of as many tiles of that size as hold them.
    """

    name: str
    form: str = ""
    number: int = 1
    second: str = ""

    def __str__(self) -> str:
        """In words of a formula."""
        other = self.second or str(abs(self.number))
        if self.form == "last":
            return f"the last lane of {self.name} in tiles of {other}"
        sign = {"times": "*", "over": "/", "modulo": "%", "plus": "-" if self.number < 0 else "+"}.get(self.form)
        return f"{self.name} {sign} {other}" if sign else self.name

    def of(self, measures: Measures) -> int:
        """What the operand would be."""
        return _made(self.form, measures[self.name], measures[self.second] if self.second else self.number)

    def is_made_of(self, measures: Measures, parts: tuple[int, int]) -> bool:
        """Whether these are the measure and the number or second measure, which stand in any order in a product."""
        own = measures[self.name], measures[self.second] if self.second else self.number
        return own == parts or (self.form == "times" and own[::-1] == parts)


def _made(form: str, value: int, number: int) -> int:
    """What a form makes of a measure and a number."""
    if form == "times":
        return value * number
    if form == "over":
        return -(-value // number)
    if form == "last":
        return -(-value // number) * number - 1
    return value % number if form == "modulo" else value + (number if form == "plus" else 0)


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
    values = [(measures, set(map(int, seen))) for measures, seen in values]
    numbers = tuple(dict.fromkeys((*(int(found) for found in NUMBER.findall(text)), *FACTORS)))
    forms, missed = (*FORMS, *(("last",) if of_lanes else ())), dict[Guess, int]()
    for names in (tuple(SIZES), CONTENTS):
        made = [guess for value in values[: FIRST if odd else 1] for guess in _guesses(value, numbers, names, forms)]
        made += _shifted(values, names) if len(values) >= FEWEST else ()
        asked = [guess for guess in dict.fromkeys(made) if form in ("", guess.form)]
        missed |= _misses(asked, values, odd)
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


def _shifted(values: Values, names: Sequence[str]) -> Iterator[Guess]:
    """Measures that vary, with what is to be added in the first case."""
    (measures, seen), *_ = values
    for name in names:
        if len({m[name] for m, _ in values}) > 1:
            yield from (Guess(name, "plus", value - measures[name]) for value in sorted(seen - {measures[name]}))


def _guesses(
    of: tuple[Measures, set[int]], numbers: Sequence[int], names: Sequence[str], forms: Sequence[str]
) -> Iterator[Guess]:
    """What explains one case."""
    measures, seen = of
    yield from (Guess(name) for name in (*names, *OPTIONS) if measures[name] in seen)
    plain = [number for number in numbers if number > 1]
    for name in names:
        value = measures[name]
        for number in plain:
            for form in forms:
                if _made(form, value, number) in seen:
                    yield Guess(name, form, number)
    pairs = product(names, (*names, *SIZES)) if names is CONTENTS else combinations(names, 2)
    for name, second in pairs:
        if measures[name] * measures[second] in seen:
            yield Guess(name, "times", second=second)
            yield Guess(second, "times", second=name)


def leading_to(guess: Guess, operand: int, measures: Measures) -> list[tuple[str, int]]:
    """Measures, each with a value at which the operand would be another number, or just beyond it."""
    now = measures[guess.name]
    if guess.form == "modulo":
        base = now - now % guess.number + operand
        return [(guess.name, base + turns * guess.number) for turns in (0, 1, -1, 2, 5)]
    if guess.form == "times":
        factor = measures[guess.second] if guess.second else guess.number
        return [(guess.name, -(-operand // factor))] if factor else []
    if guess.form == "over":
        return [(guess.name, operand * guess.number)]
    if guess.form == "last":
        return [(guess.name, operand + 1)]
    return [(guess.name, operand - (guess.number if guess.form == "plus" else 0))]
