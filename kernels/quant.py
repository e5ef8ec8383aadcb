"""Quantisation of q to FP8, one scale per token and head, folded into the head weights."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from indexfuzz.kernels.checks import ACTIVATIONS, require_choice, require_head_dim, require_tensor

FP8_DTYPES = {"e4m3fn": torch.float8_e4m3fn, "e4m3fnuz": torch.float8_e4m3fnuz}
FP8 = tuple(FP8_DTYPES.values())

QUANT_MAX = {"e4m3fn": 448.0, "e4m3fnuz": 224.0}
"""C, the magnitude that the largest value of a row is scaled to. e4m3fnuz ends at 240; serving engines stop at 224."""

SCALE_FORMATS = ("ue8m0", "fp32")

ROWS = 16
"""(token, head) rows of one program."""


@triton.jit
def quantise_rows(x, QUANT_MAX: tl.constexpr, UE8M0: tl.constexpr):
    """Scale the rows of x [rows, dims] fp32 to C: (x / s, s [rows]), s = max(amax, 1e-4) / C.

    UE8M0 brings s up to a power of two. |x / s| <= C but for rounding, so that its conversion to FP8 never saturates.
    """
    amax = tl.max(tl.abs(x), axis=1)
    scale = tl.maximum(amax, 1e-4) / QUANT_MAX
    if UE8M0:
        # Carry any mantissa bit into the exponent: exact, where exp2(ceil(log2(s))) is too small just above 2^k.
        exponent = (scale.to(tl.int32, bitcast=True) + 0x7FFFFF) >> 23
        scale = (exponent << 23).to(tl.float32, bitcast=True)
    return x / scale[:, None], scale


@triton.jit(do_not_specialize=["num_rows"])
def _q_quant_kernel(
    q_ptr,  # [T, NUM_HEADS, HEAD_DIM] bf16, fp16 or fp32
    q_token_stride,
    q_head_stride,
    weights_ptr,  # [T, NUM_HEADS] fp32 or bf16
    weights_token_stride,
    weights_head_stride,
    q_fp8_ptr,  # [T, NUM_HEADS, HEAD_DIM] fp8, dense
    q_weights_ptr,  # [T, NUM_HEADS] fp32, dense
    num_rows,  # T * NUM_HEADS
    WEIGHT_FACTOR: tl.constexpr,  # HEAD_DIM^-0.5 * NUM_HEADS^-0.5
    NUM_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    QUANT_MAX: tl.constexpr,
    UE8M0: tl.constexpr,
    ROWS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    dim = tl.arange(0, HEAD_DIM)
    is_valid_row = row < num_rows
    token, head = row // NUM_HEADS, row % NUM_HEADS

    q_row = token * q_token_stride + head * q_head_stride
    q = tl.load(q_ptr + q_row[:, None] + dim[None, :], mask=is_valid_row[:, None], other=0.0)
    values, scale = quantise_rows(q.to(tl.float32), QUANT_MAX, UE8M0)
    weights_at = token * weights_token_stride + head * weights_head_stride
    weights = tl.load(weights_ptr + weights_at, mask=is_valid_row, other=0.0)

    q_fp8 = values.to(q_fp8_ptr.dtype.element_ty)
    tl.store(q_fp8_ptr + row[:, None] * HEAD_DIM + dim[None, :], q_fp8, mask=is_valid_row[:, None])
    tl.store(q_weights_ptr + row, weights * scale * WEIGHT_FACTOR, mask=is_valid_row)


def q_quant(q: Tensor, weights: Tensor, *, scale_fmt: str, fp8: str) -> tuple[Tensor, Tensor]:
    """Quantise q [T, H, D] per token and head, and fold the scales into weights [T, H] fp32 or bf16.

    s = max(amax, 1e-4) / C with C = 448 (e4m3fn) or 224 (e4m3fnuz); scale_fmt "ue8m0" takes the next power of two.
    Returns q_fp8 [T, H, D] = q / s and q_weights [T, H] fp32 = weights * s * D^-0.5 * H^-0.5.

    q is bf16, fp16 or fp32; it and weights may be column slices of wider tensors, and the heads of weights may lie
    apart. Raises ValueError outside this contract.
    """
    require_choice("scale_fmt", scale_fmt, SCALE_FORMATS)
    require_choice("fp8", fp8, tuple(FP8_DTYPES))
    require_tensor("q", q, (None, None, None), *ACTIVATIONS)
    num_tokens, num_heads, head_dim = q.shape
    require_head_dim(head_dim)
    require_tensor("weights", weights, (num_tokens, num_heads), torch.float32, torch.bfloat16, dense=False)

    q_fp8 = torch.empty(q.shape, dtype=FP8_DTYPES[fp8], device=q.device)
    q_weights = torch.empty(weights.shape, dtype=torch.float32, device=q.device)
    num_rows = num_tokens * num_heads
    if num_rows:
        _q_quant_kernel[(triton.cdiv(num_rows, ROWS),)](
            q,
            q.stride(0),
            q.stride(1),
            weights,
            weights.stride(0),
            weights.stride(1),
            q_fp8,
            q_weights,
            num_rows,
            WEIGHT_FACTOR=(head_dim * num_heads) ** -0.5,
            NUM_HEADS=num_heads,
            HEAD_DIM=head_dim,
            QUANT_MAX=QUANT_MAX[fp8],
            UE8M0=scale_fmt == "ue8m0",
            ROWS=ROWS,
        )
    return q_fp8, q_weights
