"""The whole indexer looked at closely: the first stage that it calls with other arguments, or what it makes of theirs.

The stages run one by one and what each was given is kept; then the whole runs, and its calls of the same functions are
watched.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.stage_names import TOPK
from indexfuzz.devices.lockstep import LockstepDevice
from indexfuzz.implementations.base import Implementation
from indexfuzz.lockstep.source.trace import Trace
from indexfuzz.lockstep.tracking.moments import Recorder
from indexfuzz.oracles import composition
from indexfuzz.oracles.launching import launch
from indexfuzz.oracles.walk import materialise_on
from indexfuzz.samples.step import Step
from indexfuzz.stages.base import Call
from indexfuzz.stages.table import PAGED_LOGITS, PREFILL_LOGITS, find
from indexfuzz.triage.culprit import CallWatcher, Culprit, code_of, hearing
from indexfuzz.triage.look import Look


@dataclass(frozen=True)
class WholeLook:
    """A launch of the whole indexer on a step that its stages have run on as well.

    got is the output that the finding is about as the whole leaves it, want as the stages do; stepwise is their step.
    violated is the launch itself where a kernel did in it what it must not, which it does not among the stages.
    """

    finding: Finding
    got: Tensor
    want: Tensor
    stepwise: Step
    culprit: Culprit | None
    recorder: Recorder
    violated: Look | None = None
    moment: str = ""

    def trace(self) -> Trace | None:
        """No line of a kernel is to blame."""
        return None

    def place(self) -> str:
        """file:line of the line of Python that is to blame; empty where it is not known."""
        return self.culprit.place if self.culprit else ""

    def sentences(self) -> list[str]:
        """The line of Python that mixes something up, with its variables, and what a kernel does of that."""
        if self.violated:
            caller = [*self.culprit.lines()] if self.culprit else []
            return [*caller, *self.violated.sentences()]
        if self.culprit is None:
            return ["Its stages are called with what they should be, and no function in between returns what is wrong."]
        return [*self.culprit.lines()]


def look_at_whole(case: Case, implementation: Implementation, device: LockstepDevice) -> WholeLook | None:
    """Run the stages and the whole once more; None where the whole does what its stages do, or ends with an error."""
    whole = implementation.forward
    found = composition.run(case, implementation, device).findings
    inputs: dict[str, list[dict[str, Tensor]]] = {}

    def note(call: Call, stage: str) -> None:
        given = {name: tensor.clone() for name, tensor in call.tensors.items() if name not in call.undefined}
        inputs.setdefault(stage, []).append(given)

    stepwise = composition.run_stages(case, implementation, device, note)
    if not found or whole is None or stepwise is None:
        return None
    want = {"selected": _selected(stepwise), **stepwise.tensors}
    codes = {code: name for name, function in implementation.stages.items() if (code := code_of(function))}
    watcher, recorder = CallWatcher(codes, inputs, stepwise, want["selected"]), Recorder()
    step = materialise_on(case, device)

    def watched(step: Step) -> Tensor:
        with hearing(watcher):
            return whole(step=step)

    launched = launch(
        TOPK, Call({}, {"step": step}, returns=("selected",)), watched, replace(device, recorder=recorder)
    )
    if launched.error:
        return None
    finding = found[0]
    violated = None
    if launched.seen:
        call = Call(step.tensors, {"layout": case.cache.layout})
        guarantees = launched.guarantees(implementation.promises)
        written = dict.fromkeys(step.tensors, True)
        violated = Look(
            find(TOPK, ""), case, call, call, {}, launched.seen[0], recorder, guarantees, watched, device, {}, written
        )
    got = launched.outputs["selected"] if finding.output == "selected" else step.tensors[finding.output]
    return WholeLook(finding, got, want[finding.output], stepwise, watcher.culprit, recorder, violated)


def seen_logits(stepwise: Step, row: int) -> dict[int, float]:
    """The logits that a row of tokens sees, by position in its own sequence."""
    t = stepwise.tensors
    if row < stepwise.decode_rows.stop:
        logits, start = t[PAGED_LOGITS.name][row], 0
    elif row < stepwise.prefill_rows.stop:
        own = row - stepwise.prefill_rows.start
        logits, start = t[PREFILL_LOGITS.name][own], int(t["ks"][own])
    else:
        return {}
    seen = (logits > float("-inf")).nonzero().flatten().tolist()
    return {column - start: logits[column].item() for column in seen}


def _selected(stepwise: Step) -> Tensor:
    """What the stages select: positions of each token's own sequence, int32 [T, index_topk]."""
    case, t = stepwise.case, stepwise.tensors
    selected = torch.full((case.batch.tokens, case.model.index_topk), -1, dtype=torch.int32)
    if "paged_topk" in t:
        selected[stepwise.decode_rows] = t["paged_topk"]
    if "prefill_topk" in t:
        own = t["prefill_topk"]
        selected[stepwise.prefill_rows] = torch.where(own >= 0, own - t["ks"].unsqueeze(1), own)
    return selected
