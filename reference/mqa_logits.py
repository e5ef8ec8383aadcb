"""Prefill logits of the indexer, and the exact scores that every judgement of logits starts from.

Batched shapes are used throughout: q [S, R, H, D] against k [S, N, D], S independent groups (sequences) of R query
rows that share keys. Prefill is one group of M rows.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from indexfuzz.reference import fp8 as codec
from indexfuzz.reference.nibbles import as_fp8_keys
from indexfuzz.reference.scales import by_dim

CHUNK_SCORES = 1 << 22
"""Scores (group x row x head x key) held at once; larger problems are cut along groups and rows."""


def mqa_logits(
    q_fp8: Tensor, k_fp8: Tensor, k_scale: Tensor, weights: Tensor, ks: Tensor, ke: Tensor, logits: Tensor
) -> None:
    """Fill logits [M, N] fp32 with the scores of the keys that each row sees, -inf elsewhere.

    logits[m, n] = k_scale[n] * sum_h weights[m, h] * relu(q[m, h] . k[n]) for ks[m] <= n < ke[m]. q_fp8 [M, H, D],
    k_fp8 [N, D], k_scale [N] fp32, weights [M, H] fp32, ks and ke [M] int32; ke <= ks is an empty row. fp64, rounded
    once. An int32 k_scale [N] has UE8M0 exponents: the scales of the quarters of k[n], as in `key_values`. k_fp8 uint8
    [N, D / 2] has E2M1 values.
    """
    k_fp8 = as_fp8_keys(k_fp8, codec.format_of(q_fp8))
    exact = weighted_scores(q_fp8.unsqueeze(0), k_fp8.unsqueeze(0), k_scale.unsqueeze(0), weights.unsqueeze(0))
    logits.copy_(torch.where(visible_range(ks, ke, logits.shape[1]), exact.squeeze(0), float("-inf")))


def visible_range(ks: Tensor, ke: Tensor, columns: int) -> Tensor:
    """Which keys row m may see, ks[m] <= n < ke[m], as bool [M, columns]."""
    column = torch.arange(columns, device=ks.device)
    return (column >= ks.unsqueeze(1)) & (column < ke.unsqueeze(1))


def exact_scores(q_fp8: Tensor, k_fp8: Tensor) -> Tensor:
    """Exact dot products in fp64, [S, R, H, N], for q_fp8 [S, R, H, D] and k_fp8 [S, N, D].

    Exact in any order of summation: products of two e4m3 values are multiples of 2**-20 below 2**18, so that
    up to 2**15 of them sum without rounding.
    """
    q = codec.decode(codec.codes(q_fp8), codec.format_of(q_fp8), torch.float64)
    k = codec.decode(codec.codes(k_fp8), codec.format_of(k_fp8), torch.float64)
    return dot(q, k)


def key_values(k_fp8: Tensor, k_scale: Tensor) -> tuple[Tensor, Tensor]:
    """Keys k_fp8 [S, N, D] in fp64, and their scales [S, N], fp64.

    An int32 k_scale has UE8M0 exponents of the quarters of every key. They are multiplied in, which is exact, and 1 is
    left.
    """
    k = codec.decode(codec.codes(k_fp8), codec.format_of(k_fp8), torch.float64)
    if k_scale.dtype != torch.int32:
        return k, k_scale.double()
    return k * by_dim(k_scale, k.shape[-1]), torch.ones(k_scale.shape, dtype=torch.float64, device=k.device)


def dot(q: Tensor, k: Tensor) -> Tensor:
    """Dot products of q [S, R, H, D] with k [S, N, D] -> [S, R, H, N], one matrix product per group."""
    groups, rows, heads, head_dim = q.shape
    return torch.bmm(q.reshape(groups, rows * heads, head_dim), k.transpose(1, 2)).view(groups, rows, heads, k.shape[1])


def weighted_scores(q_fp8: Tensor, k_fp8: Tensor, k_scale: Tensor, weights: Tensor) -> Tensor:
    """k_scale * sum_h weights * relu(q . k) in fp64, [S, R, N]; k_scale [S, N] fp32 or int32, weights [S, R, H]."""
    groups, rows, heads, _ = q_fp8.shape
    out = torch.empty((groups, rows, k_fp8.shape[1]), dtype=torch.float64, device=q_fp8.device)
    for s, r in chunks(groups, rows, heads * k_fp8.shape[1]):
        k, scale = key_values(k_fp8[s], k_scale[s])
        scores = dot(codec.decode(codec.codes(q_fp8[s, r]), codec.format_of(q_fp8), torch.float64), k).relu_()
        out[s, r] = torch.einsum("srhn,srh->srn", scores, weights[s, r].double()) * scale.unsqueeze(1)
    return out


def chunks(groups: int, rows: int, scores_per_row: int) -> Iterator[tuple[slice, slice]]:
    """Cut groups x rows into (group slice, row slice) pieces of at most CHUNK_SCORES scores, or a single row."""
    row_step = max(1, min(rows, CHUNK_SCORES // max(1, scores_per_row)))
    group_step = max(1, CHUNK_SCORES // max(1, scores_per_row * row_step))
    for s in range(0, groups, group_step):
        for r in range(0, rows, row_step):
            yield slice(s, s + group_step), slice(r, r + row_step)
