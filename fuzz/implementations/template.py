"""The kernels of my_project, for IndexFuzz: `indexfuzz run --impl module:my_kernels` tests what `implementation` names.

Every function here is a stage of the indexer and calls the reference, so nothing is found yet. Put your own kernel in
its place, and delete the stages that you do not have: the reference fills them in. All arguments come by name.
"""

from torch import Tensor

from indexfuzz import Clauses, Implementation, as_callers_do
from indexfuzz.reference import cache as reference_cache
from indexfuzz.reference import gather as reference_gather
from indexfuzz.reference import indexer as reference_indexer
from indexfuzz.reference import mqa_logits as reference_mqa_logits
from indexfuzz.reference import paged_mqa_logits as reference_paged_mqa_logits
from indexfuzz.reference import quant as reference_quant
from indexfuzz.reference import rope as reference_rope


def rope(
    q: Tensor,
    k: Tensor,
    positions: Tensor,
    cos_sin_cache: Tensor,
    *,
    rope_dim: int,
    style: str,
    placement: str,
    mode: str,
) -> tuple[Tensor, Tensor]:
    """Rotate rope_dim dims of q [T,H,D] and k [T,D] bf16, the first or last: returns both.

    A row of cos_sin_cache is rope_dim/2 cosines, then as many sines. With mode "inplace" q and k are changed, too.
    """
    rotated = reference_rope.rope(
        q, k, positions, cos_sin_cache, rope_dim=rope_dim, style=style, placement=placement, mode=mode
    )
    if mode != "inplace":
        return rotated
    return q.copy_(rotated[0]), k.copy_(rotated[1])


def q_quant(q: Tensor, weights: Tensor, *, scale_fmt: str, fp8: str) -> tuple[Tensor, Tensor]:
    """Quantise q [T,H,D] bf16: returns q_fp8 [T,H,D], and weights [T,H] fp32 times scales, D^-0.5 and H^-0.5."""
    return reference_quant.q_quant(q, weights, scale_fmt=scale_fmt, fp8=fp8)


def k_quant_cache(
    k: Tensor, cache: Tensor, slot_mapping: Tensor, *, scale_fmt: str, fp8: str, quant_group: int, layout: str
) -> None:
    """Quantise k [T,D] bf16 and insert it into cache uint8 [num_blocks, block_size, D+4].

    A page is block_size * D value bytes, then block_size fp32 scales. slot_mapping [<=T]: negative is padding.
    """
    reference_cache.k_quant_cache(
        k, cache, slot_mapping, scale_fmt=scale_fmt, fp8=fp8, quant_group=quant_group, layout=layout
    )


def gather(
    cache: Tensor,
    block_table: Tensor,
    cu_seqlens: Tensor,
    token_to_seq: Tensor,
    k_fp8: Tensor,
    k_scale: Tensor,
    *,
    quant_group: int,
    layout: str,
) -> None:
    """Fill k_fp8 [N,D] and k_scale [N] fp32 from the cache by block_table [B, max_blocks] and cu_seqlens [B+1]."""
    reference_gather.gather(
        cache, block_table, cu_seqlens, token_to_seq, k_fp8, k_scale, quant_group=quant_group, layout=layout
    )


def prefill_logits(
    q_fp8: Tensor, k_fp8: Tensor, k_scale: Tensor, weights: Tensor, ks: Tensor, ke: Tensor, logits: Tensor
) -> None:
    """Fill logits [M,N] fp32 in the columns ks <= n < ke of each row, -inf elsewhere."""
    reference_mqa_logits.mqa_logits(q_fp8, k_fp8, k_scale, weights, ks, ke, logits)


def paged_logits(
    q_fp8: Tensor,
    cache: Tensor,
    weights: Tensor,
    context_lens: Tensor,
    block_table: Tensor,
    logits: Tensor,
    *,
    layout: str,
) -> None:
    """Fill logits [B*next_n, max_model_len] fp32 from q_fp8 [B,next_n,H,D], -inf beyond each row's context."""
    reference_paged_mqa_logits.paged_mqa_logits(q_fp8, cache, weights, context_lens, block_table, logits, layout=layout)


def topk(logits: Tensor, *, index_topk: int) -> Tensor:
    """Return the columns of the index_topk largest logits [rows, columns] fp32 of each row as int32, -1 where none."""
    return reference_indexer.topk(logits, index_topk=index_topk)


# What you promise, and where a reader finds it. Other cases are left alone, or, with --beyond-contract, probed.
CONTRACT = Clauses((*as_callers_do("my_project/ops.py"),))

implementation = Implementation(
    "my_kernels 0.1",
    {
        "rope": rope,
        "q_quant": q_quant,
        "k_quant_cache": k_quant_cache,
        "gather": gather,
        "prefill_logits": prefill_logits,
        "paged_logits": paged_logits,
        "topk": topk,
    },
    CONTRACT,
)
