"""The rotation of q and k by the Hadamard matrix, between RoPE and quantisation: it spreads outliers over all dims."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from indexfuzz.kernels.checks import ACTIVATIONS, require, require_head_dim, require_tensor
from indexfuzz.kernels.pool import hadamard


@triton.jit
def _rotate_kernel(
    x_ptr,  # [T, H, 2 ** LOG_DIM] bf16, fp16 or fp32
    x_token_stride,
    x_head_stride,
    out_ptr,  # [T, H, 2 ** LOG_DIM] like x, dense
    num_heads,  # H
    LOG_DIM: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    dim = tl.arange(0, 1 << LOG_DIM)
    start = x_ptr + row // num_heads * x_token_stride + row % num_heads * x_head_stride
    turned = hadamard(tl.load(start + dim).to(tl.float32), LOG_DIM)
    tl.store(out_ptr + (row << LOG_DIM) + dim, turned.to(out_ptr.dtype.element_ty))


def rotate(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """q [T, H, D] and k [T, D] of one dtype, each row turned by the Hadamard matrix over sqrt(D): dense, like them.

    Element j of a row is the sum of all its x[i], negative where i & j has an odd number of ones, over sqrt(D); in
    fp32, rounded at the end to that dtype: bf16, fp16 or fp32. The products of q and k stay what they
    are. q and k may have any strides but 1 between dims. Raises ValueError outside this contract.
    """
    require_tensor("q", q, (None, None, None), *ACTIVATIONS)
    num_tokens, _, head_dim = q.shape
    require_head_dim(head_dim)
    require_tensor("k", k, (num_tokens, head_dim), q.dtype)
    return _turn("q", q), _turn("k", k.unsqueeze(1)).squeeze(1)


def _turn(name: str, x: Tensor) -> Tensor:
    """The rows of x [T, H, D]."""
    num_tokens, num_heads, head_dim = x.shape
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    require(x.stride(2) == 1, f"the dims of {name} must be dense, got strides {x.stride()}")
    if num_tokens * num_heads:
        _rotate_kernel[(num_tokens * num_heads,)](
            x, x.stride(0), x.stride(1), out, num_heads, LOG_DIM=head_dim.bit_length() - 1
        )
    return out
