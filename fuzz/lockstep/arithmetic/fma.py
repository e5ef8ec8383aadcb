"""Fused multiply-add in numpy, which has none."""

import math
from fractions import Fraction
from typing import Final

import numpy as np
from numpy.typing import NDArray

from indexfuzz.lockstep.arithmetic.nan import canonical_nan

_BELOW_FP32: Final = np.int64((1 << 29) - 1)
"""Fraction bits of a float64 that a normal fp32 lacks."""
_MIDPOINT: Final = np.int64(1 << 28)
_SMALLEST_NORMAL: Final = 2.0**-126

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


@np.errstate(all="ignore")
def fma32(a: F32 | np.float32, b: F32 | np.float32, c: F32 | np.float32) -> F32:
    """Return `a * b + c` with one rounding, broadcasting.

    The product is exact in float64. Rounding the float64 sum to fp32 is right unless that sum looks like a midpoint of
    two fp32 values or falls below the normal range; only then is it redone with the float64 sum rounded to odd, which
    keeps on which side of the midpoint the exact sum lies (Boldo and Melquiond).
    """
    product = np.asarray(a).astype(np.float64) * np.asarray(b).astype(np.float64)
    addend = np.asarray(c).astype(np.float64)
    total = np.asarray(product + addend)
    result = total.astype(np.float32)
    doubtful = (total.view(np.int64) & _BELOW_FP32) == _MIDPOINT
    doubtful |= np.abs(total) < _SMALLEST_NORMAL
    if doubtful.any():
        at = np.nonzero(doubtful)
        result[at] = _sum_to_odd(np.broadcast_to(product, total.shape)[at], np.broadcast_to(addend, total.shape)[at])
    return canonical_nan(result)


@np.errstate(all="ignore")
def fma64(a: F64, b: F64, c: F64) -> F64:
    """Return `a * b + c` in float64 with one rounding; three arrays of one shape.

    The product is split into two float64 values that add up to it (Dekker); of their sum with c, all but the leading
    part is rounded to odd first (Boldo and Melquiond). Where magnitudes are extreme, exact fractions take over.
    """
    result = np.asarray(a * b + c)
    finite = np.isfinite(a) & np.isfinite(b) & np.isfinite(c) & (a != 0) & (b != 0)
    usual = finite & _is_between(a, 450) & _is_between(b, 450) & (_is_between(c, 900) | (c == 0))
    result[usual] = _fma_of_usual(a[usual], b[usual], c[usual])
    rest = finite & ~usual
    if rest.any():
        operands = (x[rest].tolist() for x in (a, b, c))
        result[rest] = [_fma_of_fractions(x, y, z) for x, y, z in zip(*operands, strict=True)]
    return result


@np.errstate(all="ignore")
def fma_of_halves(a: F64, b: F64, c: F64) -> F64:
    """`a * b + c` of fp16 or bf16 values, in float64 rounded to odd: what rounds once more rounds as if only then."""
    return _sum_to_odd(np.asarray(a * b), np.asarray(c))


@np.errstate(all="ignore")
def narrow_to_odd(x: F64) -> F32:
    """Float64 as fp32; where that is inexact, the neighbour whose last bit is set."""
    near = x.astype(np.float32)
    bits = near.view(np.uint32)
    beyond = np.abs(near.astype(np.float64)) > np.abs(x)
    odd = (bits - beyond.astype(np.uint32)) | np.uint32(1)
    return np.where((near.astype(np.float64) != x) & ~np.isnan(x), odd, bits).view(np.float32)


def _is_between(x: F64, exponent: int) -> NDArray[np.bool_]:
    return (np.abs(x) > 2.0**-exponent) & (np.abs(x) < 2.0**exponent)


def _fma_of_usual(a: F64, b: F64, c: F64) -> F64:
    product = a * b
    (a_high, a_low), (b_high, b_low) = _split(a), _split(b)
    error = a_low * b_low - (((product - a_high * b_high) - a_low * b_high) - a_high * b_low)
    high, low = _two_sum(c, error)
    total, rest = _two_sum(product, high)
    return total + _sum_to_odd(rest, low)


def _split(x: F64) -> tuple[F64, F64]:
    """Two halves of a significand, which add up to x (Veltkamp)."""
    scaled = x * float((1 << 27) + 1)
    high = scaled - (scaled - x)
    return high, x - high


def _two_sum(x: F64, y: F64) -> tuple[F64, F64]:
    """The rounded sum and its error (Knuth)."""
    total = x + y
    virtual = total - x
    return total, (x - (total - virtual)) + (y - virtual)


def _fma_of_fractions(a: float, b: float, c: float) -> float:
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    try:
        return float(exact)
    except OverflowError:
        return math.inf if exact > 0 else -math.inf


def _sum_to_odd(x: F64, y: F64) -> F64:
    """Sum of `x` and `y`; where it is inexact, that neighbour of the exact sum whose last bit is set."""
    total, error = _two_sum(x, y)
    inexact = (error < 0) | (error > 0)
    bits = total.view(np.int64)
    step = np.where((error > 0) == (total > 0), np.int64(1), np.int64(-1))
    return np.where(inexact & ((bits & 1) == 0), bits + step, bits).view(np.float64)
