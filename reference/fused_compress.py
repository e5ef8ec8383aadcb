"""Compressed keys as they are inserted: normed, rotated and quantised, as a function of all tokens of a request.

A key of reference/compress.py is normed by RMSNorm with a weight, its last dims are rotated by the angles of the first
token of its group, and it is quantised and inserted as any key: the compressor of DeepSeek-V4.
"""

import torch
from torch import Tensor

from indexfuzz.reference import compress
from indexfuzz.reference.compress import Tokens
from indexfuzz.reference.rope import rope


def rms_norm(x: Tensor, weight: Tensor, *, eps: float) -> Tensor:
    """x * rsqrt(mean(x^2) + eps) * weight for the rows of x [n, D] bf16; in fp64, rounded to fp32 and to bf16."""
    values = x.double()
    factor = (values.square().mean(1, keepdim=True) + eps).rsqrt()
    return (values * factor * weight.double()).float().bfloat16()


def keys(
    tokens: Tokens,
    bias: Tensor,
    norm_weight: Tensor,
    cos_sin_cache: Tensor,
    *,
    ratio: int,
    overlap: bool,
    eps: float,
    rope_dim: int,
    style: str,
    placement: str,
) -> Tensor:
    """The keys of a request before they are quantised, bf16 [L // ratio, D]; bf16 after each step."""
    made = rms_norm(compress.keys(tokens, bias, ratio=ratio, overlap=overlap), norm_weight, eps=eps)
    positions = torch.arange(len(made), device=made.device) * ratio
    none = made.new_empty((len(made), 1, made.shape[1]))
    _, rotated = rope(none, made, positions, cos_sin_cache, rope_dim=rope_dim, style=style, placement=placement)
    return rotated
