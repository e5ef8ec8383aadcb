"""What is done with the cases of a campaign, and what comes of it: run them, make the case of a finding smaller."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from indexfuzz.campaign.doubts import ALONE, NO_PROCESS, UNSTABLE, UNTRIED
from indexfuzz.campaign.events import Died, Smaller, Unrepeated
from indexfuzz.campaign.settings import Settings
from indexfuzz.campaign.steered import Drawn
from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding, seen_once
from indexfuzz.core.outcome import Outcome
from indexfuzz.core.signature import Signature
from indexfuzz.devices.base import UnsupportedKernelError
from indexfuzz.triage.minimize import NotFailingError, minimise


@dataclass(frozen=True)
class Slice:
    """Run these cases of a chunk, the first of which has this place in it."""

    chunk: int
    place: int
    cases: tuple[Drawn, ...]

    def after(self, count: int) -> "Slice":
        """The same without the first cases."""
        return Slice(self.chunk, self.place + count, self.cases[count:])


@dataclass(frozen=True)
class Shrink:
    """Make the case of a finding smaller for so many seconds, and confirm it unless `left` of them are over then."""

    finding: Finding
    case: Case
    seconds: float
    left: float


@dataclass(frozen=True)
class Tried:
    """A case was run: its outcome, or why the device cannot run it."""

    case: Case
    outcome: Outcome | None
    unsupported: str = ""


@dataclass(frozen=True)
class Shrunk:
    """What became of the finding that was seen as `signature`, after so many seconds.

    `doubt` says why its case is not known to show it again.
    """

    signature: Signature
    finding: Finding
    case: Case
    seconds: float
    doubt: str = ""


Report = Tried | Smaller | Shrunk | Unrepeated | Died


def run_case(wanted: Settings, drawn: Drawn) -> Iterator[Report]:
    """Put one case to all oracles."""
    told, case = len(wanted.subject.unrepeated), drawn.case
    wanted.before_case(case)
    try:
        yield Tried(case, wanted.subject.run(case, drawn.only))
    except UnsupportedKernelError as error:
        yield Tried(case, None, str(error))
    yield from map(Unrepeated, wanted.subject.unrepeated[told:])


def make_smaller(wanted: Settings, job: Shrink, tell: Callable[[Report], None]) -> None:
    """Make a case smaller, and look whether a process that has run nothing else shows the same."""
    started, told, signature = time.monotonic(), len(wanted.subject.unrepeated), job.finding.signature
    finding, case, doubt = job.finding, job.case, ""

    def take(smaller: Case, shown: Finding) -> None:
        tell(Smaller(shown, smaller))

    try:
        case, finding = minimise(case, wanted.subject, signature, seconds=job.seconds, on_progress=take)
    except NotFailingError:
        finding = seen_once(finding)
        doubt = UNSTABLE
    else:
        in_time = time.monotonic() - started < job.left
        doubt = {True: "", False: ALONE, None: NO_PROCESS}[wanted.confirm(case, signature)] if in_time else UNTRIED
        if not doubt and (words := wanted.elsewhere(case)):
            finding = replace(finding, detail=f"{finding.detail}; {words}")
    for death in wanted.subject.unrepeated[told:]:
        tell(Unrepeated(death))
    tell(Shrunk(signature, finding, case, time.monotonic() - started, doubt))
