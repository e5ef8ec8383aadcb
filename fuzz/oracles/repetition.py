"""Launch a stage again: with nothing changed, and with other garbage in all memory that nobody wrote.

Either way every bit that the stage determines must come out again.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from indexfuzz.checks import memory
from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.outcome import Outcome
from indexfuzz.devices.base import Device, UnsupportedKernelError
from indexfuzz.implementations.base import Implementation, StageFunction
from indexfuzz.oracles.determined import defined_after, determined
from indexfuzz.oracles.walk import function_for, launch, launch_in, launches
from indexfuzz.samples import buffers
from indexfuzz.samples.buffers import Buffer
from indexfuzz.samples.step import Step
from indexfuzz.stages.base import Call, Stage

OTHER_POISON = 0x40
"""Fills memory in the second launch: 2 or 3 in every floating-point format, where the arena's own poison is NaN. A NaN
can hide, as tl.maximum(NaN, 0) is 0; a number cannot."""

TIMES = 3
"""Launches compared by default."""

Tensors = Mapping[str, Tensor]


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
        try:
            found = list(_compare(stage, step, call, function, implementation, device))
        except UnsupportedKernelError:
            raise
        except device.broken:
            raise
        except Exception:  # noqa: BLE001, S112 - not a matter of repetition
            continue
        outcome.stages.append(stage.name)
        outcome.findings += found
    return outcome


def _compare(
    stage: Stage, step: Step, call: Call, function: StageFunction, implementation: Implementation, device: Device
) -> Iterator[Finding]:
    masks = determined(stage.name, call.tensors, implementation.promises)
    if stage.name == "k_quant_cache":
        masks["cache"] = defined_after(step, call)
    with _Allocations(buffers.poison_byte):
        first = launch_in(step, call, function, device)
        again = [launch_in(step, call, function, device) for _ in range(TIMES - 1)]
    for other in again:
        found = _first(masks, memory.repeatable, first, other)
        if found:
            yield found.at(stage.name)
            return
    second = launch_with_other_garbage(step, call, function, device)
    found = _first(masks, memory.independent_of_poison, first, second)
    if found:
        yield found.at(stage.name)


def _first(
    masks: Tensors, check: Callable[[str, Tensor, Tensor], Finding | None], first: Tensors, second: Tensors
) -> Finding | None:
    """The first output that a check complains about, in the elements that the stage determines."""
    for name, output in first.items():
        other = second[name]
        if name in masks:
            other = torch.where(masks[name], _raw(other), _raw(output)).view(output.dtype)
        found = check(name, output, other)
        if found:
            return found
    return None


def _raw(tensor: Tensor) -> Tensor:
    return tensor.view(torch.uint8) if tensor.element_size() == 1 else tensor


def launch_with_other_garbage(step: Step, call: Call, function: StageFunction, device: Device) -> dict[str, Tensor]:
    """Launch on the buffers of a step with OTHER_POISON in every byte that holds nothing; put them back as they were.

    That is the guards and gaps around tensors, the outputs, the slots of the cache that no token owns, and what the
    function allocates by torch.empty and its kin.
    """
    for name, buffer in step.buffers.items():
        _repoison(step, buffer, is_output=name in {call.fills[argument] for argument in call.undefined})
    try:
        with _Allocations(lambda _dtype: OTHER_POISON):
            return launch(call, function, device)
    finally:
        for buffer in step.buffers.values():
            buffer.restore()


def _repoison(step: Step, buffer: Buffer, *, is_output: bool) -> None:
    held = buffer.view.clone()
    buffer.rows.fill_(OTHER_POISON)
    if buffer.name == "cache":
        held = torch.where(step.defined.bool(), held, OTHER_POISON)
    if not is_output:
        buffer.view.copy_(held)


ALLOCATORS = frozenset(
    {
        torch.empty,
        torch.empty_like,
        torch.empty_strided,
        torch.Tensor.new_empty,
        torch.Tensor.new_empty_strided,
    }
)


class _Allocations(TorchFunctionMode):
    """Fills every tensor that is allocated without content with a byte that depends on its dtype."""

    def __init__(self, byte: Callable[[torch.dtype], int]) -> None:
        super().__init__()
        self._byte = byte

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in ALLOCATORS and result.numel():
            span = 1 + sum((size - 1) * stride for size, stride in zip(result.shape, result.stride(), strict=True))
            flat = result.as_strided((span,), (1,))
            flat.view(torch.uint8).fill_(self._byte(result.dtype))
        return result
