"""The whole indexer against its own stages: `forward` must select what the stages select one by one.

Stages are judged alone, so a call of a stage with the wrong rows, or indices that count from the wrong key, shows only
here. The kernels are the same on both sides; what a row may select follows from the logits of the stages.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from indexfuzz.checks import describe
from indexfuzz.checks.topk import check_topk
from indexfuzz.core.case import Case
from indexfuzz.core.contract import covers
from indexfuzz.core.finding import Finding
from indexfuzz.core.outcome import Outcome
from indexfuzz.core.stage_names import TOPK
from indexfuzz.core.tracebacks import location_of
from indexfuzz.devices.base import Device
from indexfuzz.implementations.base import Implementation, WholeIndexer
from indexfuzz.oracles import walked
from indexfuzz.oracles.launching import describe_error, launch
from indexfuzz.oracles.mixups import Selections
from indexfuzz.oracles.walk import materialise_on
from indexfuzz.samples.step import Step
from indexfuzz.stages.base import Call
from indexfuzz.stages.table import PAGED_LOGITS, PREFILL_LOGITS, STAGES

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


def compare(
    case: Case, implementation: Implementation, whole: WholeIndexer, device: Device, *, earlier: Case | None = None
) -> Finding | None:
    """Run a case by stages and as a whole; the first difference. The stages are taken to be right.

    `earlier` is the case of a step that the whole serves before, from the same tensors, if it does.
    """
    stepwise = walked.take(case, implementation, device) or run_stages(case, implementation, device)
    if stepwise is None:
        return None
    step = materialise_on(case, device)

    def run_whole(**tensors: Tensor) -> Tensor:
        return whole(step=replace(step, tensors=tensors))

    launched = launch(TOPK, Call(dict(step.tensors), returns=("selected",)), run_whole, device)
    if launched.error:
        words = f"the whole indexer raised {describe_error(launched.error)}"
        return Finding(TOPK, KIND, "selected", words, location=location_of(launched.error))
    for seen in launched.seen:
        return replace(seen, stage=TOPK, kind=KIND, output="selected")
    in_place = case.rope.mode == "inplace" and implementation.promises.rope_in_place
    selected = launched.outputs["selected"]
    return (
        _check_form(selected, case)
        or _check_left_behind(stepwise, step, ("cache", "q", "k") if in_place else ("cache",))
        or _check_selections(Selections(stepwise, selected, implementation, device, earlier))
    )


def run_stages(
    case: Case,
    implementation: Implementation,
    device: Device,
    before: Callable[[Call, str], None] = lambda _call, _stage: None,
) -> Step | None:
    """The step of a case after each stage has worked on what the one before it left; None where one raised.

    `before` hears of each call before it is made.
    """
    step = materialise_on(case, device)
    for stage in STAGES:
        if stage.applies(step.case):
            call = stage.prepare(step)
            before(call, stage.name)
            launched = launch(stage.name, call, implementation.stages[stage.name], device)
            if launched.error:
                return None  # differential.run reports it
            for name, tensor in launched.outputs.items():
                step.tensors[call.fills.get(name, name)] = tensor
    return step


def _complain(output: str, detail: str, index: tuple[int, ...] = (), got: str = "", want: str = "") -> Finding:
    return Finding(TOPK, KIND, output, detail, index=index, got=got, want=want)


def _check_form(selected: Tensor, case: Case) -> Finding | None:
    wanted = (case.batch.tokens, case.model.index_topk)
    if tuple(selected.shape) == wanted and selected.dtype == torch.int32:
        return None
    return _complain("selected", f"is {selected.dtype} {list(selected.shape)}, not int32 {wanted}")


LEFT_BEHIND = {
    "cache": "the whole indexer leaves other keys in the cache than its stages",
    "q": "the whole indexer leaves another q behind than RoPE in place",
    "k": "the whole indexer leaves another k behind than RoPE in place",
}


def _check_left_behind(stepwise: Step, whole: Step, names: Sequence[str]) -> Finding | None:
    """What both must have changed in place in the same way."""
    for name in names:
        want, got = stepwise.tensors[name], whole.tensors[name]
        if not torch.equal(want, got):
            index = describe.first(describe.bits(got) != describe.bits(want))
            return _complain(name, LEFT_BEHIND[name], index, describe.text(got[index]), describe.text(want[index]))
    return None


def _check_selections(selections: Selections) -> Finding | None:
    """Every row chose from its own logits, and padding nothing."""
    step, found, wrong = selections.step, None, None
    for stage, columns in ((PAGED_LOGITS, selections.of_decode), (PREFILL_LOGITS, selections.of_prefill)):
        if not found and stage.applies(step.case):
            found, wrong = check_topk("selected", columns(), step.tensors[stage.name]), stage
    if found and wrong:
        rows = "decode" if wrong is PAGED_LOGITS else "prefill"
        first = (step.decode_rows if wrong is PAGED_LOGITS else step.prefill_rows).start
        mixed_up = selections.explain(wrong)
        detail = f"of the {rows} rows, {found.detail}" + (f"; {mixed_up}" if mixed_up else "")
        index = (found.index[0] + first, *found.index[1:]) if found.index else ()
        return replace(found, stage=TOPK, kind=KIND, detail=detail, index=index)
    padding = torch.arange(len(selections.selected)) >= step.prefill_rows.stop
    chosen = (selections.selected != -1) & padding[:, None].to(selections.selected.device)
    if bool(chosen.any()):
        words = "selects positions for padded tokens, which must all be -1"
        index = describe.first(chosen)
        return _complain("selected", words, index, str(int(selections.selected[index])), "-1")
    return None
