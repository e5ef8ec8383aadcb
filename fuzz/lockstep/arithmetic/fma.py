"""Fused multiply-add in numpy, which has none."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from indexfuzz.lockstep.arithmetic.nan import canonical_nan

_BELOW_FP32: Final = np.int64((1 << 29) - 1)
"""Fraction bits of a float64 that a normal fp32 lacks."""
_MIDPOINT: Final = np.int64(1 << 28)
_SMALLEST_NORMAL: Final = 2.0**-126

F32 = NDArray[np.float32]


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
        result[doubtful] = _sum_to_odd(
            np.broadcast_to(product, total.shape)[doubtful], np.broadcast_to(addend, total.shape)[doubtful]
        )
    return canonical_nan(result)


@np.errstate(all="ignore")
def fma64(a: NDArray[np.float64], b: NDArray[np.float64], c: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return `a * b + c` in float64 with two roundings: no kernel of this domain depends on the fused form."""
    return np.asarray(a * b + c)


def _sum_to_odd(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum of `x` and `y`; where it is inexact, that neighbour of the exact sum whose last bit is set."""
    total = x + y
    virtual = total - x
    error = (x - (total - virtual)) + (y - virtual)
    inexact = (error < 0) | (error > 0)
    bits = total.view(np.int64)
    step = np.where((error > 0) == (total > 0), np.int64(1), np.int64(-1))
    return np.where(inexact & ((bits & 1) == 0), bits + step, bits).view(np.float64)
