"""The tensors that a launch may touch: one allocation per storage, seen as bytes, with what is declared about them."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import as_strided

from indexfuzz.lockstep.values.arrays import Array, Undo, as_slice
from indexfuzz.lockstep.values.buffers import Buffer


@dataclass(frozen=True, slots=True)
class Runs:
    """As many consecutive elements from each of some byte offsets: what offsets one by one would list."""

    starts: Array
    length: int


@dataclass(slots=True)
class Allocation:
    """The bytes of one torch storage, and the first kernel argument that brought it."""

    data: Array
    address: int
    argument: str
    buffers: list[Buffer] = field(default_factory=list)
    views: dict[np.dtype[Any], Array] = field(default_factory=dict)
    size: int = field(init=False)
    """Bytes in the storage."""

    def __post_init__(self) -> None:
        self.size = self.data.size

    def view(self, dtype: np.dtype[Any]) -> Array:
        """The storage as elements of `dtype`, without a tail that is shorter than one."""
        found = self.views.get(dtype)
        if found is None:
            whole = self.size // dtype.itemsize * dtype.itemsize
            found = self.views[dtype] = self.data[:whole].view(dtype)
        return found

    def gather(self, offsets: Array, dtype: np.dtype[Any], *, aligned: bool = False) -> Array:
        """The elements at byte offsets, which must be inside; aligned says that they are multiples of the size."""
        size = dtype.itemsize
        if size == 1:
            return self.take(offsets, dtype)
        if aligned or self._aligned(offsets, size):
            return self.take(offsets >> (size.bit_length() - 1), dtype)
        pieces = self.data[offsets[..., None] + np.arange(size)]
        return np.ascontiguousarray(pieces).view(dtype)[..., 0]

    def take(self, index: Array, dtype: np.dtype[Any]) -> Array:
        """Elements by their number in the storage, which must be inside."""
        elements, run = self.view(dtype), as_slice(index)
        return elements.take(index) if run is None else elements[run].copy().reshape(index.shape)

    def scatter(self, offsets: Array, values: Array, *, aligned: bool = False) -> Undo:
        """Write elements at byte offsets, which must be inside; of two at one offset the later stays."""
        size = values.dtype.itemsize
        if size == 1 or aligned or self._aligned(offsets, size):
            target = self.view(values.dtype)
            index = offsets if size == 1 else offsets >> (size.bit_length() - 1)
        else:
            target = self.data
            index = offsets[..., None] + np.arange(size)
            values = np.ascontiguousarray(values)[..., None].view(np.uint8)
        run = as_slice(index)
        if run is not None:
            undo = Undo(target, run, target[run].copy())
            target[run] = np.broadcast_to(values, index.shape).reshape(-1)
            return undo
        undo = Undo(target, index, target.take(index))
        target[index] = values
        return undo

    def gather_runs(self, runs: Runs, dtype: np.dtype[Any]) -> Array:
        """The elements of each run, which must be aligned and inside, as a row."""
        found: Array = self._windows(runs.length, dtype)[runs.starts // dtype.itemsize]
        return found

    def scatter_runs(self, runs: Runs, rows: Array) -> Undo:
        """Write a row of elements to each run, as `scatter` does; runs must be aligned and inside."""
        target, index = self._windows(runs.length, rows.dtype), runs.starts // rows.dtype.itemsize
        undo = Undo(target, index, target[index])
        target[index] = rows
        return undo

    def _windows(self, length: int, dtype: np.dtype[Any]) -> Array:
        """So many consecutive elements from each element on, a view."""
        elements = self.view(dtype)
        return as_strided(elements, (elements.size - length + 1, length), elements.strides * 2)

    @staticmethod
    def _aligned(offsets: Array, size: int) -> bool:
        return offsets.size == 0 or not int(np.bitwise_or.reduce(offsets, axis=None)) & (size - 1)


def storage_bytes(tensor: torch.Tensor) -> Array:
    """Every byte of the storage under a CPU tensor, without a copy.

    Raises ValueError for a tensor that is not in CPU memory.
    """
    if tensor.device.type != "cpu":
        raise ValueError(f"lockstep runs on the CPU; got a tensor on {tensor.device}, move it with .cpu()")
    view = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
    data: Array = view.numpy()
    return data
