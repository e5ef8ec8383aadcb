"""Read-modify-write operations whose lanes take turns."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from indexfuzz.lockstep.arithmetic.rounding import round_to_bf16
from indexfuzz.lockstep.values.arrays import Array
from indexfuzz.lockstep.values.dtypes import BF16, ScalarType


@dataclass(frozen=True, slots=True)
class CombineRule:
    """What an atomic makes of the old element and its operands, all as they lie in memory."""

    name: str
    ty: ScalarType

    def accumulate(self, first: Array, values: Array) -> Array | None:
        """What one element is in the course of one operand after another, its first value included.

        None for an operation whose steps have to be made one by one.
        """
        chain = np.concatenate([first, values])
        if self.name in _SIGNED and not (self.name == "FADD" and self.ty is BF16):
            made: Array = _SIGNED[self.name].accumulate(chain, dtype=chain.dtype)
            return made
        if self.name in _UNSIGNED:
            made = _UNSIGNED[self.name].accumulate(chain.view(self.ty.unsigned))
            return made.view(chain.dtype)
        return None

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


def take_turns(
    rule: CombineRule, offsets: Array, operands: list[Array], gather: Callable[[Array], Array]
) -> tuple[Array, Array, Array]:
    """What each lane finds at its offset when all have their turn in order, the offsets, and what is left there.

    gather gives the elements at offsets, none of which occurs twice.
    """
    order = np.argsort(offsets, kind="stable")
    ordered = offsets[order]
    heads = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if offsets.size else order[:0]
    lengths = np.diff(np.append(heads, offsets.size))
    places = ordered[heads]
    current = gather(places).copy()
    old = np.empty(offsets.shape, current.dtype)
    longest = int(lengths.max(initial=0))
    if longest > places.size:
        for place, (start, length) in enumerate(zip(heads.tolist(), lengths.tolist(), strict=True)):
            lanes = order[start : start + length]
            chain = rule.accumulate(current[place : place + 1], operands[-1][lanes])
            if chain is None:
                break
            old[lanes], current[place] = chain[:-1], chain[-1]
        else:
            return old, places, current
    for turn in range(longest):
        waiting = np.flatnonzero(lengths > turn)
        lanes = order[heads[waiting] + turn]
        old[lanes] = current[waiting]
        current[waiting] = rule.apply(old[lanes], [operand[lanes] for operand in operands])
    return old, places, current


def _wide(raw: Array) -> Array:
    return (raw.astype(np.uint32) << np.uint32(16)).view(np.float32)
