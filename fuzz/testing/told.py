"""How the tests of IndexFuzz fail in pytest: a few lines in place of a traceback."""

from typing import TYPE_CHECKING

from indexfuzz.core.finding import FindingError

if TYPE_CHECKING:
    from indexfuzz.testing.keeping import Kept
    from indexfuzz.testing.session import FuzzSession


class TargetFailedError(AssertionError):
    """A fuzz target found something; `findings` has (signature, lines) of each."""

    def __init__(self, findings: list[tuple[str, str]]) -> None:
        super().__init__(", ".join(signature for signature, _ in findings))
        self.findings = findings


class NothingTestedError(AssertionError):
    """A fuzz target ran no case on the implementation: it must not pass. The message is all that is printed."""


def is_told(error: BaseException) -> bool:
    """Whether the message of an error is all that a user needs."""
    from indexfuzz.core.setup import SetupError
    from indexfuzz.corpus.entry import CorpusError
    from indexfuzz.implementations.base import ImplementationError

    return isinstance(error, NothingTestedError | SetupError | CorpusError | ImplementationError)


def describe_found(found: "Kept", session: "FuzzSession") -> str:
    """A finding in lines: what, where in the kernel, on which case, and how to see it again."""
    from indexfuzz.core.case_words import describe_case

    finding, target = found.finding, session.under_test
    lines = [str(finding.signature), finding.detail, finding.promise]
    if finding.place:
        lines.append(f"at {finding.place}")
    lines += [f"  {line}" for line in _tell(found, session)]
    lines.append(f"on case {found.case.id}, made of (everything else is at its default)")
    lines += [f"  {part:<8} {name:<12} {words}" for part, name, words in describe_case(found.case)]
    lines += [
        *(f"also seen as {each}, kept as {path}" for each, path in found.symptoms.items()),
        *found.doubts,
        f"saved as {found.path}",
        f"again: {target.command('replay', found.path)}",
        f"smaller: {target.command('minimize', found.path)}",
    ]
    return "\n  ".join(lines)


def _tell(found: "Kept", session: "FuzzSession") -> list[str]:
    """The line of the kernel with its values; of what runs in a process of its own, from a copy of this one."""
    from indexfuzz.subjects.in_process import InProcess
    from indexfuzz.triage.blame import tell_blamed
    from indexfuzz.triage.looking import tell

    target, signature = session.under_test, found.finding.signature
    if isinstance(target.subject, InProcess):
        return tell(found.case, signature, target.subject)
    return tell_blamed(found.case, signature, target.setup)


def told_findings(error: BaseException) -> list[tuple[str, str]]:
    """(signature, lines) of the findings that an exception is or is a group of; none when anything else is among them.

    A test that raises them by itself, such as a state machine of Hypothesis, has no case to keep.
    """
    if isinstance(error, TargetFailedError):
        return error.findings
    if isinstance(error, FindingError):
        finding = error.finding
        lines = [str(finding.signature), finding.detail, finding.promise]
        lines += [f"at {finding.place}"] if finding.place else []
        return [(str(finding.signature), "\n  ".join(lines))]
    if isinstance(error, BaseExceptionGroup):
        inner = [told_findings(e) for e in error.exceptions]
        return [told for each in inner for told in each] if all(inner) else []
    return []
