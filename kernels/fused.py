"""Several steps in one launch: RoPE and quantisation of q; LayerNorm or RMSNorm, RoPE, quantisation and insertion of k.

A value is rounded to the dtype of q or k wherever the kernels of single steps would store it, so that an engine may
take either path.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from indexfuzz.kernels.checks import (
    ACTIVATIONS,
    require,
    require_cache,
    require_choice,
    require_head_dim,
    require_tensor,
)
from indexfuzz.kernels.layout import resolve_layout, split_pages, value_offset
from indexfuzz.kernels.nibbles import to_bytes
from indexfuzz.kernels.norm import mean_and_factor, require_affine
from indexfuzz.kernels.quant import FP8_DTYPES, QUANT_MAX, quantise_rows
from indexfuzz.kernels.rope import PLACEMENTS, STYLES
from indexfuzz.kernels.scales import (
    SCALE_DTYPES,
    is_interleaved,
    quantise_groups,
    scale_groups,
    store_scales,
    stored_values,
)

ROWS = 16
"""(token, head) rows of q, or tokens of k, of one program."""


@triton.jit
def pairing(dim, ROPE_START: tl.constexpr, ROPE_DIM: tl.constexpr, NEOX: tl.constexpr):
    """What RoPE makes of dims: whether it rotates one, its pair, whether it is the first of it, and its partner.

    A dim that is not rotated is its own partner.
    """
    within = dim - ROPE_START
    is_rotated = (within >= 0) & (within < ROPE_DIM)
    if NEOX:
        HALF: tl.constexpr = ROPE_DIM // 2
        is_first = within < HALF
        pair = tl.where(is_first, within, within - HALF)
        step = HALF
    else:
        is_first = within % 2 == 0
        pair = within // 2
        step = 1
    partner = tl.where(is_rotated, tl.where(is_first, dim + step, dim - step), dim)
    return is_rotated, pair, is_first, partner


@triton.jit
def rotate_rows(
    x,  # [rows, dims] fp32
    partner,  # [rows, dims] fp32, the partner of each
    positions_ptr,  # int64 or int32
    cos_sin_cache_ptr,  # [max_pos, ROPE_DIM] fp32 or bf16: cosines, then sines
    cos_sin_row_stride,
    token,  # [rows] int64
    is_valid,  # [rows]
    is_rotated,  # [dims]
    pair,  # [dims]
    is_first,  # [dims]
    ROPE_DIM: tl.constexpr,
    STORED: tl.constexpr,
):
    """The rows of x rotated by the angles of their tokens, rounded to the dtype STORED, as fp32."""
    position = tl.load(positions_ptr + token, mask=is_valid, other=0).to(tl.int64)
    at = (position * cos_sin_row_stride)[:, None] + pair[None, :]
    has_angle = is_valid[:, None] & is_rotated[None, :]
    cos = tl.load(cos_sin_cache_ptr + at, mask=has_angle, other=0.0).to(tl.float32)
    sin = tl.load(cos_sin_cache_ptr + at + ROPE_DIM // 2, mask=has_angle, other=0.0).to(tl.float32)
    rotated = x * cos + tl.where(is_first[None, :], -partner, partner) * sin
    return tl.where(is_rotated[None, :], rotated, x).to(STORED).to(tl.float32)


@triton.jit(do_not_specialize=["num_rows"])
def _fused_q_kernel(
    q_ptr,  # [T, NUM_HEADS, HEAD_DIM] bf16, fp16 or fp32
    q_token_stride,
    q_head_stride,
    weights_ptr,  # [T, NUM_HEADS] fp32 or bf16
    weights_token_stride,
    weights_head_stride,
    positions_ptr,  # [T] int64 or int32
    cos_sin_cache_ptr,  # [max_pos, ROPE_DIM] fp32 or bf16
    cos_sin_row_stride,
    q_fp8_ptr,  # [T, NUM_HEADS, HEAD_DIM] fp8, dense
    q_weights_ptr,  # [T, NUM_HEADS] fp32, dense
    num_rows,  # T * NUM_HEADS
    WEIGHT_FACTOR: tl.constexpr,  # HEAD_DIM^-0.5 * NUM_HEADS^-0.5
    NUM_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    ROPE_START: tl.constexpr,
    ROPE_DIM: tl.constexpr,
    NEOX: tl.constexpr,
    QUANT_MAX: tl.constexpr,
    ROWS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    dim = tl.arange(0, HEAD_DIM)
    is_valid_row = row < num_rows
    token, head = row // NUM_HEADS, row % NUM_HEADS
    is_rotated, pair, is_first, partner_dim = pairing(dim, ROPE_START, ROPE_DIM, NEOX)

    q_row = q_ptr + (token * q_token_stride + head * q_head_stride)[:, None]
    q = tl.load(q_row + dim[None, :], mask=is_valid_row[:, None], other=0.0).to(tl.float32)
    partner = tl.load(q_row + partner_dim[None, :], mask=is_valid_row[:, None], other=0.0).to(tl.float32)
    q = rotate_rows(
        q,
        partner,
        positions_ptr,
        cos_sin_cache_ptr,
        cos_sin_row_stride,
        token,
        is_valid_row,
        is_rotated,
        pair,
        is_first,
        ROPE_DIM,
        q_ptr.dtype.element_ty,
    )
    values, scale = quantise_rows(q, QUANT_MAX, UE8M0=True)
    weights_at = token * weights_token_stride + head * weights_head_stride
    weights = tl.load(weights_ptr + weights_at, mask=is_valid_row, other=0.0)

    q_fp8 = values.to(q_fp8_ptr.dtype.element_ty)
    tl.store(q_fp8_ptr + row[:, None] * HEAD_DIM + dim[None, :], q_fp8, mask=is_valid_row[:, None])
    tl.store(q_weights_ptr + row, weights * scale * WEIGHT_FACTOR, mask=is_valid_row)


@triton.jit(do_not_specialize=["num_slots"])
def _fused_k_kernel(
    k_ptr,  # [T, HEAD_DIM] bf16, fp16 or fp32
    k_token_stride,
    weight_ptr,  # [HEAD_DIM] fp32 or bf16
    bias_ptr,  # [HEAD_DIM] fp32 or bf16
    eps,
    positions_ptr,  # [T] int64 or int32
    cos_sin_cache_ptr,  # [max_pos, ROPE_DIM] fp32 or bf16
    cos_sin_row_stride,
    values_ptr,  # [num_blocks, BLOCK_SIZE * KEY_BYTES] fp8, or uint8 of two E2M1 each
    values_page_stride,
    scales_ptr,  # [num_blocks, BLOCK_SIZE] fp32, or int32 of four exponents
    scales_page_stride,
    slot_mapping_ptr,  # [num_slots] int32 or int64
    num_slots,  # <= T
    BLOCK_SIZE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    KEY_BYTES: tl.constexpr,
    ROPE_START: tl.constexpr,
    ROPE_DIM: tl.constexpr,
    NEOX: tl.constexpr,
    SHUFFLE: tl.constexpr,
    QUANT_MAX: tl.constexpr,
    GROUPS: tl.constexpr,  # that have exponents of their own; 0 for an fp32 scale
    INTERLEAVED: tl.constexpr,  # exponents of a tile of tokens
    RMS: tl.constexpr,
    ROWS: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    dim = tl.arange(0, HEAD_DIM)
    slot = tl.load(slot_mapping_ptr + token, mask=token < num_slots, other=-1).to(tl.int64)
    has_slot = slot >= 0
    is_rotated, pair, is_first, partner_dim = pairing(dim, ROPE_START, ROPE_DIM, NEOX)

    # The partner of a value is normed again, which is cheaper than to move values between lanes.
    k_row = k_ptr + (token * k_token_stride)[:, None]
    k = tl.load(k_row + dim[None, :], mask=has_slot[:, None], other=0.0).to(tl.float32)
    mean, factor = mean_and_factor(k, eps, HEAD_DIM, RMS)
    k = normed(k, mean, factor, weight_ptr, bias_ptr, dim, RMS, k_ptr.dtype.element_ty)
    partner = tl.load(k_row + partner_dim[None, :], mask=has_slot[:, None], other=0.0).to(tl.float32)
    partner = normed(partner, mean, factor, weight_ptr, bias_ptr, partner_dim, RMS, k_ptr.dtype.element_ty)
    k = rotate_rows(
        k,
        partner,
        positions_ptr,
        cos_sin_cache_ptr,
        cos_sin_row_stride,
        token,
        has_slot,
        is_rotated,
        pair,
        is_first,
        ROPE_DIM,
        k_ptr.dtype.element_ty,
    )
    if GROUPS:
        values, scale = quantise_groups(k, QUANT_MAX, GROUPS)
    else:
        values, scale = quantise_rows(k, QUANT_MAX, UE8M0=True)

    block, offset = slot // BLOCK_SIZE, slot % BLOCK_SIZE
    byte = tl.arange(0, KEY_BYTES)
    value_at = (block * values_page_stride)[:, None] + value_offset(offset[:, None], byte[None, :], KEY_BYTES, SHUFFLE)
    tl.store(values_ptr + value_at, to_bytes(values, values_ptr.dtype.element_ty), mask=has_slot[:, None])
    store_scales(scales_ptr + block * scales_page_stride, offset, scale, has_slot, INTERLEAVED)


@triton.jit
def normed(x, mean, factor, weight_ptr, bias_ptr, dim, RMS: tl.constexpr, STORED: tl.constexpr):
    """(x - mean) * factor * weight + bias of some dims, rounded to STORED, as fp32; RMSNorm has no bias."""
    weight = tl.load(weight_ptr + dim).to(tl.float32)[None, :]
    bias = tl.load(bias_ptr + dim).to(tl.float32)[None, :]
    scaled = (x - mean) * factor * weight
    if not RMS:
        scaled += bias
    return scaled.to(STORED).to(tl.float32)


def fused_q(
    q: Tensor,
    weights: Tensor,
    positions: Tensor,
    cos_sin_cache: Tensor,
    *,
    rope_dim: int,
    style: str,
    placement: str,
    scale_fmt: str,
    fp8: str,
) -> tuple[Tensor, Tensor]:
    """RoPE and quantisation of q [T, H, D], which stays: q_fp8 [T, H, D] and q_weights [T, H] fp32.

    As `rope` and `q_quant` after it, with the same dtypes and options; scale_fmt is "ue8m0". Raises ValueError outside
    this contract.
    """
    require_choice("scale_fmt", scale_fmt, ("ue8m0",))
    require_choice("fp8", fp8, tuple(FP8_DTYPES))
    require_tensor("q", q, (None, None, None), *ACTIVATIONS)
    num_tokens, num_heads, head_dim = q.shape
    require_head_dim(head_dim)
    require_tensor("weights", weights, (num_tokens, num_heads), torch.float32, torch.bfloat16, dense=False)
    require_angles(positions, cos_sin_cache, num_tokens, head_dim, rope_dim, style, placement)

    q_fp8 = torch.empty(q.shape, dtype=FP8_DTYPES[fp8], device=q.device)
    q_weights = torch.empty(weights.shape, dtype=torch.float32, device=q.device)
    num_rows = num_tokens * num_heads
    if num_rows:
        _fused_q_kernel[(triton.cdiv(num_rows, ROWS),)](
            q,
            q.stride(0),
            q.stride(1),
            weights,
            weights.stride(0),
            weights.stride(1),
            positions,
            cos_sin_cache,
            cos_sin_cache.stride(0),
            q_fp8,
            q_weights,
            num_rows,
            WEIGHT_FACTOR=(head_dim * num_heads) ** -0.5,
            NUM_HEADS=num_heads,
            HEAD_DIM=head_dim,
            ROPE_START=0 if placement == "first" else head_dim - rope_dim,
            ROPE_DIM=rope_dim,
            NEOX=style == "neox",
            QUANT_MAX=QUANT_MAX[fp8],
            ROWS=ROWS,
        )
    return q_fp8, q_weights


def fused_k(
    k: Tensor,
    k_norm_weight: Tensor,
    k_norm_bias: Tensor,
    positions: Tensor,
    cos_sin_cache: Tensor,
    cache: Tensor,
    slot_mapping: Tensor,
    *,
    eps: float,
    rope_dim: int,
    style: str,
    placement: str,
    scale_fmt: str,
    fp8: str,
    quant_group: int,
    layout: str,
    scales: str = "fp32",
    norm: str = "layer",
) -> None:
    """LayerNorm or RMSNorm, RoPE, quantisation and insertion of k [T, D], which stays.

    As `k_norm`, `rope` and `k_quant_cache` one after the other, with the same dtypes and options; scale_fmt is
    "ue8m0". Raises ValueError outside this contract.
    """
    require_choice("scale_fmt", scale_fmt, ("ue8m0",))
    require_choice("fp8", fp8, tuple(FP8_DTYPES))
    require_tensor("k", k, (None, None), *ACTIVATIONS)
    num_tokens, head_dim = k.shape
    require_head_dim(head_dim)
    require_affine(k_norm_weight, k_norm_bias, head_dim, eps, norm)
    require_angles(positions, cos_sin_cache, num_tokens, head_dim, rope_dim, style, placement)
    groups = scale_groups(scales, quant_group, head_dim)
    stored = stored_values(scales, head_dim, FP8_DTYPES[fp8])
    require_cache(cache, stored.key_bytes)
    block_size = cache.shape[1]
    interleaved = is_interleaved(layout, scales)
    layout = resolve_layout(layout, block_size, stored.key_bytes)
    require_tensor("slot_mapping", slot_mapping, (None,), torch.int64, torch.int32)
    num_slots = slot_mapping.shape[0]
    require(num_slots <= num_tokens, f"slot_mapping has {num_slots} slots for {num_tokens} tokens")

    if num_slots == 0:
        return
    page_values, page_scales = split_pages(cache, stored.dtype, SCALE_DTYPES[scales])
    _fused_k_kernel[(triton.cdiv(num_slots, ROWS),)](
        k,
        k.stride(0),
        k_norm_weight,
        k_norm_bias,
        eps,
        positions,
        cos_sin_cache,
        cos_sin_cache.stride(0),
        page_values,
        page_values.stride(0),
        page_scales,
        page_scales.stride(0),
        slot_mapping,
        num_slots,
        BLOCK_SIZE=block_size,
        HEAD_DIM=head_dim,
        KEY_BYTES=stored.key_bytes,
        ROPE_START=0 if placement == "first" else head_dim - rope_dim,
        ROPE_DIM=rope_dim,
        NEOX=style == "neox",
        SHUFFLE=layout == "shuffle",
        QUANT_MAX=stored.largest,
        GROUPS=groups,
        INTERLEAVED=interleaved,
        RMS=norm == "rms",
        ROWS=ROWS,
    )


def require_angles(
    positions: Tensor,
    cos_sin_cache: Tensor,
    num_tokens: int,
    head_dim: int,
    rope_dim: int,
    style: str,
    placement: str,
) -> None:
    """Raise ValueError unless positions [num_tokens], of integers, and a table of angles fit what RoPE is asked for."""
    require_choice("style", style, STYLES)
    require_choice("placement", placement, PLACEMENTS)
    require(
        0 < rope_dim <= head_dim and rope_dim % 2 == 0,
        f"rope_dim must be even and 2 to head_dim {head_dim}, got {rope_dim}",
    )
    require_tensor("positions", positions, (num_tokens,), torch.int64, torch.int32)
    require_tensor("cos_sin_cache", cos_sin_cache, (None, rope_dim), torch.float32, torch.bfloat16)
