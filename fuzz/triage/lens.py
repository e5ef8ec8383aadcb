"""Launches that run once more in lockstep, with all that their kernels do written down."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType

from torch import Tensor

from indexfuzz.checks import memory
from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.session import Session
from indexfuzz.core.session_words import tell_step
from indexfuzz.core.signature import Signature
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.implementations.base import Implementation
from indexfuzz.lockstep.tracking.moments import Recorder
from indexfuzz.oracles import sessions
from indexfuzz.oracles.causes import part_consequences
from indexfuzz.oracles.differential import FATAL, initialised_bytes, look_around
from indexfuzz.oracles.launching import Expected, launch
from indexfuzz.oracles.metamorphic.catalogue import relations_for
from indexfuzz.oracles.walk import launches
from indexfuzz.samples.serving import MakeTokens
from indexfuzz.samples.step import Step
from indexfuzz.stages.base import Call, Stage
from indexfuzz.triage.launches import find_reached
from indexfuzz.triage.look import Look

NOT_KNOWN: Mapping[str, Tensor | bool] = MappingProxyType({})
"""Which bytes hold something, of a launch that no step has prepared: all may."""


@dataclass(frozen=True)
class Lens:
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

    def in_session(
        self, make_tokens: MakeTokens | None = None, suppose: Callable[[int], Iterable[Finding]] = lambda _number: ()
    ) -> Look | None:
        """The first launch in a session that shows something; what the stage keeps is left to the later ones.

        Of a launch in which nothing is wrong by itself, `suppose` may say what is, by the number of its step.
        """
        for number, stage, step, call in sessions.launches(self.case, self.device, self.implementation, make_tokens):
            here = stage.name == self.signature.stage
            look = self._launch(stage, step, call, partial(suppose, number)) if here else None
            if look:
                return replace(look, moment=_describe_step(self.case.session, number))
        return None

    def in_twin(self) -> Look | None:
        """The launch that a broken relation compares with, where it is wrong by itself; else None."""
        name, kind = self.signature.stage, self.signature.kind
        wanted = [each for each in relations_for(self.case) if each.kind == kind and name in each.twins]
        for stage, _, call in launches(self.case, self.device):
            for relation in wanted if stage.name == name else ():
                for twin in relation.twins[name](self.case, call):
                    inside = replace(self, case=twin.case)
                    looks = (inside.look_at_call(stage, each) for each in twin.calls if not twin.stage)
                    if look := next(filter(None, looks), None):
                        return replace(look, moment=f"the launch {relation.change}, which is wrong by itself")
        return None

    def _launch(
        self, stage: Stage, step: Step, call: Call, suppose: Callable[[], Iterable[Finding]] = tuple
    ) -> Look | None:
        flags = initialised_bytes(step, call).items()
        written = {name: flag.clone() if isinstance(flag, Tensor) else flag for name, flag in flags}
        return self.look_at_call(stage, call, written, lambda: look_around(stage, step, call), suppose)

    def look_at_call(
        self,
        stage: Stage,
        call: Call,
        written: Mapping[str, Tensor | bool] = NOT_KNOWN,
        around: Callable[[], list[Finding]] = list,
        suppose: Callable[[], Iterable[Finding]] = tuple,
    ) -> Look | None:
        """A launch of this call, if something is wrong with it.

        written says which bytes of what it is given hold something; around and suppose are asked what else is wrong.
        """
        implementation, given, recorder = self.implementation, call.copy(), Recorder()
        function, device = implementation.stages[stage.name], replace(self.device, recorder=recorder)
        expected = Expected.of(implementation.contract, stage.name, self.case)
        launched = launch(stage.name, call, function, device, initialised=written)
        got, after = launched.copies(), _copy_inputs(call)
        findings = launched.findings(expected) + around()
        changed = {name: left for name, left in after.items() if not memory.same(left, call.tensors[name])}
        guarantees = launched.guarantees(implementation.promises)
        if got and not any(finding.kind in FATAL for finding in findings):
            findings += [f.at(stage.name) for f in stage.judge(self.case, given, got, guarantees).findings]
        if (found := _choose(findings, self.signature) or next(iter(suppose()), None)) is None:
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
    return next(iter((*same, *part_consequences(findings)[0])), None)
