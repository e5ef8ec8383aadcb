"""Gathering the keys of a prefill batch out of the paged cache."""

import torch
from torch import Tensor

from indexfuzz.reference import fp8 as codec
from indexfuzz.reference import layout as page_layout
from indexfuzz.reference.scales import ScaleFormat


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
    """Fill k_fp8 [N, D] and k_scale [N] with the tokens of all sequences, one after the other.

    Gathered token n is position ``n - cu_seqlens[b]`` of sequence ``b = token_to_seq[n]``, in page ``block_table[b,
    position // block_size]``. Padding gets zero bytes and scale 0: a token at or beyond cu_seqlens[-1], a sequence
    outside [0, B), a block id outside [0, num_blocks). k_scale is fp32, or int32 where scales is "ue8m0" or "mxfp4";
    for the last k_fp8 is uint8 [N, D / 2].
    """
    form = ScaleFormat.of(scales, quant_group, k_fp8.shape[1] * (2 if scales == "mxfp4" else 1))
    slots, valid = gathered_slots(cache, block_table, cu_seqlens, token_to_seq)
    values = torch.zeros(k_fp8.shape, dtype=torch.uint8, device=k_fp8.device)
    stored = torch.zeros(k_scale.shape, dtype=form.dtype, device=k_scale.device)
    codes, cached = page_layout.read_tokens(cache, slots[valid], page_layout.resolve(layout, cache.shape[1]))
    values[valid], stored[valid] = codes, cached.view(form.dtype)
    codec.codes(k_fp8).copy_(values)
    k_scale.copy_(stored)


def gathered_slots(
    cache: Tensor, block_table: Tensor, cu_seqlens: Tensor, token_to_seq: Tensor
) -> tuple[Tensor, Tensor]:
    """Cache slot of every gathered token, int64 [N], and whether it has one (bool [N]); padding has slot 0."""
    num_blocks, block_size, _ = cache.shape
    token = torch.arange(token_to_seq.shape[0], device=token_to_seq.device)
    sequences, columns = block_table.shape
    if sequences == 0 or columns == 0:
        return torch.zeros_like(token), torch.zeros_like(token, dtype=torch.bool)
    seq = token_to_seq.long()
    valid = (seq >= 0) & (seq < sequences) & (token < cu_seqlens[-1])
    seq = torch.where(valid, seq, 0)
    position = token - cu_seqlens.long()[seq]
    column = position.div(block_size, rounding_mode="floor")
    valid &= (column >= 0) & (column < columns)
    block = block_table[seq, torch.where(valid, column, 0)].long()
    valid &= (block >= 0) & (block < num_blocks)
    return torch.where(valid, block * block_size + position % block_size, 0), valid
