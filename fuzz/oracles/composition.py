"""The whole indexer against its own stages: `forward` must select what the stages select one by one.

Stages are judged alone, so a call of a stage with the wrong rows, or indices that count from the wrong key, shows only
here. The kernels are the same on both sides; what a row may select follows from the logits of the stages.
"""

from dataclasses import replace

import torch
from torch import Tensor

from indexfuzz.checks.topk import check_topk
from indexfuzz.core.case import Case
from indexfuzz.core.contract import covers
from indexfuzz.core.finding import Finding
from indexfuzz.core.outcome import Outcome
from indexfuzz.core.stage_names import PAGED_LOGITS, PREFILL_LOGITS, TOPK
from indexfuzz.core.tracebacks import location_of
from indexfuzz.devices.base import Device
from indexfuzz.implementations.base import Implementation, WholeIndexer
from indexfuzz.oracles.launching import describe_error, launch
from indexfuzz.oracles.walk import materialise_on
from indexfuzz.samples.step import Step
from indexfuzz.stages.base import Call
from indexfuzz.stages.table import STAGES

KIND = "metamorphic/composition"


def run(case: Case, implementation: Implementation, device: Device, only: frozenset[str] = frozenset()) -> Outcome:
    """Hold the whole indexer against its stages, where an implementation has both and promises to handle the case.

    Raises UnsupportedKernelError when the device cannot execute a kernel or has not the FP8 format.
    """
    outcome = Outcome(case)
    if only or implementation.forward is None or not applies(case, implementation):
        return outcome
    outcome.stages.append(TOPK)
    found = compare(case, implementation, implementation.forward, device)
    outcome.findings += [found] if found else []
    return outcome


def applies(case: Case, implementation: Implementation) -> bool:
    """Whether every stage that a case needs is there and promises to handle it."""
    needed = [stage.name for stage in STAGES if stage.applies(case)]
    return bool(needed) and all(
        name in implementation.stages and covers(implementation.contract, name, case) for name in needed
    )


def compare(case: Case, implementation: Implementation, whole: WholeIndexer, device: Device) -> Finding | None:
    """Run a case by stages and as a whole; the first difference. The stages are taken to be right."""
    stepwise = materialise_on(case, device)
    if not _run_stages(stepwise, implementation, device):
        return None
    step = materialise_on(case, device)
    launched = launch(TOPK, Call({}, {"step": step}, returns=("selected",)), whole, device)
    if launched.error:
        words = f"the whole indexer raised {describe_error(launched.error)}"
        return Finding(TOPK, KIND, "selected", words, location=location_of(launched.error))
    for seen in launched.seen:
        return replace(seen, stage=TOPK, kind=KIND, output="selected")
    in_place = case.rope.mode == "inplace" and implementation.promises.rope_in_place
    return _difference(case, stepwise, step, launched.outputs["selected"], ("q", "k") if in_place else ())


def _run_stages(step: Step, implementation: Implementation, device: Device) -> bool:
    """Let each stage work on what the one before it left; whether all of them came to an end."""
    for stage in STAGES:
        if stage.applies(step.case):
            call = stage.prepare(step)
            launched = launch(stage.name, call, implementation.stages[stage.name], device)
            if launched.error:
                return False  # differential.run reports it
            for name, tensor in launched.outputs.items():
                step.tensors[call.fills.get(name, name)] = tensor
    return True


def _difference(case: Case, stepwise: Step, whole: Step, selected: Tensor, rotated: tuple[str, ...]) -> Finding | None:
    wanted = (case.batch.tokens, case.model.index_topk)
    if tuple(selected.shape) != wanted or selected.dtype != torch.int32:
        return Finding(TOPK, KIND, "selected", f"is {selected.dtype} {list(selected.shape)}, not int32 {wanted}")
    if not torch.equal(stepwise.tensors["cache"], whole.tensors["cache"]):
        return Finding(TOPK, KIND, "cache", "the whole indexer leaves other keys in the cache than its stages")
    for name in rotated:
        if not torch.equal(stepwise.tensors[name], whole.tensors[name]):
            return Finding(TOPK, KIND, name, f"the whole indexer leaves another {name} behind than RoPE in place")
    decode, prefill = whole.decode_rows, whole.prefill_rows
    found: Finding | None = None
    if case.batch.decode:
        found = check_topk("selected", selected[decode], stepwise.tensors[PAGED_LOGITS])
    if PREFILL_LOGITS in stepwise.tensors and not found:
        own = selected[prefill].long()
        columns = torch.where(own >= 0, own + stepwise.tensors["ks"].unsqueeze(1), own)
        found = check_topk("selected", columns, stepwise.tensors[PREFILL_LOGITS])
    if found:
        return replace(found, stage=TOPK, kind=KIND)
    if bool((selected[prefill.stop :] != -1).any()):
        return Finding(TOPK, KIND, "selected", "selects positions for padded tokens, which must all be -1")
    return None
