"""Read-modify-write operations whose lanes take turns."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from indexfuzz.lockstep.arithmetic.rounding import round_to_bf16
from indexfuzz.lockstep.values.arrays import Array
from indexfuzz.lockstep.values.dtypes import BF16, ScalarType


def rounds(offsets: Array) -> Iterator[Array]:
    """Lanes in groups without a repeated offset; a lane comes after every earlier lane of its offset."""
    order = np.argsort(offsets, kind="stable")
    ordered = offsets[order]
    first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if offsets.size else order[:0]
    lengths = np.diff(np.append(first, offsets.size))
    rank = np.arange(offsets.size) - np.repeat(first, lengths)
    for turn in range(int(lengths.max(initial=0))):
        yield order[rank == turn]


@dataclass(frozen=True, slots=True)
class CombineRule:
    """What an atomic makes of the old element and its operands, all as they lie in memory."""

    name: str
    ty: ScalarType

    def apply(self, old: Array, operands: list[Array]) -> Array:
        """The new elements; NotImplementedError for an operation that there is not."""
        value = operands[-1]
        unsigned = self.ty.unsigned
        if self.name == "XCHG":
            return value
        if self.name == "CAS":
            return np.where(old.view(unsigned) == operands[0].view(unsigned), value, old)
        if self.name == "FADD" and self.ty is BF16:
            total = _wide(old) + _wide(value)
            return (round_to_bf16(total).view(np.uint32) >> np.uint32(16)).astype(np.uint16)
        if self.name in _SIGNED:
            made: Array = _SIGNED[self.name](old, value)
            return made
        if self.name in _UNSIGNED:
            made = _UNSIGNED[self.name](old.view(unsigned), value.view(unsigned))
            return made.view(old.dtype)
        raise NotImplementedError(f"the atomic {self.name}")


_SIGNED: Final = {
    "ADD": np.add,
    "FADD": np.add,
    "AND": np.bitwise_and,
    "OR": np.bitwise_or,
    "XOR": np.bitwise_xor,
    "MAX": np.maximum,
    "MIN": np.minimum,
}
_UNSIGNED: Final = {"UMAX": np.maximum, "UMIN": np.minimum}


def _wide(raw: Array) -> Array:
    return (raw.astype(np.uint32) << np.uint32(16)).view(np.float32)
