"""Decode logits of the indexer, straight from the paged cache."""

from typing import NamedTuple

import torch
from torch import Tensor

from indexfuzz.reference import fp8 as codec
from indexfuzz.reference import layout as page_layout
from indexfuzz.reference.mqa_logits import weighted_scores
from indexfuzz.reference.nibbles import as_fp8_keys
from indexfuzz.reference.scales import dtype_of


class VisibleKeys(NamedTuple):
    """The keys that a decode batch sees; N is the longest window, shorter ones are filled up with zeros."""

    k_fp8: Tensor
    """[B, N, D], the format of q_fp8."""
    k_scale: Tensor
    """[B, N] fp32, or int32 of UE8M0 exponents."""
    windows: Tensor
    """[B, next_n] int64: query row (b, j) sees positions below windows[b, j]."""
    cached: Tensor
    """[B, N] bool: the positions that have a page; the others are visible to no row."""


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
    """Fill logits [B * next_n, max_model_len] fp32; -inf outside each row's window and on missing pages.

    Computed in fp64, rounded once.

    q_fp8 [B, next_n, H, D], weights [B * next_n, H] fp32, context_lens [B] or [B, next_n] int32, block_table [B,
    max_blocks] int32. With scales "ue8m0" the cache has UE8M0 exponents of the quarters of every key, with "mxfp4" E2M1
    values beside them.
    """
    batch, next_n, heads, _ = q_fp8.shape
    keys = visible_keys(q_fp8, cache, context_lens, block_table, logits.shape[1], layout=layout, scales=scales)
    exact = weighted_scores(q_fp8, keys.k_fp8, keys.k_scale, weights.reshape(batch, next_n, heads))
    longest = exact.shape[2]
    visible = (torch.arange(longest, device=logits.device) < keys.windows.unsqueeze(2)) & keys.cached.unsqueeze(1)
    logits.fill_(float("-inf"))
    logits[:, :longest] = torch.where(visible, exact, float("-inf")).reshape(batch * next_n, longest).float()


def row_windows(context_lens: Tensor, next_n: int, max_model_len: int) -> Tensor:
    """How many leading positions row (b, j) sees, int64 [B, next_n], in [0, max_model_len].

    1-D lens: context_lens[b] - next_n + j + 1; 2-D lens: context_lens[b, j].
    """
    lens = context_lens.long()
    if lens.dim() == 1:
        lens = lens.unsqueeze(1) - next_n + 1 + torch.arange(next_n, device=lens.device)
    return lens.clamp(0, max_model_len)


def visible_keys(
    q_fp8: Tensor,
    cache: Tensor,
    context_lens: Tensor,
    block_table: Tensor,
    max_model_len: int,
    *,
    layout: str,
    scales: str = "fp32",
) -> VisibleKeys:
    """Read every position that some row of its sequence sees.

    An id outside [0, num_blocks) is no page. Raises ValueError where the block table has no column for a position.
    """
    num_blocks, block_size, token_bytes = cache.shape
    windows = row_windows(context_lens, q_fp8.shape[1], max_model_len)
    longest = int(windows.max()) if windows.numel() else 0
    shape = (windows.shape[0], longest)
    values = torch.zeros((*shape, token_bytes - page_layout.SCALE_BYTES), dtype=torch.uint8, device=cache.device)
    k_scale = torch.zeros(shape, dtype=dtype_of(scales), device=cache.device)
    cached = torch.zeros(shape, dtype=torch.bool, device=cache.device)
    if longest:
        position = torch.arange(longest, device=cache.device)
        seen = position < windows.amax(1, keepdim=True)
        column = position // block_size
        if int(column[-1]) >= block_table.shape[1]:
            raise ValueError(
                f"position {longest - 1} is visible, but the block table has only {block_table.shape[1]} columns"
            )
        block = block_table[:, column].long()
        cached = seen & (block >= 0) & (block < num_blocks)
        slots = (block * block_size + position % block_size)[cached]
        codes, stored = page_layout.read_tokens(cache, slots, page_layout.resolve(layout, block_size))
        values[cached], k_scale[cached] = codes, stored.view(k_scale.dtype)
    fmt = codec.format_of(q_fp8)
    k_fp8 = as_fp8_keys(values, fmt) if scales == "mxfp4" else codec.as_fp8(values, fmt)
    return VisibleKeys(k_fp8, k_scale, windows, cached)
