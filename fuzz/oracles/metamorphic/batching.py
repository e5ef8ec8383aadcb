"""Tokens and query rows in another order, and in several launches."""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.oracles.metamorphic.relation import (
    Pairs,
    Twin,
    alter,
    in_form_of,
    paired,
    pick,
    shuffled,
    stored,
)
from indexfuzz.stages.base import Call, Stage, Tensors
from indexfuzz.stages.k_quant_cache import written_slots


def selected(call: Call, names: Sequence[str], index: Tensor) -> Call:
    """The call for some of its rows."""
    return alter(call, None, **{name: pick(call.tensors[name], index) for name in names})


def reordered(call: Call, names: Sequence[str], order: Tensor) -> Call:
    """The call with its rows in another order, and every stride as it was."""
    return alter(
        call, None, **{name: in_form_of(call.tensors[name], pick(call.tensors[name], order)) for name in names}
    )


def halves(size: int) -> tuple[Tensor, Tensor]:
    """Two runs of indices below a size of at least 2."""
    return torch.arange(size // 2), torch.arange(size // 2, size)


def rows_permuted(stage: Stage, case: Case, call: Call) -> Iterator[Twin]:
    """Tokens, or query rows, in another order."""
    size = len(call.tensors[stage.row_inputs[0]])
    if size < 2:
        return
    order = shuffled(case, "rows", size)
    back = torch.argsort(order)

    def pairs(first: Tensors, others: Sequence[Tensors]) -> Pairs:
        restored = {name: pick(output, back) for name, output in others[0].items()}
        return _pairs(stage, call, first, restored)

    yield Twin(case, (reordered(call, stage.row_inputs, order),), pairs)


def rows_split(stage: Stage, case: Case, call: Call) -> Iterator[Twin]:
    """Two launches, each with about half of the rows."""
    size = len(call.tensors[stage.row_inputs[0]])
    if size < 2:
        return
    parts = halves(size)

    def pairs(first: Tensors, others: Sequence[Tensors]) -> Pairs:
        whole = {name: joined([other[name] for other in others]) for name in first}
        return _pairs(stage, call, first, whole)

    yield Twin(case, tuple(selected(call, stage.row_inputs, half) for half in parts), pairs)


def _pairs(stage: Stage, call: Call, first: Tensors, restored: Tensors) -> Pairs:
    return paired(stage.comparable(call, restored), stage.comparable(call, first))


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Tensors one after the other, FP8 included."""
    raw = [part.view(torch.uint8) if part.element_size() == 1 else part for part in parts]
    return torch.cat(raw).view(parts[0].dtype)


def rows_of_tokens(call: Call) -> dict[str, Tensor]:
    """The arguments of a writer with a row for each token, slots left out."""
    return {name: call.tensors[name] for name in ("k", "positions") if name in call.tensors}


def tokens_permuted(case: Case, call: Call) -> Iterator[Twin]:
    """Tokens written to their slots in another order."""
    slots = call.tensors["slot_mapping"]
    if len(slots) < 2:
        return
    order = shuffled(case, "rows", len(slots))
    rest = torch.arange(len(slots), len(call.tensors["k"]))
    moved = {name: in_form_of(x, pick(x, torch.cat([order, rest]))) for name, x in rows_of_tokens(call).items()}
    twin = alter(call, None, slot_mapping=in_form_of(slots, pick(slots, order)), **moved)
    yield Twin(case, (twin,), partial(_same_cache, case, [written_slots(call)]))


def tokens_split(case: Case, call: Call) -> Iterator[Twin]:
    """Tokens written by two launches."""
    slots = call.tensors["slot_mapping"]
    if len(slots) < 2:
        return
    calls = [
        alter(call, None, slot_mapping=pick(slots, half), **{n: pick(x, half) for n, x in rows_of_tokens(call).items()})
        for half in halves(len(slots))
    ]
    yield Twin(case, tuple(calls), partial(_same_cache, case, [written_slots(half) for half in calls]))


def _same_cache(case: Case, slots: Sequence[Tensor], first: Tensors, others: Sequence[Tensors]) -> Pairs:
    """Tokens at slots, each list of them from another launch."""
    parts = [stored(case, other["cache"], s) for other, s in zip(others, slots, strict=True)]
    twin = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return paired(twin, stored(case, first["cache"], torch.cat(list(slots))))
