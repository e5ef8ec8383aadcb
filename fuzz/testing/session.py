"""One pytest session: what is under test, opened once, and what each test that runs cases has found.

Fuzz targets take no fixtures, so that other drivers of Hypothesis tests can run them: `check` finds the session by
`current_session`. Outside of pytest that is one of the project's settings, without a limit of time.
"""

import time
from collections import Counter
from contextvars import ContextVar, Token
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from indexfuzz.core.finding import error_for
from indexfuzz.core.outcome import Outcome
from indexfuzz.core.project import Project
from indexfuzz.core.signature import Signature
from indexfuzz.corpus.store import Corpus
from indexfuzz.subjects.open import prepare
from indexfuzz.subjects.subject import Subject
from indexfuzz.subjects.under_test import UnderTest
from indexfuzz.testing.options import Options

if TYPE_CHECKING:
    from indexfuzz.testing.keeping import Kept, KeptFindings

MINIMISE_SECONDS = 20.0
"""How long all findings of a target may be made smaller and tried alone, of --fuzz-seconds at most half."""

LEAST_SECONDS = 1.0
"""What they get in any case: a target overruns --fuzz-seconds by no more than this, one case, and one new process."""


class EnoughError(BaseException):
    """Leaves Hypothesis at once when the time is over; no Exception, so that it is not taken for a failure."""


class FuzzSession:
    """What is under test and what the corpus knows of it, and the test that runs now."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._known: dict[Path, frozenset[Signature]] = {}
        self.run = TargetRun(self, None, limited=False)

    @cached_property
    def under_test(self) -> UnderTest[Subject]:
        """What the options name, opened at the first question.

        Raises SetupError when it is not to be had.
        """
        import torch

        torch.set_num_threads(1)
        return prepare(self.options.setup)

    @property
    def known(self) -> frozenset[Signature]:
        """The signatures of open findings of what is under test, from the corpus; they do not raise."""
        return self.known_in(self.options.corpus)

    def known_in(self, folder: Path) -> frozenset[Signature]:
        """The signatures of open findings of what is under test in any corpus, which is read once."""
        folder = folder.resolve()
        if folder not in self._known:
            self._known[folder] = Corpus(folder).known(self.under_test.subject.facts.name)
        return self._known[folder]

    def begin(self) -> "TargetRun":
        """Start to count anew, for the test that runs next."""
        self.run = TargetRun(self, self.options.seconds, limited=True)
        return self.run


class TargetRun:
    """The cases of one test. `stages` counts how often each stage ran on the implementation.

    In pytest (`limited`) a finding does not end the search: it is kept, and told at the end with all others.
    """

    def __init__(self, session: FuzzSession, seconds: float | None, *, limited: bool) -> None:
        self._session = session
        self._seconds = seconds
        self._limited = limited
        self._started = time.monotonic()
        self._findings: KeptFindings | None = None
        self.cases = 0
        self.stages = Counter[str]()
        self.unsupported = Counter[str]()

    @property
    def has_failed(self) -> bool:
        """Whether anything new was found."""
        return self._findings is not None and bool(self._findings.failing)

    @property
    def seconds(self) -> float:
        """Since the test began."""
        return time.monotonic() - self._started

    def raise_if_over(self) -> None:
        """Raise EnoughError when the search must end, for the findings to be made smaller in the time that is left."""
        if self._seconds is None or not self._limited:
            return
        needed = min(MINIMISE_SECONDS, self._seconds / 2) if self.has_failed else 0.0
        if self.seconds > self._seconds - needed:
            raise EnoughError

    def note(self, outcome: Outcome) -> None:
        """Count a case, and keep what the corpus does not know: the first case of each mistake is saved at once.

        Raises the exception of its signature for something new, outside of pytest.
        """
        self.cases += 1
        self.stages.update(outcome.stages)
        if not outcome.findings:
            return
        from indexfuzz.testing.keeping import KeptFindings

        session = self._session
        self._findings = self._findings or KeptFindings(session.under_test, session.options.corpus, session.known)
        for finding in self._findings.new_among(outcome):
            if not self._limited:
                raise error_for(finding)
            self._findings.keep(finding, outcome.case)

    def conclude(self) -> "list[Kept]":
        """Everything that was found, each made as small as the time that is left allows, and tried in a new process."""
        left = MINIMISE_SECONDS
        if self._seconds is not None:
            left = min(left, max(self._seconds - self.seconds, LEAST_SECONDS))
        return self._findings.conclude(left) if self._findings else []


_CURRENT: ContextVar[FuzzSession] = ContextVar("_CURRENT")


def activate(session: FuzzSession) -> Token[FuzzSession]:
    """Make a session the current one; give the token to `deactivate` when it ends."""
    return _CURRENT.set(session)


def deactivate(token: Token[FuzzSession]) -> None:
    """End a session: what was current before it is again."""
    _CURRENT.reset(token)


def current_session() -> FuzzSession:
    """The session of the pytest that runs, or one of the project's settings outside of pytest."""
    return _CURRENT.get(None) or _outside_of_pytest()


@cache
def _outside_of_pytest() -> FuzzSession:
    return FuzzSession(Options.of_project(Project.here()))
