"""What the models of fused dot-add units share: exponents, truncated sums of products, and special values.

The k axis comes first here: `a` is (K, P, M, 1), `b` is (K, P, 1, N), and one step of a loop over k handles all outputs
of all programs with elementwise operations only, so the bits do not depend on numpy's choice of a summation order.
"""

from collections.abc import Iterator
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Wide = NDArray[np.float64]
Exponents = NDArray[np.int16]
Float = TypeVar("Float", bound=np.floating)
Integer = TypeVar("Integer", bound=np.signedinteger)

NO_EXPONENT: Final = -1000
"""Stands for the exponent of zero; below every real one even after another operand's exponent is added."""

MIN_EXPONENT: Final = {
    "e4m3fn": -6,
    "e4m3fnuz": -7,
    "e4m3b11fnuz": -10,
    "e5m2": -14,
    "e5m2fnuz": -15,
    "fp16": -14,
    "bf16": -126,
    "fp32": -126,
}
"""Exponent of a format's subnormals, which the units do not normalise."""

_CHUNK: Final = 32768
"""Outputs handled together: their temporaries fit in the second-level cache."""


def k_first_a(a: Array) -> Array:
    """(P, M, K) to contiguous (K, P, M, 1)."""
    return np.ascontiguousarray(a.transpose(2, 0, 1))[..., None]


def k_first_b(b: Array) -> Array:
    """(P, K, N) to contiguous (K, P, 1, N)."""
    return np.ascontiguousarray(b.transpose(1, 0, 2))[:, :, None, :]


def exponents(x: Array, fmt: str) -> Exponents:
    """Floor of log2|x|, not below the format's smallest exponent; NO_EXPONENT for zero. Infinities and NaN give 128."""
    field = ((np.asarray(x).view(np.uint32) >> 23) & np.uint32(0xFF)).astype(np.int16)
    clamped = np.maximum(field - np.int16(127), np.int16(MIN_EXPONENT[fmt]))
    return np.where(x == 0, np.int16(NO_EXPONENT), clamped)


def largest_exponent(ea: NDArray[Integer], eb: NDArray[Integer], shape: tuple[int, ...]) -> NDArray[Integer]:
    """Largest product exponent over the leading axis, of shape (P, M, N)."""
    top = np.empty(shape, dtype=ea.dtype)
    np.add(ea[0], eb[0], out=top)
    scratch = np.empty_like(top)
    for x, y in zip(ea[1:], eb[1:], strict=True):
        np.add(x, y, out=scratch)
        np.maximum(top, scratch, out=top)
    return top


def truncated_sum(a: NDArray[Float], b: NDArray[np.floating], scale: NDArray[Float]) -> NDArray[Float]:
    """Sum over the leading axis of a * b * scale, each term truncated to an integer.

    Exact as long as the products and the sum fit the significand of the operands' dtype.
    """
    total = np.zeros(scale.shape, dtype=scale.dtype)
    scratch = np.empty_like(total)
    for x, y in zip(a, b, strict=True):
        np.multiply(x, y, out=scratch)
        np.multiply(scratch, scale, out=scratch)
        np.trunc(scratch, out=scratch)
        np.add(total, scratch, out=total)
    return total


def power_of_two(exponent: NDArray[np.signedinteger]) -> Wide:
    """2 to an integer power in [-1022, 1023], as float64."""
    return ((exponent.astype(np.int64) + 1023) << 52).view(np.float64)


def toward_zero(x: Wide) -> Array:
    """float64 to fp32 toward zero, subnormals kept; from 2^128 on infinite. The result is never -0."""
    near = x.astype(np.float32)
    too_large = (np.abs(near) > np.abs(x)) & (np.abs(x) < 2.0**128)
    return np.asarray((near.view(np.uint32) - too_large).view(np.float32) + np.float32(0))


def special_sum(a: Array, b: Array, acc: Array, product_limit: float = np.inf) -> Array | None:
    """IEEE sum of products where it is infinite or NaN and 0 elsewhere, (P, M, N); None if it is finite everywhere.

    A product of magnitude `product_limit` or more counts as infinite.
    """
    largest = float(np.abs(a).max(initial=np.float32(0))) * float(np.abs(b).max(initial=np.float32(0)))
    if largest < product_limit and np.isfinite(acc).all():
        return None
    total = np.zeros(result_shape(a, b, acc)) + acc
    for x, y in zip(k_first_a(a), k_first_b(b), strict=True):
        term = x.astype(np.float64) * y
        total += np.where(np.abs(term) >= product_limit, np.copysign(np.inf, term), term)
    return np.where(np.isfinite(total), 0.0, total).astype(np.float32)


def result_shape(a: Array, b: Array, acc: Array) -> tuple[int, int, int]:
    """(P, M, N) of a dot, with P the largest of the three program axes."""
    return max(a.shape[0], b.shape[0], acc.shape[0]), a.shape[1], b.shape[2]


def program_chunks(shape: tuple[int, int, int]) -> Iterator[slice]:
    """Slices of the program axis that together cover it."""
    step = max(1, _CHUNK // max(1, shape[1] * shape[2]))
    return (slice(start, start + step) for start in range(0, shape[0], step))


def programs(x: Array, chunk: slice) -> Array:
    """Cut `chunk` out of the program axis, or return `x` itself where that axis is broadcast."""
    return x if x.shape[0] == 1 else x[chunk]
