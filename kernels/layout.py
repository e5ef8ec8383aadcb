"""Where the bytes of a token lie in a page of the cache.

A page is block_size * head_dim value bytes, then block_size scales of four bytes. The values are in token order
(NORMAL) or in 16x16 tiles that the matrix units load without a shuffle (SHUFFLE, also called preshuffle). The scales
are in token order, or interleaved (SHUFFLE-SCALES, beside values in tiles): the first exponents of the 16 tokens of a
tile, then their second ones.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from indexfuzz.kernels.checks import require, require_choice

TILE = 16
"""Tokens, and dims, of one SHUFFLE tile. Device functions take it as an argument: Triton compares each global that a
kernel reads, at every launch."""


@triton.jit
def value_offset(token, dim, HEAD_DIM: tl.constexpr, SHUFFLE: tl.constexpr, TILE: tl.constexpr = TILE):
    """Byte offset within a page of value ``dim`` of its ``token``-th token; tensors broadcast."""
    if SHUFFLE:
        band = token // TILE * (TILE * HEAD_DIM)
        tile = dim // TILE * (TILE * TILE)
        return band + tile + token % TILE * TILE + dim % TILE
    return token * HEAD_DIM + dim


@triton.jit
def start_of_band(token, TILE: tl.constexpr = TILE):
    """The first token of the tiles that a token lies in."""
    return token // TILE * TILE


@triton.jit
def in_token_order(values, TILE: tl.constexpr = TILE):
    """Values [tokens, HEAD_DIM] by token and dim, of whole bands of a SHUFFLE page that were read as they lie."""
    tokens: tl.constexpr = values.shape[0]
    dims: tl.constexpr = values.shape[1]
    tiles = tl.reshape(values, [tokens // TILE, dims // TILE, TILE, TILE])
    return tl.reshape(tl.permute(tiles, (0, 2, 1, 3)), [tokens, dims])


@triton.jit
def page_parts(cache_ptr, value_bytes, DTYPE: tl.constexpr, PACKED: tl.constexpr):
    """Pointers to the two parts of the first page: values of a one-byte dtype, and scales, fp32 or packed to int32.

    The compiler makes nothing of it, where `split_pages` takes the host a quarter of a launcher's time.
    """
    scale_dtype: tl.constexpr = tl.int32 if PACKED else tl.float32
    values_ptr = cache_ptr.to(tl.pointer_type(DTYPE))
    return values_ptr, (cache_ptr + value_bytes).to(tl.pointer_type(scale_dtype))


def resolve_layout(layout: str, block_size: int, head_dim: int) -> str:
    """How values lie in ``layout``, "normal" or "shuffle": "auto" is NORMAL iff block_size is 1.

    Raises ValueError for an unknown layout, and for SHUFFLE unless block_size and head_dim are multiples of 16: tiles
    cut at a page's end would reach into the next page.
    """
    require_choice("layout", layout, ("auto", "normal", "shuffle", "shuffle-scales"))
    if layout == "auto":
        layout = "normal" if block_size == 1 else "shuffle"
    if layout == "shuffle-scales":
        layout = "shuffle"
    if layout == "shuffle":
        require(
            block_size % TILE == 0 and head_dim % TILE == 0,
            "the SHUFFLE layout needs block_size and head_dim to be multiples of {}, got block_size {} and head_dim {}",
            TILE,
            block_size,
            head_dim,
        )
    return layout


def split_pages(cache: Tensor, dtype: torch.dtype, scale_dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """The two parts of every page, as views that share the cache's memory.

    Returns values [num_blocks, block_size * head_dim] of the one-byte ``dtype`` and scales [num_blocks, block_size]
    of the four-byte ``scale_dtype``, for a cache uint8 [num_blocks, block_size, head_dim + 4]. Neighbouring rows lie
    the cache's page stride apart.
    """
    num_blocks, block_size, token_bytes = cache.shape
    value_bytes = block_size * (token_bytes - 4)
    page_stride, start = cache.stride(0), cache.storage_offset()
    values = cache.as_strided((num_blocks, value_bytes), (page_stride, 1), start)
    scales = cache.as_strided((num_blocks, 4 * block_size), (page_stride, 1), start + value_bytes)
    return values.view(dtype), scales.view(scale_dtype)
