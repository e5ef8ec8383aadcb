"""The loop: have cases run, tell of what is new the moment it is seen, and then have its case made small.

Known signatures are counted: an open shallow bug must not hide a deep one. What is drawn hangs on what was learned from
earlier cases, in the order of the stream, and a campaign of so many cases judges them in that order, too: the same seed
and number of cases give the same findings, however many processes run them. Otherwise a case is judged as soon as it
was run: nothing that was seen waits for a slower process, to be lost with this one. Nor does a process that has nothing
to run until another one has done: it is given cases beside the stream, from which nothing is learned.
"""

import math
import signal
from collections.abc import Callable
from dataclasses import dataclass

from indexfuzz.campaign.budget import Budget
from indexfuzz.campaign.chunk import MOST_BEHIND, Chunk, known_to
from indexfuzz.campaign.crew import Alone, Crew
from indexfuzz.campaign.doubts import UNTRIED
from indexfuzz.campaign.drawing import Recent
from indexfuzz.campaign.events import CaseRun, Event, Explained, Found, Seen, Smaller, Unsupported
from indexfuzz.campaign.jobs import Report, Shrink, Shrunk, Tried
from indexfuzz.campaign.judging import Judge
from indexfuzz.campaign.settings import Settings
from indexfuzz.campaign.summary import Summary
from indexfuzz.core import interrupts
from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.signature import Signature
from indexfuzz.generation.goals import Ends, Goal, Goals


@dataclass
class _Pending:
    """A signature that was seen, and the smallest case so far that shows it."""

    finding: Finding
    case: Case
    is_shrinking: bool = False


class Campaign:
    """Draws until time or cases are used up or somebody interrupts, and tells `listen` all that happens.

    A finding is told the moment it is seen (Seen), and once more when its case is as small as it gets or nothing more
    can be done (Found), whatever ends the campaign. It is the foreman of its `crew`, this process alone unless another
    one is given.
    """

    def __init__(self, wanted: Settings, listen: Callable[[Event], None], crew: Crew | None = None) -> None:
        self._wanted = wanted
        self._listen = listen
        self._crew = crew or Alone(wanted)
        self._judge = Judge(wanted.known)
        self._pending: dict[Signature, _Pending] = {}
        self._judged = Recent()
        self._learned = Recent()
        self._tried = 0
        self._tried_before = 0
        self._is_dry = False
        self._chunks = 0
        self._plans: dict[int, tuple[tuple[Goal, ...], Ends]] = {0: ((), {})}
        self._beside = Goals()
        self._budget = Budget(wanted, self._crew.size)
        self.summary = Summary()

    def run(self) -> Summary:
        """Run it to its end. What is raised inside is raised here, after everything that was seen has been told."""
        self._budget = Budget(self._wanted, self._crew.size)
        try:
            with interrupts.unmasked(), self._crew:
                self._crew.work(self)
        except interrupts.Interrupted as interrupted:
            self.summary.interrupted = interrupted.number
            interrupts.end()
        except KeyboardInterrupt:
            self.summary.interrupted = signal.SIGINT
        finally:
            for signature, pending in list(self._pending.items()):
                self._tell_found(signature, pending.finding, pending.case, UNTRIED)
            for found in self.summary.findings:
                self.summary.symptoms[found.finding.signature] = self._judge.symptoms_of(found.finding.signature)
            self.summary.goals.join(self._beside)
            self.summary.seconds = self._budget.elapsed
        return self.summary

    @property
    def cases_left(self) -> float:
        """How many more cases shall be run."""
        wanted = self._wanted
        found = bool(self._pending or self.summary.findings)
        if self._is_dry or self._budget.is_over or (wanted.first_only and found):
            return 0
        return math.inf if wanted.cases is None else max(0, wanted.cases - self._tried)

    @property
    def is_long_over(self) -> bool:
        """Whether nothing more shall be done at all."""
        return self._budget.is_long_over

    def chunk(self, number: int) -> Chunk | None:
        """A part of the stream, steered by what is known of those that it may know of."""
        known = known_to(number, is_long=self._wanted.subject.facts.values_per_shape > 1)
        return Chunk(number, *self._plans[known]) if known in self._plans else None

    def chunk_beside(self, number: int) -> Chunk | None:
        """A chunk beside the stream, steered by all that is known now; none of a campaign of so many cases."""
        return Chunk(-number, *self._plans[self._chunks]) if self._wanted.cases is None else None

    def next_shrink(self) -> Shrink | None:
        """The next case to make smaller, and the time for that."""
        waiting = [pending for pending in self._pending.values() if not pending.is_shrinking]
        if not waiting or self.is_long_over:
            return None
        pending = waiting[0]
        pending.is_shrinking = True
        return Shrink(pending.finding, pending.case, self._budget.grant(len(waiting)), self._budget.left)

    def hear(self, report: Report) -> None:
        """Take note of what has come of a job."""
        if isinstance(report, Tried):
            self._budget.begin()
            if self._wanted.cases is None and self._judged.add(report.case):
                self._take_case(report)
        elif not isinstance(report, Smaller | Shrunk):
            self._tell(report)
        elif isinstance(report, Smaller):
            if (pending := self._pending.get(report.finding.signature)) is not None:
                pending.case, pending.finding = report.case, report.finding
                self._tell(report)
        else:
            self._budget.use(report.seconds)
            if report.signature in self._pending:
                self._tell_found(report.signature, report.finding, report.case, report.doubt)

    def learn(self, tried: Tried) -> None:
        """Take note of what a case compared. Cases that were run beyond what is wanted do not count."""
        if self._is_dry or self._tried == self._wanted.cases or not self._learned.add(tried.case):
            return
        self._tried += 1
        if self._wanted.cases is not None:
            self._take_case(tried)
        if tried.outcome is not None:
            self.summary.goals.add(tried.case, tried.outcome.comparisons)

    def count(self, tried: Tried) -> None:
        """Take note of what a case beside the stream compared, for the summary."""
        if tried.outcome is not None:
            self._beside.add(tried.case, tried.outcome.comparisons)

    def end_chunk(self) -> None:
        """A part of the stream without new cases ends the drawing: the strategy has no more."""
        self._chunks += 1
        goals = self.summary.goals
        self._plans[self._chunks] = (goals.plan(), goals.shown()) if self._wanted.steered else ((), {})
        self._plans.pop(self._chunks - 2 * MOST_BEHIND, None)
        self._is_dry |= self._tried == self._tried_before
        self._tried_before = self._tried

    def _take_case(self, tried: Tried) -> None:
        if tried.outcome is None:
            self._tell(Unsupported(tried.unsupported))
            return
        self._tell(CaseRun(tried.outcome))
        with interrupts.shielded():
            for event in self._judge.judge(tried.outcome):
                if isinstance(event, Seen):
                    self._pending[event.finding.signature] = _Pending(event.finding, event.case)
                elif isinstance(event, Explained):
                    self._pending.pop(event.finding.signature, None)
                self._tell(event)

    def _tell_found(self, signature: Signature, finding: Finding, case: Case, doubt: str) -> None:
        del self._pending[signature]
        seen_as = signature if finding.signature != signature else None
        if seen_as:
            self._judge.rename(signature, finding, case)
        self._tell(Found(finding, case, doubt, seen_as))

    def _tell(self, event: Event) -> None:
        """Count an event and pass it on; no signal comes between."""
        with interrupts.shielded():
            self.summary.hear(event)
            self._listen(event)


def run(wanted: Settings, listen: Callable[[Event], None] = lambda _event: None) -> Summary:
    """Run a campaign in this process, telling `listen` about all that happens."""
    return Campaign(wanted, listen).run()


def run_whole(wanted: Settings, listen: Callable[[Event], None], crew: Crew | None = None) -> Summary:
    """Run a campaign of which a part is worth nothing, as where it is measured.

    Raises Interrupted where a signal has ended it.
    """
    summary = Campaign(wanted, listen, crew).run()
    if summary.interrupted:
        raise interrupts.Interrupted(summary.interrupted)
    return summary
