"""A stage may show its finding alone: then nothing else of the implementation has to run to ask about it."""

from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.outcome import Outcome
from indexfuzz.core.signature import Signature
from indexfuzz.devices.base import UnsupportedKernelError
from indexfuzz.subjects.isolation.deaths import is_of_death
from indexfuzz.subjects.subject import Subject


def ways_to_ask(signature: Signature) -> tuple[frozenset[str], ...]:
    """Stages to take from the implementation when a case is asked about a signature: its own, or else all (empty).

    A stage alone takes a fraction of the time, the reference standing in for all others. Of a death, which costs more
    to see than others to run, all at once.
    """
    return (frozenset(),) if is_of_death(signature) else (frozenset({signature.stage}), frozenset())


def stages_that_show(case: Case, subject: Subject, signature: Signature) -> frozenset[str]:
    """The stages of the first of these ways that shows the signature; all, which is empty, where none does."""
    *ways, whole = ways_to_ask(signature)
    for only in ways:
        try:
            if find_shown(subject.ask(case, signature, only), signature):
                return only
        except UnsupportedKernelError:
            continue
    return whole


def find_shown(outcome: Outcome, signature: Signature) -> Finding | None:
    """The finding of that signature, if there is one."""
    return next((finding for finding in outcome.findings if finding.signature == signature), None)
