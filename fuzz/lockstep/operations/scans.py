"""Scans: every prefix of an axis combined.

Floats are combined one after the other, from one end to the other. Integers are combined by doubling: each element with
the one before it, then with the result two before it, then four. That is the same where the function is associative, as
a scan asks for.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from indexfuzz.lockstep.arithmetic.nan import canonical_nan
from indexfuzz.lockstep.operations.reductions import Combine, ReduceOps, cut, name_of, whole
from indexfuzz.lockstep.values.arrays import Array
from indexfuzz.lockstep.values.dtypes import FP16, FP32, FP64
from indexfuzz.lockstep.values.value import Value

_AT_ONCE: Final = {"_sum_combine": np.add, "_prod_combine": np.multiply}
"""Combine functions of the language that numpy applies along an axis, one element after the other."""

_ROUNDED: Final = (FP16, FP32, FP64)
"""Types whose results numpy rounds as the builder does."""


class ScanOps(ReduceOps):
    """scan, called by the semantic with the combine function."""

    def scan(self, inputs: Sequence[Any], axis: int, function: Any, *, reverse: bool) -> list[Value]:
        """Every prefix combined, from the left or from the right."""
        self.run.barriers += 1
        values: list[Value] = [whole(t.handle, axis) for t in inputs]
        ufunc = _AT_ONCE.get(name_of(function))
        if ufunc is not None and values[0].ty in _ROUNDED:
            return [_accumulate(ufunc, values[0], axis, reverse=reverse)]
        combine = self.combine(function, inputs)
        if all(v.ty.kind == "int" for v in values):
            found = _by_doubling(combine, values, axis, reverse=reverse)
            if not any(v.wrapped is not None for v in found):
                return found
        return _one_by_one(combine, values, axis, reverse=reverse)


def _accumulate(ufunc: np.ufunc, v: Value, axis: int, *, reverse: bool) -> Value:
    place = axis + 1
    direction = (slice(None),) * place + (slice(None, None, -1 if reverse else 1),)
    data = ufunc.accumulate(v.data[direction], axis=place, dtype=v.data.dtype)[direction]
    if v.ty is not FP64:
        data = canonical_nan(data)
    undefined = v.undefined
    if undefined is not None:
        undefined = np.logical_or.accumulate(undefined[direction], axis=place)[direction]
    return Value(data, v.ty, v.shape, undefined)


def _by_doubling(combine: Combine, values: list[Value], axis: int, *, reverse: bool) -> list[Value]:
    length = values[0].shape[axis]
    step = 1
    while step < length:
        front, back = [[cut(v, axis, *ends) for v in values] for ends in ((0, length - step), (step, length))]
        if reverse:
            combined, kept = combine(back, front), [cut(v, axis, length - step, length) for v in values]
            parts = zip(combined, kept, strict=True)
        else:
            combined, kept = combine(front, back), [cut(v, axis, 0, step) for v in values]
            parts = zip(kept, combined, strict=True)
        values = [_join_parts(pair, v, axis) for pair, v in zip(parts, values, strict=True)]
        step *= 2
    return values


def _one_by_one(combine: Combine, values: list[Value], axis: int, *, reverse: bool) -> list[Value]:
    length = values[0].shape[axis]
    places = range(length - 1, -1, -1) if reverse else range(length)
    running: list[Value] = []
    steps: list[list[Value]] = []
    for place in places:
        here = [cut(v, axis, place, place + 1) for v in values]
        running = combine(running, here) if running else here
        steps.append(running)
    if reverse:
        steps.reverse()
    return [_join_parts([step[i] for step in steps], v, axis) for i, v in enumerate(values)]


def _join_parts(parts: Sequence[Value], like: Value, axis: int) -> Value:
    """Parts of an axis of the block, one after the other."""
    wide = [whole(part, axis) for part in parts]
    result = Value(_concatenate([w.data for w in wide], axis + 1), wide[0].ty, like.shape)
    for name in ("undefined", "wrapped"):
        marks = [getattr(w, name) for w in wide]
        if any(m is not None for m in marks):
            full = [np.zeros(w.data.shape, np.bool_) if m is None else m for m, w in zip(marks, wide, strict=True)]
            setattr(result, name, _concatenate(full, axis + 1))
    return result


def _concatenate(parts: Sequence[Array], place: int) -> Array:
    """Arrays along an axis; along the others they broadcast against each other."""
    around = np.broadcast_shapes(*((*p.shape[:place], 1, *p.shape[place + 1 :]) for p in parts))
    wide = (np.broadcast_to(p, (*around[:place], p.shape[place], *around[place + 1 :])) for p in parts)
    return np.concatenate(list(wide), axis=place)
