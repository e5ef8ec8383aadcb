"""The judge of top-k selections."""

import torch

from indexfuzz.checks.topk import selected
from indexfuzz.core.case import Case
from indexfuzz.core.terms import Terms
from indexfuzz.stages.judges.verdict import Tensors, Verdict, verdict, wrong_form


def topk(case: Case, given: Tensors, got: Tensors, _terms: Terms) -> Verdict:
    """The columns are the largest of the logits that were given; ties are free."""
    ((name, indices),) = got.items()
    rows = len(given["logits"])
    wrong = wrong_form(got, **{name: ((rows, case.model.index_topk), torch.int32)})
    return wrong or verdict(selected(name, indices, given["logits"]))
