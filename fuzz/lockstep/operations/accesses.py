"""Loads, stores and atomics on blocks of pointers, and the pointers themselves."""

from typing import Any, Final

import numpy as np

from indexfuzz.lockstep.checkers.access import begin_access
from indexfuzz.lockstep.operations.atomics import CombineRule, rounds
from indexfuzz.lockstep.operations.casts import from_memory, to_memory
from indexfuzz.lockstep.operations.context import Context
from indexfuzz.lockstep.tracking.access import Access
from indexfuzz.lockstep.values.arrays import either, place, select
from indexfuzz.lockstep.values.dtypes import I64, BlockType, ScalarType, poison
from indexfuzz.lockstep.values.value import Value

_LARGEST: Final = 1 << 62
"""Offsets whose bounds are kept; beyond, 64-bit arithmetic may have wrapped."""


class MemoryOps(Context):
    """create_load and the other accesses."""

    def create_addptr(self, pointer: Value, offset: Value) -> Value:
        """Pointer + offset elements."""
        element = pointer.ty.element
        if element is None or isinstance(element, BlockType):
            raise self.unsupported("arithmetic on a pointer to a block")
        size = element.itemsize
        distance = offset.data.astype(np.int64, copy=False)
        data = pointer.data + (distance if size == 1 else distance * size)
        result = self._join(pointer, offset, data)
        result.allocation, result.argument, result.base = pointer.allocation, pointer.argument, pointer.base
        result.align = min(pointer.align, size)
        if pointer.low is not None and pointer.high is not None and offset.is_bounded():
            low, high = offset.bounds()
            low, high = pointer.low + low * size, pointer.high + high * size
            if low >= -_LARGEST and high <= _LARGEST:
                result.low, result.high = low, high
        return result

    def create_ptr_to_int(self, pointer: Value, ty: ScalarType | BlockType) -> Value:
        address = pointer.allocation.address if pointer.allocation is not None else 0
        result = Value(pointer.data + address, ty.scalar, pointer.shape, pointer.undefined, pointer.wrapped)
        return result if ty.scalar is I64 else self._narrow(result, ty.scalar)

    def _narrow(self, a: Value, ty: ScalarType) -> Value:
        return a.like(a.data.astype(ty.container), ty=ty)

    def create_int_to_ptr(self, a: Value, ty: ScalarType | BlockType) -> Value:
        """An address as a pointer; it must lie in a tensor of the launch."""
        addresses = a.data.astype(np.int64)
        allocation = self.run.launch.find(int(addresses.flat[0]))
        if allocation is None:
            raise self.unsupported("a pointer made from an address outside every tensor argument")
        result = Value(addresses - allocation.address, ty.scalar, a.shape, a.undefined, a.wrapped)
        result.allocation, result.argument = allocation, allocation.argument
        return result

    def create_load(self, pointer: Value, *_policy: Any) -> Value:
        """The elements that every lane points to."""
        return self.load(pointer, None, None)

    def create_masked_load(self, pointer: Value, mask: Value, other: Value | None, *_policy: Any) -> Value:
        """The elements where the mask holds, else `other`, else nothing defined."""
        return self.load(pointer, mask, other)

    def load(self, pointer: Value, mask: Value | None, other: Value | None) -> Value:
        """Load under an optional mask."""
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
        if element.kind == "pointer":
            raise self.unsupported("a tensor of pointers")
        return result

    def _load_some(self, access: Access, pointer: Value, other: Value | None, element: ScalarType) -> Value:
        shape = access.lanes.shape
        undefined = None
        if other is None:
            data = poison(element, shape)
            if self.tracks_undefined:
                undefined = ~access.wanted
        else:
            shape = np.broadcast_shapes(shape, other.data.shape)
            data = np.array(np.broadcast_to(other.data, shape))
            if other.undefined is not None:
                undefined = other.undefined & ~access.wanted
            access.widen(shape)
            if access.failed is not None:
                data[access.failed] = poison(element, (1,))[0]
        if access.offsets.size:
            place(data, access.lanes, from_memory(access.gather(element.memory), element))
            if self.tracks_undefined and access.uninitialised is not None:
                marks = np.zeros(shape, np.bool_) if undefined is None else np.array(np.broadcast_to(undefined, shape))
                place(marks, access.lanes, access.uninitialised)
                undefined = marks
        return Value(data, element, pointer.shape, undefined)

    def create_store(self, pointer: Value, value: Value, *_policy: Any) -> None:
        self.store(pointer, value, None)

    def create_masked_store(self, pointer: Value, value: Value, mask: Value, *_policy: Any) -> None:
        self.store(pointer, value, mask)

    def store(self, pointer: Value, value: Value, mask: Value | None) -> None:
        """Store under an optional mask."""
        access = begin_access(self.run, "store", pointer, mask, value)
        if not access.offsets.size:
            return
        element = _element(pointer)
        raw = to_memory(value.data, element)
        if access.everywhere:
            shape = np.broadcast_shapes(access.offsets.shape, raw.shape)
            if shape != access.offsets.shape:
                access.offsets = np.broadcast_to(access.offsets, shape)
            raw = np.broadcast_to(raw, shape)
        else:
            access.widen(raw.shape)
            raw = select(np.broadcast_to(raw, access.lanes.shape), access.lanes)
        self.run.undo += access.scatter(raw)

    # atomics
    def create_atomic_rmw(self, op: Any, pointer: Value, value: Value, mask: Value, *order: Any) -> Value:
        """Read, combine, write, one lane after another in program order; the old values."""
        return self._atomic(CombineRule(str(op.name), value.ty), pointer, [value], mask, order)

    def create_atomic_cas(self, pointer: Value, expected: Value, value: Value, *order: Any) -> Value:
        """Write where the old value is the expected one, one lane after another; the old values."""
        return self._atomic(CombineRule("CAS", value.ty), pointer, [expected, value], None, order)

    def _atomic(
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
        old = np.empty(offsets.shape, element.memory)
        for chosen in rounds(offsets):
            before = access.allocation.gather(offsets[chosen], element.memory)
            old[chosen] = before
            after = rule.apply(before, [r[chosen] for r in raw])
            run.undo.append(access.allocation.scatter(offsets[chosen], after))
        run.count_atomic(order)
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


def _element(pointer: Value) -> ScalarType:
    element = pointer.ty.element
    if not isinstance(element, ScalarType):
        raise TypeError(f"a pointer to a scalar is needed, not {pointer.ty.name}")
    return element
