"""Run one case on one implementation and compare it with the reference, stage by stage.

Every stage is judged on the inputs that the implementation itself gave it, so one wrong stage is blamed once. A stage
that the implementation lacks, refuses or gets wrong is filled in by the reference, and the later ones are still judged.
"""

from dataclasses import replace

from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.outcome import Outcome
from indexfuzz.core.terms import Terms
from indexfuzz.core.tracebacks import location_of, origin_of
from indexfuzz.devices.base import Device, Session, UnsupportedKernelError
from indexfuzz.implementations.base import Implementation, ImplementationError, MalformedResultError, StageFunction
from indexfuzz.oracles.causes import roots
from indexfuzz.oracles.expected import Expected
from indexfuzz.oracles.nonfinite import judge
from indexfuzz.samples import buffers
from indexfuzz.samples.step import Step, materialise
from indexfuzz.stages.base import STAGES, Call, Stage


def run(case: Case, implementation: Implementation, device: Device, only: frozenset[str] = frozenset()) -> Outcome:
    """Run a case; `only` names the stages to take from the implementation, all of them when empty.

    Raises ImplementationError when the implementation turns out to be incomplete, and UnsupportedKernelError when the
    device cannot execute a kernel or lacks the FP8 format; that says nothing about the kernel.
    """
    if case.model.fp8 not in device.formats:
        raise UnsupportedKernelError(f"device {device.name} has no {case.model.fp8}, which the case asks for")
    step = materialise(case, device.torch_device)
    outcome = Outcome(case)
    for stage in STAGES:
        if not stage.applies(case):
            continue
        call = stage.prepare(step)
        function = implementation.stages.get(stage.name) if not only or stage.name in only else None
        if function and _within(stage, case, implementation, outcome):
            trusted = _put_under_test(stage, step, call, function, implementation, device, outcome)
        else:
            trusted = fill_in(stage, call)
        accept(stage, step, call, trusted)
    return outcome


def _within(stage: Stage, case: Case, implementation: Implementation, outcome: Outcome) -> bool:
    """Whether a stage promises anything about a case: to handle it, or to reject it."""
    outside = implementation.contract.outside(stage.name, case)
    if outside and not implementation.contract.must_reject(stage.name, case):
        outcome.outside[stage.name] = outside
        return False
    return True


def _put_under_test(
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
    with device.session() as session:
        got, findings = _launch(stage, step, call, function, device, session, expected)
    if got and expected.outside:
        words = f"accepted a case that it must reject: {expected.outside}"
        findings.append(Finding(stage.name, "not-rejected", "", words))
    elif got and not any(finding.kind in FATAL for finding in findings):
        judged = _judged(stage, given, got, session.terms(implementation.promises), outcome, expected)
        findings += judged or _left_behind(stage, call, got, implementation)
    outcome.findings += [replace(finding, beyond=expected.broken) for finding in roots(findings)]
    if findings or not got:
        for name in call.fills:
            call.tensors[name].copy_(given.tensors[name])
        return fill_in(stage, call)
    return got


def _launch(
    stage: Stage, step: Step, call: Call, function: StageFunction, device: Device, session: Session, expected: Expected
) -> tuple[dict[str, Tensor], list[Finding]]:
    """The outputs, none where it raised, and what was noticed."""
    got: dict[str, Tensor] = {}
    findings: list[Finding] = []
    for name, tensor in call.tensors.items():
        session.declare(name, tensor, _defined(step, call, name))
    try:
        got = call.run(function)
    except ImplementationError:
        raise
    except device.broken:
        raise
    except device.unsupported as error:
        raise UnsupportedKernelError(f"{stage.name} on {device.name}: {error}") from error
    except Exception as error:
        if device.lacks_memory(error):
            raise
        if not expected.includes(error):
            findings.append(_raised(stage, error))
    return got, findings + _noticed(stage, step, call, session)


def _judged(
    stage: Stage, given: Call, got: dict[str, Tensor], terms: Terms, outcome: Outcome, expected: Expected
) -> list[Finding]:
    """What is wrong with the values of a stage; how far right ones were off goes into the outcome."""
    try:
        if judge.is_drawn(outcome.case):
            verdict = judge.judge(stage, outcome.case, given, got, terms)
        else:
            verdict = stage.judge(outcome.case, given.tensors, got, terms)
    except ValueError as error:  # the reference defines no result
        if not expected.broken:
            raise
        return [Finding(stage.name, "not-rejected", "", f"accepted what has no right result: {error}")]
    if verdict.tier and not verdict.findings:
        outcome.ratios[stage.name] = max(outcome.ratios.get(stage.name, 0.0), verdict.ratio)
        outcome.tiers[stage.name] = verdict.tier
    return [finding.at(stage.name) for finding in verdict.findings]


def _left_behind(stage: Stage, call: Call, got: dict[str, Tensor], implementation: Implementation) -> list[Finding]:
    """What should have been changed in place, and was only returned."""
    names = call.left_behind(got) if implementation.promises.rope_in_place else []
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


FATAL = frozenset({"guard-write", "input-mutated"})
"""Kinds after which the reference can no longer be fed with what the implementation was given."""


def _defined(step: Step, call: Call, argument: str) -> Tensor | bool:
    """Which bytes of an argument hold something, for the device's check of undefined values."""
    if argument == "cache":
        return step.defined.bool()
    return argument not in call.undefined


def _raised(stage: Stage, error: Exception) -> Finding:
    if isinstance(error, MalformedResultError):
        return Finding(stage.name, "shape", "", str(error))
    kind = "rejected" if isinstance(error, ValueError) else "crash"
    origin = origin_of(error)
    name, message = type(origin).__name__, (str(origin).splitlines() or [""])[0]
    return Finding(stage.name, kind, name, f"{name}: {message}", location=location_of(error))


def _noticed(stage: Stage, step: Step, call: Call, session: Session) -> list[Finding]:
    """What the device saw, and what the guards and the inputs show."""
    findings = [violation.at(stage.name) for violation in session.violations()]
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


def fill_in(stage: Stage, call: Call) -> dict[str, Tensor]:
    """Let the reference do the stage; zeros where not even the reference defines a result."""
    try:
        return call.run(stage.reference)
    except ValueError:
        for argument in call.undefined:
            call.tensors[argument].zero_()
        return {name: call.tensors[name] for name in call.fills}


def accept(stage: Stage, step: Step, call: Call, outputs: dict[str, Tensor]) -> None:
    """Hand the outputs of a stage to the later ones.

    A result that takes the place of an input goes into that input's buffer, and so keeps its strides and guards.
    """
    for name, tensor in outputs.items():
        target = call.fills.get(name, name)
        buffer = step.buffers.get(target)
        if buffer is None:
            step.tensors[target] = tensor
            continue
        if tensor.data_ptr() != buffer.view.data_ptr():
            buffer.view.copy_(tensor)
        step.tensors[target] = buffer.view
        buffer.seal()
    if stage.name == "k_quant_cache":
        slots = call.tensors["slot_mapping"].long()
        step.define_slots(slots[slots >= 0])
