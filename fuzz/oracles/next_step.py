"""The whole indexer right after a step with other contents in the same tensors: nothing may be kept of that step.

An engine serves step after step from the same buffers. A plan, a length or a table that is remembered by the form or
the address of a tensor is right in the first of them.
"""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.core.outcome import Outcome
from indexfuzz.core.stage_names import TOPK
from indexfuzz.devices.base import Device
from indexfuzz.implementations.base import Implementation, WholeIndexer
from indexfuzz.oracles import composition, differential, history
from indexfuzz.samples.materialise import materialise
from indexfuzz.samples.step import Step

KIND = "metamorphic/next-step"

TRIES = 3
"""Times that a step is tried alone: it may come to lie where something is kept of an older one."""


def run(case: Case, implementation: Implementation, device: Device, only: frozenset[str] = frozenset()) -> Outcome:
    """Hold the whole indexer against its stages in a step that follows another one.

    Both steps must be right in memory of their own; if one is not, `composition` and `differential` tell more of it. So
    what is kept by the form of tensors does not show here, but there, in the next case of that form. Where a stage
    keeps something by itself, that is told instead, as `history` does. Raises UnsupportedKernelError when the device
    cannot execute a kernel or has not the FP8 format.
    """
    outcome, whole = Outcome(case), implementation.forward
    if only or whole is None or not composition.applies(case, implementation):
        return outcome
    other = history.with_other_contents(case)
    if not composition.applies(other, implementation):
        return outcome
    outcome.stages.append(TOPK)
    served: list[Step] = []  # what is kept by an address would show again in a step that comes to lie there

    def holding(step: Step) -> Tensor:
        served.append(step)
        return whole(step=step)

    def is_right(case: Case) -> bool:
        is_by_stages = not differential.run(case, implementation, device).findings
        return is_by_stages and composition.compare(case, implementation, holding, device) is None

    found = composition.compare(case, implementation, after_another(holding), device, earlier=other)
    if found and (kept := history.run(case, implementation, device).findings):
        outcome.findings += kept
    elif found and all(any(is_right(one) for _ in range(TRIES)) for one in (case, other)):
        detail = f"right after a step with other contents in the same tensors: {found.detail}"
        outcome.findings.append(replace(found, kind=KIND, detail=detail))
    return outcome


def after_another(whole: WholeIndexer) -> WholeIndexer:
    """The whole indexer, each time that it is called, behind a call with other contents in the same tensors.

    Where these would have another form, as tables of angles may, there is no such call.
    """

    def serve(step: Step) -> Tensor:
        other = materialise(history.with_other_contents(step.case), step.device)
        own = {name: tensor.clone() for name, tensor in step.tensors.items()}
        if all(tensor.shape == other.tensors[name].shape for name, tensor in own.items()):
            fill(step, other.tensors)
            whole(step=replace(step, case=other.case))
            fill(step, own)
        return whole(step=step)

    return serve


def fill(step: Step, contents: Mapping[str, Tensor]) -> None:
    """Put contents, by the names of tensors of the same forms, where those of a step are."""
    for name, tensor in contents.items():
        step.tensors[name].copy_(tensor)
