"""Integer operations with C's meaning, and the interval and overflow bookkeeping of 32-bit arithmetic."""

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from indexfuzz.lockstep.operations.context import Context
from indexfuzz.lockstep.values.arrays import Array, Mask, either
from indexfuzz.lockstep.values.dtypes import I1
from indexfuzz.lockstep.values.sums import Terms, add_terms, may_grow
from indexfuzz.lockstep.values.value import Value, is_large, may_be_sum

_UNKNOWN: Final = (-(1 << 64), 1 << 64)
"""Bounds that say nothing: what is computed with them lies beyond those of every type."""


class IntegerOps(Context):
    """create_add and everything else that takes signless integers."""

    reads_unsigned: bool = False
    """Whether the running addition, subtraction or multiplication reads its operands as unsigned."""

    def begin_unsigned(self) -> None:
        """Say that the coming operations read their operands as unsigned."""
        self.reads_unsigned = True

    def end_unsigned(self) -> None:
        """Say that they no longer do."""
        self.reads_unsigned = False

    def create_add(self, a: Value, b: Value) -> Value:
        if a.ty.bits == 1:
            return self.create_xor(a, b)
        (al, ah), (bl, bh) = self._span(a), self._span(b)
        return self._arithmetic(np.add, a, b, al + bl, ah + bh)

    def create_sub(self, a: Value, b: Value) -> Value:
        if a.ty.bits == 1:
            return self.create_xor(a, b)
        (al, ah), (bl, bh) = self._span(a), self._span(b)
        return self._arithmetic(np.subtract, a, b, al - bh, ah - bl)

    def create_mul(self, a: Value, b: Value) -> Value:
        if a.ty.bits == 1:
            return self.create_and(a, b)
        (al, ah), (bl, bh) = self._span(a), self._span(b)
        corners = (al * bl, al * bh, ah * bl, ah * bh)
        return self._arithmetic(np.multiply, a, b, min(corners), max(corners))

    def create_shl(self, a: Value, b: Value) -> Value:
        """a << b; 0 where b is at least the width."""
        width = a.ty.bits
        counts = b.data.view(b.ty.unsigned)
        shifted = np.where(counts < width, a.data << np.minimum(counts, width - 1).astype(a.data.dtype), 0)
        result = self._join(a, b, shifted.astype(a.data.dtype, copy=False))
        if width == 32 and self.tracks_overflow:
            (al, ah), (bl, bh) = self._span(a), self._span(b)
            if bl >= 0 and bh < 63 and (al << bh < a.ty.minimum or ah << bh > a.ty.maximum):
                exact = a.data.astype(np.int64) << np.minimum(counts, 31).astype(np.int64)
                self._mark_wrapped(result, exact != result.data)
        return result

    def _span(self, x: Value) -> tuple[int, int]:
        bits = x.ty.bits
        if bits < 32:
            return _UNKNOWN
        low, high = x.low, x.high
        if low is None or high is None:
            if not (x.is_bounded() or (bits == 32 and self.tracks_overflow)):
                return _UNKNOWN
            low, high = x.bounds()
        if low < 0 and self.reads_unsigned:
            unsigned = x.data.view(x.ty.unsigned)
            return int(unsigned.min()), int(unsigned.max())
        return low, high

    def _arithmetic(self, ufunc: Callable[[Any, Any], Array], a: Value, b: Value, low: int, high: int) -> Value:
        ty = a.ty
        fits = ty.minimum <= low and high <= ty.maximum and not (self.reads_unsigned and low < 0)
        terms = _terms(ufunc, a, b) if fits or ty.bits == 64 else None
        result = self._join(a, b, ufunc(a.data, b.data)) if terms is None else self._sum(a, b, terms)
        if fits:
            result.low, result.high = low, high
            if is_large(result):
                result.step = _step(ufunc, a, b)
        elif ty.bits != 32 or not self.tracks_overflow:
            pass
        elif self.reads_unsigned:
            if low < 0 or high >= 1 << 32:
                exact = ufunc(a.data.view(np.uint32).astype(np.int64), b.data.view(np.uint32).astype(np.int64))
                self._mark_wrapped(result, exact != result.data.view(np.uint32))
        else:
            exact = ufunc(a.data.astype(np.int64), b.data.astype(np.int64))
            self._mark_wrapped(result, exact != result.data)
        return result

    def _mark_wrapped(self, result: Value, lanes: Mask) -> None:
        if lanes.any():
            result.wrapped = either(result.wrapped, lanes)

    # division
    def create_sdiv(self, a: Value, b: Value) -> Value:
        """a / b toward zero, -1 where b is zero."""
        if self._shifts(a, b):
            count = int(b.data.flat[0]).bit_length() - 1
            result = self._join(a, b, a.data >> a.data.dtype.type(count))
            low, high = a.bounds()
            result.low, result.high = low >> count, high >> count
            return result
        return self._join(a, b, _divide_toward_zero(a.data, b.data))

    def create_srem(self, a: Value, b: Value) -> Value:
        """The remainder that goes with create_sdiv."""
        if self._shifts(a, b):
            result = self._join(a, b, a.data & (b.data - 1))
            result.low, result.high = 0, min(a.bounds()[1], int(b.data.flat[0]) - 1)
            return result
        quotient = _divide_toward_zero(a.data, b.data)
        return self._join(a, b, a.data - quotient * b.data)

    def create_udiv(self, a: Value, b: Value) -> Value:
        """a / b unsigned, all ones where b is zero."""
        x, y = a.data.view(a.ty.unsigned), b.data.view(b.ty.unsigned)
        zero = y == 0
        quotient = x // np.where(zero, 1, y).astype(x.dtype) if zero.any() else x // y
        return self._join(a, b, np.where(zero, ~x.dtype.type(0), quotient).view(a.data.dtype))

    def create_urem(self, a: Value, b: Value) -> Value:
        """The remainder that goes with create_udiv; a where b is zero."""
        x, y = a.data.view(a.ty.unsigned), b.data.view(b.ty.unsigned)
        zero = y == 0
        rest = x % np.where(zero, 1, y).astype(x.dtype)
        return self._join(a, b, np.where(zero, x, rest).view(a.data.dtype))

    def _shifts(self, a: Value, b: Value) -> bool:
        if b.data.size != 1:
            return False
        divisor = int(b.data.flat[0])
        return divisor > 0 and divisor & (divisor - 1) == 0 and a.bounds()[0] >= 0

    # bits
    def create_and(self, a: Value, b: Value) -> Value:
        """a & b; a may be FP8 codes, whose sign the language takes off with an int8."""
        if a.ty is I1 and (same := self._only_one(a, b)) is not None:
            return same
        result = self._join(a, b, (a.data & b.data).astype(a.data.dtype, copy=False))
        return _settled(result, a, b, a.data.dtype.type(0))

    def _only_one(self, a: Value, b: Value) -> Value | None:
        """Of two conditions the one that decides lane by lane, as the other is true in all lanes; None for any others.

        What the coverage counts are the lanes of the result, so it is left as it is where somebody counts.
        """
        if self.run.launch.coverage is not None or not may_grow(a.data, b.data):
            return None
        for one, other in ((a, b), (b, a)):
            if one.undefined is None and one.wrapped is None and one.data.size < other.data.size and one.data.all():
                return other
        return None

    def create_or(self, a: Value, b: Value) -> Value:
        return _settled(self._join(a, b, a.data | b.data), a, b, ~a.data.dtype.type(0))

    def create_xor(self, a: Value, b: Value) -> Value:
        """a ^ b; mixes bits, so it says nothing about an overflow before it."""
        result = self._join(a, b, a.data ^ b.data)
        result.wrapped = None
        return result

    def create_lshr(self, a: Value, b: Value) -> Value:
        """a >> b, zeros from the left; 0 where b is at least the width."""
        x, count = a.data.view(a.ty.unsigned), b.data.view(b.ty.unsigned)
        width = a.ty.bits
        shifted = np.where(count < width, x >> np.minimum(count, width - 1).astype(x.dtype), x.dtype.type(0))
        return self._join(a, b, shifted.view(a.data.dtype))

    def create_ashr(self, a: Value, b: Value) -> Value:
        """a >> b, the sign from the left."""
        count = np.minimum(b.data.view(b.ty.unsigned), a.ty.bits - 1).astype(a.data.dtype)
        return self._join(a, b, a.data >> count)

    def create_umulhi(self, a: Value, b: Value) -> Value:
        """The upper half of the unsigned product."""
        if a.ty.bits == 32:
            product = a.data.view(np.uint32).astype(np.uint64) * b.data.view(np.uint32).astype(np.uint64)
            return self._join(a, b, (product >> np.uint64(32)).astype(np.uint32).view(np.int32))
        x, y = a.data.view(np.uint64), b.data.view(np.uint64)
        half, low = np.uint64(32), np.uint64(0xFFFFFFFF)
        x0, x1, y0, y1 = x & low, x >> half, y & low, y >> half
        middle = x1 * y0 + ((x0 * y0) >> half)
        other = x0 * y1 + (middle & low)
        return self._join(a, b, (x1 * y1 + (middle >> half) + (other >> half)).view(np.int64))

    def create_iabs(self, a: Value) -> Value:
        return a.like(np.abs(a.data))


def _step(ufunc: Callable[[Any, Any], Array], a: Value, b: Value) -> int | None:
    """What each lane of the result has more than the one before it; None where that is not known."""
    first, second = a.advance, b.advance
    if ufunc is np.multiply:
        second = b.low if b.low == b.high else None
    return None if first is None or second is None else int(ufunc(first, second))


def _terms(ufunc: Callable[[Any, Any], Array], a: Value, b: Value) -> Terms | None:
    """What the result is the sum of; None where it is as good to list it at once."""
    if ufunc is np.multiply:
        if a.terms and not b.terms and b.data.size == 1:
            return tuple(term * int(b.data.item()) for term in a.terms)
        return None
    return add_terms(a.parts, b.parts, 1 if ufunc is np.add else -1) if may_be_sum(a, b) else None


def _divide_toward_zero(a: Array, b: Array) -> Array:
    zero = b == 0
    any_zero = bool(zero.any())
    divisor = np.where(zero, 1, b).astype(b.dtype) if any_zero else b
    quotient = a // divisor
    inexact = (quotient * divisor != a) & ((a < 0) != (divisor < 0))
    if inexact.any():
        quotient = quotient + inexact.astype(quotient.dtype)
    return np.where(zero, -1, quotient).astype(a.dtype) if any_zero else quotient


def _settled(result: Value, a: Value, b: Value, decides: np.generic) -> Value:
    """The result of an operation that one operand with these bits decides, whatever the other one is."""
    if result.undefined is not None:
        for value in (a, b):
            known = value.data == decides
            result.undefined = result.undefined & ~(known if value.undefined is None else known & ~value.undefined)
    return result
