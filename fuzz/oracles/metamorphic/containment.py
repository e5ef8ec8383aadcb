"""NaN and infinities stay where they are: numbers in their place change nothing elsewhere."""

from collections.abc import Iterator, Sequence
from functools import partial

from indexfuzz.core.case import Case
from indexfuzz.oracles.metamorphic.relation import Pairs, Relation, Tensors, Twin, altered
from indexfuzz.oracles.nonfinite.reach import reached, replaced
from indexfuzz.stages.base import Call

STAGES = ("rope", "q_quant", "k_quant_cache", "prefill_logits", "paged_logits", "topk")


def contained(stage: str, case: Case, call: Call) -> Iterator[Twin]:
    """Numbers in place of NaN and infinities change only what those may reach."""
    masks, clean = reached(stage, case, call.tensors)

    def pairs(first: Tensors, others: Sequence[Tensors]) -> Pairs:
        return {name: (replaced(masks.get(name), first[name], others[0][name]), first[name]) for name in first}

    yield Twin(case, (altered(call, None, **clean),), pairs)


CONTAINED = Relation(
    "nonfinite-contained",
    "with numbers for NaN and infinities elsewhere",
    "bits",
    {stage: partial(contained, stage) for stage in STAGES},
)
"""For cases with values that are not finite, and for no others."""
