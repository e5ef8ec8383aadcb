"""tl.dot_scaled: matrices of few bits, and a power of two for each group of elements along K."""

from typing import Any, Final

import numpy as np

from indexfuzz.lockstep.arithmetic.fp8_codec import decode_fp8
from indexfuzz.lockstep.arithmetic.matrix_units.ieee import ieee
from indexfuzz.lockstep.arithmetic.nan import canonical_nan
from indexfuzz.lockstep.operations.casts import decode
from indexfuzz.lockstep.operations.dot import DotOps
from indexfuzz.lockstep.values.arrays import Array, Mask, either
from indexfuzz.lockstep.values.dtypes import FP32
from indexfuzz.lockstep.values.value import Value

_E2M1: Final = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0])
"""The values of E2M1 by code, OCP Microscaling Formats 1.0, section 5.3.3."""


class ScaledDotOps(DotOps):
    """create_dot_scaled."""

    def create_dot_scaled(
        self,
        a: Value,
        a_scale: Value | None,
        a_format: Any,
        b: Value,
        b_scale: Value | None,
        b_format: Any,
        fast_math: bool,
        a_k_pack: bool,
        b_k_pack: bool,
        acc: Value,
    ) -> Value:
        """Acc + (a * its scale) @ (b * its scale): products exact, summed in float64, rounded once, then added.

        A GPU without such a unit multiplies bf16 operands instead, which differs where a scaled element leaves their
        range. Scales are E8M0, or E4M3 for groups of 16; a scale of 255 is NaN, whatever fast_math says.
        """
        if self.model is not ieee:
            raise self.unsupported("tl.dot_scaled on a matrix unit of this name, which takes Lockstep(dot='ieee'),")
        self.run.barriers += 1
        programs = max(v.data.shape[0] for v in (a, b, acc, a_scale, b_scale) if v is not None)
        x, x_undefined = _operand(a, a_scale, packed=-1 if a_k_pack else -2, programs=programs)
        y, y_undefined = _operand(b, b_scale, packed=-2 if b_k_pack else -1, programs=programs, transposed=True)
        product = np.matmul(x, y).astype(np.float32)
        data = canonical_nan(product + acc.full(programs))
        rows = None if x_undefined is None else np.asarray(x_undefined.any(-1, keepdims=True))
        columns = None if y_undefined is None else np.asarray(y_undefined.any(-2, keepdims=True))
        return Value(data, FP32, acc.shape, either(either(rows, columns), acc.undefined))


def _operand(
    v: Value, scale: Value | None, *, packed: int, programs: int, transposed: bool = False
) -> tuple[Array, Mask | None]:
    """A matrix [programs, ..., rows, columns] as float64, times its scales, and its undefined elements."""
    data, undefined = v.full(programs), _spread_undefined(v, programs)
    if v.ty.kind == "int":
        codes = data.view(np.uint8)
        pair = np.stack([codes & 15, codes >> 4], axis=-1 if packed == -1 else -2)
        shape = list(data.shape)
        shape[packed] *= 2
        values: Array = _E2M1[pair.reshape(shape)]
        undefined = None if undefined is None else np.repeat(undefined, 2, axis=packed)
    else:
        values = decode(Value(data, v.ty, v.shape)).astype(np.float64)
    if scale is None:
        return values, undefined
    factors, unknown = _factors(scale, programs), _spread_undefined(scale, programs)
    along = values.shape[-2 if transposed else -1] // factors.shape[-1]
    factors = np.repeat(factors, along, axis=-1)
    unknown = None if unknown is None else np.repeat(unknown, along, axis=-1)
    if transposed:
        factors = factors.swapaxes(-1, -2)
        unknown = None if unknown is None else unknown.swapaxes(-1, -2)
    return values * factors, either(undefined, unknown)


def _factors(scale: Value, programs: int) -> Array:
    """Scales as float64: 2^(code - 127), 255 NaN, or what an FP8 code stands for."""
    if scale.ty.kind == "fp8":
        return decode_fp8(scale.full(programs), scale.ty.name).astype(np.float64)
    codes = scale.full(programs).view(np.uint8)
    return np.where(codes == 255, np.nan, np.exp2(codes.astype(np.float64) - 127))


def _spread_undefined(v: Value, programs: int) -> Mask | None:
    return None if v.undefined is None else np.broadcast_to(v.undefined, (programs, *v.shape))
