"""Run the case of a corpus entry again and say what became of its finding."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from indexfuzz.core.finding import Finding
from indexfuzz.corpus.entry import WHOLE, Entry

if TYPE_CHECKING:  # these import torch
    from indexfuzz.core.outcome import Outcome
    from indexfuzz.subjects.subject import Subject

Status = Literal["FIXED", "STILL FAILS", "CHANGED", "PASSES", "NOT SHOWN", "ERROR"]
FAILING: frozenset[Status] = frozenset({"STILL FAILS", "CHANGED"})


@dataclass(frozen=True)
class Replay:
    """What became of an entry.

    FIXED: an open finding is gone. STILL FAILS: its signature is back. CHANGED: it fails in another way. PASSES: a
    guard or a fixed finding, and nothing is wrong. NOT SHOWN: an unconfirmed finding did not show itself this time
    either, which does not say that it is mended. ERROR: the question could not be asked; `message` says why. Of a
    finding that was put down to another, it says whether that shows. The entry's own finding is the first.
    """

    status: Status
    findings: tuple[Finding, ...] = ()
    message: str = ""


def replay(entry: Entry, subject: "Subject") -> Replay:
    """Put an entry's case to a subject again and compare with what the entry says.

    What the entry shows is asked first, and where that is gone, everything: silence is no fix.
    """
    from indexfuzz.devices.base import UnsupportedKernelError
    from indexfuzz.implementations.base import ImplementationError

    try:
        outcome = subject.ask(entry.case, entry.finding.signature) if entry.finding else subject.run(entry.case)
        if entry.finding and not [*outcome.findings, *outcome.consequences]:
            outcome = subject.run(entry.case)
    except UnsupportedKernelError as error:
        return Replay("ERROR", message=f"the device cannot run it: {error}")
    except ImplementationError as error:
        return Replay("ERROR", message=str(error))
    wanted = entry.finding.signature if entry.finding else None
    follows = [finding for finding in outcome.consequences if finding.signature == wanted][:1]
    findings = tuple(sorted([*follows, *outcome.findings], key=lambda finding: finding.signature != wanted))
    if findings and findings[0].signature == wanted:
        return Replay("STILL FAILS", findings, _tell_cause(entry, findings))
    if findings:
        return Replay("CHANGED", findings)
    if untested := _untested(entry, outcome, subject):
        return Replay("ERROR", message=untested)
    gone: dict[str, Status] = {"open": "FIXED", "unconfirmed": "NOT SHOWN"}
    return Replay(gone.get(entry.status, "PASSES"), message=_tell_elsewhere(entry, subject.facts.name))


def _tell_cause(entry: Entry, findings: tuple[Finding, ...]) -> str:
    """Whether a case that was put down to another finding shows that one, too; empty where it was not."""
    if entry.cause is None:
        return ""
    if any(finding.signature == entry.cause for finding in findings):
        return f"most likely a symptom of {entry.cause}, which the case shows, too"
    return f"it was put down to {entry.cause}, which the case does not show"


def _tell_elsewhere(entry: Entry, name: str) -> str:
    """Where a case was seen to fail that was never seen to here; empty where it was, or is not expected to fail."""
    names = entry.seen_elsewhere(name) if entry.status in ("open", "unconfirmed") else []
    return f"it was seen to fail on {', '.join(names)}, and never on {name}" if names else ""


def _untested(entry: Entry, outcome: "Outcome", subject: "Subject") -> str:
    """Why a run without findings says nothing about the entry; empty when it does say something."""
    stage, name = entry.stage, subject.facts.name
    if stage in outcome.stages or stage == WHOLE:
        return ""
    if stage in outcome.outside:
        return f"outside the contract of {name}: {outcome.outside[stage]}"
    if stage not in subject.facts.stages:
        return f"{name} has no stage {stage}"
    return f"the case does not reach the stage {stage}"
