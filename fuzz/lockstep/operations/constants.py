"""Constants of every type."""

import numpy as np

from indexfuzz.lockstep.arithmetic.rounding import round_to_bf16
from indexfuzz.lockstep.operations.context import Context
from indexfuzz.lockstep.values.dtypes import BF16, FP16, FP32, FP64, I1, I8, I16, I32, I64, BlockType, ScalarType
from indexfuzz.lockstep.values.value import Value


class ConstantOps(Context):
    """get_int32, get_null_value and the like."""

    def get_null_value(self, ty: ScalarType | BlockType) -> Value:
        scalar = ty.scalar
        return Value(np.zeros(1, scalar.container), scalar, (), low=0, high=0).spread(ty)

    def get_all_ones_value(self, ty: ScalarType | BlockType) -> Value:
        """-1, or True."""
        scalar = ty.scalar
        return Value(np.full(1, True if scalar.bits == 1 else -1, scalar.container), scalar, ())

    def get_int1(self, value: bool) -> Value:
        return Value(np.full(1, bool(value)), I1, ())

    def get_int8(self, value: int) -> Value:
        return self._integer(value, I8)

    def get_int16(self, value: int) -> Value:
        return self._integer(value, I16)

    def get_int32(self, value: int) -> Value:
        return self._integer(value, I32)

    def get_int64(self, value: int) -> Value:
        return self._integer(value, I64)

    get_uint8 = get_int8
    get_uint16 = get_int16
    get_uint32 = get_int32
    get_uint64 = get_int64

    def get_fp16(self, value: float) -> Value:
        return Value(np.full(1, value, np.float16), FP16, ())

    def get_bf16(self, value: float) -> Value:
        """A bf16, rounded from the double."""
        return Value(round_to_bf16(np.full(1, value, np.float32)), BF16, ())

    def get_fp32(self, value: float) -> Value:
        return Value(np.full(1, value, np.float32), FP32, ())

    def get_fp64(self, value: float) -> Value:
        return Value(np.full(1, value, np.float64), FP64, ())
