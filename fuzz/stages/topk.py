"""Top-k: the columns of the largest logits of each row. It stands in two places, after either kind of logits."""

import torch
from torch import Tensor

from indexfuzz.checks.topk import check_sorted, check_topk
from indexfuzz.core import stage_names
from indexfuzz.core.case import Case
from indexfuzz.core.guarantees import Guarantees
from indexfuzz.reference import indexer
from indexfuzz.samples.poison import poison_like
from indexfuzz.samples.step import Step
from indexfuzz.stages.base import Call, Form, Output, Reach, Stage, Tensors
from indexfuzz.stages.logits import LogitStage
from indexfuzz.stages.verdict import Verdict

INFINITIES = (float("inf"), float("-inf"))


class Topk(Stage):
    """Returns int32 [rows, index_topk], -1 where a row has no more columns."""

    name = stage_names.TOPK
    row_inputs = ("logits",)
    sources = ("indexer",)
    shown = "selection"
    reference = staticmethod(indexer.topk)

    def __init__(self, after: LogitStage, selection: str) -> None:
        """`after` makes the logits; `selection` is the name of what is returned."""
        self._after = after
        self._selection = selection
        self.outputs = (Output(selection, ("row", "entry")),)

    def applies(self, case: Case) -> bool:
        return self._after.applies(case)

    def tensors(self, step: Step) -> dict[str, Tensor]:
        return {"logits": step.tensors[self._after.name]}

    def call(self, case: Case, tensors: dict[str, Tensor]) -> Call:
        return Call(tensors, {"index_topk": case.model.index_topk}, returns=(self._selection,))

    def forms(self, given: Call) -> dict[str, Form]:
        (name,) = given.returns
        return {name: ((len(given.tensors["logits"]), given.options["index_topk"]), torch.int32)}

    def judge_finite(self, given: Call, got: Tensors, guarantees: Guarantees) -> Verdict:
        """The columns are the largest of the logits that were given; ties are free, order where it is not promised."""
        (name,) = given.returns
        logits, chosen = given.tensors["logits"], got[name]
        wrong = check_topk(name, chosen, logits, before=poison_like(chosen))
        if not wrong and guarantees.promises.sorted_topk:
            wrong = check_sorted(name, chosen, logits)
        return Verdict.of(wrong)

    def comparable(self, given: Call, outputs: Tensors) -> Tensors:
        """The logits that were selected, in order: any of equal ones may be taken."""
        (name,) = given.returns
        logits, chosen = given.tensors["logits"], outputs[name]
        values = torch.gather(logits, 1, chosen.clamp_min(0).long()) if logits.shape[1] else chosen.float()
        return {name: torch.where(chosen < 0, float("-inf"), values).sort(1).values}

    def nonfinite_reach(self, given: Call, *, hides_nan: bool = False) -> Reach:
        """All that is selected in a row, which a NaN leaves without an order; infinities have their place in it."""
        (name,) = given.returns
        logits = given.tensors["logits"]
        rows = torch.isnan(logits).any(1, keepdim=True).expand(-1, given.options["index_topk"])
        return Reach({name: rows}, {"logits": logits.nan_to_num(0.0, *INFINITIES)})
