"""The neutral model: float64 sum of exact products, one rounding to fp32, then an fp32 addition of the accumulator.

The sum runs over k = 0, 1, .. K-1 in float64. Wherever every partial sum is exact in float64 any order gives those same
bits, and a BLAS product replaces the loop.
"""

import numpy as np
from numpy.typing import NDArray

from indexfuzz.lockstep.arithmetic.fp8_codec import FORMATS
from indexfuzz.lockstep.arithmetic.matrix_units.alignment import k_first_a, k_first_b, program_chunks, programs
from indexfuzz.lockstep.arithmetic.nan import canonical_nan

_SIGNIFICAND_BITS = 53


@np.errstate(all="ignore")
def ieee(
    a: NDArray[np.float32],
    b: NDArray[np.float32],
    acc: NDArray[np.float32],
    a_format: str,
    b_format: str,
    max_num_imprecise_acc: int | None = None,  # noqa: ARG001 - every accumulation is precise
) -> NDArray[np.float32]:
    """Return fl(acc + fl(a @ b)); see `DotModel` for shapes. Every format and every K is served."""
    bits = _spread(a, a_format) + _spread(b, b_format) + int(a.shape[2]).bit_length()
    dot = _blas(a, b) if bits <= _SIGNIFICAND_BITS else _in_order(a, b)
    return canonical_nan(np.asarray(dot + acc))


def _blas(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.matmul(a.astype(np.float64), b.astype(np.float64)).astype(np.float32))


def _in_order(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    shape = (max(a.shape[0], b.shape[0]), a.shape[1], b.shape[2])
    result = np.empty(shape, dtype=np.float32)
    for chunk in program_chunks(shape):
        total = np.zeros(result[chunk].shape)
        term = np.empty_like(total)
        left = k_first_a(programs(a, chunk)).astype(np.float64)
        right = k_first_b(programs(b, chunk)).astype(np.float64)
        for x, y in zip(left, right, strict=True):
            np.multiply(x, y, out=term)
            np.add(total, term, out=total)
        result[chunk] = total
    return result


def _spread(x: NDArray[np.float32], fmt: str) -> int:
    """Bits from the top of the largest value to the lowest bit set in any; 1000 for infinities and NaN."""
    magnitude = np.abs(x).max(initial=np.float32(0))
    if not np.isfinite(magnitude):
        return 1000
    if fmt in FORMATS and FORMATS[fmt].fraction_bits == 3:
        return 18
    top = int(np.frexp(magnitude)[1])
    scaled = x.astype(np.float64) * 2.0 ** (62 - top)
    integers = scaled.astype(np.int64)
    if (integers != scaled).any():
        return 1000
    union = int(np.bitwise_or.reduce(integers, axis=None))
    return 62 - ((union & -union).bit_length() - 1) if union else 0
