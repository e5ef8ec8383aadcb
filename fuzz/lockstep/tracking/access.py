"""One load, store or atomic of all programs: which lanes it touches where."""

from dataclasses import dataclass
from math import prod
from typing import Any, Final

import numpy as np

from indexfuzz.lockstep.tracking.sites import Site
from indexfuzz.lockstep.values.arrays import (
    Array,
    Mask,
    Undo,
    count_by_program,
    either,
    joint_shape,
    place,
    select,
    spread,
)
from indexfuzz.lockstep.values.buffers import Mark
from indexfuzz.lockstep.values.memory import Allocation, Runs
from indexfuzz.lockstep.values.sums import column_of, list_sum, select_sum
from indexfuzz.lockstep.values.value import Value

_MANY: Final = 1 << 13
_LONG: Final = 32
"""Lanes of an access, and of its last axis, from which on runs are worth looking for."""


@dataclass(slots=True)
class Access:
    """The lanes that an operation really touches.

    programs lists the programs of the run by their number in the launch. everywhere: all lanes, and then offsets has
    the pointers' shape (axes of length 1 stay). Otherwise lanes is a mask over programs and block, and offsets lists
    its true lanes in order. count says how many offsets there are; runs, where known, says the same as offsets, which
    are `listed` once somebody asks. wanted is the mask as the kernel gave it, failed marks lanes that were wanted and
    had to be dropped. uninitialised goes with offsets, undefined (the lanes of a load's result that nothing defined)
    with lanes. epoch counts the atomics of the run that order memory before it, released says that one came after it;
    barriers counts what made lanes wait for each other.
    """

    kind: str
    pointer: Value
    allocation: Allocation
    programs: Array
    size: int
    lanes: Mask
    wanted: Mask
    epoch: int
    barriers: int
    count: int
    listed: Array | None = None
    failed: Mask | None = None
    everywhere: bool = True
    uninitialised: Mask | None = None
    undefined: Mask | None = None
    site: Site | None = None
    values: Array | None = None
    released: bool = False
    runs: Runs | None = None

    @property
    def offsets(self) -> Array:
        """Byte offsets of the elements; their shape is told above."""
        if self.listed is None:
            pointer, lanes = self.pointer, self.lanes
            if self.everywhere:
                self.listed = pointer.data
            elif pointer.terms and (lanes.shape[0] == 1 or lanes.strides[0] == 0):
                self.listed = select_sum(pointer.terms, lanes)
            else:
                self.listed = select(spread(pointer.data, lanes.shape), lanes)
        return self.listed

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the offsets."""
        return self.pointer.dims if self.listed is None and self.everywhere else self.offsets.shape

    @property
    def extent(self) -> tuple[int, int]:
        """The least and the greatest offset, of which there must be one."""
        if self.runs is None:
            return int(self.offsets.min()), int(self.offsets.max())
        starts = self.runs.starts
        return int(starts.min()), int(starts.max()) + (self.runs.length - 1) * self.size

    @property
    def is_aligned(self) -> bool:
        """Whether every offset is known to be a multiple of the element's size."""
        return self.pointer.align >= self.size

    def narrow(self, lanes: Mask, count: int) -> None:
        """Keep only the lanes of a mask over programs and block, of which so many are marked."""
        self.everywhere, self.runs = False, None
        if not count:
            self.lanes, self.listed, self.count = lanes, np.zeros(0, np.int64), 0
            return
        shape = joint_shape(lanes.shape, self.pointer.dims)
        self.count = count if shape == lanes.shape else prod(shape) // lanes.size * count
        self.lanes, self.listed = spread(lanes, shape), None
        self.find_runs(lanes)

    def find_runs(self, lanes: Mask) -> None:
        """See whether the elements lie in runs, where a mask holds that leaves out whole rows or columns alone."""
        pointer = self.pointer
        dims = pointer.dims
        if prod(dims) < _MANY or dims[-1] < _LONG or pointer.advance != self.size or not self.is_aligned:
            return
        columns = lanes[(0,) * (lanes.ndim - 1)]
        first, length = 0, dims[-1]
        if lanes.shape[-1] > 1:
            place = np.flatnonzero(columns)
            if any(n > 1 for n in lanes.shape[:-1]) or int(place[-1]) - int(place[0]) != place.size - 1:
                return
            first, length = int(place[0]), place.size
        starts = column_of(pointer.parts, first)
        if not self.everywhere:
            starts = spread(starts, self.lanes.shape[:-1])
        if lanes.shape[-1] == 1 and not self.everywhere:
            starts = starts[spread(lanes[..., 0], starts.shape)]
        self.runs = Runs(starts.ravel(), length)

    def repeat(self, shape: tuple[int, ...]) -> None:
        """Give the offsets of all lanes a shape that they broadcast to."""
        if shape != self.shape:
            self.listed, self.runs, self.count = spread(self.offsets, shape), None, prod(shape)

    def keep(self, inside: Mask) -> None:
        """Keep only the offsets that a mask shaped like them holds."""
        if self.everywhere:
            kept = inside
        else:
            kept = np.array(self.lanes)
            place(kept, self.lanes, inside)
        self.narrow(kept, int(np.count_nonzero(kept)))

    def widen(self, shape: tuple[int, ...]) -> None:
        """Give the lanes at least this shape, where the offsets are listed."""
        if self.everywhere or shape == self.lanes.shape or not self.count:
            return
        wide = joint_shape(self.lanes.shape, shape)
        if wide != self.lanes.shape:
            self.count *= prod(wide) // self.lanes.size
            self.lanes = spread(self.lanes, wide)
            self.wanted = spread(self.wanted, wide)
            self.listed, self.runs = None, None
            self.uninitialised = self.find_unwritten() if self.uninitialised is not None else None
            if self.failed is not None:
                self.failed = spread(self.failed, wide)

    def rows(self) -> Array:
        """Index into `programs`, one for each offset."""
        if self.everywhere:
            programs = self.offsets.shape[0]
            return np.repeat(np.arange(programs), self.offsets.size // programs)
        return np.repeat(np.arange(self.lanes.shape[0]), count_by_program(self.lanes))

    def find_unwritten(self) -> Mask | None:
        """The accessed lanes with a byte that nobody wrote, shaped as the offsets; None where there is none."""
        if not self.count:
            return None
        result: Mask | None = None
        for buffer in self.allocation.buffers:
            if buffer.initialised is None:
                continue
            inside = buffer.spans(*self._reach())
            bad = buffer.find_unwritten(self.offsets, self.size, aligned=self.is_aligned, inside=inside)
            result = either(result, bad)
        return result

    def mark_written(self, offsets: Array) -> list[Mark]:
        """Say that what lies at these offsets is written from now on; how to take it back."""
        undo: list[Mark] = []
        for buffer in self.allocation.buffers:
            inside = buffer.spans(*self._reach())
            undo += buffer.mark_written(offsets, self.size, aligned=self.is_aligned, inside=inside)
        return undo

    def gather(self, memory: np.dtype[Any]) -> Array:
        """The elements at the offsets."""
        if self.runs is None:
            terms = self.pointer.terms
            if terms and self.everywhere and self.listed is None and self.is_aligned:
                return self.allocation.take(list_sum(tuple(term // self.size for term in terms), np.int64), memory)
            return self.allocation.gather(self.offsets, memory, aligned=self.is_aligned)
        rows = self.allocation.gather_runs(self.runs, memory)
        return rows.reshape(self.shape) if self.everywhere else rows.ravel()

    def scatter(self, raw: Array) -> list[Undo | Mark]:
        """Store elements at the offsets; how to take it back."""
        self.values = raw
        if self.runs is None:
            undo = self.allocation.scatter(self.offsets, raw, aligned=self.is_aligned)
        else:
            undo = self.allocation.scatter_runs(self.runs, raw.reshape(-1, self.runs.length))
        return [undo, *self.mark_written(self.offsets)] if self.allocation.buffers else [undo]

    def _reach(self) -> tuple[int | None, int | None]:
        """The bytes that the pointers may touch, from the first to behind the last; None where a bound is not known."""
        high = self.pointer.high
        return self.pointer.low, None if high is None else high + self.size
