"""Comparisons, and the larger and smaller of two."""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from indexfuzz.lockstep.arithmetic.extrema import clamp, maximum_nan, maxnum, minimum_nan, minnum
from indexfuzz.lockstep.operations.context import Context
from indexfuzz.lockstep.values.dtypes import FP32
from indexfuzz.lockstep.values.value import Value


def _signed(
    ufunc: np.ufunc, order: Callable[[int, int], bool] | None = None
) -> Callable[[Context, Value, Value], Value]:
    """A comparison of values as they are held: signed integers and floats; `order` says the same of bounds."""

    def compare(self: Context, a: Value, b: Value) -> Value:
        self._refuse_fp8(a)
        if order is not None and (a.terms or b.terms) and self.run.launch.coverage is None:
            holds = _decide(order, a, b)
            if holds is not None:
                return self._compare(a, b, np.full((1,) * len(a.dims), holds))
        return self._compare(a, b, ufunc(a.data, b.data))

    return compare


def _decide(order: Callable[[int, int], bool], a: Value, b: Value) -> bool | None:
    """How a comparison ends in all lanes, where the bounds of both sides leave it no choice."""
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return None
    ends = {order(x, y) for x in (a.low, a.high) for y in (b.low, b.high)}
    return ends.pop() if len(ends) == 1 else None


def _unsigned(ufunc: np.ufunc) -> Callable[[Context, Value, Value], Value]:
    def compare(self: Context, a: Value, b: Value) -> Value:
        return self._compare(a, b, ufunc(a.data.view(a.ty.unsigned), b.data.view(b.ty.unsigned)))

    return compare


class ComparisonOps(Context):
    """create_icmpEQ, create_fcmpOLT, create_maxsi and the like. A comparison with NaN is false, except `UNE`."""

    create_icmpEQ = _signed(np.equal)
    create_icmpNE = _signed(np.not_equal)
    create_icmpSLT = _signed(np.less, operator.lt)
    create_icmpSLE = _signed(np.less_equal, operator.le)
    create_icmpSGT = _signed(np.greater, operator.gt)
    create_icmpSGE = _signed(np.greater_equal, operator.ge)
    create_icmpULT = _unsigned(np.less)
    create_icmpULE = _unsigned(np.less_equal)
    create_icmpUGT = _unsigned(np.greater)
    create_icmpUGE = _unsigned(np.greater_equal)
    create_fcmpOEQ = _signed(np.equal)
    create_fcmpUNE = _signed(np.not_equal)
    create_fcmpOLT = _signed(np.less)
    create_fcmpOLE = _signed(np.less_equal)
    create_fcmpOGT = _signed(np.greater)
    create_fcmpOGE = _signed(np.greater_equal)

    def create_maxnumf(self, a: Value, b: Value) -> Value:
        """The larger; a NaN gives way to a number."""
        self._refuse_fp8(a)
        if _is_number_above_zero(b):
            return self._join(a, b, np.fmax(a.data, b.data) + b.data.dtype.type(0))
        return self._join(a, b, maxnum(a.data, b.data))

    def create_minnumf(self, a: Value, b: Value) -> Value:
        """The smaller; a NaN gives way to a number."""
        self._refuse_fp8(a)
        return self._join(a, b, minnum(a.data, b.data))

    def create_maximumf(self, a: Value, b: Value) -> Value:
        """The larger; NaN where either is."""
        self._refuse_fp8(a)
        return self._join(a, b, maximum_nan(a.data, b.data))

    def create_minimumf(self, a: Value, b: Value) -> Value:
        """The smaller; NaN where either is."""
        self._refuse_fp8(a)
        return self._join(a, b, minimum_nan(a.data, b.data))

    def create_clampf(self, x: Value, low: Value, high: Value, propagate_nan: Any) -> Value:
        """X between low and high; a NaN becomes a bound unless it is to propagate."""
        if str(getattr(propagate_nan, "name", propagate_nan)) == "ALL":
            return self.create_minimumf(self.create_maximumf(x, low), high)
        if x.ty is not FP32:
            return self.create_minnumf(self.create_maxnumf(x, low), high)
        data = clamp(x.data, low.data, high.data)
        return self._join(self._join(x, low, data), high, data)

    def create_minsi(self, a: Value, b: Value) -> Value:
        """The smaller, signed."""
        return self._join(a, b, np.minimum(a.data, b.data))

    def create_maxsi(self, a: Value, b: Value) -> Value:
        """The larger, signed."""
        return self._join(a, b, np.maximum(a.data, b.data))

    def create_minui(self, a: Value, b: Value) -> Value:
        """The smaller, unsigned."""
        unsigned = a.ty.unsigned
        return self._join(a, b, np.minimum(a.data.view(unsigned), b.data.view(unsigned)).view(a.data.dtype))

    def create_maxui(self, a: Value, b: Value) -> Value:
        """The larger, unsigned."""
        unsigned = a.ty.unsigned
        return self._join(a, b, np.maximum(a.data.view(unsigned), b.data.view(unsigned)).view(a.data.dtype))


def _is_number_above_zero(x: Value) -> bool:
    """Whether x is one number, +0 or more: then a maximum with it is never NaN, and never -0."""
    return x.data.size == 1 and bool(x.data.flat[0] >= 0) and not np.signbit(x.data.flat[0])
