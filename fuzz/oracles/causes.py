"""Causes and symptoms: what a launch did wrong of its own, without what merely follows from it.

An offset that wraps leads out of bounds, what is loaded there is undefined, and the value made of it is wrong. That is
one mistake, and it shall be reported once, under its first cause.
"""

from collections.abc import Sequence

from indexfuzz.core.finding import Finding

VALUES = frozenset({"code-mismatch", "bound-exceeded", "mask-mismatch", "unwritten", "illegal-topk"})
"""Kinds that say no more than that some value is wrong."""

STRAY = frozenset({"out-of-bounds", "misaligned", "race", "uninitialised"})
"""Kinds of access that go wrong where a kernel takes a page for one of another layout."""


def roots(findings: Sequence[Finding]) -> list[Finding]:
    """The findings that no other of the same stage explains, in the same order.

    A wrong layout explains stray accesses. An overflow explains why an access to the same argument is out of bounds or
    misaligned; either explains undefined values. Each of them explains wrong values; races, and accesses to other
    arguments, stand for themselves.
    """
    return [finding for finding in findings if not any(_explains(cause, finding) for cause in findings)]


def _explains(cause: Finding, symptom: Finding) -> bool:
    if cause.stage != symptom.stage:
        return False
    if symptom.kind in VALUES:
        return cause.kind in STRAY or cause.kind == "overflow"
    if cause.kind == "layout-mismatch":
        return symptom.kind in STRAY
    if symptom.kind == "uninitialised":
        return cause.kind in ("overflow", "out-of-bounds")
    is_same = cause.output == symptom.output
    return cause.kind == "overflow" and symptom.kind in ("out-of-bounds", "misaligned") and is_same
