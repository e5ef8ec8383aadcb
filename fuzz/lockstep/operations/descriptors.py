"""Tensor descriptors: windows of a strided tensor, whole or row by row; what lies outside of it reads as padding."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from indexfuzz.lockstep.operations.atomics import CombineRule
from indexfuzz.lockstep.operations.block_pointers import BlockPointer, BlockPointerOps
from indexfuzz.lockstep.values.dtypes import BlockType, ScalarType
from indexfuzz.lockstep.values.value import Value

_ORDERED: Final = frozenset({"MIN", "MAX"})


class DescriptorOps(BlockPointerOps):
    """tl.make_tensor_descriptor, what goes with it, and the descriptors that a launcher made."""

    def create_make_tensor_descriptor(
        self,
        base: Value,
        shape: Sequence[Value],
        strides: Sequence[Value],
        block: Sequence[int],
        signed: bool,
        padding: Any,
    ) -> BlockPointer:
        name = str(getattr(padding, "name", ""))
        return BlockPointer(base, tuple(shape), tuple(strides), (), tuple(block), name, signed)

    def create_descriptor_load(self, descriptor: BlockPointer, offsets: Sequence[Value], *_policy: Any) -> Value:
        """A window of the descriptor."""
        pointers, mask = self._window(replace(descriptor, offsets=tuple(offsets)), range(len(descriptor.block)))
        return self._load_padded(pointers, mask, _padding(descriptor))

    def create_descriptor_store(self, descriptor: BlockPointer, value: Value, offsets: Sequence[Value]) -> None:
        """Write a window of the descriptor; what lies outside is dropped."""
        pointers, mask = self._window(replace(descriptor, offsets=tuple(offsets)), range(len(descriptor.block)))
        self.store(pointers, value, mask)

    def create_descriptor_gather(
        self, descriptor: BlockPointer, rows: Value, column: Value, _type: ScalarType | BlockType
    ) -> Value:
        """The rows of these numbers, from a column on."""
        pointers, mask = self._rows(descriptor, rows, column)
        return self._load_padded(pointers, mask, _padding(descriptor))

    def create_descriptor_scatter(self, descriptor: BlockPointer, value: Value, rows: Value, column: Value) -> None:
        """Write the rows of these numbers, from a column on; what lies outside is dropped."""
        pointers, mask = self._rows(descriptor, rows, column)
        self.store(pointers, value, mask)

    def create_descriptor_reduce(
        self, kind: Any, descriptor: BlockPointer, value: Value, offsets: Sequence[Value]
    ) -> None:
        """Combine a window of memory with a block, each element atomically."""
        name = str(kind.name)
        if value.ty.kind == "float":
            if name != "ADD":
                raise self.unsupported(f"the descriptor's atomic {name.lower()} of {value.ty.name}")
            name = "FADD"
        elif name in _ORDERED and not descriptor.signed:
            name = f"U{name}"
        elif name in {"INC", "DEC"}:
            raise self.unsupported(f"the descriptor's atomic {name.lower()}")
        pointers, mask = self._window(replace(descriptor, offsets=tuple(offsets)), range(len(descriptor.block)))
        self.update(CombineRule(name, value.ty), pointers, [value], mask, ())

    def _rows(self, descriptor: BlockPointer, rows: Value, column: Value) -> tuple[Value, Value | None]:
        """Pointers to single rows, and which of them lie inside."""
        window = replace(descriptor, offsets=(rows, column), block=(rows.shape[0], descriptor.block[1]))
        return self._window(window, (0, 1))


def _padding(descriptor: BlockPointer) -> str:
    return "PAD_NAN" if descriptor.padding == "PAD_NAN" else "PAD_ZERO"
