"""Causes and symptoms: what a launch did wrong of its own, without what merely follows from it.

An offset that wraps leads out of bounds, what is loaded there is undefined, and the value made of it is wrong. That is
one mistake, and it shall be reported once, under its first cause.
"""

from collections.abc import Sequence

from indexfuzz.finding import Finding

SPOILING = frozenset({"overflow", "out-of-bounds", "misaligned", "race", "uninitialised"})
"""Kinds after which the values of a launch say nothing more about the kernel."""

_STRAY = frozenset({"overflow", "out-of-bounds"})


def roots(findings: Sequence[Finding]) -> list[Finding]:
    """The findings of one launch that no other of them explains, in the same order.

    An overflow explains why an access to the same argument is out of bounds or misaligned; either explains undefined
    values. Accesses to other arguments, and races, stand for themselves.
    """
    return [finding for finding in findings if not any(_explains(cause, finding) for cause in findings)]


def _explains(cause: Finding, symptom: Finding) -> bool:
    if symptom.kind == "uninitialised":
        return cause.kind in _STRAY
    return (
        cause.kind == "overflow"
        and symptom.kind in ("out-of-bounds", "misaligned")
        and cause.output == symptom.output
    )
