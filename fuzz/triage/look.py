"""Look closely at a finding: its stage runs once more in lockstep, with all that its kernels did written down."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice

import numpy as np
from torch import Tensor

from indexfuzz.checks import memory
from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.guarantees import Guarantees
from indexfuzz.core.session import Session
from indexfuzz.core.session_words import tell_step
from indexfuzz.core.signature import Signature
from indexfuzz.devices.base import UnsupportedKernelError
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.implementations.base import Implementation, ImplementationError, StageFunction
from indexfuzz.lockstep import LockstepError
from indexfuzz.lockstep.source.search import Doing, find_store, find_stray, find_violation
from indexfuzz.lockstep.source.sharing import Sharing, find_sharing
from indexfuzz.lockstep.source.trace import Trace, trace
from indexfuzz.lockstep.tracking.moments import Recorder
from indexfuzz.oracles import composition, sessions
from indexfuzz.oracles.causes import without_consequences
from indexfuzz.oracles.differential import FATAL, initialised_bytes, look_around
from indexfuzz.oracles.launching import Expected, launch
from indexfuzz.oracles.walk import launches
from indexfuzz.samples.step import Step
from indexfuzz.stages.base import Call, Stage
from indexfuzz.stages.places import Places, span_of
from indexfuzz.subjects.in_process import InProcess
from indexfuzz.triage.culprit import Culprit, find_return, tell_launch
from indexfuzz.triage.launches import find_reached
from indexfuzz.triage.whole import WholeLook, look_at_whole

RIVAL_LINES = 2
"""Lines that are told of another program, which does the same as the first one."""


@dataclass(frozen=True)
class Look:
    """A launch of the stage that a finding is about.

    given are the arguments as they were before, call as they are after, got the outputs. changed are the inputs that
    were written to, as they were left; call has them as they were. finding is what was seen of it this time. written
    says which bytes of the arguments hold something. moment is when it was launched, empty where a case has one step.
    """

    stage: Stage
    case: Case
    given: Call
    call: Call
    got: Mapping[str, Tensor]
    finding: Finding
    recorder: Recorder
    guarantees: Guarantees
    function: StageFunction
    device: LockstepDevice
    changed: Mapping[str, Tensor]
    written: Mapping[str, Tensor | bool]
    moment: str = ""

    def trace(self) -> Trace | None:
        """The line that did it, with its values; None where no line of a kernel can be blamed."""
        doing = self.doing()
        return trace(*doing, Places(self.call, self.got)) if doing else None

    def place(self) -> str:
        """file:line of the line that is told: of a kernel, else of Python that raised or returned it; else empty."""
        told = self.trace()
        if told is not None:
            return f"{told.lines[0].file}:{told.lines[0].line}"
        returned = self._returned()
        return self.finding.location or (returned.place if returned else "")

    def doing(self) -> Doing | None:
        """The access that the finding comes from; None where no line of a kernel can be blamed."""
        if found := next(self._rivals(), None) or self._violation():
            return found
        finding = self.finding
        place = self.stage.locate(self.call, self.got, finding.output, finding.index)
        if place is not None:
            tensor, byte = place
            if found := find_store(self.recorder, tensor.data_ptr() + byte):
                return found
        footprint = self.stage.footprint(self.call)
        if footprint is None:
            return None
        cache = self.call.tensors["cache"]
        expected = np.zeros(span_of(cache), np.bool_)
        np.lib.stride_tricks.as_strided(expected, cache.shape, cache.stride())[...] = footprint.numpy()
        storage = cache.untyped_storage().data_ptr()
        return find_stray(self.recorder, storage, cache.data_ptr(), expected)

    @cached_property
    def sharing(self) -> Sharing | None:
        """The bytes that programs fight for; None of any other finding than a race."""
        found = self._violation() if self.finding.kind == "race" else None
        return find_sharing(self.recorder, found) if found else None

    def _violation(self) -> Doing | None:
        """What lockstep reported, where the finding is its."""
        file, _, line = self.finding.location.rpartition(":")
        if not line.isdigit():
            return None
        return find_violation(self.recorder, self.finding.kind, self.finding.output, file, int(line))

    def _rivals(self) -> Iterator[Doing]:
        """The accesses that fight for the first byte of a race, those of its line first."""
        if self.sharing is None:
            return
        blamed = self.finding.location
        rivals = [each for each in self.sharing.at(self.sharing.first) if each.moment.frames]
        sites = [each.moment.frames[0].site for each in rivals]
        order = sorted(range(len(rivals)), key=lambda i: f"{sites[i].file}:{sites[i].line}" != blamed)
        yield from (rivals[i] for i in order)

    def wanted(self) -> Mapping[str, Tensor]:
        """What the reference makes of the same arguments; nothing where it defines no result."""
        try:
            return self.given.copy().run(self.stage.reference)
        except ValueError:
            return {}

    def sentences(self) -> list[str]:
        """When it was, and the trace in lines, or what can be said where no line can be blamed."""
        told = self.trace()
        when = [f"It shows in {self.moment}."] if self.moment else []
        return [*when, *(told.sentences() if told else self._without_a_line()), *self._of_the_rival()]

    def _of_the_rival(self) -> Iterator[str]:
        """The line with which another program fights for the same byte, with its values there."""
        for rival in islice(self._rivals(), 1, 2):
            if told := trace(*rival, Places(self.call, self.got)):
                yield "And for the same byte:"
                yield from replace(told, lines=told.lines[:RIVAL_LINES]).sentences()

    def _without_a_line(self) -> Iterator[str]:
        output = self.got.get(self.finding.output)
        for name, tensor in self.call.tensors.items() if output is not None else ():
            if name not in self.call.fills and output is not None and tensor.data_ptr() == output.data_ptr():
                yield f"What is returned as {self.finding.output} is the argument {name} itself."
        if not self.recorder.launches:
            yield "No Triton kernel ran here: this comes from Python code alone."
            if returned := self._returned():
                yield from returned.lines()
        elif self.finding.index:
            yield "No kernel stores to the first wrong element. What ran, and the lines that called it:"
            yield from dict.fromkeys(line for each in self.recorder.launches for line in tell_launch(each))

    def _returned(self) -> Culprit | None:
        """The statement that returns what is wrong, where Python alone makes it and does not raise."""
        if self.recorder.launches or self.finding.location:
            return None
        return find_return(self.function, lambda: self.given.copy().run(self.function))


def look_at(case: Case, signature: Signature, subject: InProcess) -> Look | WholeLook | None:
    """Run the stage of a finding again, on inputs that the reference makes, and keep what its kernels do.

    Of a session, its launches of the stage one after the other, until one shows something; of the whole indexer, a
    launch beside those of its stages. None where the finding does not show there: it needs other inputs, several
    launches, or another device.
    """
    is_whole = signature.kind == composition.KIND
    if (signature.relation and not is_whole) or signature.stage not in subject.implementation.stages:
        return None
    own = subject.device if isinstance(subject.device, LockstepDevice) else LockstepDevice()
    lens = _Lens(case, signature, subject.implementation, replace(own, coverage=None))
    try:
        if is_whole:
            return look_at_whole(case, lens.implementation, lens.device)
        return lens.in_session() if case.session.steps else lens.in_step()
    except (UnsupportedKernelError, ImplementationError, LockstepError, ValueError, LookupError):
        return None


def tell(case: Case, signature: Signature, subject: InProcess) -> list[str]:
    """The line that a finding comes from, with its values, in lines of text; none where it does not show that way."""
    found = look_at(case, signature, subject)
    return found.sentences() if found else []


@dataclass(frozen=True)
class _Lens:
    """Looks at launches of an implementation on a device, for one finding of a case."""

    case: Case
    signature: Signature
    implementation: Implementation
    device: LockstepDevice

    def in_step(self) -> Look | None:
        """The launch in a case that is a step; raises LookupError where there is no such stage."""
        stage = find_reached(self.signature.stage, self.signature.output, self.case)
        found = ((step, call) for here, step, call in launches(self.case, self.device) if here is stage)
        return next((self._launch(stage, step, call) for step, call in found), None)

    def in_session(self) -> Look | None:
        """The first launch in a session that shows something; what the stage keeps is left to the later ones."""
        for number, stage, step, call in sessions.launches(self.case, self.device):
            look = self._launch(stage, step, call) if stage.name == self.signature.stage else None
            if look:
                return replace(look, moment=_describe_step(self.case.session, number))
        return None

    def _launch(self, stage: Stage, step: Step, call: Call) -> Look | None:
        implementation, given, recorder = self.implementation, call.copy(), Recorder()
        function, device = implementation.stages[stage.name], replace(self.device, recorder=recorder)
        expected = Expected.of(implementation.contract, stage.name, self.case)
        flags = initialised_bytes(step, call).items()
        written = {name: flag.clone() if isinstance(flag, Tensor) else flag for name, flag in flags}
        launched = launch(stage.name, call, function, device, initialised=written)
        got, after = launched.copies(), _copy_inputs(call)
        findings = launched.findings(expected) + look_around(stage, step, call)
        changed = {name: left for name, left in after.items() if not memory.same(left, call.tensors[name])}
        guarantees = launched.guarantees(implementation.promises)
        if got and not any(finding.kind in FATAL for finding in findings):
            findings += [f.at(stage.name) for f in stage.judge(self.case, given, got, guarantees).findings]
        if (found := _choose(findings, self.signature)) is None:
            return None
        outputs = launched.outputs
        return Look(
            stage, self.case, given, call, outputs, found, recorder, guarantees, function, self.device, changed, written
        )


def _describe_step(session: Session, number: int) -> str:
    """A step of a session with what happens in it."""
    if number == len(session.steps):
        return "the reading of all keys after the last step"
    return f"step {number} of the session: {', '.join(tell_step(session, number))}"


def _copy_inputs(call: Call) -> dict[str, Tensor]:
    """What a launch was to read only, as it is now."""
    return {name: tensor.clone() for name, tensor in call.tensors.items() if name not in call.fills}


def _choose(findings: list[Finding], signature: Signature) -> Finding | None:
    """The finding that was asked for, be it a consequence of another one; else the first that is none."""
    same = [finding for finding in findings if (finding.kind, finding.output) == (signature.kind, signature.output)]
    return next(iter((*same, *without_consequences(findings))), None)


def numbers_of(finding: Finding) -> tuple[str, ...]:
    """The first wrong element of a finding in lines; none where it has no such."""
    place = [f"first wrong: {finding.output}{list(finding.index)}"] if finding.index else []
    numbers = [f"is {finding.got}, must be {finding.want}"] if finding.got else []
    return (*place, *numbers)
