"""Which measures of a case an operand corresponds to, and what brings the operand to another value."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product

from indexfuzz.generation.measures import CONTENTS, OPTIONS, SIZES, Measures

FACTORS = (2, 4, 16, 32, 64, 128, 256)
"""Sizes of tiles and of elements: what measures are multiplied with, or numbers of programs are quotients by."""

FORMS = ("modulo", "over", "times")
"""What may be made of a measure and a number."""

FEWEST = 3
"""Cases that it takes to tell a difference that is always the same from one that happens to be."""

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
        value = measures[self.name]
        if self.form == "times":
            return value * (measures[self.second] if self.second else self.number)
        if self.form == "over":
            return -(-value // self.number)
        if self.form == "last":
            return -(-value // self.number) * self.number - 1
        return value % self.number if self.form == "modulo" else value + (self.number if self.form == "plus" else 0)


def explaining(values: Values, text: str, form: str = "", *, of_lanes: bool = False) -> list[Guess]:
    """All guesses that hold in each case; those that vary come first, then the plainest.

    `text` is the comparison, whose numbers count. Where the source says what the operand is, "modulo" or "times",
    `form` is that, and nothing else is a guess. What tensors hold is only looked at where no size explains anything.
    Operands `of_lanes`, in kernels, may be the last of all lanes.
    """
    if not values or not all(seen for _, seen in values):
        return []
    numbers = tuple(dict.fromkeys((*(int(found) for found in NUMBER.findall(text)), *FACTORS)))
    for names in (tuple(SIZES), CONTENTS):
        forms = (*FORMS, *(("last",) if of_lanes else ()))
        guesses = [
            *_guesses(values[0], numbers, names, forms),
            *(_shifted(values, names) if len(values) >= FEWEST else ()),
        ]
        holding = [
            guess
            for guess in guesses
            if form in ("", guess.form) and all(guess.of(m) in seen for m, seen in values[1:])
        ]
        if holding:
            return sorted(holding, key=lambda guess: len({guess.of(m) for m, _ in values}) == 1)[:MOST_GUESSES]
    return []


def _shifted(values: Values, names: Sequence[str]) -> Iterator[Guess]:
    """Measures that vary, with what is to be added in the first case."""
    (measures, seen), *_ = values
    for name in names:
        if len({m[name] for m, _ in values}) > 1:
            yield from (Guess(name, "plus", value - measures[name]) for value in sorted(seen - {measures[name]}))


def _guesses(
    value: tuple[Measures, set[int]], numbers: Sequence[int], names: Sequence[str], forms: Sequence[str]
) -> Iterator[Guess]:
    """What explains one case."""
    measures, seen = value
    yield from (Guess(name) for name in (*names, *OPTIONS) if measures[name] in seen)
    plain = [number for number in numbers if number > 1]
    for name in names:
        for number in plain:
            for form in forms:
                guess = Guess(name, form, number)
                if guess.of(measures) in seen:
                    yield guess
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
