"""What a campaign tells whoever listens."""

from dataclasses import dataclass

from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.outcome import Outcome


@dataclass(frozen=True)
class CaseRun:
    """One case has run."""

    outcome: Outcome


@dataclass(frozen=True)
class Known:
    """A case showed a signature that is known already."""

    finding: Finding
    case: Case


@dataclass(frozen=True)
class Shrinking:
    """A new signature; its case is being made smaller."""

    finding: Finding
    case: Case


@dataclass(frozen=True)
class Found:
    """A new signature, and the smallest case that shows it."""

    finding: Finding
    case: Case


@dataclass(frozen=True)
class Unsupported:
    """The device cannot execute a kernel; the case says nothing."""

    message: str


Event = CaseRun | Known | Shrinking | Found | Unsupported
