"""Reductions, in an order that depends on nothing but the length of the axis.

A reduction is a tree: the first half of the axis combined with the second, until one is left.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from indexfuzz.lockstep.arithmetic.halves import compute_halves
from indexfuzz.lockstep.arithmetic.nan import canonical_nan
from indexfuzz.lockstep.operations.context import Context
from indexfuzz.lockstep.operations.lanewise import each_lane, handles
from indexfuzz.lockstep.triton_api.functions import is_language_source
from indexfuzz.lockstep.triton_api.types import Tensor
from indexfuzz.lockstep.values.arrays import Array, Mask
from indexfuzz.lockstep.values.dtypes import FP16, FP32, FP64
from indexfuzz.lockstep.values.value import Value

_KNOWN: Final = {
    "_sum_combine": ("create_fadd", "create_add", "create_add"),
    "_elementwise_max": ("create_maxnumf", "create_maxsi", "create_maxui"),
    "_elementwise_min": ("create_minnumf", "create_minsi", "create_minui"),
    "_xor_combine": ("create_xor", "create_xor", "create_xor"),
    "_or_combine": ("create_or", "create_or", "create_or"),
    "_prod_combine": ("create_fmul", "create_mul", "create_mul"),
}
"""Combine functions of the language whose single operation the builder has: for floats, signed and unsigned."""

_EXTREMES: Final[dict[str, tuple[Any, Any]]] = {
    "_elementwise_max": (np.fmax, np.maximum),
    "_elementwise_min": (np.fmin, np.minimum),
}

_ADDED: Final = (FP16, FP32, FP64)
"""Floats whose additions are numpy's."""

Combine = Callable[[list[Value], list[Value]], list[Value]]


class ReduceOps(Context):
    """reduce, called by the semantic with the combine function."""

    def reduce(self, inputs: Sequence[Any], axis: int, function: Any) -> list[Value]:
        """Combine along an axis."""
        self.run.barriers += 1
        values: list[Value] = [whole(t.handle, axis) for t in inputs]
        name = name_of(function)
        if name in _EXTREMES and len(values) == 1:
            fast = self._extreme(name, inputs[0], values[0], axis)
            if fast is not None:
                return [fast]
        if name == "_sum_combine" and values[0].ty in _ADDED and values[0].undefined is values[0].wrapped is None:
            return [_sum(values[0], axis)]
        combine = self.combine(function, inputs)
        length = values[0].shape[axis]
        while length > 1:
            half = length // 2
            first = [cut(v, axis, 0, half) for v in values]
            second = [cut(v, axis, half, length) for v in values]
            values = combine(first, second)
            length = half
        return [_drop(v, axis) for v in values]

    def combine(self, function: Any, inputs: Sequence[Any]) -> Combine:
        """What the combine function does to blocks, lane by lane."""
        name = name_of(function)
        if name in _KNOWN and len(inputs) == 1:
            dtype = inputs[0].dtype
            floating, signed, unsigned = _KNOWN[name]
            known = floating if dtype.is_floating() else unsigned if dtype.is_int_unsigned() else signed
            operation = getattr(self, known)

            def apply(a: list[Value], b: list[Value]) -> list[Value]:
                self.reads_unsigned = dtype.is_int_unsigned()
                try:
                    return [operation(a[0], b[0])]
                finally:
                    self.reads_unsigned = False

            return apply
        types = [t.type.scalar for t in inputs] * 2

        def scalars(lanes: list[Value]) -> list[Value]:
            return handles(self.call(function, [Tensor(v, t) for v, t in zip(lanes, types, strict=True)], {}))

        return lambda a, b: each_lane(scalars, [*a, *b])

    def _extreme(self, name: str, tensor: Any, value: Value, axis: int) -> Value | None:
        floating, integer = _EXTREMES[name]
        data = value.data
        if tensor.dtype.is_floating():
            found: Array = floating.reduce(data, axis=axis + 1)
            if not (found != 0).all() or np.isnan(found).any():
                return None
        else:
            unsigned = tensor.dtype.is_int_unsigned()
            readable = data.view(value.ty.unsigned) if unsigned else data
            found = integer.reduce(readable, axis=axis + 1).view(data.dtype)
        shape = value.shape[:axis] + value.shape[axis + 1 :]
        return Value(found, value.ty, shape, _any(value.undefined, axis + 1), _any(value.wrapped, axis + 1))


def _sum(v: Value, axis: int) -> Value:
    """The tree of float sums, each of which rounds to what its numpy type holds; NaNs are made the same at its end."""
    data, place = np.moveaxis(v.data, axis + 1, 0), v.shape[axis]
    while place > 1:
        place //= 2
        first, second = data[:place], data[place : 2 * place]
        data = compute_halves(np.add, first, second) if v.ty is FP16 else first + second
    total = np.array(data[0])
    return Value(total if v.ty is FP64 else canonical_nan(total), v.ty, v.shape[:axis] + v.shape[axis + 1 :])


def name_of(function: Any) -> str:
    """The name of a combine function of the language; nothing for any other."""
    return function.fn.__name__ if is_language_source(function.fn.__module__) else ""


def _any(mask: Mask | None, axis: int) -> Mask | None:
    return None if mask is None else np.asarray(mask.any(axis=axis))


def whole(v: Value, axis: int) -> Value:
    """A value whose data have an axis of the block at its full length."""
    place = axis + 1
    length = v.shape[axis]

    def stretched(mask: Array) -> Array:
        if mask.shape[place] == length:
            return mask
        return np.broadcast_to(mask, (*mask.shape[:place], length, *mask.shape[place + 1 :]))

    return Value(
        stretched(v.data),
        v.ty,
        v.shape,
        None if v.undefined is None else stretched(v.undefined),
        None if v.wrapped is None else stretched(v.wrapped),
        v.low,
        v.high,
    )


def cut(v: Value, axis: int, start: int, stop: int) -> Value:
    """A range of an axis of the block, whose data are whole along it."""
    index = (slice(None),) * (axis + 1) + (slice(start, stop),)
    shape = (*v.shape[:axis], stop - start, *v.shape[axis + 1 :])
    return Value(
        v.data[index],
        v.ty,
        shape,
        None if v.undefined is None else v.undefined[index],
        None if v.wrapped is None else v.wrapped[index],
        v.low,
        v.high,
    )


def _drop(v: Value, axis: int) -> Value:
    return Value(
        v.data.take(0, axis=axis + 1),
        v.ty,
        v.shape[:axis] + v.shape[axis + 1 :],
        _any(v.undefined, axis + 1),
        _any(v.wrapped, axis + 1),
        v.low,
        v.high,
    )
