"""Launch a stage beside itself on a second stream, with other contents in other memory: each must come out as alone.

Engines overlap steps, and run one model's layers on streams of their own. What a launcher keeps for all its launches,
such as memory for what is between two of its kernels, is then in use by two at once.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from indexfuzz.checks import describe
from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding, in_step
from indexfuzz.core.outcome import Outcome
from indexfuzz.devices.base import Concurrent, Device
from indexfuzz.implementations.base import Implementation, StageFunction
from indexfuzz.oracles.pairs import OF_CACHE, differences, go_on, own, pairs_of, with_other_contents
from indexfuzz.oracles.walk import function_for, require_format
from indexfuzz.stages.base import Call, Stage

KIND = "metamorphic/streams"

Outputs = Mapping[str, Tensor]


def run(case: Case, implementation: Implementation, device: Device, only: frozenset[str] = frozenset()) -> Outcome:
    """Launch every stage, or the operation of every step of a session, on two streams at once.

    Where the device has no streams nothing is found. What differs alone as well is left to `repetition`. Raises
    UnsupportedKernelError when the device has not the FP8 format.
    """
    outcome = Outcome(case)
    other = with_other_contents(case) if isinstance(device, Concurrent) else None
    if not isinstance(device, Concurrent) or other is None:
        return outcome
    require_format(case, device)
    for number, (stage, *calls) in enumerate(pairs_of(case, other, implementation, device)):
        function = function_for(stage.name, case, implementation, only)
        if function is None or function_for(stage.name, other, implementation, only) is None:
            continue
        outcome.stages.append(stage.name)
        trial = Trial(stage, tuple(calls), function, implementation, device)
        if found := trial.examine():
            outcome.findings.append(in_step(found, number) if case.session.steps else found)
            break
        if case.session.steps:
            for call in calls:
                go_on(call, function, device)
    return outcome


@dataclass(frozen=True)
class Trial:
    """Two calls of a stage on a device."""

    stage: Stage
    calls: tuple[Call, ...]
    function: StageFunction
    implementation: Implementation
    device: Concurrent

    def examine(self) -> Finding | None:
        """What a call makes otherwise beside the other one, if it makes the same whenever it is alone."""
        there = [own(call, self.device.torch_device) for call in self.calls]
        alone = self._launch_alone(there)
        self._put_back(there)
        with self.device.session():
            beside = self.device.run_beside([partial(call.run, self.function) for call in there])
        found = next(self._compare(alone, beside), None)
        if found is None:
            return None
        for _ in range(self.device.repeats - 1):
            self._put_back(there)
            if any(self._compare(alone, self._launch_alone(there))):
                return None
        return found

    def _launch_alone(self, there: Sequence[Call]) -> list[Outputs]:
        with self.device.session():
            return [{name: out.clone() for name, out in call.run(self.function).items()} for call in there]

    def _put_back(self, there: Sequence[Call]) -> None:
        """Have the memory of launches hold what their calls are given."""
        for call, given in zip(there, self.calls, strict=True):
            for name, tensor in call.tensors.items():
                tensor.copy_(given.tensors[name])

    def _compare(self, alone: Sequence[Outputs], others: Sequence[Outputs]) -> Iterator[Finding]:
        for call, one, other in zip(self.calls, alone, others, strict=True):
            for name, wrong in differences(self.stage, call, other, one, self.implementation):
                yield self._tell(name, wrong, one[name], other[name])

    def _tell(self, name: str, wrong: Tensor, alone: Tensor, beside: Tensor) -> Finding:
        index = describe.first(wrong)
        place = describe.place(index, self.stage.axes.get(name, OF_CACHE))
        detail = (
            f"{place} of {name} is {describe.text(beside[index])} where another launch runs on a second stream, "
            f"and {describe.text(alone[index])} where it runs alone; {describe.share(wrong)}"
        )
        return Finding(self.stage.name, KIND, name, detail, index=index)
