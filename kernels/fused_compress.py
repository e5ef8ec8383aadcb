"""Keys that stand for several tokens, in one launch: their sums, RMSNorm, RoPE, quantisation and insertion.

A key is rounded to bf16 wherever kernels of single steps would store it. Tokens are kept as by `compress`.
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
from indexfuzz.kernels.compress import require_tokens, save_kernel, weighted_key
from indexfuzz.kernels.fused import pairing
from indexfuzz.kernels.groups import TOKENS, place_keys, require_rings, require_step
from indexfuzz.kernels.layout import resolve_layout, split_pages, value_offset
from indexfuzz.kernels.nibbles import to_bytes
from indexfuzz.kernels.quant import FP8_DTYPES, quantise_rows
from indexfuzz.kernels.rope import PLACEMENTS, STYLES
from indexfuzz.kernels.scales import (
    SCALE_DTYPES,
    is_interleaved,
    quantise_groups,
    scale_groups,
    store_scales,
    stored_values,
)


@triton.jit
def _fused_compress_kernel(
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
    cos_sin_cache_ptr,  # [max_pos, ROPE_DIM] fp32 or bf16: cosines, then sines
    cos_sin_row_stride,
    block_table_ptr,  # [B, max_blocks] int32
    block_table_stride,
    values_ptr,  # [num_blocks, BLOCK_SIZE * KEY_BYTES] fp8, or uint8 of two E2M1 each
    values_page_stride,
    scales_ptr,  # [num_blocks, BLOCK_SIZE] fp32, or int32 of four exponents
    scales_page_stride,
    RATIO: tl.constexpr,
    WINDOW: tl.constexpr,
    ROWS: tl.constexpr,
    WIDTH: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    ROPE_START: tl.constexpr,
    ROPE_DIM: tl.constexpr,
    NEOX: tl.constexpr,
    SHUFFLE: tl.constexpr,
    QUANT_MAX: tl.constexpr,
    KEY_BYTES: tl.constexpr,
    GROUPS: tl.constexpr,  # that have exponents of their own; 0 for an fp32 scale
    INTERLEAVED: tl.constexpr,  # exponents of a tile of tokens
):
    key, _, end, is_due = weighted_key(
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
        WINDOW,
        ROWS,
        WIDTH,
        HEAD_DIM,
    )
    dim = tl.arange(0, HEAD_DIM)
    key = key.to(tl.bfloat16).to(tl.float32)
    factor = tl.rsqrt(tl.sum(key * key, axis=0) / HEAD_DIM + eps)
    key = (key * factor * tl.load(norm_weight_ptr + dim).to(tl.float32)).to(tl.bfloat16).to(tl.float32)

    # A key stands at the position of the first token of its group.
    is_rotated, pair, is_first, partner_dim = pairing(dim, ROPE_START, ROPE_DIM, NEOX)
    angle_at = cos_sin_cache_ptr + (end - RATIO).to(tl.int64) * cos_sin_row_stride + pair
    cos = tl.load(angle_at, mask=is_due & is_rotated, other=0.0).to(tl.float32)
    sin = tl.load(angle_at + ROPE_DIM // 2, mask=is_due & is_rotated, other=0.0).to(tl.float32)
    partner = tl.gather(key, partner_dim, 0)
    rotated = key * cos + tl.where(is_first, -partner, partner) * sin
    key = tl.where(is_rotated, rotated, key).to(tl.bfloat16).to(tl.float32)
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


def fused_compress(
    kv: Tensor,
    scores: Tensor,
    bias: Tensor,
    norm_weight: Tensor,
    cos_sin_cache: Tensor,
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
    overlap: bool,
    eps: float,
    rope_dim: int,
    style: str,
    placement: str,
    scale_fmt: str,
    fp8: str,
    quant_group: int,
    layout: str,
    scales: str = "fp32",
) -> None:
    """Make the keys that are due and insert them into the cache; say where they are and how many each token sees.

    Keys are made, and tokens kept in the rings of state, as by `compress`. A key x [D] is normed, x * rsqrt(mean(x^2) +
    eps) * norm_weight with norm_weight [D] fp32 or bf16, then rotated by the angles of the first token of its group in
    cos_sin_cache [max_pos, rope_dim], as by `rope`, and inserted as by `k_quant_cache`, with the same options;
    scale_fmt is "ue8m0". slot_mapping and visible are filled as by `compress`. Raises ValueError outside this contract.
    """
    require_choice("scale_fmt", scale_fmt, ("ue8m0",))
    require_choice("fp8", fp8, tuple(FP8_DTYPES))
    require_choice("style", style, STYLES)
    require_choice("placement", placement, PLACEMENTS)
    require_tensor("norm_weight", norm_weight, (None,), torch.float32, torch.bfloat16)
    head_dim, num_tokens = norm_weight.shape[0], slot_mapping.shape[0]
    require_head_dim(head_dim)
    groups = scale_groups(scales, quant_group, head_dim)
    stored = stored_values(scales, head_dim, FP8_DTYPES[fp8])
    require_step(query_start, context_lens, rings, block_table, slot_mapping, visible, ratio)
    num_requests = context_lens.shape[0]
    width, window = (1 + overlap) * head_dim, (1 + overlap) * ratio
    require_tokens(kv, scores, bias, num_tokens, ratio, width)
    require(eps > 0, f"eps must be positive, got {eps}")
    require(
        0 < rope_dim <= head_dim and rope_dim % 2 == 0,
        f"rope_dim must be even and 2 to head_dim {head_dim}, got {rope_dim}",
    )
    require_tensor("cos_sin_cache", cos_sin_cache, (None, rope_dim), torch.float32, torch.bfloat16)
    require_cache(cache, stored.key_bytes)
    block_size = cache.shape[1]
    interleaved = is_interleaved(layout, scales)
    layout = resolve_layout(layout, block_size, stored.key_bytes)
    require_rings(state, 2, width, window, "the tokens of a window", torch.float32)
    num_rows = state.shape[1]

    if num_tokens == 0:
        return
    tokens = (kv, kv.stride(0), scores, scores.stride(0), bias, query_start, context_lens, rings)
    page_values, page_scales = split_pages(cache, stored.dtype, SCALE_DTYPES[scales])
    if num_requests:
        _fused_compress_kernel[(num_requests, num_tokens // ratio + 1)](
            *tokens,
            state,
            state.stride(0),
            norm_weight,
            eps,
            cos_sin_cache,
            cos_sin_cache.stride(0),
            block_table,
            block_table.stride(0),
            page_values,
            page_values.stride(0),
            page_scales,
            page_scales.stride(0),
            RATIO=ratio,
            WINDOW=window,
            ROWS=num_rows,
            WIDTH=width,
            HEAD_DIM=head_dim,
            BLOCK_SIZE=block_size,
            ROPE_START=0 if placement == "first" else head_dim - rope_dim,
            ROPE_DIM=rope_dim,
            NEOX=style == "neox",
            SHUFFLE=layout == "shuffle",
            QUANT_MAX=stored.largest,
            KEY_BYTES=stored.key_bytes,
            GROUPS=groups,
            INTERLEAVED=interleaved,
        )
        save_kernel[(num_requests, triton.cdiv(num_tokens, TOKENS))](
            *tokens, state, state.stride(0), RATIO=ratio, ROWS=num_rows, WIDTH=width, TOKENS=TOKENS
        )
    place_keys(query_start, context_lens, block_table, slot_mapping, visible, ratio=ratio, block_size=block_size)
