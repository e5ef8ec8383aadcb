"""What happens in a campaign. Whoever shows, saves or logs it hears of it here, and nowhere else."""

from dataclasses import dataclass

from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.outcome import Outcome
from indexfuzz.core.signature import Signature


@dataclass(frozen=True)
class CaseRun:
    """One case has run."""

    outcome: Outcome


@dataclass(frozen=True)
class Known:
    """A case showed a signature that says nothing new: `by` is the mistake that it shows, itself or its cause."""

    finding: Finding
    case: Case
    by: Signature


@dataclass(frozen=True)
class Seen:
    """A new signature, and the first case that showed it, as it was drawn."""

    finding: Finding
    case: Case


@dataclass(frozen=True)
class Explained:
    """A signature is most likely a symptom of `by`, and this is the first case that showed it, as it was drawn.

    It was not seen before, or was seen, and maybe found, before its cause was.
    """

    finding: Finding
    case: Case
    by: Signature


@dataclass(frozen=True)
class Smaller:
    """A smaller case that shows a signature that was seen."""

    finding: Finding
    case: Case


@dataclass(frozen=True)
class Found:
    """The last word on a signature that was seen: the smallest case that shows it.

    `doubt` says why the case is not known to show it again; it is empty where it did in a process that had run nothing
    else, or where nobody could look. `seen_as` is the signature that was seen, where that is another.
    """

    finding: Finding
    case: Case
    doubt: str = ""
    seen_as: Signature | None = None


@dataclass(frozen=True)
class Unsupported:
    """The device cannot execute a kernel; the case says nothing."""

    message: str


@dataclass(frozen=True)
class Unrepeated:
    """A process died of a case once, and not again."""

    message: str


@dataclass(frozen=True)
class Died:
    """A process that ran cases has died, and another one takes its place.

    `file` holds the case that was in flight, where there was one; `again` says that it was so the second time,
    so the case is left out.
    """

    message: str
    file: str = ""
    again: bool = False


Event = CaseRun | Known | Seen | Explained | Smaller | Found | Unsupported | Unrepeated | Died
