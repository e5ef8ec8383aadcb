"""The neutral model: float64 sum of exact products, one rounding to fp32, then an fp32 addition of the accumulator.

The sum runs over k = 0, 1, .. K-1 in float64. A BLAS product adds in an order of its own; where every order gives the
same sum, or sums to which the same fp32 value is nearest, that is taken. Elsewhere the sum is made again in order.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from indexfuzz.lockstep.arithmetic.fp8_codec import FORMATS
from indexfuzz.lockstep.arithmetic.matrix_units.alignment import k_first_a, k_first_b, program_chunks, programs
from indexfuzz.lockstep.arithmetic.nan import canonical_nan

_UNIT: Final = 2.0**-53
"""What rounding to float64 is wrong by at most, as a share of the result."""

_MANY: Final = 16
"""Where more than one in so many elements has to be made again, all are."""

_LONGEST: Final = 1 << 16
"""Products of two FP8 values with 3 bits of fraction, 36 bits from the largest to the smallest, whose sum is exact."""

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


@np.errstate(all="ignore")
def ieee(
    a: F32,
    b: F32,
    acc: F32,
    a_format: str,
    b_format: str,
    max_num_imprecise_acc: int | None = None,  # noqa: ARG001 - every accumulation is precise
) -> F32:
    """Return fl(acc + fl(a @ b)); see `DotModel` for shapes. Every format and every K is served."""
    is_narrow = all(fmt in FORMATS and FORMATS[fmt].fraction_bits == 3 for fmt in (a_format, b_format))
    return canonical_nan(np.asarray(_product(a, b, is_narrow=is_narrow and a.shape[2] <= _LONGEST) + acc))


def _product(a: F32, b: F32, *, is_narrow: bool) -> F32:
    """a @ b: two sums of the same K products differ by less than 4 K units of the sum of their magnitudes.

    is_narrow says that no float64 sum of finite products is rounded.
    """
    left, right = a.astype(np.float64), b.astype(np.float64)
    total = np.matmul(left, right)
    total += 0.0  # a sum in order begins with +0
    if is_narrow and np.isfinite(total).all():
        return np.asarray(total.astype(np.float32))
    magnitude = np.matmul(np.abs(left), np.abs(right))
    rounded = ~(magnitude < 0.5 / _UNIT * _lowest_bit(a, 2) * _lowest_bit(b, 1))
    result: F32 = total.astype(np.float32)
    if not rounded.any():
        return result
    lost = np.isnan(magnitude)  # one of the products is NaN, as where all scores of a row are masked
    result[lost] = np.nan
    magnitude *= 4 * a.shape[2] * _UNIT
    least, most = (total - magnitude).astype(np.float32), (total + magnitude).astype(np.float32)
    doubtful = rounded & ~lost & ((least.view(np.int32) != most.view(np.int32)) | np.isinf(magnitude))
    count = int(np.count_nonzero(doubtful))
    if count * _MANY > doubtful.size:
        return _in_order(a, b)
    if count:
        program, row, column = np.nonzero(doubtful)
        rows = left[program if len(a) > 1 else 0, row]
        columns = right[program if len(b) > 1 else 0, :, column]
        result[doubtful] = np.add.accumulate(rows * columns, axis=1)[:, -1] + 0.0
    return result


def _lowest_bit(x: F32, axis: int) -> F64:
    """What all elements along an axis are multiples of: the lowest bit that is set in any of them, infinity in none."""
    bits = x.view(np.int32)
    lowest = x - (bits & (bits - 1)).view(np.float32)
    np.copyto(lowest, x, where=(bits & ((1 << 23) - 1)) == 0)
    np.abs(lowest, out=lowest)
    lowest[lowest == 0] = np.inf
    least: F64 = lowest.min(axis=axis, keepdims=True).astype(np.float64)
    return least


def _in_order(a: F32, b: F32) -> F32:
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
