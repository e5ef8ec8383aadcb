"""Gathering the keys of a prefill batch out of the paged cache."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from indexfuzz.kernels.checks import require_cache, require_head_dim, require_tensor
from indexfuzz.kernels.layout import resolve_layout, split_pages, value_offset
from indexfuzz.kernels.quant import FP8
from indexfuzz.kernels.scales import SCALE_DTYPES, is_interleaved, load_exponents, scale_groups

TOKENS = 64
"""Gathered tokens of one program."""

WARPS = 2
"""Of one program: as few as fill the memory's queues, so that many programs are on their way."""


@triton.jit(do_not_specialize=["num_blocks", "max_blocks", "num_seqs"])
def _gather_kernel(
    values_ptr,  # [num_blocks, BLOCK_SIZE * KEY_BYTES] bytes
    values_page_stride,
    scales_ptr,  # [num_blocks, BLOCK_SIZE] fp32 or int32
    scales_page_stride,
    num_blocks,
    block_table_ptr,  # [B, max_blocks] int32
    block_table_row_stride,
    max_blocks,
    cu_seqlens_ptr,  # [B + 1] int32
    num_seqs,  # B
    token_to_seq_ptr,  # [N] int32
    k_fp8_ptr,  # [N, KEY_BYTES] bytes
    k_fp8_row_stride,
    k_scale_ptr,  # [N] fp32 or int32
    num_tokens,  # N
    BLOCK_SIZE: tl.constexpr,
    KEY_BYTES: tl.constexpr,
    SHUFFLE: tl.constexpr,
    INTERLEAVED: tl.constexpr,  # exponents of a tile of tokens
    TOKENS: tl.constexpr,
):
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    byte = tl.arange(0, KEY_BYTES)
    is_valid_token = token < num_tokens

    seq = tl.load(token_to_seq_ptr + token, mask=is_valid_token, other=-1)
    is_in_seq = (seq >= 0) & (seq < num_seqs) & (token < tl.load(cu_seqlens_ptr + num_seqs))
    position = token - tl.load(cu_seqlens_ptr + seq, mask=is_in_seq, other=0)
    column = position // BLOCK_SIZE
    is_in_table = is_in_seq & (position >= 0) & (column < max_blocks)
    table_at = seq.to(tl.int64) * block_table_row_stride + column
    block = tl.load(block_table_ptr + table_at, mask=is_in_table, other=-1).to(tl.int64)
    is_cached = (block >= 0) & (block < num_blocks)

    offset = position % BLOCK_SIZE
    value_at = (block * values_page_stride)[:, None] + value_offset(offset[:, None], byte[None, :], KEY_BYTES, SHUFFLE)
    values = tl.load(values_ptr + value_at, mask=is_cached[:, None], other=0)
    if INTERLEAVED:
        scale = load_exponents(scales_ptr + block * scales_page_stride, offset, is_cached)
    else:
        scale = tl.load(scales_ptr + block * scales_page_stride + offset, mask=is_cached, other=0.0)

    k_row = token.to(tl.int64) * k_fp8_row_stride
    tl.store(k_fp8_ptr + k_row[:, None] + byte[None, :], values, mask=is_valid_token[:, None])
    tl.store(k_scale_ptr + token, scale, mask=is_valid_token)


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
    scales: str = "fp32",
) -> None:
    """Fill k_fp8 [N, D] fp8 and k_scale [N] with the cached tokens of all sequences, one after the other.

    Token n is position p = n - cu_seqlens[b] of sequence b = token_to_seq[n]: slot p % block_size of page
    block_table[b, p // block_size]. Padding becomes zero bytes and scale 0: a token at or beyond cu_seqlens[-1], a
    sequence outside [0, B), a block id outside [0, num_blocks).

    k_scale is fp32, or int32 of packed exponents where scales is "ue8m0" or "mxfp4"; for "mxfp4" k_fp8 is uint8
    [N, D/2]. cache uint8 [num_blocks, block_size, bytes of a key + 4], block_table [B, max_blocks], cu_seqlens [B + 1],
    token_to_seq [N], each int32 or int64; rows may be strided. Raises ValueError outside this contract.
    """
    require_tensor("k_fp8", k_fp8, (None, None), *((torch.uint8,) if scales == "mxfp4" else FP8))
    num_tokens, key_bytes = k_fp8.shape
    head_dim = 2 * key_bytes if scales == "mxfp4" else key_bytes
    require_head_dim(head_dim)
    scale_groups(scales, quant_group, head_dim)
    require_cache(cache, key_bytes)
    num_blocks, block_size, _ = cache.shape
    interleaved = is_interleaved(layout, scales)
    layout = resolve_layout(layout, block_size, key_bytes)
    require_tensor("block_table", block_table, (None, None), torch.int32, torch.int64)
    num_seqs, max_blocks = block_table.shape
    require_tensor("cu_seqlens", cu_seqlens, (num_seqs + 1,), torch.int32, torch.int64)
    require_tensor("token_to_seq", token_to_seq, (num_tokens,), torch.int32, torch.int64)
    require_tensor("k_scale", k_scale, (num_tokens,), SCALE_DTYPES[scales])

    if num_tokens == 0:
        return
    # Bytes are moved as bytes: no code, NaN included, is a number here.
    page_values, page_scales = split_pages(cache, torch.uint8, SCALE_DTYPES[scales])
    _gather_kernel[(triton.cdiv(num_tokens, TOKENS),)](
        page_values,
        page_values.stride(0),
        page_scales,
        page_scales.stride(0),
        num_blocks,
        block_table,
        block_table.stride(0),
        max_blocks,
        cu_seqlens,
        num_seqs,
        token_to_seq,
        k_fp8.view(torch.uint8),
        k_fp8.stride(0),
        k_scale,
        num_tokens,
        BLOCK_SIZE=block_size,
        KEY_BYTES=key_bytes,
        SHUFFLE=layout == "shuffle",
        INTERLEAVED=interleaved,
        TOKENS=TOKENS,
        num_warps=WARPS,
    )
