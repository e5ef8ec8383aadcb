"""Make a failing case as small as its bug allows: reductions, against one question."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from indexfuzz.checks.describe import contradicts
from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.signature import Signature
from indexfuzz.devices.base import UnsupportedKernelError
from indexfuzz.subjects.subject import Subject
from indexfuzz.triage.alone import find_shown, ways_to_ask
from indexfuzz.triage.reductions import reduce_until_stuck
from indexfuzz.triage.smallest import Smallest


class NotFailingError(Exception):
    """The case to minimise does not show the signature."""


def minimise(
    case: Case,
    subject: Subject,
    signature: Signature,
    *,
    seconds: float = 30.0,
    on_progress: Callable[[Case, Finding], None] = lambda _case, _finding: None,
    reduce: Callable[[Smallest], None] = reduce_until_stuck,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[Case, Finding]:
    """The smallest case found that still shows `signature`, and the finding there.

    Every reduction goes on where it succeeds, and all are gone through until none makes the case smaller or `seconds`
    are over; the result depends on nothing else. Where a smaller case, most of it zeros, no longer gives a hint, that
    of a larger one is kept. Nothing but the stage of the signature runs where that shows it alone. `on_progress` hears
    of every smaller case. `reduce` is how. Raises NotFailingError when the case given does not show the signature.
    """
    search = _Search(reduce, clock, clock() + seconds, on_progress)
    for only in ways_to_ask(signature):
        question = Question(subject, signature, only)
        finding = question.finding(case)
        if finding is None:
            continue
        small, finding = search.reduce(case, finding, question)
        if not only:
            return _believe(case, small, finding, subject, signature)
        if whole := Question(subject, signature).finding(small):
            return small, _hinted(whole, finding)
    raise NotFailingError(f"case {case.id} does not show {signature} on {subject.facts.name}")


def _hinted(finding: Finding, larger: Finding) -> Finding:
    """The finding with the hint of a larger case where it has none, unless its own value gives that the lie."""
    return finding if contradicts(larger.hint, finding.got, finding.want) else finding.with_hint_of(larger)


def _believe(case: Case, small: Case, finding: Finding, subject: Subject, signature: Signature) -> tuple[Case, Finding]:
    """The smaller case; of one that hangs, which was asked with little time so far, one that does with much."""
    if signature.kind != "hang":
        return small, finding
    for believed in (small, case):
        shown = find_shown(subject.run(believed), signature)
        if shown:
            return believed, shown
    raise NotFailingError(f"case {case.id} takes long on {subject.facts.name}, but it ends")


@dataclass(frozen=True)
class _Search:
    """How cases are made smaller, and until when on a clock."""

    way: Callable[[Smallest], None]
    clock: Callable[[], float]
    ends: float
    on_progress: Callable[[Case, Finding], None]

    def reduce(self, case: Case, finding: Finding, question: "Question") -> tuple[Case, Finding]:
        """The smallest case that is found in time, and the finding there."""
        last = finding

        def shows(candidate: Case) -> bool:
            nonlocal last
            if self.clock() >= self.ends:
                raise _TimeIsUpError
            shown = question.finding(candidate)
            if shown is None:
                return False
            last = _hinted(shown, last)
            self.on_progress(candidate, last)
            return True

        smallest = Smallest(case, shows)
        with contextlib.suppress(_TimeIsUpError):
            self.way(smallest)
        return smallest.case, last


class _TimeIsUpError(Exception):
    """The search has to end."""


class Question:
    """Whether a case shows a signature; one beyond the contract must not break a clause that the first one kept.

    As what follows from another finding of the same launch it counts only where the first case shows it so.
    """

    def __init__(self, subject: Subject, signature: Signature, only: frozenset[str] = frozenset()) -> None:
        self._subject = subject
        self._signature = signature
        self._only = only
        self._clauses: frozenset[str] | None = None
        self._may_follow = True

    def finding(self, case: Case) -> Finding | None:
        """The finding with the wanted signature that a case shows, if any."""
        try:
            outcome = self._subject.ask(case, self._signature, self._only)
        except UnsupportedKernelError:
            return None
        shown = find_shown(outcome, self._signature)
        if shown and self._clauses is None:
            self._may_follow = False
        if shown is None and self._may_follow:
            shown = next((each for each in outcome.consequences if each.signature == self._signature), None)
        clauses = frozenset(shown.beyond.split("; ") if shown else ())
        if shown and self._clauses is None:
            self._clauses = clauses
        return shown if self._clauses is None or clauses <= self._clauses else None
