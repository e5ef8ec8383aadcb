"""Conversions among all element types, and reinterpretation of their bits."""

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from indexfuzz.lockstep.arithmetic.fp8_codec import decode_fp8, encode_fp8, truncate_to_e5m2
from indexfuzz.lockstep.arithmetic.halves import narrow_to_half, widen_half
from indexfuzz.lockstep.arithmetic.nan import canonical_nan
from indexfuzz.lockstep.arithmetic.rounding import float_to_int, round_to_bf16, truncate_to_bf16, truncate_to_fp16
from indexfuzz.lockstep.operations.context import Context
from indexfuzz.lockstep.values.arrays import Array
from indexfuzz.lockstep.values.dtypes import BF16, E5M2, FP16, FP32, FP64, I1, BlockType, ScalarType
from indexfuzz.lockstep.values.value import Value

_TRUNCATING: Final[dict[ScalarType, Callable[[Array], Array]]] = {
    BF16: truncate_to_bf16,
    FP16: lambda x: narrow_to_half(truncate_to_fp16(x)),
    E5M2: truncate_to_e5m2,
}


class CastOps(Context):
    """create_fp_trunc and the other conversions."""

    def create_fp_to_fp(self, a: Value, ty: ScalarType | BlockType, rounding: Any) -> Value:
        """Float to float, with FP8 on either side; saturating where the target is FP8."""
        target = ty.scalar
        if getattr(rounding, "name", None) == "RTZ":
            truncate = _TRUNCATING.get(target)
            if truncate is None or a.ty is FP64:
                raise self.unsupported(f"rounding {a.ty.name} toward zero to {target.name}")
            return a.like(truncate(decode(a)), ty=target)
        return a.like(self._convert(a, target), ty=target)

    def create_fp_trunc(self, a: Value, ty: ScalarType | BlockType) -> Value:
        return a.like(self._convert(a, ty.scalar), ty=ty.scalar)

    create_fp_ext = create_fp_trunc

    def _convert(self, a: Value, target: ScalarType) -> Array:
        if target is FP64:
            return decode(a).astype(np.float64)
        if a.ty is FP64 and target is FP16:
            return canonical_nan(a.data.astype(np.float16))
        wide = decode(a).astype(np.float32, copy=False)
        if target is FP32:
            return canonical_nan(wide) if a.ty is FP16 else wide
        if target is BF16:
            return round_to_bf16(wide)
        if target is FP16:
            return canonical_nan(narrow_to_half(wide))
        try:
            return encode_fp8(np.ascontiguousarray(wide), target.name)
        except KeyError:
            raise self.unsupported(f"conversion to {target.name}") from None

    def create_int_cast(self, a: Value, ty: ScalarType | BlockType, signed: bool) -> Value:
        """Integer to integer: sign or zero extension, or the low bits."""
        target = ty.scalar
        if target is a.ty:
            return a
        is_kept = bool(a.terms) and signed and target.bits > a.ty.bits
        data = a.terms[0] if is_kept else a.data
        if target is I1:
            return a.like((data & 1).astype(np.bool_), ty=I1)
        if a.ty is I1:
            result = a.like(data.astype(target.container), ty=target)
            if signed:
                result.data = -result.data
                return result
            result.low, result.high = 0, 1
            return result
        if not signed and target.bits > a.ty.bits:
            return a.like(data.view(a.ty.unsigned).astype(target.container), ty=target)
        result = a.like(data.astype(target.container), ty=target)
        if is_kept:
            result.replace_data(a.terms)
        if target.bits >= a.ty.bits:
            result.low, result.high, result.step = a.low, a.high, a.step
        return result

    def create_si_to_fp(self, a: Value, ty: ScalarType | BlockType) -> Value:
        return self._from_integer(a, a.data, ty.scalar)

    def create_ui_to_fp(self, a: Value, ty: ScalarType | BlockType) -> Value:
        return self._from_integer(a, a.data.view(a.ty.unsigned), ty.scalar)

    def _from_integer(self, a: Value, data: Array, target: ScalarType) -> Value:
        if target is BF16:
            converted: Array = round_to_bf16(data.astype(np.float32))
        else:
            converted = data.astype(target.container)
        return a.like(converted, ty=target)

    def create_fp_to_si(self, a: Value, ty: ScalarType | BlockType) -> Value:
        """Float to signed integer, toward zero."""
        return a.like(float_to_int(a.data, ty.scalar.container), ty=ty.scalar)

    def create_fp_to_ui(self, a: Value, ty: ScalarType | BlockType) -> Value:
        """Float to unsigned integer, toward zero."""
        target = ty.scalar
        return a.like(float_to_int(a.data, target.unsigned).view(target.container), ty=target)

    def create_bitcast(self, a: Value, ty: ScalarType | BlockType) -> Value:
        """The same bits under another type."""
        target = ty.scalar
        if a.ty.kind == "pointer" or target is a.ty:
            result = a.like(a.data, ty=target)
            result.low, result.high = a.low, a.high
            return result
        return a.like(from_memory(to_memory(a.data, a.ty).view(target.memory), target), ty=target)


def decode(a: Value) -> Array:
    """The exact values of floats of any format: fp64 stays, everything else is fp32 (fp16 too)."""
    if a.ty.kind == "fp8":
        return decode_fp8(a.data, a.ty.name)
    return widen_half(a.data) if a.ty is FP16 else a.data


def to_memory(data: Array, ty: ScalarType) -> Array:
    """Values as they lie in memory."""
    if ty is BF16:
        raw = np.empty(data.shape, np.uint16)
        np.right_shift(np.ascontiguousarray(data).view(np.uint32), np.uint32(16), out=raw, casting="unsafe")
        return raw
    if ty is I1:
        return data.view(np.uint8)
    return data


def from_memory(raw: Array, ty: ScalarType) -> Array:
    """The other way round."""
    if ty is BF16:
        bits = raw.astype(np.uint32)
        bits <<= np.uint32(16)
        return bits.view(np.float32)
    if ty is I1:
        return np.asarray(raw != 0)
    return raw.view(ty.container) if raw.dtype != ty.container else raw
