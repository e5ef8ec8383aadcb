"""Launch a stage beside itself on a second stream, with other contents in other memory: each must come out as alone.

Engines overlap steps, and run one model's layers on streams of their own. What a launcher keeps for all its launches,
such as memory for what is between two of its kernels, is then in use by two at once.
"""

from collections.abc import Mapping
from functools import partial

from torch import Tensor

from indexfuzz.checks import describe
from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
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

    Where the device has no streams nothing is found. Raises UnsupportedKernelError when it has not the FP8 format.
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
        where = f"step {number} of the session: " if case.session.steps else ""
        alone, beside = _launch(calls, function, device)
        for call, one, two in zip(calls, alone, beside, strict=True):
            for name, wrong in differences(stage, call, two, one, implementation):
                outcome.findings.append(_tell(where, stage, name, wrong, one[name], two[name]))
        if outcome.findings:
            del outcome.findings[1:]
            break
        if case.session.steps:
            for call in calls:
                go_on(call, function, device)
    return outcome


def _launch(calls: list[Call], function: StageFunction, device: Concurrent) -> tuple[list[Outputs], list[Outputs]]:
    """What calls make one after the other, and at once, in the same memory."""
    there = [own(call, device.torch_device) for call in calls]
    with device.session():
        alone = [{name: output.clone() for name, output in call.run(function).items()} for call in there]
    for call, given in zip(there, calls, strict=True):
        for name, tensor in call.tensors.items():
            tensor.copy_(given.tensors[name])
    with device.session():
        return list(alone), list(device.run_beside([partial(call.run, function) for call in there]))


def _tell(where: str, stage: Stage, name: str, wrong: Tensor, alone: Tensor, beside: Tensor) -> Finding:
    index = describe.first(wrong)
    place = describe.place(index, stage.axes.get(name, OF_CACHE))
    detail = (
        f"{where}{place} of {name} is {describe.text(beside[index])} where another launch runs on a second stream, "
        f"and {describe.text(alone[index])} where it runs alone; {describe.share(wrong)}"
    )
    return Finding(stage.name, KIND, name, detail, index=index)
