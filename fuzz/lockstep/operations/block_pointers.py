"""Block pointers: a base, a shape and strides instead of a block of pointers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from indexfuzz.lockstep.operations.accesses import MemoryOps
from indexfuzz.lockstep.operations.integers import IntegerOps
from indexfuzz.lockstep.values.arrays import Array, either
from indexfuzz.lockstep.values.dtypes import I1, ScalarType
from indexfuzz.lockstep.values.value import Value


@dataclass(frozen=True, slots=True)
class BlockPointer:
    """A window into a strided tensor; shape, strides and offsets are integer scalars.

    An offset may also list the places along its axis, one for each element of the block. signed is how integers read.
    """

    base: Value
    shape: tuple[Value, ...]
    strides: tuple[Value, ...]
    offsets: tuple[Value, ...]
    block: tuple[int, ...]
    padding: str | None = None
    signed: bool = True


class BlockPointerOps(MemoryOps, IntegerOps):
    """tl.make_block_ptr, and what goes with it."""

    def create_make_block_ptr(
        self,
        base: Value,
        shape: Sequence[Value],
        strides: Sequence[Value],
        offsets: Sequence[Value],
        block: Sequence[int],
        order: Any,
    ) -> BlockPointer:
        return BlockPointer(base, tuple(shape), tuple(strides), tuple(offsets), tuple(block))

    def create_advance(self, pointer: BlockPointer, offsets: Sequence[Value]) -> BlockPointer:
        moved = tuple(self.create_add(a, b) for a, b in zip(pointer.offsets, offsets, strict=True))
        return replace(pointer, offsets=moved)

    def create_tensor_pointer_load(
        self, pointer: BlockPointer, boundary_check: Sequence[int], padding: Any, *_policy: Any
    ) -> Value:
        """The window's elements; where a checked dimension ends, zero, NaN, or nothing defined."""
        pointers, mask = self._window(pointer, boundary_check)
        name = str(getattr(padding, "name", "")) if padding is not None else ""
        return self._load_padded(pointers, mask, name)

    def create_tensor_pointer_store(
        self, pointer: BlockPointer, value: Value, boundary_check: Sequence[int], *_policy: Any
    ) -> None:
        """Write the window."""
        pointers, mask = self._window(pointer, boundary_check)
        self.store(pointers, value, mask)

    def _load_padded(self, pointers: Value, mask: Value | None, padding: str) -> Value:
        element = pointers.ty.element
        if mask is None or padding not in {"PAD_ZERO", "PAD_NAN"} or not isinstance(element, ScalarType):
            return self.load(pointers, mask, None)
        fill = np.zeros((1,) * pointers.data.ndim, element.container)
        if padding == "PAD_NAN":
            fill[...] = 0x7F if element.kind == "fp8" else np.nan
        return self.load(pointers, mask, Value(fill, element, pointers.shape))

    def _window(self, pointer: BlockPointer, checked: Sequence[int]) -> tuple[Value, Value | None]:
        rank = len(pointer.block)
        base, ones = pointer.base, (1,) * rank
        itemsize = base.ty.element.itemsize if isinstance(base.ty.element, ScalarType) else 1
        offsets: Array = base.data.reshape(-1, *ones)
        inside: Array | None = None
        undefined = wrapped = unknown = None
        for i, length in enumerate(pointer.block):
            axis = tuple(-1 if j == i else 1 for j in range(rank))
            start, stride, end = pointer.offsets[i], pointer.strides[i], pointer.shape[i]
            lengths = axis if start.shape else ones
            place = start.data.astype(np.int64).reshape(start.data.shape[0], *lengths)
            if not start.shape:
                place = place + np.arange(length).reshape(1, *axis)
            offsets = offsets + place * (stride.data.astype(np.int64).reshape(-1, *ones) * itemsize)
            for part, shape in ((start, lengths), (stride, ones)):
                undefined = either(undefined, _lanes(part.undefined, shape))
                wrapped = either(wrapped, _lanes(part.wrapped, shape))
            if i in checked:
                limit = end.data.astype(np.int64).reshape(-1, *ones)
                within = (place >= 0) & (place < limit)
                inside = within if inside is None else inside & within
                unknown = either(unknown, _lanes(start.undefined, lengths))
                unknown = either(unknown, _lanes(end.undefined, ones))
        pointers = Value(offsets, base.ty, pointer.block, undefined, wrapped)
        pointers.origins, pointers.which = base.origins, _lanes(base.which, ones)
        return pointers, None if inside is None else Value(inside, I1, pointer.block, unknown)


def _lanes(mask: Array | None, lengths: tuple[int, ...]) -> Array | None:
    """What is known of a scalar, or of the places along an axis, shaped for the block."""
    return None if mask is None else mask.reshape(mask.shape[0], *lengths)
