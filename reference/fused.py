"""Operations of several nodes: RoPE and quantisation of q; norm, RoPE, quantisation and insertion of k."""

import torch
from torch import Tensor

from indexfuzz.reference.cache import k_quant_cache
from indexfuzz.reference.quant import q_quant
from indexfuzz.reference.rope import rope


def k_norm(k: Tensor, k_norm_weight: Tensor, k_norm_bias: Tensor, *, eps: float, norm: str = "layer") -> Tensor:
    """(k - m) * rsqrt(v + eps) * weight + bias for the rows of k [T, D], with weight and bias [D]; like k [T, D].

    m and v are mean and variance of a row; with norm "rms" m is 0, and there is no bias. Evaluated in fp64, rounded to
    fp32 and to the dtype of k: bf16, fp16 or fp32.
    """
    values = k.double()
    if norm == "rms":
        factor = (values.square().mean(1, keepdim=True) + eps).rsqrt()
        return (values * factor * k_norm_weight.double()).float().to(k.dtype)
    centred = values - values.mean(1, keepdim=True)
    factor = (centred.square().mean(1, keepdim=True) + eps).rsqrt()
    return (centred * factor * k_norm_weight.double() + k_norm_bias.double()).float().to(k.dtype)


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
    """RoPE and quantisation of q [T, H, D]: q_fp8 [T, H, D] and q_weights [T, H] fp32; the dtype of q in between.

    Raises ValueError unless scale_fmt is "ue8m0".
    """
    _require_ue8m0(scale_fmt)
    none = q.new_empty((len(q), q.shape[2]))
    turned, _ = rope(q, none, positions, cos_sin_cache, rope_dim=rope_dim, style=style, placement=placement)
    return q_quant(turned, weights, scale_fmt=scale_fmt, fp8=fp8)


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
    """LayerNorm or RMSNorm and RoPE of k [T, D], its quantisation and insertion; the dtype of k in between.

    Raises ValueError unless scale_fmt is "ue8m0", and as `k_quant_cache` does.
    """
    _require_ue8m0(scale_fmt)
    normed = k_norm(k, k_norm_weight, k_norm_bias, eps=eps, norm=norm)
    none = torch.empty((len(k), 1, k.shape[1]), dtype=k.dtype, device=k.device)
    _, turned = rope(none, normed, positions, cos_sin_cache, rope_dim=rope_dim, style=style, placement=placement)
    k_quant_cache(
        turned,
        cache,
        slot_mapping,
        scale_fmt=scale_fmt,
        fp8=fp8,
        quant_group=quant_group,
        layout=layout,
        scales=scales,
    )


def _require_ue8m0(scale_fmt: str) -> None:
    if scale_fmt != "ue8m0":
        raise ValueError(
            f'the fused operations make scales that are powers of two: scale_fmt is "ue8m0", not "{scale_fmt}"'
        )
