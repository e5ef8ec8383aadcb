"""Rotary position embedding of q and k: in place, functional, or functional under torch.compile."""

from collections.abc import Callable
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from indexfuzz.kernels.checks import ACTIVATIONS, require, require_choice, require_tensor

STYLES = ("neox", "interleaved")
PLACEMENTS = ("first", "last")
MODES = ("inplace", "functional", "compiled")

VECTORS = 64
"""(token, head) vectors of one program."""


@triton.jit(do_not_specialize=["num_tokens", "num_heads"])
def _rotate_kernel(
    x_ptr,  # [T, H, ROPE_DIM] bf16, fp16 or fp32
    x_token_stride,
    x_head_stride,
    out_ptr,  # [T, H, ROPE_DIM] like x, may be x itself
    out_token_stride,
    out_head_stride,
    positions_ptr,  # [T] int64 or int32
    cos_sin_cache_ptr,  # [max_pos, ROPE_DIM] fp32 or bf16: cosines, then sines
    cos_sin_row_stride,
    num_tokens,  # T
    num_heads,  # H
    ROPE_DIM: tl.constexpr,
    PAIR_STEP: tl.constexpr,  # dims between the first members of neighbouring pairs
    PARTNER_STEP: tl.constexpr,  # dims between the members of a pair
    TOKENS: tl.constexpr,
    HEADS: tl.constexpr,
    PAIRS: tl.constexpr,  # ROPE_DIM / 2, padded to a power of two
):
    token = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    pair = tl.arange(0, PAIRS)
    is_valid_token = token < num_tokens
    is_valid_pair = pair < ROPE_DIM // 2

    # One row of angles per token, for all its heads.
    position = tl.load(positions_ptr + token, mask=is_valid_token, other=0).to(tl.int64)
    cos_at = (position * cos_sin_row_stride)[:, None] + pair[None, :]
    is_valid_angle = is_valid_token[:, None] & is_valid_pair[None, :]
    cos = tl.load(cos_sin_cache_ptr + cos_at, mask=is_valid_angle, other=0.0).to(tl.float32)[:, None, :]
    sin = tl.load(cos_sin_cache_ptr + cos_at + ROPE_DIM // 2, mask=is_valid_angle, other=0.0).to(tl.float32)[:, None, :]

    dim = pair[:, None] * PAIR_STEP + tl.arange(0, 2)[None, :] * PARTNER_STEP
    is_valid_vector = is_valid_token[:, None] & (head < num_heads)[None, :]
    is_valid = is_valid_vector[:, :, None, None] & is_valid_pair[None, None, :, None]

    x_at = (token * x_token_stride)[:, None] + (head * x_head_stride)[None, :]
    x = tl.load(x_ptr + x_at[:, :, None, None] + dim[None, None, :, :], mask=is_valid, other=0.0)
    a, b = tl.split(x.to(tl.float32))
    rotated = tl.join(a * cos - b * sin, b * cos + a * sin).to(out_ptr.dtype.element_ty)
    out_at = (token * out_token_stride)[:, None] + (head * out_head_stride)[None, :]
    tl.store(out_ptr + out_at[:, :, None, None] + dim[None, None, :, :], rotated, mask=is_valid)


def _rotate_into(out: Tensor, x: Tensor, positions: Tensor, cos_sin_cache: Tensor, style: str) -> None:
    num_tokens, num_heads, rope_dim = x.shape
    if x.numel() == 0:
        return
    heads = min(triton.next_power_of_2(num_heads), VECTORS // 4)
    tokens = VECTORS // heads
    _rotate_kernel[(triton.cdiv(num_tokens, tokens), triton.cdiv(num_heads, heads))](
        x,
        x.stride(0),
        x.stride(1),
        out,
        out.stride(0),
        out.stride(1),
        positions,
        cos_sin_cache,
        cos_sin_cache.stride(0),
        num_tokens,
        num_heads,
        ROPE_DIM=rope_dim,
        PAIR_STEP=1 if style == "neox" else 2,
        PARTNER_STEP=rope_dim // 2 if style == "neox" else 1,
        TOKENS=tokens,
        HEADS=heads,
        PAIRS=triton.next_power_of_2(rope_dim // 2),
    )


def rotate_(x: Tensor, positions: Tensor, cos_sin_cache: Tensor, style: str) -> None:
    """Rotate x [T, H, R], a view of any token and head stride, in place."""
    _rotate_into(x, x, positions, cos_sin_cache, style)


def rotate(x: Tensor, positions: Tensor, cos_sin_cache: Tensor, style: str) -> Tensor:
    """The rotated x [T, H, R] as a new tensor; x, a view of any token and head stride, stays."""
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _rotate_into(out, x, positions, cos_sin_cache, style)
    return out


def rotate_compiled(x: Tensor, positions: Tensor, cos_sin_cache: Tensor, style: str) -> Tensor:
    """The rotated x [T, H, R] as a new tensor, by PyTorch operations under torch.compile."""
    if x.numel() == 0:
        return torch.empty_like(x)
    # A clone has the strides of its shape even where T is 1: a compilation is tied to how strides follow from sizes.
    dense = x.clone(memory_format=torch.contiguous_format)
    return _compiled_rotation(style)(dense, cos_sin_cache[positions].float())


def _neox_rotation(x: Tensor, cos_sin: Tensor) -> Tensor:
    cos, sin = cos_sin.unsqueeze(1).chunk(2, dim=-1)
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).to(x.dtype)


def _interleaved_rotation(x: Tensor, cos_sin: Tensor) -> Tensor:
    cos, sin = cos_sin.unsqueeze(1).chunk(2, dim=-1)
    a, b = x[..., 0::2].float(), x[..., 1::2].float()
    return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2).to(x.dtype)


@cache
def _compiled_rotation(style: str) -> Callable[[Tensor, Tensor], Tensor]:
    """One compilation per style; T and H are unbacked, so that not even T = 1 or H = 1 costs another."""
    from torch._dynamo.decorators import mark_unbacked  # noqa: PLC0415 - takes seconds, only this mode needs it

    compiled = torch.compile(_neox_rotation if style == "neox" else _interleaved_rotation, dynamic=True)

    def rotation(x: Tensor, cos_sin: Tensor) -> Tensor:
        mark_unbacked(x, [0, 1])
        mark_unbacked(cos_sin, 0)
        return compiled(x, cos_sin)

    return rotation


def rope(
    q: Tensor,
    k: Tensor,
    positions: Tensor,
    cos_sin_cache: Tensor,
    *,
    rope_dim: int,
    style: str,
    placement: str,
    mode: str,
) -> tuple[Tensor, Tensor]:
    """Rotate rope_dim dims of q [T, H, D] and k [T, D] by the angles of positions [T] int64 or int32.

    (a, b) -> (a cos - b sin, b cos + a sin) in fp32, rounded once to the dtype of q and k, which is bf16, fp16
    or fp32. style "neox" pairs dim i with i + rope_dim/2, "interleaved" 2i with 2i + 1; placement says whether the
    rotated dims come "first" or "last".
    cos_sin_cache [max_pos, rope_dim] fp32 or bf16, cosines in the first half of a row, sines in the last.

    Returns (q, k). mode "inplace" rotates views of q and k and returns q and k themselves; "functional" and "compiled"
    (PyTorch operations under torch.compile) return new tensors and leave q and k alone. q and k may be column slices
    of wider tensors. Raises ValueError outside this contract.
    """
    require_choice("style", style, STYLES)
    require_choice("placement", placement, PLACEMENTS)
    require_choice("mode", mode, MODES)
    require_tensor("q", q, (None, None, None), *ACTIVATIONS)
    num_tokens, _, head_dim = q.shape
    require_tensor("k", k, (num_tokens, head_dim), q.dtype)
    require(
        0 < rope_dim <= head_dim and rope_dim % 2 == 0,
        f"rope_dim must be even and 2 to head_dim {head_dim}, got {rope_dim}",
    )
    require_tensor("positions", positions, (num_tokens,), torch.int64, torch.int32)
    require_tensor("cos_sin_cache", cos_sin_cache, (None, rope_dim), torch.float32, torch.bfloat16)

    start = 0 if placement == "first" else head_dim - rope_dim
    vectors = (q, k.unsqueeze(1))
    if mode == "inplace":
        for x in vectors:
            rotate_(x[..., start : start + rope_dim], positions, cos_sin_cache, style)
        return q, k

    rotation = rotate if mode == "functional" else rotate_compiled
    new_q, new_k = (
        _replace_dims(x, start, rotation(x[..., start : start + rope_dim], positions, cos_sin_cache, style))
        for x in vectors
    )
    return new_q, new_k.squeeze(1)


def _replace_dims(x: Tensor, start: int, middle: Tensor) -> Tensor:
    """A new x [..., D] whose dims from ``start`` on are those of ``middle``."""
    return torch.cat([x[..., :start], middle, x[..., start + middle.shape[-1] :]], dim=-1)
