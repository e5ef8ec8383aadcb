"""A comparison that the code under test made: what its launchers and callers decide by."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Comparison:
    """One comparison, or another condition, of a line of Python code, and how it ended.

    `file` and `line` say where it stands, `text` what it is. `left` and `right` are the integers or words that were
    compared; None where it is no such comparison. Where others behind it are joined with it, `settles` is the end that
    settles the whole condition, whatever they are.
    """

    file: str
    line: int
    text: str
    holds: bool
    left: int | str | None = None
    right: int | str | None = None
    settles: bool | None = None
