"""Make a failing case as small as its bug allows: reductions, against one question."""

import time
from collections.abc import Callable

from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.outcome import Outcome
from indexfuzz.core.signature import Signature
from indexfuzz.devices.base import UnsupportedKernelError
from indexfuzz.subjects.subject import Subject
from indexfuzz.triage.reductions import REDUCTIONS


class NotFailingError(Exception):
    """The case to minimise does not show the signature."""


def minimise(
    case: Case,
    subject: Subject,
    signature: Signature,
    *,
    seconds: float = 30.0,
    on_progress: Callable[[Case, Finding], None] = lambda _case, _finding: None,
) -> tuple[Case, Finding]:
    """The smallest case found that still shows `signature`, and the finding there.

    Every reduction is tried again from the start after each success, until none succeeds or `seconds` are over;
    the result depends on nothing else. Raises NotFailingError when the case given does not show the signature.
    """
    search = Search(subject, signature, seconds)
    finding = search.finding(case)
    if finding is None:
        raise NotFailingError(f"case {case.id} does not show {signature} on {subject.facts.name}")
    small, smaller = case, search.next_smaller(case)
    while smaller is not None:
        small = smaller
        on_progress(small, search.finding(small) or finding)
        smaller = search.next_smaller(small)
    if signature.kind == "hang":  # believed in haste so far; now it gets as long as any other case
        for last in (small, case):
            shown = _shown(subject.run(last), signature)
            if shown:
                return last, shown
        raise NotFailingError(f"case {case.id} takes long on {subject.facts.name}, but it ends")
    return small, search.finding(small) or finding


def _shown(outcome: Outcome, signature: Signature) -> Finding | None:
    """The finding of that signature, if there is one."""
    return next((f for f in outcome.findings if f.signature == signature), None)


class Search:
    """Remembers which cases were tried, and when to stop."""

    def __init__(self, subject: Subject, signature: Signature, seconds: float) -> None:
        self._subject = subject
        self._signature = signature
        self._seconds = seconds
        self._started: float | None = None
        self._tried: dict[str, Finding | None] = {}
        self._clauses: frozenset[str] | None = None

    def finding(self, case: Case) -> Finding | None:
        """The finding with the wanted signature that a case shows, if any.

        A case beyond the contract must not break a clause that the first one kept.
        """
        if case.id not in self._tried:
            self._tried[case.id] = self._look(case)
        return self._tried[case.id]

    def _look(self, case: Case) -> Finding | None:
        try:
            shown = _shown(self._subject.ask(case, self._signature), self._signature)
        except UnsupportedKernelError:
            return None
        clauses = frozenset(shown.beyond.split("; ") if shown else ())
        if shown and self._clauses is None:
            self._clauses = clauses
        return shown if self._clauses is None or clauses <= self._clauses else None

    def next_smaller(self, case: Case) -> Case | None:
        """The first untried reduction of a case that still shows the signature; the time runs from the first call."""
        self._started = self._started or time.monotonic()
        for reduction in REDUCTIONS:
            for candidate in reduction(case):
                if time.monotonic() > self._started + self._seconds:
                    return None
                if candidate.id not in self._tried and self.finding(candidate):
                    return candidate
        return None
