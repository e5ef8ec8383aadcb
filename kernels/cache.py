"""Quantisation of k and its insertion into the paged cache."""

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
from indexfuzz.kernels.quant import FP8_DTYPES, SCALE_FORMATS, quantise_rows
from indexfuzz.kernels.scales import (
    SCALE_DTYPES,
    is_interleaved,
    quantise_groups,
    require_powers_of_two,
    scale_groups,
    store_scales,
    stored_values,
)

TOKENS = 16
"""Tokens of one program."""


@triton.jit(do_not_specialize=["num_slots"])
def _k_quant_cache_kernel(
    k_ptr,  # [T, HEAD_DIM] bf16, fp16 or fp32
    k_token_stride,
    values_ptr,  # [num_blocks, BLOCK_SIZE * KEY_BYTES] fp8, or uint8 of two E2M1 each
    values_page_stride,
    scales_ptr,  # [num_blocks, BLOCK_SIZE] fp32, or int32 of four exponents
    scales_page_stride,
    slot_mapping_ptr,  # [num_slots] int32 or int64
    num_slots,  # <= T
    BLOCK_SIZE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    KEY_BYTES: tl.constexpr,
    SHUFFLE: tl.constexpr,
    QUANT_MAX: tl.constexpr,
    UE8M0: tl.constexpr,
    GROUPS: tl.constexpr,  # that have exponents of their own; 0 for an fp32 scale
    INTERLEAVED: tl.constexpr,  # exponents of a tile of tokens
    TOKENS: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    dim = tl.arange(0, HEAD_DIM)
    slot = tl.load(slot_mapping_ptr + token, mask=token < num_slots, other=-1).to(tl.int64)
    has_slot = slot >= 0

    k = tl.load(k_ptr + token[:, None] * k_token_stride + dim[None, :], mask=has_slot[:, None], other=0.0)
    if GROUPS:
        values, scale = quantise_groups(k.to(tl.float32), QUANT_MAX, GROUPS)
    else:
        values, scale = quantise_rows(k.to(tl.float32), QUANT_MAX, UE8M0)

    # int64 from the slot on: a page far into a packed pool starts beyond 2^31 bytes.
    block, offset = slot // BLOCK_SIZE, slot % BLOCK_SIZE
    byte = tl.arange(0, KEY_BYTES)
    value_at = (block * values_page_stride)[:, None] + value_offset(offset[:, None], byte[None, :], KEY_BYTES, SHUFFLE)
    tl.store(values_ptr + value_at, to_bytes(values, values_ptr.dtype.element_ty), mask=has_slot[:, None])
    store_scales(scales_ptr + block * scales_page_stride, offset, scale, has_slot, INTERLEAVED)


def k_quant_cache(
    k: Tensor,
    cache: Tensor,
    slot_mapping: Tensor,
    *,
    scale_fmt: str,
    fp8: str,
    quant_group: int,
    layout: str,
    scales: str = "fp32",
) -> None:
    """Quantise k [T, D] per token and write values and scale into cache at slot_mapping [<= T] int32 or int64.

    s = max(amax, 1e-4) / C as in q_quant; the values are k / s. Slot = block * block_size + offset; tokens with a
    negative slot, and tokens beyond the slot mapping, are not stored. Slots must be distinct and inside the cache.
    With scales "ue8m0", of powers of two, the exponents are stored, packed, and quant_group may be D/4: then s is each
    quarter's own. With "mxfp4" it always is, C is 6, and values are E2M1, two to a byte.

    cache uint8 [num_blocks, block_size, D + 4], or D/2 + 4 for "mxfp4", with any page stride that is a multiple of 4; k
    may be a column slice. Raises ValueError outside this contract; kernels/layout.py says which layouts exist.
    """
    require_choice("scale_fmt", scale_fmt, SCALE_FORMATS)
    require_choice("fp8", fp8, tuple(FP8_DTYPES))
    require_tensor("k", k, (None, None), *ACTIVATIONS)
    num_tokens, head_dim = k.shape
    require_head_dim(head_dim)
    require_powers_of_two(scales, scale_fmt)
    groups = scale_groups(scales, quant_group, head_dim)
    stored = stored_values(scales, head_dim, FP8_DTYPES[fp8])
    require_cache(cache, stored.key_bytes)
    block_size = cache.shape[1]
    interleaved = is_interleaved(layout, scales)
    layout = resolve_layout(layout, block_size, stored.key_bytes)
    require_tensor("slot_mapping", slot_mapping, (None,), torch.int64, torch.int32)
    num_slots = slot_mapping.shape[0]
    require(num_slots <= num_tokens, "slot_mapping has {} slots for {} tokens", num_slots, num_tokens)

    if num_slots == 0:
        return
    page_values, page_scales = split_pages(cache, stored.dtype, SCALE_DTYPES[scales])
    _k_quant_cache_kernel[(triton.cdiv(num_slots, TOKENS),)](
        k,
        k.stride(0),
        page_values,
        page_values.stride(0),
        page_scales,
        page_scales.stride(0),
        slot_mapping,
        num_slots,
        BLOCK_SIZE=block_size,
        HEAD_DIM=head_dim,
        KEY_BYTES=stored.key_bytes,
        SHUFFLE=layout == "shuffle",
        QUANT_MAX=stored.largest,
        UE8M0=scale_fmt == "ue8m0",
        GROUPS=groups,
        INTERLEAVED=interleaved,
        TOKENS=TOKENS,
    )
