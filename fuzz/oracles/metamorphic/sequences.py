"""Sequences in another order, in several launches, and one query row each."""

from collections.abc import Iterator

import torch
from torch import Tensor

from indexfuzz.core.case import Case
from indexfuzz.core.part import CaseError
from indexfuzz.oracles.metamorphic.batching import halves, joined, reordered, selected
from indexfuzz.oracles.metamorphic.relation import Twin, alter, blank, in_form_of, pick, shuffled, unchanged
from indexfuzz.reference.paged_mqa_logits import row_windows
from indexfuzz.stages.base import Call


def sequences_permuted(case: Case, call: Call) -> Iterator[Twin]:
    """Decode sequences in another order."""
    q = call.tensors["q_fp8"]
    if len(q) < 2:
        return
    order = shuffled(case, "sequences", len(q))
    rows = _rows_of(order, q.shape[1])
    back = torch.argsort(rows)
    twin = reordered(call, ("q_fp8", "context_lens", "block_table"), order)
    weights = in_form_of(call.tensors["weights"], pick(call.tensors["weights"], rows))
    yield Twin(
        case,
        (alter(twin, weights=weights),),
        lambda first, others: {"logits": (pick(others[0]["logits"], back), first["logits"])},
    )


def _rows_of(sequences: Tensor, next_n: int) -> Tensor:
    """The query rows of sequences, in order."""
    return (sequences.unsqueeze(1) * next_n + torch.arange(next_n)).flatten()


def sequences_split(case: Case, call: Call) -> Iterator[Twin]:
    """Two launches, each with about half of the decode sequences."""
    q = call.tensors["q_fp8"]
    if len(q) < 2:
        return
    calls = []
    for half in halves(len(q)):
        part = selected(call, ("q_fp8", "context_lens", "block_table"), half)
        calls.append(selected(part, ("weights", "logits"), _rows_of(half, q.shape[1])))
    yield Twin(
        case,
        tuple(calls),
        lambda first, others: {"logits": (torch.cat([o["logits"] for o in others]), first["logits"])},
    )


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
    twin = alter(
        call,
        q_fp8=q.reshape(batch * next_n, 1, heads, dim),
        context_lens=windows.int(),
        block_table=pick(call.tensors["block_table"], rows),
    )
    yield Twin(other, (twin,), unchanged)


def gather_permuted(case: Case, call: Call) -> Iterator[Twin]:
    """Sequences gathered in another order."""
    cu_seqlens, owner = call.tensors["cu_seqlens"], call.tensors["token_to_seq"]
    lengths = cu_seqlens.diff()
    if len(lengths) < 2 or case.batch.gather_holes or case.batch.gather_cut:
        return
    order = shuffled(case, "sequences", len(lengths)).to(lengths.device)
    starts = torch.cat([cu_seqlens[:1], lengths[order].cumsum(0, dtype=torch.int32)])
    total = int(cu_seqlens[-1])
    place = torch.argsort(order)
    renamed = torch.cat(
        [torch.arange(len(order), device=owner.device).repeat_interleave(lengths[order].long()).int(), owner[total:]]
    )
    sequence = owner[:total].long()
    position = torch.arange(total, device=owner.device) - cu_seqlens[sequence]
    token = torch.cat([starts[place[sequence]] + position, torch.arange(total, len(owner), device=owner.device)])
    table = call.tensors["block_table"]
    twin = alter(
        call,
        cu_seqlens=in_form_of(cu_seqlens, starts),
        token_to_seq=in_form_of(owner, renamed),
        block_table=in_form_of(table, pick(table, order)),
    )
    yield Twin(
        case,
        (twin,),
        lambda first, others: {name: (pick(others[0][name], token.long()), first[name]) for name in first},
    )


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
        alter(
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
        case, calls, lambda first, others: {name: (joined([o[name] for o in others]), first[name]) for name in first}
    )
