"""Floating-point operations: each correctly rounded once, in the element's own format."""

from collections.abc import Callable

import numpy as np
import torch

from indexfuzz.lockstep.arithmetic.fma import fma32, fma64, fma_of_halves, narrow_to_odd
from indexfuzz.lockstep.arithmetic.halves import compute_halves, narrow_to_half, widen_half
from indexfuzz.lockstep.arithmetic.nan import canonical_nan
from indexfuzz.lockstep.arithmetic.rounding import round_to_bf16
from indexfuzz.lockstep.arithmetic.transcendental import (
    exp2_f32,
    exp_f32,
    in_blocks,
    log2_f32,
    log_f32,
    rsqrt_f32,
    sqrt_f32,
)
from indexfuzz.lockstep.operations.context import Context
from indexfuzz.lockstep.values.arrays import Array
from indexfuzz.lockstep.values.dtypes import BF16, FP16, FP32, FP64
from indexfuzz.lockstep.values.value import Value


class FloatOps(Context):
    """create_fadd and everything else that takes floats."""

    def _float(self, ufunc: Callable[..., Array], a: Value, b: Value) -> Value:
        self._refuse_fp8(a)
        data: Array = compute_halves(ufunc, a.data, b.data) if a.ty is FP16 else ufunc(a.data, b.data)
        if a.ty is not FP64:
            data = round_to_bf16(data) if a.ty is BF16 else canonical_nan(data)
        return self._join(a, b, data)

    def create_fadd(self, a: Value, b: Value) -> Value:
        return self._float(np.add, a, b)

    def create_fsub(self, a: Value, b: Value) -> Value:
        return self._float(np.subtract, a, b)

    def create_fmul(self, a: Value, b: Value) -> Value:
        return self._float(np.multiply, a, b)

    def create_fdiv(self, a: Value, b: Value) -> Value:
        """a / b, correctly rounded."""
        return self._float(np.divide, a, b)

    create_precise_divf = create_fdiv
    create_approx_divf = create_fdiv

    def create_frem(self, a: Value, b: Value) -> Value:
        """The remainder of a division toward zero."""
        return self._float(np.fmod, a, b)

    def create_fneg(self, a: Value) -> Value:
        self._refuse_fp8(a)
        return a.like(np.negative(a.data))

    def create_fma(self, a: Value, b: Value, c: Value) -> Value:
        """a * b + c, rounded once."""
        if a.ty is FP64:
            data: Array = fma64(*np.broadcast_arrays(a.data, b.data, c.data))
        else:
            wide = np.broadcast_arrays(*(x.data.astype(np.float32, copy=False) for x in (a, b, c)))
            if a.ty is FP32:
                data = fma32(*wide)
            else:
                total = fma_of_halves(*(w.astype(np.float64) for w in wide))
                data = round_to_bf16(narrow_to_odd(total)) if a.ty is BF16 else canonical_nan(total.astype(np.float16))
        return self._join(self._join(a, b, data), c, data)

    # functions of one argument
    def _function(self, a: Value, single: Callable[[Array], Array], double: Callable[[Array], Array]) -> Value:
        if a.ty is FP64:
            return a.like(double(np.ascontiguousarray(a.data)))
        if a.ty is FP16:
            return a.like(canonical_nan(narrow_to_half(single(np.ascontiguousarray(widen_half(a.data))))))
        data = single(np.ascontiguousarray(a.data))
        return a.like(round_to_bf16(data) if a.ty is BF16 else data)

    def _by_double(self, a: Value, double: Callable[[Array], Array]) -> Value:
        """The nearest fp32 to what a function of float64 gives."""
        return self._function(
            a, lambda x: in_blocks(lambda b: double(b.astype(np.float64)).astype(np.float32), x), double
        )

    def create_fabs(self, a: Value) -> Value:
        """The sign bit off, of every FP8 code too: a NaN 0x80 becomes 0."""
        return a.like(a.data & np.uint8(0x7F) if a.ty.kind == "fp8" else np.abs(a.data))

    def create_floor(self, a: Value) -> Value:
        return a.like(np.floor(a.data))

    def create_ceil(self, a: Value) -> Value:
        return a.like(np.ceil(a.data))

    def create_trunc(self, a: Value) -> Value:
        return a.like(np.trunc(a.data))

    def create_rint(self, a: Value) -> Value:
        """The nearest integer, ties to even."""
        return a.like(np.rint(a.data))

    def create_round(self, a: Value) -> Value:
        """The nearest integer, ties away from zero."""
        whole = np.trunc(a.data)
        return a.like(np.where(np.abs(a.data - whole) >= 0.5, whole + np.copysign(a.data.dtype.type(1), a.data), whole))

    def create_erf(self, a: Value) -> Value:
        """The error function, from the double-precision one."""
        return self._by_double(a, _erf)

    def create_tanh(self, a: Value) -> Value:
        """The hyperbolic tangent, from the double-precision one."""
        return self._by_double(a, np.tanh)

    def create_exp(self, a: Value) -> Value:
        return self._function(a, exp_f32, np.exp)

    def create_exp2(self, a: Value) -> Value:
        return self._function(a, exp2_f32, np.exp2)

    def create_log(self, a: Value) -> Value:
        return self._function(a, log_f32, np.log)

    def create_log2(self, a: Value) -> Value:
        return self._function(a, log2_f32, np.log2)

    def create_sqrt(self, a: Value) -> Value:
        """The square root; subnormals count as zero."""
        return self._function(a, sqrt_f32, np.sqrt)

    def create_precise_sqrt(self, a: Value) -> Value:
        """The square root, correctly rounded."""
        return self._function(a, np.sqrt, np.sqrt)

    def create_rsqrt(self, a: Value) -> Value:
        return self._function(a, rsqrt_f32, lambda x: 1.0 / np.sqrt(x))

    def create_sin(self, a: Value) -> Value:
        """The sine, from the double-precision one."""
        return self._by_double(a, np.sin)

    def create_cos(self, a: Value) -> Value:
        """The cosine, from the double-precision one."""
        return self._by_double(a, np.cos)


def _erf(x: Array) -> Array:
    double: Array = torch.from_numpy(x.astype(np.float64, copy=False)).erf().numpy()
    return double
