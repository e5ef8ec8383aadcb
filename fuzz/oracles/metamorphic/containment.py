"""NaN and infinities stay where they are: numbers in their place change nothing elsewhere."""

from collections.abc import Iterator, Sequence
from functools import partial

from indexfuzz.core.case import Case
from indexfuzz.oracles.metamorphic.relation import Pairs, Relation, Twin, alter
from indexfuzz.stages.base import Call, Stage, Tensors
from indexfuzz.stages.nonfinite import replace_where
from indexfuzz.stages.table import EVERY


def contained(stage: Stage, case: Case, call: Call) -> Iterator[Twin]:
    """Numbers in place of NaN and infinities change only what those may reach."""
    reach = stage.nonfinite_reach(call)
    if not reach.finite:
        return

    def pairs(first: Tensors, others: Sequence[Tensors]) -> Pairs:
        twin = others[0]
        return {name: (replace_where(reach.masks.get(name), first[name], twin[name]), first[name]) for name in first}

    yield Twin(case, (alter(call, None, **reach.finite),), pairs)


CONTAINED = Relation(
    "nonfinite-contained",
    "with numbers for NaN and infinities elsewhere",
    "bits",
    {stage.name: partial(contained, stage) for stage in EVERY},
)
"""For cases with values that are not finite, and for no others."""
