"""Keys that stand for one token or several and are normed, in one launch, for whatever comes before the cache.

DeepSeek-V4.1 makes the keys of its indexer from such keys by a linear layer; its attention caches them as well.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from indexfuzz.kernels.checks import require, require_tensor
from indexfuzz.kernels.compress import require_tokens, save_kernel, weighted_key
from indexfuzz.kernels.groups import TOKENS, place_keys, require_keys, require_rings, require_step


@triton.jit
def _compress_norm_kernel(
    kv_ptr,  # as weighted_key
    kv_stride,
    scores_ptr,
    scores_stride,
    bias_ptr,
    query_start_ptr,
    context_lens_ptr,
    rings_ptr,
    state_ptr,
    state_ring_stride,
    norm_weight_ptr,  # [HEAD_DIM] fp32 or bf16
    eps,
    keys_ptr,  # [T, HEAD_DIM] bf16
    keys_stride,
    RATIO: tl.constexpr,
    ROWS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
):
    key, last_token, _, is_due = weighted_key(
        kv_ptr,
        kv_stride,
        scores_ptr,
        scores_stride,
        bias_ptr,
        query_start_ptr,
        context_lens_ptr,
        rings_ptr,
        state_ptr,
        state_ring_stride,
        RATIO,
        RATIO,
        ROWS,
        HEAD_DIM,
        HEAD_DIM,
    )
    dim = tl.arange(0, HEAD_DIM)
    key = key.to(tl.bfloat16).to(tl.float32)
    factor = tl.rsqrt(tl.sum(key * key, axis=0) / HEAD_DIM + eps)
    normed = key * factor * tl.load(norm_weight_ptr + dim).to(tl.float32)
    tl.store(keys_ptr + last_token * keys_stride + dim, normed.to(tl.bfloat16), mask=is_due & (dim < HEAD_DIM))


def compress_norm(
    kv: Tensor,
    scores: Tensor,
    bias: Tensor,
    norm_weight: Tensor,
    query_start: Tensor,
    context_lens: Tensor,
    rings: Tensor,
    block_table: Tensor,
    state: Tensor,
    keys: Tensor,
    slot_mapping: Tensor,
    visible: Tensor,
    *,
    ratio: int,
    eps: float,
    block_size: int,
) -> None:
    """Make the keys that are due and norm them, say where they go and how many each token sees, and keep tokens.

    All is as with `compress` without overlap, but that a key x [D], rounded to bf16, becomes x * rsqrt(mean(x^2) + eps)
    * norm_weight, in bf16 again, with norm_weight [D] fp32 or bf16. With a ratio of 1 every token is a key by itself.
    Raises ValueError outside this contract.
    """
    require_step(query_start, context_lens, rings, block_table, slot_mapping, visible, ratio, least_ratio=1)
    num_tokens, head_dim = require_keys(keys, slot_mapping)
    num_requests = context_lens.shape[0]
    require_tokens(kv, scores, bias, num_tokens, ratio, head_dim)
    require_tensor("norm_weight", norm_weight, (head_dim,), torch.float32, torch.bfloat16)
    require(eps > 0, f"eps must be positive, got {eps}")
    require_rings(state, 2, head_dim, ratio, "the tokens of a group", torch.float32)
    num_rows = state.shape[1]

    if num_tokens == 0:
        return
    tokens = (kv, kv.stride(0), scores, scores.stride(0), bias, query_start, context_lens, rings)
    if num_requests:
        _compress_norm_kernel[(num_requests, num_tokens // ratio + 1)](
            *tokens,
            state,
            state.stride(0),
            norm_weight,
            eps,
            keys,
            keys.stride(0),
            RATIO=ratio,
            ROWS=num_rows,
            HEAD_DIM=head_dim,
        )
        save_kernel[(num_requests, triton.cdiv(num_tokens, TOKENS))](
            *tokens, state, state.stride(0), RATIO=ratio, ROWS=num_rows, WIDTH=head_dim, TOKENS=TOKENS
        )
    place_keys(query_start, context_lens, block_table, slot_mapping, visible, ratio=ratio, block_size=block_size)
