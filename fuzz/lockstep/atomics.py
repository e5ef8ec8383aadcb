"""Read-modify-write operations whose lanes take turns."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from indexfuzz.lockstep import numerics
from indexfuzz.lockstep.dtypes import BF16, ScalarType
from indexfuzz.lockstep.values import Array


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
        """The new elements."""
        value = operands[-1]
        match self.name:
            case "ADD":
                return old + value
            case "FADD":
                if self.ty is BF16:
                    total = _wide(old) + _wide(value)
                    return (numerics.round_to_bf16(total).view(np.uint32) >> np.uint32(16)).astype(np.uint16)
                return old + value
            case "AND":
                return old & value
            case "OR":
                return old | value
            case "XOR":
                return old ^ value
            case "XCHG":
                return value
            case "MAX":
                return np.maximum(old, value)
            case "MIN":
                return np.minimum(old, value)
            case "UMAX":
                return np.maximum(old.view(self.ty.unsigned), value.view(self.ty.unsigned)).view(old.dtype)
            case "UMIN":
                return np.minimum(old.view(self.ty.unsigned), value.view(self.ty.unsigned)).view(old.dtype)
            case "CAS":
                bits = self.ty.unsigned
                return np.where(old.view(bits) == operands[0].view(bits), value, old)
            case _:
                raise NotImplementedError(f"the atomic {self.name}")


def _wide(raw: Array) -> Array:
    return (raw.astype(np.uint32) << np.uint32(16)).view(np.float32)
