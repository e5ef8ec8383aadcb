"""What the builder's operations share: the run that is going on, and how results take over what is known of lanes."""

from collections.abc import Callable
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from indexfuzz.lockstep.tracking.divergence import Divergence, portions
from indexfuzz.lockstep.tracking.run import Run
from indexfuzz.lockstep.tracking.sites import current_site
from indexfuzz.lockstep.tracking.violations import UnsupportedFeature
from indexfuzz.lockstep.values.arrays import Array, either
from indexfuzz.lockstep.values.dtypes import I1, ScalarType
from indexfuzz.lockstep.values.sums import Terms
from indexfuzz.lockstep.values.value import Value


@lru_cache(maxsize=1 << 14)
def _constant(value: int, ty: ScalarType) -> Value:
    """An integer of a type; operations do not write to their operands, so that one object is enough."""
    wrapped = (value - ty.minimum) % (1 << ty.bits) + ty.minimum
    data = np.full(1, wrapped, ty.container)
    data.flags.writeable = False
    return Value(data, ty, (), low=wrapped, high=wrapped)


class Context:
    """The state of a builder.

    run is set while a launch goes on; semantic and call reach back to the language for combine functions.
    """

    run: Run
    semantic: Any
    call: Callable[..., Any]
    tracks_overflow: bool = True
    tracks_undefined: bool = True
    largest: int = 1 << 20

    def _join(self, a: Value, b: Value, data: Array, ty: ScalarType | None = None) -> Value:
        return Value(
            data,
            ty or a.ty,
            a.shape,
            a.undefined if b.undefined is None else either(a.undefined, b.undefined),
            a.wrapped if b.wrapped is None else either(a.wrapped, b.wrapped),
        )

    def _sum(self, a: Value, b: Value, terms: Terms) -> Value:
        """What two values add up to, not listed."""
        return self._join(a, b, terms[0]).replace_data(terms)

    def _compare(self, a: Value, b: Value, data: Array) -> Value:
        return Value(data, I1, a.shape, a.undefined if b.undefined is None else either(a.undefined, b.undefined))

    def _integer(self, value: int, ty: ScalarType) -> Value:
        return _constant(value, ty)

    def _refuse_fp8(self, a: Value) -> None:
        if a.ty.kind == "fp8":
            raise self.unsupported(f"arithmetic on {a.ty.name}")

    def check_size(self, shape: tuple[int, ...]) -> None:
        """Raise Divergence, to run fewer programs at once, where a block in all of them would be too large."""
        programs, lanes = self.run.count, prod(shape)
        if programs > 1 and lanes * programs > self.largest:
            raise Divergence(portions(programs, max(self.largest // lanes, 1)))

    def unsupported(self, what: str) -> UnsupportedFeature:
        """The error for a missing feature, with the place in the kernel that asks for it."""
        site = current_site()
        return UnsupportedFeature(f"{site.file}:{site.line}: {what} in {site.function} is not supported by lockstep")
