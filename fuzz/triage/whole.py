"""The whole indexer looked at closely: the first stage that it calls with other arguments, or what it makes of theirs.

The stages run one by one and what each was given is kept; then the whole runs, and its calls of the same functions are
watched. Of a step that takes another one before it to go wrong, what was right in that one is told beside.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from indexfuzz.checks import describe
from indexfuzz.core.case import Case
from indexfuzz.core.finding import Finding
from indexfuzz.core.stage_names import TOPK
from indexfuzz.implementations.base import WholeIndexer
from indexfuzz.lockstep.source.trace import Trace
from indexfuzz.lockstep.tracking.moments import Recorder
from indexfuzz.oracles import composition, next_step
from indexfuzz.oracles.history import with_other_contents
from indexfuzz.oracles.launching import launch
from indexfuzz.oracles.walk import materialise_on
from indexfuzz.samples.step import Step
from indexfuzz.stages.base import Call
from indexfuzz.stages.table import PAGED_LOGITS, PREFILL_LOGITS, find
from indexfuzz.triage.culprit import CallWatcher, Culprit, Inputs, code_of, hearing
from indexfuzz.triage.lens import Lens
from indexfuzz.triage.look import Look

NO_LINE = "Its stages are called with what they should be, and no function in between returns what is wrong."


@dataclass(frozen=True)
class WholeLook:
    """A launch of the whole indexer on a step that its stages have run on as well.

    got is the output that the finding is about as the whole leaves it, want as the stages do; stepwise is their step.
    violated is the launch itself where a kernel did in it what it must not, which it does not among the stages. moment
    says of a step behind another one that it is, and what was right in that one. uncalled are stages that the whole
    calls too few times.
    """

    finding: Finding
    got: Tensor
    want: Tensor
    stepwise: Step
    culprit: Culprit | None
    recorder: Recorder
    violated: Look | None = None
    moment: str = ""
    uncalled: tuple[str, ...] = ()

    def trace(self) -> Trace | None:
        """No line of a kernel is to blame."""
        return None

    def place(self) -> str:
        """file:line of the line of Python that is to blame; empty where it is not known."""
        return self.culprit.place if self.culprit else ""

    def sentences(self) -> list[str]:
        """When it was, the line of Python that mixes something up, its variables, and what a kernel does of that."""
        when = [f"It shows in {self.moment}."] if self.moment else []
        caller = [*self.culprit.lines()] if self.culprit else []
        if self.violated:
            return [*when, *caller, *self.violated.sentences()]
        if not caller and self.uncalled:
            return [*when, f"It does not call {', '.join(self.uncalled)} as often as its stages are run one by one."]
        return [*when, *(caller or [NO_LINE])]


def look_at_whole(lens: Lens) -> WholeLook | None:
    """Run the stages and the whole once more, behind another step where the finding is about one that is.

    None where the whole does what its stages do, or ends with an error.
    """
    case, implementation, device, whole = lens.case, lens.implementation, lens.device, lens.implementation.forward
    is_behind = lens.signature.kind == next_step.KIND
    stages = _ByStages.of(case, lens)
    before = _ByStages.of(with_other_contents(case), lens) if is_behind else None
    if whole is None or stages is None or (shown := _show_again(lens, whole)) is None:
        return None
    finding, step = shown[0], materialise_on(case, device)
    if is_behind:  # what is kept may be known by the addresses of that step: one of its own would not do
        next_step.fill(shown[1], step.tensors)
        step = replace(shown[1], case=case)
    codes = {code: name for name, function in implementation.stages.items() if (code := code_of(function))}
    earlier, want, recorder = before.inputs if before else {}, stages.output("selected"), Recorder()
    watcher = CallWatcher(codes, stages.inputs, earlier, stages.step, want)

    def watched(step: Step) -> Tensor:
        if step.case != case:  # that is the one before
            return whole(step=step)
        with hearing(watcher):
            return whole(step=step)

    run_whole = next_step.after_another(watched) if is_behind else watched
    launched = launch(
        TOPK, Call({}, {"step": step}, returns=("selected",)), run_whole, replace(device, recorder=recorder)
    )
    if launched.error:
        return None
    violated = None
    if launched.seen:
        call = Call(step.tensors, {"layout": case.cache.layout})
        guarantees = launched.guarantees(implementation.promises)
        written = dict.fromkeys(step.tensors, True)
        violated = Look(
            find(TOPK, ""), case, call, call, {}, launched.seen[0], recorder, guarantees, watched, device, {}, written
        )
    got = launched.outputs["selected"] if finding.output == "selected" else step.tensors[finding.output]
    want = stages.output(finding.output)
    moment = _tell_before(finding, before) if before else ""
    return WholeLook(finding, got, want, stages.step, watcher.culprit, recorder, violated, moment, watcher.uncalled)


def _show_again(lens: Lens, whole: WholeIndexer) -> tuple[Finding, Step] | None:
    """What a finding is now, and the step that the whole was first called with; None where it does not show.

    A step that shows nothing may lie where its own contents are known: others are tried while it is there.
    """
    served: list[Step] = []

    def serving(step: Step) -> Tensor:
        served.append(step)
        return whole(step=step)

    oracle = next_step if lens.signature.kind == next_step.KIND else composition
    for _ in range(next_step.TRIES):
        first = len(served)
        outcome = oracle.run(lens.case, replace(lens.implementation, forward=serving), lens.device)
        for finding in outcome.findings:
            if finding.kind == lens.signature.kind:
                return finding, served[first]
    return None


def _tell_before(finding: Finding, before: "_ByStages") -> str:
    """That a step stands behind another one, and what that one made of the first wrong element."""
    words = "the step right behind one with other contents in the same tensors"
    if not finding.index:
        return words
    made = describe.text(before.output(finding.output)[finding.index])
    return f"{words}, after which {finding.output}{list(finding.index)} was {made}"


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


@dataclass(frozen=True)
class _ByStages:
    """A step that stages have run on one by one, and what each was given."""

    step: Step
    inputs: Inputs

    @classmethod
    def of(cls, case: Case, lens: Lens) -> Self | None:
        """Run the stages; None where one raises."""
        inputs: Inputs = {}

        def note(call: Call, stage: str) -> None:
            given = {name: tensor.clone() for name, tensor in call.tensors.items() if name not in call.undefined}
            inputs.setdefault(stage, []).append(given)

        step = composition.run_stages(case, lens.implementation, lens.device, note)
        return cls(step, inputs) if step else None

    def output(self, name: str) -> Tensor:
        """What they select, int32 [T, index_topk], or a tensor of the step as they leave it."""
        return _selected(self.step) if name == "selected" else self.step.tensors[name]


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
