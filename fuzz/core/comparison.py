"""A comparison that the code under test made: what its launchers, callers and kernels decide by."""

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

OPERATORS: Mapping[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
"""How two operands are compared, by the node of the source."""

Place = tuple[str, int, str]
"""File, line and text of a condition."""


class Computed(int):
    """An operand that is a remainder or a product, of the two `parts` that it was made of: it hides what they are."""

    parts: tuple[int, int]

    @classmethod
    def of(cls, value: int, parts: tuple[int, int]) -> "Computed":
        """That value, made of these."""
        made = cls(value)
        made.parts = parts
        return made


@dataclass(frozen=True)
class Comparison:
    """One comparison, or another condition, of a line of code, and how it ended.

    `file` and `line` say where it stands, `text` what it is. `left` and `right` are the integers or words that were
    compared; None where it is no such comparison. Where others behind it are joined with it, `settles` is the end that
    settles the whole condition, whatever they are. One that is `inside` a kernel ends in every lane of every program;
    what was compared is where the operands were closest. Operands of launchers may be Computed.
    """

    file: str
    line: int
    text: str
    holds: bool
    left: int | str | None = None
    right: int | str | None = None
    settles: bool | None = None
    inside: bool = False

    @property
    def place(self) -> Place:
        """Where it stands, and what it is: the same for all that a condition ever compares."""
        return self.file, self.line, self.text
