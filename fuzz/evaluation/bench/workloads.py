"""What the lockstep benchmark runs: one stage of an implementation, on a case of a size, as often as is wanted."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from indexfuzz.implementations.base import Implementation
from indexfuzz.oracles.walk import accept
from indexfuzz.samples.materialise import materialise
from indexfuzz.stages.table import STAGES, find


@dataclass(frozen=True)
class Launch:
    """A launch of one stage, to be repeated.

    `arguments` are passed by name; `defined` says of each tensor among them which of its bytes hold something: all,
    none, or a bool for each.
    """

    run: Callable[[], object]
    arguments: Mapping[str, Tensor]
    defined: Mapping[str, bool | Tensor]


def prepare(implementation: Implementation, name: str, size: tuple[int, ...]) -> Launch:
    """A stage of an implementation on its workload of a size. The tensors are the same in every process.

    Raises LookupError where no stage of the name has a workload.
    """
    stage = find(name)
    if stage.workload is None:
        raise LookupError(f"the stage {name} has no workload")
    step = materialise(stage.workload.case(*size))
    for earlier in STAGES[: STAGES.index(stage)]:
        if earlier.applies(step.case):
            call = earlier.prepare(step)
            accept(earlier, step, call, call.run(earlier.reference))
    call, function = stage.prepare(step), implementation.stages[name]
    defined: dict[str, bool | Tensor] = {argument: argument not in call.undefined for argument in call.tensors}
    if "cache" in defined:
        defined["cache"] = step.defined.bool()
    return Launch(lambda: function(**call.tensors, **call.options), call.tensors, defined)
