"""Many gigabytes of a GPU's addresses, of which only the surroundings of rows have memory: for rows that lie far apart.

A process reserves the addresses once and keeps them: to allocate gigabytes takes a driver milliseconds each time, and
the next process has to wait until they are given back. Addresses are backed in parts of PART bytes. Parts that a launch
needs have memory of their own. All others show one piece of memory in common, so that a stray access between two rows
does there what it does in memory that was allocated: nothing that anybody looks at, and no fault that ends the process.
"""

from typing import Protocol

import torch
from torch import Tensor

PART = 1 << 24
"""Bytes that are backed together: a multiple of what any GPU maps at once. Small ones would take many calls."""

SPAN = 1 << 38
"""Bytes of addresses: the tensors of no launch span more."""

KEPT = 24
"""Parts with memory of their own that stay for launches to come, which often need the same."""


class Mapper(Protocol):
    """What backs addresses with memory. Its pieces of memory are numbers, of PART bytes each."""

    def reserve(self, size: int) -> None:
        """Keep so many addresses, the first a multiple of PART, with nothing behind them."""

    def tensor(self) -> Tensor:
        """The addresses, uint8, once there is something behind the first of them."""

    def create(self) -> int:
        """A piece of memory. Raises OutOfMemoryError."""

    def map(self, first: int, pieces: list[int]) -> None:
        """Show pieces from byte `first` of the addresses on, one behind the other."""

    def unmap(self, first: int) -> None:
        """Take away the piece that is shown from byte `first` on, once nothing runs that may touch it."""


class Expanse:
    """Addresses of one process on one device; what lies there is of one launch at a time."""

    def __init__(self, mapper: Mapper) -> None:
        self._mapper = mapper
        mapper.reserve(SPAN)
        self._common = mapper.create()
        mapper.map(0, [self._common])
        self._addresses = mapper.tensor()
        self._backed, self._taken = PART, 0
        self._own: dict[int, int] = {}
        """Memory of parts that have their own; those that were needed last are at the end."""
        self._needed: set[int] = set()

    def clear(self) -> None:
        """Begin a launch: nothing is taken or needed."""
        self._taken, self._needed = 0, set()

    def take(self, size: int) -> tuple[Tensor, int]:
        """Addresses of so many bytes: those of all launches, and where theirs start among them.

        Raises OutOfMemoryError.
        """
        start, self._taken = self._taken, self._taken + -(-size // PART) * PART
        if self._taken > SPAN:
            raise torch.OutOfMemoryError(f"the tensors of a launch span more than {SPAN} bytes")
        if self._taken > self._backed:
            self._mapper.map(self._backed, [self._common] * ((self._taken - self._backed) // PART))
            self._backed = self._taken
        return self._addresses, start

    def back(self, rows: Tensor) -> None:
        """Give the bytes of rows, uint8 [..., n] at addresses that were taken, memory of their own.

        Raises OutOfMemoryError.
        """
        starts = torch.zeros((), dtype=torch.int64)
        for size, stride in zip(rows.shape[:-1], rows.stride()[:-1], strict=True):
            starts = starts.unsqueeze(-1) + torch.arange(size) * stride
        for start in starts.flatten().tolist():
            first = int(rows.storage_offset()) + start
            for part in range(first // PART, -(-(first + rows.shape[-1]) // PART)):
                self._own[part] = self._piece_for(part)
                self._needed.add(part)

    def _piece_for(self, part: int) -> int:
        """The memory of a part, which it shows from now on."""
        if part in self._own:
            return self._own.pop(part)
        idle = next((part for part in self._own if part not in self._needed), None)
        if idle is None or len(self._own) < KEPT:
            piece = self._mapper.create()
        else:
            piece = self._own.pop(idle)
            self._show(idle, self._common)
        self._show(part, piece)
        return piece

    def _show(self, part: int, piece: int) -> None:
        self._mapper.unmap(part * PART)
        self._mapper.map(part * PART, [piece])
