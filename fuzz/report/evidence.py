"""What there is to say about one finding: its case in words, and what trying it again adds."""

import linecache
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from indexfuzz.core.case_words import describe_case
from indexfuzz.core.finding import promise
from indexfuzz.corpus.entry import Entry
from indexfuzz.devices import covering
from indexfuzz.devices.base import DeviceError, MaskCoverage
from indexfuzz.implementations.base import ImplementationError
from indexfuzz.report.pictures.draw import draw, explain_absence
from indexfuzz.report.pictures.grid import Picture
from indexfuzz.report.places import find_checkout, find_source, name_in_checkout
from indexfuzz.subjects.in_process import InProcess
from indexfuzz.subjects.under_test import UnderTest
from indexfuzz.triage.explain import explain
from indexfuzz.triage.launches import ReproError
from indexfuzz.triage.looking import look_at
from indexfuzz.triage.prove import run_script
from indexfuzz.triage.recall import SeverityError
from indexfuzz.triage.replay import FAILING, replay
from indexfuzz.triage.repro import script
from indexfuzz.triage.severity import grow, recall

AROUND = 6
"""Lines of the kernel that are shown before and after the blamed one."""


@dataclass(frozen=True)
class Excerpt:
    """Lines of a file around the blamed one: (number, text, whether it is that one).

    marks: of each line, what the masks on it were in the case, as `MaskCoverage.marks` says it; none where none ran.
    """

    file: str
    lines: tuple[tuple[int, str, bool], ...]
    marks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evidence:
    """A finding as it is told. What was not tried is empty; `now` says what became of the case when it was tried.

    `location` is a "file:line", without its folders where it is as it was kept.
    """

    signature: str
    detail: str
    promise: str
    status: str
    note: str
    link: str
    file: str
    location: str
    case: tuple[tuple[str, str, str], ...]
    commands: tuple[tuple[str, str], ...] = ()
    now: str = ""
    explanation: tuple[str, ...] = ()
    source: Excerpt | None = None
    pictures: tuple[Picture, ...] = ()
    absence: str = ""
    """Why there is no picture, where one was to be drawn."""
    values: tuple[str, ...] = ()
    """The line that it comes from with the values that its names had, in lines of text."""
    repro: str = ""
    severity: str = ""


def kept_evidence(path: Path, entry: Entry, target: UnderTest[InProcess] | None = None) -> Evidence:
    """What a kept case says, and with a target what it shows there now.

    Raises ValueError for an entry without a finding.
    """
    if entry.finding is None:
        raise ValueError(f"{path} has no finding")
    told = Evidence(
        signature=str(entry.finding.signature),
        detail=entry.finding.detail,
        promise=promise(entry.finding.beyond),
        status=entry.status,
        note=" ".join(filter(None, (entry.note, f"Put down to {entry.cause}." if entry.cause else ""))),
        link=entry.link,
        file=str(path),
        location=entry.finding.location,
        source=excerpt(entry.finding.location),
        case=tuple(describe_case(entry.case)),
    )
    return told if target is None else _try_again(told, path, entry, target)


def _try_again(told: Evidence, path: Path, entry: Entry, target: UnderTest[InProcess]) -> Evidence:
    result = replay(entry, target.subject)
    told = replace(told, now=result.status, commands=tuple(_commands(path, target)), source=None)
    if result.status not in FAILING or entry.finding is None:
        return told
    shown = result.findings[0]
    look = look_at(entry.case, shown.signature, target.subject)
    blamed = shown.location or (look.place() if look else "")
    pictures = draw(look) if look else ()
    return replace(
        told,
        detail=shown.detail,
        location=blamed,
        explanation=tuple(explain(entry.case, shown.signature, target.subject).lines()),
        source=excerpt(blamed, _cover(entry, target.subject)),
        pictures=pictures,
        absence="" if pictures else explain_absence(shown.signature.kind, look),
        values=tuple(look.sentences()) if look else (),
        repro=_repro(entry, target),
        severity=_severity(entry, target),
    )


def _commands(path: Path, target: UnderTest[InProcess]) -> Iterator[tuple[str, str]]:
    """What to type: in a process of its own where that is usual, though this was made in one process."""
    setup = replace(target.setup, isolate=None)
    for label, command in (("again", "replay"), ("what happens", "show"), ("a script", "repro"), ("cost", "severity")):
        yield label, setup.command(command, path)


def _cover(entry: Entry, subject: InProcess) -> MaskCoverage | None:
    """The masks of the case's kernels; None where the device does not see them."""
    if entry.finding is None:
        return None
    try:
        device, coverage = covering(subject.device)
    except DeviceError:
        return None
    replace(subject, device=device).ask(entry.case, entry.finding.signature)
    return coverage


def excerpt(location: str, coverage: MaskCoverage | None = None) -> Excerpt | None:
    """The lines around a "file:line" as the file is now, with what their masks were; None where they cannot be read.

    Where the checkout has no such file, those of a module that was loaded from elsewhere, as from a wheel.
    """
    checkout = find_checkout()
    name, _, number = location.rpartition(":")
    found = find_source(location, checkout)
    if found is None and name in linecache.cache and number.isdecimal():
        found = Path(name), int(number)
    file, blamed = found or (Path(), 0)
    lines = linecache.getlines(str(file)) if blamed else []
    if not 0 < blamed <= len(lines):
        return None
    first, last = max(blamed - AROUND, 1), min(blamed + AROUND, len(lines))
    shown = tuple((at, lines[at - 1].rstrip("\n"), at == blamed) for at in range(first, last + 1))
    marks = coverage.marks(str(file)) if coverage else {}
    masks = tuple(marks.get(at, "") for at, _, _ in shown)
    where = name_in_checkout(file, checkout) or "/".join(file.parts[-2:])
    return Excerpt(where, shown, masks if any(masks) else ())


def _repro(entry: Entry, target: UnderTest[InProcess]) -> str:
    """A script that shows the finding; empty where none does."""
    try:
        text = script(entry, target)
    except (ReproError, ImplementationError):
        return ""
    return text if run_script(text).shows else ""


def _severity(entry: Entry, target: UnderTest[InProcess]) -> str:
    """The share of the true top-k keys that is still selected, as a sentence; empty where it cannot be measured."""
    if entry.finding is None:
        return ""
    subject = target.subject
    try:
        found = recall(grow(entry.case, entry.finding.signature.stage), subject.implementation, subject.device)
    except SeverityError:
        return ""
    if found.failed:
        return f"Nothing is selected: the step raises {found.failed}."
    return (
        f"Of the true top-k keys {found.mean:.2%} are still selected, {found.worst:.1%} in the worst row; "
        f"a blind choice would select {found.blind:.1%}."
    )
