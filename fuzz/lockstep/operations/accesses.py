"""Loads, stores and atomics on blocks of pointers, and the pointers themselves."""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from indexfuzz.lockstep.checkers.access import begin_access
from indexfuzz.lockstep.operations.atomics import CombineRule, take_turns
from indexfuzz.lockstep.operations.casts import from_memory, to_memory
from indexfuzz.lockstep.operations.context import Context
from indexfuzz.lockstep.tracking.access import Access
from indexfuzz.lockstep.values.arrays import Array, Mask, choose, either, joint_shape, place, select, spread
from indexfuzz.lockstep.values.dtypes import I1, I64, BlockType, ScalarType, poison
from indexfuzz.lockstep.values.origins import Origin
from indexfuzz.lockstep.values.sums import add_terms
from indexfuzz.lockstep.values.value import Value, is_large, may_be_sum

_LARGEST: Final = 1 << 62
"""Offsets whose bounds are kept; beyond, 64-bit arithmetic may have wrapped."""

_LARGE: Final = 1 << 12
"""Lanes from which on an array more takes longer than the call that saves it."""


class MemoryOps(Context):
    """create_load and the other accesses."""

    def create_addptr(self, pointer: Value, offset: Value) -> Value:
        """Pointer + offset elements."""
        element = pointer.ty.element
        if element is None or isinstance(element, BlockType):
            raise self.unsupported("arithmetic on a pointer to a block")
        size = element.itemsize
        terms = add_terms(pointer.parts, offset.parts, size) if may_be_sum(pointer, offset) else None
        if terms is None:
            result = self._join(pointer, offset, _advance(pointer.data, offset.data, size))
        else:
            result = self._sum(pointer, offset, terms)
        result.origins, result.which = pointer.origins, pointer.which
        result.align = min(pointer.align, size)
        if pointer.low is not None and pointer.high is not None and offset.is_bounded():
            low, high = offset.bounds()
            low, high = pointer.low + low * size, pointer.high + high * size
            if low >= -_LARGEST and high <= _LARGEST:
                result.low, result.high = low, high
                if is_large(result):
                    first, second = pointer.advance, offset.advance
                    result.step = None if first is None or second is None else first + second * size
        return result

    def create_ptr_to_int(self, pointer: Value, ty: ScalarType | BlockType) -> Value:
        self.run.launch.is_closed = False
        result = Value(pointer.addresses(), ty.scalar, pointer.shape, pointer.undefined, pointer.wrapped)
        return result if ty.scalar is I64 else self._narrow(result, ty.scalar)

    def _narrow(self, a: Value, ty: ScalarType) -> Value:
        return a.like(a.data.astype(ty.container), ty=ty)

    def create_int_to_ptr(self, a: Value, ty: ScalarType | BlockType) -> Value:
        """Addresses as pointers into the tensors of the launch; one that lies in none counts to the first of them."""
        self.run.launch.is_closed = False
        addresses = a.data.astype(np.int64)
        result = Value(addresses, ty.scalar, a.shape, a.undefined, a.wrapped)
        which = np.full(addresses.shape, -1, np.int8)
        for allocation in self.run.launch.allocations.values():
            lanes = (addresses >= allocation.address) & (addresses < allocation.address + max(allocation.size, 1))
            if lanes.any():
                which[lanes] = len(result.origins)
                result.origins += (Origin(allocation, allocation.argument),)
        if not result.origins:
            raise self.unsupported("a pointer made from an address outside every tensor argument")
        which = np.maximum(which, 0)
        starts = np.array([origin.allocation.address for origin in result.origins])
        result.data = addresses - starts[which]
        result.which = which if len(result.origins) > 1 else None
        return result

    def create_load(self, pointer: Value, *_policy: Any) -> Value:
        """The elements that every lane points to."""
        return self.load(pointer, None, None)

    def create_masked_load(self, pointer: Value, mask: Value, other: Value | None, *_policy: Any) -> Value:
        """The elements where the mask holds, else `other`, else nothing defined."""
        return self.load(pointer, mask, other)

    def load(self, pointer: Value, mask: Value | None, other: Value | None) -> Value:
        """Load under an optional mask."""
        self.check_size(pointer.shape)
        self.run.note_mask("load", None if mask is None else mask.data)
        if _element(pointer).kind == "pointer":
            raise self.unsupported("a tensor of pointers")
        if pointer.which is None:
            return self._load(pointer, mask, other)
        element = _element(pointer)
        fill = other or Value(np.zeros((1,) * pointer.data.ndim, element.container), element, pointer.shape)
        parts = [(lanes, self._load(part, own, fill)) for lanes, part, own in _by_origin(pointer, mask)]
        result = parts[0][1]
        for lanes, part in parts[1:]:
            result.data = np.where(lanes, part.data, result.data)
            result.undefined = choose(lanes, part.undefined, result.undefined)
        if other is None and mask is not None:
            result.data = np.where(mask.data, result.data, poison(element, (1,)))
            result.undefined = either(result.undefined, ~mask.data) if self.tracks_undefined else None
        return result

    def _load(self, pointer: Value, mask: Value | None, other: Value | None) -> Value:
        access = begin_access(self.run, "load", pointer, mask)
        element = _element(pointer)
        if access.everywhere:
            data = from_memory(access.gather(element.memory), element)
            undefined = access.uninitialised if self.tracks_undefined else None
            if not pointer.shape and undefined is None and element.kind == "int" and (data == data[0]).all():
                data = data[:1]
            result = Value(data, element, pointer.shape, undefined)
        else:
            result = self._load_some(access, pointer, other, element)
        if result.undefined is not None:
            self.run.note_undefined(access, result.undefined)
        return result

    def _load_some(self, access: Access, pointer: Value, other: Value | None, element: ScalarType) -> Value:
        shape = access.lanes.shape
        undefined = None
        if other is None:
            data = poison(element, shape)
            if self.tracks_undefined:
                undefined = ~access.wanted
        else:
            failed = access.failed
            shape = joint_shape(shape, other.data.shape)
            if failed is not None:
                shape = joint_shape(shape, failed.shape)
            data = np.empty(shape, other.data.dtype)
            data[...] = other.data
            if other.undefined is not None:
                undefined = other.undefined & ~access.wanted
            access.widen(shape)
            if failed is not None:
                np.copyto(data, poison(element, (1,))[0], where=failed)
        if access.count:
            place(data, access.lanes, from_memory(access.gather(element.memory), element))
            if self.tracks_undefined and access.uninitialised is not None:
                marks = np.zeros(shape, np.bool_) if undefined is None else np.array(spread(undefined, shape))
                place(marks, access.lanes, access.uninitialised)
                undefined = marks
        return Value(data, element, pointer.shape, undefined)

    def create_store(self, pointer: Value, value: Value, *_policy: Any) -> None:
        self.store(pointer, value, None)

    def create_masked_store(self, pointer: Value, value: Value, mask: Value, *_policy: Any) -> None:
        self.store(pointer, value, mask)

    def store(self, pointer: Value, value: Value, mask: Value | None) -> None:
        """Store under an optional mask."""
        self.run.note_mask("store", None if mask is None else mask.data)
        if pointer.which is None:
            self._store(pointer, value, mask)
            return
        for _, part, own in _by_origin(pointer, mask):
            self._store(part, value, own)

    def _store(self, pointer: Value, value: Value, mask: Value | None) -> None:
        access = begin_access(self.run, "store", pointer, mask, value)
        if not access.count:
            return
        element = _element(pointer)
        raw = to_memory(value.data, element)
        if access.everywhere:
            if raw.shape != access.shape:
                shape = joint_shape(access.shape, raw.shape)
                access.repeat(shape)
                raw = spread(raw, shape)
        else:
            access.widen(raw.shape)
            raw = select(spread(raw, access.lanes.shape), access.lanes)
        self.run.undo += access.scatter(raw)

    # atomics
    def create_atomic_rmw(self, op: Any, pointer: Value, value: Value, mask: Value, *order: Any) -> Value:
        """Read, combine, write, one lane after another in program order; the old values."""
        return self.update(CombineRule(str(op.name), value.ty), pointer, [value], mask, order)

    def create_atomic_cas(self, pointer: Value, expected: Value, value: Value, *order: Any) -> Value:
        """Write where the old value is the expected one, one lane after another; the old values."""
        return self.update(CombineRule("CAS", value.ty), pointer, [expected, value], None, order)

    def update(
        self, rule: CombineRule, pointer: Value, operands: list[Value], mask: Value | None, order: tuple[Any, ...]
    ) -> Value:
        """An atomic under an optional mask; the old values."""
        self.run.note_mask("atomic", None if mask is None else mask.data)
        if pointer.which is None:
            return self._update(rule, pointer, operands, mask, order)
        parts = [
            (lanes, self._update(rule, part, operands, own, order)) for lanes, part, own in _by_origin(pointer, mask)
        ]
        result = parts[0][1]
        for lanes, part in parts[1:]:
            result.data = np.where(lanes, part.data, result.data)
            result.undefined = choose(lanes, part.undefined, result.undefined)
        return result

    def _update(
        self, rule: CombineRule, pointer: Value, operands: list[Value], mask: Value | None, order: tuple[Any, ...]
    ) -> Value:
        element = _element(pointer)
        run = self.run
        access = begin_access(run, "atomic", pointer, mask, *operands)
        shape = (run.count, *pointer.shape)
        access.widen(shape)
        lanes = np.broadcast_to(access.everywhere or access.lanes, shape)
        offsets = np.broadcast_to(access.offsets, shape).ravel() if access.everywhere else access.offsets
        raw = [to_memory(np.broadcast_to(o.data, shape)[lanes], element) for o in operands]
        memory = access.allocation
        old, places, left = take_turns(rule, offsets, raw, lambda at: memory.gather(at, element.memory))
        run.undo.append(memory.scatter(places, left))
        run.count_atomic(order)
        run.depends_on_order = True
        run.barriers += 1
        run.undo += access.mark_written(offsets)
        data = np.zeros(shape, element.container)
        data[lanes] = from_memory(old, element)
        undefined = None if access.everywhere or not self.tracks_undefined else ~lanes
        if self.tracks_undefined and access.uninitialised is not None:
            marks = access.uninitialised
            unwritten = np.zeros(shape, np.bool_)
            unwritten[lanes] = np.broadcast_to(marks, shape).ravel() if access.everywhere else marks
            if rule.name != "XCHG" and run.checks.undefined:
                run.report("uninitialised", pointer, unwritten, "an atomic updates bytes that nobody wrote")
            undefined = either(undefined, unwritten)
        return Value(data, element, pointer.shape, undefined)

    def create_atomic_load(self, pointer: Value, mask: Value, *order: Any) -> Value:
        """A load that no store races with."""
        self.run.count_atomic(order)
        return self._quietly(pointer, mask)

    def create_atomic_poll(self, pointer: Value, expected: Value, timeout: Any, *order: Any) -> Value:
        """Whether each lane reads what it expects; nothing passes the time, so one look is as good as many.

        A lane that would wait without a limit is refused: the program that ends its waiting may not have run yet.
        """
        self.run.count_atomic(order)
        self.run.depends_on_order = True
        mask = Value(np.ones((1,) * pointer.data.ndim, np.bool_), I1, pointer.shape)
        found = self._quietly(pointer, mask)
        data = np.asarray(found.data == expected.data)
        if not isinstance(timeout, Value) and not data.all():
            raise self.unsupported("waiting without a limit in tl.atomic_poll")
        return self._compare(found, expected, data)

    def _quietly(self, pointer: Value, mask: Value) -> Value:
        before = len(self.run.accesses)
        result = self.load(pointer, mask, None)
        del self.run.accesses[before:]
        return result

    def create_atomic_store(self, pointer: Value, value: Value, mask: Value, *order: Any) -> None:
        """A store that no access races with."""
        before = len(self.run.accesses)
        self.store(pointer, value, mask)
        del self.run.accesses[before:]
        self.run.count_atomic(order)


def _advance(start: Array, count: Array, size: int) -> Array:
    """Byte offsets moved on by so many elements; of large blocks without more arrays than the result."""
    if count.size < _LARGE or joint_shape(start.shape, count.shape) != count.shape:
        wide = count.astype(np.int64, copy=False)
        return np.asarray(start + (wide if size == 1 else wide * size))
    moved: Array = np.multiply(count, size, dtype=np.int64)
    moved += start
    return moved


def _element(pointer: Value) -> ScalarType:
    element = pointer.ty.element
    if not isinstance(element, ScalarType):
        raise TypeError(f"a pointer to a scalar is needed, not {pointer.ty.name}")
    return element


def _by_origin(pointer: Value, mask: Value | None) -> Iterator[tuple[Mask, Value, Value]]:
    """The lanes of each origin, the pointer as if all had it, and the mask of those of them that are wanted."""
    for number in range(len(pointer.origins)):
        lanes = np.asarray(pointer.which == number)
        if not lanes.any():
            continue
        own = Value(lanes, I1, pointer.shape)
        if mask is not None:
            own.data = lanes & mask.data
            own.undefined = None if mask.undefined is None else lanes & mask.undefined
        yield lanes, pointer.part(number), own
