"""Explain a finding: which single change of its case makes it pass, and which parameters do not matter."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

from indexfuzz.core.case import Case
from indexfuzz.core.session_words import tell_step
from indexfuzz.core.signature import Signature
from indexfuzz.devices.base import UnsupportedKernelError
from indexfuzz.oracles import schedules
from indexfuzz.subjects.subject import Subject
from indexfuzz.triage.alone import stages_that_show
from indexfuzz.triage.neighbour import Neighbour
from indexfuzz.triage.neighbours import PARTS, neighbours, with_ordinary_values
from indexfuzz.triage.twin import shown_alone

Fate = Literal["passes", "shows", "unclear"]

OTHER_SEEDS = 3
"""Draws of other values with which a change has to pass, too."""

MOST_TOLD = 4
"""Changes that are told of those that make the case pass."""

MOST_LEFT_OUT = 3
"""Fields that are named as those that may matter in a part where most do not."""


@dataclass(frozen=True)
class Explanation:
    """What the neighbours of a case show.

    `remedies`: of each field, the first change that makes the case pass. `tried`: the fields that were changed;
    `indifferent`: those with which the finding stays whatever they were changed to. `showing`: how many neighbours show
    it, too. `complete`: whether there was time for all. `of`: which case it is about, where that is another one.
    """

    remedies: tuple[Neighbour, ...]
    tried: tuple[str, ...]
    indifferent: tuple[str, ...]
    complete: bool
    showing: int = 0
    of: str = ""

    @property
    def is_everywhere(self) -> bool:
        """Whether all neighbours were tried, and each that could be judged shows the finding."""
        return self.complete and self.showing > 0 and not self.remedies

    def lines(self) -> Iterator[str]:
        """The explanation in sentences; none where no neighbour told anything."""
        told = [str(change) for change in self.remedies[:MOST_TOLD]]
        if self.of:
            yield self.of
        if self.is_everywhere:
            yield from self._everywhere()
            return
        if told:
            others = len(self.remedies) - len(told)
            also = f"; {others} other changes do as well" if others else ""
            yield f"It passes with {', or with '.join(told)}{also}."
        elif self.indifferent:
            yield "No single change that was tried makes it pass."
        if self.indifferent:
            yield f"Does not matter: {', '.join(self._parts(frozenset(self.indifferent)))}."
        if not self.complete:
            yield "There was no time to try every change."

    def _everywhere(self) -> Iterator[str]:
        """That nothing in the case matters, and what could not be judged."""
        yield f"No parameter matters: it shows with {self.showing} changes of the case as well, and passes with none."
        unclear = frozenset(self.tried) - frozenset(self.indifferent)
        if unclear:
            yield (
                f"Could not be judged: other {', '.join(self._parts(unclear))}; "
                "the case is outside the contract then, or fails in another way."
            )

    def _parts(self, chosen: frozenset[str]) -> Iterator[str]:
        """Some of the fields by part, in the fewest words: rope (style, mode), rope but for style, or rope."""
        for part, fields in groupby(sorted(self.tried, key=_place_of), key=_part_of):
            every = list(fields)
            names = [field.partition(".")[2] or "all" for field in every if field in chosen]
            others = [field.partition(".")[2] or "all" for field in every if field not in chosen]
            if names and not others:
                yield part
            elif names and len(names) <= len(others):
                yield f"{part} ({', '.join(names)})"
            elif names:
                yield f"{part} but for {' and '.join(others)}" if len(others) <= MOST_LEFT_OUT else f"most of {part}"


def explain(
    case: Case,
    signature: Signature,
    subject: Subject,
    *,
    seconds: float = 10.0,
    clock: Callable[[], float] = time.monotonic,
) -> Explanation:
    """Put the neighbours of a case that shows `signature` to a subject, for at most that long and one case more.

    A neighbour passes where its stage runs and nothing is wrong with it, whatever values of the same kinds are drawn.
    One that is outside the contract, or fails in another way, says nothing about its field. Where a minimal case fails
    with ordinary values just as well, those are what all else is tried with: among zeros, a change may hide a mistake
    that it does not mend. Where it does not, its values are what is told first. Of two schedules that differ, the other
    one is explained where it is wrong by itself.
    """
    ends = clock() + seconds
    if signature.kind == schedules.KIND and seconds > 0 and (alone := shown_alone(case, subject)):
        twin, finding = alone
        left = ends - clock()
        found = explain(twin, finding.signature, subject, seconds=left, clock=clock)
        return replace(found, of=f"The other schedule is wrong by itself ({finding.signature}): {_tell_steps(twin)}.")
    question = _Question(signature, subject, stages_that_show(case, subject, signature) if seconds > 0 else frozenset())
    ordinary = with_ordinary_values(case)
    remedies: list[Neighbour] = []
    if seconds > 0 and question.fate(ordinary.case) == "shows":
        case = ordinary.case
    elif seconds > 0 and question.verdict(ordinary.case) == "passes":
        remedies.append(ordinary)
    tried: list[str] = []
    indifferent: list[str] = []
    showing = 0
    for field, changes in groupby(neighbours(case), key=lambda neighbour: neighbour.field):
        fates: set[Fate] = set()
        for neighbour in changes:
            if clock() >= ends:
                return Explanation(tuple(remedies), tuple(tried), tuple(indifferent), complete=False, showing=showing)
            fate = question.verdict(neighbour.case)
            fates.add(fate)
            showing += fate == "shows"
            if fate == "passes":
                remedies += [neighbour] if neighbour not in remedies else []
                break
        if "shows" in fates and "passes" not in fates:
            indifferent.append(field)
        tried.append(field)
    return Explanation(tuple(remedies), tuple(tried), tuple(indifferent), complete=True, showing=showing)


def _tell_steps(case: Case) -> str:
    """What happens in the steps of a session."""
    count = len(case.session.steps)
    return "; ".join(f"step {number}: {', '.join(tell_step(case.session, number))}" for number in range(count))


def _place_of(field: str) -> int:
    """Where the part of a field stands among the parts."""
    part = _part_of(field)
    return PARTS.index(part) if part in PARTS else len(PARTS)


def _part_of(field: str) -> str:
    return field.partition(".")[0]


@dataclass(frozen=True)
class _Question:
    """What becomes of cases beside one that shows `signature`."""

    signature: Signature
    subject: Subject
    only: frozenset[str]

    def fate(self, case: Case) -> Fate:
        try:
            outcome = self.subject.ask(case, self.signature, self.only)
        except UnsupportedKernelError:
            return "unclear"
        about = [finding for finding in outcome.findings if finding.stage == self.signature.stage]
        if any(finding.signature == self.signature for finding in about):
            return "shows"
        stage = self.signature.stage
        is_judged = stage in outcome.stages and stage not in (*outcome.refused, *outcome.beyond)
        return "passes" if is_judged and not about else "unclear"

    def verdict(self, case: Case) -> Fate:
        """The fate of a case; one that passes, and shows it with other values of the same kinds, does so by chance."""
        fate = self.fate(case)
        others = (case.replace(values={"seed": case.values.seed + more}) for more in range(1, OTHER_SEEDS + 1))
        is_chance = fate == "passes" and any(self.fate(other) == "shows" for other in others)
        return "shows" if is_chance else fate
