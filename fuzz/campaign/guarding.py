"""Guards: cases that pass and together reach all that is known to be reached. Keep what is new, leave out what is not.

Run again after each change of a kernel, they are a regression test that takes seconds.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from indexfuzz.campaign.events import CaseRun, Event
from indexfuzz.core import interrupts
from indexfuzz.core.case import Case
from indexfuzz.core.finding import summary_line
from indexfuzz.corpus.entry import Entry
from indexfuzz.corpus.store import Corpus
from indexfuzz.devices.base import UnsupportedKernelError
from indexfuzz.implementations.base import ImplementationError
from indexfuzz.subjects.subject import Subject
from indexfuzz.triage.order import size_of

NOTE = "Reached what no case kept before it did."

Reached = frozenset[str]


@dataclass(frozen=True)
class Guard:
    """A guard and what it reaches, or why that cannot be said; `fails` where that is a finding."""

    entry: Entry
    reached: Reached = frozenset()
    complaint: str = ""
    fails: bool = False


def is_guard(entry: Entry) -> bool:
    """Whether an entry was kept for what it reaches alone: it never failed, and nobody has written a note about it."""
    return entry.status == "guard" and entry.finding is None and entry.note in ("", NOTE)


def run_guard(entry: Entry, subject: Subject) -> Guard:
    """Look what a guard reaches; whatever goes wrong concerns it alone."""
    interrupts.check()
    try:
        outcome = subject.run(entry.case)
    except (UnsupportedKernelError, ImplementationError) as error:
        return Guard(entry, complaint=str(error))
    if outcome.findings:
        return Guard(entry, outcome.reached, f"it fails: {summary_line(outcome.findings[0])}", fails=True)
    return Guard(entry, outcome.reached)


class GuardKeeper:
    """Listens to a campaign and keeps each case that passes and reaches something new.

    `kept` counts them. Where they cannot be written any more, `notice` hears so once.
    """

    def __init__(self, folder: Path, known: Iterable[str], notice: Callable[[str], None]) -> None:
        self._corpus = Corpus(folder)
        self._known = set(known)
        self._notice = notice
        self._is_full = False
        self.kept = 0

    def hear(self, event: Event) -> None:
        """Look at a case that has run."""
        if not isinstance(event, CaseRun) or event.outcome.findings or self._is_full:
            return
        if event.outcome.reached <= self._known:
            return
        self._known |= event.outcome.reached
        try:
            self._corpus.save(Entry(case=event.outcome.case, status="guard", note=NOTE))
        except OSError as error:
            self._is_full = True
            self._notice(f"no more guards are kept: cannot write to {self._corpus.folder}: {error.strerror}")
        else:
            self.kept += 1


def choose_guards(
    candidates: Sequence[tuple[Case, Reached]], others: Iterable[Reached] = ()
) -> Mapping[str, frozenset[str]]:
    """Which cases reach, with the `others` that stay anyway, all that all of them do: id -> what each alone reaches.

    Of those chosen none can be left out. Finding the fewest would take time exponential in their number; each next one
    is that which reaches most of what is missing, the smallest case where several do (the greedy cover of Chvatal,
    1979, at most ln n times as many).
    """
    fixed: frozenset[str] = frozenset().union(*others)
    missing = frozenset[str]().union(*(reached for _, reached in candidates)) - fixed
    left = sorted(candidates, key=lambda candidate: size_of(candidate[0]))
    chosen: list[tuple[Case, Reached]] = []
    while missing:
        best = max(left, key=lambda candidate: len(candidate[1] & missing))
        left.remove(best)
        chosen.append(best)
        missing -= best[1]
    for candidate in sorted(chosen, key=lambda candidate: size_of(candidate[0]), reverse=True):
        rest = [other for other in chosen if other is not candidate]
        if candidate[1] - fixed <= frozenset[str]().union(*(reached for _, reached in rest)):
            chosen = rest
    counts = Counter(item for _, reached in chosen for item in reached - fixed)
    return {case.id: frozenset(item for item in reached if counts[item] == 1) for case, reached in chosen}
