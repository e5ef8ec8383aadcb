"""Quantisation of q to FP8, its scale folded into the head weights."""

from math import sqrt

import torch
from torch import Tensor

from indexfuzz.reference import fp8 as codec
from indexfuzz.reference import nibbles


def q_quant(q: Tensor, weights: Tensor, *, scale_fmt: str, fp8: str) -> tuple[Tensor, Tensor]:
    """Quantise q [T, H, D] per token and head; fold the scales into ``weights`` [T, H] fp32.

    Returns q_fp8 [T, H, D] and q_weights [T, H] fp32 = weights * s * D^-0.5 * H^-0.5, evaluated in fp64 and rounded
    once.
    """
    num_heads, head_dim = q.shape[1:]
    scale = row_scale(q, scale_fmt=scale_fmt, fp8=fp8)
    return quantise(q, scale, fp8=fp8), fold(weights, scale, num_heads=num_heads, head_dim=head_dim).float()


def row_amax(x: Tensor, floor: float = codec.AMAX_FLOOR) -> Tensor:
    """Largest |x| over the last dim, at least `floor`, fp32 [...]. NaN is ignored, as GPU maxima ignore it."""
    magnitude = x.float().abs()
    return magnitude.nan_to_num(nan=0.0, posinf=float("inf")).amax(-1).clamp_min(floor)


def row_scale(x: Tensor, *, scale_fmt: str, fp8: str) -> Tensor:
    """Scale of each row of x [..., D], fp32 [...]: amax/C rounded ("fp32") or raised to a power of two ("ue8m0")."""
    amax = row_amax(x)
    if scale_fmt == "fp32":
        return amax / torch.full_like(amax, codec.C[fp8])
    if scale_fmt != "ue8m0":
        raise ValueError(f'scale_fmt must be "ue8m0" or "fp32", got "{scale_fmt}"')
    # fp64 division of an fp32 amax is exact at C * 2**k, and its neighbours stay apart from it: the ceiling is the
    # true one.
    ratio = amax.double() / codec.C[fp8]
    finite = torch.isfinite(ratio)
    power = codec.power_of_two(codec.ceil_log2(torch.where(finite, ratio, 1.0)))
    return torch.where(finite, power, float("inf")).float()


def quantise(x: Tensor, scale: Tensor, *, fp8: str) -> Tensor:
    """Codes of x [..., D] under ``scale`` [...] as an FP8 tensor: x / s rounded to fp32, then to FP8, saturating.

    For "e2m1" they are codes of e4m3fn that stand for E2M1 numbers.
    """
    return codec.as_fp8(encode(x.float() / scale.unsqueeze(-1), fp8), holder(fp8))


def encode(x: Tensor, fmt: str) -> Tensor:
    """The codes uint8 of x in a format, to the nearest, ties to even, saturating; those of e4m3fn for "e2m1"."""
    return nibbles.nearest(x) if fmt == nibbles.NAME else codec.encode(x, fmt)


def holder(fmt: str) -> str:
    """The FP8 format whose codes stand for numbers of a format: that itself, or e4m3fn for "e2m1"."""
    return nibbles.WIDE if fmt == nibbles.NAME else fmt


def fold(weights: Tensor, scale: Tensor, *, num_heads: int, head_dim: int) -> Tensor:
    """The product weights * scale * head_dim^-0.5 * num_heads^-0.5 in fp64."""
    return weights.double() * scale.double() / sqrt(head_dim * num_heads)
