"""The types that the language asks for by name."""

from collections.abc import Callable, Sequence
from typing import Any

from indexfuzz.lockstep.operations.context import Context
from indexfuzz.lockstep.values.dtypes import (
    BF16,
    E4M3B11FNUZ,
    E4M3FN,
    E4M3FNUZ,
    E5M2,
    E5M2FNUZ,
    FP16,
    FP32,
    FP64,
    I1,
    I8,
    I16,
    I32,
    I64,
    VOID,
    BlockType,
    ScalarType,
    block_of,
    pointer_to,
)


def _getter(ty: ScalarType) -> Callable[[Context], ScalarType]:
    return lambda _: ty


class TypeOps(Context):
    """get_int32_ty and the like."""

    get_void_ty = _getter(VOID)
    get_int1_ty = _getter(I1)
    get_int8_ty = _getter(I8)
    get_int16_ty = _getter(I16)
    get_int32_ty = _getter(I32)
    get_int64_ty = _getter(I64)
    get_half_ty = _getter(FP16)
    get_bf16_ty = _getter(BF16)
    get_float_ty = _getter(FP32)
    get_double_ty = _getter(FP64)
    get_fp8e4nv_ty = _getter(E4M3FN)
    get_fp8e4b8_ty = _getter(E4M3FNUZ)
    get_fp8e5_ty = _getter(E5M2)
    get_fp8e5b16_ty = _getter(E5M2FNUZ)
    get_fp8e4b15_ty = _getter(E4M3B11FNUZ)
    """Only a name: nothing converts to it."""

    def get_ptr_ty(self, element: ScalarType | BlockType, _space: Any) -> ScalarType:
        return pointer_to(element)

    def get_block_ty(self, element: ScalarType, shape: Sequence[int]) -> BlockType:
        return block_of(element, tuple(shape))
