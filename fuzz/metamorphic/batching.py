"""The batch arranged otherwise: tokens, rows and sequences in another order, in several launches, one row each."""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from indexfuzz.case import Case, CaseError
from indexfuzz.metamorphic.relation import (
    Pairs,
    Tensors,
    Twin,
    altered,
    blank,
    in_form_of,
    paired,
    shuffled,
    stored,
    taken,
    unchanged,
    written_slots,
)
from indexfuzz.reference.paged_mqa_logits import row_windows
from indexfuzz.stages import Call

ROW_INPUTS = {
    "rope": ("q", "k", "positions"),
    "q_quant": ("q", "weights"),
    "prefill_logits": ("q_fp8", "weights", "ks", "ke", "logits"),
    "topk": ("logits",),
}
"""Stage -> its tensors with a row for each token or query; all outputs have these rows, too."""

LEAD = {"rope": "q", "q_quant": "q", "prefill_logits": "q_fp8", "topk": "logits"}


def _select(call: Call, names: Sequence[str], index: Tensor) -> Call:
    """The call for some of its rows."""
    return altered(call, None, **{name: taken(call.tensors[name], index) for name in names})


def _reorder(call: Call, names: Sequence[str], order: Tensor) -> Call:
    """The call with its rows in another order, and every stride as it was."""
    return altered(call, None, **{
        name: in_form_of(call.tensors[name], taken(call.tensors[name], order)) for name in names
    })  # fmt: skip


def _halves(size: int) -> tuple[Tensor, Tensor]:
    """Two runs of indices below a size of at least 2."""
    return torch.arange(size // 2), torch.arange(size // 2, size)


def _ranked(outputs: Tensors, logits: Tensor) -> dict[str, Tensor]:
    """Selections as the values selected, in order: which of equal logits is taken is nobody's business."""
    (name, chosen), = outputs.items()
    values = torch.gather(logits, 1, chosen.clamp_min(0).long()) if logits.shape[1] else chosen.float()
    return {name: torch.where(chosen < 0, float("-inf"), values).sort(1).values}


def rows_permuted(stage: str, case: Case, call: Call) -> Iterator[Twin]:
    """Tokens, or query rows, in another order."""
    size = len(call.tensors[LEAD[stage]])
    if size < 2:
        return
    order = shuffled(case, "rows", size)
    back = torch.argsort(order)

    def pairs(first: Tensors, others: Sequence[Tensors]) -> Pairs:
        restored = {name: taken(output, back) for name, output in others[0].items()}
        return _pairs(stage, call, first, restored)

    yield Twin(case, (_reorder(call, ROW_INPUTS[stage], order),), pairs)


def rows_split(stage: str, case: Case, call: Call) -> Iterator[Twin]:
    """Two launches, each with about half of the rows."""
    size = len(call.tensors[LEAD[stage]])
    if size < 2:
        return
    halves = _halves(size)

    def pairs(first: Tensors, others: Sequence[Tensors]) -> Pairs:
        joined = {name: _joined([other[name] for other in others]) for name in first}
        return _pairs(stage, call, first, joined)

    yield Twin(case, tuple(_select(call, ROW_INPUTS[stage], half) for half in halves), pairs)


def _pairs(stage: str, call: Call, first: Tensors, restored: dict[str, Tensor]) -> Pairs:
    if stage != "topk":
        return paired(restored, dict(first))
    logits = call.tensors["logits"]
    return paired(_ranked(restored, logits), _ranked(first, logits))


def _joined(parts: Sequence[Tensor]) -> Tensor:
    raw = [part.view(torch.uint8) if part.element_size() == 1 else part for part in parts]
    return torch.cat(raw).view(parts[0].dtype)


def tokens_permuted(case: Case, call: Call) -> Iterator[Twin]:
    """Tokens written to their slots in another order."""
    slots, k = call.tensors["slot_mapping"], call.tensors["k"]
    if len(slots) < 2:
        return
    order = shuffled(case, "rows", len(slots))
    rest = torch.arange(len(slots), len(k))
    twin = altered(
        call,
        k=in_form_of(k, taken(k, torch.cat([order, rest]))),
        slot_mapping=in_form_of(slots, taken(slots, order)),
    )
    yield Twin(case, (twin,), partial(_same_cache, case, [written_slots(call)]))


def tokens_split(case: Case, call: Call) -> Iterator[Twin]:
    """Tokens written by two launches."""
    slots, k = call.tensors["slot_mapping"], call.tensors["k"]
    if len(slots) < 2:
        return
    halves = [
        altered(call, k=taken(k, half), slot_mapping=taken(slots, half))
        for half in _halves(len(slots))
    ]
    yield Twin(case, tuple(halves), partial(_same_cache, case, [written_slots(half) for half in halves]))


def _same_cache(case: Case, slots: Sequence[Tensor], first: Tensors, others: Sequence[Tensors]) -> Pairs:
    """Tokens at slots, each list of them from another launch."""
    parts = [stored(case, other["cache"], s) for other, s in zip(others, slots, strict=True)]
    twin = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return paired(twin, stored(case, first["cache"], torch.cat(list(slots))))


def sequences_permuted(case: Case, call: Call) -> Iterator[Twin]:
    """Decode sequences in another order."""
    q = call.tensors["q_fp8"]
    if len(q) < 2:
        return
    order = shuffled(case, "sequences", len(q))
    rows = _rows_of(order, q.shape[1])
    back = torch.argsort(rows)
    twin = _reorder(call, ("q_fp8", "context_lens", "block_table"), order)
    weights = in_form_of(call.tensors["weights"], taken(call.tensors["weights"], rows))
    yield Twin(
        case, (altered(twin, weights=weights),),
        lambda first, others: {"logits": (taken(others[0]["logits"], back), first["logits"])},
    )  # fmt: skip


def _rows_of(sequences: Tensor, next_n: int) -> Tensor:
    """The query rows of sequences, in order."""
    return (sequences.unsqueeze(1) * next_n + torch.arange(next_n)).flatten()


def sequences_split(case: Case, call: Call) -> Iterator[Twin]:
    """Two launches, each with about half of the decode sequences."""
    q = call.tensors["q_fp8"]
    if len(q) < 2:
        return
    calls = []
    for half in _halves(len(q)):
        part = _select(call, ("q_fp8", "context_lens", "block_table"), half)
        calls.append(_select(part, ("weights", "logits"), _rows_of(half, q.shape[1])))
    yield Twin(
        case, tuple(calls),
        lambda first, others: {"logits": (torch.cat([o["logits"] for o in others]), first["logits"])},
    )  # fmt: skip


def one_row_each(case: Case, call: Call) -> Iterator[Twin]:
    """next_n rows of a sequence as next_n sequences of one row."""
    q = call.tensors["q_fp8"]
    batch, next_n, heads, dim = q.shape
    if next_n == 1:
        return
    windows = row_windows(call.tensors["context_lens"], next_n, call.tensors["logits"].shape[1]).flatten()
    try:
        other = case.replace(batch={"next_n": 1, "lens": "1d", "decode": tuple(windows.tolist())})
    except CaseError:
        return
    rows = torch.arange(batch, device=q.device).repeat_interleave(next_n)
    twin = altered(
        call,
        q_fp8=q.reshape(batch * next_n, 1, heads, dim),
        context_lens=windows.int(),
        block_table=taken(call.tensors["block_table"], rows),
    )
    yield Twin(other, (twin,), unchanged)


def gather_permuted(case: Case, call: Call) -> Iterator[Twin]:
    """Sequences gathered in another order."""
    cu_seqlens, owner = call.tensors["cu_seqlens"], call.tensors["token_to_seq"]
    lengths = cu_seqlens.diff()
    if len(lengths) < 2:
        return
    order = shuffled(case, "sequences", len(lengths)).to(lengths.device)
    starts = torch.cat([cu_seqlens[:1], lengths[order].cumsum(0, dtype=torch.int32)])
    total = int(cu_seqlens[-1])
    place = torch.argsort(order)
    renamed = torch.cat([torch.arange(len(order), device=owner.device).repeat_interleave(lengths[order].long()).int(),
                         owner[total:]])  # fmt: skip
    sequence = owner[:total].long()
    position = torch.arange(total, device=owner.device) - cu_seqlens[sequence]
    token = torch.cat([starts[place[sequence]] + position, torch.arange(total, len(owner), device=owner.device)])
    table = call.tensors["block_table"]
    twin = altered(
        call,
        cu_seqlens=in_form_of(cu_seqlens, starts),
        token_to_seq=in_form_of(owner, renamed),
        block_table=in_form_of(table, taken(table, order)),
    )
    yield Twin(
        case, (twin,),
        lambda first, others: {name: (taken(others[0][name], token.long()), first[name]) for name in first},
    )  # fmt: skip


def gather_split(case: Case, call: Call) -> Iterator[Twin]:
    """Two launches, each for about half of the sequences; padding goes with the second."""
    cu_seqlens, owner = call.tensors["cu_seqlens"], call.tensors["token_to_seq"]
    sequences = len(cu_seqlens) - 1
    if sequences < 2:
        return
    half = sequences // 2
    cut = int(cu_seqlens[half])
    if not 0 < cut < len(owner):
        return
    parts = ((slice(0, half), slice(0, cut), cut, 0), (slice(half, None), slice(cut, None), len(owner) - cut, half))
    calls = tuple(
        altered(
            call,
            cu_seqlens=(cu_seqlens[first : last + 1] - cu_seqlens[first]).contiguous(),
            token_to_seq=torch.where(owner[tokens] < 0, owner[tokens], owner[tokens] - first),
            block_table=call.tensors["block_table"][part].clone(),
            k_fp8=blank(call.tensors["k_fp8"], size, call.tensors["k_fp8"].shape[1]),
            k_scale=blank(call.tensors["k_scale"], size),
        )
        for (part, tokens, size, first), last in zip(parts, (half, sequences), strict=True)
    )
    yield Twin(
        case, calls, lambda first, others: {name: (_joined([o[name] for o in others]), first[name]) for name in first}
    )
