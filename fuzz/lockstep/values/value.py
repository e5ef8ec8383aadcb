"""What a kernel's variables hold: one array for all programs of a launch.

A value's logical shape is that of the block (() for a scalar). Its data has one more axis in front, the programs;
any axis, that one too, may have length 1 where the value does not vary along it.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from indexfuzz.lockstep.values.arrays import Array, Mask
from indexfuzz.lockstep.values.dtypes import BlockType, ScalarType
from indexfuzz.lockstep.values.memory import Allocation

_FEW: Final = 4096
"""Lanes of which a pass costs no more than what it takes to call it."""


@dataclass(slots=True)
class Value:
    """One value in every program.

    undefined marks lanes that hold nothing the program defined, wrapped marks lanes whose 32-bit arithmetic
    overflowed on the way; both broadcast against data, None stands for no lane. low and high bound every lane's
    value where known. A pointer knows the storage that it points into and the kernel argument it came from; align, a
    power of two, divides its offset in every lane.
    """

    data: Array
    ty: ScalarType
    shape: tuple[int, ...] = ()
    undefined: Mask | None = None
    wrapped: Mask | None = None
    low: int | None = None
    high: int | None = None
    allocation: Allocation | None = None
    argument: str | None = None
    base: int = 0
    align: int = 1

    def full(self, programs: int = 1) -> Array:
        """The data with every block axis at its full length, and at least `programs` programs (read-only view)."""
        shape = (max(self.data.shape[0], programs), *self.shape)
        return self.data if self.data.shape == shape else np.broadcast_to(self.data, shape)

    def like(self, data: Array, *, ty: ScalarType | None = None, shape: tuple[int, ...] | None = None) -> "Value":
        """A value made from this one alone, lane by lane, so that what is known about lanes still holds."""
        return Value(
            data,
            self.ty if ty is None else ty,
            self.shape if shape is None else shape,
            self.undefined,
            self.wrapped,
            None,
            None,
            self.allocation,
            self.argument,
            self.base,
            self.align,
        )

    def spread(self, ty: ScalarType | BlockType) -> "Value":
        """A scalar in every lane of a block type; itself for a scalar type."""
        if isinstance(ty, ScalarType):
            return self
        ones = (1,) * len(ty.shape)

        def stretched(mask: Array) -> Array:
            return mask.reshape(mask.shape[0], *ones)

        return Value(
            stretched(self.data),
            self.ty,
            tuple(ty.shape),
            None if self.undefined is None else stretched(self.undefined),
            None if self.wrapped is None else stretched(self.wrapped),
            self.low,
            self.high,
            self.allocation,
            self.argument,
            self.base,
            self.align,
        )

    def is_bounded(self) -> bool:
        """Whether bounds are known, or few enough lanes to find them at once."""
        return self.low is not None or self.data.size <= _FEW

    def bounds(self) -> tuple[int, int]:
        """The least and greatest value of any lane, computed once where nothing is known."""
        if self.low is None or self.high is None:
            self.low = int(self.data.min())
            self.high = int(self.data.max())
        return self.low, self.high
