"""The loop: draw a case, run it, tell of what is new the moment it is seen, and then make its case small.

Known signatures are counted: an open shallow bug must not hide a deep one.
"""

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from indexfuzz.campaign.budget import Budget
from indexfuzz.campaign.drawing import drawn_cases
from indexfuzz.campaign.events import CaseRun, Event, Explained, Found, Known, Seen, Smaller, Unsupported
from indexfuzz.campaign.settings import Settings
from indexfuzz.campaign.summary import Summary
from indexfuzz.core import interrupts
from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding, seen_once
from indexfuzz.core.signature import Signature
from indexfuzz.devices.base import UnsupportedKernelError
from indexfuzz.oracles.mistakes import Mistakes
from indexfuzz.triage.minimize import NotFailingError, minimise

UNSTABLE = "the same case did not show it again in the same process"
ALONE = "the case did not show it in a process that had run nothing else"


@dataclass
class _Pending:
    """A signature that was seen, and the smallest case so far that shows it."""

    finding: Finding
    case: Case
    doubt: str = ""


class Campaign:
    """Draws until time or cases are used up or somebody interrupts, and tells `listen` all that happens.

    A finding is told the moment it is seen (Seen), and once more when its case is as small as it gets or nothing more
    can be done (Found), whatever ends the campaign.
    """

    def __init__(self, wanted: Settings, listen: Callable[[Event], None]) -> None:
        self._wanted = wanted
        self._listen = listen
        self._mistakes = Mistakes(wanted.known)
        self._pending: dict[Signature, _Pending] = {}
        self._tried = 0
        self._budget = Budget(wanted)
        self.summary = Summary()

    def run(self) -> Summary:
        """Run it to its end. What is raised inside is raised here, after everything that was seen has been told."""
        self._budget = Budget(self._wanted)
        try:
            self._draw_and_run()
        except interrupts.Interrupted as interrupted:
            self.summary.interrupted = interrupted.number
            interrupts.end()
        except KeyboardInterrupt:
            self.summary.interrupted = signal.SIGINT
        finally:
            for signature in list(self._pending):
                self._tell_found(signature)
            for found in self.summary.findings:
                self.summary.symptoms[found.finding.signature] = self._mistakes.symptoms_of(found.finding.signature)
            self.summary.seconds = self._budget.elapsed
            self.summary.unrepeated = list(self._wanted.subject.unrepeated)
        return self.summary

    def _draw_and_run(self) -> None:
        for case in drawn_cases(self._wanted):
            if self._has_enough:
                return
            interrupts.check()
            self._run_case(case)
            for signature in list(self._pending):
                self._make_smaller(signature)

    @property
    def _has_enough(self) -> bool:
        """Whether no more cases shall be drawn."""
        wanted = self._wanted
        used_up = wanted.cases is not None and self._tried >= wanted.cases
        return used_up or self._budget.is_over or (wanted.first_only and bool(self.summary.findings))

    def _run_case(self, case: Case) -> None:
        self._wanted.before_case(case)
        self._tried += 1
        try:
            outcome = self._wanted.subject.run(case, self._wanted.only)
        except UnsupportedKernelError as error:
            self._tell(Unsupported(str(error)))
            return
        self._tell(CaseRun(outcome))
        for finding in outcome.findings:
            self._judge(finding, case, outcome.findings)

    def _judge(self, finding: Finding, case: Case, beside: Sequence[Finding]) -> None:
        """Take a finding for new, or for one more sight of a mistake that is known."""
        if self._mistakes.explain(finding, beside) is not None:
            self._tell(Known(finding, case))
            return
        self._pending[finding.signature] = _Pending(finding, case)
        self._tell(Seen(finding, case))
        for symptom in self._mistakes.add(finding):
            told = next((found for found in self.summary.findings if found.finding.signature == symptom), None)
            if (explained := self._pending.pop(symptom, None) or told) is not None:
                self._tell(Explained(explained.finding, explained.case, finding.signature))

    def _make_smaller(self, signature: Signature) -> None:
        """Make the case of a pending finding small while there is time, and tell of it for the last time."""
        pending = self._pending[signature]
        started = time.monotonic()
        try:
            pending.case, pending.finding = minimise(
                pending.case,
                self._wanted.subject,
                signature,
                seconds=self._budget.grant(len(self._pending)),
                on_progress=lambda case, finding: self._take_smaller(pending, case, finding),
            )
        except NotFailingError:
            pending.finding = seen_once(pending.finding)
            pending.doubt = UNSTABLE
        else:
            if not self._budget.is_long_over and self._wanted.confirm(pending.case, signature) is False:
                pending.doubt = ALONE
        self._budget.use(time.monotonic() - started)
        self._tell_found(signature)

    def _take_smaller(self, pending: _Pending, case: Case, finding: Finding) -> None:
        pending.case, pending.finding = case, finding
        self._tell(Smaller(finding, case))
        interrupts.check()

    def _tell_found(self, signature: Signature) -> None:
        pending = self._pending.pop(signature)
        seen_as = signature if pending.finding.signature != signature else None
        if seen_as:
            self._mistakes.add(pending.finding)
        self._tell(Found(pending.finding, pending.case, pending.doubt, seen_as))

    def _tell(self, event: Event) -> None:
        """Count an event and pass it on; no signal comes between."""
        with interrupts.shielded():
            self.summary.hear(event)
            self._listen(event)


def run(wanted: Settings, listen: Callable[[Event], None] = lambda _event: None) -> Summary:
    """Run a campaign in this process, telling `listen` about all that happens."""
    return Campaign(wanted, listen).run()
