"""LayerNorm or RMSNorm of k, before RoPE."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from indexfuzz.kernels.checks import ACTIVATIONS, require, require_choice, require_head_dim, require_tensor

NORMS = ("layer", "rms")

TOKENS = 16
"""Tokens of one program."""


@triton.jit
def mean_and_factor(x, eps, HEAD_DIM: tl.constexpr, RMS: tl.constexpr):
    """Mean m of the rows of x [rows, HEAD_DIM] fp32, and 1 / sqrt(variance + eps): [rows, 1] each, in two passes.

    RMSNorm takes a mean of 0.
    """
    mean = tl.sum(x, axis=1, keep_dims=True) / HEAD_DIM
    if RMS:
        mean = tl.zeros_like(mean)
    centred = x - mean
    variance = tl.sum(centred * centred, axis=1, keep_dims=True) / HEAD_DIM
    return mean, tl.rsqrt(variance + eps)


@triton.jit(do_not_specialize=["num_tokens"])
def _k_norm_kernel(
    k_ptr,  # [T, HEAD_DIM] bf16, fp16 or fp32
    k_token_stride,
    weight_ptr,  # [HEAD_DIM] fp32 or bf16
    bias_ptr,  # [HEAD_DIM] fp32 or bf16
    eps,
    out_ptr,  # [T, HEAD_DIM] like k, dense
    num_tokens,  # T
    HEAD_DIM: tl.constexpr,
    RMS: tl.constexpr,
    TOKENS: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    dim = tl.arange(0, HEAD_DIM)
    is_valid = (token < num_tokens)[:, None]
    k = tl.load(k_ptr + token[:, None] * k_token_stride + dim[None, :], mask=is_valid, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + dim).to(tl.float32)[None, :]
    bias = tl.load(bias_ptr + dim).to(tl.float32)[None, :]
    mean, factor = mean_and_factor(k, eps, HEAD_DIM, RMS)
    normed = (k - mean) * factor * weight
    if not RMS:
        normed += bias
    tl.store(out_ptr + token[:, None] * HEAD_DIM + dim[None, :], normed.to(out_ptr.dtype.element_ty), mask=is_valid)


def k_norm(k: Tensor, k_norm_weight: Tensor, k_norm_bias: Tensor, *, eps: float, norm: str = "layer") -> Tensor:
    """(k - m) * rsqrt(v + eps) * weight + bias, like k [T, D], with mean m and variance v of each row of k.

    With norm "rms" m is 0, and there is no bias: what is handed over is left alone.
    k is bf16, fp16 or fp32, weight and bias [D] are fp32 or bf16; evaluated in fp32. k may be a column slice of a wider
    tensor. Raises ValueError outside this contract.
    """
    require_tensor("k", k, (None, None), *ACTIVATIONS)
    num_tokens, head_dim = k.shape
    require_head_dim(head_dim)
    require_affine(k_norm_weight, k_norm_bias, head_dim, eps, norm)
    normed = torch.empty((num_tokens, head_dim), dtype=k.dtype, device=k.device)
    if num_tokens:
        _k_norm_kernel[(triton.cdiv(num_tokens, TOKENS),)](
            k,
            k.stride(0),
            k_norm_weight,
            k_norm_bias,
            eps,
            normed,
            num_tokens,
            HEAD_DIM=head_dim,
            RMS=norm == "rms",
            TOKENS=TOKENS,
        )
    return normed


def require_affine(weight: Tensor, bias: Tensor, head_dim: int, eps: float, norm: str) -> None:
    """Raise ValueError unless weight and bias are [head_dim] fp32 or bf16, eps is positive, and the norm is known."""
    require_choice("norm", norm, NORMS)
    require_tensor("k_norm_weight", weight, (head_dim,), torch.float32, torch.bfloat16)
    require_tensor("k_norm_bias", bias, (head_dim,), torch.float32, torch.bfloat16)
    require(eps > 0, f"eps must be positive, got {eps}")
