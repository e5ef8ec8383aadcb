"""A guess at what an operand is: a measure of the case, or what is made of it; and what brings it to another value."""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from indexfuzz.generation.measures import Measures

Numbers = TypeVar("Numbers", int, NDArray[np.int64])


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
        return make(self.form, measures[self.name], measures[self.second] if self.second else self.number)

    def is_made_of(self, measures: Measures, parts: tuple[int, int]) -> bool:
        """Whether these are the measure and the number or second measure, which stand in any order in a product."""
        own = measures[self.name], measures[self.second] if self.second else self.number
        return own == parts or (self.form == "times" and own[::-1] == parts)


def make(form: str, value: Numbers, number: Numbers) -> Numbers:
    """What a form makes of a measure and a number, or of many."""
    if form == "times":
        return value * number
    if form == "over":
        return -(-value // number)
    if form == "last":
        return -(-value // number) * number - 1
    return value % number if form == "modulo" else value + (number if form == "plus" else 0)


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
