"""A session under two schedules looked at closely: which keys part, and the launch that makes the first of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from indexfuzz.checks import describe
from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.outcome import Outcome
from indexfuzz.core.session import Row, follow, lengths_at_end
from indexfuzz.core.session_words import tell_chunks
from indexfuzz.lockstep.source.trace import Trace
from indexfuzz.lockstep.tracking.moments import Recorder
from indexfuzz.oracles import schedules, sessions
from indexfuzz.subjects.subject import Subject
from indexfuzz.triage.lens import Lens
from indexfuzz.triage.look import Look
from indexfuzz.triage.session_keys import Key, Parts, make_keys, rows_due


@dataclass(frozen=True)
class ScheduleLook:
    """The keys that a session and another schedule of the same tokens end with.

    one and other have the keys of both, and finding is about the first of them that differs, parted; chunks says in
    which steps the tokens of each request came. wrong is a launch of the other schedule: the one that is wrong by
    itself, else the one that makes that key.
    """

    finding: Finding
    parted: Key
    one: Mapping[Key, Parts]
    other: Mapping[Key, Parts]
    chunks: Mapping[int, tuple[str, str]]
    wrong: Look | None
    moment: str = ""

    @property
    def recorder(self) -> Recorder:
        """What the kernels of the launch did."""
        return self.wrong.recorder if self.wrong else Recorder()

    def trace(self) -> Trace | None:
        """The line that stores the first key that differs, or is wrong by itself."""
        return self.wrong.trace() if self.wrong else None

    def place(self) -> str:
        """file:line of that line; empty where it is not known."""
        return self.wrong.place() if self.wrong else ""

    def sentences(self) -> list[str]:
        """In which steps the tokens came, and the launch."""
        told = [
            f"Of request {number}, the tokens came {one} here, and {other} in the other schedule."
            for number, (one, other) in self.chunks.items()
        ]
        return [*told, *(self.wrong.sentences() if self.wrong else [])]


def look_at_schedules(lens: Lens) -> ScheduleLook | Look | None:
    """Run a session under both schedules.

    Where all keys have the same bytes, what is wrong in the other one by itself, as are slots; None where nothing is.
    """
    case, device = lens.case, lens.device
    if schedules.maker_of(case) != lens.signature.stage or not lengths_at_end(case.session):
        return None
    twin, tokens = schedules.twin_of(case), schedules.same_tokens(sessions.end_of(case, device, lens.implementation))
    other = make_keys(twin, lens.implementation, device, tokens)
    one = {key: parts for key, parts in make_keys(case, lens.implementation, device).items() if key in other}
    inside = replace(lens, case=twin)
    wrong = inside.in_session(tokens)
    difference = _first_difference(lens.signature.stage, lens.signature.output, one, other)
    if difference is None:
        return _named(wrong)
    finding, parted = difference
    steps, ratio = [*follow(twin.session)], twin.session.ratio
    wrong = wrong or inside.in_session(tokens, lambda number: _suppose(finding, steps[number], ratio, parted))
    numbers = {number for number, _ in one}
    chunks = {n: (tell_chunks(case.session, n), tell_chunks(twin.session, n)) for n in sorted(numbers)}
    return ScheduleLook(finding, parted, one, other, chunks, _named(wrong))


def _named(wrong: Look | None) -> Look | None:
    """A launch of the other schedule, which says so."""
    return replace(wrong, moment=f"{wrong.moment}, in the other schedule") if wrong else None


def _first_difference(
    stage: str, output: str, one: Mapping[Key, Parts], other: Mapping[Key, Parts]
) -> tuple[Finding, Key] | None:
    """The first element that parts, in an output before all others, and its key."""
    names = dict.fromkeys([output, *(name for parts in one.values() for name in parts)])
    for name, (key, parts) in product(names, one.items()):
        if name not in parts:
            continue
        here, there = parts[name], other[key][name]
        wrong = describe.bits(here) != describe.bits(there)
        if bool(wrong.any()):
            at = describe.first(wrong)
            got, want = describe.text(there[at]), describe.text(here[at])
            return Finding(stage, schedules.KIND, name, "", index=(key[1], *at), got=got, want=want), key
    return None


def shown_alone(case: Case, subject: Subject) -> tuple[Case, Finding] | None:
    """The other schedule as a session of its own with what it shows of the operation; None where it shows nothing."""
    if not lengths_at_end(case.session):
        return None
    twin = schedules.twin_of(case)
    outcome: Outcome = subject.run(twin)
    found = (finding for finding in outcome.findings if finding.stage == schedules.maker_of(case))
    return next(((twin, finding) for finding in found if finding.kind != schedules.KIND), None)


def _suppose(finding: Finding, rows: Sequence[Row], ratio: int, parted: Key) -> Iterator[Finding]:
    """The finding about the row of a step that makes a key; none where it makes another one."""
    due = rows_due(rows, ratio)
    yield from (replace(finding, index=(row, *finding.index[1:])) for row, key in due.items() if key == parted)
