"""Run one case on one implementation and compare it with the reference, stage by stage.

Every stage is judged on the inputs that the implementation itself gave it, so one wrong stage is blamed once. A stage
that the implementation lacks, refuses or gets wrong is filled in by the reference, and the later ones are still judged.
Operations beside the stages go first, on the inputs of their first node; where the implementation has no stage for
their last node, the later stages read what they made. What they show stands last: a stage tells more of a mistake that
both have.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.core.contract import outside
from indexfuzz.core.finding import Finding
from indexfuzz.core.guarantees import Guarantees
from indexfuzz.core.outcome import Ending, Outcome
from indexfuzz.devices.base import Device
from indexfuzz.implementations.base import Implementation, StageFunction
from indexfuzz.oracles import walked
from indexfuzz.oracles.causes import part_consequences
from indexfuzz.oracles.launching import Expected, Launched, launch
from indexfuzz.oracles.walk import accept, fill_in, materialise_on, put_back
from indexfuzz.samples import buffers
from indexfuzz.samples.step import Step
from indexfuzz.stages.base import Call, Stage
from indexfuzz.stages.table import OPERATIONS, STAGES

FATAL = frozenset({"guard-write", "input-mutated"})
"""Kinds after which the reference can no longer be fed with what the implementation was given."""


def run(case: Case, implementation: Implementation, device: Device, only: frozenset[str] = frozenset()) -> Outcome:
    """Run a case; `only` names the stages to take from the implementation, all of them when empty.

    Raises ImplementationError when the implementation turns out to be incomplete, and UnsupportedKernelError when the
    device cannot execute a kernel or lacks the FP8 format; that says nothing about the kernel.
    """
    step = materialise_on(case, device)
    outcome = Outcome(case)
    done = dict[str, dict[str, Tensor]]()
    for operation in OPERATIONS:
        function = implementation.stages.get(operation.name) if not only or operation.name in only else None
        if function and operation.applies(case) and _within(operation, case, implementation, outcome):
            call = operation.prepare(step)
            outputs = put_under_test(operation, step, call, function, implementation, device, outcome)
            done[operation.covers[-1]] = {name: output.clone() for name, output in outputs.items()}
            put_back(step)
    beside, outcome.findings = outcome.findings, []
    run_stages(step, implementation, device, outcome, only, done=done)
    outcome.findings += beside
    if not outcome.findings and not only:
        walked.keep(case, implementation, device, step)
    return outcome


def run_stages(
    step: Step,
    implementation: Implementation,
    device: Device,
    outcome: Outcome,
    only: frozenset[str],
    stages: Sequence[Stage] = STAGES,
    done: Mapping[str, dict[str, Tensor]] = MappingProxyType({}),
) -> None:
    """Run stages one after the other, each on what the ones before it made; `done` has outputs that are there.

    What comes after the last one that is wanted is left out.
    """
    last = max((place for place, stage in enumerate(stages) if stage.name in only), default=-1)
    for stage in stages[: last + 1] if only else stages:
        if stage.applies(step.case):
            accept(
                stage, step, *run_stage(stage, step, implementation, device, outcome, only, done=done.get(stage.name))
            )


def run_stage(
    stage: Stage,
    step: Step,
    implementation: Implementation,
    device: Device,
    outcome: Outcome,
    only: frozenset[str],
    call: Call | None = None,
    done: dict[str, Tensor] | None = None,
) -> tuple[Call, dict[str, Tensor]]:
    """The call of a stage, and outputs that can be trusted: the implementation's, or the reference's in their place."""
    call = call or stage.prepare(step)
    function = implementation.stages.get(stage.name) if not only or stage.name in only else None
    if function and _within(stage, step.case, implementation, outcome):
        return call, put_under_test(stage, step, call, function, implementation, device, outcome)
    return call, done or fill_in(stage, call)


def _within(stage: Stage, case: Case, implementation: Implementation, outcome: Outcome) -> bool:
    """Whether a stage promises anything about a case: to handle it, or to reject it."""
    why = outside(implementation.contract, stage.name, case)
    if why and not implementation.contract.must_reject(stage.name, case):
        outcome.outside[stage.name] = why
        return False
    return True


def put_under_test(
    stage: Stage,
    step: Step,
    call: Call,
    function: StageFunction,
    implementation: Implementation,
    device: Device,
    outcome: Outcome,
) -> dict[str, Tensor]:
    """Run one stage of the implementation and judge it; what the next stage shall read."""
    given = call.copy()
    outcome.stages.append(stage.name)
    expected = Expected.of(implementation.contract, stage.name, step.case)
    launched = launch(stage.name, call, function, device, initialised=initialised_bytes(step, call))
    seen = [stage.name_node(finding) for finding in launched.findings(expected)]
    got, findings = launched.outputs, seen + look_around(stage, step, call)
    if got and expected.outside:
        words = f"accepted a case that it must reject: {expected.outside}"
        findings.append(Finding(stage.name, "not-rejected", "", words))
    elif expected.outside and not findings:
        outcome.refused[stage.name] = expected.outside
    elif got and not any(finding.kind in FATAL for finding in findings):
        judged = _judge(stage, given, got, launched.guarantees(implementation.promises), outcome, expected)
        findings += judged or _check_in_place(stage, call, got, implementation)
    own, consequences = part_consequences([replace(finding, beyond=expected.broken) for finding in findings])
    outcome.findings += own
    outcome.consequences += consequences
    if expected.broken:
        outcome.beyond[stage.name] = {expected.broken: _describe_ending(launched, findings)}
    if findings or not got:
        for name in call.fills:
            call.tensors[name].copy_(given.tensors[name])
        return fill_in(stage, call)
    return got


def _judge(
    stage: Stage, given: Call, got: dict[str, Tensor], guarantees: Guarantees, outcome: Outcome, expected: Expected
) -> list[Finding]:
    """What is wrong with the values of a stage; how far right ones were off goes into the outcome."""
    try:
        verdict = stage.judge(outcome.case, given, got, guarantees)
    except ValueError as error:  # the reference defines no result
        if not expected.broken:
            raise
        return [Finding(stage.name, "not-rejected", "", f"accepted what has no right result: {error}")]
    if verdict.width is not None and not verdict.findings:
        outcome.widths[stage.name] = verdict.width
    if verdict.tier and not verdict.findings:
        outcome.ratios[stage.name] = max(outcome.ratios.get(stage.name, 0.0), verdict.ratio)
        outcome.tiers[stage.name] = verdict.tier
    return [finding.at(stage.name) for finding in verdict.findings]


def _check_in_place(stage: Stage, call: Call, got: dict[str, Tensor], implementation: Implementation) -> list[Finding]:
    """What should have been changed in place, and was only returned."""
    names = call.not_in_place(got) if implementation.promises.rope_in_place else []
    return [
        Finding(
            stage.name,
            "not-in-place",
            name,
            f"{name} is right as it was returned, but {name} itself, which is to "
            "be changed in place, holds something else",
        )
        for name in names
    ]


def _describe_ending(launched: Launched, findings: list[Finding]) -> Ending:
    """How a stage ended whose contract the case breaks."""
    if findings:
        return "crashes" if launched.error else "wrong silently"
    return "refused cleanly" if launched.error else "right nevertheless"


def initialised_bytes(step: Step, call: Call) -> dict[str, Tensor | bool]:
    """Which bytes of each argument hold something, for the device's check of undefined values."""
    known = step.written | {"cache": step.defined.bool()}
    return {name: known.get(name, name not in call.undefined) for name in call.tensors}


def look_around(stage: Stage, step: Step, call: Call) -> list[Finding]:
    """What a launch did to guards and inputs, which are put back."""
    findings = []
    fills = frozenset(call.fills.values())
    for buffer in buffers.suspects(step.buffers.values(), fills):
        name, filled = buffer.name, buffer.name in fills
        offset = buffer.first_change(payload_may_change=filled)
        if offset is None:
            continue
        element = None if filled else buffer.element(offset)
        if element is None:
            where = f"{offset} bytes after" if offset >= 0 else f"{-offset} bytes before"
            detail = f"wrote {where} the start of {name}, to memory that is not part of it ({buffer.nbytes} bytes)"
            findings.append(Finding(stage.name, "guard-write", name, detail))
        else:
            detail = f"wrote to its input {name}, first to element {list(element)}"
            findings.append(Finding(stage.name, "input-mutated", name, detail, index=element))
        buffer.restore()
    return findings
