"""Conditions: how a comparison of two numbers would end in a case that was not run."""

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

from indexfuzz.core.comparison import OPERATORS, Place
from indexfuzz.generation.guess import Guess, leading_to
from indexfuzz.generation.measures import CONTENTS, OPTIONS, Measures, number_of

TOO_LARGE = 1 << 15
"""No size is brought to more: no case affords it. What tensors hold may be any number."""

UNBOUNDED = frozenset({*OPTIONS, *CONTENTS})
"""Measures that may be any number."""

Aim = tuple[str, int]
"""A measure, and the value to bring it to."""


FORMS: Mapping[type[ast.operator], str] = {ast.Mod: "modulo", ast.Mult: "times"}
"""Operators after which an operand can be nothing but a guess of that form."""


@dataclass(frozen=True)
class Operand:
    """One side of a comparison: the same number each time, or what one of some guesses says, the best of them first."""

    number: int | None = None
    guesses: tuple[Guess, ...] = ()

    @property
    def is_known(self) -> bool:
        """Whether there is any way to tell what it would be."""
        return self.number is not None or bool(self.guesses)

    def of(self, measures: Measures, which: int = 0) -> int:
        """What it would be in a case of these measures, by one of the guesses."""
        return self.number if self.number is not None else self.guesses[which % len(self.guesses)].of(measures)


@dataclass(frozen=True)
class Condition:
    """A comparison that shall end one way; `text` is its source, and it stands at `place`."""

    text: str
    left: Operand
    right: Operand
    wanted: bool
    place: Place | None = None

    def holds(self, measures: Measures, which: int = 0) -> bool:
        """Whether it would end that way in a case of these measures, as far as the guesses go."""
        compare = _operator(self.text)
        return compare(self.left.of(measures, which), self.right.of(measures, which)) is self.wanted

    def miss(self, measures: Measures, which: int = 0) -> float:
        """How far it is from ending that way: 0 where it does, otherwise from 1 to 2."""
        if self.holds(measures, which):
            return 0.0
        return 1 + min(abs(self.gap(measures, which)).bit_length(), 63) / 64

    def gap(self, measures: Measures, which: int = 0) -> int:
        """By how much the right side is more than the left one."""
        return self.right.of(measures, which) - self.left.of(measures, which)

    def guesses(self, which: int = 0) -> list[Guess]:
        """What each side is taken for that is no number."""
        sides = (self.left, self.right)
        return [side.guesses[which % len(side.guesses)] for side in sides if side.number is None]

    def aims(self, measures: Measures, which: int = 0) -> list[Aim]:
        """Measures, each with a value at which both sides would be the same number, or nearly so."""
        found: list[Aim] = []
        for moving, other in ((self.left, self.right), (self.right, self.left)):
            if moving.number is None:
                guess = moving.guesses[which % len(moving.guesses)]
                found += leading_to(guess, other.of(measures, which), measures)
        return [aim for aim in found if aim[0] in UNBOUNDED or 0 <= aim[1] <= TOO_LARGE]


@dataclass(frozen=True)
class Written:
    """What the source says of an operand: the number that it is, or that it is a remainder or a product."""

    number: int | None = None
    form: str = ""


@cache
def operands_of(text: str) -> tuple[Written, Written]:
    """What the source of a comparison says of its operands; nothing where it is none."""
    node = _parse(text)
    return (_written(node.left), _written(node.comparators[0])) if node else (Written(), Written())


def _written(node: ast.expr) -> Written:
    sign = -1 if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) else 1
    literal = node.operand if isinstance(node, ast.UnaryOp) else node
    if isinstance(literal, ast.Constant) and type(literal.value) is int:
        return Written(sign * literal.value)
    if isinstance(literal, ast.Constant) and isinstance(literal.value, str):
        return Written(number_of(literal.value))
    operation = type(node.op) if isinstance(node, ast.BinOp) else None
    return Written(form=FORMS.get(operation, "") if operation else "")


def is_comparison(text: str) -> bool:
    """Whether a text compares two operands."""
    return _parse(text) is not None


@cache
def _operator(text: str) -> Callable[[int, int], bool]:
    node = _parse(text)
    if node is None:
        raise ValueError(f"{text!r} does not compare two operands")
    return OPERATORS[type(node.ops[0])]


@cache
def _parse(text: str) -> ast.Compare | None:
    try:
        node = ast.parse(text, mode="eval").body
    except SyntaxError:
        return None
    return node if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in OPERATORS else None
