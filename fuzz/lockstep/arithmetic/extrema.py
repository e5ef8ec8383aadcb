"""The maximum, minimum and clamp of a GPU, with its rules for NaN and the sign of zero.

Every function is elementwise over any shape and gives the same bits on every machine.
"""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]

Float = TypeVar("Float", bound=np.floating)


@np.errstate(all="ignore")
def maxnum(a: NDArray[Float], b: NDArray[Float]) -> NDArray[Float]:
    """Larger operand, broadcasting; a NaN operand is ignored, +0 is above -0 (PTX max)."""
    return _mend(a, b, np.fmax(a, b), np.bitwise_and)


@np.errstate(all="ignore")
def minnum(a: NDArray[Float], b: NDArray[Float]) -> NDArray[Float]:
    """Smaller operand, broadcasting; a NaN operand is ignored, -0 is below +0 (PTX min)."""
    return _mend(a, b, np.fmin(a, b), np.bitwise_or)


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


def _mend(a: NDArray[Float], b: NDArray[Float], chosen: NDArray[Float], combine_zeros: np.ufunc) -> NDArray[Float]:
    """What numpy chose of two operands, with the sign of zero and the NaN that a GPU gives."""
    zero = np.asarray(chosen == 0)
    if zero.any():
        unsigned = np.dtype(f"u{chosen.dtype.itemsize}")
        zeros = combine_zeros(np.asarray(a).view(unsigned), np.asarray(b).view(unsigned)).view(chosen.dtype)
        chosen = np.where(zero & (a == b), zeros, chosen)
    nan = np.isnan(chosen)
    return np.where(nan, _nan(a), chosen) if nan.any() else chosen


def _nan(like: NDArray[Float]) -> NDArray[Float]:
    """Return the canonical NaN in the dtype of `like`: every bit set but the sign."""
    size = np.asarray(like).dtype.itemsize
    return np.array((1 << (8 * size - 1)) - 1, dtype=f"u{size}").view(np.asarray(like).dtype)
