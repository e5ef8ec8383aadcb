"""Causes and symptoms: one mistake is reported once, under its first cause, whatever else it shows.

An offset that wraps leads out of bounds, what is loaded there is undefined, and the value made of it is wrong. In one
launch all of this may show at once, in another only the wrong value.
"""

from collections.abc import Iterable, Sequence

from indexfuzz.core.finding import Finding
from indexfuzz.core.stage_names import COVERS

VALUES = frozenset({"code-mismatch", "bound-exceeded", "mask-mismatch", "unwritten", "illegal-topk"})
"""Kinds that say no more than that some value is wrong."""

STRAY = frozenset({"out-of-bounds", "misaligned", "race", "uninitialised"})
"""Kinds of access that go wrong where a kernel takes a page for one of another layout."""

UNSTABLE = frozenset({"uninitialised", "nondeterministic", "state-kept"})
"""Kinds of results that hang on something else than the inputs."""


def part_consequences(findings: Sequence[Finding]) -> tuple[list[Finding], list[Finding]]:
    """The findings of one launch each that no other of the same stage explains, and the rest, each in the same order.

    A wrong layout explains stray accesses. An overflow explains why an access to the same argument is out of bounds or
    misaligned; either explains undefined values. Each of them explains wrong values; races, and accesses to other
    arguments, stand for themselves.
    """
    own, rest = list[Finding](), list[Finding]()
    for finding in findings:
        (rest if any(_explains(cause, finding) for cause in findings) else own).append(finding)
    return own, rest


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


def cause_among(finding: Finding, found: Iterable[Finding]) -> Finding | None:
    """The first of some findings, of other cases, whose mistake this one most likely shows as well.

    It breaks the same clauses of the contract, or none. Memory that is misused through views that one line makes is one
    mistake, whichever stages use them; so are stages that agree with each other on a layout that is not promised. What
    an operation of several nodes makes of a value says nothing new where the stage of one of them makes a wrong one.
    All else is told apart by its stage. There, one line of a kernel that goes wrong in several ways is one mistake. A
    broken relation says nothing new where something is known to be wrong, nor does a wrong value where memory is
    misused, a page is misread, or other values are wrong.
    """
    return next((other for other in found if _may_cause(other, finding)), None)


def _may_cause(cause: Finding, symptom: Finding) -> bool:
    if cause.beyond != symptom.beyond:
        return False
    if any(mine and mine == other for mine, other in ((cause.view, symptom.view), (cause.layout, symptom.layout))):
        return True
    if cause.stage in COVERS.get(symptom.stage, ()) and cause.stage != symptom.stage:
        return _is_of_values(cause) and _is_of_values(symptom)
    return cause.stage == symptom.stage and _may_cause_in_its_stage(cause, symptom)


def _is_of_values(finding: Finding) -> bool:
    return finding.kind in VALUES or bool(finding.signature.relation)


def _may_cause_in_its_stage(cause: Finding, symptom: Finding) -> bool:
    if cause.signature == symptom.signature or (cause.location and cause.location == symptom.location):
        return True
    if symptom.signature.relation:
        return True
    if symptom.kind in VALUES:
        return cause.kind in VALUES | STRAY | UNSTABLE | {"overflow", "layout-mismatch"}
    if symptom.kind in UNSTABLE:
        return cause.kind in STRAY | UNSTABLE | {"overflow", "layout-mismatch", "unwritten"}
    return symptom.kind in STRAY and cause.kind in ("overflow", "layout-mismatch")
