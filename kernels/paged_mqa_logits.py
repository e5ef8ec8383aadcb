"""Decode logits: every query row scores its sequence's keys where they lie, in the paged cache."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from indexfuzz.kernels.checks import require, require_cache, require_head_dim, require_tensor
from indexfuzz.kernels.layout import resolve_layout, split_pages, value_offset
from indexfuzz.kernels.quant import FP8_DTYPES

KEYS = 64
"""Positions of one program: the M of the matrix instruction."""

MIN_HEADS = 16
"""Smallest N of the matrix instruction."""

MAX_HEADS = 128


@triton.jit
def _window_length(
    context_lens_ptr,  # [NEXT_N] int32 of one sequence, or one int32 for all its rows
    row_stride,
    row,
    max_model_len,
    NEXT_N: tl.constexpr,
    IS_LENGTH_PER_ROW: tl.constexpr,
):
    """How many positions query row ``row`` of a sequence sees, 0 to max_model_len."""
    length = tl.load(context_lens_ptr + row * row_stride)
    if not IS_LENGTH_PER_ROW:
        # The sequence's length includes its NEXT_N newest tokens, of which a row sees its own and the earlier ones.
        length = length - NEXT_N + row + 1
    return tl.minimum(tl.maximum(length, 0), max_model_len)


@triton.jit
def _paged_mqa_logits_kernel(
    q_ptr,  # [B, NEXT_N, NUM_HEADS, HEAD_DIM] fp8
    q_seq_stride,
    q_row_stride,
    q_head_stride,
    values_ptr,  # [num_blocks, BLOCK_SIZE * HEAD_DIM] fp8
    values_page_stride,
    scales_ptr,  # [num_blocks, BLOCK_SIZE] fp32
    scales_page_stride,
    num_blocks,
    weights_ptr,  # [B * NEXT_N, NUM_HEADS] fp32
    weights_row_stride,
    context_lens_ptr,  # [B] or [B, NEXT_N] int32
    context_lens_seq_stride,
    context_lens_row_stride,  # 0 for [B]
    block_table_ptr,  # [B, max_blocks] int32
    block_table_row_stride,
    max_blocks,
    logits_ptr,  # [B * NEXT_N, max_model_len] fp32
    logits_row_stride,
    max_model_len,
    NEXT_N: tl.constexpr,
    IS_LENGTH_PER_ROW: tl.constexpr,
    NUM_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    SHUFFLE: tl.constexpr,
    HEADS: tl.constexpr,  # NUM_HEADS, padded to a power of two
    KEYS: tl.constexpr,
):
    seq = tl.program_id(0).to(tl.int64)
    position = tl.program_id(1) * KEYS + tl.arange(0, KEYS)
    is_valid_position = position < max_model_len
    lens_ptr = context_lens_ptr + seq * context_lens_seq_stride

    longest = 0
    for row in range(NEXT_N):
        length = _window_length(lens_ptr, context_lens_row_stride, row, max_model_len, NEXT_N, IS_LENGTH_PER_ROW)
        longest = tl.maximum(longest, length)

    if tl.program_id(1) * KEYS < longest:
        column = position // BLOCK_SIZE
        is_in_table = (position < longest) & (column < max_blocks)
        table_at = seq * block_table_row_stride + column
        block = tl.load(block_table_ptr + table_at, mask=is_in_table, other=-1).to(tl.int64)
        is_cached = (block >= 0) & (block < num_blocks)

        # One tile of keys for all rows of the sequence.
        offset = position % BLOCK_SIZE
        dim = tl.arange(0, HEAD_DIM)
        value_at = (block * values_page_stride)[:, None] + value_offset(
            offset[:, None], dim[None, :], HEAD_DIM, SHUFFLE
        )
        k = tl.load(values_ptr + value_at, mask=is_cached[:, None], other=0.0)
        k_scale = tl.load(scales_ptr + block * scales_page_stride + offset, mask=is_cached, other=0.0)

        head = tl.arange(0, HEADS)
        is_valid_head = head < NUM_HEADS
        q_at = (seq * q_seq_stride + head * q_head_stride)[:, None] + dim[None, :]
        for row in range(NEXT_N):
            length = _window_length(lens_ptr, context_lens_row_stride, row, max_model_len, NEXT_N, IS_LENGTH_PER_ROW)
            is_visible = is_cached & (position < length)
            q_row = tl.cast(row, tl.int64) * q_row_stride
            q = tl.load(q_ptr + q_at + q_row, mask=is_valid_head[:, None], other=0.0)
            weights_at = (seq * NEXT_N + row) * weights_row_stride + head
            weights = tl.load(weights_ptr + weights_at, mask=is_valid_head, other=0.0)

            scores = tl.dot(k, tl.trans(q))
            summed = tl.sum(tl.maximum(scores, 0.0) * weights[None, :], axis=1)
            logits = tl.where(is_visible, summed * k_scale, float("-inf"))
            logits_at = (seq * NEXT_N + row) * logits_row_stride + position
            tl.store(logits_ptr + logits_at, logits, mask=is_valid_position)
    else:
        for row in range(NEXT_N):
            logits_at = (seq * NEXT_N + row) * logits_row_stride + position
            tl.store(logits_ptr + logits_at, float("-inf"), mask=is_valid_position)


def paged_mqa_logits(
    q_fp8: Tensor,
    cache: Tensor,
    weights: Tensor,
    context_lens: Tensor,
    block_table: Tensor,
    logits: Tensor,
    *,
    layout: str,
) -> None:
    """Fill logits [B * next_n, max_model_len] fp32: s[p] * sum_h weights[b, j, h] * relu(q[b, j, h] . k[p]), else -inf.

    k[p] and its scale s[p] are position p of sequence b: slot p % block_size of page block_table[b, p // block_size].
    Row (b, j) sees p < context_lens[b] - next_n + j + 1, or p < context_lens[b, j], clamped to [0, max_model_len], but
    no position whose page id is outside [0, num_blocks).

    q_fp8 [B, next_n, H, D] fp8 with H 1 to 128, cache uint8 [num_blocks, block_size, D + 4], weights [B * next_n, H]
    fp32, context_lens [B] or [B, next_n] int32, block_table [B, max_blocks] int32; rows may be strided. What no row of
    a sequence sees, in the cache or the block table, changes nothing. Raises ValueError outside this contract.
    """
    require_tensor("q_fp8", q_fp8, (None, None, None, None), *FP8_DTYPES.values())
    batch, next_n, num_heads, head_dim = q_fp8.shape
    require_head_dim(head_dim)
    require(1 <= num_heads <= MAX_HEADS, f"num_heads must be 1 to {MAX_HEADS}, got {num_heads}")
    require_cache(cache, head_dim)
    num_blocks, block_size, _ = cache.shape
    layout = resolve_layout(layout, block_size, head_dim)
    require_tensor("weights", weights, (batch * next_n, num_heads), torch.float32)
    is_length_per_row = context_lens.dim() == 2
    lens_shape = (batch, next_n) if is_length_per_row else (batch,)
    require(
        tuple(context_lens.shape) == lens_shape and context_lens.dtype == torch.int32,
        f"context_lens must be int32 [{batch}] or [{batch}, {next_n}], "
        f"got {context_lens.dtype} {list(context_lens.shape)}",
    )
    require_tensor("block_table", block_table, (batch, None), torch.int32)
    require_tensor("logits", logits, (batch * next_n, None), torch.float32)
    max_model_len = logits.shape[1]

    if logits.numel() == 0:
        return
    values, scales = split_pages(cache, q_fp8.dtype)
    _paged_mqa_logits_kernel[(batch, triton.cdiv(max_model_len, KEYS))](
        q_fp8,
        q_fp8.stride(0),
        q_fp8.stride(1),
        q_fp8.stride(2),
        values,
        values.stride(0),
        scales,
        scales.stride(0),
        num_blocks,
        weights,
        weights.stride(0),
        context_lens,
        context_lens.stride(0),
        context_lens.stride(1) if is_length_per_row else 0,
        block_table,
        block_table.stride(0),
        block_table.shape[1],
        logits,
        logits.stride(0),
        max_model_len,
        NEXT_N=next_n,
        IS_LENGTH_PER_ROW=is_length_per_row,
        NUM_HEADS=num_heads,
        HEAD_DIM=head_dim,
        BLOCK_SIZE=block_size,
        SHUFFLE=layout == "shuffle",
        HEADS=max(MIN_HEADS, triton.next_power_of_2(num_heads)),
        KEYS=KEYS,
    )
