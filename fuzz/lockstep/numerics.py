"""Exact GPU scalar arithmetic in numpy: conversions, fused multiply-add, and the NaN rules of max, min and clamp.

Every function is elementwise over any shape and gives the same bits on every machine. bf16 and fp16 values live in
fp32 containers. A NaN result is 0x7fffffff, which NVIDIA hardware produces.
"""

from typing import Final, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from indexfuzz.lockstep.fma import fma32, fma64
from indexfuzz.lockstep.fp8_codec import FORMATS, Fp8Format, decode_fp8, encode_fp8, truncate_to_e5m2
from indexfuzz.lockstep.nan import canonical_nan
from indexfuzz.lockstep.transcendental import (
    exp2_f32,
    exp_f32,
    log2_f32,
    log_f32,
    rsqrt_f32,
    sqrt_f32,
    sqrt_rn_f32,
)

__all__ = [
    "FORMATS",
    "Fp8Format",
    "canonical_nan",
    "clamp",
    "decode_fp8",
    "divide_by_constant",
    "encode_fp8",
    "exp2_f32",
    "exp_f32",
    "float_to_int",
    "fma32",
    "fma64",
    "log2_f32",
    "log_f32",
    "maximum_nan",
    "maxnum",
    "minimum_nan",
    "minnum",
    "round_to_bf16",
    "round_to_fp16",
    "rsqrt_f32",
    "sqrt_f32",
    "sqrt_rn_f32",
    "truncate_to_bf16",
    "truncate_to_e5m2",
    "truncate_to_fp16",
]

F32 = NDArray[np.float32]
Float = TypeVar("Float", bound=np.floating)

_HIGH_HALF: Final = np.uint32(0xFFFF0000)
_BF16_NAN: Final = np.uint32(0x7FFF0000)
"""The bf16 NaN 0x7fff: widening bf16 appends zeros."""


@np.errstate(all="ignore")
def round_to_bf16(x: F32) -> F32:
    """fp32 to bf16 in an fp32 container: nearest even, overflow to infinity, NaN to 0x7fff."""
    bits = np.asarray(x).view(np.uint32)
    rounded = bits + (np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))) & _HIGH_HALF
    nan = np.isnan(x)
    return (np.where(nan, _BF16_NAN, rounded) if nan.any() else np.asarray(rounded)).view(np.float32)


@np.errstate(all="ignore")
def truncate_to_bf16(x: F32) -> F32:
    """fp32 to bf16 toward zero; infinities stay, NaN to 0x7fff."""
    bits = np.asarray(x).view(np.uint32)
    return np.where(np.isnan(x), _BF16_NAN, bits & _HIGH_HALF).view(np.float32)


@np.errstate(all="ignore")
def round_to_fp16(x: F32) -> F32:
    """fp32 to fp16 and back: nearest even, overflow to infinity; NaN to fp16 0x7fff, which widens to 0x7fffffff."""
    return canonical_nan(np.asarray(x).astype(np.float16).astype(np.float32))


@np.errstate(all="ignore")
def truncate_to_fp16(x: F32) -> F32:
    """fp32 to fp16 toward zero and back: a finite value never becomes infinite; NaN as in `round_to_fp16`."""
    near = np.clip(round_to_fp16(x), np.float32(-65504), np.float32(65504))
    bits = near.astype(np.float16).view(np.uint16)
    too_large = np.abs(near) > np.abs(x)
    value = np.asarray(bits - too_large).view(np.float16).astype(np.float32)
    return canonical_nan(np.where(np.isfinite(x), value, x))


@np.errstate(all="ignore")
def divide_by_constant(a: F32, constant: float) -> F32:
    """Return `a / constant` as ptxas compiles fp32 division by a literal: a product with the rounded reciprocal."""
    return canonical_nan(np.asarray(a * (np.float32(1) / np.float32(constant))))


@np.errstate(all="ignore")
def maxnum(a: NDArray[Float], b: NDArray[Float]) -> NDArray[Float]:
    """Larger operand, broadcasting; a NaN operand is ignored, +0 is above -0 (PTX max)."""
    return _select(a, b, np.asarray(a > b), np.bitwise_and)


@np.errstate(all="ignore")
def minnum(a: NDArray[Float], b: NDArray[Float]) -> NDArray[Float]:
    """Smaller operand, broadcasting; a NaN operand is ignored, -0 is below +0 (PTX min)."""
    return _select(a, b, np.asarray(a < b), np.bitwise_or)


@np.errstate(all="ignore")
def maximum_nan(a: NDArray[Float], b: NDArray[Float]) -> NDArray[Float]:
    """Larger operand, or NaN if either is NaN (PTX max.NaN, `PropagateNan.ALL`)."""
    return np.where(np.isnan(a) | np.isnan(b), _nan(a), maxnum(a, b))


@np.errstate(all="ignore")
def minimum_nan(a: NDArray[Float], b: NDArray[Float]) -> NDArray[Float]:
    """Smaller operand, or NaN if either is NaN (PTX min.NaN, `PropagateNan.ALL`)."""
    return np.where(np.isnan(a) | np.isnan(b), _nan(a), minnum(a, b))


@np.errstate(all="ignore")
def clamp(x: F32, low: F32, high: F32) -> F32:
    """`tl.clamp` without NaN propagation, broadcasting, as sm_90 compiles it.

    Bounds [-c, c] use min.xorsign.abs: NaN gives c, with the sign of the NaN. Other bounds use max, then min: NaN gives
    `low`.
    """
    symmetric = np.asarray(low == -np.asarray(high))
    plain = minnum(maxnum(x, low), high)
    if not symmetric.any():
        return plain
    return np.where(symmetric, np.copysign(minnum(np.abs(x), np.abs(high)), x), plain)


@np.errstate(all="ignore")
def float_to_int(x: NDArray[np.floating], dtype: DTypeLike) -> NDArray[np.integer]:
    """Convert toward zero, saturating, as PTX cvt.rzi.

    NaN gives 0, or the sign bit alone (most negative value) for a float64 source or a 64-bit result. 8-bit results are
    the low byte of a saturated 16-bit one: PTX has no 8-bit conversion.
    """
    target = np.dtype(dtype)
    if target.itemsize == 1:
        return float_to_int(x, np.dtype(f"{target.kind}2")).astype(target)
    limits = np.iinfo(target)
    wide = np.trunc(np.asarray(x).astype(np.float64))
    # limits.max of a 64-bit type is no float64; its successor is.
    above = wide >= float(limits.max) + (1.0 if target.itemsize < 8 else 0.0)
    below = wide < float(limits.min)
    nan = np.isnan(wide)
    value = np.where(above | below | nan, 0.0, wide).astype(target)
    value = np.where(above, target.type(limits.max), np.where(below, target.type(limits.min), value))
    if target.itemsize == 8 or x.dtype == np.float64:
        sign_bit = np.array(1 << (8 * target.itemsize - 1), dtype=f"u{target.itemsize}").view(target)
        return np.where(nan, sign_bit, value)
    return value


def _select(a: NDArray[Float], b: NDArray[Float], first: NDArray[np.bool_], combine_zeros: np.ufunc) -> NDArray[Float]:
    """Pick `a` where `first` or b is NaN, else `b`; equal operands differ in a zero's sign at most."""
    left, right = np.broadcast_arrays(a, b)
    unsigned = np.dtype(f"u{left.dtype.itemsize}")
    equal = left == right
    zeros = combine_zeros(left.view(unsigned), right.view(unsigned)).view(left.dtype)
    chosen = np.where(first | np.isnan(right), left, np.where(equal, zeros, right))
    nan = np.isnan(chosen)
    return np.where(nan, _nan(left), chosen) if nan.any() else chosen


def _nan(like: NDArray[Float]) -> NDArray[Float]:
    """Return the canonical NaN in the dtype of `like`: every bit set but the sign."""
    size = np.asarray(like).dtype.itemsize
    return np.array((1 << (8 * size - 1)) - 1, dtype=f"u{size}").view(np.asarray(like).dtype)
