"""What a fuzz target has found: kept the moment it is seen, made smaller and tried alone when the target ends."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from indexfuzz.campaign.events import Event, Explained, Found, Seen, Smaller
from indexfuzz.campaign.jobs import Report, Shrink, Shrunk, make_smaller
from indexfuzz.campaign.judging import Judge
from indexfuzz.campaign.keeping import Keeper
from indexfuzz.campaign.settings import Settings
from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.outcome import Outcome
from indexfuzz.core.signature import Signature
from indexfuzz.subjects.fresh import shows_in_fresh_process
from indexfuzz.subjects.subject import Subject
from indexfuzz.subjects.under_test import UnderTest

SHRINKING = 0.75
"""The part of its time that a finding is made smaller; then its case is tried in a new process."""


@dataclass(frozen=True)
class Kept:
    """A finding, the smallest case that shows it, and the file that keeps it.

    `symptoms` maps the other signatures under which the mistake was seen to the files that keep those. `doubts` say why
    the case may not show it again, and why the file lies elsewhere than it should.
    """

    finding: Finding
    case: Case
    path: Path
    doubts: tuple[str, ...] = ()
    symptoms: Mapping[Signature, Path] = field(default_factory=dict)


class KeptFindings:
    """The findings of one test that the corpus does not know. `failing` has each under its signature."""

    def __init__(self, under_test: UnderTest[Subject], corpus: Path, known: Collection[Signature]) -> None:
        self._under_test = under_test
        self._judge = Judge(known)
        self._notices: list[str] = []
        self._keeper = Keeper(under_test.entry, corpus, self._notices.append)
        self.failing: dict[Signature, Found] = {}

    def new_among(self, outcome: Outcome) -> Iterator[Finding]:
        """The findings of an outcome that show a mistake which was not seen before, each to be kept at once."""
        for event in self._judge.judge(outcome):
            if isinstance(event, Seen):
                yield event.finding
            elif isinstance(event, Explained):
                self.failing.pop(event.finding.signature, None)
                self._hear(event)

    def keep(self, finding: Finding, case: Case) -> None:
        """Keep a finding on the case that showed it first."""
        self.failing[finding.signature] = Found(finding, case)
        self._hear(Seen(finding, case))

    def conclude(self, seconds: float) -> list[Kept]:
        """Make every case smaller, and look whether a process that has run nothing else shows the same."""
        share = seconds / max(len(self.failing), 1)
        confirm = partial(shows_in_fresh_process, self._under_test.setup)
        wanted = Settings(self._under_test.subject, confirm=confirm)
        for found in list(self.failing.values()):
            make_smaller(wanted, Shrink(found.finding, found.case, share * SHRINKING, share), self._take)
        return [self._kept(found) for found in self.failing.values()]

    def _take(self, report: Report) -> None:
        if isinstance(report, Smaller):
            self._hear(report)
        elif isinstance(report, Shrunk):
            seen_as = report.signature if report.finding.signature != report.signature else None
            found = self.failing[report.signature] = Found(report.finding, report.case, report.doubt, seen_as)
            self._hear(found)

    def _hear(self, event: Event) -> None:
        self._keeper.hear(event)

    def _kept(self, found: Found) -> Kept:
        doubts = ([found.doubt] if found.doubt else []) + self._notices
        signature, saved = found.finding.signature, self._keeper.saved
        symptoms = {each: saved[each] for each in self._judge.symptoms_of(signature) if each in saved}
        return Kept(found.finding, found.case, saved[signature], tuple(doubts), symptoms)
