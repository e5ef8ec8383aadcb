"""One load, store or atomic of all programs: which lanes it touches where, and what the checkers say to it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from indexfuzz.lockstep.checkers import bounds, overflow, undefined
from indexfuzz.lockstep.dtypes import ScalarType
from indexfuzz.lockstep.memory import Allocation
from indexfuzz.lockstep.values import Array, Mask, Value, count_by_program, place, selected

if TYPE_CHECKING:
    from indexfuzz.lockstep.run import Run
    from indexfuzz.lockstep.source import Site


@dataclass(slots=True)
class Access:
    """The lanes that an operation really touches.

    everywhere: all lanes, and then offsets has the pointers' shape (axes of length 1 stay). Otherwise lanes is a mask
    over programs and block, and offsets lists its true lanes in order. wanted is the mask as the kernel gave it,
    failed marks lanes that were wanted and had to be dropped. uninitialised goes with offsets, undefined (the lanes of
    a load's result that nothing defined) with lanes.
    """

    run: "Run"
    kind: str
    pointer: Value
    allocation: Allocation
    size: int
    offsets: Array
    lanes: Mask
    wanted: Mask
    failed: Mask | None = None
    everywhere: bool = True
    uninitialised: Mask | None = None
    undefined: Mask | None = None
    site: "Site | None" = None
    values: Array | None = None
    epoch: int = 0

    @classmethod
    def of(cls, run: "Run", kind: str, pointer: Value, mask: Value | None, *values: Value) -> "Access":
        """Check one access with everything that is switched on, and keep the lanes that may go on."""
        allocation, element = pointer.allocation, pointer.ty.element
        if allocation is None or not isinstance(element, ScalarType):
            raise TypeError("an access needs a pointer that comes from a tensor argument")
        run.seen(kind, None if mask is None else mask.data)
        wanted = np.ones((1,) * pointer.data.ndim, np.bool_) if mask is None else mask.data
        usable = wanted
        if run.checks.undefined:
            usable = undefined.check_access(run, kind, pointer, mask, wanted, values)
        if run.checks.overflow and pointer.wrapped is not None:
            overflow.check_access(run, kind, pointer, usable)
        size = element.itemsize
        access = cls(run, kind, pointer, allocation, size, pointer.data, usable, wanted)
        if usable is not wanted or (mask is not None and not usable.all()):
            access._narrow(usable)
        inside = bounds.check_access(run, access)
        if inside is not None:
            access._narrow(inside if access.everywhere else _within(access.lanes, inside))
        if usable is not wanted or inside is not None:
            access.failed = wanted & ~access.lanes
        if allocation.buffers and kind != "store":
            access.uninitialised = undefined.uninitialised(access)
        access.epoch = run.atomics
        if run.checks.races and kind != "atomic" and access.offsets.size:
            access.site = run.site()
            run.accesses.append(access)
        return access

    def _narrow(self, lanes: Mask) -> None:
        self.everywhere = False
        if not lanes.any():
            self.lanes, self.offsets = lanes, self.pointer.data.ravel()[:0]
            return
        shape = np.broadcast_shapes(lanes.shape, self.pointer.data.shape)
        self.lanes = _spread(lanes, shape)
        self.offsets = selected(_spread(self.pointer.data, shape), self.lanes)

    def widen(self, shape: tuple[int, ...]) -> None:
        """Give the lanes at least this shape, where the offsets are listed."""
        if self.everywhere or not self.offsets.size:
            return
        wide = np.broadcast_shapes(self.lanes.shape, shape)
        if wide != self.lanes.shape:
            self.lanes = _spread(self.lanes, wide)
            self.wanted = _spread(self.wanted, wide)
            self.offsets = selected(_spread(self.pointer.data, wide), self.lanes)
            self.uninitialised = undefined.uninitialised(self) if self.uninitialised is not None else None
            if self.failed is not None:
                self.failed = _spread(self.failed, wide)

    def programs(self) -> Array:
        """Index into the run's programs, one for each offset."""
        if self.everywhere:
            programs = self.offsets.shape[0]
            return np.repeat(np.arange(programs), self.offsets.size // programs)
        return np.repeat(np.arange(self.lanes.shape[0]), count_by_program(self.lanes))

    def write(self, raw: Array) -> None:
        """Store elements at the offsets, so that the run can still take it back."""
        self.values = raw
        self.run.undo.append(self.allocation.scatter(self.offsets, raw, aligned=self.is_aligned))
        self.mark_initialised(self.offsets)

    @property
    def is_aligned(self) -> bool:
        """Whether every offset is known to be a multiple of the element's size."""
        return self.pointer.align >= self.size

    def gather(self, memory: "np.dtype[Any]") -> Array:
        """The elements at the offsets."""
        return self.allocation.gather(self.offsets, memory, aligned=self.is_aligned)

    def mark_initialised(self, offsets: Array) -> None:
        """What is stored is initialised from now on."""
        if self.allocation.buffers:
            undefined.mark_initialised(self, offsets)


def _spread(data: Array, shape: tuple[int, ...]) -> Array:
    return data if data.shape == shape else np.broadcast_to(data, shape)


def _within(lanes: Mask, inside: Mask) -> Mask:
    kept = np.array(lanes)
    place(kept, lanes, inside)
    return kept
