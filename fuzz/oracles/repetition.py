"""Launch a stage again: with nothing changed, and with other garbage in all memory that nobody wrote.

Either way every bit that the stage determines must come out again.
"""

from functools import partial

import torch
from torch import Tensor

from indexfuzz.checks import memory
from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.outcome import Outcome
from indexfuzz.core.tracebacks import location_of
from indexfuzz.devices.base import Device
from indexfuzz.implementations.base import Implementation
from indexfuzz.oracles.launching import Launched, describe_error, launch_in, name_of
from indexfuzz.oracles.walk import defined_after, function_for, launches
from indexfuzz.samples.step import Step
from indexfuzz.stages.base import Call, Tensors

OTHER_GARBAGE = 0x40
"""Fills memory in the last launch: 2 or 3 in every floating-point format, where the usual poison is NaN. A NaN can
hide, as tl.maximum(NaN, 0) is 0; a number cannot."""

CHECKS = {"nondeterministic": memory.check_repeatable, "uninitialised": memory.check_independence_of_poison}


def run(case: Case, implementation: Implementation, device: Device, only: frozenset[str] = frozenset()) -> Outcome:
    """Repeat every stage of an implementation with the same and with other garbage; inputs come from the reference.

    A stage that fails by itself is skipped: `differential.run` reports it. Raises UnsupportedKernelError when the
    device cannot execute a kernel or has not the FP8 format.
    """
    outcome = Outcome(case)
    for stage, step, call in launches(case, device):
        function = function_for(stage.name, case, implementation, only)
        if function is None:
            continue
        first = launch_in(step, stage.name, call, function, device)
        if first.error:
            continue
        outcome.stages.append(stage.name)
        masks = stage.determined(call, implementation.promises)
        if "cache" in call.fills:
            masks["cache"] = defined_after(stage, step, call)
        again = partial(launch_in, step, stage.name, call, function, device)
        for _ in range(device.repeats - 1):
            found = _compare("nondeterministic", first, again(), masks)
            if found:
                break
        else:
            _spread_garbage(step, call)
            found = _compare("uninitialised", first, again(garbage=lambda _dtype: OTHER_GARBAGE), masks)
        outcome.findings += found
    return outcome


def _compare(kind: str, first: Launched, again: Launched, masks: Tensors) -> list[Finding]:
    """The first output that a launch made otherwise, in the elements that the stage determines."""
    if again.error:
        words = f"went well at first, then raised {describe_error(again.error)}"
        return [Finding(first.stage, kind, name_of(again.error), words, location=location_of(again.error))]
    for name, output in first.outputs.items():
        other = again.outputs[name]
        if name in masks:
            other = torch.where(masks[name], _raw(other), _raw(output)).view(output.dtype)
        found = CHECKS[kind](name, output, other)
        if found:
            return [found.at(first.stage)]
    return []


def _raw(tensor: Tensor) -> Tensor:
    return tensor.view(torch.uint8) if tensor.element_size() == 1 else tensor


def _spread_garbage(step: Step, call: Call) -> None:
    """Fill every byte of a step's buffers that holds nothing with OTHER_GARBAGE.

    That is the guards and gaps around tensors, the outputs, and the slots of the cache that no token owns.
    """
    outputs = {call.fills[argument] for argument in call.undefined}
    for name, buffer in step.buffers.items():
        held = buffer.view.clone()
        buffer.rows.fill_(OTHER_GARBAGE)
        if name == "cache":
            held = torch.where(step.defined.bool(), held, OTHER_GARBAGE)
        if name not in outputs:
            buffer.view.copy_(held)
