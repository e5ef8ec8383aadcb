"""Conversions to bf16, fp16 and integers with the bits of a GPU.

Every function is elementwise over any shape and gives the same bits on every machine. bf16 and fp16 values live in
fp32 containers. A NaN result is 0x7fffffff, which NVIDIA hardware produces.
"""

from typing import Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

from indexfuzz.lockstep.arithmetic.halves import narrow_to_half, widen_half
from indexfuzz.lockstep.arithmetic.nan import canonical_nan

F32 = NDArray[np.float32]

_HIGH_HALF: Final = np.uint32(0xFFFF0000)

_BF16_NAN: Final = np.uint32(0x7FFF0000)
"""The bf16 NaN 0x7fff: widening bf16 appends zeros."""


@np.errstate(all="ignore")
def round_to_bf16(x: F32) -> F32:
    """fp32 to bf16 in an fp32 container: nearest even, overflow to infinity, NaN to 0x7fff."""
    bits = np.asarray(x).view(np.uint32)
    rounded = bits >> 16
    rounded &= np.uint32(1)
    rounded += np.uint32(0x7FFF)
    rounded += bits
    rounded &= _HIGH_HALF
    nan = np.isnan(x)
    return (np.where(nan, _BF16_NAN, rounded) if np.count_nonzero(nan) else np.asarray(rounded)).view(np.float32)


@np.errstate(all="ignore")
def truncate_to_bf16(x: F32) -> F32:
    """fp32 to bf16 toward zero; infinities stay, NaN to 0x7fff."""
    bits = np.asarray(x).view(np.uint32)
    return np.where(np.isnan(x), _BF16_NAN, bits & _HIGH_HALF).view(np.float32)


@np.errstate(all="ignore")
def round_to_fp16(x: F32) -> F32:
    """fp32 to fp16 and back: nearest even, overflow to infinity; NaN to fp16 0x7fff, which widens to 0x7fffffff."""
    return canonical_nan(widen_half(narrow_to_half(np.asarray(x))))


@np.errstate(all="ignore")
def truncate_to_fp16(x: F32) -> F32:
    """fp32 to fp16 toward zero and back: a finite value never becomes infinite; NaN as in `round_to_fp16`."""
    near = np.clip(round_to_fp16(x), np.float32(-65504), np.float32(65504))
    bits = narrow_to_half(near).view(np.uint16)
    too_large = np.abs(near) > np.abs(x)
    value = widen_half(np.asarray(bits - too_large).view(np.float16))
    return canonical_nan(np.where(np.isfinite(x), value, x))


@np.errstate(all="ignore")
def divide_by_constant(a: F32, constant: float) -> F32:
    """Return `a / constant` as ptxas compiles fp32 division by a literal: a product with the rounded reciprocal."""
    return canonical_nan(np.asarray(a * (np.float32(1) / np.float32(constant))))


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
