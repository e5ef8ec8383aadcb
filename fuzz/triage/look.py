"""Look closely at a finding: its stage runs once more in lockstep, with all that its kernels did written down."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from indexfuzz.checks import memory
from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.guarantees import Guarantees
from indexfuzz.core.signature import Signature
from indexfuzz.core.words import location_from_here
from indexfuzz.devices.base import UnsupportedKernelError
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.implementations.base import ImplementationError, StageFunction
from indexfuzz.lockstep import LockstepError
from indexfuzz.lockstep.source.search import Doing, find_store, find_stray, find_violation
from indexfuzz.lockstep.source.trace import Trace, trace
from indexfuzz.lockstep.tracking.moments import Recorder
from indexfuzz.oracles.causes import without_consequences
from indexfuzz.oracles.differential import FATAL, initialised_bytes, look_around
from indexfuzz.oracles.launching import Expected, launch
from indexfuzz.oracles.walk import launches
from indexfuzz.samples.step import Step
from indexfuzz.stages.base import Call, Stage
from indexfuzz.stages.places import Places, span_of
from indexfuzz.subjects.in_process import InProcess
from indexfuzz.triage.launches import find_reached


@dataclass(frozen=True)
class Look:
    """A launch of the stage that a finding is about.

    given are the arguments as they were before, call as they are after, got the outputs. changed are the inputs that
    were written to, as they were left; call has them as they were. finding is what was seen of it this time.
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

    def trace(self) -> Trace | None:
        """The line that did it, with its values; None where no line of a kernel can be blamed."""
        doing = self.doing()
        return trace(*doing, Places(self.call, self.got)) if doing else None

    def doing(self) -> Doing | None:
        """The access that the finding comes from; None where no line of a kernel can be blamed."""
        finding = self.finding
        file, _, line = finding.location.rpartition(":")
        if line.isdigit() and (found := find_violation(self.recorder, finding.kind, finding.output, file, int(line))):
            return found
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

    def wanted(self) -> Mapping[str, Tensor]:
        """What the reference makes of the same arguments; nothing where it defines no result."""
        try:
            return self.given.copy().run(self.stage.reference)
        except ValueError:
            return {}

    def sentences(self) -> list[str]:
        """The trace in lines, or what can be said where no line can be blamed."""
        told = self.trace()
        if told is not None:
            return [*told.sentences()]
        return [*self._without_a_line()]

    def _without_a_line(self) -> Iterator[str]:
        output = self.got.get(self.finding.output)
        for name, tensor in self.call.tensors.items() if output is not None else ():
            if name not in self.call.fills and output is not None and tensor.data_ptr() == output.data_ptr():
                yield f"What is returned as {self.finding.output} is the argument {name} itself."
        ran = dict.fromkeys(f"{kernel} ({location_from_here(place)})" for kernel, place in self.recorder.launches)
        if not ran:
            yield "No Triton kernel ran here: this comes from Python code alone."
        elif self.finding.index:
            yield f"No kernel stores to the first wrong element. What ran: {', '.join(ran)}; look at what calls it."


def look_at(case: Case, signature: Signature, subject: InProcess) -> Look | None:
    """Run the stage of a finding again, on inputs that the reference makes, and keep what its kernels do.

    None where the finding does not show there: it needs other inputs, several launches, or another device.
    """
    if signature.relation:
        return None
    try:
        stage = find_reached(signature.stage, signature.output, case)
    except LookupError:
        return None
    function = subject.implementation.stages.get(stage.name)
    own = subject.device if isinstance(subject.device, LockstepDevice) else LockstepDevice()
    device = replace(own, coverage=None)
    if function is None:
        return None
    try:
        for here, step, call in launches(case, device):
            if here is stage:
                return _launch(here, case, step, call, signature, function, subject, device)
    except (UnsupportedKernelError, ImplementationError, LockstepError, ValueError):
        return None
    return None


def tell(case: Case, signature: Signature, subject: InProcess) -> list[str]:
    """The line that a finding comes from, with its values, in lines of text; none where it does not show that way."""
    found = look_at(case, signature, subject)
    return found.sentences() if found else []


def _launch(
    stage: Stage,
    case: Case,
    step: Step,
    call: Call,
    signature: Signature,
    function: StageFunction,
    subject: InProcess,
    device: LockstepDevice,
) -> Look | None:
    implementation, given = subject.implementation, call.copy()
    recorder = Recorder()
    watching = replace(device, recorder=recorder)
    expected = Expected.of(implementation.contract, stage.name, case)
    launched = launch(stage.name, call, function, watching, initialised=initialised_bytes(step, call))
    got, after = launched.copies(), _copy_inputs(call)
    findings = launched.findings(expected) + look_around(stage, step, call)
    changed = {name: left for name, left in after.items() if not memory.same(left, call.tensors[name])}
    if got and not any(finding.kind in FATAL for finding in findings):
        guarantees = launched.guarantees(implementation.promises)
        findings += [finding.at(stage.name) for finding in stage.judge(case, given, got, guarantees).findings]
    found = _choose(findings, signature)
    if found is None:
        return None
    guarantees = launched.guarantees(implementation.promises)
    return Look(stage, case, given, call, launched.outputs, found, recorder, guarantees, function, device, changed)


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
