"""A comparison that the code under test made: what its launchers and callers decide by."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Comparison:
    """One comparison, or another condition, of a line of Python code, and how it ended.

    `file` and `line` say where it stands, `text` what it is. `left` and `right` are the integers that were compared;
    None where it is no comparison of integers.
    """

    file: str
    line: int
    text: str
    holds: bool
    left: int | None = None
    right: int | None = None
