"""Ranges, and operations that move lanes without computing."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from indexfuzz.lockstep.operations.context import Context
from indexfuzz.lockstep.values.arrays import Array, choose, either, pick
from indexfuzz.lockstep.values.dtypes import I32, BlockType
from indexfuzz.lockstep.values.value import Value, unify_origins


@cache
def _range(start: int, end: int) -> Array:
    made = np.arange(start, end, dtype=np.int32)[None]
    made.flags.writeable = False
    return made


@cache
def _before(axis: int) -> tuple[slice | None, ...]:
    """The index that puts an axis before one of the block."""
    return (*(slice(None),) * (axis + 1), None)


class ShapeOps(Context):
    """create_splat, create_join and the like."""

    def create_make_range(self, ty: BlockType, start: int, end: int) -> Value:
        """start, start + 1, ..., end - 1."""
        return Value(_range(start, end), I32, tuple(ty.shape), low=start, high=end - 1, step=1)

    def create_splat(self, ty: BlockType, a: Value) -> Value:
        return a.spread(ty)

    def create_broadcast(self, a: Value, shape: Sequence[int]) -> Value:
        """Length-1 axes repeated; the data stays as it is."""
        new = tuple(map(int, shape))
        self.check_size(new)
        return self._stretch(a, new, lambda m: m)

    def create_expand_dims(self, a: Value, axis: int) -> Value:
        shape = (*a.shape[:axis], 1, *a.shape[axis:])
        index = _before(axis)
        return self._stretch(a, shape, lambda m: m[index])

    def create_reshape(self, a: Value, shape: Sequence[int], can_reorder: bool = False) -> Value:
        """The same lanes in row-major order; never reordered."""
        new = tuple(int(s) for s in shape)
        old = a.shape
        return self._move(a, _reshape(a.data, old, new), new, lambda m: _reshape(m, old, new))

    def create_unsplat(self, a: Value) -> Value:
        """The only lane of a block."""
        return self._move(a, a.data.reshape(a.data.shape[0]), (), lambda m: m.reshape(m.shape[0]))

    def create_trans(self, a: Value, order: Sequence[Any]) -> Value:
        axes = [int(o) for o in order]
        shape = tuple(a.shape[i] for i in axes)
        full = (0, *(i + 1 for i in axes))
        return self._move(a, a.data.transpose(full), shape, lambda m: m.transpose(full))

    def create_join(self, a: Value, b: Value) -> Value:
        """Two blocks as one with a last axis of 2."""
        return self._unite(a, b, (*a.shape, 2), lambda x, y: np.stack([x, y], axis=-1))

    def create_split(self, a: Value) -> tuple[Value, Value]:
        """The two blocks of a last axis of 2."""
        full = a.full()

        def half(i: int) -> Value:
            return self._move(
                a, full[..., i], a.shape[:-1], lambda m: np.broadcast_to(m, (m.shape[0], *a.shape))[..., i]
            )

        return half(0), half(1)

    def create_cat(self, a: Value, b: Value) -> Value:
        """Two blocks of one axis, one after the other."""
        return self._unite(a, b, (a.shape[0] + b.shape[0],), lambda x, y: np.concatenate([x, y], axis=1))

    def _unite(self, a: Value, b: Value, shape: tuple[int, ...], combine: Callable[[Array, Array], Array]) -> Value:
        """A block that has all lanes of two; `combine` takes arrays of their full shapes."""
        programs = max(a.data.shape[0], b.data.shape[0])

        def combined(x: Array | None, y: Array | None) -> Array | None:
            if x is None and y is None:
                return None
            marks = (np.broadcast_to(False if m is None else m, (programs, *v.shape)) for m, v in ((x, a), (y, b)))
            return combine(*marks)

        result = a.like(combine(a.full(programs), b.full(programs)), shape=shape)
        result.undefined = combined(a.undefined, b.undefined)
        result.wrapped = combined(a.wrapped, b.wrapped)
        result.origins, x, y = unify_origins(a, b)
        result.which = combined(x, y)
        result.align = min(a.align, b.align)
        return result

    def create_gather(self, source: Value, index: Value, axis: int) -> Value:
        """source[index] along an axis; an index outside is undefined."""
        self.run.barriers += 1
        programs = max(source.data.shape[0], index.data.shape[0])
        where = index.full(programs).astype(np.int64)
        bad = (where < 0) | (where >= source.shape[axis])
        safe = np.where(bad, 0, where)
        data = np.take_along_axis(source.full(programs), safe, axis + 1)
        undefined = index.undefined
        if source.undefined is not None:
            marks = np.broadcast_to(source.undefined, (programs, *source.shape))
            undefined = either(undefined, np.take_along_axis(marks, safe, axis + 1))
        if bad.any():
            undefined = either(undefined, bad)
        result = Value(data, source.ty, index.shape, undefined, origins=source.origins, align=source.align)
        if source.which is not None:
            which = np.broadcast_to(source.which, (programs, *source.shape))
            result.which = np.take_along_axis(which, safe, axis + 1)
        return result

    def create_select(self, condition: Value, a: Value, b: Value) -> Value:
        """A where the condition holds, else b."""
        self.run.note_mask("where", condition.data)
        result = self._join(a, b, pick(condition.data, a.data, b.data))
        result.undefined = either(condition.undefined, choose(condition.data, a.undefined, b.undefined))
        result.wrapped = choose(condition.data, a.wrapped, b.wrapped)
        result.origins, x, y = unify_origins(a, b)
        result.which = choose(condition.data, x, y)
        result.align = min(a.align, b.align)
        if a.low is not None and b.low is not None and a.high is not None and b.high is not None:
            result.low, result.high = min(a.low, b.low), max(a.high, b.high)
        return result

    def create_histogram(self, a: Value, bins: int, mask: Value | None) -> Value:
        """How often each of 0 ... bins - 1 occurs."""
        self.run.barriers += 1
        full = a.full()
        programs = full.shape[0] if mask is None else max(full.shape[0], mask.data.shape[0])
        full = a.full(programs).reshape(programs, -1).astype(np.int64)
        keep = (full >= 0) & (full < bins)
        if mask is not None:
            keep &= mask.full(programs).reshape(programs, -1)
        rows = np.broadcast_to(np.arange(programs)[:, None], full.shape)
        counts = np.bincount((rows * bins + full)[keep], minlength=programs * bins)
        return Value(counts.reshape(programs, bins).astype(np.int32), I32, (bins,))

    def _stretch(self, a: Value, shape: tuple[int, ...], move: Callable[[Array], Array]) -> Value:
        """Lanes that are moved, a sum term by term, and that still follow each other along the last axis."""
        if a.terms:
            terms = tuple(move(term) for term in a.terms)
            result = self._move(a, terms[0], shape, move).replace_data(terms)
        elif a.undefined is a.wrapped is a.which is None:
            result = Value(move(a.data), a.ty, shape, None, None, a.low, a.high, a.origins, None, a.align)
        else:
            result = self._move(a, move(a.data), shape, move)
        result.step = a.step
        return result

    def _move(self, a: Value, data: Array, shape: tuple[int, ...], move: Any) -> Value:
        return Value(
            data,
            a.ty,
            shape,
            None if a.undefined is None else move(_match_rank(a.undefined, a)),
            None if a.wrapped is None else move(_match_rank(a.wrapped, a)),
            a.low,
            a.high,
            a.origins,
            None if a.which is None else move(_match_rank(a.which, a)),
            a.align,
        )


def _match_rank(mask: Array, a: Value) -> Array:
    return mask if mask.ndim == len(a.dims) else np.broadcast_to(mask, a.dims)


def _reshape(data: Array, old: tuple[int, ...], new: tuple[int, ...]) -> Array:
    if data.shape[1:] == old:
        return data.reshape(data.shape[0], *new)
    if all(s == 1 for s in data.shape[1:]):
        return data.reshape(data.shape[0], *([1] * len(new)))
    return np.broadcast_to(data, (data.shape[0], *old)).reshape(data.shape[0], *new)
