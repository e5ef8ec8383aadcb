"""tl.dot, through the arithmetic model of a matrix unit."""

from typing import Any

import numpy as np

from indexfuzz.lockstep.operations.casts import decode
from indexfuzz.lockstep.operations.context import Context
from indexfuzz.lockstep.values.arrays import Array, Mask, either
from indexfuzz.lockstep.values.dtypes import FP16, FP32, FP64, I32
from indexfuzz.lockstep.values.value import Value


class DotOps(Context):
    """create_dot."""

    model: Any = None
    """The matrix unit: acc + a @ b in its own arithmetic."""

    def create_dot(self, a: Value, b: Value, acc: Value, precision: Any, max_num_imprecise_acc: int | None) -> Value:
        """Acc + a @ b; integer and fp64 operands are exact or plain double arithmetic."""
        self.run.barriers += 1
        programs = max(a.data.shape[0], b.data.shape[0], acc.data.shape[0])
        x, y, z = (_matrices(v, programs) for v in (a, b, acc))
        if a.ty.kind == "int":
            product = np.matmul(x.astype(np.float64), y.astype(np.float64)).astype(np.int64)
            data: Array = (product + z).astype(np.int32)
            ty = I32
        elif a.ty is FP64:
            data, ty = np.matmul(x, y) + z, FP64
        else:
            fp8 = a.ty.kind == "fp8"
            limit = (
                max_num_imprecise_acc
                if fp8 and max_num_imprecise_acc is not None and max_num_imprecise_acc < 1 << 30
                else None
            )
            operands = (decode_matrix(a, x), decode_matrix(b, y), z.astype(np.float32))
            try:
                total = self.model(*map(np.ascontiguousarray, operands), a.ty.name, b.ty.name, limit)
            except ValueError as error:
                raise self.unsupported(f"this tl.dot ({error})") from error
            ty = acc.ty if acc.ty in (FP16, FP32) else FP32
            data = total.astype(ty.container)
        shape = acc.shape
        if len(shape) == 3:
            batches = a.shape[0]
            data = data.reshape(-1, batches, *data.shape[1:])
        return Value(data, ty, shape, either(_spoilt(a, b), acc.undefined) if programs else None)


def _matrices(v: Value, programs: int) -> Array:
    """A matrix for each program, or one for all of them; of a batch one for each program and batch."""
    return v.full() if len(v.shape) == 2 else v.full(programs).reshape(-1, *v.shape[1:])


def decode_matrix(v: Value, matrices: Array) -> Array:
    """The exact values of a dot's operand as fp32."""
    return decode(Value(matrices, v.ty, v.shape))


def _spoilt(a: Value, b: Value) -> Mask | None:
    rows = columns = None
    if a.undefined is not None:
        rows = np.asarray(np.broadcast_to(a.undefined, (a.undefined.shape[0], *a.shape)).any(-1, keepdims=True))
    if b.undefined is not None:
        columns = np.asarray(np.broadcast_to(b.undefined, (b.undefined.shape[0], *b.shape)).any(-2, keepdims=True))
    return either(rows, columns)
