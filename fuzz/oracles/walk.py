"""Walk through a case stage by stage: what each stage is given, and what the next one reads.

Oracles that compare launches with each other let the reference do every stage, so that each gets right inputs.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.core.contract import covers
from indexfuzz.devices.base import Device, UnsupportedKernelError
from indexfuzz.implementations.base import Implementation, StageFunction
from indexfuzz.samples.materialise import materialise
from indexfuzz.samples.poison import poison_like
from indexfuzz.samples.step import Step
from indexfuzz.stages.base import Call, Stage
from indexfuzz.stages.table import OPERATIONS, STAGES


def materialise_on(case: Case, device: Device) -> Step:
    """The tensors of a case on a device.

    Raises UnsupportedKernelError when the device has not the FP8 format.
    """
    require_format(case, device)
    return materialise(case, device.home)


def require_format(case: Case, device: Device) -> None:
    """Raise UnsupportedKernelError when the device has not the FP8 format."""
    if case.model.fp8 not in device.formats:
        raise UnsupportedKernelError(f"device {device.name} has no {case.model.fp8}, which the case asks for")


def launches(case: Case, device: Device) -> Iterator[tuple[Stage, Step, Call]]:
    """Every operation and stage of a case, its inputs made by the reference, which then does the stage.

    Raises UnsupportedKernelError when the device has not the FP8 format.
    """
    step = materialise_on(case, device)
    for operation in OPERATIONS:
        if operation.applies(case):
            yield operation, step, operation.prepare(step)
            put_back(step)
    for stage in STAGES:
        if stage.applies(case):
            call = stage.prepare(step)
            yield stage, step, call
            accept(stage, step, call, fill_in(stage, call))


def put_back(step: Step) -> None:
    """Make all buffers of a step what they were, whatever was done with them."""
    for buffer in step.buffers.values():
        buffer.restore()


def function_for(
    stage: str, case: Case, implementation: Implementation, only: frozenset[str] = frozenset()
) -> StageFunction | None:
    """The implementation's function for a stage, if it has one, it is wanted, and must handle the case."""
    if (only and stage not in only) or not covers(implementation.contract, stage, case):
        return None
    return implementation.stages.get(stage)


def fill_in(stage: Stage, call: Call) -> dict[str, Tensor]:
    """Let the reference do the stage; zeros where not even the reference defines a result."""
    try:
        outputs = call.run(stage.reference)
    except ValueError:
        stage.blank(call)
        return {name: call.tensors[name] for name in call.fills}
    for name, output in outputs.items():
        if (name in call.returns or name in call.undefined) and output.is_floating_point() and output.itemsize > 1:
            _make_nans_positive(output)
    return outputs


def _make_nans_positive(output: Tensor) -> None:
    """Let NaNs that were made be as those of a GPU's arithmetic, and what nobody has written be as it is.

    x86 makes negative ones, which what sorts by bits, such as PyTorch's top-k on a GPU, takes for less than -inf.
    """
    poison = poison_like(output.new_empty(1))
    words = torch.int16 if output.itemsize == 2 else torch.int32
    output.masked_fill_(output.isnan() & (output.view(words) != poison.view(words)), float("nan"))


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
    stage.define(step, call)


def defined_after(stage: Stage, step: Step, call: Call) -> Tensor:
    """Which bytes of the cache hold something once a stage has run: bool, of the cache's shape."""
    after = replace(step, defined=step.defined.clone())
    stage.define(after, call)
    return after.defined.bool()
