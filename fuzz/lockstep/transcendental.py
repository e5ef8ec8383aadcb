"""log2, exp2 and their relatives in fp32, with the same bits on every machine.

Only float64 + - * / and bit operations: numpy's own functions call whatever libm or SIMD kernel the machine has. The
float64 result is accurate to a few 2^-52, so rounding it once gives the correctly rounded fp32 value save for
arguments whose exact result lies that close to a midpoint.
"""

import math
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from indexfuzz.lockstep.fp8_codec import NAN_BITS

F32 = NDArray[np.float32]

_BLOCK: Final = 8192
_LOG2_E_F32: Final = np.float32(1.4426950408889634)
_LN2_F32: Final = np.float32(0.6931471805599453)
_LN2: Final = 0.6931471805599453
_TWO_OVER_LN2: Final = 2.8853900817779268
_ATANH_TERMS: Final = tuple(1.0 / (2 * n + 1) for n in range(10, 0, -1))
_EXP_TERMS: Final = tuple(1.0 / math.factorial(n) for n in range(14, 0, -1))
_SQRT_HALF_FRACTION: Final = np.int64(0x6A09E667F3BCD)
_FRACTION_MASK: Final = np.int64((1 << 52) - 1)
_SMALLEST_NORMAL: Final = np.float32(2.0**-126)


@np.errstate(all="ignore")
def log2_f32(x: F32) -> F32:
    """Base-2 logarithm, any shape: exact at powers of two; -inf at ±0, NaN below zero."""
    return _in_blocks(_log2, x)


@np.errstate(all="ignore")
def exp2_f32(x: F32) -> F32:
    """Two to the power x, any shape: exact at integers, flushed to zero below 2^-126 (ex2.approx.ftz), inf from 128."""
    return _in_blocks(_exp2, x)


@np.errstate(all="ignore")
def exp_f32(x: F32) -> F32:
    """Natural exponential as Triton lowers it: exp2 of the fp32 product with log2(e)."""
    return exp2_f32(np.asarray(x * _LOG2_E_F32))


@np.errstate(all="ignore")
def log_f32(x: F32) -> F32:
    """Natural logarithm: the fp32 product of log2 and ln(2)."""
    return np.asarray(log2_f32(x) * _LN2_F32)


@np.errstate(all="ignore")
def sqrt_f32(x: F32) -> F32:
    """Correctly rounded square root; NaN below zero."""
    return canonical_nan(np.asarray(np.sqrt(x)))


@np.errstate(all="ignore")
def rsqrt_f32(x: F32) -> F32:
    """Reciprocal square root through float64, any shape; ±inf at ±0, NaN below zero."""
    return canonical_nan(np.asarray((1.0 / np.sqrt(np.asarray(x).astype(np.float64))).astype(np.float32)))


@np.errstate(all="ignore")
def canonical_nan(x: F32) -> F32:
    """`x` with every NaN replaced by 0x7fffffff; the sign of a NaN that the CPU generates depends on the machine."""
    nan = np.isnan(x)
    if not nan.any():
        return x
    return np.where(nan, NAN_BITS.view(np.float32), x)


def _in_blocks(function: Callable[[F32], F32], x: F32) -> F32:
    """Apply an elementwise `function` to pieces of `x` whose temporaries stay in the cache."""
    if x.size <= _BLOCK:
        return function(np.asarray(x))
    flat = x.reshape(-1)
    pieces = [function(flat[start : start + _BLOCK]) for start in range(0, flat.size, _BLOCK)]
    return np.concatenate(pieces).reshape(x.shape)


def _log2(x: F32) -> F32:
    wide = np.asarray(x).astype(np.float64)
    regular = (wide > 0) & (wide < np.inf)
    bits = np.where(regular, wide, 1.0).view(np.int64)
    # Significands above sqrt(2) are halved: |m - 1| stays small and e + log2(m) never cancels.
    upper = (bits & _FRACTION_MASK) > _SQRT_HALF_FRACTION
    exponent = (bits >> 52) - 1023 + upper
    m = ((bits & _FRACTION_MASK) | ((np.int64(1023) - upper) << 52)).view(np.float64)
    t = (m - 1.0) / (m + 1.0)
    square = t * t
    series = np.full_like(square, _ATANH_TERMS[0])
    for term in _ATANH_TERMS[1:]:
        series = series * square + term
    value = exponent + (t + t * (square * series)) * _TWO_OVER_LN2
    special = np.where(wide == 0, -np.inf, np.where(wide > 0, np.inf, np.nan))
    return canonical_nan(np.where(regular, value, special).astype(np.float32))


def _exp2(x: F32) -> F32:
    wide = np.clip(np.where(np.isnan(x), np.float32(0), x), np.float32(-200), np.float32(200)).astype(np.float64)
    whole = np.rint(wide)
    t = (wide - whole) * _LN2
    series = np.full_like(t, _EXP_TERMS[0])
    for term in _EXP_TERMS[1:]:
        series = series * t + term
    scale = ((whole.astype(np.int64) + 1023) << 52).view(np.float64)
    value = ((1.0 + t * series) * scale).astype(np.float32)
    value = np.where(value < _SMALLEST_NORMAL, np.float32(0), value)
    return canonical_nan(np.where(np.isnan(x), np.asarray(x), value))
