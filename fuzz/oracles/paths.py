"""The two paths of one engine held against each other: a fused operation, and the single steps that it stands for.

Engines switch between them by hardware, shape or option, and the cache that one has written is read by the other. Where
the bytes of the two differ, those of the single steps must be legal results of the operation as a whole, too.
"""

from dataclasses import replace

import torch
from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.outcome import Outcome
from indexfuzz.devices.base import Device
from indexfuzz.implementations.base import Implementation
from indexfuzz.oracles.launching import launch, launch_in
from indexfuzz.oracles.walk import accept, function_for, materialise_on
from indexfuzz.stages.operation import Operation
from indexfuzz.stages.table import OPERATIONS, find

KIND = "metamorphic/paths"


def run(case: Case, implementation: Implementation, device: Device, only: frozenset[str] = frozenset()) -> Outcome:
    """Compare every fused operation of an implementation with its own single steps, where it promises to handle both.

    A step that fails by itself is skipped: `differential.run` reports it. Raises UnsupportedKernelError when the device
    cannot execute a kernel or has not the FP8 format.
    """
    outcome = Outcome(case)
    for operation in OPERATIONS:
        names = (operation.name, *operation.covers)
        takes = len(operation.covers) > 1 and operation.applies(case)
        if takes and all(function_for(name, case, implementation, only) for name in names):
            found = _compare(operation, case, implementation, device)
            outcome.stages.append(operation.name)
            outcome.findings += [found] if found else []
    return outcome


def _compare(operation: Operation, case: Case, implementation: Implementation, device: Device) -> Finding | None:
    step = materialise_on(case, device)
    call = operation.prepare(step)
    given = call.copy()
    fused = launch_in(step, operation.name, call, implementation.stages[operation.name], device)
    stepwise = _run_steps(operation, case, implementation, device)
    if fused.error or stepwise is None or all(_same(stepwise[name], fused.outputs[name]) for name in stepwise):
        return None
    # Single steps store bf16, whatever the fused operation keeps.
    guarantees = device.guarantees(replace(implementation.promises, between="bf16"))
    for finding in operation.judge(case, given, stepwise, guarantees).findings:
        steps = ", ".join(operation.covers)
        return replace(finding.at(operation.name), kind=KIND, detail=f"{steps} one by one: {finding.detail}")
    return None


def _run_steps(
    operation: Operation, case: Case, implementation: Implementation, device: Device
) -> dict[str, Tensor] | None:
    """What the covered nodes make one after the other of the inputs of an operation; None where one fails."""
    step, outputs = materialise_on(case, device), dict[str, Tensor]()
    for node in operation.covers:
        stage = find(node)
        call = stage.prepare(step)
        launched = launch(node, call, implementation.stages[node], device)
        if launched.error:
            return None
        outputs = launched.copies()
        accept(stage, step, call, outputs)
    return outputs


def _same(one: Tensor, other: Tensor) -> bool:
    raw = (x.view(torch.uint8) if x.element_size() == 1 else x for x in (one, other))
    return torch.equal(*raw)
