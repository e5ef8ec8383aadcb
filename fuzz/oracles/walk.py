"""Walk through a case stage by stage with the reference, and launch stages of an implementation beside it.

Oracles that compare launches with each other use this: every stage gets right inputs, and what it does to them is
taken back.
"""

from collections.abc import Iterator

from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.core.contract import covers
from indexfuzz.devices.base import Device, UnsupportedKernelError
from indexfuzz.implementations.base import Implementation, StageFunction
from indexfuzz.oracles.differential import accept, fill_in
from indexfuzz.samples.step import Step, materialise
from indexfuzz.stages.base import STAGES, Call, Stage


def launches(case: Case, device: Device) -> Iterator[tuple[Stage, Step, Call]]:
    """Every stage of a case, its inputs made by the reference. Before it goes on, the reference does the stage.

    Raises UnsupportedKernelError when the device has not the FP8 format.
    """
    if case.model.fp8 not in device.formats:
        raise UnsupportedKernelError(f"device {device.name} has no {case.model.fp8}, which the case asks for")
    step = materialise(case, device.torch_device)
    for stage in STAGES:
        if stage.applies(case):
            call = stage.prepare(step)
            yield stage, step, call
            accept(stage, step, call, fill_in(stage, call))


def function_for(
    stage: str, case: Case, implementation: Implementation, only: frozenset[str] = frozenset()
) -> StageFunction | None:
    """The implementation's function for a stage, if it has one, it is wanted, and must handle the case."""
    if (only and stage not in only) or not covers(implementation.contract, stage, case):
        return None
    return implementation.stages.get(stage)


def launch(call: Call, function: StageFunction, device: Device) -> dict[str, Tensor]:
    """Copies of what a function makes of a call. What it writes to the call's tensors stays there.

    Raises UnsupportedKernelError when the device cannot execute the kernel, and whatever the function raises.
    """
    with device.session():
        try:
            outputs = call.run(function)
        except device.unsupported as error:
            raise UnsupportedKernelError(f"{device.name}: {error}") from error
    return {name: output.clone() for name, output in outputs.items()}


def launch_in(step: Step, call: Call, function: StageFunction, device: Device) -> dict[str, Tensor]:
    """`launch` for a call on the buffers of a step, which are as before afterwards."""
    try:
        return launch(call, function, device)
    finally:
        for buffer in step.buffers.values():
            buffer.restore()
