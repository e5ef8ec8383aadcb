"""NVIDIA matrix units of sm_90: fused dot-add with truncation.

One instruction of n products and an addend c aligns them all to E, the largest exponent among them (products are not
renormalised, subnormal operands keep their format's smallest exponent, zeros do not count), truncates each toward zero
at F fraction bits below E, adds exactly, and truncates the sum toward zero to O fraction bits of its own binade.
Formulas: MMA-Sim (arXiv 2511.10909).
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from indexfuzz.lockstep.arithmetic.matrix_units.alignment import (
    NO_EXPONENT,
    Array,
    exponents,
    k_first_a,
    k_first_b,
    largest_exponent,
    power_of_two,
    program_chunks,
    programs,
    result_shape,
    special_sum,
    toward_zero,
    truncated_sum,
)
from indexfuzz.lockstep.arithmetic.matrix_units.ieee import ieee
from indexfuzz.lockstep.arithmetic.nan import canonical_nan

_FP8: Final = ("e4m3fn", "e5m2")
_HALF: Final = ("fp16", "bf16")
_WARP_GROUP_ROWS: Final = 64
_QGMMA_K: Final = 32
_HMMA_K: Final = 16
_QGMMA_FRACTION: Final = 13
_HMMA_FRACTION: Final = 25
_KEEP_13_BITS: Final = np.uint32(0xFFFFFC00)
_ZERO: Final = -64
"""Stands for the exponent of a zero FP8 operand where exponents are int8."""
_ABSENT: Final = -40
"""Below every product exponent of two FP8 operands, above every sum that contains `_ZERO`."""


@np.errstate(all="ignore")
def sm90(
    a: Array,
    b: Array,
    acc: Array,
    a_format: str,
    b_format: str,
    max_num_imprecise_acc: int | None = None,
) -> Array:
    """Return `acc + a @ b` with the bits of an H100 or H200; see `DotModel` for shapes.

    FP8 (e4m3fn, e5m2) with M a multiple of 64 runs on QGMMA (F = O = 13), whose chain carries the accumulator; with
    32 <= max_num_imprecise_acc <= K the chain restarts from zero after that many k and partial sums are joined by fp32
    additions. FP8 with another M or max_num_imprecise_acc < 32 is widened to fp16 and runs on HMMA (F = 25, O = 23),
    with the order of k in which Triton 3.6 feeds it. fp16 and bf16 use the same arithmetic in natural order. The kernel
    is assumed to run with a multiple of four warps. fp32 operands are computed by the `ieee` model, not as TF32.
    Raises ValueError for a format sm_90 lacks (fnuz), or K not a multiple of 32 (FP8) or 16.
    """
    if a_format == b_format == "fp32":
        return ieee(a, b, acc, a_format, b_format)
    size = a.shape[2]
    fp8 = a_format in _FP8 and b_format in _FP8
    if not fp8 and not (a_format == b_format and a_format in _HALF):
        message = f"sm_90 has no dot of {a_format} and {b_format}: use e4m3fn, e5m2, fp16, bf16 or fp32"
        raise ValueError(message)
    step = _QGMMA_K if fp8 else _HMMA_K
    if size % step:
        message = f"a dot of {a_format} on sm_90 takes K in multiples of {step}, not {size}"
        raise ValueError(message)
    special = special_sum(a, b, acc)
    if special is not None:
        a, b, acc = (np.where(np.isfinite(x), x, np.float32(0)) for x in (a, b, acc))
    period = size + 1 if max_num_imprecise_acc is None else max_num_imprecise_acc
    if not fp8:
        result = _hmma(a, b, acc, a_format, np.arange(size).reshape(-1, _HMMA_K))
    elif a.shape[1] % _WARP_GROUP_ROWS == 0 and period >= _QGMMA_K:
        result = _qgmma(a, b, acc, (a_format, b_format), period)
    else:
        result = _hmma(a, b, acc, "fp16", _widened_order(size))
    return result if special is None else canonical_nan(np.where(special == 0, result, special))


def _widened_order(size: int) -> NDArray[np.intp]:
    """Groups of 16 k that one HMMA multiplies when FP8 operands were widened to fp16, shape [size / 16, 16].

    A thread's four consecutive FP8 values (k = 4 t + 2 h + j) are split between two instructions (h).
    """
    k = np.arange(size).reshape(-1, 2, 4, 2, 2)
    return k.transpose(0, 3, 1, 2, 4).reshape(-1, _HMMA_K)


def _qgmma(a: Array, b: Array, acc: Array, formats: tuple[str, str], period: int) -> Array:
    """Chain of WGMMA m64nNk32 over FP8 operands; past `period` values of k a new chain starts from zero."""
    shape = result_shape(a, b, acc)
    size = a.shape[2]
    result = np.empty(shape, dtype=np.float32)
    for chunk in program_chunks(shape):
        left, right = k_first_a(programs(a, chunk)), k_first_b(programs(b, chunk))
        left_exponents, right_exponents = (_narrow(x, fmt) for x, fmt in zip((left, right), formats, strict=True))
        outer = np.broadcast_to(programs(acc, chunk), result[chunk].shape)
        chain = outer if period > size else np.zeros_like(outer)
        chained = 0
        for start in range(0, size, _QGMMA_K):
            k = slice(start, start + _QGMMA_K)
            chain = _fuse_fp8(left[k], right[k], left_exponents[k], right_exponents[k], chain)
            chained += _QGMMA_K
            if period <= size and (chained >= period or k.stop == size):
                outer = outer + chain
                chain = np.zeros_like(outer)
                chained = 0
        result[chunk] = chain if period > size else outer
    return canonical_nan(result)


def _fuse_fp8(a: Array, b: Array, ea: NDArray[np.int8], eb: NDArray[np.int8], c: Array) -> Array:
    """One QGMMA over 32 products in fp32: 8-bit products become integers below 2^15, 33 of them add up exactly."""
    top = largest_exponent(ea, eb, c.shape)
    present = top > _ABSENT
    unit = np.where(present, np.maximum(top, exponents(c, "fp32")), 0).astype(np.int32) - _QGMMA_FRACTION
    scale = ((127 - unit) << 23).view(np.float32)
    total = truncated_sum(a, b, scale) + np.trunc(c * scale)
    total *= ((127 + unit) << 23).view(np.float32)
    bits = np.where(present, total, c).view(np.uint32) & _KEEP_13_BITS
    # Adding +0 turns the -0 that truncation can leave into +0.
    return np.asarray(bits.view(np.float32) + np.float32(0))


def _narrow(x: Array, fmt: str) -> NDArray[np.int8]:
    return np.where(x == 0, _ZERO, exponents(x, fmt)).astype(np.int8)


def _hmma(a: Array, b: Array, acc: Array, fmt: str, groups: NDArray[np.intp]) -> Array:
    """Chain of 16-product instructions over fp16 or bf16 operands, one per row of `groups`, in float64."""
    shape = result_shape(a, b, acc)
    result = np.empty(shape, dtype=np.float32)
    for chunk in program_chunks(shape):
        left, right = k_first_a(programs(a, chunk)), k_first_b(programs(b, chunk))
        left_exponents, right_exponents = exponents(left, fmt), exponents(right, fmt)
        c = np.broadcast_to(programs(acc, chunk), result[chunk].shape)
        for k in groups:
            top = largest_exponent(left_exponents[k], right_exponents[k], c.shape)
            top = np.maximum(top, exponents(c, "fp32"))
            unit = np.where(top > NO_EXPONENT // 2, top, 0) - _HMMA_FRACTION
            scale = power_of_two(-unit)
            total = truncated_sum(left[k].astype(np.float64), right[k], scale) + np.trunc(c * scale)
            c = toward_zero(total * power_of_two(unit))
        result[chunk] = c
    return result
