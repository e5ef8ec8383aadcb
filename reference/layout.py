"""Where the bytes of the paged indexer cache lie.

A cache is a uint8 tensor [num_blocks, block_size, D + 4] with strides (page_stride, D + 4, 1), but its last two
dimensions are a size, not an arrangement: a page is ``block_size * D`` value bytes followed by ``block_size`` fp32
scales. The page stride may exceed the page, up to spans far above 2**32 bytes, so all offsets are int64 and only
touched bytes are ever read.
"""

from functools import lru_cache

import torch
from torch import Tensor

TILE = 16
"""Tokens and dims of one SHUFFLE tile: a tile is 16 tokens of 16 consecutive bytes."""

SCALE_BYTES = 4


def resolve(layout: str, block_size: int) -> str:
    """The concrete layout, "normal" or "shuffle": "auto" is NORMAL iff ``block_size`` is 1."""
    if layout == "auto":
        return "normal" if block_size == 1 else "shuffle"
    if layout not in ("normal", "shuffle"):
        raise ValueError(f'layout must be "auto", "normal" or "shuffle", got "{layout}"')
    return layout


@lru_cache(maxsize=256)
def value_offsets(layout: str, block_size: int, head_dim: int, device: torch.device) -> Tensor:
    """Byte offset in its page of every value, int64 [block_size, head_dim].

    ``layout`` is "normal" (t*D + d) or "shuffle" (16x16 tiles, block_size and head_dim multiples of 16); ValueError
    otherwise.
    """
    t = torch.arange(block_size, device=device)[:, None]
    d = torch.arange(head_dim, device=device)[None, :]
    if layout == "normal":
        return t * head_dim + d
    if layout != "shuffle":
        raise ValueError(f'offsets exist for "normal" and "shuffle", not for "{layout}"')
    if block_size % TILE or head_dim % TILE:
        raise ValueError(f"SHUFFLE needs multiples of {TILE}, got block_size {block_size} and head_dim {head_dim}")
    return (t // TILE) * TILE * head_dim + (d // TILE) * TILE * TILE + (t % TILE) * TILE + d % TILE


@lru_cache(maxsize=256)
def scale_offsets(block_size: int, head_dim: int, device: torch.device) -> Tensor:
    """Byte offset in its page of each of the 4 bytes of every scale, int64 [block_size, 4]."""
    first = block_size * head_dim + SCALE_BYTES * torch.arange(block_size, device=device)
    return first[:, None] + torch.arange(SCALE_BYTES, device=device)


def arrangements(block_size: int, head_dim: int, device: torch.device) -> dict[str, tuple[Tensor, Tensor]]:
    """Every arrangement that a kernel might take a page to have: name -> (value offsets, scale offsets).

    "normal" and, where it is defined, "shuffle"; and "interleaved", each token's values followed by its own scale,
    which is no layout of this cache but a mistake that kernels make.
    """
    scales = scale_offsets(block_size, head_dim, device)
    found = {"normal": (value_offsets("normal", block_size, head_dim, device), scales)}
    if block_size % TILE == 0 and head_dim % TILE == 0:
        found["shuffle"] = (value_offsets("shuffle", block_size, head_dim, device), scales)
    token = (head_dim + SCALE_BYTES) * torch.arange(block_size, device=device)[:, None]
    within = torch.arange(head_dim + SCALE_BYTES, device=device)
    found["interleaved"] = (token + within[:head_dim], token + within[head_dim:])
    return found


def flat_bytes(cache: Tensor) -> Tensor:
    """The bytes from the first page to the end of the last, 1-D, padding included, sharing the cache's memory.

    ValueError if the tensor is not uint8 [num_blocks, block_size, D + 4] with dense pages.
    """
    if cache.dtype != torch.uint8 or cache.dim() != 3:
        raise ValueError(
            f"the cache must be uint8 [num_blocks, block_size, head_dim + 4], got {cache.dtype} {tuple(cache.shape)}"
        )
    num_blocks, block_size, token_bytes = cache.shape
    if cache.stride(2) != 1 or (block_size > 1 and cache.stride(1) != token_bytes):
        raise ValueError(f"the pages of the cache must be dense, got strides {cache.stride()}")
    if num_blocks == 0:
        return cache.reshape(0)
    span = (num_blocks - 1) * cache.stride(0) + block_size * token_bytes
    return cache.as_strided((span,), (1,), cache.storage_offset())


def pages(cache: Tensor) -> Tensor:
    """The pages of a cache as [num_blocks, block_size * (D + 4)] bytes, sharing its memory."""
    flat = flat_bytes(cache)
    num_blocks, block_size, token_bytes = cache.shape
    return flat.as_strided((num_blocks, block_size * token_bytes), (cache.stride(0), 1), cache.storage_offset())


def split(page: Tensor, block_size: int, layout: str) -> tuple[Tensor, Tensor]:
    """Bytes of pages [..., block_size * (D + 4)] -> values uint8 [..., block_size, D], scales [..., block_size]."""
    head_dim = page.shape[-1] // block_size - SCALE_BYTES
    values = page[..., value_offsets(layout, block_size, head_dim, page.device)]
    scales = page[..., scale_offsets(block_size, head_dim, page.device)]
    return values, scales.view(torch.float32).squeeze(-1)


def write_tokens(cache: Tensor, slots: Tensor, values: Tensor, scales: Tensor, layout: str) -> None:
    """Put tokens into a cache at slots [n] >= 0: values uint8 [n, D], scales fp32 [n]; ``layout`` is concrete."""
    flat, value_index, scale_index = _addresses(cache, slots, layout)
    flat[value_index] = values
    flat[scale_index] = scales.contiguous().view(torch.uint8).view(-1, SCALE_BYTES)


def read_tokens(cache: Tensor, slots: Tensor, layout: str) -> tuple[Tensor, Tensor]:
    """Take tokens out of a cache at slots [...]: values uint8 [..., D], scales fp32 [...]; ``layout`` is concrete."""
    flat, value_index, scale_index = _addresses(cache, slots, layout)
    return flat[value_index], flat[scale_index].view(torch.float32).squeeze(-1)


def _addresses(cache: Tensor, slots: Tensor, layout: str) -> tuple[Tensor, Tensor, Tensor]:
    _, block_size, token_bytes = cache.shape
    head_dim = token_bytes - SCALE_BYTES
    slots = slots.long()
    offset = slots % block_size
    page = (slots // block_size * cache.stride(0)).unsqueeze(-1)
    values = value_offsets(layout, block_size, head_dim, cache.device)[offset]
    scales = scale_offsets(block_size, head_dim, cache.device)[offset]
    return flat_bytes(cache), page + values, page + scales
