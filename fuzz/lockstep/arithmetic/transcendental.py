"""log, exp, sqrt and their relatives in fp32 as sm_90 computes them, with the same bits on every machine.

What decides is made of correctly rounded operations: numpy's log and exp call whatever libm or SIMD kernel the machine
has.

The logarithms follow, step by step, the fp32 polynomials that Triton links in from libdevice, so their bits are the
hardware's. exp2, exp, sqrt and rsqrt use approximate instructions there (1 to 2 ulp); here they are the fp32 value
nearest to a float64 result that is accurate to a few 2^-52. Where any result that is accurate to 2^-48 has the same
fp32 value nearest to it, the machine's own exp2 does as well.
"""

import math
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from indexfuzz.lockstep.arithmetic.nan import canonical_nan

F32 = NDArray[np.float32]

_BLOCK: Final = 1 << 15
_SMALLEST_NORMAL: Final = np.float32(2.0**-126)
_INFINITY: Final = np.float32(np.inf)
_LOG2_E: Final = np.float32(1.4426950408889634)
_LN2: Final = 0.6931471805599453
_EXP_TERMS: Final = tuple(1.0 / math.factorial(n) for n in range(4, 0, -1))
_ROOT_BITS: Final = 8
_MACHINE_ERROR: Final = 2.0**-48
"""What a machine's float64 exp2 is wrong by at most, a generous bound, as a share of the result."""


def _fp32_constants(*bits: int) -> list[np.float32]:
    return list(np.array(bits, dtype=np.uint32).view(np.float32))


_LOG2_START: Final = np.int32(1060439283)
_LOG2_TERMS: Final = _fp32_constants(
    0x3DC6B27F,
    0xBE2C7F30,
    0x3E2FCF2A,
    0xBE374E43,
    0x3E520BF4,
    0xBE763C8B,
    0x3E93BF99,
    0xBEB8AA49,
    0x3EF6384A,
    0xBF38AA3B,
)
_LOG_START: Final = np.int32(1059760811)
_LOG_TERMS: Final = _fp32_constants(
    0xBE055027, 0x3E1039F6, 0xBDF8CDCC, 0x3E0F2955, 0xBE2AD8B9, 0x3E4CED0B, 0xBE7FFF22, 0x3EAAAA78, 0xBF000000
)
"""Coefficients and the smallest reduced argument's bits, read from the PTX of a compiled `tl.log2` and `tl.log`."""


@np.errstate(all="ignore")
def log2_f32(x: F32) -> F32:
    """Base-2 logarithm, any shape: the bits of `tl.log2` on sm_90, exact at powers of two; -inf at ±0, NaN below."""
    return in_blocks(_log2, x)


@np.errstate(all="ignore")
def log_f32(x: F32) -> F32:
    """Natural logarithm, any shape: the bits of `tl.log` on sm_90; -inf at ±0, NaN below."""
    return in_blocks(_log, x)


@np.errstate(all="ignore")
def exp2_f32(x: F32) -> F32:
    """Two to the power x, any shape: exact at integers, flushed to zero below 2^-126 (ex2.approx.ftz), inf from 128."""
    value = in_blocks(_exp2, x)
    return np.where(value < _SMALLEST_NORMAL, np.float32(0), value)


@np.errstate(all="ignore")
def exp_f32(x: F32) -> F32:
    """Natural exponential, any shape: exp2 of the fp32 product with log2(e), subnormal results kept (ex2.approx)."""
    return in_blocks(_exp2, np.asarray(x * _LOG2_E))


@np.errstate(all="ignore")
def sqrt_f32(x: F32) -> F32:
    """Square root, any shape: subnormals count as zero (sqrt.approx.ftz), NaN below zero."""
    return canonical_nan(np.asarray(np.sqrt(_flush(x))))


@np.errstate(all="ignore")
def sqrt_rn_f32(x: F32) -> F32:
    """Correctly rounded square root of any shape, as `tl.sqrt_rn`; NaN below zero."""
    return canonical_nan(np.asarray(np.sqrt(x)))


@np.errstate(all="ignore")
def rsqrt_f32(x: F32) -> F32:
    """Reciprocal square root, any shape: ±inf at ±0 and at subnormals (rsqrt.approx.ftz), NaN below zero."""
    return canonical_nan(np.asarray((1.0 / np.sqrt(_flush(x).astype(np.float64))).astype(np.float32)))


def in_blocks(function: Callable[[F32], F32], x: F32) -> F32:
    """Apply an elementwise `function` of one axis to pieces of `x` whose temporaries stay in the cache."""
    flat = np.asarray(x).reshape(-1)
    if flat.size <= _BLOCK:
        return function(flat).reshape(np.shape(x))
    result = np.empty_like(flat)
    for start in range(0, flat.size, _BLOCK):
        result[start : start + _BLOCK] = function(flat[start : start + _BLOCK])
    return result.reshape(x.shape)


def _flush(x: F32) -> F32:
    return np.where(np.abs(x) < _SMALLEST_NORMAL, np.copysign(np.float32(0), x), x)


def _log2(x: F32) -> F32:
    normal, exponent, f = _reduce(x, _LOG2_START)
    product = f * (f * _horner(_LOG2_TERMS, f))
    return _with_poles(normal, np.asarray(np.add(exponent, _add_product(f, _LOG2_E, product))))


def _log(x: F32) -> F32:
    normal, exponent, f = _reduce(x, _LOG_START)
    series = _add_product(f * _horner(_LOG_TERMS, f), f, f)
    return _with_poles(normal, _add_product(exponent, np.float32(_LN2), series))


def _horner(terms: Sequence[np.float32], f: F32) -> F32:
    """The polynomial in f with these coefficients, the highest first; each step is rounded once.

    f is a multiple of 2^-24, and all that it is multiplied with lies between 2^-4 and 1, so is one of 2^-27: each sum
    is a multiple of 2^-51 below 1, which a float64 holds.
    """
    wide = f.astype(np.float64)
    total, value = np.full_like(wide, terms[0]), np.empty_like(f)
    for term in terms[1:]:
        total *= wide
        total += np.float64(term)
        value[...] = total
        total[...] = value
    return value


def _add_product(a: F32, b: F32 | np.float32, c: F32) -> F32:
    """a * b + c, rounded once, of the operands that logarithms have: no sum in float64 is rounded to a midpoint."""
    total = a.astype(np.float64)
    total *= b
    total += c
    return total.astype(np.float32)


def _reduce(x: F32, start: np.int32) -> tuple[F32, F32, F32]:
    """Split `x` into 2^exponent * (1 + f), with 1 + f from the float whose bits are `start` to twice that.

    The first result is `x` itself with subnormals scaled by 2^23.
    """
    below = x < _SMALLEST_NORMAL
    is_scaled = below.any()
    normal = np.where(below, x * np.float32(2.0**23), x) if is_scaled else x
    bits = normal.view(np.int32)
    shifted = bits - start
    shifted &= np.int32(-(1 << 23))
    exponent = shifted.astype(np.float32)
    exponent *= np.float32(2.0**-23)
    if is_scaled:
        exponent -= np.where(below, np.float32(23), np.float32(0))
    f = (bits - shifted).view(np.float32)
    f -= np.float32(1)
    return normal, exponent, f


def _with_poles(normal: F32, value: F32) -> F32:
    """Put in the logarithms of zero, infinity, NaN and negative numbers."""
    regular = (normal > 0) & (normal < _INFINITY)
    if regular.all():
        return value
    poles = np.where(normal == 0, -_INFINITY, np.where(normal > 0, _INFINITY, np.float32(np.nan)))
    return canonical_nan(np.where(regular, value, poles))


def _exp2(x: F32) -> F32:
    """2^x: the machine's, where what is a little more and a little less has the same fp32 value nearest to it."""
    machine = np.exp2(x, dtype=np.float64)
    value = (machine * (1 - _MACHINE_ERROR)).astype(np.float32)
    machine *= 1 + _MACHINE_ERROR
    doubtful = value.view(np.int32) != machine.astype(np.float32).view(np.int32)
    if doubtful.any():
        value[doubtful] = _exp2_by_table(x[doubtful])
    return canonical_nan(value)


def _exp2_by_table(x: F32) -> F32:
    """2^x = 2^e * 2^(k / 256) * exp(t), with |t| up to ln 2 / 512: four terms leave out less than 2^-54."""
    wide = np.fmax(np.fmin(x, np.float32(200)), np.float32(-200)).astype(np.float64) * (1 << _ROOT_BITS)
    parts = np.rint(wide)
    t = (wide - parts) * (_LN2 / (1 << _ROOT_BITS))
    series = t * _EXP_TERMS[0]
    for term in _EXP_TERMS[1:]:
        series += term
        series *= t
    number = parts.astype(np.int64)
    root = _roots().take(number & (1 << _ROOT_BITS) - 1)
    root *= ((number >> _ROOT_BITS) + 1023 << 52).view(np.float64)
    series *= root
    series += root
    return series.astype(np.float32)


@cache
def _roots() -> NDArray[np.float64]:
    """2^(k / 256), correctly rounded."""
    return np.array([float(Decimal(2) ** (Decimal(k) / (1 << _ROOT_BITS))) for k in range(1 << _ROOT_BITS)])
