"""Prefill logits: every query row scores the gathered keys of its own window."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from indexfuzz.kernels.checks import require, require_head_dim, require_tensor
from indexfuzz.kernels.nibbles import decode_pairs
from indexfuzz.kernels.quant import FP8
from indexfuzz.kernels.scales import SCALE_DTYPES, dequantise_groups

KEYS = 64
"""Keys of one step of a program: the M of the matrix instruction."""

LANES = 256
"""(row, head) pairs of one program: the N of the matrix instruction, as wide as it gets."""

MIN_LANES = 16
"""The smallest N of the matrix instruction that every target has."""

MAX_HEADS = 128

STAGES = 5
"""Steps whose keys are on their way while one is computed."""

PROGRAMS = 1024
"""Enough programs for every multiprocessor: with fewer rows, several share the keys of a row."""

MIN_STEPS = 4
"""Steps of a program, so that it pays to keep q."""

HIDDEN = 1024
"""Keys of one store of -inf."""


@triton.jit
def _fill_hidden(logits_ptrs, is_valid_row, first, end, HIDDEN: tl.constexpr):
    """Store -inf at keys ``first`` to ``end`` of the rows that start at ``logits_ptrs`` [rows]."""
    for start in range(first, end, HIDDEN):
        key = start + tl.arange(0, HIDDEN)
        mask = is_valid_row[:, None] & (key < end)[None, :]
        tl.store(logits_ptrs[:, None] + key[None, :], float("-inf"), mask=mask)


@triton.jit(do_not_specialize=["num_rows"])
def _mqa_logits_kernel(
    q_ptr,  # [M, NUM_HEADS, HEAD_DIM] fp8
    q_row_stride,
    q_head_stride,
    k_ptr,  # [N, KEY_BYTES] fp8, or uint8 of two E2M1 each
    k_row_stride,
    k_scale_ptr,  # [N] fp32, or int32 of four exponents
    weights_ptr,  # [M, NUM_HEADS] fp32
    weights_row_stride,
    weights_head_stride,
    ks_ptr,  # [M] int32
    ke_ptr,  # [M] int32
    logits_ptr,  # [M, N] fp32
    logits_row_stride,
    num_rows,  # M
    num_keys,  # N
    keys_per_program,
    NUM_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    KEY_BYTES: tl.constexpr,
    ROWS: tl.constexpr,
    HEADS: tl.constexpr,  # NUM_HEADS, padded to a power of two
    KEYS: tl.constexpr,
    STAGES: tl.constexpr,
    HIDDEN: tl.constexpr,
    PACKED: tl.constexpr,  # scales are exponents
):
    # Later rows see more keys, so they start first: the short programs fill the gaps at the end.
    first_row = (tl.num_programs(0) - 1 - tl.program_id(0)) * ROWS
    row = first_row + tl.arange(0, ROWS)
    is_valid_row = row < num_rows
    first_key = tl.program_id(1) * keys_per_program
    end_key = tl.minimum(first_key + keys_per_program, num_keys)
    window_start = tl.maximum(tl.load(ks_ptr + row, mask=is_valid_row, other=0), first_key)
    window_end = tl.minimum(tl.load(ke_ptr + row, mask=is_valid_row, other=0), end_key)
    is_empty = window_start >= window_end
    first_seen = tl.min(tl.where(is_empty, end_key, window_start), axis=0)
    end_seen = tl.maximum(tl.max(tl.where(is_empty, first_key, window_end), axis=0), first_seen)
    logits_row = row.to(tl.int64) * logits_row_stride

    # The heads of all rows stand side by side, so that even one head fills the matrix unit and all rows share k.
    lane = tl.arange(0, ROWS * HEADS)
    lane_row, head = (first_row + lane // HEADS).to(tl.int64), lane % HEADS
    is_valid_lane = (lane_row < num_rows) & (head < NUM_HEADS)
    dim, byte = tl.arange(0, HEAD_DIM), tl.arange(0, KEY_BYTES)
    q_at = (lane_row * q_row_stride + head * q_head_stride)[:, None] + dim[None, :]
    q = tl.load(q_ptr + q_at, mask=is_valid_lane[:, None], other=0.0)
    weights_at = lane_row * weights_row_stride + head * weights_head_stride
    weights = tl.load(weights_ptr + weights_at, mask=is_valid_lane, other=0.0)

    _fill_hidden(logits_ptr + logits_row, is_valid_row, first_key, first_seen, HIDDEN)
    for start in tl.range(first_seen, end_seen, KEYS, num_stages=STAGES):
        key = start + tl.arange(0, KEYS)
        is_valid_key = key < end_seen
        k_at = (key.to(tl.int64) * k_row_stride)[:, None] + byte[None, :]
        k = tl.load(k_ptr + k_at, mask=is_valid_key[:, None], other=0.0)
        k_scale = tl.load(k_scale_ptr + key, mask=is_valid_key, other=0.0)

        if KEY_BYTES < HEAD_DIM:
            k = decode_pairs(k)
        if PACKED:
            scores = tl.dot(dequantise_groups(k, k_scale), tl.trans(q).to(tl.bfloat16))
            k_scale = tl.full([KEYS], 1.0, tl.float32)
        else:
            scores = tl.dot(k, tl.trans(q))
        weighted = tl.maximum(scores, 0.0) * weights[None, :]
        summed = tl.sum(tl.reshape(weighted, [KEYS, ROWS, HEADS]), axis=2)
        is_visible = (key[:, None] >= window_start[None, :]) & (key[:, None] < window_end[None, :])
        logits = tl.where(is_visible, summed * k_scale[:, None], float("-inf"))
        logits_at = logits_row[None, :] + key[:, None]
        tl.store(logits_ptr + logits_at, logits, mask=is_valid_row[None, :] & is_valid_key[:, None])
    _fill_hidden(logits_ptr + logits_row, is_valid_row, end_seen, end_key, HIDDEN)


def mqa_logits(
    q_fp8: Tensor,
    k_fp8: Tensor,
    k_scale: Tensor,
    weights: Tensor,
    ks: Tensor,
    ke: Tensor,
    logits: Tensor,
) -> None:
    """Fill logits [M, N] fp32: k_scale[n] * sum_h weights[m, h] * relu(q[m, h] . k[n]), -inf outside the row's window.

    Row m sees ks[m] <= n < ke[m]; ke <= ks is an empty window, ke > N ends at N. Of the keys, those
    from the first to the last that one of a few neighbouring rows sees are read.

    q_fp8 [M, H, D] and k_fp8 [N, D] of one FP8 format, k_scale [N] and weights [M, H] fp32, ks and ke [M] int32 or
    int64. H is 1 to 128; rows may be strided, and heads of weights too. An int32 k_scale [N] has the packed exponents
    of kernels/scales.py: the quarters of a key have scales of their own. Keys may then be in MXFP4, k_fp8 uint8
    [N, D / 2]. Raises ValueError outside this contract.
    """
    require_tensor("q_fp8", q_fp8, (None, None, None), *FP8)
    num_rows, num_heads, head_dim = q_fp8.shape
    require_head_dim(head_dim)
    require(1 <= num_heads <= MAX_HEADS, "num_heads must be 1 to {}, got {}", MAX_HEADS, num_heads)
    is_fp4 = k_fp8.dtype == torch.uint8
    key_bytes = head_dim // 2 if is_fp4 else head_dim
    require_tensor("k_fp8", k_fp8, (None, key_bytes), torch.uint8 if is_fp4 else q_fp8.dtype)
    num_keys = k_fp8.shape[0]
    require_tensor("k_scale", k_scale, (num_keys,), *((torch.int32,) if is_fp4 else SCALE_DTYPES.values()))
    require_tensor("weights", weights, (num_rows, num_heads), torch.float32, dense=False)
    require_tensor("ks", ks, (num_rows,), torch.int32, torch.int64)
    require_tensor("ke", ke, (num_rows,), torch.int32, torch.int64)
    require_tensor("logits", logits, (num_rows, num_keys), torch.float32)

    if logits.numel() == 0:
        return
    heads = triton.next_power_of_2(num_heads)
    rows = min(LANES // heads, max(MIN_LANES // heads, triton.next_power_of_2(num_rows)))
    row_tiles = triton.cdiv(num_rows, rows)
    tiles = triton.cdiv(num_keys * row_tiles, KEYS * PROGRAMS)
    keys_per_program = KEYS * max(tiles, MIN_STEPS)
    _mqa_logits_kernel[(row_tiles, triton.cdiv(num_keys, keys_per_program))](
        q_fp8,
        q_fp8.stride(0),
        q_fp8.stride(1),
        k_fp8,
        k_fp8.stride(0),
        k_scale,
        weights,
        weights.stride(0),
        weights.stride(1),
        ks,
        ke,
        logits,
        logits.stride(0),
        num_rows,
        num_keys,
        keys_per_program,
        NUM_HEADS=num_heads,
        HEAD_DIM=head_dim,
        KEY_BYTES=key_bytes,
        ROWS=rows,
        HEADS=heads,
        KEYS=KEYS,
        STAGES=STAGES,
        HIDDEN=HIDDEN,
        PACKED=k_scale.dtype == torch.int32,
    )
