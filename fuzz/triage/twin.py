"""A session under two schedules looked at closely: which keys part, and the launch that makes the first of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from indexfuzz.checks import describe
from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.outcome import Outcome
from indexfuzz.core.session import lengths_at_end
from indexfuzz.core.session_words import tell_chunks
from indexfuzz.core.stage_names import inserts
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.implementations.base import Implementation
from indexfuzz.lockstep.source.trace import Trace
from indexfuzz.lockstep.tracking.moments import Recorder
from indexfuzz.oracles import schedules, sessions
from indexfuzz.oracles.launching import launch
from indexfuzz.samples.serving import MakeTokens
from indexfuzz.stages.base import Call
from indexfuzz.subjects.subject import Subject
from indexfuzz.triage.launches import rows_due
from indexfuzz.triage.lens import Lens
from indexfuzz.triage.look import Look

Key = tuple[int, int]
"""A key: the number of its request, and which of the request's keys it is."""


@dataclass(frozen=True)
class ScheduleLook:
    """The keys that a session and another schedule of the same tokens end with.

    one and other have the keys [D] bf16 of both; chunks says in which steps the tokens of each request came. wrong is a
    launch of the other schedule: the one that is wrong by itself, else the one that makes the first key that differs.
    """

    finding: Finding
    one: Mapping[Key, Tensor]
    other: Mapping[Key, Tensor]
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


def look_at_schedules(lens: Lens) -> ScheduleLook | None:
    """Run a session of keys of several tokens under both schedules; None where no key differs, or none is handed on."""
    case, device = lens.case, lens.device
    if case.session.node != lens.signature.stage or not lengths_at_end(case.session) or inserts(case.session.node):
        return None
    twin, tokens = schedules.twin_of(case), schedules.same_tokens(sessions.end_of(case, device, lens.implementation))
    one = make_keys(case, lens.implementation, device)
    other = make_keys(twin, lens.implementation, device, tokens)
    parted = next((key for key in one if not _same(one[key], other[key])), None)
    if parted is None:
        return None
    dim = describe.first(describe.bits(one[parted]) != describe.bits(other[parted]))
    got, want = describe.text(other[parted][dim]), describe.text(one[parted][dim])
    finding = Finding(case.session.node, schedules.KIND, "keys", "", index=(parted[1], *dim), got=got, want=want)
    numbers = {number for number, _ in one}
    chunks = {n: (tell_chunks(case.session, n), tell_chunks(twin.session, n)) for n in sorted(numbers)}
    inside = replace(lens, case=twin)
    wrong = inside.in_session(tokens) or inside.in_session(tokens, lambda call: _suppose(finding, call, parted))
    where = "" if wrong is None else f"{wrong.moment}, in the other schedule"
    return ScheduleLook(finding, one, other, chunks, replace(wrong, moment=where) if wrong else None)


def make_keys(
    case: Case, implementation: Implementation, device: LockstepDevice, make_tokens: MakeTokens | None = None
) -> dict[Key, Tensor]:
    """The keys [D] bf16 that a session ends with; those of rejected drafts give way to the ones that come later."""
    found = dict[Key, Tensor]()
    node = case.session.node
    for _, stage, _, call in sessions.launches(case, device, implementation, make_tokens):
        if stage.name == node:
            keys = launch(node, call, implementation.stages[node], device).outputs.get("keys")
            if keys is not None:
                found |= {key: keys[row].clone() for row, key in rows_due(call).items()}
    lengths = lengths_at_end(case.session)
    ratio = case.session.ratio
    return {key: value for key, value in sorted(found.items()) if key[1] < lengths.get(key[0], 0) // ratio}


def shown_alone(case: Case, subject: Subject) -> tuple[Case, Finding] | None:
    """The other schedule as a session of its own with what it shows of the operation; None where it shows nothing."""
    if not lengths_at_end(case.session):
        return None
    twin = schedules.twin_of(case)
    outcome: Outcome = subject.run(twin)
    found = (finding for finding in outcome.findings if finding.stage == case.session.node)
    return next(((twin, finding) for finding in found if finding.kind != schedules.KIND), None)


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.equal(describe.bits(one), describe.bits(other))


def _suppose(finding: Finding, call: Call, parted: Key) -> Iterator[Finding]:
    """The finding about the row of a launch that makes a key; none where it makes another one."""
    yield from (
        replace(finding, index=(row, *finding.index[1:])) for row, key in rows_due(call).items() if key == parted
    )
