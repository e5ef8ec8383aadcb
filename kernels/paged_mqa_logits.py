"""Decode logits: every query row scores its sequence's keys where they lie, in the paged cache."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from indexfuzz.kernels.checks import require, require_cache, require_choice, require_head_dim, require_tensor
from indexfuzz.kernels.layout import in_token_order, page_parts, resolve_layout, start_of_band
from indexfuzz.kernels.nibbles import decode_pairs
from indexfuzz.kernels.quant import FP8
from indexfuzz.kernels.scales import SCALES, dequantise_groups, is_interleaved, load_exponents
from indexfuzz.kernels.sizes import cdiv, next_power_of_2

KEYS = 64
"""Positions of one step of a program: the M of the matrix instruction."""

LANES = 256
"""(row, head) pairs of one program: the N of the matrix instruction, as wide as it gets."""

MIN_LANES = 16
"""The smallest N of the matrix instruction that every target has."""

MAX_HEADS = 128

STAGES = 5
"""Steps whose keys are on their way while one is computed."""

PROGRAMS = 4096
"""Programs of one row each: enough for every multiprocessor, however lengths differ. More rows have fewer to keep q."""

HIDDEN = 256
"""Positions of one store of -inf."""


@triton.jit
def _window_length(
    context_lens_ptr,  # [next_n] int32 of one sequence, or one int32 for all its rows
    row_stride,
    row,
    next_n,
    max_model_len,
    IS_LENGTH_PER_ROW: tl.constexpr,
):
    """How many positions each query row of a sequence sees, 0 to max_model_len, and 0 for a row beyond next_n."""
    length = tl.load(context_lens_ptr + row * row_stride, mask=row < next_n, other=0)
    if not IS_LENGTH_PER_ROW:
        # The sequence's length includes its next_n newest tokens, of which a row sees its own and the earlier ones.
        length = tl.where(row < next_n, length - next_n + row + 1, 0)
    return tl.minimum(tl.maximum(length, 0), max_model_len)


@triton.jit(do_not_specialize=["num_blocks", "max_blocks", "next_n"])
def _paged_mqa_logits_kernel(
    q_ptr,  # [B, next_n, NUM_HEADS, HEAD_DIM] fp8
    q_seq_stride,
    q_row_stride,
    q_head_stride,
    cache_ptr,  # pages of BLOCK_SIZE * KEY_BYTES fp8 or pairs, then BLOCK_SIZE scales: fp32, or int32 of four exponents
    page_stride,  # in bytes
    num_blocks,
    weights_ptr,  # [B * next_n, NUM_HEADS] fp32
    weights_row_stride,
    weights_head_stride,
    context_lens_ptr,  # [B] or [B, next_n] int32
    context_lens_seq_stride,
    context_lens_row_stride,  # 0 for [B]
    block_table_ptr,  # [B, max_blocks] int32
    block_table_row_stride,
    max_blocks,
    logits_ptr,  # [B * next_n, max_model_len] fp32
    logits_row_stride,
    next_n,
    max_model_len,
    keys_per_program,
    IS_LENGTH_PER_ROW: tl.constexpr,
    NUM_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    KEY_BYTES: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    SHUFFLE: tl.constexpr,
    ROWS: tl.constexpr,
    HEADS: tl.constexpr,  # NUM_HEADS, padded to a power of two
    PACKED: tl.constexpr,  # scales are exponents
    INTERLEAVED: tl.constexpr,  # exponents of a tile of tokens
    KEYS: tl.constexpr = KEYS,
    STAGES: tl.constexpr = STAGES,
    HIDDEN: tl.constexpr = HIDDEN,
):
    values_dtype: tl.constexpr = tl.uint8 if KEY_BYTES < HEAD_DIM else q_ptr.dtype.element_ty
    values_ptr, scales_ptr = page_parts(cache_ptr, BLOCK_SIZE * KEY_BYTES, values_dtype, PACKED)
    scales_page_stride = page_stride // 4
    seq = tl.program_id(0).to(tl.int64)
    first_key = tl.program_id(1) * keys_per_program
    end_key = tl.minimum(first_key + keys_per_program, max_model_len)
    row = tl.program_id(2) * ROWS + tl.arange(0, ROWS)
    is_valid_row = row < next_n
    lens_ptr = context_lens_ptr + seq * context_lens_seq_stride
    length = _window_length(lens_ptr, context_lens_row_stride, row, next_n, max_model_len, IS_LENGTH_PER_ROW)
    end_seen = tl.maximum(tl.minimum(tl.max(length, axis=0), end_key), first_key)
    logits_row = (seq * next_n + row) * logits_row_stride

    # First, so that nothing of it occupies registers while keys are scored.
    for start in range(end_seen, end_key, HIDDEN):
        position = start + tl.arange(0, HIDDEN)
        is_hidden = is_valid_row[:, None] & (position < end_key)[None, :]
        tl.store(logits_ptr + logits_row[:, None] + position[None, :], float("-inf"), mask=is_hidden)

    if first_key < end_seen:
        # The heads of all rows stand side by side, so that all rows share one tile of keys.
        lane = tl.arange(0, ROWS * HEADS)
        lane_row, head = (tl.program_id(2) * ROWS + lane // HEADS).to(tl.int64), lane % HEADS
        is_valid_lane = (lane_row < next_n) & (head < NUM_HEADS)
        dim, byte = tl.arange(0, HEAD_DIM), tl.arange(0, KEY_BYTES)
        q_at = (seq * q_seq_stride + lane_row * q_row_stride + head * q_head_stride)[:, None] + dim[None, :]
        q = tl.load(q_ptr + q_at, mask=is_valid_lane[:, None], other=0.0)
        weights_at = (seq * next_n + lane_row) * weights_row_stride + head * weights_head_stride
        weights = tl.load(weights_ptr + weights_at, mask=is_valid_lane, other=0.0)

        for start in tl.range(first_key, end_seen, KEYS, num_stages=STAGES):
            position = start + tl.arange(0, KEYS)
            is_seen = position < end_seen
            # SHUFFLE pages are read as they lie, in whole bands of tokens, and put in order afterwards.
            is_read = (start_of_band(position) if SHUFFLE else position) < end_seen
            if BLOCK_SIZE % KEYS == 0:
                column = tl.broadcast_to(start // BLOCK_SIZE, [1])  # One page holds the whole tile.
                is_in_table = column < max_blocks
            else:
                column = position // BLOCK_SIZE
                is_in_table = is_read & (column < max_blocks)
            table_at = seq * block_table_row_stride + column
            block = tl.load(block_table_ptr + table_at, mask=is_in_table, other=-1).to(tl.int64)
            is_page = (block >= 0) & (block < num_blocks)

            offset = position % BLOCK_SIZE
            value_at = (block * page_stride)[:, None] + offset[:, None] * KEY_BYTES + byte[None, :]
            k = tl.load(values_ptr + value_at, mask=(is_read & is_page)[:, None], other=0.0)
            if SHUFFLE:
                k = in_token_order(k)
            is_cached = is_seen & is_page
            if INTERLEAVED:
                page_ptr = scales_ptr + tl.broadcast_to(block * scales_page_stride, [KEYS])
                k_scale = load_exponents(page_ptr, offset, is_cached)
            else:
                k_scale = tl.load(scales_ptr + block * scales_page_stride + offset, mask=is_cached, other=0.0)

            if KEY_BYTES < HEAD_DIM:
                k = decode_pairs(k)
            if PACKED:
                scores = tl.dot(dequantise_groups(k, k_scale), tl.trans(q).to(tl.bfloat16))
                k_scale = tl.full([KEYS], 1.0, tl.float32)
            else:
                scores = tl.dot(k, tl.trans(q))
            weighted = tl.maximum(scores, 0.0) * weights[None, :]
            summed = tl.sum(tl.reshape(weighted, [KEYS, ROWS, HEADS]), axis=2)
            is_visible = is_cached[:, None] & (position[:, None] < length[None, :])
            logits = tl.where(is_visible, summed * k_scale[:, None], float("-inf"))
            logits_at = logits_row[None, :] + position[:, None]
            tl.store(logits_ptr + logits_at, logits, mask=is_valid_row[None, :] & is_seen[:, None])


def paged_mqa_logits(
    q_fp8: Tensor,
    cache: Tensor,
    weights: Tensor,
    context_lens: Tensor,
    block_table: Tensor,
    logits: Tensor,
    *,
    layout: str,
    scales: str = "fp32",
) -> None:
    """Fill logits [B * next_n, max_model_len] fp32: s[p] * sum_h weights[b, j, h] * relu(q[b, j, h] . k[p]), else -inf.

    k[p] and its scale s[p] are position p of sequence b: slot p % block_size of page block_table[b, p // block_size].
    Row (b, j) sees p < context_lens[b] - next_n + j + 1, or p < context_lens[b, j], clamped to [0, max_model_len], but
    no position whose page id is outside [0, num_blocks).

    q_fp8 [B, next_n, H, D] fp8 with H 1 to 128, cache uint8 [num_blocks, block_size, D + 4], weights [B * next_n, H]
    fp32, context_lens [B] or [B, next_n] and block_table [B, max_blocks] int32 or int64; rows may be strided, and heads
    of weights too. What no row of a sequence sees, in the cache or the block table, changes nothing. With scales
    "ue8m0" the quarters of a key have scales of their own, whose exponents are packed (kernels/scales.py); with "mxfp4"
    the cache is uint8 [num_blocks, block_size, D/2 + 4] and has E2M1 values beside such scales. Raises ValueError
    outside this contract.
    """
    require_tensor("q_fp8", q_fp8, (None, None, None, None), *FP8)
    batch, next_n, num_heads, head_dim = q_fp8.shape
    require_head_dim(head_dim)
    require(1 <= num_heads <= MAX_HEADS, "num_heads must be 1 to {}, got {}", MAX_HEADS, num_heads)
    require_choice("scales", scales, SCALES)
    key_bytes = head_dim // 2 if scales == "mxfp4" else head_dim
    require_cache(cache, key_bytes)
    num_blocks, block_size, _ = cache.shape
    interleaved = is_interleaved(layout, scales)
    layout = resolve_layout(layout, block_size, key_bytes)
    require_tensor("weights", weights, (batch * next_n, num_heads), torch.float32, dense=False)
    is_length_per_row = context_lens.dim() == 2
    lens_shape = (batch, next_n) if is_length_per_row else (batch,)
    require(
        context_lens.shape == lens_shape and context_lens.dtype in (torch.int32, torch.int64),
        "context_lens must be int32 or int64 [{0}] or [{0}, {1}], got {2.dtype} {2.shape}",
        batch,
        next_n,
        context_lens,
    )
    require_tensor("block_table", block_table, (batch, None), torch.int32, torch.int64)
    require_tensor("logits", logits, (batch * next_n, None), torch.float32)
    max_model_len = logits.shape[1]

    if logits.numel() == 0:
        return
    heads = next_power_of_2(num_heads)
    rows = min(LANES // heads, max(MIN_LANES // heads, next_power_of_2(next_n)))
    row_tiles = cdiv(next_n, rows)
    keys_per_program = KEYS * cdiv(max_model_len * batch * next_n, KEYS * PROGRAMS)
    q_seq_stride, q_row_stride, q_head_stride, _ = q_fp8.stride()
    _paged_mqa_logits_kernel[(batch, cdiv(max_model_len, keys_per_program), row_tiles)](
        q_fp8,
        q_seq_stride,
        q_row_stride,
        q_head_stride,
        cache,
        cache.stride(0),
        num_blocks,
        weights,
        weights.stride(0),
        weights.stride(1),
        context_lens,
        context_lens.stride(0),
        context_lens.stride(1) if is_length_per_row else 0,
        block_table,
        block_table.stride(0),
        block_table.shape[1],
        logits,
        logits.stride(0),
        next_n,
        max_model_len,
        keys_per_program,
        # Constants by their places: by name they take Triton 2 us more to bind.
        is_length_per_row,
        num_heads,
        head_dim,
        key_bytes,
        block_size,
        layout == "shuffle",
        rows,
        heads,
        scales != "fp32",
        interleaved,
    )
