"""Keys that stand for several tokens, in one launch: pooled, rotated, quantised and inserted.

A key is rounded to bf16 wherever kernels of single steps would store it. Tokens are kept as by `pool`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from indexfuzz.kernels.checks import (
    require,
    require_cache,
    require_choice,
    require_head_dim,
    require_tensor,
)
from indexfuzz.kernels.groups import TOKENS, place_keys, require_rings, require_step
from indexfuzz.kernels.layout import resolve_layout, split_pages, value_offset
from indexfuzz.kernels.nibbles import to_bytes
from indexfuzz.kernels.pool import POOLINGS, pooled_key, save_kernel
from indexfuzz.kernels.quant import FP8_DTYPES, quantise_rows
from indexfuzz.kernels.scales import (
    SCALE_DTYPES,
    is_interleaved,
    quantise_groups,
    scale_groups,
    store_scales,
    stored_values,
)


@triton.jit
def _fused_pool_kernel(
    k_ptr,  # as pooled_key
    k_stride,
    scores_ptr,
    scores_stride,
    bias_ptr,
    query_start_ptr,
    context_lens_ptr,
    rings_ptr,
    tail_ptr,
    tail_ring_stride,
    block_table_ptr,  # [B, max_blocks] int32
    block_table_stride,
    values_ptr,  # [num_blocks, BLOCK_SIZE * KEY_BYTES] fp8, or uint8 of two E2M1 each
    values_page_stride,
    scales_ptr,  # [num_blocks, BLOCK_SIZE] fp32, or int32 of four exponents
    scales_page_stride,
    RATIO: tl.constexpr,
    ROWS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    LOG_DIM: tl.constexpr,
    POOLING: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    SHUFFLE: tl.constexpr,
    QUANT_MAX: tl.constexpr,
    KEY_BYTES: tl.constexpr,
    GROUPS: tl.constexpr,  # that have exponents of their own; 0 for an fp32 scale
    INTERLEAVED: tl.constexpr,  # exponents of a tile of tokens
):
    key, _, end, is_due = pooled_key(
        k_ptr,
        k_stride,
        scores_ptr,
        scores_stride,
        bias_ptr,
        query_start_ptr,
        context_lens_ptr,
        rings_ptr,
        tail_ptr,
        tail_ring_stride,
        RATIO,
        ROWS,
        HEAD_DIM,
        LOG_DIM,
        POOLING,
    )
    key = key.to(tl.bfloat16).to(tl.float32)
    if GROUPS:
        values, scale = quantise_groups(key[None, :], QUANT_MAX, GROUPS)
    else:
        values, scale = quantise_rows(key[None, :], QUANT_MAX, UE8M0=True)

    number = end // RATIO - 1
    page_at = block_table_ptr + tl.program_id(0).to(tl.int64) * block_table_stride + number // BLOCK_SIZE
    page = tl.load(page_at, mask=is_due, other=0).to(tl.int64)
    byte = tl.arange(0, KEY_BYTES)
    value_at = page * values_page_stride + value_offset(number % BLOCK_SIZE, byte, KEY_BYTES, SHUFFLE)
    values = tl.reshape(to_bytes(values, values_ptr.dtype.element_ty), [KEY_BYTES])
    tl.store(values_ptr + value_at, values, mask=is_due & (byte < KEY_BYTES))
    page_scales_ptr = scales_ptr + page * scales_page_stride
    store_scales(page_scales_ptr[None], (number % BLOCK_SIZE)[None], scale, is_due[None], INTERLEAVED)


def fused_pool(
    k: Tensor,
    scores: Tensor,
    bias: Tensor,
    query_start: Tensor,
    context_lens: Tensor,
    rings: Tensor,
    block_table: Tensor,
    state: Tensor,
    cache: Tensor,
    slot_mapping: Tensor,
    visible: Tensor,
    *,
    ratio: int,
    pooling: str,
    scale_fmt: str,
    fp8: str,
    quant_group: int,
    layout: str,
    scales: str = "fp32",
) -> None:
    """Make the keys that are due and insert them into the cache; say where they are and how many each token sees.

    Keys are made, and tokens kept in the rings of state, as by `pool`; in bf16 they are inserted as by `k_quant_cache`,
    with the same options; scale_fmt is "ue8m0". slot_mapping and visible are filled as by `pool`. Raises ValueError
    outside this contract.
    """
    require_choice("pooling", pooling, POOLINGS)
    require_choice("scale_fmt", scale_fmt, ("ue8m0",))
    require_choice("fp8", fp8, tuple(FP8_DTYPES))
    require_tensor("k", k, (slot_mapping.shape[0], None), torch.bfloat16)
    num_tokens, head_dim = k.shape
    require_head_dim(head_dim)
    groups = scale_groups(scales, quant_group, head_dim)
    stored = stored_values(scales, head_dim, FP8_DTYPES[fp8])
    require_step(query_start, context_lens, rings, block_table, slot_mapping, visible, ratio)
    num_requests = context_lens.shape[0]
    require_tensor("scores", scores, (num_tokens, head_dim), torch.bfloat16)
    require_tensor("bias", bias, (ratio, head_dim), torch.float32)
    require(bias.is_contiguous(), f"bias must be dense, got strides {bias.stride()}")
    require_cache(cache, stored.key_bytes)
    block_size = cache.shape[1]
    interleaved = is_interleaved(layout, scales)
    layout = resolve_layout(layout, block_size, stored.key_bytes)
    require_rings(state, 2, head_dim, ratio - 1, "the tokens of a group but its last", torch.bfloat16)
    num_rows = state.shape[1]

    if num_tokens == 0:
        return
    tokens = (k, k.stride(0), scores, scores.stride(0))
    requests = (query_start, context_lens, rings, state, state.stride(0))
    page_values, page_scales = split_pages(cache, stored.dtype, SCALE_DTYPES[scales])
    if num_requests:
        _fused_pool_kernel[(num_requests, num_tokens // ratio + 1)](
            *tokens,
            bias,
            *requests,
            block_table,
            block_table.stride(0),
            page_values,
            page_values.stride(0),
            page_scales,
            page_scales.stride(0),
            RATIO=ratio,
            ROWS=num_rows,
            HEAD_DIM=head_dim,
            LOG_DIM=head_dim.bit_length() - 1,
            POOLING=pooling,
            BLOCK_SIZE=block_size,
            SHUFFLE=layout == "shuffle",
            QUANT_MAX=stored.largest,
            KEY_BYTES=stored.key_bytes,
            GROUPS=groups,
            INTERLEAVED=interleaved,
        )
        save_kernel[(num_requests, triton.cdiv(num_tokens, TOKENS))](
            *tokens, *requests, ROWS=num_rows, HEAD_DIM=head_dim, POOLING=pooling, TOKENS=TOKENS
        )
    place_keys(query_start, context_lens, block_table, slot_mapping, visible, ratio=ratio, block_size=block_size)
