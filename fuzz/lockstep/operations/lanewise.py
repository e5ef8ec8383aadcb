"""Scalar functions of the language applied to every lane: each lane is treated as a program of its own."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from indexfuzz.lockstep.tracking.divergence import Divergence
from indexfuzz.lockstep.triton_api.types import Tensor
from indexfuzz.lockstep.values.arrays import Array
from indexfuzz.lockstep.values.value import Value

Scalars = list[Value]


def each_lane(function: Callable[[Scalars], Scalars], inputs: Sequence[Value]) -> Scalars:
    """Apply `function`, which takes and gives scalars, to every lane of blocks of one shape.

    A branch on which lanes disagree is taken by each group of lanes apart.
    """
    programs = max(v.data.shape[0] for v in inputs)
    shape = inputs[0].shape
    flat = [_flat(v, programs) for v in inputs]
    lanes = flat[0].data.shape[0]
    return [_block(v, programs, shape) for v in _apply(function, flat, lanes)]


def _apply(function: Callable[[Scalars], Scalars], inputs: Scalars, lanes: int) -> Scalars:
    try:
        return [_stretch(v, lanes) for v in function(inputs)]
    except Divergence as divergence:
        parts = divergence.parts
    results: Scalars = []
    for part in parts:
        chosen = [_take(v, part) for v in inputs]
        found = _apply(function, chosen, part.shape[0])
        if not results:
            results = [Value(np.zeros(lanes, v.data.dtype), v.ty, ()) for v in found]
        for into, value in zip(results, found, strict=True):
            into.data[part] = value.data
            for name in ("undefined", "wrapped"):
                marks = getattr(value, name)
                if marks is not None:
                    whole = getattr(into, name)
                    if whole is None:
                        whole = np.zeros(lanes, np.bool_)
                        setattr(into, name, whole)
                    whole[part] = marks
    return results


def _flat(v: Value, programs: int) -> Value:
    full = (programs, *v.shape)

    def flat(mask: Array) -> Array:
        return np.broadcast_to(mask, full).reshape(-1)

    return Value(
        flat(v.data),
        v.ty,
        (),
        None if v.undefined is None else flat(v.undefined),
        None if v.wrapped is None else flat(v.wrapped),
    )


def _take(v: Value, part: Array) -> Value:
    return Value(
        v.data[part],
        v.ty,
        (),
        None if v.undefined is None else v.undefined[part],
        None if v.wrapped is None else v.wrapped[part],
    )


def _stretch(v: Value, lanes: int) -> Value:
    v = Value(v.data, v.ty, (), v.undefined, v.wrapped)
    if v.data.shape[0] != lanes:
        v.data = np.broadcast_to(v.data, (lanes,))
    if v.undefined is not None:
        v.undefined = np.broadcast_to(v.undefined, (lanes,))
    if v.wrapped is not None:
        v.wrapped = np.broadcast_to(v.wrapped, (lanes,))
    return v


def _block(v: Value, programs: int, shape: tuple[int, ...]) -> Value:
    full = (programs, *shape)
    return Value(
        v.data.reshape(full),
        v.ty,
        shape,
        None if v.undefined is None else v.undefined.reshape(full),
        None if v.wrapped is None else v.wrapped.reshape(full),
    )


def handles(result: Any) -> Scalars:
    """The values of what a combine function returns: one tensor or a tuple of them."""
    return [result.handle] if isinstance(result, Tensor) else [r.handle for r in result]
