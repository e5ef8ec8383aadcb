"""What a kernel's variables hold: one array for all programs of a launch.

A value's logical shape is that of the block (() for a scalar). Its data has one more axis in front, the programs;
any axis, that one too, may have length 1 where the value does not vary along it.
"""

from dataclasses import dataclass, replace
from math import prod
from typing import Any, Final

import numpy as np

from indexfuzz.lockstep.values.arrays import Array, Mask, spread
from indexfuzz.lockstep.values.dtypes import BlockType, ScalarType
from indexfuzz.lockstep.values.memory import Allocation
from indexfuzz.lockstep.values.origins import Origin
from indexfuzz.lockstep.values.sums import Terms, list_sum, may_grow, shape_of, step_of

_FEW: Final = 4096
"""Lanes of which a pass costs no more than what it takes to call it."""


@dataclass(slots=True)
class Value:
    """One value in every program.

    undefined marks lanes that hold nothing the program defined, wrapped marks lanes whose 32-bit arithmetic
    overflowed on the way; both broadcast against data, None stands for no lane. low and high bound every lane's
    value where known. A pointer holds byte offsets into its origin; where lanes have different ones, `which` is the
    index of each lane's and broadcasts against data. align, a power of two, divides the offset in every lane. step is
    what each lane of an integer or a pointer has more than the one before it along the last axis, where that is known;
    `advance` looks for it in few lanes. terms, where there are any, add up to the data, which are made once
    somebody asks for them; dims is their shape.
    """

    data: Array
    ty: ScalarType
    shape: tuple[int, ...] = ()
    undefined: Mask | None = None
    wrapped: Mask | None = None
    low: int | None = None
    high: int | None = None
    origins: tuple[Origin, ...] = ()
    which: Array | None = None
    align: int = 1
    step: int | None = None
    terms: Terms = ()

    def replace_data(self, terms: Terms) -> "Value":
        """Itself, whose data are now a sum that nobody has asked for yet."""
        self.terms = terms
        del self.data
        return self

    def __copy__(self) -> "Value":
        """Another of the same, whose data nobody has asked for either."""
        known = {name: getattr(self, name) for name in self.__slots__ if name != "data"}
        return Value(self.terms[0], **known).replace_data(self.terms) if self.terms else Value(self.data, **known)

    def __getattr__(self, name: str) -> Any:
        """The data of a sum, once they are asked for."""
        if name != "data":
            raise AttributeError(name)
        self.data = list_sum(self.terms, self.ty.container)
        return self.data

    @property
    def dims(self) -> tuple[int, ...]:
        """The shape of the data."""
        return shape_of(self.terms) if self.terms else self.data.shape

    @property
    def parts(self) -> Terms:
        """What the data are the sum of, as 64-bit integers; perhaps the data themselves."""
        return self.terms or (self.data.astype(np.int64, copy=False),)

    @property
    def allocation(self) -> Allocation | None:
        """The storage that all lanes point into; None where there is not exactly one."""
        return self.origins[0].allocation if self.origins and self.which is None else None

    @property
    def argument(self) -> str | None:
        """The kernel argument that all lanes came from, all of them by name where there are several."""
        return " or ".join(origin.argument for origin in self.origins) or None

    @property
    def base(self) -> int:
        """The byte offset of the first argument."""
        return self.origins[0].base if self.origins else 0

    @property
    def address(self) -> int | None:
        """Where in memory the tensor lies that all lanes point into."""
        return None if self.allocation is None else self.allocation.address + self.base

    @property
    def advance(self) -> int | None:
        """What each lane has more than the one before it along the last axis of the block; None where not known."""
        if not self.shape or self.dims[-1] == 1:
            return 0
        if self.step is None:
            self.step = step_of(self.terms or (self.data,))
        return self.step

    def full(self, programs: int = 1) -> Array:
        """The data with every block axis at its full length, and at least `programs` programs; not to be written to."""
        return spread(self.data, (max(self.data.shape[0], programs), *self.shape))

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
            self.origins,
            self.which,
            self.align,
        )

    def spread(self, ty: ScalarType | BlockType) -> "Value":
        """A scalar in every lane of a block type; itself for a scalar type."""
        if isinstance(ty, ScalarType):
            return self
        index = ty.axes
        return Value(
            self.data[index],
            self.ty,
            ty.shape,
            None if self.undefined is None else self.undefined[index],
            None if self.wrapped is None else self.wrapped[index],
            self.low,
            self.high,
            self.origins,
            None if self.which is None else self.which[index],
            self.align,
        )

    def part(self, number: int) -> "Value":
        """A pointer as if all lanes had one of its origins; right where `which` is that number."""
        return replace(self, origins=self.origins[number : number + 1], which=None, low=None, high=None)

    def addresses(self) -> Array:
        """A pointer's lanes as addresses; of another value the data."""
        if not self.origins:
            return self.data
        table = np.array([origin.allocation.address for origin in self.origins])
        starts: Array = table[0] if self.which is None else table[self.which]
        return self.data + starts

    def is_bounded(self) -> bool:
        """Whether bounds are known, or few enough lanes to find them at once."""
        return self.low is not None or prod(self.dims) <= _FEW

    def bounds(self) -> tuple[int, int]:
        """The least and greatest value of any lane, computed once where nothing is known."""
        if self.low is None or self.high is None:
            data = self.data
            if data.size == 1:
                self.low = self.high = int(data.item())
            else:
                self.low = int(np.minimum.reduce(data, axis=None))
                self.high = int(np.maximum.reduce(data, axis=None))
        return self.low, self.high


Unified = tuple[tuple[Origin, ...], Array | None, Array | None]


def unify_origins(a: Value, b: Value) -> Unified:
    """The origins of two values in one table, and each one's index into it; None where one origin is all there is."""
    if a.origins == b.origins and a.which is b.which is None:
        return a.origins, None, None
    table = (*a.origins, *(origin for origin in b.origins if origin not in a.origins))
    return table, _index(a, table), _index(b, table)


def _index(value: Value, table: tuple[Origin, ...]) -> Array:
    numbers = np.array([table.index(origin) for origin in value.origins], np.int8)
    return numbers[np.zeros((1,) * value.data.ndim, np.int8) if value.which is None else value.which]


def may_be_sum(a: Value, b: Value) -> bool:
    """Whether it may be better not to list what two integers add up to."""
    return bool(a.terms or b.terms) or may_grow(a.data, b.data)


def is_large(a: Value) -> bool:
    """Whether a value has so many lanes that what is known of its operands' steps must be kept."""
    return bool(a.terms) or a.data.size > _FEW
