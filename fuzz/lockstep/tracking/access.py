"""One load, store or atomic of all programs: which lanes it touches where."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from indexfuzz.lockstep.tracking.sites import Site
from indexfuzz.lockstep.values.arrays import Array, Mask, Undo, count_by_program, either, place, select, spread
from indexfuzz.lockstep.values.buffers import Mark
from indexfuzz.lockstep.values.memory import Allocation
from indexfuzz.lockstep.values.value import Value


@dataclass(slots=True)
class Access:
    """The lanes that an operation really touches.

    programs lists the programs of the run by their number in the launch. everywhere: all lanes, and then offsets has
    the pointers' shape (axes of length 1 stay). Otherwise lanes is a mask over programs and block, and offsets lists
    its true lanes in order. wanted is the mask as the kernel gave it, failed marks lanes that were wanted and had to be
    dropped. uninitialised goes with offsets, undefined (the lanes of a load's result that nothing defined) with lanes.
    epoch counts the atomics of the run that order memory before it, released says that one came after it; barriers
    counts what made lanes wait for each other.
    """

    kind: str
    pointer: Value
    allocation: Allocation
    programs: Array
    size: int
    offsets: Array
    lanes: Mask
    wanted: Mask
    epoch: int
    barriers: int
    failed: Mask | None = None
    everywhere: bool = True
    uninitialised: Mask | None = None
    undefined: Mask | None = None
    site: Site | None = None
    values: Array | None = None
    released: bool = False

    @property
    def is_aligned(self) -> bool:
        """Whether every offset is known to be a multiple of the element's size."""
        return self.pointer.align >= self.size

    def narrow(self, lanes: Mask, count: int) -> None:
        """Keep only the lanes of a mask over programs and block, of which so many are marked."""
        self.everywhere = False
        data = self.pointer.data
        if not count:
            self.lanes, self.offsets = lanes, data.ravel()[:0]
            return
        if lanes.shape != data.shape:
            shape = np.broadcast_shapes(lanes.shape, data.shape)
            lanes, data = spread(lanes, shape), spread(data, shape)
        self.lanes, self.offsets = lanes, select(data, lanes)

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
        if self.everywhere or not self.offsets.size:
            return
        wide = np.broadcast_shapes(self.lanes.shape, shape)
        if wide != self.lanes.shape:
            self.lanes = spread(self.lanes, wide)
            self.wanted = spread(self.wanted, wide)
            self.offsets = select(spread(self.pointer.data, wide), self.lanes)
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
        if not self.offsets.size:
            return None
        result: Mask | None = None
        for buffer in self.allocation.buffers:
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
        return self.allocation.gather(self.offsets, memory, aligned=self.is_aligned)

    def scatter(self, raw: Array) -> list[Undo | Mark]:
        """Store elements at the offsets; how to take it back."""
        self.values = raw
        undo = self.allocation.scatter(self.offsets, raw, aligned=self.is_aligned)
        return [undo, *self.mark_written(self.offsets)] if self.allocation.buffers else [undo]

    def _reach(self) -> tuple[int | None, int | None]:
        """The bytes that the pointers may touch, from the first to behind the last; None where a bound is not known."""
        high = self.pointer.high
        return self.pointer.low, None if high is None else high + self.size
